"""One layer of the decoder, of any family.

Letters as in `decoder`: P prompts, G replies in a group, L length, S keys,
D model, N query heads, K key/value heads, R = N / K, H head; E channels of a
layer's input.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from rlcw.models import packing
from rlcw.models.attention import Rope, attend, rotate, unless
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.config import ModelConfig
from rlcw.models.layers import (
  Linear,
  RMSNorm,
  elementwise,
  normalised,
  weight,
)
from rlcw.models.packing import Layout
from rlcw.runtime.mesh import constrain

_ACTIVATIONS = {
  'silu': nn.silu,
  'gelu_tanh': lambda x: nn.gelu(x, approximate=True),
}


def _select(
  local: jax.Array | bool | None,
  if_local: Callable[[], Any],
  if_global: Callable[[], Any],
) -> Any:
  """Returns `if_local()` in a local layer, else `if_global()`.

  `local` is an array while scanning over layers, and static otherwise.
  """
  if local is None or isinstance(local, bool):
    return if_local() if local else if_global()
  return lax.cond(local, if_local, if_global)


def _update_cache(cache: KV, new: KV, index: jax.Array | int) -> tuple[KV, KV]:
  """Writes new keys and values `[P, G, L, K, H]` at `index` of a cache.

  Returns:
    The new cache, with keys `[P, G, K, H, S]` and values `[P, G, K, S, H]`, and
    a view of it in attention's layout `[P, G, S, K, H]`.
  """

  # The cache has the layouts in which XLA's matrix products read keys and
  # values on a CPU; in any other, it would be copied for every token.
  def write(old: jax.Array, x_PxGxLxKxH: jax.Array, axis: int) -> jax.Array:
    x = jnp.moveaxis(x_PxGxLxKxH, 2, axis)
    return lax.dynamic_update_slice_in_dim(old, x, index, axis)

  updated = KV(write(cache.k, new.k, -1), write(cache.v, new.v, -2))
  return updated, cache_view(updated)


def cache_view(cache: KV) -> KV:
  """A cache (see `_update_cache`) in attention's layout `[P, G, S, K, H]`."""
  return KV(jnp.moveaxis(cache.k, -1, 2), jnp.moveaxis(cache.v, -2, 2))


class LayerKind(NamedTuple):
  """Kind of a layer, where the layers of a model differ, but not in shape.

  Each is an array while scanning over layers, and static otherwise; `None`
  where all layers are alike.
  """

  local: jax.Array | bool | None = None  # has the sliding window
  rotates: jax.Array | bool | None = None  # False: no rotary embedding


def layer_kinds(config: ModelConfig) -> list[LayerKind]:
  """The kind of each layer."""
  if config.mixed:  # each has a configuration of its own
    return [LayerKind()] * config.num_layers
  local, rotates = (
    list(given) or [None] * config.num_layers
    for given in (config.local_layers, config.rope_layers)
  )
  return [LayerKind(*kind) for kind in zip(local, rotates, strict=True)]


class Block(nn.Module):
  """A transformer block: attention, then a gated MLP."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x_PxGxLxD: jax.Array,
    kind: LayerKind,
    ropes: tuple[Rope, Rope],
    prefix_length_P: jax.Array | None,
    prefix_kv: KV | None,
    segment_PxGxL: jax.Array | None = None,
    layout: Layout | None = None,
    cache: KV | None = None,
    index: jax.Array | int = 0,
    shared: KV | None = None,
    layer_input_PxGxLxE: jax.Array | None = None,
  ) -> tuple[jax.Array, KV | None]:
    """Runs one layer on activations `[P, G, L, D]`.

    A local layer uses the second rope and the sliding window.  With a `cache`
    (layout of `_update_cache`), the new keys and values are written at `index`,
    and queries attend to the cache.  With `shared` keys and values
    `[P, G, S, K, H]`, those of another layer, the layer has none of its own.

    Returns:
      The new activations, and the updated cache or, without a cache, the keys
      and values `[P, G, L, K, H]` of this call; None if they are `shared`.
    """
    c, x = self.config, x_PxGxLxD
    y = self._norm('attention_norm')(x) if c.pre_norms else x
    q, kv = self._project(y, kind, ropes, shares_kv=shared is not None)
    # `kv` is returned, `own` is the same in attention's layout.
    own: Any = kv if shared is None else shared
    if kv is not None and cache is not None:
      kv, own = _update_cache(cache, kv, index)
    prefix = None
    if prefix_kv is not None and prefix_length_P is not None:
      prefix = Prefix(prefix_kv, prefix_length_P)

    def attention(window: int | None) -> jax.Array:
      options: Any = {
        'window': window,
        'cap': c.score_cap,
        'implementation': c.attention,
      }
      if layout is not None:
        return packing.attend(q, own, layout, prefix, **options)
      return attend(q, own, prefix, segment_PxGxL, start=index, **options)

    # Two static windows under a `cond` rather than a traced one: the kernels
    # need the mask at compile time to skip blocks.
    globally = None if c.local_layers else c.window
    y = _select(
      kind.local, lambda: attention(c.window), lambda: attention(globally)
    )
    y = y.reshape(*x.shape[:3], c.num_heads * c.head_dim)
    y = self._linear('output', c.model_dim, ('embed', 'heads'))(y)
    x = self._residual('attention_post_norm', x, y)
    y = self._norm('mlp_norm')(x) if c.pre_norms else x
    x = self._residual('mlp_post_norm', x, self._mlp(y))
    if layer_input_PxGxLxE is not None:
      x = x + self._layer_input(x, layer_input_PxGxLxE)
    if c.layer_scale:
      factor = weight(
        self, 'layer_scale', ('norm',), (1,), nn.initializers.ones
      )
      # Not trained, as in transformers, where it is no parameter.
      x = x * lax.stop_gradient(factor).astype(x.dtype)
    # Left to itself, XLA may shard activations between blocks badly.
    x = constrain(x)
    # Kept for a caller that asks for them (`groups.forward_layers`) only.
    self.sow('intermediates', 'activations', x)
    return x, kv

  def _linear(
    self, name: str, size: int, axes: tuple[str, str], bias: bool = False
  ) -> Linear:
    lora = self.config.lora
    adapted = lora is not None and name in lora.targets
    return Linear(size, axes, bias, lora if adapted else None, name=name)

  def _norm(self, name: str) -> RMSNorm:
    return RMSNorm(self.config.norm_eps, self.config.norm_offset, name=name)

  def _residual(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Adds the output `[P, G, L, D]` of a part of the block to its input."""
    c = self.config
    y = self._norm(name)(y) if c.post_norms else y
    return x + (y if c.residual_scale == 1.0 else y * c.residual_scale)

  def _project(
    self,
    x_PxGxLxD: jax.Array,
    kind: LayerKind,
    ropes: tuple[Rope, Rope],
    shares_kv: bool,
  ) -> tuple[jax.Array, KV | None]:
    """Queries `[P, G, L, K, R, H]`, and keys and values `[P, G, L, K, H]`.

    The R query heads of a key/value head are adjacent.  Queries are scaled, and
    queries and keys are rotated.  A layer that `shares_kv`, those of another
    one, has no keys and values of its own: None.
    """
    c, x = self.config, x_PxGxLxD

    def heads(name: str, count: int, axis: str) -> jax.Array:
      size, axes = count * c.head_dim, (axis, 'embed')
      z = self._linear(name, size, axes, c.qkv_bias)(x)
      if c.qk_norm_joint and name != 'value':
        z = self._norm(f'{name}_norm')(z)
      return z.reshape(*x.shape[:3], count, c.head_dim)

    rope = _select(kind.local, lambda: ropes[1], lambda: ropes[0])
    if kind.rotates is not None:
      rope = unless(kind.rotates, rope)
    q = heads('query', c.num_heads, 'heads')
    if c.qk_norm:
      q = self._norm('query_norm')(q)
    scale = c.head_dim**-0.5 if c.query_scale is None else c.query_scale
    q = rotate(q, rope) * scale
    if rope.query is not None:
      q *= rope.query.astype(q.dtype)
    q = q.reshape(*x.shape[:3], c.num_kv_heads, -1, c.head_dim)
    if shares_kv:
      return q, None
    k = heads('key', c.num_kv_heads, 'kv')
    v = k if c.keys_are_values else heads('value', c.num_kv_heads, 'kv')
    if c.qk_norm:
      k = self._norm('key_norm')(k)
    if c.value_norm:
      v = normalised(v, c.norm_eps).astype(v.dtype)
    return q, KV(rotate(k, rope), v)

  def _mlp(self, x_PxGxLxD: jax.Array) -> jax.Array:
    """Gated MLP `[P, G, L, D]`."""
    c, x = self.config, x_PxGxLxD
    gate = self._linear('gate', c.mlp_dim, ('mlp', 'embed'))(x)
    up = self._linear('up', c.mlp_dim, ('mlp', 'embed'))(x)
    y = elementwise(
      lambda gate, up: _ACTIVATIONS[c.activation](gate) * up, gate, up
    )
    return self._linear('down', c.model_dim, ('embed', 'mlp'))(y)

  def _layer_input(
    self, x_PxGxLxD: jax.Array, layer_input_PxGxLxE: jax.Array
  ) -> jax.Array:
    """Term `[P, G, L, D]` of a layer's own embedding of the tokens."""
    c, size = self.config, layer_input_PxGxLxE.shape[-1]
    gate = self._linear('layer_gate', size, ('norm', 'embed'))(x_PxGxLxD)
    y = _ACTIVATIONS[c.activation](gate) * layer_input_PxGxLxE
    y = self._linear('layer_output', c.model_dim, ('embed', 'norm'))(y)
    return self._norm('layer_post_norm')(y)


def with_remat(config: ModelConfig) -> type[Block]:
  """`Block` whose backward pass recomputes, see `ModelConfig.remat`."""
  # Saves the outputs of products with weights; attention scores, which have
  # batch dimensions and grow with the square of the length, are recomputed.
  products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  # A scan already keeps the recomputation apart from the forward pass, so
  # `remat` needs no barrier against common-subexpression elimination.
  policy = None if config.remat else products
  return cast(Any, nn.remat(Block, prevent_cse=False, policy=policy))


def scanned(step: type[nn.Module], count: int, axes: Sequence[Any]) -> Any:
  """A module that runs `count` steps, whose parameters are stacked.

  Args:
    step: module of one step, on activations and further inputs.
    count: of steps.
    axes: for each of these inputs 0 if its leading axis is that of steps, or
      `nn.broadcast` if all steps share it.
  """
  return nn.scan(
    step,
    variable_axes={'params': 0, 'intermediates': 0},
    split_rngs={'params': True},
    in_axes=cast(Any, (*axes,)),
    length=count,
    metadata_params={nn.PARTITION_NAME: 'layers'},
  )


def ropes_of(
  config: ModelConfig, layer: int, ropes: tuple[Rope, Rope]
) -> tuple[Rope, Rope]:
  """Ropes of a layer by its `ModelConfig.layer`, which is not a local one."""
  if not config.mixed:
    return ropes
  own = ropes[config.is_local(layer)]
  return own, own
