"""Taking the direction of length out of a head."""

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlcw.tasks.reward_model.groups import Groups
from rlcw.tasks.reward_model.head import without_length
from rlcw.tasks.reward_model.projection import length_direction, project_out


def arrays(*shape: int) -> st.SearchStrategy[np.ndarray]:
  numbers = st.integers(-8, 8).map(float)
  return hnp.arrays(float, shape, elements=numbers)


def test_pairs_of_like_quality_make_the_direction() -> None:
  """Hand-worked: (1, 0) of the good ones, (3, 1) and (9, 8) of the bad."""
  features_NxD = np.array([[0, 0], [1, 0], [0, 1], [3, 2], [9, 9]], float)
  length_N, worth_N = np.array([10, 20, 10, 30, 30]), np.array([1, 1, 0, 0, 0])
  # the last two have one length: each is longer than the third alone
  found = length_direction(features_NxD, length_N, worth_N)
  expected = np.array([1 + 3 + 9, 1 + 8])
  np.testing.assert_allclose(found, expected / np.hypot(13, 9))
  assert not length_direction(features_NxD, np.ones(5), worth_N).any()
  assert not length_direction(np.ones((5, 2)), length_N, worth_N).any()


def test_close_scores_are_of_like_quality() -> None:
  """Twenty scores make ten classes of two neighbours each."""
  worth_N = np.arange(20.0)
  length_N = np.tile([1, 2], 10)
  features_NxD = np.stack([length_N, worth_N // 2], 1).astype(float)
  found = length_direction(features_NxD, length_N, worth_N)
  np.testing.assert_allclose(found, [1, 0])


def test_a_projected_weight_is_worked_by_hand() -> None:
  """p = (0.6, 0.8), h = (2, 1), p · h = 2, h − α 2 p."""
  weight_D, direction_D = np.array([2.0, 1.0]), np.array([0.6, 0.8])
  np.testing.assert_allclose(project_out(weight_D, direction_D), [0.8, -0.6])
  half = project_out(weight_D, direction_D, 0.5)
  np.testing.assert_allclose(half, [1.4, 0.2])
  assert project_out(weight_D, np.zeros(2)) is weight_D


@hypothesis.given(arrays(4), arrays(4), arrays(3, 4), st.floats(0.01, 100))
def test_scores_do_not_change_along_the_direction(
  weight_D: np.ndarray,
  direction_D: np.ndarray,
  features_NxD: np.ndarray,
  scale: float,
) -> None:
  hypothesis.assume(direction_D.any())
  np.testing.assert_array_equal(project_out(weight_D, direction_D, 0), weight_D)
  found = project_out(weight_D, direction_D)
  moved = features_NxD + 5 * direction_D
  np.testing.assert_allclose(moved @ found, features_NxD @ found, atol=1e-8)
  again = project_out(weight_D, scale * direction_D)
  np.testing.assert_allclose(again, found, atol=1e-8)
  np.testing.assert_allclose(project_out(found, direction_D), found, atol=1e-8)


@hypothesis.given(arrays(6, 3), arrays(3), arrays(6), arrays(6))
def test_longer_replies_of_like_quality_score_no_higher(
  features_NxD: np.ndarray,
  weight_D: np.ndarray,
  length_N: np.ndarray,
  worth_N: np.ndarray,
) -> None:
  worth_N = np.sign(worth_N)
  direction_D = length_direction(features_NxD, length_N, worth_N)
  score_N = features_NxD @ project_out(weight_D, direction_D)
  higher = [
    score_N[i] - score_N[j]
    for i, j in np.ndindex(6, 6)
    if worth_N[i] == worth_N[j] and length_N[i] > length_N[j]
  ]
  assert sum(higher) == pytest.approx(0, abs=1e-8)


def test_synthetic_losers_and_padding_do_not_turn_it() -> None:
  """The given pairs say that the second feature is length."""
  empty: Any = np.zeros(0)
  groups = Groups(
    *[empty] * 4,
    length=np.array([[20, 10, 40, 0], [10, 20, 40, 0]]),
    worth=np.array([[1, 0, 0, np.nan]] * 2),
    made=np.array([[False, False, True, False]] * 2),
    weight=empty,
    covariate=empty,
  )
  features_NxRxD = np.zeros((2, 4, 2))
  features_NxRxD[:, :2, 1] = groups.length[:, :2]
  features_NxRxD[:, 2:] = 99, 0
  weight_D = without_length(np.array([1.0, 1.0]), features_NxRxD, groups)
  np.testing.assert_allclose(weight_D, [1, 0])
