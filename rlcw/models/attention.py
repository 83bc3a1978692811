"""Attention of a reply to its own tokens and to its brief's.

Letters as in `model`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads to each, H head.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rlcw.models import attention_kernels
from rlcw.models.attention_decode import sharded_decode, supports
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.config import RopeConfig


class Rope(NamedTuple):
  """Rotary angles of every position, made once and used by all layers."""

  cos: jax.Array  # [P, G, L, 1, H / 2]
  sin: jax.Array


def frequencies(rope: RopeConfig, head_dim: int) -> jax.Array:
  """Radians per position `[H / 2]` of each rotary pair."""
  half = head_dim // 2
  frequency_h = rope.theta ** -(jnp.arange(half) / half)
  if rope.kind == 'default':
    return frequency_h
  slow_h = frequency_h / rope.factor
  if rope.kind == 'linear':
    return slow_h
  turns_h = rope.original_length * frequency_h / (2 * jnp.pi)
  band = rope.high_factor - rope.low_factor
  keep_h = jnp.clip((turns_h - rope.low_factor) / band, 0.0, 1.0)
  return keep_h * frequency_h + (1 - keep_h) * slow_h


def rope_at(position_PxGxL: jax.Array, rope: RopeConfig, head_dim: int) -> Rope:
  """Rotary position embedding (Su et al., arXiv 2104.09864)."""
  angle = position_PxGxL[..., None, None] * frequencies(rope, head_dim)
  return Rope(jnp.cos(angle), jnp.sin(angle))


def segment_positions(segment_PxGxL: jax.Array) -> jax.Array:
  """Each token's place in its segment, from 0."""
  index_L = jnp.arange(segment_PxGxL.shape[-1])
  first = segment_PxGxL[..., :1]
  begins_PxGxL = jnp.diff(segment_PxGxL, prepend=first) != 0
  return index_L - lax.cummax(jnp.where(begins_PxGxL, index_L, 0), axis=2)


def rotate(x_PxGxLxNxH: jax.Array, rope: Rope) -> jax.Array:
  """Turns each pair (i, i + H/2) of a head by its position's angle."""
  a, b = jnp.split(x_PxGxLxNxH, 2, axis=-1)
  cos, sin = rope
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_PxGxLxNxH.dtype)


def attend(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  start: jax.Array | int = 0,
  window: int | None = None,
  implementation: str = 'auto',
) -> jax.Array:
  """Causal softmax attention over a reply's own keys and its brief's.

  Whole passes run on the kernel of the platform that they are compiled for,
  which need not be this machine's; so does decoding on TPU, which then has no
  gradient.  A TPU mesh of several chips has to be the ambient one
  (`jax.set_mesh`).

  Args:
    q_PxGxLxKxRxH: queries, already scaled, grouped by the key/value head that
      they read.
    own: keys and values `[P, G, S, K, H]` of the same row.
    prefix: the brief that all G rows of a prompt continue, if any.
    segment_PxGxL: where several texts are packed into a row without a prefix,
      the number of the one that each token is of; it sees that one alone.
    start: how many of the row's own tokens come before the first query.
    window: how many keys back a query sees, its own included; all if `None`.
    implementation: 'auto', or 'xla' for its own operations everywhere.

  Returns:
    `[P, G, L, K, R, H]` in the queries' dtype.

  Raises:
    ValueError: segments and a prefix are given.
  """
  if prefix is not None and segment_PxGxL is not None:
    raise ValueError('packed rows do not continue a brief')
  inputs = q_PxGxLxKxRxH, own, prefix, segment_PxGxL
  plain = functools.partial(attention_kernels.plain, start=start, window=window)
  if implementation == 'xla':
    return plain(*inputs)
  length, for_tpu = (
    q_PxGxLxKxRxH.shape[2],
    attention_kernels.compiles_for('tpu'),
  )
  from_first = isinstance(start, int) and start == 0
  platforms = {}
  if from_first and length > 1 and length == own.k.shape[2]:
    if for_tpu:
      splash = functools.partial(
        attention_kernels.sharded_splash, window=window
      )
      platforms['tpu'] = splash
    if attention_kernels.compiles_for('cuda') and attention_kernels.cudnn_takes(
      q_PxGxLxKxRxH
    ):
      platforms['cuda'] = functools.partial(
        attention_kernels.cudnn, window=window
      )
  elif not from_first and for_tpu and supports(q_PxGxLxKxRxH, prefix):
    decode = functools.partial(sharded_decode, index=start, window=window)
    platforms['tpu'] = lambda q, own, brief, _: decode(q, own, brief)
  else:
    return plain(*inputs)
  return lax.platform_dependent(*inputs, default=plain, **platforms)
