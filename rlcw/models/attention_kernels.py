"""What computes attention on each platform; `attention` chooses.

`plain` is the reference.  `splash` and `cudnn` compute the same for whole
passes, where every query is the last of the keys before it, without writing
scores to memory.

Letters as in `model`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads to each, H head; N the queries of a group, M its keys.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash_kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as splash_mask,
)
from jax.sharding import PartitionSpec

from rlcw.runtime.mesh import GROUPS, group_shards


class KV(NamedTuple):
  """Keys and values; stacked over layers they gain a leading axis."""

  k: jax.Array  # [P, S, K, H] of briefs, [P, G, S, K, H] of replies
  v: jax.Array


class Prefix(NamedTuple):
  """A brief that its replies attend to: keys and values, and its length."""

  kv: KV  # [P, S, K, H] of one layer, [layers, P, S, K, H] of all
  length_P: jax.Array


def masks(
  queries: int,
  keys: int,
  prefix: Prefix | None,
  segment_PxGxL: jax.Array | None,
  start: jax.Array | int,
  window: int | None,
) -> tuple[jax.Array, jax.Array | None]:
  """Which own keys `[P, G, L, S]` and of the brief's `[P, L, S]` are seen.

  An axis along which a mask would repeat itself has size 1: the first two
  where there are no segments, the brief's queries where there is no window.
  """
  query_Lx1 = start + jnp.arange(queries)[:, None]
  key_S = jnp.arange(keys)
  own_LxS = key_S <= query_Lx1
  if window is not None:
    own_LxS &= query_Lx1 - key_S < window
  own_PxGxLxS = own_LxS[None, None]
  if segment_PxGxL is not None:
    own_PxGxLxS &= segment_PxGxL[..., None] == segment_PxGxL[:, :, None]
  if prefix is None:
    return own_PxGxLxS, None
  key_S = jnp.arange(prefix.kv.k.shape[1])
  length_Px1x1 = prefix.length_P[:, None, None]
  brief_PxLxS = key_S < length_Px1x1
  if window is not None:
    brief_PxLxS &= length_Px1x1 + query_Lx1 - key_S < window
  return own_PxGxLxS, brief_PxLxS


def plain(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  start: jax.Array | int = 0,
  window: int | None = None,
) -> jax.Array:
  """`attention.attend` in XLA's own operations, for every platform.

  The two score matrices share one softmax without being joined: the brief's
  keys are read once per group, by a matrix product over G × L × R queries.
  """
  q = q_PxGxLxKxRxH
  own_PxGxLxS, brief_PxLxS = masks(
    q.shape[2], own.k.shape[2], prefix, segment_PxGxL, start, window
  )
  f32 = {'preferred_element_type': jnp.float32}
  own_scores = jnp.einsum('pglkrh,pgskh->pgklrs', q, own.k, **f32)
  mask = own_PxGxLxS[:, :, None, :, None, :]
  own_scores = jnp.where(mask, own_scores, -jnp.inf)
  top = own_scores.max(-1, keepdims=True)
  if prefix is None or brief_PxLxS is None:
    weight = jnp.exp(own_scores - lax.stop_gradient(top))
    total = weight.sum(-1)
    out = jnp.einsum('pgklrs,pgskh->pgklrh', weight.astype(q.dtype), own.v)
  else:
    brief = prefix.kv
    scores = jnp.einsum('pglkrh,pskh->pkglrs', q, brief.k, **f32)
    mask = brief_PxLxS[:, None, None, :, None, :]
    scores = jnp.where(mask, scores, -jnp.inf)
    most = jnp.swapaxes(scores.max(-1, keepdims=True), 1, 2)
    top = lax.stop_gradient(jnp.maximum(top, most))
    weight = jnp.exp(own_scores - top)
    shared = jnp.exp(scores - jnp.swapaxes(top, 1, 2))
    total = weight.sum(-1) + jnp.swapaxes(shared.sum(-1), 1, 2)
    out = jnp.einsum('pgklrs,pgskh->pgklrh', weight.astype(q.dtype), own.v)
    seen = jnp.einsum('pkglrs,pskh->pkglrh', shared.astype(q.dtype), brief.v)
    out += jnp.swapaxes(seen, 1, 2)
  return jnp.moveaxis((out / total[..., None]).astype(q.dtype), 2, 3)


# --- GPU --------------------------------------------------------------------


def compiles_for(platform: str) -> bool:
  """Whether what compiles for a `cuda` or `tpu` is installed.

  Without it cuDNN's calls cannot even be traced, and with it they are traced
  for nothing wherever something else is compiled for.
  """
  names = {
    'cuda': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
    'tpu': ('libtpu',),
  }[platform]
  return any(importlib.util.find_spec(name) for name in names)


def cudnn_takes(q_PxGxLxKxRxH: jax.Array) -> bool:
  """Whether cuDNN has a kernel for this dtype and head on every GPU."""
  head, dtype = q_PxGxLxKxRxH.shape[-1], q_PxGxLxKxRxH.dtype
  return dtype in (jnp.float16, jnp.bfloat16) and head <= 128 and head % 8 == 0


def cudnn(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  window: int | None = None,
  implementation: Any = 'cudnn',
) -> jax.Array:
  """`attention.attend` of a whole pass as one call per row.

  Segments are a mask like the brief's: one for all heads, scores are still
  not written.

  A brief's keys are repeated for every reply, its hidden states are not: two
  calls joined by their log-sum-exps would read one copy, but cuDNN has no
  gradient through a log-sum-exp.
  """
  P, G, L, K, R, H = q_PxGxLxKxRxH.shape
  odd = ((0, 0), (0, 0), (0, L % 2), (0, 0), (0, 0))  # cuDNN trains on even
  q, k, v = (
    jnp.pad(x, odd).reshape(P * G, L + L % 2, -1, H)
    for x in (q_PxGxLxKxRxH.reshape(P, G, L, K * R, H), *own)
  )
  attention = functools.partial(
    jax.nn.dot_product_attention, scale=1.0, implementation=implementation
  )
  if prefix is not None:
    S = prefix.kv.k.shape[1]
    brief = jax.tree.map(
      lambda x: jnp.pad(x, ((0, 0), (0, S % 2), (0, 0), (0, 0))), prefix.kv
    )
    padded = Prefix(brief, prefix.length_P)
    own_1x1xLxS, brief_PxLxS = masks(
      q.shape[1], q.shape[1], padded, None, 0, window
    )
    assert brief_PxLxS is not None
    each = (P, q.shape[1])
    mask = jnp.concatenate(
      [
        jnp.broadcast_to(brief_PxLxS, (*each, brief.k.shape[1])),
        jnp.broadcast_to(own_1x1xLxS[0], (*each, q.shape[1])),
      ],
      axis=-1,
    )
    k, v = (
      jnp.concatenate([jnp.repeat(a, G, axis=0), b], axis=1)
      for a, b in zip(brief, (k, v), strict=True)
    )
    out = attention(q, k, v, mask=jnp.repeat(mask, G, axis=0)[:, None])
  elif segment_PxGxL is not None:
    segment = jnp.pad(segment_PxGxL, odd[:3])
    mask, _ = masks(q.shape[1], q.shape[1], None, segment, 0, window)
    out = attention(q, k, v, mask=mask.reshape(P * G, 1, *mask.shape[2:]))
  else:
    back = None if window is None else (window - 1, 0)
    out = attention(q, k, v, is_causal=True, local_window_size=back)
  return out[:, :L].reshape(q_PxGxLxKxRxH.shape)


# --- TPU --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GroupMask(splash_mask.Mask):
  """Which keys `[M]` the queries `[N]` of a group see, found in the kernel.

  Keys are the brief's, right-aligned, and then the replies' own in the order of
  the queries.  So the distance from any query to any key that it may see is
  known before the brief's length is.
  """

  brief: int  # its keys, padding included
  reply: int
  queries: int  # those of all replies, and padding, as if of further replies
  window: int | None

  @property
  def shape(self) -> tuple[int, int]:
    return self.queries, self.brief + self.queries

  @property
  def place_bits(self) -> int:
    return self.reply.bit_length()

  @property
  def q_sequence(self) -> np.ndarray:
    """The number that a kernel knows each query by: its reply, its place."""
    index_N = np.arange(self.queries, dtype=np.int32)
    return (index_N // self.reply << self.place_bits) + index_N % self.reply

  @property
  def mask_function(self) -> 'GroupMask':
    return self

  def __call__(self, query: Any, key: Any) -> Any:
    """Whether queries see keys: arrays that broadcast, here or in a kernel."""
    place = query & ((1 << self.place_bits) - 1)
    own = key - (self.brief + (query >> self.place_bits) * self.reply)
    sees_brief, sees_own = key < self.brief, (own >= 0) & (own <= place)
    if self.window is not None:
      sees_brief = sees_brief & (self.brief + place - key < self.window)
      sees_own = sees_own & (place - own < self.window)
    return sees_brief | sees_own

  def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
    key_M = np.arange(self.shape[1], dtype=np.int32)
    rows, columns = index
    return self(self.q_sequence[rows, None], key_M[None, columns])


def _blocks(length: int) -> tuple[int, int]:
  """The fewest blocks of at most 512 that hold a length, and their size.

  The kernel takes multiples of 128.
  """
  count = -(-length // 512)
  return count, -(-length // (count * 128)) * 128


def _right_aligned(x_PxSxKxH: jax.Array, length_P: jax.Array) -> jax.Array:
  """Each brief's keys moved so that its last is the last."""
  roll = jax.vmap(functools.partial(jnp.roll, axis=0))
  return roll(x_PxSxKxH, x_PxSxKxH.shape[1] - length_P)


def splash(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  window: int | None = None,
  interpret: bool = False,
) -> jax.Array:
  """`attention.attend` of a whole pass as one block-sparse problem per group.

  The group's queries stand in one row, as do its keys, the brief's once before
  them; blocks between two replies are skipped (FlashAttention, arXiv
  2205.14135, in the form of JAX's splash attention).  `interpret` runs the
  kernel on a CPU, for tests.
  """
  P, G, L, K, R, H = q_PxGxLxKxRxH.shape
  count, block_q = _blocks(G * L)
  queries = count * block_q
  q_PxNxhxH, k_PxMxKxH, v_PxMxKxH = (
    jnp.pad(x, ((0, 0), (0, queries - G * L), (0, 0), (0, 0)))
    for x in (
      q_PxGxLxKxRxH.reshape(P, G * L, K * R, H),
      own.k.reshape(P, G * L, K, H),
      own.v.reshape(P, G * L, K, H),
    )
  )
  brief, block_k, segments = 0, block_q, None
  if prefix is not None:
    kv, S = prefix.kv, prefix.kv.k.shape[1]
    count, block_k = _blocks(S + queries)
    brief = count * block_k - queries
    pad = ((0, 0), (brief - S, 0), (0, 0), (0, 0))
    k_PxMxKxH, v_PxMxKxH = (
      jnp.concatenate(
        [jnp.pad(_right_aligned(x, prefix.length_P), pad), y], axis=1
      )
      for x, y in zip(kv, (k_PxMxKxH, v_PxMxKxH), strict=True)
    )
    # a key of the brief's padding is of another segment than every query
    real_PxM = jnp.arange(brief + queries) >= (brief - prefix.length_P)[:, None]
    ones_PxN = jnp.ones((P, queries), jnp.int32)
    segments = splash_kernel.SegmentIds(ones_PxN, real_PxM.astype(jnp.int32))
  elif segment_PxGxL is not None:
    segment_PxN = segment_PxGxL.reshape(P, G * L)
    segment_PxN = jnp.pad(segment_PxN, ((0, 0), (0, queries - G * L)))
    segments = splash_kernel.SegmentIds(segment_PxN, segment_PxN)
  mask = GroupMask(brief, L, queries, window)
  kernel = splash_kernel.make_splash_mha(
    splash_mask.MultiHeadMask([mask] * (K * R)),
    block_sizes=splash_kernel.BlockSizes(
      block_q=block_q,
      block_kv=block_k,
      block_q_dkv=block_q,
      block_kv_dkv=block_k,
      block_q_dq=block_q,
      block_kv_dq=block_k,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  heads_first = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
  out: Any = jax.vmap(kernel)(
    heads_first(q_PxNxhxH),
    heads_first(k_PxMxKxH),
    heads_first(v_PxMxKxH),
    segments,
  )
  return heads_first(out)[:, : G * L].reshape(q_PxGxLxKxRxH.shape)


def sharded_splash(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  **how: Any,
) -> jax.Array:
  """`splash` on every device of the ambient mesh, if there is one."""
  run = functools.partial(splash, **how)
  return over_mesh(run, q_PxGxLxKxRxH, own, prefix, segment_PxGxL)


def over_mesh(
  run: Callable[..., jax.Array],
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None,
  last: jax.Array | None,
) -> jax.Array:
  """A kernel on every device of the ambient mesh, if there is one.

  XLA cannot split a kernel by itself.  Prompts are split over the axes
  'data' and 'fsdp' and key/value heads over 'tensor', as the parameters and
  the batch are (`sharding`); an axis that does not divide is not split.  The
  last input is split by prompts if it has any axes.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return run(q_PxGxLxKxRxH, own, prefix, last)
  prompts, heads = q_PxGxLxKxRxH.shape[0], q_PxGxLxKxRxH.shape[3]
  p = GROUPS if prompts % group_shards(mesh) == 0 else None
  k = 'tensor' if heads % mesh.shape['tensor'] == 0 else None
  reply, brief = PartitionSpec(p, None, None, k), PartitionSpec(p, None, k)
  each = PartitionSpec(p)
  specs: Any = brief, each
  of_prefix = None if prefix is None else Prefix(*specs)
  whole = last is not None and last.ndim == 0
  return jax.shard_map(
    run,
    in_specs=(reply, reply, of_prefix, PartitionSpec() if whole else each),
    out_specs=reply,
    check_vma=False,  # the kernel does not say how its results vary
  )(q_PxGxLxKxRxH, own, prefix, last)
