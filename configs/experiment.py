"""Does the dynamic penalty win?  GRPO by one way of mixing of several.

  rlcw --config=configs/experiment.py:rlmr --workdir=runs/experiment/rlmr-0

An arm is a mixer, with all else the same: model, briefs, seeds, steps, tokens,
the reward model of configs/reward_model.py and adapters to learn.  Which briefs
a step has, and the random keys of its replies, depend on the seed alone.
`scripts/experiment.sh` runs all of them.

Cost: 60 steps of about 20 s on one CPU core, 5.5 GiB of memory.
Expect: max_violator_advantage below 0 with rlmr, above 2 with writing alone.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

ARMS = {
  'writing': dict(name='writing'),
  'constraint': dict(name='constraint'),
  'linear_0.5': dict(name='linear', weight=0.5),
  'linear_1': dict(name='linear', weight=1.0),
  'linear_2': dict(name='linear', weight=2.0),
  'gate': dict(name='gate'),
  'rlmr': dict(name='rlmr'),
  'rlmr_rank': dict(name='rlmr', all_violating='rank'),
  'rlmr_suppress': dict(name='rlmr', all_violating='suppress'),
  'rlmr_writing_std': dict(name='rlmr'),
  'rlmr_no_scale': dict(name='rlmr'),
}
SCALES = {'rlmr_writing_std': 'writing_std', 'rlmr_no_scale': 'none'}


def get_config(arm: str = 'rlmr') -> ConfigDict:
  if arm not in ARMS:
    raise ValueError(f'arm {arm!r}; legal: {list(ARMS)}')
  grpo = runpy.run_path(str(Path(__file__).with_name('grpo.py')))
  config = grpo['get_config']()
  config.update(
    dict(
      reward_model='runs/experiment/reward_model',
      train='lora',
      learning_rate=2e-4,
      steps=60,
      prompts_per_step=4,
      checkpoint_every=10,
      remat=False,
      mixing=ARMS[arm],
      advantage_scale=SCALES.get(arm, 'reward_std'),
    )
  )
  return config
