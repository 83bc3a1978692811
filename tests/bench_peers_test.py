"""The comparison with other tools: its arithmetic, and its workers."""

import functools
import json
import pathlib
import sys
from typing import Any

import bench_peers
import gpu_cases
import jax
import pytest
from peers import growth, roofs, tables

from rlcw.models import tokenizer
from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.rewards.briefs import load_briefs
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan.roofline import Shapes

ROOT = pathlib.Path(__file__).resolve().parents[1]


def _step(rollout: float, update: float, memory: float = 1.0) -> dict[str, Any]:
  return {
    'seconds': rollout + update,
    'seconds_rollout': rollout,
    'seconds_update': update,
    'tokens': 120,
    'memory_gib': memory,
    'steal': 0.25 * memory,
    'product_rate': memory * 1e9,
  }


# rlcw takes 3, 4 and 10 s, the other 9, 16 and 20 s: 3, 4 and 2 times as long
STEPS = {
  'rlcw': [_step(1, 2), _step(3, 1), _step(2, 8)],
  'other': [_step(4, 5, 2.0), _step(6, 10, 3.0), _step(5, 15, 2.5)],
}


def test_ratios_are_of_steps_side_by_side() -> None:
  ours, other = tables.compare(STEPS)
  assert ours == tables.Row('rlcw', 2, 60, 2, 4, 1, 1, 1, 1)
  assert other == tables.Row('other', 5, 24, 10, 16, 3, 2, 4, 3)


# one layer: 2 query heads and 1 key/value head of 2; a table of 10 by 4
CONFIG = ModelConfig.from_hf(
  gpu_cases.header('llama', 10, 4, 8, 1, (2, 1), tied=True)
)
WEIGHTS = 16 + 16 + 8 + 8 + 96
# 2 briefs of 3 tokens, 2 replies of 2 to each
SHAPES = Shapes(prompts=2, group=2, prompt_tokens=3, reply_tokens=2)
BRIEFS = 2 * WEIGHTS * 6 + 16 * 2 * 6  # 6 pairs of query and key in each
REPLIES = 2 * WEIGHTS * 8 + 16 * 4 * 9
HEAD = 2 * 40 * 8
BYTES = 2 * 4 * ((WEIGHTS + 40) + 14 * 4)  # two turns: weights, head, cache


@pytest.mark.parametrize(
  ('memory', 'decoding'),
  [(1e9, REPLIES / 10 + HEAD / 20), (1.0, BYTES)],
)
def test_a_floor_is_what_limits_it(memory: float, decoding: float) -> None:
  best = {'turn_blocks': 10, 'turn_head': 20, 'pass_blocks': 30}
  best |= {'pass_head': 40, 'memory': memory}
  found = roofs.floors(CONFIG, SHAPES, best)
  assert found['rollout'] == pytest.approx(BRIEFS / 30 + decoding)
  whole = (BRIEFS + REPLIES) / 30 + HEAD / 40
  assert found['update'] == pytest.approx(3 * whole)


@pytest.mark.slow
def test_ceilings_are_measured() -> None:
  found = roofs.measure(CONFIG, SHAPES, flops=1e4, traffic=2**16)
  floors = roofs.floors(CONFIG, SHAPES, found)
  assert min(found.values()) > 0 and min(floors.values()) > 0


def test_a_case_becomes_tables() -> None:
  case = {'prompts': ['a', 'b'], 'prompt_tokens_in_all': 6}
  case |= {'group': 2, 'reply_tokens': 2}
  best = dict(turn_blocks=1e3, turn_head=1e3, pass_blocks=2e3)
  best |= dict(pass_head=2e3, memory=1e9)
  slow = {name: rate / 10 for name, rate in best.items()}
  found = {'case': case, 'steps': STEPS, 'ceilings': [best, slow, best]}
  found['roofs'] = tables.shares(CONFIG, found)
  assert found['roofs']['ceilings'] == best
  floor = 3 * (BRIEFS + REPLIES + HEAD) / 2e3
  told = found['roofs']['phases']['update']
  assert told['floor'] == pytest.approx(floor)
  assert told['share'] == pytest.approx(floor / 2)  # the median of 2, 1 and 8
  text = tables.markdown('2x2x2', found)
  assert (
    '| other | 5.00 | 24 | 10.00 | 16.00 | 3.00 (2.00 to 4.00) | 3.0 |'
    in (text)
  )
  assert 'stolen CPU time 25.0% to 75.0%' in text


# --- Workers ----------------------------------------------------------------

ANSWERS_ONCE = """
import json, sys
sys.stdin.readline()
print(json.dumps({'tokens': 8, 'seconds': 1.0}), flush=True)
sys.stdin.readline()
sys.exit('out of paper')
"""


def test_a_worker_that_dies_tells_why(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, '-c', ANSWERS_ONCE]
  worker = bench_peers.Worker(command, tmp_path / 'printer.log')
  assert worker.ask('step')['tokens'] == 8
  with pytest.raises(RuntimeError, match='printer ended with status 1 .*step'):
    worker.ask('step')
  with pytest.raises(RuntimeError, match='out of paper'):
    worker.ask('step')  # its input is closed by now


ANSWERS = """
import json, sys
for _ in sys.stdin:
  print(json.dumps({'tokens': 8, 'seconds': 1.0}), flush=True)
"""


def test_unequal_work_is_an_error(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, '-c', ANSWERS]
  worker = bench_peers.Worker(command, tmp_path / 'printer.log')
  assert bench_peers.take_step('printer', worker, 8)['seconds'] == 1.0
  with pytest.raises(RuntimeError, match='printer made 8 .* expected 9'):
    bench_peers.take_step('printer', worker, 9)
  worker.close()


@pytest.mark.slow
def test_rlcw_takes_steps(
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('XLA_FLAGS', '')  # one device
  file = bench_peers.write_case('2x3x4', tiny_folder, tmp_path)
  case = json.loads(file.read_text())
  text = tokenizer.load(tiny_folder)
  briefs = load_briefs('@briefs.jsonl', split='train', language='en')
  rows = [ChatFormat(text).encode_prompt(brief.text) for brief in briefs[:2]]
  assert [tokenizer.encode(text, p) for p in case['prompts']] == rows
  assert case['prompt_tokens'] == max(map(len, rows))
  worker = bench_peers.start('rlcw', pathlib.Path(sys.executable), file)
  first = worker.ask('step')
  second = bench_peers.take_step('rlcw', worker, 24)
  worker.close()
  for step in first, second:
    assert step['seconds_rollout'] > 0 and step['seconds_update'] > 0
    assert step['seconds_rollout'] + step['seconds_update'] == pytest.approx(
      step['seconds']
    )
  assert 0 <= second['steal'] <= 1 and second['product_rate'] > 0
  assert second['seconds'] < first['seconds'] / 5  # nothing compiles again


@pytest.mark.slow
def test_growth_is_measured(
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  mesh = functools.partial(make_mesh, devices=jax.devices()[:1])
  monkeypatch.setattr(growth, 'make_mesh', mesh)
  axes = {'prompt_tokens': (64,), 'group': (2,)}
  monkeypatch.setattr(growth, 'AXES', axes)
  growth.main(tiny_folder, tmp_path)
  found = json.loads((tmp_path / 'growth.json').read_text())
  once, each = found['prompt_tokens']
  assert (once['how'], each['how']) == ('shared', 'repeated')
  assert [row['how'] for row in found['group']] == ['shared']
  for row in (once, each, *found['group']):
    assert row['rollout'] > 0 and row['update'] > 0
  assert '| prompt_tokens | 64 | for each reply |' in (
    (tmp_path / 'growth.md').read_text()
  )
