"""Decoder, weights, LoRA and tokenizer of a language model."""
