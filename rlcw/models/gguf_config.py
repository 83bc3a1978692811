"""The header of a GGUF file, as the fields of a `config.json`."""

from collections.abc import Callable, Mapping
from typing import Any

from rlcw.models import gguf_ropes
from rlcw.models.families import FAMILIES
from rlcw.models.gguf_header import NUMBER, Header
from rlcw.models.gguf_ropes import Tables

Shapes = Mapping[str, tuple[int, ...]]

# The first family of an architecture; `_model_type` tells the others apart.
_MODEL_TYPES = {
  family.gguf.architecture: name
  for name, family in reversed(FAMILIES.items())
  if family.gguf is not None
}
# Numbers of layers of Gemma's 27B models, whose query scale is another one.
_GEMMA_27B_LAYERS = {'gemma2': 46, 'gemma3': 62}


def read(header: Header, shapes: Shapes, tables: Tables) -> dict[str, Any]:
  """Converts a header to the fields of a `config.json`.

  Args:
    header: of the file.
    shapes: of its tensors, by name.
    tables: those of `gguf_ropes.TABLES` that the file has.

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
    'rms_norm_eps': header.get('attention.layer_norm_rms_epsilon', NUMBER),
    'tie_word_embeddings': 'output.weight' not in shapes,
    'bos_token_id': header.general('tokenizer.ggml.bos_token_id', int, None),
    'eos_token_id': header.general('tokenizer.ggml.eos_token_id', int, None),
  }
  details = FAMILIES[found['model_type']].gguf
  assert details is not None
  found |= {
    field: header.get(key, NUMBER, None) or None
    for field, key in details.numbers.items()
  }
  if family == 'gemma4':
    found |= _gemma4(header, found, shapes, tables)
  else:
    found |= _sizes(header, found) | gguf_ropes.read(header, found, tables)
  if family in _MORE:
    found |= _MORE[family](header, found)
  return {key: value for key, value in found.items() if value is not None}


def _model_type(header: Header) -> str:
  family = header.architecture
  if family == 'olmo2' and header.get('attention.sliding_window', int, 0):
    return 'olmo3'
  if (
    family == 'mistral3'
    and gguf_ropes.scaling_of(header) == 'none'
    and not header.get('attention.temperature_scale', NUMBER, 0.0)
  ):
    # Mistral Small 3, which computes what a Llama does.
    return 'llama'
  return _MODEL_TYPES[family]


def _sizes(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  """Sizes of layers that are alike."""
  heads = config['num_attention_heads']
  return {
    'intermediate_size': header.get('feed_forward_length', int),
    'num_key_value_heads': header.get('attention.head_count_kv', int, heads),
    'head_dim': gguf_ropes.head_dim_of(header, config),
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
  scale = (
    dim / heads if large and heads else gguf_ropes.head_dim_of(header, config)
  )
  return {
    'query_pre_attn_scalar': scale,
    'sliding_window': header.get('attention.sliding_window', int),
  }


def _gemma3(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  return _gemma2(header, config) | {
    'layer_types': _layer_types(header, config['num_hidden_layers'], 6),
    'rope_local_base_freq': header.get('rope.freq_base_swa', NUMBER, 10_000.0),
  }


def _olmo2(header: Header, config: Mapping[str, Any]) -> dict[str, Any]:
  if config['model_type'] == 'olmo2':
    return {}
  local = header.get('rope.freq_base_swa', NUMBER, config['rope_theta'])
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
  if gguf_ropes.scaling_of(header) != 'yarn':
    raise header.error(
      'rope.scaling.type', gguf_ropes.scaling_of(header), "'yarn'"
    )
  growth = header.get('attention.temperature_scale', NUMBER, 0.0)
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
        'rope_theta': header.get('rope.freq_base', NUMBER, 1e6),
        'partial_rotary_factor': gguf_ropes.proportional_share(
          header.file, tables, head_dim
        ),
      },
      'sliding_attention': {
        'rope_type': 'default',
        'rope_theta': header.get('rope.freq_base_swa', NUMBER, 10_000.0),
      },
    },
  }
