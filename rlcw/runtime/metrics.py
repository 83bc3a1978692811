"""Metrics of a run's loop: the rows of `metrics.jsonl`, and its loggers.

Only process 0 writes.
"""

import os
import platform
import resource
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.runtime import files, processes
from rlcw.runtime.loggers import Loggers


def mean(values: Any, axis: int | None = None) -> Any:
  """Mean of the finite values; NaN (null in JSON) if there are none."""
  finite = np.ma.masked_invalid(np.asarray(values, float))
  return np.ma.filled(finite.mean(axis), np.nan)[()]


# The JSONL files that runs write step by step.  A resumed run truncates these
# and leaves any other JSONL in its folder alone.
STEP_LOGS = (
  *('metrics', 'rollouts', 'evaluations', 'stops'),  # of `grpo`
  *('strategies', 'fakes'),
)


class Writer:
  """Writer of a run's `metrics.jsonl`, and of all its loggers.

  Args:
    workdir: folder of the run.
    first_step: step that the run starts from.  Records of this step and later
      are removed from all `STEP_LOGS`, because the run repeats those steps.
    watch: called with every row of metrics in order, beginning with those that
      a resumed run finds in the file.
    config: of the run; its `loggers`, by default TensorBoard, are opened.
  """

  def __init__(
    self,
    workdir: Path,
    first_step: int = 0,
    watch: Callable[[dict[str, Any]], None] | None = None,
    config: Config | None = None,
  ):
    self._file, self._watch = workdir / 'metrics.jsonl', watch
    self._loggers = None
    if not processes.is_primary_process():
      return
    # Before the file is cut: it tells which steps have been logged.
    self._loggers = Loggers(workdir, first_step, config or {})
    for file in (workdir / f'{name}.jsonl' for name in STEP_LOGS):
      if file.exists():
        files.drop_from_step(file, first_step)
    if watch and self._file.exists():
      for row in files.read_jsonl(self._file):
        watch(row)

  def __call__(
    self, step: int, values: Mapping[str, Any], sample: str = ''
  ) -> None:
    """Writes the metrics of one step.

    Args:
      step: of the run, higher than that of the call before.
      values: metrics by name.
      sample: a text for the loggers; blank for none.
    """
    if self._loggers is None:
      return
    row = files.clean({'step': step, **values})
    files.append_jsonl(self._file, row)
    if self._watch:
      self._watch(row)
    if sample:
      self._loggers.text(step, 'sample', sample)
    numbers = {name: value for name, value in row.items() if name != 'step'}
    self._loggers.log(step, numbers)

  def __enter__(self) -> 'Writer':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._loggers is not None:
      self._loggers.close()


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


def peak_device_memory() -> dict[str, float]:
  """`peak_device_memory_gib`: the most that one device of this process held.

  Empty where the devices do not report it, as CPUs.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [
    each['peak_bytes_in_use'] for each in stats if 'peak_bytes_in_use' in each
  ]
  return {'peak_device_memory_gib': max(peaks) / 2**30} if peaks else {}


# Metrics of a step with several updates, from those of each; others are means.
_JOINED = {
  'learning_rate': lambda each: each[-1],
  'skipped': sum,
  'bad_steps': max,  # those in a row, which may begin in earlier steps
  # Before the first update the policy is the one that was sampled.
  'sampler_gap': lambda each: each[0],
  'sampler_gap_max': max,
}


def join_updates(updates: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Joins the metrics of a step's updates; means are of those not skipped."""
  if len(updates) == 1:
    return updates[0]
  done = [stats for stats in updates if not stats['skipped']] or updates
  return {
    name: join([stats[name] for stats in updates])
    if (join := _JOINED.get(name))
    else np.mean([stats[name] for stats in done])
    for name in updates[0]
  }
