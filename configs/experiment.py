"""Tests the dynamic penalty: GRPO with one of several reward mixers.

  rlcw --config=configs/experiment.py:rlmr --workdir=runs/experiment/rlmr-0

Arms differ only in the mixer.  They share the model, briefs, seeds, number of
steps, token budget, LoRA settings and the reward model of
configs/reward_model.py.  The briefs of a step and the random keys of its
replies depend on the seed alone.  `scripts/experiment.sh` runs all arms.

Cost: 60 steps of about 20 s on one CPU core, 5.5 GiB of memory.
Expect: max_violator_advantage below 0 with rlmr, above 2 with writing alone.
"""

from ml_collections import ConfigDict

from rlcw.runtime.configs import check_variant, load

VARIANTS = {
  # Baselines: one score alone, a weighted sum, or, for a reply that breaks a
  # rule, the lowest writing score of its group.
  'writing': dict(name='writing'),
  'constraint': dict(name='constraint'),
  'linear_0.5': dict(name='linear', weight=0.5),
  'linear_1': dict(name='linear', weight=1.0),
  'linear_2': dict(name='linear', weight=2.0),
  'gate': dict(name='gate'),
  # The dynamic penalty, and ablations: groups in which every reply breaks a
  # rule, and the scale of the advantages (SCALES).
  'rlmr': dict(name='rlmr'),
  'rlmr_rank': dict(name='rlmr', all_violating='rank'),
  'rlmr_suppress': dict(name='rlmr', all_violating='suppress'),
  'rlmr_writing_std': dict(name='rlmr'),
  'rlmr_no_scale': dict(name='rlmr'),
}
SCALES = {'rlmr_writing_std': 'writing_std', 'rlmr_no_scale': 'none'}


def get_config(arm: str = 'rlmr') -> ConfigDict:
  check_variant(arm, VARIANTS, 'arm')
  config = load('grpo')
  config.update(
    dict(
      reward_model='runs/experiment/reward_model',
      train='lora',
      learning_rate=2e-4,
      steps=60,
      prompts_per_step=4,
      checkpoint_every=10,
      remat=False,
      mixing=VARIANTS[arm],
      advantage_scale=SCALES.get(arm, 'reward_std'),
    )
  )
  return config
