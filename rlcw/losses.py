"""Losses and advantages as pure functions of arrays.

A loss returns a numerator and a denominator, never their quotient: sums add up
over microbatches and devices, and a single division at the end makes k
microbatches equal one batch.

Shape letters: P prompts, G replies per prompt, T reply tokens, N rows (replies,
texts or prompts), R replies ranked against each other, K covariates.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

RATIOS = 'token', 'sequence'  # values of `ratio` in `grpo`
AGGREGATIONS = 'token_mean', 'sequence_mean', 'constant'
KL_ESTIMATORS = 'k3', 'k2'  # values of `kl` in `grpo`
# A policy that has moved far from the sampler must not overflow `exp`: float32
# ends at exp(88), and exp(20) times an advantage, summed, is far below that.
LOG_RATIO_LIMIT = 20.0
# Limit of log π_ref − log π in the KL term, in nats.  The slope of k3 is then
# e^5 − 1 ≈ 147 at most, so no token outweighs the thousands of a batch.
KL_LIMIT = 5.0
# Relative spread of float32 numbers that rounding alone explains.
ROUNDING = 4 * float(jnp.finfo(jnp.float32).eps)
# A group in which no |advantage| is above this teaches nothing.
LEAST_ADVANTAGE = 1e-3


class Ratio(NamedTuple):
  """A mean as a sum (scalar) and its divisor (scalar)."""

  numerator: jax.Array
  denominator: jax.Array

  @property
  def quotient(self) -> jax.Array:
    """The mean; 0 where nothing counts."""
    # The divisor may be below 1, as a sum of fractional weights.
    some = self.denominator > 0
    return self.numerator / jnp.where(some, self.denominator, 1)

  def join(self, other: 'Ratio') -> 'Ratio':
    """The mean over the examples of both."""
    return Ratio(*map(jnp.add, self, other))


class Peak(Ratio):
  """A greatest value (scalar), over 1."""

  def join(self, other: Ratio) -> 'Peak':
    """The greatest value among the examples of both."""
    return Peak(jnp.maximum(self.numerator, other.numerator), self.denominator)


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
  x_N = deviations(x_N, real_N)
  y_NxK = deviations(y_NxK.T, real_N).T
  # The floor of 1e-6 on the variance of x (a std of 1e-3): r² of nearly equal
  # scores is noise, and its gradient would be huge.
  power_K = (jnp.square(x_N).sum() + 1e-6 * count) * (
    jnp.square(y_NxK).sum(0) + 1e-6
  )
  return (jnp.square(x_N @ y_NxK) / power_K).sum()


def _below_largest(
  x: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The valid `x[..., N]` less the largest of them, and that one `[..., 1]`."""
  x = x.astype(jnp.float32)
  some = valid.any(-1, keepdims=True)
  largest = jnp.max(x, -1, keepdims=True, where=valid, initial=-jnp.inf)
  largest = lax.stop_gradient(jnp.where(some, largest, 0.0))
  return jnp.where(valid, x - largest, 0.0), largest


def deviations(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Deviations of the valid `x[..., N]` from their mean over the last axis.

  They are 0 where not valid, and exactly 0 where all valid `x` are equal: the
  mean of 10,000.1 in float32 differs from 10,000.1, so the largest is
  subtracted first.
  """
  below, _ = _below_largest(x, valid)
  count = jnp.maximum(valid.sum(-1, keepdims=True), 1)
  return jnp.where(valid, below - below.sum(-1, keepdims=True) / count, 0.0)


def masked_mean_std(
  x_PxG: jax.Array, valid_PxG: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Mean and population std `[P, 1]` of each group's valid replies, float32.

  Both are 0 for a group without valid replies; the std of equal numbers is
  exactly 0.
  """
  count_Px1 = jnp.maximum(valid_PxG.sum(-1, keepdims=True), 1)
  below_PxG, largest_Px1 = _below_largest(x_PxG, valid_PxG)
  mean_Px1 = largest_Px1 + below_PxG.sum(-1, keepdims=True) / count_Px1
  deviation_PxG = deviations(below_PxG, valid_PxG)
  variance_Px1 = jnp.square(deviation_PxG).sum(-1, keepdims=True) / count_Px1
  # The derivative of the square root at 0 is infinite, and `where` would turn
  # it into NaN in the backward pass; so the root is taken of 1 there.
  differ_Px1 = variance_Px1 > 0
  std_Px1 = jnp.sqrt(jnp.where(differ_Px1, variance_Px1, 1.0))
  return mean_Px1, jnp.where(differ_Px1, std_Px1, 0.0)


def rounding_std(x_PxG: jax.Array, valid_PxG: jax.Array) -> jax.Array:
  """Std `[P, 1]` that rounding may give to equal numbers as large as these."""
  size_PxG = jnp.abs(lax.stop_gradient(x_PxG).astype(jnp.float32))
  return ROUNDING * jnp.max(
    size_PxG, -1, keepdims=True, where=valid_PxG, initial=0.0
  )


def group_advantages(
  reward_PxG: jax.Array,
  valid_PxG: jax.Array,
  *,
  baseline_P: jax.Array | None = None,
  scale_P: jax.Array | None = None,
  std_floor: jax.Array | float = 1e-3,
) -> jax.Array:
  """Advantages `A_i = (r_i − b) / s` within each group.

  Source: GRPO, arXiv 2402.03300, §4.1.

  Args:
    reward_PxG: rewards, in any unit.
    valid_PxG: false where a reply could not be scored.
    baseline_P: `b`; if None, the mean reward of the group's valid replies.
    scale_P: `s`; if None, the std of the valid rewards.  Pass ones for
      Dr. GRPO (arXiv 2503.20783), or the std of the writing score alone.
    std_floor: lower bound of `s`, a number or `[P]`, in the unit of the
      rewards, so that rounding errors in a group of equal rewards are not
      amplified.  The bound is higher for rewards so large that their own
      rounding is (`rounding_std`).

  Returns:
    Advantages `[P, G]` in float32, exactly 0 where not valid.
  """
  _, std_Px1 = masked_mean_std(reward_PxG, valid_PxG)
  scale_Px1 = std_Px1 if scale_P is None else scale_P[:, None]
  floor_Px1 = jnp.maximum(
    jnp.reshape(std_floor, (-1, 1)), rounding_std(reward_PxG, valid_PxG)
  )
  difference_PxG = (
    deviations(reward_PxG, valid_PxG)
    if baseline_P is None
    else reward_PxG - baseline_P[:, None]
  )
  advantage_PxG = difference_PxG / jnp.maximum(scale_Px1, floor_Px1)
  return jnp.where(valid_PxG, advantage_PxG, 0.0)


def located_advantages(
  advantage_N: jax.Array, located_NxT: jax.Array, penalty: jax.Array | float
) -> jax.Array:
  """Advantages `[N, T]` of tokens, lower by `penalty` where a rule is broken.

  Source: dense rewards from critiques, arXiv 2401.07382; see `rewards.located`.
  """
  return advantage_N[:, None] - penalty * located_NxT


def demonstration_loss(
  logp_NxT: jax.Array,
  advantage_N: jax.Array,
  mask_NxT: jax.Array,
  aggregation: str,
) -> Ratio:
  """Policy loss `−ρ A` of replies that the policy has not sampled.

  The ratio `ρ = π / sg(π)` is 1 in each update, so that nothing is clipped, and
  its gradient is that of log π.  (Source: RIL, arXiv 2510.19307.)

  Args:
    logp_NxT: log-probabilities under the current policy.
    advantage_N: of the replies, at least 0.
    mask_NxT: true at real tokens.
    aggregation: see `aggregate`.
  """
  logp_NxT = jnp.where(mask_NxT, logp_NxT, 0.0)
  rho_NxT = jnp.exp(logp_NxT - lax.stop_gradient(logp_NxT))
  loss_NxT = -rho_NxT * advantage_N[:, None]
  return aggregate(loss_NxT, mask_NxT, aggregation, mask_NxT.shape[-1])


def _log_ratio(
  logp: jax.Array, ref_logp: jax.Array, mask: jax.Array
) -> jax.Array:
  """`d = log π_ref − log π` in float32, 0 where masked."""
  # Masked before `exp`: an overflow at a padded position would make the
  # gradient NaN even if the result were masked later.
  return jnp.where(mask, (ref_logp - logp).astype(jnp.float32), 0.0)


# The gradient passes a limit as it is: the farther the policy has drifted at a
# token, the more it must be pulled back there, if with bounded force.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _limited(d: jax.Array, low: float, high: float) -> jax.Array:
  return jnp.clip(d, low, high)


@_limited.defjvp
def _limited_jvp(
  low: float, high: float, primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
  return _limited(*primals, low, high), tangents[0]


def k3_kl(logp: jax.Array, ref_logp: jax.Array, mask: jax.Array) -> jax.Array:
  """The k3 estimate of `KL(π ‖ π_ref)` per token: `e^d − d − 1 ≥ 0`.

  Here `d = log π_ref − log π`, limited to `KL_LIMIT` above, where `e^d` would
  explode.  Source: Schulman, "Approximating KL divergence", 2020.

  Only its value estimates `KL(π ‖ π_ref)`.  Its gradient, at samples of π, is
  `(1 − e^d) ∇log π` with the mean `−Σ π_ref ∇log π`: that of the other
  divergence, `KL(π_ref ‖ π)`, which makes the policy cover all that the
  reference may write.  For the gradient of `KL(π ‖ π_ref)` see `k2_kl`.

  Args:
    logp: log-probabilities `[..., T]` under the policy.
    ref_logp: the same under the reference.
    mask: true at real tokens.

  Returns:
    Nats per token `[..., T]` in float32, 0 where masked.  Beyond the limit the
    gradient is that at the limit.
  """
  d = _log_ratio(logp, ref_logp, mask)
  d = _limited(d, -LOG_RATIO_LIMIT, KL_LIMIT)
  # Near d = 0, where training starts, e^d − 1 would lose most of its digits.
  return jnp.expm1(d) - d


def k2_kl(logp: jax.Array, ref_logp: jax.Array, mask: jax.Array) -> jax.Array:
  """Half the squared log-ratio per token, `d² / 2`; arguments as `k3_kl`.

  At samples of π its gradient `−d ∇log π` has the mean
  `Σ π (log π − log π_ref) ∇log π`, which is the gradient of `KL(π ‖ π_ref)`.
  Its value is a biased estimate of that.  Here `d` is limited to ±`KL_LIMIT`.
  Source: as `k3_kl`.
  """
  d = _log_ratio(logp, ref_logp, mask)
  return jnp.square(_limited(d, -KL_LIMIT, KL_LIMIT)) / 2


def divisor(length_N: jax.Array, how: str, max_length: int) -> jax.Array:
  """Divisor (scalar) of the losses of replies; see `aggregate`.

  Args:
    length_N: tokens of each reply; 0 for one that is ignored.
    how: as there.
    max_length: as there.

  Raises:
    ValueError: `how` is none of `AGGREGATIONS`.
  """
  # Replies that could not be scored have no tokens; they must not count.
  replies = jnp.sum(length_N > 0).astype(jnp.float32)
  if how == 'token_mean':
    return length_N.sum().astype(jnp.float32)
  if how == 'sequence_mean':
    return replies
  if how == 'constant':
    return replies * max_length
  raise ValueError(f'aggregation={how!r}; expected one of {AGGREGATIONS}')


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
  loss_N = loss_NxT.sum(-1)
  if how == 'sequence_mean':
    loss_N /= jnp.maximum(length_N, 1)
  return Ratio(loss_N.sum(), divisor(length_N, how, max_length))


def truncated_weight(
  policy_logp: jax.Array,
  sampler_logp: jax.Array,
  mask: jax.Array,
  most: jax.Array | float,
) -> jax.Array:
  """Weights `min(π / π_sampler, C)` of truncated importance sampling.

  They correct for a sampler that computes other probabilities than the trainer,
  as one in bfloat16 does, with a bounded variance.  Source: Yao et al., "Your
  efficient RL framework secretly brings you off-policy RL training", 2025.

  Args:
    policy_logp: log-probabilities `[..., T]` by the trainer's program, of the
      parameters that the replies were sampled from.
    sampler_logp: the same as recorded by the sampler.
    mask: true at real tokens.
    most: C, at least 1.

  Returns:
    Weights `[..., T]` in `[0, C]`, without gradient; 1 where masked.
  """
  gap = jnp.where(mask, policy_logp - sampler_logp, 0.0)
  gap = jnp.clip(lax.stop_gradient(gap), -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
  return jnp.minimum(jnp.exp(gap), most)


def importance_ratio(
  difference_NxT: jax.Array, mask_NxT: jax.Array, ratio: str
) -> jax.Array:
  """Ratios `[N, T]` ρ of tokens or of whole replies.

  Args:
    difference_NxT: log π − log π_old, 0 where the mask is false.
    mask_NxT: true at the reply's tokens.
    ratio: `token`, or `sequence` for the geometric mean over a reply's tokens
      (GSPO, arXiv 2507.18071, eq. 6).

  Raises:
    ValueError: an unknown `ratio`.
  """
  if ratio == 'sequence':
    length_Nx1 = jnp.maximum(mask_NxT.sum(-1, keepdims=True), 1)
    # The mean of log-ratios is the log of their geometric mean.  All tokens of
    # a reply share this value, and each has a gradient of its own (GSPO-token,
    # section 4.3).  With one advantage for all that is GSPO's; with one for
    # each, GSPO's gradient would only be of their mean.
    mean_Nx1 = difference_NxT.sum(-1, keepdims=True) / length_Nx1
    own_NxT = difference_NxT - lax.stop_gradient(difference_NxT)  # 0
    log_ratio_NxT = lax.stop_gradient(mean_Nx1) + own_NxT
  elif ratio == 'token':
    log_ratio_NxT = difference_NxT
  else:
    raise ValueError(f'ratio={ratio!r}; expected one of {RATIOS}')
  return jnp.exp(jnp.clip(log_ratio_NxT, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def clipped_surrogate(
  rho_NxT: jax.Array,
  advantage: jax.Array,
  clip_low: jax.Array | float,
  clip_high: jax.Array | float,
  dual_clip: jax.Array | float | None,
) -> tuple[jax.Array, jax.Array]:
  """The surrogate `[N, T]` s of `grpo`, and where a clip acts on it.

  Args:
    rho_NxT: importance ratios.
    advantage: `[N, 1]` or `[N, T]`.
    clip_low: ε_low.
    clip_high: ε_high.
    dual_clip: c; None for no bound.
  """
  unclipped_NxT = rho_NxT * advantage
  clipped_NxT = jnp.clip(rho_NxT, 1.0 - clip_low, 1.0 + clip_high) * advantage
  # The minimum keeps the clip one-sided: where a clipped ratio would understate
  # the loss (a bad token that became likelier), the gradient remains.
  surrogate_NxT = jnp.minimum(unclipped_NxT, clipped_NxT)
  cut_NxT = clipped_NxT < unclipped_NxT
  if dual_clip is not None:
    floor = dual_clip * advantage
    below_NxT = (advantage < 0) & (surrogate_NxT < floor)
    surrogate_NxT = jnp.where(below_NxT, floor, surrogate_NxT)
    cut_NxT |= below_NxT
  return surrogate_NxT, cut_NxT


class GRPOTerms(NamedTuple):
  """The GRPO loss and its diagnostics, each a sum and a denominator."""

  loss: Ratio
  kl: Ratio | None  # nats per token, to the reference, by k3
  kl_clipped: Ratio | None  # share of tokens whose log-ratio was limited
  clip_fraction: Ratio  # share of tokens whose gradient the clip removed
  sampler_gap: Ratio  # mean |log π − log π_old| per token


def grpo(
  logp_NxT: jax.Array,
  old_logp_NxT: jax.Array,
  advantage: jax.Array,
  mask_NxT: jax.Array,
  ref_logp_NxT: jax.Array | None,
  *,
  clip_low: jax.Array | float = 0.2,
  clip_high: jax.Array | float = 0.2,
  kl: str = 'k3',
  kl_weight: jax.Array | float = 0.0,
  ratio: str = 'token',
  aggregation: str = 'token_mean',
  dual_clip: jax.Array | float | None = None,
  weight_NxT: jax.Array | None = None,
) -> GRPOTerms:
  """Group-relative policy optimisation (arXiv 2402.03300, eq. 3).

  `L = −w · s + β · k` per token, with `s = min(ρ A, clip(ρ, 1 − ε_low,
  1 + ε_high) A)`, an estimate `k` of a KL divergence from the reference
  (`k3_kl` or `k2_kl`), and the importance ratio `ρ = π / π_old` of the token,
  or of the reply as the geometric mean over its tokens (GSPO, arXiv
  2507.18071).  With a dual clip (arXiv 1912.09729, eq. 8), `max(s, c A)`
  replaces `s` where A < 0: the loss is bounded by `c |A|` there, too.

  Args:
    logp_NxT: log-probabilities under the current policy; gradients flow
      through these only.
    old_logp_NxT: log-probabilities under the policy that the ratio is against:
      those recorded by the sampler or, beside weights, those of the trainer.
    advantage: `[N]`, one per reply, or `[N, T]`, one per token.
    mask_NxT: true at the reply's tokens, EOS included; false throughout for
      replies that could not be scored, which are ignored.
    ref_logp_NxT: log-probabilities under the frozen reference; None for no KL
      term.
    clip_low: ε_low.
    clip_high: ε_high; above ε_low it is DAPO's clip-higher.
    kl: `k3` or `k2`, which differ in the divergence that is minimised.
    kl_weight: β.
    ratio: `token` or `sequence`.
    aggregation: see `aggregate`.
    dual_clip: c, above 1; None for no bound.
    weight_NxT: w, see `truncated_weight`; None for 1.

  Raises:
    ValueError: an unknown `ratio`, `kl` or `aggregation`.
  """
  if kl not in KL_ESTIMATORS:
    raise ValueError(f'kl={kl!r}; expected one of {KL_ESTIMATORS}')
  max_length = mask_NxT.shape[-1]
  # Masked before `exp`, as in `k3_kl`.
  difference_NxT = jnp.where(mask_NxT, logp_NxT - old_logp_NxT, 0.0)
  rho_NxT = importance_ratio(difference_NxT, mask_NxT, ratio)
  # [N, 1] or [N, T].
  advantage = advantage.reshape(len(advantage), -1)
  surrogate_NxT, cut_NxT = clipped_surrogate(
    rho_NxT, advantage, clip_low, clip_high, dual_clip
  )
  loss_NxT = -surrogate_NxT
  if weight_NxT is not None:
    loss_NxT *= lax.stop_gradient(weight_NxT)

  def token_mean(x_NxT: jax.Array) -> Ratio:
    x_NxT = lax.stop_gradient(x_NxT).astype(jnp.float32)
    return aggregate(x_NxT, mask_NxT, 'token_mean', max_length)

  divergence = kl_clipped = None
  if ref_logp_NxT is not None:
    arrays = logp_NxT, ref_logp_NxT, mask_NxT
    k3_NxT, d_NxT = k3_kl(*arrays), _log_ratio(*arrays)
    loss_NxT += kl_weight * (k3_NxT if kl == 'k3' else k2_kl(*arrays))
    divergence = token_mean(k3_NxT)
    far_NxT = d_NxT if kl == 'k3' else jnp.abs(d_NxT)
    kl_clipped = token_mean(far_NxT > KL_LIMIT)

  return GRPOTerms(
    loss=aggregate(loss_NxT, mask_NxT, aggregation, max_length),
    kl=divergence,
    kl_clipped=kl_clipped,
    clip_fraction=token_mean(cut_NxT),
    # On fresh samples this is 0 but for numerics: a large gap means that the
    # sampler and the training forward pass disagree.
    sampler_gap=token_mean(jnp.abs(difference_NxT)),
  )
