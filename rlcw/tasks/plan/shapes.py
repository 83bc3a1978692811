"""The models and arrays of a planned step, as shapes with shardings.

Letters: P briefs, G replies to each.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from rlcw import Config, train
from rlcw.models import lora
from rlcw.models.compute import BatchSettings
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.models.weights import abstract_params, param_shardings
from rlcw.runtime import sums
from rlcw.runtime.mesh import group_shards, placed_shape
from rlcw.tasks.grpo import minibatches
from rlcw.tasks.plan.roofline import Shapes, Work


class Plan(NamedTuple):
  """Models, optimiser, loss and mesh of a run; all arrays are shapes only."""

  task: str  # grpo | sft | reward_model
  config: Config
  settings: BatchSettings  # of a step
  mesh: Mesh
  model: ModelConfig  # that is trained, with adapters and dtype
  shapes: Shapes  # of what is sampled or read in a step
  optimizer: optax.GradientTransformation
  rate: optax.Schedule  # the optimiser's learning rate
  loss: train.LossFn
  learned: Params  # empty where no decoder is trained
  base: Params  # frozen parameters that complete the learned ones, if any
  resident: dict[str, Any]  # arrays that stay in HBM all through a step, by use
  length_PxG: np.ndarray  # of the replies
  # Of `grpo`: 'reference', if read; 'reward', 'judge' and 'unseen', if models
  # of their own.
  frozen: dict[str, Params]
  reward: ModelConfig | None = None  # None where the reference's pass scores
  judge: ModelConfig | None = None  # None where no judge is loaded
  # None where evaluations have none; as `model`, where it shares the reference.
  unseen: ModelConfig | None = None

  @property
  def shared(self) -> bool:
    """True if the reward model is a head on the reference's decoder."""
    return 'reward_model' in self.parts and self.reward is None

  @property
  def parts(self) -> dict[str, float]:
    """The parts of the writing score, with their weights."""
    return sums.parse(self.config.writing)

  @property
  def microbatches(self) -> int:
    """Number of microbatches in an update."""
    _, part = self.settings.sizes(self.config)
    return self.minibatch // min(part, self.minibatch)

  @property
  def minibatch(self) -> int:
    """Number of groups, or rows, in an update."""
    if self.task == 'grpo':
      return minibatches.size(self.config)
    return self.settings.sizes(self.config)[0]

  @property
  def updates(self) -> int:
    """Number of updates in a step."""
    return minibatches.updates(self.config) if self.task == 'grpo' else 1


class Program(NamedTuple):
  """One phase of a step: how to lower it, its arguments and its work."""

  name: str
  lower: Callable[[], Any]
  resident_inputs: Any  # shapes of those arguments that are resident anyway
  work: Work
  sharing: int = 1  # chips that attention is split over
  copy: int = 0  # bytes per chip of weights that exist in this phase only
  cache: int = 0  # bytes per chip of the KV cache, if evenly split
  # How often its collectives run in a step, and how much they send, relative to
  # the program as it is compiled.
  runs: float = 1.0
  sent: float = 1.0
  serial: bool = False  # whether all that follows a collective waits for it
  per_step: float = 1.0  # how often it runs in a step
  before: bool = False  # whether it runs before the first step, not in a step


def resident_arrays(
  config: Config, learned: Params, moments: Any, frozen: dict[str, Params]
) -> dict[str, Any]:
  """Arrays that stay in HBM all through a step, by use.

  With `offload`, frozen models are in host memory between their phases.
  """
  resident = {'parameters': learned, 'optimiser': moments}
  for name, tree in frozen.items():
    # The reference is the base of the adapters, which every phase reads.
    base = name == 'reference' and config.train == 'lora'
    resident[name] = tree if base or not config.offload else {}
  return resident


def frozen_shapes(
  model: ModelConfig, mesh: Mesh, table: str = 'train'
) -> Params:
  """Shapes of a frozen model, in its compute dtype and without adapters."""
  model = lora.without(model)
  return jax.tree.map(
    placed_shape,
    jax.eval_shape(
      functools.partial(as_dtype, dtype=model.dtype), abstract_params(model)
    ),
    param_shardings(model, mesh, table),
  )


def read_bytes(model: ModelConfig, mesh: Mesh, table: str = 'decode') -> int:
  """Bytes per chip of the weights that it reads in one pass.

  Training shards weights over 'fsdp', but a chip reads all that it gathers: as
  much as the table `decode` keeps on it.  Of an embedding beside a head, a pass
  reads a few rows.
  """
  shapes = frozen_shapes(model, mesh, table)
  if 'head' in shapes:
    shapes = {name: tree for name, tree in shapes.items() if name != 'embed'}
  return per_chip(shapes)


def policy(plan: Plan) -> Params:
  """Shapes of the whole policy, sharded as it is trained."""
  return lora.join(plan.learned, plan.base)


def sharing(model: ModelConfig, mesh: Mesh) -> int:
  """Number of chips that attention is split over.

  By groups, and by key-value heads where these split evenly.
  """
  tensor = mesh.shape['tensor']
  return group_shards(mesh) * (1 if model.num_kv_heads % tensor else tensor)


def per_chip(tree: Any) -> int:
  """Bytes per chip of a tree of sharded shapes."""
  return sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
