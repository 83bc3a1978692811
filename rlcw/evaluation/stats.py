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


def grouped_interval(
  value_N: np.ndarray, group_N: np.ndarray, seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
  """The 95% interval of a mean, by a bootstrap over groups.

  Args:
    value_N: what the mean is of.
    group_N: the group, such as the prompt, of each: those of one are alike.
    seed: of the draws.
    draws: how many.
  """
  names, group_N = np.unique(group_N, return_inverse=True)
  total_C = np.bincount(group_N, value_N)
  count_C = np.bincount(group_N)
  rng = np.random.default_rng(seed)
  rows = rng.integers(len(names), size=(draws, len(names)))
  means = total_C[rows].sum(1) / count_C[rows].sum(1)
  low, high = np.percentile(means, [2.5, 97.5])
  return float(low), float(high)


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


DRAWS = 2000


def draw_seeds(rng: np.random.Generator, seeds: int) -> np.ndarray:
  """Which of S seeds a bootstrap's draws are of, `[D, max(S − 1, 1)]`.

  With S to a draw, the variance of a mean would come out `(S − 1) / S` of what
  it is: a third too little for three (Rao and Wu, JASA 83, 1988).
  """
  return rng.integers(seeds, size=(DRAWS, max(seeds - 1, 1)))


def bootstrap(
  value_SxP: np.ndarray, seed_DxS: np.ndarray, brief_DxP: np.ndarray
) -> np.ndarray:
  """Means `[D]` over drawn seeds and drawn briefs; NaN does not count."""
  seeds_DxP = metrics.mean(value_SxP[seed_DxS], 1)  # of the drawn runs
  return metrics.mean(np.take_along_axis(seeds_DxP, brief_DxP, 1), 1)


def interval(value_D: np.ndarray) -> list[float]:
  """The middle 95% of what was drawn."""
  known_D = value_D[np.isfinite(value_D)]
  return (
    [*np.percentile(known_D, [2.5, 97.5])] if known_D.size else [np.nan] * 2
  )


def paired_bootstrap(
  before_PxG: np.ndarray, after_PxG: np.ndarray, seed: int, draws: int = 10_000
) -> dict[str, float]:
  """Mean of `after − before` and its 95% interval, briefs resampled.

  A reply that is NaN has no value; where neither or only one side of a brief
  has any, the brief does not count.  All is NaN where no brief counts.
  """
  difference_P = metrics.mean(after_PxG, 1) - metrics.mean(before_PxG, 1)
  difference_P = difference_P[np.isfinite(difference_P)]
  if not difference_P.size:
    return dict.fromkeys(('mean', 'low', 'high'), np.nan)
  rng = np.random.default_rng(seed)
  rows = rng.integers(len(difference_P), size=(draws, len(difference_P)))
  low, high = np.percentile(difference_P[rows].mean(1), [2.5, 97.5])
  return {'mean': difference_P.mean(), 'low': low, 'high': high}
