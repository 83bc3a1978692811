"""How often one model's replies beat another's, and how often at one length.

Judges and reward models favour length, so that a model wins by growing.  As
AlpacaEval 2 does (arXiv 2404.04475), a logistic model explains each comparison
by who replied and by the difference in length,

    P(ours wins) = σ(θ + φ · tanh(Δ / std Δ)),

and the length-controlled win rate is what it says for Δ = 0, σ(θ).  AlpacaEval
also fits the difficulty of each instruction, over many models; two models here
are compared alone, on the same briefs, so that there is no such term.
"""

from typing import Any

import numpy as np

# An L2 penalty on θ and φ, which would be infinite where all is won.
_RIDGE = 0.1


def scored(ours_N: np.ndarray, theirs_N: np.ndarray) -> np.ndarray:
  """`[N]`: 1 where ours scores higher, 0 where theirs does, a tie half.

  NaN where a score is.
  """
  difference_N = np.asarray(ours_N, float) - np.asarray(theirs_N, float)
  won_N = (difference_N > 0) + 0.5 * (difference_N == 0)
  return np.where(np.isfinite(difference_N), won_N, np.nan)


def fit(
  won_N: np.ndarray, longer_N: np.ndarray, weight_DxN: np.ndarray
) -> np.ndarray:
  """θ and φ `[D, 2]` for each of D weightings, by Newton's method.

  Args:
    won_N: from 0 to 1, of each comparison.
    longer_N: how much longer ours is, in units of its std, after tanh.
    weight_DxN: how often each comparison counts.
  """
  x_Nx2 = np.stack([np.ones_like(longer_N), longer_N], -1)
  beta_Dx2 = np.zeros((len(weight_DxN), 2))
  for _ in range(20):
    p_DxN = 1 / (1 + np.exp(-beta_Dx2 @ x_Nx2.T))
    slope_Dx2 = (weight_DxN * (won_N - p_DxN)) @ x_Nx2 - _RIDGE * beta_Dx2
    curve_DxN = weight_DxN * p_DxN * (1 - p_DxN)
    curve_Dx2x2 = np.einsum('dn,ni,nj->dij', curve_DxN, x_Nx2, x_Nx2)
    curve_Dx2x2 += _RIDGE * np.eye(2)
    step_Dx2 = np.linalg.solve(curve_Dx2x2, slope_Dx2[..., None])[..., 0]
    beta_Dx2 += np.clip(step_Dx2, -4, 4)
  return beta_Dx2


def length_controlled(
  won_N: np.ndarray, longer_N: np.ndarray, weight_DxN: np.ndarray
) -> np.ndarray:
  """The win rate at equal length, `[D]`, for each of D weightings.

  Args:
    won_N: 1, 0, or between for a tie.
    longer_N: length of ours less that of theirs, in any unit.
    weight_DxN: how often each comparison counts.
  """
  spread = longer_N.std()
  scaled_N = np.tanh(longer_N / spread) if spread > 0 else 0.0 * longer_N
  return 1 / (1 + np.exp(-fit(won_N, scaled_N, weight_DxN)[:, 0]))


def summary(
  won_N: np.ndarray,
  longer_N: np.ndarray,
  group_N: np.ndarray,
  seed: int = 0,
  draws: int = 1000,
) -> dict[str, Any]:
  """Win rates with 95% intervals, by a bootstrap over groups.

  Args:
    won_N: of each comparison, 1, 0, or between for a tie; NaN where nobody
      said, which does not count.
    longer_N: length of ours less that of theirs, in any unit.
    group_N: the brief of each.
    seed: of the draws.
    draws: how many.

  Returns:
    `compared`, and where that is not 0 `win_rate`, `ties`,
    `length_controlled_win_rate`, and the two rates' `…_interval`.
  """
  known_N = np.isfinite(won_N)
  told: dict[str, Any] = {
    'compared': int(known_N.sum()),
    'uncompared': int((~known_N).sum()),
  }
  if not known_N.any():
    return told
  won_N, longer_N = won_N[known_N], np.asarray(longer_N, float)[known_N]
  names, group_N = np.unique(group_N[known_N], return_inverse=True)
  rng = np.random.default_rng(seed)
  rows_DxC = rng.integers(len(names), size=(draws, len(names)))
  count_DxC = np.apply_along_axis(
    np.bincount, 1, rows_DxC, minlength=len(names)
  )
  weight_DxN = np.concatenate([np.ones_like(count_DxC[:1]), count_DxC])
  weight_DxN = weight_DxN[:, group_N].astype(float)
  rates = {
    'win_rate': weight_DxN @ won_N / weight_DxN.sum(1),
    'length_controlled_win_rate': length_controlled(
      won_N, longer_N, weight_DxN
    ),
  }
  told['ties'] = np.mean(won_N == 0.5)
  for name, rate_D in rates.items():
    told[name] = rate_D[0]
    told[f'{name}_interval'] = np.percentile(rate_D[1:], [2.5, 97.5])
  return told
