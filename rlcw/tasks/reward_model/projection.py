"""Takes the direction of length out of a head, after it was fitted.

Letters: N replies, D features.
"""

import numpy as np

# Replies whose worth lies in the same of so many equal parts of the scale's
# distinct values are of like quality: with labels, those with the same label.
_CLASSES = 10


def length_direction(
  features_NxD: np.ndarray, length_N: np.ndarray, worth_N: np.ndarray
) -> np.ndarray:
  """Direction `[D]`, of norm 1, in which features change with length alone.

  It is that of `Σ f_i − f_j` over all pairs in which reply i is longer than j
  and of like quality: the mean difference of features between longer and
  shorter replies (after arXiv 2603.03291).
  Reply i is the longer one in as many pairs as there are shorter replies of
  like quality, so the sum is `Σ (shorter_i − longer_i) f_i`.

  Args:
    features_NxD: of the replies.
    length_N: in characters.
    worth_N: higher is better.  Replies of like worth are compared across
      prompts, because the replies to one prompt differ in worth.

  Returns:
    Zeros if no two replies of like quality differ in length or in features.
  """
  edges = np.quantile(np.unique(worth_N), np.arange(1, _CLASSES) / _CLASSES)
  class_N = np.digitize(worth_N, edges)
  sum_D = np.zeros(features_NxD.shape[1])
  for each in np.unique(class_N):
    like_N = class_N == each
    length = length_N[like_N]
    ordered = np.sort(length)
    shorter = np.searchsorted(ordered, length, 'left')
    longer = length.size - np.searchsorted(ordered, length, 'right')
    sum_D += (shorter - longer) @ features_NxD[like_N]
  norm = np.linalg.norm(sum_D)
  return sum_D / norm if norm > 0 else sum_D


def project_out(
  weight_D: np.ndarray, direction_D: np.ndarray, share: float = 1.0
) -> np.ndarray:
  """Returns `h − α (p · h) p` for the weight h and the direction p.

  The score of features f no longer changes along p if α is 1, as with
  `f − α (p · f) p` for f (arXiv 2603.03291): one weight replaces both.

  Args:
    weight_D: of the head.
    direction_D: of any length above 0; zeros change nothing.
    share: α, the part that is taken out.
  """
  power = direction_D @ direction_D
  if power == 0:
    return weight_D
  return weight_D - share * (direction_D @ weight_D) / power * direction_D
