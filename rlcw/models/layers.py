"""Layers of a decoder: RMS norm, linear map with optional adapter, and LM head.

Letters: N rows of activations, I inputs, O outputs, R adapter rank, D model,
V vocab, C rows of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from rlcw.models.attention_kernels import softly_capped
from rlcw.models.config import LoraConfig, ModelConfig
from rlcw.runtime.mesh import GROUPS, ambient_shards

FEW_ROWS = 256  # up to this many, a CPU multiplies with weights on the left


def weight(
  module: nn.Module,
  name: str,
  axes: tuple[str, ...],
  shape: tuple[int, ...],
  init: Any = nn.initializers.normal(0.02),  # noqa: B008
) -> jax.Array:
  """Declares a parameter whose axes have logical names for sharding."""
  init = nn.with_logical_partitioning(init, axes)
  return cast(jax.Array, module.param(name, init, shape))


def normalised(x: jax.Array, eps: float) -> jax.Array:  # [..., D]
  """Divides vectors by their root mean square; in float32."""
  y = x.astype(jnp.float32)
  return y * lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)


class RMSNorm(nn.Module):
  """Root-mean-square norm in float32 with a learned scale."""

  eps: float
  offset: float = 0.0  # added to the stored scale

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [..., D]
    # The effective scale starts at 1, also where it is stored minus 1 (Gemma).
    init = nn.initializers.constant(1.0 - self.offset)
    scale_D = weight(self, 'scale', ('norm',), x.shape[-1:], init)
    y = normalised(x, self.eps)
    return (y * (scale_D + self.offset)).astype(x.dtype)


def product(
  x_NxI: jax.Array, kernel_OxI: jax.Array, dtype: Any = None
) -> jax.Array:
  """Returns `x · Wᵀ` `[N, O]`; `dtype` is that of sums and result, if given.

  On a CPU, few rows (as in decoding) are computed as `(W · xᵀ)ᵀ`, for which
  XLA's libraries need a quarter less time.
  """
  multiply = functools.partial(jnp.matmul, preferred_element_type=dtype)

  # Without the barrier, XLA would swap the factors back.
  def columns(x_NxI: jax.Array, kernel_OxI: jax.Array) -> jax.Array:
    return lax.optimization_barrier(multiply(kernel_OxI, x_NxI.T)).T

  def rows(x_NxI: jax.Array, kernel_OxI: jax.Array) -> jax.Array:
    return multiply(x_NxI, kernel_OxI.T)

  if len(x_NxI) > FEW_ROWS:
    return rows(x_NxI, kernel_OxI)
  return lax.platform_dependent(x_NxI, kernel_OxI, cpu=columns, default=rows)


def elementwise(
  function: Callable[..., jax.Array], *products: jax.Array
) -> jax.Array:  # all [..., O]
  """Applies an elementwise function to results `[..., O]` of `product`."""

  # Works on the transposed arrays that `product` computes for few rows on a
  # CPU; XLA would otherwise transpose them element by element.
  def columns(*products_NxO: jax.Array) -> jax.Array:
    return function(*(x_NxO.T for x_NxO in products_NxO)).T

  shape = products[0].shape
  flat_NxO = [x.reshape(-1, shape[-1]) for x in products]
  if len(flat_NxO[0]) > FEW_ROWS:
    return function(*products)
  y = lax.platform_dependent(*flat_NxO, cpu=columns, default=function)
  return y.reshape(shape)


class Linear(nn.Module):
  """`x @ W.T + b` with `W` stored as `[out, in]`, the layout of checkpoints.

  With an adapter of rank r, `W + (alpha / r) · B A` replaces `W` (LoRA, arXiv
  2106.09685).  The sum is never formed, so that the gradient of a frozen `W` is
  not computed.
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
      rank, axes_a = self.lora.rank, ('lora', in_axis)
      # A is uniform within ±1 / sqrt(I), as in PEFT; B is zero, so that a new
      # adapter changes nothing.  `1, 0` are the input and output axes.
      uniform = nn.initializers.variance_scaling(
        1 / 3, 'fan_in', 'uniform', 1, 0
      )
      a_RxI = weight(self, 'lora_a', axes_a, (rank, inner), uniform)
      axes_b = (out_axis, 'lora')
      b_OxR = weight(self, 'lora_b', axes_b, (self.features, rank), zeros)
      low_NxR = x_NxI @ a_RxI.astype(x.dtype).T
      scale = self.lora.alpha / rank
      y += scale * (low_NxR @ b_OxR.astype(x.dtype).T)
    return y.reshape(*x.shape[:-1], self.features)


def final_logits(config: ModelConfig, product: jax.Array) -> jax.Array:
  """Logits `[..., V]` of a product of hidden states with the head.

  Scaled and capped softly in the families that do so.
  """
  if config.logit_scale != 1.0:
    product = product * config.logit_scale
  return softly_capped(product, config.logit_cap)


LOGITS = 2048 * 49152  # upper limit of logits in memory: 400 MB in float32


def token_logprobs(
  hidden_NxD: jax.Array,
  head_VxD: jax.Array,
  target_N: jax.Array,
  temperature: jax.Array | float = 1.0,
  chunk: int = 0,
  config: ModelConfig | None = None,
) -> jax.Array:
  """Log-probabilities `[N]` alone of `token_logprobs_and_entropy`."""
  inputs = hidden_NxD, head_VxD, target_N, temperature, chunk, config
  return token_logprobs_and_entropy(*inputs, entropy=False)[0]


def token_logprobs_and_entropy(
  hidden_NxD: jax.Array,
  head_VxD: jax.Array,
  target_N: jax.Array,
  temperature: jax.Array | float = 1.0,
  chunk: int = 0,
  config: ModelConfig | None = None,
  *,
  entropy: bool = True,
) -> list[jax.Array]:
  """Log-probability of each target under `p = softmax(hidden · headᵀ / T)`.

  Logits are computed for `chunk` rows at a time and again in the backward pass,
  so at most `[chunk, V]` of them are in memory.  Each group shard of the
  ambient mesh processes its own rows, with a head that is gathered once for all
  chunks; only the split of the vocabulary is left to XLA.

  Args:
    hidden_NxD: hidden states after the final norm.
    head_VxD: output projection.
    target_N: token ids.
    temperature: T, the temperature of sampling.
    chunk: rows per chunk; 0 for as many as `LOGITS` allows.
    config: of a model whose logits are `final_logits`; None for products.
    entropy: false to leave the entropy out.

  Returns:
    Float32 log-probabilities `[N]`, and the entropy `−Σ p log p` `[N]` of each
    distribution, in nats.  Gradients flow through both.
  """
  # A multiple of 128 rows fills the tiles of matrix units.
  chunk = chunk or max(LOGITS // len(head_VxD) // 128, 1) * 128
  inputs = hidden_NxD, head_VxD, target_N, jnp.asarray(1.0 / temperature)
  shards = ambient_shards()
  if shards == 1 or len(hidden_NxD) % shards:
    return _logprobs(chunk, entropy, config, *inputs)

  # Under plain XLA partitioning, the loop over chunks would gather the head
  # anew in every iteration.
  def shard_logprobs(
    hidden_NxD: jax.Array, head_VxD: jax.Array, *rest: jax.Array
  ) -> list[jax.Array]:
    # Marked as varying, the head's gradients are summed over shards once, after
    # all chunks, rather than in every chunk.
    head_VxD = lax.pcast(head_VxD, GROUPS, to='varying')
    return _logprobs(chunk, entropy, config, hidden_NxD, head_VxD, *rest)

  split, replicated = PartitionSpec(GROUPS), PartitionSpec()
  return jax.shard_map(
    shard_logprobs,
    in_specs=(split, replicated, split, replicated),
    out_specs=split,
    # Manual over these axes only: 'tensor' splits the vocabulary as usual.
    axis_names=set(GROUPS),
  )(*inputs)


def _logprobs(
  chunk: int,
  entropy: bool,
  config: ModelConfig | None,
  hidden_NxD: jax.Array,
  head_VxD: jax.Array,
  target_N: jax.Array,
  inverse_temperature: jax.Array,
) -> list[jax.Array]:
  """Log-probabilities and entropies of rows that are all on one shard."""
  rows, dim = hidden_NxD.shape

  def logprob(args: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
    hidden_CxD, target_C = args
    # In float32: a log-sum-exp over a whole vocabulary of bfloat16 logits would
    # be too coarse for differences between two policies.
    logits_CxV = jnp.einsum(
      'cd,vd->cv',
      hidden_CxD,
      head_VxD.astype(hidden_CxD.dtype),
      preferred_element_type=jnp.float32,
    )
    if config is not None:
      logits_CxV = final_logits(config, logits_CxV)
    chosen_C = jnp.take_along_axis(logits_CxV, target_C[:, None], axis=-1)[:, 0]
    normaliser_C = jax.nn.logsumexp(logits_CxV * inverse_temperature, axis=-1)
    logp_C = chosen_C * inverse_temperature - normaliser_C
    if not entropy:
      return [logp_C]
    logp_CxV = logits_CxV * inverse_temperature - normaliser_C[:, None]
    return [logp_C, -(jnp.exp(logp_CxV) * logp_CxV).sum(-1)]

  if rows <= chunk:
    return logprob((hidden_NxD, target_N))
  # Padding rows are computed and dropped; `lax.map` needs equal chunks.
  pad = -rows % chunk
  hidden = jnp.pad(hidden_NxD, ((0, pad), (0, 0))).reshape(-1, chunk, dim)
  target = jnp.pad(target_N, (0, pad)).reshape(-1, chunk)
  found = lax.map(jax.checkpoint(logprob), (hidden, target))
  return [x.reshape(-1)[:rows] for x in found]
