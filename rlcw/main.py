"""The `rlcw` command: `rlcw --config=NAME[:variant] --workdir=DIR`.

Any setting can be overridden: `--config.steps=10`.  A config names its task.

Exit status: 0 if the task is done, 75 (`signals.STOPPED`) if it was asked to
stop and the same command resumes it, 76 (`signals.HALTED`) if its monitors
stopped it, another one for an error.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import pkgutil
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import app, logging
from ml_collections import ConfigDict

from rlcw import Config, tasks
from rlcw.runtime import claim as claims
from rlcw.runtime import (
  command,
  files,
  inputs,
  lock,
  mesh,
  metrics,
  paths,
  processes,
  runs,
  signals,
)
from rlcw.runtime import console as terminal
from rlcw.runtime.claim import Claim

# Every module of rlcw/tasks is a task; of a package, its module `run`.
TASKS = {
  task.name: f'rlcw.tasks.{task.name}' + ('.run' if task.ispkg else '')
  for task in pkgutil.iter_modules(tasks.__path__)
}

# Tasks that can divide their work among several processes.
_SHARED = (
  *('sft', 'reward_model', 'grpo', 'evaluate', 'compare'),
  *('generate', 'score', 'judge', 'verify', 'export'),
)


def prepare_workdir(
  config: dict[str, Any], workdir: Path, command: str = ''
) -> Claim:
  """Checks that a run may begin or go on in a folder (`claim.prepare`).

  Only process 0 looks, because only process 0 writes.

  Raises:
    app.UsageError: the task runs in one process and there are several; or
      their settings differ, or those of the run that the folder has.
    ValueError: see `claim.prepare`.
  """
  if processes.count() > 1 and config['task'] not in _SHARED:
    raise app.UsageError(
      f'task={config["task"]!r} runs in one process, but there are '
      f'{processes.count()}; tasks for several processes: {_SHARED}'
    )
  # Different settings would make the processes' programs differ, and a
  # collective that only some of them reach would hang.
  if any(other != config for other in processes.gather(config)):
    raise app.UsageError('the processes were given different settings')
  paths.make_absolute(config)

  def prepare() -> list[Any]:
    try:
      return [dataclasses.asdict(claims.prepare(workdir, config, command)), '']
    except claims.OtherSettings as error:
      return [{}, str(error)]

  found, mistake = processes.from_primary(prepare)
  if mistake:
    raise app.UsageError(mistake)
  return Claim(**found)


def main(argv: list[str]) -> None:
  """Runs the task that a command line names, unless it is done already."""
  # Transformers would say that PyTorch is absent, which is as intended.
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  given = command.read(argv, {name: source(name) for name in TASKS})
  config, workdir = given.config, given.workdir
  # Orbax logs 40 lines per save, and warnings about settings that are intended
  logging.set_verbosity(logging.ERROR)
  processes.start(given.distributed, given.heartbeat)
  # A finished run may have been made read-only.
  if not (workdir / 'summary.json').exists():
    # Other processes need not see the folder.
    if processes.is_primary_process():
      command.check_workdir(workdir)
    check_task(config)
  begin(config, workdir, shlex.join(['rlcw', *argv[1:]]))


def begin(config: ConfigDict, workdir: Path, line: str) -> None:
  """Begins a run or goes on with it, unless it is done already.

  Args:
    config: of the task; its paths become absolute.
    workdir: for results; made if it does not exist.
    line: the command line, by which others tell how to finish the run.

  Raises:
    lock.Busy: another process writes to the workdir.
    app.UsageError, ValueError: see `prepare_workdir`.
  """
  with processes.on_primary(lambda: lock.held(workdir)):
    claim = prepare_workdir(json.loads(config.to_json()), workdir, line)
    if claim.done:
      terminal.log(f'{config.task}: already done in {workdir}')
      for remark in claim.remarks:
        terminal.log(f'notice: {remark} since then')
      for remark in inputs.remarks(config, workdir):
        terminal.log(f'notice: {remark}')
      return
    if claim.longer:
      check_task(config)  # `main` does not, where there is a summary
    paths.make_absolute(config)
    # Another run of the same program reuses what this one compiles.
    cache = str(workdir.absolute().parent / '.xla')
    jax.config.update('jax_compilation_cache_dir', cache)
    with claims.pending(claim):
      run_task(config, workdir)


def check_task(config: Config) -> None:
  """Checks the settings against each other and against the devices.

  Raises:
    app.UsageError: they do not fit, or JAX cannot open the devices.
  """
  try:
    if uses_devices(config):
      mesh.make_mesh(**config.mesh)
    task = importlib.import_module(TASKS[str(config.task)])
    if hasattr(task, 'check'):
      task.check(config)
  except (ValueError, FileNotFoundError) as error:
    raise app.UsageError(str(error)) from None


def source(task: str) -> Path:
  """Returns the file of a task, which need not be imported for that."""
  path = Path(tasks.__path__[0], *TASKS[task].split('.')[2:])
  return path.with_suffix('.py')


def uses_devices(config: ConfigDict) -> bool:
  """Returns whether a task computes on the devices of this machine."""
  # `plan`, `report` and `briefs` leave an accelerator to those who use it
  return 'mesh' in config and config.task != 'plan'


def dtype_remark(config: ConfigDict) -> str:
  """Remark on a dtype that is slow on the devices of this machine, or ''."""
  half = config.get('compute_dtype') == 'bfloat16'
  if not half or not uses_devices(config) or mesh.platform() != 'cpu':
    return ''
  return (
    'compute_dtype=bfloat16 is slower than float32 on a CPU and takes more '
    'memory; expected compute_dtype=float32 here'
  )


def run_task(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Runs a task and writes its summary, so that it counts as done.

  Args:
    config: its settings; `config.task` names it.
    workdir: an existing folder for its results.

  Returns:
    The summary in `workdir/summary.json`: the task's own numbers, then
    `wall_seconds`, `peak_memory_gib`, `hardware` and `notices` where it gives
    none; `peak_device_memory_gib` where devices report it; and `read`, the runs
    that it read, if any, and how far they were.

  Raises:
    ValueError: a setting is unknown or out of range; or code that the task
      called has ended the process; or see the task's `run`.
  """
  command.check(config, TASKS)
  started = time.perf_counter()
  terminal.take_notices()  # of an earlier task in this process
  read = inputs.reads(config)
  for state in read:
    terminal.log(f'{config.task}: reads {state}')
  for remark in [*claims.remarks(), *inputs.remarks(config, workdir)]:
    terminal.notice(remark)
  if remark := dtype_remark(config):
    terminal.notice(remark)
  with _no_exit(), runs.failing():
    summary = importlib.import_module(TASKS[str(config.task)]).run(
      config, workdir
    )
  summary = {
    'wall_seconds': time.perf_counter() - started,
    'peak_memory_gib': metrics.peak_memory_gib(),
    **(metrics.peak_device_memory() if uses_devices(config) else {}),
    'hardware': metrics.hardware(uses_devices(config)),
    'notices': terminal.take_notices(),
    **({'read': [state._asdict() for state in read]} if read else {}),
  } | summary
  claims.settle()
  files.write_json(workdir / 'summary.json', summary)
  return summary


@contextlib.contextmanager
def _no_exit() -> Iterator[None]:
  """Turns an exit that user's code asks for into an error.

  It would be taken for the end of the run, even for a success.
  """
  try:
    yield
  except signals.Stopped:
    raise
  except (SystemExit, KeyboardInterrupt) as error:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raise ValueError(
      f'{frame.filename}:{frame.lineno}: {error!r} would end the run'
    ) from None


def print_anything() -> None:
  """Lets a terminal without Unicode print escapes, where it would fail.

  Otherwise an arrow or a run's name would end a task after all its work.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')


def console() -> None:
  """Runs the `rlcw` command; what users can mend ends without a traceback.

  The exit status is `command.MISTAKE` for a wrong command line or setting,
  `signals.STOPPED` for a run that was asked to stop, `signals.HALTED` for one
  that its monitors stopped, and 1 for any other error.
  """
  print_anything()
  with processes.exit_on_failure(), signals.listening():
    try:
      main(sys.argv)
    except app.UsageError as error:
      print(f'rlcw: {command.one_line(error)}', file=sys.stderr)
      sys.exit(command.MISTAKE)
    except signals.Stopped as stopped:
      after = f'{stopped.seconds:.1f} s after the {stopped.cause}'
      terminal.log(f'rlcw: {stopped}; the same command resumes ({after})')
      raise
    # Errors that name their cause and remedy.  Others are bugs, and keep their
    # traceback.
    except (OSError, ValueError, FloatingPointError) as error:
      sys.exit(f'rlcw: {terminal.printable(error)}')


if __name__ == '__main__':
  console()
