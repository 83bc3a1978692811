"""Writes one HTML page about three finished runs.

rlcw --config=configs/report.py --workdir=runs/quickstart

Cost: seconds.  Expect: report.html, curves.png, rules.png, summary.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='report',
      # workdirs of those runs
      reward_model='runs/quickstart/reward_model',  # of the task reward_model
      grpo='runs/quickstart/grpo',  # of the task grpo
      evaluate='runs/quickstart/evaluate',  # of the task evaluate
    )
  )
