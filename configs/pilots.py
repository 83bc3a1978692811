"""A short run of every method of GRPO, against rlmr.

  rlcw --config=configs/pilots.py:rlmr_clip --workdir=runs/pilots/rlmr_clip-0

Arms have the settings of configs/experiment.py, and fewer steps, but for what
`VARIANTS` names.  One seed tells which methods deserve more, not which is best.
`scripts/pilots.sh` runs all arms and compares them.

Cost: 40 steps of about 20 s on one CPU core, 5.5 GiB of memory.
Expect: max_violator_advantage below 0 with rlmr and its variants.
"""

from typing import Any

from ml_collections import ConfigDict

from rlcw.runtime.configs import check_variant, load

# Settings of each arm that differ from those of `rlmr`.
VARIANTS: dict[str, dict[str, Any]] = {
  'rlmr': {},
  # Other forms of the penalty.
  'rlmr_clip': {'mixing.name': 'rlmr_clip'},
  'rlmr_bonus': {'mixing.name': 'rlmr_bonus'},
  # Groups in which every reply breaks a rule, and where a rule is broken.
  'rlmr_relabel': {'mixing.all_violating': 'relabel'},
  'rlmr_located': {'mixing.located_penalty': 0.5},
  'rlmr_diversity': {'writing': 'reward_model + 0.3*diversity'},
  # The policy reads how it is scored.
  'rlmr_told': {'tell_scoring': True},
  # A reply without the rules, and then one with them; both have the budget.
  # It is compared with a base that has two turns as well.
  'rlmr_two_turns': {'two_turns': True, 'max_new_tokens': 192},
  # Beside each group, the best of 16 replies of the base that keep the rules.
  'rlmr_demonstrations': {
    'briefs': 'runs/pilots/demonstrations.jsonl',
    'demonstration_weight': 1.0,
  },
  # Heads without the direction of length, and on as few layers as suffice.
  'rlmr_projection': {'reward_model': 'runs/pilots/projection'},
  'rlmr_layers': {'reward_model': 'runs/pilots/layers'},
  # Other mixers; a share of the rules needs one that is no form of rlmr.
  'quality_gate': {'mixing.name': 'quality_gate'},
  'gdpo': {'mixing.name': 'gdpo'},
  'linear': {'mixing.name': 'linear'},
  'linear_share': {'mixing.name': 'linear', 'mixing.violation': 'share'},
}


def get_config(arm: str = 'rlmr') -> ConfigDict:
  check_variant(arm, VARIANTS, 'arm')
  config = load('experiment:rlmr')
  config.update_from_flattened_dict({'steps': 40} | VARIANTS[arm])
  return config
