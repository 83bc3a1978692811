"""Agreement of scores with preferences, and of verdicts with labels.

Functions of pairs take scores or lengths `[N, 2]`, the preferred reply first;
functions of labelled replies take arrays `[N]` and labels, true for good.

Letters: N pairs or replies, M replies of the other label, C groups (prompts),
K selected ones.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from rlcw.evaluation import intervals

# Two lengths match if they differ by at most this share of the longer one.
MATCHED = 0.1
_FOLDS = 5
_BINS = 10  # of confidence
_ROUNDING = 1e-9  # a smaller number is rounding


def right(score_Nx2: np.ndarray) -> np.ndarray:
  """Outcomes `[N]`: 1 if the preferred reply scores higher, 0.5 for a tie."""
  difference_N = score_Nx2[:, 0] - score_Nx2[:, 1]
  return (difference_N > 0) + 0.5 * (difference_N == 0)


def accuracy(score_Nx2: np.ndarray) -> float:
  """Share of pairs whose preferred reply scores higher; a tie counts half."""
  return float(right(score_Nx2).mean())


def calibration(score_Nx2: np.ndarray) -> dict[str, list[float]]:
  """Accuracy by confidence: the points of a calibration curve.

  The confidence of a pair is `σ(|s_1 − s_2|)`, from 0.5 to 1, the probability
  that a Bradley–Terry model gives the reply with the higher score.

  Returns:
    Lists over the bins that contain a pair: `confidence` and `accuracy`, the
    bin's means, and `share`, its part of all pairs.
  """
  difference_N = score_Nx2[:, 0] - score_Nx2[:, 1]
  confidence_N = 1 / (1 + np.exp(-np.abs(difference_N)))
  right_N = right(score_Nx2)
  # equal bins of [0.5, 1]; a confidence of exactly 1 belongs to the last
  bin_N = ((confidence_N - 0.5) * 2 * _BINS).astype(int)
  bin_N = np.minimum(bin_N, _BINS - 1)
  members = [bin_N == b for b in np.unique(bin_N)]
  return {
    'confidence': [float(confidence_N[m].mean()) for m in members],
    'accuracy': [float(right_N[m].mean()) for m in members],
    'share': [float(m.mean()) for m in members],
  }


def expected_calibration_error(score_Nx2: np.ndarray) -> float:
  """Mean of |confidence − accuracy| over pairs (Guo et al., arXiv 1706.04599).

  The gap is taken per bin of `calibration` and weighted by the bin's share.
  """
  table = {k: np.array(v) for k, v in calibration(score_Nx2).items()}
  gap = np.abs(table['confidence'] - table['accuracy'])
  return float((gap * table['share']).sum())


def matched(length_Nx2: np.ndarray) -> np.ndarray:
  """Mask `[N]` of the pairs whose lengths differ by at most `MATCHED`."""
  gap_N = np.abs(length_Nx2[:, 0] - length_Nx2[:, 1])
  return gap_N <= MATCHED * length_Nx2.max(1)


def interval(score_Nx2: np.ndarray, group_N: np.ndarray) -> list[float]:
  """The 95% interval of `accuracy`; pairs of one group (prompt) are alike."""
  return [*intervals.share(*intervals.table(right(score_Nx2), group_N))[1:]]


def agreement(
  score_Nx2: np.ndarray, length_Nx2: np.ndarray, group_N: np.ndarray
) -> dict[str, Any]:
  """Accuracy of scores on pairs, beside the accuracy of length alone.

  Args:
    score_Nx2: scores of each pair.
    length_Nx2: characters of each reply.
    group_N: the prompt of each pair, for intervals.

  Returns:
    Numbers over all pairs, over those of matched length (`matched_…`) and over
    those whose better reply is the shorter (`shorter_better_…`); None where
    there is no such pair.  Intervals are over prompts, and NaN where there is
    only one.
  """
  summary: dict[str, Any] = {
    'heldout_pairs': len(score_Nx2),
    'heldout_accuracy': accuracy(score_Nx2),
    'heldout_interval': interval(score_Nx2, group_N),
    'length_only_accuracy': accuracy(length_Nx2),
    'calibration_error': expected_calibration_error(score_Nx2),
  }
  shorter_N = length_Nx2[:, 0] < length_Nx2[:, 1]
  # Here length alone cannot help, or points the wrong way: accuracy on these
  # pairs shows whether the score depends on more than length.
  for name, some_N in (
    ('matched', matched(length_Nx2)),
    ('shorter_better', shorter_N),
  ):
    any_left = bool(some_N.any())
    score, length = score_Nx2[some_N], length_Nx2[some_N]
    summary |= {
      f'{name}_pairs': int(some_N.sum()),
      f'{name}_accuracy': accuracy(score) if any_left else None,
      f'{name}_interval': interval(score, group_N[some_N])
      if any_left
      else None,
      f'{name}_length_only': accuracy(length) if any_left else None,
    }
  return summary


def concordance(
  score_N: np.ndarray,
  label_N: np.ndarray,
  length_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Compares every good reply with every bad one.

  Args:
    score_N: scores.
    label_N: true where a reply is good.
    length_N: characters of each reply; None to compare replies of any length,
      else those of `matched` length alone.

  Returns:
    `[N]`: the number of pairs of each reply in which the good one scores
    higher, a tie counting half; and the number of all its pairs.
  """
  right_N, pairs_N = np.zeros((2, len(score_N)))
  if length_N is None:
    for side in (True, False):
      ours_N = label_N == side
      other_M = np.sort(score_N[~ours_N])
      below_N, most_N = (
        np.searchsorted(other_M, score_N[ours_N], s) for s in ('left', 'right')
      )
      pairs_N[ours_N] = len(other_M)
      lower_N = (below_N + most_N) / 2
      right_N[ours_N] = lower_N if side else len(other_M) - lower_N
    return right_N, pairs_N
  rarer = 2 * label_N.sum() <= len(label_N)
  other_M = np.flatnonzero(label_N != rarer)
  # A reply at a time: all pairs at once would take memory for N² of them.
  for n in np.flatnonzero(label_N == rarer):
    both = np.broadcast_arrays(length_N[n], length_N[other_M])
    alike_K = other_M[matched(np.stack(both, -1))]
    gap_K = score_N[n] - score_N[alike_K]
    right_K = ((gap_K if rarer else -gap_K) > 0) + (gap_K == 0) / 2
    right_N[n], pairs_N[n] = right_K.sum(), len(alike_K)
    right_N[alike_K] += right_K
    pairs_N[alike_K] += 1
  return right_N, pairs_N


class Area(NamedTuple):
  """Area under a ROC curve, and what its interval is computed from."""

  auc: float
  pairs: int  # of a good and a bad reply
  influence_C: np.ndarray  # of each group on the area
  part_C: np.ndarray  # each group's part of the replies of one label


def area(
  score_N: np.ndarray,
  label_N: np.ndarray,
  group_N: np.ndarray,
  length_N: np.ndarray | None = None,
) -> Area:
  """Area under the ROC curve, of replies in groups.

  The area is the share of (good, bad) pairs of replies in which the good one
  scores higher, a tie counting half; NaN where there is no pair.

  Args:
    score_N: scores, finite.
    label_N: true where a reply is good.
    group_N: number of each reply's group, such as its prompt.
    length_N: characters of each reply, to compare only replies of `matched`
      length; None for all.
  """
  right_N, pairs_N = concordance(score_N, label_N, length_N)
  _, group_N = np.unique(group_N, return_inverse=True)
  total = pairs_N[label_N].sum()
  value = right_N[label_N].sum() / total if total else np.nan
  # The derivative of the area by the weight of a reply.
  influence_N = (right_N - value * pairs_N) / (total or np.nan)
  counts = [
    np.bincount(group_N, (label_N == side) & (pairs_N > 0))
    for side in (True, False)
  ]
  parts = [count_C / (count_C.sum() or np.nan) for count_C in counts]
  # The label that the fewest groups have, in effect.
  part_C = min(parts, key=intervals.effective)
  influence_C = np.bincount(group_N, influence_N)
  return Area(float(value), int(total), influence_C, part_C)


def _half_width(influence_C: np.ndarray, part_C: np.ndarray) -> float:
  """Half the width of an area's interval, or of a difference of areas."""
  freedom = intervals.freedom(part_C)
  if np.isnan(freedom):
    return np.nan
  # Groups without the label deviate too, by the other one.
  typical = 1 / (1 - 1 / intervals.effective(part_C))
  more_C = np.maximum(intervals.correction(part_C), typical)
  variance = (influence_C**2 * more_C).sum()
  return float(intervals.quantile(freedom) * np.sqrt(variance))


def area_interval(found: Area) -> list[float]:
  """The 95% interval of an area, over groups (prompts).

  The variance is the infinitesimal jackknife's over groups, as in Obuchowski
  (Biometrics 53, 1997), with the freedom of the label that fewer groups have
  and the corrections of `intervals` for groups of unequal weight;
  the interval is symmetric in the logit of the area.  Where no group deviates,
  as where all pairs are right, it is Wilson's for a share of these groups.
  """
  half = _half_width(found.influence_C, found.part_C)
  if half > _ROUNDING and 0 < found.auc < 1:
    odds, apart = special.logit(found.auc), half / found.auc / (1 - found.auc)
    return special.expit([odds - apart, odds + apart]).tolist()
  return [float(end) for end in intervals.wilson(found.auc, half, found.part_C)]


def area_difference(ours: Area, theirs: Area) -> intervals.Interval:
  """Our area less theirs, on the same replies, with its 95% interval.

  Where groups deviate alike from both, it is Newcombe's of two shares
  (`intervals.difference`).
  """
  gap = ours.auc - theirs.auc
  half = _half_width(ours.influence_C - theirs.influence_C, ours.part_C)
  below = above = half
  if half <= _ROUNDING and ours is not theirs:
    (low, high), (least, most) = map(area_interval, (ours, theirs))
    below = np.hypot(ours.auc - low, most - theirs.auc)
    above = np.hypot(high - ours.auc, theirs.auc - least)
  if abs(gap) <= _ROUNDING:
    gap = 0.0  # a sign from rounding would be read as a gain
  return intervals.Interval(gap, *np.clip([gap - below, gap + above], -1, 1))


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float:
  """Area under the ROC curve; NaN where all labels are the same."""
  return area(score_N, label_N, np.arange(len(score_N))).auc


def spread(values: Any) -> float:
  """Standard deviation of the finite values; NaN if they differ by rounding."""
  finite = np.ma.masked_invalid(np.asarray(values, float)).compressed()
  if not len(finite) or finite.std() <= 1e-6 * np.abs(finite).max():
    return math.nan
  return float(finite.std())


def correlation(one_N: np.ndarray, other_N: np.ndarray) -> float:
  """Pearson's correlation; NaN where either is constant."""
  if min(np.ptp(each) if len(each) else 0 for each in (one_N, other_N)) == 0:
    return np.nan
  return float(np.corrcoef(one_N, other_N)[0, 1])


def balanced(right_N: np.ndarray, label_N: np.ndarray) -> float:
  """Balanced accuracy: the mean over labels of the share that is right.

  Labels that do not occur are left out; NaN where there is no reply at all.
  """
  sides = [right_N[label_N == side].mean() for side in np.unique(label_N)]
  return float(np.mean(sides)) if sides else float('nan')


def right_at_length(
  verdict_N: np.ndarray, label_N: np.ndarray, length_N: np.ndarray
) -> np.ndarray:
  """Accuracy of verdicts between replies of matched length.

  Each reply is paired with every reply of the other label and of matched
  length (`matched`).  A pair is right if the good reply's verdict is higher.

  Args:
    verdict_N: true where the judge found a reply good.
    label_N: true where it is good.
    length_N: characters of each reply.

  Returns:
    `[N]`: the share of a reply's pairs that are right, a tie counting half; NaN
    where it has none.  Correcting a reply's wrong verdict raises its share by
    0.5.
  """
  right_N, pairs_N = concordance(verdict_N.astype(float), label_N, length_N)
  return right_N / np.where(pairs_N > 0, pairs_N, np.nan)


def without_length(
  after_N: np.ndarray,
  before_N: np.ndarray,
  label_N: np.ndarray,
  length_N: np.ndarray,
) -> np.ndarray:
  """Scores after a change, less the part of the change that goes with length.

  The change is regressed by least squares on the log of the length and on the
  label.  The length's part is taken off; the label's stays, also where good
  replies are the longer ones.

  Args:
    after_N: scores after the change, finite.
    before_N: scores of the same replies before it.
    label_N: true where a reply is good.
    length_N: characters of each reply.
  """
  long_N = np.log1p(length_N)
  long_N -= long_N.mean()
  factor_Nx3 = np.stack([np.ones(len(long_N)), label_N, long_N], 1)
  slope_3, *_ = np.linalg.lstsq(factor_Nx3, after_N - before_N)
  return after_N - slope_3[2] * long_N


def threshold(score_N: np.ndarray, label_N: np.ndarray) -> float:
  """The threshold above which replies are best called good.

  Returns:
    Of the thresholds between scores that have the highest balanced accuracy
    the middle one; −∞ or ∞ where calling all replies good, or bad, is as good
    as any; NaN where all have one label.
  """
  order_N = np.argsort(score_N)
  score_N, good_N = score_N[order_N], label_N[order_N]
  good, bad = good_N.sum(), (~good_N).sum()
  if not good or not bad:
    return np.nan
  # cut n is below the n-th score, and no cut is between equal scores
  edge_N = np.concatenate([[-np.inf], score_N, [np.inf]])
  right_N = np.concatenate([[0], np.cumsum(~good_N)]) / bad
  right_N += 1 - np.concatenate([[0], np.cumsum(good_N)]) / good
  right_N[edge_N[1:] == edge_N[:-1]] = -1
  best_K = np.flatnonzero(right_N > right_N.max() - _ROUNDING)
  cut = best_K[len(best_K) // 2]
  low, high = edge_N[cut], edge_N[cut + 1]
  if np.isinf(low) or np.isinf(high):
    return float(low if np.isinf(low) else high)
  middle = (low + high) / 2
  # neighbouring floats have none between them
  return float(middle if middle < high else low)


def balanced_tuned(
  score_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> float:
  """Balanced accuracy at a `threshold` that is tuned on other groups.

  It is what a judge is right in once it is calibrated by labels, which its
  verdicts at P(Good) > 0.5 are not.  The groups (prompts) are in five folds
  at random, and a fold's threshold is that of the others.

  Returns:
    The accuracy; NaN where a threshold would be tuned on one label alone.
  """
  _, group_N = np.unique(group_N, return_inverse=True)
  count = group_N.max(initial=-1) + 1
  fold_N = np.random.default_rng(0).permutation(count)[group_N] % _FOLDS
  cut_N = np.full(len(score_N), np.nan)
  for fold in np.unique(fold_N):
    held_N = fold_N == fold
    cut_N[held_N] = threshold(score_N[~held_N], label_N[~held_N])
  if np.isnan(cut_N).any():
    return np.nan
  return balanced((score_N > cut_N) == label_N, label_N)
