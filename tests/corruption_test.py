"""Damaged checkpoints end in one error that names the file and the fault."""

import ast
import contextlib
import json
import pathlib
import pickle
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import checkpoints
import gguf
import numpy as np
import pytest
import torch
from gguf import GGUFValue, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlcw import weights

ROOT = pathlib.Path(__file__).resolve().parents[1]
INDEX = 'model.safetensors.index.json'
QUERY = 'model.layers.1.self_attn.q_proj.weight'
UP = 'model.layers.0.mlp.up_proj.weight'
EMBED = 'model.embed_tokens.weight'
Edit = Callable[[pathlib.Path], None]


@pytest.fixture(scope='module')
def whole(
  make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """An undamaged folder of one file."""
  folder = tmp_path_factory.mktemp('whole')
  make_model('llama3').save_pretrained(folder)
  return folder


@pytest.fixture(scope='module')
def parts(
  make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """An undamaged folder of several files and an index."""
  folder = tmp_path_factory.mktemp('parts')
  make_model('llama3').save_pretrained(folder, max_shard_size='20KB')
  return folder


def _refuses(path: pathlib.Path, *parts: str) -> None:
  """Loading ends in an error that names the path and all of the parts."""
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    weights.load(path)
  for part in (str(path), *parts):
    assert part in str(error.value)


def _copy(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
  return pathlib.Path(shutil.copytree(folder, to / 'copy'))


class _Touch:
  """Pickled, it makes a file when it is unpickled."""

  def __init__(self, path: pathlib.Path):
    self.path = path

  def __reduce__(self) -> Any:
    return pathlib.Path.touch, (self.path,)


def test_a_pickle_is_named_and_left_alone(
  whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder, mark = _copy(whole, tmp_path), tmp_path / 'unpickled'
  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(_Touch(mark)))
  weights.load(folder)
  (folder / 'model.safetensors').unlink()
  _refuses(folder, 'safetensors', 'pytorch_model.bin', 'unpickled')
  _refuses(folder / 'pytorch_model.bin', 'GGUF')
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
  file = _copy(whole, tmp_path) / 'model.safetensors'
  content = file.read_bytes()
  file.write_bytes(content[: int(share * len(content))])
  _refuses(file.parent, 'model.safetensors is damaged')


@pytest.mark.parametrize('length', [0, 1, 2**24, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_a_length_it_cannot_have(
  length: int, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = _copy(whole, tmp_path) / 'model.safetensors'
  file.write_bytes(length.to_bytes(8, 'little') + file.read_bytes()[8:])
  _refuses(file.parent, 'model.safetensors is damaged')


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


@pytest.mark.parametrize(
  ('edit', 'parts'),
  [
    (_rename, [f'missing: {QUERY}', 'unknown: model.layers.1.self_attn.query']),
    (_transpose, [f'{UP}: shape (32, 64) where (64, 32) is expected']),
    (_flatten, [f'{EMBED}: shape (9600,) where (300, 32) is expected']),
    (_spare, ['unknown: model.layers.2.mlp.up_proj.weight']),
    (_untie, ['tie_word_embeddings', 'lm_head.weight', EMBED]),
    (_cast(torch.int8), [f'{UP}: I8 where', 'F32', 'F16', 'BF16']),
    (_cast(torch.float64), [f'{UP}: F64 where']),
    (_cast(torch.float8_e4m3fn), [f'{UP}: F8_E4M3 where']),
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
    'empty',
  ],
)
def test_tensors_that_do_not_fit(
  edit: Callable[[dict[str, torch.Tensor]], None],
  parts: list[str],
  whole: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  folder = _copy(whole, tmp_path)
  tensors = load_file(folder / 'model.safetensors')
  edit(tensors)
  save_file(tensors, folder / 'model.safetensors')
  _refuses(folder, *parts)


def _edit_index(folder: pathlib.Path, edit: Callable[[dict], None]) -> None:
  index = json.loads((folder / INDEX).read_text())
  edit(index)
  (folder / INDEX).write_text(json.dumps(index))


def _shard_of(folder: pathlib.Path, name: str) -> str:
  return json.loads((folder / INDEX).read_text())['weight_map'][name]


def test_a_shard_that_is_not_there(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = _copy(parts, tmp_path)
  lost = _shard_of(folder, QUERY)
  (folder / lost).unlink()
  _refuses(folder, lost, INDEX)


def test_an_index_that_names_a_tensor_its_file_lacks(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = _copy(parts, tmp_path)
  file = _shard_of(folder, QUERY)
  tensors = load_file(folder / file)
  del tensors[QUERY]
  save_file(tensors, folder / file)
  _refuses(folder, QUERY, file, INDEX)


def test_an_index_that_names_another_file(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = _copy(parts, tmp_path)
  other = _shard_of(folder, EMBED)
  assert other != _shard_of(folder, QUERY)
  _edit_index(folder, lambda index: index['weight_map'].update({QUERY: other}))
  _refuses(folder, QUERY, other, INDEX)


def test_a_tensor_in_two_files(
  parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = _copy(parts, tmp_path)
  one, other = _shard_of(folder, QUERY), _shard_of(folder, EMBED)
  tensors = load_file(folder / other)
  tensors[QUERY] = load_file(folder / one)[QUERY]
  save_file(tensors, folder / other)
  _refuses(folder, QUERY, one, other)


@pytest.mark.parametrize(
  'weight_map',
  [None, [], {}, 'x', {EMBED: 3}, {EMBED: ['x']}, {EMBED: '../x'}, {EMBED: ''}],
)
def test_an_index_that_is_none(
  weight_map: Any, parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = _copy(parts, tmp_path)
  _edit_index(folder, lambda index: index.update(weight_map=weight_map))
  named = [EMBED] if isinstance(weight_map, dict) and weight_map else []
  _refuses(folder, INDEX, *named)


@pytest.mark.parametrize(
  'text', ['', '{', 'null', '[]', '"x"', '\xff', '[' * 200_000]
)
@pytest.mark.parametrize('file', ['config.json', INDEX])
def test_json_that_is_none(
  text: str, file: str, parts: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = _copy(parts, tmp_path)
  (folder / file).write_text(text, encoding='latin-1')
  _refuses(folder, file, 'JSON')


LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8,
  'rope_theta': 1e4,
}


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    ({'hidden_size': '32'}, ["hidden_size='32'", 'whole number']),
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
    ({'head_dim': 16}, [f'{QUERY}: shape (32, 32) where (64, 32)']),
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
    ({'rope_parameters': LLAMA3 | {'rope_type': 'yarn'}}, ["'yarn'", 'linear']),
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
  file = _copy(whole, tmp_path) / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | fields))
  misfit = any('missing' in part or 'shape' in part for part in parts)
  _refuses(file.parent, *parts, '' if misfit else 'config.json')


GgufEdit = Callable[[gguf.GGUFWriter, checkpoints.Tensors], None]


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
      ['blk.1.ffn_up.weight: shape (63, 32) where (64, 32) is expected'],
    ),
    (
      _tensor('blk.1.ffn_up.weight', lambda a: a.T),
      ['blk.1.ffn_up.weight: shape (32, 64) where (64, 32) is expected'],
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
    (_blocks(2**32 - 1), ['num_hidden_layers=4294967295', 'tensors']),
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
  _refuses(_llama3_gguf(make_model, tmp_path / 'x.gguf', edit), *parts)


def _llama3_gguf(
  make_model: Callable[..., Any], path: pathlib.Path, edit: GgufEdit
) -> pathlib.Path:
  rope = LLAMA3 | {
    'rope_theta': 5e5,
    'original_max_position_embeddings': 8192,
  }
  theirs = make_model(
    'llama3', rope_parameters=rope, max_position_embeddings=2**17
  )
  return checkpoints.write_gguf(path, theirs, edit)


def _damaged(content: bytes, damages: list[tuple[int, int, bytes]]) -> bytes:
  for at, gone, new in damages:
    content = content[:at] + new + content[at + gone :]
  return content


class _Hang(BaseException):
  """Beyond the reach of an `except Exception`."""


@contextlib.contextmanager
def _bounded(seconds: float = 3.0, megabytes: int = 300) -> Iterator[None]:
  """Fails what takes longer on the processor, or much more memory."""

  def stop(*_: Any) -> NoReturn:
    raise _Hang(f'longer than {seconds} s')

  def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

  before, handler = peak(), signal.signal(signal.SIGPROF, stop)
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, handler)
  assert peak() - before < megabytes


@pytest.fixture(scope='module', params=['llama3', 'gemma3'])
def gguf_file(
  request: pytest.FixtureRequest,
  make_model: Callable[..., Any],
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  def arrays(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.add_token_list(['a', 'b', 'c'])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_array('tokenizer.ggml.bytes', b'abc')

  path = tmp_path_factory.mktemp('gguf') / 'x.gguf'
  if request.param == 'llama3':
    path = _llama3_gguf(make_model, path, arrays)
  else:
    checkpoints.write_gguf(path, make_model('gemma3'), arrays)
  weights.load(path)
  return path


@pytest.mark.parametrize('share', [0.0, 0.0001, 0.01, 0.03, 0.5, 0.9999])
def test_a_truncated_gguf_file(
  share: float, gguf_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  content = gguf_file.read_bytes()
  (tmp_path / 'y.gguf').write_bytes(content[: int(share * len(content))])
  _refuses(tmp_path / 'y.gguf', 'not a whole GGUF file')


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
  file.write_bytes(_damaged(content, [(at, len(new), new)]))
  with _bounded():
    _refuses(file, 'not a whole GGUF file')


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
  file.write_bytes(_damaged(content, [(at, 8, new)]))
  with _bounded():
    _refuses(file, 'not a whole GGUF file')


def _damages(end: int) -> st.SearchStrategy[list[tuple[int, int, bytes]]]:
  """Some places, how many bytes go there, and which ones come instead."""
  extremes = [
    (value % 2 ** (8 * width)).to_bytes(width, 'little')
    for value in (-1, 0, 1, 2**31, 2**60, 2**63)
    for width in (4, 8)
  ]
  place = st.integers(0, end - 1)
  replaced = st.binary(min_size=1, max_size=8) | st.sampled_from(extremes)
  damage = st.one_of(
    st.tuples(place, st.just(1), st.binary(min_size=1, max_size=1)),
    replaced.flatmap(lambda b: st.tuples(place, st.just(len(b)), st.just(b))),
    st.tuples(place, st.just(0), st.binary(min_size=1, max_size=8)),
    st.tuples(place, st.integers(1, 8), st.just(b'')),
  )
  return st.lists(damage, min_size=1, max_size=3)


FUZZ = settings(
  max_examples=150,
  deadline=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _loads_or_refuses(path: pathlib.Path) -> None:
  with _bounded():
    try:
      weights.load(path)
    except (ValueError, FileNotFoundError) as error:
      assert str(path) in str(error)


@FUZZ
@given(data=st.data())
def test_any_damage_to_a_gguf_header(
  gguf_file: pathlib.Path, data: st.DataObject
) -> None:
  content = gguf_file.read_bytes()
  end = gguf.GGUFReader(gguf_file).data_offset
  damaged = gguf_file.with_name('damaged.gguf')
  damaged.write_bytes(_damaged(content, data.draw(_damages(end))))
  _loads_or_refuses(damaged)


@pytest.fixture(scope='module')
def fuzzed(
  whole: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A folder to be damaged over and over."""
  return _copy(whole, tmp_path_factory.mktemp('fuzzed'))


@FUZZ
@given(data=st.data())
def test_any_damage_to_a_safetensors_header(
  whole: pathlib.Path, fuzzed: pathlib.Path, data: st.DataObject
) -> None:
  content = (whole / 'model.safetensors').read_bytes()
  end = 8 + int.from_bytes(content[:8], 'little')
  file = fuzzed / 'model.safetensors'
  file.write_bytes(_damaged(content, data.draw(_damages(end))))
  _loads_or_refuses(fuzzed)


JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-(2**70), 2**70)
  | st.integers(-2, 64)
  | st.floats()
  | st.sampled_from(
    ['llama', 'qwen2', 'qwen3', 'gemma3_text', 'linear', 'llama3', 'default']
  )
  | st.text(max_size=8),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from([*LLAMA3, 'full_attention', 'sliding_attention', 'x']),
      inner,
      max_size=4,
    )
  ),
  max_leaves=6,
)


@FUZZ
@given(data=st.data())
@pytest.mark.parametrize('family', ['llama3', 'qwen2-window', 'gemma3'])
def test_any_value_in_any_field_of_a_config(
  family: str,
  make_model: Callable[..., Any],
  tmp_path_factory: pytest.TempPathFactory,
  data: st.DataObject,
) -> None:
  folder = tmp_path_factory.getbasetemp() / f'config-{family}'
  if not folder.exists():
    make_model(family).save_pretrained(folder)
    shutil.copy(folder / 'config.json', folder / 'whole.json')
  config = json.loads((folder / 'whole.json').read_text())
  legacy = ['rope_theta', 'rope_scaling', 'rope_local_base_freq']
  fields = st.sampled_from(sorted([*config, *legacy]))
  new = data.draw(st.dictionaries(fields, JSON, min_size=1, max_size=3))
  (folder / 'config.json').write_text(json.dumps(config | new))
  _loads_or_refuses(folder)
