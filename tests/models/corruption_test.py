"""Damaged folders end in one error that names the file and the fault."""

import ast
import json
import pathlib
import pickle
from collections.abc import Callable
from typing import Any, NoReturn

import checkpoints
import corruption
import pytest
import torch
from corruption import LLAMA3
from safetensors.torch import load_file, save_file

from rlcw.models import weights

ROOT = pathlib.Path(__file__).resolve().parents[2]
INDEX = 'model.safetensors.index.json'
QUERY = 'model.layers.1.self_attn.q_proj.weight'
UP = 'model.layers.0.mlp.up_proj.weight'
EMBED = 'model.embed_tokens.weight'


@pytest.fixture(scope='module')
def parts(
  make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """An undamaged folder of several files and an index."""
  folder = tmp_path_factory.mktemp('parts')
  make_model('llama3').save_pretrained(folder, max_shard_size='20KB')
  return folder


class _Touch:
  """Pickled, it makes a file when it is unpickled."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __reduce__(self) -> Any:
    return pathlib.Path.touch, (self.path,)


def test_a_pickle_is_named_and_left_alone(
  whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder, mark = corruption.copy(whole, tmp_path), tmp_path / 'unpickled'
  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(_Touch(mark)))
  weights.load(folder)
  (folder / 'model.safetensors').unlink()
  corruption.refuses(folder, 'safetensors', 'pytorch_model.bin', 'unpickled')
  corruption.refuses(folder / 'pytorch_model.bin', 'GGUF')
  assert not mark.exists()
  pickle.loads((folder / 'pytorch_model.bin').read_bytes())
  assert mark.exists()  # the trap works


def test_loading_unpickles_nothing(
  whole: pathlib.Path,
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  file = checkpoints.write_gguf(tmp_path / 'x.gguf', make_model('llama'))

  def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError('something was unpickled')

  for module, name in (
    (pickle, 'load'),
    (pickle, 'loads'),
    (pickle, 'Unpickler'),
    (torch, 'load'),
  ):
    monkeypatch.setattr(module, name, refuse)
  assert weights.load(whole)
  assert weights.load(file)


def test_no_module_can_unpickle() -> None:
  files = sorted((ROOT / 'rlcw').rglob('*.py'))
  assert len(files) > 10
  for file in files:
    for node in ast.walk(ast.parse(file.read_text('utf-8'))):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module or '']
      tops = {name.split('.')[0] for name in names}
      assert not tops & {'pickle', 'torch', 'dill', 'joblib'}, file


@pytest.mark.parametrize('share', [0.0, 0.0001, 0.001, 0.02, 0.5, 0.9999])
def test_a_truncated_safetensors_file(
  share: float, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = corruption.copy(whole, tmp_path) / 'model.safetensors'
  content = file.read_bytes()
  file.write_bytes(content[: int(share * len(content))])
  corruption.refuses(file.parent, 'model.safetensors is damaged')


@pytest.mark.parametrize('length', [0, 1, 2**24, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_a_length_it_cannot_have(
  length: int, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = corruption.copy(whole, tmp_path) / 'model.safetensors'
  file.write_bytes(length.to_bytes(8, 'little') + file.read_bytes()[8:])
  corruption.refuses(file.parent, 'model.safetensors is damaged')


def _rename(tensors: dict[str, torch.Tensor]) -> None:
  tensors['model.layers.1.self_attn.query.weight'] = tensors.pop(QUERY)


def _transpose(tensors: dict[str, torch.Tensor]) -> None:
  tensors[UP] = tensors[UP].T.contiguous()


def _flatten(tensors: dict[str, torch.Tensor]) -> None:
  tensors[EMBED] = tensors[EMBED].flatten()


def _spare(tensors: dict[str, torch.Tensor]) -> None:
  tensors['model.layers.2.mlp.up_proj.weight'] = tensors[UP].clone()


def _untie(tensors: dict[str, torch.Tensor]) -> None:
  tensors['lm_head.weight'] = tensors[EMBED] + 1e-3


def _cast(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
  def cast(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP] = tensors[UP].to(dtype)

  return cast


def _hole(
  value: float, dtype: torch.dtype = torch.float32
) -> Callable[[dict[str, torch.Tensor]], None]:
  def pierce(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP][-1, 3] = value
    _cast(dtype)(tensors)

  return pierce


@pytest.mark.parametrize(
  ('edit', 'parts'),
  [
    (_rename, [f'missing: {QUERY}', 'unknown: model.layers.1.self_attn.query']),
    (_transpose, [f'{UP}: shape (32, 64), expected (64, 32)']),
    (_flatten, [f'{EMBED}: shape (9600,), expected (300, 32)']),
    (_spare, ['unknown: model.layers.2.mlp.up_proj.weight']),
    (_untie, ['tie_word_embeddings', 'lm_head.weight', EMBED]),
    (_cast(torch.int8), [f'{UP}: dtype I8', 'F32', 'F16', 'BF16']),
    (_cast(torch.float64), [f'{UP}: dtype F64']),
    (_cast(torch.float8_e4m3fn), [f'{UP}: dtype F8_E4M3']),
    (_hole(float('nan')), [f'{UP} has values that are NaN or infinite']),
    (_hole(float('-inf'), torch.float16), [f'{UP} has values that are NaN']),
    (_hole(float('inf'), torch.bfloat16), [f'{UP} has values that are NaN']),
    (dict.clear, ['num_hidden_layers=2', '0 tensors']),
  ],
  ids=[
    'renamed',
    'transposed',
    'flat',
    'spare',
    'untied',
    'int8',
    'float64',
    'float8',
    'nan',
    'inf-float16',
    'inf-bfloat16',
    'empty',
  ],
)
def test_tensors_that_do_not_fit(
  edit: Callable[[dict[str, torch.Tensor]], None],
  parts: list[str],
  whole: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  folder = corruption.copy(whole, tmp_path)
  tensors = load_file(folder / 'model.safetensors')
  edit(tensors)
  save_file(tensors, folder / 'model.safetensors')
  corruption.refuses(folder, *parts)


def _edit_index(folder: pathlib.Path, edit: Callable[[dict], None]) -> None:
  index = json.loads((folder / INDEX).read_text())
  edit(index)
  (folder / INDEX).write_text(json.dumps(index))


def _shard_of(folder: pathlib.Path, name: str) -> str:
  return json.loads((folder / INDEX).read_text())['weight_map'][name]


def test_a_shard_that_is_not_there(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(parts, tmp_path)
  lost = _shard_of(folder, QUERY)
  (folder / lost).unlink()
  corruption.refuses(folder, lost, INDEX)


def test_an_index_that_names_a_tensor_its_file_lacks(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(parts, tmp_path)
  file = _shard_of(folder, QUERY)
  tensors = load_file(folder / file)
  del tensors[QUERY]
  save_file(tensors, folder / file)
  corruption.refuses(folder, QUERY, file, INDEX)


def test_an_index_that_names_another_file(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(parts, tmp_path)
  other = _shard_of(folder, EMBED)
  assert other != _shard_of(folder, QUERY)
  _edit_index(folder, lambda index: index['weight_map'].update({QUERY: other}))
  corruption.refuses(folder, QUERY, other, INDEX)


def test_a_tensor_in_two_files(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(parts, tmp_path)
  one, other = _shard_of(folder, QUERY), _shard_of(folder, EMBED)
  tensors = load_file(folder / other)
  tensors[QUERY] = load_file(folder / one)[QUERY]
  save_file(tensors, folder / other)
  corruption.refuses(folder, QUERY, one, other)


@pytest.mark.parametrize(
  'weight_map',
  [None, [], {}, 'x', {EMBED: 3}, {EMBED: ['x']}, {EMBED: '../x'}, {EMBED: ''}],
)
def test_an_index_that_is_none(
  weight_map: Any, parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(parts, tmp_path)
  _edit_index(folder, lambda index: index.update(weight_map=weight_map))
  named = [EMBED] if isinstance(weight_map, dict) and weight_map else []
  corruption.refuses(folder, INDEX, *named)


@pytest.mark.parametrize(
  'text', ['', '{', 'null', '[]', '"x"', '\xff', '[' * 200_000]
)
@pytest.mark.parametrize('file', ['config.json', INDEX])
def test_json_that_is_none(
  text: str, file: str, parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(parts, tmp_path)
  (folder / file).write_text(text, encoding='latin-1')
  corruption.refuses(folder, file, 'JSON')


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    ({'hidden_size': '32'}, ["hidden_size='32'", 'integer']),
    ({'hidden_size': 32.0}, ['hidden_size=32.0']),
    ({'hidden_size': True}, ['hidden_size=True']),
    ({'hidden_size': -32}, ['hidden_size=-32']),
    ({'hidden_size': 0}, ['hidden_size=0']),
    ({'hidden_size': [32]}, ['hidden_size=[32]']),
    ({'hidden_size': None}, ["lacks ['hidden_size']"]),
    ({'vocab_size': 2**62}, ['vocab_size=4611686018427387904']),
    ({'num_hidden_layers': 10**9}, ['num_hidden_layers=1000000000', 'tensors']),
    ({'num_hidden_layers': -1}, ['num_hidden_layers=-1']),
    ({'num_attention_heads': 0}, ['num_attention_heads=0']),
    ({'num_attention_heads': {}}, ['num_attention_heads={}']),
    ({'num_key_value_heads': 0}, ['num_key_value_heads=0']),
    ({'num_key_value_heads': 3}, ['num_kv_heads=3', 'num_heads=4']),
    ({'num_key_value_heads': 8}, ['num_kv_heads=8', 'num_heads=4']),
    ({'head_dim': 7}, ['head_dim=7']),
    ({'head_dim': 16}, [f'{QUERY}: shape (32, 32), expected (64, 32)']),
    ({'head_dim': None, 'num_attention_heads': 64}, ['head_dim=0']),
    ({'rms_norm_eps': '1e-6'}, ["rms_norm_eps='1e-6'"]),
    ({'rms_norm_eps': -1e-6}, ['rms_norm_eps=-1e-06']),
    ({'rms_norm_eps': float('nan')}, ['rms_norm_eps=nan']),
    ({'rms_norm_eps': float('inf')}, ['rms_norm_eps=inf']),
    ({'tie_word_embeddings': 'yes'}, ["tie_word_embeddings='yes'"]),
    ({'tie_word_embeddings': False}, ['missing: lm_head.weight']),
    ({'model_type': 7}, ['model_type=7']),
    ({'model_type': ['llama']}, ["model_type=['llama']"]),
    ({'model_type': 'mamba'}, ["model_type='mamba'", 'qwen3']),
    ({'model_type': 'qwen2'}, ['missing', 'q_proj.bias']),
    ({'model_type': 'qwen3'}, ['missing', 'q_norm.weight']),
    ({'model_type': 'gemma3_text'}, ["lacks ['query_pre_attn_scalar'"]),
    ({'quantization_config': {'bits': 4}}, ['quantization_config', "'bits'"]),
    ({'attention_bias': True}, ['attention_bias=True']),
    ({'hidden_act': ['silu']}, ["hidden_act=['silu']"]),
    ({'rope_parameters': 'llama3'}, ["rope_parameters='llama3'"]),
    ({'rope_parameters': LLAMA3 | {'factor': None}}, ['llama3', "['factor']"]),
    ({'rope_parameters': LLAMA3 | {'factor': '8'}}, ["factor='8'"]),
    ({'rope_parameters': LLAMA3 | {'factor': -8}}, ['factor=-8']),
    ({'rope_parameters': LLAMA3 | {'rope_theta': 0}}, ['rope_theta=0']),
    ({'rope_parameters': LLAMA3 | {'rope_type': 3}}, ['rope_type=3']),
    ({'rope_parameters': LLAMA3 | {'rope_type': 'su'}}, ["'su'", 'linear']),
    ({'rope_parameters': LLAMA3 | {'low_freq_factor': 4}}, ['low_freq_factor']),
    ({'rope_theta': 5e5}, ['rope_theta=500000.0', 'rope_parameters']),
    ({'rope_scaling': {'type': 'linear'}}, ['rope_scaling', 'contradicts']),
    (
      {'rope_parameters': {'full_attention': [1], 'sliding_attention': {}}},
      ['full_attention=[1]'],
    ),
    ({'layer_types': ['full_attention']}, ["layer_types=['full_attention']"]),
    ({'layer_types': ['full_attention', 2]}, ["['full_attention', 2]"]),
    ({'layer_types': 'full_attention'}, ["layer_types='full_attention'"]),
    ({'layer_types': ['sliding_attention'] * 2}, ['sliding_window']),
    (
      {'layer_types': ['sliding_attention'] * 2, 'sliding_window': -1},
      ['sliding_window=-1'],
    ),
    (
      {
        'model_type': 'qwen2',
        'use_sliding_window': True,
        'max_window_layers': 0,
      },
      ['sliding_window'],
    ),
    (
      {
        'model_type': 'qwen2',
        'use_sliding_window': True,
        'max_window_layers': 'all',
      },
      ["max_window_layers='all'"],
    ),
  ],
  ids=str,
)
def test_a_config_that_cannot_be(
  fields: dict[str, Any],
  parts: list[str],
  whole: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  file = corruption.copy(whole, tmp_path) / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  misfit = any('missing' in part or 'shape' in part for part in parts)
  corruption.refuses(file.parent, *parts, '' if misfit else 'config.json')
