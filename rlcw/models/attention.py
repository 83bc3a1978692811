"""Attention of a reply to its own tokens and to those of its brief.

Letters as in `decoder`: P prompts, G replies, L queries, S keys, K key/value
heads, R query heads per key/value head, N heads of either kind, H head
dimension.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rlcw.models import attention_kernels
from rlcw.models.attention_decode import sharded_decode, supports
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.ropes import RopeConfig


class Rope(NamedTuple):
  """Cosine and sine per position, computed once and used by all layers."""

  cos: jax.Array  # [P, G, L, 1, H / 2], or less than H / 2
  sin: jax.Array
  query: jax.Array | None = None  # [P, G, L, 1, 1]: factor of queries


def frequencies(rope: RopeConfig, head_dim: int) -> jax.Array:
  """Radians per position `[H / 2]` of each rotary pair.

  `linear` is position interpolation (arXiv 2306.15595), `llama3` the banded
  scaling of Llama 3.1, `yarn` that of arXiv 2309.00071, `longrope` that of
  arXiv 2402.13753.  There are fewer pairs if a fraction of a head rotates, but
  with `proportional` (Gemma 4) the others' frequency is 0.
  """
  channels = rope.channels(head_dim)
  pairs = -(-channels // 2)
  frequency_h = rope.theta ** -(jnp.arange(pairs) / (channels / 2))
  if rope.kind == 'default':
    return frequency_h
  if rope.kind == 'longrope':
    return frequency_h / jnp.array(rope.divisors)
  slow_h = frequency_h / rope.factor
  if rope.kind == 'linear':
    return slow_h
  if rope.kind == 'proportional':
    rotates_h = jnp.arange(pairs) < int(rope.fraction * head_dim // 2)
    return jnp.where(rotates_h, slow_h, 0.0)
  if rope.kind == 'yarn':
    keep_h = _yarn_kept(rope, channels)
  else:
    # Full turns over the context that the model was trained on: pairs with many
    # keep their frequency, pairs with few are slowed, the rest is interpolated.
    turns_h = rope.original_length * frequency_h / (2 * jnp.pi)
    band = rope.high_factor - rope.low_factor
    keep_h = jnp.clip((turns_h - rope.low_factor) / band, 0.0, 1.0)
  return keep_h * frequency_h + (1 - keep_h) * slow_h


def _yarn_kept(rope: RopeConfig, channels: int) -> jax.Array:
  """Share of each pair's frequency `[H / 2]` that YaRN keeps, from 0 to 1.

  It interpolates by the number of a pair, and not by its turns.
  """

  def pair(turns: float) -> float:
    length = rope.original_length / (turns * 2 * math.pi)
    return channels * math.log(length) / (2 * math.log(rope.theta))

  first, last = pair(rope.high_factor), pair(rope.low_factor)
  if rope.truncate:
    first, last = math.floor(first), math.ceil(last)
  first, last = max(first, 0), min(last, channels - 1)
  # A band of no pairs is a step.
  last += 0.001 * (first == last)
  index_h = jnp.arange(-(-channels // 2))
  return 1 - jnp.clip((index_h - first) / (last - first), 0.0, 1.0)


def rope_at(position_PxGxL: jax.Array, rope: RopeConfig, head_dim: int) -> Rope:
  """Cosines and sines of positions (Su et al., arXiv 2104.09864)."""
  # The axis of size 1 broadcasts over heads.
  angle = position_PxGxL[..., None, None] * frequencies(rope, head_dim)
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  if rope.magnitude != 1.0:
    cos, sin = cos * rope.magnitude, sin * rope.magnitude
  query = None
  if rope.query_growth:
    passed = position_PxGxL[..., None, None] // rope.original_length
    query = 1 + rope.query_growth * jnp.log1p(passed)
  return Rope(cos, sin, query)


def unless(rotates: jax.Array | bool, rope: Rope) -> Rope:
  """A rope, or in a layer that does not rotate one that changes nothing."""
  return rope._replace(
    cos=jnp.where(rotates, rope.cos, 1.0), sin=jnp.where(rotates, rope.sin, 0.0)
  )


def segment_positions(segment_PxGxL: jax.Array) -> jax.Array:
  """Position of each token within its segment, from 0; same shape."""
  index_L = jnp.arange(segment_PxGxL.shape[-1])
  first = segment_PxGxL[..., :1]
  starts_PxGxL = jnp.diff(segment_PxGxL, prepend=first) != 0
  # The running maximum is the index at which the current segment started.
  return index_L - lax.cummax(jnp.where(starts_PxGxL, index_L, 0), axis=2)


def rotate(x_PxGxLxNxH: jax.Array, rope: Rope) -> jax.Array:
  """Rotates each pair (i, i + H/2) of a head by the angle of its position.

  With fewer pairs, of as many of its first channels.
  """
  rotary = 2 * rope.cos.shape[-1]
  x, rest = x_PxGxLxNxH[..., :rotary], x_PxGxLxNxH[..., rotary:]
  a, b = jnp.split(x, 2, axis=-1)
  cos, sin = rope.cos, rope.sin
  rotated = [a * cos - b * sin, b * cos + a * sin]
  if rest.shape[-1]:
    rotated.append(rest.astype(rotated[0].dtype))
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def attend(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None = None,
  segment_PxGxL: jax.Array | None = None,
  *,
  start: jax.Array | int = 0,
  window: int | None = None,
  cap: float | None = None,
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
    cap: c of scores that are capped softly, as c · tanh(score / c).  cuDNN has
      none: on GPU they are computed in plain XLA operations.
    implementation: 'auto', or 'xla' for plain XLA operations everywhere.

  Returns:
    `[P, G, L, K, R, H]` in the queries' dtype.

  Raises:
    ValueError: both segments and a prefix are given.
  """
  if prefix is not None and segment_PxGxL is not None:
    raise ValueError('packed rows (segment_PxGxL) cannot continue a prefix')
  inputs = q_PxGxLxKxRxH, own, prefix, segment_PxGxL
  options: Any = {'window': window, 'cap': cap}
  plain = functools.partial(attention_kernels.plain, start=start, **options)
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
      splash = functools.partial(attention_kernels.sharded_splash, **options)
      platforms['tpu'] = splash
    if attention_kernels.compiles_for('cuda') and (
      attention_kernels.cudnn_supports(q_PxGxLxKxRxH, cap)
    ):
      platforms['cuda'] = functools.partial(
        attention_kernels.cudnn, window=window
      )
  elif not from_first and for_tpu and supports(q_PxGxLxKxRxH, prefix):
    decode = functools.partial(sharded_decode, index=start, **options)
    platforms['tpu'] = lambda q, own, brief, _: decode(q, own, brief)
  else:
    return plain(*inputs)
  # The branch is chosen when the program is lowered, not traced, so it follows
  # the compile target; every platform without a kernel takes `plain`.
  return lax.platform_dependent(*inputs, default=plain, **platforms)
