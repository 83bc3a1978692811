"""A decoder-only language model that runs groups of replies to a brief.

One block serves every phase; the phases differ in the keys that are visible to
a query:

  1. a brief, or any plain row   own keys, causal             `Decoder`
     texts packed into a row     own segment's keys, causal   `Decoder(segment)`
  2. replies to a known brief    brief's keys + own, causal   `Decoder(prefix)`
     whole groups in packed rows the same, spread out for it  `Decoder(layout)`
  3. one new token per reply     brief's keys + reply cache   `decode_step`

The brief's keys have no group axis: G replies read one copy.  (1) and (2) scan
over stacked layers, so compile time does not grow with depth; (3) is unrolled,
because slicing a layer out of the stack for every token costs more than running
the layer.

Rows are padded on the right and attention is causal, so no real token attends
to padding; the padding of a brief is masked by its length.

Letters: P prompts, G replies in a group, L length, T reply length, S keys,
D model, F mlp, N query heads, K key/value heads, R = N / K, H head, V vocab;
B rows that pack several texts.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rlcw.models.attention import Rope, rope_at, segment_positions
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.blocks import (
  Block,
  LayerKind,
  cache_view,
  layer_kinds,
  ropes_of,
  scanned,
  with_remat,
)
from rlcw.models.config import ModelConfig
from rlcw.models.layers import RMSNorm, weight
from rlcw.models.mixed import LayerInputs, MixedBlocks
from rlcw.models.packing import Layout
from rlcw.models.stacks import split
from rlcw.runtime.mesh import constrain

Params = Any  # a nested dict of arrays
LAYER_INPUTS = 'layer_inputs'  # parameters of `LayerInputs`


def _embed(config: ModelConfig, embed_VxD: jax.Array, token: jax.Array):
  """Embeddings `[..., D]` of tokens `[...]`, with the family's scale."""
  x = embed_VxD[token].astype(config.dtype)
  # The scale is rounded to the activations' dtype, as in the reference
  # implementation of Gemma.
  return constrain(x * jnp.asarray(config.embed_scale, x.dtype))


def _ropes(config: ModelConfig, position_PxGxL: jax.Array) -> tuple[Rope, Rope]:
  """Rotary cosines and sines of global and of local layers."""
  head_dim = config.global_head_dim or config.head_dim
  full = rope_at(position_PxGxL, config.rope, head_dim)
  if config.local_rope in (None, config.rope):
    return full, full
  return full, rope_at(position_PxGxL, config.local_rope, config.head_dim)


class Decoder(nn.Module):
  """Embedding, stacked blocks and final norm; the head is `head_weight`."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    token_PxGxL: jax.Array,
    prefix: Prefix | None = None,
    segment_PxGxL: jax.Array | None = None,
    layout: Layout | None = None,
  ) -> tuple[jax.Array, KV]:
    """Runs one causal forward pass.

    Args:
      token_PxGxL: ids, padded on the right.
      prefix: the brief that all G rows of a prompt continue, if any.
      segment_PxGxL: segment number of each token in rows that pack several
        texts: tokens attend to their own segment only, and positions restart
        with each segment.
      layout: of rows `[S, 1, N]` that pack whole groups; a prefix is then one
        of all briefs of a row.

    Returns:
      Hidden states after the final norm `[P, G, L, D]`, and keys and values
      `[layers, P, G, L, K, H]`, or a tree of such `stacks`.

    Raises:
      ValueError: rows of one text each that is longer than its rope allows.
    """
    c = self.config
    length = token_PxGxL.shape[-1]
    packed = layout is not None or segment_PxGxL is not None
    if c.rope.limit and not packed and length > c.rope.limit:
      raise ValueError(
        f'a text of {length} tokens is longer than {c.rope.limit}, the '
        'greatest length that the frequencies of its rotary embedding are for'
      )
    position_PxGxL = jnp.broadcast_to(jnp.arange(length), token_PxGxL.shape)
    if layout is not None:
      position_PxGxL = layout.position[:, None]
    prefix_kv = prefix_length_P = None
    if prefix is not None:
      prefix_kv, prefix_length_P = prefix
      position_PxGxL += prefix.length_P[:, None, None]
    if segment_PxGxL is not None:
      position_PxGxL = segment_positions(segment_PxGxL)
    axes, shape = ('vocab', 'embed'), (c.vocab_size, c.model_dim)
    embed_VxD = weight(self, 'embed', axes, shape)
    # The head is only declared here, so that it is initialised and sharded;
    # `token_logprobs` multiplies by it in chunks.
    if not c.tied_head:
      weight(self, 'head', axes, shape)
    x, ropes = _embed(c, embed_VxD, token_PxGxL), _ropes(c, position_PxGxL)
    if c.mixed:
      layer_input = None
      if c.layer_input_dim:
        layer_input = LayerInputs(c, name=LAYER_INPUTS)(token_PxGxL, x)
      x, kv = MixedBlocks(c, name='blocks')(
        *(x, layer_input, ropes, prefix_length_P, prefix_kv),
        *(segment_PxGxL, layout),
      )
    else:
      # Axis 0 of a scanned input is the layer; other inputs are shared by all.
      per_layer, shared = 0, nn.broadcast
      axes = per_layer, shared, shared, per_layer, shared, shared
      kind = LayerKind(
        *(
          jnp.array(of) if of else None
          for of in (c.local_layers, c.rope_layers)
        )
      )
      blocks = scanned(with_remat(c), c.num_layers, axes)(c, name='blocks')
      x, kv = blocks(
        *(x, kind, ropes, prefix_length_P, prefix_kv, segment_PxGxL, layout)
      )
    return RMSNorm(c.norm_eps, c.norm_offset, name='final_norm')(x), kv


def _apply(module: nn.Module, params: Params, *inputs: Any, **more: Any) -> Any:
  return module.apply({'params': params}, *inputs, **more)


def as_dtype(params: Params, dtype: str) -> Params:
  """Casts weights to a dtype, except the scales of norms.

  Norms are computed in float32, so their scales keep their precision.
  """
  return jax.tree.map_with_path(
    lambda path, a: a if path[-1].key == 'scale' else a.astype(dtype), params
  )


def head_weight(params: Params) -> jax.Array:
  """Output projection `[V, D]`: the embedding itself if the head is tied."""
  return params['head'] if 'head' in params else params['embed']


def prefill(
  config: ModelConfig,
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
) -> tuple[jax.Array, Prefix]:
  """Runs each brief once.

  Args:
    config: of the model.
    params: of the model.
    prompt_PxL: briefs, padded on the right.
    length_P: their lengths, at least 1.

  Returns:
    The hidden state `[P, D]` at each brief's last token, which predicts the
    first token of every reply, and the brief as a `Prefix` for its replies.
  """
  hidden_Px1xLxD, kv = _apply(Decoder(config), params, prompt_PxL[:, None])
  last_PxD = jnp.take_along_axis(
    hidden_Px1xLxD[:, 0], length_P[:, None, None] - 1, axis=1
  )[:, 0]
  # From [layers, P, 1, L, K, H] to [layers, P, L, K, H].
  return last_PxD, Prefix(jax.tree.map(lambda x: x[:, :, 0], kv), length_P)


def forward_packed(
  config: ModelConfig,
  params: Params,
  token_BxL: jax.Array,
  segment_BxL: jax.Array,
) -> jax.Array:
  """Runs rows that pack several texts each; hidden states `[B, L, D]`."""
  hidden, _ = _apply(
    Decoder(config), params, token_BxL[:, None], None, segment_BxL[:, None]
  )
  return hidden[:, 0]


def split_brief(brief: KV) -> list[KV]:
  """Splits the keys of briefs into layers, for `decode_step`.

  Args:
    brief: keys and values `[layers, P, S, K, H]`, or a tree of such `stacks`.

  Returns:
    For each layer that has its own keys `[P, K, H, S]` and values
    `[P, K, S, H]`, the layouts in which they are read, as in `_update_cache`.
  """

  def layers(brief: KV) -> list[KV]:
    k, v = jnp.moveaxis(brief.k, 2, -1), jnp.swapaxes(brief.v, 2, 3)
    return [KV(*layer) for layer in zip(k, v, strict=True)]

  return split(brief, layers)


def reply_ropes(
  config: ModelConfig, prefix: Prefix, max_new_tokens: int
) -> tuple[Rope, Rope]:
  """Rotary cosines and sines `[P, 1, T, 1, H/2]` of all reply positions.

  For global and for local layers, computed before the decoding loop: inside it
  XLA would recompute them in every layer of every step.
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
  """Runs one new token per reply.

  Args:
    config: of the model.
    params: of the model.
    layers: weights of each block, and the part of `split_brief` that it reads.
    ropes: from `reply_ropes`, called outside the loop.
    token_PxG: ids of the new tokens.
    prefix: the briefs; only their lengths are read, as `layers` has their keys.
    cache: for each layer that has its own keys `[P, G, K, H, S]` and values
      `[P, G, K, S, H]` of the replies.
    index: position of the new token in its reply, from 0.

  Returns:
    The hidden state `[P, G, D]` that predicts the next token; the new cache.
  """
  c = config
  x = _embed(c, params['embed'], token_PxG[:, :, None])
  rope = jax.tree.map(
    lambda x: lax.dynamic_slice_in_dim(x, index, 1, axis=2), ropes
  )
  inputs = [None] * c.num_layers
  if c.layer_input_dim:
    more = params[LAYER_INPUTS], token_PxG[:, :, None], x
    inputs = _apply(LayerInputs(c), *more)
  new_cache = []
  # Unrolled: a layer's kind is static here, so none needs a `cond`.
  for n, (kind, (block, (k, v))) in enumerate(
    zip(layer_kinds(c), layers, strict=True)
  ):
    # Views in attention's layout [P, S, K, H].
    brief = KV(jnp.moveaxis(k, -1, 1), jnp.swapaxes(v, 1, 2))
    source = c.kv_layer(n)
    x, kv = _apply(
      Block(c.layer(n)),
      block,
      x,
      kind,
      ropes_of(c, n, rope),
      prefix.length_P,
      brief,
      cache=cache[n] if source == n else None,
      index=index,
      shared=None if source == n else cache_view(new_cache[source]),
      layer_input_PxGxLxE=inputs[n],
    )
    if kv is not None:
      new_cache.append(kv)
  norm = RMSNorm(c.norm_eps, c.norm_offset)
  return _apply(norm, params['final_norm'], x)[:, :, 0], new_cache
