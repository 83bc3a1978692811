r"""Trains the writing reward: a head on a frozen decoder, from preferences.

  rlcw --config=configs/reward_model.py --workdir=runs/quickstart/reward_model

A variant, as in `--config=configs/reward_model.py:qwen2_5_7b`, overrides some
settings of the quickstart; its docstring gives the command.  Memory and time on
a TPU slice are planned with --config.task=plan.

Cost: about a minute on 2 CPU cores.
Expect: 99% accuracy on held-out pairs (49% by length alone); plots of score
against length and of calibration in reward_model.png.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from rlcw.models.compute import compute_settings, group_plan_settings
from rlcw.runtime.configs import vary
from rlcw.runtime.optimizers import optimizer_settings


def smollm2() -> dict[str, Any]:
  """The quickstart, for a laptop.

  rlcw --config=configs/reward_model.py:smollm2 \
    --workdir=runs/quickstart/reward_model
  """
  return {}


def qwen_coder_0_5b() -> dict[str, Any]:
  """A head on Qwen2.5-Coder-0.5B-Instruct.

  ./scripts/models.sh qwen_coder_0_5b
  rlcw --config=configs/reward_model.py:qwen_coder_0_5b \
    --workdir=runs/qwen_0_5b/reward_model

  For Chinese pairs add --config.language=zh.
  """
  return dict(model='models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf')


def qwen_coder_1_5b() -> dict[str, Any]:
  """A head on Qwen2.5-Coder-1.5B-Instruct.

  ./scripts/models.sh qwen_coder_1_5b
  rlcw --config=configs/reward_model.py:qwen_coder_1_5b \
    --workdir=runs/qwen_1_5b/reward_model

  For Chinese pairs add --config.language=zh.
  """
  return dict(model='models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf')


def qwen2_5_7b() -> dict[str, Any]:
  """Qwen2.5-7B with adapters, in bfloat16: 16 groups of up to 4 replies a step.

  rlcw --config=configs/reward_model.py:qwen2_5_7b \
    --workdir=runs/large/reward_model

  Replies have up to 2,048 tokens, as those of configs/grpo.py:qwen2_5_7b.

  v5e:4x4 (16 chips): 2.5 of 15.75 GiB, a step takes 2.0 s or more, as
  planned by the same command with --config.task=plan.
  """
  return dict(
    model='Qwen/Qwen2.5-7B-Instruct',
    train='lora',
    max_reply_tokens=2048,
    decoder=dict(groups_per_step=16, microbatch_groups=4),
    mesh=dict(data=1, fsdp=-1, tensor=4),
    compute_dtype='bfloat16',
    moment_dtype='bfloat16',
  )


MODELS = (smollm2, qwen_coder_0_5b, qwen_coder_1_5b, qwen2_5_7b)
VARIANTS = {variant.__name__: variant for variant in MODELS}


def get_config(variant: str = 'smollm2') -> ConfigDict:
  """Returns the settings of a variant; see `rlcw.runtime.configs.vary`."""
  config = ConfigDict(
    dict(
      task='reward_model',
      # folder, GGUF file, Hub id or workdir of a run
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      # {"prompt", "chosen", "rejected"}, {"prompt", "response", "score"} or any
      # other layout of docs/data.md
      preferences='@preferences.jsonl',
      language='en',  # '': all
      system='',  # system message of prompts without their own
      heldout=0.1,  # share of the prompts whose records have no "split"
      # smallest difference of "score" at which two replies form a pair
      least_gap=0.0,
      seed=0,  # of synthetic losers, batches and new weights
      train='head',  # head | lora | all
      # of the decoder, the first ones, that are read; 0: all; auto: the fewest
      # whose head is as good as one on all (docs/reward_model.md)
      layers=config_dict.FieldReference(0, field_type=object),
      # Features of a reply: mean over its tokens, or the last token, as in
      # sequence classifiers (needed for export).
      pooling='mean',  # mean | last
      # Against a preference for length (docs/reward_model.md).  none: nothing;
      # balance: reweights pairs so that the longer reply wins half of them;
      # length: fits a separate length term and drops it from the score;
      # projection: takes the direction of length out of the trained head
      debias='none',
      # Add two synthetic losers per prompt, one with random tokens and one that
      # loops: a head fitted to fluent replies alone may score such text highly.
      made_losers=True,
      replies_per_group=4,  # synthetic losers included
      max_reply_tokens=512,  # longer replies are truncated
      batch_size=8,  # groups whose features are computed at once
      steps=300,  # of fitting the head
      learning_rate=1e-2,  # of the head
      l2=1e-2,  # weight of the penalty on the head's squared weights
      # With train=lora or all, training continues with decoder and head
      # together, after the head alone (arXiv 2202.10054).
      lora=dict(
        rank=16,  # of the adapters
        alpha=32.0,  # adapters are scaled by alpha / rank
        # projections that have adapters
        targets=('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
      ),
      decoder=dict(
        steps=56,  # updates
        groups_per_step=8,  # prompts, each with its replies
        # Gradients are accumulated over microbatches of so many groups, which
        # bounds the memory of the update and does not change its result.
        microbatch_groups=0,  # 0: all at once
        **optimizer_settings(learning_rate=1e-4, warmup_steps=4),
        checkpoint_every=14,  # steps
      ),
      # Where metrics go besides metrics.jsonl: tensorboard | wandb | trackio,
      # several with commas.
      loggers=('tensorboard',),
      plan=group_plan_settings(),
    )
    | compute_settings()
  )
  return vary(config, variant, VARIANTS)
