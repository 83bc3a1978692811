"""Meshes of devices, and the axes that arrays are split over.

Parameters carry the logical names of their axes ('embed', 'heads', …), and one
table says where each is split.  Activations are held to theirs by `constrain`:
left to itself, XLA may find it cheaper to split a product's inner dimension,
and to add up what it should never have made whole.

A one-device mesh is the same program.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from rlcw import Config

MESH_AXES = ('data', 'fsdp', 'tensor')
GROUPS = ('data', 'fsdp')  # what a batch of groups is split over

# logical axis -> mesh axis (None: not split)
Table = dict[str, str | None]
_TRAIN: Table = {
  'layers': None,
  'vocab': 'tensor',
  'embed': 'fsdp',
  'heads': 'tensor',
  'kv': 'tensor',
  'mlp': 'tensor',
  'norm': None,
  'lora': None,
}
TABLES: dict[str, Table] = {
  'train': _TRAIN,
  # Every token reads every weight: no turn should wait for another chip's.
  'decode': _TRAIN | {'embed': None},
}


def group_shards(mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts a batch of groups is split."""
  return math.prod(mesh.shape[axis] for axis in GROUPS)


def ambient_shards() -> int:
  """The same for the mesh around this code; 1 where there is none."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else group_shards(mesh)


def constrain(x_PxGxLxD: jax.Array) -> jax.Array:
  """Holds the activations between two blocks to their place on the mesh.

  Prompts are split over 'data' and 'fsdp' or, where they are too few, the rows
  that continue them.  Length is split over 'tensor' (sequence parallelism,
  arXiv 2205.05198): what is kept for the backward pass is not kept once on
  every chip that shares the weights.  What does not divide is not split.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x_PxGxLxD
  prompts, rows, length = x_PxGxLxD.shape[:3]
  shards, tensor = group_shards(mesh), mesh.shape['tensor']
  groups = (GROUPS, None) if prompts % shards == 0 else (None, GROUPS)
  if prompts % shards and rows % shards:
    groups = None, None
  spec = PartitionSpec(*groups, None if length % tensor else 'tensor')
  return lax.with_sharding_constraint(x_PxGxLxD, spec)


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


def with_mesh(run: Callable[..., Any]) -> Callable[..., Any]:
  """A task `run(config, workdir)` with its mesh around all that it does.

  XLA does not split kernels written by hand; they split themselves over the
  ambient mesh (`attention_kernels`).
  """

  @functools.wraps(run)
  def around(config: Config, workdir: Path) -> Any:
    with jax.set_mesh(make_mesh(**config.mesh)):
      return run(config, workdir)

  return around


def replicated(mesh: Mesh) -> NamedSharding:
  """One copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_groups(mesh: Mesh) -> NamedSharding:
  """Split over the leading axis, briefs, so that a group stays whole."""
  return NamedSharding(mesh, PartitionSpec(GROUPS))


def round_up_groups(count: int, mesh: Mesh) -> int:
  """As many groups as asked for, or the fewest more that split over a mesh."""
  shards = group_shards(mesh)
  return -(-count // shards) * shards


def data_shard(mesh: Mesh) -> tuple[int, int]:
  """Which part of a step's rows this process reads, and of how many parts.

  Processes that split the model of the same rows read the same part.
  """
  devices_SxT = mesh.devices.reshape(group_shards(mesh), -1)
  readers = [frozenset(d.process_index for d in row) for row in devices_SxT]
  parts = list(dict.fromkeys(readers))
  mine = next(i for i, part in enumerate(parts) if jax.process_index() in part)
  return mine, len(parts)
