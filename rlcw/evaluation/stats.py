"""Agreement of scores with preferences, and of verdicts with labels.

Functions of pairs take scores or lengths `[N, 2]`, the preferred reply first;
functions of labelled replies take arrays `[N]` and labels, true for good.
"""

from typing import Any, NamedTuple

import numpy as np

from rlcw.evaluation import intervals

# Two lengths match if they differ by at most this share of the longer one.
MATCHED = 0.1
_FOLDS = 5


def right(score_Nx2: np.ndarray) -> np.ndarray:
  """Outcomes `[N]`: 1 if the preferred reply scores higher, 0.5 for a tie."""
  difference_N = score_Nx2[:, 0] - score_Nx2[:, 1]
  return (difference_N > 0) + 0.5 * (difference_N == 0)


def accuracy(score_Nx2: np.ndarray) -> float:
  """Share of pairs whose preferred reply scores higher; a tie counts half."""
  return float(right(score_Nx2).mean())


def calibration(
  score_Nx2: np.ndarray, bins: int = 10
) -> dict[str, list[float]]:
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
  bin_N = np.minimum(((confidence_N - 0.5) * 2 * bins).astype(int), bins - 1)
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
  # A reply at a time: all pairs at once would take memory for N² of them.
  for n, good in enumerate(label_N):
    alike_N = matched(np.stack(np.broadcast_arrays(length_N[n], length_N), -1))
    other_M = score_N[alike_N & (label_N != good)]
    lower = (other_M < score_N[n]).sum() + (other_M == score_N[n]).sum() / 2
    pairs_N[n] = len(other_M)
    right_N[n] = lower if good else len(other_M) - lower
  return right_N, pairs_N


class Area(NamedTuple):
  """Area under a ROC curve, and what its interval is computed from."""

  auc: float
  pairs: int  # of a good and a bad reply
  # `[C]`: each group's contribution to the deviation of the area
  pull_C: np.ndarray
  groups: int  # that have a reply of the rarer label


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
    score_N: scores.
    label_N: true where a reply is good.
    group_N: the prompt of each reply.
    length_N: characters of each reply, to compare only replies of `matched`
      length; None for all.  Scores by length alone then get about 0.5.
  """
  right_N, pairs_N = concordance(score_N, label_N, length_N)
  _, group_N = np.unique(group_N, return_inverse=True)
  total = pairs_N[label_N].sum()
  value = right_N[label_N].sum() / total if total else np.nan
  # The derivative of the area by the weight of each group.
  pull_N = (right_N - value * pairs_N) / (total or np.nan)
  rarer = min(
    len(np.unique(group_N[(label_N == side) & (pairs_N > 0)]))
    for side in (True, False)
  )
  pull_C = np.bincount(group_N, pull_N)
  return Area(float(value), int(total), pull_C, rarer)


def _deviation(pull_C: np.ndarray, groups: int) -> float:
  """Half the width of an interval whose groups deviate by `pull_C`."""
  if groups < 2:
    return np.nan
  variance = (pull_C**2).sum() * groups / (groups - 1)
  return float(intervals.quantile(groups - 1) * np.sqrt(variance))


def area_interval(found: Area) -> list[float]:
  """The 95% interval of an area, over groups (prompts).

  By the infinitesimal jackknife over groups, as in Obuchowski (Biometrics 53,
  1997), with the freedom of the label that fewer groups have; the ends are
  Wilson's at the effective number of groups (`intervals.wilson`).
  """
  half = _deviation(found.pull_C, found.groups)
  return [*intervals.wilson(found.auc, half, found.groups)]


def area_difference(ours: Area, theirs: Area) -> intervals.Interval:
  """Our area less theirs, on the same replies, with its 95% interval."""
  half = _deviation(ours.pull_C - theirs.pull_C, ours.groups)
  gap = ours.auc - theirs.auc
  ends = np.clip([gap - half, gap + half], -1, 1)
  return intervals.Interval(gap, *ends)


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float:
  """Area under the ROC curve; NaN where all labels are the same."""
  return area(score_N, label_N, np.arange(len(score_N))).auc


def matched_auc(
  score_N: np.ndarray, label_N: np.ndarray, length_N: np.ndarray
) -> tuple[float, int]:
  """The `auc` over pairs of `matched` length, and the number of these pairs."""
  return area(score_N, label_N, np.arange(len(score_N)), length_N)[:2]


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
    where it has none.  Verdicts by length alone get 0.5.  Correcting a reply's
    wrong verdict raises its share by 0.5.
  """
  right_N, pairs_N = concordance(verdict_N.astype(float), label_N, length_N)
  return right_N / np.where(pairs_N > 0, pairs_N, np.nan)


def threshold(score_N: np.ndarray, label_N: np.ndarray) -> float:
  """The threshold above which replies are best called good.

  Returns:
    Of the thresholds with the highest balanced accuracy, the middle one; ±∞
    where all replies have one label; NaN where there is none.
  """
  if not len(score_N):
    return np.nan
  value_K = np.unique(score_N)
  between = (value_K[1:] + value_K[:-1]) / 2
  threshold_K = np.concatenate([[-np.inf], between, [np.inf]])
  accuracy_K = np.array(
    [balanced((score_N > each) == label_N, label_N) for each in threshold_K]
  )
  best_K = np.flatnonzero(accuracy_K == accuracy_K.max())
  return float(threshold_K[best_K[len(best_K) // 2]])


def calibrated(
  score_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray
) -> float:
  """Balanced accuracy of verdicts by a threshold learned on other groups.

  What a judge is right in once its `threshold` is set by labels, which its
  verdicts at P(Good) > 0.5 are not.  The groups (prompts) are in five folds,
  and each fold's threshold is of the others; NaN where there is one group.
  """
  _, group_N = np.unique(group_N, return_inverse=True)
  fold_N = group_N % _FOLDS
  verdict_N = np.zeros(len(score_N), bool)
  for fold in np.unique(fold_N):
    held_N = fold_N == fold
    if held_N.all():
      return np.nan
    cut = threshold(score_N[~held_N], label_N[~held_N])
    verdict_N[held_N] = score_N[held_N] > cut
  return balanced(verdict_N == label_N, label_N)
