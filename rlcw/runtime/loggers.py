"""Loggers: where a run's metrics and sampled replies go besides its own files.

  tensorboard  events in the workdir
  wandb        Weights & Biases
  trackio      Trackio

The setting `loggers` names them.  A logger that fails does not end the run.  A
resumed run continues its own run in each of them; steps that it repeats are not
logged again.
"""

import contextlib
import html
import importlib.metadata
import io
import json
import math
import os
import textwrap
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlcw import Config
from rlcw.runtime import console, files, settings

_PROJECT = 'rlcw'  # where the library's environment variable names no other
# Seconds that the end of a run waits for Weights & Biases to upload.  What is
# not uploaded stays on disk, for `wandb sync`.
_UPLOAD_SECONDS = 600.0


class Logger(Protocol):
  """A place for numbers and texts.  Steps must increase."""

  def text(self, step: int, name: str, text: str) -> None:
    """Logs a text, before the numbers of the same step."""

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    """Logs the finite numbers of a step."""

  def close(self) -> None:
    """Writes what is not written yet."""


class Run(NamedTuple):
  """A run, as a logger is told of it."""

  workdir: Path
  first_step: int  # from which it starts or resumes
  id: str  # the same after it is resumed
  config: dict[str, Any]

  @property
  def name(self) -> str:
    """Name for people, unlike that of any other run."""
    return f'{self.workdir.resolve().name}-{self.id[:6]}'


def _literal(text: str) -> str:
  """Markdown that shows a text as it is: nothing ends an indented block."""
  return textwrap.indent(text, '    ', lambda _: True)


class TensorBoard:
  """Writer of TensorBoard's events, in `workdir/tensorboard`."""

  def __init__(self, run: Run):
    # Imported here because they are slow, and only tasks that train need them.
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore

    self._event, self._text = Event, summary.text
    folder = run.workdir / 'tensorboard'
    folder.mkdir(exist_ok=True)
    # Not `SummaryWriter`: a full disk kills its writer thread, and later steps
    # then block forever on its queue.
    self._board = EventsWriter(str(folder / 'events'))
    # Makes TensorBoard hide the earlier events of the steps that are repeated.
    self._write(step=run.first_step, session_log={'status': 'START'})

  def text(self, step: int, name: str, text: str) -> None:
    self._write(step=step, summary=self._text(name, _literal(text)))

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    scalars = [{'tag': k, 'simple_value': v} for k, v in numbers.items()]
    self._write(step=step, summary={'value': scalars})

  def close(self) -> None:
    self._board.close()

  def _write(self, **event: Any) -> None:
    self._board.write_event(self._event(wall_time=time.time(), **event))


class WandB:
  """Logger to Weights & Biases, by its environment variables where set."""

  def __init__(self, run: Run):
    import wandb  # pyright: ignore

    self._html = wandb.Html
    # An argument would take precedence over the variable.
    given = os.environ.get
    resume: Any = given('WANDB_RESUME') or 'allow'
    self._run = wandb.init(
      project=given('WANDB_PROJECT') or _PROJECT,
      name=given('WANDB_NAME') or run.name,
      id=given('WANDB_RUN_ID') or run.id,
      resume=resume,
      dir=given('WANDB_DIR') or str(run.workdir),
      config=run.config,
      allow_val_change=True,  # a resumed run may have more steps
      reinit='create_new',  # a task may train twice
      settings=wandb.Settings(
        console='off',  # what is printed stays here
        finish_timeout=float(given('WANDB_FINISH_TIMEOUT') or _UPLOAD_SECONDS),
      ),
    )

  def text(self, step: int, name: str, text: str) -> None:
    page = f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre>'
    page = self._html(page, data_is_not_path=True)
    self._run.log({name: page}, step=step)

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    # `commit`: otherwise the numbers would be sent with the next step's.
    self._run.log(dict(numbers), step=step, commit=True)

  def close(self) -> None:
    self._run.finish()


class Trackio:
  """Logger to Trackio, by its environment variables where set."""

  def __init__(self, run: Run):
    import trackio  # pyright: ignore

    self._markdown, self._texts = trackio.Markdown, {}
    self._finish = trackio.finish
    project = os.environ.get('TRACKIO_PROJECT') or _PROJECT
    # It prints escape codes, even where there is no terminal.
    with contextlib.redirect_stdout(io.StringIO()):
      self._run = trackio.init(
        project=project,
        name=run.name,
        resume='allow',
        config=run.config,
        embed=False,
      )
    console.log(
      f'trackio: run {run.name}; to see it: trackio show --project {project}'
    )

  def text(self, step: int, name: str, text: str) -> None:
    # A second call of the same step would be a row of its own.
    self._texts = {name: self._markdown(_literal(text))}

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    self._run.log({**self._texts, **numbers}, step=step)
    self._texts = {}

  def close(self) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
      self._finish()


LOGGERS: dict[str, Callable[[Run], Logger]] = {
  'tensorboard': TensorBoard,
  'wandb': WandB,
  'trackio': Trackio,
}
# Those that keep what an earlier process of the run has logged.
_KEEPING = 'wandb', 'trackio'


def names_of(config: Config) -> list[str]:
  """Returns the loggers that a config names.

  Its `loggers` are names, or texts of several names with commas, as the command
  line gives them.
  """
  given = config.get('loggers', ('tensorboard',))
  texts = [given] if isinstance(given, str) else given
  names = (name.strip() for text in texts for name in str(text).split(','))
  return [*dict.fromkeys(name for name in names if name)]


def check(config: Config) -> None:
  """Checks the setting `loggers`, before anything is loaded.

  Raises:
    ValueError: a logger is unknown, or its package is not installed.
  """
  given = config.get('loggers', ())
  if not isinstance(given, (str, tuple, list)):
    raise ValueError(f'loggers={given!r}; expected names')
  for name in names_of(config):
    if name not in LOGGERS:
      raise ValueError(
        f'loggers: {name!r} is unknown; expected some of {", ".join(LOGGERS)}'
      )
    if name in _KEEPING and not _is_installed(name):
      raise ValueError(
        f'loggers: {name!r} requires the extra `{name}` '
        f"(pip install -e '.[{name}]')"
      )


def _is_installed(name: str) -> bool:
  try:
    # Not by an import: a folder `wandb`, which W&B makes, can be imported too.
    importlib.metadata.distribution(name)
  except importlib.metadata.PackageNotFoundError:
    return False
  return True


class _Guarded:
  """A logger whose failures are counted, and end nothing.

  Args:
    name: of the logger.
    make: opens it.
    run: that it logs.
    first_step: of the steps that are to be logged; earlier ones are left out.
  """

  def __init__(
    self, name: str, make: Callable[[Run], Logger], run: Run, first_step: int
  ):
    self._name, self._first = name, first_step
    self._calls, self._failed, self._reason = 0, 0, ''
    self._logger = self._try(make, run)

  def text(self, step: int, name: str, text: str) -> None:
    if self._logger and step >= self._first:
      self._try(self._logger.text, step, name, text)

  def log(self, step: int, numbers: Mapping[str, float]) -> None:
    if self._logger and step >= self._first:
      self._try(self._logger.log, step, numbers)

  def close(self) -> None:
    if self._logger:
      self._try(self._logger.close)
    if not self._logger:
      console.notice(f'logger {self._name} did not start: {self._reason}')
    elif self._failed:
      console.notice(
        f'logger {self._name} failed in {self._failed} of {self._calls} calls, '
        f'first: {self._reason}'
      )

  def _try(self, call: Callable[..., Any], *args: Any) -> Any:
    self._calls += 1
    try:
      return call(*args)
    # Whatever a library raises, such as for a full disk or a lost connection.
    except Exception as error:
      self._failed += 1
      if self._failed == 1:
        words = f'{type(error).__name__}: {error}'.split()
        self._reason = console.plain(' '.join(words))[:300]
        console.log(
          f'warning: logger {self._name} fails, the run goes on: {self._reason}'
        )
      return None


class Loggers:
  """All loggers of a run, as one.

  Args:
    workdir: of the run.  `loggers.json` there has the run's id, and for each
      logger the first step that it has not got.
    first_step: from which the run starts or resumes.
    config: of the run, which is logged too.

  Raises:
    ValueError: see `check` and `settings.refuse_secrets`.
  """

  def __init__(self, workdir: Path, first_step: int, config: Config):
    check(config)
    settings.refuse_secrets(config)
    names = names_of(config)
    state: dict[str, Any] = {'id': uuid.uuid4().hex, 'next': {}}
    file = workdir / 'loggers.json'
    if file.exists():
      state |= files.read_json(file)
    # The steps in `metrics.jsonl` were logged.  A resumed run cuts the file, so
    # it may have fewer of them than at an earlier start.
    reached = files.next_step(workdir / 'metrics.jsonl')
    following = {
      name: max(state['next'][name], reached) if name in state['next'] else 0
      for name in names
      if name in _KEEPING
    }
    if following:
      files.write_json(file, state | {'next': state['next'] | following})
    plain = json.loads(config.to_json()) if hasattr(config, 'to_json') else {}
    run = Run(workdir, first_step, state['id'], plain)
    self._loggers = [
      _Guarded(name, LOGGERS[name], run, following.get(name, 0))
      for name in names
    ]

  def text(self, step: int, name: str, text: str) -> None:
    """Logs a text, before the numbers of the same step."""
    # Lone surrogates, which UTF-8 does not have.
    text = text.encode('utf-8', 'replace').decode('utf-8')
    for logger in self._loggers:
      logger.text(step, name, text)

  def log(self, step: int, values: Mapping[str, Any]) -> None:
    """Logs the finite numbers among the values of a step."""
    numbers = {
      name: value
      for name, value in values.items()
      if isinstance(value, (int, float)) and math.isfinite(value)
    }
    for logger in self._loggers:
      logger.log(step, numbers)

  def close(self) -> None:
    """Closes all loggers; a notice counts the failures of each."""
    for logger in self._loggers:
      logger.close()
