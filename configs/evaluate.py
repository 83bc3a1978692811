"""Base against trained on the held-out briefs of a finished GRPO run.

rlcw --config=configs/evaluate.py --workdir=runs/quickstart/evaluate

Cost: under two minutes on 2 CPU cores.
Expect: pass_rate_base 0.31, pass_rate_trained 0.45; win_rate, with a judge.
"""

from ml_collections import ConfigDict

from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='evaluate',
      run='runs/quickstart/grpo',  # workdir of that run
      seed=1,
      replies_per_brief=4,
      batch_size=10,
      judge=judge_settings(),  # where it names a model: which reply is better?
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
