"""Annotation of JSONL files of replies: the same lines with fields added.

Annotated lines are appended to the output in the order of the input, so an
interrupted run continues after the last complete line.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlcw.data import datasets, layouts
from rlcw.runtime import (
  claim,
  console,
  files,
  processes,
)

Record = dict[str, Any]


def annotate(
  name: str,
  source: str | Path,
  output: Path,
  field: str,
  size: int,
  answer: Callable[[Sequence[Record]], Sequence[Record]],
) -> tuple[list[Record], int]:
  """Adds fields to every line of a file of `{"prompt", "response"}`.

  Args:
    name: of the task, for the progress bar.
    source: path of the records (`datasets.read_records`).
    output: path of the annotated JSONL.
    field: one of the added fields; identifies the output of this task.
    size: batch size of `answer`; the last batch may be smaller.
    answer: maps a batch of records to the fields to add to each.

  Returns:
    All lines of the output, and the number that an earlier run had written.

  Raises:
    FileNotFoundError: `source` does not exist.
    ValueError: `source` is empty, a record lacks a text, or `output` has more
      lines than `source` or lines without `field`.
  """
  records = datasets.read_records(source)
  if not records:
    raise ValueError(f'{source} has no lines; expected at least one record')
  # Checked before the first, perhaps expensive, answer.
  for place, record in records:
    try:
      layouts.prompt_of(record)
      datasets.text_of(record, 'response')
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  output.parent.mkdir(parents=True, exist_ok=True)
  # The number of complete lines is the position to resume from.
  done, total = files.count_whole_lines(output, field), len(records)
  if done > total:
    raise ValueError(
      f'{output} has {done} lines, but {source} only {total}; expected the '
      'output of an earlier run on the same file'
    )
  claim.settle()
  steps = console.progress(name, done, total, 'reply', size)
  for first in processes.stoppable(steps):
    batch = [record for _, record in records[first : first + size]]
    for record, fields in zip(batch, answer(batch), strict=True):
      files.append_jsonl(output, {**record, **fields})
  return datasets.read_jsonl(output), done
