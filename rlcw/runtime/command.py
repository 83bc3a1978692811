"""The `rlcw` command line: its arguments, its help and its mistakes.

A mistake is one line, and exits with `MISTAKE` before anything is loaded or
written.
"""

import ast
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from rlcw.runtime import configs, console, files, ranges, settings
from rlcw.runtime.ranges import nearest

MISTAKE = 2  # exit status of a wrong command line or setting

USAGE = 'rlcw --config=NAME[:VARIANT] --workdir=DIR [--config.KEY=VALUE ...]'
_HELP = '-h', '--help', '-help', '--helpshort', '--helpfull'
_SETTING = re.compile(r'--?(?:no)?config\.([^=]*)(=.*)?', re.DOTALL)
# Several names, as in `a,b`.
_NAMES = re.compile(r'[^\s\'"(),]+(,[^\s\'"(),]+)+')
# Nodes, and the values of `train` without which nothing reads them.  Presets
# set them for those who choose such a value, so a config file may.
_TRAINED = {'lora': ('lora',), 'decoder': ('lora', 'all')}
_TYPES = {
  bool: 'True or False',
  int: 'an integer',
  float: 'a number',
  tuple: 'a tuple such as "(1, 2)"',
  ConfigDict: 'a dict of settings',
}


class Arguments(NamedTuple):
  """The parsed command line."""

  config: ConfigDict
  workdir: Path
  distributed: bool  # whether JAX detects the processes of this run
  heartbeat: int  # seconds without one until a process counts as dead


def read(argv: Sequence[str], tasks: Mapping[str, Path]) -> Arguments:
  """Reads a command line, or prints the help that it asks for and exits.

  Args:
    argv: the command's name and its arguments.
    tasks: the source file of each task.

  Raises:
    app.UsageError: the command line, the config file or a setting is wrong.
    SystemExit: with status 0, after the help.
  """
  try:
    # The flags that are known before the config is.
    first = _flags()
    rest = first(argv, known_only=True)[1:]
    wants_help = any(argument in _HELP for argument in rest)
    rest = [argument for argument in rest if argument not in _HELP]
    if not first.config and wants_help:
      raise _shown(describe_command(tasks))
    if not first.config:
      _refuse_unknown(rest, {})
      raise ValueError(f'--config is missing; expected {USAGE}; see --help')
    config = settings.upgrade(configs.load(first.config), warn)
    if config.get('task') in tasks:
      configs.complete(config, configs.of_task(settings.task_of(config)))
    override(config, settings.upgrade_arguments(rest, warn))
    check(config, tasks)
    if wants_help:
      raise _shown(describe_settings(first.config, config))
    if not first.workdir:
      raise ValueError('--workdir is missing; expected a folder for results')
    return Arguments(
      config,
      files.local_folder(first.workdir),
      first.distributed,
      first.heartbeat,
    )
  except (ValueError, OSError, flags.Error) as error:
    raise app.UsageError(str(error)) from None


def warn(text: str) -> None:
  """Prints a warning."""
  print(f'rlcw: warning: {text}', file=sys.stderr)


def one_line(error: object) -> str:
  """Returns a message without line breaks and control characters."""
  return console.printable(' '.join(str(error).split()))


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  # Settings are in no fixed order with flags.
  values.set_gnu_getopt()
  flags.DEFINE_string(
    'config', None, 'Settings: a name or a file, and a variant.', values
  )
  flags.DEFINE_string('workdir', None, 'A folder for the results.', values)
  flags.DEFINE_bool(
    'distributed',
    False,
    'Whether JAX detects the processes of this run.',
    values,
  )
  flags.DEFINE_integer(
    'heartbeat',
    100,
    'Seconds without a heartbeat until a process counts as dead.',
    lower_bound=1,
    flag_values=values,
  )
  return values


# --- Settings ---------------------------------------------------------------


def override(config: ConfigDict, arguments: Sequence[str]) -> None:
  """Sets settings as `--config.NAME=VALUE` does.

  Args:
    config: settings, changed in place and locked.
    arguments: of the command line, without other flags.

  Raises:
    ValueError: there is no such setting, its value has another type, nothing
      would read it, or an argument is none of these.
  """
  before = dict(_nodes(config))
  _refuse_unknown(arguments, before)
  values = flags.FlagValues()
  argv = ['rlcw', *(_as_tuple(word, before) for word in arguments)]
  try:
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, sys_argv=argv
    )
    surplus = values(argv)[1:]
  # A tuple with an open bracket is a SyntaxError.
  except (flags.Error, SyntaxError, TypeError, ValueError) as error:
    match = re.match(r'flag --config\.([\w.]+)=', str(error))
    if not match:
      raise ValueError(str(error)) from None
    name, task = match[1], str(config.get('task'))
    expected = ranges.of(task, name) or _type_of(before[name])
    given = next(word for word in arguments if f'config.{name}' in word)
    raise ValueError(f'{given:.160}; expected {expected}') from None
  if surplus:
    raise ValueError(
      f'unexpected argument {surplus[0]!r}; expected --config.NAME=VALUE'
    )
  after = dict(_nodes(config))
  for name in {**before, **after}:
    if name not in after or name not in before:
      parent = name.rpartition('.')[0]
      raise ValueError(
        f'--config.{parent}: {"lacks" if name in before else "has no setting"} '
        f'{name!r}; set single ones, as with --config.{name}=VALUE'
      )
  for match in filter(None, map(_SETTING.fullmatch, arguments)):
    expected = _TRAINED.get(match[1].partition('.')[0])
    if expected and config.get('train') not in expected:
      raise ValueError(
        f'--config.{match[1]} has no effect with train={config.get("train")}; '
        f'expected --config.train={" or ".join(expected)}'
      )


def _has_names(value: Any) -> bool:
  return isinstance(value, tuple) and all(isinstance(v, str) for v in value)


def _type_of(value: Any) -> str:
  """Describes the values that may take the place of a setting's."""
  if _has_names(value):
    return 'a name, or several with commas, as in one,two'
  return _TYPES.get(type(value), 'others')


def _as_tuple(argument: str, known: Mapping[str, Any]) -> str:
  """Writes names with commas as a tuple, where the setting is one of names."""
  match = _SETTING.fullmatch(argument)
  if not match or not _has_names(known.get(match[1])):
    return argument
  given = (match[2] or '=')[1:]
  if not _NAMES.fullmatch(given):
    return argument
  return f'--config.{match[1]}={tuple(given.split(","))!r}'


def _nodes(config: Any, prefix: str = '') -> Any:
  """Yields the dotted name and value of every setting and every node."""
  for name, value in config.items():
    yield f'{prefix}{name}', value
    if isinstance(value, ConfigDict):
      yield from _nodes(value, f'{prefix}{name}.')


def _refuse_unknown(arguments: Sequence[str], known: Mapping[str, Any]) -> None:
  """Refuses flags and settings that do not exist."""
  takes_next = False
  for argument in arguments:
    match = _SETTING.fullmatch(argument)
    if takes_next or not argument.startswith('-') or argument == '--':
      takes_next = False
    elif match and known:
      if match[1] not in known:
        words = nearest(match[1], known) or '; see --help for all of them'
        raise ValueError(f'--config.{match[1]}: no such setting{words}')
      # as absl has it: the value may be the next argument, but for booleans
      takes_next = not match[2] and type(known[match[1]]) is not bool
    elif not match:
      name = argument.lstrip('-').partition('=')[0]
      flag_names = [*_flags(), 'help', *(f'config.{each}' for each in known)]
      words = nearest(name, flag_names) or f'; expected {USAGE}'
      raise ValueError(f'--{name}: no such flag{words}')


def check(config: ConfigDict, tasks: Iterable[str]) -> None:
  """Checks the task of a config, and every setting by itself.

  Args:
    config: settings.
    tasks: the names of all tasks.

  Raises:
    ValueError: a setting is missing, unknown, out of range or a secret.
  """
  task = config.get('task')
  if task is None:
    raise ValueError(
      f'the config names no task; expected task=... with one of {sorted(tasks)}'
    )
  if not isinstance(task, str) or task not in tasks:
    raise ValueError(
      f'task={task!r} is unknown; expected one of {sorted(tasks)}'
      + nearest(task, tasks)
    )
  configs.check_names(config)
  settings.refuse_secrets(config)
  ranges.check(config)


def check_workdir(workdir: Path) -> None:
  """Checks that a folder can be made or written.

  Raises:
    app.UsageError: it cannot.
  """
  place = workdir.absolute()
  while not os.path.lexists(place):
    place = place.parent
  if not place.is_dir():
    raise app.UsageError(f'--workdir={workdir}: {place} is not a folder')
  if not os.access(place, os.W_OK | os.X_OK):
    raise app.UsageError(f'--workdir={workdir}: {place} cannot be written')


# --- Help -------------------------------------------------------------------


def describe_command(tasks: Mapping[str, Path]) -> str:
  """Returns the help of the command: its tasks and its flags."""
  lines = {
    name: re.sub(r'^Task `\w+`: ', '', _summary(path))
    for name, path in tasks.items()
  }
  others = {
    name: _summary(configs.find(name))
    for name in configs.names()
    if name not in tasks
  }
  described = _flags()
  return '\n'.join(
    [
      'Reinforcement learning for creative writing.\n',
      f'  {USAGE}\n',
      'Tasks (plan: of a config of grpo, sft or reward_model, by '
      '--config.task=plan):\n',
      *_table(lines),
      '\nFurther configs:\n',
      *_table(others),
      '\nFlags:\n',
      *_table({f'--{name}': str(described[name].help) for name in described}),
      '\n--config also takes the path of a config file of your own.',
      'All settings of a config: rlcw --config=NAME --help',
    ]
  )


def describe_settings(spec: str, config: ConfigDict) -> str:
  """Returns the help of a config: every setting, its value and its comment."""
  path = configs.find(spec.partition(':')[0])
  task = settings.task_of(config)
  comments = configs.comments(configs.find(task)) | configs.comments(path)
  variants = configs.variants(path)
  lines = [_docstring(path).strip()]
  if variants:
    lines += ['\nVariants, joined by +:\n', *_table(variants)]
  lines += ['\nSettings, with their values here:\n']
  values = dict(_nodes(config))
  # In the order of the file, in which ConfigDict does not keep them; nodes only
  # where they have a comment.
  for name in [*comments, *(name for name in values if name not in comments)]:
    value, expected = values.get(name), ranges.of(task, name)
    is_node = isinstance(value, ConfigDict)
    if name not in values or (is_node and name not in comments):
      continue
    given = f'--config.{name}'
    if not is_node:
      given += f'={value}'
    # The names of a choice are in its comment as well.
    if isinstance(expected, ranges.Number):
      given += f'  ({expected})'
    lines += [given, *_wrap(comments.get(name, ''), '    ')]
  return '\n'.join(lines)


def _shown(text: str) -> SystemExit:
  """Prints a text, and returns the exit after it."""
  try:
    print(text, flush=True)
  except BrokenPipeError:  # as of `rlcw --help | head`
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return SystemExit(0)


def _table(rows: Mapping[str, str]) -> list[str]:
  width = max(map(len, rows), default=0) + 4
  return [
    f'  {name}'.ljust(width) + f'\n{" " * width}'.join(_wrap(text, '', width))
    for name, text in rows.items()
  ]


def _wrap(text: str, indent: str, used: int = 0) -> list[str]:
  return textwrap.wrap(
    text, 80 - used, initial_indent=indent, subsequent_indent=indent
  )


def _summary(path: Path) -> str:
  return _docstring(path).split('\n\n')[0].replace('\n', ' ').rstrip('.')


def _docstring(path: Path) -> str:
  return ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''
