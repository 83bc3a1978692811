"""A short run that everything befalls, and one that is left alone."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_a_run_survives_every_fault(tmp_path: pathlib.Path) -> None:
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  command = [
    sys.executable,
    str(ROOT / 'scripts' / 'endurance.py'),
    f'--workdir={tmp_path / "runs"}',
    *('--steps=40', '--kills=4', '--outage=5'),
  ]
  environment |= {'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
    command, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout + done.stderr[-3000:]
  tally = json.loads((tmp_path / 'runs' / 'tally.json').read_text())
  assert tally['differences'] == []
  kinds = {row['fault'] for row in tally['table']}
  assert {'kill in save', 'terminate', 'take judge', 'spoil line'} <= kinds
  assert {'interrupt', 'hang reward', 'start twice', 'halve summary'} <= kinds
  assert {'spoil log', 'jump clock'} <= kinds
