"""Two scores to one reward per reply: RLMR's dynamic penalty and baselines.

Every mixer is a pure function of `writing[P, G]` (higher is better) and
`violated[P, G]`, over groups of G replies to each of P briefs; replies with
`valid=False` take no part.  It returns `MixedRewards`, from which
`losses.group_advantages` makes advantages.  GRPO sees only differences within
a group, so rewards are given relative to the group's best writing score: a
small penalty is then not rounded away beside scores of a million.

`rlmr` carries the guarantee.  In a mixed group (`0 < n_v < n`), with margin
`δ > 0`,

    ζ = max(0, max_{v_i} w_i − mean(w) + δ) · n / (n − n_v),   r_i = w_i − ζ v_i

lowers the mean by `ζ n_v / n`, so the best violator ends at
`max_{v_i} w_i − mean(w) − ζ (n − n_v) / n ≤ −δ`: every violator's advantage is
negative whatever the scores, and order within either class stays that of `w`.
RLMR (arXiv 2508.18642) states this property; the formula is derived here, as
the paper's own was not at hand.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlcw import Config
from rlcw.losses import masked_mean_std

ALL_VIOLATING = ('suppress', 'rank', 'skip')
ADVANTAGE_SCALES = ('reward_std', 'writing_std', 'none')
STD_FLOOR = 1e-3  # of std(w), in which the margin is measured


class MixedRewards(NamedTuple):
  """What a mixer says of each group."""

  reward: jax.Array  # [P, G], relative to the group's best writing score
  baseline: jax.Array  # [P], what advantages are measured from
  valid: jax.Array  # [P, G], false where a reply gets no advantage at all
  penalty: jax.Array  # [P], ζ: what was taken from each violator
  writing_std: jax.Array  # [P], of the valid writing scores
  violators: jax.Array  # [P], share of valid replies that violate


def _group(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array, MixedRewards]:
  """Scores relative to the best, masks, and the unmixed result."""
  writing = writing.astype(jnp.float32)
  valid = jnp.ones(writing.shape, bool) if valid is None else valid
  violated = violated.astype(bool) & valid
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
  )
  return w, violated, valid, plain


def _with_reward(plain: MixedRewards, reward: jax.Array) -> MixedRewards:
  mean, _ = masked_mean_std(reward, plain.valid)
  return plain._replace(reward=reward, baseline=mean[:, 0])


def rlmr(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  margin: jax.Array | float = 0.5,
  all_violating: str = 'skip',
) -> MixedRewards:
  """RLMR's dynamic penalty (the module's docstring derives it).

  Args:
    writing: scores `[P, G]`, higher is better, in any unit.
    violated: `[P, G]`, true where the reply breaks a rule.
    valid: `[P, G]`, false where a reply could not be scored.
    margin: δ in units of the group's std of `writing`.
    all_violating: what to do when every valid reply violates, where no
      mean-centred reward can make all advantages negative: `suppress` measures
      from δ above the best (all negative), `rank` is plain GRPO on `writing`,
      `skip` leaves the group out.

  Raises:
    ValueError: `all_violating` is none of these.
  """
  if all_violating not in ALL_VIOLATING:
    raise ValueError(
      f'all_violating={all_violating!r} is unknown; legal: {ALL_VIOLATING}'
    )
  w, violated, valid, plain = _group(writing, violated, valid)
  delta = margin * jnp.maximum(plain.writing_std, STD_FLOOR)
  worst_offender = jnp.max(w, axis=-1, where=violated, initial=-jnp.inf)
  excess = worst_offender - plain.baseline + delta  # −inf without violators
  mixed = (plain.violators > 0) & (plain.violators < 1)
  compliant = jnp.where(mixed, 1 - plain.violators, 1.0)
  penalty = jnp.where(mixed, jnp.maximum(excess, 0.0) / compliant, 0.0)
  result = _with_reward(plain, w - penalty[:, None] * violated)
  lost = plain.violators == 1
  if all_violating == 'suppress':  # w is 0 at the best, so δ is above it
    baseline = jnp.where(lost, delta, result.baseline)
    return result._replace(baseline=baseline, penalty=penalty)
  if all_violating == 'skip':
    valid = valid & ~lost[:, None]
  return result._replace(valid=valid, penalty=penalty)


def writing_only(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Baseline: `r = w`; rules do not count."""
  return _group(writing, violated, valid)[-1]


def constraint_only(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Baseline: `r = 1 − v`; writing does not count."""
  _, violated, _, plain = _group(writing, violated, valid)
  return _with_reward(plain, 1.0 - violated)


def linear(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  weight: jax.Array | float = 1.0,
) -> MixedRewards:
  """Baseline: `r = w − weight · v`, the fixed-weight mix."""
  w, violated, _, plain = _group(writing, violated, valid)
  penalty = jnp.broadcast_to(jnp.asarray(weight, w.dtype), plain.penalty.shape)
  return _with_reward(plain, w - weight * violated)._replace(penalty=penalty)


def gate(
  writing: jax.Array, violated: jax.Array, valid: jax.Array | None = None
) -> MixedRewards:
  """Baseline: a violator gets the lowest writing score of its group."""
  w, violated, valid, plain = _group(writing, violated, valid)
  lowest = jnp.min(w, axis=-1, keepdims=True, where=valid, initial=0.0)
  return _with_reward(plain, jnp.where(violated, lowest, w))


def gdpo(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  weight: jax.Array | float = 1.0,
) -> MixedRewards:
  """Baseline: normalise each reward in its group, then add (GDPO, 2601.05242).

  `r = z(w) + weight · z(1 − v)`, `z` being mean 0 and std 1 within the group.
  """
  w, violated, valid, plain = _group(writing, violated, valid)

  def z(x: jax.Array) -> jax.Array:
    mean, std = masked_mean_std(x, valid)
    return (x - mean) / jnp.maximum(std, STD_FLOOR)

  return _with_reward(plain, z(w) + weight * z(1.0 - violated))


# name in a config: the mixer, and the settings that it takes from there
MIXERS: dict[str, tuple[Callable[..., MixedRewards], tuple[str, ...]]] = {
  'rlmr': (rlmr, ('margin', 'all_violating')),
  'writing': (writing_only, ()),
  'constraint': (constraint_only, ()),
  'linear': (linear, ('weight',)),
  'gate': (gate, ()),
  'gdpo': (gdpo, ('weight',)),
}
# those whose reward goes to 0 with the spread of the writing scores
IN_WRITING_UNITS = 'rlmr', 'writing', 'gate'


def check(settings: Config, advantage_scale: str) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  for name, value, legal in (
    ('mixing.name', settings.name, tuple(MIXERS)),
    ('mixing.all_violating', settings.all_violating, ALL_VIOLATING),
    ('advantage_scale', advantage_scale, ADVANTAGE_SCALES),
  ):
    if value not in legal:
      raise ValueError(f'{name}={value!r} is unknown; legal: {legal}')
  if not settings.margin > 0:
    raise ValueError(
      f'mixing.margin={settings.margin}; legal: above 0, or a violator could '
      'have an advantage that is not negative'
    )
  if advantage_scale == 'writing_std' and settings.name not in IN_WRITING_UNITS:
    raise ValueError(
      f"advantage_scale='writing_std' and mixing.name={settings.name!r}, whose "
      f'reward is in no unit of the writing score; legal: {IN_WRITING_UNITS}'
    )


def max_violator_advantage(
  advantage_PxG: jax.Array,
  violated_PxG: jax.Array,
  mixed: MixedRewards,
  *,
  all_violating: bool,
) -> jax.Array:
  """The largest advantage of a violator in a mixed group; −inf without one.

  Args:
    advantage_PxG: advantages made from `mixed`.
    violated_PxG: which replies violate.
    mixed: the mixer's result.
    all_violating: count the groups in which every reply violates, too.
  """
  counts = (mixed.violators < 1)[:, None] | all_violating
  offender = violated_PxG.astype(bool) & mixed.valid & counts
  return jnp.max(advantage_PxG, where=offender, initial=-jnp.inf)
