"""Base against trained on the held-out briefs of a finished GRPO run.

rlcw --config=configs/evaluate.py --workdir=runs/quickstart/evaluate

Cost: under two minutes on 2 CPU cores.
Expect: pass_rate_base 0.31, pass_rate_trained 0.46.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='evaluate',
      run='runs/quickstart/grpo',  # workdir of that run
      seed=1,
      replies_per_brief=4,
      briefs_per_pass=10,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
