"""The same records in every format, and what is wrong with a file named."""

import codecs
import csv
import datetime
import decimal
import gzip
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlcw.data import datasets, files, hub
from rlcw.data.examples import load_examples

RECORDS: list[dict[str, Any]] = [
  {'id': 'a', 'prompt': 'Grüße\u2028"x",y', 'kwargs': [{'at_most': 5}, {}]},
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


def write_bom(path: pathlib.Path, records: Any = RECORDS) -> None:
  write_lines(path, records)
  path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())


def write_csv(path: pathlib.Path, records: Any = RECORDS) -> None:
  names = list(dict.fromkeys(name for record in records for name in record))
  with path.open('w', encoding='utf-8-sig', newline='') as file:
    writer = csv.DictWriter(
      file, names, delimiter='\t' if path.suffix == '.tsv' else ','
    )
    writer.writeheader()
    for record in records:
      writer.writerow(
        {
          key: json.dumps(value) if isinstance(value, list) else value
          for key, value in record.items()
        }
      )


def gzipped(write: Callable[..., None]) -> Callable[..., None]:
  def write_gzipped(path: pathlib.Path, records: Any = RECORDS) -> None:
    plain = path.with_suffix('')
    write(plain, records)
    path.write_bytes(gzip.compress(plain.read_bytes()))

  return write_gzipped


# which number the first record has
FORMATS = [
  ('x.jsonl', write_lines, 2),
  ('x.jsonl', write_bom, 2),
  ('x.jsonl.gz', gzipped(write_lines), 2),
  ('x.json.gz', gzipped(write_array), 1),
  ('x.parquet.gz', gzipped(write_parquet), 1),
  ('x.csv.gz', gzipped(write_csv), 2),
  ('x.csv', write_csv, 2),
  ('x.tsv', write_csv, 2),
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
  write(tmp_path / name, records if 'parquet' in name else RECORDS)
  assert datasets.read_records(tmp_path / name) == [
    (f'{tmp_path / name}:{first}', RECORDS[0]),
    (f'{tmp_path / name}:{first + 1}', RECORDS[1]),
  ]


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('x.json', '[{"a": 1}, 2]', r'x\.json:2: expected a JSON object'),
    ('x.json', '[{"a": 1}', r'x\.json: not JSON'),
    ('x.json', '{"a":\n1}', r'x\.json:1: not JSON'),
    ('x.txt', 'prompt,response', r'x\.txt:1: not JSON'),
    ('x.csv', 'prompt\na\na,b\n', r'x\.csv:3: more cells'),
    ('x.csv', 'prompt\n"a\nb\n', r'x\.csv:2: not csv'),
    ('x.jsonl', '{"a": 1}\n[]', r'x\.jsonl:2: expected a JSON object'),
    ('x.csv', 'prompt,a,a\nx,y,z', r"x\.csv:1: 'a' names several columns"),
    ('x.jsonl', '{"a": {"b": 1, "b": 2}}', r"x\.jsonl:1: .*'b' occurs twice"),
    ('x.json', '[{"a": 1, "a": 2}]', r"x\.json: .*'a' occurs twice"),
  ],
)
def test_what_is_wrong_with_a_file_is_named(
  name: str, text: str, message: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message):
    datasets.read_records(tmp_path / name)


def test_a_broken_parquet_file_is_named(tmp_path: pathlib.Path) -> None:
  write_parquet(tmp_path / 'x.parquet')
  (tmp_path / 'x.parquet').write_bytes(b'PAR1')
  with pytest.raises(ValueError, match=r'x\.parquet: not parquet'):
    datasets.read_records(tmp_path / 'x.parquet')


def test_a_column_of_parquet_is_not_lost_to_another_of_its_name(
  tmp_path: pathlib.Path,
) -> None:
  pyarrow = pytest.importorskip('pyarrow', reason='the extra `data` is absent')
  parquet = pytest.importorskip('pyarrow.parquet')
  columns = [pyarrow.array(['a']), pyarrow.array(['b'])]
  table = pyarrow.Table.from_arrays(columns, names=['prompt', 'prompt'])
  parquet.write_table(table, tmp_path / 'x.parquet')
  with pytest.raises(ValueError, match=r"x\.parquet: .*'prompt' names several"):
    datasets.read_records(tmp_path / 'x.parquet')


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
  with pytest.raises(ValueError, match=r"pip install -e '\.\[data\]'"):
    datasets.read_records(path)


def test_a_quoted_cell_may_span_lines(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'x.csv'
  file.write_text('prompt,score\n"a\nb",1\nc,2\n')
  assert datasets.read_records(file) == [
    (f'{file}:2', {'prompt': 'a\nb', 'score': 1}),
    (f'{file}:4', {'prompt': 'c', 'score': 2}),
  ]


def test_a_cell_has_the_value_that_its_field_may_have(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.csv'
  row = {
    'prompt': '[1]',
    'system': '[Poet]',
    'responses': '["x", "y"]',
    'scores': '[1, 2]',
    'finished': 'True',
    'stated': 'FALSE',
    'keywords': "['sea']",
    'label': 'Good',
  }
  with file.open('w', newline='') as opened:
    csv.writer(opened).writerows([row.keys(), row.values()])
  [(_, read)] = files.read(file)
  assert read == row | {
    'responses': ['x', 'y'],
    'scores': [1, 2],
    'finished': True,
    'stated': False,
    'keywords': ['sea'],
  }


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    ('x.jsonl', b'{"a": 1}\n\xff', r'x\.jsonl:2: not UTF-8'),
    ('x.jsonl', '{"a": 1}'.encode('utf-16'), r'x\.jsonl:1: not UTF-8'),
    ('x.jsonl.gz', gzip.compress(b'{"a": 1}', mtime=0)[:-5], 'damaged gzip'),
    ('x.jsonl', gzip.compress(b'{"a": 1}' * 99, mtime=0)[:30], 'damaged gzip'),
    ('x.parquet.gz', b'\x1f\x8b\x08', 'not parquet'),
  ],
)
def test_a_file_that_cannot_be_decoded_is_named(
  name: str, data: bytes, message: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / name).write_bytes(data)
  with pytest.raises(ValueError, match=message):
    datasets.read_records(tmp_path / name)


def shards(folder: pathlib.Path) -> None:
  (folder / 'data').mkdir(parents=True)
  for name, prompt in (
    ('train-00000-of-00002', 'a'),
    ('train-00001-of-00002', 'b'),
    ('test-00000-of-00001', 'c'),
    ('more', 'd'),
  ):
    write_lines(folder / 'data' / f'{name}.jsonl', [{'prompt': prompt}])
  (folder / 'README.md').write_text('about')
  (folder / 'dataset_info.json').write_text('{}')
  (folder / '.cache').mkdir()
  (folder / '.cache' / 'x.json').write_text('damaged')


SHARDS = [
  {'prompt': 'd'},
  {'prompt': 'c', 'split': 'test'},
  {'prompt': 'a', 'split': 'train'},
  {'prompt': 'b', 'split': 'train'},
]


def test_a_folder_and_a_glob_are_read_as_one(tmp_path: pathlib.Path) -> None:
  shards(tmp_path / 'd')
  whole = datasets.read_records(tmp_path / 'd')
  assert [record for _, record in whole] == SHARDS
  assert whole[0][0] == f'{tmp_path / "d/data/more.jsonl"}:2'
  matched = datasets.read_records(f'{tmp_path}/d/**/t*.jsonl')
  assert [record for _, record in matched] == SHARDS[1:]


def test_shards_have_the_split_of_their_folder_in_a_glob_too(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / 'y').mkdir()
  # the folder `train` that all are in says nothing
  for split in ('train', 'test'):
    folder = tmp_path / 'train' / 'x' / split
    folder.mkdir(parents=True)
    write_lines(folder / '0.jsonl', [{'prompt': split}])
  for pattern in ('x', 'x/*/*.jsonl', '**/*.jsonl'):
    read = datasets.read_records(str(tmp_path / 'train' / pattern))
    assert [(r['prompt'], r['split']) for _, r in read] == [
      ('test', 'test'),
      ('train', 'train'),
    ]
  for name in ('training', 'held_out', 'evaluation', 'test2', 'trainer'):
    write_lines(tmp_path / 'y' / f'{name}.jsonl', [{'prompt': name}])
  found = {r['prompt']: r.get('split') for _, r in files.read(tmp_path / 'y')}
  assert found == {
    'training': 'training',
    'held_out': 'held_out',
    'evaluation': 'evaluation',
    'test2': 'test',
    'trainer': None,
  }
  [_, (_, last)] = datasets.read_records(str(tmp_path / 'train/x/t*/0.jsonl'))
  assert last['split'] == 'train'


def test_a_path_that_is_empty_is_not_the_current_folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  write_lines(tmp_path / 'x.jsonl')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError, match="path=''; expected a file"):
    datasets.read_records('')


def test_a_saved_data_set_of_arrow_files_is_told_by_its_name(
  tmp_path: pathlib.Path,
) -> None:
  for name in ('data-00000-of-00001.arrow', 'state.json', 'dataset_info.json'):
    (tmp_path / name).write_text('{\n}')
  with pytest.raises(FileNotFoundError, match='holds no data; expected files'):
    datasets.read_records(tmp_path)


def test_values_of_parquet_become_those_of_json(tmp_path: pathlib.Path) -> None:
  record = {
    'prompt': b'Hi',
    'when': datetime.datetime(2024, 7, 26),
    'scores': [{'x': decimal.Decimal('8.5')}],
  }
  write_parquet(tmp_path / 'x.parquet', [record])
  [(_, read)] = datasets.read_records(tmp_path / 'x.parquet')
  assert read == {
    'prompt': 'Hi',
    'when': '2024-07-26 00:00:00',
    'scores': [{'x': 8.5}],
  }


def test_a_folder_of_two_formats_is_refused(tmp_path: pathlib.Path) -> None:
  write_lines(tmp_path / 'x.jsonl')
  write_csv(tmp_path / 'x.csv')
  with pytest.raises(ValueError, match=r'2 formats.*expected one'):
    datasets.read_records(tmp_path)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='holds no data'):
    datasets.read_records(tmp_path / 'empty')


def test_a_data_set_of_the_hub_is_downloaded_once(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  shards(tmp_path / 'd')
  monkeypatch.chdir(tmp_path)
  asked = []

  def download(name: str, **settings: Any) -> str:
    asked.append({'repo_id': name} | settings)
    return str(tmp_path / 'd')

  monkeypatch.setattr('huggingface_hub.snapshot_download', download)
  assert [r for _, r in datasets.read_records('org/name')] == SHARDS
  path = 'org/name@v1?data/train-*.jsonl'
  assert [r for _, r in datasets.read_records(path)] == SHARDS[2:]
  assert [(s['repo_id'], s['revision'], s['repo_type']) for s in asked] == [
    ('org/name', None, 'dataset'),
    ('org/name', 'v1', 'dataset'),
  ]


def test_without_the_hub_one_line_says_so(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  with pytest.raises(FileNotFoundError, match='no data at org/name.*failed'):
    datasets.read_records('org/name')
  for path in ('runs/x.jsonl', 'a/b/c', 'x', 'no/*.csv'):
    with pytest.raises(FileNotFoundError, match='no file'):
      datasets.read_records(path)


@pytest.mark.parametrize(
  ('name', 'write'), [(name, write) for name, write, _ in FORMATS]
)
def test_any_damage_is_read_or_refused_in_one_line(
  name: str, write: Callable[..., None], tmp_path: pathlib.Path
) -> None:
  file = tmp_path / name
  write(file)
  whole = file.read_bytes()
  random = np.random.default_rng(0)
  for _ in range(60):
    damaged = bytearray(whole)
    for _ in range(random.integers(1, 5)):
      at = random.integers(len(damaged))
      damaged[at : at + random.integers(3)] = random.bytes(random.integers(4))
    file.write_bytes(damaged[: random.integers(len(damaged) // 2, 9999)])
    try:
      datasets.read_records(file)
    except ValueError as error:
      assert str(error).startswith(str(file))
      assert len(str(error).splitlines()) == 1


def _lines(file: pathlib.Path, *records: Any) -> pathlib.Path:
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(''.join(json.dumps(record) + '\n' for record in records))
  return file


def test_a_linked_folder_of_shards_is_read(tmp_path: pathlib.Path) -> None:
  _lines(tmp_path / 'elsewhere' / 'a.jsonl', {'prompt': 'linked'})
  _lines(tmp_path / 'set' / 'b.jsonl', {'prompt': 'own'})
  (tmp_path / 'set' / 'more').symlink_to(tmp_path / 'elsewhere')
  (tmp_path / 'set' / 'loop').symlink_to(tmp_path / 'set')
  read = [record['prompt'] for _, record in files.read(tmp_path / 'set')]
  assert sorted(read) == ['linked', 'own']


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    ('b.jsonl.zst', r'b\.jsonl\.zst cannot be read; expected it plain'),
    ('a.jsonl.gz', r'a\.jsonl\.gz is also there without \.gz'),
  ],
)
def test_no_shard_is_skipped_or_read_twice(
  other: str, message: str, tmp_path: pathlib.Path
) -> None:
  _lines(tmp_path / 'a.jsonl', {'prompt': 'x'})
  (tmp_path / other).write_bytes(gzip.compress(b'{"prompt": "x"}\n'))
  with pytest.raises(ValueError, match=message):
    files.read(tmp_path)


@pytest.mark.parametrize('split', ['', None])
def test_a_shard_has_the_split_of_its_name_where_its_own_is_blank(
  split: str | None, tmp_path: pathlib.Path
) -> None:
  for name in ('train', 'test'):
    record = {'prompt': 'x', 'response': 'y', 'split': split}
    _lines(tmp_path / f'{name}.jsonl', record)
  found = {e.split for e in load_examples(tmp_path)}
  assert found == {'train', 'heldout'}


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'prompt;response\na;b\n', r"x\.csv:1: one column 'prompt;response'"),
    (
      'prompt,response\na,b\n'.encode('utf-16'),
      r'x\.csv:1: not UTF-8, but UTF-16',
    ),
  ],
)
def test_a_table_of_a_spreadsheet_is_told(
  data: bytes, message: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'x.csv').write_bytes(data)
  with pytest.raises(ValueError, match=message):
    files.read(tmp_path / 'x.csv')


def test_brackets_in_a_cell_may_be_a_text(tmp_path: pathlib.Path) -> None:
  (tmp_path / 'x.csv').write_text('prompt,response\n[],{}\n')
  [(_, record)] = files.read(tmp_path / 'x.csv')
  assert record == {'prompt': '[]', 'response': '{}'}
  row = {
    'prompt': '[{"value": 3}]',
    'response': '{"title": "x"}',
    'chosen': '[{"role": "Hamlet", "actor": "Olivier"}]',
  }
  with (tmp_path / 'x.csv').open('w', newline='') as opened:
    csv.writer(opened).writerows([row.keys(), row.values()])
  [(_, record)] = files.read(tmp_path / 'x.csv')
  assert record == row


@pytest.mark.parametrize(
  ('names', 'complete'),
  [
    ((), False),
    (('README.md',), False),
    (('a.jsonl',), True),
    (('train-00000-of-00002.parquet',), False),
    (('train-00000-of-00002.parquet', 'train-00001-of-00002.parquet'), True),
    (('x/train-00000-of-00001.parquet', 'test-0-of-2.parquet'), False),
  ],
)
def test_a_part_of_a_data_set_is_not_taken_for_the_whole(
  names: tuple[str, ...], complete: bool, tmp_path: pathlib.Path
) -> None:
  for name in names:
    _lines(tmp_path / name)
  assert hub._is_complete(tmp_path, '**/*') == complete


def test_verdicts_on_two_replies_are_numbers_in_csv(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / 'x.csv').write_text(
    'prompt,response_1,response_2,preference_strength\nHi,Ho,Hm,-2\n'
  )
  [(_, record)] = datasets.read_records(tmp_path / 'x.csv')
  assert record == {'prompt': 'Hi', 'chosen': 'Ho', 'rejected': 'Hm'}
