"""JSON and JSONL on disk, written whole or not at all.

Of several processes the first alone writes.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlcw.runtime import processes


def clean(value: Any) -> Any:
  """JSON-ready: arrays to Python, NaN and infinities to null."""
  if isinstance(value, Mapping):
    return {str(k): clean(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [clean(v) for v in value]
  if hasattr(value, 'tolist'):
    return clean(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


# JSON may hold these raw, but some readers end a line there, and a terminal
# obeys some of them.
_ESCAPES = {c: f'\\u{c:04x}' for c in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def json_line(record: Mapping[str, Any]) -> bytes:
  """One line of JSON, by whatever rule a reader splits lines.

  Half a surrogate pair, which JSON may hold and UTF-8 may not, is escaped as
  it was in the JSON that it came from.
  """
  text = json.dumps(clean(record), ensure_ascii=False).translate(_ESCAPES)
  return text.encode('utf-8', 'backslashreplace') + b'\n'


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
  """Adds one record in a single write."""
  if not processes.is_primary_process():
    return
  with _name_file_in_errors(path), path.open('ab') as file:
    file.write(json_line(record))


@contextlib.contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
  """A full disk's error says which file it is about."""
  try:
    yield
  except OSError as error:
    raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
  """Yields a file to write, which replaces `path` once the block is done.

  A crash or a full disk leaves `path` as it was.

  Raises:
    OSError: the file cannot be written; its name is in the error.
  """
  partial = path.with_name(path.name + '.partial')
  with _name_file_in_errors(partial):
    yield partial
  os.replace(partial, path)


def _replace(path: Path, content: bytes) -> None:
  with atomic(path) as partial:
    partial.write_bytes(content)


def count_whole_lines(path: Path, field: str) -> int:
  """How many lines an earlier process wrote; one torn by a kill goes.

  Raises:
    ValueError: a line lacks the field, so the file is of another kind.
  """
  if not path.exists():
    return 0
  *lines, torn = path.read_bytes().split(b'\n')
  if not all(f'"{field}"'.encode() in line for line in lines):
    raise ValueError(f'{path} holds lines without {field!r}: another file?')
  if torn:
    _replace(path, b''.join(line + b'\n' for line in lines))
  return len(lines)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
  """Writes a file whole or not at all."""
  if not processes.is_primary_process():
    return
  text = json.dumps(clean(record), ensure_ascii=False, indent=2)
  _replace(path, (text + '\n').encode('utf-8', 'backslashreplace'))


def drop_from_step(path: Path, step: int) -> None:
  """Forgets records of `step` and later: a resumed run makes them again.

  A last line torn by a kill goes too.
  """
  *lines, _ = path.read_bytes().split(b'\n')
  kept = [line + b'\n' for line in lines if json.loads(line)['step'] < step]
  _replace(path, b''.join(kept))
