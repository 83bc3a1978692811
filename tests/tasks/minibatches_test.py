"""How the updates of a step divide its groups."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import grpo
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.grpo import minibatches, objective


def settings(prompts: int = 8, **changes: Any) -> ConfigDict:
  base = {'prompts_per_step': prompts, 'microbatch_groups': 1, 'seed': 3}
  return ConfigDict(base | changes)


@pytest.mark.parametrize(
  ('updates', 'given', 'sizes', 'times'),
  [
    (1, 0, [8], 1),
    (2, 0, [4, 4], 1),
    (8, 0, [1] * 8, 1),
    (2, 8, [8, 8], 2),
    (3, 8, [8, 8, 8], 3),
    (4, 4, [4] * 4, 2),
  ],
)
def test_each_group_is_learned_from_equally_often(
  updates: int, given: int, sizes: list[int], times: int
) -> None:
  config = settings(updates_per_rollout=updates, minibatch_groups=given)
  masks = minibatches.draw(np.ones(8, bool), config, 0)
  assert [mask.sum() for mask in masks] == sizes
  assert np.sum(masks, axis=0).tolist() == [times] * 8


@hypothesis.settings(max_examples=50)
@hypothesis.given(
  passes=st.integers(1, 3),
  size=st.sampled_from([1, 2, 3, 6]),
  step=st.integers(0, 99),
  dropped=st.integers(0, 5),
)
def test_dropped_groups_are_in_no_update(
  passes: int, size: int, step: int, dropped: int
) -> None:
  config = settings(
    6, updates_per_rollout=passes * 6 // size, minibatch_groups=size
  )
  kept_P = np.random.default_rng(step).permutation(np.arange(6 + dropped) < 6)
  masks = minibatches.draw(kept_P, config, step)
  np.testing.assert_array_equal(np.sum(masks, axis=0), passes * kept_P)
  again = minibatches.draw(kept_P, config, step)
  np.testing.assert_array_equal(masks, again)


def test_steps_and_passes_have_orders_of_their_own() -> None:
  config = settings(32, updates_per_rollout=4, minibatch_groups=16)
  every = np.ones(32, bool)
  masks = [
    tuple(np.flatnonzero(mask))
    for step in (0, 1)
    for mask in minibatches.draw(every, config, step)
  ]
  assert len({*masks}) == 8


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'updates_per_rollout': 3},
      r'updates_per_rollout=3 must divide prompts_per_step=8.*expected one of '
      r'\[1, 2, 4, 8\], or any number of passes with minibatch_groups=8',
    ),
    (
      {'minibatch_groups': 3},
      r'minibatch_groups=3 must divide .*expected one of \[1, 2, 4, 8\], or 0',
    ),
    (
      {'minibatch_groups': 16},
      r'minibatch_groups=16 must divide .*expected one of \[1, 2, 4, 8\], or 0',
    ),
    (
      {'minibatch_groups': 4},
      r'updates_per_rollout=1 of minibatch_groups=4 .*a multiple of 2',
    ),
    (
      {'minibatch_groups': 2, 'updates_per_rollout': 6},
      'updates_per_rollout=6 of minibatch_groups=2 .*a multiple of 4',
    ),
    (
      {
        'prompts_per_step': 12,
        'updates_per_rollout': 2,
        'microbatch_groups': 4,
      },
      r'microbatch_groups=4 must divide the 6 groups.*one of \[1, 2, 3, 6\]',
    ),
  ],
)
def test_minibatches_that_do_not_divide_are_refused(
  changes: dict[str, Any], message: str
) -> None:
  config = settings()
  config.update(changes)
  with pytest.raises(ValueError, match=message):
    objective.check(config, make_mesh(devices=jax.devices()[:1]))


def test_minibatches_split_over_devices() -> None:
  mesh = make_mesh(devices=jax.devices()[:4])
  config = settings(16, microbatch_groups=4, updates_per_rollout=4)
  objective.check(config, mesh)
  config.updates_per_rollout = 8
  with pytest.raises(ValueError, match=r'expected one of \[1, 2, 4\]'):
    objective.check(config, mesh)


def test_an_estimate_of_no_kl_term_is_refused() -> None:
  mesh = make_mesh(devices=jax.devices()[:1])
  config = settings()
  config.update(kl='k2', kl_weight=0.1)
  objective.check(config, mesh)
  config.kl_weight = 0.0
  with pytest.raises(ValueError, match="kl='k2' needs a KL term"):
    objective.check(config, mesh)


def test_a_microbatch_is_at_most_a_minibatch() -> None:
  config = settings(microbatch_groups=4, updates_per_rollout=4)
  objective.check(config, make_mesh(devices=jax.devices()[:1]))
  assert (minibatches.size(config), minibatches.micro(config)) == (2, 2)


def test_more_briefs_are_whole_microbatches_of_scoring_and_updates() -> None:
  config = settings(
    12, microbatch_groups=4, updates_per_rollout=4, oversample=1.1
  )
  assert minibatches.micro(config) == 3
  assert objective.sampled_prompts(config) == 24  # of 13.2; 12 is 3 · 4


def test_greetings_have_two_updates_of_16_briefs() -> None:
  config = grpo.get_config('greetings_7b')
  assert (config.prompts_per_step, config.group_size) == (32, 4)
  assert (minibatches.updates(config), minibatches.size(config)) == (2, 16)
