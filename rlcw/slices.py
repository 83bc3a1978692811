"""Slices of TPUs by their names, as in `v5e:4x4`, smallest first.

Their chips are descriptions that libtpu compiles for; none need be here.
"""

import os
from typing import Any

from rlcw import roofline

TOPOLOGIES = {
  'v5e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
  'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8'),
  'v6e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
}


def slice_of(topology: str) -> tuple[roofline.Chip, list[Any]]:
  """A slice's chips by its name, as in `v5e:4x4`.

  Raises:
    ValueError: there is no such slice, or libtpu is not installed.
  """
  name, _, grid = topology.partition(':')
  if grid not in TOPOLOGIES.get(name, ()):
    legal = [f'{n}:{g}' for n, grids in TOPOLOGIES.items() for g in grids]
    raise ValueError(f'plan.topology={topology!r} is unknown; legal: {legal}')
  # libtpu would ask the metadata server of a TPU machine
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
  except (ModuleNotFoundError, RuntimeError) as error:
    raise ValueError(
      f'plan needs the compiler of TPUs, pip install rlcw[tpu]: {error}'
    ) from None
  return roofline.CHIPS[name], list(found.devices)


def others(topology: str, *, smaller: bool) -> list[str]:
  """Slices of the same chips, from the nearest in size on."""
  name, _, grid = topology.partition(':')
  grids = TOPOLOGIES[name]
  at = grids.index(grid)
  rest = grids[:at][::-1] if smaller else grids[at + 1 :]
  return [f'{name}:{grid}' for grid in rest]
