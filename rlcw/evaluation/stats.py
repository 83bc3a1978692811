"""Statistics: bootstrap intervals, and agreement of scores with preferences.

Most functions take pairs `[N, 2]`, that of the preferred reply first; the last
ones replies `[N]`, each labelled as good or bad.
"""

from typing import Any

import numpy as np

from rlcw.runtime import metrics

MATCHED = 0.1  # lengths within this share of the longer one are alike


def right(score_Nx2: np.ndarray) -> np.ndarray:
  """`[N]`: 1 where the preferred reply scores higher, half for a tie."""
  difference_N = score_Nx2[:, 0] - score_Nx2[:, 1]
  return (difference_N > 0) + 0.5 * (difference_N == 0)


def accuracy(score_Nx2: np.ndarray) -> float:
  """Share of pairs that are right."""
  return float(right(score_Nx2).mean())


def calibration(
  score_Nx2: np.ndarray, bins: int = 10
) -> dict[str, list[float]]:
  """How sure the score is of its better reply, and how often it is right.

  Returns:
    For each bin of confidence `σ(|s_1 − s_2|)` that holds any pair, its mean
    confidence, its accuracy and its share of the pairs.
  """
  difference_N = score_Nx2[:, 0] - score_Nx2[:, 1]
  sure_N = 1 / (1 + np.exp(-np.abs(difference_N)))
  right_N = right(score_Nx2)
  bin_N = np.minimum(((sure_N - 0.5) * 2 * bins).astype(int), bins - 1)
  members = [bin_N == b for b in np.unique(bin_N)]
  return {
    'confidence': [float(sure_N[m].mean()) for m in members],
    'accuracy': [float(right_N[m].mean()) for m in members],
    'share': [float(m.mean()) for m in members],
  }


def expected_calibration_error(score_Nx2: np.ndarray) -> float:
  """Mean gap of confidence and accuracy (Guo et al., arXiv 1706.04599)."""
  table = {k: np.array(v) for k, v in calibration(score_Nx2).items()}
  gap = np.abs(table['confidence'] - table['accuracy'])
  return float((gap * table['share']).sum())


def matched(length_Nx2: np.ndarray) -> np.ndarray:
  """`[N]`, which pairs are of about the same length."""
  gap_N = np.abs(length_Nx2[:, 0] - length_Nx2[:, 1])
  return gap_N <= MATCHED * length_Nx2.max(1)


def agreement(
  score_Nx2: np.ndarray, length_Nx2: np.ndarray, group_N: np.ndarray
) -> dict[str, Any]:
  """Accuracy beside what length alone would get; None where no pair is left.

  Args:
    score_Nx2: of each pair.
    length_Nx2: characters.
    group_N: the prompt of each pair.
  """
  told: dict[str, Any] = {
    'heldout_pairs': len(score_Nx2),
    'heldout_accuracy': accuracy(score_Nx2),
    'length_only_accuracy': accuracy(length_Nx2),
    'calibration_error': expected_calibration_error(score_Nx2),
  }
  shorter_N = length_Nx2[:, 0] < length_Nx2[:, 1]
  for name, some_N in (
    ('matched', matched(length_Nx2)),
    ('shorter_better', shorter_N),
  ):
    any_left = bool(some_N.any())
    score, length = score_Nx2[some_N], length_Nx2[some_N]
    told |= {
      f'{name}_pairs': int(some_N.sum()),
      f'{name}_accuracy': accuracy(score) if any_left else None,
      f'{name}_interval': grouped_interval(right(score), group_N[some_N])
      if any_left
      else None,
      f'{name}_length_only': accuracy(length) if any_left else None,
    }
  return told


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float:
  """How often a good reply scores higher than a bad one; a tie counts half.

  The area under the ROC curve; NaN where either kind is missing.
  """
  good_A, bad_B = score_N[label_N], score_N[~label_N]
  pairs = np.stack(np.broadcast_arrays(good_A[:, None], bad_B), -1)
  return accuracy(pairs.reshape(-1, 2)) if pairs.size else float('nan')


def balanced(right_N: np.ndarray, label_N: np.ndarray) -> float:
  """Share that is right, as a mean over the labels that there are."""
  sides = [right_N[label_N == side].mean() for side in np.unique(label_N)]
  return float(np.mean(sides)) if sides else float('nan')


def right_at_length(
  verdict_N: np.ndarray, label_N: np.ndarray, length_N: np.ndarray
) -> np.ndarray:
  """How verdicts part good from bad where length cannot.

  Args:
    verdict_N: whether each reply was found good.
    label_N: whether it is.
    length_N: characters.

  Returns:
    `[N]`: of the pairs that a reply makes with those of the other label and of
    about its length, the share in the right order, a tie counting half; NaN
    where it makes none.  A verdict on length alone gets one half; one that is
    put right lifts its reply by one half.
  """
  lengths = np.stack(np.broadcast_arrays(length_N[:, None], length_N), -1)
  alike_NxN = matched(lengths.reshape(-1, 2)).reshape(lengths.shape[:2])
  pair_NxN = alike_NxN & (label_N[:, None] != label_N)
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

  NaN is a reply without a value; a brief counts if both sides have one.  All is
  NaN if no brief counts.
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
