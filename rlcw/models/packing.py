"""Packed rows: how a batch of groups is laid out for compute.

The arrays of a batch are `[P, G, T]`, padded to the longest reply that may be.
For a forward pass the real tokens of several groups are put end to end into a
row, each group's brief first and once:

  brief 1 | reply 1.1 | reply 1.2 | … | brief 2 | reply 2.1 | … | padding

Products with weights, which are nearly all of the work, run on these rows.
Attention, which is not, spreads queries, keys and values out to `[P, G, T]` and
back (`attend`), so that it has the masks, windows and kernels of padded arrays.

  1. `widths`, `partition`   on the host: which groups share a row, and how wide
                             the row is.  Each width is compiled once.
  2. `lay_out`               in the program: where each token of a row is from
  3. `Layout.rows`, `.slots` move arrays into rows and back; each is the other's
                             transpose, so both directions of the gradient are
                             gathers

Letters: P groups of a brief and G replies, L prompt tokens, T reply tokens;
S rows (one for each shard of the mesh), N tokens of a row, M slots: the padded
places of a row's groups, first those of the briefs, then those of the replies;
K texts of a row.  Heads as in `attention`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rlcw.models import attention
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.runtime.mesh import ambient_shards

# Ratio of one width to the next larger one: on average a tenth of a row is
# padding, and a run needs three to five widths.
_RATIO = 0.8
_LEAST = 1 / 12  # the least width, as a share of the greatest


# --- On the host ------------------------------------------------------------


def widths(groups: int, prompt: int, replies: int, reply: int) -> list[int]:
  """Widths that rows may have, in tokens, in increasing order.

  Args:
    groups: number of groups in a row.
    prompt: L, tokens of the longest brief.
    replies: G.
    reply: T, tokens of the longest reply.

  Returns:
    At most 12 of them.  The last holds any groups.
  """
  greatest = groups * (prompt + replies * reply)
  # Multiples fill the tiles of matrix units and split over devices.
  multiple = 128 if greatest >= 4096 else 8
  count = math.floor(math.log(_LEAST, _RATIO)) + 1
  sizes = (math.ceil(greatest * _RATIO**n / multiple) for n in range(count))
  return sorted({multiple * size for size in sizes})


class Partition(NamedTuple):
  """The parts that a batch is computed in, one after another."""

  order_P: np.ndarray  # the groups in the order of parts, rows and places
  # Of the rows of each part that has live groups; such parts come first.
  width: list[int]
  parts: int  # of all groups
  rows: int  # S, of a part
  tokens: int  # of all live groups

  @property
  def computed(self) -> int:
    """Tokens of all rows of the parts that have live groups."""
    return self.rows * sum(self.width)

  @property
  def padding(self) -> float:
    """Share of the computed tokens that are padding."""
    return 1 - self.tokens / self.computed

  def split(self, arrays: Any, sharding: Any) -> list['Part']:
    """Returns the parts of a tree of arrays `[P, …]` that have live groups.

    Args:
      arrays: a tree.
      sharding: of the leading axis of every array of a part.
    """
    split = _split(self.parts, sharding)(arrays, self.order_P)
    # Not strict: the other parts are left out.
    return [Part(*each) for each in zip(split, self.width, strict=False)]

  def join(self, parts: Sequence[Any], sharding: Any) -> Any:
    """Undoes `split`: joins the arrays of all parts, in the batch's order."""
    return _join(sharding)([*parts], np.argsort(self.order_P))


# Made once for each number of parts, so that each is compiled once.
@functools.cache
def _split(parts: int, sharding: Any) -> Callable[..., list[Any]]:
  def split(arrays: Any, order_P: jax.Array) -> list[Any]:
    stacked = jax.tree.map(
      lambda a: a[order_P].reshape(parts, -1, *a.shape[1:]), arrays
    )
    return [jax.tree.map(lambda a, n=n: a[n], stacked) for n in range(parts)]

  return jax.jit(split, out_shardings=sharding)


@functools.cache
def _join(sharding: Any) -> Callable[..., Any]:
  def join(parts: list[Any], back_P: jax.Array) -> Any:
    return jax.tree.map(lambda *a: jnp.concatenate(a)[back_P], *parts)

  return jax.jit(join, out_shardings=sharding)


def partition(
  length_P: np.ndarray,
  count_PxG: np.ndarray,
  prompt: int,
  reply: int,
  *,
  part: int = 0,
  shards: int | None = None,
  live_P: np.ndarray | None = None,
) -> Partition:
  """Distributes groups over rows such that these are equally full.

  Args:
    length_P: tokens of each group's brief.
    count_PxG: tokens of each reply.
    prompt: L, to which briefs are padded.
    reply: T, to which replies are padded.
    part: number of groups in a part; all where that does not divide.
    shards: of the mesh that runs the program; None for the ambient one.
    live_P: false for groups that need not be computed; None for all.

  Returns:
    The partition.  At least one part is computed.
  """
  P, G = count_PxG.shape
  rows = _rows(P, ambient_shards() if shards is None else shards)
  live_P = np.ones(P, bool) if live_P is None else live_P
  part = P if not part or P % part or part % rows else part
  places = part // rows
  total_P = np.where(live_P, length_P + count_PxG.sum(1), 0)
  parts = max(-(-int(live_P.sum()) // part), 1)
  # Greedily, the largest group into the row that is least full: the longest
  # processing time first (Graham, 1969).
  by_size = np.argsort(-total_P, kind='stable')
  first, rest = by_size[: parts * part], by_size[parts * part :]
  groups: list[list[int]] = [[] for _ in range(parts * rows)]
  full = np.zeros(len(groups), int)
  for group in first.tolist():
    open_rows = [n for n, row in enumerate(groups) if len(row) < places]
    row = min(open_rows, key=full.__getitem__)
    groups[row].append(group)
    full[row] += total_P[group]
  # Rows of one part have one width, so rows that are alike come together.
  by_width = np.argsort(-full, kind='stable')
  longest = full[by_width].reshape(parts, rows).max(1)
  order_P = np.array([g for row in by_width for g in groups[row]] + [*rest])
  sizes = widths(places, prompt, G, reply)
  return Partition(
    order_P,
    [next(size for size in sizes if size >= each) for each in longest],
    P // part,
    rows,
    int(total_P.sum()),
  )


def _rows(groups: int, shards: int) -> int:
  """Number of rows S: one for each shard, if they split the groups."""
  return 1 if groups % shards else shards


# --- In the program ---------------------------------------------------------


class Groups(NamedTuple):
  """Briefs and replies, padded on the right."""

  prompt: jax.Array | np.ndarray  # [P, L] ids
  length: jax.Array | np.ndarray  # [P], 0 for a group that is left out
  token: jax.Array | np.ndarray  # [P, G, T] ids
  count: jax.Array | np.ndarray  # [P, G] tokens of each reply


@struct.dataclass
class Part:
  """A part of a batch, as a loss reads it in packed rows."""

  arrays: Any  # a tree of arrays, [P, …] for the part's P groups
  # Of its rows (`groups.forward_groups`): a shape, hence static.
  width: int = struct.field(pytree_node=False, default=0)


@struct.dataclass
class Layout:
  """Places of the same tokens in rows and in padded arrays."""

  row: jax.Array  # [S, M]: the place in its row of each slot; N if it has none
  slot: jax.Array  # [S, N]: the slot of each place; M if it has none
  position: jax.Array  # [S, N]: in the text, from the brief's first token on
  previous: jax.Array  # [S, N]: the place of the token before, in the text
  length: jax.Array  # [P] of the briefs
  # g groups of a row and L; G and T.  They are shapes, hence static.
  briefs: tuple[int, int] = struct.field(pytree_node=False)
  replies: tuple[int, int] = struct.field(pytree_node=False)

  def rows(self, x_SxM: jax.Array) -> jax.Array:
    """Moves slots `[S, M, …]` into rows `[S, N, …]`, with 0 at padding."""
    return _take(x_SxM, self.slot, self.row)

  def slots(self, x_SxN: jax.Array) -> jax.Array:
    """Moves rows `[S, N, …]` into slots `[S, M, …]`, with 0 at padding."""
    return _take(x_SxN, self.row, self.slot)

  def join(self, brief: Any, reply: Any) -> jax.Array:
    """Slots `[S, M, …]` of arrays `[P, L, …]` and `[P, G, T, …]`."""
    S, rest = len(self.slot), reply.shape[3:]
    return jnp.concatenate(
      [x.reshape(S, -1, *rest) for x in (brief, reply)], axis=1
    )

  def split(self, x_SxM: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Undoes `join`: arrays `[S, g, L, …]` and `[P, G, T, …]`."""
    S, (g, L), (G, T) = len(x_SxM), self.briefs, self.replies
    brief, reply = jnp.split(x_SxM, [g * L], axis=1)
    rest = x_SxM.shape[2:]
    return brief.reshape(S, g, L, *rest), reply.reshape(S * g, G, T, *rest)

  def of_replies(self, x_SxN: jax.Array) -> jax.Array:
    """Moves the replies' part of rows `[S, N, …]` to `[P, G, T, …]`."""
    return self.split(self.slots(x_SxN))[1]


@jax.custom_vjp
def _take(x_SxA: jax.Array, at_SxB: jax.Array, back_SxA: jax.Array):
  """Gathers `x[s, at[s, b]]`, 0 where out of range; `back` is the inverse.

  A gather's transpose is a scatter, which is slow on most devices.  Here every
  element is taken at most once, so the transpose is a gather by the inverse.
  """
  del back_SxA
  take = functools.partial(jnp.take, axis=0, mode='fill', fill_value=0)
  return jax.vmap(take)(x_SxA, at_SxB)


def _take_forward(x_SxA: jax.Array, at_SxB: jax.Array, back_SxA: jax.Array):
  return _take(x_SxA, at_SxB, back_SxA), (at_SxB, back_SxA)


def _take_backward(inverse: Any, cotangent_SxB: jax.Array):
  at_SxB, back_SxA = inverse
  return _take(cotangent_SxB, back_SxA, at_SxB), None, None


_take.defvjp(_take_forward, _take_backward)


def lay_out(groups: Groups, width: int) -> Layout:
  """Lays groups out in rows of `width` tokens, one row for each shard.

  The groups of a row must not have more tokens than that: `partition`.  Width 0
  has room for all padded places.
  """
  (P, L), (_, G, T) = groups.prompt.shape, groups.token.shape
  S = _rows(P, ambient_shards())
  g = P // S
  width = width or g * (L + G * T)
  # A text is a brief or a reply: 1 + G for each group.
  length_P = jnp.asarray(groups.length, jnp.int32)
  count_Px1pG = jnp.concatenate(
    [length_P[:, None], jnp.asarray(groups.count, jnp.int32)], axis=1
  )
  text_SxK = count_Px1pG.reshape(S, -1)
  end_SxK = jnp.cumsum(text_SxK, axis=1)
  start_SxK = end_SxK - text_SxK
  start_Sxgx1pG = start_SxK.reshape(S, g, 1 + G)
  count_Sxgx1pG = text_SxK.reshape(S, g, 1 + G)

  def places(start: jax.Array, count: jax.Array, size: int) -> jax.Array:
    index = jnp.arange(size)
    inside = index < count[..., None]
    at = jnp.where(inside, start[..., None] + index, width)
    return at.reshape(S, -1)

  row_SxM = jnp.concatenate(
    [
      places(start_Sxgx1pG[..., 0], count_Sxgx1pG[..., 0], L),
      places(start_Sxgx1pG[..., 1:], count_Sxgx1pG[..., 1:], T),
    ],
    axis=1,
  )
  M = row_SxM.shape[1]
  # The text of a place is the number of texts that end at or before it.
  place_N = jnp.arange(width)
  text_SxN = (end_SxK[:, None] <= place_N[:, None]).sum(-1)
  real_SxN = text_SxN < text_SxK.shape[1]
  text_SxN = jnp.minimum(text_SxN, text_SxK.shape[1] - 1)

  def of_text(value_SxK: jax.Array) -> jax.Array:
    return jnp.take_along_axis(value_SxK, text_SxN, axis=1)

  offset_SxN = place_N - of_text(start_SxK)
  group_SxN, reply_SxN = jnp.divmod(text_SxN, 1 + G)
  is_brief_SxN = reply_SxN == 0
  slot_SxN = jnp.where(
    is_brief_SxN,
    group_SxN * L + offset_SxN,
    g * L + (group_SxN * G + reply_SxN - 1) * T + offset_SxN,
  )
  length_Sxg = length_P.reshape(S, g)
  before_SxN = jnp.take_along_axis(length_Sxg, group_SxN, axis=1)
  before_SxN = jnp.where(is_brief_SxN, 0, before_SxN)
  # The token before a reply's first one is its brief's last one.
  last_SxN = jnp.take_along_axis(end_SxK, group_SxN * (1 + G), axis=1) - 1
  first_SxN = (offset_SxN == 0) & ~is_brief_SxN
  previous_SxN = jnp.where(first_SxN, last_SxN, place_N - 1)
  return Layout(
    row_SxM,
    jnp.where(real_SxN, slot_SxN, M),
    before_SxN + offset_SxN,
    jnp.clip(previous_SxN, 0, width - 1),
    length_P,
    (g, L),
    (G, T),
  )


def attend(
  q_Sx1xNxKxRxH: jax.Array,
  own: KV,
  layout: Layout,
  preface: Prefix | None = None,
  *,
  window: int | None = None,
  cap: float | None = None,
  implementation: str = 'auto',
) -> jax.Array:
  """`attention.attend` of packed rows: briefs, then replies on their briefs.

  Args:
    q_Sx1xNxKxRxH: queries.
    own: keys and values `[S, 1, N, K, H]`.
    layout: of the rows.
    preface: a prefix of every brief of a row, if any.
    window: as there.
    cap: as there.
    implementation: as there.

  Returns:
    `[S, 1, N, K, R, H]`, 0 at padding.
  """
  options: Any = {
    'window': window,
    'cap': cap,
    'implementation': implementation,
  }
  (q_brief, q), (k_brief, k), (v_brief, v) = (
    layout.split(layout.slots(x[:, 0])) for x in (q_Sx1xNxKxRxH, *own)
  )
  # To attention, the g briefs of a row are like the replies to a preface.
  brief = attention.attend(q_brief, KV(k_brief, v_brief), preface, **options)
  prefix = KV(*(x.reshape(-1, *x.shape[2:]) for x in (k_brief, v_brief)))
  length_P = layout.length
  if preface is not None:
    prefix = jax.tree.map(
      lambda before, kv: jnp.concatenate(
        [jnp.repeat(before, layout.briefs[0], axis=0), kv], axis=1
      ),
      preface.kv,
      prefix,
    )
    length_P += preface.length_P[0]
  reply = attention.attend(q, KV(k, v), Prefix(prefix, length_P), **options)
  return layout.rows(layout.join(brief, reply))[:, None]
