"""Programs compiled for a TPU slice, on a machine without one."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Runs in its own process, as libtpu reads its environment when it is loaded.
_COMPILE = """
import dataclasses, functools, json, re, sys, time
import jax, jax.numpy as jnp
from jax.experimental import topologies
from rlcw.models.config import ModelConfig
from rlcw.models.weights import abstract_params, param_shardings
from rlcw.runtime.mesh import make_mesh, over_groups
from rlcw.sampling import decoding, rollout
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.plan import hlo
from rlcw.tasks.plan.sampling import lower_decode

chips = topologies.get_topology_desc(
  platform='tpu', topology_name=sys.argv[1]
).devices

def compiled(fields, axes):
  count = axes[0] * axes[1] * axes[2]
  mesh = make_mesh(*axes, devices=chips[:count])
  if 'model_type' in fields:
    config = ModelConfig.from_hf(fields)
    config = dataclasses.replace(config, dtype='bfloat16')
  else:
    fields['local_layers'] = tuple(fields.get('local_layers', ()))
    config = ModelConfig(512, 256, 512, num_layers=2, **fields)
  params = jax.tree.map(
    lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
    abstract_params(config),
    param_shardings(config, mesh),
  )
  prompt, length = (
    jax.ShapeDtypeStruct(size, jnp.int32, sharding=over_groups(mesh))
    for size in ((4, 200), (4,))
  )
  with jax.set_mesh(mesh):
    setup = rollout.make_setup(
      prompt.shape,
      config=config, group_size=3, max_new_tokens=300, eos=(0,),
    )
    method = Temperature(1.0)
    start = functools.partial(
      decoding.start.lower,
      params, prompt, length, length, method, 0, 0, setup=setup,
    )
    decode = lower_decode(mesh, start, params, method, setup)
    return [each.compile().as_text() for each in (start(), decode)]

for line in sys.stdin:
  started = time.perf_counter()
  prefill, text = compiled(*json.loads(line))
  # the cache would be copied at every turn if its layout were not the kernel's
  computations, entry = hlo._computations(text)
  copies = [
    x
    for name, times in hlo._run_counts(computations, entry).items()
    for x in computations[name]
    if times > 1 and ' copy(' in x and re.search(r'\\b300,(\\d+,)?128\\b', x)
  ]
  seconds = time.perf_counter() - started
  found = [hlo.kernels(prefill), hlo.kernels(text)]
  print('RESULT', json.dumps([*found, copies, seconds]))
"""


def compiled(
  topology: str, cases: Sequence[tuple[dict[str, Any], Sequence[int]]]
) -> list[Any]:
  """Kernels of the programs that sample 300 tokens, by their runs.

  Args:
    topology: of the slice.
    cases: fields of a `ModelConfig` or of a `config.json`, and sizes of the
      mesh's axes.

  Returns:
    For each case, kernels of the prefill and of decoding; copies of the cache
    in the loop; and seconds of compilation.
  """
  return run(_COMPILE, topology, cases)


def run(script: str, topology: str, cases: Sequence[Any]) -> list[Any]:
  """Runs a script that compiles for a slice, in a process of its own.

  Args:
    script: reads a case from each line of its input, and prints a line
      `RESULT` with what it found, both in JSON.
    topology: of the slice, the script's argument.
    cases: of the input.

  Returns:
    What it found for each case.
  """
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is absent: pip install -e .[tpu]')
  settings = {
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path]),
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
  }
  result = subprocess.run(
    [sys.executable, '-c', script, topology],
    input='\n'.join(json.dumps(case) for case in cases),
    env=os.environ | settings,
    capture_output=True,
    text=True,
    timeout=1800,
  )
  assert result.returncode == 0, result.stderr[-3000:]
  lines = [x for x in result.stdout.splitlines() if x.startswith('RESULT ')]
  found = [json.loads(line.removeprefix('RESULT ')) for line in lines]
  assert len(found) == len(cases)
  return found
