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
from rlcw.models import formats, lora
from rlcw.models.config import ModelConfig
from rlcw.runtime import console, files, processes
from rlcw.runtime.mesh import group_shards, make_mesh
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import hlo, programs, roofline, show
from rlcw.tasks.plan.programs import Plan, Program, per_chip
from rlcw.tasks.plan.roofline import GIB


def _header(
  family: str, vocab: int, dim: int, mlp: int, *counts: int, **more: Any
) -> dict[str, Any]:
  """A `config.json` as Hugging Face writes it, for the shapes of a model."""
  layers, heads, kv = counts
  return {
    'model_type': family,
    'vocab_size': vocab,
    'hidden_size': dim,
    'intermediate_size': mlp,
    'num_hidden_layers': layers,
    'num_attention_heads': heads,
    'num_key_value_heads': kv,
    'rms_norm_eps': 1e-6,
    'rope_theta': 1e6,
    'head_dim': 128,
  } | more


# The config.json of models too large to be downloaded for their shapes.  Values
# that change no shape (eps, rotary angles) are not the models' own.
MODELS = {
  'Qwen/Qwen2.5-7B-Instruct': _header('qwen2', 152064, 3584, 18944, 28, 28, 4),
  'Qwen/Qwen2.5-32B-Instruct': _header('qwen2', 152064, 5120, 27648, 64, 40, 8),
  'Qwen/Qwen2.5-72B-Instruct': _header('qwen2', 152064, 8192, 29568, 80, 64, 8),
  'Qwen/Qwen3-8B': _header('qwen3', 151936, 4096, 12288, 36, 32, 8),
  'meta-llama/Llama-3.1-8B-Instruct': _header(
    'llama', 128256, 4096, 14336, 32, 32, 8, tie_word_embeddings=False
  ),
}


def check(config: Config) -> None:
  """Raises ValueError if there is no such slice."""
  roofline.check(config.plan.topology)


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
  groups = largest_microbatch(plan, phases[-1]['fits'], chip)
  found = {
    'topology': config.plan.topology,
    'mesh': dict(plan.mesh.shape),
    'phases': phases,
    'fits': all(phase['fits'] for phase in phases),
    'seconds_step': least_seconds(phases),
    'largest_microbatch_groups': groups,
  }
  # One of two questions: would a cheaper slice do, or which larger one is
  # needed?
  smaller = found['fits']
  found['smaller' if smaller else 'larger'] = nearest_slice(
    config, smaller=smaller
  )
  found['advice'] = advise(plan, found)
  files.write_json(workdir / 'plan.json', found)
  files.replace(workdir / 'plan.png', show.draw_plan(found))
  show.print_plan(found)
  summary = {name: found[name] for name in found if name != 'phases'}
  return summary


# --- Shapes -----------------------------------------------------------------


def shape_of(model: str) -> ModelConfig:
  """Config of a model in `MODELS`, in a local folder or on the Hub.

  Raises:
    FileNotFoundError, ValueError: as `formats.open_source`.
  """
  if model in MODELS:
    return ModelConfig.from_hf(MODELS[model])
  # A folder with a config.json alone will do: weights are not needed.
  header = Path(model) / 'config.json'
  if header.is_file():
    return ModelConfig.from_hf(files.read_json(header))
  return formats.open_source(model).model_config()


def make_plan(config: Config, mesh: Mesh) -> Plan:
  """Makes the plan of a `grpo` config: all models and arrays as shapes.

  Raises:
    FileNotFoundError: a model does not exist.
    ValueError: a setting is invalid; or as `shape_of`.
  """
  objective.check(config, mesh)
  model = objective.configure(shape_of(config.model), config)
  reward = None
  if config.writing == 'reward_model' and config.plan.reward_model:
    reward = shape_of(config.plan.reward_model)
    reward = dataclasses.replace(
      reward, dtype=model.dtype, attention=model.attention
    )
  shapes = roofline.Shapes(
    objective.sampled_prompts(config),
    config.group_size,
    config.plan.prompt_tokens,
    config.max_new_tokens,
  )
  optimizer = objective.make_optimizer(config)
  learned = lora.abstract(model, mesh)
  moments = train.abstract_state(learned, optimizer, mesh).opt_state
  frozen = {}
  shared = config.writing == 'reward_model' and reward is None
  # Otherwise nothing reads the model before training: no KL term, no adapters
  # on it, no reward model.
  if config.kl_weight > 0 or shared or model.lora is not None:
    frozen['reference'] = programs.frozen_shapes(model, mesh)
  if reward is not None:
    frozen['reward'] = programs.frozen_shapes(reward, mesh)
  return Plan(
    config,
    mesh,
    model,
    reward,
    shapes,
    optimizer,
    objective.make_loss(model, config),
    learned,
    frozen,
    programs.resident_arrays(config, learned, moments, frozen),
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
    collectives, kernels = hlo.collectives(text), hlo.kernels(text)
  sent = sum(traffic.bytes for traffic in collectives.values())
  seconds = roofline.times(program.work, sent, chip, plan.mesh.size)
  # Without a compiled program its traffic is unknown.
  known = seconds._asdict() | ({} if fits else {'interconnect': None})
  attention = program.work.attention_bytes / plan.mesh.size
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
    'seconds': known,
    'bound': seconds.bound if fits else None,
    'seconds_compiling': time.perf_counter() - started,
  }


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


# --- Advice -----------------------------------------------------------------


def largest_microbatch(
  plan: Plan, fits: bool, chip: roofline.Chip
) -> int | None:
  """Largest `microbatch_groups` whose update fits; None if none does.

  Args:
    plan: of a step.
    fits: whether the update fits with the config's own microbatch.
    chip: of the slice.
  """
  valid = objective.valid_microbatches(plan.config, plan.mesh)
  now = plan.config.microbatch_groups
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
  except ValueError:
    # The mesh, or the batch, does not split over this number of chips.
    return False
  resident = sum(per_chip(tree) for tree in plan.resident.values())
  return resident < chip.hbm_gib * GIB and all(
    compile_phase(plan, program, chip)['fits']
    # The last phase, the update, is the most likely not to fit: fail early.
    for program in reversed([*programs.phases(plan)])
  )


def least_seconds(phases: list[dict[str, Any]]) -> float | None:
  """Lower bound on a step's seconds; None if a phase does not fit."""
  if not all(phase['fits'] for phase in phases):
    return None
  return sum(max(phase['seconds'].values()) for phase in phases)


def advise(plan: Plan, record: dict[str, Any]) -> list[str]:
  """Advice on settings to use or, if a phase does not fit, to change.

  Args:
    plan: of a step.
    record: contents of `plan.json`, without its `advice`.
  """
  config, phases = plan.config, record['phases']
  limit = phases[0]['hbm_limit']
  resident = sum(per_chip(tree) for tree in plan.resident.values())
  largest = record['largest_microbatch_groups']
  advice = ['The update does not fit with any microbatch_groups.']
  if largest is not None:
    advice = [f'The largest update that fits: microbatch_groups={largest}.']
  for phase in phases:
    if not phase['fits']:
      over = (phase['hbm_total'] - limit) / GIB
      advice.append(f'{phase["phase"]}: {over:.1f} GiB per chip too much.')
  if record.get('smaller'):
    advice.append(f'The smallest slice that fits, too: {record["smaller"]}.')
  if record.get('larger'):
    advice.append(f'The next slice that fits: {record["larger"]}.')
  if all(p['fits'] for p in phases):
    # By default the compiler uses all of HBM for the program at hand, as if no
    # other array were resident.
    flag = f'--xla_tpu_max_hbm_size_mib={phases[-1]["compiler_limit_mib"]}'
    return [*advice, f'Train with LIBTPU_INIT_ARGS={flag}, as compiled here.']
  split = plan.mesh.shape['fsdp'] * plan.mesh.shape['tensor']
  if resident > limit:
    least = -(-resident * split // limit)
    advice.append(
      f'Parameters, optimiser and frozen models take {resident / GIB:.1f} GiB '
      f'per chip by themselves: split them over {least:.0f} chips or more.'
    )
  # Roughly from the cheapest change to the most expensive one.
  for changed, gain in (
    (config.compute_dtype == 'float32', 'compute_dtype=bfloat16'),
    (config.moment_dtype == 'float32', 'moment_dtype=bfloat16'),
    (not config.remat, 'remat=True'),
    (not config.offload, 'offload=True'),
    (config.train == 'all', 'train=lora'),
    (plan.mesh.shape['data'] > 1, 'mesh.data=1, and more for mesh.fsdp'),
    (
      config.rollout_table == 'decode' and plan.mesh.shape['fsdp'] > 1,
      'rollout_table=train, if the rollout does not fit',
    ),
    (True, 'a larger mesh.tensor with smaller microbatches, or a larger slice'),
  ):
    if changed:
      advice.append(f'To try: {gain}.')
  return advice
