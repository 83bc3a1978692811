"""Decode attention on TPU: one new token of each reply over two caches.

The keys of a brief are read once for all replies to it, and of the replies'
own cache only the part that is written; scores never leave the chip.  XLA
reads that cache in full at every token, as its shape says.

No library kernel serves.  Those for pages (`paged_attention` and
`ragged_paged_attention` of JAX, tokamax's) walk each sequence by itself, and so
read a brief once per reply, from a cache of their own layout.  Splash and flash
attention (tokamax's too) know the mask when they are compiled, and so read what
is not yet written.

Letters as in `attention_kernels`; N = G · R, the queries of a key/value head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rlcw.models.attention_kernels import KV, Prefix, over_mesh

NAME = 'decode_attention'  # of the kernel, in a compiled program
LANES = 128  # of a TPU's vectors
BLOCK_BYTES = 2**19  # most of keys, and of values, that are fetched at a time


def supports(q_PxGxLxKxRxH: jax.Array, prefix: Prefix | None) -> bool:
  """Whether queries are one new token of each reply to a brief.

  A head has to fill the lanes: the kernel reads rows of one head, and a cache
  of shorter ones would be padded to twice its size.
  """
  length, head = q_PxGxLxKxRxH.shape[2], q_PxGxLxKxRxH.shape[-1]
  return prefix is not None and length == 1 and head % LANES == 0


def sharded_decode(
  q_PxGx1xKxRxH: jax.Array,
  own: KV,
  prefix: Prefix,
  index: jax.Array | int,
  **how: Any,
) -> jax.Array:
  """`decode` on every device of the ambient mesh, if there is one."""
  run = functools.partial(decode, **how)
  return over_mesh(run, q_PxGx1xKxRxH, own, prefix, jnp.int32(index))


@functools.partial(jax.jit, static_argnames=('window', 'interpret'))
def decode(
  q_PxGx1xKxRxH: jax.Array,
  own: KV,
  prefix: Prefix,
  index: jax.Array,
  *,
  window: int | None = None,
  interpret: bool = False,
) -> jax.Array:
  """`attention.attend` of one query per reply, without a gradient.

  Online softmax in float32 (FlashAttention, arXiv 2205.14135) over blocks of
  the brief, then of the replies.  Layers share one trace, by the `jit`.

  Args:
    q_PxGx1xKxRxH: queries, already scaled.
    own: keys and values `[P, G, T, K, H]`, of which `index` + 1 are written.
    prefix: the brief.
    index: how many of the reply's own tokens come before the query.
    window: how many keys back a query sees, its own included; all if `None`.
    interpret: runs the kernel on a CPU, for tests.
  """
  P, G, _, K, R, H = q_PxGx1xKxRxH.shape
  S, T = prefix.kv.k.shape[1], own.k.shape[2]
  fits = BLOCK_BYTES // (H * own.k.dtype.itemsize)  # tokens
  block_s = _block(S, min(1024, fits, 2**18 // (G * R)))  # 1 MiB of scores
  rows = max(n for n in range(1, G + 1) if G % n == 0 and n <= fits // LANES)
  block_t = _block(T, min(512, fits // rows))
  steps_s, steps_t = pl.cdiv(S, block_s), pl.cdiv(T, block_t)

  first, end = _seen(prefix.length_P, index, window)

  # a block that is not seen is not fetched either: its place is that of one
  def brief(p, k, j, first, end):
    return p, k, _nearest(j, first[p], end[p], block_s), 0

  def replies(p, k, j, first, end):
    chunk, t = _place(j - steps_s, steps_t)
    return p, chunk, k, _nearest(t, first[P], end[P], block_t), 0

  def query(*sizes: int) -> pl.BlockSpec:
    zeros = (0,) * len(sizes)
    return pl.BlockSpec((None, None, *sizes), lambda p, k, *_: (p, k, *zeros))

  of_brief = pl.BlockSpec((None, 1, block_s, H), brief)
  of_replies = pl.BlockSpec((None, rows, None, block_t, H), replies)
  q_PxKxGxRxH = jnp.swapaxes(q_PxGx1xKxRxH[:, :, 0], 1, 2)
  state = [(*n, width) for n in ((1, G * R), (G, R)) for width in (1, 1, H)]
  out_PxKxGxRxH = pl.pallas_call(
    functools.partial(_kernel, sizes=(S, T), steps=(steps_s, steps_t)),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(P, K, steps_s + G // rows * steps_t),
      in_specs=[
        query(1, G * R, H),
        query(G, R, H),
        *[of_brief] * 2,
        *[of_replies] * 2,
      ],
      out_specs=query(G, R, H),
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in state],
    ),
    out_shape=jax.ShapeDtypeStruct(q_PxKxGxRxH.shape, q_PxKxGxRxH.dtype),
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('parallel', 'parallel', 'arbitrary')
    ),
    name=NAME,
    interpret=interpret,
  )(
    first,
    end,
    q_PxKxGxRxH.reshape(P, K, 1, G * R, H),
    q_PxKxGxRxH,
    # a change of layout at most, which the caches then have all along
    *(jnp.swapaxes(x_PxSxKxH, 1, 2) for x_PxSxKxH in prefix.kv),
    *(jnp.swapaxes(x_PxGxTxKxH, 2, 3) for x_PxGxTxKxH in own),
  )
  return jnp.swapaxes(out_PxKxGxRxH, 1, 2)[:, :, None]


def _seen(
  length_P: jax.Array, index: jax.Array, window: int | None
) -> tuple[jax.Array, jax.Array]:
  """The first key that is seen, and the end: of each brief, of the replies."""
  end = jnp.append(length_P, index + 1)
  if window is None:
    return jnp.zeros_like(end), end
  place = index + jnp.append(length_P, 0)
  return jnp.maximum(place - window + 1, 0), end


def _block(length: int, most: int) -> int:
  """The size of as few equal blocks as hold a length: it, or a multiple of 128.

  The last one may reach beyond the length.
  """
  most = max(most // LANES, 1) * LANES
  count = pl.cdiv(length, most)
  return length if count == 1 else pl.cdiv(length, count * LANES) * LANES


def _nearest(number, first, end, block: int):
  """The block nearest to one that has any of the keys from first to end."""
  least, most = (lax.div(key, jnp.int32(block)) for key in (first, end - 1))
  return jnp.clip(number, least, most)


def _place(step, steps_t: int):
  """Which of the replies, and which of their blocks, a step is for.

  Written without `//`, whose signs the compiler wants to see a TPU for.
  """
  step = jnp.maximum(step, 0)
  return lax.div(step, jnp.int32(steps_t)), lax.rem(step, jnp.int32(steps_t))


def _kernel(
  first,
  end,
  q_1xNxH,
  q_GxRxH,
  brief_k,
  brief_v,
  own_k,
  own_v,
  out_GxRxH,
  *state,
  sizes: tuple[int, int],
  steps: tuple[int, int],
):
  """One block of keys: of the brief, or of several replies."""
  prompts = first.shape[0] - 1
  p, j = pl.program_id(0), pl.program_id(2)
  of_brief, of_replies = state[:3], state[3:]

  @pl.when(j == 0)
  def _():
    for top, total, out in (of_brief, of_replies):
      top[...] = jnp.full(top.shape, -jnp.inf, jnp.float32)
      total[...] = jnp.zeros(total.shape, jnp.float32)
      out[...] = jnp.zeros(out.shape, jnp.float32)

  def seen(row, number, block: int):
    """Whether a block has keys that are seen."""
    begins = number * block
    some = (begins < end[row]) & (begins + block > first[row])
    return some & (first[row] < end[row])

  block_s = brief_k.shape[1]

  @pl.when(seen(p, j, block_s))
  def _():
    bounds = first[p] - j * block_s, end[p] - j * block_s
    _update(of_brief, q_1xNxH[...], brief_k, brief_v, bounds, sizes[0])

  rows, block_t = own_k.shape[:2]
  chunk, t = _place(j - steps[0], steps[1])

  @pl.when((j >= steps[0]) & seen(prompts, t, block_t))
  def _():
    these = pl.ds(chunk * rows, rows)
    bounds = first[prompts] - t * block_t, end[prompts] - t * block_t
    some = [x.at[these] for x in of_replies]
    _update(some, q_GxRxH[these], own_k, own_v, bounds, sizes[1])

  @pl.when(j == pl.num_programs(2) - 1)
  def _():
    _join(out_GxRxH, of_brief, of_replies)


def _update(state, q_BxNxH, k_BxSxH, v_BxSxH, bounds, size: int) -> None:
  """Adds a block of keys to softmaxes, of which it has at least one."""
  top, total, out = state
  block = k_BxSxH.shape[1]
  key_1x1xS = lax.broadcasted_iota(jnp.int32, (1, 1, block), 2)
  scores = jnp.einsum(
    'bnh,bsh->bns',
    q_BxNxH,
    k_BxSxH[...],
    preferred_element_type=jnp.float32,
  )
  mask = (key_1x1xS >= bounds[0]) & (key_1x1xS < bounds[1])
  scores = jnp.where(mask, scores, -jnp.inf)
  highest = jnp.maximum(top[...], scores.max(-1, keepdims=True))
  weight, decay = jnp.exp(scores - highest), jnp.exp(top[...] - highest)
  values = v_BxSxH[...]
  if size % block:  # beyond the last one there may be anything
    key_1xSx1 = lax.broadcasted_iota(jnp.int32, (1, block, 1), 1)
    values = jnp.where(key_1xSx1 < bounds[1], values, 0)
  top[...] = highest
  total[...] = decay * total[...] + weight.sum(-1, keepdims=True)
  out[...] = decay * out[...] + jnp.einsum(
    'bns,bsh->bnh',
    weight.astype(values.dtype),
    values,
    preferred_element_type=jnp.float32,
  )


def _join(out_GxRxH, of_brief, of_replies) -> None:
  """One softmax of two, for each reply."""
  groups, heads, _ = out_GxRxH.shape
  for g in range(groups):
    these = slice(g * heads, (g + 1) * heads)
    top, total, out = (x[0, these] for x in of_brief)
    own_top, own_total, own_out = (x[g] for x in of_replies)
    highest = jnp.maximum(top, own_top)
    shared, own = jnp.exp(top - highest), jnp.exp(own_top - highest)
    weighted = shared * out + own * own_out
    weighted /= shared * total + own * own_total
    out_GxRxH[g] = weighted.astype(out_GxRxH.dtype)
