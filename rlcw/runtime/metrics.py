"""The only way a number leaves a loop: JSONL, TensorBoard, a progress bar.

Of several processes the first alone writes and prints.
"""

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from rlcw.runtime import files, processes
from rlcw.runtime.files import _name_file_in_errors


def mean(values: Any, axis: int | None = None) -> Any:
  """The mean of what is finite; NaN, which is written as null, of nothing."""
  finite = np.ma.masked_invalid(np.asarray(values, float))
  return np.ma.filled(finite.mean(axis), np.nan)[()]


# what runs write step by step; other JSONL in their folders is not theirs
STEP_LOGS = 'metrics', 'rollouts', 'strategies', 'fakes'


class Writer:
  """A run's `metrics.jsonl` and TensorBoard events.

  A resumed run forgets what was written past its last save, in all `DIARIES`.
  `watch` sees every row in order, those that a resumed run found there first.
  """

  def __init__(
    self,
    workdir: Path,
    first_step: int = 0,
    watch: Callable[[dict[str, Any]], None] | None = None,
  ):
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    self._board, self._event, self._watch = None, Event, watch
    if not processes.is_primary_process():
      return
    for file in (workdir / f'{name}.jsonl' for name in STEP_LOGS):
      if file.exists():
        files.drop_from_step(file, first_step)
    self._file = workdir / 'metrics.jsonl'
    if watch and self._file.exists():
      for line in self._file.read_bytes().splitlines():
        watch(json.loads(line))
    self._events = workdir / 'tensorboard'
    self._events.mkdir(exist_ok=True)
    # not `SummaryWriter`: its thread dies of a full disk, and the next steps
    # then wait for it for ever
    self._board = EventsWriter(str(self._events / 'events'))
    # hides what is told again
    self._tell(step=first_step, session_log={'status': 'START'})

  def __call__(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes the scalars of one step."""
    if self._board is None:
      return
    row = files.clean({'step': step, **values})
    files.append_jsonl(self._file, row)
    if self._watch:
      self._watch(row)
    scalars = [
      {'tag': name, 'simple_value': value}
      for name, value in row.items()
      if name != 'step' and isinstance(value, (int, float))
    ]
    self._tell(step=step, summary={'value': scalars})

  def _tell(self, **event: Any) -> None:
    assert self._board is not None
    with _name_file_in_errors(self._events):
      self._board.write_event(self._event(wall_time=time.time(), **event))

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._board is not None:
      with _name_file_in_errors(self._events):
        self._board.close()


def progress(
  name: str,
  start: int,
  stop: int,
  unit: str,
  stride: int = 1,
  note: Callable[[], str] = str,
) -> Iterator[int]:
  """Counts from `start` to `stop` behind a bar with rate, ETA and a note."""
  with tqdm(
    total=stop,
    initial=start,
    desc=name,
    unit=unit,
    dynamic_ncols=True,
    leave=None,  # one inside another goes when it is full
    disable=not processes.is_primary_process(),
  ) as bar:
    for step in range(start, stop, stride):
      yield step
      bar.set_postfix_str(note(), refresh=False)
      bar.update(min(stride, stop - step))


def log(text: str) -> None:
  """A line in the terminal that leaves the progress bar whole."""
  if processes.is_primary_process():
    tqdm.write(text)


class Compilations:
  """Counts XLA compilations from here on, and the seconds they take."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._hear)

  def _hear(
    self, event: str, duration_secs: float, **kwargs: str | int
  ) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      self.count += 1
      self.seconds += duration_secs


def hardware(devices: bool = True) -> dict[str, Any]:
  """The machine, for a summary.

  Args:
    devices: whether to ask JAX for its devices, which takes hold of them.
  """
  cpu = platform.processor() or platform.machine()
  cpuinfo = Path('/proc/cpuinfo')
  if cpuinfo.exists():
    lines = cpuinfo.read_text().splitlines()
    names = [x.split(':', 1)[1].strip() for x in lines if 'model name' in x]
    cpu = names[0] if names else cpu
  pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  found = {}
  if devices:
    device = jax.devices()[0]
    found['platform'] = f'{device.platform} × {jax.device_count()}'
    found['device'] = device.device_kind
  return found | {
    'cpu': cpu,
    'cores': os.cpu_count(),
    'memory_gib': round(pages / 2**30, 1),
    'jax': jax.__version__,
    'python': platform.python_version(),
  }


def peak_memory_gib() -> float:
  """The most host memory that this process has held, in GiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
