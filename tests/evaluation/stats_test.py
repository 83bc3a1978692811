"""Numbers that a score is judged by, worked by hand."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import special

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
  label_N, group_N = np.array([True, True, False, False]), np.arange(4)

  def found(length_N: list[int]) -> tuple[float, int]:
    area = stats.area(score_N, label_N, group_N, np.array(length_N))
    return area.auc, area.pairs

  # 100 and 91 differ by 9%, 91 and 81 by 11%
  assert found([100, 200, 91, 81]) == (1.0, 1)
  assert found([100, 100, 100, 81]) == (0.5, 2)
  auc, pairs = found([1, 2, 4, 8])
  assert np.isnan(auc) and not pairs
  # the length says nothing about replies of one length
  same_N = np.full(4, 30)
  assert stats.area(same_N, label_N, group_N, same_N)[:2] == (0.5, 4)
  alone = stats.area(score_N, np.ones(4, bool), group_N, same_N)
  assert np.isnan(alone.auc) and not alone.pairs


def test_pairs_of_each_reply_by_hand() -> None:
  score_N = np.array([3.0, 1.0, 2.0, 1.0, 0.0])
  label_N = np.array([True, True, False, False, False])
  right_N, pairs_N = stats.concordance(score_N, label_N)
  # the second reply is below the third, ties with the fourth, beats the fifth
  assert right_N.tolist() == [3, 1.5, 1, 1.5, 2]
  assert pairs_N.tolist() == [3, 3, 2, 2, 2]
  length_N = np.array([100, 50, 100, 95, 50])
  right_N, pairs_N = stats.concordance(score_N, label_N, length_N)
  assert right_N.tolist() == [2, 1, 1, 1, 1]
  assert pairs_N.tolist() == [2, 1, 1, 1, 1]


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=50)
def test_lengths_that_all_match_change_no_pair(seed: int) -> None:
  rng = np.random.default_rng(seed)
  score_N, label_N = rng.integers(0, 4, 12).astype(float), rng.random(12) < 0.5
  found, matched = (
    stats.concordance(score_N, label_N, each) for each in (None, np.ones(12))
  )
  np.testing.assert_array_equal(found, matched)
  good_A, bad_B = score_N[label_N], score_N[~label_N]
  right_AxB = (good_A[:, None] > bad_B) + (good_A[:, None] == bad_B) / 2
  assert found[0][label_N].tolist() == right_AxB.sum(1).tolist()
  assert found[0][~label_N].tolist() == right_AxB.sum(0).tolist()


def test_an_area_s_interval_by_hand() -> None:
  # Two prompts, each with a good and a bad reply: 3 of 4 pairs are right.
  score_N, label_N = np.array([3.0, 1, 0.5, 0]), np.array([True, False] * 2)
  found = stats.area(score_N, label_N, np.array([0, 0, 1, 1]))
  assert (found.auc, found.pairs) == (0.75, 4)
  assert found.part_C.tolist() == [0.5, 0.5]
  # Each reply is in two pairs.  The first is right in both, half a pair more
  # than 0.75 of them; the second in one, half a pair less; both of one prompt.
  assert found.influence_C.tolist() == [0, 0]
  found = stats.area(score_N, label_N, np.arange(4))
  assert found.influence_C.tolist() == [0.125, -0.125, -0.125, 0.125]
  # t with one degree of freedom is 12.706: half = 12.706 √(4 · 2 / 64)
  apart = 12.7062 * np.sqrt(1 / 8) / (0.75 * 0.25)
  odds = 3 * np.exp([-apart, apart])
  ends = odds / (1 + odds)
  np.testing.assert_allclose(stats.area_interval(found), ends, rtol=1e-3)
  # all pairs of two prompts right: 1 / (1 + t² / 2)
  found = stats.area(np.arange(4.0), np.arange(4) > 1, np.array([0, 1, 0, 1]))
  low, high = stats.area_interval(found)
  assert low == pytest.approx(1 / (1 + 12.7062**2 / 2), rel=1e-4)
  assert high == pytest.approx(1)
  # one prompt is no sample of prompts
  alone = stats.area(score_N, label_N, np.zeros(4))
  assert np.isnan(stats.area_interval(alone)).all()


def areas(
  rng: np.random.Generator, prompts: int, good: float, gain: float
) -> tuple[stats.Area, stats.Area]:
  """Areas of two judges of the same replies, of which a prompt has three.

  A prompt's replies have a label and a part of their scores in common.
  """
  prompt_N = np.repeat(np.arange(prompts), 3)
  label_N = (rng.random(prompts) < good)[prompt_N]
  common_N = 0.6 * rng.normal(size=prompts)[prompt_N]
  noise_2xN = common_N + 0.8 * rng.normal(size=(2, len(prompt_N)))
  ours, theirs = (
    stats.area(gain * label_N + noise_N, label_N, prompt_N)
    for noise_N in noise_2xN
  )
  return ours, theirs


@pytest.mark.parametrize(
  ('prompts', 'good', 'auc'),
  [(16, 0.5, 0.75), (60, 0.2, 0.75), (60, 0.5, 0.97)],
)
def test_an_area_s_interval_covers_the_truth(
  prompts: int, good: float, auc: float
) -> None:
  rng, gain = np.random.default_rng(0), special.ndtri(auc) * np.sqrt(2)
  covered, same = [], []
  for _ in range(400):
    ours, theirs = areas(rng, prompts, good, gain)
    low, high = stats.area_interval(ours)
    covered.append(low <= auc <= high)
    _, low, high = stats.area_difference(ours, theirs)
    same.append(low <= 0 <= high)
  assert 0.92 <= np.mean(covered) <= 0.99
  assert 0.92 <= np.mean(same) <= 1


def test_an_area_s_interval_is_over_prompts_not_replies() -> None:
  rng = np.random.default_rng(0)
  score_N, label_N = rng.random(20), np.arange(20) < 10
  one, ten = (
    stats.area(np.repeat(score_N, n), np.repeat(label_N, n), group_N)
    for n, group_N in ((1, np.arange(20)), (10, np.repeat(np.arange(20), 10)))
  )
  np.testing.assert_allclose(stats.area_interval(one), stats.area_interval(ten))


def test_a_better_judge_s_area_differs() -> None:
  rng = np.random.default_rng(0)
  label_N = rng.random(200) < 0.5
  ours, theirs = (
    stats.area(gain * label_N + rng.normal(size=200), label_N, np.arange(200))
    for gain in (2.0, 0.5)
  )
  gap, low, high = stats.area_difference(ours, theirs)
  assert 0 < low < gap == ours.auc - theirs.auc < high
  assert stats.area_difference(ours, ours) == (0, 0, 0)


def test_few_replies_are_no_certain_difference() -> None:
  label_N, prompt_N = np.array([True, False] * 2), np.array([0, 0, 1, 1])
  right, tied, wrong = (
    stats.area(score_N, label_N, prompt_N)
    for score_N in (label_N + 0.0, np.zeros(4), 1.0 - label_N)
  )
  for ours, theirs in ((right, tied), (right, wrong), (tied, wrong)):
    gap, low, high = stats.area_difference(ours, theirs)
    assert gap == ours.auc - theirs.auc and low < 0 < high
  other = stats.area(2.0 * label_N, label_N, prompt_N)
  gap, low, high = stats.area_difference(right, other)
  assert gap == 0 and low < 0 < high


def test_a_threshold_by_hand() -> None:
  score_N = np.array([0.7, 0.95, 0.9, 0.8])
  label_N = np.array([False, True, True, False])
  assert stats.threshold(score_N, label_N) == pytest.approx(0.85)
  # all Good or all Bad is as good as any where scores say the opposite
  assert np.isinf(stats.threshold(-score_N, label_N))
  assert np.isinf(stats.threshold(np.full(4, 0.9), label_N))
  assert np.isnan(stats.threshold(score_N, np.ones(4, bool)))
  # equal scores are on one side: 3 of 4 is the best
  score_N = np.array([0.7, 0.9, 0.9, 0.9])
  label_N = np.array([False, True, True, False])
  assert stats.threshold(score_N, label_N) == pytest.approx(0.8)


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2)
)
def test_no_threshold_is_better(replies: list[tuple[int, bool]]) -> None:
  score_N = np.array([score for score, _ in replies]) / 4
  label_N = np.array([label for _, label in replies])
  hypothesis.assume(0 < label_N.sum() < len(label_N))

  def right(cut: float) -> float:
    return stats.balanced((score_N > cut) == label_N, label_N)

  best = max(right(cut) for cut in (-1, *np.unique(score_N)))
  assert right(stats.threshold(score_N, label_N)) == pytest.approx(best)


def test_a_threshold_is_between_neighbouring_floats() -> None:
  score_N = np.array([np.nextafter(1, 0), 1.0])
  cut = stats.threshold(score_N, np.array([False, True]))
  assert (score_N > cut).tolist() == [False, True]


def test_tuning_mends_a_judge_that_calls_all_replies_good() -> None:
  label_N = np.tile([True, False], 20)
  score_N = np.where(label_N, 0.99, 0.9) + np.linspace(0, 0.005, 40)
  prompt_N = np.repeat(np.arange(20), 2)
  assert stats.balanced((score_N > 0.5) == label_N, label_N) == 0.5
  assert stats.balanced_tuned(score_N, label_N, prompt_N) == 1
  # nothing to tune by
  assert np.isnan(stats.balanced_tuned(score_N, label_N, np.zeros(40)))
  for labels_N in (np.ones(40, bool), np.arange(40) == 0):
    assert np.isnan(stats.balanced_tuned(score_N, labels_N, prompt_N))


def test_no_threshold_is_tuned_on_the_replies_it_is_tried_on() -> None:
  # Scores that say nothing: by their own labels a threshold would be right in
  # more than half.
  rng = np.random.default_rng(0)
  found = [
    stats.balanced_tuned(rng.random(20), rng.random(20) < 0.5, np.arange(20))
    for _ in range(200)
  ]
  assert 0.42 < np.mean(found) < 0.53


def test_the_spread_of_equal_numbers_is_none() -> None:
  assert stats.spread([1.0, 3.0, math.nan]) == 1
  for same in ([0.1] * 3, [0.0] * 3, [1e9 + 0.1] * 7, [math.nan], []):
    assert math.isnan(stats.spread(same))


def test_a_constant_correlates_with_nothing() -> None:
  x_N = np.arange(4.0)
  assert stats.correlation(x_N, 1 - 2 * x_N) == pytest.approx(-1)
  assert np.isnan(stats.correlation(x_N, np.ones(4)))
  assert np.isnan(stats.correlation(np.zeros(0), np.zeros(0)))
