"""Imports go down one list of packages and never sideways."""

import ast
import graphlib
import importlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rlcw import main

ROOT = pathlib.Path(__file__).resolve().parents[1]

# From the top down.  A module imports its own package and those on lower rows;
# two packages of one row do not import each other.
ORDER = (
  ('main', 'api'),
  ('tasks',),
  ('evaluation',),
  ('rewards',),
  ('sampling',),
  ('models', 'data'),
  ('train',),
  ('runtime',),
  ('losses',),
)
ROW = {name: row for row, names in enumerate(ORDER) for name in names}
# `plan` compiles what these tasks run; `grpo` may fit its reward model anew.
TASK_EDGES = {('plan', task) for task in ('grpo', 'reward_model', 'sft')}
TASK_EDGES.add(('grpo', 'reward_model'))

Edges = dict[str, set[str]]


def _module(path: pathlib.Path, root: pathlib.Path) -> str:
  parts = path.relative_to(root).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
  """Every name that a file imports, at its top or inside a function."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parents = package.split('.')
      above = parents[: len(parents) - node.level + 1] if node.level else []
      source = '.'.join([*above, *([node.module] if node.module else [])])
      yield from (f'{source}.{alias.name}' for alias in node.names)


def _edges(root: pathlib.Path) -> Edges:
  """Each module of the package, and the modules of it that it imports."""
  files = {_module(p, root): p for p in sorted(root.glob('rlcw/**/*.py'))}
  edges: Edges = {}
  for module, path in files.items():
    is_package = path.name == '__init__.py'
    package = module if is_package else module.rpartition('.')[0]
    tree = ast.parse(path.read_text(encoding='utf-8'), str(path))
    edges[module] = set()
    for name in _imported(tree, package):
      while name not in files and '.' in name:  # a name inside a module
        name = name.rpartition('.')[0]
      if name in files:
        edges[module].add(name)
    edges[module].discard(module)
  return edges


def _task(module: str) -> str:
  """The task of a module under rlcw/tasks, '' for the package itself."""
  return ([*module.split('.'), ''])[2]


def _allowed(module: str, name: str) -> bool:
  above, below = module.split('.')[1], name.split('.')[1]
  if above == below == 'tasks':
    edge = _task(module), _task(name)
    return edge[0] == edge[1] or edge in TASK_EDGES
  return above == below or ROW[above] < ROW[below]


def _violations(edges: Edges) -> list[str]:
  """Imports that do not go down; `rlcw` itself may be imported anywhere."""
  return [
    f'{module} -> {name}'
    for module, names in edges.items()
    for name in sorted(names)
    if module != 'rlcw' and name != 'rlcw' and not _allowed(module, name)
  ]


def _tree(tmp_path: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
  for name, text in {'__init__': '', **files}.items():
    path = tmp_path / 'rlcw' / f'{name}.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return tmp_path


def test_every_entry_of_the_package_has_a_row() -> None:
  entries = {
    path.stem
    for path in (ROOT / 'rlcw').iterdir()
    if path.name not in ('__init__.py', '__pycache__', 'py.typed')
  }
  assert entries == set(ROW)
  assert len(entries) + 1 <= 12


def test_imports_go_down() -> None:
  edges = _edges(ROOT)
  assert 'rlcw.losses' in edges['rlcw.rewards.mixing']
  assert 'rlcw.models.decoder' in edges['rlcw.models.weights']
  assert _violations(edges) == []


def test_no_import_cycle() -> None:
  # The package names its functions, and imports them when one is used.
  edges = _edges(ROOT) | {'rlcw': set[str]()}
  order = list(graphlib.TopologicalSorter(edges).static_order())
  assert order.index('rlcw.models.decoder') < order.index('rlcw.tasks.grpo.run')


def test_every_task_has_a_run() -> None:
  assert {'grpo', 'sft', 'plan'} <= set(main.TASKS)
  for name in main.TASKS.values():
    assert callable(importlib.import_module(name).run)


@pytest.mark.parametrize(
  'text',
  [
    'import rlcw.sampling.llm',
    'from rlcw import losses, sampling',
    'from rlcw.sampling.llm import ask',
    'from .. import sampling',
    'from ..sampling.llm import ask as f',
    'def f():\n  from rlcw.sampling.llm import ask',
  ],
)
def test_an_import_that_climbs_is_found(
  text: str, tmp_path: pathlib.Path
) -> None:
  files = {'losses': '', 'sampling/__init__': '', 'sampling/llm': ''}
  files |= {'models/__init__': '', 'models/layers': text}
  [found] = _violations(_edges(_tree(tmp_path, files)))
  assert found.startswith('rlcw.models.layers -> rlcw.sampling')


def test_an_import_along_a_row_is_found(tmp_path: pathlib.Path) -> None:
  files = {'models/hub': 'from rlcw.data import files', 'data/files': ''}
  files['data/batches'] = 'import rlcw.data.files'  # of its own package
  edges = _edges(_tree(tmp_path, files))
  assert _violations(edges) == ['rlcw.models.hub -> rlcw.data.files']


def test_an_import_of_another_task_is_found(tmp_path: pathlib.Path) -> None:
  files = {
    'tasks/grpo/run': 'from rlcw.tasks.grpo import step',
    'tasks/grpo/step': 'from rlcw.tasks import sft',
    'tasks/plan/run': 'from rlcw.tasks.grpo import step',
    'tasks/sft': '',
    'tasks/__init__': '',
  }
  edges = _edges(_tree(tmp_path, files))
  assert _violations(edges) == ['rlcw.tasks.grpo.step -> rlcw.tasks.sft']


def test_a_cycle_is_found(tmp_path: pathlib.Path) -> None:
  files = {'losses': 'import rlcw.train', 'train': 'from . import losses'}
  edges = _edges(_tree(tmp_path, files))
  with pytest.raises(graphlib.CycleError):
    graphlib.TopologicalSorter(edges).prepare()


def test_nothing_is_left_to_do() -> None:
  marker = re.compile('TO[D]O|FIX[M]E')
  files = [p for top in ('rlcw', 'tests') for p in ROOT.glob(f'{top}/**/*.py')]
  assert pathlib.Path(__file__) in files
  found = [
    f'{path.relative_to(ROOT)}:{number}: {line.strip()}'
    for path in files
    for number, line in enumerate(
      path.read_text(encoding='utf-8').splitlines(), 1
    )
    if marker.search(line)
  ]
  assert found == []


def test_patterns_of_extract_are_compiled_when_they_are_needed() -> None:
  """They take half a second, of every command."""
  check = (
    'import sys, rlcw.rewards.briefs; '
    "sys.exit('rlcw.rewards.extract.english' in sys.modules)"
  )
  subprocess.run([sys.executable, '-c', check], cwd=ROOT, check=True)
