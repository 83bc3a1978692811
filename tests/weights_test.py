"""Checkpoints come in whole and equal, or with an error that says why not."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import gguf
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from rlcw import weights
from rlcw.model import ModelConfig, Params

QUERY = 'model.layers.1.self_attn.q_proj.weight'
GGUF_NAMES = {
  'model.embed_tokens': 'token_embd',
  'model.norm': 'output_norm',
  'lm_head': 'output',
  'model.layers': 'blk',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'post_attention_layernorm': 'ffn_norm',
  'input_layernorm': 'attn_norm',
}


def _tensors(llama: Any) -> dict[str, np.ndarray]:
  """The weights that a checkpoint of this model holds."""
  tensors = {n: t.float().numpy() for n, t in llama.state_dict().items()}
  if llama.config.tie_word_embeddings:
    tensors.pop('lm_head.weight')
  return tensors


def _unstacked(config: ModelConfig, params: Params) -> dict[str, np.ndarray]:
  """Our parameters under the names of the checkpoint."""
  found = {}
  for path, rows in weights.hf_names(config).items():
    leaf = params
    for part in path.split('/'):
      leaf = leaf[part]
    stacked = leaf if path.startswith('blocks/') else leaf[None]
    assert len(stacked) == len(rows)
    found |= {row[0]: kernel for row, kernel in zip(rows, stacked, strict=True)}
  return found


def _assert_holds(
  loaded: tuple[ModelConfig, Params], tensors: dict[str, np.ndarray]
) -> None:
  found = _unstacked(*loaded)
  assert found.keys() == tensors.keys()
  for name, expected in tensors.items():
    np.testing.assert_array_equal(found[name], expected, err_msg=name)


def _edited(
  folder: pathlib.Path, to: pathlib.Path, edit: Callable[[dict], None]
) -> pathlib.Path:
  """A copy of a folder's model with some tensors changed."""
  tensors = load_file(folder / 'model.safetensors')
  edit(tensors)
  save_file(tensors, to / 'model.safetensors')
  (to / 'config.json').write_text((folder / 'config.json').read_text())
  return to


def _interleaved(kernel_OxI: np.ndarray, heads: int) -> np.ndarray:
  """What llama.cpp's converter does to queries and keys."""
  out, inner = kernel_OxI.shape
  halves = kernel_OxI.reshape(heads, 2, out // heads // 2, inner)
  return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(out, inner)


def _write_gguf(
  path: pathlib.Path,
  llama: Any,
  architecture: str = 'llama',
  extra: dict[str, np.ndarray] | None = None,
  scaling: gguf.RopeScalingType = gguf.RopeScalingType.NONE,
) -> pathlib.Path:
  config = llama.config
  writer = gguf.GGUFWriter(path, architecture)
  writer.add_embedding_length(config.hidden_size)
  writer.add_feed_forward_length(config.intermediate_size)
  writer.add_block_count(config.num_hidden_layers)
  writer.add_head_count(config.num_attention_heads)
  writer.add_head_count_kv(config.num_key_value_heads)
  writer.add_key_length(config.head_dim)
  writer.add_rope_freq_base(config.rope_parameters['rope_theta'])
  writer.add_rope_scaling_type(scaling)
  writer.add_layer_norm_rms_eps(config.rms_norm_eps)
  heads = {'q_proj': config.num_attention_heads}
  heads['k_proj'] = config.num_key_value_heads
  for name, tensor in _tensors(llama).items():
    kind = name.split('.')[-2]
    if kind in heads:
      tensor = _interleaved(tensor, heads[kind])
    for theirs, short in GGUF_NAMES.items():
      name = name.replace(theirs, short)
    writer.add_tensor(name, tensor)
  for name, tensor in (extra or {}).items():
    writer.add_tensor(name, tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


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
  _assert_holds(weights.load(tmp_path), _tensors(llama))


def test_a_tied_head_written_twice_is_read_once(
  tiny_folder: pathlib.Path, tiny: Any, tmp_path: pathlib.Path
) -> None:
  def repeat(tensors: dict[str, np.ndarray]) -> None:
    tensors['lm_head.weight'] = tensors['model.embed_tokens.weight']

  _assert_holds(
    weights.load(_edited(tiny_folder, tmp_path, repeat)), _unstacked(*tiny)
  )


def test_bfloat16_loads(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  llama = make_llama().to(torch.bfloat16)
  llama.save_pretrained(tmp_path)
  config, params = weights.load(tmp_path)
  assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype('float32')}
  _assert_holds((config, params), _tensors(llama))
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
    f'{QUERY}: shape (30, 32) where (32, 32) is expected',
    'model.embed_tokens.weight: shape (299, 32) where (300, 32) is expected',
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
  with pytest.raises(FileNotFoundError, match='needs config') as error:
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


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'tie_word_embeddings': False, 'head_dim': 12},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 50_000.0}},
  ],
  ids=['tied', 'head', 'theta'],
)
def test_gguf_loads_equal_to_safetensors(
  settings: dict[str, Any],
  make_llama: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  llama = make_llama(**settings)
  llama.save_pretrained(tmp_path)
  ours = weights.load(_write_gguf(tmp_path / 'tiny.gguf', llama))
  expected = weights.load(tmp_path)
  assert ours[0].norm_eps == pytest.approx(expected[0].norm_eps)  # a float32
  assert vars(ours[0]) | {'norm_eps': 0} == vars(expected[0]) | {'norm_eps': 0}
  _assert_holds(ours, _unstacked(*expected))


def test_gguf_with_a_tensor_of_ours_unknown(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  extra = {'rope_freqs.weight': np.ones(4, np.float32)}
  path = _write_gguf(tmp_path / 'x.gguf', make_llama(), extra=extra)
  with pytest.raises(ValueError, match=r'unknown: rope_freqs\.weight'):
    weights.load(path)


def test_gguf_of_another_family(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  path = _write_gguf(tmp_path / 'x.gguf', make_llama(), architecture='qwen2')
  with pytest.raises(ValueError, match=r"model_type='qwen2'.*'llama'"):
    weights.load(path)


def test_gguf_with_scaled_positions(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  linear = gguf.RopeScalingType.LINEAR
  path = _write_gguf(tmp_path / 'x.gguf', make_llama(), scaling=linear)
  with pytest.raises(ValueError, match=r"rope type 'linear'.*'default'"):
    weights.load(path)


def test_a_truncated_gguf_is_an_error(
  make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  path = _write_gguf(tmp_path / 'x.gguf', make_llama())
  path.write_bytes(path.read_bytes()[:-4096])
  with pytest.raises(ValueError):
    weights.load(path)
