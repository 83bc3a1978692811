"""Task `plan`: memory and time of a GRPO step on a named TPU slice.

Needs no TPU and no weights: on any Linux machine, libtpu compiles the very
programs that `grpo` runs from their shapes alone.

  1. shapes    of the model, of the reward model and of a step's batch
  2. compile   rollout, scoring and update for the named slice
  3. read      memory from the compiler, collectives and kernels from the HLO
  4. count     FLOPs and bytes from shapes; the roofline from the chip's peaks
  5. advise    the largest microbatch that fits, or settings that save memory
"""

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlcw import Config, train
from rlcw.models import lora
from rlcw.models.config import ModelConfig
from rlcw.runtime import console, files, processes, sums
from rlcw.runtime.mesh import group_shards, make_mesh
from rlcw.tasks.grpo import minibatches, objective
from rlcw.tasks.plan import (
  advice,
  hlo,
  load,
  programs,
  roofline,
  shapes,
  show,
)
from rlcw.tasks.plan.headers import shape_of
from rlcw.tasks.plan.roofline import GIB
from rlcw.tasks.plan.shapes import Plan, Program, per_chip


def check(config: Config) -> None:
  """Checks the settings of the plan itself.

  Raises:
    ValueError: there is no such slice, or reply lengths are not understood.
    FileNotFoundError: there is no such file of replies.
  """
  roofline.check(config.plan.topology)
  load.check(config.plan.reply_tokens)


def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Plans a step of a `grpo` config, and writes `plan.json` and `plan.png`.

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
  fits = next(each['fits'] for each in phases if each['phase'] == 'update')
  groups = largest_microbatch(plan, fits, chip)
  found = {
    'topology': config.plan.topology,
    'mesh': dict(plan.mesh.shape),
    'phases': phases,
    'fits': all(phase['fits'] for phase in phases),
    'seconds_step': advice.least_seconds(phases),
    'reply_tokens_mean': float(plan.length_PxG.mean()),
    'rollout_tables': tables,
    'largest_microbatch_groups': groups,
  }
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


# --- Shapes -----------------------------------------------------------------


def make_plan(config: Config, mesh: Mesh) -> Plan:
  """Makes the plan of a `grpo` config: all models and arrays as shapes.

  Raises:
    FileNotFoundError: a model does not exist.
    ValueError: a setting is invalid; or as `shape_of`.
  """
  objective.check(config, mesh)
  model = objective.configure(shape_of(config.model), config)
  reward, scored = None, 'reward_model' in sums.parse(config.writing)
  if scored and config.plan.reward_model:
    reward = beside(config.plan.reward_model, model)
  sizes = roofline.Shapes(
    objective.sampled_prompts(config),
    config.group_size,
    config.plan.prompt_tokens,
    config.max_new_tokens,
  )
  judge = judge_shape(config, model, mesh)
  optimizer = objective.make_optimizer(config)
  learned = lora.abstract(model, mesh)
  moments = train.abstract_state(learned, optimizer, mesh).opt_state
  frozen = {}
  shared = scored and reward is None
  unseen = unseen_shape(config, model)
  # The judge may be the model before training, which is loaded once.
  same = judge is not None and config.judge.model == config.model
  # Otherwise nothing reads the model before training: no KL term, no adapters
  # on it, no reward model.
  reads = shared or same or unseen is model
  if config.kl_weight > 0 or reads or model.lora is not None:
    frozen['reference'] = shapes.frozen_shapes(model, mesh)
  if reward is not None:
    frozen['reward'] = shapes.frozen_shapes(reward, mesh)
  if judge is not None and not same:
    frozen['judge'] = shapes.frozen_shapes(judge, mesh)
  if unseen is not None and unseen is not model:
    frozen['unseen'] = shapes.frozen_shapes(unseen, mesh)
  return Plan(
    config,
    mesh,
    model,
    reward,
    judge,
    unseen,
    sizes,
    optimizer,
    objective.make_loss(model, config),
    learned,
    frozen,
    shapes.resident_arrays(config, learned, moments, frozen),
    load.reply_lengths(config.plan.reply_tokens, sizes),
  )


def judge_shape(
  config: Config, policy: ModelConfig, mesh: Mesh
) -> ModelConfig | None:
  """Config of the judge that is loaded beside a policy; None if none is.

  Raises:
    ValueError: its batch does not split over the mesh; or as `shape_of`.
  """
  if not config.judge.model or config.judge.endpoint.url:
    return None
  shards, size = group_shards(mesh), config.judge.batch_size
  if size % shards:
    raise ValueError(
      f'judge.batch_size={size} does not split over the {shards} devices of '
      f'the data and fsdp axes; expected a multiple of {shards}'
    )
  return beside(config.judge.model, policy)


def unseen_shape(config: Config, policy: ModelConfig) -> ModelConfig | None:
  """Config of the unseen reward model of evaluations; None if there is none.

  The policy's own, if it shares the reference's decoder.
  """
  if not config.get('eval_every', 0) or not config.eval.unseen:
    return None
  name = config.plan.unseen
  return beside(name, policy) if name else policy


def beside(model: str, policy: ModelConfig) -> ModelConfig:
  """Config of a frozen model with the policy's dtype and attention."""
  return dataclasses.replace(
    shape_of(model), dtype=policy.dtype, attention=policy.attention
  )


# --- Compiling --------------------------------------------------------------


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
  collectives: dict[str, hlo.Traffic] = {}
  kernels: dict[str, int] = {}
  with jax.set_mesh(plan.mesh):
    # Lowering traces the function under the mesh, as `with_mesh` does for a
    # run.
    lowered = program.lower()
  try:
    executable = lowered.compile({'xla_tpu_max_hbm_size_mib': left})
  except jax.errors.JaxRuntimeError as error:
    fits, peak = False, bytes_needed(str(error))
  else:
    fits, peak = True, executable.memory_analysis().peak_memory_in_bytes
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
  tables, own = ('decode', 'wide'), plan.config.rollout_table
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
  """Largest `microbatch_groups` whose update fits; None if none does.

  Args:
    plan: of a step.
    fits: whether the update fits with the config's own microbatch.
    chip: of the slice.
  """
  size, now = minibatches.size(plan.config), plan.config.microbatch_groups
  # Larger ones than a minibatch change nothing.
  valid = [
    n
    for n in objective.valid_microbatches(plan.config, plan.mesh)
    if n == now or size % n == 0
  ]
  best = now if fits else None
  # Each try is a compilation: go upwards until one does not fit, or downwards
  # until one does.
  rest = [n for n in valid if n > now] if fits else valid[: valid.index(now)]
  for groups in rest if fits else reversed(rest):
    console.log(f'plan: trying microbatch_groups={groups}')
    config = plan.config.copy_and_resolve_references()
    config.microbatch_groups = groups
    changed = plan._replace(config=config)
    fitting = compile_phase(changed, programs.update(changed), chip)['fits']
    best = groups if fitting else best
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
    config.microbatch_groups = group_shards(mesh)
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
