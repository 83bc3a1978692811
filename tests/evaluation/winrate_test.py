"""Win rates with and without length, where the truth is known."""

from typing import Any

import numpy as np
import pytest
from scipy import special

from rlcw.evaluation import winrate

LONG = np.tile([-30.0, -10.0, 10.0, 30.0], 500)


def _sigmoid(x: Any) -> Any:
  return 1 / (1 + np.exp(-x))


def _rate(won_N: np.ndarray, longer_N: np.ndarray) -> float:
  return _sigmoid(winrate.fit(won_N, winrate.scale(longer_N)).theta)


def test_scores_make_wins_losses_and_ties() -> None:
  won = winrate.scored(np.array([1, 2, 3, np.nan]), np.array([2, 2, 2, 2]))
  np.testing.assert_array_equal(won, [0, 0.5, 1, np.nan])


def test_the_model_that_made_the_wins_is_found_again() -> None:
  x_N = np.tanh(LONG / LONG.std())
  found = winrate.fit(_sigmoid(0.4 + 1.5 * x_N), x_N)
  assert (found.theta, found.phi) == pytest.approx((0.4, 1.5), abs=2e-3)


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
  # three briefs tell little
  assert 0 < low < 0.25 and 0.9 < high < 1
  nothing = winrate.summary(np.array([np.nan]), np.zeros(1), np.zeros(1))
  assert nothing == {'compared': 0, 'uncompared': 1}


def test_replies_to_one_brief_count_together() -> None:
  """Ten copies of each comparison say no more than one."""
  won, brief = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]), np.arange(6)
  longer = np.zeros(6)
  once = winrate.summary(won, longer, brief)
  often = winrate.summary(*(np.tile(x, 10) for x in (won, longer, brief)))
  assert often['win_rate_interval'] == pytest.approx(once['win_rate_interval'])
  low, high = often['length_controlled_win_rate_interval']
  assert high - low > 0.5


# One of two arms of three seeds, on 60 briefs, four replies to each.
BRIEF_N = np.tile(np.repeat(np.arange(60), 4), 3)
SEED_N = np.repeat(np.arange(3), 240)


def test_seeds_that_differ_widen_the_intervals() -> None:
  rng = np.random.default_rng(0)
  longer_N = rng.normal(size=720)
  rates = np.array([0.3, 0.5, 0.7])
  alike, differ = (
    winrate.summary(rng.random(720) < rate, longer_N, BRIEF_N, SEED_N)
    for rate in (0.5, rates[SEED_N])
  )
  for key in ('win_rate_interval', 'length_controlled_win_rate_interval'):
    assert np.diff(differ[key]) > 3 * np.diff(alike[key])
  assert differ['win_rate_over'] == 'briefs and seeds'
  one = winrate.summary(np.ones(4), np.ones(4), np.arange(4), np.zeros(4))
  assert one['win_rate_over'] == 'briefs only'


def _longer(share: float, gap: float = 20.0) -> np.ndarray:
  """Differences in length of which `share` are positive, in random order."""
  rng = np.random.default_rng(1)
  sign_N = np.where(np.arange(240) < round(share * 240), 1, -1)
  return rng.permutation(sign_N) * gap * np.exp(0.6 * rng.normal(size=240))


SHIFTED = np.random.default_rng(0).normal(size=240)


@pytest.mark.parametrize(
  ('longer_N', 'identified'),
  [
    (_longer(0.5), True),
    (_longer(0.9), True),
    (_longer(0.1), True),
    (_longer(0.99), False),
    (_longer(0.01), False),
    (_longer(1.0), False),
    (np.full(240, 7.0), False),  # longer by as much each time
    (np.zeros(240), True),  # nothing to control for
    (100 + SHIFTED, False),
    (2.5 + SHIFTED, False),
    (1 + SHIFTED, True),
    # a third longer, the others as long: no guess about other lengths
    (np.repeat([0.0, 30.0], [160, 80]), True),
    (np.repeat([0.0, 30.0], [4, 236]), False),
    (np.repeat([-30.0, 0.0, 30.0], [1, 100, 139]), True),
  ],
)
def test_a_rate_at_equal_length_needs_both_sides_to_be_short(
  longer_N: np.ndarray, identified: bool
) -> None:
  won_N = (np.arange(240) % 3 > 0).astype(float)
  brief_N = np.random.default_rng(2).permutation(240) // 4
  told = winrate.summary(won_N, longer_N, brief_N)
  assert told['win_rate'] == pytest.approx(2 / 3)
  rate = told['length_controlled_win_rate']
  if identified:
    low, high = told['length_controlled_win_rate_interval']
    assert low < rate < high and high - low < 0.5
    assert told['length_controlled_reason'] == ''
  else:
    assert rate is told['length_controlled_win_rate_interval'] is None
    assert 'of 240 comparisons' in told['length_controlled_reason']


def test_lengths_that_differ_the_other_way_on_few_briefs_are_too_few() -> None:
  longer_N = np.where(np.arange(240) < 48, -20.0, 20.0)
  won_N = (np.arange(240) % 3 > 0).astype(float)
  few_N, many_N = np.arange(240) // 12, np.arange(240) // 4
  assert winrate.summary(won_N, longer_N, few_N)['length_controlled_reason']
  told = winrate.summary(won_N, longer_N, many_N)
  assert not told['length_controlled_reason']


def test_where_length_alone_decides_the_rate_is_uncertain() -> None:
  """Any rate fits that changes from 0 to 1 between −10 and +10."""
  told = winrate.summary((LONG > 0).astype(float), LONG, np.arange(LONG.size))
  low, high = told['length_controlled_win_rate_interval']
  assert low < 0.35 and high > 0.65


@pytest.mark.slow
@pytest.mark.parametrize('seeds', [1, 2, 3])
@pytest.mark.parametrize('slope', [0.0, 1.5])
def test_the_rate_at_equal_length_is_covered(seeds: int, slope: float) -> None:
  """The truth is σ(0.5); replies to a brief, and of a seed, are alike."""
  rng = np.random.default_rng(0)
  seed_N, brief_N, _ = np.unravel_index(np.arange(seeds * 240), (seeds, 60, 4))
  covered = []
  for _ in range(600):
    latent_N = (
      np.sqrt(0.3) * rng.normal(size=60)[brief_N]
      + (seeds > 1) * 0.2 * rng.normal(size=seeds)[seed_N]
      + np.sqrt(0.7 - 0.04 * (seeds > 1)) * rng.normal(size=seed_N.size)
    )
    longer_N = 0.8 + rng.normal(size=seed_N.size)
    rate_N = _sigmoid(0.5 + slope * winrate.scale(longer_N))
    won_N = (special.ndtr(latent_N) < rate_N).astype(float)
    told = winrate.summary(won_N, longer_N, brief_N, seed_N)
    low, high = told['length_controlled_win_rate_interval']
    covered.append(low <= _sigmoid(0.5) <= high)
  assert 0.91 <= np.mean(covered) <= 0.985
