"""A run learns what it is rewarded for, so that more than code is tested.

A tiny model that seldom writes the keywords of its briefs has to, in replies
that end in time, beside a writing reward for different words.
"""

import pathlib
from typing import Any

import numpy as np
import pytest
from tiny_grpo import run, settings

from rlcw.tasks.grpo import step

pytestmark = pytest.mark.usefixtures('one_device')
FEW = 5  # steps, of 64 replies each


def kept(rows: list[dict[str, Any]]) -> float:
  """The share of replies that keep every rule and end."""
  return 1 - float(np.mean([row['violation_rate'] for row in rows]))


@pytest.mark.slow
def test_a_run_learns_to_keep_rules(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """From under 20% to over 80%.

  With seeds 0, 1 and 2 it rose from 8%, 6% and 5% to 93%, 97% and 93%.
  """
  config = settings(
    apprentice, tmp_path, writing='tiny_grpo:variety', steps=150
  )
  rows = run(config, tmp_path / 'grpo')
  assert kept(rows[:3]) < 0.2
  assert kept(rows[-FEW:]) > 0.8
  assert np.mean([row['writing'] for row in rows[-FEW:]]) > 2.5  # of 3


@pytest.mark.slow
def test_a_run_with_its_advantages_turned_round_does_not(
  apprentice: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """So the test above could fail."""
  make_mix = step.make_mix

  def turned(config: Any) -> Any:
    mix = make_mix(config)
    return lambda *scores: (mixed := mix(*scores))._replace(
      advantage=-mixed.advantage
    )

  monkeypatch.setattr(step, 'make_mix', turned)
  config = settings(apprentice, tmp_path, writing='tiny_grpo:variety', steps=60)
  assert kept(run(config, tmp_path / 'grpo')[-FEW:]) < 0.1
