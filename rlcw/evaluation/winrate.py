"""Win rates of one model's replies over another's, plain and length-controlled.

Judges and reward models favour long replies, so a model can win by growing
longer.  As in AlpacaEval 2 (arXiv 2404.04475), a logistic model explains each
comparison by the model that replied and by the difference in length Δ,

    P(ours wins) = σ(θ + φ · tanh(Δ / std Δ)),

and the length-controlled win rate is its prediction at Δ = 0, σ(θ).  AlpacaEval
also fits the difficulty of each instruction over many models; here only two
models are compared, on the same briefs, so there is no such term.

Letters: N comparisons, D weightings of them (bootstrap draws), C groups.
"""

from typing import Any

import numpy as np

# L2 penalty on θ and φ: without it they diverge where one model always wins.
_RIDGE = 0.1


def scored(ours_N: np.ndarray, theirs_N: np.ndarray) -> np.ndarray:
  """Outcomes `[N]`: 1 where ours scores higher, 0 where theirs, 0.5 for a tie.

  NaN where either score is NaN.
  """
  difference_N = np.asarray(ours_N, float) - np.asarray(theirs_N, float)
  won_N = (difference_N > 0) + 0.5 * (difference_N == 0)
  return np.where(np.isfinite(difference_N), won_N, np.nan)


def fit(
  won_N: np.ndarray, longer_N: np.ndarray, weight_DxN: np.ndarray
) -> np.ndarray:
  """Fits θ and φ for each of D weightings by Newton's method.

  All weightings are fitted at once, with 20 steps of at most 4.

  Args:
    won_N: outcome of each comparison, 0 to 1.
    longer_N: `tanh(Δ / std Δ)` of each, Δ the length of ours less theirs.
    weight_DxN: number of times that each comparison counts.

  Returns:
    θ and φ, `[D, 2]`.
  """
  x_Nx2 = np.stack([np.ones_like(longer_N), longer_N], -1)
  beta_Dx2 = np.zeros((len(weight_DxN), 2))
  for _ in range(20):
    p_DxN = 1 / (1 + np.exp(-beta_Dx2 @ x_Nx2.T))
    # gradient and negative Hessian of the penalized log-likelihood
    slope_Dx2 = (weight_DxN * (won_N - p_DxN)) @ x_Nx2 - _RIDGE * beta_Dx2
    curve_DxN = weight_DxN * p_DxN * (1 - p_DxN)
    curve_Dx2x2 = np.einsum('dn,ni,nj->dij', curve_DxN, x_Nx2, x_Nx2)
    curve_Dx2x2 += _RIDGE * np.eye(2)
    step_Dx2 = np.linalg.solve(curve_Dx2x2, slope_Dx2[..., None])[..., 0]
    # a full step can overshoot where p is close to 0 or 1
    beta_Dx2 += np.clip(step_Dx2, -4, 4)
  return beta_Dx2


def length_controlled(
  won_N: np.ndarray, longer_N: np.ndarray, weight_DxN: np.ndarray
) -> np.ndarray:
  """Win rates at equal length `[D]`, one for each of D weightings.

  Args:
    won_N: outcomes: 1, 0, or 0.5 for a tie.
    longer_N: length of ours less that of theirs, in any unit.
    weight_DxN: number of times that each comparison counts.
  """
  # where all lengths are equal there is nothing to control for
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
  """Win rates with 95% intervals from a bootstrap over groups.

  Args:
    won_N: outcomes: 1, 0, or 0.5 for a tie; NaN where there is no verdict,
      which is left out.
    longer_N: length of ours less that of theirs, in any unit.
    group_N: the brief of each comparison.
    seed: of the draws.
    draws: number of draws.

  Returns:
    `compared` and `uncompared`, the numbers of comparisons with and without a
    verdict; where `compared` is not 0, also `win_rate`, `ties` (a share),
    `length_controlled_win_rate`, and the two rates' `…_interval`.
  """
  known_N = np.isfinite(won_N)
  result: dict[str, Any] = {
    'compared': int(known_N.sum()),
    'uncompared': int((~known_N).sum()),
  }
  if not known_N.any():
    return result
  won_N, longer_N = won_N[known_N], np.asarray(longer_N, float)[known_N]
  names, group_N = np.unique(group_N[known_N], return_inverse=True)
  # Replies to one brief are alike, so briefs are drawn, not comparisons.  A
  # draw is expressed as the number of times that each brief occurs in it.
  rng = np.random.default_rng(seed)
  rows_DxC = rng.integers(len(names), size=(draws, len(names)))
  count_DxC = np.apply_along_axis(
    np.bincount, 1, rows_DxC, minlength=len(names)
  )
  # row 0, all ones, gives the rates themselves; the draws follow
  weight_DxN = np.concatenate([np.ones_like(count_DxC[:1]), count_DxC])
  weight_DxN = weight_DxN[:, group_N].astype(float)
  rates = {
    'win_rate': weight_DxN @ won_N / weight_DxN.sum(1),
    'length_controlled_win_rate': length_controlled(
      won_N, longer_N, weight_DxN
    ),
  }
  result['ties'] = np.mean(won_N == 0.5)
  for name, rate_D in rates.items():
    result[name] = rate_D[0]
    result[f'{name}_interval'] = np.percentile(rate_D[1:], [2.5, 97.5])
  return result
