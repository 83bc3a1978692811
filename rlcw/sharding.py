"""From logical axis names to a mesh of devices.

The model names its axes ('embed', 'heads', …); the one table here says which
mesh axis each is split over.  A one-device mesh is the same program.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MESH_AXES = ('data', 'fsdp', 'tensor')

# logical axis -> mesh axis (None: not split)
RULES: tuple[tuple[str, str | None], ...] = (
  ('layers', None),
  ('vocab', 'tensor'),
  ('embed', 'fsdp'),
  ('heads', 'tensor'),
  ('kv', 'tensor'),
  ('mlp', 'tensor'),
  ('norm', None),
)


def make_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1) -> Mesh:
  """A mesh over all devices; one axis may be -1, "what is left".

  Raises:
    ValueError: the axes do not multiply to the number of devices.
  """
  sizes, devices = [data, fsdp, tensor], np.array(jax.devices())
  if -1 in sizes:
    rest = int(np.prod([size for size in sizes if size != -1]))
    sizes[sizes.index(-1)] = max(devices.size // rest, 1)
  if int(np.prod(sizes)) != devices.size:
    named = ' × '.join(
      f'{a}={s}' for a, s in zip(MESH_AXES, sizes, strict=True)
    )
    raise ValueError(
      f'mesh {named} does not hold the {devices.size} devices there are'
    )
  return Mesh(devices.reshape(sizes), MESH_AXES)


def param_shardings(module: nn.Module, mesh: Mesh, *inputs: Any) -> Any:
  """The sharding of every parameter of a module, without making one."""
  abstract = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  specs = nn.get_partition_spec(abstract)
  return nn.logical_to_mesh_sharding(specs, mesh, RULES)['params']


def replicated(mesh: Mesh) -> NamedSharding:
  """One copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_groups(mesh: Mesh) -> NamedSharding:
  """Split over the leading axis, briefs, so that a group stays whole."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
