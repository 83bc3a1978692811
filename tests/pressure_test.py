"""The arms of configs/pressure.py."""

from typing import Any

import pytest

from configs import experiment, pressure
from rlcw.rewards import mixing, scoring
from rlcw.runtime.settings import leaves


@pytest.mark.parametrize('arm', pressure.VARIANTS)
def test_an_arm_differs_in_its_mixer_alone(arm: str) -> None:
  config: Any = pressure.get_config(arm)
  mixing.check(config.mixing, config.advantage_scale)
  scoring.check(config)
  plain = dict(leaves(experiment.get_config('rlmr')))
  changed = {k: v for k, v in leaves(config) if v != plain[k]}
  assert all(key.startswith('mixing.') for key in changed)
  for key, value in pressure.VARIANTS[arm].items():
    assert config.mixing[key] == value


def test_every_arm_has_settings_of_its_own() -> None:
  arms = [repr(pressure.get_config(arm).mixing) for arm in pressure.VARIANTS]
  assert len({*arms}) == len(arms) == 26
