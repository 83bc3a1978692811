"""What a GRPO run learns by: its model, its optimiser, its loss.

`grpo` trains with them, `plan` compiles them ahead of time.
"""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh

from rlcw import Config, losses, train
from rlcw.models import layers, lora
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, forward_replies, head_weight
from rlcw.runtime.mesh import TABLES, group_shards

DTYPES = ('float32', 'bfloat16')
NAMED = {
  'compute_dtype': DTYPES,
  'moment_dtype': DTYPES,
  'attention': ('auto', 'xla'),
  'rollout_table': tuple(TABLES),
  'ratio': losses.RATIOS,
  'aggregation': losses.AGGREGATIONS,
}


def legal_microbatches(config: Config, mesh: Mesh) -> list[int]:
  """Every number of groups that a step can be learned from at a time."""
  prompts, shards = config.prompts_per_step, group_shards(mesh)
  return [n for n in range(shards, prompts + 1, shards) if prompts % n == 0]


def check(config: Config, mesh: Mesh) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  prompts, micro = config.prompts_per_step, config.microbatch_groups
  shards, legal = group_shards(mesh), legal_microbatches(config, mesh)
  if not legal:
    raise ValueError(
      f'prompts_per_step={prompts} does not split over the {shards} devices of '
      f'the data and fsdp axes; legal: multiples of {shards}'
    )
  if micro not in legal:
    raise ValueError(
      f'microbatch_groups={micro} has to divide prompts_per_step={prompts} and '
      f'to split over the {shards} devices of the data and fsdp axes; legal: '
      f'{legal}'
    )
  if config.group_size < 2:
    raise ValueError(
      f'group_size={config.group_size}: a group needs at least 2 replies to '
      'compare'
    )
  for name, legal in NAMED.items():
    if config[name] not in legal:
      raise ValueError(f'{name}={config[name]!r} is unknown; legal: {legal}')
  if not config.temperature > 0:
    raise ValueError(f'temperature={config.temperature}; legal: above 0')
  if config.checkpoint_every < 1:
    raise ValueError(
      f'checkpoint_every={config.checkpoint_every}; legal: an integer from 1 on'
    )


def configure(model_config: ModelConfig, config: Config) -> ModelConfig:
  """The model with adapters, dtype, remat and attention as a run asks."""
  return dataclasses.replace(
    lora.configure(model_config, config),
    dtype=config.compute_dtype,
    remat=config.remat,
    attention=config.attention,
  )


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """The optimiser that a run's settings describe."""
  return train.make_optimizer(
    config.learning_rate,
    warmup_steps=config.warmup_steps,
    max_grad_norm=config.max_grad_norm,
    moment_dtype=config.moment_dtype,
  )


def make_loss(model_config: ModelConfig, config: Config) -> train.LossFn:
  """Step 5: the GRPO loss, each brief read once for all its replies."""

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    params = lora.join(params, frozen)
    rollout = arrays['rollout']
    mask_PxGxT = rollout.mask & arrays['valid'][..., None]
    length = rollout.token.shape[-1]
    predicting, _ = forward_replies(
      model_config, params, arrays['prompt'], arrays['length'], rollout.token
    )
    logp_N = layers.token_logprobs(
      predicting.reshape(-1, predicting.shape[-1]),
      head_weight(params),
      rollout.token.reshape(-1),
      config.temperature,
    )
    terms = losses.grpo(
      logp_N.reshape(-1, length),
      rollout.logp.reshape(-1, length),
      arrays['advantage'].reshape(-1),
      mask_PxGxT.reshape(-1, length),
      arrays['ref_logp'].reshape(-1, length),
      clip_low=config.clip_low,
      clip_high=config.clip_high,
      kl_weight=config.kl_weight,
      ratio=config.ratio,
      aggregation=config.aggregation,
    )
    return terms._asdict()

  return loss_fn
