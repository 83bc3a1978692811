"""Worker that takes single GRPO steps with TRL's GRPOTrainer.

Needs `pip install torch==2.13.0 trl==1.16.0 transformers==5.24.0`.
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
    self.tokens, self.replies = 0, {}

  def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
    # The trainer calls this before the rollout of the step.  No further
    # command means the end of the input.
    if next(self.commands, None) is None:
      raise SystemExit
    return control

  def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
    self.clock.step_done(self.tokens, **self.replies)


class Trainer(GRPOTrainer):
  """GRPOTrainer that also counts the new tokens of a step."""

  steps: Steps

  def _generate_and_score_completions(self, inputs: Any) -> Any:
    output = super()._generate_and_score_completions(inputs)
    ids, mask = output['completion_ids'], output['completion_mask']
    ends = torch.isin(ids, torch.tensor(self.eos_token_ids)) & mask.bool()
    self.steps.tokens = int(mask.sum())
    self.steps.replies['cut'] = 1 - float(ends.any(1).float().mean())
    return output


def settings(case: dict[str, Any]) -> GRPOConfig:
  """One rollout and one update, without rematerialisation."""
  group, length = case['group'], case['reply_tokens']
  return GRPOConfig(
    output_dir=f'{case["workdir"]}/trl',
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    per_device_train_batch_size=case['microbatch'] * group,
    gradient_accumulation_steps=len(case['prompts']) // case['microbatch'],
    num_generations=group,
    max_completion_length=length,
    # Masks EOS until the full length is reached.
    generation_kwargs=None if case['natural'] else {'min_new_tokens': length},
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

  # TRL passes the other columns of the data set, here `word`.
  def reward(completions: list[str], word: list[str], **_: Any) -> list[float]:
    rewards = worker.rewards(case, word, completions)
    steps.replies['no_signal'] = worker.no_signal(rewards, case['group'])
    return rewards

  trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(
      case['model'], dtype=torch.float32
    ),
    processing_class=AutoTokenizer.from_pretrained(case['model']),
    reward_funcs=reward,
    args=settings(case),
    train_dataset=Dataset.from_dict(
      {'prompt': case['prompts'], 'word': case['words']}
    ),
    callbacks=[steps],
  )
  trainer.steps = steps
  # `_generate` only samples; its caller also scores, which is not rollout.
  trainer._generate = clock.timed(trainer._generate)
  trainer.train()


if __name__ == '__main__':
  main()
