"""Briefs that a run is measured on."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from rlcw.evaluation import heldout
from rlcw.rewards.briefs import Brief


def write(file: pathlib.Path, *splits: str) -> str:
  lines = [
    {'id': f'{file.stem} {n}', 'prompt': 'Hi', 'split': split, 'language': 'en'}
    for n, split in enumerate(splits)
  ]
  file.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
  return str(file)


@pytest.mark.parametrize(
  ('asked', 'expected'),
  [
    ('', ['own 1']),
    ('own', ['own 1']),
    ('other', ['other 0', 'other 2']),  # all but the training briefs
  ],
)
def test_briefs_are_those_asked_for_or_the_runs(
  asked: str, expected: list[str], tmp_path: pathlib.Path
) -> None:
  own = write(tmp_path / 'own.jsonl', 'train', 'heldout')
  files = {'': '', 'own': own}
  files['other'] = write(
    tmp_path / 'other.jsonl', 'heldout', 'train', 'heldout'
  )
  trained = ConfigDict({'briefs': own, 'language': 'en', 'system': 'Rhyme.'})
  found = heldout.load_briefs(files[asked], trained, 'Be kind.', tmp_path)
  assert [brief.id for brief in found] == expected
  assert all('Rhyme.' in brief.text for brief in found)


@pytest.mark.parametrize(
  ('prompts', 'expected'),
  [
    ('abac', [0, 1, 0, 2]),
    # over the rules of one prompt
    ('aaa', [0, 1, 2]),
    ('a', [0]),
  ],
)
def test_briefs_are_grouped_by_their_prompts(
  prompts: str, expected: list[int]
) -> None:
  briefs = [
    Brief(str(n), prompt, ('length:words',), ({'at_most': n + 9},))
    for n, prompt in enumerate(prompts)
  ]
  assert heldout.prompt_groups(briefs).tolist() == expected
