"""Reads the decoder's configuration from a `config.json`.

Features that this decoder lacks are refused: ignored, they would give wrong
logits without any error.
"""

from collections.abc import Mapping
from typing import Any

from rlcw.models import fields, ropes
from rlcw.models.families import FAMILIES, Family, Fields
from rlcw.models.multimodal import MULTIMODAL

# Of a multimodal model's `config.json`, outside of its text part.
_SHARED_FIELDS = (
  'tie_word_embeddings',
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'quantization_config',
)
_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'rms_norm_eps',
)
# Supported values by field; the first one is assumed where the field is absent.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
  'attention_bias': (False,),
  'mlp_bias': (False,),
  'attn_logit_softcapping': (None,),
  'final_logit_softcapping': (None,),
  'use_bidirectional_attention': (False,),
}
# Fields of which null is a value, and not an absent one.
_OFF_BY_NULL = (
  'sliding_window',
  'attn_logit_softcapping',
  'final_logit_softcapping',
)
_EXPERTS = 'num_experts', 'num_local_experts', 'n_routed_experts'
# Widespread models, and their parts that this decoder lacks.
_LACKING = dict.fromkeys(
  ('gemma3n', 'gemma3n_text'),
  'altup_num_inputs and laurel_rank (several streams of activations, and their '
  'low-rank branches) have no counterpart in this decoder',
)
_LAYER_LISTS = 'layer_types', 'layers_block_type', 'block_types'
_LAYER_TYPES = 'sliding_attention', 'full_attention'


def text_config(config: Fields) -> dict[str, Any]:
  """The configuration of a model's text decoder.

  Of a multimodal model it is a part of `config.json`; of any other model the
  whole.

  Raises:
    ValueError: the weights are quantised, or the model is a mixture of experts;
      names the field.
  """
  config = dict(config)
  name = config.get('model_type')
  if isinstance(name, str) and name in MULTIMODAL:
    part = fields.valid(config).get('text_config', {})
    # Transformers leaves fields out that have their default.
    shared = {key: config[key] for key in _SHARED_FIELDS if key in config}
    config = {**MULTIMODAL[name], **part, **shared}
  quantised = config.get('quantization_config')
  if quantised is not None:
    method = quantised
    if isinstance(quantised, Mapping):
      method = quantised.get('quant_method', quantised)
    raise ValueError(
      f'quantization_config: weights quantised by {method!r:.80} are not '
      'supported; expected None (float32, float16, bfloat16) or a GGUF file'
    )
  part = config.get('text_config')
  parts = {'text_config.': part} if isinstance(part, Mapping) else {}
  for prefix, each in {'': config, **parts}.items():
    for field in _EXPERTS:
      if each.get(field) not in (None, 0, 1):
        raise ValueError(
          f'{prefix}{field}={each[field]!r:.80}: a mixture of experts is not '
          f'supported; expected a dense model of {tuple(FAMILIES)}'
        )
  return config


def _reason(config: Fields) -> str:
  """Names a part of such a model that this decoder lacks; '' if unknown."""
  name = config['model_type']
  if name in _LACKING:
    return f': {_LACKING[name]}'
  part = config.get('text_config', {})
  for prefix, each in (('', config), ('text_config.', part)):
    for field in _LAYER_LISTS:
      kinds = each.get(field)
      other = {*map(str, kinds if isinstance(kinds, list) else ())}
      other -= {*_LAYER_TYPES, 'attention'}
      if other:
        return (
          f': {prefix}{field} has {min(other)!r}, and only softmax attention is'
        )
  return ': its text_config is part of a multimodal model' if part else ''


def model_fields(config: Fields) -> dict[str, Any]:
  """Fields of `ModelConfig` that a `config.json` describes.

  Raises:
    ValueError: names the field, its value and the supported values.
  """
  given = text_config(config)
  config = fields.valid(given)
  name = config.get('model_type', 'llama')
  if name not in FAMILIES:
    raise ValueError(
      f'model_type={name!r} is not supported{_reason(config)}; expected one of '
      f'{(*FAMILIES, *MULTIMODAL)}'
    )
  family = FAMILIES[name]
  off = {key for key in _OFF_BY_NULL if key in given}
  config = {
    **{key: v for key, v in family.defaults.items() if key not in off},
    **config,
  }
  for field, values in {**_SUPPORTED, **family.supported}.items():
    if values and config.get(field, values[0]) not in values:
      raise ValueError(
        f'{field}={config[field]!r} is not supported; expected one of {values}'
      )
  missing = [f for f in (*_REQUIRED, *family.required) if f not in config]
  if missing:
    raise ValueError(f'the configuration lacks {missing}')
  heads, dim = config['num_attention_heads'], config['hidden_size']
  rope, local_rope = ropes.read(
    config,
    family.theta,
    family.local_theta and family.local_theta(config),
    family.rope_extras,
  )
  found = {
    'vocab_size': config['vocab_size'],
    'model_dim': dim,
    'mlp_dim': config['intermediate_size'],
    'num_layers': config['num_hidden_layers'],
    'num_heads': heads,
    'num_kv_heads': config.get('num_key_value_heads', heads),
    'head_dim': config.get('head_dim', dim // heads),
    'rope': rope,
    'local_rope': local_rope,
    'norm_eps': config['rms_norm_eps'],
    'tied_head': config.get('tie_word_embeddings', False),
    'context': (context := _context(config, rope)),
  }
  local = _local_layers(config, family)
  if all(local):
    # Layers that are all alike need no list, and no window beyond any text.
    window = config['sliding_window']
    found |= {'rope': local_rope or rope, 'local_rope': None}
    found |= {'window': window} if window < (context or window + 1) else {}
  elif any(local):
    found |= {'window': config['sliding_window'], 'local_layers': local}
  return found | family.switches | family.read(config)


def _local_layers(config: Fields, family: Family) -> tuple[bool, ...]:
  """True for each layer with a sliding window."""
  layers, types = config['num_hidden_layers'], config.get('layer_types')
  if types is None:
    local = tuple(family.is_local(config, layer) for layer in range(layers))
  elif len(types) == layers and {*types} <= {*_LAYER_TYPES}:
    local = tuple(kind == 'sliding_attention' for kind in types)
  else:
    raise ValueError(
      f'layer_types={types!r} for {layers} layers; expected '
      "'sliding_attention' or 'full_attention' for each layer"
    )
  if any(local) and 'sliding_window' not in config:
    raise ValueError(
      'some layers have sliding_attention, but sliding_window is missing'
    )
  return local


def _context(config: Fields, rope: ropes.RopeConfig) -> int | None:
  """Most tokens of a text, as far as a file tells."""
  context = config.get('max_position_embeddings')
  if rope.kind == 'yarn':
    # A user who adds YaRN to a published file may leave its context as it was.
    return max(context or 0, int(rope.factor * rope.original_length))
  return min(filter(None, (context, rope.limit)), default=None)
