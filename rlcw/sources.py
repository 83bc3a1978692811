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

from rlcw import hub
from rlcw.attention import frequencies
from rlcw.model_config import RopeConfig

_DTYPES = ('F32', 'F16', 'BF16')
_INDEX = 'model.safetensors.index.json'


class Source(NamedTuple):
  """A checkpoint on disk, its tensors under the names that it gives them."""

  path: Path
  format: str  # hf | gguf
  config: dict[str, Any]  # as in Hugging Face's config.json
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]


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
  except ValueError as error:
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
        errors.append(f'{name}: {part.get_dtype()} where one of {_DTYPES} is')
      files[name], shapes[name] = file, tuple(part.get_shape())
  if errors:
    raise ValueError(f'{folder} cannot be read:\n  ' + '\n  '.join(errors))

  def read(name: str) -> np.ndarray:
    # A file is mapped for one tensor at a time, or all that was read of it
    # would stay in memory.
    with safe_open(files[name], framework='numpy') as handle:
      return handle.get_tensor(name)

  return Source(folder, 'hf', config, shapes, read)


def _safetensors_files(folder: Path) -> list[Path]:
  """The files that hold the model: as the index says, if there is one."""
  if (folder / _INDEX).exists():
    named = read_json(folder / _INDEX).get('weight_map')
    if not isinstance(named, dict) or not named:
      raise ValueError(f'{folder / _INDEX} lacks a weight_map')
    files = [folder / str(name) for name in sorted(set(named.values()))]
    absent = [file.name for file in files if not file.exists()]
    if absent:
      raise _lacking(folder, f'{absent}, which {_INDEX} names')
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


def open_gguf(file: Path) -> Source:
  """A GGUF file, dequantised tensor by tensor."""
  import gguf

  try:
    reader = gguf.GGUFReader(file)
  except Exception as error:
    raise ValueError(f'{file} is not a whole GGUF file: {error}') from None
  stored = {tensor.name: tensor for tensor in reader.tensors}
  config = _gguf_config(file, reader, stored)
  gemma = config['model_type'] == 'gemma3_text'
  interleaved = {
    'attn_q': config['num_attention_heads'],
    'attn_k': config['num_key_value_heads'],
  }
  pages: mmap.mmap = reader.data._mmap  # pyright: ignore

  def read(name: str) -> np.ndarray:
    tensor = stored[name]
    try:
      array = gguf.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
      kind = tensor.tensor_type.name
      raise ValueError(f'{file}: {name}: {kind} cannot be read') from None
    pages.madvise(mmap.MADV_DONTNEED)  # or what was read stays in memory
    kind = name.split('.')[-2]
    if config['model_type'] == 'llama' and kind in interleaved:
      return _halves(array, interleaved[kind])
    if gemma and name.endswith('norm.weight'):
      return array - 1.0  # Gemma's own files hold the distance from 1
    return array

  shapes = {
    name: tuple(int(size) for size in tensor.shape[::-1])
    for name, tensor in stored.items()
    if name != 'rope_freqs.weight'
  }
  return Source(file, 'gguf', config, shapes, read)


_MODEL_TYPES = {
  'llama': 'llama',
  'qwen2': 'qwen2',
  'qwen3': 'qwen3',
  'gemma3': 'gemma3_text',
}


def _gguf_config(
  file: Path, reader: Any, stored: Mapping[str, Any]
) -> dict[str, Any]:
  """The header as a `config.json`."""
  import gguf

  def field(key: str, default: Any = None) -> Any:
    found = reader.get_field(key)
    return default if found is None else found.contents()

  family = field('general.architecture')
  if family not in _MODEL_TYPES:
    raise ValueError(
      f'{file}: general.architecture={family!r} is not supported; legal: '
      f'{tuple(_MODEL_TYPES)}'
    )

  def of(key: str, default: Any = None) -> Any:
    return field(f'{family}.{key}', default)

  heads = of('attention.head_count')
  embedding = stored.get('token_embd.weight')
  kind, factor = of('rope.scaling.type', 'none'), of('rope.scaling.factor')
  rope: dict[str, Any] = {'rope_type': 'default' if kind == 'none' else kind}
  if factor is not None:
    rope['factor'] = factor
  theta = of('rope.freq_base', 10_000.0)
  head_dim = of('attention.key_length')
  if 'rope_freqs.weight' in stored:
    table = stored['rope_freqs.weight']
    divisor_h = gguf.dequantize(table.data, table.tensor_type)
    rope = _llama3(file, divisor_h, theta)
  config = {
    'model_type': _MODEL_TYPES[family],
    'vocab_size': None if embedding is None else int(embedding.shape[1]),
    'hidden_size': of('embedding_length'),
    'intermediate_size': of('feed_forward_length'),
    'num_hidden_layers': of('block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': of('attention.head_count_kv', heads),
    'head_dim': head_dim,
    'max_position_embeddings': of('context_length'),
    'rope_theta': theta,
    'rope_scaling': None if rope == {'rope_type': 'default'} else rope,
    'rms_norm_eps': of('attention.layer_norm_rms_epsilon'),
    'tie_word_embeddings': 'output.weight' not in stored,
    'bos_token_id': field('tokenizer.ggml.bos_token_id'),
    'eos_token_id': field('tokenizer.ggml.eos_token_id'),
  }
  if family == 'gemma3':
    # The header leaves out what is the same in all text models but the 27B.
    config |= {
      'query_pre_attn_scalar': head_dim,
      'sliding_window': of('attention.sliding_window'),
      'rope_local_base_freq': of('rope.freq_base_swa', 10_000.0),
    }
  return {key: value for key, value in config.items() if value is not None}


def _llama3(file: Path, divisor_h: np.ndarray, theta: float) -> dict[str, Any]:
  """Llama 3's stretch of the positions, which GGUF keeps as a table.

  All published models have the same bands, so the factor says the rest; it is
  checked that it does.
  """
  rope = RopeConfig(theta, 'llama3', float(divisor_h.max()))
  dim = 2 * len(divisor_h)
  plain_h = frequencies(RopeConfig(theta), dim)
  expected_h = np.asarray(plain_h / frequencies(rope, dim))
  if not np.allclose(divisor_h, expected_h, rtol=1e-3):
    raise ValueError(
      f'{file}: rope_freqs.weight is not the table of Llama 3 with factor '
      f'{rope.factor}; no other is supported'
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
