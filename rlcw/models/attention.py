"""Attention of a reply to its own tokens and to those of its brief.

Letters as in `decoder`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads per key/value head, H head dimension.
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
  """Cosine and sine per position, computed once and used by all layers."""

  cos: jax.Array  # [P, G, L, 1, H / 2]
  sin: jax.Array


def frequencies(rope: RopeConfig, head_dim: int) -> jax.Array:
  """Radians per position `[H / 2]` of each rotary pair.

  `linear` is position interpolation (arXiv 2306.15595), `llama3` the banded
  scaling of Llama 3.1.
  """
  half = head_dim // 2
  frequency_h = rope.theta ** -(jnp.arange(half) / half)
  if rope.kind == 'default':
    return frequency_h
  slow_h = frequency_h / rope.factor
  if rope.kind == 'linear':
    return slow_h
  # Full turns over the context that the model was trained on: pairs with many
  # keep their frequency, pairs with few are slowed, the rest is interpolated.
  turns_h = rope.original_length * frequency_h / (2 * jnp.pi)
  band = rope.high_factor - rope.low_factor
  keep_h = jnp.clip((turns_h - rope.low_factor) / band, 0.0, 1.0)
  return keep_h * frequency_h + (1 - keep_h) * slow_h


def rope_at(position_PxGxL: jax.Array, rope: RopeConfig, head_dim: int) -> Rope:
  """Cosines and sines of positions (Su et al., arXiv 2104.09864)."""
  # The axis of size 1 broadcasts over heads.
  angle = position_PxGxL[..., None, None] * frequencies(rope, head_dim)
  return Rope(jnp.cos(angle), jnp.sin(angle))


def segment_positions(segment_PxGxL: jax.Array) -> jax.Array:
  """Position of each token within its segment, from 0; same shape."""
  index_L = jnp.arange(segment_PxGxL.shape[-1])
  first = segment_PxGxL[..., :1]
  starts_PxGxL = jnp.diff(segment_PxGxL, prepend=first) != 0
  # The running maximum is the index at which the current segment started.
  return index_L - lax.cummax(jnp.where(starts_PxGxL, index_L, 0), axis=2)


def rotate(x_PxGxLxNxH: jax.Array, rope: Rope) -> jax.Array:
  """Rotates each pair (i, i + H/2) of a head by the angle of its position."""
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
  """Causal softmax attention over a reply's own keys and those of its brief.

  Forward passes over whole sequences use the kernel of the platform that they
  are compiled for, which may differ from this machine.  So does decoding on
  TPU, which then has no gradient.  A TPU mesh of several chips must be set
  with `jax.set_mesh`.

  Args:
    q_PxGxLxKxRxH: queries, already scaled, grouped by the key/value head that
      they attend to.
    own: keys and values `[P, G, S, K, H]` of the same row.
    prefix: the brief that all G rows of a prompt continue, if any.
    segment_PxGxL: segment number of each token in rows that pack several texts,
      without a prefix; a token attends to its own segment only.
    start: number of the row's own tokens before the first query.
    window: number of keys that a query attends to, including its own; `None`
      for all.
    implementation: 'auto', or 'xla' for plain XLA operations everywhere.

  Returns:
    `[P, G, L, K, R, H]` in the queries' dtype.

  Raises:
    ValueError: both segments and a prefix are given.
  """
  if prefix is not None and segment_PxGxL is not None:
    raise ValueError('packed rows (segment_PxGxL) cannot continue a prefix')
  inputs = q_PxGxLxKxRxH, own, prefix, segment_PxGxL
  plain = functools.partial(attention_kernels.plain, start=start, window=window)
  if implementation == 'xla':
    return plain(*inputs)
  length, for_tpu = (
    q_PxGxLxKxRxH.shape[2],
    attention_kernels.compiles_for('tpu'),
  )
  # The kernels for whole sequences need a static start of 0; while decoding,
  # `start` is the traced index of the new token.
  from_first = isinstance(start, int) and start == 0
  platforms = {}
  if from_first and length > 1 and length == own.k.shape[2]:
    if for_tpu:
      splash = functools.partial(
        attention_kernels.sharded_splash, window=window
      )
      platforms['tpu'] = splash
    if attention_kernels.compiles_for('cuda') and (
      attention_kernels.cudnn_supports(q_PxGxLxKxRxH)
    ):
      platforms['cuda'] = functools.partial(
        attention_kernels.cudnn, window=window
      )
  elif not from_first and for_tpu and supports(q_PxGxLxKxRxH, prefix):
    decode = functools.partial(sharded_decode, index=start, window=window)
    platforms['tpu'] = lambda q, own, brief, _: decode(q, own, brief)
  else:
    return plain(*inputs)
  # The branch is chosen when the program is lowered, not traced, so it follows
  # the compile target; every platform without a kernel takes `plain`.
  return lax.platform_dependent(*inputs, default=plain, **platforms)
