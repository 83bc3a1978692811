"""Attention of a reply to its own tokens and to its brief's.

Letters as in `model`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads to each, H head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rlcw.model_config import RopeConfig


class KV(NamedTuple):
  """Keys and values; stacked over layers they gain a leading axis."""

  k: jax.Array  # [P, S, K, H] of briefs, [P, G, S, K, H] of replies
  v: jax.Array


class Prefix(NamedTuple):
  """A brief that its replies attend to: keys and values, and its length."""

  kv: KV  # [P, S, K, H] of one layer, [layers, P, S, K, H] of all
  length_P: jax.Array


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


def rotate(x_PxGxLxNxH: jax.Array, rope: Rope) -> jax.Array:
  """Turns each pair (i, i + H/2) of a head by its position's angle."""
  a, b = jnp.split(x_PxGxLxNxH, 2, axis=-1)
  cos, sin = rope
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_PxGxLxNxH.dtype)


def masks(
  queries: int,
  keys: int,
  prefix: Prefix | None,
  start: jax.Array | int,
  window: int | None,
) -> tuple[jax.Array, jax.Array | None]:
  """Which own keys `[L, S]` and which of the brief's `[P, L, S]` are seen.

  The brief's mask has one row for all queries where there is no window.
  """
  query_Lx1 = start + jnp.arange(queries)[:, None]
  key_S = jnp.arange(keys)
  own_LxS = key_S <= query_Lx1
  if window is not None:
    own_LxS &= query_Lx1 - key_S < window
  if prefix is None:
    return own_LxS, None
  key_S = jnp.arange(prefix.kv.k.shape[1])
  length_Px1x1 = prefix.length_P[:, None, None]
  brief_PxLxS = key_S < length_Px1x1
  if window is not None:
    brief_PxLxS &= length_Px1x1 + query_Lx1 - key_S < window
  return own_LxS, brief_PxLxS


def attend(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  *,
  start: jax.Array | int = 0,
  window: int | None = None,
) -> jax.Array:
  """Causal softmax attention over a reply's own keys and its brief's.

  The two score matrices share one softmax without being joined: the brief's
  keys are read once per group, by a matrix product over G × L × R queries.

  Args:
    q_PxGxLxKxRxH: queries, already scaled, grouped by the key/value head that
      they read.
    own: keys and values `[P, G, S, K, H]` of the same row.
    prefix: the brief that all G rows of a prompt continue, if any.
    start: how many of the row's own tokens come before the first query.
    window: how many keys back a query sees, its own included; all if `None`.

  Returns:
    `[P, G, L, K, R, H]` in the queries' dtype.
  """
  q = q_PxGxLxKxRxH
  own_LxS, brief_PxLxS = masks(
    q.shape[2], own.k.shape[2], prefix, start, window
  )
  f32 = {'preferred_element_type': jnp.float32}
  own_scores = jnp.einsum('pglkrh,pgskh->pgklrs', q, own.k, **f32)
  own_scores = jnp.where(own_LxS[:, None, :], own_scores, -jnp.inf)
  top = own_scores.max(-1, keepdims=True)
  if prefix is None or brief_PxLxS is None:
    weight = jnp.exp(own_scores - lax.stop_gradient(top))
    total = weight.sum(-1)
    out = jnp.einsum('pgklrs,pgskh->pglkrh', weight.astype(q.dtype), own.v)
  else:
    brief = prefix.kv
    scores = jnp.einsum('pglkrh,pskh->pgklrs', q, brief.k, **f32)
    mask = brief_PxLxS[:, None, None, :, None, :]
    scores = jnp.where(mask, scores, -jnp.inf)
    top = lax.stop_gradient(jnp.maximum(top, scores.max(-1, keepdims=True)))
    weight, shared = jnp.exp(own_scores - top), jnp.exp(scores - top)
    total = weight.sum(-1) + shared.sum(-1)
    out = jnp.einsum('pgklrs,pgskh->pglkrh', weight.astype(q.dtype), own.v)
    out += jnp.einsum('pgklrs,pskh->pglkrh', shared.astype(q.dtype), brief.v)
  return (out / jnp.moveaxis(total, 2, 3)[..., None]).astype(q.dtype)
