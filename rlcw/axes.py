"""Which axis of an array is split over which axis of the mesh.

Parameters carry the logical names of their axes ('embed', 'heads', …), and one
table says where each is split.  Activations are held to theirs by `constrain`:
left to itself, XLA may find it cheaper to split a product's inner dimension,
and to add up what it should never have made whole.
"""

import math

import jax
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

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


def constrain(x_PxG: jax.Array) -> jax.Array:
  """Holds activations `[P, G, ...]` to the split of their groups.

  Prompts are split over the ambient mesh or, where they are too few, the rows
  that continue them; no other axis is.
  """
  shards = ambient_shards()
  for axis in (0, 1):
    if shards > 1 and x_PxG.shape[axis] % shards == 0:
      spec = PartitionSpec(*[None] * axis, GROUPS)
      return lax.with_sharding_constraint(x_PxG, spec)
  return x_PxG
