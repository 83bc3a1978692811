"""Rows of metrics of a training loop, each written while the next step runs."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from rlcw.runtime import console, files, metrics

# A line for each step is logged up to this many; after that one a second, as
# the head of a reward model takes hundreds of steps in one.
_LINES = 20
_SECONDS = 1.0


class Produced(Protocol):
  """A batch, for the fields of `train.Batch` that a row is made of."""

  @property
  def metrics(self) -> Mapping[str, Any]: ...
  @property
  def started(self) -> float: ...
  @property
  def seconds(self) -> float: ...
  @property
  def counts(self) -> Mapping[str, float]: ...
  @property
  def sample(self) -> str: ...


class Rows:
  """The rows of a run's steps, of which the last one may be in flight.

  Args:
    writer: of the run's metrics.
    name: of the run, in its lines.
    steps: number of steps of the run.
    line: template of the line that is logged for a step (`console.line`).
  """

  def __init__(
    self, writer: metrics.Writer, name: str, steps: int, line: str
  ) -> None:
    self._writer, self._line = writer, line
    self._name, self._steps = name, steps
    self._lines, self._logged = 0, 0.0  # number, and time of the last
    self._compilations = metrics.Compilations()
    self._pending: tuple[int, Produced, Sequence[Any], Mapping] | None = None

  def add(
    self,
    step: int,
    batch: Produced,
    stats: Sequence[dict[str, jax.Array]],
    found: Mapping[str, Any],
  ) -> None:
    """Adds a step that has been dispatched.

    Args:
      step: of the run.
      batch: of the step.
      stats: metrics of its updates, on the device.
      found: metrics of an evaluation after it, if any.
    """
    self._pending = step, batch, stats, found

  def write(self, until: float | None = None) -> int:
    """Writes the row of the step that was added, if that is not done.

    Blocks until the device has finished the step.

    Args:
      until: `time.perf_counter()` when the step ended; None for now.

    Returns:
      Its updates in a row that were bad; 0 without a row.
    """
    if self._pending is None:
      return 0
    step, batch, stats, found = self._pending
    self._pending = None
    until = time.perf_counter() if until is None else until
    joined = metrics.join_updates(jax.device_get(stats))
    total = until - batch.started - found.get('seconds_eval', 0.0)
    times = {'seconds_update': total - batch.seconds, 'seconds_step': total}
    compiled = {
      'compilations': self._compilations.count,
      'seconds_compiling': self._compilations.seconds,
    }
    rates = {f'{k}_per_second': n / total for k, n in batch.counts.items()}
    row = {**batch.metrics, **joined, **times, **rates, **compiled, **found}
    row = files.clean(row)
    last, now = step + 1 == self._steps, time.perf_counter()
    if self._lines < _LINES or last or now - self._logged >= _SECONDS:
      self._lines, self._logged = self._lines + 1, now
      shown = console.line(self._line, row)
      console.log(f'{self._name}: step {step} of {self._steps}: {shown}')
    if batch.sample:
      console.log(batch.sample)
    self._writer(step, row, batch.sample)
    return int(joined['bad_steps'])
