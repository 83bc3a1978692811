"""Several updates of one rollout: the clip, the old policy, and its weights."""

import functools
from typing import Any

import jax
import numpy as np
import optax
import pytest
import train_test
from cases import quick
from ml_collections import ConfigDict
from train_test import CONFIG, SETTINGS, G, L, P, T

from rlcw import losses, train
from rlcw.models import packing
from rlcw.runtime.mesh import over_groups
from rlcw.tasks.grpo import objective, updates


@functools.cache
def sharding() -> Any:
  return over_groups(train_test.single())


def make_params() -> Any:
  return train_test.make_params(train_test.single())


def settings(**changes: Any) -> ConfigDict:
  small = {
    'prompts_per_step': P,
    'microbatch_groups': 2,
    'seed': 0,
    'kl_weight': 0.0,
    'mixing': {'all_violating': 'skip'},
  }
  return ConfigDict(SETTINGS.to_dict() | small | changes)


def made(
  config: ConfigDict,
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray]]:
  """Arrays of a step without a reference, and the lengths on the host."""
  arrays = train_test.make_arrays(train_test.single())
  if config.kl_weight == 0:
    del arrays['ref_logp']
  return arrays, (
    np.asarray(arrays['length']),
    np.asarray(arrays['rollout'].length),
  )


@functools.cache
def old_policy() -> Any:
  """Of the parameters of `train_test`, at its temperature."""
  program = objective.make_old_policy(CONFIG, settings())
  return functools.partial(program, make_params())


def make_batch(config: ConfigDict, *arrays: Any) -> list[objective.Batch]:
  """The batch of step 0."""
  return updates.make_batch(*arrays, old_policy(), 0, config, sharding())


def own_logp(
  live_P: np.ndarray | None = None, microbatch: int = P
) -> jax.Array:
  """The policy's log-probabilities `[P, G, T]` of all replies."""
  config, every = settings(microbatch_groups=microbatch), np.ones(P, bool)
  return objective.read_old_policy(
    old_policy(),
    *made(config),
    config,
    sharding(),
    every if live_P is None else live_P,
  )


@pytest.mark.parametrize('ratio', quick(losses.RATIOS, 'token'))
def test_the_clip_acts_from_the_second_update_on(ratio: str) -> None:
  config = settings(
    ratio=ratio,
    updates_per_rollout=2,
    minibatch_groups=P,
    microbatch_groups=P,
    clip_low=1e-3,
  )
  arrays, lengths = made(config)
  arrays['rollout'] = arrays['rollout'].replace(logp=own_logp())
  signal = np.asarray(arrays['advantage']).any(1), np.ones(P, bool)
  packed = make_batch(config, arrays, lengths, signal)
  optimizer = optax.sgd(1.0)
  state = train.init_state(make_params(), optimizer, train_test.single())
  loss = objective.make_loss(CONFIG, config)
  update = train.make_update(loss, optimizer, state)
  minibatches = [train.Minibatch(b.parts, b.divisor) for b in packed]
  batch = train.Batch(minibatches, {}, 0.0)
  state, stats = train.take_step(update, state, batch, {})
  first, second = jax.device_get(stats)
  assert int(state.step) == 1
  assert first['clip_fraction'] == 0 and first['sampler_gap'] < 1e-5
  assert second['clip_fraction'] > 0.1 and second['sampler_gap'] > 1e-3


def test_a_group_that_is_not_needed_is_not_read() -> None:
  """Of the others the log-probabilities are those of a pass over all."""
  live_P = np.arange(P) % 3 == 0  # 3 of 8 groups, in 2 of 4 parts
  part, whole = own_logp(live_P, 2), own_logp()
  np.testing.assert_allclose(part[live_P], whole[live_P], rtol=1e-5)
  assert not np.asarray(part)[~live_P].any()
  assert np.asarray(whole).any((1, 2)).all()


def test_weights_and_bonus_join_the_loss() -> None:
  """With one update the ratio is 1, so a token's term is −w A."""
  config = settings(tis=1.5, entropy_weight=0.25, microbatch_groups=P)
  arrays, lengths = made(config)
  old, rollout = own_logp(), arrays['rollout']
  (part,) = objective.pack(arrays, lengths, config, sharding()).parts
  loss = jax.jit(objective.make_loss(CONFIG, config))
  terms = loss(make_params(), {}, part)
  found = {name: float(term.quotient) for name, term in terms.items()}
  mask = np.arange(T) < lengths[1][..., None]
  gap = np.asarray(old - rollout.logp)[mask]
  advantage = np.broadcast_to(arrays['advantage'][..., None], mask.shape)[mask]
  weight = np.minimum(np.exp(gap), 1.5)
  assert 0 < found['entropy_exact'] < np.log(CONFIG.vocab_size)
  assert found['loss'] == pytest.approx(
    -(weight * advantage).mean() - 0.25 * found['entropy_exact'], rel=1e-4
  )
  assert found['clip_fraction'] == 0
  assert found['sampler_gap'] == pytest.approx(abs(gap).mean(), rel=1e-4)
  assert found['sampler_gap_max'] == pytest.approx(abs(gap).max(), rel=1e-4)
  assert found['tis_clipped'] == pytest.approx((np.exp(gap) > 1.5).mean())


def test_several_updates_have_weights_of_the_policy_before_them() -> None:
  """As if a single update had computed it, whatever the policy is now."""
  one = settings(tis=1.5, microbatch_groups=P)
  several = settings(
    tis=1.5, microbatch_groups=P, updates_per_rollout=2, minibatch_groups=P
  )
  loss = jax.jit(objective.make_loss(CONFIG, several))
  before = make_params()
  moved = jax.tree.map(lambda x: 1.5 * x, before)
  found = []
  for config in (one, several):
    arrays, lengths = made(config)
    signal = np.asarray(arrays['advantage']).any(1), np.ones(P, bool)
    found += make_batch(config, arrays, lengths, signal)
  expected, *each = (loss(before, {}, batch.parts[0]) for batch in found)
  assert len(each) == 2
  for terms in each:
    assert float(terms['clip_fraction'].quotient) == 0
    for name, term in expected.items():
      np.testing.assert_allclose(terms[name], term, rtol=1e-4, atol=1e-4)
  after = loss(moved, {}, found[-1].parts[0])
  assert float(after['clip_fraction'].quotient) > 0.1
  for name in ('sampler_gap', 'sampler_gap_max', 'tis_clipped'):
    np.testing.assert_allclose(after[name], expected[name], rtol=1e-4)


@pytest.mark.parametrize(
  ('changes', 'live'),
  [
    ({}, 5),  # of the kept ones, those with a signal
    ({'kl_weight': 0.1}, 6),
    ({'entropy_weight': 0.1}, 6),
  ],
)
def test_minibatches_have_the_groups_with_a_gradient_and_few_widths(
  changes: dict[str, float], live: int
) -> None:
  config = settings(
    prompts_per_step=6, updates_per_rollout=3, microbatch_groups=1, **changes
  )
  advantage_PxG = np.ones((P, G))
  advantage_PxG[2] = 0
  arrays, lengths = made(config)
  kept_P = np.arange(P) < 6
  packed = make_batch(config, arrays, lengths, (advantage_PxG.any(1), kept_P))
  assert len(packed) == 3
  parts = [part for batch in packed for part in batch.parts]
  assert len(parts) == live
  total_P = lengths[0] + lengths[1].sum(1)
  tokens = total_P[:6].sum() - total_P[2] * (live == 5)
  computed = sum(part.width for part in parts)
  assert objective.padding(packed) == pytest.approx(1 - tokens / computed)
  widths = packing.widths(1, L, G, T)
  for part in parts:
    assert part.width in widths
    assert part.arrays['rollout'].token.shape == (1, G, T)
  # groups without a gradient count in the divisor of their minibatch
  divisors = [float(batch.divisor) for batch in packed]
  assert sum(divisors) == lengths[1][:6].sum()
