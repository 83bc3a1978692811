"""Checkpoints on disk: folders and GGUF files, and their digests.

A GGUF file is read tensor by tensor.  Its header is converted to the equivalent
`config.json`, so that the rest of the code has to deal with one kind of header
only.
"""

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.models import hub
from rlcw.models.attention import frequencies
from rlcw.models.families import FAMILIES
from rlcw.models.folders import Source, open_safetensors
from rlcw.models.ropes import RopeConfig
from rlcw.runtime import runs


def open_source(model: str | Path) -> Source:
  """Opens a GGUF file, a folder, or a Hub id.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: its files are damaged or of an unsupported kind.
  """
  path = hub.fetch(model)
  return open_gguf(path) if path.is_file() else open_safetensors(path)


def digest(model: str | Path) -> str:
  """Digest of a model's files: their names, sizes and contents.

  Of a run's workdir these are its settings, head and checkpoints, and the files
  of the model that it started from.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: see `runs.lineage`.
  """
  of_runs, origin = runs.lineage(model)
  path = hub.fetch(origin)
  of_run = 'config.json', '*.safetensors', 'checkpoints/**/*'
  of_model = '*.json', '*.safetensors', '*.jinja', '*.model', '*.txt'
  kinds = [(folder, of_run) for folder, _ in of_runs]
  kinds += [(path.parent, (path.name,)) if path.is_file() else (path, of_model)]
  total = hashlib.blake2b(digest_size=16)
  for folder, patterns in kinds:
    found = {each for pattern in patterns for each in folder.glob(pattern)}
    for file in sorted(filter(Path.is_file, found)):
      with file.open('rb') as content:
        # Streamed: the file may be larger than the memory.
        one = hashlib.file_digest(content, 'blake2b').hexdigest()
      name, size = file.relative_to(folder), file.stat().st_size
      total.update(f'{name} {size} {one}\n'.encode())
  return total.hexdigest()


def gguf_reader(file: Path) -> Any:
  """Opens a file with a `gguf.GGUFReader` that is safe for damaged headers.

  The library's reader continues past the end of the file, element by element,
  up to the counts in the header, which can take forever.

  Raises:
    ValueError: the file is damaged, or has another byte order.
  """
  import gguf

  class Reader(gguf.GGUFReader):
    # Raises at the end of the file, where the library's slice of the memory map
    # would be silently shorter.
    def _get(self, offset, dtype, count=1, override_order=None):
      kind = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
      return np.frombuffer(self.data, kind, int(count), int(offset))

    def _get_field_parts(self, orig_offs, raw_type):
      """Reads an array of numbers at once rather than one by one."""
      if raw_type == gguf.GGUFValueType.ARRAY:
        inner, count = (
          self._get(orig_offs, '<u4'),
          self._get(orig_offs + 4, '<u8'),
        )
        # `None` for strings and nested arrays, whose elements vary in size.
        scalar = self.gguf_scalar_to_np.get(inner[0])
        if scalar is not None:
          # The values follow a type of 4 bytes and a count of 8.
          values = self._get(orig_offs + 12, scalar, count[0])
          types = [gguf.GGUFValueType(raw_type), gguf.GGUFValueType(inner[0])]
          return 12 + values.nbytes, [inner, count, values], [2], types
      return super()._get_field_parts(orig_offs, raw_type)

  try:
    reader = Reader(file)
  except Exception as error:
    raise ValueError(f'{file} is not a complete GGUF file: {error}') from None
  if reader.byte_order != 'I':
    raise ValueError(
      f'{file}: its byte order differs from that of this machine'
    )
  return reader


def open_gguf(file: Path) -> Source:
  """Opens a GGUF file, whose tensors are dequantised one at a time.

  Raises:
    ValueError: the file is damaged or not supported; names the field.
  """
  import gguf

  reader = gguf_reader(file)
  shards = reader.get_field('split.count')
  count = int(shards.contents()) if shards is not None else 1
  if count > 1:
    raise ValueError(
      f'{file} is one of {count} shards; expected a single file, as '
      '`llama-gguf-split --merge` makes of them'
    )
  stored = {tensor.name: tensor for tensor in reader.tensors}
  pages: mmap.mmap = reader.data._mmap  # pyright: ignore
  # GGUF lists the sizes of a tensor from the fastest axis to the slowest.
  shapes = {
    name: tuple(int(size) for size in tensor.shape[::-1])
    for name, tensor in stored.items()
  }

  def dequantise(name: str) -> np.ndarray:
    # By chunks of rows, because the library makes several temporary copies.
    tensor, rows = stored[name], 4096
    array = np.empty(shapes[name], np.float32)
    try:
      for first in range(0, len(array), rows):
        part = tensor.data[first : first + rows]
        array[first : first + rows] = gguf.dequantize(part, tensor.tensor_type)
    except NotImplementedError:
      kind = tensor.tensor_type.name
      raise ValueError(f'{file}: {name}: type {kind} cannot be read') from None
    # Otherwise all pages read so far would count as this process's memory.
    pages.madvise(mmap.MADV_DONTNEED)
    return array

  # Not a weight: the table that Llama 3's rotary frequencies are divided by.
  divisor_h = None
  if shapes.get('rope_freqs.weight'):
    divisor_h = dequantise('rope_freqs.weight')
  shapes.pop('rope_freqs.weight', None)
  config = _gguf_config(file, reader, shapes, divisor_h)
  family = FAMILIES[config['model_type']]
  assert family.gguf is not None
  interleaved = {}
  if family.gguf.interleaved:
    interleaved = {
      'attn_q': config['num_attention_heads'],
      'attn_k': config['num_key_value_heads'],
    }
  offset = family.switches.get('norm_offset', 0.0)

  def read(name: str) -> np.ndarray:
    array, kind = dequantise(name), name.split('.')[-2]
    if kind in interleaved:
      return _deinterleave(array, interleaved[kind])
    if offset and name.endswith('norm.weight'):
      # Gemma's safetensors store a norm's scale minus 1; GGUF adds the 1.
      return array - offset
    return array

  return Source(file, 'gguf', config, shapes, read)


_MODEL_TYPES = {
  family.gguf.architecture: name
  for name, family in FAMILIES.items()
  if family.gguf is not None
}
# Numbers of layers of Gemma's 27B models, whose query scale is another one.
_GEMMA_27B_LAYERS = {'gemma2': 46, 'gemma3': 62}


def _gguf_config(
  file: Path,
  reader: Any,
  shapes: Mapping[str, tuple[int, ...]],
  divisor_h: np.ndarray | None,
) -> dict[str, Any]:
  """Converts the header to the fields of a `config.json`."""

  # Without a default, a field is required.
  def header_field(key: str, kind: Any, *default: Any) -> Any:
    field = reader.get_field(key)
    if field is None and default:
      return default[0]
    try:
      value = None if field is None else field.contents()
    except UnicodeDecodeError as error:
      raise ValueError(f'{file}: {key} is not text: {error}') from None
    if isinstance(value, bool) or not isinstance(value, kind):
      raise ValueError(f'{file}: {key}={value!r:.80}; expected {kind}')
    return value

  family = header_field('general.architecture', str)
  experts = header_field(f'{family}.expert_count', int, 0)
  if experts > 1:
    raise ValueError(
      f'{file}: {family}.expert_count={experts}: a mixture of experts is not '
      'supported; expected a dense model'
    )
  if family not in _MODEL_TYPES:
    raise ValueError(
      f'{file}: general.architecture={family!r} is not supported; expected '
      f'one of {tuple(_MODEL_TYPES)}'
    )

  def get(key: str, kind: Any, *default: Any) -> Any:
    return header_field(f'{family}.{key}', kind, *default)

  number = int | float
  heads, layers = get('attention.head_count', int), get('block_count', int)
  dim = get('embedding_length', int)
  # Not every header has a vocabulary size; the embedding always does.
  embedding = shapes.get('token_embd.weight', ())
  theta = get('rope.freq_base', number, 10_000.0)
  head_dim = get('attention.key_length', int, dim // max(heads, 1))
  rotary = get('rope.dimension_count', int, head_dim)
  details = FAMILIES[_MODEL_TYPES[family]]
  partial = None
  if rotary != head_dim:
    if 'partial_rotary_factor' not in details.rope_extras:
      raise ValueError(
        f'{file}: {family}.rope.dimension_count={rotary} is not supported; '
        f'expected {head_dim}, the head dimension'
      )
    partial = rotary / max(head_dim, 1)
  rope: dict[str, Any] | None = None
  kind = get('rope.scaling.type', str, 'none')
  if kind != 'none':
    rope = {
      'rope_type': kind,
      'factor': get('rope.scaling.factor', number, None),
    }
  if rope is not None and kind == 'yarn':
    length = get('rope.scaling.original_context_length', int)
    rope |= {'original_max_position_embeddings': length}
  if divisor_h is not None:
    rope = _llama3(file, divisor_h, theta, head_dim)
  config = {
    'model_type': _MODEL_TYPES[family],
    'vocab_size': embedding[0] if embedding else None,
    'hidden_size': dim,
    'intermediate_size': get('feed_forward_length', int),
    'num_hidden_layers': layers,
    'num_attention_heads': heads,
    'num_key_value_heads': get('attention.head_count_kv', int, heads),
    'head_dim': head_dim,
    'max_position_embeddings': get('context_length', int, None),
    'rope_theta': theta,
    'rope_scaling': rope,
    'partial_rotary_factor': partial,
    'rms_norm_eps': get('attention.layer_norm_rms_epsilon', number),
    'tie_word_embeddings': 'output.weight' not in shapes,
    'bos_token_id': header_field('tokenizer.ggml.bos_token_id', int, None),
    'eos_token_id': header_field('tokenizer.ggml.eos_token_id', int, None),
  }
  assert details.gguf is not None
  config |= {
    # Some converters write a window of 0 for none.
    field: get(key, number, None) or None
    for field, key in details.gguf.numbers.items()
  }
  if family in _GEMMA_27B_LAYERS:
    # The header omits the query scale: the head dimension in all text models
    # but the 27B, which is recognised by its number of layers.
    large = layers == _GEMMA_27B_LAYERS[family]
    config |= {
      'query_pre_attn_scalar': dim / heads if large and heads else head_dim,
      'sliding_window': get('attention.sliding_window', int),
    }
  if family == 'gemma3':
    config |= {
      'sliding_window_pattern': get('attention.sliding_window_pattern', int, 6),
      'rope_local_base_freq': get('rope.freq_base_swa', number, 10_000.0),
    }
  window = get('attention.sliding_window', int, 0)
  if family == 'olmo2' and window:
    raise ValueError(
      f'{file}: olmo2.attention.sliding_window={window} of OLMo 3 is not read '
      'from GGUF; expected its safetensors'
    )
  return {key: value for key, value in config.items() if value is not None}


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


def _deinterleave(kernel_OxI: np.ndarray, heads: int) -> np.ndarray:
  """Reorders each head's output rows from GGUF's rotary layout to ours.

  GGUF has the two elements of a rotary pair next to each other; we have all
  first elements in one half of the head and all second ones in the other.
  """
  out, inner = kernel_OxI.shape
  pairs = kernel_OxI.reshape(heads, out // heads // 2, 2, inner)
  return pairs.swapaxes(1, 2).reshape(out, inner)
