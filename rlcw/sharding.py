"""Meshes of devices, and where on them parameters and batches are.

A one-device mesh is the same program.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlcw import Config, axes
from rlcw.axes import GROUPS, MESH_AXES, group_shards
from rlcw.model import Decoder, Params, as_dtype
from rlcw.model_config import ModelConfig


def make_mesh(
  data: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh over all devices; one axis may be -1, "what is left".

  Raises:
    ValueError: the axes do not multiply to the number of devices.
  """
  sizes = [data, fsdp, tensor]
  held = np.array(jax.devices() if devices is None else devices)
  if -1 in sizes:
    rest = int(np.prod([size for size in sizes if size != -1]))
    sizes[sizes.index(-1)] = max(held.size // rest, 1)
  if int(np.prod(sizes)) != held.size:
    named = dict(zip(MESH_AXES, sizes, strict=True))
    raise ValueError(
      f'mesh {named} does not multiply to the {held.size} devices there are'
    )
  return Mesh(held.reshape(sizes), MESH_AXES)


def ambient(run: Callable[..., Any]) -> Callable[..., Any]:
  """A task `run(config, workdir)` with its mesh around all that it does.

  XLA does not split kernels written by hand; they split themselves over the
  ambient mesh (`attention_kernels`).
  """

  @functools.wraps(run)
  def around(config: Config, workdir: Path) -> Any:
    with jax.set_mesh(make_mesh(**config.mesh)):
      return run(config, workdir)

  return around


def init_params(config: ModelConfig, key: jax.Array) -> Params:
  """Random parameters, each boxed with the logical names of its axes."""
  return Decoder(config).init(key, jnp.zeros((1, 1, 1), jnp.int32))['params']


def abstract_params(config: ModelConfig) -> Params:
  """The shape of every parameter, found without making one."""
  boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  return nn.unbox(boxed)


@functools.cache  # every step asks, and to find out is to trace the model
def param_shardings(
  config: ModelConfig, mesh: Mesh, table: str = 'train'
) -> Params:
  """The sharding of every parameter by one of `axes.TABLES`."""
  boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  specs = nn.get_partition_spec(boxed)
  return spmd.logical_to_mesh_sharding(
    specs, mesh, tuple(axes.TABLES[table].items())
  )


def for_rollout(
  config: ModelConfig, params: Params, mesh: Mesh, table: str
) -> Params:
  """The weights as a rollout reads them: in its dtype, split by its table.

  What is so already is not copied.
  """
  places = param_shardings(config, mesh, table)
  return jax.device_put(as_dtype(params, config.dtype), places)


def in_memory(params: Params, kind: str) -> Params:
  """The weights in a memory of their devices' hosts, or of the devices.

  Args:
    params: of a model.
    kind: `pinned_host`, or `device`.  What is there already is not copied.
  """
  places = jax.tree.map(lambda a: a.sharding.with_memory_kind(kind), params)
  return jax.device_put(params, places)


def replicated(mesh: Mesh) -> NamedSharding:
  """One copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_groups(mesh: Mesh) -> NamedSharding:
  """Split over the leading axis, briefs, so that a group stays whole."""
  return NamedSharding(mesh, PartitionSpec(GROUPS))


def fill(count: int, mesh: Mesh) -> int:
  """As many groups as asked for, or the fewest more that split over a mesh."""
  shards = group_shards(mesh)
  return -(-count // shards) * shards


def share(mesh: Mesh) -> tuple[int, int]:
  """Which part of a step's rows this process reads, and of how many parts.

  Processes that split the model of the same rows read the same part.
  """
  devices_SxT = mesh.devices.reshape(group_shards(mesh), -1)
  readers = [frozenset(d.process_index for d in row) for row in devices_SxT]
  parts = list(dict.fromkeys(readers))
  mine = next(i for i, part in enumerate(parts) if jax.process_index() in part)
  return mine, len(parts)
