"""Step 5 of GRPO: the batch of each update, from a step's mixed groups.

Letters: P briefs in a step, of which P' are this process's; G replies to each,
R texts (those, and a demonstration if a run has them), L prompt tokens,
T reply tokens.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.models import packing
from rlcw.runtime import processes
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import (
  demonstrating,
  minibatches,
  objective,
  relabelling,
)
from rlcw.tasks.grpo.mix import MixedStep, signals
from rlcw.tasks.grpo.relabelling import ScoredGroups


def make_updates(
  scored: ScoredGroups,
  rollout: Rollout,
  shown: demonstrating.Shown | None,
  mixed: MixedStep,
  old_policy: Callable[[packing.Part], jax.Array],
  step: int,
  config: Config,
  shards: processes.DataShards,
) -> list[objective.Batch]:
  """Step 5: makes the batch of each update.

  Args:
    scored: the briefs that are learned from, and scores.
    rollout: replies of all processes.
    shown: the demonstrations, if a run has them.
    mixed: of the step.
    old_policy: `objective.make_old_policy` of the step's parameters.
    step: of the run.
    config: of the `grpo` task.
    shards: splits groups over processes.
  """
  return make_batch(
    batch_arrays(scored, rollout, shown, mixed.rows, shards, config),
    lengths(mixed.stats, mixed.shown_P),
    (signals(mixed.advantages, mixed.rows, shards), mixed.kept_P),
    old_policy,
    step,
    config,
    shards.sharding,
  )


def make_batch(
  arrays: dict[str, Any],
  lengths: tuple[np.ndarray, np.ndarray],
  signal: tuple[np.ndarray, np.ndarray],
  old_policy: Callable[[packing.Part], jax.Array],
  step: int,
  config: Config,
  sharding: Any,
) -> list[objective.Batch]:
  """Divides the groups that are learned from among the updates.

  Args:
    arrays: of `batch_arrays`.
    lengths: of `lengths`.
    signal: `[P]`, groups that have an advantage, and `kept_groups` `[P]`.
    old_policy: `objective.make_old_policy` of the step's parameters.
    step: of the run.
    config: of the `grpo` task.
    sharding: of groups.
  """
  signal_P, kept_P = signal
  live_P = kept_P
  if objective.signals_only(config):
    live_P = kept_P & signal_P
  if objective.reads_old_policy(config):
    arrays['old_logp'] = objective.read_old_policy(
      old_policy, arrays, lengths, config, sharding, live_P
    )
  return [
    objective.pack(arrays, lengths, config, sharding, chosen_P, live_P)
    for chosen_P in minibatches.draw(kept_P, config, step)
  ]


def lengths(
  stats: dict[str, Any], shown_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens of all briefs `[P]` and of the texts `[P, R]` of their updates.

  Args:
    stats: of the step.
    shown_P: advantages of demonstrations, of which those at 0 have no tokens.
  """
  length_PxR = stats['length']
  if 'shown_length' in stats:
    shown_P = np.where(shown_P > 0, stats['shown_length'], 0)
    length_PxR = np.concatenate([length_PxR, shown_P[:, None]], axis=1)
  return stats['prompt_length'], length_PxR


def batch_arrays(
  scored: ScoredGroups,
  rollout: Rollout,
  shown: demonstrating.Shown | None,
  rows: dict[str, Any],
  shards: processes.DataShards,
  config: Config,
) -> dict[str, Any]:
  """Arrays that updates are made of, every one split over the P groups.

  Args:
    scored: the briefs, and the scores for the reference log-probabilities
      `[P, G, T]`, if any.
    rollout: the replies.
    shown: the demonstrations, if there are any.
    rows: this process's, of `valid`, `advantage` and, if these have a
      penalty, `located` tokens `[P', G, T]`, and of `demonstrated` `[P']`.
    shards: splits rows over devices.
    config: of the `grpo` task.
  """
  prompt_PxL, length_P, _ = scored.arrays
  arrays = {'prompt': prompt_PxL, 'length': length_P, 'rollout': rollout}
  if scored.scores.ref_logp is not None:
    arrays['ref_logp'] = scored.scores.ref_logp
  if shown is not None:
    arrays['demonstration'] = shown.rollout
  names = 'valid', 'advantage', 'located', 'demonstrated'
  own = {name: rows[name] for name in names if name in rows}
  if relabelling.relabels(config):
    own['relabelled'] = scored.changed_P
  # XLA chose the sharding of the rollout's outputs; one fixed sharding here
  # keeps the update from being compiled again.
  return jax.device_put(arrays, shards.sharding) | shards.to_global(own)
