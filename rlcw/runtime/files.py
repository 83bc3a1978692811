"""JSON and JSONL files, written atomically.  Errors of reading name the line.

Only process 0 writes.
"""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcw.runtime import processes

# Addresses that the libraries of checkpoints would take for remote ones, also
# in the middle of a path.
_REMOTE = re.compile('(^|/)(gs|s3|az|hf|hdfs|https?|file):/')


def local_folder(name: str) -> Path:
  """Returns the path of a folder to write in.

  Raises:
    ValueError: it is empty, is no local folder, or its name is not UTF-8.
  """
  if not name.strip() or '\0' in name:
    raise ValueError(f'workdir={name!r}; expected a folder')
  if _REMOTE.search(f'{name}/'):
    raise ValueError(
      f'workdir={name!r}; expected a local folder, or one that is mounted'
    )
  try:
    name.encode()
  except UnicodeEncodeError:
    raise ValueError(
      f'workdir={name!r}; expected a folder whose name is UTF-8'
    ) from None
  return Path(os.path.expanduser(name))


def tree(folder: Path) -> Iterator[Path]:
  """Yields all files in a folder, also behind links, but each folder once."""
  seen: set[str] = set()
  for inner, folders, names in os.walk(folder, followlinks=True):
    real = os.path.realpath(inner)
    if real in seen:  # a link to a folder above, or beside
      folders.clear()
      continue
    seen.add(real)
    yield from (Path(inner, name) for name in names)


def clean(value: Any) -> Any:
  """Converts a value for JSON: arrays to lists, NaN and infinities to None."""
  if isinstance(value, Mapping):
    return {str(k): clean(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [clean(v) for v in value]
  if hasattr(value, 'tolist'):
    return clean(value.tolist())
  # Python would write NaN and Infinity, which JSON does not have.
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


# JSON allows these characters unescaped, but some readers split lines at them
# (U+0085, U+2028, U+2029) and terminals interpret others (C1 control codes).
_ESCAPES = {c: f'\\u{c:04x}' for c in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


def json_line(record: Mapping[str, Any]) -> bytes:
  """Encodes a record as one line of JSON, even if its text has line separators.

  A lone surrogate, which JSON can express and UTF-8 cannot, stays escaped.
  """
  text = json.dumps(clean(record), ensure_ascii=False).translate(_ESCAPES)
  # Of a lone surrogate, `backslashreplace` writes \udXXX: valid JSON again.
  return text.encode('utf-8', 'backslashreplace') + b'\n'


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
  """Appends one record in a single write (on process 0)."""
  if not processes.is_primary_process():
    return
  with naming(path), path.open('ab') as file:
    file.write(json_line(record))


@contextlib.contextmanager
def naming(path: Path, *kinds: type[Exception]) -> Iterator[None]:
  """Adds the path to an OSError that lacks it, such as a full disk's.

  Args:
    path: to be written.
    *kinds: errors of libraries, which become OSErrors.
  """
  try:
    yield
  except OSError as error:
    if error.filename or not error.errno:
      raise
    raise OSError(error.errno, error.strerror, str(path)) from error
  except kinds as error:
    raise OSError(f'{path} cannot be written: {error}') from error


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
  """Yields a file to write, which replaces `path` once the block is done.

  A crash, a power cut or a full disk leaves `path` as it was.  Of a link, the
  file that it leads to is replaced.

  Raises:
    OSError: the file cannot be written; its name is in the error.
  """
  path = Path(os.path.realpath(path))  # also of a link to itself
  if path.exists() and not path.is_file():
    raise OSError(f'{path} is no file; expected one, or a new name')
  # Of two processes, each writes its own.
  partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
  try:
    with naming(partial):
      yield partial
      # Else the new name may reach the disk before the content does.
      with partial.open('rb') as written:
        os.fsync(written.fileno())
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise


def replace(path: Path, content: bytes | str) -> None:
  """Writes a file atomically: `atomic` for content that is at hand."""
  with atomic(path) as partial:
    partial.write_bytes(
      content.encode() if isinstance(content, str) else content
    )


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
  """Writes a JSONL file, whole or not at all, and its folder if need be."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with atomic(path) as partial, partial.open('wb') as file:
    file.writelines(map(json_line, records))


def parse(text: bytes | str, place: str | Path) -> dict[str, Any]:
  """Parses a JSON object.

  Args:
    text: of the object.
    place: its file, with a line if there are several; errors begin with it.

  Raises:
    ValueError: the text is not JSON, or not an object.
  """
  try:
    value = json.loads(text)
  # Deep nesting exhausts the parser's stack.
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{place}: not JSON: {error}') from None
  if not isinstance(value, dict):
    raise ValueError(f'{place}: expected a JSON object, found {value!r:.40}')
  return value


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged; names the file.
  """
  return parse(path.read_bytes(), path)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
  """Reads a JSONL file that a run wrote, with whole lines.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is damaged; names the file and the line.
  """
  return [r for r, _ in _records(path, path.read_bytes().split(b'\n'))]


def _records(
  path: Path, lines: Sequence[bytes]
) -> list[tuple[dict[str, Any], bytes]]:
  """Returns the record of each line that is not blank, and the line."""
  return [
    (parse(line, f'{path}:{number}'), line)
    for number, line in enumerate(lines, 1)
    if line.strip()
  ]


def count_whole_lines(path: Path, field: str) -> int:
  """Counts the lines that an interrupted run wrote, and drops a partial one.

  Args:
    path: JSONL; may be absent.
    field: a field that every line must have.

  Raises:
    ValueError: a line is damaged (named), or lacks the field, so another task
      wrote the file.
  """
  if not path.exists():
    return 0
  # A process killed while writing leaves a last line without a newline.
  *lines, torn = path.read_bytes().split(b'\n')
  found = _records(path, lines)
  lacking = sum(field not in record for record, _ in found)
  if lacking:
    raise ValueError(
      f'{path} has lines without {field!r}, {lacking} of {len(found)}; '
      'expected the output of an earlier run of the same task'
    )
  if torn or len(found) < len(lines):
    replace(path, b''.join(line + b'\n' for _, line in found))
  return len(found)


def drop_last(path: Path, unwanted: Callable[[dict[str, Any]], bool]) -> None:
  """Removes the last records of a JSONL file, as long as they are unwanted.

  A file without other records is deleted.

  Args:
    path: JSONL with whole lines; may be absent.
    unwanted: tells which records to remove.
  """
  lines = path.read_bytes().split(b'\n') if path.exists() else []
  records = _records(path, lines)
  while records and unwanted(records[-1][0]):
    records.pop()
  if records:
    replace(path, b''.join(line + b'\n' for _, line in records))
  else:
    path.unlink(missing_ok=True)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
  """Writes a JSON file atomically (on process 0)."""
  if not processes.is_primary_process():
    return
  text = json.dumps(clean(record), ensure_ascii=False, indent=2)
  replace(path, (text + '\n').encode('utf-8', 'backslashreplace'))


def drop_from_step(path: Path, step: int) -> None:
  """Removes the records of `step` and later, which a resumed run writes again.

  A partial last line of a killed process is removed too.

  Raises:
    ValueError: a line is damaged; names the file and the line.
  """
  kept = [line + b'\n' for of, line in _steps(path) if of < step]
  replace(path, b''.join(kept))


def next_step(path: Path) -> int:
  """Returns the number after the last step in a log; 0 without a whole line.

  Raises:
    ValueError: a line is damaged; names the file and the line.
  """
  steps = _steps(path) if path.exists() else []
  return max((step + 1 for step, _ in steps), default=0)


def _steps(path: Path) -> list[tuple[int, bytes]]:
  """Returns the step of each whole line, and the line."""
  *lines, _ = path.read_bytes().split(b'\n')
  found = []
  for number, (record, line) in enumerate(_records(path, lines), 1):
    if type(record.get('step')) is not int:
      raise ValueError(
        f'{path}:{number}: step={record.get("step")!r:.40}; expected the step '
        'that the line is of'
      )
    found.append((record['step'], line))
  return found
