"""Whatever is done to a header: a clear error or a model, and soon."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import corruption
import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlcw.models import weights


def _damages(end: int) -> st.SearchStrategy[list[tuple[int, int, bytes]]]:
  """Some places, how many bytes go there, and which ones come instead."""
  extremes = [
    (value % 2 ** (8 * width)).to_bytes(width, 'little')
    for value in (-1, 0, 1, 2**31, 2**60, 2**63)
    for width in (4, 8)
  ]
  place = st.integers(0, end - 1)
  replaced = st.binary(min_size=1, max_size=8) | st.sampled_from(extremes)
  one = st.one_of(
    st.tuples(place, st.just(1), st.binary(min_size=1, max_size=1)),
    replaced.flatmap(lambda b: st.tuples(place, st.just(len(b)), st.just(b))),
    st.tuples(place, st.just(0), st.binary(min_size=1, max_size=8)),
    st.tuples(place, st.integers(1, 8), st.just(b'')),
  )
  return st.lists(one, min_size=1, max_size=3)


_FUZZ = settings(
  max_examples=75,
  derandomize=True,
  suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _loads_or_refuses(path: pathlib.Path) -> None:
  with corruption.bounded():
    try:
      weights.load(path)
    except (ValueError, FileNotFoundError) as error:
      assert str(path) in str(error)


@_FUZZ
@given(data=st.data())
def test_any_damage_to_a_gguf_header(
  gguf_file: pathlib.Path, data: st.DataObject
) -> None:
  content = gguf_file.read_bytes()
  end = gguf.GGUFReader(gguf_file).data_offset
  file = gguf_file.with_name('damaged.gguf')
  file.write_bytes(corruption.damaged(content, data.draw(_damages(end))))
  _loads_or_refuses(file)


@pytest.fixture(scope='module')
def fuzzed(
  whole: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A folder to be damaged over and over."""
  return corruption.copy(whole, tmp_path_factory.mktemp('fuzzed'))


@_FUZZ
@given(data=st.data())
def test_any_damage_to_a_safetensors_header(
  whole: pathlib.Path, fuzzed: pathlib.Path, data: st.DataObject
) -> None:
  content = (whole / 'model.safetensors').read_bytes()
  end = 8 + int.from_bytes(content[:8], 'little')
  file = fuzzed / 'model.safetensors'
  file.write_bytes(corruption.damaged(content, data.draw(_damages(end))))
  _loads_or_refuses(fuzzed)


_JSON = st.recursive(
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
      st.sampled_from(
        [*corruption.LLAMA3, 'full_attention', 'sliding_attention', 'x']
      ),
      inner,
      max_size=4,
    )
  ),
  max_leaves=6,
)


@_FUZZ
@given(data=st.data())
@pytest.mark.parametrize(
  'family',
  [
    'gemma3',
    pytest.param('llama3', marks=pytest.mark.slow),
    pytest.param('qwen2-window', marks=pytest.mark.slow),
  ],
)
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
  new = data.draw(st.dictionaries(fields, _JSON, min_size=1, max_size=3))
  (folder / 'config.json').write_text(json.dumps(config | new))
  _loads_or_refuses(folder)
