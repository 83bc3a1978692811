"""Writing scores from comparisons within a group.

With W_ij the probability that reply i is better than reply j, of which
W_ij + W_ji = 1, the score of a reply is its mean against the replies M_i that
it was compared with,

    s_i = 1 / |M_i| · Σ_{j ∈ M_i} W_ij

(Sources: arXiv 2405.14655, whose reward is the expected preference over other
replies of the policy; arXiv 2604.05517.)  All are compared with one, drawn from
the group, in BRPO (arXiv 2506.00103), which takes the winner alone in place of
the probability.

Letters: P briefs, G replies to each, K pairs of a group, N pairs in all.
"""

from collections.abc import Sequence

import numpy as np


def count(mode: str, size: int, opponents: int) -> int:
  """Returns the number of pairs K of a group of `size` replies (`draw`)."""
  return len(draw(mode, size, opponents, (0,)))


def draw(
  mode: str, size: int, opponents: int, key: Sequence[int]
) -> np.ndarray:
  """Draws the pairs `[K, 2]` of a group that are compared, none of them twice.

  Args:
    mode: `round`: each reply meets `opponents` others, and where size and
      opponents are both odd, one reply meets one more.  `pivot`: one reply
      meets all others.
    size: of the group.
    opponents: from 1 to all others; if there are fewer, all of them.
    key: of the random numbers, not negative.
  """
  order_G = np.random.default_rng([*key]).permutation(size)
  if mode == 'pivot':
    return np.stack([np.full(size - 1, order_G[0]), order_G[1:]], 1)
  opponents, half = min(opponents, size - 1), size // 2
  # On a circle in random order each meets its neighbours on both sides.
  places = [
    (place, (place + distance) % size)
    for distance in range(1, opponents // 2 + 1)
    for place in range(size)
  ]
  if opponents % 2:
    places += [(place, place + half) for place in range(size - half)]
  return order_G[np.array(places, int).reshape(-1, 2)]


def win_matrix(
  pairs: Sequence[np.ndarray], won_N: np.ndarray, size: int
) -> np.ndarray:
  """Returns W `[P, G, G]`, NaN where two replies were not compared.

  Args:
    pairs: of each of P groups, `[K, 2]` each.
    won_N: probability that the first reply of a pair is better than the second,
      of all pairs in order; NaN where it is unknown.
    size: G.
  """
  win_PxGxG = np.full((len(pairs), size, size), np.nan)
  group_N = np.repeat(np.arange(len(pairs)), [len(each) for each in pairs])
  first_N, second_N = np.concatenate(pairs).T
  win_PxGxG[group_N, first_N, second_N] = won_N
  win_PxGxG[group_N, second_N, first_N] = 1 - won_N
  return win_PxGxG


def scores(win_PxGxG: np.ndarray) -> np.ndarray:
  """Returns s `[P, G]` by the formula of the module.

  NaN for a reply without a known comparison: it has no score, rather than 0.
  """
  known_PxG = np.isfinite(win_PxGxG).sum(2)
  # A NaN divisor gives NaN without comparisons, and no warning, unlike 0 / 0.
  return np.nansum(win_PxGxG, 2) / np.where(known_PxG, known_PxG, np.nan)
