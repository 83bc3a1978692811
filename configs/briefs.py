"""Generates briefs: themes with random rules that do not contradict each other.

  rlcw --config=configs/briefs.py --workdir=runs/briefs --config.count=5000

Cost: one second per ten thousand briefs on a CPU core.
Expect: briefs.jsonl in the workdir, for --config.briefs of `grpo`; the
frequency of each rule in summary.json.  All briefs of a theme are in the same
split, train or heldout.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='briefs',
      # JSONL of {"prompt"}; optional "language", "genre", "theme", "keywords"
      # and "recipient"
      input='@themes.jsonl',
      output='',  # empty: briefs.jsonl in the workdir
      count=1000,  # briefs
      seed=0,  # of the order of themes and the choice of rules
      # The number of rules of each brief is drawn from least to most.
      least_rules=1,
      most_rules=3,  # the most rules of a brief
      rules=(),  # ids of rules to draw from; (): all
    )
  )
