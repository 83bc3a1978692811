"""The model, optimiser and loss of a GRPO run.

Task `grpo` trains with them, and task `plan` compiles them ahead of time; one
definition for both makes sure that the plan is of the program that runs.

Letters: P briefs, G replies to each, R texts (those, and a demonstration if a
run has them), T tokens of a text, N replies; S rows of packed tokens, D model.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from rlcw import Config, losses, train
from rlcw.models import lora, packing
from rlcw.models.compute import BatchSettings
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.groups import forward_groups, reply_logprobs_and_entropy
from rlcw.models.packing import Groups, Part
from rlcw.runtime import optimizers, settings
from rlcw.tasks.grpo import minibatches, relabelling

SETTINGS = BatchSettings('prompts_per_step', 'microbatch_groups')


def sampled_prompts(config: Config) -> int:
  """Number of briefs that a step samples replies to.

  With `oversample`, so many times `prompts_per_step`, rounded up to whole
  microbatches.
  """
  # Configs of earlier versions do not have the setting.
  more = config.get('oversample', 1.0)
  if more == 1:
    return config.prompts_per_step
  # Scoring and updates both compute whole microbatches.
  size = math.lcm(config.microbatch_groups, minibatches.micro(config))
  # Rounded first: 1.1 · 10 is 11.000000000000002.
  return math.ceil(round(more * config.prompts_per_step / size, 6)) * size


def check(config: Config, mesh: Mesh) -> None:
  """Checks the batch of a step against the mesh, and what the loss reads.

  Raises:
    ValueError: a setting has no effect; or see `optimizers.check`,
      `BatchSettings.check` and `minibatches.check`.
  """
  if config.get('kl_weight') == 0:
    settings.refuse_unread(
      config, {'kl': 'k3'}, 'a KL term: expected kl_weight above 0'
    )
  optimizers.check(config)
  SETTINGS.check(config, mesh)
  minibatches.check(config, SETTINGS.valid(config, mesh))


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """The optimiser of a run (`optimizers.optimizer_of`)."""
  updates = minibatches.updates(config) * config.steps
  return optimizers.optimizer_of(config, updates, config.moment_dtype)


def make_rate(config: Config) -> optax.Schedule:
  """The learning rate of a run, by the number of updates."""
  return optimizers.rate_of(config, minibatches.updates(config) * config.steps)


def reads_old_policy(config: Config) -> bool:
  """True if a pass before the first update gives the ratio's denominator.

  That of a single update is the policy that it computes anyway.
  """
  own = config.get('tis', 0.0) > 0 or relabelling.relabels(config)
  return own and minibatches.updates(config) > 1


def signals_only(config: Config) -> bool:
  """True if groups whose advantages are all 0 have no gradient."""
  return config.kl_weight == 0 and config.get('entropy_weight', 0.0) == 0


# --- Batch ------------------------------------------------------------------


class Batch(NamedTuple):
  """Groups of one update, laid out for it."""

  parts: list[Part]  # at most groups / `microbatch_groups`
  divisor: jax.Array  # of the sum of their losses
  tokens: int  # of the groups that are computed
  computed: int  # tokens of the rows of all parts


def padding(batches: Sequence[Batch]) -> float:
  """Share of the tokens computed in all updates of a step that are padding."""
  return 1 - sum(b.tokens for b in batches) / sum(b.computed for b in batches)


def pack(
  arrays: dict[str, Any],
  lengths: tuple[np.ndarray, np.ndarray],
  config: Config,
  sharding: Any,
  kept_P: np.ndarray | None = None,
  live_P: np.ndarray | None = None,
) -> Batch:
  """Lays the groups of an update out in packed rows.

  Args:
    arrays: of `updates.batch_arrays`, `[P, …]`.
    lengths: tokens `[P]` of all briefs and `[P, R]` of their texts (`_texts`),
      on the host.
    config: of the `grpo` task.
    sharding: of groups.
    kept_P: groups that the loss is of; None for all.
    live_P: of these, groups that may have a gradient; None for all.  The others
      are not computed, but count in the divisor.
  """
  every = np.ones(len(lengths[0]), bool)
  kept_P = every if kept_P is None else kept_P
  live_P = kept_P if live_P is None else kept_P & live_P
  # A minibatch may be smaller than a microbatch.
  kept = int(kept_P.sum())
  part = min(config.microbatch_groups or kept, kept)
  packed = _partition(arrays, lengths, part, live_P)
  return Batch(
    packed.split(arrays | {'live': live_P}, sharding),
    _divisor(arrays, kept_P, config.aggregation),
    packed.tokens,
    packed.computed,
  )


def _partition(
  arrays: dict[str, Any],
  lengths: tuple[np.ndarray, np.ndarray],
  part: int,
  live_P: np.ndarray,
) -> packing.Partition:
  widths = arrays['prompt'].shape[-1], arrays['rollout'].token.shape[-1]
  return packing.partition(*lengths, *widths, part=part, live_P=live_P)


@functools.partial(jax.jit, static_argnames='how')
def _divisor(
  arrays: dict[str, Any], kept_P: jax.Array | np.ndarray, how: str
) -> jax.Array:
  rollout, counted_PxG = arrays['rollout'], arrays['valid'] & kept_P[:, None]
  counted_PxG = jnp.where(counted_PxG, rollout.drawn_length, 0)
  return losses.divisor(counted_PxG, how, rollout.token.shape[-1])


# --- Programs ---------------------------------------------------------------


def read(
  model_config: ModelConfig,
  config: Config,
  params: Params,
  part: Part,
  entropy: bool = False,
) -> list[jax.Array]:
  """Runs a policy over a part, each brief once for its G replies.

  Returns:
    As `reply_logprobs_and_entropy`.
  """
  live_P = part.arrays['live']
  token_PxRxT, count_PxR = _texts(part.arrays)
  groups = Groups(
    part.arrays['prompt'],
    # Groups that are not live only fill the part up: they have no tokens.
    jnp.where(live_P, part.arrays['length'], 0),
    token_PxRxT,
    jnp.where(live_P[:, None], count_PxR, 0),
  )
  hidden_SxNxD, layout = forward_groups(
    model_config, params, groups, part.width
  )
  # At the temperature of the rollout, or the ratio of policy to sampler would
  # not be 1 before the first update.
  return reply_logprobs_and_entropy(
    model_config,
    params,
    hidden_SxNxD,
    layout,
    token_PxRxT,
    config.temperature,
    entropy=entropy,
  )


def _texts(arrays: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
  """Tokens `[P, R, T]` of the R texts after each brief, and counts `[P, R]`.

  R is G or, with demonstrations, which come last, G + 1.
  """
  rollout = arrays['rollout']
  if 'demonstration' not in arrays:
    return rollout.token, rollout.length
  shown = arrays['demonstration']
  count_Px1 = jnp.where(arrays['demonstrated'][:, None] > 0, shown.length, 0)
  return (
    jnp.concatenate([rollout.token, shown.token], axis=1),
    jnp.concatenate([rollout.length, count_Px1], axis=1),
  )


def make_old_policy(
  model_config: ModelConfig, config: Config
) -> Callable[[Params, Part], jax.Array]:
  """Makes the jitted `(params, part) -> [P, G, T]` log-probabilities.

  They are those of the trainer's program, from which the sampler's may differ.
  """

  def old_policy(params: Params, part: Part) -> jax.Array:
    logp_PxRxT, *_ = read(model_config, config, params, part)
    return logp_PxRxT[:, : part.arrays['rollout'].token.shape[1]]

  return jax.jit(old_policy)


def read_old_policy(
  old_policy: Callable[[Part], jax.Array],
  arrays: dict[str, Any],
  lengths: tuple[np.ndarray, np.ndarray],
  config: Config,
  sharding: Any,
  live_P: np.ndarray,
) -> jax.Array:
  """Log-probabilities `[P, G, T]` of replies, a part of the groups at a time.

  Args:
    old_policy: of `make_old_policy`, given parameters.
    arrays: as for `pack`, as are the other arguments.
    lengths: of briefs and replies.
    config: of the task.
    sharding: of groups.
    live_P: groups that are needed; the others may have zeros.
  """
  packed = _partition(arrays, lengths, minibatches.micro(config), live_P)
  found = [
    old_policy(part)
    for part in packed.split(arrays | {'live': live_P}, sharding)
  ]
  found += [jnp.zeros_like(found[0])] * (packed.parts - len(found))
  return packed.join(found, sharding)


def make_loss(model_config: ModelConfig, config: Config) -> train.LossFn:
  """Returns the GRPO loss as `train.fit` takes it.

  The loss reads a `Part` of a batch of `updates.batch_arrays` in packed rows.
  Its result is `losses.GRPOTerms` as a dict, without the terms that a batch
  without reference log-probabilities lacks, and with those of `_gap_terms` for
  `tis` and of `_entropy_terms` for `entropy_weight`.

  The ratio is against the sampler's log-probabilities.  With `tis` it is
  against the trainer's before the first update, and truncated importance
  weights correct for the difference of the two.  That of relabelled groups is
  always against the trainer's.  The loss of demonstrations is added to that of
  the replies, whose divisor stays.
  """
  tis, bonus = config.get('tis', 0.0), config.get('entropy_weight', 0.0)

  def loss_fn(
    params: Params, frozen: Params, part: Part
  ) -> dict[str, losses.Ratio]:
    arrays, rollout = part.arrays, part.arrays['rollout']
    length = rollout.token.shape[-1]
    # Tokens count if the policy has drawn them, and their reply could be
    # scored.
    count_PxG = jnp.where(arrays['live'][:, None], rollout.length, 0)
    mask_PxGxT = rollout.replace(length=count_PxG).drawn
    mask_PxGxT &= arrays['valid'][..., None]
    params = lora.join(params, frozen)
    size = rollout.token.shape[1]
    logp_PxRxT, *entropy = read(model_config, config, params, part, bonus > 0)
    logp_PxGxT = logp_PxRxT[:, :size]
    # From here on a row for each reply, [P · G, T]: the loss needs no groups,
    # as the advantages already compare a reply with its group.
    logp, mask, sampler_logp = (
      x.reshape(-1, length) for x in (logp_PxGxT, mask_PxGxT, rollout.logp)
    )
    ref_logp, weight = arrays.get('ref_logp'), None
    # Without a pass before the update, it is the only one of its rollout.
    own_logp = arrays.get('old_logp', logp_PxGxT).reshape(-1, length)
    own_logp = lax.stop_gradient(own_logp)
    if 'relabelled' in arrays:
      # Their replies were sampled for another brief.
      relabelled_N = jnp.repeat(arrays['relabelled'], size)
      sampler_logp = jnp.where(relabelled_N[:, None], own_logp, sampler_logp)
    old_logp = sampler_logp
    if tis:
      old_logp = own_logp
      weight = losses.truncated_weight(old_logp, sampler_logp, mask, tis)
    advantage = arrays['advantage'].reshape(-1)
    if 'located' in arrays:
      located_NxT = arrays['located'].reshape(-1, length)
      advantage = losses.located_advantages(
        advantage, located_NxT, config.mixing.located_penalty
      )
    terms = losses.grpo(
      logp,
      old_logp,
      advantage,
      mask,
      None if ref_logp is None else ref_logp.reshape(-1, length),
      clip_low=config.clip_low,
      clip_high=config.clip_high,
      kl=config.kl,
      kl_weight=config.kl_weight,
      ratio=config.ratio,
      aggregation=config.aggregation,
      # 0 for no dual clip; configs of earlier versions do not have it.
      dual_clip=config.get('dual_clip', 0.0) or None,
      weight_NxT=weight,
    )
    terms = {k: term for k, term in terms._asdict().items() if term is not None}
    if tis:
      terms |= _gap_terms(old_logp, sampler_logp, mask, tis)
    for entropy_PxRxT in entropy:
      entropy_NxT = entropy_PxRxT[:, :size].reshape(-1, length)
      terms |= _entropy_terms(terms['loss'], entropy_NxT, mask, config)
    if 'demonstration' in arrays:
      logp_PxT = logp_PxRxT[:, size]
      terms |= _with_demonstrations(terms['loss'], logp_PxT, arrays, config)
    return terms

  return loss_fn


def _with_demonstrations(
  loss: losses.Ratio, logp_PxT: jax.Array, arrays: Any, config: Config
) -> dict[str, losses.Ratio]:
  """The loss of replies plus that of demonstrations; its divisor stays."""
  count_P = jnp.where(arrays['live'], _texts(arrays)[1][:, -1], 0)
  shown = losses.demonstration_loss(
    logp_PxT,
    arrays['demonstrated'],
    jnp.arange(logp_PxT.shape[-1]) < count_P[:, None],
    config.aggregation,
  )
  total = loss.numerator + shown.numerator
  return {'loss': losses.Ratio(total, loss.denominator)}


def _gap_terms(
  old_logp_NxT: jax.Array,
  sampler_logp_NxT: jax.Array,
  mask_NxT: jax.Array,
  tis: float,
) -> dict[str, losses.Ratio]:
  """Metrics of the gap between trainer and sampler, as `truncated_weight`."""
  gap_NxT = jnp.where(mask_NxT, old_logp_NxT - sampler_logp_NxT, 0.0)

  def mean(x_NxT: jax.Array) -> losses.Ratio:
    x_NxT = x_NxT.astype(jnp.float32)
    return losses.aggregate(x_NxT, mask_NxT, 'token_mean', 0)

  size_NxT = jnp.abs(gap_NxT)
  return {
    'sampler_gap': mean(size_NxT),
    'sampler_gap_max': losses.Peak(size_NxT.max(), jnp.float32(1)),
    'tis_clipped': mean(gap_NxT > math.log(tis)),
  }


def _entropy_terms(
  loss: losses.Ratio,
  entropy_NxT: jax.Array,
  mask_NxT: jax.Array,
  config: Config,
) -> dict[str, losses.Ratio]:
  """The loss less the entropy bonus, and the entropy as a metric."""
  length = mask_NxT.shape[-1]
  bonus = losses.aggregate(entropy_NxT, mask_NxT, config.aggregation, length)
  total = loss.numerator - config.entropy_weight * bonus.numerator
  return {
    'loss': losses.Ratio(total, loss.denominator),
    'entropy_exact': losses.aggregate(
      lax.stop_gradient(entropy_NxT), mask_NxT, 'token_mean', length
    ),
  }
