"""Outputs with a line for each record of an input, in the order of the input.

Records may be answered in any order.  Until all are, a further field of each
line has its row, from 0; then the lines are sorted.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcw.runtime import claim, files, processes


def write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
  """Claims the workdir and writes all lines of an output, or none."""
  # In this order, or a later try would take the lines for those of another.
  claim.settle()
  files.write_jsonl(path, records)


class Output:
  """Output of a task, which resumes after the lines of a killed run.

  Makes the output's folder if need be, and claims the workdir.  Only process 0
  reads and writes; all get the same `done`.

  Args:
    path: JSONL; may be absent.
    field: a field that every line of it must have.
    source: path of the input, for errors.
    records: of the input.

  Attributes:
    done: rows that an earlier run has answered.

  Raises:
    ValueError: the file is of another input, or see `files.count_whole_lines`;
      in all processes alike.
    OSError: the folder cannot be made.
  """

  def __init__(
    self,
    path: Path,
    field: str,
    source: str | Path,
    records: Sequence[Mapping[str, Any]],
  ):
    names = itertools.chain(['row'], (f'row{n}' for n in itertools.count(2)))
    taken = {name for record in records for name in record}
    self._row = next(name for name in names if name not in taken)
    self._path, self._total = path, (total := len(records))

    def read() -> list[int]:
      path.parent.mkdir(parents=True, exist_ok=True)
      count = files.count_whole_lines(path, field)
      if count > total:
        raise ValueError(
          f'{path} has {count} lines, but {source} only {total}; expected the '
          'output of an earlier run on the same file'
        )
      return self._rows(files.read_jsonl(path)) if count else []

    self.done: set[int] = {*processes.from_primary(read)}
    claim.settle()

  def _rows(self, lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the row of each line; in a sorted output, its place."""
    rows = [line.get(self._row, place) for place, line in enumerate(lines)]
    known = {row for row in rows if type(row) is int and 0 <= row < self._total}
    if len(known) < len(lines):
      raise ValueError(
        f'{self._path} has lines with the wrong {self._row!r}; expected each '
        f'of 0 to {self._total - 1} at most once'
      )
    return rows

  def append(self, row: int, line: Mapping[str, Any]) -> None:
    """Appends the line of a row of the input."""
    files.append_jsonl(self._path, {self._row: row, **line})

  def sort(self) -> None:
    """Puts the lines in the order of the input, once all are there.

    Raises:
      ValueError: another process has written to the file; in all alike.
    """

    def write() -> None:
      lines = files.read_jsonl(self._path)
      by_row = dict(zip(self._rows(lines), lines, strict=True))
      if any(self._row in line for line in lines):
        for line in lines:
          line.pop(self._row, None)
        files.write_jsonl(self._path, (by_row[row] for row in sorted(by_row)))

    processes.from_primary(write)
