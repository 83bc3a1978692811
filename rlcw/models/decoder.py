"""A decoder-only language model whose unit is a group of replies to a brief.

One block serves every phase; what differs is which keys a query may see:

  1. a brief, or any plain row   own keys, causal             `Decoder`
     texts packed into a row     their own each, causal       `Decoder(segment)`
  2. replies to a known brief    brief's keys + own, causal   `Decoder(prefix)`
  3. one new token per reply     brief's keys + suffix cache  `decode_step`

The brief's keys have no group axis: G replies read one copy.  (1) and (2) scan
over stacked layers, so compile time does not grow with depth; (3) is unrolled,
as slicing a layer out of the stack for every token costs more than the layer.

Rows are padded on the right and attention is causal, so padding is never seen
by a real token; the brief's padding is masked by its length.

Letters: P prompts, G replies in a group, L length, T reply length, S keys,
D model, F mlp, N query heads, K key/value heads, R = N / K, H head, V vocab.
"""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rlcw.models.attention import (
  Rope,
  attend,
  rope_at,
  rotate,
  segment_positions,
)
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.config import ModelConfig
from rlcw.models.layers import Linear, RMSNorm, elementwise, weight
from rlcw.runtime.mesh import constrain

Params = Any  # a nested dict of arrays

_ACTIVATIONS = {
  'silu': nn.silu,
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
}


def _either(
  local: jax.Array | bool | None,
  one: Callable[[], Any],
  other: Callable[[], Any],
) -> Any:
  """`one()` in a local layer, else `other()`; known here or traced."""
  if local is None or isinstance(local, bool):
    return one() if local else other()
  return lax.cond(local, one, other)


def _append(cache: KV, new: KV, index: jax.Array | int) -> tuple[KV, KV]:
  """The cache with new keys and values at `index`, and as attention takes it.

  A cache holds keys `[P, G, K, H, S]` and values `[P, G, K, S, H]`, the orders
  in which XLA's products on a CPU read them; in others they would be copied
  for every token.  How attention takes them, `[P, G, S, K, H]`, is a view.
  """

  def put(old: jax.Array, x_PxGxLxKxH: jax.Array, axis: int) -> jax.Array:
    x = jnp.moveaxis(x_PxGxLxKxH, 2, axis)
    return lax.dynamic_update_slice_in_dim(old, x, index, axis)

  k, v = put(cache.k, new.k, -1), put(cache.v, new.v, -2)
  return KV(k, v), KV(jnp.moveaxis(k, -1, 2), jnp.moveaxis(v, -2, 2))


class Block(nn.Module):
  """Attention and a gated MLP, each behind a norm and beside a residual."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x_PxGxLxD: jax.Array,
    local: jax.Array | bool | None,
    ropes: tuple[Rope, Rope],
    prefix_length_P: jax.Array | None,
    prefix_kv: KV | None,
    segment_PxGxL: jax.Array | None = None,
    cache: KV | None = None,
    index: jax.Array | int = 0,
  ) -> tuple[jax.Array, KV]:
    """Returns the new activations and this layer's keys and values.

    A `local` layer turns by the second rope and sees a window.  With a `cache`
    (`_append`) the new keys are written at `index`, the whole of it is
    attended to and returned; without one, just the new keys are.
    """
    c, x = self.config, x_PxGxLxD

    def linear(name: str, size: int, axes: tuple[str, str], bias: bool = False):
      adapted = c.lora is not None and name in c.lora.targets
      lora = c.lora if adapted else None
      return Linear(size, axes, bias, lora, name=name)

    def norm(name: str) -> RMSNorm:
      return RMSNorm(c.norm_eps, c.norm_offset, name=name)

    def heads(name: str, count: int, axis: str) -> jax.Array:
      to = linear(name, count * c.head_dim, (axis, 'embed'), c.qkv_bias)
      return to(y).reshape(*x.shape[:3], count, c.head_dim)

    y = norm('attention_norm')(x)
    q = heads('query', c.num_heads, 'heads')
    k = heads('key', c.num_kv_heads, 'kv')
    v = heads('value', c.num_kv_heads, 'kv')
    if c.qk_norm:
      q, k = norm('query_norm')(q), norm('key_norm')(k)
    rope = _either(local, lambda: ropes[1], lambda: ropes[0])
    scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
    q, k = rotate(q, rope) * scale, rotate(k, rope)
    new = own = KV(k, v)
    if cache is not None:
      new, own = _append(cache, own, index)
    q = q.reshape(*x.shape[:3], c.num_kv_heads, -1, c.head_dim)
    prefix = None
    if prefix_kv is not None and prefix_length_P is not None:
      prefix = Prefix(prefix_kv, prefix_length_P)

    def look(window: int | None) -> jax.Array:
      how: Any = {'start': index, 'implementation': c.attention}
      return attend(q, own, prefix, segment_PxGxL, window=window, **how)

    y = _either(local, lambda: look(c.window), lambda: look(None))
    y = y.reshape(*x.shape[:3], c.num_heads * c.head_dim)
    y = linear('output', c.model_dim, ('embed', 'heads'))(y)
    x += norm('attention_post_norm')(y) if c.sandwich_norms else y
    y = norm('mlp_norm')(x)
    gate = linear('gate', c.mlp_dim, ('mlp', 'embed'))(y)
    up = linear('up', c.mlp_dim, ('mlp', 'embed'))(y)
    y = elementwise(
      lambda gate, up: _ACTIVATIONS[c.activation](gate) * up, gate, up
    )
    y = linear('down', c.model_dim, ('embed', 'mlp'))(y)
    x += norm('mlp_post_norm')(y) if c.sandwich_norms else y
    return constrain(x), new


def _embed(config: ModelConfig, embed_VxD: jax.Array, token: jax.Array):
  """Embeddings `[..., D]` of tokens `[...]`, scaled as the family does."""
  x = embed_VxD[token].astype(config.dtype)
  return constrain(x * jnp.asarray(config.embed_scale, x.dtype))


def _ropes(config: ModelConfig, position_PxGxL: jax.Array) -> tuple[Rope, Rope]:
  """The angles of full and of local layers."""
  full = rope_at(position_PxGxL, config.rope, config.head_dim)
  if config.local_rope in (None, config.rope):
    return full, full
  return full, rope_at(position_PxGxL, config.local_rope, config.head_dim)


class Decoder(nn.Module):
  """Embedding, stacked blocks, final norm; the head is `head_weight`."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    token_PxGxL: jax.Array,
    prefix: Prefix | None = None,
    segment_PxGxL: jax.Array | None = None,
  ) -> tuple[jax.Array, KV]:
    """One causal pass.

    Args:
      token_PxGxL: ids, padded on the right.
      prefix: the brief that all G rows of a prompt continue, if any.
      segment_PxGxL: where several texts are packed into a row, the number of
        the one that each token is of: no other is seen, and places count from
        its beginning.

    Returns:
      Hidden states after the final norm `[P, G, L, D]`, and keys and values
      `[layers, P, G, L, K, H]`.
    """
    c = self.config
    length = token_PxGxL.shape[-1]
    position_PxGxL = jnp.broadcast_to(jnp.arange(length), token_PxGxL.shape)
    prefix_kv = prefix_length_P = None
    if prefix is not None:
      prefix_kv, prefix_length_P = prefix
      position_PxGxL += prefix.length_P[:, None, None]
    if segment_PxGxL is not None:
      position_PxGxL = segment_positions(segment_PxGxL)
    axes, shape = ('vocab', 'embed'), (c.vocab_size, c.model_dim)
    embed_VxD = weight(self, 'embed', axes, shape)
    if not c.tied_head:
      weight(self, 'head', axes, shape)
    each, same = 0, nn.broadcast
    local = each if c.local_layers else same
    products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    blocks = nn.scan(
      nn.remat(Block, prevent_cse=False, policy=None if c.remat else products),
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=cast(Any, (local, same, same, each, same)),
      length=c.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    x, kv = blocks(c, name='blocks')(
      _embed(c, embed_VxD, token_PxGxL),
      jnp.array(c.local_layers) if c.local_layers else None,
      _ropes(c, position_PxGxL),
      prefix_length_P,
      prefix_kv,
      segment_PxGxL,
    )
    return RMSNorm(c.norm_eps, c.norm_offset, name='final_norm')(x), kv


def _apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
  return module.apply({'params': params}, *inputs)


def as_dtype(params: Params, dtype: str) -> Params:
  """Weights as products use them; norms, which are float32, keep theirs."""
  return jax.tree.map_with_path(
    lambda path, a: a if path[-1].key == 'scale' else a.astype(dtype), params
  )


def head_weight(params: Params) -> jax.Array:
  """The output projection `[V, D]`, the embedding itself where it is tied."""
  return params['head'] if 'head' in params else params['embed']


def prefill(
  config: ModelConfig,
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  preface: Prefix | None = None,
) -> tuple[jax.Array, Prefix]:
  """Runs each brief once.

  Args:
    config: of the model.
    params: of the model.
    prompt_PxL: briefs, padded on the right.
    length_P: their lengths, at least 1.
    preface: what every brief begins with, if anything, read beforehand: S
      equal rows without padding, each of which P / S briefs continue.

  Returns:
    The hidden state `[P, D]` at each brief's last token, which predicts every
    reply's first one, and the brief as a `Prefix` for its replies.
  """
  prompts = len(prompt_PxL)
  rows = prompts if preface is None else len(preface.length_P)
  hidden, kv = _apply(
    Decoder(config),
    params,
    prompt_PxL.reshape(rows, prompts // rows, -1),
    preface,
  )
  hidden_PxLxD = hidden.reshape(*prompt_PxL.shape, -1)
  last_PxD = jnp.take_along_axis(
    hidden_PxLxD, length_P[:, None, None] - 1, axis=1
  )[:, 0]
  kv = jax.tree.map(
    lambda x: x.reshape(len(x), *prompt_PxL.shape, *x.shape[4:]), kv
  )
  if preface is None:
    return last_PxD, Prefix(kv, length_P)
  kv = jax.tree.map(
    lambda before, own: jnp.concatenate(
      [jnp.repeat(before, prompts // rows, axis=1), own], axis=2
    ),
    preface.kv,
    kv,
  )
  return last_PxD, Prefix(kv, preface.length_P[0] + length_P)


def forward_replies(
  config: ModelConfig,
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  token_PxGxT: jax.Array,
  preface: Prefix | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Runs each brief once and its G replies on top of it.

  Returns:
    `predicting` and `reading`, both `[P, G, T, D]`: the hidden states that
    predict each reply token, and those that have just read it.
  """
  last_PxD, prefix = prefill(config, params, prompt_PxL, length_P, preface)
  reading, _ = _apply(Decoder(config), params, token_PxGxT, prefix)
  first = jnp.broadcast_to(
    last_PxD[:, None, None], (*token_PxGxT.shape[:2], 1, last_PxD.shape[-1])
  )
  return jnp.concatenate([first, reading[:, :, :-1]], axis=2), reading


def forward_packed(
  config: ModelConfig,
  params: Params,
  token_BxL: jax.Array,
  segment_BxL: jax.Array,
) -> jax.Array:
  """Runs rows of several texts each; hidden states `[B, L, D]`."""
  hidden, _ = _apply(
    Decoder(config), params, token_BxL[:, None], None, segment_BxL[:, None]
  )
  return hidden[:, 0]


def unstack(
  blocks: Params, brief: KV, num_layers: int
) -> list[tuple[Params, KV]]:
  """Each layer's weights and its part of the briefs, for `decode_step`.

  Args:
    blocks: weights, stacked over layers.
    brief: keys and values `[layers, P, S, K, H]`.
    num_layers: of the model.

  Returns:
    For each layer its weights, and keys `[P, K, H, S]` and values
    `[P, K, S, H]`, the order in which they are read, as in `_append`.
  """
  brief = KV(jnp.moveaxis(brief.k, 2, -1), jnp.swapaxes(brief.v, 2, 3))
  stacked = blocks, brief
  return [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(num_layers)]


def reply_ropes(
  config: ModelConfig, prefix: Prefix, max_new_tokens: int
) -> tuple[Rope, Rope]:
  """The angles `[P, 1, T, 1, H/2]` of replies' tokens, for `decode_step`.

  Of full and of local layers; inside the loop XLA would take their cosines
  anew in every layer.
  """
  position_PxGxT = prefix.length_P[:, None, None] + jnp.arange(max_new_tokens)
  return _ropes(config, position_PxGxT)


def decode_step(
  config: ModelConfig,
  params: Params,
  layers: list[tuple[Params, KV]],
  ropes: tuple[Rope, Rope],
  token_PxG: jax.Array,
  prefix: Prefix,
  cache: list[KV],
  index: jax.Array,
) -> tuple[jax.Array, list[KV]]:
  """Reads one new token per reply, the `index`-th of each.

  Args:
    layers: of `unstack`, made outside the loop.
    ropes: of `reply_ropes`, likewise.
    cache: for each layer keys `[P, G, K, H, S]` and values `[P, G, K, S, H]` of
      the suffix.

  Returns:
    The hidden state `[P, G, D]` that predicts the next token; the new cache.
  """
  c = config
  x = _embed(c, params['embed'], token_PxG[:, :, None])
  rope = jax.tree.map(
    lambda x: lax.dynamic_slice_in_dim(x, index, 1, axis=2), ropes
  )
  new_cache = []
  local = c.local_layers or (False,) * c.num_layers
  for here, (block, (k, v)), kv in zip(local, layers, cache, strict=True):
    brief = KV(jnp.moveaxis(k, -1, 1), jnp.swapaxes(v, 1, 2))
    x, kv = _apply(
      Block(c), block, x, here, rope, prefix.length_P, brief, None, kv, index
    )
    new_cache.append(kv)
  norm = RMSNorm(c.norm_eps, c.norm_offset)
  return _apply(norm, params['final_norm'], x)[:, :, 0], new_cache
