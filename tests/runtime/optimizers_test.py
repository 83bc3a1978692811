"""Learning rates by hand, and which weights decay by how much."""

import dataclasses
import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from rlcw.models import lora
from rlcw.models.config import LoraConfig, ModelConfig
from rlcw.models.weights import abstract_params
from rlcw.runtime import console, optimizers
from rlcw.runtime.configs import load
from rlcw.runtime.mesh import make_mesh

MODEL = ModelConfig(
  vocab_size=8,
  model_dim=4,
  mlp_dim=6,
  num_layers=3,
  num_heads=2,
  num_kv_heads=1,
  head_dim=2,
  qkv_bias=True,
  tied_head=False,
)


def settings(**changes: Any) -> ConfigDict:
  shared = optimizers.optimizer_settings(learning_rate=0.4, warmup_steps=3)
  return ConfigDict(shared | changes)


# --- The learning rate ------------------------------------------------------


# Of 11 updates, 3 of them warm-up: a quarter, a half, three quarters, all.
@pytest.mark.parametrize(
  ('schedule', 'final', 'rates'),
  [
    ('constant', 0.0, {0: 0.1, 1: 0.2, 3: 0.4, 7: 0.4, 10: 0.4}),
    ('linear', 0.0, {0: 0.1, 2: 0.3, 3: 0.4, 7: 0.2, 10: 0.05, 11: 0.0}),
    ('linear', 0.5, {0: 0.1, 3: 0.4, 7: 0.3, 11: 0.2, 99: 0.2}),
    ('cosine', 0.0, {0: 0.1, 3: 0.4, 5: 0.2 + 0.2 * math.sqrt(0.5), 7: 0.2}),
    ('cosine', 0.1, {0: 0.1, 3: 0.4, 7: 0.22, 11: 0.04, 99: 0.04}),
  ],
)
def test_rates_by_hand(
  schedule: str, final: float, rates: dict[int, float]
) -> None:
  rate = optimizers.rate_of(
    settings(schedule=schedule, final_ratio=final), updates=11
  )
  for update, expected in rates.items():
    assert float(rate(update)) == pytest.approx(expected, abs=1e-7), update


@hypothesis.settings(max_examples=50)
@hypothesis.given(
  schedule=st.sampled_from(optimizers.SCHEDULES),
  final=st.floats(0, 1),
  warmup=st.integers(0, 12),
  updates=st.integers(1, 20),
)
def test_a_rate_rises_in_the_warm_up_and_falls_after_it(
  schedule: str, final: float, warmup: int, updates: int
) -> None:
  rate = optimizers.make_rate(
    1.0, warmup, schedule=schedule, final_ratio=final, updates=updates
  )
  rates = np.array([float(rate(n)) for n in range(updates)])
  assert (rates > 0).all() and (rates <= 1 + 1e-6).all()
  assert (np.diff(rates[: warmup + 1]) > 0).all()
  assert (np.diff(rates[warmup:]) <= 1e-6).all()
  if updates > warmup:
    assert rates[warmup] == pytest.approx(1)
    assert rates[-1] >= final - 1e-6


def test_a_warm_up_that_never_ends_is_noted(
  capsys: pytest.CaptureFixture[str],
) -> None:
  optimizers.rate_of(settings(), 4)
  assert not capsys.readouterr().out
  optimizers.rate_of(settings(), 3)
  assert 'warmup_steps=3 of 3 updates' in capsys.readouterr().out
  console.take_notices()


def test_an_unknown_schedule_is_refused() -> None:
  with pytest.raises(ValueError, match=r"'step'; expected .*cosine"):
    optimizers.make_rate(1.0, 0, schedule='step')


# --- The optimiser ----------------------------------------------------------


@pytest.mark.parametrize('task', ['grpo', 'sft', 'reward_model'])
def test_the_default_is_adam_as_it_was(task: str) -> None:
  """Bit for bit, from configs with and without the new settings."""
  config = load(task)
  config = config.decoder if task == 'reward_model' else config
  old = {k: config[k] for k in ('learning_rate', 'warmup_steps')}
  rate = optax.linear_schedule(
    config.learning_rate / (config.warmup_steps + 1),
    config.learning_rate,
    config.warmup_steps,
  )
  plain = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(rate, b2=0.99, mu_dtype='float32'),
  )
  params = {'x': jnp.array([[1.0, -2.0], [0.3, 4.0]])}
  grads = jax.tree.map(lambda x: 0.7 * x + 0.1, params)
  found = []
  for optimizer in (
    plain,
    optimizers.optimizer_of(config, config.steps),
    optimizers.optimizer_of(ConfigDict(old | {'max_grad_norm': 1.0}), 9),
  ):
    state, x = optimizer.init(params), params
    for _ in range(3):
      updates, state = optimizer.update(grads, state, x)
      x = optax.apply_updates(x, updates)
    found.append((x, state))
  for other in found[1:]:
    jax.tree.map(np.testing.assert_array_equal, found[0], other)


def test_weights_decay_by_the_rate_beside_adam() -> None:
  """Without a gradient they shrink by the factor 1 − 0.4 · 0.5 each time."""
  optimizer = optimizers.optimizer_of(
    settings(weight_decay=0.5, warmup_steps=0), updates=2
  )
  params = {'kernel': jnp.full((2, 2), 3.0), 'bias': jnp.full(2, 3.0)}
  state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
  for _ in range(2):
    updates, state = optimizer.update(zeros, state, params)
    params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params['kernel'], 3 * 0.8**2, rtol=1e-6)
  np.testing.assert_array_equal(params['bias'], 3.0)


def test_moments_have_their_own_decay() -> None:
  optimizer = optimizers.optimizer_of(settings(beta1=0.5, beta2=0.75), 9)
  state = optimizer.init({'x': jnp.zeros(1)})
  grads = {'x': jnp.full(1, 0.5)}  # shorter than the norm that is clipped to
  _, state = optimizer.update(grads, state, {'x': jnp.zeros(1)})
  adam = optax.tree_utils.tree_get_all_with_path(state, 'mu')
  assert float(adam[0][1]['x'][0]) == pytest.approx(0.5 * 0.5)
  adam = optax.tree_utils.tree_get_all_with_path(state, 'nu')
  assert float(adam[0][1]['x'][0]) == pytest.approx(0.25 * 0.25)


def test_matrices_decay_whatever_is_stacked() -> None:
  """All of a model's kernels, and none of its norms and biases."""
  params = abstract_params(MODEL) | {'score': jnp.zeros(4)}
  found = flatten_dict(optimizers.decayed(params))
  names = {True: set(), False: set()}
  for path, decays in found.items():
    names[decays].add(path[-1])
  assert names[True] == {'kernel', 'embed', 'head'}
  assert names[False] == {'scale', 'bias', 'score'}


def test_adapters_decay() -> None:
  adapted = lora.abstract(
    dataclasses.replace(MODEL, lora=LoraConfig(2, 4.0, ('up',))),
    make_mesh(devices=jax.devices()[:1]),
  )
  found = flatten_dict(optimizers.decayed(adapted))
  assert {path[-1] for path in found} == {'lora_a', 'lora_b'}
  assert all(found.values())


def test_a_last_rate_of_a_rate_that_does_not_fall_is_refused() -> None:
  config = settings(schedule='cosine', final_ratio=0.1)
  optimizers.check(config)
  config.schedule = 'constant'
  with pytest.raises(ValueError, match=r'final_ratio=0\.1 needs a rate that'):
    optimizers.check(config)
  config = ConfigDict({'decoder': config})
  with pytest.raises(ValueError, match=r'^decoder\.final_ratio.*, or decoder'):
    optimizers.check(config, 'decoder.')
