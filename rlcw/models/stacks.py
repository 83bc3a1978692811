"""Stacks: which layers of a model are in one array of its parameters.

Layers that are all alike are one stack, whose arrays have a leading axis of
layers; a scan runs over it.  Where layers differ in shape (Gemma 4), they are
arranged in runs.  A run is a pattern of layers that is repeated: one step of
its scan runs the layers of the pattern one after another, and the layers at one
place of the pattern are a stack.  In trees, a stack is under the number of its
run's first layer and its place in the pattern:

  blocks / query / kernel            all layers, where they are alike
  blocks / 0 / 5 / query / kernel    layers 5, 11, 17, … of a pattern of six
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlcw.models.config import ModelConfig

Stack = Any  # a tree of arrays with a leading axis of layers


class Run(NamedTuple):
  """A pattern of layers, repeated."""

  first: int  # number of its first layer
  period: int  # layers of the pattern
  repeats: int

  def stack(self, place: int) -> range:
    """Numbers of the layers at one place of the pattern."""
    first, end = self.first, self.first + self.period * self.repeats
    return range(first + place, end, self.period)


def runs(config: ModelConfig) -> list[Run]:
  """Runs of a model whose layers differ: of layers with own keys, then others.

  Each has the shortest pattern that it repeats.
  """
  ends = 0, config.num_layers - config.shared_layers, config.num_layers
  found = []
  for first, end in itertools.pairwise(ends):
    kinds = [config.is_local(n) for n in range(first, end)]
    size = len(kinds)
    periods = (
      period
      for period in range(1, size + 1)
      if size % period == 0 and kinds == kinds[:period] * (size // period)
    )
    if kinds:
      period = next(periods)
      found.append(Run(first, period, size // period))
  return found


def stacks(config: ModelConfig) -> dict[str, range]:
  """Layers of each stack, by the prefix of its parameters' paths."""
  if not config.mixed:
    return {'blocks/': range(config.num_layers)}
  return {
    f'blocks/{run.first}/{place}/': run.stack(place)
    for run in runs(config)
    for place in range(run.period)
  }


def transform(function: Callable[[range, Stack], Any], tree: Any) -> Any:
  """Applies a function of its layers' numbers and itself to every stack."""
  if not _is_arranged(tree):
    return function(range(_size(tree)), tree)
  return {
    first: {
      place: function(
        Run(int(first), len(pattern), _size(stack)).stack(int(place)), stack
      )
      for place, stack in pattern.items()
    }
    for first, pattern in tree.items()
  }


def _is_arranged(tree: Any) -> bool:
  return isinstance(tree, dict) and all(name.isdigit() for name in tree)


def _size(stack: Stack) -> int:
  return jax.tree.leaves(stack)[0].shape[0]


def split(
  tree: Any, layers_of: Callable[[Stack], Sequence[Any]] | None = None
) -> list[Any]:
  """Trees of single layers, in order, from a tree of stacks.

  Args:
    tree: of stacks.
    layers_of: splits one stack; `None` to index its arrays.
  """
  found: dict[int, Any] = {}

  def note(layers: range, stack: Stack) -> None:
    parts = layers_of and layers_of(stack)
    for i, layer in enumerate(layers):
      found[layer] = parts[i] if parts else layer_of(stack, i)

  transform(note, tree)
  return [found[layer] for layer in sorted(found)]


def layer_of(stack: Stack, index: int) -> Any:
  """Tree of one layer of a stack, which is not a layer's number."""
  return jax.tree.map(lambda a: a[index], stack)


def join(config: ModelConfig, layers: Sequence[Any]) -> Any:
  """Undoes `split`, for a model whose layers differ."""

  def stacked(run: Run, place: int) -> Stack:
    parts = [layers[n] for n in run.stack(place)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

  return {
    str(run.first): {
      str(place): stacked(run, place) for place in range(run.period)
    }
    for run in runs(config)
  }
