"""The GPU's benchmark as it runs on a CPU, and what it counts."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import bench_gpu
import gpu_cases
import gpu_ceilings
import gpu_parity
import jax
import numpy as np
import pytest

from configs import grpo
from rlcw.losses import Ratio
from rlcw.models import formats
from rlcw.models.config import ModelConfig
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Shapes

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = gpu_cases.CASES['tiny']
HOST = jax.devices('cpu')[0]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
  """Parts of a size that this machine computes in seconds."""
  scale = gpu_ceilings.Scale('float32', 256, 4, 2**22, repeats=2)
  monkeypatch.setitem(gpu_ceilings.SCALES, 'cpu', scale)
  monkeypatch.setattr(gpu_cases, 'SMALL', TINY)
  forms = {'brief and window': (64, {'window': 20})}
  monkeypatch.setattr(gpu_parity, 'FORMS', forms)


@pytest.mark.slow
def test_every_part_is_measured(small: None, tmp_path: pathlib.Path) -> None:
  status = bench_gpu.main(
    ['--device=cpu', '--models=tiny', f'--out={tmp_path}']
  )
  found = json.loads((tmp_path / 'bench_gpu.json').read_text())
  assert status == 0
  assert found['parity']['passed']
  assert found['parity']['failures'] == []
  # another order of sums, so neither zero nor large
  assert 0 < found['parity']['decoding'] < 1e-4
  assert 1e-4 < found['parity']['attention']['brief and window'] < 0.02
  assert found['parity']['cpu_values']['kl'] > 0.01
  best = found['ceilings']
  rates = [product['flops_per_second'] for product in best['products'].values()]
  assert [*best['products']] == ['square', 'tiny']
  assert 0 < min(rates) <= max(rates) == best['flops_per_second']
  assert 0 < best['bytes_per_second'] == max(best['traffic'].values())
  model = found['models']['tiny']
  for phase in ('rollout', 'reference', 'update'):
    assert 0 < model[phase]['mfu'] < 1.2
    assert model[phase]['seconds'] in model[phase]['seconds_each']
  rollout, update = model['rollout'], model['update']
  assert rollout['tokens'] == 4 * 2 * 6
  assert update['tokens'] == 4 * (8 + 2 * 6)
  for phase in (rollout, update):
    assert phase['tokens_per_second'] * phase['seconds'] == pytest.approx(
      phase['tokens']
    )
  assert 0 < model['decoding_against_pass'] < 1e-4
  assert update['metrics']['bad_steps'] == 0
  assert update['metrics']['grad_norm'] > 0


@pytest.mark.slow
def test_a_part_that_fails_does_not_stop_the_rest(
  small: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(gpu_cases.CASES, 'huge', TINY)

  def speed(run: Any, best: Any, keep: Any) -> None:
    keep(rollout={'seconds': 1.0, 'mfu': 0.5})
    if run.name == 'huge':
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
    keep(update={'seconds': 2.0, 'mfu': 0.25})

  monkeypatch.setattr(bench_gpu, 'speed', speed)
  monkeypatch.setattr(
    bench_gpu, 'parity', lambda device, keep: keep(passed=False)
  )
  out = f'--out={tmp_path}'
  assert bench_gpu.main(['--device=cpu', '--models=huge,tiny', out]) == 1
  models = json.loads((tmp_path / 'bench_gpu.json').read_text())['models']
  error = 'JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory'
  rollout = {'seconds': 1.0, 'mfu': 0.5}
  assert models['huge'] == {'rollout': rollout, 'error': error}
  assert models['tiny'] == {
    'rollout': rollout,
    'update': {'seconds': 2.0, 'mfu': 0.25},
  }


def _numbers(**changed: Any) -> gpu_parity.Numbers:
  """Two replies of 4 and of 2 tokens, and a gradient of size 5."""
  rollout = Rollout(
    token=np.array([[[5, 6, 7, 8], [9, 0, 0, 0]]]),
    logp=np.array([[[-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, 0.0, 0.0]]]),
    length=np.array([[4, 2]]),
    finished=np.array([[False, True]]),
  )
  numbers = gpu_parity.Numbers(
    rollout=rollout,
    # past the second reply's end a pass still computes something
    logp=np.array([[[-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, -7.0, -8.0]]]),
    terms={'loss': Ratio(np.float32(3), np.float32(6))},
    gradient={'a': np.array([[3.0]]), 'b': np.array([4.0])},
  )
  return numbers._replace(**changed)


def _failed(**changed: Any) -> list[str]:
  found = gpu_parity.compare(_numbers(), _numbers(**changed))
  failed = gpu_parity.failures(found | {'attention': {'causal': 0.01}})
  return [line.partition(':')[0] for line in failed]


def test_parity_fails_where_numbers_differ() -> None:
  same = _numbers()
  assert _failed() == []
  logp = same.logp.copy()
  logp[0, 1, 2] = np.nan  # past its end
  assert _failed(logp=logp) == []
  logp[0, 1, 1] += 0.01
  assert _failed(logp=logp) == ['logp', 'decoding']
  assert _failed(terms={'loss': Ratio(np.float32(3), np.float32(5))}) == [
    'loss'
  ]
  turned = {'a': np.array([[4.0]]), 'b': np.array([3.0])}
  assert _failed(gradient=turned) == ['gradient']
  larger = {'a': np.array([[3.1]]), 'b': np.array([4.0])}
  assert _failed(gradient=larger) == ['grad_norm', 'gradient']
  broken = {'a': np.array([[np.nan]]), 'b': np.array([4.0])}
  assert _failed(gradient=broken) == ['grad_norm', 'gradient']
  token = same.rollout.token.copy()
  token[0, 0, 2:] = 1
  assert _failed(rollout=same.rollout.replace(token=token)) == [
    'replies_that_differ'
  ]


def test_attention_that_is_not_a_number_fails() -> None:
  found = gpu_parity.compare(_numbers(), _numbers())
  for error, failed in ((0.02, 0), (0.021, 1), (np.nan, 1)):
    attention = {'attention': {'causal': 0.0, 'brief': error}}
    assert len(gpu_parity.failures(found | attention)) == failed


def test_a_reply_differs_from_one_place_on() -> None:
  a = np.zeros((2, 2, 5), np.int32)
  b = a.copy()
  b[0, 1, 3:], b[1, 0, 2] = 7, 1
  assert gpu_parity.first_differences(a, b) == [3, 2]
  assert gpu_parity.relative(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == 0.2


@pytest.mark.slow
def test_the_time_ends_it_and_what_is_known_stays(
  tmp_path: pathlib.Path,
) -> None:
  done = subprocess.run(
    [
      *(sys.executable, 'scripts/bench_gpu.py', '--device=cpu'),
      *('--models=tiny', f'--out={tmp_path}', '--seconds=0.2'),
    ],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert 'stopped after 0.2 s' in done.stdout
  found = json.loads((tmp_path / 'bench_gpu.json').read_text())
  assert found['budget_seconds'] == 0.2 and found['stopped']


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path: pathlib.Path) -> None:
  done = subprocess.run(
    [sys.executable, 'scripts/bench_gpu.py', f'--out={tmp_path / "out"}'],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2
  assert 'no gpu, so nothing was measured' in done.stdout
  assert not (tmp_path / 'out').exists()


# --- What is counted --------------------------------------------------------

# one layer: 2 query heads and 1 key/value head of 2; 10 · 4 in each table
HEADER = gpu_cases.header('qwen2', 10, 4, 8, 1, (2, 1), tied=False)
# 2 briefs of 3 tokens, 2 replies of 2 to each
SHAPES = Shapes(prompts=2, group=2, prompt_tokens=3, reply_tokens=2)
TOKENS = 2 * 3 + 4 * 2
WEIGHTS = 16 + 16 + 8 + 8 + 96  # query, output, key, value, MLP
# a brief: 1 + 2 + 3 pairs; a reply: 3 + 1 and 3 + 2; 4 FLOPs a pair and number
BLOCKS = 2 * WEIGHTS * TOKENS + 4 * 4 * (2 * 6 + 4 * 9)
TABLE = 2 * 10 * 4 * 8  # the head over 8 reply tokens


def test_an_updates_flops_are_counted() -> None:
  case = gpu_cases.Case(HEADER, SHAPES, 1)
  run = gpu_cases.prepare('x', case, 'bfloat16', HOST)
  assert run.microbatches == 2
  assert gpu_cases.update_flops(run) == (
    4 * BLOCKS + 4 * TABLE,
    3 * BLOCKS + 3 * TABLE,
  )


def test_frozen_weights_have_no_gradient() -> None:
  case = gpu_cases.Case(HEADER, SHAPES, 1, 'lora')
  run = gpu_cases.prepare('x', case, 'bfloat16', HOST)
  spared = 2 * WEIGHTS * TOKENS + TABLE
  assert gpu_cases.update_flops(run) == (
    4 * BLOCKS + 4 * TABLE - spared,
    3 * BLOCKS + 3 * TABLE - spared,
  )


def test_decoding_reads_weights_head_and_cache_at_every_turn() -> None:
  case = gpu_cases.Case(HEADER, SHAPES, 1)
  config = gpu_cases.prepare('x', case, 'bfloat16', HOST).config
  cache = TOKENS * 2 * 2 * 2  # keys and values of one head of 2, 2 bytes each
  # of two tables one is read
  expected = 2 * ((WEIGHTS + 40) * 2 + cache)
  assert gpu_cases.decoding_bytes(config, SHAPES) == expected


@pytest.mark.parametrize(
  ('name', 'billions'),
  [
    ('smollm2_135m', 0.135),
    ('qwen2_5_0_5b', 0.494),
    ('qwen2_5_1_5b', 1.54),
    ('qwen2_5_7b', 7.62),
  ],
)
def test_models_have_their_published_sizes(name: str, billions: float) -> None:
  case = gpu_cases.CASES[name]
  config = gpu_cases.prepare(name, case, 'bfloat16', HOST).config
  held = roofline.all_weights(config) / 1e9
  assert held == pytest.approx(billions, rel=0.01)


def test_shapes_are_those_of_the_real_header(
  smollm2_path: pathlib.Path,
) -> None:
  real = formats.open_source(smollm2_path).model_config()
  ours = ModelConfig.from_hf(gpu_cases.CASES['smollm2_135m'].header)
  # the file has it in float32
  assert real.norm_eps == pytest.approx(ours.norm_eps)
  # the header has no context: the cases are longer
  same = {'norm_eps': ours.norm_eps, 'context': ours.context}
  assert dataclasses.replace(real, **same) == ours


def test_settings_are_the_configs() -> None:
  config = grpo.get_config().to_dict()
  assert {k: config[k] for k in gpu_cases.SETTINGS} == gpu_cases.SETTINGS


def test_the_settings_are_enough_for_a_step() -> None:
  run = gpu_cases.prepare('tiny', TINY, 'float32', HOST)
  objective.make_optimizer(run.settings)
  objective.make_loss(run.config, run.settings)
