"""The arms of configs/pilots.py."""

import pytest

from configs import experiment, pilots
from rlcw.rewards import mixing, scoring
from rlcw.runtime.settings import leaves


@pytest.mark.parametrize('arm', pilots.VARIANTS)
def test_an_arm_is_rlmr_but_for_what_it_names(arm: str) -> None:
  config = pilots.get_config(arm)
  mixing.check(config.mixing, config.advantage_scale)
  scoring.check(config)
  plain = dict(leaves(experiment.get_config('rlmr')))
  changed = {k: v for k, v in leaves(config) if v != plain[k]}
  assert changed == pilots.VARIANTS[arm] | {'steps': 40}
