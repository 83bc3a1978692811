"""Checkpoints on disk: folders and GGUF files, and their digests.

A GGUF file is read tensor by tensor.  Its header is converted to the equivalent
`config.json`, so that the rest of the code has to deal with one kind of header
only.

Letters: O outputs and I inputs of a kernel.
"""

import hashlib
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.models import gguf_config, gguf_ropes, hub
from rlcw.models.families import FAMILIES
from rlcw.models.folders import Source, open_safetensors
from rlcw.models.gguf_header import Header
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
  header = Header(file, reader)
  count = header.general('split.count', int, 1)
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
    array = np.empty(tensor.shape[::-1], np.float32)
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

  # Not weights: what rotary frequencies are divided by.
  tables = {}
  for name in gguf_ropes.TABLES & shapes.keys():
    shape = shapes.pop(name)
    if len(shape) != 1 or not 0 < shape[0] <= 2**16:
      raise ValueError(
        f'{file}: {name}: shape {shape}; expected a number for each pair of a '
        'head'
      )
    tables[name] = dequantise(name)
  config = gguf_config.read(header, shapes, tables)
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


def _deinterleave(kernel_OxI: np.ndarray, heads: int) -> np.ndarray:
  """Reorders each head's output rows from GGUF's rotary layout to ours.

  GGUF has the two elements of a rotary pair next to each other; we have all
  first elements in one half of the head and all second ones in the other.
  """
  out, inner = kernel_OxI.shape
  pairs = kernel_OxI.reshape(heads, out // heads // 2, 2, inner)
  return pairs.swapaxes(1, 2).reshape(out, inner)
