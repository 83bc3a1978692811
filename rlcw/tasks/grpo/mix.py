"""Step 4 of GRPO: writing scores and violations become advantages.

Every process mixes all P groups, from gathered numbers, and so decides alike.

Letters: P briefs in a step, of which P' are this process's; G replies to each,
R texts (those, and a demonstration if a run has them), T reply tokens.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config, losses
from rlcw.models.chat import ChatFormat
from rlcw.rewards import mixing, parts
from rlcw.rewards.located import locate_violations
from rlcw.rewards.parts import overlong_penalty
from rlcw.runtime import processes, sums
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import demonstrating
from rlcw.tasks.grpo.demonstrating import Shown
from rlcw.tasks.grpo.relabelling import ScoredGroups


def with_penalty(stats: dict[str, Any], config: Config) -> dict[str, Any]:
  """Adds `writing/overlong` to a step's statistics, if overlong replies cost.

  The longest replies may end or be cut.  A cut one has a penalty of −1 and is a
  violation as well.
  """
  buffer = config.get('overlong_buffer', 0)
  if not buffer:
    return stats
  penalty_PxG = overlong_penalty(stats['length'], config.max_new_tokens, buffer)
  return stats | {'writing/overlong': penalty_PxG}


_combine = jax.jit(parts.combine, static_argnames='normalise')


def combine(stats: dict[str, Any], config: Config) -> np.ndarray:
  """The writing reward `[P, G]` that is mixed with the violations.

  It is the writing score itself, unless this has several parts, or overlong
  replies are penalised.

  Args:
    stats: of the step (`logs.gather_stats`, `with_penalty`).
    config: of the `grpo` task.
  """
  reward_PxG, weights = stats['writing'], sums.parse(config.writing)
  if len(weights) > 1:
    reward_PxG = jax.device_get(
      _combine(
        np.stack([stats[f'writing/{name}'] for name in weights]),
        [*weights.values()],
        stats['valid'],
        normalise=config.normalise_parts,
      )
    )
  if 'writing/overlong' in stats:
    reward_PxG = reward_PxG + stats['writing/overlong']
  return reward_PxG


def make_mix(config: Config) -> Callable[..., mixing.Advantages]:
  """Returns the function `(writing, violated, valid) -> Advantages`.

  All three are `[P, G]`.  A reply that is not valid (no score, or a missing
  verdict) is left out of its group's statistics; it is never given a reward of
  zero, which would be a reward like any other.
  """
  mixer = mixing.MIXERS[config.mixing.name]
  # Strings select code, so they are fixed when `mix` is traced; numbers are
  # traced arguments, whose values do not cause a recompilation.
  static = {n: config.mixing[n] for n in mixer.settings if n == 'all_violating'}
  # Groups that could not be relabelled have nothing to learn from.
  if static.get('all_violating') == 'relabel':
    static['all_violating'] = 'skip'
  numbers = {n: config.mixing[n] for n in mixer.settings if n not in static}
  all_negative = static.get('all_violating') == 'suppress'

  @jax.jit
  def mix(
    writing_PxG: jax.Array,
    violated_PxG: jax.Array,
    valid_PxG: jax.Array,
    numbers: Any,
  ):
    # A missing score is NaN, and NaN times a mask of 0 is NaN still.
    writing_PxG = jnp.where(valid_PxG, writing_PxG, 0.0)
    rewards = mixer.mix(
      writing_PxG, violated_PxG, valid_PxG, **static, **numbers
    )
    advantage_PxG = mixing.advantages(rewards, config.advantage_scale)
    # Mixed rewards are relative to their group's best: good for advantages, but
    # not for a mean over groups.  Those of `all_violating` are not shown.
    if mixer.subtracts_penalty:
      reward_PxG = writing_PxG - rewards.penalty[:, None] * violated_PxG
    else:
      reward_PxG = rewards.reward + rewards.best[:, None]
    reward_PxG = jnp.where(rewards.valid, reward_PxG, jnp.nan)
    # RLMR guarantees that this is below 0; the run logs it as a check.
    worst = mixing.max_violator_advantage(
      advantage_PxG, violated_PxG, rewards, all_violating=all_negative
    )
    return mixing.Advantages(rewards, reward_PxG, advantage_PxG, worst)

  return lambda *scores: jax.device_get(mix(*scores, numbers))


def violations(stats: dict[str, Any], config: Config) -> np.ndarray:
  """The violations `[P, G]` that are mixed: flags, or shares of broken rules.

  Args:
    stats: of the step (`logs.gather_stats`).
    config: of the `grpo` task.
  """
  # The guarantee is for whoever breaks a rule; some mixers take the share.
  names = {'any': 'violated', 'share': 'broken_share'}
  return stats[names[config.mixing.get('violation', 'any')]]


def kept_groups(advantage_PxR: np.ndarray, config: Config) -> np.ndarray:
  """Selects the groups `[P]` of a step that are learned from.

  All, or with `oversample` the first ones that have a signal; if they are too
  few, the first ones without it too.  (Source: dynamic sampling of DAPO, arXiv
  2503.14476, §3.2, which samples again until a batch is full.)
  """
  signal_P = np.any(abs(advantage_PxR) > losses.LEAST_ADVANTAGE, axis=1)
  # Stable: among equals, the order of the epoch's permutation.
  first = np.argsort(~signal_P, kind='stable')[: config.prompts_per_step]
  kept_P = np.zeros(len(advantage_PxR), bool)
  kept_P[first] = True
  return kept_P


class MixedStep(NamedTuple):
  """A step's replies, mixed: of all processes, if not noted."""

  stats: dict[str, Any]  # of `logs.gather_stats`, with the penalties
  advantages: mixing.Advantages
  kept_P: np.ndarray  # groups that are learned from
  shown_P: np.ndarray  # advantages of demonstrations; zeros without them
  rows: dict[str, Any]  # of `local_rows`, of this process


def mix_step(
  mix: Callable[..., mixing.Advantages],
  stats: dict[str, Any],
  scored: ScoredGroups,
  rollout: Rollout,
  shown: Shown | None,
  shards: processes.DataShards,
  chat: ChatFormat,
  step: int,
  config: Config,
) -> MixedStep:
  """Step 4: makes an advantage for each reply of a step.

  Args:
    mix: of `make_mix`.
    stats: of the step (`logs.gather_stats`).
    scored: the briefs that are learned from, and scores.
    rollout: this process's replies.
    shown: the demonstrations, if a run has them.
    shards: splits groups over processes.
    chat: decodes replies.
    step: of the run.
    config: of the `grpo` task.
  """
  stats = with_penalty(stats, config)
  writing_PxG = combine(stats, config)
  advantages = mix(writing_PxG, violations(stats, config), stats['valid'])
  shown_P = np.zeros(len(advantages.advantage), np.float32)
  if shown:
    shown_P = demonstrating.advantages(
      stats, writing_PxG, advantages.rewards, step, config
    )
  signal_PxR = np.concatenate([advantages.advantage, shown_P[:, None]], axis=1)
  kept_P = kept_groups(signal_PxR, config)
  rows = local_rows(advantages, kept_P, scored, rollout, shards, chat, config)
  if shown:
    rows['demonstrated'] = shards.local_slice(shown_P)
    rows['records'] = demonstrating.records(shown, rows['demonstrated'])
  if writing_PxG is not stats['writing']:
    rows['writing_reward'] = shards.local_slice(writing_PxG)
  return MixedStep(stats, advantages, kept_P, shown_P, rows)


def local_rows(
  advantages: mixing.Advantages,
  kept_P: np.ndarray,
  scored: ScoredGroups,
  rollout: Rollout,
  shards: processes.DataShards,
  chat: ChatFormat,
  config: Config,
) -> dict[str, Any]:
  """Returns this process's rows of a step's mixed rewards.

  Args:
    advantages: of all groups.
    kept_P: of `kept_groups`.
    scored: the briefs that are learned from, and scores.
    rollout: this process's replies.
    shards: splits groups over processes.
    chat: decodes replies.
    config: of the `grpo` task.

  Returns:
    `kept` `[P']`; `valid`, `reward` and `advantage` `[P', G]`; and with
    `located_penalty` the `spans` of characters `[P'][G]` and the tokens
    `located` `[P', G, T]` that break a rule.
  """
  rows: dict[str, Any] = {
    'kept': shards.local_slice(kept_P),
    'valid': shards.local_slice(advantages.rewards.valid),
    'reward': shards.local_slice(advantages.reward),
    'advantage': shards.local_slice(advantages.advantage),
  }
  if config.mixing.get('located_penalty', 0.0):
    rows['spans'], rows['located'] = locate_violations(
      scored.briefs,
      scored.scores.text,
      scored.scores.violated & rows['valid'],
      rollout,
      chat,
    )
  return rows


def signals(
  advantages: mixing.Advantages,
  rows: dict[str, Any],
  shards: processes.DataShards,
) -> np.ndarray:
  """Groups `[P]` with an advantage other than 0, of any text or token.

  Args:
    advantages: of all groups.
    rows: of `local_rows`.
    shards: gathers the rows.
  """
  signal_P = advantages.advantage.any(1)
  if 'located' in rows:
    located_P = rows['located'].any((1, 2))
    signal_P = signal_P | np.concatenate(shards.gather(located_P))
  if 'demonstrated' in rows:
    shown_P = rows['demonstrated'] > 0
    signal_P = signal_P | np.concatenate(shards.gather(shown_P))
  return signal_P
