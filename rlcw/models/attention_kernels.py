"""Attention kernels for each platform; `attention` chooses between them.

`plain` is the reference.  `splash` and `cudnn` compute the same function for
whole sequences, where query i attends to its own keys 0 to i, without writing
scores to memory.

Letters as in `decoder`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads per key/value head, H head dimension; N queries of a group,
M keys of a group.
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
  """Keys and values; stacked over layers they have one more leading axis."""

  k: jax.Array  # [P, S, K, H] of briefs, [P, G, S, K, H] of replies
  v: jax.Array


class Prefix(NamedTuple):
  """Keys and values of a brief that its replies attend to, and its length."""

  kv: KV  # [P, S, K, H] of one layer, [layers, P, S, K, H] of all layers
  length_P: jax.Array


def masks(
  queries: int,
  keys: int,
  prefix: Prefix | None,
  segment_PxGxL: jax.Array | None,
  start: jax.Array | int,
  window: int | None,
) -> tuple[jax.Array, jax.Array | None]:
  """Masks of the visible own keys `[P, G, L, S]` and brief keys `[P, L, S]`.

  An axis along which a mask is constant has size 1: the first two without
  segments, the query axis of the brief's mask without a window.  The second
  mask is `None` without a prefix.
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
    # A reply continues its brief, so its positions start at the brief's length.
    brief_PxLxS &= length_Px1x1 + query_Lx1 - key_S < window
  return own_PxGxLxS, brief_PxLxS


def softly_capped(scores: jax.Array, cap: float | None) -> jax.Array:
  """Returns c · tanh(scores / c), of any shape; without a cap the scores."""
  return scores if cap is None else cap * jnp.tanh(scores / cap)


def plain(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  start: jax.Array | int = 0,
  window: int | None = None,
  cap: float | None = None,
) -> jax.Array:
  """Attention in plain XLA operations; see `attention.attend`.

  The scores over own keys and over the brief's keys share one softmax without
  being concatenated: the brief's keys are read once per group, by one matrix
  product over G × L × R queries.
  """
  q = q_PxGxLxKxRxH
  own_PxGxLxS, brief_PxLxS = masks(
    q.shape[2], own.k.shape[2], prefix, segment_PxGxL, start, window
  )
  f32 = {'preferred_element_type': jnp.float32}
  own_scores = jnp.einsum('pglkrh,pgskh->pgklrs', q, own.k, **f32)
  own_scores = softly_capped(own_scores, cap)
  mask = own_PxGxLxS[:, :, None, :, None, :]
  own_scores = jnp.where(mask, own_scores, -jnp.inf)
  # A softmax does not depend on the value subtracted before the exponential,
  # so the maximum is a constant to the gradient.  It is finite: every query
  # attends to its own key.
  top = own_scores.max(-1, keepdims=True)
  if prefix is None or brief_PxLxS is None:
    weight = jnp.exp(own_scores - lax.stop_gradient(top))
    total = weight.sum(-1)
    out = jnp.einsum('pgklrs,pgskh->pgklrh', weight.astype(q.dtype), own.v)
  else:
    brief = prefix.kv
    # The group axis next to the query axes: XLA merges them into one matrix
    # product per prompt and head.
    scores = jnp.einsum('pglkrh,pskh->pkglrs', q, brief.k, **f32)
    scores = softly_capped(scores, cap)
    mask = brief_PxLxS[:, None, None, :, None, :]
    scores = jnp.where(mask, scores, -jnp.inf)
    brief_top = jnp.swapaxes(scores.max(-1, keepdims=True), 1, 2)
    top = lax.stop_gradient(jnp.maximum(top, brief_top))
    weight = jnp.exp(own_scores - top)
    brief_weight = jnp.exp(scores - jnp.swapaxes(top, 1, 2))
    total = weight.sum(-1) + jnp.swapaxes(brief_weight.sum(-1), 1, 2)
    out = jnp.einsum('pgklrs,pgskh->pgklrh', weight.astype(q.dtype), own.v)
    brief_out = jnp.einsum(
      'pkglrs,pskh->pkglrh', brief_weight.astype(q.dtype), brief.v
    )
    out += jnp.swapaxes(brief_out, 1, 2)
  # Dividing [.., H] outputs is cheaper than normalising [.., S] weights.
  return jnp.moveaxis((out / total[..., None]).astype(q.dtype), 2, 3)


# --- GPU --------------------------------------------------------------------


def compiles_for(platform: str) -> bool:
  """Returns True if the compiler for `cuda` or `tpu` is installed.

  Tracing a cuDNN call fails without it.  With it, the call is traced even if
  the program is compiled for another platform, and then dropped.
  """
  names = {
    'cuda': ('jax_cuda13_plugin', 'jax_cuda12_plugin'),
    'tpu': ('libtpu',),
  }[platform]
  return any(importlib.util.find_spec(name) for name in names)


def cudnn_supports(q_PxGxLxKxRxH: jax.Array, cap: float | None = None) -> bool:
  """Returns True if cuDNN supports dtype and head size on every GPU.

  It has no soft cap of scores.
  """
  head, dtype = q_PxGxLxKxRxH.shape[-1], q_PxGxLxKxRxH.dtype
  fits = head <= 128 and head % 8 == 0
  return cap is None and dtype in (jnp.float16, jnp.bfloat16) and fits


def cudnn(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  window: int | None = None,
  implementation: Any = 'cudnn',
) -> jax.Array:
  """Attention of whole sequences by cuDNN, as `attention.attend`.

  Segments, like the padding of a brief, are one mask for all heads; scores are
  still not written to memory.

  A brief's keys are repeated for each reply, though its hidden states are not.
  Two calls merged by their log-sum-exps would read one copy, but cuDNN has no
  gradient through a log-sum-exp.
  """
  P, G, L, K, R, H = q_PxGxLxKxRxH.shape
  # cuDNN's backward pass requires even lengths.
  to_even = ((0, 0), (0, 0), (0, L % 2), (0, 0), (0, 0))
  # Prompts and replies together are cuDNN's batch axis.
  q, k, v = (
    jnp.pad(x, to_even).reshape(P * G, L + L % 2, -1, H)
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
    rows = (P, q.shape[1])
    # Keys are the brief's followed by the reply's own; both parts are padded,
    # so one explicit mask covers padding, causality and window.
    mask = jnp.concatenate(
      [
        jnp.broadcast_to(brief_PxLxS, (*rows, brief.k.shape[1])),
        jnp.broadcast_to(own_1x1xLxS[0], (*rows, q.shape[1])),
      ],
      axis=-1,
    )
    k, v = (
      jnp.concatenate([jnp.repeat(a, G, axis=0), b], axis=1)
      for a, b in zip(brief, (k, v), strict=True)
    )
    out = attention(q, k, v, mask=jnp.repeat(mask, G, axis=0)[:, None])
  elif segment_PxGxL is not None:
    segment = jnp.pad(segment_PxGxL, to_even[:3])
    mask, _ = masks(q.shape[1], q.shape[1], None, segment, 0, window)
    out = attention(q, k, v, mask=mask.reshape(P * G, 1, *mask.shape[2:]))
  else:
    # cuDNN counts the keys to the left and right of the query, without its own.
    sides = None if window is None else (window - 1, 0)
    out = attention(q, k, v, is_causal=True, local_window_size=sides)
  return out[:, :L].reshape(q_PxGxLxKxRxH.shape)


# --- TPU --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class GroupMask(splash_mask.Mask):
  """Mask of a group's queries `[N]` and keys `[M]`, computed in the kernel.

  Keys are the brief's, right-aligned, then the replies' own in the order of the
  queries.  The distance from a query to any key that it may attend to is then
  static, although the brief's length is not.
  """

  brief: int  # number of brief keys, padding included
  reply: int  # length of each reply
  queries: int  # of all replies, and padding that counts as further replies
  window: int | None

  @property
  def shape(self) -> tuple[int, int]:
    return self.queries, self.brief + self.queries

  @property
  def position_bits(self) -> int:
    """Number of bits for a position within a reply."""
    return self.reply.bit_length()

  @property
  def q_sequence(self) -> np.ndarray:
    """Packs each query's reply number and position into one int32 `[N]`.

    The kernel receives one number per query, and the mask needs both.  Packed
    as bits they are separated by shifts, without an integer division.
    """
    index_N = np.arange(self.queries, dtype=np.int32)
    return (index_N // self.reply << self.position_bits) + index_N % self.reply

  @property
  def mask_function(self) -> 'GroupMask':
    return self

  def __call__(self, query: Any, key: Any) -> Any:
    """Returns the mask of `query` and `key` numbers that broadcast together.

    Called with NumPy arrays to find the blocks to skip, and in the kernel.
    """
    position = query & ((1 << self.position_bits) - 1)
    # Distance from the first key of the query's reply; negative for the brief
    # and for earlier replies.
    own = key - (self.brief + (query >> self.position_bits) * self.reply)
    brief_mask, own_mask = key < self.brief, (own >= 0) & (own <= position)
    if self.window is not None:
      brief_mask = brief_mask & (self.brief + position - key < self.window)
      own_mask = own_mask & (position - own < self.window)
    return brief_mask | own_mask

  def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
    key_M = np.arange(self.shape[1], dtype=np.int32)
    rows, columns = index
    return self(self.q_sequence[rows, None], key_M[None, columns])


def _blocks(length: int) -> tuple[int, int]:
  """Number and size of the fewest blocks of at most 512 that cover a length.

  The size is a multiple of 128, as the kernel requires.
  """
  count = -(-length // 512)
  return count, -(-length // (count * 128)) * 128


def _right_aligned(x_PxSxKxH: jax.Array, length_P: jax.Array) -> jax.Array:
  """Moves each brief's padding from the right to the left."""
  roll = jax.vmap(functools.partial(jnp.roll, axis=0))
  return roll(x_PxSxKxH, x_PxSxKxH.shape[1] - length_P)


def splash(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  window: int | None = None,
  cap: float | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Attention of whole sequences as one block-sparse problem per group.

  Computes `attention.attend` by JAX's splash attention, a block-sparse
  FlashAttention (arXiv 2205.14135).  All queries of a group form one row, and
  so do its keys: the brief's once, then those of all replies.  Blocks of one
  reply's queries and another's keys are skipped.  `interpret` runs the kernel
  on a CPU, for tests.
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
    # The brief is padded on the left until all keys together fill the blocks.
    count, block_k = _blocks(S + queries)
    brief = count * block_k - queries
    pad = ((0, 0), (brief - S, 0), (0, 0), (0, 0))
    k_PxMxKxH, v_PxMxKxH = (
      jnp.concatenate(
        [jnp.pad(_right_aligned(x, prefix.length_P), pad), y], axis=1
      )
      for x, y in zip(kv, (k_PxMxKxH, v_PxMxKxH), strict=True)
    )
    # `GroupMask` is static, so it cannot mask the padding of a brief: splash
    # segments do, as padding keys are in segment 0 and all queries in 1.
    real_PxM = jnp.arange(brief + queries) >= (brief - prefix.length_P)[:, None]
    ones_PxN = jnp.ones((P, queries), jnp.int32)
    segments = splash_kernel.SegmentIds(ones_PxN, real_PxM.astype(jnp.int32))
  elif segment_PxGxL is not None:
    segment_PxN = segment_PxGxL.reshape(P, G * L)
    segment_PxN = jnp.pad(segment_PxN, ((0, 0), (0, queries - G * L)))
    segments = splash_kernel.SegmentIds(segment_PxN, segment_PxN)
  # Without a prefix, `segments` separate packed texts; they come on top of the
  # causal mask of each row.
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
    attn_logits_soft_cap=cap,
    interpret=interpret,
  )
  # The kernel takes one [heads, length, H] problem; `vmap` adds the prompts.
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
  **options: Any,
) -> jax.Array:
  """Runs `splash` on every device of the ambient mesh, if there is one."""
  kernel = functools.partial(splash, **options)
  return over_mesh(kernel, q_PxGxLxKxRxH, own, prefix, segment_PxGxL)


def over_mesh(
  kernel: Callable[..., jax.Array],
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None,
  last: jax.Array | None,
) -> jax.Array:
  """Runs a kernel on every device of the ambient mesh, if there is one.

  XLA cannot partition a custom kernel, so `shard_map` does.  Prompts are split
  over the axes 'data' and 'fsdp' and key/value heads over 'tensor', like the
  batch and the parameters (`runtime.mesh`).  An axis whose size does not divide
  evenly is replicated.  The last input is split by prompts unless it is a
  scalar.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return kernel(q_PxGxLxKxRxH, own, prefix, last)
  prompts, heads = q_PxGxLxKxRxH.shape[0], q_PxGxLxKxRxH.shape[3]
  p = GROUPS if prompts % group_shards(mesh) == 0 else None
  k = 'tensor' if heads % mesh.shape['tensor'] == 0 else None
  # One spec for queries [P, G, L, K, R, H] and own keys [P, G, S, K, H]: the
  # axes that are split come first in both.
  reply, brief = PartitionSpec(p, None, None, k), PartitionSpec(p, None, k)
  prompt = PartitionSpec(p)
  specs: Any = brief, prompt
  prefix_spec = None if prefix is None else Prefix(*specs)
  is_scalar = last is not None and last.ndim == 0
  return jax.shard_map(
    kernel,
    in_specs=(
      reply,
      reply,
      prefix_spec,
      PartitionSpec() if is_scalar else prompt,
    ),
    out_specs=reply,
    # A Pallas call does not declare over which mesh axes its results vary.
    check_vma=False,
  )(q_PxGxLxKxRxH, own, prefix, last)
