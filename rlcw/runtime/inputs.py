"""Digests of a run's inputs, by which a later start knows what has changed.

A digest is of contents alone: a copy elsewhere is the same input, and neither
clocks nor times of files matter.

  file    its bytes; of a large one its size, and samples from all its parts
  folder  the files in it; a glob: all that it matches
  run     the checksum of its newest checkpoint, and what it was read with
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.runtime import files, paths, runs, settings, sums

# Larger files are sampled: reading 140 GB from a network disk takes minutes.
_WHOLE_BYTES = 64 * 2**20
_BLOCK_BYTES = 2**16
_BLOCKS = 512
# Inputs of a run that whoever evaluates it reads too.
_EVALUATED = (
  'model',
  'reward_model',
  'briefs',
  'judge.model',
  'judge.principles',
)
# Globs of runs whose folders' names matter: they are of arms.
_NAMED = 'runs', 'benchmark'

Inputs = dict[str, dict[str, Any]]


def describe(config: Config) -> Inputs:
  """Returns, by dotted name of its setting, every input that is a file here.

  Returns:
    Of each its `path` and `digest`; of a run its `state` in words; and `code`
    of a user's function.

  Raises:
    ValueError: a run that is read is damaged.
  """
  found: Inputs = {}
  for name in paths.inputs(config):
    value = str(paths.get(config, name))
    if matches := paths.matches(value):
      parts = _parts(config, name)
      found[name] = {'path': value, 'digest': digest(value, parts)}
      if name.rpartition('.')[2] in _NAMED:
        names = '\n'.join([found[name]['digest'], *(m.name for m in matches)])
        found[name]['digest'] = _text(names)
      if state := runs.state(value):
        found[name]['state'] = f'at step {state.step} of {state.steps}'
      # Whoever evaluates a run calls its functions.
      if parts is _EVALUATED:
        for run in filter(runs.is_run, matches):
          of_run = code(settings.read(run)).items()
          found |= {f'{name}: {key}': each for key, each in of_run}
  return found | {k: v | {'code': True} for k, v in code(config).items()}


def code(config: Config) -> Inputs:
  """Returns `path` and `digest` of a user's functions that settings name."""
  found = _sources(config)
  return {name: {'path': file, 'digest': digest(file)} for name, file in found}


def changes(before: Inputs, now: Inputs) -> dict[str, str]:
  """Returns the inputs whose content has changed, in words, by name.

  An input that is gone is no change: a finished run needs it no more.
  """
  new_ones = now.keys() - before.keys()
  changed = {name: f'{name}={now[name]["path"]} is new' for name in new_ones}
  for name, old in before.items():
    new = now.get(name, old)
    if old['digest'] != new['digest']:
      was, now_is = old.get('state'), new.get('state')
      how = f'was {was}, is {now_is}' if was != now_is else 'has other content'
      changed[name] = f'{name}={new["path"]} {how}'
  return changed


def contents(config: Config, names: Sequence[str]) -> list[str]:
  """Returns a line with the digest of each of some settings that is a path."""
  values = {name: paths.get(config, name) for name in names}
  return [
    f'{name} {digest(value)}'
    for name, value in values.items()
    if isinstance(value, str) and paths.matches(value)
  ]


def check_base(run: str | Path) -> None:
  """Checks that the model that a run began with is what it was.

  Adapters and heads count for nothing without the weights they were trained on.

  Raises:
    ValueError: its content has changed.
  """
  file = Path(run) / settings.INPUTS
  if not file.exists():  # of an earlier version
    return
  before = settings.read_inputs(file)['inputs'].get('model')
  model = str(settings.read(run).model)
  if before and paths.matches(model) and digest(model) != before['digest']:
    raise ValueError(
      f'{run} was trained on {model}, which has other content since; expected '
      'what it was, as adapters and heads fit no other'
    )


def reads(config: Config) -> list[runs.State]:
  """Returns the states of the runs that a task reads, in order of settings."""
  found = []
  for name in paths.inputs(config):
    for path in paths.matches(str(paths.get(config, name))):
      state = runs.state(path)
      # `compare` leaves out runs that have not finished.
      if state and (state.finished or name != 'runs'):
        found.append(state)
  return found


def remarks(config: Config, workdir: Path) -> list[str]:
  """Returns what is unfinished or outdated in the inputs of a task."""
  found = []
  for name in paths.inputs(config):
    for path in paths.matches(str(paths.get(config, name))):
      folder = path if path.is_dir() else path.parent
      # Other folders with a file may have a config.json of any program.
      is_claimed = (folder / settings.INPUTS).exists()
      if not is_claimed or folder.absolute() == workdir.absolute():
        continue
      if path.is_file() and not runs.is_finished(folder):
        found.append(f'{name}={path} is incomplete: {runs.unfinished(folder)}')
      found += [f'{name}={path} is outdated: {o}' for o in _outdated(folder)]
  return found


def _outdated(folder: Path) -> list[str]:
  """Returns the runs that have changed since a task read them."""
  if not runs.is_finished(folder):
    return []
  read = files.read_json(folder / runs.SUMMARY).get('read') or []
  changed = []
  for record in read:
    now = runs.state(record['run'])
    if now and now.step != record['step']:
      changed.append(
        f'it read {now.run} at step {record["step"]}, which is at step '
        f'{now.step} now; {runs.command(folder)}'
      )
  return changed


# --- Digests ----------------------------------------------------------------


def digest(path: str | Path, parts: Sequence[str] | None = ('model',)) -> str:
  """Returns the digest of a file, a folder, a run, or all that a glob matches.

  Args:
    path: a path as of settings.
    parts: of a run: the settings whose inputs are read with it; None for its
      records alone.

  Raises:
    ValueError: a run is damaged, or began with itself (`runs.lineage`).
  """
  total = hashlib.blake2b(digest_size=16)
  matches = paths.matches(str(path))
  for match in matches:
    if match.is_file():
      # Of several files, as of those in a folder, the name may give the split.
      name = f'{match.name} ' if len(matches) > 1 else ''
      found = [f'{name}{_file(match)}']
    elif not runs.is_run(match):
      found = _folder(match)
    elif parts is None or not (match / 'checkpoints').is_dir():
      found = [
        f'{file.name} {_file(file)}'
        for file in sorted([*match.glob('*.jsonl'), match / runs.SUMMARY])
        if file.is_file()
      ]
    else:
      found = _run(match, parts)
    total.update('\n'.join([*found, '']).encode())
  return total.hexdigest()


def _parts(config: Config, name: str) -> Sequence[str] | None:
  """Returns the settings of a run that are read where a setting names it."""
  if config.get('task') == 'report':
    return None
  return _EVALUATED if name in ('run', 'runs') else ('model',)


def _run(folder: Path, parts: Sequence[str]) -> list[str]:
  runs.lineage(folder)  # else a run that began with itself would never end
  config, step = settings.read(folder), runs.newest_step(folder)
  saved = folder / 'checkpoints' / str(step)
  sums = _checksums(saved)
  found = [f'step {step}', *([sums] if sums else _folder(saved))]
  found += [_file(file) for file in sorted(folder.glob('*.safetensors'))]
  return found + contents(config, parts)


def _checksums(saved: Path) -> str:
  """Returns the checksums in a checkpoint's description; '' without any.

  A damaged one is named by `Checkpoints.restore`, which reads an older one.
  """
  try:
    described = files.read_json(saved / '_CHECKPOINT_METADATA')
  except (FileNotFoundError, ValueError):
    return ''
  custom = described.get('custom_metadata')
  return str(custom.get('checksums') or '') if isinstance(custom, dict) else ''


def _folder(folder: Path) -> list[str]:
  """Returns a line for each file that is neither hidden nor a description."""
  names = sorted(
    path.relative_to(folder) for path in files.tree(folder) if path.is_file()
  )
  return [
    f'{name} {_file(folder / name)}'
    for name in names
    if name.suffix not in ('.md', '.lock', '.partial')
    and not any(part.startswith('.') for part in name.parts)
  ]


def _text(text: str) -> str:
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _file(path: Path) -> str:
  size = path.stat().st_size
  total = hashlib.blake2b(str(size).encode(), digest_size=16)
  with path.open('rb') as file:
    if size <= _WHOLE_BYTES:
      while block := file.read(2**20):
        total.update(block)
    else:
      # The first has the names and shapes of tensors, the others are spread
      # evenly to the end: training changes them all.
      for n in range(_BLOCKS + 1):
        file.seek(n * (size - _BLOCK_BYTES) // _BLOCKS)
        total.update(file.read(_BLOCK_BYTES))
  return total.hexdigest()


def _sources(config: Config) -> Iterator[tuple[str, str]]:
  """Yields the functions of a user that settings name, and their files."""
  settings_of = {
    'writing': [*sums.parse(str(config.get('writing') or ''))],
    'verifiers': config.get('verifiers') or (),
  }
  for setting, names in settings_of.items():
    for name in names:
      module = str(name).partition(':')[0].replace('.', os.sep)
      for file in (f'{module}.py', os.path.join(module, '__init__.py')):
        if ':' in str(name) and os.path.isfile(file):
          yield f'{setting} {name}', os.path.abspath(file)
