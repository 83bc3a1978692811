r"""RLMR and its rivals at equal pressure on the rules.

  rlcw --config=configs/pressure.py:rlmr_2_rank \
    --workdir=runs/pressure/60/selection/rlmr_2_rank-0

A larger margin pushes harder on the rules, and so does a larger weight of
`linear`.  Arms cross the margin with the treatment of groups in which every
reply breaks a rule (rlmr_MARGIN_TREATMENT), and stand against other mixers.
Their settings are those of configs/experiment.py, but for the mixer.
`scripts/pressure.sh` chooses among all arms, and reports the chosen ones.

Cost: 60 steps of about 20 s on one CPU core, 5.5 GiB of memory.
Expect: max_violator_advantage below 0 with the forms of rlmr.
"""

import itertools
from typing import Any

from ml_collections import ConfigDict

from rlcw.runtime.configs import check_variant, load

MARGINS = 0.5, 1.0, 2.0, 4.0
TREATMENTS = 'skip', 'suppress', 'rank', 'relabel'
VARIANTS: dict[str, dict[str, Any]] = {
  **{
    f'rlmr_{margin:g}_{treatment}': dict(
      name='rlmr', margin=margin, all_violating=treatment
    )
    for margin, treatment in itertools.product(MARGINS, TREATMENTS)
  },
  'rlmr_clip': dict(name='rlmr_clip', margin=1.0),
  'rlmr_bonus': dict(name='rlmr_bonus', margin=1.0),
  # Rivals.  The best weight of `linear` was 2, the largest, among 0.5, 1 and 2.
  **{f'linear_{w:g}': dict(name='linear', weight=w) for w in (1.0, 2.0, 4.0)},
  'quality_gate': dict(name='quality_gate'),
  'gdpo': dict(name='gdpo'),
  'gate': dict(name='gate'),
  'constraint': dict(name='constraint'),
  'writing': dict(name='writing'),
}


def get_config(arm: str = 'rlmr_1_skip') -> ConfigDict:
  check_variant(arm, VARIANTS, 'arm')
  config = load('experiment:rlmr')
  config.update(mixing=VARIANTS[arm])
  return config
