"""The programs of a group rollout: each is compiled on its own.

  start      runs every brief once, and draws the first token of its replies
  decode     a `while_loop` that appends a token to every row
  mark_cut   tells whole replies from those cut off

Shape letters: P prompts (tiles, after the first gathering), G replies per
prompt, B = P · G rows, L prompt length, T reply budget, S cache length,
D model, V vocab, K key/value heads, H head; E ids that end a reply.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

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
from rlcw.models.layers import final_logits, product
from rlcw.sampling import tiles, turns
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.samplers import Sampler, inverse_cdf
from rlcw.sampling.tiles import Tiling
from rlcw.sampling.turns import Turn

# Tokens of a reply that one call of `decode` appends at most: some seconds of a
# large model, after which the host may look for a request to stop.
MOST_TOKENS = 256


class Rollout(struct.PyTreeNode):
  """Sampled replies of up to T tokens, padded with 0."""

  token: jax.Array  # [P, G, T] int32, EOS included
  logp: jax.Array  # [P, G, T] float32, under softmax(logits / temperature)
  length: jax.Array  # [P, G] int32, EOS included
  finished: jax.Array  # [P, G] bool, false if the reply was cut off
  # [P, G, T] bool, true at a second request (`turns`); None without one
  given: jax.Array | None = None

  @property
  def mask(self) -> jax.Array:
    """Mask `[P, G, T]`, true at real tokens, EOS included."""
    return jnp.arange(self.token.shape[-1]) < self.length[..., None]

  @property
  def drawn(self) -> jax.Array:
    """Mask `[P, G, T]`, true at the tokens that the policy has drawn."""
    return self.mask if self.given is None else self.mask & ~self.given

  @property
  def drawn_length(self) -> jax.Array:
    """Number `[P, G]` of tokens that the policy has drawn."""
    return self.length if self.given is None else self.drawn.sum(-1)

  def last_reply(self) -> 'Rollout':
    """The replies to the second request, as NumPy arrays.

    Without one, the rollout itself.  A row that was cut off before its second
    reply has no token of it.
    """
    if self.given is None:
      return self
    token, logp, length, given = (
      np.asarray(x) for x in (self.token, self.logp, self.length, self.given)
    )
    place_T = np.arange(token.shape[-1])
    after_PxG = np.where(given, place_T + 1, 0).max(-1)
    start_PxG = np.where(given.any(-1), after_PxG, length)
    at_PxGxT = start_PxG[..., None] + place_T
    inside_PxGxT = at_PxGxT < length[..., None]
    at_PxGxT = np.minimum(at_PxGxT, place_T[-1])

    def take(x: np.ndarray) -> np.ndarray:
      return np.where(inside_PxGxT, np.take_along_axis(x, at_PxGxT, -1), 0)

    found: Any = take(token), take(logp), length - start_PxG, self.finished
    return Rollout(*found)


class Setup(NamedTuple):
  """Static side of a rollout's programs; hashable, for `jit`."""

  config: ModelConfig
  budget: int  # T
  eos: tuple[int, ...]  # ids that end a reply
  stop: tuple[int, ...]  # ids that cut a reply off unfinished
  tiling: Tiling
  for_tpu: bool

  def ends(self, token: jax.Array) -> jax.Array:
    """True where a token ends its reply, in the shape of `token`."""
    eos_E = jnp.asarray(self.eos, jnp.int32)
    return (token[..., None] == eos_E).any(-1) | self.cuts(token)

  def cuts(self, token: jax.Array) -> jax.Array:
    """True where a token cuts its reply off, in the shape of `token`."""
    stop_V = jnp.zeros(self.config.vocab_size, bool)
    return stop_V.at[jnp.array(self.stop, int)].set(True)[token]

  def turned(self, kv: KV) -> KV:
    """Converts keys between the decoding loop's layout and that of arguments.

    In the loop, the shape of keys is `[..., H, S]`.  But XLA stores a program's
    arguments and results in the order of their shape, and copies them where the
    loop reads another order, so that they are in memory twice.  The TPU kernel
    reads `[..., S, H]`: on TPU, that is the shape between programs.
    """
    return KV(jnp.swapaxes(kv.k, -1, -2), kv.v) if self.for_tpu else kv


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
  second: Turn | None = None  # the request after the first reply, if any


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
  config: ModelConfig,
  sampler: Sampler,
  hidden_PxGxD: jax.Array,
  head_VxD: jax.Array,
  key_PxG: jax.Array,
  t: jax.Array | int,
  allowed_BxV: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Draws the t-th token of every reply.

  Args:
    config: of the model.
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
  logits_BxV = final_logits(config, logits_BxV)
  if allowed_BxV is not None:
    logits_BxV = jnp.where(allowed_BxV, logits_BxV, -jnp.inf)
  logp_BxV, weight_BxV = sampler(logits_BxV)
  # The position is folded in here, so no random state is carried in the loop.
  fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
  uniform_B = jax.vmap(jax.random.uniform)(fold(key_PxG.reshape(-1), t))
  token_B = inverse_cdf(weight_BxV, uniform_B)
  logp_B = jnp.take_along_axis(logp_BxV, token_B[:, None], axis=1)[:, 0]
  return token_B.reshape(shape_PxG), logp_B.reshape(shape_PxG)


def tiles_needed(rows: Rows, setup: Setup) -> jax.Array:
  """Tiles per shard, a scalar, that hold the live replies (`tiles.needed`)."""
  return tiles.needed(setup.tiling, rows.origin, ~rows.rollout.finished)


def empty_rollout(
  prompts: int, group_size: int, max_new_tokens: int, two_turns: bool = False
) -> Rollout:
  """A rollout without tokens, of the final shape."""
  shape_PxG = (prompts, group_size)
  shape_PxGxT = (*shape_PxG, max_new_tokens)
  return Rollout(
    token=jnp.zeros(shape_PxGxT, jnp.int32),
    logp=jnp.zeros(shape_PxGxT),
    length=jnp.zeros(shape_PxG, jnp.int32),
    finished=jnp.zeros(shape_PxG, bool),
    given=jnp.zeros(shape_PxGxT, bool) if two_turns else None,
  )


def empty_cache(config: ModelConfig, prompts: int, group_size: int) -> list[KV]:
  """KV cache of length 0, one `KV` per layer that has its own keys."""

  def empty(c: ModelConfig) -> KV:
    # Keys are transposed: in both products of a decode step, the contracted
    # axis (H of keys, S of values) is the second to last.
    shape = prompts, group_size, c.num_kv_heads
    k_PxGxKxHx0 = jnp.zeros((*shape, c.head_dim, 0), c.dtype)
    return KV(k_PxGxKxHx0, jnp.zeros((*shape, 0, c.head_dim), c.dtype))

  own = config.num_layers - config.shared_layers
  return [empty(config.layer(n)) for n in range(own)]


def add_token(
  rows: Rows,
  hidden_PxGxD: jax.Array,
  head_VxD: jax.Array,
  t: jax.Array | int,
  sampler: Sampler,
  grammar: Grammar | None,
  setup: Setup,
) -> Rows:
  """Draws the t-th token of every reply, and records that of live ones.

  Tokens of a second request are recorded in place of drawn ones.

  Args:
    rows: the replies, with t tokens each.
    hidden_PxGxD: hidden states at the tokens before.
    head_VxD: output embedding.
    t: index of the token.
    sampler: see `samplers`.
    grammar: automaton that constrains the replies, or None.
    setup: of the rollout.
  """
  rollout, state_PxG = rows.rollout, rows.state
  allowed_BxV = grammar and grammar.allowed(
    state_PxG.reshape(-1), setup.budget - t
  )
  token_PxG, logp_PxG = draw(
    setup.config, sampler, hidden_PxGxD, head_VxD, rows.key, t, allowed_BxV
  )
  if grammar:
    state_PxG = grammar.advance(state_PxG, token_PxG)
  # Finished replies are decoded on, as the shapes are fixed, but their tokens
  # are replaced by padding.
  live = ~rollout.finished
  drawn, second, given = live, rows.second, rollout.given
  if second is not None and given is not None:
    drawn = live & ~second.given
    token_PxG = jnp.where(second.given, second.next, token_PxG)
    given = given.at[:, :, t].set(live & second.given)
  token_PxG = jnp.where(live, token_PxG, 0).astype(jnp.int32)
  ends_PxG = setup.ends(token_PxG) & drawn
  if second is not None:
    # The end of a first reply is not that of its row, unless it was cut off.
    whole_PxG = ends_PxG & ~setup.cuts(token_PxG)
    ends_PxG &= ~(second.first & whole_PxG)
    second = second.advance(whole_PxG)
  rollout = Rollout(
    token=rollout.token.at[:, :, t].set(token_PxG),
    logp=rollout.logp.at[:, :, t].set(jnp.where(drawn, logp_PxG, 0.0)),
    length=rollout.length + live,
    finished=rollout.finished | ends_PxG,
    given=given,
  )
  return rows.replace(
    rollout=rollout, last=token_PxG, state=state_PxG, second=second
  )


# --- Programs ---------------------------------------------------------------


@functools.partial(jax.jit, static_argnames='setup')
def start(
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  brief_id_P: jax.Array,
  sampler: Sampler,
  seed: jax.Array | int,
  step: jax.Array | int,
  grammar: Grammar | None = None,
  second: tuple[jax.Array, jax.Array] | None = None,
  *,
  setup: Setup,
) -> tuple[Rows, list[KV], list[KV], jax.Array]:
  """Runs each brief once, and draws the first token of its G replies.

  Args are those of `rollout.sample_and_count`.

  Returns:
    The replies; for each layer that has its own the keys and values of the
    briefs, and an empty cache for those of the replies, as `Setup.turned`; and
    `tiles_needed`.
  """
  config, tiling = setup.config, setup.tiling
  shape_PxG = (len(prompt_PxL), tiling.group)
  params = as_dtype(params, config.dtype)
  last_PxD, prefix = prefill(config, params, prompt_PxL, length_P)
  rows = Rows(
    rollout=empty_rollout(*shape_PxG, setup.budget, second is not None),
    last=jnp.zeros(shape_PxG, jnp.int32),
    key=reply_keys(seed, step, brief_id_P, tiling.group),
    state=jnp.zeros(shape_PxG, jnp.int16),
    origin=tiles.origins(tiling),
    length=length_P,
    second=second and turns.begin(*second, tiling.group),
  )
  # The first token of all G replies is drawn from the same hidden state, that
  # of the brief's last token.
  first = jnp.broadcast_to(last_PxD[:, None], (*shape_PxG, last_PxD.shape[-1]))
  rows = add_token(rows, first, head_weight(params), 0, sampler, grammar, setup)
  briefs = [setup.turned(kv) for kv in split_brief(prefix.kv)]
  cache = [setup.turned(kv) for kv in empty_cache(config, *shape_PxG)]
  left = tiles_needed(rows, setup)
  return (
    tiles.split_over_mesh(rows),
    tiles.split_over_mesh(briefs, 1),
    cache,
    left,
  )


# The cache is written in place.
@functools.partial(jax.jit, static_argnames='setup', donate_argnames='cache')
def decode(
  params: Params,
  layers: list[Params],
  briefs: list[KV],
  cache: list[KV],
  rows: Rows,
  t: jax.Array | int,
  enough: jax.Array | int,
  sampler: Sampler,
  grammar: Grammar | None = None,
  *,
  setup: Setup,
) -> tuple[Rows, list[KV], jax.Array, jax.Array]:
  """Appends a token to every row per iteration.

  Ends when the cache or the replies are full, all replies have ended, the live
  ones fit fewer tiles, or after `MOST_TOKENS`.

  Args:
    params: of the policy, without the blocks.
    layers: weights of each block, of `split_blocks`.
    briefs: for each layer the keys and values of the briefs.
    cache: for each layer those of the replies.
    rows: the replies.
    t: number of tokens that each of them has, or had when it ended; at least 1.
    enough: number of `tiles_needed` to stop at; 0 to go on to the end.
    sampler: see `samplers`.
    grammar: automaton that constrains the replies, or None.
    setup: of the rollout.

  Returns:
    The new rows, cache and `t`, and `tiles_needed`.
  """
  config = setup.config
  briefs = [setup.turned(kv) for kv in briefs]
  cache = [setup.turned(kv) for kv in cache]
  size = cache[0].v.shape[-2]
  # Everything below is constant over the decode steps.  XLA does not reliably
  # hoist it out of a `while_loop`, so it is computed before.
  prefix = Prefix(briefs[0], rows.length)
  ropes = reply_ropes(config, prefix, setup.budget)
  head_VxD = head_weight(params)
  blocks = [
    (layer, briefs[config.kv_layer(n)]) for n, layer in enumerate(layers)
  ]

  end = jnp.minimum(setup.budget, t + MOST_TOKENS)

  def goes_on(state: Any) -> jax.Array:
    _, _, t, left = state
    return (t <= size) & (t < end) & (left > enough)

  def one_token(state: Any) -> Any:
    rows, cache, t, _ = state
    hidden, cache = decode_step(
      config, params, blocks, ropes, rows.last, prefix, cache, t - 1
    )
    rows = add_token(rows, hidden, head_VxD, t, sampler, grammar, setup)
    left = tiles_needed(rows, setup)
    return rows, cache, t + 1, left

  left = tiles_needed(rows, setup)
  state = lax.while_loop(goes_on, one_token, (rows, cache, jnp.int32(t), left))
  rows, cache, done, left = state
  return rows, [setup.turned(kv) for kv in cache], done, left


@functools.partial(jax.jit, static_argnames='setup')
def mark_cut(rollout: Rollout, *, setup: Setup) -> Rollout:
  """Marks replies whose last token cut them off as unfinished."""
  last_PxGx1 = jnp.maximum(rollout.length[..., None] - 1, 0)
  last_PxG = jnp.take_along_axis(rollout.token, last_PxGx1, -1)[..., 0]
  whole_PxG = rollout.finished & ~setup.cuts(last_PxG)
  return rollout.replace(finished=whole_PxG)
