"""Group rollout: G replies to each brief, the brief read once.

  1. prefill   every brief once; only its last hidden state and keys are kept
  2. decode    a `while_loop`, each turn a token for every reply, leaving early
               when all have ended; long replies take several, as their cache
               grows
  3. Rollout   tokens with EOS, lengths, log-probabilities

A token's randomness is a function of (seed, step, brief, reply, position) and
of nothing else: replies do not depend on the batch they were drawn in, on the
mesh, or on restarts.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rlcw.models import attention_kernels
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
from rlcw.sampling.grammar import Grammar


@struct.dataclass
class Rollout:
  """Sampled replies; T is the token budget, shorter ones are padded with 0."""

  token: jax.Array  # [P, G, T] int32, EOS included
  logp: jax.Array  # [P, G, T] float32, under softmax(logits / temperature)
  length: jax.Array  # [P, G] int32, EOS included
  finished: jax.Array  # [P, G] bool, false where the budget cut the reply

  @property
  def mask(self) -> jax.Array:
    """[P, G, T], true at real tokens."""
    return jnp.arange(self.token.shape[-1]) < self.length[..., None]


# A method turns logits into the tempered log-probabilities that are recorded,
# and the weights that are drawn from.  Where it cuts the tail (top-k, top-p)
# the recorded ones stay those of the whole softmax, because the loss computes
# the same: ratios then compare two full policies.


@struct.dataclass
class Greedy:
  """The likeliest token; log-probabilities are those at temperature 1."""

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    best_B = logits_BxV.argmax(-1)
    weight = jax.nn.one_hot(best_B, logits_BxV.shape[-1])
    return jax.nn.log_softmax(logits_BxV), weight


@struct.dataclass
class Temperature:
  """The whole softmax at a temperature, which is traced."""

  temperature: Any = 1.0

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    logp_BxV = jax.nn.log_softmax(logits_BxV / self.temperature)
    return logp_BxV, jnp.exp(logp_BxV)


@struct.dataclass
class TopK:
  """The k likeliest tokens."""

  k: int = struct.field(pytree_node=False)
  temperature: Any = 1.0

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    logp_BxV = jax.nn.log_softmax(logits_BxV / self.temperature)
    least_Bx1 = lax.top_k(logp_BxV, self.k)[0][:, -1:]
    return logp_BxV, jnp.where(logp_BxV >= least_Bx1, jnp.exp(logp_BxV), 0.0)


@struct.dataclass
class TopP:
  """The fewest tokens that hold probability p (nucleus, arXiv 1904.09751)."""

  p: Any
  temperature: Any = 1.0

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    logp_BxV = jax.nn.log_softmax(logits_BxV / self.temperature)
    prob_BxV = jnp.exp(logp_BxV)
    falling_BxV = -jnp.sort(-prob_BxV, axis=-1)
    before_BxV = jnp.cumsum(falling_BxV, axis=-1) - falling_BxV
    kept_B = jnp.maximum(jnp.sum(before_BxV < self.p, axis=-1), 1)
    least_Bx1 = jnp.take_along_axis(falling_BxV, kept_B[:, None] - 1, axis=-1)
    return logp_BxV, jnp.where(prob_BxV >= least_Bx1, prob_BxV, 0.0)


def make_sampler(temperature: float, top_k: int = 0, top_p: float = 1.0) -> Any:
  """The method that these settings name.

  Args:
    temperature: 0 is greedy.
    top_k: 0 keeps all tokens.
    top_p: 1 keeps all tokens.

  Raises:
    ValueError: a setting is out of range, or both tails are to be cut.
  """
  if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
    raise ValueError(
      f'temperature={temperature}, top_k={top_k}, top_p={top_p}; legal: '
      'temperature >= 0, top_k >= 0, 0 < top_p <= 1'
    )
  if top_k and top_p < 1:
    raise ValueError(f'top_k={top_k} and top_p={top_p}: choose one of them')
  if temperature == 0:
    return Greedy()
  if top_k:
    return TopK(top_k, temperature)
  return TopP(top_p, temperature) if top_p < 1 else Temperature(temperature)


def inverse_cdf(
  weight_BxV: jax.Array, uniform_B: jax.Array, block: int = 256
) -> jax.Array:
  """Draws an index in proportion to weight from one uniform number per row.

  Two levels, first a block of the vocabulary and then a token inside it, cost
  a small part of what V Gumbel draws or one cumulative sum over V do.
  """
  rows, vocab = weight_BxV.shape
  weight = jnp.pad(weight_BxV, ((0, 0), (0, -vocab % block)))
  weight_BxNxC = weight.reshape(rows, -1, block)
  block_BxN = jnp.cumsum(weight_BxNxC.sum(-1), axis=-1)
  target_B, n_B = _first_above(block_BxN, uniform_B * block_BxN[:, -1])
  before_B = jnp.where(
    n_B > 0, jnp.take_along_axis(block_BxN, n_B[:, None] - 1, 1)[:, 0], 0.0
  )
  inside_BxC = jnp.take_along_axis(weight_BxNxC, n_B[:, None, None], 1)[:, 0]
  _, c_B = _first_above(jnp.cumsum(inside_BxC, axis=-1), target_B - before_B)
  return n_B * block + c_B


def _first_above(
  total_BxN: jax.Array, target_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The first index whose running total exceeds the target.

  The target is kept below the last total, so there is one, and its own weight
  is positive: a token of weight 0 is never drawn.
  """
  ceiling_B = total_BxN[:, -1] * (1 - jnp.finfo(jnp.float32).eps)
  target_B = jnp.minimum(target_B, ceiling_B)
  return target_B, jnp.argmax(total_BxN > target_B[:, None], axis=-1)


def reply_keys(
  seed: jax.Array | int,
  step: jax.Array | int,
  brief_id_P: jax.Array,
  group_size: int,
) -> jax.Array:
  """A key `[P, G]` for each reply: of (seed, step, brief, reply) alone."""
  base = jax.random.fold_in(jax.random.key(seed), step)
  fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  brief_P = fold(base, brief_id_P)
  return jax.vmap(fold, in_axes=(0, None))(brief_P, jnp.arange(group_size))


def draw(
  method: Any,
  hidden_PxGxD: jax.Array,
  head_VxD: jax.Array,
  key_PxG: jax.Array,
  t: jax.Array,
  legal_BxV: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Every reply's t-th token and its log-probability, both `[P, G]`.

  Where only some tokens are legal, the softmax is over these.
  """
  shape_PxG = hidden_PxGxD.shape[:2]
  hidden_BxD = hidden_PxGxD.reshape(-1, hidden_PxGxD.shape[-1])
  logits_BxV = product(hidden_BxD, head_VxD, jnp.float32)
  if legal_BxV is not None:
    logits_BxV = jnp.where(legal_BxV, logits_BxV, -jnp.inf)
  logp_BxV, weight_BxV = method(logits_BxV)
  fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))
  uniform_B = jax.vmap(jax.random.uniform)(fold(key_PxG.reshape(-1), t))
  token_B = inverse_cdf(weight_BxV, uniform_B)
  logp_B = jnp.take_along_axis(logp_BxV, token_B[:, None], axis=1)[:, 0]
  return token_B.reshape(shape_PxG), logp_B.reshape(shape_PxG)


def empty_rollout(
  prompts: int, group_size: int, max_new_tokens: int
) -> Rollout:
  """Replies of no tokens yet."""
  shape_PxG = (prompts, group_size)
  return Rollout(
    token=jnp.zeros((*shape_PxG, max_new_tokens), jnp.int32),
    logp=jnp.zeros((*shape_PxG, max_new_tokens)),
    length=jnp.zeros(shape_PxG, jnp.int32),
    finished=jnp.zeros(shape_PxG, bool),
  )


def empty_cache(config: ModelConfig, prompts: int, group_size: int) -> list[KV]:
  """The cache of replies without a token, a `KV` for each layer."""
  shape = prompts, group_size, config.num_kv_heads
  k_PxGxKxHx0 = jnp.zeros((*shape, config.head_dim, 0), config.dtype)
  v_PxGxKx0xH = jnp.zeros((*shape, 0, config.head_dim), config.dtype)
  return [KV(k_PxGxKxHx0, v_PxGxKx0xH)] * config.num_layers


def cache_sizes(max_new_tokens: int) -> list[int]:
  """How many tokens a cache has room for, one loop after the other.

  XLA reads a cache as a whole for every token, what is not written yet as well:
  one that grows in quarters spares three eighths of that.  Each loop has to be
  compiled, so that there are no more, and none of less than 128 tokens.  For a
  TPU, whose kernel reads only what is written, there is one.
  """
  parts = min(max_new_tokens // 128, 4) or 1
  if attention_kernels.compiles_for('tpu'):
    parts = 1
  return [-(-max_new_tokens * n // parts) for n in range(1, parts + 1)]


def grow_cache(kv: KV, room: int) -> KV:
  """One layer's keys `[P, G, K, H, S]` and values with room for more."""
  more = room - kv.k.shape[-1]
  return KV(
    jnp.pad(kv.k, [(0, 0)] * 4 + [(0, more)]),
    jnp.pad(kv.v, [(0, 0)] * 3 + [(0, more), (0, 0)]),
  )


@functools.partial(
  jax.jit, static_argnames=('config', 'group_size', 'max_new_tokens', 'eos')
)
def sample(
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  brief_id_P: jax.Array,
  method: Any,
  seed: jax.Array | int,
  step: jax.Array | int,
  grammar: Grammar | None = None,
  *,
  config: ModelConfig,
  group_size: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
) -> Rollout:
  """Samples G replies to each brief.

  Args:
    params: of the policy.
    prompt_PxL: chat-formatted briefs, padded on the right.
    length_P: their lengths, at least 1.
    brief_id_P: an integer that names each brief for the random keys.
    method: `Greedy()`, `Temperature(t)`, `TopK(k, t)` or `TopP(p, t)`.
    seed: of the run.
    step: of the run; two steps never share noise.
    grammar: what replies have to fit, if anything; it must reach its end
      within T tokens.
    config: of the model.
    group_size: G.
    max_new_tokens: T.
    eos: ids that end a reply.

  Returns:
    A `Rollout`.  One compilation per (P, L, G, T) and kind of method;
    temperature, p, seed and step are traced.
  """
  shape_PxG = (len(prompt_PxL), group_size)
  params = as_dtype(params, config.dtype)  # once, not for every token
  last_PxD, prefix = prefill(config, params, prompt_PxL, length_P)
  layers = unstack(params['blocks'], prefix.kv, config.num_layers)
  ropes = reply_ropes(config, prefix, max_new_tokens)
  head_VxD = head_weight(params)
  key_PxG = reply_keys(seed, step, brief_id_P, group_size)
  eos_E = jnp.asarray(eos, jnp.int32)

  def alive(state) -> jax.Array:
    t, rollout, _, cache, _ = state
    return (t < cache[0].v.shape[-2]) & ~rollout.finished.all()

  def turn(state):
    t, rollout, hidden_PxGxD, cache, place_B = state
    legal_BxV = grammar and grammar.legal(place_B, max_new_tokens - t)
    token_PxG, logp_PxG = draw(
      method, hidden_PxGxD, head_VxD, key_PxG, t, legal_BxV
    )
    if grammar:
      place_B = grammar.read(place_B, token_PxG.reshape(-1))
    live = ~rollout.finished
    token_PxG = jnp.where(live, token_PxG, 0).astype(jnp.int32)
    logp_PxG = jnp.where(live, logp_PxG, 0.0)
    ended = (token_PxG[..., None] == eos_E).any(-1) & live
    rollout = Rollout(
      token=rollout.token.at[:, :, t].set(token_PxG),
      logp=rollout.logp.at[:, :, t].set(logp_PxG),
      length=rollout.length + live,
      finished=rollout.finished | ended,
    )
    hidden, cache = decode_step(
      config, params, layers, ropes, token_PxG, prefix, cache, t
    )
    return t + 1, rollout, hidden, cache, place_B

  first = jnp.broadcast_to(last_PxD[:, None], (*shape_PxG, last_PxD.shape[-1]))
  rollout = empty_rollout(*shape_PxG, max_new_tokens)
  place_B = jnp.zeros(key_PxG.size, jnp.int16)  # in the grammar
  t, hidden, cache = jnp.int32(0), first, empty_cache(config, *shape_PxG)
  for room in cache_sizes(max_new_tokens):
    state = t, rollout, hidden, [grow_cache(kv, room) for kv in cache], place_B
    t, rollout, hidden, cache, place_B = lax.while_loop(alive, turn, state)
  return rollout
