"""Statistics: bootstrap intervals, and agreement of scores with preferences.

Functions of pairs take scores or lengths `[N, 2]`, the preferred reply first;
functions of labelled replies take arrays `[N]` and labels, true for good.
"""

from typing import Any

import numpy as np

from rlcw.runtime import metrics

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
    there is no such pair.
  """
  summary: dict[str, Any] = {
    'heldout_pairs': len(score_Nx2),
    'heldout_accuracy': accuracy(score_Nx2),
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
      f'{name}_interval': grouped_interval(right(score), group_N[some_N])
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
  # all pairs `[A, B]` at once: labelled sets are small
  good_A, bad_B = score_N[label_N], score_N[~label_N]
  pairs = np.stack(np.broadcast_arrays(good_A[:, None], bad_B), -1)
  return accuracy(pairs.reshape(-1, 2)) if pairs.size else float('nan')


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
  # [N, N] over all pairs of replies
  lengths = np.stack(np.broadcast_arrays(length_N[:, None], length_N), -1)
  alike_NxN = matched(lengths.reshape(-1, 2)).reshape(lengths.shape[:2])
  pair_NxN = alike_NxN & (label_N[:, None] != label_N)
  # +1/2 for a good reply, −1/2 for a bad one: a pair's value below is 1 if its
  # order is right, 0.5 for equal verdicts and 0 if it is wrong
  sign_N = np.where(label_N, 0.5, -0.5)[:, None]
  ahead_NxN = verdict_N[:, None].astype(float) - verdict_N
  total_N = (pair_NxN * (0.5 + sign_N * ahead_NxN)).sum(1)
  count_N = pair_NxN.sum(1)
  return np.where(count_N, total_N / np.maximum(count_N, 1), np.nan)


# Resamples where many quantities are resampled together.
DRAWS = 2000


def draw_groups(
  rng: np.random.Generator, groups: int, draws: int = DRAWS
) -> np.ndarray:
  """Indices `[D, C]` of the C groups in each of D resamples."""
  return rng.integers(groups, size=(draws, groups))


def draw_seeds(rng: np.random.Generator, seeds: int) -> np.ndarray:
  """Indices `[D, max(S − 1, 1)]` of the seeds in each of D resamples.

  With S to a draw, the variance of a mean would come out `(S − 1) / S` of its
  true value: a third too little for three (Rao and Wu, JASA 83, 1988).
  """
  return rng.integers(seeds, size=(DRAWS, max(seeds - 1, 1)))


def bootstrap(
  value_SxP: np.ndarray,
  brief_DxP: np.ndarray,
  seed_DxS: np.ndarray | None = None,
) -> np.ndarray:
  """Means over resampled seeds and briefs.

  Args:
    value_SxP: one value for each seed and brief; NaN does not count.
    brief_DxP: resampled briefs, from `draw_groups`.
    seed_DxS: resampled seeds, from `draw_seeds`; if None, all seeds.

  Returns:
    The mean of each resample, `[D]`.
  """
  if seed_DxS is None:
    mean_DxP = metrics.mean(value_SxP, 0)[brief_DxP]
  else:
    mean_DxP = metrics.mean(value_SxP[seed_DxS], 1)
    mean_DxP = np.take_along_axis(mean_DxP, brief_DxP, 1)
  return metrics.mean(mean_DxP, 1)


def interval(value_D: np.ndarray) -> list[float]:
  """The middle 95% of the finite values; NaN if there are none."""
  known_D = value_D[np.isfinite(value_D)]
  return (
    [*np.percentile(known_D, [2.5, 97.5])] if known_D.size else [np.nan] * 2
  )


def paired_bootstrap(
  before_PxG: np.ndarray, after_PxG: np.ndarray, seed: int, draws: int = 10_000
) -> dict[str, float]:
  """Mean of `after − before` and its 95% interval, briefs resampled.

  NaN is a reply without a value; a brief counts if both sides have one.  Every
  value is NaN if no brief counts.
  """
  difference_P = metrics.mean(after_PxG, 1) - metrics.mean(before_PxG, 1)
  difference_P = difference_P[np.isfinite(difference_P)]
  if not difference_P.size:
    return dict.fromkeys(('mean', 'low', 'high'), np.nan)
  rng = np.random.default_rng(seed)
  brief_DxP = draw_groups(rng, len(difference_P), draws)
  low, high = interval(bootstrap(difference_P[None], brief_DxP))
  return {'mean': difference_P.mean(), 'low': low, 'high': high}


def grouped_interval(
  value_N: np.ndarray, group_N: np.ndarray, seed: int = 0, draws: int = 10_000
) -> list[float]:
  """The 95% interval of a mean, by a bootstrap over groups.

  Args:
    value_N: the values `[N]`.
    group_N: the group, such as the prompt, of each value; values of one group
      are not independent, so groups are resampled whole.
    seed: of the draws.
    draws: number of resamples.

  Returns:
    The lower and the upper end.
  """
  names, group_N = np.unique(group_N, return_inverse=True)
  total_C, count_C = np.bincount(group_N, value_N), np.bincount(group_N)
  group_DxC = draw_groups(np.random.default_rng(seed), len(names), draws)
  # a group weighs as much as it has values
  total_D = bootstrap(total_C[None], group_DxC)
  return interval(total_D / bootstrap(count_C[None], group_DxC))
