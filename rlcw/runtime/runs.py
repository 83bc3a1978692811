"""Runs on disk, as others read them: how far they are, and their base models.

A run is a folder with the `config.json` of a task.  It is finished once it has
a `summary.json`.
"""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rlcw import Config
from rlcw.runtime import files, processes, settings

SUMMARY = 'summary.json'
USAGE = 'usage.json'  # counts of a run's processes (`sampling.usage`)
# Folder in the workdir of a run with its best parameters: a run of its own to
# whoever reads a model.
BEST = 'best'


_at_failure: list[Callable[[], None]] = []  # of the task that runs


def at_failure(action: Callable[[], None]) -> None:
  """Has an action done if the task that runs fails or is stopped."""
  _at_failure.append(action)


@contextlib.contextmanager
def failing() -> Iterator[None]:
  """Does the actions of `at_failure` if the task in the context fails."""
  _at_failure.clear()
  try:
    yield
  except BaseException:
    # One of several processes may fail alone, and would wait for the others.
    if processes.count() == 1:
      for action in _at_failure:
        # A full disk must not hide why the task has failed.
        with contextlib.suppress(OSError):
          action()
    raise


class State(NamedTuple):
  """Progress of a run that trains a model."""

  run: str  # its workdir
  step: int  # of its newest checkpoint, 0 without any
  steps: int  # of the whole training
  finished: bool

  def __str__(self) -> str:
    end = '' if self.finished else ', which has not finished'
    return f'{self.run} at step {self.step} of {self.steps}{end}'


def is_run(folder: str | Path) -> bool:
  """Returns whether a folder is the workdir of a run.

  A model's folder has a `config.json` too, but of no task.

  Raises:
    ValueError: `config.json` is damaged.
  """
  file = Path(folder) / 'config.json'
  if not str(folder) or not file.is_file():  # `Path('')` is the current folder
    return False
  config = files.read_json(file)
  is_model = 'model_type' in config or 'architectures' in config
  return not is_model and (
    'task' in config or (file.parent / 'checkpoints').is_dir()
  )


def is_finished(folder: str | Path) -> bool:
  """Returns whether a run has a whole summary, which a task writes last."""
  try:
    files.read_json(Path(folder) / SUMMARY)
  except (OSError, ValueError):
    return False
  return True


def whole(folder: Path) -> Path:
  """Returns the run whose best parameters a folder has, else the folder."""
  is_best = folder.name == BEST and is_run(folder.parent)
  return folder.parent if is_best else folder


def newest_step(folder: str | Path) -> int:
  """Returns the step of the newest complete checkpoint; 0 without any."""
  # Orbax names a checkpoint by its step once it is complete.
  names = (path.name for path in Path(folder).glob('checkpoints/*'))
  return max((int(name) for name in names if name.isdecimal()), default=0)


def state(folder: str | Path) -> State | None:
  """Returns the state of a run that trains a model; None of any other folder.

  Raises:
    ValueError: a file of the run is damaged.
  """
  if not is_run(folder):
    return None
  config = settings.read(folder)
  node: Any = config
  # The head of a reward model is trained first, in a folder of its own.
  if config.get('task') == 'reward_model' and config.get('train') != 'head':
    node = config.get('decoder', {})
  if not node.get('steps'):
    return None
  return State(
    str(folder), newest_step(folder), int(node['steps']), is_finished(folder)
  )


def unfinished(folder: str | Path) -> str:
  """Returns the reason why a run has no result yet, and the remedy."""
  found = state(folder)
  where = f' ({found.step} of {found.steps} steps are saved)' if found else ''
  return (
    f'{folder} is the workdir of a run that has not finished{where}; to finish '
    f'it: {command(folder)}'
  )


def command(folder: str | Path) -> str:
  """Returns the command line that began a run, or one like it."""
  file = Path(folder) / settings.INPUTS
  if file.exists() and (begun := files.read_json(file).get('command')):
    return str(begun)
  task = settings.read(folder).get('task', 'TASK')
  return f'rlcw --config=configs/{task}.py --workdir={shlex.quote(str(folder))}'


def lineage(model: str | Path) -> tuple[list[tuple[Path, Config]], str]:
  """Returns the runs that a model comes from, the last one first.

  Args:
    model: a model as settings name it: perhaps the workdir of a run.

  Returns:
    Workdirs and settings of the runs, and the model that the first began with.

  Raises:
    FileNotFoundError: a run has no checkpoint yet.
    ValueError: a run trains no model; or began with itself.
  """
  found: list[tuple[Path, Config]] = []
  seen: list[str] = []
  while is_run(model):
    if os.path.realpath(model) in seen:
      chain = ' → '.join(str(folder) for folder, _ in found)
      raise ValueError(
        f'{chain} → {model}: a run cannot begin with its own model; expected a '
        'pretrained model at the end of this chain'
      )
    seen.append(os.path.realpath(model))
    config = settings.read(model)
    if not (Path(model) / 'checkpoints').is_dir():
      if state(model) is None:
        raise ValueError(
          f'{model} is the workdir of a run of {config.get("task")!r}, which '
          'has no model'
        )
      raise FileNotFoundError(unfinished(model))
    # A reward model's head is in a file of its own.
    begun = state(model) if config.get('task') != 'reward_model' else None
    if begun and not begun.finished and not newest_step(model):
      raise FileNotFoundError(unfinished(model))
    if not config.get('model'):
      raise ValueError(f'{Path(model) / "config.json"} names no model')
    found.append((Path(model), config))
    model = config.model
  return found, str(model)
