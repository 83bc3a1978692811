"""Checks of the fields of a `config.json`, which come from untrusted files."""

from collections.abc import Callable, Mapping
from typing import Any

# Expected kind of value: (its test, the fields of that kind at any depth).
# Headers come from untrusted files: the bounds reject sizes that would overflow
# or exhaust memory.  `type(...) is int` because a bool is an `int` in Python.
_KINDS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
  'an integer from 1 to 2**24': (
    lambda value: type(value) is int and 1 <= value <= 2**24,
    (
      'vocab_size',
      'hidden_size',
      'intermediate_size',
      'num_hidden_layers',
      'num_attention_heads',
      'num_key_value_heads',
      'head_dim',
      'sliding_window',
      'sliding_window_pattern',
      'max_position_embeddings',
      'original_max_position_embeddings',
      'no_rope_layer_interval',
      'global_head_dim',
      'num_global_key_value_heads',
      'vocab_size_per_layer_input',
    ),
  ),
  'an integer from 0 to 2**24': (
    lambda value: type(value) is int and 0 <= value <= 2**24,
    (
      'max_window_layers',
      'hidden_size_per_layer_input',
      'num_kv_shared_layers',
    ),
  ),
  'a positive number': (
    # False for NaN and infinities, which Python's JSON parser accepts.
    lambda value: type(value) in (int, float) and 1e-30 < value < 1e30,
    (
      'rms_norm_eps',
      'query_pre_attn_scalar',
      'rope_theta',
      'rope_local_base_freq',
      'factor',
      'low_freq_factor',
      'high_freq_factor',
      'beta_fast',
      'beta_slow',
      'attention_factor',
      'partial_rotary_factor',
      'embedding_multiplier',
      'attention_multiplier',
      'residual_multiplier',
      'logits_scaling',
      'attn_logit_softcapping',
      'final_logit_softcapping',
    ),
  ),
  'a number of at least 0': (
    lambda value: type(value) in (int, float) and 0 <= value < 1e30,
    ('mscale', 'mscale_all_dim', 'llama_4_scaling_beta'),
  ),
  'true or false': (
    lambda value: type(value) is bool,
    (
      'tie_word_embeddings',
      'use_sliding_window',
      'truncate',
      'attention_k_eq_v',
      'use_double_wide_mlp',
      'enable_moe_block',
    ),
  ),
  'a string': (
    lambda value: isinstance(value, str),
    ('model_type', 'rope_type', 'type'),
  ),
  'a list of 0 and 1': (
    lambda value: isinstance(value, list) and all(n in (0, 1) for n in value),
    ('no_rope_layers',),
  ),
  'a list of positive numbers': (
    lambda value: (
      isinstance(value, list)
      and all(type(n) in (int, float) and 1e-30 < n < 1e30 for n in value)
    ),
    ('short_factor', 'long_factor'),
  ),
  'a list of strings': (
    lambda value: (
      isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ),
    ('layer_types',),
  ),
  'an object': (
    lambda value: isinstance(value, Mapping),
    (
      'rope_parameters',
      'rope_scaling',
      'full_attention',
      'sliding_attention',
      'text_config',
      'per_layer_config',
    ),
  ),
}


def valid(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that are not null, checked against `_KINDS`."""
  # Some exporters write null where others omit the field.
  config = {key: value for key, value in config.items() if value is not None}
  errors = [
    f'{field}={config[field]!r:.200} is not {kind}'
    for kind, (is_valid, fields) in _KINDS.items()
    for field in fields
    if field in config and not is_valid(config[field])
  ]
  if errors:
    raise ValueError('; '.join(errors))
  return config
