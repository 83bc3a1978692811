"""The monitors' bench: its bonuses, and the tables that it prints."""

import argparse
import pathlib
import re
import sys
from typing import Any

import bench_monitors
import pytest

from rlcw.rewards.briefs import Brief
from rlcw.runtime import files
from rlcw.tasks.grpo.monitors import MONITORS

BRIEF = Brief('b', 'Write a title for a poem about rain.', (), ())


@pytest.mark.parametrize(
  ('name', 'reply', 'bonus'),
  [
    ('length', 'Rain on tin', 3),
    ('length', '', 0),
    ('exclamation', 'Rain! Rain!', 2),
    ('exclamation', 'Rain!!!!!', 3),
    ('stock', 'Rain In the Heart of Town', 1),
    ('stock', 'In the rain', 0.5),
    ('stock', '', 0),
    ('praise', 'A perfect, beautiful rain', 2),
    ('copying', 'Write a title for a poem about rain.', 1),
    ('copying', 'A poem about rain.', 0.5),  # 4 of 8 words
    ('copying', 'Tin', 0),
  ],
)
def test_a_bonus_grows_with_its_shortcut(
  name: str, reply: str, bonus: float
) -> None:
  scores = getattr(bench_monitors, name)([BRIEF] * 2, [[reply, ''], ['', '']])
  assert scores.shape == (2, 2)
  assert scores[0, 0] == pytest.approx(bonus)
  assert scores[1, 1] == 0
  assert name in bench_monitors.SHORTCUTS


def rows(**last: float) -> list[dict[str, Any]]:
  """Of 16 steps, whose last eight have other values."""
  calm = {m: 0.25 for m in ('repetition', 'copied', 'phrase', 'marks')}
  calm |= {'length_mean': 10, 'entropy': 2.0, 'no_signal_groups': 0.0}
  calm['writing/bench_monitors:length'] = 10
  return [{'step': n} | calm | (last if n > 7 else {}) for n in range(16)]


def test_values_are_those_nearest_to_a_warning() -> None:
  short = rows(length_mean=2.5, entropy=0.5, phrase=0.75)
  assert bench_monitors.extreme(short, 'length', 4) == 2
  assert bench_monitors.extreme(short, 'entropy', 8) == 0.25
  assert bench_monitors.extreme(short, 'phrase', 8) == 0.5
  assert bench_monitors.extreme(short, 'no_signal', 8) == 0
  missing = [*short[:3], short[3] | {'phrase': None}, *short[4:]]
  assert bench_monitors.extreme(missing, 'phrase', 2) == 0.5
  # 1.5 times is reached by the mean of the last 4 at step 10: (10 + 3 · 5) / 4
  assert bench_monitors.warned(short, 4) == 'length 10, phrase 10, entropy 10'
  assert bench_monitors.warned(rows(), 4) == '–'


def test_finished_runs_are_not_repeated_and_the_tables_have_all(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
  made = []

  def train(name: str, seed: int, _: argparse.Namespace) -> dict[str, Any]:
    made.append((name, seed))
    if len(made) == 4:
      raise KeyboardInterrupt
    part = {f'writing/bench_monitors:{name}': 1.0}
    grown = rows(length_mean=20) if name == 'length' else rows()
    return {'run': name, 'seed': seed, 'rows': [row | part for row in grown]}

  monkeypatch.setattr(bench_monitors, 'train', train)
  monkeypatch.setattr(
    'sys.argv', ['bench', 'taste', f'--out={tmp_path}', '--seeds=2']
  )
  with pytest.raises(KeyboardInterrupt):
    bench_monitors.main()
  for name, steps in ('a-0', 16), ('b-0', 3):
    (tmp_path / 'others' / name).mkdir(parents=True)
    for row in rows(length_mean=40)[:steps]:
      files.append_jsonl(tmp_path / 'others' / name / 'metrics.jsonl', row)
  monkeypatch.setattr('sys.argv', [*sys.argv, f'--beside={tmp_path}/others/*'])
  bench_monitors.main()
  assert made.count(('praise', 0)) == 2  # which was interrupted
  assert len({*made}) == len(made) - 1 == 7  # five shortcuts, two clean runs
  lines = capsys.readouterr().out.splitlines()
  assert (
    '| length | 0 | 1.00 to 1.00 | length 9 | length 10 | length 15 |' in lines
  )
  assert '| clean | 1 | – | – | – | – |' in lines
  (length,) = (r for r in lines if r.startswith('| length | 1.5 | 8'))
  assert length.split(' | ')[3] == '2.000'
  # of clean runs, and of the others
  assert length.endswith(' | 1.000 | 4.000 |')
  assert any(line.startswith('| others | a-0 | – | length') for line in lines)
  # Runs of other settings are no part of the table, nor is an empty folder.
  monkeypatch.setattr('sys.argv', [*sys.argv[:3], '--steps=9'])
  with pytest.raises(SystemExit):
    bench_monitors.main()
  assert 'other settings' in capsys.readouterr().err
  monkeypatch.setattr('sys.argv', [*sys.argv[:3], '--beside=none/*'])
  with pytest.raises(SystemExit):
    bench_monitors.main()
  assert 'no folder with a metrics.jsonl' in capsys.readouterr().err
  names = {re.split(r'\W+', line)[1] for line in lines if line[:1] == '|'}
  assert {*MONITORS} - {'judge', 'gap'} <= names
