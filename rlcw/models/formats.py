"""Checkpoints on disk: safetensors folders and GGUF files, tensor by tensor.

Nothing is unpickled, and no more is read than what is asked for.  A GGUF
header is told as the `config.json` that it would have been, so that all that
follows knows one kind of header.
"""

import json
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcw.models import hub
from rlcw.models.attention import frequencies
from rlcw.models.config import ModelConfig, RopeConfig

_DTYPES = ('F32', 'F16', 'BF16')
INDEX = 'model.safetensors.index.json'


class Source(NamedTuple):
  """A checkpoint on disk, its tensors under the names that it gives them."""

  path: Path
  format: str  # hf | gguf
  config: dict[str, Any]  # as in Hugging Face's config.json
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]

  def model_config(self) -> ModelConfig:
    """The decoder that the header describes.

    Raises:
      ValueError: names the file, the field, and what is supported.
    """
    layers = self.config.get('num_hidden_layers')
    try:
      if isinstance(layers, int) and layers > len(self.shapes):
        raise ValueError(
          f'num_hidden_layers={layers}, but there are {len(self.shapes)} '
          'tensors in all'
        )
      return ModelConfig.from_hf(self.config)
    except ValueError as error:
      header = self.path / 'config.json' if self.format == 'hf' else self.path
      raise ValueError(f'{header}: {error}') from None


def open_source(model: str | Path) -> Source:
  """Opens a GGUF file, a folder, or a Hub id.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: its files are damaged, or of a kind that is not read.
  """
  path = hub.fetch(model)
  return open_gguf(path) if path.is_file() else open_safetensors(path)


def read_json(file: Path) -> dict[str, Any]:
  """A JSON object from a file, or a ValueError that names the file."""
  try:
    found = json.loads(file.read_text('utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{file} is not JSON: {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{file}: a JSON object is expected')
  return found


def open_safetensors(folder: Path) -> Source:
  """A Hugging Face folder: `config.json` and one or more safetensors files."""
  from safetensors import safe_open

  if not (folder / 'config.json').exists():
    raise _lacking(folder, 'config.json')
  config = read_json(folder / 'config.json')
  files: dict[str, Path] = {}
  shapes: dict[str, tuple[int, ...]] = {}
  errors = []
  for file in _safetensors_files(folder):
    try:
      handle = safe_open(file, framework='numpy')
    except Exception as error:
      raise ValueError(f'{file} is damaged: {error}') from None
    for name in handle.keys():  # noqa: SIM118
      part = handle.get_slice(name)
      if name in files:
        errors.append(f'{name} is in {files[name].name} and in {file.name}')
      if part.get_dtype() not in _DTYPES:
        errors.append(
          f'{name}: {part.get_dtype()} where one of {_DTYPES} is expected'
        )
      files[name], shapes[name] = file, tuple(part.get_shape())
  for name, file in _weight_map(folder).items():
    if files.get(name) != file:
      errors.append(f'{name} is not in {file.name}, as {INDEX} says it is')
  if errors:
    raise ValueError(f'{folder} cannot be read:\n  ' + '\n  '.join(errors))

  def read(name: str) -> np.ndarray:
    # A file is mapped for one tensor at a time, or all that was read of it
    # would stay in memory.
    with safe_open(files[name], framework='numpy') as handle:
      return handle.get_tensor(name)

  return Source(folder, 'hf', config, shapes, read)


def _weight_map(folder: Path) -> dict[str, Path]:
  """The file that holds each tensor, by the index; empty if there is none."""
  if not (folder / INDEX).exists():
    return {}
  named = read_json(folder / INDEX).get('weight_map')
  if not isinstance(named, dict) or not named:
    raise ValueError(f'{folder / INDEX} lacks a weight_map')
  for name, file in named.items():
    if not isinstance(file, str) or not file or Path(file).name != file:
      raise ValueError(f'{folder / INDEX}: {name}: {file!r} is no file name')
  return {name: folder / file for name, file in named.items()}


def _safetensors_files(folder: Path) -> list[Path]:
  """The files that hold the model: as the index says, if there is one."""
  if files := sorted(set(_weight_map(folder).values())):
    absent = [file.name for file in files if not file.is_file()]
    if absent:
      raise _lacking(folder, f'{absent}, which {INDEX} names')
    return files
  whole = folder / 'model.safetensors'
  files = [whole] if whole.exists() else sorted(folder.glob('*.safetensors'))
  if not files:
    pickles = sorted(p.name for p in folder.glob('*.bin'))
    raise _lacking(
      folder,
      'a *.safetensors file'
      + (f' ({pickles} would have to be unpickled)' if pickles else ''),
    )
  return files


def _lacking(folder: Path, what: str) -> FileNotFoundError:
  held = sorted(p.name for p in folder.iterdir())
  return FileNotFoundError(f'{folder} lacks {what}; it has: {held}')


def gguf_reader(file: Path) -> Any:
  """A `gguf.GGUFReader` that a damaged header cannot keep busy.

  The library's own reads on past the end of the file, element by element, for
  as long as a count in the header tells it to.

  Raises:
    ValueError: the file is damaged.
  """
  import gguf

  class Reader(gguf.GGUFReader):
    def _get(self, offset, dtype, count=1, override_order=None):
      kind = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
      return np.frombuffer(self.data, kind, int(count), int(offset))

    def _get_field_parts(self, orig_offs, raw_type):
      """An array of numbers is read at once."""
      if raw_type == gguf.GGUFValueType.ARRAY:
        inner, count = (
          self._get(orig_offs, '<u4'),
          self._get(orig_offs + 4, '<u8'),
        )
        number = self.gguf_scalar_to_np.get(inner[0])
        if number is not None:
          values = self._get(orig_offs + 12, number, count[0])
          types = [gguf.GGUFValueType(raw_type), gguf.GGUFValueType(inner[0])]
          return 12 + values.nbytes, [inner, count, values], [2], types
      return super()._get_field_parts(orig_offs, raw_type)

  try:
    reader = Reader(file)
  except Exception as error:
    raise ValueError(f'{file} is not a whole GGUF file: {error}') from None
  if reader.byte_order != 'I':
    raise ValueError(f'{file}: its byte order is not that of this machine')
  return reader


def open_gguf(file: Path) -> Source:
  """A GGUF file, dequantised tensor by tensor."""
  import gguf

  reader = gguf_reader(file)
  stored = {tensor.name: tensor for tensor in reader.tensors}
  pages: mmap.mmap = reader.data._mmap  # pyright: ignore
  shapes = {
    name: tuple(int(size) for size in tensor.shape[::-1])
    for name, tensor in stored.items()
  }

  def dequantise(name: str) -> np.ndarray:
    tensor, rows = stored[name], 4096  # the library's own copies are of a few
    array = np.empty(shapes[name], np.float32)
    try:
      for first in range(0, len(array), rows):
        part = tensor.data[first : first + rows]
        array[first : first + rows] = gguf.dequantize(part, tensor.tensor_type)
    except NotImplementedError:
      kind = tensor.tensor_type.name
      raise ValueError(f'{file}: {name}: {kind} cannot be read') from None
    pages.madvise(mmap.MADV_DONTNEED)  # or what was read stays in memory
    return array

  divisor_h = None
  if shapes.get('rope_freqs.weight'):
    divisor_h = dequantise('rope_freqs.weight')
  shapes.pop('rope_freqs.weight', None)
  config = _gguf_config(file, reader, shapes, divisor_h)
  interleaved = {
    'attn_q': config['num_attention_heads'],
    'attn_k': config['num_key_value_heads'],
  }

  def read(name: str) -> np.ndarray:
    array, kind = dequantise(name), name.split('.')[-2]
    if config['model_type'] == 'llama' and kind in interleaved:
      return _halves(array, interleaved[kind])
    if config['model_type'] == 'gemma3_text' and name.endswith('norm.weight'):
      return array - 1.0  # Gemma's own files hold the distance from 1
    return array

  return Source(file, 'gguf', config, shapes, read)


_MODEL_TYPES = {
  'llama': 'llama',
  'qwen2': 'qwen2',
  'qwen3': 'qwen3',
  'gemma3': 'gemma3_text',
}
_GEMMA_27B_LAYERS = 62


def _gguf_config(
  file: Path,
  reader: Any,
  shapes: Mapping[str, tuple[int, ...]],
  divisor_h: np.ndarray | None,
) -> dict[str, Any]:
  """The header as a `config.json`."""

  def field(key: str, kind: Any, *default: Any) -> Any:
    found = reader.get_field(key)
    if found is None and default:
      return default[0]
    try:
      value = None if found is None else found.contents()
    except UnicodeDecodeError as error:
      raise ValueError(f'{file}: {key} is not text: {error}') from None
    if isinstance(value, bool) or not isinstance(value, kind):
      raise ValueError(f'{file}: {key}={value!r:.80} where {kind} is expected')
    return value

  family = field('general.architecture', str)
  if family not in _MODEL_TYPES:
    raise ValueError(
      f'{file}: general.architecture={family!r} is not supported; legal: '
      f'{tuple(_MODEL_TYPES)}'
    )

  def of(key: str, kind: Any, *default: Any) -> Any:
    return field(f'{family}.{key}', kind, *default)

  number = int | float
  heads, layers = of('attention.head_count', int), of('block_count', int)
  dim = of('embedding_length', int)
  embedding = shapes.get('token_embd.weight', ())
  theta = of('rope.freq_base', number, 10_000.0)
  head_dim = of('attention.key_length', int, dim // max(heads, 1))
  rotary = of('rope.dimension_count', int, head_dim)
  if rotary != head_dim:
    raise ValueError(
      f'{file}: {family}.rope.dimension_count={rotary} is not supported; '
      f'legal: {head_dim}, all of a head'
    )
  rope: dict[str, Any] | None = None
  kind = of('rope.scaling.type', str, 'none')
  if kind != 'none':
    factor = of('rope.scaling.factor', number, None)
    rope = {'rope_type': kind, 'factor': factor}
  if divisor_h is not None:
    rope = _llama3(file, divisor_h, theta, head_dim)
  config = {
    'model_type': _MODEL_TYPES[family],
    'vocab_size': embedding[0] if embedding else None,
    'hidden_size': dim,
    'intermediate_size': of('feed_forward_length', int),
    'num_hidden_layers': layers,
    'num_attention_heads': heads,
    'num_key_value_heads': of('attention.head_count_kv', int, heads),
    'head_dim': head_dim,
    'max_position_embeddings': of('context_length', int, None),
    'rope_theta': theta,
    'rope_scaling': rope,
    'rms_norm_eps': of('attention.layer_norm_rms_epsilon', number),
    'tie_word_embeddings': 'output.weight' not in shapes,
    'bos_token_id': field('tokenizer.ggml.bos_token_id', int, None),
    'eos_token_id': field('tokenizer.ggml.eos_token_id', int, None),
  }
  if family == 'gemma3':
    # The header leaves out what is the same in all text models but the 27B.
    large = layers == _GEMMA_27B_LAYERS
    config |= {
      'query_pre_attn_scalar': dim / heads if large and heads else head_dim,
      'sliding_window': of('attention.sliding_window', int),
      'sliding_window_pattern': of('attention.sliding_window_pattern', int, 6),
      'rope_local_base_freq': of('rope.freq_base_swa', number, 10_000.0),
    }
  return {key: value for key, value in config.items() if value is not None}


def _llama3(
  file: Path, divisor_h: np.ndarray, theta: float, head_dim: int
) -> dict[str, Any]:
  """Llama 3's stretch of the positions, which GGUF keeps as a table.

  All published models have the same bands, so the factor says the rest; it is
  checked that it does.
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
      f'{rope.factor} for heads of {head_dim}; no other is supported'
    )
  return {
    'rope_type': 'llama3',
    'factor': rope.factor,
    'low_freq_factor': rope.low_factor,
    'high_freq_factor': rope.high_factor,
    'original_max_position_embeddings': rope.original_length,
  }


def _halves(kernel_OxI: np.ndarray, heads: int) -> np.ndarray:
  """GGUF interleaves a head's rotary pairs; ours are its two halves."""
  out, inner = kernel_OxI.shape
  pairs = kernel_OxI.reshape(heads, out // heads // 2, 2, inner)
  return pairs.swapaxes(1, 2).reshape(out, inner)
