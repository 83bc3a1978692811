"""The layers of a decoder: a norm, and a linear map with or without an adapter.

Letters: N rows of anything, I in, O out, R rank, D model.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from rlcw.models.config import LoraConfig
from rlcw.runtime.mesh import GROUPS, ambient_shards

FEW_ROWS = 256  # of activations; for so many a CPU has weights on the left


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
  offset: float = 0.0  # what is added to the stored scale

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
    # a scale whose offset is 1 is stored as its distance from 1
    init = nn.initializers.constant(1.0 - self.offset)
    scale_D = weight(self, 'scale', ('norm',), x.shape[-1:], init)
    y = x.astype(jnp.float32)
    y *= lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
    return (y * (scale_D + self.offset)).astype(x.dtype)


def product(
  x_NxI: jax.Array, kernel_OxI: jax.Array, dtype: Any = None
) -> jax.Array:
  """`x · Wᵀ`; on a CPU that of few rows, as in decoding, is `(W · xᵀ)ᵀ`.

  XLA's libraries take a quarter less time for it with weights on the left.  XLA
  would turn them round again, were it not for the barrier.  `dtype` is that of
  sums and result, where it is not the factors'.
  """
  multiply = functools.partial(jnp.matmul, preferred_element_type=dtype)

  def columns(x_NxI: jax.Array, kernel_OxI: jax.Array) -> jax.Array:
    return lax.optimization_barrier(multiply(kernel_OxI, x_NxI.T)).T

  def rows(x_NxI: jax.Array, kernel_OxI: jax.Array) -> jax.Array:
    return multiply(x_NxI, kernel_OxI.T)

  if len(x_NxI) > FEW_ROWS:
    return rows(x_NxI, kernel_OxI)
  return lax.platform_dependent(x_NxI, kernel_OxI, cpu=columns, default=rows)


def elementwise(
  call: Callable[..., jax.Array], *products: jax.Array
) -> jax.Array:  # all [..., O]
  """`call`, which is elementwise, on what `product` gave, in the order of it.

  What was computed as `(W · xᵀ)ᵀ` would be turned round element by element.
  """

  def columns(*products_NxO: jax.Array) -> jax.Array:
    return call(*(x_NxO.T for x_NxO in products_NxO)).T

  shape = products[0].shape
  flat_NxO = [x.reshape(-1, shape[-1]) for x in products]
  if len(flat_NxO[0]) > FEW_ROWS:
    return call(*products)
  y = lax.platform_dependent(*flat_NxO, cpu=columns, default=call)
  return y.reshape(shape)


class Linear(nn.Module):
  """`x @ W.T + b` with `W` stored `[out, in]`, as checkpoints store it.

  With an adapter of rank r, `W + (alpha / r) · B A` stands for `W`, and is
  never formed: the gradient of a frozen `W` is not computed either.
  """

  features: int
  axes: tuple[str, str]  # logical names of (out, in)
  bias: bool = False
  lora: LoraConfig | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [..., I] -> [..., O]
    inner, (out_axis, in_axis) = x.shape[-1], self.axes
    kernel_OxI = weight(self, 'kernel', self.axes, (self.features, inner))
    # One flat product: over [P, G, L] XLA's CPU backward pass is 12% slower.
    x_NxI = x.reshape(-1, inner)
    y = product(x_NxI, kernel_OxI.astype(x.dtype))
    zeros = nn.initializers.zeros
    if self.bias:
      bias_O = weight(self, 'bias', (out_axis,), (self.features,), zeros)
      y += bias_O.astype(x.dtype)
    if self.lora is not None:
      rank, up = self.lora.rank, ('lora', in_axis)
      uniform = nn.initializers.variance_scaling(
        1 / 3, 'fan_in', 'uniform', 1, 0
      )
      a_RxI = weight(self, 'lora_a', up, (rank, inner), uniform)
      down = (out_axis, 'lora')
      b_OxR = weight(self, 'lora_b', down, (self.features, rank), zeros)
      low_NxR = x_NxI @ a_RxI.astype(x.dtype).T
      scale = self.lora.alpha / rank
      y += scale * (low_NxR @ b_OxR.astype(x.dtype).T)
    return y.reshape(*x.shape[:-1], self.features)


LOGITS = 2048 * 49152  # how many are alive at a time: 400 MB in float32


def token_logprobs(
  hidden_NxD: jax.Array,
  head_VxD: jax.Array,
  target_N: jax.Array,
  temperature: jax.Array | float = 1.0,
  chunk: int = 0,
) -> jax.Array:
  """Log-probability of each target under `softmax(hidden · headᵀ / T)`.

  Rows are taken `chunk` at a time and recomputed in the backward pass, so that
  logits of at most `[chunk, V]` are ever alive.  Each part of the ambient mesh
  takes its own rows, with a head that is gathered once for all chunks; only
  the vocabulary's split is left to XLA.

  Args:
    hidden_NxD: hidden states after the final norm.
    head_VxD: output projection.
    target_N: token ids.
    temperature: of the distribution; the one that was sampled from.
    chunk: rows per pass; as many as `LOGITS` allows where 0.

  Returns:
    Float32 log-probabilities `[N]`.
  """
  chunk = chunk or max(LOGITS // len(head_VxD) // 128, 1) * 128
  inputs = hidden_NxD, head_VxD, target_N, jnp.asarray(1.0 / temperature)
  shards = ambient_shards()
  if shards == 1 or len(hidden_NxD) % shards:
    return _logprobs(chunk, *inputs)

  def here(
    hidden_NxD: jax.Array, head_VxD: jax.Array, *rest: jax.Array
  ) -> jax.Array:
    # each part its own copy, whose gradients are added up after all chunks
    head_VxD = lax.pcast(head_VxD, GROUPS, to='varying')
    return _logprobs(chunk, hidden_NxD, head_VxD, *rest)

  over, whole = PartitionSpec(GROUPS), PartitionSpec()
  return jax.shard_map(
    here,
    in_specs=(over, whole, over, whole),
    out_specs=over,
    axis_names=set(GROUPS),
  )(*inputs)


def _logprobs(
  chunk: int,
  hidden_NxD: jax.Array,
  head_VxD: jax.Array,
  target_N: jax.Array,
  inverse: jax.Array,
) -> jax.Array:
  """`token_logprobs` of rows that are all here, at 1 / temperature."""
  rows, dim = hidden_NxD.shape

  def logprob(args: tuple[jax.Array, jax.Array]) -> jax.Array:
    hidden_CxD, target_C = args
    logits_CxV = jnp.einsum(
      'cd,vd->cv',
      hidden_CxD,
      head_VxD.astype(hidden_CxD.dtype),
      preferred_element_type=jnp.float32,
    )
    chosen_C = jnp.take_along_axis(logits_CxV, target_C[:, None], axis=-1)[:, 0]
    normaliser_C = jax.nn.logsumexp(logits_CxV * inverse, axis=-1)
    return chosen_C * inverse - normaliser_C

  if rows <= chunk:
    return logprob((hidden_NxD, target_N))
  pad = -rows % chunk
  hidden = jnp.pad(hidden_NxD, ((0, pad), (0, 0))).reshape(-1, chunk, dim)
  target = jnp.pad(target_N, (0, pad)).reshape(-1, chunk)
  return lax.map(jax.checkpoint(logprob), (hidden, target)).reshape(-1)[:rows]
