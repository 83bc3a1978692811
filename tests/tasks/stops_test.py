"""Runs that end at a warning of their monitors, and go on."""

import json
import pathlib
from typing import Any

import pytest

from rlcw.runtime import signals
from rlcw.tasks.grpo import monitors, stops


class Warned(monitors.Watch):
  """A watch with warnings that a test writes."""

  def __init__(self) -> None:
    self.warnings = []

  def add(self, monitor: str, step: int, value: float = 1.75) -> None:
    warning = {'monitor': monitor, 'step': step, 'value': value}
    self.warnings.append(warning | {'threshold': 1.5, 'text': 'longer'})


def made(_: Any, step: int) -> Any:
  return f'batch {step}'


def test_every_warning_ends_a_run_once(tmp_path: pathlib.Path) -> None:
  watch = Warned()
  next_batch: Any = stops.stopping(made, watch, tmp_path)
  assert next_batch(None, 0) == 'batch 0'
  assert not (tmp_path / 'stops.jsonl').exists()
  watch.add('length', 7)
  with pytest.raises(signals.Halted) as halted:
    next_batch(None, 9)
  assert halted.value.code == 76
  assert str(halted.value) == (
    'stopped by monitor length at step 7: value 1.75, threshold 1.5'
  )
  assert next_batch(None, 9) == 'batch 9'
  # The same command reads the rows again, and with them the warnings.
  watch = Warned()
  watch.add('length', 7)
  next_batch = stops.stopping(made, watch, tmp_path)
  assert next_batch(None, 9) == 'batch 9'
  watch.add('length', 20, 0.5)
  watch.add('marks', 20)
  with pytest.raises(signals.Halted, match='length at step 20.*marks at step'):
    next_batch(None, 22)
  lines = (tmp_path / 'stops.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [*watch.warnings]
