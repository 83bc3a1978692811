"""Numbers that a score is judged by, worked by hand."""

import numpy as np
import pytest

from rlcw.evaluation import stats


def test_accuracy_counts_a_tie_half() -> None:
  score_Nx2 = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0], [5.0, 0.0]])
  assert stats.accuracy(score_Nx2) == 2.5 / 4


def test_summary_separates_length_from_quality() -> None:
  length_Nx2 = np.array([[10, 20], [20, 10], [30, 10], [19, 20]])
  score_Nx2 = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
  told = stats.agreement(score_Nx2, length_Nx2, np.arange(4))
  assert told['heldout_accuracy'] == 0.75
  assert told['length_only_accuracy'] == 0.5
  assert told['matched_pairs'] == 1  # only 19 against 20 is within 10%
  assert told['matched_accuracy'] == 1.0
  assert told['matched_length_only'] == 0.0
  assert told['shorter_better_pairs'] == 2
  assert told['shorter_better_accuracy'] == 1.0
  assert told['shorter_better_length_only'] == 0.0


def test_summary_without_such_pairs_says_none() -> None:
  told = stats.agreement(
    np.array([[1.0, 0.0]]), np.array([[30, 10]]), np.zeros(1)
  )
  assert told['matched_pairs'] == told['shorter_better_pairs'] == 0
  assert told['matched_accuracy'] is told['matched_interval'] is None


def test_matched_is_within_a_tenth_of_the_longer() -> None:
  length_Nx2 = np.array([[90, 100], [100, 90], [89, 100], [100, 89], [7, 7]])
  assert stats.matched(length_Nx2).tolist() == [
    True,
    True,
    False,
    False,
    True,
  ]


def test_calibration_by_hand() -> None:
  """Odds of 3 to 1 twice, one of them wrong; of 99 to 1 once, right."""
  gap = np.log(3)
  score_Nx2 = np.array([[gap, 0.0], [0.0, gap], [np.log(99), 0.0]])
  table = stats.calibration(score_Nx2)
  assert table['confidence'] == pytest.approx([0.75, 0.99])
  assert table['accuracy'] == pytest.approx([0.5, 1.0])
  assert table['share'] == pytest.approx([2 / 3, 1 / 3])
  error = stats.expected_calibration_error(score_Nx2)
  assert error == pytest.approx(0.25 * 2 / 3 + 0.01 / 3)


def test_honest_odds_are_calibrated_and_doubled_ones_are_not() -> None:
  rng = np.random.default_rng(0)
  gap_N = rng.normal(0, 2, 20_000)
  won = rng.random(gap_N.size) < 1 / (1 + np.exp(-gap_N))
  gap_N = np.where(won, gap_N, -gap_N)
  score_Nx2 = np.stack([gap_N, np.zeros_like(gap_N)], 1)
  assert stats.expected_calibration_error(score_Nx2) < 0.01
  assert stats.expected_calibration_error(2 * score_Nx2) > 0.05


def test_an_accuracy_s_interval_is_over_prompts_not_pairs() -> None:
  score_Nx2 = np.repeat([[0.0, 1.0], [1.0, 0.0]] * 20, 10, axis=0)
  few = stats.interval(score_Nx2, np.repeat(np.arange(40), 10))
  many = stats.interval(score_Nx2, np.arange(400))
  assert few[0] < many[0] < 0.5 < many[1] < few[1]
  assert few[1] - few[0] > 2.5 * (many[1] - many[0])
  # five of five are no certainty
  low, high = stats.interval(score_Nx2[10:15], np.arange(5))
  assert 0 < low < 0.5 and high == 1


def test_auc_by_hand() -> None:
  score_N = np.array([3.0, 1.0, 2.0, 1.0])
  label_N = np.array([True, True, False, False])
  # of four pairs two are right, one is a tie
  assert stats.auc(score_N, label_N) == 2.5 / 4
  assert np.isnan(stats.auc(score_N, np.ones(4, bool)))


def test_auc_between_replies_of_like_length_by_hand() -> None:
  score_N = np.array([3.0, 1.0, 2.0, 1.0])
  label_N = np.array([True, True, False, False])
  # 100 and 91 differ by 9%, 91 and 81 by 11%
  length_N = np.array([100, 200, 91, 81])
  assert stats.matched_auc(score_N, label_N, length_N) == (1.0, 1)
  length_N = np.array([100, 100, 100, 81])
  assert stats.matched_auc(score_N, label_N, length_N) == (0.5, 2)
  # the length says nothing about replies of one length
  same_N = np.full(4, 30)
  assert stats.matched_auc(same_N, label_N, same_N) == (0.5, 4)
  for labels_N in (label_N, np.ones(4, bool)):
    auc, pairs = stats.matched_auc(score_N, labels_N, np.array([1, 2, 4, 8]))
    assert np.isnan(auc) and not pairs
