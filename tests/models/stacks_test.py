"""Layers of different shapes, arranged in stacks."""

from typing import Any

import jax
import numpy as np
import pytest

from rlcw.models import stacks
from rlcw.models.config import ModelConfig
from rlcw.models.stacks import Run


def config(kinds: str, shared: int = 0) -> ModelConfig:
  """Of a layer for each letter: `l` local, `g` global."""
  local = tuple(kind == 'l' for kind in kinds)
  return ModelConfig(
    *(50, 16, 24, len(kinds), 4, 2, 8),
    window=4,
    local_layers=local,
    global_head_dim=16,
    global_kv_heads=1,
    shared_layers=shared,
    shared_mlp_dim=48,
  )


@pytest.mark.parametrize(
  ('kinds', 'shared', 'expected'),
  [
    ('lllllg' * 10, 0, [Run(0, 6, 10)]),
    ('llllg' * 7, 20, [Run(0, 5, 3), Run(15, 5, 4)]),
    ('gggg', 0, [Run(0, 1, 4)]),
    ('lglglgg', 0, [Run(0, 7, 1)]),
    ('llg' + 'll', 2, [Run(0, 3, 1), Run(3, 1, 2)]),
  ],
)
def test_a_run_has_the_shortest_pattern_that_it_repeats(
  kinds: str, shared: int, expected: list[Run]
) -> None:
  c = config(kinds, shared)
  assert stacks.runs(c) == expected
  found = [n for layers in stacks.stacks(c).values() for n in layers]
  assert sorted(found) == [*range(len(kinds))]


def test_a_layer_reads_the_last_own_keys_of_its_kind() -> None:
  c = config('lglg' + 'lggl', 4)
  assert [c.kv_layer(n) for n in range(8)] == [0, 1, 2, 3, 2, 3, 3, 2]


def test_the_configuration_of_a_layer_has_its_shapes() -> None:
  layer = config('lgl', 1).layer
  assert [layer(n).head_dim for n in range(3)] == [8, 16, 8]
  assert [layer(n).num_kv_heads for n in range(3)] == [2, 1, 2]
  assert [layer(n).mlp_dim for n in range(3)] == [24, 24, 48]
  assert [layer(n).window for n in range(3)] == [4, None, 4]


@pytest.mark.parametrize('kinds', ['lgllgl', 'lglglg', 'gggggg'])
def test_joining_undoes_splitting(kinds: str) -> None:
  layers = [{'w': np.full(2, n), 'b': np.array([n])} for n in range(6)]
  tree = stacks.join(config(kinds), layers)
  jax.tree.map(np.testing.assert_array_equal, stacks.split(tree), layers)


def test_layers_that_are_alike_are_one_stack() -> None:
  c = ModelConfig(50, 16, 24, 3, 4, 2, 8)
  assert stacks.stacks(c) == {'blocks/': range(3)}
  tree: Any = {'query': {'kernel': np.arange(3)}}
  expected = [{'query': {'kernel': n}} for n in range(3)]
  assert stacks.split(tree) == expected
