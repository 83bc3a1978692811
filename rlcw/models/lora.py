"""Trainable parameters: all of a model, or low-rank adapters on a frozen base.

A run's parameters are split into a trainable tree, which alone has gradients
and optimiser state, and a frozen one; `join` combines them into one model.
With adapters (LoRA, arXiv 2106.09685) the frozen tree is the pretrained model
itself, which without the adapters is also the reference policy.

Letters: L layers, O outputs and I inputs of a kernel, R rank of an adapter.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import weights
from rlcw.models.config import LoraConfig, ModelConfig
from rlcw.models.decoder import Params
from rlcw.runtime.mesh import placed_shape

LEARNING = ('all', 'lora')


def configure(model_config: ModelConfig, config: Config) -> ModelConfig:
  """Returns the model configuration with the adapters of a run's settings.

  Raises:
    ValueError: `train` is unknown, or a setting of `lora` is invalid.
  """
  if config.train not in LEARNING:
    raise ValueError(
      f'train={config.train!r} is unknown; expected one of {LEARNING}'
    )
  if config.train == 'all':
    return model_config
  targets = tuple(config.lora.targets)
  adapters = LoraConfig(config.lora.rank, config.lora.alpha, targets)
  return dataclasses.replace(model_config, lora=adapters)


def without(model_config: ModelConfig) -> ModelConfig:
  """Returns the model configuration without adapters."""
  return dataclasses.replace(model_config, lora=None)


def join(learned: Params, frozen: Params) -> Params:
  """Merges two trees; of a leaf in both, the learned one is kept."""
  return unflatten_dict({**flatten_dict(frozen), **flatten_dict(learned)})


def adapters(params: Params) -> Params:
  """Returns only the adapters of a model's parameters."""
  kept = {
    path: leaf
    for path, leaf in flatten_dict(params).items()
    if path[-1] in ('lora_a', 'lora_b')
  }
  return unflatten_dict(kept)


def split(
  config: ModelConfig, pretrained: Params, mesh: Mesh, seed: int
) -> tuple[Params, Params]:
  """Trainable and frozen parameters at the start of a run.

  New adapters have a uniform `A` and a zero `B`, so they change nothing yet.
  Without adapters, all parameters are trainable and none are frozen.
  """
  if config.lora is None:
    # A copy, because the update donates its buffers, and the pretrained
    # parameters remain in use as the reference policy.
    return jax.tree.map(jnp.copy, pretrained), {}

  # Under `jit` only the adapters are computed; the initial values of all other
  # parameters are dead code.
  def make(key: jax.Array) -> Params:
    return adapters(nn.unbox(weights.init_params(config, key)))

  shardings = adapters(weights.param_shardings(config, mesh))
  learned = jax.jit(make, out_shardings=shardings)(jax.random.key(seed))
  return learned, pretrained


def abstract(config: ModelConfig, mesh: Mesh) -> Params:
  """Shapes and shardings of trainable parameters, to restore a checkpoint."""
  shapes = jax.tree.map(
    placed_shape,
    weights.abstract_params(config),
    weights.param_shardings(config, mesh),
  )
  return shapes if config.lora is None else adapters(shapes)


# Jitted so that XLA fuses the scale, the cast and the sum.
@jax.jit
def _add(
  kernel_LxOxI: jax.Array,
  b_LxOxR: jax.Array,
  a_LxRxI: jax.Array,
  scale: float,
) -> jax.Array:
  """Adds the adapters of one kind of kernel in all L layers."""
  change_LxOxI = scale * jnp.einsum('lor,lri->loi', b_LxOxR, a_LxRxI)
  # Of a kernel in bfloat16 the sum is rounded, once.
  return (kernel_LxOxI + change_LxOxI).astype(kernel_LxOxI.dtype)


def merge(
  config: ModelConfig, params: Params, *, spent: bool = False
) -> Params:
  """Merges adapters into the kernels, as `W + (alpha / rank) · B A`.

  Args:
    config: of the model.
    params: of the model, with adapters.
    spent: whether nobody reads `params` afterwards: each kernel is deleted as
      soon as it is merged, so that only one is in memory twice.
  """
  if config.lora is None:
    return params
  scale = config.lora.alpha / config.lora.rank

  def merge_node(node: Any) -> Any:
    if not isinstance(node, dict):
      return node
    if 'lora_a' in node:
      kernel = _add(node['kernel'], node['lora_b'], node['lora_a'], scale)
      if spent:
        node['kernel'].delete()
      rest = {k: v for k, v in node.items() if not k.startswith('lora_')}
      return rest | {'kernel': kernel}
    return {name: merge_node(child) for name, child in node.items()}

  return merge_node(params)


def rollout_config(config: ModelConfig) -> ModelConfig:
  """Configuration for sampling replies: in float32, adapters are merged.

  Merged adapters save two matrix products per projection and token.  In
  bfloat16 they stay separate, because rounding the merged kernels would lose
  small changes.
  """
  return without(config) if config.dtype == 'float32' else config


def rollout_params(config: ModelConfig, params: Params) -> Params:
  """Parameters of a policy that match `rollout_config(config)`."""
  merged = rollout_config(config).lora is None
  return merge(config, params) if merged else params
