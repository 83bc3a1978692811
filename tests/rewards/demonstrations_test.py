"""Demonstrations: their advantages beside a group, and copies of them."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from rlcw.rewards import demonstrations, mixing, parts

ONE = np.ones(1, bool)


def mixed(
  writing: list[float], violated: list[bool], name: str = 'rlmr', **how: Any
) -> Any:
  mixer = mixing.MIXERS[name].mix
  return mixer(
    jnp.asarray([writing], jnp.float32), jnp.asarray([violated]), **how
  )


@pytest.mark.parametrize(
  ('shown', 'scale', 'expected'),
  [
    # w = 1, 2, 3, 4: mean 2.5, std √1.25
    (3.5, 'reward_std', 1 / 1.25**0.5),
    (3.5, 'none', 1.0),
    (3.5, 'writing_std', 1 / 1.25**0.5),
    (2.0, 'reward_std', 0.0),
    (99.0, 'reward_std', 2.0),  # √G
    (99.0, 'none', 2 * 1.25**0.5),
  ],
)
def test_an_advantage_is_above_the_mean_of_the_group(
  shown: float, scale: str, expected: float
) -> None:
  writing = [1.0, 2.0, 3.0, 4.0]
  found = demonstrations.advantages(
    mixed(writing, [False] * 4),
    np.array([writing]),
    np.array([shown]),
    ONE,
    scale,
  )
  assert found.tolist() == pytest.approx([expected])


def test_a_group_of_violators_is_compared_by_writing() -> None:
  """With `skip` its rewards are all equal: w = 1, 3 have the mean 2, std 1."""
  writing = [1.0, 3.0]
  group = mixed(writing, [True, True])
  found = demonstrations.advantages(
    group, np.array([writing]), np.array([2.5]), ONE
  )
  assert found.tolist() == pytest.approx([0.5])


def test_a_penalty_on_violators_lowers_the_mean() -> None:
  """w = 0, 0 of which one violates by linear's penalty 2: mean −1, std 1."""
  group = mixed([0.0, 0.0], [False, True], 'linear', weight=2.0)
  found = demonstrations.advantages(group, np.zeros((1, 2)), np.zeros(1), ONE)
  assert found.tolist() == pytest.approx([1.0])


@hypothesis.settings(max_examples=60)
@hypothesis.given(
  seed=st.integers(0, 2**32 - 1),
  name=st.sampled_from(
    [name for name, mixer in mixing.MIXERS.items() if mixer.keeps_writing]
  ),
  scale=st.sampled_from(['reward_std', 'writing_std', 'none']),
  unit=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_only_good_demonstrations_have_an_advantage_within_bounds(
  seed: int, name: str, scale: str, unit: float
) -> None:
  """And the advantages of the group are as without any demonstration."""
  rng = np.random.default_rng(seed)
  writing = (unit * rng.normal(size=(5, 6))).astype(np.float32)
  violated = rng.random((5, 6)) < rng.random((5, 1))
  valid = rng.random((5, 6)) < 0.8
  shown = (unit * rng.normal(size=5)).astype(np.float32)
  shown[rng.random(5) < 0.2] = np.nan
  good = rng.random(5) < 0.5
  mixer = mixing.MIXERS[name].mix
  group = mixer(*map(jnp.asarray, (writing, violated, valid)))
  before = np.asarray(mixing.advantages(group))
  found = np.asarray(
    demonstrations.advantages(group, writing, shown, good, scale)
  )
  assert np.isfinite(found).all() and (found >= 0).all()
  assert not found[~good | np.isnan(shown) | ~valid.any(1)].any()
  if scale == 'reward_std':
    assert (found <= 6**0.5 + 1e-4).all()
  np.testing.assert_array_equal(mixing.advantages(group), before)


def test_several_parts_are_in_the_units_of_the_group() -> None:
  """A member's parts, as a demonstration's, add up to the member's reward."""
  rng = np.random.default_rng(0)
  score = rng.normal(size=(2, 3, 4)).astype(np.float32)
  score[1, 2] = 0.5  # constant in its group
  valid = np.ones((3, 4), bool)
  valid[0, 3] = False
  weights = [0.7, -0.2]
  for normalise in (True, False):
    group = parts.combine(score, weights, valid, normalise=normalise)
    alone = demonstrations.combine(
      score, weights, valid, score[:, :, 1], normalise=normalise
    )
    np.testing.assert_allclose(alone, group[:, 1], atol=1e-5)


@pytest.mark.parametrize(
  ('reply', 'shown', 'expected'),
  [
    ('the sea is cold today', 'The sea is cold, today!', 1.0),
    ('one two three four five six', 'zero two three four five', 1 / 3),
    ('one two three', 'one two three', 0.0),  # no run of four
    ('', 'one two three four', 0.0),
    ('春眠不觉晓', '春眠不觉，处处闻', 0.5),
    ('one two three four', '', 0.0),
  ],
)
def test_copies_are_counted_in_runs_of_four_words(
  reply: str, shown: str, expected: float
) -> None:
  assert demonstrations.overlap(reply, shown) == pytest.approx(expected)
