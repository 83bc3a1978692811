"""Files of replies in, the same lines with an answer each out.

Answers stream to disk in the order of the lines, so that a run that was killed
goes on after the last whole one.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlcw.data import datasets
from rlcw.runtime import files, metrics

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
    source: JSONL.
    output: where the lines go.
    field: one of those added.
    size: how many lines are answered at a time, if so many are left.
    answer: lines to what is added to each.

  Returns:
    All lines of the output, and how many of them were there before.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is empty, a line is of another kind, or the output has more
      lines than it.
  """
  records = datasets.read_numbered(source)
  if not records:
    raise ValueError(f'{source} has no lines')
  for line, record in records:
    for text in ('prompt', 'response'):
      if not isinstance(record.get(text), str):
        raise ValueError(
          f'{source}:{line}: {text}={record.get(text)!r:.80}; a text is '
          'expected'
        )
  output.parent.mkdir(parents=True, exist_ok=True)
  done, total = files.count_whole_lines(output, field), len(records)
  if done > total:
    raise ValueError(
      f'{output} has {done} lines already, but {source} only {total}'
    )
  for first in metrics.progress(name, done, total, 'reply', size):
    batch = [record for _, record in records[first : first + size]]
    for record, fields in zip(batch, answer(batch), strict=True):
      files.append_jsonl(output, {**record, **fields})
  return datasets.read_jsonl(output), done
