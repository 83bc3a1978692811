r"""Supervised fine-tuning on examples, as a cold start for GRPO.

  rlcw --config=configs/sft.py --workdir=runs/sft

GRPO starts from the result with --config.model=runs/sft.  With `principles` it
learns to judge, for --config.judge.model=runs/sft with the same principles.

Examples are packed into rows of `row_tokens` tokens and do not attend to each
other.  An example longer than a row is an error: a truncated reply would teach
the model not to stop.

A variant, as in `--config=configs/sft.py:qwen2_5_7b`, overrides some settings
of the quickstart; its docstring gives the command.  Memory and time on a TPU
slice are planned with --config.task=plan.

Cost: under 3 minutes on 2 CPU cores.
Expect: held-out loss 4.62 before, 4.07 after, in nats per token.
"""

from typing import Any

from ml_collections import ConfigDict

from rlcw.models.compute import compute_settings, plan_settings
from rlcw.runtime.configs import vary
from rlcw.runtime.optimizers import optimizer_settings


def smollm2() -> dict[str, Any]:
  """The quickstart, for a laptop.

  rlcw --config=configs/sft.py:smollm2 --workdir=runs/sft
  """
  return {}


def qwen2_5_7b() -> dict[str, Any]:
  """Qwen2.5-7B, all weights, in bfloat16: 32 rows of 4,096 tokens.

  rlcw --config=configs/sft.py:qwen2_5_7b --workdir=runs/large/sft

  v5e:4x4 (16 chips): 9.6 of 15.75 GiB, a step takes 2.5 s or more, as
  planned by the same command with --config.task=plan.
  """
  return dict(
    model='Qwen/Qwen2.5-7B-Instruct',
    rows_per_step=32,
    microbatch_rows=4,
    row_tokens=4096,
    learning_rate=1e-5,
    steps=200,
    checkpoint_every=50,
    mesh=dict(data=1, fsdp=-1, tensor=4),
    compute_dtype='bfloat16',
    moment_dtype='bfloat16',
  )


VARIANTS = {variant.__name__: variant for variant in (smollm2, qwen2_5_7b)}


def get_config(variant: str = 'smollm2') -> ConfigDict:
  """Returns the settings of a variant; see `rlcw.runtime.configs.vary`."""
  config = ConfigDict(
    dict(
      task='sft',
      # folder, GGUF file, Hub id or workdir of a run
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      # {"prompt", "response"} or any other layout of docs/data.md
      examples='@preferences.jsonl',
      language='en',  # '': all
      # Principles of a judge to train, a file or @NAME: examples are replies
      # with a label, 1 for Good or 0 for Bad, or pairs, and verdicts are what
      # it learns.  The judge needs the same principles, language and system.
      principles='',
      system='',  # system message of examples without their own
      heldout=0.1,  # share of the prompts whose records have no "split"
      seed=0,  # of the order of examples and of new weights
      train='all',  # all | lora (then use ten times the learning rate)
      lora=dict(
        rank=16,  # of the adapters
        alpha=32.0,  # adapters are scaled by alpha / rank
        # projections that have adapters
        targets=('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
      ),
      steps=21,  # updates; may grow when a finished run is continued
      # Rows are sharded over the data and fsdp axes of the mesh, so their
      # number must be a multiple of those devices.
      rows_per_step=4,
      # Gradients are accumulated over microbatches of so many rows, which
      # bounds the memory of the update and does not change its result.
      microbatch_rows=0,  # 0: all at once
      row_tokens=256,  # at least the longest prompt and reply together
      **optimizer_settings(learning_rate=2e-5, warmup_steps=2),
      checkpoint_every=7,  # steps
      # Where metrics go besides metrics.jsonl: tensorboard | wandb | trackio,
      # several with commas.
      loggers=('tensorboard',),
      plan=plan_settings(),
    )
    | compute_settings()
  )
  return vary(config, variant, VARIANTS)
