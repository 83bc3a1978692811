"""Decoder configuration, read from a checkpoint's `config.json`.

All model families are one decoder with a few switches: Qwen2 adds biases to
queries, keys and values; Qwen3 normalises queries and keys; Gemma 3 does the
same, adds norms after each sublayer and gives most layers a sliding window.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# Projections that can have a LoRA adapter, under their names in the parameters.
PROJECTIONS = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class RopeConfig:
  """Rotary position embedding (arXiv 2104.09864) and its context scaling."""

  theta: float = 10_000.0
  kind: str = 'default'  # default | linear | llama3
  factor: float = 1.0  # linear and llama3: divides the (low) frequencies
  # llama3 keeps wavelengths shorter than original_length / high_factor, divides
  # the frequency of those longer than original_length / low_factor by `factor`,
  # and interpolates in between.
  low_factor: float = 1.0
  high_factor: float = 4.0
  original_length: int = 8192


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters `W + (alpha / rank) · B A` (arXiv 2106.09685).

  Raises:
    ValueError: no targets, an unknown target, or a rank below 1.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]  # names from PROJECTIONS

  def __post_init__(self):
    unknown = [name for name in self.targets if name not in PROJECTIONS]
    if unknown or not self.targets:
      raise ValueError(
        f'lora.targets={self.targets!r}: {unknown or "nothing"} to adapt; '
        f'expected one or more of {PROJECTIONS}'
      )
    if self.rank < 1:
      raise ValueError(f'lora.rank={self.rank} must be at least 1')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shapes and constants of a decoder.

  Raises:
    ValueError: heads that do not divide into key/value heads, an odd head
      dimension, or local layers that do not fit the layers or lack a window.
  """

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
  norm_offset: float = 0.0  # added to each norm's stored scale
  activation: str = 'silu'  # silu | gelu_tanh
  embed_scale: float = 1.0
  query_scale: float | None = None  # None: head_dim ** -0.5
  # Keys visible to a query of a local layer, including its own.
  window: int | None = None
  local_layers: tuple[bool, ...] = ()  # True: sliding window; (): all global
  local_rope: RopeConfig | None = None  # of local layers; None: `rope`
  context: int | None = None  # most tokens of a text; None: not known
  dtype: str = 'float32'  # of activations; parameters keep their own dtype
  # True: the backward pass recomputes whole blocks.  False: it stores the
  # products with weights and recomputes the rest, attention scores included.
  remat: bool = False
  lora: LoraConfig | None = None
  attention: str = 'auto'  # auto: the platform's kernels | xla: no kernels

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim < 2 or self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim}; expected an even number of at least 2, '
        'because rotary embedding works on pairs'
      )
    if self.local_layers and len(self.local_layers) != self.num_layers:
      raise ValueError(
        f'local_layers has {len(self.local_layers)} entries for '
        f'{self.num_layers} layers'
      )
    if any(self.local_layers) and not self.window:
      raise ValueError('sliding_attention layers need a sliding_window')

  def first_layers(self, count: int) -> 'ModelConfig':
    """The configuration of the first layers alone; 0 for all of them.

    Raises:
      ValueError: there are fewer layers.
    """
    if count > self.num_layers:
      raise ValueError(
        f'layers={count}: the model has {self.num_layers}; expected at most '
        'as many, or 0 for all'
      )
    return dataclasses.replace(
      self,
      num_layers=count or self.num_layers,
      local_layers=self.local_layers[: count or None],
    )

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> 'ModelConfig':
    """Reads the fields of a Hugging Face `config.json`.

    Raises:
      ValueError: names the field, its value and the supported values.
    """
    config = _validate(text_config(config))
    family = config.get('model_type', 'llama')
    if family not in _FAMILIES:
      raise ValueError(
        f'model_type={family!r} is not supported; expected one of '
        f'{tuple(_FAMILIES)}'
      )
    switches, required, supported = _FAMILIES[family]
    for field, values in {**_SUPPORTED, **supported}.items():
      value = config.get(field, values[0])
      if value not in values:
        raise ValueError(
          f'{field}={value!r} is not supported; expected one of {values}'
        )
    missing = [f for f in (*_REQUIRED, *required) if f not in config]
    if missing:
      raise ValueError(f'the configuration lacks {missing}')
    heads, dim = config['num_attention_heads'], config['hidden_size']
    # Gemma 3 files omit fields whose defaults differ from those of the other
    # families: the head is tied and rope_theta is 1e6.
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
      context=config.get('max_position_embeddings'),
      **switches,
    )


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
  """The configuration of a model's text decoder.

  Of a multimodal Gemma 3 it is a part of `config.json`; of any other model the
  whole.

  Raises:
    ValueError: the weights are quantised, or the model is a mixture of experts;
      names the field.
  """
  config = dict(config)
  if config.get('model_type') == 'gemma3':
    part = _validate(config).get('text_config', {})
    # Transformers leaves fields out that have their default.
    shared = {key: config[key] for key in _SHARED_FIELDS if key in config}
    config = {**_GEMMA3_DEFAULTS, **part, **shared}
  quantised = config.get('quantization_config')
  if quantised is not None:
    method = quantised
    if isinstance(quantised, Mapping):
      method = quantised.get('quant_method', quantised)
    raise ValueError(
      f'quantization_config: weights quantised by {method!r:.80} are not '
      'supported; expected None (float32, float16, bfloat16) or a GGUF file'
    )
  for field in ('num_experts', 'num_local_experts', 'n_routed_experts'):
    if config.get(field) not in (None, 0, 1):
      raise ValueError(
        f'{field}={config[field]!r:.80}: a mixture of experts is not '
        f'supported; expected a dense model of {tuple(_FAMILIES)}'
      )
  return config


# Of a multimodal model's `config.json`, outside of its text part.
_SHARED_FIELDS = (
  'bos_token_id',
  'eos_token_id',
  'pad_token_id',
  'quantization_config',
)
# Of transformers' Gemma3TextConfig.
_GEMMA3_DEFAULTS = {
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
}
_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'rms_norm_eps',
)
_SILU: dict[str, tuple[Any, ...]] = {'hidden_act': ('silu',)}
# Supported values by field; the first one is assumed where the field is absent.
# An unsupported feature must fail here: ignored, it would give wrong logits
# without any error.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
  'attention_bias': (False,),
  'mlp_bias': (False,),
  'attn_logit_softcapping': (None,),
  'final_logit_softcapping': (None,),
  'use_bidirectional_attention': (False,),
  'partial_rotary_factor': (1.0,),
}
# model_type: (switches of ModelConfig, required fields, supported values)
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


# Expected kind of value: (its test, the fields of that kind at any depth).
# Headers come from untrusted files: the bounds reject sizes that would overflow
# or exhaust memory.  `type(...) is int` because a bool is an `int` in Python.
_FIELD_KINDS: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
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
    ),
  ),
  'an integer of at least 0': (
    lambda value: type(value) is int and value >= 0,
    ('max_window_layers',),
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
    ),
  ),
  'true or false': (
    lambda value: type(value) is bool,
    ('tie_word_embeddings', 'use_sliding_window'),
  ),
  'a string': (
    lambda value: isinstance(value, str),
    ('model_type', 'rope_type', 'type'),
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
    ),
  ),
}


def _validate(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that are not null, checked against `_FIELD_KINDS`."""
  # Some exporters write null where others omit the field.
  config = {key: value for key, value in config.items() if value is not None}
  errors = [
    f'{field}={config[field]!r:.200} is not {kind}'
    for kind, (is_valid, fields) in _FIELD_KINDS.items()
    for field in fields
    if field in config and not is_valid(config[field])
  ]
  if errors:
    raise ValueError('; '.join(errors))
  return config


def _local_layers(config: Mapping[str, Any]) -> tuple[bool, ...]:
  """Returns True for each layer with a sliding window; () if none has one."""
  layers, family = config['num_hidden_layers'], config.get('model_type')
  types = config.get('layer_types')
  if types is not None:
    unknown = set(types) - {'sliding_attention', 'full_attention'}
    if unknown or len(types) != layers:
      raise ValueError(
        f'layer_types={types!r} for {layers} layers; expected '
        "'sliding_attention' or 'full_attention' for each layer"
      )
    local = tuple(kind == 'sliding_attention' for kind in types)
  elif family == 'gemma3_text':
    # Files older than `layer_types`: by default every sixth layer is global.
    period = config.get('sliding_window_pattern', 6)
    local = tuple((i + 1) % period != 0 for i in range(layers))
  elif config.get('use_sliding_window'):
    # Qwen2 and Qwen3: global layers first, sliding ones from here on.
    first = config.get('max_window_layers', 28)
    local = tuple(i >= first for i in range(layers))
  else:
    local = ()
  if any(local) and 'sliding_window' not in config:
    raise ValueError(
      'some layers have sliding_attention, but sliding_window is missing'
    )
  return local if any(local) else ()


def _ropes(
  config: Mapping[str, Any], theta: float
) -> tuple[RopeConfig, RopeConfig | None]:
  """Rotary settings of full and of sliding layers.

  Transformers 5 writes `rope_parameters`, nested by layer type where they
  differ; older files have `rope_theta`, `rope_scaling` and, for Gemma,
  `rope_local_base_freq`.
  """
  parameters = _rope_fields(config.get('rope_parameters', {}))
  scaling = _rope_fields(config.get('rope_scaling', {}))
  nested = 'full_attention' in parameters or 'sliding_attention' in parameters
  full = parameters
  if nested:
    full = _rope_fields(parameters.get('full_attention', {}))
  # A file may have both the old and the new fields, if they agree: whichever
  # of the two is given precedence, the result is the same.
  old = (
    {'rope_theta': config.get('rope_theta')} if 'rope_theta' in config else {}
  )
  rope = _rope(config, {**old, **scaling, **full}, theta)
  if rope != _rope(config, {**full, **scaling, **old}, theta):
    raise ValueError(
      f'rope_parameters={full!r} contradicts rope_scaling={scaling!r} with '
      f'rope_theta={config.get("rope_theta")!r}; expected one of them, or both '
      'alike'
    )
  if nested:
    local = _rope_fields(parameters.get('sliding_attention', {}))
    return rope, _rope(config, local, 10_000.0)
  if config.get('model_type') != 'gemma3_text':
    return rope, None
  # Only Gemma's global layers are scaled; its local ones keep a plain rope.
  return rope, RopeConfig(config.get('rope_local_base_freq', 10_000.0))


def _rope_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Valid fields of a rope; `type`, the older name, becomes `rope_type`."""
  fields = _validate(fields)
  kind = fields.pop('type', None)
  if kind is not None and fields.setdefault('rope_type', kind) != kind:
    raise ValueError(
      f'type={kind!r} contradicts rope_type={fields["rope_type"]!r}'
    )
  return fields


def _rope(
  config: Mapping[str, Any], parameters: Mapping[str, Any], theta: float
) -> RopeConfig:
  """Rotary settings of one layer type; `theta` where the file has none."""
  theta = parameters.get('rope_theta', theta)
  kind = parameters.get('rope_type', 'default')
  fields = {
    'default': (),
    'linear': ('factor',),
    'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'),
  }
  if kind not in fields:
    raise ValueError(
      f'rope type {kind!r} is not supported; expected one of {tuple(fields)}'
    )
  missing = [field for field in fields[kind] if field not in parameters]
  length = parameters.get('original_max_position_embeddings')
  length = length or config.get('max_position_embeddings', 0)
  if kind == 'llama3' and not length:
    missing.append('original_max_position_embeddings')
  if missing:
    raise ValueError(f'rope type {kind!r} lacks {missing}')
  if kind == 'default':
    return RopeConfig(theta)
  if kind == 'linear':
    return RopeConfig(theta, kind, parameters['factor'])
  low, high = parameters['low_freq_factor'], parameters['high_freq_factor']
  if not low < high:
    raise ValueError(
      f'low_freq_factor={low} must be below high_freq_factor={high}'
    )
  return RopeConfig(theta, kind, parameters['factor'], low, high, length)
