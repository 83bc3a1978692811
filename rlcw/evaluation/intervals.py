"""95% intervals over briefs and seeds: pure functions of arrays.

A table `[S, P]` has a value for each run (seed) of an arm and each brief, such
as the mean score of the replies.  NaN is a value that is not known.  Functions
take leading axes before these two.

Other briefs, and other seeds, would give another mean.  As the runs of a table
answer the same briefs, its variance is V = A + Q (the crossed random-effects
analysis of variance: Searle, Casella and McCulloch, Variance Components, 1992):

    A = s²(means of runs) / S
    Q = s²(means of briefs) / P − C, at least 0

where C, the mean square of run × brief over S · P, is the noise of the values.
Both first terms contain it, so it is subtracted once.  A has few degrees of
freedom, so t quantiles are combined as in Cochran's approximation (Biometrics
20, 1964), with the weight (A / V)^1.5 where he has A / V:

    half-width = √V · (t[P − 1] + (t[S − 1] − t[P − 1]) · (A / V)^1.5)

In simulations of one to five seeds (`intervals_test.py`) this covers the truth
in 92 to 97%; Satterthwaite's degrees of freedom in 87 to 97%, Cochran's weight
in 94 to 98%.  Differences between arms whose seeds vary unequally are covered
in at least 89%: least if one has two seeds, which vary, and the other five,
which do not.

Briefs that share a prompt are alike, so they are one brief of greater weight
(`by_group`).  The heavier it is, the nearer the mean is to it, and the less its
own deviation shows: the factor P / (P − 1) becomes one for each brief
(`correction`), and P − 1 the freedom of the weights (`freedom`).  Simulations
cover the truth in 93 to 99%: least with two heavy prompts and many light ones,
most where one prompt has nearly all briefs.

Assumed: prompts, and seeds, are drawn independently, and means are
about normal; few briefs (5 or 10) make a share's interval too wide rather than
too narrow.  With one run A is unknown and left out: then the interval is of
this one run, over briefs only (`scope`).  One brief alone shows no variance:
its interval is NaN.  If all values are equal, an interval has no width, except
those of shares and their differences.

Letters: S runs of an arm (T of the other), P briefs, C groups of briefs, N
single values.
"""

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy import special

# The exponent of A / V above: chosen by simulation from 1, 1.25, 1.5, 1.75, 2.
_EXPONENT = 1.5


class Interval(NamedTuple):
  """A mean and the ends of its 95% interval; NaN where they are not known."""

  mean: Any
  low: Any
  high: Any


def scope(*seeds: int) -> str:
  """Names the chance that an interval is over.

  Args:
    *seeds: number of seeds of each trained arm in it.  An arm that was not
      trained, as the base, has none and is left out.
  """
  if not any(count > 1 for count in seeds):
    return 'briefs only'
  one = any(count == 1 for count in seeds)
  return 'briefs, seeds of one arm only' if one else 'briefs and seeds'


def quantile(df: Any) -> Any:
  """The two-sided 95% quantile of Student's t; NaN without freedom."""
  return special.stdtrit(np.where(np.asarray(df) > 0, df, np.nan), 0.975)


def correction(part_P: np.ndarray) -> np.ndarray:
  """Factors that make squared deviations from a weighted mean unbiased.

  Of independent values of variance σ², the deviation of one from their mean has
  the variance σ² (1 − 2w + Σw²): P / (P − 1) for P equal weights.

  Args:
    part_P: weights w, which add up to 1.

  Returns:
    `[P]`; infinite for a value that is all of the mean.
  """
  part_P = np.asarray(part_P, float)
  squares_1 = (part_P**2).sum(-1, keepdims=True)
  with np.errstate(divide='ignore'):
    return 1 / np.maximum(1 - 2 * part_P + squares_1, 0)


def freedom(part_P: np.ndarray) -> Any:
  """Degrees of freedom of the variance of a weighted mean.

  One less than the effective number of values (`effective`), so P − 1 of P
  equal weights, and at least 1; NaN where one value is all of the mean.

  Args:
    part_P: weights w, which add up to 1.
  """
  several = (np.asarray(part_P) > 0).sum(-1) > 1
  return np.where(several, np.maximum(effective(part_P) - 1, 1), np.nan)


def effective(part_P: np.ndarray) -> Any:
  """Effective number of weighted values: 1 / Σw² (Kish, Survey Sampling, 1965).

  Args:
    part_P: weights w, which add up to 1.
  """
  with np.errstate(divide='ignore'):
    return 1 / (np.asarray(part_P) ** 2).sum(-1)


def table(
  value_N: np.ndarray,
  brief_N: np.ndarray,
  seed_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Arranges single values by seed and brief.

  Args:
    value_N: the values; NaN is left out.
    brief_N: the brief of each, or whatever else makes values alike.
    seed_N: the run of each; None if all are of one run.

  Returns:
    Means `[S, P]`, NaN where there is no value, and the numbers of values
    `[S, P]`, which are the weights of the means.
  """
  value_N = np.asarray(value_N, float)
  seed_N = np.zeros(len(value_N)) if seed_N is None else seed_N
  briefs, column_N = np.unique(brief_N, return_inverse=True)
  seeds, row_N = np.unique(seed_N, return_inverse=True)
  total_SxP, count_SxP = np.zeros((2, len(seeds), len(briefs)))
  known_N = np.isfinite(value_N)
  cell = row_N[known_N], column_N[known_N]
  np.add.at(total_SxP, cell, value_N[known_N])
  np.add.at(count_SxP, cell, 1)
  empty_SxP = np.full_like(total_SxP, np.nan)
  return (
    np.divide(total_SxP, count_SxP, out=empty_SxP, where=count_SxP > 0),
    count_SxP,
  )


def groups(items: Iterable[Hashable]) -> np.ndarray:
  """Numbers equal items, such as the prompts of P briefs, alike: `[P]`."""
  seen: dict[Hashable, int] = {}
  return np.array([seen.setdefault(item, len(seen)) for item in items], int)


def by_group(
  value_SxP: np.ndarray, group_P: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """Means of groups of alike briefs: a table of C groups and its weights.

  Args:
    value_SxP: the values; NaN is left out.
    group_P: number of each brief's group, of `groups`; None if all differ.

  Returns:
    Means `[S, C]`, NaN where no value is known, and the numbers of values
    `[S, C]`.
  """
  value_SxP = np.asarray(value_SxP, float)
  own_P = np.arange(value_SxP.shape[-1]) if group_P is None else group_P
  known_SxP = np.isfinite(value_SxP)
  shape = *value_SxP.shape[:-1], own_P.max(initial=-1) + 1
  total_SxC, count_SxC = np.zeros((2, *shape))
  filled_SxP = np.where(known_SxP, value_SxP, 0.0)
  np.add.at(total_SxC.T, own_P, filled_SxP.T)
  np.add.at(count_SxC.T, own_P, known_SxP.T)
  empty_SxC = np.full_like(total_SxC, np.nan)
  return (
    np.divide(total_SxC, count_SxC, out=empty_SxC, where=count_SxC > 0),
    count_SxC,
  )


class _Side(NamedTuple):
  """One arm's part in an interval."""

  mean: Any
  pull_P: np.ndarray  # each brief's contribution to the mean's deviation
  part_P: np.ndarray  # each brief's part of the weights
  runs: Any  # number of runs that have a value
  between: Any  # A
  noise: Any  # C


def _side(value_SxP: np.ndarray, weight_SxP: np.ndarray | None) -> _Side:
  """Computes the parts of the variance; 0 / 0 is NaN."""
  value_SxP = np.asarray(value_SxP, float)
  known_SxP = np.isfinite(value_SxP)
  weight_SxP = known_SxP * (1.0 if weight_SxP is None else weight_SxP)
  value_SxP = np.where(known_SxP, value_SxP, 0.0)
  total = weight_SxP.sum((-2, -1), keepdims=True)
  mean = (weight_SxP * value_SxP).sum((-2, -1), keepdims=True) / total
  apart_SxP = weight_SxP * (value_SxP - mean) / total
  # A run's or a brief's mean deviates by the sum of its values' deviations,
  # over its part of the weights.
  part_Sx1 = weight_SxP.sum(-1, keepdims=True) / total
  part_1xP = weight_SxP.sum(-2, keepdims=True) / total
  run_Sx1 = apart_SxP.sum(-1, keepdims=True)
  brief_1xP = apart_SxP.sum(-2, keepdims=True)
  runs = (part_Sx1 > 0).sum((-2, -1))
  within_SxP = apart_SxP - weight_SxP / total * (
    run_Sx1 / np.where(part_Sx1 > 0, part_Sx1, 1)
    + brief_1xP / np.where(part_1xP > 0, part_1xP, 1)
  )
  between = (run_Sx1**2).sum((-2, -1)) * runs / (runs - 1)
  noise = (within_SxP**2).sum(-2) * correction(part_1xP[..., 0, :])
  noise = noise.sum(-1) * runs / (runs - 1)
  return _Side(
    mean[..., 0, 0][()],
    brief_1xP[..., 0, :],
    part_1xP[..., 0, :],
    runs,
    np.where(runs > 1, between, 0.0),
    np.where(runs > 1, noise, 0.0),
  )


def _half_width(ours: _Side, *theirs: _Side) -> Any:
  """Half the width of the interval of a mean, or of ours less theirs."""
  sides = ours, *theirs
  # what is common to both sides of a brief cancels
  pull_P = ours.pull_P - sum(side.pull_P for side in theirs)
  part_P = np.mean([side.part_P for side in sides], 0)
  few = quantile(freedom(part_P))
  between = sum(side.between for side in sides)
  # Freedom of the runs of both sides.  Welch's, with 0 in the place of 1, is
  # too little, as squares overstate (coverage 98%); the unbiased one has 2
  # (Ames and Webster, The American Statistician 45, 1991) and covers 90% if one
  # arm's seeds agree.
  runs_freedom = between**2 / sum(
    side.between**2 / np.maximum(side.runs, 1) for side in sides
  )
  runs_freedom = runs_freedom - 1
  of_briefs = (pull_P**2 * correction(part_P)).sum(-1)
  of_briefs = np.maximum(of_briefs - sum(side.noise for side in sides), 0)
  variance = between + of_briefs
  more = quantile(runs_freedom) - few
  more = more * (between / variance) ** _EXPONENT
  # NaN without any variance between runs
  return (few + np.nan_to_num(more)) * np.sqrt(variance)


def mean(
  value_SxP: np.ndarray, weight_SxP: np.ndarray | None = None
) -> Interval:
  """Returns the mean of a table and its interval.

  Args:
    value_SxP: the values.
    weight_SxP: the weight of each; None if all weigh the same.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    side = _side(value_SxP, weight_SxP)
    half = _half_width(side)
  return Interval(side.mean, side.mean - half, side.mean + half)


def share(
  value_SxP: np.ndarray, weight_SxP: np.ndarray | None = None
) -> Interval:
  """Returns the mean of values between 0 and 1, and its interval.

  Wilson's interval (1927) at the effective number of values, as of samples in
  clusters (Korn and Graubard, Survey Methodology 24, 1998): the number at which
  a binomial share has the half-width of `mean`.  Where that is 0, as where all
  values are 1, it is that of the briefs (`effective`), so the interval still
  has a width.
  """
  with np.errstate(divide='ignore', invalid='ignore'):
    side = _side(value_SxP, weight_SxP)
    half = _half_width(side)
  return Interval(side.mean, *wilson(side.mean, half, side.part_P))


def wilson(rate: Any, half: Any, part_P: np.ndarray) -> tuple[Any, Any]:
  """The ends of the 95% interval of a share.

  Args:
    rate: the share.
    half: half the width of the interval that it has as a mean.
    part_P: weights of the briefs that it is a share of, which add up to 1.
      Where `half` is 0, the effective number is theirs.
  """
  rate = np.asarray(rate)
  with np.errstate(divide='ignore', invalid='ignore'):
    # t² over the effective number
    k = np.where(
      half > 1e-9,  # less is rounding
      half**2 / (rate * (1 - rate)),
      quantile(freedom(part_P)) ** 2 / effective(part_P),
    )
    middle = (rate + k / 2) / (1 + k)
    half = np.sqrt(k * rate * (1 - rate) + k**2 / 4) / (1 + k)
  # rounding may leave [0, 1]
  low, high = np.clip([middle - half, middle + half], 0, 1)
  return low, high


def difference(
  ours_SxP: np.ndarray,
  theirs_TxP: np.ndarray,
  limit: float = np.inf,
  group_P: np.ndarray | None = None,
) -> Interval:
  """Returns the mean of ours less that of theirs, on the same P briefs.

  The seeds of both arms are independent.  A brief counts if both have a value.
  Where shares differ alike for all briefs, which says little if these are few,
  or one of them is 0 or 1, the interval is that of two shares (Newcombe,
  Statistics in Medicine 17, 1998, method 10).

  Args:
    ours_SxP: values of one arm.
    theirs_TxP: values of the other; if it is the same array, the difference is
      0 and has no width.
    limit: the largest difference there can be: 1 for shares.
    group_P: as of `by_group`.
  """
  sides = np.asarray(ours_SxP, float), np.asarray(theirs_TxP, float)
  one_1xP, other_1xP = (
    np.isfinite(side).any(-2, keepdims=True) for side in sides
  )
  sides = [
    by_group(np.where(one_1xP & other_1xP, side, np.nan), group_P)
    for side in sides
  ]
  with np.errstate(divide='ignore', invalid='ignore'):
    ours, theirs = (_side(*side) for side in sides)
    half = _half_width(ours, theirs)
  # a sign from rounding would be read as a gain
  equal = np.isclose(ours.mean, theirs.mean, rtol=1e-12, atol=1e-15)
  gap = np.where(equal, 0.0, ours.mean - theirs.mean)[()]
  below = above = half
  if np.isfinite(limit) and ours_SxP is not theirs_TxP:
    one, other = (share(*side) for side in sides)
    extreme = [abs(side.mean - 0.5) >= 0.5 - 1e-9 for side in (ours, theirs)]
    flat = np.any([half <= 1e-9, *extreme], 0)  # less is rounding
    apart = np.hypot(one.mean - one.low, other.high - other.mean)
    below = np.where(flat, apart, half)
    apart = np.hypot(one.high - one.mean, other.mean - other.low)
    above = np.where(flat, apart, half)
  return Interval(gap, *np.clip([gap - below, gap + above], -limit, limit))
