"""A writing reward of several parts, and DAPO's penalty of overlong replies.

Parts have units of their own, such as logits and probabilities.  So each may be
normalised within its group before the weighted parts are added.  The sum is the
`writing` of `mixing`: whatever the parts and their weights, the mixer's
guarantee holds for it.

Letters: K parts, P groups of G replies.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlcw.losses import rounding_std
from rlcw.rewards.mixed import z_scores

LOGIT = float(np.log(1e6))  # largest log-odds, of a probability of 1 − 10⁻⁶


def weighted_sum(part_KxPxG: Sequence[Any], weight_K: Sequence[float]) -> Any:
  """Returns the sum `[P, G]` of arrays, each times its weight."""
  weighted = map(operator.mul, weight_K, part_KxPxG)
  return functools.reduce(operator.add, weighted)


def combine(
  score_KxPxG: jax.Array | np.ndarray,
  weight_K: Sequence[float],
  valid_PxG: jax.Array | np.ndarray,
  *,
  normalise: bool,
) -> jax.Array:
  """Returns the weighted sum `[P, G]` of parts, in float32.

  Args:
    score_KxPxG: scores, NaN where there is none.
    weight_K: of the parts.
    valid_PxG: false for replies that are left out of their group.
    normalise: scale each part to mean 0 and std 1 over the valid replies of its
      group.  A part that is constant in a group, but for rounding, is then 0.

  Returns:
    NaN where a reply is not valid or lacks the score of any part.
  """
  score_KxPxG = jnp.asarray(score_KxPxG, jnp.float32)
  known_PxG = jnp.asarray(valid_PxG) & jnp.isfinite(score_KxPxG).all(0)
  # NaN times a mask of 0 would be NaN still.
  parts = [jnp.where(known_PxG, score_PxG, 0.0) for score_PxG in score_KxPxG]
  if normalise:
    parts = [
      z_scores(part_PxG, known_PxG, rounding_std(part_PxG, known_PxG))
      for part_PxG in parts
    ]
  return jnp.where(known_PxG, weighted_sum(parts, weight_K), jnp.nan)


def log_odds(probability: np.ndarray) -> np.ndarray:
  """Returns `ln p / (1 − p)` of probabilities of any shape, NaN of NaN.

  A judge that is sure, such as one that was trained on verdicts, calls all
  replies Good with probabilities close to 1, whose log-odds still differ.  They
  are within ±`LOGIT`: nearer to 1, probabilities in float32 are too coarse.
  """
  p = np.asarray(probability, np.float64)
  with np.errstate(divide='ignore'):
    return np.clip(np.log(p) - np.log1p(-p), -LOGIT, LOGIT)


def overlong_penalty(
  length: np.ndarray, longest: int, buffer: int
) -> np.ndarray:
  """Returns DAPO's soft penalty, from −1 to 0, of replies by their length.

  0 up to `longest − buffer` tokens, then falling linearly to −1 at `longest`.
  Source: DAPO, arXiv 2503.14476, equation 13.

  Args:
    length: tokens of each reply, its end included, of any shape.
    longest: tokens that a reply may have.
    buffer: tokens before that over which the penalty grows, at least 1.
  """
  over = np.asarray(length, np.float32) - (longest - buffer)
  return -np.clip(over / buffer, 0.0, 1.0)
