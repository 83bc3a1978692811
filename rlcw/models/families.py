"""Model families: what is peculiar to each, read from its `config.json`.

All are one decoder.  A family is a row of `FAMILIES`: the switches of
`ModelConfig` that all its models have, the fields that its files may leave out,
and how those that other families lack are read.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

from rlcw.models import fields, ropes

# Fields of a valid `config.json`.
Fields = Mapping[str, Any]


_SILU = types.MappingProxyType({'hidden_act': ('silu',)})


@dataclasses.dataclass(frozen=True)
class Family:
  """What distinguishes the models of a `model_type`."""

  # Class names in transformers: of a language model, and of a classifier.
  causal: str
  classifier: str
  # Fields of `ModelConfig` that all its models have.
  switches: dict[str, Any] = dataclasses.field(default_factory=dict)
  # Values of fields that files may leave out, as in transformers.
  defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
  required: tuple[str, ...] = ()  # besides `_REQUIRED`
  # Of a field besides `_SUPPORTED`; () for any.
  supported: Mapping[str, tuple[Any, ...]] = _SILU
  # Further fields of `ModelConfig`, from those of the file.
  read: Callable[[Fields], dict[str, Any]] = lambda config: {}
  # Whether a layer, counted from 0, has a sliding window, in a file without
  # `layer_types`.
  is_local: Callable[[Fields, int], bool] = lambda config, layer: False
  theta: float = 10_000.0  # of rotary embedding, where the file has none
  # Theta of local layers with a rope of their own.
  local_theta: Callable[[Fields], float] | None = None
  rope_extras: tuple[str, ...] = ()  # see `ropes.read`
  gguf: str = ''  # architecture in GGUF files, if they are read


# --- The families -----------------------------------------------------------


def _of_class(name: str, **more: Any) -> Family:
  classifier = f'{name}ForSequenceClassification'
  return Family(f'{name}ForCausalLM', classifier, **more)


_LLAMA = _of_class('Llama', gguf='llama')


def _is_qwen_local(config: Fields, layer: int) -> bool:
  # Global layers first, sliding ones from here on.
  first = config.get('max_window_layers', 28)
  return bool(config.get('use_sliding_window')) and layer >= first


_QWEN2 = _of_class(
  'Qwen2', switches={'qkv_bias': True}, is_local=_is_qwen_local, gguf='qwen2'
)
_QWEN3 = _of_class(
  'Qwen3',
  switches={'qk_norm': True},
  required=('head_dim',),
  is_local=_is_qwen_local,
  gguf='qwen3',
)

_GEMMA: dict[str, Any] = {
  'switches': {
    'post_norms': True,
    'norm_offset': 1.0,
    'activation': 'gelu_tanh',
  },
  'required': ('head_dim', 'query_pre_attn_scalar', 'sliding_window'),
  'supported': {'hidden_activation': ('gelu_pytorch_tanh',)},
  'read': lambda config: {
    'embed_scale': config['hidden_size'] ** 0.5,
    'query_scale': config['query_pre_attn_scalar'] ** -0.5,
  },
}
_GEMMA3 = Family(
  'Gemma3ForCausalLM',
  'Gemma3TextForSequenceClassification',
  gguf='gemma3',
  **_GEMMA
  | {
    'switches': _GEMMA['switches'] | {'qk_norm': True},
    'defaults': {'tie_word_embeddings': True},
    # By default every sixth layer is global.
    'is_local': lambda config, layer: bool(
      (layer + 1) % config.get('sliding_window_pattern', 6)
    ),
    'theta': 1e6,
    # Only the global layers' rope is scaled.
    'local_theta': lambda config: config.get('rope_local_base_freq', 10_000.0),
  },
)

FAMILIES = {
  'llama': _LLAMA,
  'qwen2': _QWEN2,
  'qwen3': _QWEN3,
  'gemma3_text': _GEMMA3,
}

# Multimodal models whose text decoder is read: the `model_type` of that part,
# and the values of fields that it may leave out, as in transformers.
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
}


# --- Reading ----------------------------------------------------------------

# Of a multimodal model's `config.json`, outside of its text part.
_SHARED_FIELDS = (
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
# An unsupported feature must fail here: ignored, it would give wrong logits
# without any error.
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
  for field in _EXPERTS:
    if config.get(field) not in (None, 0, 1):
      raise ValueError(
        f'{field}={config[field]!r:.80}: a mixture of experts is not '
        f'supported; expected a dense model of {tuple(FAMILIES)}'
      )
  return config


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
      f'model_type={name!r} is not supported; expected one of {tuple(FAMILIES)}'
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
    'context': _context(config, rope),
  }
  return (
    found | _windows(config, family) | family.switches | family.read(config)
  )


def _windows(config: Fields, family: Family) -> dict[str, Any]:
  """The window of a model's layers, and which of them have it."""
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
  if not any(local):
    return {}
  if 'sliding_window' not in config:
    raise ValueError(
      'some layers have sliding_attention, but sliding_window is missing'
    )
  # Layers that are all alike need no list.
  return {
    'window': config['sliding_window'],
    'local_layers': () if all(local) else local,
  }


def _context(config: Fields, rope: ropes.RopeConfig) -> int | None:
  """Most tokens of a text, as far as a file tells."""
  context = config.get('max_position_embeddings')
  if rope.kind == 'yarn':
    # A user who adds YaRN to a published file may leave its context as it was.
    return max(context or 0, int(rope.factor * rope.original_length))
  return min(filter(None, (context, rope.limit)), default=None)
