"""The header of a GGUF file, as the fields of a `config.json`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.models.attention import frequencies
from rlcw.models.families import FAMILIES
from rlcw.models.ropes import RopeConfig

Shapes = Mapping[str, tuple[int, ...]]
# What rotary frequencies are divided by, each `[H / 2]`.
Tables = Mapping[str, np.ndarray]
_FREQS = 'rope_freqs.weight'
_SHORT, _LONG = 'rope_factors_short.weight', 'rope_factors_long.weight'
TABLES = {_FREQS, _SHORT, _LONG}

_NUMBER = int | float
# The first family of an architecture; `_model_type` tells the others apart.
_MODEL_TYPES = {
  family.gguf.architecture: name
  for name, family in reversed(FAMILIES.items())
  if family.gguf is not None
}
# Numbers of layers of Gemma's 27B models, whose query scale is another one.
_GEMMA_27B_LAYERS = {'gemma2': 46, 'gemma3': 62}


class Header:
  """Reads the fields of a file's architecture, which are untrusted.

  Raises:
    ValueError: a field is missing or damaged; names the file and the field.
  """

  def __init__(self, file: Path, reader: Any):
    self.file = file
    self._reader = reader
    self.architecture = self.general('general.architecture', str)

  def general(self, key: str, kind: Any, *default: Any) -> Any:
    """A field's value; required unless a default is given."""
    field = self._reader.get_field(key)
    if field is None and default:
      return default[0]
    try:
      value = None if field is None else field.contents()
    except UnicodeDecodeError as error:
      raise ValueError(f'{self.file}: {key} is not text: {error}') from None
    if isinstance(value, bool) or not isinstance(value, kind):
      raise ValueError(f'{self.file}: {key}={value!r:.80}; expected {kind}')
    # Integers beyond 64 bits are no numbers of JAX.
    return float(value) if kind is _NUMBER else value

  def get(self, key: str, kind: Any, *default: Any) -> Any:
    """A value of the architecture's own field."""
    return self.general(f'{self.architecture}.{key}', kind, *default)

  def of_layers(self, key: str, layers: int) -> list[int]:
    """Values of all layers, for which a file has one number or a list."""
    value = self.get(key, int | list)
    if isinstance(value, int):
      return [value] * layers
    if len(value) != layers or not all(type(each) is int for each in value):
      raise self.error(key, value, f'{layers} integers')
    return value

  def error(self, key: str, value: object, expected: str) -> ValueError:
    return ValueError(
      f'{self.file}: {self.architecture}.{key}={value!r:.80} is not '
      f'supported; expected {expected}'
    )


def config(header: Header, shapes: Shapes, tables: Tables) -> dict[str, Any]:
  """Converts a header to the fields of a `config.json`.

  Args:
    header: of the file.
    shapes: of its tensors, by name.
    tables: those of `TABLES` that the file has.

  Raises:
    ValueError: a field is missing, damaged or not supported; names it.
  """
  family, file = header.architecture, header.file
  experts = header.get('expert_count', int, 0)
  if experts > 1:
    raise ValueError(
      f'{file}: {family}.expert_count={experts}: a mixture of experts is not '
      'supported; expected a dense model'
    )
  if family not in _MODEL_TYPES:
    raise ValueError(
      f'{file}: general.architecture={family!r} is not supported; expected '
      f'one of {tuple(sorted(_MODEL_TYPES))}'
    )
  layers = header.get('block_count', int)
  if layers > len(shapes):  # an untrusted number: lists of layers come from it
    raise header.error('block_count', layers, f'at most {len(shapes)} tensors')
  # Not every header has a vocabulary size; the embedding always does.
  embedding = shapes.get('token_embd.weight', ())
  found = {
    'model_type': _model_type(header),
    'vocab_size': embedding[0] if embedding else None,
    'hidden_size': header.get('embedding_length', int),
    'num_hidden_layers': layers,
    'num_attention_heads': header.get('attention.head_count', int),
    'max_position_embeddings': header.get('context_length', int, None),
    'rms_norm_eps': header.get('attention.layer_norm_rms_epsilon', _NUMBER),
    'tie_word_embeddings': 'output.weight' not in shapes,
    'bos_token_id': header.general('tokenizer.ggml.bos_token_id', int, None),
    'eos_token_id': header.general('tokenizer.ggml.eos_token_id', int, None),
  }
  details = FAMILIES[found['model_type']].gguf
  assert details is not None
  found |= {
    field: header.get(key, _NUMBER, None) or None
    for field, key in details.numbers.items()
  }
  if family == 'gemma4':
    found |= _gemma4(header, found, shapes, tables)
  else:
    found |= _sizes(header, found) | _rope(header, found, tables)
  if family in _MORE:
    found |= _MORE[family](header, found)
  return {key: value for key, value in found.items() if value is not None}


def _model_type(header: Header) -> str:
  family = header.architecture
  if family == 'olmo2' and header.get('attention.sliding_window', int, 0):
    return 'olmo3'
  growth = header.get('attention.temperature_scale', _NUMBER, 0.0)
  if family == 'mistral3' and _scaling(header) == 'none' and not growth:
    # Mistral Small 3, which computes what a Llama does.
    return 'llama'
  return _MODEL_TYPES[family]


def _scaling(header: Header) -> str:
  key = 'rope.scaling.type'
  kind = header.get(key, str, 'none')
  factor = header.get('rope.scaling.factor', _NUMBER, 1.0)
  if kind == 'none' and factor not in (0, 1):
    raise header.error(key, kind, f'a type, as there is a factor of {factor}')
  return kind


def _head_dim(header: Header, config: Mapping[str, Any]) -> int:
  shared = config['hidden_size'] // max(config['num_attention_heads'], 1)
  return header.get('attention.key_length', int, shared)


def _sizes(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  """Sizes of layers that are alike."""
  heads = config['num_attention_heads']
  return {
    'intermediate_size': header.get('feed_forward_length', int),
    'num_key_value_heads': header.get('attention.head_count_kv', int, heads),
    'head_dim': _head_dim(header, config),
  }


def _rope(
  header: Header, config: Mapping[str, Any], tables: Tables
) -> dict[str, Any]:
  """Rotary settings in the older form, with `rope_scaling`."""
  theta = header.get('rope.freq_base', _NUMBER, 10_000.0)
  head_dim = _head_dim(header, config)
  rotary = header.get('rope.dimension_count', int, head_dim)
  partial = None
  if rotary != head_dim:
    extras = FAMILIES[config['model_type']].rope_extras
    if 'partial_rotary_factor' not in extras:
      expected = f'{head_dim}, the head dimension'
      raise header.error('rope.dimension_count', rotary, expected)
    partial = rotary / max(head_dim, 1)
  kind, scaling = _scaling(header), None
  if tables and kind not in ('none', 'longrope'):
    expected = "'none' beside a table of frequencies"
    raise header.error('rope.scaling.type', kind, expected)
  if _FREQS in tables:
    scaling = _llama3(header.file, tables[_FREQS], theta, head_dim)
  elif _SHORT in tables or kind == 'longrope':
    scaling = _longrope(header, tables)
  elif kind == 'yarn':
    scaling = _yarn(header)
  elif kind != 'none':
    factor = header.get('rope.scaling.factor', _NUMBER, None)
    scaling = {'rope_type': kind, 'factor': factor}
  return {
    'rope_theta': theta,
    'rope_scaling': scaling,
    'partial_rotary_factor': partial,
  }


def _longrope(header: Header, tables: Tables) -> dict[str, Any]:
  if not {_SHORT, _LONG} <= tables.keys():
    raise ValueError(
      f'{header.file}: {_SHORT} or {_LONG} is missing; expected both'
    )
  return {
    'rope_type': 'longrope',
    'short_factor': tables[_SHORT].tolist(),
    'long_factor': tables[_LONG].tolist(),
    'attention_factor': header.get('rope.scaling.attn_factor', _NUMBER, None),
    'original_max_position_embeddings': header.get(
      'rope.scaling.original_context_length', int
    ),
  }


# In the header: field of `rope_scaling`.
_YARN = {
  'factor': 'factor',
  'yarn_attn_factor': 'attention_factor',
  'yarn_beta_fast': 'beta_fast',
  'yarn_beta_slow': 'beta_slow',
}


def _yarn(header: Header) -> dict[str, Any]:
  found: dict[str, Any] = {'rope_type': 'yarn'}
  length = header.get('rope.scaling.original_context_length', int)
  found['original_max_position_embeddings'] = length
  for key, field in _YARN.items():
    value = header.get(f'rope.scaling.{key}', _NUMBER, None)
    if value is not None:
      found[field] = value
  # 1 where the length of rotated queries and keys is left as it is, 0 where it
  # grows with the factor.
  slope = header.get('rope.scaling.yarn_log_multiplier', _NUMBER, None)
  if slope is not None:
    found |= {'mscale': 1.0, 'mscale_all_dim': slope}
  return found


def _llama3(
  file: Path, divisor_h: np.ndarray, theta: float, head_dim: int
) -> dict[str, Any]:
  """Recovers Llama 3's `rope_scaling` from GGUF's table of divisors `[H / 2]`.

  All published models have the same frequency bands, so the factor, which is
  the largest divisor, determines the whole table.

  Raises:
    ValueError: the table differs from the one that the factor gives.
  """
  rope = RopeConfig(theta, 'llama3', float(divisor_h.max(initial=1.0)))
  fits = divisor_h.shape == (head_dim // 2,)
  if fits:
    plain_h = frequencies(RopeConfig(theta), head_dim)
    expected_h = plain_h / frequencies(rope, head_dim)
    fits = np.allclose(divisor_h, expected_h, rtol=1e-3)
  if not fits:
    raise ValueError(
      f'{file}: rope_freqs.weight is not the table of Llama 3 with factor '
      f'{rope.factor} and head_dim={head_dim}; expected that table'
    )
  return {
    'rope_type': 'llama3',
    'factor': rope.factor,
    'low_freq_factor': rope.low_factor,
    'high_freq_factor': rope.high_factor,
    'original_max_position_embeddings': rope.original_length,
  }


# --- What few architectures have --------------------------------------------


def _layer_types(header: Header, layers: int, period: int) -> list[str]:
  """Which layers have a window: all but each of a period's last, or a list."""
  key = 'attention.sliding_window_pattern'
  pattern = header.get(key, int | list, period)
  if isinstance(pattern, int):
    if pattern < 1:
      raise header.error(key, pattern, 'at least 1')
    pattern = [(layer + 1) % pattern != 0 for layer in range(layers)]
  flags = all(type(each) in (bool, int) and each in (0, 1) for each in pattern)
  if len(pattern) != layers or not flags:
    raise header.error(key, pattern, f'true or false for {layers} layers')
  kinds = 'full_attention', 'sliding_attention'
  return [kinds[each] for each in pattern]


def _gemma2(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  # The header omits the query scale: the head dimension in all text models but
  # the 27B, which is recognised by its number of layers.
  dim, heads, layers = (
    config[key]
    for key in ('hidden_size', 'num_attention_heads', 'num_hidden_layers')
  )
  large = layers == _GEMMA_27B_LAYERS[header.architecture]
  scale = dim / heads if large and heads else _head_dim(header, config)
  return {
    'query_pre_attn_scalar': scale,
    'sliding_window': header.get('attention.sliding_window', int),
  }


def _gemma3(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  return _gemma2(header, config) | {
    'layer_types': _layer_types(header, config['num_hidden_layers'], 6),
    'rope_local_base_freq': header.get('rope.freq_base_swa', _NUMBER, 10_000.0),
  }


def _olmo2(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  if config['model_type'] == 'olmo2':
    return {}
  local = header.get('rope.freq_base_swa', _NUMBER, config['rope_theta'])
  return {
    'sliding_window': header.get('attention.sliding_window', int),
    'layer_types': _layer_types(header, config['num_hidden_layers'], 4),
    # Local layers have a rope without scaling.
    'rope_parameters': {
      'full_attention': {'rope_theta': config['rope_theta']}
      | (config['rope_scaling'] or {}),
      'sliding_attention': {'rope_type': 'default', 'rope_theta': local},
    },
    'rope_scaling': None,
  }


def _mistral3(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  if config['model_type'] == 'llama':
    return {}
  if _scaling(header) != 'yarn':
    raise header.error('rope.scaling.type', _scaling(header), "'yarn'")
  growth = header.get('attention.temperature_scale', _NUMBER, 0.0)
  return {
    'rope_parameters': config['rope_scaling']
    | {'rope_theta': config['rope_theta'], 'llama_4_scaling_beta': growth},
    'rope_scaling': None,
  }


def _phi3(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  length = 'original_max_position_embeddings'
  return {
    # Some converters write a window of 0 for none.
    'sliding_window': header.get('attention.sliding_window', int, 0) or None,
    length: (config['rope_scaling'] or {}).get(length),
  }


_MORE: dict[str, Callable[[Header, Mapping[str, Any]], dict[str, Any]]] = {
  'gemma2': _gemma2,
  'gemma3': _gemma3,
  'olmo2': _olmo2,
  'mistral3': _mistral3,
  'phi3': _phi3,
}


def _gemma4(
  header: Header,
  config: Mapping[str, Any],
  shapes: Shapes,
  tables: Tables,
) -> dict[str, Any]:
  """Sizes of local and of global layers, and their ropes."""
  layers = config['num_hidden_layers']
  types = _layer_types(header, layers, 6)
  whole, local = (
    [n for n, each in enumerate(types) if each == f'{kind}_attention']
    for kind in ('full', 'sliding')
  )
  shared = header.get('attention.shared_kv_layers', int, 0)
  if not 0 <= shared < max(layers, 1):
    expected = f'0 to {layers - 1}'
    raise header.error('attention.shared_kv_layers', shared, expected)
  head_dim = header.get('attention.key_length', int)
  local_dim = header.get('attention.key_length_swa', int)
  for key, kind, expected in (
    ('rope.scaling.type', str, 'none'),
    ('rope.dimension_count', int, head_dim),
    ('rope.dimension_count_swa', int, local_dim),
  ):
    if (value := header.get(key, kind, expected)) != expected:
      raise header.error(key, value, f'{expected!r}')

  def alike(key: str, members: list[int]) -> int | None:
    values = header.of_layers(key, layers)
    found = {values[n] for n in members}
    if len(found) > 1:
      raise header.error(key, values, 'the same of all layers of a kind')
    return next(iter(found), None)

  kv = 'attention.head_count_kv'
  widths = header.of_layers('feed_forward_length', layers)
  own, others = widths[: layers - shared], {*widths[layers - shared :]}
  single = own[0] if own else 0
  wide = bool(others) and others != {single}
  if {*own} != {single} or others - {2 * single if wide else single}:
    raise header.error(
      'feed_forward_length', widths, 'one width, of shared layers up to twice'
    )
  return {
    'intermediate_size': single,
    'use_double_wide_mlp': wide,
    'layer_types': types,
    'head_dim': local_dim,
    'num_key_value_heads': alike(kv, local or whole),
    'global_head_dim': head_dim,
    'num_global_key_value_heads': alike(kv, whole),
    # Files without values have keys that are both.
    'attention_k_eq_v': any(
      f'blk.{n}.attn_v.weight' not in shapes
      for n in whole
      if n < layers - shared
    ),
    'hidden_size_per_layer_input': header.get(
      'embedding_length_per_layer_input', int, 0
    ),
    'vocab_size_per_layer_input': config['vocab_size'],
    'num_kv_shared_layers': shared,
    'sliding_window': header.get('attention.sliding_window', int),
    'rope_parameters': {
      'full_attention': {
        'rope_type': 'proportional',
        'rope_theta': header.get('rope.freq_base', _NUMBER, 1e6),
        'partial_rotary_factor': _share(header.file, tables, head_dim),
      },
      'sliding_attention': {
        'rope_type': 'default',
        'rope_theta': header.get('rope.freq_base_swa', _NUMBER, 10_000.0),
      },
    },
  }


def _share(file: Path, tables: Tables, head_dim: int) -> float:
  """Share of a head's pairs that rotate: their divisor is 1, of others huge."""
  table = tables.get(_FREQS, np.ones(0))
  turning = int((table == 1).sum())
  fits = table.shape == (head_dim // 2,) and turning > 0
  # Not `any(… < 1e20)`, which NaN passes.
  if not fits or not np.all(table[turning:] >= 1e20):
    raise ValueError(
      f'{file}: rope_freqs.weight is not the table of Gemma 4 with '
      f'head_dim={head_dim}; expected ones, and then numbers above 1e20'
    )
  return turning / len(table)
