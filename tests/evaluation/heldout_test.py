"""Briefs that a run is measured on."""

import json
import math
import pathlib

import pytest
from ml_collections import ConfigDict

from rlcw.evaluation import heldout
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief
from rlcw.runtime import console


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


def test_briefs_that_a_run_was_trained_on_are_counted(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  own = tmp_path / 'own.jsonl'
  own.write_text(
    '\n'.join(json.dumps({'id': n, 'prompt': f'Hi {n}'}) for n in range(30))
  )
  trained = ConfigDict(
    {'briefs': str(own), 'language': 'en', 'heldout': 0.2, 'system': ''}
  )
  held_out = heldout.load_briefs(str(own), trained, '', tmp_path)
  assert 0 < len(held_out) < 15
  assert 'trained on' not in capsys.readouterr().out
  copy = tmp_path / 'copy.jsonl'
  copy.write_text(own.read_text())
  assert len(heldout.load_briefs(str(copy), trained, '', tmp_path)) == 30
  said = capsys.readouterr().out
  assert f'prompts of {30 - len(held_out)} of 30 briefs' in said
  own.unlink()  # an old run's: nothing is known
  console.take_notices()
  heldout.load_briefs(str(copy), trained, '', tmp_path)
  assert 'trained on' not in capsys.readouterr().out


def test_the_best_parameters_are_not_measured_unawares_on_what_chose_them(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  own = write(tmp_path / 'own.jsonl', 'train', 'heldout')
  other = write(tmp_path / 'other.jsonl', 'heldout')
  trained = ConfigDict({'briefs': own, 'language': 'en', 'system': ''})
  (tmp_path / 'config.json').write_text('{"task": "grpo"}')
  for folder, file, noted in (
    (tmp_path, '', False),
    (tmp_path / 'best', other, False),
    (tmp_path / 'best', '', True),
  ):
    heldout.load_briefs(file, trained, '', folder)
    assert ('chosen on these held-out' in capsys.readouterr().out) == noted
    console.take_notices()


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


def test_what_is_kept_is_not_known_without_a_verdict() -> None:
  assert [constraints.keeps([]), constraints.keeps([True, True])] == [1, 1]
  assert constraints.keeps([True, False]) == 0
  # else a judge that answers half of the questions would halve the pass rate
  assert math.isnan(constraints.keeps([False, None]))
  assert math.isnan(constraints.keeps([True, None]))


def test_stored_verdicts_of_rules_are_made_anew() -> None:
  rules = 'length:words', 'soft:demand'
  brief = Brief('a', 'Hi.', rules, ({'at_most': 2}, {'demand': 'Be kind.'}))
  stored = [
    {'text': 'One two.', 'follow': [False, True], 'strict': 0.0, 'kl': 0.5},
    {'text': 'One two three.', 'follow': [True, None], 'strict': math.nan},
    {'text': 'One.', 'follow': [True, None], 'strict': 1.0},
  ]
  [[kept, broken, unknown]] = heldout.check([brief], [stored])
  assert kept == {
    'text': 'One two.',
    'follow': [True, True],
    'strict': 1,
    'loose': 1,
    'kl': 0.5,
  }
  assert (broken['follow'], broken['strict']) == ([False, None], 0)
  assert math.isnan(unknown['strict']) and math.isnan(unknown['loose'])
