"""Worker that runs rlcw's task `grpo`, a step per command.

Answers two commands: `step`, and `ceilings`, which measures the machine with
XLA programs in this process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from ml_collections import ConfigDict
from peers import roofs, worker

from configs import grpo
from rlcw import train
from rlcw.models.language_model import LanguageModel
from rlcw.runtime import metrics
from rlcw.tasks.grpo import run, step


def settings(case: dict[str, Any]) -> ConfigDict:
  """Settings of configs/grpo.py, with the values that all tools share."""
  config = grpo.get_config()
  config.update(
    model=case['model'],
    briefs=case['briefs'],
    prompts_per_step=len(case['prompts']),
    group_size=case['group'],
    microbatch_groups=case['microbatch'],
    max_new_tokens=case['reply_tokens'],
    temperature=case['temperature'],
    learning_rate=case['learning_rate'],
    seed=case['seed'],
    warmup_steps=0,
    remat=False,
    kl_weight=0.0,  # there is no reference then
    # advantages from the reward below alone
    writing='peers.rlcw_step:reward',
    verifiers=(),
    mixing=dict(name='writing'),
    steps=10**6,
    checkpoint_every=10**6,
    show_every=0,
    loggers=(),
  )
  return config


def reward(briefs: Any, replies: list[list[str]]) -> list[list[float]]:
  """The reward that all tools share, as a function of the task's user."""
  case = worker.read_case()
  words = [case['words'][int(brief.id)] for brief in briefs]
  return [
    worker.rewards(case, [word] * len(group), group)
    for word, group in zip(words, replies, strict=True)
  ]


def commanded(
  case: dict[str, Any], clock: worker.Clock
) -> Callable[..., Callable[[train.TrainState, int], train.Batch]]:
  """Returns a `step.make_next_batch` whose batches wait for a command.

  `train.fit` requests the next batch as soon as it has dispatched an update, so
  a request answers the command before.
  """
  commands, compilations = clock.commands(), metrics.Compilations()
  replies = len(case['prompts']) * case['group']

  def make_next_batch(model: LanguageModel, *others: Any) -> Any:
    next_batch = step.make_next_batch(model, *others)
    if not case['natural']:
      # Replaces the values of cached properties, for the scorer as well.  No
      # token has this id, so every reply has full length.
      ends = {'eos_ids': (model.config.vocab_size,), 'stop_ids': ()}
      vars(model.chat).update(ends)
    pending: dict[str, Any] = {}

    def on_command(state: train.TrainState, number: int) -> train.Batch:
      if pending:
        # Dispatch is asynchronous: wait for the update.
        jax.block_until_ready(state)
        compiled = compilations.count - pending.pop('before')
        clock.step_done(**pending, compiled=compiled)
      for command in commands:
        if command == 'step':
          break
        # Measured in this process, with the threads and memory of the step.
        clock.answer(**roofs.measure(model.config, roofs.shapes(case)))
      else:
        raise SystemExit
      pending['before'] = compilations.count
      batch = next_batch(state, number)
      made = batch.metrics
      clock.rollout = made['seconds_rollout']
      pending.update(
        tokens=round(made['length_mean'] * replies),
        cut=made['truncated'],
        no_signal=made['no_signal_groups'],
      )
      return batch

    return on_command

  return make_next_batch


def main() -> None:
  case, clock = worker.read_case(), worker.Clock()
  workdir = Path(case['workdir']) / 'rlcw'
  workdir.mkdir(parents=True, exist_ok=True)
  with mock.patch.object(run, 'make_next_batch', commanded(case, clock)):
    run.run(settings(case), workdir)


if __name__ == '__main__':
  main()
