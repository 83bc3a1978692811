"""bfloat16: what it changes in a GRPO run, and what stays float32."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from pipeline import run, tiny_config

from rlcw import train
from rlcw.data import datasets
from rlcw.models import weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import as_dtype
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import programs, roofline


def letters(briefs: Any, replies: Any) -> np.ndarray:
  """A reward that needs no model."""
  del briefs
  return np.array([[float(len(set(r))) for r in group] for group in replies])


def settings(folder: pathlib.Path, dtype: str) -> ConfigDict:
  config = tiny_config('grpo', folder, folder)
  config.writing = 'tests.models.dtype_test:letters'
  config.steps = 2
  config.compute_dtype = config.moment_dtype = dtype
  return config


@pytest.fixture(scope='module')
def steps(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
  """For each dtype the told steps, the state, and an update's arrays."""
  found = {}
  original = train.make_update
  for dtype in weights.DTYPES:
    seen: dict[str, Any] = {}

    def spy(*args: Any, seen: dict[str, Any] = seen) -> Any:
      update = original(*args)

      def watched(state: Any, parts: Any, *rest: Any) -> Any:
        seen['arrays'] = jax.tree.map(
          lambda a: (a.shape, a.dtype.name, a.sharding.spec), parts[0].arrays
        )
        state, told = update(state, parts, *rest)
        seen.update(state=state, told=told)
        return state, told

      return watched

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(train, 'make_update', spy)
      workdir = tmp_path_factory.mktemp(dtype)
      run('grpo', settings(tiny_folder, dtype), workdir)
    seen['rows'] = datasets.read_jsonl(workdir / 'metrics.jsonl')
    found[dtype] = seen
  return found


@pytest.mark.slow
def test_a_run_in_bfloat16_is_like_one_in_float32(
  steps: dict[str, Any],
) -> None:
  first, other = (steps[dtype]['rows'][0] for dtype in weights.DTYPES)
  assert other['entropy'] == pytest.approx(first['entropy'], abs=0.1)
  assert other['bad_steps'] == 0
  assert other['entropy'] != first['entropy']
  # what sampled and what learns round to bfloat16 in other places
  assert first['sampler_gap'] < 1e-5
  assert other['sampler_gap'] < 2e-3


@pytest.mark.slow
def test_the_loss_of_the_same_replies_is_nearly_the_same() -> None:
  from tests import train_test

  params = train_test.make_params(train_test.single())
  (part,) = train_test.make_parts(train_test.single())
  found = []
  for dtype in weights.DTYPES:
    config = dataclasses.replace(train_test.CONFIG, dtype=dtype)
    loss = objective.make_loss(config, train_test.SETTINGS)(params, {}, part)
    found.append(loss['loss'].numerator / loss['loss'].denominator)
    assert loss['loss'].numerator.dtype == jnp.float32
  assert found[0] != found[1]
  assert float(found[1]) == pytest.approx(float(found[0]), abs=0.01)


@pytest.mark.slow
def test_losses_and_master_weights_stay_float32(steps: dict[str, Any]) -> None:
  told, state = steps['bfloat16']['told'], steps['bfloat16']['state']
  assert {told[name].dtype.name for name in ('loss', 'kl', 'grad_norm')} == {
    'float32'
  }
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(state.params)}
  assert dtypes == {'float32'}
  moments = state.opt_state[1][0]
  assert {m.dtype.name for m in jax.tree.leaves(moments.mu)} == {'bfloat16'}
  assert {m.dtype.name for m in jax.tree.leaves(moments.nu)} == {'float32'}


@pytest.mark.slow
def test_a_plan_has_the_arrays_that_training_has(
  steps: dict[str, Any], tiny_folder: pathlib.Path
) -> None:
  from rlcw.tasks.plan.run import make_plan

  config = settings(tiny_folder, 'bfloat16')
  arrays = steps['bfloat16']['arrays']
  (_, length), _, _ = arrays['prompt']
  config.plan.prompt_tokens = length
  planned = make_plan(config, make_mesh(**config.mesh))
  assert planned.reward is None  # nothing of a model scores
  expected = jax.tree.map(
    lambda a: (a.shape, a.dtype.name, a.sharding.spec),
    programs.batch(planned, config.microbatch_groups),
  )
  assert arrays == expected
  state = steps['bfloat16']['state']
  for name, tree in (
    ('parameters', state.params),
    ('optimiser', state.opt_state),
  ):
    assert jax.tree.map(
      lambda a: (a.shape, a.dtype, a.sharding), planned.resident[name]
    ) == jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), tree)


def test_norms_keep_their_dtype(tiny: Any) -> None:
  _, params = tiny
  cast = as_dtype(params, 'bfloat16')
  assert cast['final_norm']['scale'].dtype == np.float32
  assert cast['embed'].dtype == jnp.bfloat16
  assert cast['blocks']['gate']['kernel'].dtype == jnp.bfloat16


def test_a_cache_in_bfloat16_is_half_as_large() -> None:
  config = ModelConfig(8, 4, 4, 1, 1, 1, 2)
  half = dataclasses.replace(config, dtype='bfloat16')
  shapes = roofline.Shapes(1, 2, 3, 4)
  whole = roofline.cache_bytes(config, shapes)
  assert 2 * roofline.cache_bytes(half, shapes) == whole
