"""Model families: the peculiarities of each, read from its `config.json`.

All are one decoder.  A family is a row of `FAMILIES`: the switches of
`ModelConfig` that all its models have, the fields that its files may leave out,
and how those that other families lack are read.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlcw.models import fields, ropes

# Fields of a valid `config.json`.
Fields = Mapping[str, Any]


class Gguf(NamedTuple):
  """A family's GGUF files."""

  architecture: str
  # llama.cpp's converter interleaves the rotary pairs of queries and keys.
  interleaved: bool = False
  # Keys in the header of further fields of `config.json`.
  numbers: Mapping[str, str] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Family:
  """Peculiarities of the models of a `model_type`."""

  # Class names in transformers: of a language model, and of a classifier, ''
  # where there is none.
  causal: str
  classifier: str
  # Fields of `ModelConfig` that all its models have.
  switches: dict[str, Any] = dataclasses.field(default_factory=dict)
  # Values of fields that files may leave out, as in transformers.
  defaults: dict[str, Any] = dataclasses.field(default_factory=dict)
  required: tuple[str, ...] = ()  # besides `_REQUIRED`
  # Of a field besides `_SUPPORTED`; () for any.
  supported: Mapping[str, tuple[Any, ...]] = dataclasses.field(
    default_factory=lambda: {'hidden_act': ('silu',)}
  )
  # Further fields of `ModelConfig`, from those of the file.
  read: Callable[[Fields], dict[str, Any]] = lambda config: {}
  # Whether a layer, counted from 0, has a sliding window, in a file without
  # `layer_types`.
  is_local: Callable[[Fields, int], bool] = lambda config, layer: False
  theta: float = 10_000.0  # of rotary embedding, where the file has none
  # Theta of local layers with a rope of their own.
  local_theta: Callable[[Fields], float] | None = None
  rope_extras: tuple[str, ...] = ()  # see `ropes.read`
  gguf: Gguf | None = None  # None: GGUF files are not read


# --- The families -----------------------------------------------------------


def _of_class(name: str, **more: Any) -> Family:
  classifier = f'{name}ForSequenceClassification'
  return Family(f'{name}ForCausalLM', classifier, **more)


def _always(config: Fields, layer: int) -> bool:
  """All layers have a window where the file gives one."""
  del layer
  return 'sliding_window' in config


def _but_every(period: int) -> Callable[[Fields, int], bool]:
  """All layers but each of a period's last have a window."""
  return lambda config, layer: bool(
    (layer + 1) % config.get('sliding_window_pattern', period)
  )


_LLAMA = _of_class('Llama', gguf=Gguf('llama', interleaved=True))


# Qwen: biases of queries, keys and values, or norms of each query and key.


def _is_qwen_local(config: Fields, layer: int) -> bool:
  # Global layers first, sliding ones from here on.
  first = config.get('max_window_layers', 28)
  return bool(config.get('use_sliding_window')) and layer >= first


_QWEN2 = _of_class(
  'Qwen2',
  switches={'qkv_bias': True},
  is_local=_is_qwen_local,
  gguf=Gguf('qwen2'),
)
_QWEN3 = _of_class(
  'Qwen3',
  switches={'qk_norm': True},
  required=('head_dim',),
  is_local=_is_qwen_local,
  gguf=Gguf('qwen3'),
)


# Mistral: a window of all layers (7B v0.1); Ministral: of some; Ministral 3:
# YaRN, with queries that grow beyond the original length.


_MISTRAL = _of_class(
  'Mistral', defaults={'sliding_window': 4096}, is_local=_always
)
_MINISTRAL = _of_class(
  'Ministral', defaults={'sliding_window': 4096}, is_local=_always
)
_MINISTRAL3 = _of_class(
  'Ministral3',
  defaults={
    'rope_parameters': {
      'rope_type': 'yarn',
      'rope_theta': 1e6,
      'factor': 16.0,
      'original_max_position_embeddings': 16_384,
      'beta_fast': 32.0,
      'beta_slow': 1.0,
      'mscale': 1.0,
      'mscale_all_dim': 1.0,
      'llama_4_scaling_beta': 0.1,
    }
  },
  is_local=_always,
  rope_extras=('llama_4_scaling_beta',),
)


# SmolLM3: every fourth layer has no positions.


def _rotates(config: Fields) -> tuple[bool, ...]:
  layers = config['num_hidden_layers']
  period = config.get('no_rope_layer_interval', 4)
  default = [(layer + 1) % period != 0 for layer in range(layers)]
  given = config.get('no_rope_layers', default)
  if len(given) < layers:
    raise ValueError(
      f'no_rope_layers={given!r} for {layers} layers; expected 0 or 1 for each'
    )
  return tuple(map(bool, given[:layers]))


_SMOLLM3 = _of_class(
  'SmolLM3',
  defaults={'tie_word_embeddings': True},
  read=lambda config: {
    'rope_layers': () if all(_rotates(config)) else _rotates(config)
  },
  is_local=lambda config, layer: (
    bool(config.get('use_sliding_window'))
    and 'sliding_window' in config
    and not _rotates(config)[layer]
  ),
  theta=2e6,
  gguf=Gguf('smollm3', interleaved=True),
)


# OLMo: norms after each sublayer alone, and one norm of all queries or keys;
# OLMo 3: also a window, and a scaled rope in global layers alone.


_OLMO = {'pre_norms': False, 'post_norms': True, 'qk_norm_joint': True}
_OLMO2 = _of_class('Olmo2', switches=_OLMO, gguf=Gguf('olmo2'))
_OLMO3 = _of_class(
  'Olmo3',
  switches=_OLMO,
  defaults={'sliding_window': 4096},
  is_local=_but_every(4),
  theta=500_000.0,
  local_theta=lambda config: config.get('rope_theta', 500_000.0),
)


# Granite: four multipliers.


_GRANITE = Family(
  'GraniteForCausalLM',
  '',
  defaults=dict.fromkeys(
    (
      'embedding_multiplier',
      'attention_multiplier',
      'residual_multiplier',
      'logits_scaling',
    ),
    1.0,
  ),
  read=lambda config: {
    'embed_scale': config['embedding_multiplier'],
    'query_scale': config['attention_multiplier'],
    'residual_scale': config['residual_multiplier'],
    'logit_scale': 1 / config['logits_scaling'],
  },
  gguf=Gguf(
    'granite',
    interleaved=True,
    numbers={
      'embedding_multiplier': 'embedding_scale',
      'attention_multiplier': 'attention.scale',
      'residual_multiplier': 'residual_scale',
      'logits_scaling': 'logit_scale',
    },
  ),
)


# Phi-3 and 4: fused projections; only a part of each head may rotate.


_PHI3 = _of_class(
  'Phi3',
  switches={'fused': True},
  defaults={'original_max_position_embeddings': 4096},
  is_local=_always,
  rope_extras=('partial_rotary_factor',),
  gguf=Gguf('phi3', numbers={'sliding_window': 'attention.sliding_window'}),
)


# Gemma: norms on both sides of each sublayer, whose scales are stored minus 1;
# Gemma 2: soft caps; Gemma 3: norms of each query and key, two ropes.


_GEMMA: dict[str, Any] = {
  'required': ('head_dim', 'query_pre_attn_scalar', 'sliding_window'),
  'supported': {'hidden_activation': ('gelu_pytorch_tanh',)},
}
_GEMMA_SWITCHES = {
  'post_norms': True,
  'norm_offset': 1.0,
  'activation': 'gelu_tanh',
}


def _gemma_scales(config: Fields) -> dict[str, Any]:
  return {
    'embed_scale': config['hidden_size'] ** 0.5,
    'query_scale': config['query_pre_attn_scalar'] ** -0.5,
  }


_GEMMA2 = _of_class(
  'Gemma2',
  switches=_GEMMA_SWITCHES,
  defaults={
    'tie_word_embeddings': True,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
  },
  read=lambda config: (
    _gemma_scales(config)
    | {
      'score_cap': config.get('attn_logit_softcapping'),
      'logit_cap': config.get('final_logit_softcapping'),
    }
  ),
  is_local=_but_every(2),
  gguf=Gguf(
    'gemma2',
    numbers={
      'attn_logit_softcapping': 'attn_logit_softcapping',
      'final_logit_softcapping': 'final_logit_softcapping',
    },
  ),
  required=_GEMMA['required'],
  supported=_GEMMA['supported']
  | {'attn_logit_softcapping': (), 'final_logit_softcapping': ()},
)
_GEMMA3 = Family(
  'Gemma3ForCausalLM',
  'Gemma3TextForSequenceClassification',
  switches=_GEMMA_SWITCHES | {'qk_norm': True},
  defaults={'tie_word_embeddings': True},
  read=_gemma_scales,
  is_local=_but_every(6),
  theta=1e6,
  # Only the global layers' rope is scaled.
  local_theta=lambda config: config.get('rope_local_base_freq', 10_000.0),
  gguf=Gguf('gemma3'),
  **_GEMMA,
)

FAMILIES = {
  'llama': _LLAMA,
  'qwen2': _QWEN2,
  'qwen3': _QWEN3,
  'mistral': _MISTRAL,
  'ministral': _MINISTRAL,
  'ministral3': _MINISTRAL3,
  'smollm3': _SMOLLM3,
  'olmo2': _OLMO2,
  'olmo3': _OLMO3,
  'granite': _GRANITE,
  'phi3': _PHI3,
  'gemma2': _GEMMA2,
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
  'mistral3': {'model_type': 'mistral'},
}


# --- Reading ----------------------------------------------------------------

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
# Widespread models, and their parts that this decoder lacks.
_LACKING = dict.fromkeys(
  ('gemma4', 'gemma4_text', 'gemma4_unified', 'gemma4_unified_text'),
  'global_head_dim gives global layers heads of another size than local ones, '
  'and the layers of this decoder are stacked, so all have the same shapes',
) | dict.fromkeys(
  ('gemma3n', 'gemma3n_text'),
  'hidden_size_per_layer_input and num_kv_shared_layers (embeddings of each '
  'layer, shared keys and values) have no counterpart in this decoder',
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
