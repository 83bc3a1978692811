"""Loads a checkpoint in a process of its own and prints what it held.

  python tests/import_memory.py FOLDER DEVICES

One JSON object: bytes of the parameters, of the largest tensor, and by how
much the peak of the process's memory rose over what it held before.
"""

import json
import math
import os
import pathlib
import sys

folder, devices = sys.argv[1], int(sys.argv[2])
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices}'

import jax  # noqa: E402
import safetensors  # noqa: E402, F401

from rlcw.models import formats, weights  # noqa: E402
from rlcw.runtime.mesh import make_mesh  # noqa: E402


def peak() -> int:
  # not `getrusage`, whose peak a child has from its parent
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(status.split('VmHWM:')[1].split()[0])


source = formats.open_source(folder)
mesh = make_mesh()
weights.param_shardings(source.model_config(), mesh)
largest = 4 * max(math.prod(shape) for shape in source.shapes.values())
before = peak()
_, params = weights.load(folder, mesh)
jax.block_until_ready(params)
leaves = jax.tree.leaves(params)
print(
  json.dumps(
    {
      'params': sum(leaf.nbytes for leaf in leaves),
      'largest_tensor': largest,
      'rise': peak() - before,
    }
  )
)
