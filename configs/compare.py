"""Compares finished GRPO runs and their base model on held-out briefs.

  rlcw --config=configs/compare.py --workdir=runs/experiment/comparison

`scripts/experiment.sh` trains the runs that the default pattern matches.  Runs
can be added as they finish: start the task again; replies already sampled of
the same models and settings are reused.

Cost: about a minute per run on 2 CPU cores, 4 GiB of memory.
Expect: report.html with tables and plots, and summary.json, in the workdir.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import sampling_settings
from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='compare',
      runs='runs/experiment/*-[0-9]',  # folders named ARM-SEED
      # Workdir of a reward model that no run was trained with (other data or
      # another decoder), so that an arm cannot win by exploiting its scorer.
      unseen='runs/experiment/unseen',
      briefs='',  # other briefs than the held-out ones of the runs
      # Score of held-out replies, for runs that were trained with different
      # ones; '': as in the runs, which must then have the same.
      writing='',
      # Workdir of the reward model of that score; '': as in the runs.
      reward_model='',
      # On its held-out pairs the accuracy of that reward model and of the judge
      # is measured.
      preferences='@preferences.jsonl',
      # glob of `verify` workdirs on the prompts of IFEval, IFBench or both,
      # each named after its arm
      benchmark='',
      # Of the arms that start with one of these prefixes, such as a sweep over
      # weights, only the best is compared with the other arms.
      best_of=('linear',),
      seed=1,  # of the replies
      replies_per_brief=4,  # of each model
      batch_size=10,  # briefs at a time
      judge=judge_settings()
      | dict(
        model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      ),
    )
    | sampling_settings()
  )
