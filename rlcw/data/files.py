"""Readers of JSONL, JSON and parquet files as numbered dictionaries.

Records in other tools' layouts are converted to {"prompt", "response",
"chosen", "rejected"}: LLaMA-Factory's alpaca {"instruction", "input", "output"}
and sharegpt {"conversations", "chosen", "rejected"}, verl's {"prompt":
messages}, and {"query"} for a prompt.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / 'assets'

# (line or position from 1, record), so that errors can name the line.
Numbered = list[tuple[int, dict[str, Any]]]


def resolve(path: str | Path) -> Path:
  """Resolves a path; `@NAME` is a file in the package's assets.

  Raises:
    FileNotFoundError: there is no such file; lists the files that are shipped.
  """
  file = Path(path)
  if str(path).startswith('@'):
    file = ASSETS / str(path)[1:]
  if not file.is_file():
    shipped = sorted(f'@{p.name}' for p in ASSETS.glob('*.jsonl'))
    raise FileNotFoundError(f'no file {file}; the package ships {shipped}')
  return file


def read(file: Path) -> Numbered:
  """Reads all records of a file; its suffix gives the format, else JSONL.

  Raises:
    ValueError: a record is malformed (names file, line and reason), or parquet
      cannot be read.
  """
  if file.suffix == '.parquet':
    return _read_parquet(file)
  # Some tools write JSONL under the name .json; a JSON file of records is an
  # array.
  if file.suffix == '.json' and file.read_bytes().lstrip()[:1] == b'[':
    return _number(file, _parse(file.read_bytes(), str(file)))
  return read_lines(file)


def read_lines(file: Path) -> Numbered:
  """Reads JSONL: one JSON object per line; blank lines are skipped.

  Raises:
    ValueError: a line is malformed; names the file, the line and the reason.
  """
  records = []
  # Split at \n only: `str.splitlines` would also split at U+2028, which JSON
  # allows inside strings.
  for number, line in enumerate(file.read_bytes().split(b'\n'), 1):
    if line.strip():
      record = _parse(line, f'{file}:{number}')
      records.append((number, _to_record(record, f'{file}:{number}')))
  return records


def _read_parquet(file: Path) -> Numbered:
  """Reads parquet; a null counts as an absent field."""
  try:
    import pyarrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ValueError(
      f"{file} requires the extra `data` (pip install 'rlcw[data]')"
    ) from None
  try:
    rows = parquet.ParquetFile(file).read().to_pylist()
  except (pyarrow.ArrowException, OSError) as error:
    raise ValueError(f'{file}: not parquet: {error}') from None
  return _number(file, _without_nulls(rows))


def _number(file: Path, items: Sequence[Any]) -> Numbered:
  return [(n, _to_record(x, f'{file}:{n}')) for n, x in enumerate(items, 1)]


def _parse(text: bytes, place: str) -> Any:
  try:
    return json.loads(text.decode('utf-8'))
  # The file is untrusted: deep nesting exhausts the parser's stack.
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{place}: not JSON: {error}') from None


def _to_record(value: Any, place: str) -> dict[str, Any]:
  if not isinstance(value, dict):
    raise ValueError(f'{place}: expected a JSON object')
  try:
    return _convert_layout(value)
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from None


def _convert_layout(record: dict[str, Any]) -> dict[str, Any]:
  """Converts a record to our layout; fields of no layout are kept."""
  # verl: the prompt is a list of messages.
  if isinstance(record.get('prompt'), list):
    return _convert_messages(record, 'prompt')
  # Our own layout.
  if 'prompt' in record:
    return record
  # LLaMA-Factory's sharegpt.
  if 'conversations' in record:
    return _convert_messages(record, 'conversations')
  # LLaMA-Factory's alpaca, which joins instruction and input like this too.
  if {'instruction', 'output'} <= {*record}:
    names = 'instruction', 'input', 'output'
    instruction, context, output = (record.get(name, '') for name in names)
    rest = {k: v for k, v in record.items() if k not in names}
    prompt = f'{instruction}\n{context}' if context else instruction
    return {'prompt': prompt, 'response': output, **rest}
  if 'query' in record:
    return {'prompt' if k == 'query' else k: v for k, v in record.items()}
  return record


def _convert_messages(record: dict[str, Any], field: str) -> dict[str, Any]:
  """Replaces a record's messages by their texts.

  Args:
    record: any.
    field: the field with the conversation, a list of messages.

  Raises:
    ValueError: the conversation is not one user message and at most one reply.
  """
  if not isinstance(record[field], list):
    raise ValueError(f'{field}={record[field]!r:.80}; expected a list')
  messages = [_parse_message(message) for message in record[field]]
  roles = [role for role, _ in messages]
  # A system message or an earlier turn cannot be dropped without changing the
  # meaning of the reply.
  if roles not in (['user'], ['user', 'assistant']):
    raise ValueError(
      f'{field} has messages of {roles}; expected one user message and at most '
      'one assistant reply'
    )
  names = 'prompt', 'response'
  converted: dict[str, Any] = dict(
    zip(names, (text for _, text in messages), strict=False)
  )
  for name, value in record.items():
    # In sharegpt the two replies of a pair are messages too.
    if name in ('chosen', 'rejected') and isinstance(value, dict):
      converted[name] = _parse_message(value)[1]
    elif name != field:
      converted[name] = value
  return converted


def _parse_message(message: Any) -> tuple[str, Any]:
  """Returns a message's role ('user', 'assistant', …) and its text."""
  if not isinstance(message, dict):
    raise ValueError(f'message {message!r:.80}; expected a JSON object')
  # OpenAI's names, or those of sharegpt.
  role = str(message.get('role', message.get('from')))
  role = {'human': 'user', 'gpt': 'assistant'}.get(role, role)
  return role, message.get('content', message.get('value'))


def _without_nulls(value: Any) -> Any:
  # All rows of a parquet file have the same columns, and all structs of a
  # column the same fields: a field that a record lacked comes back as null.
  if isinstance(value, dict):
    return {k: _without_nulls(v) for k, v in value.items() if v is not None}
  return (
    [_without_nulls(v) for v in value] if isinstance(value, list) else value
  )
