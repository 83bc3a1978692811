"""Labelled replies and their splits."""

import json
import pathlib
from typing import Any

import pytest

from rlcw.evaluation import labelled


def test_without_a_split_for_choices_its_records_train(
  tmp_path: pathlib.Path,
) -> None:
  records = [
    {'prompt': f'p{n}', 'response': 'r', 'label': n % 2, 'split': split}
    for n, split in enumerate(['dev', 'dev', 'heldout', 'heldout'])
  ]
  file = _write(tmp_path, records)
  splits = labelled.load(file, 'en', dev=None, heldout=0.2)
  assert [(name, len(each)) for name, each in splits.items()] == [
    ('train', 2),
    ('heldout', 2),
  ]
  with pytest.raises(
    ValueError,
    match=r"0 replies in 'en' are in 'train'.*"
    r'change --config.heldout=0.3 or --config.dev=0.2$',
  ):
    labelled.load(file, 'en', dev=0.2, heldout=0.3)


def _write(folder: pathlib.Path, records: list[dict[str, Any]]) -> str:
  file = folder / 'labelled.jsonl'
  file.write_text(''.join(json.dumps(r) + '\n' for r in records))
  return str(file)


def _pairs(count: int, **fields: Any) -> list[dict[str, Any]]:
  return [
    {'prompt': f'p{n}', 'chosen': f'c{n}', 'rejected': f'r{n}', **fields}
    for n in range(count)
  ]


def test_a_prompt_is_in_one_split(tmp_path: pathlib.Path) -> None:
  file = _write(tmp_path, _pairs(300))
  splits = labelled.load(file, 'en', dev=0.25, heldout=0.2)
  prompts = [{each.prompt for each in splits[s]} for s in labelled.SPLITS]
  assert sum(map(len, prompts)) == len(set().union(*prompts)) == 300
  assert [len(p) / 300 for p in prompts] == pytest.approx(
    [0.6, 0.2, 0.2], abs=0.07
  )
  assert splits == labelled.load(file, 'en', dev=0.25, heldout=0.2)
  every = [each for members in splits.values() for each in members]
  assert {e.response[0] for e in every if e.label} == {'c'}
  assert {e.response[0] for e in every if not e.label} == {'r'}


def test_a_text_is_not_both_good_and_bad(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  same = {'prompt': 'p', 'chosen': 'same', 'rejected': 'same'}
  file = _write(tmp_path, [*_pairs(300), same])
  splits = labelled.load(file, 'en', dev=0.25, heldout=0.2)
  texts = [each.response for members in splits.values() for each in members]
  assert len(texts) == 600 and 'same' not in texts
  assert '2 replies labelled Good and Bad left out' in capsys.readouterr().out


def test_splits_that_are_named_stay(tmp_path: pathlib.Path) -> None:
  records = [
    {'prompt': s, 'response': f'x{label}', 'label': label, 'split': s}
    for s in ('train', 'dev', 'test')
    for label in (0, 1)
  ]
  splits = labelled.load(_write(tmp_path, records), 'zh', dev=0.9, heldout=0.9)
  assert [len(splits[s]) for s in labelled.SPLITS] == [2, 2, 2]


def test_the_shipped_pairs_can_be_played_with() -> None:
  for language in ('en', 'zh'):
    splits = labelled.load('@preferences.jsonl', language, dev=0.2, heldout=0.2)
    assert all(len(members) >= 20 for members in splits.values())


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'label': 0.5}, ':2: label=0.5; expected 1 for Good or 0 for Bad'),
    ({'label': None}, ':2: label=None'),
    ({'response': ' '}, ":2: response=' '; expected a string"),
    ({'prompt': 3}, ':2: prompt=3; expected a text'),
    (
      {'split': 'tset'},
      ":2: split='tset'; expected one of .*'train', 'dev', 'held",
    ),
  ],
)
def test_a_record_that_is_not_legal_is_named(
  changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  good = {'prompt': 'p', 'response': 'r', 'label': 1}
  file = _write(tmp_path, [good, good | changes])
  with pytest.raises(ValueError, match=message):
    labelled.load(file, 'en', dev=0.2, heldout=0.2)


def test_a_split_without_both_labels_is_named(tmp_path: pathlib.Path) -> None:
  file = _write(tmp_path, _pairs(20, language='zh'))
  with pytest.raises(
    ValueError, match="'zh' are in 'heldout'; expected at least one"
  ):
    labelled.load(file, 'zh', dev=0.3, heldout=0)
  with pytest.raises(ValueError, match="language='en'; found zh: 20"):
    labelled.load(file, 'en', dev=0.3, heldout=0.3)
