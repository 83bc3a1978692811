"""What of a model learns: all of it, or low-rank adapters on a frozen base.

A run's parameters are split into a tree that learns, which alone has gradients
and optimiser state, and a frozen one; `join` makes the whole model of the two.
With adapters (LoRA, arXiv 2106.09685) the frozen tree is the pretrained model
itself: it serves as the reference policy too, its adapters left out.
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

LEARNING = ('all', 'lora')


def configure(model_config: ModelConfig, config: Config) -> ModelConfig:
  """The model with the adapters that a run's settings ask for.

  Raises:
    ValueError: `train` is unknown, or the adapters' settings make no sense.
  """
  if config.train not in LEARNING:
    raise ValueError(f'train={config.train!r} is unknown; legal: {LEARNING}')
  if config.train == 'all':
    return model_config
  targets = tuple(config.lora.targets)
  adapters = LoraConfig(config.lora.rank, config.lora.alpha, targets)
  return dataclasses.replace(model_config, lora=adapters)


def without(model_config: ModelConfig) -> ModelConfig:
  """The same model with its adapters off."""
  return dataclasses.replace(model_config, lora=None)


def join(learned: Params, frozen: Params) -> Params:
  """One tree of two; where both have a leaf, the learned one."""
  return unflatten_dict({**flatten_dict(frozen), **flatten_dict(learned)})


def adapters(params: Params) -> Params:
  """The adapters of a model, without the rest."""
  kept = {
    path: leaf
    for path, leaf in flatten_dict(params).items()
    if path[-1] in ('lora_a', 'lora_b')
  }
  return unflatten_dict(kept)


def split(
  config: ModelConfig, pretrained: Params, mesh: Mesh, seed: int
) -> tuple[Params, Params]:
  """What learns and what is frozen at the start of a run.

  New adapters change nothing yet: `A` is uniform, `B` zero.  Without adapters
  all parameters learn, as a copy, for the update overwrites its buffers.
  """
  if config.lora is None:
    return jax.tree.map(jnp.copy, pretrained), {}

  def make(key: jax.Array) -> Params:
    return adapters(nn.unbox(weights.init_params(config, key)))

  places = adapters(weights.param_shardings(config, mesh))
  return jax.jit(make, out_shardings=places)(jax.random.key(seed)), pretrained


def abstract(config: ModelConfig, mesh: Mesh) -> Params:
  """Shapes and shardings of what learns, to restore a checkpoint into."""
  shapes = jax.tree.map(
    lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
    weights.abstract_params(config),
    weights.param_shardings(config, mesh),
  )
  return shapes if config.lora is None else adapters(shapes)


@jax.jit
def _add(
  kernel_LxOxI: jax.Array,
  b_LxOxR: jax.Array,
  a_LxRxI: jax.Array,
  scale: float,
) -> jax.Array:
  """One kind of kernel in all L layers, with what its adapters add to it."""
  change_LxOxI = scale * jnp.einsum('lor,lri->loi', b_LxOxR, a_LxRxI)
  return kernel_LxOxI + change_LxOxI.astype(kernel_LxOxI.dtype)


def merge(config: ModelConfig, params: Params) -> Params:
  """The same function without adapters: `W + (alpha / rank) · B A`."""
  if config.lora is None:
    return params
  scale = config.lora.alpha / config.lora.rank

  def merged(node: Any) -> Any:
    if not isinstance(node, dict):
      return node
    if 'lora_a' in node:
      kernel = _add(node['kernel'], node['lora_b'], node['lora_a'], scale)
      rest = {k: v for k, v in node.items() if not k.startswith('lora_')}
      return rest | {'kernel': kernel}
    return {name: merged(child) for name, child in node.items()}

  return merged(params)


def decoder(config: ModelConfig) -> ModelConfig:
  """The model that replies are sampled from: in float32, one without adapters.

  Merged, they save two products beside every other for every token; bfloat16
  would round small ones away.
  """
  return without(config) if config.dtype == 'float32' else config


def sampled(config: ModelConfig, params: Params) -> Params:
  """A policy's parameters as `decoder(config)` takes them."""
  return merge(config, params) if decoder(config).lora is None else params
