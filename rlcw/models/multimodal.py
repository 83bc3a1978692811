"""Multimodal models whose text decoder is read.

For each the `model_type` of that part, and the values of fields that it may
leave out, as in transformers.
"""

from typing import Any

_GEMMA4 = {
  'model_type': 'gemma4_text',
  'vocab_size': 262_144,
  'hidden_size': 2304,
  'intermediate_size': 9216,
  'num_hidden_layers': 30,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 256,
  'hidden_activation': 'gelu_pytorch_tanh',
  'max_position_embeddings': 131_072,
  'rms_norm_eps': 1e-6,
  'sliding_window': 512,
}

# By `model_type`.
MULTIMODAL: dict[str, dict[str, Any]] = {
  'gemma3': {
    'model_type': 'gemma3_text',
    'vocab_size': 262_208,
    'hidden_size': 2304,
    'intermediate_size': 9216,
    'num_hidden_layers': 26,
    'num_attention_heads': 8,
    'num_key_value_heads': 4,
    'head_dim': 256,
    'hidden_activation': 'gelu_pytorch_tanh',
    'max_position_embeddings': 131_072,
    'rms_norm_eps': 1e-6,
    'query_pre_attn_scalar': 256,
    'sliding_window': 4096,
  },
  'gemma4': _GEMMA4,
  'gemma4_unified': _GEMMA4
  | {
    'model_type': 'gemma4_unified_text',
    'max_position_embeddings': 262_144,
    'sliding_window': 1024,
  },
  'mistral3': {'model_type': 'mistral'},
}
