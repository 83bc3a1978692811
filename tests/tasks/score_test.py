"""Replies in, scores out: those of the reward model, in order."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pipeline
import pytest
from safetensors.numpy import load_file

from rlcw.data import datasets
from rlcw.models import language_model
from rlcw.rewards import reward_model, text_scores
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from tests.tasks.reward_model_test import save_run

REPLIES = [
  {'id': n, 'prompt': 'To the sea', 'response': 'wave ' * (1 + 7 * n)}
  for n in range(11)
]


@pytest.fixture(scope='module')
def head(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  workdir = tmp_path_factory.mktemp('head')
  save_run(workdir, str(tiny_folder), 32)
  return workdir


def score(
  head: pathlib.Path, workdir: pathlib.Path, records: list[dict[str, Any]]
) -> list[dict[str, Any]]:
  file = workdir / 'replies.jsonl'
  file.unlink(missing_ok=True)
  for record in records:
    files.append_jsonl(file, record)
  config = pipeline.shipped('score')
  config.update({'run': str(head), 'input': str(file), 'batch_size': 8})
  pipeline.run('score', config, workdir)
  return datasets.read_jsonl(workdir / 'scores.jsonl')


def test_scores_are_the_reward_models_in_order(
  head: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  rows = score(head, tmp_path, REPLIES)
  assert [row['id'] for row in rows] == list(range(11))
  base = language_model.load(tiny_folder, make_mesh(devices=jax.devices()[:1]))
  reward = reward_model.load(str(head), base)
  for row in rows:
    (expected,) = text_scores.score(
      reward,
      [row['prompt']],
      [[row['response']]],
      np.ones((1, 1), bool),
      (32, 256),  # one shape for all rows
    )
    assert row['score'] == pytest.approx(float(expected[0]), abs=1e-3)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['replies'] == 11
  assert summary['score_std'] > 0


@pytest.mark.parametrize('task', ['score', 'judge'])
def test_replies_are_read_before_a_model_is(
  task: str, tmp_path: pathlib.Path
) -> None:
  """A mistyped path costs no loading: neither model exists."""
  config = pipeline.shipped(task)
  config.update({'input': str(tmp_path / 'none.jsonl')})
  config.update(
    {'run': str(tmp_path / 'none')}
    if task == 'score'
    else {'judge': {'model': str(tmp_path / 'none')}}
  )
  with pytest.raises(FileNotFoundError, match='no file .*none.jsonl'):
    pipeline.run(task, config, tmp_path)


def test_a_run_goes_on_where_it_was_killed(
  head: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  rows = score(head, tmp_path, REPLIES)
  lines = (tmp_path / 'scores.jsonl').read_text().splitlines(True)
  (tmp_path / 'scores.jsonl').write_text(''.join(lines[:4]) + lines[4][:9])
  again = score(head, tmp_path, REPLIES)
  assert [row['id'] for row in again] == list(range(11))
  scores = [[row['score'] for row in each] for each in (rows, again)]
  assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize('field', ['prompt', 'response'])
def test_a_line_without_a_text_is_named(
  field: str, head: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  bad = REPLIES[1] | {field: None}
  with pytest.raises(
    ValueError, match=rf'replies\.jsonl:2: ({field}=None|no {field})'
  ):
    score(head, tmp_path, [REPLIES[0], bad])
  assert not (tmp_path / 'scores.jsonl').exists()


def test_an_empty_file_is_an_error(
  head: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'empty.jsonl').write_text('\n')
  config = pipeline.shipped('score')
  config.update({'run': str(head), 'input': str(tmp_path / 'empty.jsonl')})
  with pytest.raises(ValueError, match='empty.jsonl has no lines'):
    pipeline.run('score', config, tmp_path)


def test_a_blank_reply_has_the_lowest_score_of_training(
  head: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  records = [{'id': 0, 'prompt': 'To the sea', 'response': 'wave'}]
  records += [{**records[0], 'id': 1, 'response': ' \u200b'}]
  file = head / reward_model.FILE
  before = file.read_bytes()
  try:
    for floor, expected in ((-4.25, -4.25), (float('nan'), None)):
      arrays = reward_model.Head(**load_file(file))
      reward_model.save(arrays, head, [1], floor)
      workdir = tmp_path / str(floor)
      workdir.mkdir()
      rows = score(head, workdir, records)
      assert rows[0]['score'] is not None
      assert rows[1]['score'] == expected
      summary = json.loads((workdir / 'summary.json').read_text())
      assert summary['unscored'] == (expected is None)
      known = [row['score'] for row in rows if row['score'] is not None]
      assert summary['score_mean'] == pytest.approx(np.mean(known))
  finally:
    file.write_bytes(before)
