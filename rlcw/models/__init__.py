"""Decoder, weights, LoRA adapters and tokenizer of a language model."""
