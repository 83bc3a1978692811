"""Decode attention on TPU: one new token per reply over two KV caches.

The keys of a brief are read once for all replies to it, and only the written
part of the replies' own cache is read; scores never leave the chip.  Plain XLA
reads that cache in full for every token, because its shape is static.

No library kernel does this.  Paged ones (JAX's `paged_attention` and
`ragged_paged_attention`, tokamax's) process each sequence separately, so they
read a brief once per reply, and they need their own cache layout.  Splash and
flash attention (tokamax's too) fix the mask at compile time, so they read the
unwritten part as well.

Letters as in `attention_kernels`; N = G · R queries of a key/value head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rlcw.models.attention_kernels import (
  KV,
  Prefix,
  over_mesh,
  softly_capped,
)

NAME = 'decode_attention'  # of the kernel in a compiled program
LANES = 128  # width of a TPU vector register
BLOCK_BYTES = 2**19  # upper limit of a block of keys, and of one of values


def supports(q_PxGxLxKxRxH: jax.Array, prefix: Prefix | None) -> bool:
  """Returns True if queries are one new token of each reply to a brief.

  The head dimension must be a multiple of the lanes: the kernel reads rows of
  one head, and a cache with heads of 64 would be padded to twice its size.
  """
  length, head = q_PxGxLxKxRxH.shape[2], q_PxGxLxKxRxH.shape[-1]
  return prefix is not None and length == 1 and head % LANES == 0


def sharded_decode(
  q_PxGx1xKxRxH: jax.Array,
  own: KV,
  prefix: Prefix,
  index: jax.Array | int,
  **options: Any,
) -> jax.Array:
  """Runs `decode` on every device of the ambient mesh, if there is one."""
  kernel = functools.partial(decode, **options)
  return over_mesh(kernel, q_PxGx1xKxRxH, own, prefix, jnp.int32(index))


# Jitted so that all layers share one trace.
@functools.partial(jax.jit, static_argnames=('window', 'cap', 'interpret'))
def decode(
  q_PxGx1xKxRxH: jax.Array,
  own: KV,
  prefix: Prefix,
  index: jax.Array,
  *,
  window: int | None = None,
  cap: float | None = None,
  interpret: bool = False,
) -> jax.Array:
  """Attention of one query per reply, as `attention.attend`, no gradient.

  Online softmax in float32 (FlashAttention, arXiv 2205.14135) over the blocks
  of the brief, then over those of the replies.

  Args:
    q_PxGx1xKxRxH: queries, already scaled.
    own: keys and values `[P, G, T, K, H]`, of which `index` + 1 are written.
    prefix: the brief.
    index: number of the reply's own tokens before the query.
    window: number of keys that a query attends to, including its own; `None`
      for all.
    cap: of scores, as there.
    interpret: runs the kernel on a CPU, for tests.

  Returns:
    `[P, G, 1, K, R, H]` in the queries' dtype.
  """
  P, G, _, K, R, H = q_PxGx1xKxRxH.shape
  S, T = prefix.kv.k.shape[1], own.k.shape[2]
  max_tokens = BLOCK_BYTES // (H * own.k.dtype.itemsize)
  # At most 2**18 scores at a time, 1 MiB in float32.
  block_s = _block_size(S, min(1024, max_tokens, 2**18 // (G * R)))
  # As many replies per block as leave each of them room for 128 keys; `rows`
  # divides G, so no block is partly empty.
  rows = max(
    n for n in range(1, G + 1) if G % n == 0 and n <= max_tokens // LANES
  )
  block_t = _block_size(T, min(512, max_tokens // rows))
  steps_s, steps_t = pl.cdiv(S, block_s), pl.cdiv(T, block_t)

  first, end = _visible_range(prefix.length_P, index, window)

  # Pallas fetches a block when the index map returns another index than in the
  # previous step.  Clamping steps over hidden blocks to a visible one therefore
  # saves their memory traffic; the kernel skips their computation.
  def brief_index(p, k, j, first, end):
    return p, k, _clamp_block(j, first[p], end[p], block_s), 0

  def reply_index(p, k, j, first, end):
    chunk, t = _divide(j - steps_s, steps_t)
    return p, chunk, k, _clamp_block(t, first[P], end[P], block_t), 0

  def query_spec(*sizes: int) -> pl.BlockSpec:
    zeros = (0,) * len(sizes)
    return pl.BlockSpec((None, None, *sizes), lambda p, k, *_: (p, k, *zeros))

  brief_spec = pl.BlockSpec((None, 1, block_s, H), brief_index)
  reply_spec = pl.BlockSpec((None, rows, None, block_t, H), reply_index)
  q_PxKxGxRxH = jnp.swapaxes(q_PxGx1xKxRxH[:, :, 0], 1, 2)
  # Maximum, sum and weighted values of two softmaxes: over the brief all G * R
  # queries are rows of one product, over the replies each has its own keys.
  state = [(*n, width) for n in ((1, G * R), (G, R)) for width in (1, 1, H)]
  out_PxKxGxRxH = pl.pallas_call(
    functools.partial(_kernel, sizes=(S, T), steps=(steps_s, steps_t), cap=cap),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      # The last axis visits the brief's blocks, then each chunk of replies.
      grid=(P, K, steps_s + G // rows * steps_t),
      in_specs=[
        # The same queries twice: as rows of one product over the brief's keys,
        # and reply by reply.
        query_spec(1, G * R, H),
        query_spec(G, R, H),
        *[brief_spec] * 2,
        *[reply_spec] * 2,
      ],
      out_specs=query_spec(G, R, H),
      scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in state],
    ),
    out_shape=jax.ShapeDtypeStruct(q_PxKxGxRxH.shape, q_PxKxGxRxH.dtype),
    compiler_params=pltpu.CompilerParams(
      # Steps of the last axis share the softmax state, so they run in order.
      dimension_semantics=('parallel', 'parallel', 'arbitrary')
    ),
    name=NAME,
    interpret=interpret,
  )(
    first,
    end,
    q_PxKxGxRxH.reshape(P, K, 1, G * R, H),
    q_PxKxGxRxH,
    # At most a change of layout, which XLA then gives the caches themselves.
    *(jnp.swapaxes(x_PxSxKxH, 1, 2) for x_PxSxKxH in prefix.kv),
    *(jnp.swapaxes(x_PxGxTxKxH, 2, 3) for x_PxGxTxKxH in own),
  )
  return jnp.swapaxes(out_PxKxGxRxH, 1, 2)[:, :, None]


def _visible_range(
  length_P: jax.Array, index: jax.Array, window: int | None
) -> tuple[jax.Array, jax.Array]:
  """First visible key and end of the visible keys, both `[P + 1]`.

  Entry p is that of brief p; the last entry is that of all replies, which are
  equally long.
  """
  end = jnp.append(length_P, index + 1)
  if window is None:
    return jnp.zeros_like(end), end
  # The query's position counted from the brief's first key, or the reply's.
  position = index + jnp.append(length_P, 0)
  return jnp.maximum(position - window + 1, 0), end


def _block_size(length: int, limit: int) -> int:
  """Size of the fewest equal blocks that cover a length.

  The length itself, or a multiple of 128 of at most `limit` (and at least 128),
  whose last block may reach beyond the length.
  """
  limit = max(limit // LANES, 1) * LANES
  count = pl.cdiv(length, limit)
  return length if count == 1 else pl.cdiv(length, count * LANES) * LANES


def _clamp_block(number, first, end, block: int):
  """Clamps a block number to the blocks that contain keys [first, end)."""
  low, high = (lax.div(key, jnp.int32(block)) for key in (first, end - 1))
  return jnp.clip(number, low, high)


def _divide(step, steps_t: int):
  """Chunk of replies, and block in their cache, that a step processes."""
  # Negative while the brief is processed; the first chunk is fetched meanwhile.
  step = jnp.maximum(step, 0)
  # `//` looks at signs, whose lowering asks the attached TPU for its version;
  # `lax.div` also compiles on a machine without a TPU.
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
  cap: float | None,
):
  """Processes one block of keys: of the brief, or of several replies.

  `first` and `end` are those of `_visible_range`; `sizes` are the lengths S and
  T of the two caches, `steps` their numbers of blocks.
  """
  prompts = first.shape[0] - 1
  p, j = pl.program_id(0), pl.program_id(2)
  brief_state, reply_state = state[:3], state[3:]

  # Scratch memory persists over the steps of one (prompt, head).
  @pl.when(j == 0)
  def _():
    for top, total, out in (brief_state, reply_state):
      top[...] = jnp.full(top.shape, -jnp.inf, jnp.float32)
      total[...] = jnp.zeros(total.shape, jnp.float32)
      out[...] = jnp.zeros(out.shape, jnp.float32)

  def is_visible(entry, number, block: int):
    """Returns True if a block has visible keys."""
    start = number * block
    overlaps = (start < end[entry]) & (start + block > first[entry])
    # A window can hide the whole brief: then the range is empty.
    return overlaps & (first[entry] < end[entry])

  block_s = brief_k.shape[1]

  # From step steps[0] on, j * block_s lies past every brief, so this is False.
  @pl.when(is_visible(p, j, block_s))
  def _():
    bounds = first[p] - j * block_s, end[p] - j * block_s
    _accumulate(
      brief_state, q_1xNxH[...], brief_k, brief_v, bounds, sizes[0], cap
    )

  rows, block_t = own_k.shape[:2]
  chunk, t = _divide(j - steps[0], steps[1])

  @pl.when((j >= steps[0]) & is_visible(prompts, t, block_t))
  def _():
    chunk_rows = pl.ds(chunk * rows, rows)
    bounds = first[prompts] - t * block_t, end[prompts] - t * block_t
    chunk_state = [x.at[chunk_rows] for x in reply_state]
    _accumulate(
      chunk_state, q_GxRxH[chunk_rows], own_k, own_v, bounds, sizes[1], cap
    )

  @pl.when(j == pl.num_programs(2) - 1)
  def _():
    _merge(out_GxRxH, brief_state, reply_state)


def _accumulate(
  state,
  q_BxNxH,
  k_BxSxH,
  v_BxSxH,
  bounds,
  size: int,
  cap: float | None,
) -> None:
  """Adds a block of keys with at least one visible key to running softmaxes.

  `bounds` are the first visible key and the end, counted from the block's
  start; `size` is the length of the whole cache, `cap` that of scores.
  """
  top, total, out = state
  block = k_BxSxH.shape[1]
  key_1x1xS = lax.broadcasted_iota(jnp.int32, (1, 1, block), 2)
  scores = jnp.einsum(
    'bnh,bsh->bns',
    q_BxNxH,
    k_BxSxH[...],
    preferred_element_type=jnp.float32,
  )
  scores = softly_capped(scores, cap)
  mask = (key_1x1xS >= bounds[0]) & (key_1x1xS < bounds[1])
  scores = jnp.where(mask, scores, -jnp.inf)
  # Rescales the sums so far from the old maximum to the new one, which is
  # finite because at least one key is visible.  In the first block the old one
  # is -inf and the decay 0.
  highest = jnp.maximum(top[...], scores.max(-1, keepdims=True))
  weight, decay = jnp.exp(scores - highest), jnp.exp(top[...] - highest)
  values = v_BxSxH[...]
  if size % block:
    # The last block reaches beyond the cache, into undefined memory: a weight
    # of 0 times NaN would still be NaN.
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


def _merge(out_GxRxH, brief_state, reply_state) -> None:
  """Merges the softmaxes over brief and own keys into one, for each reply."""
  replies, heads, _ = out_GxRxH.shape
  for g in range(replies):
    # The brief's state has the replies' queries one after another.
    reply_rows = slice(g * heads, (g + 1) * heads)
    top, total, out = (x[0, reply_rows] for x in brief_state)
    own_top, own_total, own_out = (x[g] for x in reply_state)
    # Finite, as a reply always sees its own newest key.
    highest = jnp.maximum(top, own_top)
    shared, own = jnp.exp(top - highest), jnp.exp(own_top - highest)
    weighted = shared * out + own * own_out
    weighted /= shared * total + own * own_total
    out_GxRxH[g] = weighted.astype(out_GxRxH.dtype)
