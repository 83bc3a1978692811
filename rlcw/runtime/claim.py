"""Claims of workdirs: the settings and inputs that make the results in one.

A task whose inputs have turned out valid calls `settle`, which writes
`config.json` and `inputs.json`.  Until then the workdir is free, so that a
corrected command may use it.  It is free again if that run has ended before it
kept anything, as one whose reward or server fails at its first call.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rlcw.runtime import (
  configs,
  console,
  files,
  inputs,
  paths,
  processes,
  runs,
  settings,
)

# Tasks whose results are made anew if an input has changed, and the file that
# such a task appends to.  Results of the others are costly, or in use.
_REMADE = {
  'briefs': '',
  'compare': '',
  'evaluate': '',
  'extract': '',
  'generate': 'replies.jsonl',
  'judge': 'verdicts.jsonl',
  'plan': '',
  'report': '',
  'score': 'scores.jsonl',
  'verify': '',
}
# The files with the lines of tasks, where no setting names another.
_LINES = {
  **{task: name for task, name in _REMADE.items() if name},
  'briefs': 'briefs.jsonl',
  'extract': 'briefs.jsonl',
  'verify': 'verdicts.jsonl',
}
# Files that are no results: the same command would begin them anew, or use them
# whatever the settings are.
_PASSING = re.compile(
  r'config\.json|inputs\.json|usage\.json|run\.lock|judge\.secret'
  r'|briefs\.jsonl|rollouts\.jsonl|replies\.sqlite.*|.*\.partial'
  r'|(tensorboard|wandb)/.*'
)
# Tasks that go on from their earlier results.
_RESUMED = 'adversary', 'curate', 'grpo', 'reward_model', 'sft'


class OtherSettings(ValueError):
  """Raised for a workdir that has a run with other settings."""


@dataclasses.dataclass(frozen=True)
class Claim:
  """A run that is about to begin or to go on in a workdir."""

  workdir: str
  config: dict[str, Any]
  inputs: inputs.Inputs
  command: str
  done: bool = False  # finished, with these settings and inputs
  longer: bool = False  # has more steps than before, so is unfinished again
  refusal: str = ''  # why it may not go on, once its inputs are valid
  remarks: tuple[str, ...] = ()  # to be noted in its summary

  def settle(self) -> None:
    """Writes `config.json` and `inputs.json`.

    Raises:
      ValueError: inputs have changed since the run began.
    """
    if self.refusal:
      raise ValueError(self.refusal)
    workdir = Path(self.workdir)
    if self.longer and processes.is_primary_process():
      (workdir / runs.SUMMARY).unlink(missing_ok=True)
    record = {
      'workdir': str(workdir.absolute()),
      'command': self.command,
      'inputs': self.inputs,
    }
    files.write_json(workdir / settings.INPUTS, record)
    files.write_json(workdir / 'config.json', self.config)


_pending: list[Claim] = []


@contextlib.contextmanager
def pending(claim: Claim) -> Iterator[None]:
  """Lets the task that runs in the context settle a claim."""
  _pending.append(claim)
  try:
    yield
  finally:
    _pending.clear()


def remarks() -> list[str]:
  """Returns the remarks of the pending claim."""
  return [remark for each in _pending for remark in each.remarks]


def settle() -> None:
  """Settles the claim of the running task, unless that is done already.

  A task calls it once its inputs are valid, before it writes any result.

  Raises:
    ValueError: inputs have changed since the run began.
  """
  while _pending:
    _pending.pop().settle()


def output(config: ConfigDict, workdir: Path, name: str) -> Path:
  """Returns the file for a task's lines: `output`, or one in the workdir.

  Args:
    config: settings with `output`.
    workdir: of the run.
    name: of the file in the workdir.

  Raises:
    ValueError: it is no file, such as a terminal; or an input, or one that
      this run has not begun: its content would be lost, or taken for that of
      this run.
  """
  given: Any = config.output
  file = Path(given or workdir / name)

  def refuse() -> None:
    if read := _read_with(file, config):
      raise ValueError(f'output={file} is also {read}; expected another file')
    if file.exists() and not file.is_file():
      raise ValueError(f'output={file} is no file; expected a new one')
    begun = (workdir / 'config.json').exists()
    if not begun and file.exists() and file.stat().st_size:
      raise ValueError(
        f'output={file} exists, and was not begun in {workdir}; expected a new '
        'file'
      )

  processes.from_primary(refuse)
  return file


def _read_with(file: Path, config: Any) -> str:
  """Returns the name of the input that a file is or would be part of, or ''.

  A later try would read it, and take the input for another.
  """
  real = Path(os.path.realpath(file))
  for name in paths.inputs(config):
    value = os.path.expanduser(str(paths.get(config, name)))
    found = [Path(os.path.realpath(path)) for path in paths.matches(value)]
    # Of a run, only files of its own are read.
    inside = os.path.isdir(value) and not runs.is_run(value)
    if (
      real in found
      or file.absolute().match(os.path.abspath(value))
      or (inside and real.is_relative_to(found[0]))
    ):
      return name
  return ''


def prepare(workdir: Path, config: dict[str, Any], command: str) -> Claim:
  """Compares a run with the one that a workdir has, if any.

  One that has kept nothing is forgotten.  The number of steps may grow, if no
  schedule depends on it, and patience with servers may change
  (`settings.PATIENCE`); for a run that has ended, a log line says that this has
  no effect.  If an input has changed, the results of a task in `_REMADE` are
  removed; rows that it appended are kept under `NAME.old`, `NAME.old2`, ...

  Args:
    workdir: an existing folder.
    config: settings of the run, with absolute paths.
    command: the command line.

  Raises:
    OtherSettings: other settings differ.
    ValueError: the workdir is in an input; or the run is finished, of another
      task, and was made of other inputs.
  """
  if read := _read_with(workdir / 'config.json', config):
    raise ValueError(
      f'{workdir} is in {read}={paths.get(config, read)}; choose another '
      '--workdir'
    )
  now = inputs.describe(ConfigDict(config))
  claim = Claim(str(workdir), config, now, command)
  if not (workdir / 'config.json').exists():
    return claim
  before = json.loads(settings.read(workdir).to_json())
  file = workdir / settings.INPUTS
  if file.exists() and not _has_results(workdir, _lines(workdir, before)):
    # `usage.json` stays: what was paid for is paid for.
    for name in ('config.json', settings.INPUTS):
      (workdir / name).unlink(missing_ok=True)
    return claim
  # Runs of earlier versions have kept no digests.
  recorded = settings.read_inputs(file)['inputs'] if file.exists() else {}
  longer = config.get('steps', 0) > before.get('steps', 0)
  ended = runs.is_finished(workdir) and not longer
  changed = {
    name: values
    for name, values in _differences(before, config).items()
    if not _is_same(recorded.get(name), now.get(name))
  }
  patience = {name for name in changed if settings.PATIENCE.fullmatch(name)}
  changed = {k: v for k, v in changed.items() if k not in patience}
  if 'task' in changed:
    old, new = changed['task']
    raise OtherSettings(
      f'{workdir} has a run of the task {old}, not {new}; '
      'choose another --workdir'
    )
  # Of a reward model they are those of its head, which the decoder is trained
  # after: it has begun with that of fewer steps.
  first = config.get('task') == 'reward_model' and config.get('train') != 'head'
  if changed and (set(changed) != {'steps'} or not longer or first):
    raise OtherSettings(
      f'{workdir} has a run with other settings (there, here): {changed}; '
      'choose another --workdir, or delete that one'
    )
  if longer and config.get('schedule', 'constant') != 'constant':
    raise OtherSettings(
      f'{workdir} has a run of steps={before["steps"]}, not {config["steps"]}, '
      f'and schedule={config["schedule"]!r} is of a whole run: its learning '
      'rates would have been others; choose another --workdir, perhaps with '
      f'--config.model={workdir}'
    )
  claim = dataclasses.replace(claim, longer=longer, done=ended)
  changes = inputs.changes(recorded, now) if file.exists() else {}
  lines = _lines(workdir, config)
  if ended and lines and not lines.exists():
    changes['output'] = f'{lines} is gone'
  claim = _with_changes(claim, changes)
  if claim.done and patience:
    console.log(
      f'{workdir} has a run that has ended: {", ".join(sorted(patience))} will '
      'change nothing in it'
    )
  return claim


def _lines(workdir: Path, config: dict[str, Any]) -> Path | None:
  """Returns the file with the lines of a run; None if its task has none."""
  name = _LINES.get(config.get('task', ''))
  return Path(config.get('output') or workdir / name) if name else None


def _has_results(workdir: Path, lines: Path | None) -> bool:
  """Returns whether a run has kept anything: its lines, or another file."""
  kept = (
    file
    for file in files.tree(workdir)
    if not _PASSING.fullmatch(file.relative_to(workdir).as_posix())
  )
  own = [lines] if lines and os.path.lexists(lines) else []
  # `lstat`: of a link that leads nowhere, too
  return any(os.lstat(file).st_size for file in itertools.chain(own, kept))


def _differences(
  before: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
  """Returns the settings that differ: (earlier, new) values."""
  found = settings.differences(before, config) | _added(before, config)
  # a path to an input that is gone stays relative
  return {
    name: (old, new)
    for name, (old, new) in found.items()
    if os.path.abspath(str(new)) != old
  }


def _added(before: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
  """Returns settings that an earlier version lacked: (default, new) values.

  Their defaults are as if they were not there, so other values are changes.
  """
  known, given = dict(settings.leaves(before)), dict(settings.leaves(config))
  default = configs.of_task(settings.task_of(config))
  paths.make_absolute(default)
  added = {
    name: value
    for name, value in settings.leaves(json.loads(default.to_json()))
    if name in given
    and name not in known
    and not name.startswith('plan.')  # read by the task `plan` alone
  }
  return settings.differences(added, {name: given[name] for name in added})


def _is_same(old: dict[str, Any] | None, new: dict[str, Any] | None) -> bool:
  """Returns whether an input has been copied elsewhere."""
  return bool(old and new and old['digest'] == new['digest'])


def _unused(name: str) -> str:
  """Returns a name that no file has: the given one, or it with a number."""
  names = (f'{name}{n}' for n in itertools.chain([''], itertools.count(2)))
  return next(each for each in names if not os.path.lexists(each))


def _with_changes(claim: Claim, changes: dict[str, str]) -> Claim:
  """Returns the claim of a run whose inputs have changed."""
  # A user may mend a function, such as one that has ended the run.
  of_code = {
    n: c for n, c in changes.items() if claim.inputs.get(n, {}).get('code')
  }
  claim = dataclasses.replace(claim, remarks=(*of_code.values(),))
  listed = '; '.join(c for n, c in changes.items() if n not in of_code)
  if not listed:
    return claim
  task = claim.config['task']
  if task in _REMADE:
    console.log(f'{task}: {claim.workdir} is made anew: {listed}')
    for name in (runs.SUMMARY, runs.USAGE):
      (Path(claim.workdir) / name).unlink(missing_ok=True)
    output = claim.config.get('output') or Path(claim.workdir) / _REMADE[task]
    if _REMADE[task] and Path(output).exists():
      Path(output).replace(_unused(f'{output}.old'))
    return dataclasses.replace(claim, done=False)
  refusal = (
    f'{claim.workdir} has a run with other inputs: {listed}; restore them, '
    'choose another --workdir, or delete that one'
  )
  if claim.done:
    raise ValueError(refusal)
  return dataclasses.replace(claim, refusal=refusal if task in _RESUMED else '')
