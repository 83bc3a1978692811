"""Adapters: what they compute, how they are merged, and what they train."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from padded import forward_replies

from rlcw import train
from rlcw.models import lora
from rlcw.models.config import PROJECTIONS, LoraConfig, ModelConfig
from rlcw.models.decoder import Params
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.grpo import objective
from tests.train_test import (
  CONFIG,
  SETTINGS,
  assert_close,
  make_arrays,
  make_params,
  make_parts,
)

LORA = LoraConfig(rank=3, alpha=6.0, targets=PROJECTIONS)
ADAPTED = dataclasses.replace(CONFIG, lora=LORA)


def single() -> Any:
  return make_mesh(devices=jax.devices()[:1])


def make_adapters(mesh: Any, config: ModelConfig = ADAPTED) -> Params:
  """Adapters that do change something, the same on every mesh."""
  adapters, _ = lora.split(config, make_params(mesh), mesh, seed=0)
  rng = np.random.default_rng(3)
  return jax.tree.map(
    lambda a: jax.device_put(
      rng.normal(0, 0.1, a.shape).astype('float32'), a.sharding
    ),
    adapters,
  )


def read(config: ModelConfig, params: Params) -> np.ndarray:
  arrays = make_arrays(single())
  tokens = arrays['rollout'].token
  reading, _ = jax.jit(forward_replies, static_argnums=0)(
    config, params, arrays['prompt'], arrays['length'], tokens
  )
  return np.asarray(reading)


def test_new_adapters_change_nothing() -> None:
  base = make_params(single())
  adapters, frozen = lora.split(ADAPTED, base, single(), seed=0)
  assert len(jax.tree.leaves(adapters)) == 2 * len(PROJECTIONS)
  a_LxRxI = np.asarray(adapters['blocks']['query']['lora_a'])
  bound = CONFIG.model_dim**-0.5  # as peft draws them
  assert 0.9 * bound < np.abs(a_LxRxI).max() <= bound
  assert not np.array_equal(a_LxRxI[0], a_LxRxI[1])
  whole = lora.join(adapters, frozen)
  np.testing.assert_array_equal(read(ADAPTED, whole), read(CONFIG, base))


def test_merged_equals_beside() -> None:
  base, adapters = make_params(single()), make_adapters(single())
  beside = lora.join(adapters, base)
  merged = lora.merge(ADAPTED, beside)
  assert jax.tree.structure(merged) == jax.tree.structure(base)
  ours, theirs = read(ADAPTED, beside), read(CONFIG, merged)
  assert np.abs(theirs - read(CONFIG, base)).max() > 0.1
  np.testing.assert_allclose(ours, theirs, atol=4e-5)


def test_replies_are_sampled_from_merged_kernels_where_none_is_rounded() -> (
  None
):
  base, adapters = make_params(single()), make_adapters(single())
  beside = lora.join(adapters, base)
  assert lora.rollout_config(ADAPTED) == CONFIG
  merged = lora.rollout_params(ADAPTED, beside)
  np.testing.assert_allclose(
    read(ADAPTED, beside), read(CONFIG, merged), atol=4e-5
  )
  half = dataclasses.replace(ADAPTED, dtype='bfloat16')
  assert lora.rollout_config(half) == half
  assert lora.rollout_params(half, beside) is beside


def test_one_kernel_by_hand() -> None:
  """`W + (alpha / rank) · B A` with alpha 6, rank 1."""
  config = dataclasses.replace(
    CONFIG, num_layers=1, lora=LoraConfig(1, 6.0, ('up',))
  )
  kernel = np.ones((1, 2, 3), np.float32)
  params = {
    'blocks': {
      'up': {
        'kernel': jnp.asarray(kernel),
        'lora_a': jnp.array([[[1.0, 0.0, 2.0]]]),
        'lora_b': jnp.array([[[0.5], [0.0]]]),
      }
    }
  }
  merged = lora.merge(config, params)['blocks']['up']['kernel']
  np.testing.assert_allclose(merged, [[[4.0, 1.0, 7.0], [1.0, 1.0, 1.0]]])


@pytest.mark.slow
def test_the_gradient_is_that_of_the_merged_kernel() -> None:
  """`dB = s · dW Aᵀ` and `dA = s · Bᵀ dW`."""
  base, adapters = make_params(single()), make_adapters(single())
  (part,) = make_parts(single())

  def loss(config: ModelConfig, params: Params) -> jax.Array:
    terms = objective.make_loss(config, SETTINGS)(params, {}, part)
    return terms['loss'].numerator

  beside = jax.jit(jax.grad(lambda a: loss(ADAPTED, lora.join(a, base))))(
    adapters
  )
  merged = lora.merge(ADAPTED, lora.join(adapters, base))
  whole = jax.jit(jax.grad(lambda p: loss(CONFIG, p)))(merged)
  scale = LORA.alpha / LORA.rank
  for name in PROJECTIONS:
    dw_LxOxI = whole['blocks'][name]['kernel']
    a_LxRxI = adapters['blocks'][name]['lora_a']
    b_LxOxR = adapters['blocks'][name]['lora_b']
    da = scale * jnp.einsum('lor,loi->lri', b_LxOxR, dw_LxOxI)
    db = scale * jnp.einsum('loi,lri->lor', dw_LxOxI, a_LxRxI)
    ours = beside['blocks'][name]
    np.testing.assert_allclose(ours['lora_a'], da, atol=2e-4, rtol=1e-3)
    np.testing.assert_allclose(ours['lora_b'], db, atol=2e-4, rtol=1e-3)


def one_step(mesh: Any) -> tuple[train.TrainState, dict[str, float]]:
  optimizer = optax.sgd(0.1)
  state = train.init_state(make_adapters(mesh), optimizer, mesh)
  loss_fn = objective.make_loss(ADAPTED, SETTINGS)
  update = train.make_update(loss_fn, optimizer, state)
  with jax.set_mesh(mesh):
    state, told = update(state, make_parts(mesh), make_params(mesh))
  return state, {name: float(value) for name, value in told.items()}


@pytest.mark.slow
def test_eight_devices_equal_one() -> None:
  alone, told = one_step(single())
  spread, told_spread = one_step(make_mesh(2, 2, 2))
  assert_close(alone.params, spread.params, 2e-6)
  np.testing.assert_allclose(told['loss'], told_spread['loss'], rtol=1e-4)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (
      {'train': 'some'},
      r"train='some' is unknown; expected one of \('all', 'lora'\)",
    ),
    (
      {'targets': ('query', 'q_proj')},
      r"\['q_proj'\].*expected one or more of",
    ),
    ({'targets': ()}, 'nothing to adapt'),
    ({'rank': 0}, 'rank=0 must be at least 1'),
  ],
)
def test_settings_that_make_no_sense(
  settings: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  adapters = {'rank': 2, 'alpha': 4.0, 'targets': ('query',)}
  adapters |= {k: v for k, v in settings.items() if k != 'train'}
  config = ConfigDict({'train': settings.get('train', 'lora')})
  config.lora = adapters
  with pytest.raises(ValueError, match=message):
    lora.configure(CONFIG, config)
