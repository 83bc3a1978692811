"""Rewards of groups, as every mixer returns them.

See `mixing` for RLMR, and `baselines` for the mixers that it is compared with.

Letters: P groups, G replies in each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlcw.losses import deviations, masked_mean_std, rounding_std

# Least std(w) used as a unit.  Without it a group of equal scores would have a
# margin of 0, and its violators advantages that are not negative.
STD_FLOOR = 1e-3


class MixedRewards(NamedTuple):
  """Rewards of P groups of G replies, with each group's statistics."""

  reward: jax.Array  # [P, G], less `best`
  baseline: jax.Array  # [P], subtracted from rewards to give advantages
  valid: jax.Array  # [P, G], false: not scored; the reply's advantage is 0
  penalty: jax.Array  # [P], ζ, subtracted from each violator's reward
  writing_std: jax.Array  # [P], of the valid writing scores
  violators: jax.Array  # [P], share of valid replies that violate
  std_floor: jax.Array  # [P], of `group_advantages`: less may be rounding
  # [P], the group's best writing score; 0 for rewards in a unit of their own.
  best: jax.Array
  # [P, G], of mixers that define advantages rather than rewards; else None.
  advantage: jax.Array | None = None


def unmixed(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, MixedRewards]:
  """Returns a mixer's arguments in a common form, and the unmixed result.

  Args:
    writing: scores `[P, G]`.
    violated: `[P, G]`, true if the reply breaks a rule; or the share in [0, 1]
      of the rules that it breaks.
    valid: `[P, G]`, false if the reply could not be scored; None: all true.

  Returns:
    Scores relative to the group's best, shares of broken rules in float32 and
    the mask of valid replies, all `[P, G]`; both numbers are 0 where a reply is
    not valid.  And the result of a mixer that returns the scores as they are.
  """
  writing = writing.astype(jnp.float32)
  valid = jnp.ones(writing.shape, bool) if valid is None else valid
  broken = jnp.where(valid, violated.astype(jnp.float32), 0.0)
  # Subtracting the best before any other arithmetic keeps float32 precise for
  # large scores.  Invalid ones may be NaN, and −inf is the best of an empty
  # group: both are masked to 0.
  best = jnp.max(writing, axis=-1, keepdims=True, where=valid, initial=-jnp.inf)
  w = jnp.where(valid, writing - best, 0.0)
  mean, std = masked_mean_std(w, valid)
  count = jnp.maximum(valid.sum(-1), 1)
  plain = MixedRewards(
    reward=w,
    baseline=mean[:, 0],
    valid=valid,
    penalty=jnp.zeros(w.shape[0]),
    writing_std=std[:, 0],
    violators=(broken > 0).sum(-1) / count,
    # Of the scores as given: `w` no longer shows how large they were.
    std_floor=jnp.maximum(STD_FLOOR, rounding_std(writing, valid)[:, 0]),
    best=jnp.where(valid.any(-1), best[:, 0], 0.0),
  )
  return w, broken, valid, plain


def with_reward(plain: MixedRewards, reward: jax.Array) -> MixedRewards:
  """The result with other rewards `[P, G]`, in the unit of the scores."""
  mean, _ = masked_mean_std(reward, plain.valid)
  return plain._replace(reward=reward, baseline=mean[:, 0])


def with_own_unit(plain: MixedRewards, reward: jax.Array) -> MixedRewards:
  """The result with rewards that do not scale with the writing scores."""
  return with_reward(plain, reward)._replace(
    std_floor=jnp.full_like(plain.std_floor, STD_FLOOR),
    best=jnp.zeros_like(plain.best),
  )


def z_scores(
  x_PxG: jax.Array, valid_PxG: jax.Array, rounding_Px1: jax.Array | float
) -> jax.Array:
  """Scales x to mean 0 and std 1 over the valid replies of each group.

  Args:
    x_PxG: scores, finite everywhere.
    valid_PxG: false where a reply is left out; it gets 0.
    rounding_Px1: a std that rounding may give to equal scores; a group without
      a larger one gets zeros.  A std below `STD_FLOOR` counts as that.
  """
  _, std = masked_mean_std(x_PxG, valid_PxG)
  # Not only bounded: the advantages are divided by the std of a sum, which
  # would scale up what rounding leaves if the other terms are constant.
  unit = jnp.where(std > rounding_Px1, jnp.maximum(std, STD_FLOOR), jnp.inf)
  return deviations(x_PxG, valid_PxG) / unit
