"""From logical axis names to a mesh of devices.

The model names its axes ('embed', 'heads', …); the one table here says which
mesh axis each is split over.  A one-device mesh is the same program.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlcw.model import Decoder, ModelConfig, Params

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


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
  """The sharding of every parameter, found without making one."""
  token_PxGxL = jnp.zeros((1, 1, 1), jnp.int32)
  abstract = jax.eval_shape(
    Decoder(config).init, jax.random.key(0), token_PxGxL
  )
  specs = nn.get_partition_spec(abstract)
  return spmd.logical_to_mesh_sharding(specs, mesh, RULES)['params']


def replicated(mesh: Mesh) -> NamedSharding:
  """One copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_groups(mesh: Mesh) -> NamedSharding:
  """Split over the leading axis, briefs, so that a group stays whole."""
  return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def group_shards(mesh: Mesh) -> int:
  """Into how many parts `over_groups` splits a batch."""
  return mesh.shape['data'] * mesh.shape['fsdp']
