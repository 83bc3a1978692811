"""A plan is made from shapes alone; a real one is compiled for real chips."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from pipeline import ROOT, tiny_config

from rlcw.models.config import ModelConfig
from rlcw.models.weights import abstract_params
from rlcw.runtime import command
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import (
  advice,
  headers,
  plans,
  programs,
  roofline,
  run,
  sampling,
  shapes,
  show,
)
from rlcw.tasks.plan.roofline import GIB


def settings(
  folder: pathlib.Path, task: str = 'grpo', **changes: Any
) -> ConfigDict:
  config = tiny_config(task, folder, folder)
  config.task = 'plan'
  if task != 'sft':
    config.plan.prompt_tokens = 16
  if task == 'grpo':
    config.plan.reward_model = str(folder)
  if task == 'reward_model':
    config.update(max_reply_tokens=32, batch_size=8)
  config.update_from_flattened_dict(changes)
  return config


def made(config: ConfigDict) -> shapes.Plan:
  return run.make_plan(config, make_mesh(**config.mesh))


@pytest.mark.parametrize('name', ['v5e:3x3', 'v4:2x2x1', '', 'v5p:4x4'])
def test_an_unknown_slice_is_refused_with_those_that_there_are(
  name: str,
) -> None:
  with pytest.raises(
    ValueError, match=r"expected one of \['v5e:2x2'.*'v6e:16x16'"
  ):
    roofline.slice_of(name)


def test_texts_beyond_a_model_s_context_are_refused(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = tiny_config('grpo', tiny_folder, tmp_path)
  context = headers.shape_of(str(tiny_folder)).context
  assert context is not None
  config.max_new_tokens, config.plan.prompt_tokens = 8, context - 7
  with pytest.raises(ValueError, match=f'has a context of {context} tokens'):
    plans.make_plan(config, make_mesh())


def test_the_shapes_of_large_models_are_their_own() -> None:
  billions = {
    name: round(weights_of(headers.shape_of(name)) / 1e9, 1)
    for name in headers.MODELS
  }
  # the sizes that their model cards give, without encoders of images and sound
  older = [7.6, 32.8, 72.7, 8.2, 8.0]
  modern = [7.2, 8.5, 8.0, 3.1, 7.3, 7.3, 8.2, 14.7, 9.2, 11.8, 30.7, 4.6]
  assert list(billions.values()) == older + modern


def test_the_shapes_of_a_folder_are_those_of_its_header(
  tiny_folder: pathlib.Path, tiny: Any
) -> None:
  assert headers.shape_of(str(tiny_folder)) == tiny[0]


def weights_of(config: ModelConfig) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


SAMPLING = 'resharding', 'prefill', 'decode'
LEARNING = 'update', 'optimiser'
EIGHT = {'microbatch_rows': 8}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('changes', 'names'),
  [
    (
      {},
      [
        'resharding',
        'prefill',
        'decode',
        'reference',
        'reward',
        'update',
        'optimiser',
      ],
    ),
    (
      {'train': 'lora', 'plan.reward_model': '', 'rollout_table': 'train'},
      [*SAMPLING, 'reference', *LEARNING],
    ),
    (
      {'train': 'lora', 'plan.reward_model': '', 'compute_dtype': 'float32'},
      [*SAMPLING, 'reference', *LEARNING],
    ),
    (
      {'compute_dtype': 'float32', 'mesh.fsdp': 1, 'mesh.data': 8},
      [*SAMPLING[1:], 'reference', 'reward', *LEARNING],
    ),
    (
      {'kl_weight': 0.0},
      ['resharding', 'prefill', 'decode', 'reward', 'update', 'optimiser'],
    ),
    (
      {'kl_weight': 0.0, 'plan.reward_model': ''},
      [*SAMPLING, 'reference', *LEARNING],
    ),
    (
      {
        'plan.reward_model': '',
        'prompts_per_step': 16,
        'updates_per_rollout': 4,
        'minibatch_groups': 8,
        'tis': 2.0,
        'entropy_weight': 0.01,
        'weight_decay': 0.1,
        'schedule': 'cosine',
      },
      [*SAMPLING, 'reference', 'old policy', *LEARNING],
    ),
  ],
)
def test_every_phase_compiles_for_a_mesh(
  tiny_folder: pathlib.Path, changes: dict[str, Any], names: list[str]
) -> None:
  assert compiled(tiny_folder, 'grpo', changes) == names


@pytest.mark.slow
@pytest.mark.parametrize(
  ('task', 'changes', 'names'),
  [
    ('sft', {}, LEARNING),
    ('sft', {'train': 'lora', 'rows_per_step': 16, **EIGHT}, LEARNING),
    ('reward_model', {'train': 'lora'}, ['features', *LEARNING]),
    ('reward_model', {'train': 'all'}, ['features', *LEARNING]),
    ('reward_model', {'train': 'head'}, ['features']),
  ],
)
def test_steps_of_other_tasks_compile_for_a_mesh(
  tiny_folder: pathlib.Path,
  task: str,
  changes: dict[str, Any],
  names: list[str],
) -> None:
  assert compiled(tiny_folder, task, changes) == [*names]


def compiled(
  folder: pathlib.Path, task: str, changes: dict[str, Any]
) -> list[str]:
  """Compiles all phases of a plan; returns their names."""
  changes = {'compute_dtype': 'bfloat16'} | changes
  planned = made(settings(folder, task, **changes))
  found = []
  for program in programs.phases(planned):
    with jax.set_mesh(planned.mesh):
      done = program.lower().compile()
    taken = shapes.per_chip(program.resident_inputs)
    if program.name in SAMPLING[1:]:
      taken += program.copy
    # written in place: the replies' cache, and the sum of gradients
    taken += {
      'decode': program.cache,
      'update': shapes.per_chip(programs.gradients(planned)),
      'optimiser': shapes.per_chip(planned.learned),
    }.get(program.name, 0)
    # beside what is held it takes a small batch, and no less than is held
    arguments = done.memory_analysis().argument_size_in_bytes
    assert taken <= arguments < taken + 16_000
    assert program.work.weight_bytes > 0
    no_products = program.name in ('resharding', 'optimiser')
    assert (program.work.flops == 0) == no_products
    found.append(program.name)
  return found


@pytest.mark.parametrize('task', ['sft', 'reward_model'])
def test_a_plan_has_what_a_task_holds_while_it_trains(
  tiny_folder: pathlib.Path, task: str
) -> None:
  def held(**changes: Any) -> dict[str, int]:
    resident = made(settings(tiny_folder, task, **changes)).resident
    return {name: shapes.per_chip(tree) for name, tree in resident.items()}

  weights = held(train='all')['parameters']
  assert weights == pytest.approx(
    4 * weights_of(headers.shape_of(str(tiny_folder))) / 8, rel=0.1
  )
  half = {'compute_dtype': 'bfloat16', 'moment_dtype': 'bfloat16'}
  found = held(train='all', **half)
  assert (found['parameters'], found['base']) == (weights, 0)
  assert found['optimiser'] == pytest.approx(1.5 * weights, rel=0.01)
  found = held(train='lora', **half)
  assert found['parameters'] < weights / 2
  assert found['base'] == pytest.approx(weights / 2, rel=0.1)


def test_a_plan_is_of_the_task_whose_settings_it_has(
  tiny_folder: pathlib.Path,
) -> None:
  for task, whole, part in (
    ('grpo', 'prompts_per_step', 'microbatch_groups'),
    ('sft', 'rows_per_step', 'microbatch_rows'),
    ('reward_model', 'decoder.groups_per_step', 'decoder.microbatch_groups'),
  ):
    config = settings(tiny_folder, task)
    command.check(config, ['plan'])
    assert made(config).task == task
    run.check(config)
    config.update_from_flattened_dict({whole: 16, part: 3})
    if task == 'reward_model':
      config.train = 'lora'
    words = f'^{part}=3 must divide {whole}=16 .* one of \\[8, 16\\]'
    with pytest.raises(ValueError, match=words):
      made(config)


def test_the_smallest_microbatch_is_tried_on_other_slices(
  tiny_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  tried = []

  def compile_phase(planned: shapes.Plan, *_: Any) -> dict[str, bool]:
    tried.append(planned.microbatches)
    return {'fits': True}

  chip = roofline.Chip(1.0, 1.0, 1.0, 1.0)
  monkeypatch.setattr(roofline, 'slice_of', lambda _: (chip, jax.devices()))
  monkeypatch.setattr(run, 'compile_phase', compile_phase)
  rows = {'rows_per_step': 32, 'microbatch_rows': 3}
  assert run.slice_fits(settings(tiny_folder, 'sft', **rows), 'v5e:2x4')
  groups = {'decoder.groups_per_step': 16, 'train': 'lora'}
  config = settings(tiny_folder, 'reward_model', **groups)
  assert run.slice_fits(config, 'v5e:2x4')
  assert {*tried} == {4, 2}
  rows = {'rows_per_step': 12}
  assert not run.slice_fits(settings(tiny_folder, 'sft', **rows), 'v5e:2x4')


def test_a_frozen_decoder_has_no_update_to_advise_on(
  tiny_folder: pathlib.Path,
) -> None:
  planned = made(settings(tiny_folder, 'reward_model'))
  found: dict[str, Any] = {'rollout_tables': {}, 'smaller': 'v5e:2x2'}
  found['phases'] = [phase('features', 3) | {'before': True}]
  assert advice.least_seconds(found['phases']) == 0
  assert advice.advise(planned, found) == [
    'The smallest slice that fits, too: v5e:2x2.',
    'Train with LIBTPU_INIT_ARGS=--xla_tpu_max_hbm_size_mib=3000, as compiled '
    'here.',
  ]
  found['phases'] = [phase('features', 9)]
  rest = advice.advise(planned, found)
  assert 'features: 5.0 GiB per chip too much.' in rest
  assert not any('offload' in each or 'rollout' in each for each in rest)


def test_rows_of_examples_are_advised_on(tiny_folder: pathlib.Path) -> None:
  planned = made(settings(tiny_folder, 'sft'))
  found = {
    'phases': [phase('update', 3)],
    'rollout_tables': {},
    'largest_microbatch_rows': 8,
  }
  assert advice.advise(planned, found)[0] == (
    'The largest update that fits: microbatch_rows=8.'
  )
  found |= {'topology': 'v5e:2x2', 'mesh': {}, 'reply_tokens_mean': None}
  show.print_plan(found | {'advice': []})


def test_every_update_of_a_rollout_is_counted(
  tiny_folder: pathlib.Path,
) -> None:
  made_of = {
    'update': programs.update,
    'optimiser': programs.optimiser,
    'reference': programs.reference,
    'old policy': programs.old_policy,
  }

  def work(**changes: Any) -> dict[str, shapes.Program]:
    planned = made(settings(tiny_folder, prompts_per_step=16, **changes))
    names = ['update', 'optimiser', 'reference']
    if objective.reads_old_policy(planned.config):
      names.append('old policy')
    return {name: made_of[name](planned) for name in names}

  once = work()
  # a pass over all groups in halves, and two passes
  halves = work(updates_per_rollout=2)
  twice = work(updates_per_rollout=2, minibatch_groups=16)
  assert halves['update'].work == once['update'].work
  assert halves['update'].runs == once['update'].runs == 2
  assert twice['update'].runs == 4
  assert twice['update'].work == pytest.approx(
    2 * np.array(once['update'].work)
  )
  for each in (halves, twice):
    optimiser = once['optimiser'].work.weight_bytes
    assert each['optimiser'].work.weight_bytes == 2 * optimiser
  assert 'old policy' not in work(tis=2.0)  # one update reads it itself
  # a pass of the policy costs as much as one of the reference
  read = work(tis=2.0, updates_per_rollout=2)
  assert read['old policy'].work == read['reference'].work


def test_no_reference_is_held_for_no_kl_term(
  tiny_folder: pathlib.Path,
) -> None:
  for changes, held in (
    ({}, False),
    ({'train': 'lora'}, True),  # the adapters' base
    ({'plan.reward_model': ''}, True),  # the reward model's decoder
    ({'kl_weight': 0.1}, True),
  ):
    planned = made(settings(tiny_folder, **{'kl_weight': 0.0} | changes))
    assert ('reference' in planned.resident) == held
    has_logp = 'ref_logp' in programs.batch(planned, 8)
    assert has_logp == ('kl_weight' in changes)


def test_what_is_frozen_is_held_in_the_dtype_of_its_use(
  tiny_folder: pathlib.Path,
) -> None:
  whole = made(settings(tiny_folder)).resident
  half = made(settings(tiny_folder, compute_dtype='bfloat16')).resident
  size = {name: shapes.per_chip(tree) for name, tree in whole.items()}
  assert size['reward'] == size['reference'] == size['parameters']
  assert shapes.per_chip(half['parameters']) == size['parameters']
  # all but the norms
  assert shapes.per_chip(half['reference']) < 0.53 * size['reference']
  adapters = made(settings(tiny_folder, train='lora')).resident
  assert shapes.per_chip(adapters['optimiser']) < size['optimiser'] / 2


def test_a_rollout_s_copy_is_what_is_cast_or_gathered(
  tiny_folder: pathlib.Path,
) -> None:
  def copied(**changes: Any) -> tuple[int, int]:
    mesh = {'mesh.fsdp': 4, 'mesh.tensor': 2}
    planned = made(settings(tiny_folder, **mesh | changes))
    weights, copy, kept = sampling.to_rollout(planned)
    assert shapes.per_chip(weights) == copy + shapes.per_chip(kept)
    return copy, shapes.per_chip(planned.resident['parameters'])

  copy, held = copied(rollout_table='train')
  assert copy == 0
  copy, held = copied()  # all but norms, which are whole on every device
  norms = 4 * (2 * 2 + 1) * 32
  assert copy == 4 * (held - norms)
  half, _ = copied(compute_dtype='bfloat16')
  assert half == copy / 2


@pytest.mark.parametrize(
  ('dtype', 'names'),
  [('float32', {'kernel'}), ('bfloat16', {'lora_a', 'lora_b'})],
)
def test_of_a_rollout_with_adapters_what_is_merged_or_cast_is_copied(
  tiny_folder: pathlib.Path, dtype: str, names: set[str]
) -> None:
  changes = {'train': 'lora', 'rollout_table': 'train', 'compute_dtype': dtype}
  weights, copy, _ = sampling.to_rollout(made(settings(tiny_folder, **changes)))
  named = [
    leaf for path, leaf in flatten_dict(weights).items() if path[-1] in names
  ]
  assert copy == shapes.per_chip(named) > 0


@pytest.mark.parametrize(
  ('named', 'fitting', 'smaller', 'tried', 'nearest'),
  [
    ('4x4', 4, True, ['2x4', '2x2'], 'v5e:2x2'),
    ('4x4', 8, True, ['2x4', '2x2'], 'v5e:2x4'),
    ('4x4', 16, True, ['2x4'], None),
    ('2x4', 32, False, ['4x4', '4x8'], 'v5e:4x8'),
    ('8x16', 999, False, ['16x16'], None),
    ('2x2', 4, True, [], None),
  ],
)
def test_the_nearest_slice_that_fits_is_found_by_compiling(
  monkeypatch: pytest.MonkeyPatch,
  named: str,
  fitting: int,
  smaller: bool,
  tried: list[str],
  nearest: str | None,
) -> None:
  config = ConfigDict({'plan': {'topology': f'v5e:{named}'}})
  asked = []

  def slice_fits(_: ConfigDict, topology: str) -> bool:
    asked.append(topology.removeprefix('v5e:'))
    x, y = asked[-1].split('x')
    return int(x) * int(y) >= fitting

  monkeypatch.setattr(run, 'slice_fits', slice_fits)
  assert run.nearest_slice(config, smaller=smaller) == nearest
  assert asked == tried


def test_a_slice_that_cannot_be_split_so_or_is_too_small_is_not_compiled_for(
  tiny_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  chip = roofline.Chip(1e-6, 1.0, 1.0, 1.0)  # of a kilobyte
  monkeypatch.setattr(roofline, 'slice_of', lambda _: (chip, jax.devices()))
  monkeypatch.setattr(run, 'compile_phase', None)
  for changes in ({'mesh.fsdp': 3}, {'prompts_per_step': 7}, {}):
    assert not run.slice_fits(settings(tiny_folder, **changes), 'v5e:2x4')


def test_what_waits_in_host_memory_is_held_only_where_it_scores(
  tiny_folder: pathlib.Path,
) -> None:
  here, there = (
    made(settings(tiny_folder, offload=offload)) for offload in (False, True)
  )
  frozen = {name: shapes.per_chip(t) for name, t in here.frozen.items()}
  for name, size in frozen.items():
    assert shapes.per_chip(here.resident[name]) == size > 0
    assert shapes.per_chip(there.resident[name]) == 0
  for planned in (here, there):
    for program in programs.phases(planned):
      own = shapes.per_chip(program.resident_inputs) + program.copy
      if program.name in frozen:
        assert own == frozen[program.name]
  adapters = made(settings(tiny_folder, offload=True, train='lora'))
  assert shapes.per_chip(adapters.resident['reference']) == frozen['reference']


def test_adam_s_first_moment_in_bfloat16_is_half_as_large(
  tiny_folder: pathlib.Path,
) -> None:
  held = [
    made(settings(tiny_folder, moment_dtype=dtype)).resident
    for dtype in ('float32', 'bfloat16')
  ]
  moments, halved = (shapes.per_chip(h['optimiser']) for h in held)
  weights = shapes.per_chip(held[0]['parameters'])
  assert moments == pytest.approx(2 * weights, rel=0.01)
  assert moments - halved == weights // 2


@pytest.mark.parametrize(
  ('message', 'size'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (18.11G) exceeds available HBM (15.75G).',
      18.11,
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 24.5G '
      'of 15.75G hbm. Exceeded hbm capacity by 8.75G.',
      24.5,
    ),
  ],
)
def test_a_refusal_says_how_much_would_be_needed(
  message: str, size: float
) -> None:
  assert run.bytes_needed(message) == int(size * GIB)
  with pytest.raises(ValueError, match='INTERNAL'):
    run.bytes_needed('INTERNAL: no such thing (3.00G)')


@pytest.mark.parametrize(
  ('now', 'most', 'tried', 'best'),
  [
    (8, 32, [16, 32], 32),
    (8, 16, [16, 32], 16),
    (32, 8, [16, 8], 8),
    (16, 4, [8], None),
  ],
)
def test_the_largest_microbatch_is_found_by_compiling(
  tiny_folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  now: int,
  most: int,
  tried: list[int],
  best: int | None,
) -> None:
  config = settings(tiny_folder, prompts_per_step=32, microbatch_groups=now)
  planned, asked = made(config), []

  def compile_phase(planned: shapes.Plan, *_: Any) -> dict[str, bool]:
    asked.append(planned.config.microbatch_groups)
    return {'fits': asked[-1] <= most}

  monkeypatch.setattr(run, 'compile_phase', compile_phase)
  chip = roofline.CHIPS['v5e']
  assert run.largest_microbatch(planned, now <= most, chip) == best
  assert asked == tried
  assert config.microbatch_groups == now


def phase(name: str, gib: float) -> dict[str, Any]:
  return {
    'phase': name,
    'hbm': {
      'parameters': 2 * GIB,
      'copy': 0,
      'cache': GIB / 2,
      'temporaries': (gib - 2.5) * GIB,
    },
    'hbm_total': gib * GIB,
    'hbm_limit': 4 * GIB,
    'compiler_limit_mib': 3000,
    'fits': gib <= 4,
    'collectives': {'all-gather': {'count': 3, 'bytes': 1e9}},
    'kernels': {'decode_attention': 1234},
    'attention': {'hbm_bytes': 3e9, 'seconds': 0.25},
    'flops': 1e15,
    'seconds': {
      'compute': 2.0,
      'hbm': 1.0,
      'interconnect': None,
      'latency': None,
    },
    'least': 2.25,
    'bound': 'compute',
  }


def test_a_plan_that_does_not_fit_says_by_how_much_and_what_to_change(
  tiny_folder: pathlib.Path,
  capsys: pytest.CaptureFixture,
) -> None:
  planned = made(settings(tiny_folder, moment_dtype='bfloat16'))
  found: dict[str, Any] = {
    'topology': 'v5e:2x4',
    'mesh': {'fsdp': 4, 'tensor': 2},
    'reply_tokens_mean': 612.4,
    'phases': [phase('rollout', 3), phase('update', 5.5)],
    'rollout_tables': {},
    'largest_microbatch_groups': None,
    'larger': 'v5e:4x4',
  }
  found['advice'] = advice.advise(planned, found)
  show.print_plan(found)
  text = ' '.join(capsys.readouterr().out.split())
  assert 'update: 1.5 GiB per chip too much' in text
  assert 'Seconds, with 612 tokens a reply' in text
  assert 'rollout:' not in text
  assert 'The next slice that fits: v5e:4x4.' in text
  assert 'compute_dtype=bfloat16' in text and 'moment_dtype' not in text
  assert advice.least_seconds(found['phases']) is None
  assert show.draw_plan(found).startswith(b'\x89PNG')


def test_a_plan_that_fits_says_how_to_train_by_it(
  tiny_folder: pathlib.Path,
) -> None:
  planned = made(settings(tiny_folder))
  found = {
    'phases': [phase('update', 3)],
    'rollout_tables': {
      'decode': {'fits': True, 'seconds': 12.25},
      'wide': {'fits': True, 'seconds': 8.0},
    },
    'largest_microbatch_groups': 8,
    'smaller': 'v5e:2x2',
  }
  assert advice.advise(planned, found) == [
    'The largest update that fits: microbatch_groups=8.',
    'Sample with rollout_table=wide: decode at least 12.2 s, wide at least '
    '8.0 s.',
    'The smallest slice that fits, too: v5e:2x2.',
    'Train with LIBTPU_INIT_ARGS=--xla_tpu_max_hbm_size_mib=3000, as compiled '
    'here.',
  ]


@pytest.mark.parametrize(
  ('decode', 'wide', 'expected'),
  [
    (5.0, 6.0, 'Sample with rollout_table=decode: decode at least 5.0 s, wide'),
    (None, 6.0, 'Sample with rollout_table=wide: decode does not fit, wide at'),
    (None, None, None),
  ],
)
def test_the_fastest_table_that_fits_is_advised(
  decode: float | None, wide: float | None, expected: str | None
) -> None:
  tables = {
    name: {'fits': seconds is not None, 'seconds': seconds}
    for name, seconds in (('decode', decode), ('wide', wide))
  }
  found = advice.fastest_table(tables)
  assert bool(found) == bool(expected)
  assert not expected or found[0].startswith(expected)


@pytest.mark.slow
def test_both_tables_are_compiled_to_compare_sampling(
  tiny_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  asked, mesh = [], {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}

  def compile_phase(
    planned: shapes.Plan, program: shapes.Program, _: Any
  ) -> dict[str, Any]:
    asked.append((planned.config.rollout_table, program.name))
    return phase(program.name, 3) | {'least': program.work.weight_bytes}

  monkeypatch.setattr(run, 'compile_phase', compile_phase)
  chip = roofline.CHIPS['v5e']

  def tables(**changes: Any) -> dict[str, Any]:
    asked.clear()
    planned = made(settings(tiny_folder, **mesh | changes))
    own = [phase(name, 3) | {'least': 1e9} for name in SAMPLING]
    return run.compare_tables(planned, own, chip)

  found = tables()
  assert asked == [('wide', name) for name in SAMPLING]
  assert found['wide']['seconds'] < found['decode']['seconds'] == 3e9
  found = tables(rollout_table='wide')
  assert {table for table, _ in asked} == {'decode'}
  assert found['wide']['seconds'] == 3e9
  for same in ({'rollout_table': 'train'}, {'mesh.fsdp': 1, 'mesh.data': 4}):
    assert tables(**same) == {} and not asked


def test_weights_are_read_as_a_table_splits_them(
  tiny_folder: pathlib.Path,
) -> None:
  """Training gathers what it has split over fsdp before it is read."""
  axes = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tensor': 2}
  planned = made(settings(tiny_folder, **axes))
  c, mesh = planned.model, planned.mesh
  norms = 4 * (2 * c.num_layers + 1) * c.model_dim
  embed = 0 if c.tied_head else c.vocab_size * c.model_dim
  products = weights_of(c) - norms // 4 - embed
  assert shapes.read_bytes(c, mesh) == norms + 4 * products // 2
  mlp = 3 * c.num_layers * c.model_dim * c.mlp_dim
  largest = mlp + c.vocab_size * c.model_dim
  wide = norms + 4 * (products - largest) // 2 + 4 * largest // 4
  assert shapes.read_bytes(c, mesh, 'wide') == wide
  work = {p.name: p.work for p in programs.phases(planned)}
  copy = norms + 4 * products // 2
  assert work['prefill'].weight_bytes == copy
  turns = planned.shapes.reply_tokens - 1  # all tokens but the first
  assert work['decode'].weight_bytes == turns * copy
  parts = planned.microbatches
  assert work['reference'].weight_bytes == parts * copy


def test_keys_are_split_over_no_more_chips_than_there_are_heads(
  tiny_folder: pathlib.Path,
) -> None:
  planned = made(settings(tiny_folder))
  c = dataclasses.replace(planned.model, num_kv_heads=2)
  for shape, chips in (((2, 2, 2), 8), ((1, 2, 4), 2), ((8, 1, 1), 8)):
    assert shapes.sharing(c, make_mesh(*shape)) == chips


def test_a_judge_that_is_loaded_is_planned(tiny_folder: pathlib.Path) -> None:
  other = f'{tiny_folder}/.'  # the same shapes by another name
  for judge in (other, str(tiny_folder)):
    # the policy's own base is loaded once
    base = 'judge' if judge == other else 'reference'
    for offload in (False, True):
      changes = {'judge.model': judge, 'kl_weight': 0.0, 'offload': offload}
      planned = made(settings(tiny_folder, **changes))
      *_, program, update, optimiser = programs.phases(planned)
      names = [each.name for each in (program, update, optimiser)]
      assert names == ['judge', 'update', 'optimiser']
      assert {*planned.frozen} == {base, 'reward'}
      size = shapes.per_chip(planned.frozen[base])
      held = shapes.per_chip(planned.resident[base])
      # what waits in host memory is copied for this phase
      assert (held, program.copy) == ((0, size) if offload else (size, 0))


@pytest.mark.parametrize(
  ('mode', 'pairs'),
  [('round', 4), ('pivot', 3)],  # of four replies
)
def test_comparisons_are_planned_as_texts_of_two_replies(
  tiny_folder: pathlib.Path, mode: str, pairs: int
) -> None:
  changes = {'writing': 'pairs', 'pairs.mode': mode, 'judge.batch_size': 8}
  changes |= {'judge.model': f'{tiny_folder}/.', 'kl_weight': 0.0}
  planned = made(settings(tiny_folder, **changes))
  *_, judge, compared, _, _ = programs.phases(planned)
  assert (judge.name, compared.name) == ('judge', 'pairs')
  assert planned.shapes.group == 4
  assert compared.runs == -(-planned.shapes.prompts * pairs // 8)
  # a second opinion reads one reply for each brief
  assert compared.work.flops > pairs * judge.work.flops


def test_an_evaluation_is_planned_as_its_share_of_a_step(
  tiny_folder: pathlib.Path,
) -> None:
  changes = {'eval_every': 5, 'eval.unseen': 'x', 'eval.briefs': 20}
  changes |= {'eval.batch_size': 8, 'judge.model': str(tiny_folder)}
  planned = made(settings(tiny_folder, **changes))
  found = {p.name: p for p in programs.phases(planned)}
  names = ['resharding', 'prefill', 'decode', 'reward', 'unseen', 'judge']
  ours = [f'eval {name}' for name in names if name in found or name == 'unseen']
  assert [*found][-len(ours) :] == ours
  assert {found[name].per_step for name in ours} == {1 / 5}
  steps = {name: p.per_step for name, p in found.items() if name not in ours}
  assert steps.pop('judge') == 1 / 2  # by `monitors.judge_every`
  assert {*steps.values()} == {1}
  # 20 briefs in three passes of 8, with a reply each in place of 4
  pre, whole = found['eval prefill'], found['prefill']
  assert pre.runs == 3 * whole.runs
  assert pre.work.weight_bytes == 3 * whole.work.weight_bytes
  # the unseen scorer shares the reference's decoder, or has its own
  assert {*planned.frozen} == {'reference', 'reward'}
  changes['plan.unseen'] = str(tiny_folder)
  planned = made(settings(tiny_folder, **changes))
  assert {*planned.frozen} == {'reference', 'reward', 'unseen'}
  assert shapes.per_chip(planned.resident['unseen']) > 0


def test_briefs_that_are_not_written_yet_leave_the_evaluation_out(
  tiny_folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  planned = made(settings(tiny_folder, eval_every=5, briefs='later.jsonl'))
  assert [p for p in programs.phases(planned) if 'eval' in p.name] == []
  assert 'later.jsonl' in capsys.readouterr().out


def test_an_evaluation_adds_its_share_to_a_step_s_time(
  tiny_folder: pathlib.Path,
) -> None:
  phases = [phase('update', 3) | {'least': 2.0, 'per_step': 1}]
  phases += [
    phase(f'eval {name}', 1) | {'least': least, 'per_step': 1 / 4}
    for name, least in (('decode', 3.0), ('reward', 1.0))
  ]
  assert advice.least_seconds(phases) == 2.0 + 4.0 / 4
  assert advice.evaluation_share(phases) == [
    'An evaluation takes at least 4.00 s, of which 1.00 s are counted for each '
    'step.'
  ]
  assert advice.evaluation_share(phases[:1]) == []


@pytest.mark.slow
def test_every_phase_of_an_evaluation_compiles(
  tiny_folder: pathlib.Path,
) -> None:
  changes = {'eval_every': 5, 'eval.unseen': 'x', 'eval.briefs': 20}
  planned = made(settings(tiny_folder, **changes))
  for program in programs.evaluation(planned):
    with jax.set_mesh(planned.mesh):
      program.lower().compile()


def test_a_judge_that_is_served_takes_no_memory(
  tiny_folder: pathlib.Path,
) -> None:
  policy, mesh = headers.shape_of(str(tiny_folder)), make_mesh(1, 8, 1)
  for changes in (
    {},
    {'judge.model': 'm', 'judge.endpoint.url': 'http://127.0.0.1:9/v1'},
  ):
    config = settings(tiny_folder, **changes)
    assert plans.judge_shape(config, policy, mesh) is None
  changes = {'judge.model': str(tiny_folder), 'judge.batch_size': 12}
  with pytest.raises(ValueError, match=r'judge.batch_size=12 does not split'):
    plans.judge_shape(settings(tiny_folder, **changes), policy, mesh)


def test_a_part_of_the_writing_score_may_share_the_reference(
  tiny_folder: pathlib.Path,
) -> None:
  changes = {'plan.reward_model': '', 'kl_weight': 0.0}
  for writing in ('reward_model', '0.5*m:f + reward_model', 'm:f'):
    planned = made(settings(tiny_folder, writing=writing, **changes))
    assert planned.shared == ('reward_model' in writing)
    assert ('reference' in planned.frozen) == planned.shared


@pytest.mark.parametrize('plain', ['tell_scoring', 'two_turns'])
def test_scorers_that_read_other_texts_have_a_pass_of_their_own(
  plain: str, tiny_folder: pathlib.Path
) -> None:
  def passes(kl_weight: float, **changes: Any) -> dict[str, float]:
    changes |= {'plan.reward_model': '', 'kl_weight': kl_weight}
    planned = made(settings(tiny_folder, **changes))
    found = {each.name: each.work.flops for each in programs.phases(planned)}
    return {n: found[n] for n in ('reward', 'reference') if n in found}

  one, two = passes(0.01), passes(0.01, **{plain: True})
  assert [*one] == ['reference']
  assert [*two] == ['reward', 'reference']
  # scores need no logits
  assert 0 < two['reward'] < two['reference'] == one['reference']
  assert [*passes(0.0, **{plain: True})] == ['reference']


def test_a_reward_model_that_follows_has_its_share_of_passes(
  tiny_folder: pathlib.Path,
) -> None:
  changes = {'judge.model': str(tiny_folder), 'plan.reward_model': ''}
  planned = made(settings(tiny_folder, **changes, **{'refit.every': 4}))
  found = [each.name for each in programs.phases(planned)]
  without = programs.phases(made(settings(tiny_folder, **changes)))
  assert [name for name in found if not name.startswith('refit')] == [
    each.name for each in without
  ]
  rare = [e for e in programs.phases(planned) if e.name.startswith('refit')]
  assert [each.name for each in rare] == ['refit pairs', 'refit reference']
  assert all(each.per_step == 0.25 and each.work.flops > 0 for each in rare)


@pytest.mark.parametrize(
  ('writing', 'expected'),
  [('judge', 1), ('reward_model + rubric', 1), ('reward_model', 1 / 3)],
)
def test_a_judge_that_only_monitors_is_asked_now_and_then(
  writing: str, expected: float, tiny_folder: pathlib.Path
) -> None:
  changes = {'writing': writing, 'judge.model': str(tiny_folder)}
  planned = made(
    settings(tiny_folder, **changes, **{'monitors.judge_every': 3})
  )
  found = {p.name: p.per_step for p in programs.phases(planned)}
  assert found['judge'] == expected


@pytest.mark.slow
def test_a_judge_reads_what_it_is_asked_about(
  tiny_folder: pathlib.Path,
) -> None:
  flops = {}
  rubric = 'reward_model + 2*rubric'
  for writing in ('judge', 'judge_logit', 'reward_model', rubric, 'pairs'):
    changes = {'writing': writing, 'judge.model': str(tiny_folder)}
    planned = made(settings(tiny_folder, **changes))
    assert ('reward' in planned.frozen) == ('reward_model' in writing)
    *_, program, _, _ = programs.phases(planned)
    flops[writing] = program.work.flops
    with jax.set_mesh(planned.mesh):
      program.lower().compile()
  assert flops['judge'] > flops['reward_model'] > 0
  assert flops[rubric] == flops['judge'] < flops['pairs']
  assert flops['judge_logit'] == flops['judge']


SAME = 'resharding', 'prefill', 'optimiser'


@pytest.mark.slow
def test_short_replies_take_less_time_and_as_much_memory(
  tiny_folder: pathlib.Path,
) -> None:
  full, short = (
    made(
      settings(tiny_folder, **{'plan.reply_tokens': each, 'max_new_tokens': 64})
    )
    for each in ('', 'lognormal:3,0.5')
  )
  assert (full.length_PxG == full.shapes.reply_tokens).all()
  for a, b in zip(programs.phases(full), programs.phases(short), strict=True):
    assert a.work.flops > b.work.flops or a.name in SAME
    assert (a.copy, a.cache) == (b.copy, b.cache)
    if a.name == 'decode':
      assert a.runs == a.sent == 63 / 64
      assert b.sent <= b.runs < 0.5


def test_kernels_are_compared_with_none(
  tiny_folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  planned, seen = made(settings(tiny_folder, rollout_table='train')), []

  def compile_phase(
    planned: shapes.Plan, program: shapes.Program, _: Any
  ) -> dict[str, Any]:
    seen.append((planned.model.attention, planned.reward.attention))
    found = phase(program.name, 5.5 if seen[-1][0] == 'xla' else 3)
    attention = {'hbm_bytes': program.work.attention_bytes, 'seconds': 1.5}
    return found | {'attention': attention}

  monkeypatch.setattr(run, 'compile_phase', compile_phase)
  chip = roofline.CHIPS['v5e']
  found = [
    run.compile_phase(planned, p, chip) for p in programs.phases(planned)
  ]
  run.compare_attention(planned, found, chip)
  assert seen == [('auto', 'auto')] * 6 + [('xla', 'xla')] * 6
  for one in found:
    assert one['xla']['phase'] == one['phase'] and not one['xla']['fits']
    ours, others = (x['attention']['hbm_bytes'] for x in (one, one['xla']))
    if one['phase'] != 'optimiser':
      # The kernel that decodes takes no heads as small as these.
      assert 0 < ours <= others
      assert ours < others or one['phase'] == 'decode'
  show.print_plan(
    {
      'topology': 'v5e:2x2',
      'mesh': {},
      'reply_tokens_mean': 9.0,
      'phases': found,
      'advice': [],
    }
  )
  lines = capsys.readouterr().out.splitlines()
  words = [line.replace('│', ' ').split() for line in lines]
  assert ['decode', 'decode_attention', '1,234'] in words
  assert words.count(['update', 'kernels', '3.0', 'yes', '0.0', '1.50']) == 1
  assert words.count(['update', 'XLA', '5.5', 'no', '0.0', '1.50']) == 1


@pytest.mark.slow
def test_a_phase_of_real_size_compiles_for_a_tpu() -> None:
  """Scoring with Qwen2.5-7B: 256 replies of 2,048 tokens on 16 chips."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is absent: pip install -e .[tpu]')
  script = """
import json
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan import programs, roofline
from rlcw.tasks.plan import run as plan
from configs.grpo import get_config

config = get_config('qwen2_5_7b')
chip, devices = roofline.slice_of('v5e:4x4')
mesh = make_mesh(**config.mesh, devices=devices)
planned = plan.make_plan(config, mesh)
reference = [p for p in programs.phases(planned) if p.name == 'reference'][0]
print('RESULT', json.dumps(plan.compile_phase(planned, reference, chip)))
"""
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    env=os.environ
    | {
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path]),
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.rpartition('RESULT ')[2])
  weights = weights_of(headers.shape_of(QWEN))
  assert found['fits']
  assert found['hbm']['reference'] == pytest.approx(2 * weights / 16, rel=1e-3)
  assert 0 < found['hbm']['temporaries'] < 10 * GIB
  # 2 FLOPs a weight of the blocks and the head for each of 557,056 tokens
  assert 8e15 < found['flops'] < 9e15
  assert found['collectives']
  # twice in each of 28 layers, of briefs and of replies, for each of 8 parts
  assert sum(found['kernels'].values()) == 2 * 28 * 8


QWEN = 'Qwen/Qwen2.5-7B-Instruct'
