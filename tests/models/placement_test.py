"""Models that are only read: in which dtype, and where their weights lie."""

import functools
import json
import pathlib
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pipeline
import pytest
import transformers
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from rlcw.evaluation import heldout
from rlcw.models import language_model, weights
from rlcw.models.language_model import Placement
from rlcw.models.weights import param_shardings
from rlcw.rewards import reward_model
from rlcw.rewards.judge import factory
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling import decoding, moving
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Greedy
from tests.tasks.reward_model_test import save_run


def one() -> Any:
  return make_mesh(devices=jax.devices()[:1])


def leaves(params: Any) -> Iterator[tuple[tuple[str, ...], jax.Array]]:
  found: dict[Any, Any] = flatten_dict(params)
  yield from found.items()


def assert_placed(
  model: language_model.LanguageModel, placed: Placement
) -> None:
  """Every weight has its dtype and lies where the table says."""
  assert model.config.dtype == placed.dtype
  assert model.config.attention == placed.attention
  where: dict[Any, Any] = flatten_dict(
    param_shardings(model.config, model.mesh, placed.table)
  )
  for path, leaf in leaves(model.params):
    # norms are computed in float32
    dtype = 'float32' if path[-1] == 'scale' else placed.dtype
    assert leaf.dtype == dtype, path
    assert leaf.sharding.is_equivalent_to(where[path], leaf.ndim), path


@pytest.fixture(scope='module')
def runs(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """Finished runs with train=all and lora, and a second one on the latter."""
  folder = tmp_path_factory.mktemp('runs')
  start = tiny_folder
  for name, train in (('all', 'all'), ('lora', 'lora'), ('again', 'lora')):
    config = pipeline.tiny_config('sft', start, folder)
    config.update({'train': train, 'steps': 1, 'row_tokens': 320})
    if name == 'lora':
      config.learning_rate = 0.3
    with pipeline.one_device():
      pipeline.run('sft', config, folder / name)
    start = tiny_folder if name == 'all' else folder / name
  return folder


@pytest.mark.parametrize('table', ['train', 'decode', 'wide'])
def test_a_folder_is_read_in_its_dtype_onto_its_devices(
  table: str, tiny_folder: pathlib.Path
) -> None:
  placed, mesh = Placement('bfloat16', 'xla', table), make_mesh(2, 2, 2)
  model = language_model.load(tiny_folder, mesh, placed)
  assert_placed(model, placed)
  plain = language_model.load(tiny_folder, one())
  for (_, half), (_, whole) in zip(
    leaves(model.params), leaves(plain.params), strict=True
  ):
    rounded = np.asarray(whole).astype(half.dtype)
    np.testing.assert_array_equal(np.asarray(half), rounded)


@pytest.mark.slow
def test_what_a_run_trained_is_read_so_too(
  runs: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  placed, mesh = Placement('bfloat16', 'auto', 'decode'), make_mesh(1, 4, 2)
  for name in ('lora', 'again'):
    merged = language_model.load(runs / name, mesh, placed)
    assert_placed(merged, placed)
    assert merged.config.lora is None
    apart = language_model.load(runs / name, mesh, placed, merge=False)
    assert_placed(apart, placed)
    assert apart.config.lora is not None and apart.source == str(runs / name)
  # the first run's adapters are in the kernels that the second one adapts
  (_, first), (_, second) = (
    next(x for x in leaves(m.params) if x[0][-2:] == ('query', 'kernel'))
    for m in (language_model.load(runs / 'lora', mesh, placed), apart)
  )
  np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
  # in float32 nothing is lost by merging
  single = language_model.load(runs / 'lora', one(), merge=False)
  assert single.config.lora is None
  # where a run trained all weights, the first ones are not read
  monkeypatch.setattr(weights, 'load', None)
  trained = language_model.load(runs / 'all', mesh, placed)
  assert_placed(trained, placed)


def test_settings_of_a_task_come_before_those_of_the_run(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'checkpoints').mkdir()
  run = {'task': 'grpo', 'model': str(tiny_folder), 'rollout_table': 'wide'}
  run |= {'compute_dtype': 'bfloat16', 'attention': 'xla'}
  files.write_json(tmp_path / 'config.json', run)
  config = ConfigDict(pipeline.shipped('generate'))
  found = language_model.placement(config, tmp_path)
  assert found == Placement('bfloat16', 'xla', 'wide')
  assert language_model.placement(config, tiny_folder).table == 'decode'
  config.update({'compute_dtype': 'float32', 'rollout_table': 'train'})
  found = language_model.placement(config, tmp_path)
  assert found == Placement('float32', 'xla', 'train')
  # scoring samples nothing; and an older config has none of the settings
  for config in (pipeline.shipped('score'), ConfigDict({'task': 'score'})):
    found = language_model.placement(config, tmp_path)
    assert found == Placement('bfloat16', 'xla', 'train')
  trained = ConfigDict(run)
  config = pipeline.shipped('evaluate')
  found = heldout.computed_as(config, trained)
  assert (found.compute_dtype, found.rollout_table) == ('bfloat16', 'wide')
  assert found.offload is False and 'offload' not in trained
  config.compute_dtype = 'float32'
  assert heldout.computed_as(config, trained).compute_dtype == 'float32'


def test_a_judge_and_a_reward_model_follow_the_policy(
  tiny_folder: pathlib.Path,
  make_judge: Callable[[str], pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:
  placed = Placement('bfloat16', 'xla')
  base = language_model.load(tiny_folder, make_mesh(1, 4, 2), placed)
  settings = ConfigDict(factory.judge_settings())
  settings.model = str(make_judge('llama3'))
  judge: Any = factory.make_judge(settings, base.mesh, base)
  assert_placed(judge.model, placed)
  waiting: Any = factory.make_judge(settings, base.mesh, base, offload=True)
  kinds = {x.sharding.memory_kind for _, x in leaves(waiting.model.params)}
  assert kinds == {'pinned_host'}
  alone: Any = factory.make_judge(settings, base.mesh, placed=placed)
  assert_placed(alone.model, placed)
  save_run(tmp_path, settings.model, 32)
  reward = reward_model.load(str(tmp_path), base)
  assert_placed(reward.decoder, placed)
  alone = reward_model.load_alone(str(tmp_path), base.mesh, placed)
  assert_placed(alone.decoder, placed)


def test_weights_that_are_sampled_from_are_in_memory_once(
  tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  config, params = tiny
  mesh = make_mesh(1, 4, 2)
  shardings = param_shardings(config, mesh, 'decode')
  own = moving.Weights(jax.device_put(params, shardings), config.dtype)
  shape = params['blocks']['gate']['kernel'].shape
  alive = []

  def count(program: Any, *args: Any, **more: Any) -> Any:
    live = [a for a in jax.live_arrays() if not a.is_deleted()]
    alive.append(
      (
        sum(a.shape == shape for a in live),
        sum(a.shape == shape[1:] for a in live) // config.num_layers,
      )
    )
    return program(*args, **more)

  rest = jax.live_arrays()  # of other tests: they are not deleted meanwhile
  before = sum(a.shape == shape for a in rest)
  for name in ('start', 'decode'):
    program = functools.partial(count, getattr(decoding, name))
    monkeypatch.setattr(f'rlcw.sampling.rollout.{name}', program)
  prompt_PxL = np.arange(2, 34, dtype=np.int32).reshape(4, 8)
  inputs = prompt_PxL, np.full(4, 8), np.arange(4), Greedy(), 0, 0

  def replies(weights: Any) -> np.ndarray:
    with jax.set_mesh(mesh):
      rollout = sample(
        weights,
        *inputs,
        config=config,
        group_size=1,
        max_new_tokens=4,
        eos=(1,),
      )
    return np.asarray(rollout.token)

  first, again = replies(own), replies(own)
  # gate and up have one shape
  assert alive == [(before, 0), (before - 2, 2)] * 2
  np.testing.assert_array_equal(first, again)
  copied = jax.device_put(params, shardings)
  np.testing.assert_array_equal(first, replies(copied))
  restored = own.stacked()
  for (path, ours), (_, theirs) in zip(
    leaves(restored), leaves(params), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(ours), theirs, str(path))


def test_an_export_has_one_file_in_memory_at_a_time(
  make_llama: Callable[..., Any],
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  llama = make_llama(hidden_size=128, intermediate_size=512)
  shutil.copytree(tiny_folder, tmp_path / 'in')
  llama.save_pretrained(tmp_path / 'in')
  mesh = make_mesh(1, 4, 2)
  model = language_model.load(tmp_path / 'in', mesh)
  most = 300_000
  size = sum(leaf.nbytes for _, leaf in leaves(model.params))
  out = tmp_path / 'out'
  out.mkdir()
  weights.save(model.config, model.params, out, 'float32', most)  # compiles
  tracemalloc.start()
  weights.save(model.config, model.params, out, 'float32', most)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  # a file, and a tensor on its way
  assert peak < 2 * most < size / 2
  parts = sorted(out.glob('*.safetensors'))
  assert len(parts) >= 4
  assert all(part.stat().st_size < most + 4096 for part in parts)
  index = json.loads((out / 'model.safetensors.index.json').read_text())
  assert index['metadata']['total_size'] == size
  found = {name: part.name for part in parts for name in load_file(part)}
  assert index['weight_map'] == found
  header = (tmp_path / 'in' / 'config.json').read_text()
  (out / 'config.json').write_text(header)
  again = transformers.AutoModelForCausalLM.from_pretrained(out)
  for name, tensor in llama.state_dict().items():
    assert (again.state_dict()[name] == tensor).all(), name
