"""The programs of a group rollout: each is compiled on its own.

  start          briefs once, and the first token of their replies
  decode         a `while_loop` that appends a token to every row
  gather_*       live rows into fewer tiles (`tiles`)
  grow_cache     one layer's keys and values into a longer cache

Shape letters: P prompts (tiles, after the first gathering), G replies per
prompt, B = P · G rows, L prompt length, T reply budget, S cache length,
D model, V vocab, K key/value heads, H head; E ids that end a reply.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import (
  Params,
  as_dtype,
  decode_step,
  head_weight,
  prefill,
  reply_ropes,
  split_brief,
)
from rlcw.models.layers import product
from rlcw.runtime.mesh import GROUPS, group_shards
from rlcw.sampling import tiles
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.samplers import Sampler, inverse_cdf
from rlcw.sampling.tiles import Tiling


class Rollout(struct.PyTreeNode):
  """Sampled replies of up to T tokens, padded with 0."""

  token: jax.Array  # [P, G, T] int32, EOS included
  logp: jax.Array  # [P, G, T] float32, under softmax(logits / temperature)
  length: jax.Array  # [P, G] int32, EOS included
  finished: jax.Array  # [P, G] bool, false if the reply was cut off

  @property
  def mask(self) -> jax.Array:
    """Mask `[P, G, T]`, true at real tokens, EOS included."""
    return jnp.arange(self.token.shape[-1]) < self.length[..., None]


class Rows(struct.PyTreeNode):
  """Replies being decoded, in tiles (see `tiles`) of one brief each.

  To the decoder, tiles are briefs and their rows the replies.
  """

  rollout: Rollout  # so far
  last: jax.Array  # [P, G] int32, the newest token
  key: jax.Array  # [P, G] of `reply_keys`
  state: jax.Array  # [P, G] int16, of the grammar
  origin: jax.Array  # [P, G] int32, see `tiles.origins`
  length: jax.Array  # [P] int32, of the tile's brief


def reply_keys(
  seed: jax.Array | int,
  step: jax.Array | int,
  brief_id_P: jax.Array,
  group_size: int,
) -> jax.Array:
  """Random keys `[P, G]`, each a function of (seed, step, brief, reply)."""
  base = jax.random.fold_in(jax.random.key(seed), step)
  fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  brief_P = fold(base, brief_id_P)
  return jax.vmap(fold, in_axes=(0, None))(brief_P, jnp.arange(group_size))


def draw(
  sampler: Sampler,
  hidden_PxGxD: jax.Array,
  head_VxD: jax.Array,
  key_PxG: jax.Array,
  t: jax.Array | int,
  allowed_BxV: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Draws the t-th token of every reply.

  Args:
    sampler: draws from the softmax, or its likeliest part.
    hidden_PxGxD: hidden states at the tokens before.
    head_VxD: output embedding.
    key_PxG: of `reply_keys`.
    t: scalar, index of the token.
    allowed_BxV: tokens that the softmax is restricted to; None for all.

  Returns:
    Tokens and their log-probabilities, both `[P, G]`.
  """
  shape_PxG = hidden_PxGxD.shape[:2]
  hidden_BxD = hidden_PxGxD.reshape(-1, hidden_PxGxD.shape[-1])
  # Accumulated in float32: bfloat16 logits are too coarse for the importance
  # ratios that are made of these log-probabilities.
  logits_BxV = product(hidden_BxD, head_VxD, jnp.float32)
  if allowed_BxV is not None:
    logits_BxV = jnp.where(allowed_BxV, logits_BxV, -jnp.inf)
  logp_BxV, weight_BxV = sampler(logits_BxV)
  # The position is folded in here, so no random state is carried in the loop.
  fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
  uniform_B = jax.vmap(jax.random.uniform)(fold(key_PxG.reshape(-1), t))
  token_B = inverse_cdf(weight_BxV, uniform_B)
  logp_B = jnp.take_along_axis(logp_BxV, token_B[:, None], axis=1)[:, 0]
  return token_B.reshape(shape_PxG), logp_B.reshape(shape_PxG)


def empty_rollout(
  prompts: int, group_size: int, max_new_tokens: int
) -> Rollout:
  """A rollout without tokens, of the final shape."""
  shape_PxG = (prompts, group_size)
  return Rollout(
    token=jnp.zeros((*shape_PxG, max_new_tokens), jnp.int32),
    logp=jnp.zeros((*shape_PxG, max_new_tokens)),
    length=jnp.zeros(shape_PxG, jnp.int32),
    finished=jnp.zeros(shape_PxG, bool),
  )


def empty_cache(config: ModelConfig, prompts: int, group_size: int) -> list[KV]:
  """KV cache of length 0, one `KV` per layer."""
  # Keys are transposed: in both products of a decode step, the contracted axis
  # (H of keys, S of values) is the second to last.
  shape = prompts, group_size, config.num_kv_heads
  k_PxGxKxHx0 = jnp.zeros((*shape, config.head_dim, 0), config.dtype)
  v_PxGxKx0xH = jnp.zeros((*shape, 0, config.head_dim), config.dtype)
  return [KV(k_PxGxKxHx0, v_PxGxKx0xH)] * config.num_layers


def add_token(
  rows: Rows,
  hidden_PxGxD: jax.Array,
  head_VxD: jax.Array,
  t: jax.Array | int,
  method: Sampler,
  grammar: Grammar | None,
  ends: Callable[[jax.Array], jax.Array],
) -> Rows:
  """Draws the t-th token of every reply, and records that of live ones.

  Args:
    rows: the replies, with t tokens each.
    hidden_PxGxD: hidden states at the tokens before.
    head_VxD: output embedding.
    t: index of the token.
    method: see `samplers`.
    grammar: automaton that constrains the replies, or None.
    ends: returns which tokens `[P, G]` end a reply.
  """
  rollout, state_PxG = rows.rollout, rows.state
  allowed_BxV = grammar and grammar.allowed(
    state_PxG.reshape(-1), rollout.token.shape[-1] - t
  )
  token_PxG, logp_PxG = draw(
    method, hidden_PxGxD, head_VxD, rows.key, t, allowed_BxV
  )
  if grammar:
    state_PxG = grammar.advance(state_PxG, token_PxG)
  # Finished replies are decoded on, as the shapes are fixed, but their tokens
  # are replaced by padding.
  live = ~rollout.finished
  token_PxG = jnp.where(live, token_PxG, 0).astype(jnp.int32)
  rollout = Rollout(
    token=rollout.token.at[:, :, t].set(token_PxG),
    logp=rollout.logp.at[:, :, t].set(jnp.where(live, logp_PxG, 0.0)),
    length=rollout.length + live,
    finished=rollout.finished | (ends(token_PxG) & live),
  )
  return rows.replace(rollout=rollout, last=token_PxG, state=state_PxG)


def ends_at(
  vocab_size: int, eos: tuple[int, ...], stop: tuple[int, ...]
) -> Callable[[jax.Array], jax.Array]:
  """Returns the function that tells which tokens are of `eos` or `stop`."""
  eos_E = jnp.asarray(eos, jnp.int32)
  stop_V = jnp.zeros(vocab_size, bool).at[jnp.array(stop, int)].set(True)
  return lambda token: (token[..., None] == eos_E).any(-1) | stop_V[token]


def split_over_mesh(arrays: Any, heads: int | None = None) -> Any:
  """Splits arrays of P prompts, and their axis `heads`, over the ambient mesh.

  An axis that does not divide is left to XLA.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return arrays
  return jax.tree.map(
    lambda x: lax.with_sharding_constraint(x, spec(mesh, x.shape, heads)),
    arrays,
  )


def spec(
  mesh: Mesh | AbstractMesh, shape: tuple[int, ...], heads: int | None = None
) -> PartitionSpec:
  """Mesh axes that an array of P prompts is split over."""
  axes: list[Any] = [PartitionSpec.UNCONSTRAINED] * len(shape)
  if shape[0] % group_shards(mesh) == 0:
    axes = [GROUPS] + [None] * (len(shape) - 1)
    if heads is not None and shape[heads] % mesh.shape['tensor'] == 0:
      axes[heads] = 'tensor'
  return PartitionSpec(*axes)


# --- Programs ---------------------------------------------------------------


@functools.partial(
  jax.jit,
  static_argnames=('config', 'max_new_tokens', 'eos', 'stop', 'tiling'),
)
def start(
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  brief_id_P: jax.Array,
  method: Sampler,
  seed: jax.Array | int,
  step: jax.Array | int,
  grammar: Grammar | None = None,
  *,
  config: ModelConfig,
  max_new_tokens: int,
  eos: tuple[int, ...],
  stop: tuple[int, ...],
  tiling: Tiling,
) -> tuple[Rows, list[KV], list[KV], jax.Array]:
  """Runs each brief once, and draws the first token of its G replies.

  Returns:
    The replies; for each layer the briefs' keys, as `decoder.split_brief`
    returns them, and an empty cache; and `tiles.needed` of the replies.
  """
  shape_PxG = (len(prompt_PxL), tiling.group)
  params = as_dtype(params, config.dtype)
  last_PxD, prefix = prefill(config, params, prompt_PxL, length_P)
  rows = Rows(
    rollout=empty_rollout(*shape_PxG, max_new_tokens),
    last=jnp.zeros(shape_PxG, jnp.int32),
    key=reply_keys(seed, step, brief_id_P, tiling.group),
    state=jnp.zeros(shape_PxG, jnp.int16),
    origin=tiles.origins(tiling),
    length=length_P,
  )
  # The first token of all G replies is drawn from the same hidden state, that
  # of the brief's last token.
  first = jnp.broadcast_to(last_PxD[:, None], (*shape_PxG, last_PxD.shape[-1]))
  ends = ends_at(config.vocab_size, eos, stop)
  rows = add_token(rows, first, head_weight(params), 0, method, grammar, ends)
  briefs = [split_over_mesh(kv, 1) for kv in split_brief(prefix.kv)]
  cache = empty_cache(config, *shape_PxG)
  left = tiles.needed(tiling, rows.origin, ~rows.rollout.finished)
  return split_over_mesh(rows), briefs, cache, left


# The cache is written in place.
@functools.partial(
  jax.jit,
  static_argnames=('config', 'eos', 'stop', 'tiling'),
  donate_argnames='cache',
)
def decode(
  params: Params,
  layers: list[Params],
  briefs: list[KV],
  cache: list[KV],
  rows: Rows,
  t: jax.Array | int,
  enough: jax.Array | int,
  method: Sampler,
  grammar: Grammar | None = None,
  *,
  config: ModelConfig,
  eos: tuple[int, ...],
  stop: tuple[int, ...],
  tiling: Tiling,
) -> tuple[Rows, list[KV], jax.Array, jax.Array]:
  """Appends a token to every row per iteration, while all rows are needed.

  Ends when the cache or the replies are full, or the live rows fit fewer tiles.

  Args:
    params: of the policy, without the blocks.
    layers: weights of each block.
    briefs: for each layer, the briefs' keys and values.
    cache: for each layer, the replies' keys and values.
    rows: the replies.
    t: tokens that each of them has, or had when it ended; at least 1.
    enough: number of `tiles.needed` to stop at.
    method: see `samplers`.
    grammar: automaton that constrains the replies, or None.
    config: of the model.
    eos: ids that end a reply.
    stop: ids that cut a reply off.
    tiling: of the replies.

  Returns:
    New rows and cache, `t` and `tiles.needed`.
  """
  size, budget = cache[0].v.shape[-2], rows.rollout.token.shape[-1]
  # Constant over the steps.  XLA does not reliably hoist it out of the loop.
  prefix = Prefix(briefs[0], rows.length)
  ropes = reply_ropes(config, prefix, budget)
  ends = ends_at(config.vocab_size, eos, stop)
  head_VxD = head_weight(params)
  blocks = list(zip(layers, briefs, strict=True))

  def more(state: Any) -> jax.Array:
    _, _, t, left = state
    return (t <= size) & (t < budget) & (left > enough)

  def one_token(state: Any) -> Any:
    rows, cache, t, _ = state
    hidden, cache = decode_step(
      config, params, blocks, ropes, rows.last, prefix, cache, t - 1
    )
    rows = add_token(rows, hidden, head_VxD, t, method, grammar, ends)
    left = tiles.needed(tiling, rows.origin, ~rows.rollout.finished)
    return rows, cache, t + 1, left

  left = tiles.needed(tiling, rows.origin, ~rows.rollout.finished)
  return lax.while_loop(more, one_token, (rows, cache, jnp.int32(t), left))


@functools.partial(jax.jit, static_argnames='dtype')
def _layers_of(stacked: jax.Array, dtype: Any) -> list[jax.Array]:
  return [layer.astype(dtype) for layer in stacked]


def split_blocks(
  blocks: Params, dtype: str, spent: Sequence[jax.Array] = ()
) -> list[Params]:
  """Splits weights that are stacked over layers, for `decode`.

  Array by array, so that little is in memory twice if they are `spent`.

  Args:
    blocks: stacked weights.
    dtype: as in `as_dtype`.
    spent: those of `blocks` that are deleted once they are split.
  """
  leaves, treedef = jax.tree.flatten(blocks)
  cast = jax.eval_shape(functools.partial(as_dtype, dtype=dtype), blocks)
  gone, layers = {*map(id, spent)}, []
  for leaf, like in zip(leaves, jax.tree.leaves(cast), strict=True):
    layers.append(_layers_of(leaf, like.dtype))
    if id(leaf) in gone:
      leaf.delete()
  return [treedef.unflatten(each) for each in zip(*layers, strict=True)]


@functools.partial(jax.jit, static_argnames='size')
def grow_cache(kv: KV, size: int) -> KV:
  """Pads one layer's keys `[P, G, K, H, S]` and values `[P, G, K, S, H]`.

  Args:
    kv: the cache of a layer.
    size: new cache length, in tokens.
  """
  more = size - kv.k.shape[-1]
  return split_over_mesh(
    KV(
      jnp.pad(kv.k, [(0, 0)] * 4 + [(0, more)]),
      jnp.pad(kv.v, [(0, 0)] * 3 + [(0, more), (0, 0)]),
    ),
    2,
  )


@functools.partial(jax.jit, static_argnames=('tiling', 'count'))
def gather_rows(
  rows: Rows, tiling: Tiling, count: int
) -> tuple[Rows, jax.Array]:
  """Gathers live rows into `count` tiles a shard; also returns their slots."""
  width = rows.last.shape[1]

  def gather(rows: Rows) -> tuple[Rows, jax.Array]:
    live = ~rows.rollout.finished
    slot = tiles.slots(tiling, count, rows.origin, live)
    empty = slot == live.size
    length = tiles.take_tiles(rows.length, slot, width)
    rows = jax.tree.map(
      lambda x: tiles.take_rows(x, slot), rows.replace(length=None)
    )
    finished = rows.rollout.finished | empty
    return rows.replace(
      rollout=rows.rollout.replace(finished=finished),
      origin=jnp.where(empty, tiling.rows, rows.origin),
      length=length,
    ), slot

  return tiles.on_shards(gather, rows)


@jax.jit
def gather_layer(brief: KV, cache: KV, slot_PxG: jax.Array) -> tuple[KV, KV]:
  """Gathers one layer's keys of briefs and of rows, by `gather_rows`."""
  width = cache.k.shape[1]

  def gather(brief: KV, cache: KV, slot: jax.Array) -> tuple[KV, KV]:
    return (
      KV(*(tiles.take_tiles(x, slot, width) for x in brief)),
      KV(*(tiles.take_rows(x, slot) for x in cache)),
    )

  brief, cache = tiles.on_shards(gather, brief, cache, slot_PxG)
  return split_over_mesh(brief, 1), split_over_mesh(cache, 2)


@jax.jit
def put_back(whole: Rollout, rows: Rows) -> Rollout:
  """Writes rows to their places in a rollout `[P, G, T]`."""

  def put(whole: Rollout, rows: Rollout, origin: jax.Array) -> Rollout:
    return jax.tree.map(
      lambda to, x: tiles.put_rows(to, x, origin), whole, rows
    )

  return tiles.on_shards(put, whole, rows.rollout, rows.origin)


@functools.partial(jax.jit, static_argnames=('config', 'stop'))
def whole_replies(
  rollout: Rollout, *, config: ModelConfig, stop: tuple[int, ...]
) -> jax.Array:
  """Returns which replies `[P, G]` have ended, and not at an id of `stop`."""
  last_PxGx1 = jnp.maximum(rollout.length[..., None] - 1, 0)
  last_PxG = jnp.take_along_axis(rollout.token, last_PxGx1, -1)[..., 0]
  return rollout.finished & ~ends_at(config.vocab_size, (), stop)(last_PxG)
