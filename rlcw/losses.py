"""Losses and advantages as pure functions of arrays.

A loss returns a numerator and a denominator, never their quotient: sums add up
over microbatches and devices, and a single division at the end makes k
microbatches equal one batch.

Shape letters: P prompts, G replies per prompt, T reply tokens, N rows (replies,
texts or prompts), R replies ranked against each other, K covariates.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

RATIOS = 'token', 'sequence'  # values of `ratio` in `grpo`
AGGREGATIONS = 'token_mean', 'sequence_mean', 'constant'
# A policy that has moved far from the sampler must not overflow `exp`: float32
# ends at exp(88), and exp(20) times an advantage, summed, is far below that.
LOG_RATIO_LIMIT = 20.0


class Ratio(NamedTuple):
  """A mean as a sum (scalar) and its divisor (scalar)."""

  numerator: jax.Array
  denominator: jax.Array


def cross_entropy(logp_N: jax.Array, mask_N: jax.Array) -> Ratio:
  """Masked cross-entropy in nats: `−Σ mask · log p` over `Σ mask`."""
  # `where`, not a product: 0 · −inf at a padded position would be NaN.
  return Ratio(-jnp.sum(jnp.where(mask_N, logp_N, 0.0)), jnp.sum(mask_N))


def bradley_terry(score_NxR: jax.Array, weight_NxRxR: jax.Array) -> Ratio:
  """Bradley–Terry loss `−log σ(s_i − s_j)` over the pairs of each group.

  Source: Bradley & Terry, 1952.

  Args:
    score_NxR: scores of R replies to each of N prompts.
    weight_NxRxR: weight of the preference of reply i over reply j, at least 0;
      0 for pairs that do not count, the diagonal included.
  """
  difference_NxRxR = score_NxR[:, :, None] - score_NxR[:, None, :]
  loss_NxRxR = -jax.nn.log_sigmoid(difference_NxRxR)
  return Ratio((weight_NxRxR * loss_NxRxR).sum(), weight_NxRxR.sum())


def squared_correlation(
  x_N: jax.Array, y_NxK: jax.Array, real_N: jax.Array
) -> jax.Array:
  """Pearson's r² of x with each column of y, summed over the columns.

  As a penalty, it decorrelates scores x from covariates y such as length.

  Args:
    x_N: scores.
    y_NxK: K covariates.
    real_N: false at padding rows.

  Returns:
    A scalar in `[0, K]`.
  """
  count = jnp.maximum(real_N.sum(), 1)

  def centred(z: jax.Array) -> jax.Array:
    real = real_N.reshape(-1, *[1] * (z.ndim - 1))
    return jnp.where(real, z - jnp.where(real, z, 0.0).sum(0) / count, 0.0)

  x_N, y_NxK = centred(x_N), centred(y_NxK)
  # The floor of 1e-6 on the variance of x (a std of 1e-3): r² of nearly equal
  # scores is noise, and its gradient would be huge.
  power_K = (jnp.square(x_N).sum() + 1e-6 * count) * (
    jnp.square(y_NxK).sum(0) + 1e-6
  )
  return (jnp.square(x_N @ y_NxK) / power_K).sum()


def masked_mean_std(
  x_PxG: jax.Array, valid_PxG: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean and population std `[P, 1]` of each group's valid replies.

  Both are 0 for a group without valid replies.
  """
  count = jnp.maximum(valid_PxG.sum(-1, keepdims=True), 1)
  mean = jnp.where(valid_PxG, x_PxG, 0.0).sum(-1, keepdims=True) / count
  deviation = jnp.where(valid_PxG, x_PxG - mean, 0.0)
  variance = jnp.square(deviation).sum(-1, keepdims=True) / count
  # The derivative of the square root at 0 is infinite, and `where` would turn
  # it into NaN in the backward pass; so the root is taken of 1 there.
  spread = variance > 0
  std = jnp.where(spread, jnp.sqrt(jnp.where(spread, variance, 1.0)), 0.0)
  return mean, std


def group_advantages(
  reward_PxG: jax.Array,
  valid_PxG: jax.Array,
  *,
  baseline_P: jax.Array | None = None,
  scale_P: jax.Array | None = None,
  std_floor: float = 1e-3,
) -> jax.Array:
  """Advantages `A_i = (r_i − b) / s` within each group.

  Source: GRPO, arXiv 2402.03300, §4.1.

  Args:
    reward_PxG: rewards, in any unit.
    valid_PxG: false where a reply could not be scored.
    baseline_P: `b`; if None, the mean reward of the group's valid replies.
    scale_P: `s`; if None, the std of the valid rewards.  Pass ones for
      Dr. GRPO (arXiv 2503.20783), or the std of the writing score alone.
    std_floor: lower bound of `s`, in the unit of the rewards, so that rounding
      errors in a group of equal rewards are not amplified.

  Returns:
    Advantages `[P, G]`, exactly 0 where not valid.
  """
  mean, std = masked_mean_std(reward_PxG, valid_PxG)
  baseline = mean if baseline_P is None else baseline_P[:, None]
  scale = std if scale_P is None else scale_P[:, None]
  advantage = (reward_PxG - baseline) / jnp.maximum(scale, std_floor)
  return jnp.where(valid_PxG, advantage, 0.0)


def k3_kl(logp: jax.Array, ref_logp: jax.Array, mask: jax.Array) -> jax.Array:
  """The k3 estimate of `KL(π ‖ π_ref)` per token: `e^d − d − 1 ≥ 0`.

  Here `d = log π_ref − log π`.  Source: Schulman, "Approximating KL
  divergence", 2020.

  Args:
    logp: log-probabilities `[..., T]` under the policy.
    ref_logp: the same under the reference.
    mask: true at real tokens.

  Returns:
    Nats per token `[..., T]` in float32, 0 where masked.
  """
  # Masked before `exp`: an overflow at a padded position would make the
  # gradient NaN even if the result were masked later.
  d = jnp.where(mask, (ref_logp - logp).astype(jnp.float32), 0.0)
  d = jnp.clip(d, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
  # Near d = 0, where training starts, e^d − 1 would lose most of its digits.
  return jnp.expm1(d) - d


def aggregate(
  loss_NxT: jax.Array, mask_NxT: jax.Array, how: str, max_length: int
) -> Ratio:
  """Aggregates token losses over replies.

  Args:
    loss_NxT: loss per token.
    mask_NxT: true at real tokens.
    how: `token_mean` weighs all tokens equally (DAPO, arXiv 2503.14476);
      `sequence_mean` all replies, each the mean of its tokens (GRPO);
      `constant` sums a reply's tokens and divides by `max_length` instead of
      the reply's length (Dr. GRPO, arXiv 2503.20783).
    max_length: divisor of `constant`, in tokens.

  Raises:
    ValueError: `how` is none of these.
  """
  loss_NxT = jnp.where(mask_NxT, loss_NxT, 0.0)
  length_N = mask_NxT.sum(-1)
  # Replies that could not be scored are masked throughout; they must not count
  # in the denominator.
  replies = jnp.sum(length_N > 0).astype(jnp.float32)
  if how == 'token_mean':
    return Ratio(loss_NxT.sum(), length_N.sum().astype(jnp.float32))
  if how == 'sequence_mean':
    return Ratio((loss_NxT.sum(-1) / jnp.maximum(length_N, 1)).sum(), replies)
  if how == 'constant':
    return Ratio(loss_NxT.sum(), replies * max_length)
  raise ValueError(f'aggregation={how!r}; expected one of {AGGREGATIONS}')


class GRPOTerms(NamedTuple):
  """The GRPO loss and its diagnostics, each a sum and a denominator."""

  loss: Ratio
  kl: Ratio  # nats per token, to the reference
  clip_fraction: Ratio  # share of tokens whose gradient the clip removed
  sampler_gap: Ratio  # mean |log π − log π_sampler| per token


def grpo(
  logp_NxT: jax.Array,
  old_logp_NxT: jax.Array,
  advantage_N: jax.Array,
  mask_NxT: jax.Array,
  ref_logp_NxT: jax.Array,
  *,
  clip_low: jax.Array | float = 0.2,
  clip_high: jax.Array | float = 0.2,
  kl_weight: jax.Array | float = 0.0,
  ratio: str = 'token',
  aggregation: str = 'token_mean',
) -> GRPOTerms:
  """Group-relative policy optimisation (arXiv 2402.03300, eq. 3).

  `L = −min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) + β · KL(π ‖ π_ref)` per
  token, with the importance ratio `ρ = π / π_old` of the token, or of the
  reply as the geometric mean over its tokens (GSPO, arXiv 2507.18071).

  Args:
    logp_NxT: log-probabilities under the current policy; gradients flow
      through these only.
    old_logp_NxT: log-probabilities recorded by the sampler.
    advantage_N: one advantage per reply.
    mask_NxT: true at the reply's tokens, EOS included; false throughout for
      replies that could not be scored, which are ignored.
    ref_logp_NxT: log-probabilities under the frozen reference.
    clip_low: ε_low.
    clip_high: ε_high; above ε_low it is DAPO's clip-higher.
    kl_weight: β.
    ratio: `token` or `sequence`.
    aggregation: see `aggregate`.

  Raises:
    ValueError: an unknown `ratio` or `aggregation`.
  """
  max_length = mask_NxT.shape[-1]
  # Masked before `exp`, as in `k3_kl`.
  difference = jnp.where(mask_NxT, logp_NxT - old_logp_NxT, 0.0)
  if ratio == 'sequence':
    length_Nx1 = jnp.maximum(mask_NxT.sum(-1, keepdims=True), 1)
    # The mean of log-ratios is the log of their geometric mean.  All tokens of
    # a reply share this ratio, and its gradient.
    mean = difference.sum(-1, keepdims=True) / length_Nx1
    log_ratio = jnp.broadcast_to(mean, difference.shape)
  elif ratio == 'token':
    log_ratio = difference
  else:
    raise ValueError(f'ratio={ratio!r}; expected one of {RATIOS}')
  log_ratio = jnp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
  rho_NxT = jnp.exp(log_ratio)
  unclipped = rho_NxT * advantage_N[:, None]
  clipped = (
    jnp.clip(rho_NxT, 1.0 - clip_low, 1.0 + clip_high) * advantage_N[:, None]
  )
  kl_NxT = k3_kl(logp_NxT, ref_logp_NxT, mask_NxT)
  # The minimum keeps the clip one-sided: where a clipped ratio would understate
  # the loss (a bad token that became likelier), the gradient remains.
  loss_NxT = -jnp.minimum(unclipped, clipped) + kl_weight * kl_NxT

  def token_mean(x_NxT: jax.Array) -> Ratio:
    x_NxT = lax.stop_gradient(x_NxT).astype(jnp.float32)
    return aggregate(x_NxT, mask_NxT, 'token_mean', max_length)

  return GRPOTerms(
    loss=aggregate(loss_NxT, mask_NxT, aggregation, max_length),
    kl=token_mean(kl_NxT),
    clip_fraction=token_mean(clipped < unclipped),
    # On fresh samples this is 0 but for numerics: a large gap means that the
    # sampler and the training forward pass disagree.
    sampler_gap=token_mean(jnp.abs(difference)),
  )
