"""rlcw's rollout and update, as its task `grpo` calls them, a step at a time.

Answers two commands: `step`, and `ceilings` (of the machine, as XLA reaches
them from this process).
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
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.rollout import Rollout, Temperature, sample
from rlcw.tasks.grpo import objective


def settings(case: dict[str, Any]) -> ConfigDict:
  """Those of configs/grpo.py, but for what all tools have in common."""
  return ConfigDict(
    SETTINGS
    | dict(
      compute_dtype='float32',
      remat=False,
      kl_weight=0.0,
      warmup_steps=0,
      temperature=case['temperature'],
      learning_rate=case['learning_rate'],
      seed=case['seed'],
    )
  )


class Steps:
  """A policy that learns from one batch of briefs, again and again."""

  def __init__(self, case: dict[str, Any], mesh: jax.sharding.Mesh):
    self.case, self.settings = case, settings(case)
    model = language_model.load(case['model'], mesh)
    self.text = model.tokenizer
    self.config = objective.configure(model.config, self.settings)
    self.prompts = batches.pad(
      tokenizer.encode(model.tokenizer, text) for text in case['prompts']
    )
    optimizer = objective.make_optimizer(self.settings)
    self.state = train.init_state(model.params, optimizer, mesh)
    loss = objective.make_loss(self.config, self.settings)
    self.update = train.make_update(loss, optimizer, self.state)

  def roll_out(self) -> tuple[Rollout, list[str]]:
    """Replies as ids and as text; no token ends one early."""
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
      eos=(self.config.vocab_size,),
    )
    ids = np.asarray(rollout.token).reshape(-1, self.case['reply_tokens'])
    return rollout, [tokenizer.decode(self.text, row) for row in ids]

  def learn(self, rollout: Rollout, texts: list[str]) -> None:
    """An update by the length of the replies."""
    reward = np.array(worker.rewards(texts), np.float32)
    arrays = batch(self.prompts, rollout, reward.reshape(rollout.length.shape))
    self.state, _ = self.update(self.state, arrays, {})
    jax.block_until_ready(self.state)


def batch(
  prompts: tuple[Any, Any], rollout: Rollout, reward_PxG: Any
) -> dict[str, Any]:
  """What an update learns from; the KL term, of weight 0, sees no reference."""
  valid = np.ones(reward_PxG.shape, bool)
  return {
    'prompt': prompts[0],
    'length': prompts[1],
    'rollout': rollout,
    'ref_logp': rollout.logp,
    'valid': valid,
    'advantage': losses.group_advantages(reward_PxG, valid),
  }


def main() -> None:
  case, clock = worker.read_case(), worker.Clock()
  mesh = make_mesh()
  with jax.set_mesh(mesh):
    steps = Steps(case, mesh)
    roll_out = clock.timed(steps.roll_out)
    for command in clock.commands():
      if command == 'ceilings':
        clock.answer(**roofs.measure(steps.config, roofs.shapes(case)))
        continue
      rollout, texts = roll_out()
      steps.learn(rollout, texts)
      clock.step_done(int(rollout.length.sum()))


if __name__ == '__main__':
  main()
