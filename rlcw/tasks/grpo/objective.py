"""The model, optimiser and loss of a GRPO run.

Task `grpo` trains with them, and task `plan` compiles them ahead of time; one
definition for both makes sure that the plan is of the program that runs.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rlcw import Config, losses, train
from rlcw.models import lora, packing
from rlcw.models.compute import BatchSettings
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.groups import forward_groups, reply_logprobs
from rlcw.models.packing import Groups, Part

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
  size = config.microbatch_groups
  # Rounded first: 1.1 · 10 is 11.000000000000002.
  return math.ceil(round(more * config.prompts_per_step / size, 6)) * size


def check(config: Config, mesh: Mesh) -> None:
  """Checks the batch of a step against the mesh (`BatchSettings.check`)."""
  SETTINGS.check(config, mesh)


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """Adam with warm-up and gradient clipping, by a run's settings."""
  return train.make_optimizer(
    config.learning_rate,
    warmup_steps=config.warmup_steps,
    max_grad_norm=config.max_grad_norm,
    moment_dtype=config.moment_dtype,
  )


class Batch(NamedTuple):
  """A step's batch, laid out for the update."""

  parts: list[Part]  # at most P / `microbatch_groups`
  divisor: jax.Array  # of the sum of their losses
  padding: float  # share of the computed tokens that are padding


def pack(
  arrays: dict[str, Any],
  lengths: tuple[np.ndarray, np.ndarray],
  config: Config,
  sharding: Any,
  kept_P: np.ndarray | None = None,
  live_P: np.ndarray | None = None,
) -> Batch:
  """Lays a batch out in packed rows.

  Args:
    arrays: of `step.make_batch`, `[P, …]`.
    lengths: `[P]` and `[P, G]` tokens of all briefs and replies, on the host.
    config: of the `grpo` task.
    sharding: of groups.
    kept_P: groups that the loss is of; None for all.
    live_P: of these, groups that may have a gradient; None for all.  The others
      are not computed, but count in the divisor.
  """
  length_P, count_PxG = lengths
  every = np.ones(len(length_P), bool)
  kept_P = every if kept_P is None else kept_P
  live_P = kept_P if live_P is None else kept_P & live_P
  reply = arrays['rollout'].token.shape[-1]
  packed = packing.partition(
    length_P,
    count_PxG,
    arrays['prompt'].shape[-1],
    reply,
    part=config.microbatch_groups,
    live_P=live_P,
  )
  whole = arrays | {'live': live_P}
  return Batch(
    [
      Part(part, width)
      for part, width in zip(
        packed.split(whole, sharding), packed.width, strict=True
      )
    ],
    _divisor(arrays, kept_P, config.aggregation),
    packed.padding,
  )


@functools.partial(jax.jit, static_argnames='how')
def _divisor(
  arrays: dict[str, Any], kept_P: jax.Array | np.ndarray, how: str
) -> jax.Array:
  rollout, counted_PxG = arrays['rollout'], arrays['valid'] & kept_P[:, None]
  counted_PxG = jnp.where(counted_PxG, rollout.length, 0)
  return losses.divisor(counted_PxG, how, rollout.token.shape[-1])


def make_loss(model_config: ModelConfig, config: Config) -> train.LossFn:
  """Returns the GRPO loss as `train.fit` takes it.

  The loss reads a `Part` of a batch of `step.make_batch`, each brief once for
  its G replies, in packed rows.  Its result is `losses.GRPOTerms` as a dict,
  without the terms that a batch without reference log-probabilities lacks.
  """

  def loss_fn(
    params: Params, frozen: Params, part: Part
  ) -> dict[str, losses.Ratio]:
    params, arrays = lora.join(params, frozen), part.arrays
    rollout, live_P = arrays['rollout'], arrays['live']
    # Groups that are not live only fill the part up: they have no tokens.
    count_PxG = jnp.where(live_P[:, None], rollout.length, 0)
    length = rollout.token.shape[-1]
    # Tokens count if they are real, not padding, and their reply could be
    # scored.
    mask_PxGxT = jnp.arange(length) < count_PxG[..., None]
    mask_PxGxT &= arrays['valid'][..., None]
    groups = Groups(
      arrays['prompt'],
      jnp.where(live_P, arrays['length'], 0),
      rollout.token,
      count_PxG,
    )
    hidden_SxNxD, layout = forward_groups(
      model_config, params, groups, part.width
    )
    # At the temperature of the rollout, or the ratio of policy to sampler would
    # not be 1 before the first update.
    logp_PxGxT = reply_logprobs(
      params, hidden_SxNxD, layout, rollout.token, config.temperature
    )
    ref_logp = arrays.get('ref_logp')
    terms = losses.grpo(
      # From here on a row for each reply, [P · G, T]: the loss needs no groups,
      # as the advantages already compare a reply with its group.
      logp_PxGxT.reshape(-1, length),
      rollout.logp.reshape(-1, length),
      arrays['advantage'].reshape(-1),
      mask_PxGxT.reshape(-1, length),
      None if ref_logp is None else ref_logp.reshape(-1, length),
      clip_low=config.clip_low,
      clip_high=config.clip_high,
      kl=config.kl,
      kl_weight=config.kl_weight,
      ratio=config.ratio,
      aggregation=config.aggregation,
    )
    return {k: term for k, term in terms._asdict().items() if term is not None}

  return loss_fn
