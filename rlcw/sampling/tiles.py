"""Tiles of replies, and gathering the live ones into fewer tiles.

A tile is some replies to one brief that read one copy of its keys.  Decoding
starts with a tile per brief, its whole group.  When enough replies have ended,
the others are gathered into narrower tiles, in the largest number of rows that
leaves few of them idle.  The numbers are fixed, as each is a shape to compile.

On a mesh, rows stay on their shard: tiles are numbered, and rows counted,
within a shard, and every shard has as many tiles as the fullest one needs.

Shape letters: P briefs of L tokens, G replies of T tokens to each, S shards,
N tiles, C rows of a tile, R = N · C rows, B briefs of a shard.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from rlcw.runtime.mesh import GROUPS, ambient_shards, group_shards

# Sizes of the smaller batches, in parts of all rows.
PARTS = Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)
# A shard decodes fewer rows no faster: reading the weights takes the time.
MIN_ROWS = 8
# Keys in memory, in parts of those of all rows: with long briefs and short
# replies, the copies of briefs would take more than the ended replies leave.
MOST_KEYS = Fraction(5, 4)


class Tiling(NamedTuple):
  """Tiles of a rollout; hashable, for `jit`."""

  shards: int  # of the briefs
  briefs: int  # of a shard
  group: int  # replies to a brief
  width: int  # of a tile, after the first gathering
  sizes: tuple[int, ...]  # tiles of a shard after each gathering

  @property
  def rows(self) -> int:
    """Replies of a shard."""
    return self.briefs * self.group


def tiling(
  prompts: int, group: int, length: int, budget: int, *, gather: bool
) -> Tiling:
  """Tiles for P briefs of L tokens, with G replies of T, on the ambient mesh.

  Without `gather`, or where briefs do not split over the mesh, all rows are
  decoded to the end.
  """
  shards = ambient_shards()
  if prompts % shards:
    shards, gather = 1, False
  # Narrow tiles leave few rows idle, but each has its own copy of a brief.
  most = max(group // 4, 1)
  width = max(n for n in range(1, most + 1) if group % n == 0)
  briefs = prompts // shards
  limit = MOST_KEYS * briefs * (length + group * budget)
  sizes = tuple(
    count
    for count in (int(part * briefs * group) // width for part in PARTS)
    if gather
    and count * width >= MIN_ROWS
    and count * (length + width * budget) <= limit
  )
  return Tiling(shards, briefs, group, width, sizes)


def origins(tiles: Tiling) -> jax.Array:
  """Number `[P, G]` of each reply in its shard."""
  shape = tiles.shards, tiles.rows
  number = jnp.broadcast_to(jnp.arange(tiles.rows, dtype=jnp.int32), shape)
  return number.reshape(-1, tiles.group)


def needed(
  tiles: Tiling, origin_NxC: jax.Array, live_NxC: jax.Array
) -> jax.Array:
  """Tiles per shard, a scalar, that the live rows of the fullest shard need.

  Args:
    tiles: of the rollout.
    origin_NxC: number of each row's reply in its shard (`origins`).
    live_NxC: false at rows that are empty or whose replies have ended.
  """
  rows = tiles.shards, -1, 1
  brief_SxRx1 = origin_NxC.reshape(rows) // tiles.group
  own_SxRxB = (brief_SxRx1 == jnp.arange(tiles.briefs)) & live_NxC.reshape(rows)
  return jnp.max(_per_brief(tiles, own_SxRxB.sum(1)).sum(-1))


def _per_brief(tiles: Tiling, replies: jax.Array) -> jax.Array:
  return -(-replies // tiles.width)


def slots(
  tiles: Tiling, count: int, origin_NxC: jax.Array, live_NxC: jax.Array
) -> jax.Array:
  """Assigns the live rows of one shard to `count` tiles.

  Args:
    tiles: of the rollout.
    count: at least as many as the shard needs (`needed`).
    origin_NxC: number of each row's reply (`origins`).
    live_NxC: false at rows that are empty or whose replies have ended.

  Returns:
    The row that each new one is taken from, `[count, width]`, or N · C if it
    stays empty.  Live rows of a brief follow one another.
  """
  live_R, brief_R = live_NxC.reshape(-1), origin_NxC.reshape(-1) // tiles.group
  own_RxB = live_R[:, None] & (brief_R[:, None] == jnp.arange(tiles.briefs))
  # Rank of a live row among those of its brief.
  rank_R = (own_RxB * own_RxB.cumsum(0)).sum(1) - 1
  tiles_B = _per_brief(tiles, own_RxB.sum(0))
  first_B = tiles_B.cumsum() - tiles_B
  place_R = own_RxB @ first_B * tiles.width + rank_R
  size = count * tiles.width
  slot = jnp.full(size, len(live_R), jnp.int32)
  slot = slot.at[jnp.where(live_R, place_R, size)].set(
    jnp.arange(len(live_R), dtype=jnp.int32), mode='drop'
  )
  return slot.reshape(count, tiles.width)


def _flat(array_NxC: jax.Array) -> jax.Array:
  """Joins the first two axes; the others may be empty, as a new cache is."""
  count = array_NxC.shape[0] * array_NxC.shape[1]
  return array_NxC.reshape(count, *array_NxC.shape[2:])


def take_rows(array_NxC: jax.Array, slot_NxC: jax.Array) -> jax.Array:
  """Takes rows `[N, C, ...]` of one shard by `slots`; any row if empty."""
  flat = _flat(array_NxC)
  return flat[jnp.minimum(slot_NxC, len(flat) - 1)]


def take_tiles(array_N: jax.Array, slot_NxC: jax.Array, width: int):
  """Takes what the rows of a tile share, `[N, ...]`, of one shard.

  Args:
    array_N: of the tiles that rows are taken from.
    slot_NxC: of `slots`; the rows of a tile are of one brief.
    width: rows of each old tile.
  """
  return array_N[jnp.minimum(slot_NxC[:, 0] // width, len(array_N) - 1)]


def put_rows(
  whole_PxG: jax.Array, rows_NxC: jax.Array, origin_NxC: jax.Array
) -> jax.Array:
  """Writes rows `[N, C, ...]` of one shard to their places in `[P, G, ...]`."""
  flat, rows = _flat(whole_PxG), _flat(rows_NxC)
  # The origin of an empty row is past the end.
  return (
    flat.at[origin_NxC.reshape(-1)]
    .set(rows, mode='drop')
    .reshape(whole_PxG.shape)
  )


def on_shards(function: Callable[..., Any], *arrays: Any) -> Any:
  """Calls a function of each shard's part of arrays, split by their axis 0."""
  if ambient_shards() == 1:
    return function(*arrays)
  # XLA would gather rows over the whole mesh.  The axis 'tensor' is left to it:
  # the function does not touch the axis of heads.
  split = PartitionSpec(GROUPS)
  return jax.shard_map(
    function, in_specs=split, out_specs=split, axis_names={*GROUPS}
  )(*arrays)


def spec(
  mesh: Mesh | AbstractMesh, shape: Sequence[int], heads: int | None = None
) -> PartitionSpec:
  """Mesh axes that an array of P prompts is split over.

  Args:
    mesh: of the run.
    shape: of the array; P is its first axis.
    heads: axis of key/value heads, if any.
  """
  axes: list[Any] = [None] * len(shape)
  if shape[0] % group_shards(mesh) == 0:
    axes[0] = GROUPS
  if heads is not None and shape[heads] % mesh.shape['tensor'] == 0:
    axes[heads] = 'tensor'
  return PartitionSpec(*axes)


def split_over_mesh(arrays: Any, heads: int | None = None) -> Any:
  """Splits arrays over the ambient mesh, if there is one, by `spec`.

  Arrays whose prompts do not divide are left to XLA.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return arrays

  def split(x: jax.Array) -> jax.Array:
    if x.shape[0] % group_shards(mesh):
      return x
    return lax.with_sharding_constraint(x, spec(mesh, x.shape, heads))

  return jax.tree.map(split, arrays)
