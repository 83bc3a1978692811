"""Evaluates a finished GRPO run against its base model on held-out briefs.

rlcw --config=configs/evaluate.py --workdir=runs/quickstart/evaluate

Cost: under two minutes on 2 CPU cores.
Expect: pass_rate_base 0.31, pass_rate_trained 0.38 to 0.47; with a judge,
win_rate.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import sampling_settings
from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='evaluate',
      # Workdir of that run.  Its config supplies the briefs, the model and the
      # sampling settings.
      run='runs/quickstart/grpo',
      briefs='',  # other briefs than the held-out ones of that run
      system='',  # another system message than that of the run
      seed=1,  # of the replies
      replies_per_brief=4,  # of each model
      batch_size=10,  # briefs at a time
      # With a judge model, pairs of replies are also compared for a win rate.
      judge=judge_settings(),
    )
    | sampling_settings()
  )
