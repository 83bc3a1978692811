"""Mixers that RLMR is compared with; none of them has its guarantee.

Each is a pure function of `writing[P, G]` and `violated[P, G]` like those of
`mixing`, whose table `MIXERS` has them all.  `violated` may be the share of
rules that a reply breaks, in `[0, 1]`, where a docstring writes v rather than
"violators".
"""

import jax
import jax.numpy as jnp

from rlcw.losses import deviations, masked_mean_std, rounding_std
from rlcw.rewards.mixed import (
  STD_FLOOR,
  MixedRewards,
  unmixed,
  with_own_unit,
  with_reward,
  z_scores,
)


def writing_only(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """`r = w`, ignoring the rules."""
  return unmixed(writing, violated, valid)[-1]


def constraint_only(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """`r = 1 − v`, ignoring the writing score."""
  _, broken, _, plain = unmixed(writing, violated, valid)
  return with_own_unit(plain, 1.0 - broken)


def linear(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  weight: jax.Array | float = 1.0,
) -> MixedRewards:
  """`r = w − weight · v`, a fixed penalty in the unit of `w`."""
  w, broken, _, plain = unmixed(writing, violated, valid)
  penalty = jnp.broadcast_to(jnp.asarray(weight, w.dtype), plain.penalty.shape)
  return with_reward(plain, w - weight * broken)._replace(penalty=penalty)


def gate(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Violators get the lowest valid writing score of their group."""
  w, broken, valid, plain = unmixed(writing, violated, valid)
  # `initial` changes nothing: w is at most 0.
  lowest = jnp.min(w, axis=-1, keepdims=True, where=valid, initial=0.0)
  return with_reward(plain, jnp.where(broken > 0, lowest, w))


def quality_gate(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Rules are rewarded more in replies that are written well.

  With `V = 1 − v` and α the group's mean of w,

      r = V + 1    if V > 0 and w > α
      r = V − 0.5  if V > 0 and w ≤ α
      r = V        if V = 0

  (Source: IF-RLVR, arXiv 2507.02833, eq. 2, which sets α to about the mean
  score of its data; a group's own mean suits writing scores of any unit.)
  """
  w, broken, valid, plain = unmixed(writing, violated, valid)
  kept = 1.0 - broken
  well = deviations(w, valid) > rounding_std(writing, valid)
  bonus = jnp.where(well, 1.0, -0.5)
  return with_own_unit(plain, kept + jnp.where(kept > 0, bonus, 0.0))


def gdpo(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  weight: jax.Array | float = 1.0,
) -> MixedRewards:
  """Normalises each reward in its group, adds them, and whitens the batch.

      s = z(w) + weight · z(1 − v),   A = (s − mean s) / std s

  z scales to mean 0 and std 1 within a group; mean and std of s are over all
  valid replies of the step.  (Source: GDPO, arXiv 2601.05242.)
  """
  w, broken, valid, plain = unmixed(writing, violated, valid)
  reward = z_scores(w, valid, rounding_std(writing, valid))
  reward += weight * z_scores(1.0 - broken, valid, 0.0)
  flat, every = reward.reshape(1, -1), valid.reshape(1, -1)
  _, std = masked_mean_std(flat, every)
  advantage = deviations(flat, every) / jnp.maximum(std, STD_FLOOR)
  return with_own_unit(plain, reward)._replace(
    advantage=advantage.reshape(reward.shape)
  )
