"""Worker that takes single GRPO steps with TRL's GRPOTrainer.

Needs `pip install torch==2.13.0 trl==1.16.0 transformers==5.23.0`.
"""

from typing import Any

import torch
from datasets import Dataset
from peers import worker
from transformers import (
  AutoModelForCausalLM,
  AutoTokenizer,
  TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer


class Steps(TrainerCallback):
  """Waits for a command before each step and answers it after the step."""

  def __init__(self, clock: worker.Clock):
    self.clock, self.commands = clock, clock.commands()
    self.tokens = 0

  def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
    # The trainer calls this before the rollout of the step.  No further
    # command means the end of the input.
    if next(self.commands, None) is None:
      raise SystemExit
    return control

  def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
    self.clock.step_done(self.tokens)


class Trainer(GRPOTrainer):
  """GRPOTrainer that also counts the new tokens of a step."""

  steps: Steps

  def _generate_and_score_completions(self, inputs: Any) -> Any:
    output = super()._generate_and_score_completions(inputs)
    self.steps.tokens = int(output['completion_mask'].sum())
    return output


def settings(case: dict[str, Any]) -> GRPOConfig:
  """One batch of all replies, at full length, without rematerialisation."""
  group, replies = case['group'], len(case['prompts']) * case['group']
  return GRPOConfig(
    output_dir=case['workdir'],
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    per_device_train_batch_size=replies,
    num_generations=group,
    max_completion_length=case['reply_tokens'],
    # EOS is masked until the full length is reached.
    generation_kwargs={'min_new_tokens': case['reply_tokens']},
    temperature=case['temperature'],
    beta=0.0,
    learning_rate=case['learning_rate'],
    lr_scheduler_type='constant',
    max_steps=10**6,
    shuffle_dataset=False,
    save_strategy='no',
    logging_strategy='no',
    report_to='none',
    # Progress bars and logs would count as time of a step.
    disable_tqdm=True,
    seed=case['seed'],
  )


def main() -> None:
  case, clock = worker.read_case(), worker.Clock()
  torch.set_num_threads(case['threads'])
  steps = Steps(clock)

  def reward(completions: list[str], **_: Any) -> list[float]:
    return worker.rewards(completions)

  trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(
      case['model'], dtype=torch.float32
    ),
    processing_class=AutoTokenizer.from_pretrained(case['model']),
    reward_funcs=reward,
    args=settings(case),
    train_dataset=Dataset.from_dict({'prompt': case['prompts']}),
    callbacks=[steps],
  )
  trainer.steps = steps
  # `_generate` only samples; its caller also scores, which is not rollout.
  trainer._generate = clock.timed(trainer._generate)
  trainer.train()


if __name__ == '__main__':
  main()
