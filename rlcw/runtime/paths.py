"""Paths in settings: made absolute when a run begins, and found again later.

A run can so be read from any folder.  `@NAME` of a shipped file, `tfds:NAME`
and ids on the Hugging Face Hub stay as they are.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Settings, by the last part of their dotted names, that name files to read: a
# file, a folder, a glob or the workdir of a run.
_INPUTS = {
  'model',
  'reward_model',
  'unseen',
  'run',
  'runs',
  'grpo',
  'evaluate',
  'briefs',
  'examples',
  'preferences',
  'benchmark',
  'queries',
  'corpus',
  'input',
  'labelled',
  'construction',
  'principles',
  'embedder',
  'reply_tokens',
}
_OUTPUTS = {'output', 'cache'}


def inputs(config: Any) -> list[str]:
  """Returns the dotted names of the settings that name files to read."""
  return [*_names(config, _INPUTS)]


def _names(config: Any, wanted: set[str], prefix: str = '') -> Iterator[str]:
  for name, value in [*config.items()]:
    if hasattr(value, 'items'):
      # `endpoint.model` is the server's name of a model.
      if name != 'endpoint':
        yield from _names(value, wanted, f'{prefix}{name}.')
    elif name in wanted and isinstance(value, str) and value:
      yield prefix + name


def get(config: Any, name: str) -> Any:
  """Returns a setting by its dotted name; None if it is absent."""
  for part in name.split('.'):
    config = config.get(part) if hasattr(config, 'get') else None
  return config


def change(config: Any, name: str, value: Any) -> None:
  """Changes a setting by its dotted name."""
  *parents, last = name.split('.')
  for part in parents:
    config = config[part]
  config[last] = value


def matches(value: str) -> list[Path]:
  """Returns the files and folders that a setting names, in order.

  None for a name that is no path: of a shipped file, or on the Hub.
  """
  if not value or value.startswith(('@', 'tfds:')):
    return []
  value = os.path.expanduser(value)
  if os.path.exists(value):
    return [Path(value)]
  return sorted(map(Path, glob.glob(value, recursive=True)))


def make_absolute(config: Any) -> None:
  """Makes the paths in settings absolute, in place."""
  for name in inputs(config):
    if matches(value := get(config, name)):
      change(config, name, _absolute(value))
  for name in _names(config, _OUTPUTS):
    change(config, name, _absolute(get(config, name)))


def _absolute(value: str) -> str:
  return os.path.abspath(os.path.expanduser(value))


def locate(config: Any, workdir: str | Path, home: str = '') -> None:
  """Makes the paths in the settings of an earlier run absolute, in place.

  Args:
    config: of the run.
    workdir: of the run.
    home: the workdir when the run began; '' if unknown.
  """
  for name in inputs(config):
    change(config, name, find(get(config, name), workdir, home))
  for name in _names(config, _OUTPUTS):
    change(config, name, os.path.abspath(get(config, name)))


def find(value: str, workdir: str | Path, home: str = '') -> str:
  """Returns the absolute path of an input of a run, or the value as it is.

  Args:
    value: of the setting.
    workdir: of the run.
    home: the workdir when the run began; '' if unknown.  A workdir may have
      been moved together with its inputs.
  """
  workdir = os.path.abspath(workdir)
  if not os.path.isabs(value):
    # Earlier versions kept paths relative to the folder they were run from.
    candidates = [
      os.path.abspath(value),
      *(
        str(parent / value)
        for parent in (Path(workdir), *Path(workdir).parents)
      ),
    ]
  else:
    moved = os.path.join(workdir, os.path.relpath(value, home or workdir))
    candidates = [value, os.path.normpath(moved)]
  return next((path for path in candidates if matches(path)), value)
