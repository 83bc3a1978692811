"""Group rollout: G sampled replies to each brief, with one prefill per brief.

  1. prefill   every brief once; its last hidden state and KV cache are kept,
               and shared by its G replies
  2. decode    a `while_loop` that appends a token to every reply per iteration
               and ends early when all replies have ended; long replies take
               several loops, with a larger KV cache each
  3. Rollout   tokens with EOS, lengths, log-probabilities

A token's randomness is a function of (seed, step, brief, reply, position)
alone: replies do not depend on the other rows of the batch, on the mesh, or on
restarts.

Shape letters: P prompts, G replies per prompt, B = P · G rows, L prompt
length, T reply budget, S cache length, D model, V vocab, K key/value heads,
H head; E ids that end a reply.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rlcw.models.attention_kernels import KV
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import (
  Params,
  as_dtype,
  decode_step,
  head_weight,
  prefill,
  reply_ropes,
  unstack,
)
from rlcw.models.layers import product
from rlcw.runtime.mesh import platform
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.samplers import Sampler, inverse_cdf


@struct.dataclass
class Rollout:
  """Sampled replies of up to T tokens, padded with 0."""

  token: jax.Array  # [P, G, T] int32, EOS included
  logp: jax.Array  # [P, G, T] float32, under softmax(logits / temperature)
  length: jax.Array  # [P, G] int32, EOS included
  finished: jax.Array  # [P, G] bool, false if the reply was cut off

  @property
  def mask(self) -> jax.Array:
    """Mask `[P, G, T]`, true at real tokens, EOS included."""
    return jnp.arange(self.token.shape[-1]) < self.length[..., None]


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
  t: jax.Array,
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


def cache_sizes(max_new_tokens: int) -> list[int]:
  """Cache lengths S of the decode loops, in tokens.

  XLA reads the full cache for every token, unwritten positions included;
  growing it in quarters saves three eighths of these reads.  Each loop is
  compiled separately, so there are at most four, of at least 128 tokens.  The
  TPU kernel reads written positions only, so there a single loop suffices.
  """
  parts = min(max_new_tokens // 128, 4) or 1
  if platform() == 'tpu':
    parts = 1
  return [-(-max_new_tokens * n // parts) for n in range(1, parts + 1)]


def grow_cache(kv: KV, size: int) -> KV:
  """Pads one layer's keys `[P, G, K, H, S]` and values `[P, G, K, S, H]`.

  Args:
    kv: the cache of a layer.
    size: new cache length, in tokens.
  """
  more = size - kv.k.shape[-1]
  return KV(
    jnp.pad(kv.k, [(0, 0)] * 4 + [(0, more)]),
    jnp.pad(kv.v, [(0, 0)] * 3 + [(0, more), (0, 0)]),
  )


@functools.partial(
  jax.jit,
  static_argnames=('config', 'group_size', 'max_new_tokens', 'eos', 'stop'),
)
def sample(
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
  group_size: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
  stop: tuple[int, ...] = (),
) -> Rollout:
  """Samples G replies to each brief.

  Args:
    params: of the policy.
    prompt_PxL: ids of chat-formatted briefs, padded on the right.
    length_P: lengths of the briefs, at least 1.
    brief_id_P: an integer per brief that is folded into its random keys.
    method: see `samplers`.
    seed: of the run.
    step: of the run; different steps have different randomness.
    grammar: automaton that constrains the replies, or None; it must be able to
      reach its end within T tokens.
    config: of the model.
    group_size: G.
    max_new_tokens: T.
    eos: ids that end a reply.
    stop: ids that have no place in a reply, and cut it off unfinished.

  Returns:
    A `Rollout`.  Compiled once per (P, L, G, T) and type of method;
    temperature, p, seed and step are traced.
  """
  shape_PxG = (len(prompt_PxL), group_size)
  # Cast before the loop, so that the decode steps read the smaller weights.
  params = as_dtype(params, config.dtype)
  last_PxD, prefix = prefill(config, params, prompt_PxL, length_P)
  # Everything below is constant over the decode steps.  XLA does not reliably
  # hoist it out of a `while_loop`, so it is computed before.
  layers = unstack(params['blocks'], prefix.kv, config.num_layers)
  ropes = reply_ropes(config, prefix, max_new_tokens)
  head_VxD = head_weight(params)
  key_PxG = reply_keys(seed, step, brief_id_P, group_size)
  eos_E = jnp.asarray(eos, jnp.int32)
  stop_V = jnp.zeros(config.vocab_size, bool).at[jnp.array(stop, int)].set(True)

  def cond(state) -> jax.Array:
    t, rollout, _, cache, _ = state
    # The loop of this cache ends when the cache is full.
    return (t < cache[0].v.shape[-2]) & ~rollout.finished.all()

  def body(state):
    t, rollout, hidden_PxGxD, cache, grammar_state_B = state
    allowed_BxV = grammar and grammar.allowed(
      grammar_state_B, max_new_tokens - t
    )
    token_PxG, logp_PxG = draw(
      method, hidden_PxGxD, head_VxD, key_PxG, t, allowed_BxV
    )
    if grammar:
      grammar_state_B = grammar.advance(grammar_state_B, token_PxG.reshape(-1))
    # Finished replies are decoded on, as the shapes are fixed, but their
    # tokens are replaced by padding.
    live = ~rollout.finished
    token_PxG = jnp.where(live, token_PxG, 0).astype(jnp.int32)
    logp_PxG = jnp.where(live, logp_PxG, 0.0)
    ended = (token_PxG[..., None] == eos_E).any(-1)
    if stop:
      ended |= stop_V[token_PxG]
    rollout = Rollout(
      token=rollout.token.at[:, :, t].set(token_PxG),
      logp=rollout.logp.at[:, :, t].set(logp_PxG),
      length=rollout.length + live,
      finished=rollout.finished | (ended & live),
    )
    hidden, cache = decode_step(
      config, params, layers, ropes, token_PxG, prefix, cache, t
    )
    return t + 1, rollout, hidden, cache, grammar_state_B

  # The first token of all G replies is drawn from the same hidden state, that
  # of the brief's last token.
  first = jnp.broadcast_to(last_PxD[:, None], (*shape_PxG, last_PxD.shape[-1]))
  rollout = empty_rollout(*shape_PxG, max_new_tokens)
  grammar_state_B = jnp.zeros(key_PxG.size, jnp.int16)
  t, hidden, cache = jnp.int32(0), first, empty_cache(config, *shape_PxG)
  # A Python loop: each cache length is a shape, and so a loop of its own.  If
  # all replies have ended, `cond` skips the remaining ones.
  for size in cache_sizes(max_new_tokens):
    cache = [grow_cache(kv, size) for kv in cache]
    state = t, rollout, hidden, cache, grammar_state_B
    t, rollout, hidden, cache, grammar_state_B = lax.while_loop(
      cond, body, state
    )
  if not stop:
    return rollout
  # Decoding has ended at a token of `stop` as well, but the reply is not whole.
  last_PxGx1 = jnp.maximum(rollout.length[..., None] - 1, 0)
  last_PxG = jnp.take_along_axis(rollout.token, last_PxGx1, -1)[..., 0]
  whole_PxG = rollout.finished & ~stop_V[last_PxG]
  return Rollout(rollout.token, rollout.logp, rollout.length, whole_PxG)
