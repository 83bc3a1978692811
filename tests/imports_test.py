"""Imports go to a lower layer, and what is left to do stands elsewhere."""

import ast
import graphlib
import importlib
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# The modules of each layer, as the design has them; some are yet to come.
LAYERS = {
  6: 'main',
  5: 'sft reward_model grpo curate adversary evaluate generate export score '
  'judge report verify plan briefs compare',
  4: 'learner programs scoring preferences debate players',
  3: 'answers train llm strategy rewards rewards.writing rewards.local_judge '
  'rewards.remote_judge',
  2: 'policy annotate labelled rewards.judges compare_page',
  1: 'sampling weights checkpoint data',
  0: 'rewards.constraints rewards.rules rewards.checks rewards.ifeval '
  'rewards.languages rewards.units rewards.verse rewards.manners '
  'rewards.wordings rewards.english rewards.chinese rewards.compose '
  'rewards.recipes '
  'rewards.mixing attention attention_decode attention_kernels axes layers '
  'model model_config lora losses sharding sources tokenizer hub builders '
  'metrics records plots datasets prompts cache endpoint agreement retrieval '
  'grammar hlo roofline processes slices tables diversity winrate page arms '
  'arm_plots monitors',
}
LAYER = {f'rlcw.{m}': n for n, ms in LAYERS.items() for m in ms.split()}
LAYER['rlcw'] = 0

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


def _climbs(edges: Edges) -> list[str]:
  """Imports that do not go to a lower layer, nor stay in the lowest."""
  return [
    f'{module} ({LAYER[module]}) -> {name} ({LAYER[name]})'
    for module, names in edges.items()
    for name in sorted(names)
    if not (LAYER[name] < LAYER[module] or LAYER[name] == LAYER[module] == 0)
  ]


def _tree(tmp_path: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
  for name, text in {'__init__': '', **files}.items():
    path = tmp_path / 'rlcw' / f'{name}.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
  return tmp_path


def test_every_module_has_a_layer() -> None:
  edges = _edges(ROOT)
  assert {'rlcw', 'rlcw.model', 'rlcw.rewards.mixing'} <= set(edges)
  assert set(edges) - set(LAYER) == set()


def test_imports_go_down() -> None:
  edges = _edges(ROOT)
  assert 'rlcw.losses' in edges['rlcw.rewards.mixing']
  assert 'rlcw.model' in edges['rlcw.weights']
  assert _climbs(edges) == []


def test_no_import_cycle() -> None:
  order = list(graphlib.TopologicalSorter(_edges(ROOT)).static_order())
  assert order.index('rlcw.model') < order.index('rlcw.grpo')


def test_tasks_are_modules_of_layer_5_that_run() -> None:
  from rlcw import main

  for name in main.TASKS.values():
    assert LAYER[name] == 5
    assert callable(importlib.import_module(name).run)


@pytest.mark.parametrize(
  'text',
  [
    'import rlcw.train',
    'from rlcw import losses, train',
    'from rlcw.train import fit',
    'from . import train',
    'from .train import fit as f',
    'def f():\n  from rlcw.train import fit',
  ],
)
def test_an_import_that_climbs_is_found(
  text: str, tmp_path: pathlib.Path
) -> None:
  files = {'train': '', 'losses': '', 'sampling': text}
  assert _climbs(_edges(_tree(tmp_path, files))) == [
    'rlcw.sampling (1) -> rlcw.train (3)'
  ]


def test_an_import_along_a_layer_is_found(tmp_path: pathlib.Path) -> None:
  files = {'sampling': 'from rlcw import weights', 'weights': '', 'model': ''}
  files['losses'] = 'import rlcw.model'  # allowed in the lowest
  edges = _edges(_tree(tmp_path, files))
  assert _climbs(edges) == ['rlcw.sampling (1) -> rlcw.weights (1)']


def test_a_cycle_is_found(tmp_path: pathlib.Path) -> None:
  files = {'losses': 'import rlcw.model', 'model': 'from . import losses'}
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
