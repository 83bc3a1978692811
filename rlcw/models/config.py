"""What a checkpoint's own header says about its decoder.

A family is a handful of switches on one decoder: Qwen2 adds biases to queries,
keys and values; Qwen3 normalises queries and keys; Gemma 3 does that too, puts
norms on both sides of each sublayer and lets most layers see a short window.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# The projections that may carry a LoRA adapter, as our parameters name them.
PROJECTIONS = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class RopeConfig:
  """Rotary positions (arXiv 2104.09864) and how they are stretched."""

  theta: float = 10_000.0
  kind: str = 'default'  # default | linear | llama3
  factor: float = 1.0  # linear and llama3: by how much low frequencies slow
  # llama3: wavelengths shorter than original_length / high_factor stay, those
  # longer than original_length / low_factor are stretched, between is blended
  low_factor: float = 1.0
  high_factor: float = 4.0
  original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters `W + (alpha / rank) · B A` (arXiv 2106.09685)."""

  rank: int
  alpha: float
  targets: tuple[str, ...]  # some of PROJECTIONS

  def __post_init__(self):
    unknown = [name for name in self.targets if name not in PROJECTIONS]
    if unknown or not self.targets:
      raise ValueError(
        f'lora.targets={self.targets!r}: {unknown or "nothing"} to adapt; '
        f'legal: some of {PROJECTIONS}'
      )
    if self.rank < 1:
      raise ValueError(f'lora.rank={self.rank} must be at least 1')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shapes and constants of a decoder, as a checkpoint's own header says."""

  vocab_size: int
  model_dim: int
  mlp_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope: RopeConfig = RopeConfig()
  norm_eps: float = 1e-5
  tied_head: bool = True
  qkv_bias: bool = False
  qk_norm: bool = False
  sandwich_norms: bool = False  # norms after each sublayer as well
  norm_offset: float = 0.0  # what is added to a norm's stored scale
  activation: str = 'silu'  # silu | gelu_tanh
  embed_scale: float = 1.0
  query_scale: float | None = None  # None: head_dim ** -0.5
  window: int | None = None  # keys that a local layer sees, its own included
  local_layers: tuple[bool, ...] = ()  # which layers are; (): none
  local_rope: RopeConfig | None = None  # None: the same as elsewhere
  dtype: str = 'float32'  # of activations; parameters keep their own
  # what the backward pass recomputes: whole blocks, or all but what products
  # with weights gave
  remat: bool = False
  lora: LoraConfig | None = None
  attention: str = 'auto'  # auto: the platform's kernels | xla: none of them

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim < 2 or self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim} must be even for rotary, and at least 2'
      )
    if self.local_layers and len(self.local_layers) != self.num_layers:
      raise ValueError(
        f'{len(self.local_layers)} layer types for {self.num_layers} layers'
      )
    if any(self.local_layers) and not self.window:
      raise ValueError('sliding_attention layers need a sliding_window')

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> 'ModelConfig':
    """Reads the fields of a Hugging Face `config.json`.

    Raises:
      ValueError: names the field, its value and what is supported.
    """
    config = _checked(config)
    family = config.get('model_type', 'llama')
    if family not in _FAMILIES:
      raise ValueError(
        f'model_type={family!r} is not supported; legal: {tuple(_FAMILIES)}'
      )
    switches, required, supported = _FAMILIES[family]
    for field, legal in {**_SUPPORTED, **supported}.items():
      value = config.get(field, legal[0])
      if value not in legal:
        raise ValueError(f'{field}={value!r} is not supported; legal: {legal}')
    missing = [f for f in (*_REQUIRED, *required) if f not in config]
    if missing:
      raise ValueError(f'the header lacks {missing}')
    heads, dim = config['num_attention_heads'], config['hidden_size']
    gemma = family == 'gemma3_text'
    local_layers = _local_layers(config)
    rope, local_rope = _ropes(config, 1e6 if gemma else 10_000.0)
    return cls(
      vocab_size=config['vocab_size'],
      model_dim=dim,
      mlp_dim=config['intermediate_size'],
      num_layers=config['num_hidden_layers'],
      num_heads=heads,
      num_kv_heads=config.get('num_key_value_heads', heads),
      head_dim=config.get('head_dim', dim // heads),
      rope=rope,
      norm_eps=config['rms_norm_eps'],
      tied_head=config.get('tie_word_embeddings', gemma),
      embed_scale=dim**0.5 if gemma else 1.0,
      query_scale=config['query_pre_attn_scalar'] ** -0.5 if gemma else None,
      window=config['sliding_window'] if local_layers else None,
      local_layers=local_layers,
      local_rope=local_rope,
      **switches,
    )


_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'rms_norm_eps',
)
_SILU: dict[str, tuple[Any, ...]] = {'hidden_act': ('silu',)}
# The first legal value is what an absent field means.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
  'attention_bias': (False,),
  'mlp_bias': (False,),
  'attn_logit_softcapping': (None,),
  'final_logit_softcapping': (None,),
  'use_bidirectional_attention': (False,),
  'partial_rotary_factor': (1.0,),
  'quantization_config': (None,),
}
# model_type: (our switches, fields it cannot do without, legal values)
_FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...], dict]] = {
  'llama': ({}, (), _SILU),
  'qwen2': ({'qkv_bias': True}, (), _SILU),
  'qwen3': ({'qk_norm': True}, ('head_dim',), _SILU),
  'gemma3_text': (
    {
      'qk_norm': True,
      'sandwich_norms': True,
      'norm_offset': 1.0,
      'activation': 'gelu_tanh',
    },
    ('head_dim', 'query_pre_attn_scalar', 'sliding_window'),
    {'hidden_activation': ('gelu_pytorch_tanh',)},
  ),
}


# What a field may hold, and the fields that do; wherever they stand.
_KINDS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
  'a whole number from 1 to 2**24': (
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
    ),
  ),
  'a whole number from 0': (
    lambda value: type(value) is int and value >= 0,
    ('max_window_layers',),
  ),
  'a positive number': (
    lambda value: type(value) in (int, float) and 1e-30 < value < 1e30,
    (
      'rms_norm_eps',
      'query_pre_attn_scalar',
      'rope_theta',
      'rope_local_base_freq',
      'factor',
      'low_freq_factor',
      'high_freq_factor',
    ),
  ),
  'true or false': (
    lambda value: type(value) is bool,
    ('tie_word_embeddings', 'use_sliding_window'),
  ),
  'a text': (
    lambda value: isinstance(value, str),
    ('model_type', 'rope_type', 'type'),
  ),
  'a list of texts': (
    lambda value: (
      isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ),
    ('layer_types',),
  ),
  'an object': (
    lambda value: isinstance(value, Mapping),
    ('rope_parameters', 'rope_scaling', 'full_attention', 'sliding_attention'),
  ),
}


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
  """The fields that are not null, each holding what `_KINDS` says it may."""
  given = {key: value for key, value in given.items() if value is not None}
  errors = [
    f'{field}={given[field]!r:.200} is not {kind}'
    for kind, (holds, fields) in _KINDS.items()
    for field in fields
    if field in given and not holds(given[field])
  ]
  if errors:
    raise ValueError('; '.join(errors))
  return given


def _local_layers(config: Mapping[str, Any]) -> tuple[bool, ...]:
  """Which layers see a window; empty where all see everything."""
  layers, family = config['num_hidden_layers'], config.get('model_type')
  types = config.get('layer_types')
  if types is not None:
    unknown = set(types) - {'sliding_attention', 'full_attention'}
    if unknown or len(types) != layers:
      raise ValueError(
        f'layer_types={types!r} for {layers} layers; legal: as many of '
        "'sliding_attention' and 'full_attention'"
      )
    local = tuple(kind == 'sliding_attention' for kind in types)
  elif family == 'gemma3_text':
    period = config.get('sliding_window_pattern', 6)
    local = tuple((i + 1) % period != 0 for i in range(layers))
  elif config.get('use_sliding_window'):  # Qwen
    first = config.get('max_window_layers', 28)
    local = tuple(i >= first for i in range(layers))
  else:
    local = ()
  if any(local) and 'sliding_window' not in config:
    raise ValueError(
      'there are sliding_attention layers, but no sliding_window'
    )
  return local if any(local) else ()


def _ropes(
  config: Mapping[str, Any], theta: float
) -> tuple[RopeConfig, RopeConfig | None]:
  """Rotary settings of full and of sliding layers.

  Transformers 5 writes `rope_parameters`, nested by kind of layer where they
  differ; older files have `rope_theta`, `rope_scaling`, and Gemma's
  `rope_local_base_freq`.
  """
  given = _checked(config.get('rope_parameters', {}))
  if 'full_attention' in given or 'sliding_attention' in given:
    local = _checked(given.get('sliding_attention', {}))
    full = _checked(given.get('full_attention', {}))
    return _rope(config, full, theta), _rope(config, local, 10_000.0)
  scaling = _checked(config.get('rope_scaling', {}))
  theta = config.get('rope_theta', theta)
  if given and scaling and given != scaling:
    raise ValueError(
      f'rope_parameters={given!r} contradicts rope_scaling={scaling!r}'
    )
  if 'rope_theta' in config and given.get('rope_theta', theta) != theta:
    raise ValueError(
      f'rope_theta={theta!r} contradicts rope_parameters={given!r}'
    )
  rope = _rope(config, given or scaling, theta)
  if config.get('model_type') != 'gemma3_text':
    return rope, None
  return rope, RopeConfig(config.get('rope_local_base_freq', 10_000.0))


def _rope(
  config: Mapping[str, Any], given: Mapping[str, Any], theta: float
) -> RopeConfig:
  theta = given.get('rope_theta', theta)
  kind = given.get('rope_type', given.get('type', 'default'))
  fields = {
    'default': (),
    'linear': ('factor',),
    'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'),
  }
  if kind not in fields:
    raise ValueError(
      f'rope type {kind!r} is not supported; legal: {tuple(fields)}'
    )
  missing = [field for field in fields[kind] if field not in given]
  length = given.get('original_max_position_embeddings')
  length = length or config.get('max_position_embeddings', 0)
  if kind == 'llama3' and not length:
    missing.append('original_max_position_embeddings')
  if missing:
    raise ValueError(f'rope type {kind!r} lacks {missing}')
  if kind == 'default':
    return RopeConfig(theta)
  if kind == 'linear':
    return RopeConfig(theta, kind, given['factor'])
  low, high = given['low_freq_factor'], given['high_freq_factor']
  if not low < high:
    raise ValueError(
      f'low_freq_factor={low} must be below high_freq_factor={high}'
    )
  return RopeConfig(theta, kind, given['factor'], low, high, length)
