"""The arms of configs/pilots.py."""

import pytest

from configs import experiment, pilots
from rlcw.rewards import mixing, scoring
from rlcw.runtime.settings import leaves
from rlcw.tasks.compare import runs


@pytest.mark.parametrize('arm', pilots.VARIANTS)
def test_an_arm_is_rlmr_but_for_what_it_names(arm: str) -> None:
  config = pilots.get_config(arm)
  mixing.check(config.mixing, config.advantage_scale)
  scoring.check(config)
  plain = dict(leaves(experiment.get_config('rlmr')))
  changed = {k: v for k, v in leaves(config) if v != plain[k]}
  assert changed == pilots.VARIANTS[arm] | {'steps': 40}


def test_arms_can_be_compared_but_for_that_with_two_turns() -> None:
  settings = {arm: pilots.get_config(arm) for arm in pilots.VARIANTS}
  alike = [key for key in runs.ALIKE if key not in runs.GIVEN]
  two = settings.pop('rlmr_two_turns')
  runs.differences(settings, alike)
  with pytest.raises(ValueError, match=r'they differ in (two|max_new)'):
    runs.differences({'rlmr': settings['rlmr'], 'two': two}, alike)
