"""The model, optimiser and loss of a GRPO run.

Task `grpo` trains with them, and task `plan` compiles them ahead of time; one
definition for both makes sure that the plan is of the program that runs.
"""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh

from rlcw import Config, losses, train
from rlcw.models import layers, lora
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, forward_replies, head_weight
from rlcw.runtime.mesh import group_shards


def valid_microbatches(config: Config, mesh: Mesh) -> list[int]:
  """All valid values of `microbatch_groups`, in increasing order.

  A valid one divides `prompts_per_step`, and splits evenly over the devices of
  the data and fsdp axes.
  """
  prompts, shards = config.prompts_per_step, group_shards(mesh)
  return [n for n in range(shards, prompts + 1, shards) if prompts % n == 0]


def check(config: Config, mesh: Mesh) -> None:
  """Checks the batch of a step against the mesh.

  Raises:
    ValueError: it does not split; names the setting and the expected values.
  """
  prompts, micro = config.prompts_per_step, config.microbatch_groups
  shards, valid = group_shards(mesh), valid_microbatches(config, mesh)
  if not valid:
    raise ValueError(
      f'prompts_per_step={prompts} does not split over the {shards} devices of '
      f'the data and fsdp axes; expected a multiple of {shards}'
    )
  if micro not in valid:
    raise ValueError(
      f'microbatch_groups={micro} must divide prompts_per_step={prompts} and '
      f'split over the {shards} devices of the data and fsdp axes; expected '
      f'one of {valid}'
    )


def configure(model_config: ModelConfig, config: Config) -> ModelConfig:
  """Sets adapters, compute dtype, rematerialisation and attention kernels.

  Raises:
    ValueError: `train`, or a setting of the adapters, is invalid.
  """
  return dataclasses.replace(
    lora.configure(model_config, config),
    dtype=config.compute_dtype,
    remat=config.remat,
    attention=config.attention,
  )


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """Adam with warm-up and gradient clipping, by a run's settings."""
  return train.make_optimizer(
    config.learning_rate,
    warmup_steps=config.warmup_steps,
    max_grad_norm=config.max_grad_norm,
    moment_dtype=config.moment_dtype,
  )


def make_loss(model_config: ModelConfig, config: Config) -> train.LossFn:
  """Returns the GRPO loss as `train.fit` takes it.

  The loss reads a batch of `step.make_batch`, or a microbatch of it, and each
  brief once for its G replies.  Its result is `losses.GRPOTerms` as a dict,
  without the terms that a batch without reference log-probabilities lacks.
  """

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    params = lora.join(params, frozen)
    rollout = arrays['rollout']
    # Tokens count if they are real, not padding, and their reply could be
    # scored.
    mask_PxGxT = rollout.mask & arrays['valid'][..., None]
    length = rollout.token.shape[-1]
    ref_logp = arrays.get('ref_logp')
    # [P, G, T, D]: the hidden state at t − 1, which predicts token t.
    predicting, _ = forward_replies(
      model_config, params, arrays['prompt'], arrays['length'], rollout.token
    )
    # At the temperature of the rollout, or the ratio of policy to sampler would
    # not be 1 before the first update.  N = P · G · T.
    logp_N = layers.token_logprobs(
      predicting.reshape(-1, predicting.shape[-1]),
      head_weight(params),
      rollout.token.reshape(-1),
      config.temperature,
    )
    terms = losses.grpo(
      # From here on a row for each reply, [P · G, T]: the loss needs no groups,
      # as the advantages already compare a reply with its group.
      logp_N.reshape(-1, length),
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
