"""Metrics of a run's loop: JSONL, TensorBoard, progress bar and log lines.

Only process 0 writes and prints.
"""

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
  """Mean of the finite values; NaN (null in JSON) if there are none."""
  finite = np.ma.masked_invalid(np.asarray(values, float))
  return np.ma.filled(finite.mean(axis), np.nan)[()]


# The JSONL files that runs write step by step.  A resumed run truncates these
# and leaves any other JSONL in its folder alone.
STEP_LOGS = 'metrics', 'rollouts', 'strategies', 'fakes'


class Writer:
  """Writer of a run's `metrics.jsonl` and TensorBoard events.

  Args:
    workdir: folder of the run.
    first_step: step that the run starts from.  Records of this step and later
      are removed from all `STEP_LOGS`, because the run repeats those steps.
    watch: called with every row of metrics in order, beginning with those that
      a resumed run finds in the file.
  """

  def __init__(
    self,
    workdir: Path,
    first_step: int = 0,
    watch: Callable[[dict[str, Any]], None] | None = None,
  ):
    # Imported here because it is slow, and only tasks that train need it.
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
      for row in files.read_jsonl(self._file):
        watch(row)
    self._events = workdir / 'tensorboard'
    self._events.mkdir(exist_ok=True)
    # Not `SummaryWriter`: a full disk kills its writer thread, and later steps
    # then block forever on its queue.
    self._board = EventsWriter(str(self._events / 'events'))
    # Makes TensorBoard hide the earlier events of the steps that are repeated.
    self._write_event(step=first_step, session_log={'status': 'START'})

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
    self._write_event(step=step, summary={'value': scalars})

  def _write_event(self, **event: Any) -> None:
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
  """Yields `start` to `stop` by `stride` under a bar with rate, ETA and note.

  Args:
    name: label of the bar.
    start: first value; counts as done already.
    stop: end of the range, exclusive.
    unit: noun for one item.
    stride: items per value.
    note: returns a text to show behind the bar.
  """
  with tqdm(
    total=stop,
    initial=start,
    desc=name,
    unit=unit,
    dynamic_ncols=True,
    leave=None,  # a nested bar is removed when it is complete
    disable=not processes.is_primary_process(),
  ) as bar:
    for step in range(start, stop, stride):
      yield step
      bar.set_postfix_str(note(), refresh=False)
      bar.update(min(stride, stop - step))


def log(text: str) -> None:
  """Prints a line above the progress bar (on process 0)."""
  if processes.is_primary_process():
    tqdm.write(text)


# Notices of this run so far, for its summary.
_notices: list[str] = []


def notice(text: str) -> None:
  """Logs, once per run, something that was left out, cut or replaced.

  The summary of the run lists all notices.
  """
  if text not in _notices:
    _notices.append(text)
    log(f'notice: {text}')


def take_notices() -> list[str]:
  """Returns the notices since the last call, and forgets them."""
  taken = _notices.copy()
  _notices.clear()
  return taken


class Compilations:
  """Counter of XLA compilations since its creation, and of their seconds."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._on_event)

  def _on_event(
    self, event: str, duration_secs: float, **kwargs: str | int
  ) -> None:
    # JAX reports many events.  This one is XLA's part, without tracing and
    # lowering; it fires for a hit in the persistent cache too.
    if event == '/jax/core/compile/backend_compile_duration':
      self.count += 1
      self.seconds += duration_secs


def hardware(devices: bool = True) -> dict[str, Any]:
  """Describes the accelerator, the host and the versions of JAX and Python.

  Args:
    devices: whether to ask JAX for its devices, which initialises them.
  """
  cpu = platform.processor() or platform.machine()
  # `platform` knows only the architecture on Linux; the model is in /proc.
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
  """Peak resident host memory of this process, in GiB."""
  # Linux reports KiB.
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
