"""Model families: the peculiarities of each, read from its `config.json`.

All are one decoder.  A family is a row of `FAMILIES`: the switches of
`ModelConfig` that all its models have, the fields that its files may leave out,
and how those that other families lack are read.
"""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlcw.models import fields

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
    'head_dim': 128,
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
    },
  },
  is_local=_always,
  rope_extras=('llama_4_scaling_beta',),
  gguf=Gguf('mistral3', interleaved=True),
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
  gguf=Gguf('olmo2'),
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
  gguf=Gguf('phi3'),
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

# Gemma 4: norms whose scales are stored as they are, also of values; global
# layers with other heads, whose keys may be their values; in small models,
# embeddings of each layer, and layers that read the keys of earlier ones.


def _is_gemma4_local(config: Fields, layer: int) -> bool:
  return layer + 1 < config['num_hidden_layers'] and (layer + 1) % 6 != 0


def _global_heads(config: Fields) -> tuple[int, int]:
  """Size and number of the key/value heads of global layers.

  Published files have a field for each, files of newer versions of transformers
  an object for each global layer.
  """
  kv = config.get('num_key_value_heads', config['num_attention_heads'])
  types = config.get('layer_types') or [
    'sliding_attention' if _is_gemma4_local(config, layer) else 'full_attention'
    for layer in range(config['num_hidden_layers'])
  ]
  if types[-1] == 'sliding_attention':
    raise ValueError(
      f'layer_types={types!r}; expected full_attention of the last layer'
    )
  if 'per_layer_config' not in config:
    if config.get('attention_k_eq_v'):
      kv = config.get('num_global_key_value_heads', kv)
    return config['global_head_dim'], kv
  given = config['per_layer_config']
  if not given:  # all layers are alike
    return config['head_dim'], kv
  # Numbers of layers, which files fill up with zeros: 05, 11.
  numbers = [int(n) if str(n).isdecimal() else n for n in given]
  expected = [n for n, kind in enumerate(types) if kind == 'full_attention']
  own = {'head_dim': config['head_dim'], 'num_key_value_heads': kv}
  alike = next(iter(given.values()), None)
  if (
    {*numbers} != {*expected}
    or any(each != alike for each in given.values())
    or not isinstance(alike, Mapping)
    or alike.keys() - own.keys()
  ):
    raise ValueError(
      f'per_layer_config={given!r:.200} is not supported; expected the same '
      f'{[*own]} for each layer with full_attention, {expected}'
    )
  head_dim, kv = (own | fields.valid(alike)).values()
  return head_dim, kv


def _gemma4(config: Fields) -> dict[str, Any]:
  head_dim, kv = _global_heads(config)
  inputs = config['hidden_size_per_layer_input']
  if inputs and config['vocab_size_per_layer_input'] != config['vocab_size']:
    raise ValueError(
      f'vocab_size_per_layer_input={config["vocab_size_per_layer_input"]} is '
      f'not supported; expected vocab_size={config["vocab_size"]}'
    )
  wider = 2 if config.get('use_double_wide_mlp') else 1
  return {
    'embed_scale': config['hidden_size'] ** 0.5,
    'logit_cap': config.get('final_logit_softcapping'),
    'global_head_dim': head_dim,
    'global_kv_heads': kv,
    'keys_are_values': config.get('attention_k_eq_v', False),
    'layer_input_dim': inputs,
    'shared_layers': config.get('num_kv_shared_layers', 0),
    'shared_mlp_dim': wider * config['intermediate_size'],
  }


_GEMMA4 = Family(
  'Gemma4ForCausalLM',
  '',
  switches={
    'post_norms': True,
    'activation': 'gelu_tanh',
    'qk_norm': True,
    'value_norm': True,
    'layer_scale': True,
    'query_scale': 1.0,
  },
  defaults={
    'tie_word_embeddings': True,
    'global_head_dim': 512,
    'hidden_size_per_layer_input': 256,
    'vocab_size_per_layer_input': 262_144,
    'rope_parameters': {
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 10_000.0},
      'full_attention': {
        'rope_type': 'proportional',
        'rope_theta': 1e6,
        'partial_rotary_factor': 0.25,
      },
    },
  },
  required=('head_dim', 'sliding_window'),
  supported={
    'hidden_activation': ('gelu_pytorch_tanh',),
    'final_logit_softcapping': (),
    # Only of images: text is causal.
    'use_bidirectional_attention': (False, 'vision'),
    'enable_moe_block': (False,),
  },
  read=_gemma4,
  is_local=_is_gemma4_local,
  theta=1e6,
  gguf=Gguf(
    'gemma4', numbers={'final_logit_softcapping': 'final_logit_softcapping'}
  ),
)
# The text decoder of 12B, which has no embeddings of each layer.
_GEMMA4_UNIFIED = dataclasses.replace(
  _GEMMA4,
  causal='Gemma4UnifiedForCausalLM',
  defaults=_GEMMA4.defaults | {'hidden_size_per_layer_input': 0},
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
  'gemma4_text': _GEMMA4,
  'gemma4_unified_text': _GEMMA4_UNIFIED,
}
