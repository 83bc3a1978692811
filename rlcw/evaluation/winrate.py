"""Win rates of one model's replies over another's, plain and length-controlled.

Judges and reward models favour long replies, so a model can win by growing
longer.  As in AlpacaEval 2 (arXiv 2404.04475), a logistic model explains each
comparison by the model that replied and by the difference in length Δ,

    P(ours wins) = σ(θ + φ · tanh(Δ / std Δ)),

and the length-controlled win rate is its prediction at Δ = 0, σ(θ).  AlpacaEval
also fits the difficulty of each instruction over many models; here only two
models are compared, on the same briefs, so there is no such term.

Where one side is nearly always the longer, the data do not tell θ from φ, and
no win rate at equal length is reported (`confounded`).

Letters: N comparisons; S runs and P briefs of a table (`intervals`).
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from rlcw.evaluation import intervals

# L2 penalty on θ and φ: without it they diverge where one model always wins.
_RIDGE = 0.1
# Not identified: the variance of θ is this many times as large as with φ known
# (its variance inflation factor, Marquardt, Technometrics 12, 1970), ...
_MOST_INFLATION = 5.0
# ... or either side is at most as long as the other on fewer briefs than this.
_LEAST_BRIEFS = 5


def scored(ours_N: np.ndarray, theirs_N: np.ndarray) -> np.ndarray:
  """Outcomes `[N]`: 1 where ours scores higher, 0 where theirs, 0.5 for a tie.

  NaN where either score is NaN.
  """
  difference_N = np.asarray(ours_N, float) - np.asarray(theirs_N, float)
  won_N = (difference_N > 0) + 0.5 * (difference_N == 0)
  return np.where(np.isfinite(difference_N), won_N, np.nan)


class Fit(NamedTuple):
  """θ and φ, and how far the data determine θ."""

  theta: float
  phi: float
  pull_N: np.ndarray  # the change of θ by each comparison, to first order
  error: float  # standard error of θ if comparisons are independent
  inflation: float  # variance of θ over that with φ known


def fit(won_N: np.ndarray, longer_N: np.ndarray) -> Fit:
  """Fits θ and φ by 20 steps of Newton's method, each of at most 4.

  Args:
    won_N: outcome of each comparison, 0 to 1.
    longer_N: `tanh(Δ / std Δ)` of each, Δ the length of ours less theirs.
  """
  x_Nx2 = np.stack([np.ones_like(longer_N), longer_N], -1)
  beta_2 = np.zeros(2)

  def information() -> tuple[np.ndarray, np.ndarray]:
    p_N = special.expit(x_Nx2 @ beta_2)
    return won_N - p_N, (x_Nx2 * (p_N * (1 - p_N))[:, None]).T @ x_Nx2

  for _ in range(20):
    # gradient and negative Hessian of the penalized log-likelihood
    rest_N, known_2x2 = information()
    slope_2 = rest_N @ x_Nx2 - _RIDGE * beta_2
    step_2 = np.linalg.solve(known_2x2 + _RIDGE * np.eye(2), slope_2)
    # a full step can overshoot where p is close to 0 or 1
    beta_2 += np.clip(step_2, -4, 4)
  rest_N, known_2x2 = information()
  covariance_2x2 = np.linalg.inv(known_2x2 + _RIDGE * np.eye(2))
  (a, b), (_, c) = known_2x2
  theta, phi = beta_2
  return Fit(
    theta,
    phi,
    # the influence function of θ
    (x_Nx2 * rest_N[:, None]) @ covariance_2x2[0],
    covariance_2x2[0, 0] ** 0.5,
    # without any difference in length there is nothing to tell from θ
    1.0 if not longer_N.any() else 1 / max(1 - b * b / (a * c), 1e-12),
  )


def scale(longer_N: np.ndarray) -> np.ndarray:
  """Returns `tanh(Δ / std Δ)`, ±1 where all Δ are the same and not 0."""
  longer_N = np.asarray(longer_N, float)
  spread = longer_N.std()
  return np.tanh(longer_N / spread) if spread > 0 else np.sign(longer_N)


def confounded(
  longer_N: np.ndarray, brief_N: np.ndarray, inflation: float
) -> str:
  """Says why a win rate at equal length is not identified; '' if it is.

  It is a guess about lengths that do not occur unless each side is the shorter
  one, or as long as the other, on some briefs.

  Args:
    longer_N: length of ours less that of theirs.
    brief_N: the brief of each comparison.
    inflation: as in `Fit`.
  """
  fewest = min(
    len(np.unique(brief_N[some])) for some in (longer_N <= 0, longer_N >= 0)
  )
  enough = fewest >= _LEAST_BRIEFS and inflation <= _MOST_INFLATION
  if enough or not longer_N.any():
    return ''
  more, less = np.mean(longer_N > 0), np.mean(longer_N < 0)
  return (
    f'ours is the longer reply in {more:.0%} of {len(longer_N)} comparisons, '
    f'the shorter in {less:.0%}: too few to tell length from quality'
  )


def summary(
  won_N: np.ndarray,
  longer_N: np.ndarray,
  brief_N: np.ndarray,
  seed_N: np.ndarray | None = None,
) -> dict[str, Any]:
  """Win rates with 95% intervals over briefs and seeds.

  Args:
    won_N: outcomes: 1, 0, or 0.5 for a tie; NaN where there is no verdict,
      which is left out.
    longer_N: length of ours less that of theirs, in any unit.
    brief_N: the brief of each comparison.
    seed_N: the run whose reply is ours; None if there is one run.

  Returns:
    `compared` and `uncompared`, the numbers of comparisons with and without a
    verdict; where `compared` is not 0, also `win_rate`, `ties` (a share),
    `length_controlled_win_rate`, the two rates' `…_interval`, and
    `win_rate_over`, the chance that these include.  Where the rate at equal
    length is not identified, it and its interval are None, and
    `length_controlled_reason` (otherwise '') has the cause.
  """
  known_N = np.isfinite(won_N)
  result: dict[str, Any] = {
    'compared': int(known_N.sum()),
    'uncompared': int((~known_N).sum()),
  }
  if not known_N.any():
    return result
  won_N, longer_N = won_N[known_N], np.asarray(longer_N, float)[known_N]
  brief_N = np.asarray(brief_N)[known_N]
  seed_N = np.zeros(len(won_N)) if seed_N is None else seed_N[known_N]
  rate, *ends = intervals.share(*intervals.table(won_N, brief_N, seed_N))
  result |= {
    'win_rate': rate,
    'win_rate_interval': ends,
    'win_rate_over': intervals.scope(len(np.unique(seed_N))),
    'ties': np.mean(won_N == 0.5),
    'length_controlled_win_rate': None,
    'length_controlled_win_rate_interval': None,
  }
  found = fit(won_N, scale(longer_N))
  reason = confounded(longer_N, brief_N, found.inflation)
  result['length_controlled_reason'] = reason
  if not reason:
    # θ is to first order the mean of these, about which they vary
    pull_N = found.pull_N * len(won_N)
    pull_SxP, count_SxP = intervals.table(pull_N, brief_N, seed_N)
    middle, _, high = intervals.mean(pull_SxP, count_SxP)
    # Where length alone decides, no comparison is a surprise and these are all
    # near 0; the larger of the two errors is the safe one.
    freedom = intervals.freedom(count_SxP.sum(0) / count_SxP.sum())
    half = max(high - middle, intervals.quantile(freedom) * found.error)
    theta_3 = found.theta + np.array([0, -half, half])
    rate, *ends = special.expit(theta_3)
    result['length_controlled_win_rate'] = rate
    result['length_controlled_win_rate_interval'] = ends
  return result
