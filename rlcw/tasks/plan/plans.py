"""The plan of a step of each task that `plan` can plan.

All models and arrays are shapes; model, optimiser and loss are made by the
functions that the task itself calls.
"""

from typing import Any

import numpy as np
from jax.sharding import Mesh

from rlcw import Config, train
from rlcw.data import batches
from rlcw.models import compute, lora
from rlcw.models.compute import BatchSettings
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.rewards import reward_model
from rlcw.runtime import optimizers, settings, sums
from rlcw.runtime.mesh import group_shards
from rlcw.tasks import sft
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import load, shapes
from rlcw.tasks.plan.headers import shape_of
from rlcw.tasks.plan.roofline import Shapes
from rlcw.tasks.plan.shapes import Plan
from rlcw.tasks.reward_model import depth
from rlcw.tasks.reward_model import objective as reward_objective


def batch_settings(config: Config) -> BatchSettings:
  """Returns the names of the settings of a step's batch."""
  return {
    'grpo': objective.SETTINGS,
    'sft': sft.SETTINGS,
    'reward_model': reward_objective.SETTINGS,
  }[settings.task_of(config)]


def make_plan(config: Config, mesh: Mesh) -> Plan:
  """Makes the plan of a config: all models and arrays as shapes.

  Raises:
    FileNotFoundError: a model does not exist.
    ValueError: a setting is invalid; or as `shape_of`.
  """
  task = settings.task_of(config)
  make = {'sft': _sft, 'reward_model': _reward_model}.get(task, _grpo)
  return make(config, mesh)


def check_context(model: ModelConfig, prompt: int, reply: int, of: str) -> None:
  """Raises ValueError for texts that are longer than a model can read."""
  if model.context is not None and prompt + reply > model.context:
    raise ValueError(
      f'{of} has a context of {model.context} tokens; expected prompts and '
      f'replies of at most as many together, not of {prompt} and {reply}'
    )


def _grpo(config: Config, mesh: Mesh) -> Plan:
  objective.check(config, mesh)
  model = compute.configure(shape_of(config.model), config)
  reward, scored = None, 'reward_model' in sums.parse(config.writing)
  if scored and config.plan.reward_model:
    reward = beside(config.plan.reward_model, model)
  lengths = config.plan.prompt_tokens, config.max_new_tokens
  check_context(model, *lengths, config.model)
  if reward is not None:
    check_context(reward, *lengths, config.plan.reward_model)
  sizes = Shapes(
    objective.sampled_prompts(config),
    config.group_size,
    config.plan.prompt_tokens,
    config.max_new_tokens,
  )
  judge = judge_shape(config, model, mesh)
  optimizer = objective.make_optimizer(config)
  learned = lora.abstract(model, mesh)
  frozen = {}
  shared = scored and reward is None
  unseen = unseen_shape(config, model)
  # The judge may be the model before training, which is loaded once.
  same = judge is not None and config.judge.model == config.model
  # Otherwise nothing reads the model before training: no KL term, no adapters
  # on it, no reward model.
  reads = shared or same or unseen is model
  if config.kl_weight > 0 or reads or model.lora is not None:
    frozen['reference'] = shapes.frozen_shapes(model, mesh)
  if reward is not None:
    frozen['reward'] = shapes.frozen_shapes(reward, mesh)
  if judge is not None and not same:
    frozen['judge'] = shapes.frozen_shapes(judge, mesh)
  if unseen is not None and unseen is not model:
    frozen['unseen'] = shapes.frozen_shapes(unseen, mesh)
  moments = train.abstract_state(learned, optimizer, mesh).opt_state
  return Plan(
    'grpo',
    config,
    batch_settings(config),
    mesh,
    model,
    sizes,
    optimizer,
    objective.make_rate(config),
    objective.make_loss(model, config),
    learned,
    # With all parameters trained, the loss gets the reference's log-
    # probabilities from the batch and no frozen parameters.
    frozen['reference'] if model.lora is not None else {},
    shapes.resident_arrays(config, learned, moments, frozen),
    load.reply_lengths(config.plan.reply_tokens, sizes),
    frozen,
    reward,
    judge,
    unseen,
  )


def judge_shape(
  config: Config, policy: ModelConfig, mesh: Mesh
) -> ModelConfig | None:
  """Config of the judge that is loaded beside a policy; None if none is.

  Raises:
    ValueError: its batch does not split over the mesh; or as `shape_of`.
  """
  if not config.judge.model or config.judge.endpoint.url:
    return None
  shards, size = group_shards(mesh), config.judge.batch_size
  if size % shards:
    raise ValueError(
      f'judge.batch_size={size} does not split over the {shards} devices of '
      f'the data and fsdp axes; expected a multiple of {shards}'
    )
  return beside(config.judge.model, policy)


def unseen_shape(config: Config, policy: ModelConfig) -> ModelConfig | None:
  """Config of the unseen reward model of evaluations; None if there is none.

  The policy's own, if it shares the reference's decoder.
  """
  if not config.get('eval_every', 0) or not config.eval.unseen:
    return None
  name = config.plan.unseen
  return beside(name, policy) if name else policy


def beside(model: str, policy: ModelConfig) -> ModelConfig:
  """Config of a frozen model with the policy's dtype and attention."""
  return shape_of(model).computed_in(policy.dtype, policy.attention)


def _sft(config: Config, mesh: Mesh) -> Plan:
  """A row is planned as one text, all of whose tokens are targets."""
  sft.SETTINGS.check(config, mesh)
  model = compute.configure(shape_of(config.model), config)
  learned, optimizer = lora.abstract(model, mesh), sft.make_optimizer(config)
  base = shapes.frozen_shapes(model, mesh) if model.lora is not None else {}
  return Plan(
    'sft',
    config,
    batch_settings(config),
    mesh,
    model,
    Shapes(config.rows_per_step, 0, config.row_tokens, 0),
    optimizer,
    optimizers.rate_of(config, config.steps),
    sft.make_loss(model),
    learned,
    base,
    _resident(learned, optimizer, base, mesh),
    np.zeros((config.rows_per_step, 0), int),
    {},
  )


def _reward_model(config: Config, mesh: Mesh) -> Plan:
  reward_objective.check(config, mesh)
  is_trained = config.train != 'head'
  model = shape_of(config.model).first_layers(depth.most(config))
  configure = compute.configure if is_trained else compute.configure_frozen
  model, learned = configure(model, config), {}
  if is_trained:
    score = reward_model.abstract_score(model, mesh)
    learned = lora.abstract(model, mesh) | {'score': score}
  frozen = model.lora is not None or not is_trained
  base = shapes.frozen_shapes(model, mesh) if frozen else {}
  optimizer = reward_objective.make_optimizer(config)
  sizes = Shapes(
    config.decoder.groups_per_step,
    config.replies_per_group,
    # as prompts and replies are padded
    batches.bucket(config.plan.prompt_tokens),
    batches.bucket(config.max_reply_tokens),
  )
  return Plan(
    'reward_model',
    config,
    batch_settings(config),
    mesh,
    model,
    sizes,
    optimizer,
    optimizers.rate_of(config.decoder, config.decoder.steps),
    reward_objective.make_loss(model, config, np.zeros(2, np.float32)),
    learned,
    base,
    _resident(learned, optimizer, base, mesh),
    load.reply_lengths(config.plan.reply_tokens, sizes),
    {},
  )


def _resident(
  learned: Params, optimizer: Any, base: Params, mesh: Mesh
) -> dict[str, Any]:
  """Arrays that stay in HBM all through the training of a decoder, by use."""
  moments = train.abstract_state(learned, optimizer, mesh).opt_state
  return {'parameters': learned, 'optimiser': moments, 'base': base}
