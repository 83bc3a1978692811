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
