"""Mixing writing scores and rule violations into one reward per reply.

Every mixer is a pure function of `writing[P, G]` (higher is better) and
`violated[P, G]`, over groups of G replies to each of P briefs.  Replies with
`valid=False` are ignored.  A mixer returns `MixedRewards`, from which
`advantages` computes advantages.  GRPO depends only on differences within a
group, so rewards are relative to the group's best writing score: a small
penalty is then not rounded away next to scores of a million.

`rlmr` guarantees negative advantages for violators.  In a mixed group
(`0 < n_v < n`: n valid replies, n_v of them violating), with margin `δ > 0`,

    ζ = max(0, max_{v_i} w_i − mean(w) + δ) · n / (n − n_v),   r_i = w_i − ζ v_i

lowers the mean by `ζ n_v / n`, so the best violator ends at
`max_{v_i} w_i − mean(w) − ζ (n − n_v) / n ≤ −δ`.  Every violator's advantage is
negative whatever the scores, and within either class replies keep their order
by `w`.  RLMR (arXiv 2508.18642) states this property; the formula is derived
here, because the paper's own was not available.  So is the default margin.  The
paper's Figure 1 shows a larger one: writing scores 8.9 (keeps both rules) and
9.0 (breaks both) become rewards 9.0 and 3.5, a penalty of 5.5 on a scale of ten
points, where δ = 0.5 gives the violator 8.85.

`rlmr_bonus` and `rlmr_clip` have the same guarantee by other means; the mixers
of `baselines` have none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from rlcw import Config, losses
from rlcw.losses import rounding_std
from rlcw.rewards.baselines import (
  constraint_only,
  gate,
  gdpo,
  linear,
  quality_gate,
  writing_only,
)
from rlcw.rewards.mixed import (
  STD_FLOOR,
  MixedRewards,
  unmixed,
  with_reward,
  z_scores,
)

ALL_VIOLATING = ('suppress', 'rank', 'skip')
VIOLATIONS = 'any', 'share'  # values of `mixing.violation`
# Below this margin, rounding in float32 may undo the guarantee.  ζ grows with
# the group, and its rounding with ζ, so that larger groups need a larger one.
LEAST_MARGIN = 1e-3
_GROUP = 64


class Advantages(NamedTuple):
  """Mixed rewards of all P groups and their advantages, on the host."""

  rewards: MixedRewards
  reward: Any  # [P, G], by the mixer's formula; NaN where not valid
  advantage: Any  # [P, G]
  max_violator_advantage: Any  # [], −inf where no group is mixed


# --- RLMR -------------------------------------------------------------------


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
  _check(margin, all_violating, writing.shape[-1])
  w, broken, _, plain = unmixed(writing, violated, valid)
  penalty = _penalty(w, broken > 0, plain, margin)
  return _penalised(w, broken > 0, plain, penalty, margin, all_violating)


def rlmr_bonus(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  margin: jax.Array | float = 0.5,
  all_violating: str = 'skip',
) -> MixedRewards:
  """`rlmr`, whose penalty also keeps every compliant advantage at 0 or more.

  In a mixed group the penalty is at least

      ζ ≥ (mean(w) − min_{not v_i} w_i) · n / n_v,

  so the worst compliant reply ends at the mean or above it: keeping the rules
  never lowers a reply's probability.  Arguments and errors are those of `rlmr`.
  """
  _check(margin, all_violating, writing.shape[-1])
  w, broken, valid, plain = unmixed(writing, violated, valid)
  violator = broken > 0
  penalty = _penalty(w, violator, plain, margin)
  # `initial` changes nothing: w is at most 0.
  worst = jnp.min(w, axis=-1, where=valid & ~violator, initial=0.0)
  share = plain.violators
  mixed = (share > 0) & (share < 1)
  lift = (plain.baseline - worst) / jnp.where(mixed, share, 1.0)
  penalty = jnp.where(mixed, jnp.maximum(penalty, lift), penalty)
  return _penalised(w, violator, plain, penalty, margin, all_violating)


def rlmr_clip(
  writing: jax.Array,
  violated: jax.Array,
  valid: jax.Array | None = None,
  *,
  margin: jax.Array | float = 0.5,
  all_violating: str = 'skip',
) -> MixedRewards:
  """Standardised writing scores, bounded by −δ for violators.

      A_i = z(w_i)            of compliant replies
      A_i = min(z(w_i), −δ)   of violators

  z scales to mean 0 and std 1 within the group, so the order of the compliant
  replies has the same weight whatever the violators' scores; in exchange the
  advantages of a group do not add up to 0.  Arguments and errors are those of
  `rlmr`; an all-violating group has no advantage with `skip`, z with `rank` and
  the bound with `suppress`.
  """
  _check(margin, all_violating, writing.shape[-1])
  w, broken, valid, plain = unmixed(writing, violated, valid)
  z = z_scores(w, valid, rounding_std(writing, valid))
  bounded = jnp.minimum(z, -margin)
  alone = {'skip': jnp.zeros_like(z), 'rank': z, 'suppress': bounded}
  all_violate = plain.violators == 1
  advantage = jnp.where(
    all_violate[:, None],
    jnp.where(valid, alone[all_violating], 0.0),
    jnp.where(broken > 0, bounded, z),
  )
  return plain._replace(advantage=advantage)


def _penalty(
  w: jax.Array,
  violator: jax.Array,
  plain: MixedRewards,
  margin: jax.Array | float,
) -> jax.Array:
  """ζ `[P]` of the module's docstring; 0 in groups that are not mixed."""
  best_violator = jnp.max(w, axis=-1, where=violator, initial=-jnp.inf)
  # −inf without violators; `mixed` masks those groups below.
  excess = best_violator - plain.baseline + _delta(plain, margin)
  mixed = (plain.violators > 0) & (plain.violators < 1)
  # (n − n_v) / n, and 1 in groups that are not mixed, to avoid 0 / 0.
  compliant = jnp.where(mixed, 1 - plain.violators, 1.0)
  return jnp.where(mixed, jnp.maximum(excess, 0.0) / compliant, 0.0)


def _delta(plain: MixedRewards, margin: jax.Array | float) -> jax.Array:
  """δ `[P]`, which scales with the group: a margin fits scores of any unit."""
  return margin * jnp.maximum(plain.writing_std, STD_FLOOR)


def _penalised(
  w: jax.Array,
  violator: jax.Array,
  plain: MixedRewards,
  penalty: jax.Array,
  margin: jax.Array | float,
  all_violating: str,
) -> MixedRewards:
  """The result with a penalty `[P]` on violators, see `rlmr`."""
  result = with_reward(plain, w - penalty[:, None] * violator)
  all_violate = plain.violators == 1
  if all_violating == 'suppress':
    # The best w is 0, so a baseline of δ lies above every reward.
    delta = _delta(plain, margin)
    baseline = jnp.where(all_violate, delta, result.baseline)
    return result._replace(baseline=baseline, penalty=penalty)
  if all_violating == 'skip':
    mean = jnp.broadcast_to(result.baseline[:, None], result.reward.shape)
    reward = jnp.where(all_violate[:, None], mean, result.reward)
    result = result._replace(reward=reward)
  return result._replace(penalty=penalty)


def _check(
  margin: jax.Array | float, all_violating: str, group_size: int
) -> None:
  """Raises ValueError for an invalid argument of `rlmr`."""
  if not isinstance(margin, Tracer):
    check_margin(margin, group_size)
  if all_violating not in ALL_VIOLATING:
    raise ValueError(
      f'all_violating={all_violating!r}: expected one of {ALL_VIOLATING}'
    )


# --- Advantages -------------------------------------------------------------


def advantages(mixed: MixedRewards, scale: str = 'reward_std') -> jax.Array:
  """Computes the advantages `[P, G]` of mixed rewards.

  Those that the mixer gives, or else `losses.group_advantages`.

  Args:
    mixed: the mixer's result.
    scale: `advantage_scale` of a config.  'reward_std' divides by the std of
      the mixed reward, as in GRPO, which includes RLMR's penalty; 'writing_std'
      leaves it out; 'none' does not divide.
  """
  if mixed.advantage is not None:
    return mixed.advantage
  return losses.group_advantages(
    mixed.reward,
    mixed.valid,
    baseline_P=mixed.baseline,
    scale_P={
      'reward_std': None,
      'writing_std': mixed.writing_std,
      'none': jnp.ones_like(mixed.writing_std),
    }[scale],
    std_floor=mixed.std_floor,
  )


# --- Settings ---------------------------------------------------------------

_NUMBERS = {'margin': 0.5, 'weight': 1.0}  # as they are shipped


class Mixer(NamedTuple):
  """A mixer, and facts about its rewards."""

  mix: Callable[..., MixedRewards]
  settings: tuple[str, ...] = ()  # those of `mixing` that are passed to it
  # Rewards scale with the writing scores.  Only such can be divided by std(w):
  # others would blow up in a group of near-equal scores.
  in_writing_units: bool = False
  # A reply that keeps the rules has its writing score as reward.
  keeps_writing: bool = False
  # Rewards are w − ζ·v, with a penalty of 0 for some.
  subtracts_penalty: bool = False
  # Advantages, which nothing scales any more, come with the rewards.
  gives_advantages: bool = False
  # Takes the share of rules broken.  The guarantee of the others is for every
  # rule-breaker, however few rules it breaks.
  takes_shares: bool = False


_RLMR = 'margin', 'all_violating'
# By their names in a config.
MIXERS = {
  'rlmr': Mixer(
    rlmr,
    _RLMR,
    in_writing_units=True,
    keeps_writing=True,
    subtracts_penalty=True,
  ),
  'rlmr_bonus': Mixer(
    rlmr_bonus,
    _RLMR,
    in_writing_units=True,
    keeps_writing=True,
    subtracts_penalty=True,
  ),
  'rlmr_clip': Mixer(
    rlmr_clip,
    _RLMR,
    keeps_writing=True,
    subtracts_penalty=True,
    gives_advantages=True,
  ),
  'writing': Mixer(
    writing_only,
    in_writing_units=True,
    keeps_writing=True,
    subtracts_penalty=True,
  ),
  'constraint': Mixer(constraint_only, takes_shares=True),
  'linear': Mixer(
    linear,
    ('weight',),
    keeps_writing=True,
    subtracts_penalty=True,
    takes_shares=True,
  ),
  'gate': Mixer(gate, in_writing_units=True, keeps_writing=True),
  'quality_gate': Mixer(quality_gate, takes_shares=True),
  'gdpo': Mixer(gdpo, ('weight',), gives_advantages=True, takes_shares=True),
}


def names_of(fits: Callable[[Mixer], bool]) -> str:
  """Names of the mixers that fit, for errors."""
  return ', '.join(name for name, mixer in MIXERS.items() if fits(mixer))


def check_margin(margin: jax.Array | float, group_size: int = 2) -> None:
  """Raises ValueError for a margin too small for `rlmr`'s guarantee."""
  least = LEAST_MARGIN * max(1.0, group_size / _GROUP) ** 1.5
  # `not >=` also rejects NaN.
  if not margin >= least:
    raise ValueError(
      f'mixing.margin={margin}: expected a number of at least {least:.2g} for '
      f"groups of {group_size}; with a smaller one a violator's advantage may "
      'not be negative'
    )


def check(settings: Config, advantage_scale: str) -> None:
  """Checks the `mixing` settings of a config against `advantage_scale`.

  Raises:
    ValueError: they do not combine.
  """
  name, mixer = settings.name, MIXERS[settings.name]
  if advantage_scale == 'writing_std' and not mixer.in_writing_units:
    raise ValueError(
      f"advantage_scale='writing_std' does not fit mixing.name={name!r}, whose "
      'rewards are not in units of the writing score: expected one of '
      f'{names_of(lambda each: each.in_writing_units)}'
    )
  if advantage_scale != 'reward_std' and mixer.gives_advantages:
    raise ValueError(
      f'advantage_scale={advantage_scale!r} has no effect on mixing.name='
      f"{name!r}, which gives advantages itself: expected 'reward_std'"
    )
  for setting, default in _NUMBERS.items():
    given = settings.get(setting, default)
    if setting not in mixer.settings and given != default:
      readers = names_of(lambda each, s=setting: s in each.settings)
      raise ValueError(
        f'mixing.{setting}={given!r} has no effect on mixing.name='
        f'{name!r}: expected {default}, or mixing.name one of '
        f'{readers}'
      )
  alone = settings.get('all_violating', 'skip')
  if alone != 'skip' and 'all_violating' not in mixer.settings:
    takers = names_of(lambda each: 'all_violating' in each.settings)
    raise ValueError(
      f'mixing.all_violating={alone!r} does not fit mixing.name={name!r}, '
      "which treats such groups like any other: expected 'skip', or "
      f'mixing.name one of {takers}'
    )
  if settings.get('violation', 'any') == 'share' and not mixer.takes_shares:
    raise ValueError(
      f"mixing.violation='share' does not fit mixing.name={name!r}, which "
      'treats all rule-breakers alike: expected one of '
      f'{names_of(lambda each: each.takes_shares)}'
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
