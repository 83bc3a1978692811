"""Config files: the shipped ones by their names, others by their paths.

A config file is Python with a function `get_config`, which may take a variant
and returns a ConfigDict.  Files are read, never imported, so they need not be
part of a package.
"""

import ast
import importlib.util
import inspect
import runpy
import tokenize
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import rlcw
from rlcw.runtime import ranges, settings
from rlcw.runtime.ranges import nearest

# Kind of a default -> the kinds that a setting may have, in words too.
_KINDS = {
  bool: (bool, 'True or False'),
  str: (str, 'a text'),
  tuple: ((tuple, list), 'several values'),
}


def folder() -> Path:
  """Returns the folder of the shipped config files."""
  package = Path(rlcw.__file__).resolve().parent
  # A wheel has it in the package, a checkout has it beside the package.
  installed = package / 'configs'
  return installed if installed.is_dir() else package.parent / 'configs'


def names() -> list[str]:
  """Returns the names of the shipped config files."""
  return sorted(path.stem for path in folder().glob('*.py'))


def find(name: str) -> Path:
  """Returns the path of a config file.

  Args:
    name: of a shipped file, such as `grpo`; or a path.

  Raises:
    ValueError: there is no such file; names the nearest ones.
  """
  if name in names():
    return folder() / f'{name}.py'
  path = Path(name)
  if path.is_file():
    return path
  beside = [str(p) for p in path.parent.glob('*.py') if path.suffix == '.py']
  # Outside of a checkout there is no configs/grpo.py, but there is grpo.
  similar = nearest(name, beside) or nearest(path.stem, names())
  raise ValueError(
    f'--config={name}: no such file, and no config of this name'
    + (similar or f'; expected a path, or one of {names()}')
  )


def load(spec: str) -> ConfigDict:
  """Returns the settings that `--config` names.

  Args:
    spec: a name or a path, with an optional `:variant`.

  Raises:
    ValueError: there is no such file or variant, or the file is no config.
  """
  name, colon, variant = spec.partition(':')
  path = find(name)
  scope = execute(path)
  get_config = scope.get('get_config')
  if not callable(get_config):
    raise ValueError(f'{path}: expected a function get_config()')
  arguments = [variant] if colon else []
  try:
    inspect.signature(get_config).bind(*arguments)
  except TypeError:
    expected = 'no :variant' if colon else 'a :variant'
    raise ValueError(f'--config={spec}: expected {expected}') from None
  with _one_line(path):
    config = get_config(*arguments)
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f'{path}: get_config() returned a value of type '
      f'{type(config).__name__}; expected a ConfigDict'
    )
  return config


def execute(path: Path) -> dict[str, Any]:
  """Runs a config file, and returns its names.

  Raises:
    ValueError: it cannot be run; names the line and the error.
  """
  with _one_line(path):
    return runpy.run_path(str(path))


class _one_line:
  """Turns any error of a config file into a ValueError with its place."""

  def __init__(self, path: Path):
    self.path = path

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
    if error is None or isinstance(error, KeyboardInterrupt):
      return
    place = str(self.path)
    if isinstance(error, SyntaxError):
      place = f'{error.filename}:{error.lineno}'
    else:
      frames = traceback.extract_tb(trace)
      lines = [f.lineno for f in frames if f.filename == str(self.path)]
      place += f':{lines[-1]}' if lines else ''
    # A file raises a ValueError on purpose, for a variant that is unknown.
    name = '' if isinstance(error, ValueError) else f'{kind.__name__}: '
    raise ValueError(f'{place}: {name}{error}') from None


def vary(
  config: ConfigDict,
  variant: str,
  known: Mapping[str, Callable[[], dict[str, Any]]],
) -> ConfigDict:
  """Sets the settings of variants, as `get_config` of a config file does.

  Args:
    config: the default settings, changed in place.
    variant: a name, or several joined by `+` such as `qwen2_5_7b+dapo`; later
      ones replace settings of earlier ones.
    known: the settings of each variant by its name.

  Returns:
    The same settings.

  Raises:
    ValueError: there is no such variant.
  """
  for name in variant.split('+'):
    check_variant(name, known)
    config.update(known[name]())
  return config


def check_variant(
  name: str, known: Collection[str], kind: str = 'variant'
) -> None:
  """Raises ValueError if a config file has no variant of a name."""
  if name not in known:
    raise ValueError(
      f'{kind}={name!r}; expected one of {list(known)}{nearest(name, known)}'
    )


def variants(path: Path) -> dict[str, str]:
  """Returns the variants of a config file, and a line about each.

  They are the keys of its `VARIANTS`, whose values may have docstrings.
  """
  found = execute(path).get('VARIANTS', {})
  return {
    name: (inspect.getdoc(made) or '').partition('\n')[0]
    if inspect.isfunction(made)
    else ''
    for name, made in found.items()
  }


def of_task(task: str) -> ConfigDict:
  """Returns the settings of a task with their defaults."""
  # A config of `plan` is one of another task (`settings.task_of`).
  return load({'plan': 'grpo'}.get(task, task))


def complete(config: ConfigDict, default: ConfigDict) -> None:
  """Adds the settings that a config file of an earlier version lacks."""
  with config.unlocked():
    for name, value in default.items():
      own: Any = config.get(name, value)
      if isinstance(own, ConfigDict) and isinstance(value, ConfigDict):
        complete(own, value)
      config[name] = own


def check_names(config: ConfigDict) -> None:
  """Checks that a task has the settings of a config, and values of their kind.

  The command line converts values by itself; a config file may have any.

  Raises:
    ValueError: it lacks a setting, which is perhaps misspelt; or one that is
      true or false, or a text, has another value.
  """
  task = settings.task_of(config)
  known = dict(settings.leaves(of_task(task)))
  for name, value in settings.leaves(config):
    if name not in known:
      raise ValueError(
        f'{name}={value!r:.80}: task {task!r} has no such setting'
        + nearest(name, known)
      )
    # What has a range is checked by it.
    expected = None if ranges.of(task, name) else _KINDS.get(type(known[name]))
    if expected and not isinstance(value, expected[0]):
      raise ValueError(f'{name}={value!r:.80}; expected {expected[1]}')


# --- Comments ---------------------------------------------------------------


def comments(path: Path) -> dict[str, str]:
  """Returns the comment on each setting, by its dotted name.

  A comment stands above a setting in the source or at the end of its line.
  Settings from functions of other modules are found in these modules.

  Args:
    path: of a config file.
  """
  found = dict(_Source(path).of_function('get_config', ''))
  return {'task': 'the task that reads these settings'} | found


class _Source:
  """The syntax tree and the comments of a Python file."""

  def __init__(self, path: Path):
    with tokenize.open(path) as file:
      lines = file.readlines()
    self.tree = ast.parse(''.join(lines))
    self.above: dict[int, str] = {}  # comments that are alone on their line
    self.beside: dict[int, str] = {}
    for token in tokenize.generate_tokens(iter(lines).__next__):
      if token.type == tokenize.COMMENT:
        alone = token.line.strip().startswith('#')
        words = token.string.lstrip('# ').rstrip()
        (self.above if alone else self.beside)[token.start[0]] = words

  def of_function(self, name: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields the comments in a function of this file or one it imports."""
    for node in self.tree.body:
      if isinstance(node, ast.FunctionDef) and node.name == name:
        for statement in ast.walk(node):
          if isinstance(statement, (ast.Return, ast.Assign, ast.Expr)):
            yield from self.of_value(statement.value, prefix)
      elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
          spec = importlib.util.find_spec(node.module)
          if name == (alias.asname or alias.name) and spec and spec.origin:
            source = _Source(Path(spec.origin))
            yield from source.of_function(alias.name, prefix)

  def of_value(
    self, value: ast.AST | None, prefix: str
  ) -> Iterator[tuple[str, str]]:
    """Yields the comments in an expression that makes settings."""
    if isinstance(value, ast.BinOp):
      yield from self.of_value(value.left, prefix)
      yield from self.of_value(value.right, prefix)
    if not isinstance(value, ast.Call):
      return
    function = value.func.id if isinstance(value.func, ast.Name) else ''
    if function == 'dict':
      for keyword in value.keywords:
        if keyword.arg is None:  # **settings()
          yield from self.of_value(keyword.value, prefix)
          continue
        if words := self.comment(keyword):
          yield f'{prefix}{keyword.arg}', words
        yield from self.of_value(keyword.value, f'{prefix}{keyword.arg}.')
      return
    if function not in ('', 'ConfigDict', 'get_config'):
      yield from self.of_function(function, prefix)
    for argument in value.args:
      yield from self.of_value(argument, prefix)

  def comment(self, keyword: ast.keyword) -> str:
    """Returns the comment on an argument, '' if there is none."""
    first, last = keyword.lineno, keyword.value.end_lineno or keyword.lineno
    # The lines of a node have comments on its settings.
    if isinstance(keyword.value, (ast.Call, ast.BinOp)):
      last = first
    beside = [self.beside.get(line, '') for line in range(first, last + 1)]
    above: list[str] = []
    while (line := self.above.get(first - 1, '---')) and line[:3] != '---':
      first -= 1
      above.insert(0, line)
    parts = ' '.join(above).rstrip('.'), ' '.join(filter(None, beside))
    return '. '.join(filter(None, parts))
