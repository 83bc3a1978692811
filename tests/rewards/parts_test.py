"""Parts of a writing reward: their sum, and RLMR's guarantee for any."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlcw.losses import group_advantages
from rlcw.rewards import mixing, parts

NAN = np.nan
ALL = np.ones((1, 4), bool)

combine = jax.jit(parts.combine, static_argnames='normalise')


def test_parts_in_their_own_units_are_added_by_weight() -> None:
  score = np.array([[[1, 2, 3, 4]], [[10, 0, 0, 10]]], np.float32)
  found = combine(score, [0.5, -0.25], ALL, normalise=False)
  np.testing.assert_allclose(found, [[-2.0, 1.0, 1.5, -0.5]])


def test_normalised_parts_count_alike_whatever_their_units() -> None:
  # z-scores: ±1 for two values; (−1, −1, 1, 1)·1 for the second
  score = np.array([[[1000, 3000, 1000, 3000]], [[0.1, 0.1, 0.3, 0.3]]])
  found = combine(score, [2.0, 1.0], ALL, normalise=True)
  np.testing.assert_allclose(found, [[-3, 1, -1, 3]], rtol=1e-5)


def test_a_reply_without_a_part_s_score_leaves_the_statistics() -> None:
  score = np.array([[[1, 3, NAN, 900]], [[0, 2, 7, 4]]])
  valid = np.array([[True, True, True, False]])
  found = combine(score, [1.0, 1.0], valid, normalise=True)
  # of both parts only the first two replies count: −1 and 1 each
  np.testing.assert_allclose(found, [[-2, 2, NAN, NAN]], rtol=1e-6)
  alone = combine(score, [1.0, 1.0], valid, normalise=False)
  np.testing.assert_allclose(alone, [[1, 5, NAN, NAN]])
  none = combine(score, [1.0, 1.0], valid & False, normalise=True)
  assert np.isnan(none).all()


def test_a_constant_part_says_nothing_and_rounding_is_no_spread() -> None:
  score = np.array([[[1, 2, 3, 4]], [[0.1, 0.1, 0.1, 0.1]]], np.float32)
  both = combine(score, [1.0, 9.0], ALL, normalise=True)
  alone = combine(score[:1], [1.0], ALL, normalise=True)
  np.testing.assert_array_equal(both, alone)
  # neighbours in float32
  near = np.float32(1e6) + np.array([[[0, 0.0625, 0, 0.0625]]], np.float32)
  assert not np.any(combine(near, [1.0], ALL, normalise=True))


def test_log_odds_by_hand_and_of_what_float32_cannot_tell_apart() -> None:
  p = np.array([[0.5, 0.75, 0.25], [NAN, 1.0, 0.0]], np.float32)
  found = parts.log_odds(p)
  third, most = np.log(3), 6 * np.log(10)
  np.testing.assert_allclose(found, [[0, third, -third], [NAN, most, -most]])
  # where a judge is sure, an error of rounding is small beside differences
  sure = 1 - 10.0 ** -np.arange(1, 6)
  exact = np.log(sure / (1 - sure))
  found = parts.log_odds(sure.astype(np.float32))
  np.testing.assert_allclose(found, exact, atol=4e-3)


@given(
  hnp.arrays(
    np.float32,
    (1, 3, 4),
    elements=st.floats(-(2**39), 2**39, width=32, allow_subnormal=False),
  ),
  hnp.arrays(bool, (3, 4)),
)
@settings(max_examples=20)
def test_one_part_of_weight_1_in_its_own_unit_is_itself(
  score: np.ndarray, valid: np.ndarray
) -> None:
  found = combine(score, [1.0], valid, normalise=False)
  np.testing.assert_array_equal(found, np.where(valid, score[0], NAN))


@jax.jit
def _violator(
  score: jax.Array, weight: Any, valid: jax.Array, violated: jax.Array
) -> jax.Array:
  """Largest advantage of a violator in mixed groups, normalised and not."""
  writing = jnp.concatenate(
    [
      parts.combine(score, weight, valid, normalise=normalise)
      for normalise in (True, False)
    ]
  )
  known, violated = jnp.isfinite(writing), jnp.tile(violated, (2, 1))
  mixed = mixing.rlmr(jnp.where(known, writing, 0.0), violated, known)
  advantage = group_advantages(
    mixed.reward,
    mixed.valid,
    baseline_P=mixed.baseline,
    std_floor=mixed.std_floor,
  )
  return mixing.max_violator_advantage(
    advantage, violated, mixed, all_violating=False
  )


@settings(max_examples=60)
@given(
  hnp.arrays(
    np.float32,
    (3, 2, 6),
    elements=st.floats(-1e6, 1e6, width=32)
    | st.integers(-3, 3).map(float)
    | st.just(NAN),
  ),
  st.lists(
    st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3), min_size=3, max_size=3
  ),
  hnp.arrays(bool, (2, 6)),
  hnp.arrays(bool, (2, 6)),
)
def test_no_violator_is_rewarded_whatever_the_parts(
  score: np.ndarray,
  weight: list[float],
  valid: np.ndarray,
  violated: np.ndarray,
) -> None:
  assert _violator(score, weight, valid, violated) < 0


@pytest.mark.parametrize(
  ('length', 'penalty'),
  # DAPO, equation 13, of replies of up to 20 tokens with a buffer of 4
  [(1, 0), (16, 0), (17, -0.25), (18, -0.5), (19, -0.75), (20, -1), (30, -1)],
)
def test_the_overlong_penalty_is_linear_in_the_buffer(
  length: int, penalty: float
) -> None:
  assert parts.overlong_penalty(np.array([[length]]), 20, 4) == penalty


def test_a_buffer_may_be_as_long_as_a_reply() -> None:
  found = parts.overlong_penalty(np.arange(5), 4, 4)
  np.testing.assert_array_equal(found, [0, -0.25, -0.5, -0.75, -1])
