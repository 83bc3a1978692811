"""Samplers of a token: greedy, temperature, top-k, top-p; and one draw.

A sampler maps logits to the log-probabilities to record and the weights to draw
from.  Top-k and top-p cut the tail off the weights only.  The recorded
log-probabilities remain those of the full softmax at the temperature, because
the loss computes the same ones: the importance ratio compares full policies.

Shape letters: B rows, V vocab; S parts of the vocabulary of W tokens, N blocks
of C tokens (`inverse_cdf`).
"""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rlcw.runtime.mesh import vocab_parts

# Temperature below which softmax in float32 has one token alone or, as logits
# overflow, none.
LEAST = 1e-6


@struct.dataclass
class Greedy:
  """Sampler of the most likely token; records log-probs at temperature 1."""

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    best_B = logits_BxV.argmax(-1)
    weight = jax.nn.one_hot(best_B, logits_BxV.shape[-1])
    return jax.nn.log_softmax(logits_BxV), weight


@struct.dataclass
class Temperature:
  """Sampler of the full softmax at a temperature (traced: no recompilation)."""

  temperature: Any = 1.0

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    logp_BxV = jax.nn.log_softmax(logits_BxV / self.temperature)
    return logp_BxV, jnp.exp(logp_BxV)


@struct.dataclass
class TopK:
  """Sampler of the k most likely tokens."""

  # Static, because it is the shape of `lax.top_k`'s result.
  k: int = struct.field(pytree_node=False)
  temperature: Any = 1.0

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    logp_BxV = jax.nn.log_softmax(logits_BxV / self.temperature)
    # More than all tokens are all of them.
    k = min(self.k, logp_BxV.shape[-1])
    least_Bx1 = lax.top_k(logp_BxV, k)[0][:, -1:]
    return logp_BxV, jnp.where(logp_BxV >= least_Bx1, jnp.exp(logp_BxV), 0.0)


@struct.dataclass
class TopP:
  """Sampler of the smallest set of tokens with total probability p.

  Nucleus sampling, arXiv 1904.09751.
  """

  p: Any
  temperature: Any = 1.0

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    logp_BxV = jax.nn.log_softmax(logits_BxV / self.temperature)
    prob_BxV = jnp.exp(logp_BxV)
    sorted_BxV = -jnp.sort(-prob_BxV, axis=-1)  # in descending order
    # A token is kept if the likelier ones have not reached p: the one that
    # crosses p is included, and at least one always is.
    before_BxV = jnp.cumsum(sorted_BxV, axis=-1) - sorted_BxV
    kept_B = jnp.maximum(jnp.sum(before_BxV < self.p, axis=-1), 1)
    # A threshold on the probability avoids undoing the sort.
    least_Bx1 = jnp.take_along_axis(sorted_BxV, kept_B[:, None] - 1, axis=-1)
    return logp_BxV, jnp.where(prob_BxV >= least_Bx1, prob_BxV, 0.0)


Sampler = Greedy | Temperature | TopK | TopP


def make_sampler(
  temperature: float, top_k: int = 0, top_p: float = 1.0
) -> Sampler:
  """Makes the sampler for these settings.

  Args:
    temperature: 0, or less than `LEAST`, for greedy decoding.
    top_k: 0 keeps all tokens.
    top_p: 1 keeps all tokens.

  Raises:
    ValueError: a setting is out of range, or both `top_k` and `top_p` are set.
  """
  valid = (
    all(isinstance(each, numbers.Real) for each in (temperature, top_p))
    and isinstance(top_k, numbers.Integral)
    and 0 <= temperature < math.inf
    and top_k >= 0
    and 0 < top_p <= 1
  )
  if not valid:
    raise ValueError(
      f'temperature={temperature!r}, top_k={top_k!r}, top_p={top_p!r}; '
      'expected temperature >= 0, a whole top_k >= 0, 0 < top_p <= 1'
    )
  if top_k and top_p < 1:
    raise ValueError(
      f'top_k={top_k} and top_p={top_p}; expected only one of them'
    )
  if temperature < LEAST:
    return Greedy()
  if top_k:
    return TopK(top_k, temperature)
  return TopP(top_p, temperature) if top_p < 1 else Temperature(temperature)


def inverse_cdf(
  weight_BxV: jax.Array, uniform_B: jax.Array, block: int = 256
) -> jax.Array:
  """Samples an index per row in proportion to its weight, by inverse CDF.

  Works on two levels, first a block of the vocabulary and then a token inside
  it: far cheaper than V Gumbel draws, or one cumulative sum over V.

  Args:
    weight_BxV: at least 0, not necessarily normalised.
    uniform_B: one uniform number in [0, 1) per row.
    block: tokens per block.

  Returns:
    Indices `[B]`.
  """
  rows, vocab = weight_BxV.shape
  # Of a block that two devices share, XLA would gather all weights instead of
  # sums.  So each part of the vocabulary has whole blocks; their padding has
  # weight 0, which is never drawn.
  parts = vocab_parts(vocab)
  width = vocab // parts
  weight_BxSxW = weight_BxV.reshape(rows, parts, width)
  weight = jnp.pad(weight_BxSxW, ((0, 0), (0, 0), (0, -width % block)))
  weight_BxNxC = weight.reshape(rows, -1, block)
  block_BxN = jnp.cumsum(weight_BxNxC.sum(-1), axis=-1)
  target_B, n_B = _first_above(block_BxN, uniform_B * block_BxN[:, -1])
  before_B = jnp.where(
    n_B > 0, jnp.take_along_axis(block_BxN, n_B[:, None] - 1, 1)[:, 0], 0.0
  )
  inside_BxC = jnp.take_along_axis(weight_BxNxC, n_B[:, None, None], 1)[:, 0]
  # The remaining target, relative to the start of the block.
  _, c_B = _first_above(jnp.cumsum(inside_BxC, axis=-1), target_B - before_B)
  part_B, offset_B = jnp.divmod(n_B * block + c_B, weight.shape[-1])
  return part_B * width + offset_B


def _first_above(
  total_BxN: jax.Array, target_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Finds the first index whose running total exceeds the target.

  Returns:
    The target, clamped below the last total, and the index.
  """
  # Rounding can lift the target to the last total, which no total exceeds.
  # Below it there is an index, and its weight is positive, since its total is
  # strictly above the one before it: a token of weight 0 is never drawn.
  ceiling_B = total_BxN[:, -1] * (1 - jnp.finfo(jnp.float32).eps)
  target_B = jnp.minimum(target_B, ceiling_B)
  return target_B, jnp.argmax(total_BxN > target_B[:, None], axis=-1)
