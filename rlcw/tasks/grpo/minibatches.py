"""Minibatches: how the updates of a step divide its groups.

A rollout of `prompts_per_step` groups serves `updates_per_rollout` updates.

  updates_per_rollout=4                        4 updates of a quarter each
  updates_per_rollout=4, minibatch_groups=P    4 passes over all P groups
  updates_per_rollout=4, minibatch_groups=P/2  2 passes, of 2 updates each

In the words of other tools, `minibatch_groups` is verl's `ppo_mini_batch_size`,
and the number of passes is its `ppo_epochs`, or TRL's `num_iterations`.  Of a
minibatch, the gradients of `microbatch_groups` groups are computed at a time,
which changes only the memory.

Letter: P briefs that were sampled in a step, a group each.
"""

from collections.abc import Sequence

import numpy as np

from rlcw import Config


def updates(config: Config) -> int:
  """Number of updates of a step."""
  # Configs of earlier versions do not have the setting.
  return config.get('updates_per_rollout', 1)


def size(config: Config) -> int:
  """Number of groups of an update."""
  given = config.get('minibatch_groups', 0)
  return given or config.prompts_per_step // updates(config)


def micro(config: Config) -> int:
  """Largest number of groups whose gradient is computed at a time."""
  return min(config.microbatch_groups or size(config), size(config))


def fits(config: Config) -> bool:
  """True if microbatches divide a minibatch."""
  return size(config) % micro(config) == 0


def check(config: Config, valid: Sequence[int]) -> None:
  """Checks the minibatches of a step.

  Args:
    config: of the `grpo` task.
    valid: the numbers of groups that divide `prompts_per_step` and split over
      the devices.

  Raises:
    ValueError: they do not divide the groups of a step, or microbatches do not
      divide them; names the setting and the expected values.
  """
  prompts, count = config.prompts_per_step, updates(config)
  given = config.get('minibatch_groups', 0)
  if given and given not in valid:
    raise ValueError(
      f'minibatch_groups={given} must divide prompts_per_step={prompts} and '
      f'split over the devices; expected one of {[*valid]}, or 0'
    )
  if given and count * given % prompts:
    raise ValueError(
      f'updates_per_rollout={count} of minibatch_groups={given} do not learn '
      f'equally often from each of the prompts_per_step={prompts} groups; '
      f'expected a multiple of {prompts // given}'
    )
  counts = sorted(prompts // each for each in valid)
  if not given and count not in counts:
    raise ValueError(
      f'updates_per_rollout={count} must divide prompts_per_step={prompts} '
      'into minibatches that split over the devices; expected one of '
      f'{counts}, or any number of passes with minibatch_groups={prompts}'
    )
  if not fits(config):
    dividing = [each for each in valid if size(config) % each == 0]
    raise ValueError(
      f'microbatch_groups={config.microbatch_groups} must divide the '
      f'{size(config)} groups of an update; expected one of {dividing}'
    )


def draw(kept_P: np.ndarray, config: Config, step: int) -> list[np.ndarray]:
  """Draws the groups of each update: masks `[P]`.

  Each pass over the groups has an order of its own, a function of (seed, step,
  pass).

  Args:
    kept_P: true for the `prompts_per_step` groups that are learned from.
    config: of the `grpo` task.
    step: of the run.
  """
  groups, masks = np.flatnonzero(kept_P), []
  for number in range(updates(config) * size(config) // len(groups)):
    order = np.random.default_rng((config.seed, step, number))
    for chosen in order.permutation(groups).reshape(-1, size(config)):
      masks.append(np.isin(np.arange(len(kept_P)), chosen))
  return masks
