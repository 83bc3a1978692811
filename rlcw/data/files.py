"""Readers of data files as dictionaries: JSONL, JSON, parquet, csv.

Each format may be compressed by gzip.  A path is a file, a folder or a glob of
shards, `@NAME` for a file that the package ships, or the id of a data set on
the Hugging Face Hub (`hub`).
"""

import ast
import csv
import decimal
import glob
import gzip
import io
import itertools
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlcw.data import hub, layouts, messages, published
from rlcw.runtime.files import tree

ASSETS = Path(__file__).parent / 'assets'

Record = dict[str, Any]
# A record with the file and line (or position from 1) that errors name.
Placed = list[tuple[str, Record]]

_ENDS = '.jsonl', '.ndjson', '.json', '.parquet', '.csv', '.tsv'
_COMPRESSED = '.bz2', '.lz4', '.xz', '.zip', '.zst'
_OTHER = '.arrow', '.feather', '.ods', '.orc', '.pkl', '.tar', '.xls', '.xlsx'
# Files that describe a data set and hold no records.
_ABOUT = {
  'dataset_info.json',
  'dataset_infos.json',
  'dataset_dict.json',
  'state.json',
}
# A split in the name of a shard or of its folder, as the Hub finds it.
_SPLIT = re.compile(
  r'(?:^|[/_.-])(train(?:ing)?|dev|valid(?:ation)?|val|test(?:ing)?'
  r'|eval(?:uation)?|held[_-]?out)(?=[/_.\d-])'
)


def read(path: str | Path) -> Placed:
  """Reads all records of a path.

  Where several files are read, a record that names no split is of the split
  that the name of its file gives, such as `train-00000-of-00002.parquet`.

  Raises:
    FileNotFoundError: there is no such path.
    ValueError: a file is damaged or a record is no object; names file and line.
  """
  found = find(path)
  if len(found) == 1:
    return read_file(found[0][0])
  placed = []
  for file, name in found:
    split = _SPLIT.findall(name.lower())
    for place, record in read_file(file):
      if split and record.get('split') in (None, ''):
        record['split'] = split[-1]
      placed.append((place, record))
  return placed


def find(path: str | Path) -> list[tuple[Path, str]]:
  """Returns the files of a path, and the name of each within it.

  Raises:
    FileNotFoundError: there is none; says which files are shipped.
    ValueError: a folder has files of several formats.
  """
  text = str(path)
  if not text:  # `Path('')` is the current folder
    raise FileNotFoundError("path=''; expected a file, a folder or a glob")
  if text.startswith('@'):
    path = ASSETS / text[1:]
  path = Path(path)
  if path.is_file():
    return [(path, path.name)]
  if path.is_dir():
    return _shards(path, sorted(tree(path)))
  matches = sorted(map(Path, glob.glob(text, recursive=True)))
  # The folders that the pattern names are the same for all.
  fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
  root = Path(*fixed)
  files = [
    (each, each.relative_to(root).as_posix())
    for each in matches
    if each.is_file()
  ]
  if files:
    return files
  if hub.is_id(text):
    folder, pattern = hub.fetch(text)
    return _shards(folder, sorted(folder.glob(pattern)))
  shipped = sorted(f'@{p.name}' for p in ASSETS.glob('*.jsonl'))
  raise FileNotFoundError(f'no file {path}; the package ships {shipped}')


def read_file(file: Path) -> Placed:
  """Reads all records of one file; its name gives the format, else JSONL.

  Raises:
    ValueError: a record is malformed (names file, line and reason), or the file
      cannot be read.
  """
  end, last = _end(file), file.suffix.lower()
  if last in _COMPRESSED or (not end and last in _OTHER):
    raise ValueError(
      f'{file}: {last} cannot be read; expected {", ".join(_ENDS)}, plain or '
      'with .gz'
    )
  if end == '.parquet':
    return _read_parquet(file)
  if end in ('.csv', '.tsv'):
    return _read_csv(file, '\t' if end == '.tsv' else ',')
  # Some tools write JSONL under the name .json; a JSON file of records is an
  # array.
  text = read_text(file)
  if end == '.json' and text.lstrip()[:1] == '[':
    return _place(file, _parse(text, str(file)))
  return list(_lines(file, text))


def read_lines(file: Path) -> Placed:
  """Reads JSONL: one JSON object per line; blank lines are skipped.

  Raises:
    ValueError: a line is malformed; names the file, the line and the reason.
  """
  return list(_lines(file, read_text(file)))


def read_text(file: Path) -> str:
  """Reads a text file in UTF-8, without a byte-order mark, gzipped or not.

  Raises:
    ValueError: it is damaged, or not in UTF-8; names the line.
  """
  data = file.read_bytes()
  try:
    if data.startswith(b'\x1f\x8b'):
      data = gzip.decompress(data)
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
      raise ValueError(f'{file}:1: not UTF-8, but UTF-16') from None
    line = data.count(b'\n', 0, error.start) + 1
    raise ValueError(f'{file}:{line}: not UTF-8: {error.reason}') from None
  except (OSError, EOFError, zlib.error) as error:
    raise ValueError(f'{file}: damaged gzip: {error}') from None


def _end(file: Path) -> str:
  """Returns the end of a file's name that tells its format."""
  name = file.name.lower().removesuffix('.gz')
  return next((end for end in _ENDS if name.endswith(end)), '')


def _shards(folder: Path, paths: Sequence[Path]) -> list[tuple[Path, str]]:
  """Returns the data files among the paths of a folder.

  Raises:
    FileNotFoundError: there is none.
    ValueError: they are of several formats, one is compressed otherwise than by
      gzip, or one is there twice.
  """
  shown = [
    path
    for path in paths
    if path.is_file()
    and not any(p.startswith('.') for p in path.relative_to(folder).parts)
  ]
  known = {*shown}
  for path in shown:
    plain = path.with_suffix('')
    if path.suffix in _COMPRESSED and _end(plain):
      raise ValueError(f'{path} cannot be read; expected it plain, or with .gz')
    if path.suffix == '.gz' and _end(path) and plain in known:
      raise ValueError(
        f'{path} is also there without .gz; expected one of the two'
      )
  shards = [
    (path, path.relative_to(folder).as_posix())
    for path in shown
    if _end(path) and path.name not in _ABOUT
  ]
  ends = {_end(path) for path, _ in shards}
  if not ends:
    raise FileNotFoundError(
      f'{folder} holds no data; expected files that end with '
      f'{", ".join(_ENDS)}, or with .gz after that'
    )
  if len(ends) > 1:
    raise ValueError(
      f'{folder} holds files of {len(ends)} formats, {sorted(ends)}; expected '
      'one, or a glob such as *.jsonl'
    )
  return shards


def _lines(file: Path, text: str) -> Iterator[tuple[str, Record]]:
  # Split at \n only: `str.splitlines` would also split at U+2028, which JSON
  # allows inside strings.
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      place = f'{file}:{number}'
      yield place, _to_record(_parse(line, place), place)


def _read_parquet(file: Path) -> Placed:
  try:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ValueError(
      f"{file} requires the extra `data` (pip install -e '.[data]')"
    ) from None
  try:
    data = file.read_bytes()
    if data.startswith(b'\x1f\x8b'):
      data = gzip.decompress(data)
    source = pyarrow.BufferReader(data)
    table = parquet.ParquetFile(source).read()
    if twice := _twice(table.column_names):
      raise ValueError(f'{twice!r:.80} names several columns')
    rows = table.to_pylist()
    return _place(file, [_json_value(row) for row in rows])
  # ValueError: for example of a nanosecond, which Python's times cannot hold.
  except (
    pyarrow.ArrowException,
    OSError,
    EOFError,
    zlib.error,
    ValueError,
  ) as error:
    reason = ' '.join(str(error).split())
    raise ValueError(f'{file}: not parquet: {reason:.300}') from None


def _json_value(value: Any) -> Any:
  """Converts a value of parquet to one that JSON has: a time to its text."""
  if isinstance(value, dict):
    return {key: _json_value(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_json_value(item) for item in value]
  if isinstance(value, bytes):
    return value.decode('utf-8', 'backslashreplace')
  if isinstance(value, decimal.Decimal):
    return float(value)
  # numbers include true and false
  is_plain = value is None or isinstance(value, (str, int, float))
  return value if is_plain else str(value)


def _read_csv(file: Path, delimiter: str) -> Placed:
  """Reads a table whose first line names the fields; empty cells are absent."""
  csv.field_size_limit(sys.maxsize)  # the default, 128 KiB, is one long story
  lines = io.StringIO(read_text(file), newline='')
  rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
  placed, first = [], 2
  try:
    names = rows.fieldnames or []
    if len(names) == 1 and ';' in names[0]:
      raise ValueError(
        f'{file}:1: one column {names[0]!r:.80}; expected commas between cells'
      )
    if twice := _twice(names):
      raise ValueError(f'{file}:1: {twice!r:.80} names several columns')
    for row in rows:
      place = f'{file}:{first}'
      first = rows.line_num + 1
      if None in row:
        raise ValueError(f'{place}: more cells than the first line has names')
      placed.append((place, {k: _cell(k, v) for k, v in row.items() if v}))
  except csv.Error as error:
    raise ValueError(f'{file}:{first}: not csv: {error}') from None
  return placed


# Fields that may hold other values than texts, which csv has as text: texts or
# messages, lists, and numbers with true and false.
_MESSAGES = {
  'prompt',
  'response',
  'completion',
  'output',
  'chosen',
  'rejected',
  'messages',
  'conversations',
  'conversation',
}
_LISTS = {
  'completions',
  'finished',
  'history',
  'instruction_id_list',
  'keywords',
  'kwargs',
  'responses',
  'rubric',
  'scores',
}
_NUMBERS = {
  'finished',
  'kto_tag',
  'label',
  'paraphrase',
  'score',
  'stated',
  *itertools.chain(*layouts.SCORES),
  *layouts.WEIGHT,
  *(verdict for *_, verdict, _ in published.COMPARED),
}


def _cell(field: str, text: str) -> Any:
  """Parses a cell; text where it is neither JSON nor a literal of Python."""
  if field in _MESSAGES | _LISTS and text[0] in '[{':
    value = _evaluate(text)
    items = value if isinstance(value, list) else [value]
    # A reply may be JSON itself; nothing in brackets is no message.
    is_text = field in _MESSAGES and not (
      value and all(map(messages.is_message, items))
    )
    return text if is_text else value
  return _evaluate(text.lower(), text) if field in _NUMBERS else text


def _evaluate(text: str, default: Any = None) -> Any:
  # pandas writes lists as Python does.
  for evaluate in (json.loads, ast.literal_eval):
    try:
      return evaluate(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
      continue
  return text if default is None else default


def _twice(names: Iterable[str]) -> str | None:
  """Returns a name that occurs twice: one of its values would be lost."""
  return next((name for name, n in Counter(names).items() if n > 1), None)


def _place(file: Path, items: Sequence[Any]) -> Placed:
  return [
    (f'{file}:{number}', _to_record(item, f'{file}:{number}'))
    for number, item in enumerate(items, 1)
  ]


def _parse(text: str, place: str) -> Any:
  try:
    return json.loads(text, object_pairs_hook=_unique)
  # The file is untrusted: deep nesting exhausts the parser's stack.
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{place}: not JSON: {error}') from None


def _unique(pairs: list[tuple[str, Any]]) -> Record:
  record = dict(pairs)
  if len(record) < len(pairs):
    raise ValueError(f'{_twice(k for k, _ in pairs)!r:.80} occurs twice')
  return record


def _to_record(value: Any, place: str) -> Record:
  if not isinstance(value, dict):
    raise ValueError(f'{place}: expected a JSON object, found {value!r:.40}')
  return value
