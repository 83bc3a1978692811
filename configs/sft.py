"""Supervised fine-tuning on examples, as a cold start for GRPO.

  rlcw --config=configs/sft.py --workdir=runs/sft

GRPO starts from the result with --config.model=runs/sft.

Examples are packed into rows of `row_tokens` tokens and do not attend to each
other.  An example longer than a row is an error: a truncated reply would teach
the model not to stop.

Cost: under 3 minutes on 2 CPU cores.
Expect: held-out loss 4.62 before, 4.07 after, in nats per token.
"""

from ml_collections import ConfigDict

from rlcw.runtime.optimizers import optimizer_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='sft',
      # folder, GGUF file, Hub id or workdir of a run
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      # {"prompt", "response"} or any other layout of docs/data.md
      examples='@preferences.jsonl',
      language='en',  # '': all
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
      row_tokens=256,  # at least the longest prompt and reply together
      **optimizer_settings(learning_rate=2e-5, warmup_steps=2),
      checkpoint_every=7,  # steps
      # Where metrics go besides metrics.jsonl: tensorboard | wandb | trackio,
      # several with commas.
      loggers=('tensorboard',),
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all remaining devices
      # Recompute whole blocks in the backward pass: less memory, more time.
      remat=True,
    )
  )
