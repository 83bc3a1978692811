"""Attention of a reply to its own tokens and to its brief's.

Letters as in `model`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads to each, H head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class KV(NamedTuple):
  """Keys and values; stacked over layers they gain a leading axis."""

  k: jax.Array  # [P, S, K, H] of briefs, [P, G, S, K, H] of replies
  v: jax.Array


class Rope(NamedTuple):
  """Rotary angles of every position, made once and used by all layers."""

  cos: jax.Array  # [P, G, L, 1, H / 2]
  sin: jax.Array


def rope_at(position_PxGxL: jax.Array, theta: float, head_dim: int) -> Rope:
  """Rotary position embedding (Su et al., arXiv 2104.09864)."""
  half = head_dim // 2
  frequency_h = theta ** -(jnp.arange(half) / half)
  angle = position_PxGxL[..., None, None] * frequency_h
  return Rope(jnp.cos(angle), jnp.sin(angle))


def rotate(x_PxGxLxNxH: jax.Array, rope: Rope) -> jax.Array:
  """Turns each pair (i, i + H/2) of a head by its position's angle."""
  a, b = jnp.split(x_PxGxLxNxH, 2, axis=-1)
  cos, sin = rope
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_PxGxLxNxH.dtype)


def attend(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  own_mask_LxS: jax.Array,
  prefix: KV | None = None,
  prefix_mask_PxS: jax.Array | None = None,
) -> jax.Array:
  """Softmax attention over a reply's own keys and its brief's.

  The two score matrices share one softmax without being joined: the brief's
  keys are read once per group, by a matrix product over G × L × R queries.

  Args:
    q_PxGxLxKxRxH: queries, grouped by the key/value head that they read.
    own: keys and values `[P, G, S, K, H]` of the same row.
    own_mask_LxS: true where a query may look.
    prefix: keys and values `[P, S, K, H]` that all G rows share.
    prefix_mask_PxS: true at the brief's real tokens.

  Returns:
    `[P, G, L, K, R, H]` in the queries' dtype.
  """
  q = q_PxGxLxKxRxH * (q_PxGxLxKxRxH.shape[-1] ** -0.5)
  f32 = {'preferred_element_type': jnp.float32}
  own_scores = jnp.einsum('pglkrh,pgskh->pgklrs', q, own.k, **f32)
  own_scores = jnp.where(own_mask_LxS[:, None, :], own_scores, -jnp.inf)
  top = own_scores.max(-1, keepdims=True)
  if prefix is None or prefix_mask_PxS is None:
    weight = jnp.exp(own_scores - lax.stop_gradient(top))
    total = weight.sum(-1)
    out = jnp.einsum('pgklrs,pgskh->pglkrh', weight.astype(q.dtype), own.v)
  else:
    scores = jnp.einsum('pglkrh,pskh->pgklrs', q, prefix.k, **f32)
    mask = prefix_mask_PxS[:, None, None, None, None, :]
    scores = jnp.where(mask, scores, -jnp.inf)
    top = lax.stop_gradient(jnp.maximum(top, scores.max(-1, keepdims=True)))
    weight, shared = jnp.exp(own_scores - top), jnp.exp(scores - top)
    total = weight.sum(-1) + shared.sum(-1)
    out = jnp.einsum('pgklrs,pgskh->pglkrh', weight.astype(q.dtype), own.v)
    out += jnp.einsum('pgklrs,pskh->pglkrh', shared.astype(q.dtype), prefix.v)
  return (out / jnp.moveaxis(total, 2, 3)[..., None]).astype(q.dtype)
