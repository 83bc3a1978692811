"""Moves weights, keys and rows into the arrays of the next decode program.

Each program here takes one array, or those of one layer: with all at once, all
would be in memory twice.

Shape letters as in `decoding`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rlcw.models import stacks
from rlcw.models.attention_kernels import KV
from rlcw.models.decoder import Params, as_dtype
from rlcw.runtime.mesh import placed_shape
from rlcw.sampling import tiles
from rlcw.sampling.decoding import Rollout, Rows, Setup


@functools.partial(jax.jit, static_argnames='dtype')
def _layers_of(stacked: jax.Array, dtype: Any) -> list[jax.Array]:
  return [layer.astype(dtype) for layer in stacked]


def split_blocks(
  blocks: Params, dtype: str, spent: Sequence[jax.Array] = ()
) -> list[Params]:
  """Splits weights that are stacked over layers, for `decode`.

  Array by array, so that little is in memory twice if they are `spent`.

  Args:
    blocks: stacked weights.
    dtype: as in `as_dtype`.
    spent: those of `blocks` that are deleted once they are split.
  """
  gone = {*map(id, spent)}

  def layers_of(stack: Params) -> list[Params]:
    leaves, treedef = jax.tree.flatten(stack)
    cast = jax.eval_shape(functools.partial(as_dtype, dtype=dtype), stack)
    layers = []
    for leaf, like in zip(leaves, jax.tree.leaves(cast), strict=True):
      layers.append(_layers_of(leaf, like.dtype))
      if id(leaf) in gone:
        leaf.delete()
    return [treedef.unflatten(each) for each in zip(*layers, strict=True)]

  return stacks.split(blocks, layers_of)


@functools.cache
def _stack_on(sharding: Any) -> Callable[..., jax.Array]:
  return jax.jit(jnp.stack, out_shardings=sharding)


class Weights:
  """Weights that batch after batch is sampled from, in memory once.

  `start` reads blocks that are stacked over layers and `decode` reads them one
  by one, which together would be two copies.  So they are moved from one form
  to the other, array by array.

  Args:
    params: of a model, in the dtype of its rollout.  Nobody else may read them
      afterwards.
    dtype: of the rollout.
  """

  def __init__(self, params: Params, dtype: str):
    self._params, self._dtype = params, dtype
    self._stacked = jax.tree.map(
      lambda x: placed_shape(x, x.sharding), params['blocks']
    )
    self._layers: list[Params] = []

  def stacked(self) -> Params:
    """Returns the parameters for `start`, which ends those of `layers`."""
    if self._layers:

      def stacked(like: Any, *layers: jax.Array) -> jax.Array:
        whole = _stack_on(like.sharding)(layers)
        for layer in layers:
          layer.delete()
        return whole

      blocks = stacks.transform(
        lambda numbers, like: jax.tree.map(
          stacked, like, *(self._layers[n] for n in numbers)
        ),
        self._stacked,
      )
      self._layers = []
      self._params = self._params | {'blocks': blocks}
    return self._params

  def layers(self) -> list[Params]:
    """Returns the blocks for `decode`, which ends those that are stacked."""
    if not self._layers:
      blocks = self._params['blocks']
      spent = jax.tree.leaves(blocks)
      self._layers = split_blocks(blocks, self._dtype, spent)
    return self._layers


@functools.partial(jax.jit, static_argnames=('setup', 'size'))
def grow_cache(kv: KV, *, setup: Setup, size: int) -> KV:
  """Pads one layer's keys and values to a cache of `size` tokens."""
  k_PxGxKxHxS, v_PxGxKxSxH = setup.turned(kv)
  more = size - v_PxGxKxSxH.shape[-2]
  grown = KV(
    jnp.pad(k_PxGxKxHxS, [(0, 0)] * 4 + [(0, more)]),
    jnp.pad(v_PxGxKxSxH, [(0, 0)] * 3 + [(0, more), (0, 0)]),
  )
  return tiles.split_over_mesh(setup.turned(grown), 2)


@functools.partial(jax.jit, static_argnames=('setup', 'count'))
def gather_rows(
  rows: Rows, *, setup: Setup, count: int
) -> tuple[Rows, jax.Array]:
  """Gathers live rows into `count` tiles a shard; also returns their slots."""
  tiling, width = setup.tiling, rows.last.shape[1]

  def gather(rows: Rows) -> tuple[Rows, jax.Array]:
    live = ~rows.rollout.finished
    slot = tiles.slots(tiling, count, rows.origin, live)
    empty = slot == live.size
    length = tiles.take_tiles(rows.length, slot, width)
    rows = jax.tree.map(
      lambda x: tiles.take_rows(x, slot), rows.replace(length=None)
    )
    finished = rows.rollout.finished | empty
    return rows.replace(
      rollout=rows.rollout.replace(finished=finished),
      origin=jnp.where(empty, tiling.rows, rows.origin),
      length=length,
    ), slot

  return tiles.on_shards(gather, rows)


@jax.jit
def gather_layer(brief: KV, cache: KV, slot_PxG: jax.Array) -> tuple[KV, KV]:
  """Gathers one layer's keys of briefs and of rows, by `gather_rows`."""
  width = cache.k.shape[1]

  def gather(brief: KV, cache: KV, slot: jax.Array) -> tuple[KV, KV]:
    return (
      KV(*(tiles.take_tiles(x, slot, width) for x in brief)),
      KV(*(tiles.take_rows(x, slot) for x in cache)),
    )

  brief, cache = tiles.on_shards(gather, brief, cache, slot_PxG)
  return tiles.split_over_mesh(brief, 1), tiles.split_over_mesh(cache, 2)


@jax.jit
def put_back(whole: Rollout, rows: Rows) -> Rollout:
  """Writes rows to their places in a rollout `[P, G, T]`."""

  def put(whole: Rollout, rows: Rollout, origin: jax.Array) -> Rollout:
    return jax.tree.map(
      lambda to, x: tiles.put_rows(to, x, origin), whole, rows
    )

  return tiles.on_shards(put, whole, rows.rollout, rows.origin)
