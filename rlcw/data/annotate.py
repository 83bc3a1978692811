"""Annotation of JSONL files of replies: the same lines with fields added.

Annotated lines are appended to the output in the order of the input, so an
interrupted run continues after the last complete line.  Several processes share
each batch; process 0 writes.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

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
  mesh: Mesh,
  check: Callable[[Record], None] = lambda record: None,
) -> tuple[list[Record], int]:
  """Adds fields to every line of a file of `{"prompt", "response"}`.

  Args:
    name: of the task, for the progress bar.
    source: path of the records (`datasets.read_records`).
    output: path of the annotated JSONL.
    field: one of the added fields; identifies the output of this task.
    size: batch size of `answer`; the last batch may be smaller.
    answer: maps this process's share of a batch, which may be empty, to the
      fields to add to each record.  All processes call it together.
    mesh: of devices, over which batches are split.
    check: raises ValueError for a record that cannot be answered.

  Returns:
    All lines of the output, in process 0 alone; and the number that an earlier
    run had written.

  Raises:
    FileNotFoundError: `source` does not exist.
    ValueError: `source` is empty, a record lacks a text or fails the check, or
      `output` has more lines than `source` or lines without `field`.
  """
  records = datasets.read_records(source)
  if not records:
    raise ValueError(f'{source} has no lines; expected at least one record')
  # Checked before the first, perhaps expensive, answer.
  for place, record in records:
    try:
      layouts.prompt_of(record)
      datasets.response_of(record)
      check(record)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  # The number of complete lines is the position to resume from.
  total = len(records)
  done = files.lines_done(output, field, source, total)
  claim.settle()
  shards = processes.DataShards(mesh)
  steps = console.progress(name, done, total, 'reply', size)
  for first in processes.stoppable(steps):
    batch = [record for _, record in records[first : first + size]]
    shares = shards.gather_to_primary(answer(shards.local_items(batch)))
    # One of several has left its wait for a server, and lacks its answers.
    if processes.count() > 1:
      processes.stop_together()
    if processes.is_primary_process():
      answers = itertools.chain(*shares)
      for record, fields in zip(batch, answers, strict=True):
        files.append_jsonl(output, {**record, **fields})
  primary = processes.is_primary_process()
  return datasets.read_jsonl(output) if primary else [], done
