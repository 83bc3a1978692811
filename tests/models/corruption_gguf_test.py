"""Damaged GGUF files end in one error that names the file and the fault."""

import pathlib
from collections.abc import Callable
from typing import Any

import checkpoints
import corruption
import gguf
import numpy as np
import pytest
from corruption import GgufEdit
from gguf import GGUFValue, GGUFValueType


def _field(key: str, value: Any = None, kind: Any = None) -> GgufEdit:
  """Sets a field of the header, or drops it where there is no value."""

  def edit(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    assert key in writer.kv_data[0] or value is not None
    writer.kv_data[0].pop(key, None)
    if value is not None:
      inner = GGUFValueType.UINT32 if kind == GGUFValueType.ARRAY else None
      writer.kv_data[0][key] = GGUFValue(value, kind, inner)

  return edit


def _tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> GgufEdit:
  def edit(_: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
    tensors[name] = np.ascontiguousarray(change(tensors[name]))

  return edit


def _rename_gguf(_: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
  tensors['blk.0.attn_query.weight'] = tensors.pop('blk.0.attn_q.weight')


def _blocks(count: int) -> GgufEdit:
  return _field('llama.block_count', count, GGUFValueType.UINT32)


HEADS = 'llama.attention.head_count'
EPS = 'llama.attention.layer_norm_rms_epsilon'


@pytest.mark.parametrize(
  ('edit', 'parts'),
  [
    (_rename_gguf, ['missing: blk.0.attn_q.w', 'unknown: blk.0.attn_query.w']),
    (
      _tensor('blk.1.ffn_up.weight', lambda a: a[:-1]),
      ['blk.1.ffn_up.weight: shape (63, 32), expected (64, 32)'],
    ),
    (
      _tensor('blk.1.ffn_up.weight', lambda a: a.T),
      ['blk.1.ffn_up.weight: shape (32, 64), expected (64, 32)'],
    ),
    (_tensor('token_embd.weight', np.ravel), ['token_embd.weight: shape']),
    (
      _tensor('blk.1.ffn_up.weight', lambda a: a.astype(np.int8)),
      ['blk.1.ffn_up.weight', 'I8'],
    ),
    (
      _tensor('blk.1.ffn_up.weight', lambda a: a.astype(np.float64)),
      ['blk.1.ffn_up.weight', 'F64'],
    ),
    (
      _tensor('rope_freqs.weight', lambda a: a.astype(np.int32)),
      ['rope_freqs.weight', 'I32'],
    ),
    (_tensor('rope_freqs.weight', lambda a: a[:2]), ['rope_freqs.weight']),
    (_tensor('rope_freqs.weight', lambda a: -a), ['rope_freqs.weight']),
    (_blocks(3), ['missing: blk.2.attn_q.weight']),
    (_blocks(1), ['unknown: blk.1.attn_q.weight']),
    (_blocks(0), ['num_hidden_layers=0']),
    (_blocks(2**32 - 1), ['llama.block_count=4294967295', 'tensors']),
    (_field(HEADS, 0, GGUFValueType.UINT32), ['num_attention_heads=0']),
    (_field(HEADS, 3, GGUFValueType.UINT32), ['num_heads=3']),
    (_field(HEADS, 'four', GGUFValueType.STRING), [HEADS, "'four'"]),
    (_field(HEADS, 4.0, GGUFValueType.FLOAT32), [HEADS, '4.0']),
    (_field(HEADS, True, GGUFValueType.BOOL), [HEADS, 'True']),
    (_field(HEADS, [4, 4], GGUFValueType.ARRAY), [HEADS, '[4, 4]']),
    (_field(EPS, 'small', GGUFValueType.STRING), [EPS, "'small'"]),
    (_field(EPS, float('nan'), GGUFValueType.FLOAT32), ['rms_norm_eps=nan']),
    (
      _field('llama.rope.dimension_count', 4, GGUFValueType.UINT32),
      ['llama.rope.dimension_count=4'],
    ),
    (
      _field('llama.rope.freq_base', -1.0, GGUFValueType.FLOAT32),
      ['rope_freqs.weight is not the table'],
    ),
    (
      _field('llama.rope.scaling.type', 7, GGUFValueType.UINT32),
      ['llama.rope.scaling.type=7'],
    ),
    (
      _field('general.architecture', 'mamba', GGUFValueType.STRING),
      ["general.architecture='mamba'", 'qwen3'],
    ),
    (
      _field('general.architecture', 3, GGUFValueType.UINT32),
      ['general.architecture=3'],
    ),
    (_field('general.architecture'), ['general.architecture']),
    (_field('llama.block_count'), ['llama.block_count']),
    (_field('llama.embedding_length'), ['llama.embedding_length']),
    (_field('llama.feed_forward_length'), ['llama.feed_forward_length']),
    (_field(HEADS), [HEADS]),
    (_field(EPS), [EPS]),
  ],
)
def test_gguf_that_cannot_be(
  edit: GgufEdit,
  parts: list[str],
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  file = corruption.llama3_gguf(make_model, tmp_path / 'x.gguf', edit)
  corruption.refuses(file, *parts)


@pytest.mark.parametrize('share', [0.0, 0.0001, 0.01, 0.03, 0.5, 0.9999])
def test_a_truncated_gguf_file(
  share: float, gguf_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  content = gguf_file.read_bytes()
  (tmp_path / 'y.gguf').write_bytes(content[: int(share * len(content))])
  corruption.refuses(tmp_path / 'y.gguf', 'not a complete GGUF file')


@pytest.mark.parametrize(
  ('at', 'new'),
  [
    (0, b'GGML'),
    (0, b'PK\3\4'),
    (4, (99).to_bytes(4, 'little')),
    (4, (3).to_bytes(4, 'big')),
    (8, b'\xff' * 8),
    (8, (2**40).to_bytes(8, 'little')),
    (16, b'\xff' * 8),
    (16, (2**40).to_bytes(8, 'little')),
    (24, b'\xff' * 8),
    (24, (2**62).to_bytes(8, 'little')),
  ],
)
def test_a_gguf_file_that_begins_wrong(
  at: int, new: bytes, gguf_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  content = gguf_file.read_bytes()
  file = tmp_path / 'y.gguf'
  file.write_bytes(corruption.damaged(content, [(at, len(new), new)]))
  with corruption.bounded():
    corruption.refuses(file, 'not a complete GGUF file')


def test_a_gguf_file_of_another_byte_order(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'y.gguf'
  writer = gguf.GGUFWriter(file, 'llama', endianess=gguf.GGUFEndian.BIG)
  writer.add_tensor('token_embd.weight', np.ones((4, 4), np.float32))
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  corruption.refuses(file, 'byte order')


@pytest.mark.parametrize('key', ['tokens', 'scores', 'bytes'])
@pytest.mark.parametrize('count', [4, 2**20, 2**40, 2**60, 2**64 - 1])
def test_an_array_longer_than_its_file(
  count: int, key: str, gguf_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  content = gguf_file.read_bytes()
  # the key, its type, the type of an element, and then how many there are
  at = content.index(f'tokenizer.ggml.{key}'.encode()) + 15 + len(key) + 8
  assert int.from_bytes(content[at : at + 8], 'little') == 3
  file = tmp_path / 'y.gguf'
  new = count.to_bytes(8, 'little')
  file.write_bytes(corruption.damaged(content, [(at, 8, new)]))
  with corruption.bounded():
    corruption.refuses(file, 'not a complete GGUF file')
