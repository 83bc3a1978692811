"""Checkpoints come in whole and equal, or with an error that says why not."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoints import assert_holds, state, under_their_names, write_gguf
from safetensors.numpy import load_file, save_file

from rlcw.models import weights

QUERY = 'model.layers.1.self_attn.q_proj.weight'


def _edited(
  folder: pathlib.Path, to: pathlib.Path, edit: Callable[[dict], None]
) -> pathlib.Path:
  """A copy of a folder's model with some tensors changed."""
  tensors = load_file(folder / 'model.safetensors')
  edit(tensors)
  save_file(tensors, to / 'model.safetensors')
  (to / 'config.json').write_text((folder / 'config.json').read_text())
  return to


@pytest.mark.parametrize('tied', [True, False])
@pytest.mark.parametrize(('shard', 'files'), [('1GB', 1), ('20KB', 6)])
def test_a_folder_loads_as_it_was_saved(
  tied: bool,
  shard: str,
  files: int,
  make_llama: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  llama = make_llama(tie_word_embeddings=tied)
  llama.save_pretrained(tmp_path, max_shard_size=shard)
  assert len(list(tmp_path.glob('*.safetensors'))) >= files
  assert_holds(weights.load(tmp_path), state(llama))


def test_a_single_file_goes_before_an_index(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  """As in Transformers: the index may be that of an earlier save."""
  older, newer = make_llama(), make_llama()
  older.save_pretrained(tmp_path, max_shard_size='20KB')
  newer.save_pretrained(tmp_path / 'newer')
  shutil.copy(tmp_path / 'newer' / 'model.safetensors', tmp_path)
  assert_holds(weights.load(tmp_path), state(newer))


@pytest.mark.parametrize('sizes', [(20_000, 2**30), (2**30, 20_000)])
def test_a_model_may_be_saved_over_another(
  sizes: tuple[int, int],
  make_llama: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  for n, size in enumerate(sizes):
    llama = make_llama()
    with torch.no_grad():
      llama.model.norm.weight.fill_(n + 2.0)
    llama.save_pretrained(tmp_path / f'{n}')
    config, params = weights.load(tmp_path / f'{n}')
    shutil.copy(tmp_path / f'{n}' / 'config.json', tmp_path)
    weights.save(config, params, tmp_path, 'float32', size)
  assert_holds(weights.load(tmp_path), state(llama))


def test_a_tied_head_written_twice_is_read_once(
  tiny_folder: pathlib.Path, tiny: Any, tmp_path: pathlib.Path
) -> None:
  def repeat(tensors: dict[str, np.ndarray]) -> None:
    tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']

  assert_holds(
    weights.load(_edited(tiny_folder, tmp_path, repeat)),
    under_their_names(*tiny),
  )


def test_bfloat16_loads(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  llama = make_llama().to(torch.bfloat16)
  llama.save_pretrained(tmp_path)
  config, params = weights.load(tmp_path)
  assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype('float32')}
  assert_holds((config, params), state(llama))
  _, half = weights.load(tmp_path, dtype='bfloat16')
  assert {a.dtype for a in jax.tree.leaves(half)} == {
    np.dtype(ml_dtypes.bfloat16)
  }


def test_every_misfit_is_named_in_one_error(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  def spoil(tensors: dict[str, np.ndarray]) -> None:
    del tensors['model.norm.weight'], tensors[QUERY.replace('q_', 'v_')]
    tensors['model.layers.1.self_attn.q_norm.weight'] = np.ones(8, np.float32)
    tensors[QUERY] = tensors[QUERY][:-2].copy()
    tensors['model.embed_tokens.weight'] = np.ones((299, 32), np.float32)

  with pytest.raises(ValueError) as error:
    weights.load(_edited(tiny_folder, tmp_path, spoil))
  message = str(error.value)
  for part in (
    str(tmp_path),
    'missing: model.norm.weight',
    'missing: model.layers.1.self_attn.v_proj.weight',
    'unknown: model.layers.1.self_attn.q_norm.weight',
    f'{QUERY}: shape (30, 32), expected (32, 32)',
    'model.embed_tokens.weight: shape (299, 32), expected (300, 32)',
  ):
    assert part in message


def test_a_transposed_kernel_is_an_error(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  name = 'model.layers.0.mlp.up_proj.weight'

  def transpose(tensors: dict[str, np.ndarray]) -> None:
    tensors[name] = tensors[name].T.copy()

  with pytest.raises(ValueError, match=rf'{name}: shape \(32, 64\)'):
    weights.load(_edited(tiny_folder, tmp_path, transpose))


@pytest.mark.parametrize('name', ['model.gguf', 'folder'])
def test_a_path_that_is_not_there(name: str, tmp_path: pathlib.Path) -> None:
  with pytest.raises(FileNotFoundError, match=f'no model at .*{name}.*GGUF'):
    weights.load(tmp_path / name)


@pytest.mark.parametrize('lost', ['config.json', 'model.safetensors'])
def test_a_folder_that_lacks_a_file(
  lost: str, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  _edited(tiny_folder, tmp_path, lambda _: None)
  (tmp_path / lost).unlink()
  (kept,) = [path.name for path in tmp_path.iterdir()]
  with pytest.raises(FileNotFoundError, match='lacks .*it has') as error:
    weights.load(tmp_path)
  assert f"it has: ['{kept}']" in str(error.value)


def test_a_config_that_does_not_fit_the_tensors(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  _edited(tiny_folder, tmp_path, lambda _: None)
  config = json.loads((tmp_path / 'config.json').read_text())
  deeper = config | {'num_hidden_layers': 3}
  (tmp_path / 'config.json').write_text(json.dumps(deeper))
  with pytest.raises(ValueError, match=r'missing: model\.layers\.2\.') as error:
    weights.load(tmp_path)
  assert str(error.value).count('missing: ') == 9


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_an_error(
  share: float, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  _edited(tiny_folder, tmp_path, lambda _: None)
  file = tmp_path / 'model.safetensors'
  content = file.read_bytes()
  assert weights.load(tmp_path)
  file.write_bytes(content[: int(share * len(content))])
  with pytest.raises(Exception, match=r'(?i)header|incomplete'):
    weights.load(tmp_path)


def test_gguf_in_half_precision_loads(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def halve(_: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
      tensors[name] = tensor.astype(np.float16)

  llama = make_llama()
  loaded = weights.load(write_gguf(tmp_path / 'x.gguf', llama, halve))
  assert {a.dtype for a in jax.tree.leaves(loaded[1])} == {np.dtype('float32')}
  assert_holds(loaded, state(llama.half()))


def test_gguf_with_positions_of_no_llama(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def stretch(_: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    tensors['rope_freqs.weight'] = np.array([1, 2, 3, 4], np.float32)

  path = write_gguf(tmp_path / 'x.gguf', make_llama(), stretch)
  with pytest.raises(ValueError, match=r'x\.gguf: rope_freqs\.weight is not'):
    weights.load(path)
