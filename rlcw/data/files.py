"""Files of records: JSONL, JSON and parquet, each to numbered dictionaries.

Records of other tools' layouts become ours, {"prompt", "response", "chosen",
"rejected"}: LLaMA-Factory's alpaca {"instruction", "input", "output"} and
sharegpt {"conversations", "chosen", "rejected"}, verl's {"prompt": messages},
and {"query"} for a prompt.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / 'assets'

Numbered = list[tuple[int, dict[str, Any]]]


def resolve(path: str | Path) -> Path:
  """A path as given, or `@NAME` as a file in the package's assets."""
  file = Path(path)
  if str(path).startswith('@'):
    file = ASSETS / str(path)[1:]
  if not file.is_file():
    shipped = sorted(f'@{p.name}' for p in ASSETS.glob('*.jsonl'))
    raise FileNotFoundError(f'no file {file}; the package ships {shipped}')
  return file


def read(file: Path) -> Numbered:
  """All records of a file in the format that its name ends in, else JSONL.

  Raises:
    ValueError: names the file, the line and what is wrong with it.
  """
  if file.suffix == '.parquet':
    return _read_parquet(file)
  if file.suffix == '.json' and file.read_bytes().lstrip()[:1] == b'[':
    return _number(file, _parse(file.read_bytes(), str(file)))
  return read_lines(file)


def read_lines(file: Path) -> Numbered:
  """The same of JSONL: a JSON object a line; blank lines hold none."""
  found = []
  for number, line in enumerate(file.read_bytes().split(b'\n'), 1):
    if line.strip():
      record = _parse(line, f'{file}:{number}')
      found.append((number, _object(record, f'{file}:{number}')))
  return found


def _read_parquet(file: Path) -> Numbered:
  """The same of parquet, where a null stands for a field that is absent."""
  try:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ValueError(f"{file} needs pip install 'rlcw[data]'") from None
  try:
    rows = parquet.ParquetFile(file).read().to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f'{file}: not parquet: {error}') from None
  return _number(file, _without_nulls(rows))


def _number(file: Path, items: Sequence[Any]) -> Numbered:
  return [(n, _object(x, f'{file}:{n}')) for n, x in enumerate(items, 1)]


def _parse(text: bytes, place: str) -> Any:
  try:
    return json.loads(text.decode('utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{place}: not JSON: {error}') from None


def _object(value: Any, place: str) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise ValueError(f'{place}: a JSON object is expected')
  try:
    return _ours(value)
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from None


def _ours(record: dict[str, Any]) -> dict[str, Any]:
  """The record in our layout; fields of no layout are kept as they are."""
  if isinstance(record.get('prompt'), list):
    return _spoken(record, 'prompt')
  if 'prompt' in record:
    return record
  if 'conversations' in record:
    return _spoken(record, 'conversations')
  if {'instruction', 'output'} <= {*record}:
    names = 'instruction', 'input', 'output'
    asked, more, told = (record.get(name, '') for name in names)
    rest = {k: v for k, v in record.items() if k not in names}
    prompt = f'{asked}\n{more}' if more else asked
    return {'prompt': prompt, 'response': told, **rest}
  if 'query' in record:
    return {'prompt' if k == 'query' else k: v for k, v in record.items()}
  return record


def _spoken(record: dict[str, Any], field: str) -> dict[str, Any]:
  """The record with texts where it has messages.

  Raises:
    ValueError: there is more than one message of a user, and a reply to it.
  """
  if not isinstance(record[field], list):
    raise ValueError(f'{field}={record[field]!r:.80}; a list is expected')
  said = [_message(each) for each in record[field]]
  speakers = [speaker for speaker, _ in said]
  if speakers not in (['user'], ['user', 'assistant']):
    raise ValueError(
      f'{field} of {speakers}; legal: one message of the user, and at most one '
      'reply'
    )
  names = 'prompt', 'response'
  found: dict[str, Any] = dict(zip(names, (x for _, x in said), strict=False))
  for name, value in record.items():
    if name in ('chosen', 'rejected') and isinstance(value, dict):
      found[name] = _message(value)[1]
    elif name != field:
      found[name] = value
  return found


def _message(message: Any) -> tuple[str, Any]:
  """Who speaks, and what."""
  if not isinstance(message, dict):
    raise ValueError(f'message {message!r:.80}; an object is expected')
  speaker = str(message.get('role', message.get('from')))
  speaker = {'human': 'user', 'gpt': 'assistant'}.get(speaker, speaker)
  return speaker, message.get('content', message.get('value'))


def _without_nulls(value: Any) -> Any:
  if isinstance(value, dict):
    return {k: _without_nulls(v) for k, v in value.items() if v is not None}
  return (
    [_without_nulls(v) for v in value] if isinstance(value, list) else value
  )
