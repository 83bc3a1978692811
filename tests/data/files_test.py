"""The same records in every format, and what is wrong with a file named."""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rlcw.data import datasets

RECORDS: list[dict[str, Any]] = [
  {'id': 'a', 'prompt': 'Grüße', 'kwargs': [{'at_most': 5}, {}]},
  {'id': 'b', 'prompt': '愿', 'kwargs': [{'words': ['x', 'y']}], 'score': 0.5},
]


def write_lines(path: pathlib.Path, records: Any = RECORDS) -> None:
  lines = [json.dumps(record, ensure_ascii=False) for record in records]
  path.write_text('\n'.join(['', *lines]), encoding='utf-8')


def write_array(path: pathlib.Path, records: Any = RECORDS) -> None:
  path.write_text(json.dumps(records, indent=2))


def write_parquet(path: pathlib.Path, records: Any = RECORDS) -> None:
  pyarrow = pytest.importorskip('pyarrow', reason='the extra `data` is absent')
  parquet = pytest.importorskip('pyarrow.parquet')
  parquet.write_table(pyarrow.Table.from_pylist(records), path)


# which number the first record has
FORMATS = [
  ('x.jsonl', write_lines, 2),
  ('x.ndjson', write_lines, 2),
  ('x.json', write_lines, 2),
  ('x.json', write_array, 1),
  ('x.parquet', write_parquet, 1),
]


@pytest.mark.parametrize(('name', 'write', 'first'), FORMATS)
def test_every_format_has_the_same_records(
  name: str, write: Callable[..., None], first: int, tmp_path: pathlib.Path
) -> None:
  # pyarrow takes its columns from the first record
  records = [{**RECORDS[0], 'score': None}, RECORDS[1]]
  write(tmp_path / name, records if name == 'x.parquet' else RECORDS)
  assert datasets.read_numbered(tmp_path / name) == [
    (first, RECORDS[0]),
    (first + 1, RECORDS[1]),
  ]


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('x.json', '[{"a": 1}, 2]', r'x\.json:2: expected a JSON object'),
    ('x.json', '[{"a": 1}', r'x\.json: not JSON'),
    ('x.json', '{"a":\n1}', r'x\.json:1: not JSON'),
    ('x.csv', 'prompt,response', r'x\.csv:1: not JSON'),
  ],
)
def test_what_is_wrong_with_a_file_is_named(
  name: str, text: str, message: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    datasets.read_numbered(tmp_path / name)


def test_a_broken_parquet_file_is_named(tmp_path: pathlib.Path) -> None:
  write_parquet(tmp_path / 'x.parquet')
  (tmp_path / 'x.parquet').write_bytes(b'PAR1')
  with pytest.raises(ValueError, match=r'x\.parquet: not parquet'):
    datasets.read_numbered(tmp_path / 'x.parquet')


@pytest.mark.parametrize(
  ('path', 'package'),
  [('x.parquet', 'pyarrow'), ('tfds:rlcw_briefs', 'tensorflow_datasets')],
)
def test_what_is_not_installed_is_told_with_its_extra(
  path: str,
  package: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  pathlib.Path('x.parquet').touch()
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(ValueError, match=r"pip install 'rlcw\[data\]'"):
    datasets.read_numbered(path)


SAID = [{'from': 'human', 'value': 'A toast.'}]
ASKED = [{'role': 'user', 'content': 'A toast.'}]
REPLIED = [*ASKED, {'role': 'assistant', 'content': 'To you!'}]
GOOD, BAD = ({'from': 'gpt', 'value': text} for text in ('To you!', 'Hm.'))
LAYOUTS = {
  'alpaca': (
    {'instruction': 'A toast.', 'input': '', 'output': 'To you!'},
    {'prompt': 'A toast.', 'response': 'To you!'},
  ),
  'alpaca with input': (
    {'instruction': 'A toast', 'input': 'to Ines.', 'output': 'Oh!', 'id': 1},
    {'prompt': 'A toast\nto Ines.', 'response': 'Oh!', 'id': 1},
  ),
  'sharegpt': (
    {'conversations': SAID, 'chosen': GOOD, 'rejected': BAD},
    {'prompt': 'A toast.', 'chosen': 'To you!', 'rejected': 'Hm.'},
  ),
  'sharegpt reply': (
    {'conversations': [*SAID, GOOD]},
    {'prompt': 'A toast.', 'response': 'To you!'},
  ),
  'verl': (
    {'prompt': ASKED, 'ability': 'x', 'extra_info': {'split': 'train'}},
    {'prompt': 'A toast.', 'ability': 'x', 'extra_info': {'split': 'train'}},
  ),
  'messages': (
    {'prompt': REPLIED},
    {'prompt': 'A toast.', 'response': 'To you!'},
  ),
  'query': (
    {'query': 'A toast.', 'response': 'To you!', 'label': 1},
    {'prompt': 'A toast.', 'response': 'To you!', 'label': 1},
  ),
}


@pytest.mark.parametrize('write', [write_lines, write_array, write_parquet])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts_of_other_tools_become_ours(
  layout: str, write: Callable[..., None], tmp_path: pathlib.Path
) -> None:
  theirs, ours = LAYOUTS[layout]
  end = 'parquet' if write is write_parquet else 'json'
  write(tmp_path / f'x.{end}', [theirs, theirs])
  assert [r for _, r in datasets.read_numbered(tmp_path / f'x.{end}')] == [
    ours
  ] * 2


@pytest.mark.parametrize(
  'record',
  [
    {'prompt': [{'role': 'system', 'content': 'Be brief.'}, *ASKED]},
    {'prompt': [*REPLIED, *ASKED]},
    {'prompt': []},
    {'conversations': ['A toast.']},
    {'conversations': 5},
    {'conversations': [GOOD], 'chosen': GOOD, 'rejected': BAD},
  ],
)
def test_a_conversation_of_more_turns_is_refused(
  record: Any, tmp_path: pathlib.Path
) -> None:
  write_array(tmp_path / 'x.json', [record])
  with pytest.raises(
    ValueError, match=r'x\.json:1: (.*; expected one|message|.*=5)'
  ):
    datasets.read_numbered(tmp_path / 'x.json')
