"""The end of a run at a warning of its monitors (`monitors.stop`).

The row of a step is written while the next step runs, so that a run ends up to
two steps after the one that a monitor warns of.  Every warning ends the run
once: `stops.jsonl` keeps those that have, and the same command goes on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlcw import train
from rlcw.runtime import files, processes
from rlcw.runtime.signals import Halted
from rlcw.tasks.grpo.monitors import Watch

FILE = 'stops.jsonl'

NextBatch = Callable[[train.TrainState, int], train.Batch]


def stopping(next_batch: NextBatch, watch: Watch, workdir: Path) -> NextBatch:
  """Returns a `next_batch` that ends the run if there are new warnings.

  Args:
    next_batch: of the run.
    watch: the monitors, which in process 0 see its rows.
    workdir: of the run; the warnings are appended to its `stops.jsonl`.

  Returns:
    A function that raises `signals.Halted`, in all processes alike.
  """
  file = workdir / FILE

  def fresh() -> list[dict[str, Any]]:
    lines = files.read_jsonl(file) if file.exists() else []
    before = {(line['monitor'], line['step']) for line in lines}
    found = [
      warning
      for warning in watch.warnings
      if (warning['monitor'], warning['step']) not in before
    ]
    for warning in found:
      files.append_jsonl(file, warning)
    return found

  def next_or_stop(state: train.TrainState, step: int) -> train.Batch:
    if warnings := processes.from_primary(fresh):
      raise Halted(describe(warnings))
    return next_batch(state, step)

  return next_or_stop


def describe(warnings: Sequence[dict[str, Any]]) -> str:
  """Returns the monitors, values, thresholds and steps in a line."""
  return ', '.join(
    'monitor {monitor} at step {step}: value {value:.4g}, threshold '
    '{threshold:g}'.format(**warning)
    for warning in warnings
  )
