"""Command line: `rlcw --config=configs/NAME.py[:variant] --workdir=DIR`.

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
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from rlcw import tasks
from rlcw.runtime import files, metrics, processes, settings

# Every module of rlcw/tasks is a task; of a package, its module `run`.
TASKS = {
  task.name: f'rlcw.tasks.{task.name}' + ('.run' if task.ispkg else '')
  for task in pkgutil.iter_modules(tasks.__path__)
}

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Settings: a file, with an optional :variant.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where results go.')
_DISTRIBUTED = flags.DEFINE_bool(
  'distributed', False, 'Whether JAX detects the processes of this run.'
)
_HEARTBEAT = flags.DEFINE_integer(
  'heartbeat',
  100,
  'Seconds without a heartbeat until a process counts as dead.',
)
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
  """Runs the task that the config names, unless it is done already."""
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  # Orbax logs 40 lines per save, and warnings about settings that are intended
  logging.set_verbosity(logging.ERROR)
  config, workdir = _CONFIG.value, files.local_folder(str(_WORKDIR.value))
  config = settings.upgrade(config, _warn)
  if config.task not in TASKS:
    raise app.UsageError(
      f'task={config.task!r} is unknown; expected one of {sorted(TASKS)}'
    )
  # Before `config.json` is written.
  settings.refuse_secrets(config)
  processes.start(_DISTRIBUTED.value, _HEARTBEAT.value)
  resolved = json.loads(config.to_json())
  if prepare_workdir(resolved, workdir):
    metrics.log(f'{config.task}: already done in {workdir}')
    return
  # Another run of the same program reuses what this one compiles.
  jax.config.update('jax_compilation_cache_dir', str(workdir.parent / '.xla'))
  run_task(config, workdir)


def run_task(config: ConfigDict, workdir: Path) -> dict[str, Any]:
  """Runs a task and writes its summary, so that it counts as done.

  Args:
    config: its settings; `config.task` names it.
    workdir: an existing folder for its results.

  Returns:
    The summary in `workdir/summary.json`: the task's own numbers, then
    `wall_seconds`, `peak_memory_gib`, `hardware` and `notices` where it gives
    none.
  """
  started = time.perf_counter()
  metrics.take_notices()  # of an earlier task in this process
  summary = importlib.import_module(TASKS[str(config.task)]).run(
    config, workdir
  )
  # `plan`, `report` and `briefs` leave an accelerator to those who use it
  on_devices = 'mesh' in config and config.task != 'plan'
  summary = {
    'wall_seconds': time.perf_counter() - started,
    'peak_memory_gib': metrics.peak_memory_gib(),
    'hardware': metrics.hardware(on_devices),
    'notices': metrics.take_notices(),
  } | summary
  files.write_json(workdir / 'summary.json', summary)
  return summary


def _warn(text: str) -> None:
  print(f'rlcw: warning: {text}', file=sys.stderr)


def print_anything() -> None:
  """Lets a terminal without Unicode print escapes, where it would fail.

  Otherwise an arrow or a run's name would end a task after all its work.
  """
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors='backslashreplace')


def console() -> None:
  """Runs the `rlcw` command; user and disk errors exit without a traceback."""
  print_anything()
  flags.mark_flags_as_required(['config', 'workdir'])
  # in sys.argv itself, where ml_collections looks for the settings
  sys.argv = settings.upgrade_arguments(sys.argv, _warn)
  with processes.exit_on_failure():
    try:
      app.run(main)
    # Errors that name their cause and remedy.  Others are bugs, and keep their
    # traceback.
    except (OSError, ValueError, FloatingPointError) as error:
      sys.exit(f'rlcw: {error}')


if __name__ == '__main__':
  console()
