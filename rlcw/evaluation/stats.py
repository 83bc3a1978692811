"""Agreement of scores with preferences, and of verdicts with labels.

Functions of pairs take scores or lengths `[N, 2]`, the preferred reply first;
functions of labelled replies take arrays `[N]` and labels, true for good.
"""

from typing import Any

import numpy as np

from rlcw.evaluation import intervals

# Two lengths match if they differ by at most this share of the longer one.
MATCHED = 0.1


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


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float:
  """Area under the ROC curve; NaN where all labels are the same.

  It equals the share of (good, bad) pairs of replies in which the good one
  scores higher, a tie counting half.
  """
  good_A, bad_B = score_N[label_N], np.sort(score_N[~label_N])
  below_A, most_A = (
    np.searchsorted(bad_B, good_A, s) for s in ('left', 'right')
  )
  pairs = len(good_A) * len(bad_B)
  return float((below_A + most_A).sum() / 2 / pairs) if pairs else float('nan')


def matched_auc(
  score_N: np.ndarray, label_N: np.ndarray, length_N: np.ndarray
) -> tuple[float, int]:
  """The `auc` over pairs of `matched` length, and the number of these pairs.

  Scores by length alone get about 0.5.  NaN where there is no such pair.
  """
  won, pairs = 0.0, 0
  for n in np.flatnonzero(label_N):
    other_M = score_N[_alike(n, length_N) & ~label_N]
    won += (score_N[n] > other_M).sum() + (score_N[n] == other_M).sum() / 2
    pairs += len(other_M)
  return (won / pairs if pairs else float('nan')), pairs


def _alike(n: int | np.integer, length_N: np.ndarray) -> np.ndarray:
  """Mask `[N]` of the replies whose length matches that of reply n."""
  return matched(np.stack(np.broadcast_arrays(length_N[n], length_N), -1))


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
  share_N = np.full(len(label_N), np.nan)
  # A reply at a time: all pairs at once would take memory for N² of them.
  for n, good in enumerate(label_N):
    other_M = verdict_N[_alike(n, length_N) & (label_N != good)].astype(float)
    ahead_M = float(verdict_N[n]) - other_M
    # 1 if the order is right, 0.5 for equal verdicts and 0 if it is wrong
    if len(other_M):
      share_N[n] = (0.5 + (0.5 if good else -0.5) * ahead_M).mean()
  return share_N
