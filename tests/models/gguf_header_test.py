"""Headers of GGUF files whose layers differ: read, or refused by the field."""

import pathlib
from collections.abc import Callable
from typing import Any

import checkpoints
import gguf
import numpy as np
import pytest

from rlcw.models import weights

PATTERN = 'attention.sliding_window_pattern'


def _array(key: str, values: list[Any]) -> Callable[..., None]:
  def edit(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.kv_data[0].pop(key, None)
    writer.add_array(key, values)

  return edit


def _number(key: str, value: int) -> Callable[..., None]:
  def edit(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.kv_data[0].pop(key, None)
    writer.add_uint32(key, value)

  return edit


def _divisors(values: list[float]) -> Callable[..., None]:
  def edit(_: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
    tensors['rope_freqs.weight'] = np.array(values, np.float32)

  return edit


@pytest.mark.parametrize(
  ('family', 'edit', 'message'),
  [
    (
      'gemma4',
      _array('gemma4.attention.head_count_kv', [2, 2]),
      r'head_count_kv=\[2, 2\] .*expected 6 integers',
    ),
    (
      'gemma4',
      _array('gemma4.attention.head_count_kv', [2, 1, 1, 2, 2, 1]),
      'head_count_kv=.*expected the same of all layers of a kind',
    ),
    (
      'gemma4-small',
      _array('gemma4.feed_forward_length', [64, 64, 64, 192, 192, 192]),
      'feed_forward_length=.*expected one width',
    ),
    (
      'gemma4-small',
      _array('gemma4.feed_forward_length', [64, 32, 64, 64, 64, 64]),
      'feed_forward_length=.*expected one width',
    ),
    (
      'gemma4',
      _array(f'gemma4.{PATTERN}', [True, False]),
      f'{PATTERN}=.*expected true or false for 6 layers',
    ),
    (
      'gemma4',
      _number(f'gemma4.{PATTERN}', 0),
      f'{PATTERN}=0 .*expected at least 1',
    ),
    ('gemma4', _divisors([1, 1e30, 1, 1e30, 1, 1, 1, 1]), 'expected ones'),
    ('gemma4', _divisors([1e30] * 8), 'expected ones'),
    ('gemma4', _divisors([1, 1]), 'expected ones'),
    (
      'olmo3',
      _array(f'olmo2.{PATTERN}', [1, 1, 2, 0]),
      f'{PATTERN}=.*expected true or false for 4 layers',
    ),
  ],
)
def test_layers_that_cannot_be_are_refused_by_name(
  family: str,
  edit: Callable[..., None],
  message: str,
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  settings = {} if family != 'olmo3' else {'rope_parameters': None}
  theirs = make_model(family, **settings)
  path = checkpoints.write_gguf(tmp_path / 'x.gguf', theirs, edit)
  with pytest.raises(ValueError, match=r'x\.gguf: .*' + message):
    weights.load(path)


def test_all_pairs_of_a_head_may_rotate(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  path = checkpoints.write_gguf(
    tmp_path / 'x.gguf', make_model('gemma4'), _divisors([1] * 8)
  )
  rope = weights.load(path)[0].rope
  assert (rope.kind, rope.fraction) == ('proportional', 1.0)


def test_mistral_small_computes_what_a_llama_does(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def rename(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.kv_data[0] = {
      key.replace('llama.', 'mistral3.'): value
      for key, value in writer.kv_data[0].items()
    }
    writer.kv_data[0]['general.architecture'].value = 'mistral3'

  theirs = make_model('llama')
  expected = weights.load(checkpoints.write_gguf(tmp_path / 'a.gguf', theirs))
  path = checkpoints.write_gguf(tmp_path / 'b.gguf', theirs, rename)
  ours = weights.load(path)
  assert ours[0] == expected[0]
  checkpoints.assert_holds(ours, checkpoints.under_their_names(*expected))
