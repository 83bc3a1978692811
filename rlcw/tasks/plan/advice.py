"""Advice on the settings of a planned step."""

from typing import Any

from rlcw.tasks.plan.roofline import GIB
from rlcw.tasks.plan.shapes import Plan, per_chip


def least_seconds(phases: list[dict[str, Any]]) -> float | None:
  """Lower bound on a step's seconds; None if a phase does not fit.

  Phases before the first step are not counted.
  """
  if not all(phase['fits'] for phase in phases):
    return None
  return sum(
    phase['least'] * phase.get('per_step', 1)
    for phase in phases
    if not phase.get('before')
  )


def evaluation_share(phases: list[dict[str, Any]]) -> list[str]:
  """States the time of an evaluation, and its share of a step; if there is one.

  Args:
    phases: of a plan.
  """
  found = [phase for phase in phases if phase['phase'].startswith('eval ')]
  if not found or not all(phase['fits'] for phase in found):
    return []
  whole, share = sum(phase['least'] for phase in found), least_seconds(found)
  return [
    f'An evaluation takes at least {whole:.2f} s, of which {share:.2f} s are '
    'counted for each step.'
  ]


def largest_key(plan: Plan) -> str:
  """Key of `plan.json` with the largest microbatch that fits."""
  return f'largest_{plan.settings.part.rpartition(".")[2]}'


def fastest_table(tables: dict[str, dict[str, Any]]) -> list[str]:
  """Advice on the table to sample with; none if there is no choice.

  Args:
    tables: `rollout_tables` of `plan.json`.
  """
  fitting = {name: t['seconds'] for name, t in tables.items() if t['fits']}
  if len(tables) < 2 or not fitting:
    return []
  best = min(fitting, key=lambda name: fitting[name])
  each = (
    f'{name} at least {fitting[name]:.1f} s'
    if name in fitting
    else f'{name} does not fit'
    for name in tables
  )
  return [f'Sample with rollout_table={best}: {", ".join(each)}.']


def advise(plan: Plan, record: dict[str, Any]) -> list[str]:
  """Advice on settings to use or, if a phase does not fit, to change.

  Args:
    plan: of a step.
    record: contents of `plan.json`, without its `advice`.
  """
  config, phases = plan.config, record['phases']
  limit = phases[0]['hbm_limit']
  resident = sum(per_chip(tree) for tree in plan.resident.values())
  advice, part = [], plan.settings.part
  # Where the decoder stays frozen there is no update.
  if plan.learned:
    largest = record[largest_key(plan)]
    advice.append(
      f'The update does not fit with any {part}.'
      if largest is None
      else f'The largest update that fits: {part}={largest}.'
    )
  advice += fastest_table(record['rollout_tables'])
  advice += evaluation_share(phases)
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
    limits = {p['phase']: p['compiler_limit_mib'] for p in phases}
    left = limits.get('update', phases[-1]['compiler_limit_mib'])
    flag = f'--xla_tpu_max_hbm_size_mib={left}'
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
    (not config.get('offload', True), 'offload=True'),
    (config.train == 'all', 'train=lora'),
    (plan.mesh.shape['data'] > 1, 'mesh.data=1, and more for mesh.fsdp'),
    (
      config.get('rollout_table') == 'decode' and plan.mesh.shape['fsdp'] > 1,
      'rollout_table=wide, or train, if the rollout does not fit',
    ),
    (True, 'a larger mesh.tensor with smaller microbatches, or a larger slice'),
  ):
    if changed:
      advice.append(f'To try: {gain}.')
  return advice
