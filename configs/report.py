"""One page about three finished runs.

rlcw --config=configs/report.py --workdir=runs/quickstart
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='report',
      reward_model='runs/quickstart/reward_model',
      grpo='runs/quickstart/grpo',
      evaluate='runs/quickstart/evaluate',
    )
  )
