"""Settings of runs: reading them, and names that have changed.

An old name is accepted for one release, on the command line, in a config file
and in the `config.json` of an old run.  No setting may contain a secret, since
`config.json` has them all.
"""

import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rlcw import Config
from rlcw.runtime import files, paths

# Beside `config.json`: the workdir, the command and the inputs of a run.
INPUTS = 'inputs.json'

# Dotted name of a setting -> its name now.
RENAMED = (
  (r'\b(briefs|groups|prompts|queries|replies)_per_pass$', 'batch_size'),
  (r'\bjudge\.endpoint\.max_tokens$', 'judge.max_new_tokens'),
  (r'\bjudge\.endpoint\.(temperature|cache)$', r'judge.\1'),
)
# Former settings, and the constants that replaced them.
REMOVED = {'judged_per_brief': 1, 'broken_tokens': 0.3}
# Defaults that have changed, (old, new): a run that was begun with the old one
# goes on with the new one.
_NEW_DEFAULTS = {
  'max_reply_characters': (4000, 0),
  # of `report`
  'grpo': ('runs/quickstart/grpo', ''),
  'reward_model': ('runs/quickstart/reward_model', ''),
}
# Tasks beside `grpo` whose steps `plan` compiles, and a setting of each that
# the others lack.
_PLANNED = {'sft': 'rows_per_step', 'reward_model': 'replies_per_group'}
# Settings that change no result: a run may be resumed with other ones.
FREE = 'loggers', 'show_every', 'monitors.stop'
# Patience with a server decides whether a question gets an answer, not which: a
# run may be resumed with other patience.
PATIENCE = re.compile(
  r'(.+\.)?endpoint\.(timeout|retries|concurrency|key_variable)'
)
_FLAG = re.compile(r'--?config\.([\w.]+)(=.*)?')


def new_name(name: str) -> str:
  """Returns the present name of a setting, given dotted as in `judge.model`."""
  for old, new in RENAMED:
    name = re.sub(old, new, name)
  return name


def upgrade(
  config: ConfigDict, warn: Callable[[str], None] = lambda _: None
) -> ConfigDict:
  """Moves settings with old names to their new ones.

  Args:
    config: settings, changed in place.
    warn: receives a line for each setting with an old name.

  Returns:
    The same settings.
  """
  with config.unlocked():
    for name, value in [*leaves(config)]:
      new = new_name(name)
      if name in REMOVED:
        warn(_removed(name))
      elif new != name:
        warn(_renamed(name, new))
        _parent(config, new)[new.rpartition('.')[2]] = value
      if name in REMOVED or new != name:
        del _parent(config, name)[name.rpartition('.')[2]]
  return config


def upgrade_arguments(
  arguments: Sequence[str], warn: Callable[[str], None]
) -> list[str]:
  """Returns the command line with new names in place of old ones.

  Args:
    arguments: of the command line; only `--config.NAME=VALUE` is looked at.
    warn: receives a line for each setting with an old name.
  """
  upgraded, removed_flag = [], False
  for argument in arguments:
    # the value of a removed setting, given as an argument of its own
    if removed_flag and not argument.startswith('-'):
      removed_flag = False
      continue
    match = _FLAG.fullmatch(argument)
    name = match[1] if match else ''
    if match and name in REMOVED:
      warn(_removed(name))
      removed_flag = not match[2]
      continue
    removed_flag = False
    new = new_name(name)
    if match and new != name:
      warn(_renamed(name, new))
      argument = f'--config.{new}{match[2] or ""}'
    upgraded.append(argument)
  return upgraded


def read(workdir: str | Path) -> Config:
  """Returns the settings of a run, from the `config.json` in its workdir.

  Paths are absolute where their files are found (`paths.find`).

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged.
  """
  file, inputs = Path(workdir) / 'config.json', Path(workdir) / INPUTS
  if not str(workdir) or not file.is_file():
    raise FileNotFoundError(
      f'{str(workdir)!r} is not the workdir of a run: it has no config.json'
    )
  config = upgrade(ConfigDict(files.read_json(file)))
  if type(config.get('steps', 0)) is not int:
    raise ValueError(f'{file}: steps={config.steps!r:.80}; expected an integer')
  home = read_inputs(inputs)['workdir'] if inputs.exists() else ''
  paths.locate(config, workdir, home)
  return config


def read_inputs(file: Path) -> dict[str, Any]:
  """Returns what a run has recorded of its inputs, and its `workdir`.

  Raises:
    ValueError: the file is damaged.
  """
  recorded = {'workdir': '', 'inputs': {}} | files.read_json(file)
  expected = {'path': str, 'digest': str}
  valid = isinstance(recorded['workdir'], str) and (
    isinstance(recorded['inputs'], dict)
  )
  if not valid or not all(
    isinstance(each, dict)
    and all(isinstance(each.get(k), kind) for k, kind in expected.items())
    for each in recorded['inputs'].values()
  ):
    raise ValueError(
      f'{file} is damaged; expected a workdir, and inputs with path and digest'
    )
  return recorded


def task_of(config: Any) -> str:
  """Returns the task whose settings these are: of `plan`, the one it plans."""
  if config['task'] != 'plan':
    return str(config['task'])
  return next((t for t, name in _PLANNED.items() if name in config), 'grpo')


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
  """Returns the settings that differ, by dotted name: (old, new) values.

  Settings that only `new` has are left out: they were added to the code after
  the old run.  So are defaults that have changed since, and all of `FREE`.
  """
  before, after = dict(leaves(old)), dict(leaves(new))
  changed = {
    name: (value, after.get(name))
    for name, value in before.items()
    if value != after.get(name) and name not in FREE
  }
  return {
    name: values
    for name, values in changed.items()
    if values != _NEW_DEFAULTS.get(name.rpartition('.')[2])
  }


_VARIABLE = re.compile('[A-Za-z_][A-Za-z0-9_]*')


def refuse_secrets(config: Any) -> None:
  """Refuses settings that contain a secret, by `refuse_secret`."""
  for name, value in leaves(config):
    refuse_secret(name, value)


def refuse_secret(name: str, value: Any) -> None:
  """Refuses a setting in which a secret stands where it may not.

  Args:
    name: of the setting, dotted.
    value: of it.

  Raises:
    ValueError: a `…key_variable` is a key instead of the name of a variable, or
      a `…url` has a user, a password or a query.  The message shows no value.
  """
  if not isinstance(value, str):
    return
  last = name.rpartition('.')[2]
  if last == 'key_variable' and value.strip() and not _names_variable(value):
    raise ValueError(
      f'{name}: expected the name of an environment variable, such as '
      'OPENAI_API_KEY, and not the key itself (the value is not shown)'
    )
  if last == 'url' and _may_hold_secret(value):
    raise ValueError(
      f'{name}: expected a URL without user, password and query (the value is '
      'not shown); the key is read from the environment, see key_variable'
    )


def _names_variable(value: str) -> bool:
  """Returns whether a text is a variable's name, and does not look like a key.

  Keys have long random parts; names have words between underscores.
  """
  if value in os.environ:
    return True
  words = all(
    len(part) < 16 or (part.isalpha() and part in (part.upper(), part.lower()))
    for part in value.split('_')
  )
  return bool(_VARIABLE.fullmatch(value)) and words


def _may_hold_secret(url: str) -> bool:
  try:
    parts = urllib.parse.urlsplit(url)
  except ValueError:
    return False
  return '@' in parts.netloc or bool(parts.query)


def refuse_unread(config: Config, defaults: dict[str, Any], needs: str) -> None:
  """Refuses settings that nothing reads, unless they have their defaults.

  Args:
    config: settings; those of earlier versions may lack some.
    defaults: of these settings, by their dotted names.
    needs: what would read them, and the settings that it takes.

  Raises:
    ValueError: one has another value, which would have no effect.
  """
  given = dict(leaves(config))
  for name, default in defaults.items():
    if (value := given.get(name, default)) != default:
      raise ValueError(f'{name}={value!r} needs {needs}, or {name}={default!r}')


def leaves(config: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the dotted name and the value of every setting."""
  for name, value in config.items():
    if isinstance(value, (ConfigDict, dict)):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def _parent(config: Any, name: str) -> Any:
  for part in name.split('.')[:-1]:
    config = config[part]
  return config


def _renamed(name: str, new: str) -> str:
  return f'config.{name} is now config.{new}; use the new name'


def _removed(name: str) -> str:
  return f'config.{name} is no longer a setting; it is {REMOVED[name]}'
