"""Annotation of JSONL files of replies: the same lines with fields added.

An interrupted run continues after the last complete line (`outputs`).  Several
processes share each batch; process 0 writes.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from rlcw.data import datasets, layouts
from rlcw.runtime import console, outputs, processes

Record = dict[str, Any]


def read_replies(source: str | Path) -> datasets.Placed:
  """Reads records of `{"prompt", "response"}`.

  Tasks call it before they load a model, so that a mistake costs no time.

  Raises:
    FileNotFoundError: `source` does not exist.
    ValueError: it is empty, or a record lacks a text.
  """
  records = datasets.read_records(source)
  if not records:
    raise ValueError(f'{source} has no lines; expected at least one record')
  for place, record in records:
    try:
      layouts.prompt_of(record)
      datasets.response_of(record)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  return records


def annotate(
  name: str,
  source: str | Path,
  records: datasets.Placed,
  output: Path,
  field: str,
  size: int,
  answer: Callable[[Sequence[Record]], Sequence[Record]],
  mesh: Mesh,
  check: Callable[[Record], None] = lambda record: None,
  length: Callable[[Record], int] = lambda record: 0,
) -> tuple[list[Record], int]:
  """Adds fields to every line of a file of `{"prompt", "response"}`.

  Args:
    name: of the task, for the progress bar.
    source: path of the records.
    records: those of `read_replies`.
    output: path of the annotated JSONL.
    field: one of the added fields; identifies the output of this task.
    size: batch size of `answer`; the last batch may be smaller.
    answer: maps this process's share of a batch, which may be empty, to the
      fields to add to each record.  All processes call it together.
    mesh: of devices, over which batches are split.
    check: raises ValueError for a record that cannot be answered.
    length: of a record; those of a batch are alike in it.

  Returns:
    All lines of the output, in process 0 alone; and the number that an earlier
    run had written.

  Raises:
    ValueError: a record fails the check, or `output` has more lines than
      `source` or lines without `field`.
  """
  # Checked before the first, perhaps expensive, answer.
  for place, record in records:
    try:
      check(record)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  lines = outputs.Output(output, field, source, [each for _, each in records])
  # The longest first, as the most expensive; where all are alike, in order.
  order = sorted(
    {*range(len(records))} - lines.done,
    key=lambda row: (-length(records[row][1]), row),
  )
  done = len(lines.done)
  shards = processes.DataShards(mesh)
  steps = console.progress(name, done, len(records), 'reply', size)
  for first in processes.stoppable(steps):
    rows = order[first - done : first - done + size]
    batch = [records[row][1] for row in rows]
    shares = shards.gather_to_primary(answer(shards.local_items(batch)))
    # One of several has left its wait for a server, and lacks its answers.
    if processes.count() > 1:
      processes.stop_together()
    if processes.is_primary_process():
      answers = itertools.chain(*shares)
      for row, record, fields in zip(rows, batch, answers, strict=True):
        lines.append(row, {**record, **fields})
  lines.sort()
  primary = processes.is_primary_process()
  return datasets.read_jsonl(output) if primary else [], done
