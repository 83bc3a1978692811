"""Device meshes, and the sharding of parameters, batches and activations.

Parameters carry logical axis names ('embed', 'heads', …); one table maps each
to a mesh axis.  Activations are sharded explicitly by `constrain`: left alone,
XLA may split the contracted dimension of a matrix product, materialise its
full result on every device and all-reduce it.

The same program runs on a mesh of one device.

Letters: P prompts, G replies to each, L tokens, D model; S shards of a batch,
T devices of a shard.
"""

import functools
import importlib.util
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
GROUPS = ('data', 'fsdp')  # mesh axes that a batch of groups is split over

# Platforms in JAX_PLATFORMS, and the extra of rlcw that installs their plugin.
_EXTRAS = {'cuda': 'cuda', 'gpu': 'cuda', 'tpu': 'tpu'}
_PLUGINS = 'jax_cuda12_plugin', 'jax_cuda13_plugin', 'libtpu'

# Logical axis -> mesh axis, or several (None: replicated).
Table = dict[str, str | tuple[str, ...] | None]
_WIDE = ('tensor', 'fsdp')
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
  # Each decode step reads every weight.  Sharding over 'fsdp' would all-gather
  # all of them for each token, so they are replicated over it instead.
  'decode': _TRAIN | {'embed': None},
  # The largest weights are split over 'fsdp' as well.  Every device then works
  # on all rows, whose activations travel: of one token each, they are small.
  'wide': _TRAIN | {'embed': None, 'mlp': _WIDE, 'vocab': _WIDE},
}


def _axes(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """Mesh axes of a table's value, as a tuple."""
  return (value,) if isinstance(value, str) else value or ()


def group_shards(mesh: Mesh | AbstractMesh) -> int:
  """Number of shards that a batch of groups is split into."""
  return math.prod(mesh.shape[axis] for axis in GROUPS)


def ambient_shards() -> int:
  """`group_shards` of the ambient mesh; 1 if there is none."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else group_shards(mesh)


def platform() -> str:
  """Platform of the ambient mesh's devices; of JAX's default without a mesh.

  While a program is traced for devices of another machine, it is theirs.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def vocab_parts(vocab: int) -> int:
  """Number of equal parts that no table splits over devices any further.

  Each device of the ambient mesh has one part of a vocabulary or several whole
  ones, by all of `TABLES` that can split it; 1 without a mesh.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  splits = (
    math.prod(mesh.shape[axis] for axis in _axes(table['vocab']))
    for table in TABLES.values()
  )
  return max((parts for parts in splits if vocab % parts == 0), default=1)


def constrain(x_PxGxLxD: jax.Array) -> jax.Array:
  """Constrains the sharding of the activations between two blocks.

  Prompts P are split over 'data' and 'fsdp'; if P does not divide, the rows G
  of each prompt are.  Length L is split over 'tensor' (sequence parallelism,
  arXiv 2205.05198), so that the activations stored for the backward pass are
  not replicated on the devices that share the weights.  An axis whose size
  does not divide is not split.
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


def all_devices() -> list[Any]:
  """Returns the devices of all processes.

  Raises:
    ValueError: there is none of the platform that `JAX_PLATFORMS` asks for, or
      JAX cannot open the devices.
  """
  try:
    return jax.devices()
  # JAX asserts that the platform has a plugin, without words.
  except (AssertionError, RuntimeError) as error:
    config: Any = jax.config
    asked = config.jax_platforms or ''
    found = [name for name in _PLUGINS if importlib.util.find_spec(name)]
    words = f'JAX cannot open its devices, JAX_PLATFORMS={asked!r}'
    words += f' ({str(error) or "there is none of this platform"})'
    words += f'; of its plugins, found {found or "none"}'
    extras = [_EXTRAS[name] for name in asked.split(',') if name in _EXTRAS]
    if extras:
      words += f'; expected pip install -e ".[{extras[0]}]" and such a device'
    words += ', or JAX_PLATFORMS=cpu'
    raise ValueError(' '.join(words.split())) from None


def make_mesh(
  data: int = 1,
  fsdp: int = -1,
  tensor: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Makes a mesh over all devices.

  Args:
    data: size of the axis 'data'; one of the three sizes may be -1, for all
      remaining devices.
    fsdp: size of the axis 'fsdp'.
    tensor: size of the axis 'tensor'.
    devices: all devices of all processes if None.

  Raises:
    ValueError: the product of the axes is not the number of devices.
  """
  sizes = [data, fsdp, tensor]
  device_array = np.array(all_devices() if devices is None else devices)
  if -1 in sizes:
    rest = int(np.prod([size for size in sizes if size != -1]))
    sizes[sizes.index(-1)] = max(device_array.size // rest, 1)
  if int(np.prod(sizes)) != device_array.size:
    named = dict(zip(MESH_AXES, sizes, strict=True))
    raise ValueError(
      f'mesh={named}: the product of the sizes is {int(np.prod(sizes))}; '
      f'expected the {device_array.size} devices available'
    )
  return Mesh(device_array.reshape(sizes), MESH_AXES)


def with_mesh(run: Callable[..., Any]) -> Callable[..., Any]:
  """Wraps a task's `run(config, workdir)` in the mesh of its config.

  XLA cannot partition hand-written kernels; those of `attention_kernels` read
  the ambient mesh and partition themselves with `shard_map`.
  """

  @functools.wraps(run)
  def around(config: Config, workdir: Path) -> Any:
    with jax.set_mesh(make_mesh(**config.mesh)):
      return run(config, workdir)

  return around


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding with a full copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_groups(mesh: Mesh) -> NamedSharding:
  """Sharding over the leading axis (briefs), which never splits a group."""
  return NamedSharding(mesh, PartitionSpec(GROUPS))


def placed_shape(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of an array, with a sharding."""
  return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def round_up_groups(count: int, mesh: Mesh) -> int:
  """Rounds up to the next number of groups that the mesh divides evenly."""
  shards = group_shards(mesh)
  return -(-count // shards) * shards


def data_shard(mesh: Mesh) -> tuple[int, int]:
  """Returns the part of a batch that this process reads: (index, count).

  Processes whose devices share the same rows, because the 'tensor' axis spans
  them, read the same part.
  """
  devices_SxT = mesh.devices.reshape(group_shards(mesh), -1)
  # One set of processes per shard of the batch.  Consecutive shards of the
  # same processes are one part: a dict keeps their order and drops repeats.
  readers = [frozenset(d.process_index for d in row) for row in devices_SxT]
  parts = list(dict.fromkeys(readers))
  index = next(i for i, part in enumerate(parts) if jax.process_index() in part)
  return index, len(parts)
