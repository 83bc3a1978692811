"""Writes one HTML page about an evaluated run.

rlcw --config=configs/report.py --workdir=runs/quickstart

Cost: seconds.  Expect: report.html, curves.png, rules.png, summary.json.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='report',
      evaluate='runs/quickstart/evaluate',  # workdir of an `evaluate` run
      # Where these have been moved; '' for where they were.
      grpo='',  # workdir of the `grpo` run that was evaluated
      reward_model='',  # workdir of the reward model of that run
    )
  )
