"""The tables of scripts/greetings_tables.py, from files of its runs."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import greetings_tables
import pytest

Record = dict[str, Any]


def _write(
  runs: pathlib.Path, name: str, summary: Record, rows: Sequence[Record] = ()
) -> None:
  folder = runs / name
  folder.mkdir(parents=True)
  (folder / 'summary.json').write_text(json.dumps(summary))
  for file in ('scores', 'verdicts'):
    lines = [json.dumps(row) + '\n' for row in rows]
    (folder / f'{file}.jsonl').write_text(''.join(lines))


def test_scorers_are_compared_on_the_same_pairs(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  good = {'balanced': 0.5, 'auc': 0.75, 'auc_interval': [0.5, 1]}
  _write(
    tmp_path,
    'debate',
    {'pairs': 3, 'queries': 5, 'overturn_rate': 0.25, 'chosen_longer': 1.0},
  )
  _write(
    tmp_path,
    'debated',
    {'agreement': good | {'replies': 31, 'answered': 30 / 31}},
  )
  found = {
    'heldout': 58,
    'heldout_before': good,
    'heldout_after': good | {'auc': 0.875},
  }
  _write(tmp_path, 'game-1', found)
  (tmp_path / 'game-2').mkdir()  # has not ended
  _write(tmp_path, 'reward_model', {'train_pairs': 40})
  _write(tmp_path, 'judges/verdicts', {'train_examples': 1234})
  # Chosen first: right, wrong, and a tie, which is half right.
  texts = ['long reply', 'short', 'of ten ...', 'length ten', 'a', 'b']
  sides = [
    {'prompt': str(n // 2), 'response': text} for n, text in enumerate(texts)
  ]
  scores = [
    side | {'score': score, 'p_good': 1 - score}
    for side, score in zip(sides, [1, 0, 0.25, 0.5, 0, 0], strict=True)
  ]
  _write(tmp_path, 'scores_reward_model', {}, scores)
  _write(tmp_path, 'scores_judge', {}, scores)
  unseen = {'heldout_accuracy': 0.9, 'heldout_pairs': 10}
  _write(tmp_path, 'unseen_scorer', unseen)
  greetings_tables.main(str(tmp_path))
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  text = [' '.join(line) for line in lines]
  # an earlier version wrote fewer numbers
  assert 'debate 31 96.8% 50.0% – 0.750 (0.500 to 1.000) –' in text
  assert 'game-1, after 58 – 50.0% – 0.875 (0.500 to 1.000) –' in text
  # right; by length; of two pairs of like length one is a tie, one wrong
  rows = {line[0]: line[1:] for line in lines if line}
  model, judge = ' '.join(rows['reward_model']), ' '.join(rows['judge'])
  assert model.startswith('40 50.0% (') and ') 66.7% 25.0% (' in model
  assert model.endswith(') 50.0% 2 +0.75')
  assert judge.startswith('1,234 50.0% (') and ') 66.7% 75.0% (' in judge
  assert judge.endswith(') 50.0% 2 -0.75')
