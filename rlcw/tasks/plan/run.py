"""Task `plan`: memory and time of a training step on a named TPU slice.

Needs no TPU and no weights: on any Linux machine, libtpu compiles the very
programs that `grpo`, `sft` or `reward_model` runs from their shapes alone.

  1. shapes    of the models and of a step's batch (`plans`)
  2. compile   the phases of a step for the named slice (`programs`)
  3. read      memory from the compiler, collectives and kernels from the HLO
  4. count     FLOPs and bytes from shapes; the roofline from the chip's peaks
  5. advise    the largest microbatch that fits, or settings that save memory
"""

import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rlcw import Config
from rlcw.runtime import console, files, paths, processes
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan import (
  advice,
  hlo,
  load,
  programs,
  roofline,
  show,
)
from rlcw.tasks.plan.plans import batch_settings, make_plan
from rlcw.tasks.plan.roofline import GIB
from rlcw.tasks.plan.shapes import Plan, Program, per_chip


def check(config: Config) -> None:
  """Checks the settings of the plan itself.

  Raises:
    ValueError: there is no such slice, or reply lengths are not understood.
    FileNotFoundError: there is no such file of replies.
  """
  roofline.check(config.plan.topology)
  load.check(config.plan.get('reply_tokens', ''))


def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Plans a step of a config, and writes `plan.json` and `plan.png`.

  Returns:
    The summary.

  Raises:
    ValueError: a setting is invalid, or libtpu is not installed.
    FileNotFoundError: a model does not exist.
  """
  # Ahead-of-time compilation needs no TPU; without this JAX would look for one.
  jax.config.update('jax_platforms', 'cpu')
  # A cached program would not repeat the compiler's out-of-memory check.
  jax.config.update('jax_enable_compilation_cache', False)
  chip, devices = roofline.slice_of(config.plan.topology)
  plan = make_plan(config, make_mesh(**config.mesh, devices=devices))
  phases = []
  for program in processes.stoppable(programs.phases(plan)):
    console.log(f'plan: compiling {program.name}')
    phases.append(compile_phase(plan, program, chip))
  if config.plan.compare_attention:
    compare_attention(plan, phases, chip)
  tables = compare_tables(plan, phases, chip)
  found = {
    'topology': config.plan.topology,
    'mesh': dict(plan.mesh.shape),
    'phases': phases,
    'fits': all(phase['fits'] for phase in phases),
    'seconds_step': advice.least_seconds(phases),
    # Rows of `sft` have no replies of their own.
    'reply_tokens_mean': float(plan.length_PxG.mean())
    if plan.length_PxG.size
    else None,
    'rollout_tables': tables,
  }
  for phase in phases:
    if phase['phase'] == 'update':
      largest = largest_microbatch(plan, phase['fits'], chip)
      found[advice.largest_key(plan)] = largest
  # One of two questions: would a cheaper slice do, or which larger one is
  # needed?
  smaller = found['fits']
  found['smaller' if smaller else 'larger'] = nearest_slice(
    config, smaller=smaller
  )
  found['advice'] = advice.advise(plan, found)
  files.write_json(workdir / 'plan.json', found)
  files.replace(workdir / 'plan.png', show.draw_plan(found))
  show.print_plan(found)
  summary = {name: found[name] for name in found if name != 'phases'}
  return summary


# --- Compiling --------------------------------------------------------------


class Compiled(NamedTuple):
  """Result of compiling a program for a limited memory."""

  fits: bool
  peak: int  # bytes of HBM; if it does not fit, the least that it needs
  # In all runs of a step; empty if it does not fit.
  collectives: dict[str, hlo.Traffic]
  kernels: dict[str, int]


def compile_within(plan: Plan, program: Program, limit_mib: int) -> Compiled:
  """Compiles a program that may take so much of each chip's HBM.

  Args:
    plan: of a step.
    program: of the step.
    limit_mib: HBM in MiB.

  Raises:
    ValueError: the compiler failed for another reason than memory.
  """
  with jax.set_mesh(plan.mesh):
    # Lowering traces the function under the mesh, as `with_mesh` does for a
    # run.
    lowered = program.lower()
  try:
    executable = lowered.compile({'xla_tpu_max_hbm_size_mib': limit_mib})
  except jax.errors.JaxRuntimeError as error:
    return Compiled(False, bytes_needed(str(error)), {}, {})
  text = executable.as_text()
  collectives = {
    kind: hlo.Traffic(
      round(traffic.count * program.runs), traffic.bytes * program.sent
    )
    for kind, traffic in hlo.collectives(text).items()
  }
  kernels = {
    name: round(count * program.runs)
    for name, count in hlo.kernels(text).items()
  }
  peak = executable.memory_analysis().peak_memory_in_bytes
  return Compiled(True, peak, collectives, kernels)


def compile_phase(
  plan: Plan, program: Program, chip: roofline.Chip
) -> dict[str, Any]:
  """Compiles a phase, and returns its memory, traffic, kernels and times.

  Arrays resident during the step but unused by this phase are subtracted from
  HBM before compiling, so the phase fits exactly if the compiler succeeds.  Its
  peak is then the compiler's; if it fails, the least that its error message
  reports as needed.  The rollout's copy of the weights and its cache are
  computed from shapes, and the rest of the peak is listed as temporaries.

  Raises:
    ValueError: the compiler failed for another reason than memory.
  """
  started = time.perf_counter()
  resident = {name: per_chip(tree) for name, tree in plan.resident.items()}
  reused = per_chip(program.resident_inputs)
  others = sum(resident.values()) - reused
  limit = chip.hbm_gib * GIB
  # The compiler's option takes whole MiB, and at least 1.
  left = max(int(limit - others) // 2**20, 1)
  fits, peak, collectives, kernels = compile_within(plan, program, left)
  sent = sum(traffic.bytes for traffic in collectives.values())
  waits = sum(traffic.count for traffic in collectives.values())
  seconds = roofline.times(
    program.work,
    sent,
    waits if program.serial else 0,
    chip,
    plan.mesh.size,
    program.sharing,
  )
  # Without a compiled program its traffic is unknown.
  unknown = {} if fits else {'interconnect': None, 'latency': None}
  attention = program.work.attention_bytes / program.sharing
  # The search that follows may take long.
  console.log(
    f'plan: {program.name}: {(others + peak) / GIB:.1f} of {chip.hbm_gib} GiB '
    'per chip'
  )
  return {
    'phase': program.name,
    'hbm': resident
    | {
      'copy': program.copy,
      'cache': program.cache,
      'temporaries': peak - reused - program.copy - program.cache,
    },
    'hbm_total': others + peak,
    'hbm_limit': limit,
    'compiler_limit_mib': left,
    'fits': fits,
    'collectives': {k: t._asdict() for k, t in collectives.items()},
    'kernels': kernels,
    'attention': {
      'hbm_bytes': attention,
      'seconds': attention / chip.hbm_bandwidth,
    },
    'flops': program.work.flops,
    'seconds': seconds._asdict() | unknown,
    'least': seconds.least if fits else None,
    'per_step': program.per_step,
    'bound': seconds.bound if fits else None,
    'before': program.before,
    'seconds_compiling': time.perf_counter() - started,
  }


def compare_tables(
  plan: Plan, phases: list[dict[str, Any]], chip: roofline.Chip
) -> dict[str, dict[str, Any]]:
  """Memory and least time of sampling by the tables `decode` and `wide`.

  Returns:
    By table whether all of its phases fit, the largest total of HBM, and the
    least seconds.  Empty if the plan has another table, or they do not differ.
  """
  tables, own = ('decode', 'wide'), plan.config.get('rollout_table')
  if own not in tables or plan.mesh.shape['fsdp'] == 1:
    return {}
  found = {}
  for table in tables:
    config = plan.config.copy_and_resolve_references()
    config.rollout_table = table
    changed = plan._replace(config=config)
    try:
      planned = [*programs.rollout(changed)]
    except ValueError:
      continue  # the model does not split by this table over the mesh
    names = [program.name for program in planned]
    if table == own:
      compiled = [phase for phase in phases if phase['phase'] in names]
    else:
      console.log(f'plan: compiling {" and ".join(names)} with table {table}')
      compiled = [compile_phase(changed, program, chip) for program in planned]
    found[table] = {
      'fits': all(phase['fits'] for phase in compiled),
      'hbm_total': max(phase['hbm_total'] for phase in compiled),
      'seconds': advice.least_seconds(compiled),
    }
  return found


def compare_attention(
  plan: Plan, phases: list[dict[str, Any]], chip: roofline.Chip
) -> None:
  """Compiles each phase without attention kernels, into `phase['xla']`."""
  config = plan.config.copy_and_resolve_references()
  config.attention = 'xla'
  other = make_plan(config, plan.mesh)
  for phase, program in zip(phases, programs.phases(other), strict=True):
    console.log(f"plan: compiling {program.name} with XLA's attention")
    phase['xla'] = compile_phase(other, program, chip)


def bytes_needed(error: str) -> int:
  """Bytes that a program needs, from the compiler's out-of-memory message.

  Raises:
    ValueError: the compiler failed for another reason.
  """
  if 'Ran out of memory' in error and (
    match := re.search(r'(?:Used |\()(\d+(?:\.\d+)?)G', error)
  ):
    return int(float(match[1]) * GIB)
  raise ValueError(f'the TPU compiler failed: {error[:2000]}')


# --- Search -----------------------------------------------------------------


def largest_microbatch(
  plan: Plan, fits: bool, chip: roofline.Chip
) -> int | None:
  """Largest microbatch whose update fits; None if none does.

  Args:
    plan: of a step.
    fits: whether the update fits with the config's own microbatch.
    chip: of the slice.
  """
  _, now = plan.settings.sizes(plan.config)
  # Larger ones than a minibatch change nothing.
  valid = [
    n
    for n in plan.settings.valid(plan.config, plan.mesh)
    if n == now or plan.minibatch % n == 0
  ]
  best = now if fits else None
  # Each try is a compilation: go upwards until one does not fit, or downwards
  # until one does.
  rest = [n for n in valid if n > now] if fits else valid[: valid.index(now)]
  for size in rest if fits else reversed(rest):
    console.log(f'plan: trying {plan.settings.part}={size}')
    config = plan.config.copy_and_resolve_references()
    paths.change(config, plan.settings.part, size)
    changed = plan._replace(config=config)
    fitting = compile_phase(changed, programs.update(changed), chip)['fits']
    best = size if fitting else best
    if fitting != fits:
      break
  return best


def nearest_slice(config: Config, *, smaller: bool) -> str | None:
  """Smallest of the smaller slices that fit, or the first larger one that fits.

  The mesh axis of size -1 takes all chips of a slice, and updates have the
  smallest microbatch.  None if no slice fits.
  """
  best = None
  for topology in roofline.other_slices(config.plan.topology, smaller=smaller):
    console.log(f'plan: trying {topology}')
    fitting = slice_fits(config, topology)
    best = topology if fitting else best
    if fitting != smaller:
      break
  return best


def slice_fits(config: Config, topology: str) -> bool:
  """Returns whether every phase of a step fits a slice."""
  chip, devices = roofline.slice_of(topology)
  config = config.copy_and_resolve_references()
  try:
    mesh = make_mesh(**config.mesh, devices=devices)
    names = batch_settings(config)
    # No valid one leaves 0, which `make_plan` refuses then.
    smallest = next(iter(names.valid(config, mesh)), 0)
    paths.change(config, names.part, smallest)
    plan = make_plan(config, mesh)
    resident = sum(per_chip(tree) for tree in plan.resident.values())
    planned = [*programs.phases(plan)]
  except ValueError:
    # The mesh, the batch or a model does not split over this number of chips.
    return False
  return resident < chip.hbm_gib * GIB and all(
    # The update, which comes late, is the most likely not to fit: fail early.
    compile_phase(plan, program, chip)['fits']
    for program in reversed(planned)
  )
