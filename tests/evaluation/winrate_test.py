"""Win rates with and without length, where the truth is known."""

import numpy as np
import pytest

from rlcw.evaluation import winrate

LONG = np.tile([-30.0, -10.0, 10.0, 30.0], 500)


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-x))


def _rate(won_N: np.ndarray, longer_N: np.ndarray) -> float:
  ones = np.ones((1, len(won_N)))
  return winrate.length_controlled(won_N, longer_N, ones)[0]


def test_scores_make_wins_losses_and_ties() -> None:
  won = winrate.scored(np.array([1, 2, 3, np.nan]), np.array([2, 2, 2, 2]))
  np.testing.assert_array_equal(won, [0, 0.5, 1, np.nan])


def test_the_model_that_made_the_wins_is_found_again() -> None:
  x_N = np.tanh(LONG / LONG.std())
  found = winrate.fit(_sigmoid(0.4 + 1.5 * x_N), x_N, np.ones((1, len(x_N))))
  np.testing.assert_allclose(found, [[0.4, 1.5]], atol=2e-3)


def test_who_wins_by_length_alone_wins_half() -> None:
  longer_N = LONG + 20  # ours is the longer one three times of four
  won_N = (longer_N > 0).astype(float)
  assert won_N.mean() > 0.7
  # Δ = 0 is where the winner changes
  assert _rate(won_N, longer_N) == pytest.approx(0.5, abs=0.1)


def test_who_wins_whatever_the_length_keeps_the_win_rate() -> None:
  won_N = np.repeat([1.0, 1.0, 1.0, 0.0], 500)  # in no relation with LONG
  assert _rate(won_N, LONG) == pytest.approx(0.75, abs=1e-3)


def test_a_better_and_shorter_model_gains() -> None:
  won_N = _sigmoid(0.5 + 2 * np.tanh((LONG - 20) / LONG.std()))
  assert _rate(won_N, LONG - 20) > won_N.mean() + 0.1


def test_all_won_and_all_of_one_length_are_finite() -> None:
  assert 0.9 < _rate(np.ones(40), np.arange(40.0)) <= 1
  assert _rate(np.array([1.0, 0.0]), np.array([5.0, 5.0])) == pytest.approx(0.5)


def test_summary_by_hand() -> None:
  won = np.array([1, 1, 0.5, 0, np.nan, 1])
  told = winrate.summary(won, np.zeros(6), np.array([0, 0, 1, 1, 2, 2]))
  assert told['compared'] == 5 and told['uncompared'] == 1
  assert told['ties'] == pytest.approx(0.2)
  assert told['win_rate'] == pytest.approx(0.7)
  # the penalty pulls five comparisons towards a half
  assert 0.67 < told['length_controlled_win_rate'] < 0.7
  low, high = told['win_rate_interval']
  assert 0.25 <= low < 0.7 < high <= 1
  nothing = winrate.summary(np.array([np.nan]), np.zeros(1), np.zeros(1))
  assert nothing == {'compared': 0, 'uncompared': 1}


def test_replies_to_one_brief_are_drawn_together() -> None:
  """Ten copies of each comparison say no more than one."""
  won = np.tile([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 10)
  brief = np.tile(np.arange(6), 10)
  low, high = winrate.summary(won, np.zeros(60), brief)['win_rate_interval']
  assert high - low > 0.5
