"""Writes one HTML page about three finished runs.

rlcw --config=configs/report.py --workdir=runs/quickstart

Cost: seconds.  Expect: report.html, curves.png, rules.png, summary.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='report',
      # the workdirs of those runs, each of the task that it is named after
      reward_model='runs/quickstart/reward_model',
      grpo='runs/quickstart/grpo',
      evaluate='runs/quickstart/evaluate',
    )
  )
