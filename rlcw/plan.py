"""Task `plan`: does a GRPO step fit a TPU slice, and what will limit it?

Needs no TPU and no weights: libtpu compiles, on any Linux machine and from
shapes alone, the very programs that `grpo` runs.

  1. shapes    of the model, of the reward model, of a step's batch
  2. compile   rollout, scoring, update for the named slice
  3. read      memory from the compiler, collectives and kernels from its text
  4. count     FLOPs and bytes from shapes; the roofline from the chip's data
  5. advise    the largest microbatch that fits, or what is missing
"""

import dataclasses
import os
import re
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from rlcw import (
  Config,
  hlo,
  learner,
  metrics,
  plots,
  programs,
  roofline,
  sharding,
  sources,
)
from rlcw.model_config import ModelConfig
from rlcw.programs import Plan, Program, per_chip
from rlcw.roofline import GIB

TOPOLOGIES = {
  'v5e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
  'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8'),
  'v6e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
}

ROOFS = roofline.Times._fields
_QWEN = {'model_type': 'qwen2', 'rms_norm_eps': 1e-6, 'rope_theta': 1e6}


def _qwen(dim: int, mlp: int, layers: int, heads: int, kv: int) -> dict:
  return _QWEN | {
    'vocab_size': 152064,
    'hidden_size': dim,
    'intermediate_size': mlp,
    'num_hidden_layers': layers,
    'num_attention_heads': heads,
    'num_key_value_heads': kv,
  }


# What config.json says of models too large to be fetched for their shapes.
MODELS = {
  'Qwen/Qwen2.5-7B-Instruct': _qwen(3584, 18944, 28, 28, 4),
  'Qwen/Qwen2.5-32B-Instruct': _qwen(5120, 27648, 64, 40, 8),
  'Qwen/Qwen2.5-72B-Instruct': _qwen(8192, 29568, 80, 64, 8),
}


def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Plans a step of a `grpo` config; returns the summary."""
  # compiling for a TPU asks for no device but this one
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)
  chip, devices = slice_of(config.plan.topology)
  plan = make(config, sharding.make_mesh(**config.mesh, devices=devices))
  phases = []
  for program in programs.phases(plan):
    metrics.say(f'plan: compiles the {program.name}')
    phases.append(compiled(plan, program, chip))
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
  found['advice'] = advise(plan, found)
  metrics.write_json(workdir / 'plan.json', found)
  (workdir / 'plan.png').write_bytes(plots.draw_plan(found))
  tell(found)
  summary = {name: found[name] for name in found if name != 'phases'}
  metrics.write_json(workdir / 'summary.json', summary)
  return summary


# --- What is to run ---------------------------------------------------------


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


def shape_of(model: str) -> ModelConfig:
  """The shapes of a model in `MODELS`, or of one that is at hand.

  Raises:
    FileNotFoundError, ValueError: as `sources.open_source`.
  """
  if model in MODELS:
    return ModelConfig.from_hf(MODELS[model])
  header = Path(model) / 'config.json'
  if header.is_file():
    return ModelConfig.from_hf(sources.read_json(header))
  return sources.open_source(model).model_config()


def make(config: Config, mesh: Mesh) -> Plan:
  """Finds all shapes.

  Raises:
    ValueError: a setting makes no sense; or as `shape_of`.
  """
  learner.check(config, mesh)
  model = learner.configure(shape_of(config.model), config)
  reward = None
  if config.writing == 'reward_model' and config.plan.reward_model:
    reward = shape_of(config.plan.reward_model)
    reward = dataclasses.replace(
      reward, dtype=model.dtype, attention=model.attention
    )
  shapes = roofline.Shapes(
    config.prompts_per_step,
    config.group_size,
    config.plan.prompt_tokens,
    config.max_new_tokens,
  )
  optimizer = learner.make_optimizer(config)
  held = programs.hold(model, reward, optimizer, mesh)
  loss = learner.make_loss(model, config)
  return Plan(config, mesh, model, reward, shapes, optimizer, loss, held)


# --- What comes of it -------------------------------------------------------


def compiled(
  plan: Plan, program: Program, chip: roofline.Chip
) -> dict[str, Any]:
  """Compiles a phase and says all that is known of it.

  What a step holds and this phase does not take lies in HBM all the same, so
  the compiler is given what is left: whether it succeeds is whether it fits.
  What it then used is the most that is alive at a time; where it refuses, it
  tells the least that it would need.  The cache is counted, and what is left
  are temporaries.
  """
  started = time.perf_counter()
  held = {name: per_chip(tree) for name, tree in plan.held.items()}
  taken = sum(held[name] for name in program.takes)
  others = sum(held.values()) - taken
  limit = chip.hbm_gib * GIB
  left = max(int(limit - others) // 2**20, 1)
  collectives: dict[str, hlo.Traffic] = {}
  kernels: dict[str, int] = {}
  with jax.set_mesh(plan.mesh):
    lowered = program.lower()
  try:
    done = lowered.compile({'xla_tpu_max_hbm_size_mib': left})
  except jax.errors.JaxRuntimeError as error:
    fits, own = False, refused(str(error))
  else:
    fits, own = True, done.memory_analysis().peak_memory_in_bytes
    text = done.as_text()
    collectives, kernels = hlo.collectives(text), hlo.kernels(text)
  sent = sum(traffic.bytes for traffic in collectives.values())
  seconds = roofline.times(program.work, sent, chip, plan.mesh.size)
  known = seconds._asdict() | ({} if fits else {'interconnect': None})
  attention = program.work.attention_bytes / plan.mesh.size
  return {
    'phase': program.name,
    'hbm': held
    | {'cache': program.cache, 'temporaries': own - taken - program.cache},
    'hbm_total': others + own,
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
  """Adds to every phase what it would be without kernels, as 'xla'."""
  config = plan.config.copy_and_resolve_references()
  config.attention = 'xla'
  other = make(config, plan.mesh)
  for phase, program in zip(phases, programs.phases(other), strict=True):
    metrics.say(f"plan: compiles the {program.name} with XLA's attention")
    phase['xla'] = compiled(other, program, chip)


def refused(error: str) -> int:
  """Bytes that a program would need, from the compiler's refusal.

  Raises:
    ValueError: it failed for another reason.
  """
  if 'Ran out of memory' in error and (
    found := re.search(r'(?:Used |\()(\d+(?:\.\d+)?)G', error)
  ):
    return int(float(found[1]) * GIB)
  raise ValueError(f'the compiler for TPUs failed: {error[:2000]}')


def largest_microbatch(
  plan: Plan, fits: bool, chip: roofline.Chip
) -> int | None:
  """The most groups that an update can take at a time; None if none can.

  Args:
    plan: the plan.
    fits: whether those of its config do.
    chip: of the slice.
  """
  legal = learner.legal_microbatches(plan.config, plan.mesh)
  now = plan.config.microbatch_groups
  best = now if fits else None
  # upwards until one does not fit, or downwards until one does
  rest = [n for n in legal if n > now] if fits else legal[: legal.index(now)]
  for groups in rest if fits else reversed(rest):
    metrics.say(f'plan: tries microbatch_groups={groups}')
    config = plan.config.copy_and_resolve_references()
    config.microbatch_groups = groups
    changed = plan._replace(config=config)
    fitting = compiled(changed, programs.update(changed), chip)['fits']
    best = groups if fitting else best
    if fitting != fits:
      break
  return best


def least_seconds(phases: list[dict[str, Any]]) -> float | None:
  """Of a step whose phases each reach their roof; None if one does not fit."""
  if not all(phase['fits'] for phase in phases):
    return None
  return sum(max(phase['seconds'].values()) for phase in phases)


def advise(plan: Plan, found: dict[str, Any]) -> list[str]:
  """What to set, and what to change where it does not fit."""
  config, phases = plan.config, found['phases']
  limit = phases[0]['hbm_limit']
  held = sum(per_chip(tree) for tree in plan.held.values())
  largest = found['largest_microbatch_groups']
  said = ['No microbatch_groups lets the update fit.']
  if largest is not None:
    said = [f'The largest update that fits: microbatch_groups={largest}.']
  for phase in phases:
    if not phase['fits']:
      over = (phase['hbm_total'] - limit) / GIB
      said.append(f'{phase["phase"]}: {over:.1f} GiB a chip too much.')
  if all(p['fits'] for p in phases):
    # by itself the compiler takes all HBM for what it compiles
    flag = f'--xla_tpu_max_hbm_size_mib={phases[-1]["compiler_limit_mib"]}'
    return [*said, f'Train with LIBTPU_INIT_ARGS={flag}, as compiled here.']
  split = plan.mesh.shape['fsdp'] * plan.mesh.shape['tensor']
  if held > limit:
    least = -(-held * split // limit)
    said.append(
      f'What a step holds is {held / GIB:.1f} GiB a chip by itself: split it '
      f'over at least {least:.0f} chips.'
    )
  for changed, gain in (
    (config.compute_dtype == 'float32', 'compute_dtype=bfloat16'),
    (config.moment_dtype == 'float32', 'moment_dtype=bfloat16'),
    (not config.remat, 'remat=True'),
    (config.train == 'all', 'train=lora'),
    (plan.mesh.shape['data'] > 1, 'mesh.data=1, and more for mesh.fsdp'),
    (True, 'more of mesh.tensor, and so smaller microbatches; a larger slice'),
  ):
    if changed:
      said.append(f'To try: {gain}.')
  return said


def attention_tables(phases: list[dict[str, Any]]) -> list[Any]:
  """Kernels of every phase; what they save, where that was asked for."""
  from rich import table

  kernels = table.Table('phase', 'kernel', 'runs on each chip')
  saved = table.Table('phase', 'attention', 'GiB', 'fits', 'its GB', 'its s')
  saved.title = "Attention: HBM in all; its own traffic, a chip's"
  for phase in phases:
    for name, count in phase['kernels'].items():
      kernels.add_row(phase['phase'], name, f'{count:,}')
    ways = {'kernels': phase, 'XLA': phase['xla']} if 'xla' in phase else {}
    for way, found in ways.items():
      saved.add_row(
        phase['phase'],
        way,
        f'{found["hbm_total"] / GIB:.1f}',
        'yes' if found['fits'] else 'no',
        f'{found["attention"]["hbm_bytes"] / 1e9:.1f}',
        f'{found["attention"]["seconds"]:.2f}',
      )
  return [found for found in (kernels, saved) if found.row_count]


def tell(found: dict[str, Any]) -> None:
  """Tables in the terminal."""
  from rich import console, table

  memory = table.Table('phase', 'held', 'cache', 'temporaries', 'of', 'fits')
  axes = ' · '.join(f'{axis} {size}' for axis, size in found['mesh'].items())
  memory.title = f'{found["topology"]} ({axes}): GiB per chip'
  times = table.Table('phase', 'PFLOP', *ROOFS, 'bound by')
  times.title = 'Seconds if one thing alone limited them'
  traffic = table.Table('phase', 'collective', 'count', 'GB sent per chip')
  for phase in found['phases']:
    name, hbm = phase['phase'], phase['hbm']
    passing = hbm['cache'], hbm['temporaries']
    gib = phase['hbm_total'] - sum(passing), *passing, phase['hbm_limit']
    memory.add_row(
      name,
      *(f'{size / GIB:.1f}' for size in gib),
      'yes' if phase['fits'] else 'no',
    )
    seconds = [phase['seconds'][roof] for roof in ROOFS]
    times.add_row(
      name,
      f'{phase["flops"] / 1e15:.1f}',
      *('–' if value is None else f'{value:.2f}' for value in seconds),
      phase['bound'],
    )
    for kind, sent in phase['collectives'].items():
      row = f'{sent["count"]:,}', f'{sent["bytes"] / 1e9:.1f}'
      traffic.add_row(name, kind, *row)
  out = console.Console()
  out.print(memory, times, traffic, *attention_tables(found['phases']))
  for line in found['advice']:
    out.print(line, highlight=False)
