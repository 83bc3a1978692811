"""Worker that takes single GRPO steps with rlcw, as its task `grpo` does.

Answers two commands: `step`, and `ceilings`, which measures the machine with
XLA programs in this process.
"""

from typing import Any

import jax
import numpy as np
from gpu_cases import SETTINGS
from ml_collections import ConfigDict
from peers import roofs, worker

from rlcw import losses, train
from rlcw.data import batches
from rlcw.models import language_model, tokenizer
from rlcw.runtime.mesh import make_mesh, over_groups
from rlcw.sampling.rollout import Rollout, sample
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.grpo import objective


def settings(case: dict[str, Any]) -> ConfigDict:
  """Settings of configs/grpo.py, with the values that all tools share."""
  return ConfigDict(
    SETTINGS
    | dict(
      compute_dtype='float32',
      remat=False,
      kl_weight=0.0,
      microbatch_groups=0,  # all at once
      warmup_steps=0,
      temperature=case['temperature'],
      learning_rate=case['learning_rate'],
      seed=case['seed'],
    )
  )


class Steps:
  """Trains a policy on one batch of briefs, a step per call.

  Args:
    case: description of the step, see `worker.read_case`.
    mesh: mesh for parameters and optimiser state.
  """

  def __init__(self, case: dict[str, Any], mesh: jax.sharding.Mesh):
    self.case, self.settings, self.mesh = case, settings(case), mesh
    model = language_model.load(case['model'], mesh)
    self.chat = model.chat
    self.config = objective.configure(model.config, self.settings)
    # `encode` parses the chat template's control tokens; `encode_untrusted`
    # would escape them.
    self.prompts = batches.pad(
      tokenizer.encode(model.tokenizer, text) for text in case['prompts']
    )
    optimizer = objective.make_optimizer(self.settings)
    self.state = train.init_state(model.params, optimizer, mesh)
    loss = objective.make_loss(self.config, self.settings)
    self.update = train.make_update(loss, optimizer, self.state)

  def roll_out(self) -> tuple[Rollout, list[str]]:
    """Samples replies of full length; returns them as arrays and as text."""
    rollout = sample(
      self.state.params,
      *self.prompts,
      np.arange(len(self.case['prompts'])),
      Temperature(self.settings.temperature),
      self.settings.seed,
      self.state.step,
      config=self.config,
      group_size=self.case['group'],
      max_new_tokens=self.case['reply_tokens'],
      # no token has this id, so every reply has full length
      eos=(self.config.vocab_size,),
    )
    ids = np.asarray(rollout.token).reshape(-1, self.case['reply_tokens'])
    return rollout, [self.chat.decode_reply(row) for row in ids]

  def learn(self, rollout: Rollout, texts: list[str]) -> None:
    """Updates the policy, with the replies' lengths as rewards."""
    reward = np.array(worker.rewards(texts), np.float32)
    packed = batch(
      self.prompts,
      rollout,
      reward.reshape(rollout.length.shape),
      self.settings,
      self.mesh,
    )
    self.state, _ = self.update(self.state, packed.parts, {}, packed.divisor)
    # Dispatch is asynchronous, and the clock stops after this method.
    jax.block_until_ready(self.state)


def batch(
  prompts: tuple[Any, Any],
  rollout: Rollout,
  reward_PxG: Any,
  config: ConfigDict,
  mesh: jax.sharding.Mesh,
) -> objective.Batch:
  """Packs prompts, replies and rewards `[P, G]` for an update."""
  valid = np.ones(reward_PxG.shape, bool)
  arrays = {
    'prompt': prompts[0],
    'length': prompts[1],
    'rollout': rollout,
    'valid': valid,
    'advantage': losses.group_advantages(reward_PxG, valid),
  }
  lengths = prompts[1], np.asarray(rollout.length)
  return objective.pack(arrays, lengths, config, over_groups(mesh))


def main() -> None:
  case, clock = worker.read_case(), worker.Clock()
  mesh = make_mesh()
  with jax.set_mesh(mesh):
    steps = Steps(case, mesh)
    roll_out = clock.timed(steps.roll_out)
    for command in clock.commands():
      # Measured in this process, with the threads and memory of the step.
      if command == 'ceilings':
        clock.answer(**roofs.measure(steps.config, roofs.shapes(case)))
        continue
      rollout, texts = roll_out()
      steps.learn(rollout, texts)
      clock.step_done(int(rollout.length.sum()))


if __name__ == '__main__':
  main()
