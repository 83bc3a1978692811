"""The `rlcw` command: `rlcw --config=NAME[:variant] --workdir=DIR`.

Any setting can be overridden: `--config.steps=10`.  A config names its task.
"""

import importlib
import io
import json
import pkgutil
import sys
import time
from pathlib import Path
from typing import Any

import jax
from absl import app, logging
from ml_collections import ConfigDict

from rlcw import Config, tasks
from rlcw.runtime import (
  command,
  files,
  mesh,
  metrics,
  processes,
  settings,
)

# Every module of rlcw/tasks is a task; of a package, its module `run`.
TASKS = {
  task.name: f'rlcw.tasks.{task.name}' + ('.run' if task.ispkg else '')
  for task in pkgutil.iter_modules(tasks.__path__)
}

# Tasks that can divide their work among several processes.
_SHARED = 'sft', 'reward_model', 'grpo'


def check_config(workdir: Path, config: dict[str, Any]) -> None:
  """Writes the settings of a new run, or compares them with an old run's.

  The number of steps may grow; the run is then unfinished again, so its summary
  is deleted.

  Raises:
    app.UsageError: any other setting differs.
  """
  file = workdir / 'config.json'
  before = json.loads(settings.read(workdir).to_json()) if file.exists() else {}
  changed = settings.differences(before, config)
  longer = config.get('steps', 0) > before.get('steps', 0)
  if changed and not (longer and set(changed) == {'steps'}):
    raise app.UsageError(
      f'{workdir} has a run with other settings (there, here): {changed}; '
      'choose another --workdir, or delete that one'
    )
  if changed:
    (workdir / 'summary.json').unlink(missing_ok=True)
  files.write_json(file, config)


def prepare_workdir(config: dict[str, Any], workdir: Path) -> bool:
  """Prepares the run's folder, and returns whether the run is done already.

  Only process 0 checks, because only process 0 writes.

  Raises:
    app.UsageError: the task runs in one process and there are several; or
      their settings differ; or see `check_config`.
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
  done = False
  if processes.is_primary_process():
    workdir.mkdir(parents=True, exist_ok=True)
    check_config(workdir, config)
    # A task writes its summary last, so it marks a complete run.
    done = (workdir / 'summary.json').exists()
  # The others need not see the folder of process 0.
  return processes.gather(done)[0]


def main(argv: list[str]) -> None:
  """Runs the task that a command line names, unless it is done already."""
  given = command.read(argv, {name: source(name) for name in TASKS})
  config, workdir = given.config, given.workdir
  # Orbax logs 40 lines per save, and warnings about settings that are intended
  logging.set_verbosity(logging.ERROR)
  processes.start(given.distributed, given.heartbeat)
  # Before `config.json` is written.  Other processes need not see the folder.
  if processes.is_primary_process():
    command.check_workdir(workdir)
  if not (workdir / 'summary.json').exists():
    check_task(config)
  resolved = json.loads(config.to_json())
  if prepare_workdir(resolved, workdir):
    metrics.log(f'{config.task}: already done in {workdir}')
    return
  # Another run of the same program reuses what this one compiles.
  jax.config.update('jax_compilation_cache_dir', str(workdir.parent / '.xla'))
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
  except ValueError as error:
    raise app.UsageError(str(error)) from None


def source(task: str) -> Path:
  """Returns the file of a task, which need not be imported for that."""
  path = Path(tasks.__path__[0], *TASKS[task].split('.')[2:])
  return path.with_suffix('.py')


def uses_devices(config: ConfigDict) -> bool:
  """Returns whether a task computes on the devices of this machine."""
  # `plan`, `report` and `briefs` leave an accelerator to those who use it
  return 'mesh' in config and config.task != 'plan'


def run_task(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Runs a task and writes its summary, so that it counts as done.

  Args:
    config: its settings; `config.task` names it.
    workdir: an existing folder for its results.

  Returns:
    The summary in `workdir/summary.json`: the task's own numbers, then
    `wall_seconds`, `peak_memory_gib`, `hardware` and `notices` where it gives
    none.

  Raises:
    ValueError: a setting is unknown or out of range, or see the task's `run`.
  """
  command.check(config, TASKS)
  started = time.perf_counter()
  metrics.take_notices()  # of an earlier task in this process
  summary = importlib.import_module(TASKS[str(config.task)]).run(
    config, workdir
  )
  summary = {
    'wall_seconds': time.perf_counter() - started,
    'peak_memory_gib': metrics.peak_memory_gib(),
    'hardware': metrics.hardware(uses_devices(config)),
    'notices': metrics.take_notices(),
  } | summary
  files.write_json(workdir / 'summary.json', summary)
  return summary


def print_anything() -> None:
  """Lets a terminal without Unicode print escapes, where it would fail.

  Otherwise an arrow or a run's name would end a task after all its work.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')


def console() -> None:
  """Runs the `rlcw` command; what users can mend ends without a traceback.

  The exit status is `command.MISTAKE` for a wrong command line or setting, and
  1 for any other error.
  """
  print_anything()
  with processes.exit_on_failure():
    try:
      main(sys.argv)
    except app.UsageError as error:
      print(f'rlcw: {command.one_line(error)}', file=sys.stderr)
      sys.exit(command.MISTAKE)
    # Errors that name their cause and remedy.  Others are bugs, and keep their
    # traceback.
    except (OSError, ValueError, FloatingPointError) as error:
      sys.exit(f'rlcw: {error}')


if __name__ == '__main__':
  console()
