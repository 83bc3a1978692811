"""Intervals: coverage in simulation, values by hand, and data that lack much.

Simulated values are μ + brief + seed + rest, whose variances without that of
seeds add up to 1, the variance of a reply.  Two replies to each brief.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special

from rlcw.evaluation import intervals

BRIEFS, REPLIES = 60, 2
SPREADS = 0.0, 0.1, 0.2
SEEDS = 1, 2, 3, 5


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
  return rng.standard_normal(shape, np.float32)


def _values(
  rng: np.random.Generator,
  draws: int,
  seeds: int,
  spread: float,
  briefs: int = BRIEFS,
  of_brief: float = 0.5,
) -> np.ndarray:
  """Means of replies `[draws, S, P]` with mean 0.

  `of_brief` is the variance between briefs, `spread` the standard deviation of
  seeds.
  """
  rest = np.sqrt((1 - of_brief) / REPLIES)
  return (
    np.sqrt(of_brief) * _normal(rng, draws, 1, briefs)
    + spread * _normal(rng, draws, seeds, 1)
    + rest * _normal(rng, draws, seeds, briefs)
  )


def _passes(
  rng: np.random.Generator,
  draws: int,
  seeds: int,
  spread: float,
  *rates: float,
  briefs: int = BRIEFS,
) -> list[np.ndarray]:
  """Shares of replies `[draws, S, P]` that pass, for each rate of passing.

  A reply passes if its latent normal value is below a quantile: the rate is
  exact, whatever briefs and seeds have in common.
  """
  latent = (
    np.sqrt(0.4) * _normal(rng, draws, 1, briefs, 1)
    + spread * _normal(rng, draws, seeds, 1, 1)
    + np.sqrt(0.6 - spread**2) * _normal(rng, draws, seeds, briefs, REPLIES)
  )
  return [(latent < special.ndtri(rate)).mean(-1) for rate in rates]


def _coverage(interval: intervals.Interval, truth: float) -> float:
  return np.mean((interval.low <= truth) & (truth <= interval.high))


def _coverages(draws: int, seeds: int, spread: float) -> dict[str, float]:
  """Coverage of each kind of interval, where both arms' seeds are alike."""
  rng = np.random.default_rng(0)
  # the briefs' common part cancels in a difference
  shared = np.sqrt(0.5) * rng.normal(size=(draws, 1, BRIEFS))
  one, other, base = (
    shared + _values(rng, draws, n, by, of_brief=0.3)
    for n, by in ((seeds, spread), (seeds, spread), (1, 0))
  )
  some, most = _passes(rng, draws, seeds, spread, 0.2, 0.6)
  return {
    'mean': _coverage(intervals.mean(_values(rng, draws, seeds, spread)), 0),
    'share': _coverage(intervals.share(some), 0.2),
    'wins': _coverage(intervals.share(most), 0.6),
    'arms': _coverage(intervals.difference(one, other), 0),
    'base': _coverage(intervals.difference(one, base), 0),
  }


CELLS = [
  (seeds, spread)
  for seeds in SEEDS
  for spread in SPREADS
  # one seed's interval is of this seed
  if seeds > 1 or not spread
]


@pytest.mark.parametrize(('seeds', 'spread'), CELLS)
def test_the_truth_is_covered(seeds: int, spread: float) -> None:
  found = _coverages(500, seeds, spread)
  # the standard error of a coverage is 0.01
  assert {k: v for k, v in found.items() if not 0.91 <= v <= 0.98} == {}


@pytest.mark.slow
@pytest.mark.parametrize(('seeds', 'spread'), CELLS)
def test_the_truth_is_covered_exactly(seeds: int, spread: float) -> None:
  found = _coverages(10_000, seeds, spread)
  assert {k: v for k, v in found.items() if not 0.92 <= v <= 0.97} == {}


# Briefs, part of the variance between briefs.
HARD = [(n, part) for n in (5, 10, 30) for part in (0.0, 0.5, 0.9)]


@pytest.mark.slow
@pytest.mark.parametrize(('briefs', 'part'), HARD)
@pytest.mark.parametrize('seeds', SEEDS)
def test_few_briefs_and_other_mixtures_are_covered(
  briefs: int, part: float, seeds: int
) -> None:
  rng = np.random.default_rng(0)
  found = {
    spread: _coverage(
      intervals.mean(_values(rng, 10_000, seeds, spread, briefs, part)), 0
    )
    for spread in (SPREADS if seeds > 1 else SPREADS[:1])
  }
  assert {k: v for k, v in found.items() if not 0.91 <= v <= 0.975} == {}


@pytest.mark.slow
@pytest.mark.parametrize('briefs', [5, 10, 30, 60])
@pytest.mark.parametrize('rate', [0.03, 0.1, 0.9])
def test_the_share_of_a_few_briefs_is_not_too_narrow(
  briefs: int, rate: float
) -> None:
  rng = np.random.default_rng(0)
  found = {}
  for seeds, spread in CELLS:
    (passed,) = _passes(rng, 4000, seeds, spread, rate, briefs=briefs)
    found[seeds, spread] = _coverage(intervals.share(passed), rate)
  assert {k: v for k, v in found.items() if v < 0.91} == {}


@pytest.mark.slow
@pytest.mark.parametrize('counts', [(2, 2), (3, 3), (5, 2), (5, 5)])
def test_arms_whose_seeds_differ_unequally_are_covered(
  counts: tuple[int, int],
) -> None:
  rng = np.random.default_rng(0)
  found = {}
  for spreads in ((0.2, 0.0), (0.0, 0.2), (0.4, 0.1)):
    one, other = (
      _values(rng, 10_000, n, spread, of_brief=0.1)
      for n, spread in zip(counts, spreads, strict=True)
    )
    found[spreads] = _coverage(intervals.difference(one, other), 0)
  assert {k: v for k, v in found.items() if not 0.89 <= v <= 0.975} == {}


# Briefs of each prompt.
UNEQUAL = [
  [48, 24, 16, 12, 10, 8, 7, 6, 5, 5, 4, 4],
  [40] + 14 * [4],
  [20, 20] + 20 * [1],
  [30] + 30 * [1],
  [90] + 10 * [1],
]


@pytest.mark.parametrize('sizes', UNEQUAL)
@pytest.mark.parametrize('seeds', [1, 3])
def test_prompts_of_unequal_weight_are_covered(
  sizes: list[int], seeds: int
) -> None:
  rng, draws = np.random.default_rng(0), 1000
  group_P = np.repeat(np.arange(len(sizes)), sizes)
  prompt = np.sqrt(0.5) * _normal(rng, draws, 1, len(sizes))[..., group_P]
  one, other = (
    _values(rng, draws, seeds, 0.1, len(group_P), of_brief=0) for _ in range(2)
  )
  ours = prompt + one
  cells = intervals.by_group(ours, group_P)
  # the latent value is below 0 with probability 0.5
  below = intervals.by_group((ours < 0).astype(float), group_P)
  found = {
    'mean': _coverage(intervals.mean(*cells), 0),
    'share': _coverage(intervals.share(*below), 0.5),
    'difference': _coverage(
      intervals.difference(ours, other, group_P=group_P), 0
    ),
  }
  # at least 0.92 in 20,000 draws
  assert {k: v for k, v in found.items() if v < 0.91} == {}


def test_the_freedom_of_weights_by_hand() -> None:
  assert intervals.freedom(np.full(5, 0.2)) == pytest.approx(4)
  # 1 / (0.25 + 2 · 0.0625) − 1
  assert intervals.freedom([0.5, 0.25, 0.25, 0]) == pytest.approx(5 / 3)
  assert intervals.freedom([0.9, 0.1]) == 1
  assert np.isnan(intervals.freedom([1.0, 0.0]))
  assert intervals.correction(np.full(5, 0.2)) == pytest.approx(5 / 4)
  # 1 − 2 · 0.5 + 0.375
  assert intervals.correction([0.5, 0.25, 0.25])[0] == pytest.approx(8 / 3)


@pytest.mark.parametrize('rate', [0.02, 0.005])
def test_a_difference_from_a_share_of_all_or_none_is_covered(
  rate: float,
) -> None:
  rng = np.random.default_rng(0)
  some = (rng.random((2000, 1, 400)) < rate).astype(float)
  none = np.zeros_like(some)
  assert _coverage(intervals.difference(some, none, 1), rate) > 0.93
  assert _coverage(intervals.difference(1 - none, 1 - some, 1), rate) > 0.93


def test_one_run_has_the_t_interval_of_its_briefs() -> None:
  # s² = 2.5 over 5 briefs, t(4) = 2.7764
  mean, low, high = intervals.mean(np.array([[1.0, 2, 3, 4, 5]]))
  half = 2.776445 * np.sqrt(2.5 / 5)
  assert (mean, low, high) == pytest.approx((3, 3 - half, 3 + half))


def test_three_seeds_by_hand() -> None:
  """Briefs alike and no noise: the t interval of three means."""
  mean, low, high = intervals.mean(np.repeat([[1.0], [2.0], [3.0]], 6, 1))
  assert mean == 2
  assert high - 2 == 2 - low == pytest.approx(4.302653 * np.sqrt(1 / 3))


def test_the_noise_of_values_counts_once() -> None:
  """Means of runs 1 and 3, of briefs 0 to 4; run × brief adds up to 2."""
  table_2x5 = np.array([[-1.0, 0, 1, 2, 3], [1, 2, 3, 4, 5]])
  table_2x5[0] += [0.5, -0.5, 0, 0.5, -0.5]
  table_2x5[1] -= [0.5, -0.5, 0, 0.5, -0.5]
  noise = 2 / 4 / 10
  seeds, briefs = 2 / 2, 2.5 / 5 - noise
  variance = seeds + briefs
  weight = (seeds / variance) ** 1.5
  t = 2.776445 + (12.706205 - 2.776445) * weight
  mean, _, high = intervals.mean(table_2x5)
  assert (mean, high - mean) == pytest.approx((2, t * np.sqrt(variance)))


def test_seeds_that_differ_widen_the_interval() -> None:
  rng = np.random.default_rng(0)
  value_P = rng.normal(size=40)

  def width(gap: float) -> float:
    _, low, high = intervals.mean(np.stack([value_P, value_P + gap]))
    return high - low

  assert width(3.0) > 10 * width(0.0) > 0


def test_a_difference_is_paired_over_briefs() -> None:
  """Briefs differ widely, and the gain is the same on each: no width."""
  before_1xP = np.array([[1.0, 11.0, 101.0]])
  told = intervals.difference(before_1xP + 3, before_1xP)
  assert told == pytest.approx((3, 3, 3))


def test_rounding_makes_no_difference() -> None:
  value_1xP = np.random.default_rng(0).normal(size=(1, 60))
  gap, low, high = intervals.difference(value_1xP.repeat(2, 0), value_1xP)
  assert gap == 0 and low <= 0 <= high < 1e-12


def test_shares_differ_by_one_at_most() -> None:
  ours, theirs = np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([[0.0, 0, 0, 1]])
  ours[0, 0], theirs[0, 1] = 0.9, 0.1
  assert intervals.difference(ours, theirs).high > 1
  assert intervals.difference(ours, theirs, limit=1).high == 1


def test_a_brief_that_one_side_lacks_does_not_count() -> None:
  nan = np.nan
  before = np.array([[nan, 1.0, 1.0, 5.0]])
  after = np.array([[1.0, 4.0, nan, 9.0]])
  assert intervals.difference(after, before) == pytest.approx(
    intervals.mean(np.array([[3.0, 4.0]]))
  )
  assert np.isnan(intervals.difference(after[:, :1], before[:, :1])).all()


def test_an_unknown_value_is_left_out() -> None:
  known = np.array([[1.0, 2.0, 4.0]])
  more = np.array([[1.0, np.nan, 2.0, 4.0], [np.nan] * 4])
  assert intervals.mean(more) == pytest.approx(intervals.mean(known))
  assert intervals.share(more / 5) == pytest.approx(intervals.share(known / 5))


@pytest.mark.parametrize('estimate', [intervals.mean, intervals.share])
def test_nothing_and_one_brief_show_no_spread(estimate) -> None:
  assert np.isnan(estimate(np.full((2, 3), np.nan))).all()
  assert np.isnan(estimate(np.zeros((1, 0)))).all()
  mean, *ends = estimate(np.array([[0.2], [0.6]]))
  assert mean == pytest.approx(0.4) and np.isnan(ends).all()


def test_equal_values_have_no_width_unless_they_are_shares() -> None:
  alike = np.full((2, 8), 0.1)
  assert intervals.mean(alike) == pytest.approx((0.1, 0.1, 0.1))
  # Wilson's interval of 8 of 8, with t(7)² = 5.5914 for z²
  rate, low, high = intervals.share(np.ones((2, 8)))
  assert (rate, low, high) == pytest.approx((1, 8 / (8 + 5.591439), 1))
  rate, low, high = intervals.share(alike)
  assert 0 < low < rate < high < 1


def test_a_share_of_independent_replies_is_wilson_s() -> None:
  passed = np.array([[1.0, 0.0] * 200])
  _, low, high = intervals.share(passed)
  z2 = intervals.quantile(399) ** 2 * 400 / 399
  half = np.sqrt(z2 * 400 / 4 + z2**2 / 4) / (400 + z2)
  assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


@settings(max_examples=30)
@given(
  arrays.arrays(
    float, (3, 6), elements=st.sampled_from([0, 0.25, 0.5, 1, np.nan])
  )
)
def test_a_share_s_interval_contains_it_within_0_and_1(
  value_SxP: np.ndarray,
) -> None:
  rate, low, high = intervals.share(value_SxP)
  if np.isfinite(low):
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1


@settings(max_examples=30)
@given(
  arrays.arrays(float, (3, 6), elements=st.floats(-9, 9, width=16)),
  st.floats(-100, 100),
)
def test_an_interval_moves_with_its_values(
  value_SxP: np.ndarray, by: float
) -> None:
  here = np.array(intervals.mean(value_SxP))
  there = np.array(intervals.mean(value_SxP + by))
  np.testing.assert_allclose(there, here + by, atol=1e-6)
  back = intervals.mean(-value_SxP)
  np.testing.assert_allclose(np.negative(back)[[0, 2, 1]], here, atol=1e-6)


def test_single_values_are_arranged_by_seed_and_brief() -> None:
  mean_SxP, count_SxP = intervals.table(
    np.array([1.0, 3.0, np.nan, 4.0]),
    np.array(['a', 'a', 'b', 'b']),
    np.array([0, 0, 0, 1]),
  )
  np.testing.assert_array_equal(mean_SxP, [[2, np.nan], [np.nan, 4]])
  np.testing.assert_array_equal(count_SxP, [[2, 0], [0, 1]])
  # a brief weighs as much as it has values
  assert intervals.mean(mean_SxP, count_SxP).mean == pytest.approx(8 / 3)


def test_copies_of_a_value_in_its_brief_add_nothing() -> None:
  value_N, brief_N = np.array([1.0, 0, 1, 1, 0, 1]), np.arange(6)
  once = intervals.share(*intervals.table(value_N, brief_N))
  often = intervals.share(
    *intervals.table(np.tile(value_N, 10), np.tile(brief_N, 10))
  )
  assert often == pytest.approx(once)


def test_the_scope_names_the_chance_that_is_left_out() -> None:
  assert intervals.scope() == intervals.scope(1) == 'briefs only'
  assert intervals.scope(1, 1) == 'briefs only'
  assert intervals.scope(3) == intervals.scope(3, 2) == 'briefs and seeds'
  assert intervals.scope(3, 1) == 'briefs, seeds of one arm only'


@pytest.mark.parametrize('briefs', [2, 5, 10, 20, 60])
@pytest.mark.parametrize('rates', [(0.95, 0.99), (0.02, 0.1), (0.99, 0.99)])
def test_few_briefs_that_differ_alike_are_no_certainty(
  briefs: int, rates: tuple[float, float]
) -> None:
  rng = np.random.default_rng(0)
  ours, theirs = (
    (rng.random((2000, 1, briefs)) < rate).astype(float) for rate in rates
  )
  found = intervals.difference(ours, theirs, 1)
  truth = rates[0] - rates[1]
  assert np.mean((found.low <= truth) & (truth <= found.high)) > 0.93
  assert (found.high - found.low).min() > 0
  # two briefs alone are no proof of a gain
  one = intervals.difference(np.ones((1, 2)), np.zeros((1, 2)), 1)
  assert one.mean == 1 and one.low < 0


def test_briefs_that_share_a_prompt_are_one_of_greater_weight() -> None:
  value_2x5 = np.array([[1.0, 2, 3, np.nan, 6], [0, 2, np.nan, np.nan, 4]])
  group_P = intervals.groups('abaab')
  assert group_P.tolist() == [0, 1, 0, 0, 1]
  mean_2x2, count_2x2 = intervals.by_group(value_2x5, group_P)
  assert mean_2x2.tolist() == [[2, 4], [0, 3]]
  assert count_2x2.tolist() == [[2, 2], [1, 2]]
  empty_1x2, none_1x2 = intervals.by_group(value_2x5[1:, 2:4], group_P[:2])
  assert np.isnan(empty_1x2).all() and not none_1x2.any()


def test_groups_change_no_mean_and_differ_only_where_briefs_are_alike() -> None:
  rng = np.random.default_rng(0)
  ours_1xP, theirs_1xP = rng.random((2, 1, 30))
  apart = intervals.difference(ours_1xP, theirs_1xP)
  same = intervals.difference(ours_1xP, theirs_1xP, group_P=np.arange(30))
  np.testing.assert_allclose(apart, same)
  mean = intervals.mean(*intervals.by_group(ours_1xP, np.arange(30)))
  np.testing.assert_allclose(mean, intervals.mean(ours_1xP))
  # each brief ten times: as many prompts as before, so the same interval
  ours, theirs = (np.repeat(x, 10, 1) for x in (ours_1xP, theirs_1xP))
  group_P = np.repeat(np.arange(30), 10)
  found = intervals.difference(ours, theirs, group_P=group_P)
  np.testing.assert_allclose(found, apart)
  blind = intervals.difference(ours, theirs)
  assert blind.high - blind.low < 0.4 * (apart.high - apart.low)


@pytest.mark.parametrize('seeds', [1, 3])
def test_intervals_of_briefs_that_share_prompts_cover_the_truth(
  seeds: int,
) -> None:
  rng = np.random.default_rng(0)
  group_P = rng.integers(0, 12, 96)
  covered = []
  for _ in range(400):
    prompt_P = rng.normal(size=12)[group_P]
    seed_Sx1 = 0.2 * rng.normal(size=(seeds, 1)) if seeds > 1 else 0.0
    ours_SxP = prompt_P + seed_Sx1 + 0.5 * rng.normal(size=(seeds, 96))
    theirs_SxP = 0.5 * rng.normal(size=(1, 96))
    _, low, high = intervals.difference(ours_SxP, theirs_SxP, group_P=group_P)
    covered.append(low <= 0 <= high)
  assert 0.91 <= np.mean(covered) <= 0.98
