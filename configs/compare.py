"""Several finished GRPO runs and their base, on held-out briefs.

  rlcw --config=configs/compare.py --workdir=runs/experiment/comparison

`scripts/experiment.sh` makes the runs of the default.  More can be added as
they finish: replies that are there are kept (delete summary.json to go on).

Cost: about a minute a run on 2 CPU cores, 4 GiB of memory.
"""

from ml_collections import ConfigDict

from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='compare',
      runs='runs/experiment/*-[0-9]',  # folders named ARM-SEED
      # workdir of a reward model, of other data or another decoder
      unseen='runs/experiment/unseen',
      preferences='@preferences.jsonl',  # that say how far to trust scorers
      benchmark='',  # workdirs of `verify` on IFEval's prompts, named by arm
      # prefixes of arms of which the best alone is compared with others
      best_of=('linear',),
      seed=1,
      replies_per_brief=4,
      batch_size=10,
      judge=judge_settings()
      | dict(
        model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      ),
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
