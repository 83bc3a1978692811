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
from peers import growth, roofs, tables, worker

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
    'cut': 0.5,
    'no_signal': memory / 8,
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


CASE = {'prompts': ['a', 'b'], 'prompt_tokens_in_all': 6, 'group': 2}
CASE |= {'reply_tokens': 2}


def test_a_case_becomes_tables() -> None:
  case = CASE | {'natural': False}
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
  assert 'cut' not in text


def test_a_natural_case_tells_how_long_replies_were() -> None:
  steps = {tool: [dict(step) for step in STEPS[tool]] for tool in STEPS}
  for step, tokens in zip(steps['other'], (100, 40, 100), strict=True):
    step['tokens'] = tokens
  case = CASE | {'natural': True}
  text = tables.markdown('2x2x2-natural', {'case': case, 'steps': steps})
  # 25, 20 / 3 and 20 tokens a second; 25, 10 and 25 tokens of 4 replies
  row = (
    '| other | 5.00 | 20 | 10.00 | 16.00 | 3.00 (2.00 to 4.00) | 3.0 | '
    '20.0 (10.0 to 25.0) | 50% | 31% |'
  )
  assert row in text
  assert 'floor' not in text


# --- Rewards ----------------------------------------------------------------


def test_replies_are_rewarded_by_two_rules_or_by_length() -> None:
  short, long = 'Dear grandmother', 'honey ' * 30 + 'GRANDMOTHER'
  replies = ['', short, long, long.replace('GRAND', '')]
  words = ['grandmother'] * 4
  found = worker.rewards({'natural': True}, words, replies)
  assert found == [1, 2, 1, 0]
  found = worker.rewards({'natural': False}, words, replies[:2])
  assert found == [0, 16]


def test_a_group_of_equal_rewards_has_no_signal() -> None:
  assert worker.no_signal([1, 1, 0, 1, 2, 2, 1, 2], 2) == 0.5


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
  printer = bench_peers.Worker(command, tmp_path / 'printer.log')
  assert printer.ask('step')['tokens'] == 8
  with pytest.raises(RuntimeError, match='printer ended with status 1 .*step'):
    printer.ask('step')
  with pytest.raises(RuntimeError, match='out of paper'):
    printer.ask('step')  # its input is closed by now


ANSWERS = """
import json, sys
for _ in sys.stdin:
  print(json.dumps({'tokens': 8, 'seconds': 1.0}), flush=True)
"""


COMPILES = """
import json, sys
for n, command in enumerate(sys.stdin):
  answer = {'tokens': n, 'compiled': int(n < int(sys.argv[1]))}
  print(json.dumps(answer), flush=True)
"""


def test_a_step_that_compiles_is_repeated(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(bench_peers, 'product_rate', lambda: 1.0)
  command = [sys.executable, '-c', COMPILES]
  slow = bench_peers.Worker([*command, '3'], tmp_path / 'slow.log')
  assert bench_peers.take_step('slow', slow, None)['tokens'] == 3
  slow.close()
  never = bench_peers.Worker([*command, '99'], tmp_path / 'never.log')
  with pytest.raises(RuntimeError, match='never still compiles after 8 steps'):
    bench_peers.take_step('never', never, None)
  never.close()


def test_unequal_work_is_an_error(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, '-c', ANSWERS]
  printer = bench_peers.Worker(command, tmp_path / 'printer.log')
  assert bench_peers.take_step('printer', printer, 8)['seconds'] == 1.0
  with pytest.raises(RuntimeError, match='printer made 8 .* expected 9'):
    bench_peers.take_step('printer', printer, 9)
  printer.close()


def test_a_case_has_the_same_tokens_for_all(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  case, natural = (
    json.loads(
      bench_peers.write_case(
        '4x3x9', tiny_folder, tmp_path, natural
      ).read_text()
    )
    for natural in (False, True)
  )
  text = tokenizer.load(tiny_folder)
  briefs = load_briefs('@briefs.jsonl', split='train', language='en')[:4]
  rows = [ChatFormat(text).encode_prompt(brief.request) for brief in briefs]
  assert [tokenizer.encode(text, p) for p in case['prompts']] == rows
  assert case['prompt_tokens'] == max(map(len, rows))
  read = load_briefs(case['briefs'], split='train', language='en')
  assert [brief.request for brief in read] == [b.request for b in briefs]
  assert [brief.id for brief in read] == ['0', '1', '2', '3']
  assert case['words'][0] == 'grandmother'
  assert (case['microbatch'], natural['microbatch']) == (4, 2)
  assert case['prompts'] == natural['prompts']


# Left by the command with its default --out.
ENVIRONMENTS = ROOT / 'runs/bench_peers'


@pytest.mark.slow
@pytest.mark.parametrize('natural', [False, True])
@pytest.mark.parametrize('tool', bench_peers.TOOLS)
def test_tools_take_steps(
  tool: str,
  natural: bool,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  python = pathlib.Path(sys.executable)
  if tool != 'rlcw':
    python = ENVIRONMENTS / f'env-{tool}/bin/python'
    if not python.exists():
      pytest.skip(f'{tool} is not installed: run scripts/bench_peers.py')
  monkeypatch.setenv('XLA_FLAGS', '')  # one device
  file = bench_peers.write_case('4x3x6', tiny_folder, tmp_path, natural)
  process = bench_peers.start(tool, python, file)
  first = process.ask('step')
  second = bench_peers.take_step(tool, process, None if natural else 72)
  process.close()
  for step in first, second:
    assert step['seconds_rollout'] > 0 and step['seconds_update'] > 0
    assert step['seconds_rollout'] + step['seconds_update'] == pytest.approx(
      step['seconds']
    )
    assert 12 <= step['tokens'] <= 72
    assert step['no_signal'] in (0, 0.25, 0.5, 0.75, 1)
    # Cut replies have 6 tokens each.
    assert 0 <= 72 * step['cut'] <= step['tokens']
  assert 0 <= second['steal'] <= 1 and second['product_rate'] > 0
  if tool == 'rlcw':
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
