"""Compute settings: devices, memory, dtypes, attention and microbatches.

One definition for all tasks that train a decoder, and for `plan`, which plans
their steps; and one for those that only read models.
"""

import dataclasses
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import lora
from rlcw.models.config import ModelConfig
from rlcw.runtime import paths
from rlcw.runtime.mesh import group_shards


def mesh_settings() -> dict[str, Any]:
  """Returns the settings of devices."""
  return dict(
    mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all remaining devices
  )


def inference_settings() -> dict[str, Any]:
  """Returns the settings of devices and of models that are only read."""
  return mesh_settings() | dict(
    # dtype of weights and activations of a model that is loaded here; '': as in
    # the run that trained it, else float32.  On a CPU bfloat16 is slower.
    compute_dtype='',  # float32 | bfloat16
    attention='',  # auto | xla; '': as in that run, else auto
  )


def sampling_settings() -> dict[str, Any]:
  """Returns `inference_settings` of a task that samples from its models."""
  return inference_settings() | dict(
    # Sharding of the weights during sampling, as in grpo; '': as in that run,
    # else decode.  decode: replicated over fsdp; train: split over it, which is
    # slow; wide: the largest ones are split.
    rollout_table='',  # decode | train | wide
  )


def compute_settings() -> dict[str, Any]:
  """Returns the settings of devices, memory and dtypes of training."""
  return mesh_settings() | dict(
    # Recomputation in the backward pass.  True: whole blocks, less memory and
    # more time; False: everything but the outputs of products with weights.
    remat=True,
    # dtype of activations, of all frozen weights, and of the copy of trained
    # ones that samples; trained weights stay float32.  On a CPU bfloat16 is
    # slower.
    compute_dtype='float32',  # float32 | bfloat16
    # xla turns custom attention kernels off, in case one fails: those for TPU
    # have only been compiled yet.
    attention='auto',  # auto | xla
    moment_dtype='float32',  # float32 | bfloat16, of Adam's first moment
  )


def plan_settings() -> dict[str, Any]:
  """Returns the settings that the task `plan` alone reads."""
  return dict(
    topology='v5e:4x4',  # TPU slice: v5e, v5p or v6e, and its shape
    compare_attention=False,  # also compile everything with attention=xla
  )


def group_plan_settings() -> dict[str, Any]:
  """Returns `plan_settings` of a task that trains on groups of replies."""
  return plan_settings() | dict(
    prompt_tokens=1024,  # of the longest prompt
    # Lengths of replies, for the time of a step: '' for the greatest length,
    # lognormal:MEDIAN,SIGMA, or a run's rollouts.jsonl.  Memory is always
    # planned for the greatest length.
    reply_tokens='',
  )


def configure(model_config: ModelConfig, config: Config) -> ModelConfig:
  """Sets adapters, compute dtype, rematerialisation and attention kernels.

  Raises:
    ValueError: `train`, or a setting of the adapters, is invalid.
  """
  model_config = configure_frozen(lora.configure(model_config, config), config)
  return dataclasses.replace(model_config, remat=config.remat)


def configure_frozen(model_config: ModelConfig, config: Config) -> ModelConfig:
  """Sets compute dtype and attention kernels of a model that is only read."""
  return model_config.computed_in(config.compute_dtype, config.attention)


class BatchSettings(NamedTuple):
  """Dotted names of the settings of a step's batch and of its microbatches.

  Both are numbers of groups, or of rows.  A microbatch of 0 is the whole batch.
  """

  whole: str
  part: str

  def sizes(self, config: Config) -> tuple[int, int]:
    """Returns the sizes of the batch and of a microbatch."""
    whole = paths.get(config, self.whole)
    # Configs of earlier versions may not have microbatches.
    return whole, paths.get(config, self.part) or whole

  def valid(self, config: Config, mesh: Mesh) -> list[int]:
    """Returns all sizes that a microbatch may have, in increasing order.

    A valid one divides the batch, and splits evenly over the devices of the
    data and fsdp axes.
    """
    whole, shards = self.sizes(config)[0], group_shards(mesh)
    return [n for n in range(shards, whole + 1, shards) if whole % n == 0]

  def check_total(self, config: Config, total: int, of: str) -> None:
    """Checks that there are enough rows, or groups, for a step.

    Raises:
      ValueError: there are fewer; names the setting.
    """
    whole = self.sizes(config)[0]
    if whole > total:
      raise ValueError(
        f'{self.whole}={whole}, but there are only {total} {of}; expected '
        f'{self.whole} of at most {total}, or more data'
      )

  def check(self, config: Config, mesh: Mesh) -> None:
    """Checks batch and microbatches against each other and the mesh.

    Raises:
      ValueError: they do not split; names the setting and the expected values.
    """
    (whole, part), shards = self.sizes(config), group_shards(mesh)
    valid = self.valid(config, mesh)
    if not valid:
      raise ValueError(
        f'{self.whole}={whole} does not split over the {shards} devices of the '
        f'data and fsdp axes; expected a multiple of {shards}'
      )
    if part not in valid:
      raise ValueError(
        f'{self.part}={part} must divide {self.whole}={whole} and split over '
        f'the {shards} devices of the data and fsdp axes; expected one of '
        f'{valid}'
      )
