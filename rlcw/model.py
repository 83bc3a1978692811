"""A decoder-only language model whose unit is a group of replies to a brief.

One block serves every phase; what differs is which keys a query may see:

  1. a brief, or any plain row   own keys, causal             `Decoder`
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

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rlcw.attention import KV, Rope, attend, rope_at, rotate

Params = Any  # a nested dict of arrays


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shapes and constants of a decoder, as a checkpoint's own header says."""

  vocab_size: int
  model_dim: int
  mlp_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-5
  tied_head: bool = True
  dtype: str = 'float32'  # of activations; parameters keep their own
  remat: bool = False  # recompute each block in the backward pass

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> 'ModelConfig':
    """Reads the fields of a Hugging Face `config.json`.

    Raises:
      ValueError: names the field, its value and what is supported.
    """
    for field, legal in _SUPPORTED.items():
      value = config.get(field, legal[0])
      if value not in legal:
        raise ValueError(
          f'config.json: {field}={value!r} is not supported; legal: {legal}'
        )
    missing = [field for field in _REQUIRED if config.get(field) is None]
    if missing:
      raise ValueError(f'config.json lacks {missing}')
    heads = config['num_attention_heads']
    return cls(
      vocab_size=config['vocab_size'],
      model_dim=config['hidden_size'],
      mlp_dim=config['intermediate_size'],
      num_layers=config['num_hidden_layers'],
      num_heads=heads,
      num_kv_heads=config.get('num_key_value_heads') or heads,
      head_dim=config.get('head_dim') or config['hidden_size'] // heads,
      rope_theta=_rope(config),
      norm_eps=config['rms_norm_eps'],
      tied_head=config.get('tie_word_embeddings', False),
    )


_REQUIRED = (
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'rms_norm_eps',
)
_SUPPORTED: dict[str, tuple[Any, ...]] = {
  'model_type': ('llama',),
  'hidden_act': ('silu',),
  'attention_bias': (False, None),
  'mlp_bias': (False, None),
}


def _rope(config: Mapping[str, Any]) -> float:
  """The rotary base, which Transformers 5 moved into `rope_parameters`."""
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind != 'default':
    raise ValueError(
      f"config.json: rope type {kind!r} is not supported; legal: 'default'"
    )
  return rope.get('rope_theta', config.get('rope_theta', 10_000.0))


class Prefix(NamedTuple):
  """A brief that its replies attend to: keys and values, and its length."""

  kv: KV  # [layers, P, S, K, H]
  length_P: jax.Array


def weight(
  module: nn.Module,
  name: str,
  axes: tuple[str, ...],
  shape: tuple[int, ...],
  init: Any = nn.initializers.normal(0.02),  # noqa: B008
) -> jax.Array:
  """A parameter whose axes have logical names, for the sharding table."""
  init = nn.with_logical_partitioning(init, axes)
  return cast(jax.Array, module.param(name, init, shape))


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32 with a learned scale."""

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
    scale_D = weight(
      self, 'scale', ('norm',), x.shape[-1:], nn.initializers.ones
    )
    y = x.astype(jnp.float32)
    y *= lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
    return (y * scale_D).astype(x.dtype)


class Linear(nn.Module):
  """`x @ W.T` with `W` stored `[out, in]`, as checkpoints store it."""

  features: int
  axes: tuple[str, str]  # logical names of (out, in)

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [..., I] -> [..., O]
    shape = (self.features, x.shape[-1])
    kernel_OxI = weight(self, 'kernel', self.axes, shape)
    # One flat product: over [P, G, L] XLA's CPU backward pass is 12% slower.
    y = x.reshape(-1, x.shape[-1]) @ kernel_OxI.astype(x.dtype).T
    return y.reshape(*x.shape[:-1], self.features)


class Block(nn.Module):
  """Attention and a gated MLP, each behind a norm and beside a residual."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x_PxGxLxD: jax.Array,
    rope: Rope,
    own_mask_LxS: jax.Array,
    prefix_mask_PxS: jax.Array | None,
    prefix: KV | None,
    cache: KV | None = None,
    index: jax.Array | int = 0,
  ) -> tuple[jax.Array, KV]:
    """Returns the new activations and this layer's keys and values.

    With a `cache` `[P, G, S, K, H]` the new keys are written at `index` and
    the whole cache is attended to; without one, just the new keys are.
    """
    c, x = self.config, x_PxGxLxD
    y = RMSNorm(c.norm_eps, name='attention_norm')(x)
    q = Linear(c.num_heads * c.head_dim, ('heads', 'embed'), name='query')(y)
    k = Linear(c.num_kv_heads * c.head_dim, ('kv', 'embed'), name='key')(y)
    v = Linear(c.num_kv_heads * c.head_dim, ('kv', 'embed'), name='value')(y)
    q = q.reshape(*x.shape[:3], c.num_heads, c.head_dim)
    k = k.reshape(*x.shape[:3], c.num_kv_heads, c.head_dim)
    v = v.reshape(*x.shape[:3], c.num_kv_heads, c.head_dim)
    q = rotate(q, rope)
    k = rotate(k, rope)
    if cache is not None:
      k = lax.dynamic_update_slice_in_dim(cache.k, k, index, axis=2)
      v = lax.dynamic_update_slice_in_dim(cache.v, v, index, axis=2)
    q = q.reshape(*x.shape[:3], c.num_kv_heads, -1, c.head_dim)
    y = attend(q, KV(k, v), own_mask_LxS, prefix, prefix_mask_PxS)
    y = y.reshape(*x.shape[:3], c.num_heads * c.head_dim)
    x += Linear(c.model_dim, ('embed', 'heads'), name='output')(y)
    y = RMSNorm(c.norm_eps, name='mlp_norm')(x)
    gate = nn.silu(Linear(c.mlp_dim, ('mlp', 'embed'), name='gate')(y))
    y = gate * Linear(c.mlp_dim, ('mlp', 'embed'), name='up')(y)
    x += Linear(c.model_dim, ('embed', 'mlp'), name='down')(y)
    return x, KV(k, v)


class Decoder(nn.Module):
  """Embedding, stacked blocks, final norm; the head is `head_weight`."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self, token_PxGxL: jax.Array, prefix: Prefix | None = None
  ) -> tuple[jax.Array, KV]:
    """One causal pass.

    Args:
      token_PxGxL: ids, padded on the right.
      prefix: the brief that all G rows of a prompt continue, if any.

    Returns:
      Hidden states after the final norm `[P, G, L, D]`, and keys and values
      `[layers, P, G, L, K, H]`.
    """
    c = self.config
    length = token_PxGxL.shape[-1]
    position_PxGxL = jnp.broadcast_to(jnp.arange(length), token_PxGxL.shape)
    prefix_kv = prefix_mask_PxS = None
    if prefix is not None:
      position_PxGxL += prefix.length_P[:, None, None]
      prefix_kv, prefix_mask_PxS = prefix.kv, _prefix_mask(prefix)
    axes, shape = ('vocab', 'embed'), (c.vocab_size, c.model_dim)
    embed_VxD = weight(self, 'embed', axes, shape)
    if not c.tied_head:
      weight(self, 'head', axes, shape)
    x = embed_VxD[token_PxGxL].astype(c.dtype)
    blocks = nn.scan(
      nn.remat(Block, prevent_cse=False) if c.remat else Block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=cast(Any, (nn.broadcast, nn.broadcast, nn.broadcast, 0)),
      length=c.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    causal_LxL = jnp.tri(length, dtype=bool)
    x, kv = blocks(c, name='blocks')(
      x,
      rope_at(position_PxGxL, c.rope_theta, c.head_dim),
      causal_LxL,
      prefix_mask_PxS,
      prefix_kv,
    )
    return RMSNorm(c.norm_eps, name='final_norm')(x), kv


def _prefix_mask(prefix: Prefix) -> jax.Array:
  return jnp.arange(prefix.kv.k.shape[2]) < prefix.length_P[:, None]


def _apply(module: nn.Module, params: Params, *inputs: Any) -> Any:
  return module.apply({'params': params}, *inputs)


def head_weight(params: Params) -> jax.Array:
  """The output projection `[V, D]`, the embedding itself where it is tied."""
  return params['head'] if 'head' in params else params['embed']


def read_brief(
  config: ModelConfig,
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
) -> tuple[jax.Array, Prefix]:
  """Runs each brief once.

  Returns:
    The hidden state `[P, D]` at each brief's last token, which predicts every
    reply's first one, and the brief as a `Prefix` for its replies.
  """
  hidden, kv = _apply(Decoder(config), params, prompt_PxL[:, None])
  last_PxD = jnp.take_along_axis(
    hidden[:, 0], length_P[:, None, None] - 1, axis=1
  )[:, 0]
  return last_PxD, Prefix(KV(kv.k[:, :, 0], kv.v[:, :, 0]), length_P)


def read_replies(
  config: ModelConfig,
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  token_PxGxT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Runs each brief once and its G replies on top of it.

  Returns:
    `predicting` and `reading`, both `[P, G, T, D]`: the hidden states that
    predict each reply token, and those that have just read it.
  """
  last_PxD, prefix = read_brief(config, params, prompt_PxL, length_P)
  reading, _ = _apply(Decoder(config), params, token_PxGxT, prefix)
  first = jnp.broadcast_to(
    last_PxD[:, None, None], (*token_PxGxT.shape[:2], 1, last_PxD.shape[-1])
  )
  return jnp.concatenate([first, reading[:, :, :-1]], axis=2), reading


def unstack(stacked: Params, num_layers: int) -> list[Params]:
  """A tree stacked over layers as one tree per layer, for `decode_step`."""
  return [jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(num_layers)]


def decode_step(
  config: ModelConfig,
  params: Params,
  layers: list[tuple[Params, KV]],
  token_PxG: jax.Array,
  prefix: Prefix,
  cache: list[KV],
  index: jax.Array,
) -> tuple[jax.Array, list[KV]]:
  """Reads one new token per reply, the `index`-th of each.

  Args:
    layers: `unstack((params['blocks'], prefix.kv))`, made outside the loop.
    cache: for each layer keys and values `[P, G, S, K, H]` of the suffix.

  Returns:
    The hidden state `[P, G, D]` that predicts the next token; the new cache.
  """
  x = params['embed'][token_PxG][:, :, None].astype(config.dtype)
  position = jnp.broadcast_to(
    prefix.length_P[:, None, None] + index, (*token_PxG.shape, 1)
  )
  seen_1xS = jnp.arange(cache[0].k.shape[2])[None] <= index
  rope = rope_at(position, config.rope_theta, config.head_dim)
  mask, new_cache = _prefix_mask(prefix), []
  for (block, brief), kv in zip(layers, cache, strict=True):
    x, kv = _apply(
      Block(config), block, x, rope, seen_1xS, mask, brief, kv, index
    )
    new_cache.append(kv)
  x = _apply(RMSNorm(config.norm_eps), params['final_norm'], x)
  return x[:, :, 0], new_cache
