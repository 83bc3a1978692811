"""Mixing writing scores and rule violations into one reward per reply.

Every mixer is a pure function of `writing[P, G]` (higher is better) and
`violated[P, G]`, over groups of G replies to each of P briefs.  Replies with
`valid=False` are ignored.  A mixer returns `MixedRewards`, from which
`losses.group_advantages` computes advantages.  GRPO depends only on differences
within a group, so rewards are relative to the group's best writing score: a
small penalty is then not rounded away next to scores of a million.

`rlmr` guarantees negative advantages for violators.  In a mixed group
(`0 < n_v < n`: n valid replies, n_v of them violating), with margin `δ > 0`,

    ζ = max(0, max_{v_i} w_i − mean(w) + δ) · n / (n − n_v),   r_i = w_i − ζ v_i

lowers the mean by `ζ n_v / n`, so the best violator ends at
`max_{v_i} w_i − mean(w) − ζ (n − n_v) / n ≤ −δ`.  Every violator's advantage is
negative whatever the scores, and within either class replies keep their order
by `w`.  RLMR (arXiv 2508.18642) states this property; the formula is derived
here, because the paper's own was not available.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from rlcw import Config
from rlcw.losses import deviations, masked_mean_std, rounding_std

ALL_VIOLATING = ('suppress', 'rank', 'skip')
# Least std(w) used as a unit.  Without it a group of equal scores would have a
# margin of 0, and its violators advantages that are not negative.
STD_FLOOR = 1e-3
# Below this margin, rounding in float32 may undo the guarantee.
LEAST_MARGIN = 1e-3


class MixedRewards(NamedTuple):
  """Rewards of P groups of G replies, with each group's statistics."""

  reward: jax.Array  # [P, G], relative to the group's best writing score
  baseline: jax.Array  # [P], subtracted from rewards to give advantages
  valid: jax.Array  # [P, G], false: not scored; the reply's advantage is 0
  penalty: jax.Array  # [P], ζ, subtracted from each violator's reward
  writing_std: jax.Array  # [P], of the valid writing scores
  violators: jax.Array  # [P], share of valid replies that violate
  std_floor: jax.Array  # [P], of `group_advantages`: less may be rounding


class Advantages(NamedTuple):
  """Mixed rewards of all P groups and their advantages, on the host."""

  rewards: MixedRewards
  reward: Any  # [P, G], w − ζ·v in the unit of w; NaN where not valid
  advantage: Any  # [P, G]
  max_violator_advantage: Any  # [], −inf where no group is mixed


def _group(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, MixedRewards]:
  """Relative scores, violation mask, valid mask, and the unmixed result."""
  writing = writing.astype(jnp.float32)
  valid = jnp.ones(writing.shape, bool) if valid is None else valid
  violated = violated.astype(bool) & valid
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
    violators=violated.sum(-1) / count,
    # Of the scores as given: `w` no longer shows how large they were.
    std_floor=jnp.maximum(STD_FLOOR, rounding_std(writing, valid)[:, 0]),
  )
  return w, violated, valid, plain


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


def _with_reward(plain: MixedRewards, reward: jax.Array) -> MixedRewards:
  mean, _ = masked_mean_std(reward, plain.valid)
  return plain._replace(reward=reward, baseline=mean[:, 0])


def _with_own_unit(plain: MixedRewards, reward: jax.Array) -> MixedRewards:
  """The result with rewards that do not scale with the writing scores."""
  floor = jnp.full_like(plain.std_floor, STD_FLOOR)
  return _with_reward(plain, reward)._replace(std_floor=floor)


def rlmr(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  margin: jax.Array | float = 0.5,
  all_violating: str = 'skip',
) -> MixedRewards:
  """RLMR's dynamic penalty, derived in the module's docstring.

  Args:
    writing: scores `[P, G]`, higher is better, in any unit.
    violated: `[P, G]`, true if the reply breaks a rule.
    valid: `[P, G]`, false if the reply could not be scored.
    margin: δ in units of the group's std of `writing`, at least `LEAST_MARGIN`.
    all_violating: treatment of groups in which every valid reply violates.  No
      mean-centred reward can make all their advantages negative: `suppress`
      uses a baseline δ above the best (all negative), `rank` is plain GRPO on
      `writing`, `skip` gives all their replies the mean reward, so that none
      has an advantage.

  Raises:
    ValueError: `all_violating` is not one of these, or the margin, if it is not
      traced, is too small.
  """
  if not isinstance(margin, Tracer):
    check_margin(margin)
  if all_violating not in ALL_VIOLATING:
    raise ValueError(
      f'all_violating={all_violating!r}: expected one of {ALL_VIOLATING}'
    )
  w, violated, _, plain = _group(writing, violated, valid)
  # δ scales with the group, so one margin fits reward models of any unit.
  delta = margin * jnp.maximum(plain.writing_std, STD_FLOOR)
  best_violator = jnp.max(w, axis=-1, where=violated, initial=-jnp.inf)
  # −inf without violators; `mixed` masks those groups below.
  excess = best_violator - plain.baseline + delta
  mixed = (plain.violators > 0) & (plain.violators < 1)
  # (n − n_v) / n, and 1 in groups that are not mixed, to avoid 0 / 0.
  compliant = jnp.where(mixed, 1 - plain.violators, 1.0)
  penalty = jnp.where(mixed, jnp.maximum(excess, 0.0) / compliant, 0.0)
  result = _with_reward(plain, w - penalty[:, None] * violated)
  all_violate = plain.violators == 1
  if all_violating == 'suppress':
    # The best w is 0, so a baseline of δ lies above every reward.
    baseline = jnp.where(all_violate, delta, result.baseline)
    return result._replace(baseline=baseline, penalty=penalty)
  if all_violating == 'skip':
    mean = jnp.broadcast_to(result.baseline[:, None], result.reward.shape)
    reward = jnp.where(all_violate[:, None], mean, result.reward)
    result = result._replace(reward=reward)
  return result._replace(penalty=penalty)


def writing_only(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Baseline: `r = w`, ignoring the rules."""
  return _group(writing, violated, valid)[-1]


def constraint_only(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Baseline: `r = 1 − v`, ignoring the writing score."""
  _, violated, _, plain = _group(writing, violated, valid)
  return _with_own_unit(plain, 1.0 - violated)


def linear(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  weight: jax.Array | float = 1.0,
) -> MixedRewards:
  """Baseline: `r = w − weight · v`, a fixed penalty in the unit of `w`."""
  w, violated, _, plain = _group(writing, violated, valid)
  penalty = jnp.broadcast_to(jnp.asarray(weight, w.dtype), plain.penalty.shape)
  return _with_reward(plain, w - weight * violated)._replace(penalty=penalty)


def gate(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Baseline: violators get the lowest valid writing score of their group."""
  w, violated, valid, plain = _group(writing, violated, valid)
  # `initial` changes nothing: w is at most 0.
  lowest = jnp.min(w, axis=-1, keepdims=True, where=valid, initial=0.0)
  return _with_reward(plain, jnp.where(violated, lowest, w))


def gdpo(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  weight: jax.Array | float = 1.0,
) -> MixedRewards:
  """Baseline: normalises each reward in its group, then adds them.

  `r = z(w) + weight · z(1 − v)`, where `z` scales to mean 0 and std 1 within
  the group (GDPO, arXiv 2601.05242).
  """
  w, violated, valid, plain = _group(writing, violated, valid)
  z_writing = z_scores(w, valid, rounding_std(writing, valid))
  reward = z_writing + weight * z_scores(1.0 - violated, valid, 0.0)
  return _with_own_unit(plain, reward)


# Name in a config -> (mixer, the settings of `mixing` passed to it).
MIXERS: dict[str, tuple[Callable[..., MixedRewards], tuple[str, ...]]] = {
  'rlmr': (rlmr, ('margin', 'all_violating')),
  'writing': (writing_only, ()),
  'constraint': (constraint_only, ()),
  'linear': (linear, ('weight',)),
  'gate': (gate, ()),
  'gdpo': (gdpo, ('weight',)),
}
# Mixers whose rewards scale with the writing scores.  Only theirs can be
# divided by std(w): others would blow up in a group of near-equal scores.
IN_WRITING_UNITS = 'rlmr', 'writing', 'gate'


def check_margin(margin: jax.Array | float) -> None:
  """Raises ValueError for a margin too small for `rlmr`'s guarantee."""
  # `not >=` also rejects NaN.
  if not margin >= LEAST_MARGIN:
    raise ValueError(
      f'mixing.margin={margin}: expected a number of at least {LEAST_MARGIN}; '
      "with a smaller one a violator's advantage may not be negative"
    )


def check(settings: Config, advantage_scale: str) -> None:
  """Checks the `mixing` settings of a config against `advantage_scale`.

  Raises:
    ValueError: the two do not combine.
  """
  if advantage_scale == 'writing_std' and settings.name not in IN_WRITING_UNITS:
    raise ValueError(
      f"advantage_scale='writing_std' does not fit mixing.name="
      f'{settings.name!r}, whose rewards are not in units of the writing '
      f'score: expected one of {IN_WRITING_UNITS}'
    )


def max_violator_advantage(
  advantage_PxG: jax.Array,
  violated_PxG: jax.Array,
  mixed: MixedRewards,
  *,
  all_violating: bool,
) -> jax.Array:
  """Largest advantage of any violator in a mixed group; −inf without one.

  A metric that checks the guarantee of `rlmr`: it must stay negative.

  Args:
    advantage_PxG: advantages computed from `mixed`.
    violated_PxG: true where a reply violates.
    mixed: the mixer's result.
    all_violating: also include groups in which every reply violates.
  """
  included = (mixed.violators < 1)[:, None] | all_violating
  violator = violated_PxG.astype(bool) & mixed.valid & included
  return jnp.max(advantage_PxG, where=violator, initial=-jnp.inf)
