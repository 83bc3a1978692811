"""A plan is made from shapes alone; a real one is compiled for real chips."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict
from pipeline import ROOT, tiny_config

from rlcw import plan, plots, programs, roofline, sharding
from rlcw.model_config import ModelConfig
from rlcw.roofline import GIB


def settings(folder: pathlib.Path, **changes: Any) -> ConfigDict:
  config = tiny_config('grpo', folder, folder)
  config.plan.prompt_tokens = 16
  config.plan.reward_model = str(folder)
  config.update_from_flattened_dict(changes)
  return config


def made(config: ConfigDict) -> programs.Plan:
  return plan.make(config, sharding.make_mesh(**config.mesh))


@pytest.mark.parametrize('name', ['v5e:3x3', 'v4:2x2x1', '', 'v5p:4x4'])
def test_an_unknown_slice_is_refused_with_those_that_there_are(
  name: str,
) -> None:
  with pytest.raises(ValueError, match=r"legal: \['v5e:2x2'.*'v6e:16x16'"):
    plan.slice_of(name)


def test_the_shapes_of_large_models_are_their_own() -> None:
  billions = {
    name: round(roofline.all_weights(plan.shape_of(name)) / 1e9, 1)
    for name in plan.MODELS
  }
  # the sizes that their model cards give
  assert list(billions.values()) == [7.6, 32.8, 72.7]


def test_the_shapes_of_a_folder_are_those_of_its_header(
  tiny_folder: pathlib.Path, tiny: Any
) -> None:
  assert plan.shape_of(str(tiny_folder)) == tiny[0]


@pytest.mark.parametrize(
  ('changes', 'names'),
  [
    ({}, ['rollout', 'reference', 'reward', 'update']),
    (
      {'train': 'lora', 'plan.reward_model': ''},
      ['rollout', 'reference', 'update'],
    ),
  ],
)
def test_every_phase_compiles_for_a_mesh(
  tiny_folder: pathlib.Path, changes: dict[str, Any], names: list[str]
) -> None:
  config = settings(tiny_folder, compute_dtype='bfloat16', **changes)
  planned = made(config)
  found = []
  for program in programs.phases(planned):
    with jax.set_mesh(planned.mesh):
      done = program.lower().compile()
    taken = sum(programs.per_chip(planned.held[n]) for n in program.takes)
    # beside what is held it takes a small batch, and no less than is held
    arguments = done.memory_analysis().argument_size_in_bytes
    assert taken <= arguments < taken + 16_000
    assert program.work.flops > 0
    found.append(program.name)
  assert found == names


def test_what_is_frozen_is_held_in_the_dtype_of_its_use(
  tiny_folder: pathlib.Path,
) -> None:
  whole = made(settings(tiny_folder)).held
  half = made(settings(tiny_folder, compute_dtype='bfloat16')).held
  size = {name: programs.per_chip(tree) for name, tree in whole.items()}
  assert size['reward'] == size['reference'] == size['parameters']
  assert programs.per_chip(half['parameters']) == size['parameters']
  # all but the norms
  assert programs.per_chip(half['reference']) < 0.53 * size['reference']
  adapters = made(settings(tiny_folder, train='lora')).held
  assert programs.per_chip(adapters['optimiser']) < size['optimiser'] / 2


def test_adam_s_first_moment_in_bfloat16_is_half_as_large(
  tiny_folder: pathlib.Path,
) -> None:
  held = [
    made(settings(tiny_folder, moment_dtype=dtype)).held
    for dtype in ('float32', 'bfloat16')
  ]
  moments, halved = (programs.per_chip(h['optimiser']) for h in held)
  weights = programs.per_chip(held[0]['parameters'])
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
  assert plan.refused(message) == int(size * GIB)
  with pytest.raises(ValueError, match='INTERNAL'):
    plan.refused('INTERNAL: no such thing (3.00G)')


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

  def compiled(planned: programs.Plan, *_: Any) -> dict[str, bool]:
    asked.append(planned.config.microbatch_groups)
    return {'fits': asked[-1] <= most}

  monkeypatch.setattr(plan, 'compiled', compiled)
  chip = roofline.CHIPS['v5e']
  assert plan.largest_microbatch(planned, now <= most, chip) == best
  assert asked == tried
  assert config.microbatch_groups == now


def phase(name: str, gib: float) -> dict[str, Any]:
  return {
    'phase': name,
    'hbm': {
      'parameters': 2 * GIB,
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
    'seconds': {'compute': 2.0, 'hbm': 1.0, 'interconnect': None},
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
    'phases': [phase('rollout', 3), phase('update', 5.5)],
    'largest_microbatch_groups': None,
  }
  found['advice'] = plan.advise(planned, found)
  plan.tell(found)
  text = ' '.join(capsys.readouterr().out.split())
  assert 'update: 1.5 GiB a chip too much' in text
  assert 'rollout:' not in text
  assert 'compute_dtype=bfloat16' in text and 'moment_dtype' not in text
  assert plan.least_seconds(found['phases']) is None
  assert plots.draw_plan(found).startswith(b'\x89PNG')


def test_a_plan_that_fits_says_how_to_train_by_it(
  tiny_folder: pathlib.Path,
) -> None:
  planned = made(settings(tiny_folder))
  found = {'phases': [phase('update', 3)], 'largest_microbatch_groups': 8}
  assert plan.advise(planned, found) == [
    'The largest update that fits: microbatch_groups=8.',
    'Train with LIBTPU_INIT_ARGS=--xla_tpu_max_hbm_size_mib=3000, as compiled '
    'here.',
  ]


def test_kernels_are_compared_with_none(
  tiny_folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
) -> None:
  planned, seen = made(settings(tiny_folder)), []

  def compiled(
    planned: programs.Plan, program: programs.Program, _: Any
  ) -> dict[str, Any]:
    seen.append((planned.model.attention, planned.reward.attention))
    found = phase(program.name, 5.5 if seen[-1][0] == 'xla' else 3)
    attention = {'hbm_bytes': program.work.attention_bytes, 'seconds': 1.5}
    return found | {'attention': attention}

  monkeypatch.setattr(plan, 'compiled', compiled)
  chip = roofline.CHIPS['v5e']
  found = [plan.compiled(planned, p, chip) for p in programs.phases(planned)]
  plan.compare_attention(planned, found, chip)
  assert seen == [('auto', 'auto')] * 4 + [('xla', 'xla')] * 4
  for one in found:
    assert one['xla']['phase'] == one['phase'] and not one['xla']['fits']
    ours, others = (x['attention']['hbm_bytes'] for x in (one, one['xla']))
    assert 0 < ours < others
  plan.tell({'topology': 'v5e:2x2', 'mesh': {}, 'phases': found, 'advice': []})
  lines = capsys.readouterr().out.splitlines()
  words = [line.replace('│', ' ').split() for line in lines]
  assert ['rollout', 'decode_attention', '1,234'] in words
  assert words.count(['update', 'kernels', '3.0', 'yes', '0.0', '1.50']) == 1
  assert words.count(['update', 'XLA', '5.5', 'no', '0.0', '1.50']) == 1


@pytest.mark.slow
def test_a_phase_of_real_size_compiles_for_a_tpu() -> None:
  """Scoring with Qwen2.5-7B: 256 replies of 2,048 tokens on 16 chips."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('libtpu is absent: pip install rlcw[tpu]')
  script = """
import json
from rlcw import plan, programs, sharding
from configs.grpo import get_config

config = get_config('qwen2_5_7b')
chip, devices = plan.slice_of('v5e:4x4')
planned = plan.make(config, sharding.make_mesh(**config.mesh, devices=devices))
reference = [p for p in programs.phases(planned) if p.name == 'reference'][0]
print('RESULT', json.dumps(plan.compiled(planned, reference, chip)))
"""
  done = subprocess.run(
    [sys.executable, '-c', script],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.rpartition('RESULT ')[2])
  weights = roofline.all_weights(ModelConfig.from_hf(plan.MODELS[QWEN]))
  assert found['fits']
  assert found['hbm']['reference'] == pytest.approx(2 * weights / 16, rel=1e-3)
  assert 0 < found['hbm']['temporaries'] < 10 * GIB
  # 2 FLOPs a weight of the blocks and the head for each of 557,056 tokens
  assert 8e15 < found['flops'] < 9e15
  assert found['collectives']
  # twice in each of 28 layers: of briefs, of replies
  assert sum(found['kernels'].values()) == 2 * 28


QWEN = 'Qwen/Qwen2.5-7B-Instruct'
