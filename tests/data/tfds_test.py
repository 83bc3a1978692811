"""TensorFlow datasets are built and read, and TensorFlow is not imported."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from rlcw import __version__
from rlcw.data.preferences import load_preferences
from rlcw.rewards.briefs import load_briefs
from tests.data.files_test import write_array, write_lines, write_parquet

pytest.importorskip('tensorflow_datasets', reason='needs the extra `data`')
pytest.importorskip('array_record', reason='needs the extra `data`')

ROOT = pathlib.Path(__file__).resolve().parents[2]
READ = """
import json, sys
from rlcw.data import datasets

for path in sys.argv[1:]:
  try:
    found = [record for _, record in datasets.read_records(path)]
  except ValueError as error:
    found = str(error)
  print('RESULT', json.dumps(found))
print('RESULT', json.dumps('tensorflow' in sys.modules))
"""


def read(home: pathlib.Path, *paths: str) -> list[Any]:
  """What a new process reads, or its errors; TensorFlow could be imported."""
  fake = home / 'fake' / 'tensorflow'
  fake.mkdir(parents=True, exist_ok=True)
  (fake / '__init__.py').touch()
  python_path = os.pathsep.join(
    [str(ROOT), str(fake.parent), os.environ.get('PYTHONPATH', '')]
  )
  result = subprocess.run(
    [sys.executable, '-c', READ, *paths],
    env=os.environ | {'PYTHONPATH': python_path, 'TFDS_DATA_DIR': str(home)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  lines = [x for x in result.stdout.splitlines() if x.startswith('RESULT ')]
  *found, imported = [json.loads(x.removeprefix('RESULT ')) for x in lines]
  assert imported is False
  assert len(found) == len(paths)
  return found


def save(path: pathlib.Path, records: list[Any]) -> pathlib.Path:
  write_lines(path, records)
  return path


def test_shipped_sets_are_their_files(tmp_path: pathlib.Path) -> None:
  briefs, heldout, pairs = read(
    tmp_path,
    'tfds:rlcw_briefs',
    f'tfds:rlcw_briefs:{__version__}?heldout',
    'tfds:rlcw_preferences',
  )
  shipped = load_briefs('@briefs.jsonl')
  expected = sorted(shipped, key=lambda brief: brief.split != 'train')
  assert load_briefs(save(tmp_path / 'b.jsonl', briefs)) == expected
  assert [record['id'] for record in heldout] == [
    brief.id for brief in expected if brief.split == 'heldout'
  ]
  assert not any('split' in record for record in heldout)
  ours = load_preferences(save(tmp_path / 'p.jsonl', pairs))
  theirs = load_preferences('@preferences.jsonl')
  assert sorted(ours, key=repr) == sorted(theirs, key=repr)


REPLY = {'prompt': '给老师', 'response': '谢谢您！'}
PAIR = {'prompt': '给老师', 'chosen': '谢谢您！', 'rejected': '好。'}


def test_a_folder_of_greetings(tmp_path: pathlib.Path) -> None:
  folder = tmp_path / 'downloads' / 'manual' / 'rlcw_greetings'
  folder.mkdir(parents=True)
  write_array(folder / 'sft.json', [REPLY] * 3)
  write_lines(folder / 'preference_train.jsonl', [PAIR, PAIR])
  write_parquet(folder / 'preference_dev.parquet', [PAIR | {'more': 1}])
  write_lines(folder / 'labelled_dev.json', [REPLY | {'label': 1}])
  write_lines(folder / 'briefs_train.jsonl', [{'prompt': '写一句'}])
  write_lines(folder / 'briefs_test.jsonl', [{'prompt': '再写一句'}] * 2)
  names = 'sft', 'preferences', 'labelled', 'briefs'
  sft, pairs, labelled, briefs = read(
    tmp_path, *(f'tfds:rlcw_greetings/{name}' for name in names)
  )
  zh = {'language': 'zh'}
  # of one split alone, the held-out ones are drawn as from a file
  assert sft == [REPLY | zh] * 3
  train, heldout = {'split': 'train'}, {'split': 'heldout'}
  assert pairs == [PAIR | zh | train] * 2 + [PAIR | zh | heldout]
  assert labelled == [REPLY | zh | {'label': 1}]
  loaded = load_briefs(save(tmp_path / 'b.jsonl', briefs), language='zh')
  assert [(b.id, b.text, b.split) for b in loaded] == [
    ('briefs_train-2', '写一句', 'train'),
    ('briefs_test-2', '再写一句', 'heldout'),
    ('briefs_test-3', '再写一句', 'heldout'),
  ]


def test_the_greetings_as_they_were_published(tmp_path: pathlib.Path) -> None:
  folder = tmp_path / 'downloads' / 'manual' / 'rlcw_greetings'
  for part in ('sft', 'reward_model', 'evaluation_set', 'grpo_data'):
    (folder / part).mkdir(parents=True)
  brief, good, bad = PAIR.values()
  alpaca = {'instruction': brief, 'input': '', 'output': good}
  sharegpt = {
    'conversations': [{'from': 'human', 'value': brief}],
    'chosen': {'from': 'gpt', 'value': good},
    'rejected': {'from': 'gpt', 'value': bad},
  }
  verl = {'prompt': [{'role': 'user', 'content': brief}], 'ability': 'writing'}
  write_array(folder / 'sft' / 'sft_data.json', [alpaca])
  for split in ('train', 'test'):
    file = folder / 'reward_model' / f'reward_data_{split}.json'
    write_array(file, [sharegpt])
    write_parquet(folder / 'grpo_data' / f'{split}.parquet', [verl])
  labelled = {'query': brief, 'response': good, 'label': 1}
  write_lines(folder / 'evaluation_set' / 'evaluate_data.json', [labelled])
  names = 'sft', 'preferences', 'labelled', 'briefs'
  sft, pairs, labels, briefs = read(
    tmp_path, *(f'tfds:rlcw_greetings/{name}' for name in names)
  )
  zh, train, heldout = (
    {'language': 'zh'} | more
    for more in ({}, {'split': 'train'}, {'split': 'heldout'})
  )
  assert sft == [REPLY | zh]
  assert pairs == [PAIR | train, PAIR | heldout]
  assert labels == [REPLY | zh | {'label': 1}]
  assert [(b['prompt'], b['split']) for b in briefs] == [
    (brief, 'train'),
    (brief, 'heldout'),
  ]


def test_what_cannot_be_built_is_told(tmp_path: pathlib.Path) -> None:
  sft = 'tfds:rlcw_greetings/sft'
  (absent,) = read(tmp_path, sft)
  assert 'link the published folder' in absent and 'labelled_dev' in absent
  folder = tmp_path / 'downloads' / 'manual' / 'rlcw_greetings'
  folder.mkdir(parents=True)
  write_lines(folder / 'preference_train.jsonl', [PAIR, {'prompt': 'x'}])
  write_lines(folder / 'preference_dev.jsonl', [PAIR])
  empty, field, unknown, split = read(
    tmp_path,
    sft,
    'tfds:rlcw_greetings/preferences',
    'tfds:rlcw_nothing',
    'tfds:rlcw_briefs?test',
  )
  assert 'rlcw_greetings has no sft or sft/sft_data as .jsonl, ' in empty
  assert 'preference_train.jsonl:3: no field chosen, rejected' in field
  assert unknown == 'tfds:rlcw_nothing: Dataset rlcw_nothing not found.'
  assert "'test'" in split and "'heldout'" in split
