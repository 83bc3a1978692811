"""Summaries of measured steps: medians, ratios to rlcw, shares of ceilings."""

import statistics
from typing import Any, NamedTuple

from peers import roofs

from rlcw.models.config import ModelConfig


class Row(NamedTuple):
  """Medians of a tool over all rounds, and its time relative to rlcw's."""

  tool: str
  rollout: float
  tokens_per_second: float
  update: float
  step: float
  ratio: float  # median of the ratios within rounds
  least: float  # smallest of these ratios
  most: float  # largest of these ratios
  memory_gib: float


def compare(steps: dict[str, list[dict[str, Any]]]) -> list[Row]:
  """Summarises the steps of every tool.

  Args:
    steps: the answers to `step` by tool, one per round; must contain `rlcw`.
  """
  ours = [step['seconds'] for step in steps['rlcw']]
  rows = []
  for tool, tool_steps in steps.items():
    # Ratios within a round compare steps under similar load of the machine.
    ratios = [
      step['seconds'] / own for step, own in zip(tool_steps, ours, strict=True)
    ]

    # The default binds this tool's steps: a closure would see the last tool's.
    def median(name: str, tool_steps: Any = tool_steps) -> float:
      return statistics.median(step[name] for step in tool_steps)

    rows.append(
      Row(
        tool,
        median('seconds_rollout'),
        tool_steps[0]['tokens'] / median('seconds_rollout'),
        median('seconds_update'),
        median('seconds'),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        max(step['memory_gib'] for step in tool_steps),
      )
    )
  return rows


def shares(config: ModelConfig, measured: dict[str, Any]) -> dict[str, Any]:
  """Times of rlcw's phases relative to their lower bounds.

  Args:
    config: of the model.
    measured: result of `bench_peers.run_case`.

  Returns:
    `ceilings`: medians over all rounds; `phases`: for rollout and update the
    lower bound and the median time in seconds, and their quotient.
  """
  best = {
    name: statistics.median(round[name] for round in measured['ceilings'])
    for name in measured['ceilings'][0]
  }
  # Shares use the medians, so that one disturbed round does not matter.
  floors = roofs.floors(config, roofs.shapes(measured['case']), best)
  ours = compare({'rlcw': measured['steps']['rlcw']})[0]
  return {
    'ceilings': best,
    'phases': {
      name: {'floor': floor, 'measured': getattr(ours, name)}
      | {'share': floor / getattr(ours, name)}
      for name, floor in floors.items()
    },
  }


def markdown(name: str, measured: dict[str, Any]) -> str:
  """Formats a case as Markdown tables.

  Args:
    name: of the case, as in `4x8x48`.
    measured: result of `bench_peers.run_case`, with `shares` as its `roofs`.
  """
  lines = [
    f'{name} (briefs x replies x new tokens)',
    '',
    '| | rollout, s | new tokens/s | update, s | step, s | times rlcw | '
    'peak memory, GiB |',
    '|---|---|---|---|---|---|---|',
  ]
  for row in compare(measured['steps']):
    ratio = f'{row.ratio:.2f} ({row.least:.2f} to {row.most:.2f})'
    lines.append(
      f'| {row.tool} | {row.rollout:.2f} | {row.tokens_per_second:.0f} | '
      f'{row.update:.2f} | {row.step:.2f} | '
      f'{"1" if row.tool == "rlcw" else ratio} | {row.memory_gib:.1f} |'
    )
  lines += [
    '',
    '| rlcw | floor, s | measured, s | share |',
    '|---|---|---|---|',
  ]
  for phase, times in measured['roofs']['phases'].items():
    lines.append(
      f'| {phase} | {times["floor"]:.2f} | {times["measured"]:.2f} | '
      f'{times["share"]:.0%} |'
    )
  best = measured['roofs']['ceilings']
  # The load of the machine, so that readers can judge the measurements.
  all_steps = [step for steps in measured['steps'].values() for step in steps]
  rates = [step['product_rate'] / 1e9 for step in all_steps]
  steal = [step['steal'] for step in all_steps]
  lines += [
    '',
    'Ceilings in GFLOP/s: '
    + ', '.join(f'{k} {v / 1e9:.0f}' for k, v in best.items() if k != 'memory')
    + f'; memory {best["memory"] / 1e9:.1f} GB/s. NumPy beside the steps: '
    f'{min(rates):.0f} to {max(rates):.0f} GFLOP/s; stolen CPU time '
    f'{min(steal):.1%} to {max(steal):.1%}.',
    '',
  ]
  return '\n'.join(lines)
