"""Briefs with random rules that can be kept together, from themes.

  rlcw --config=configs/briefs.py --workdir=runs/briefs --config.count=5000

Cost: a second for ten thousand briefs on a CPU core.
Expect: briefs.jsonl in the workdir, for --config.briefs of `grpo`; how often
each rule occurs in summary.json. A theme is train or heldout, never both.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='briefs',
      # JSONL of {"prompt"}, with "language", "genre", "theme", "keywords" and
      # "recipient" where it has them
      input='@themes.jsonl',
      output='',  # briefs.jsonl in the workdir where empty
      count=1000,
      seed=0,
      least_rules=1,
      most_rules=3,
    )
  )
