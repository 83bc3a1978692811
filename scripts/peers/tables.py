"""What rounds of steps come to: medians, ratios, shares of the best."""

import statistics
from typing import Any, NamedTuple

from peers import roofs

from rlcw.models.config import ModelConfig


class Row(NamedTuple):
  """A tool's medians, and how many times as long as rlcw it takes."""

  tool: str
  rollout: float
  tokens_per_second: float
  update: float
  step: float
  ratio: float  # median of the rounds' own ratios
  least: float
  most: float
  memory_gib: float


def compare(steps: dict[str, list[dict[str, Any]]]) -> list[Row]:
  """A row for each tool; ratios are of steps that stand side by side."""
  ours = [step['seconds'] for step in steps['rlcw']]
  rows = []
  for tool, found in steps.items():
    ratios = [
      step['seconds'] / own for step, own in zip(found, ours, strict=True)
    ]

    def median(name: str, found: Any = found) -> float:
      return statistics.median(step[name] for step in found)

    rows.append(
      Row(
        tool,
        median('seconds_rollout'),
        found[0]['tokens'] / median('seconds_rollout'),
        median('seconds_update'),
        median('seconds'),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        max(step['memory_gib'] for step in found),
      )
    )
  return rows


def shares(config: ModelConfig, found: dict[str, Any]) -> dict[str, Any]:
  """rlcw's phases against their floors, by the medians of all rounds."""
  best = {
    name: statistics.median(round[name] for round in found['ceilings'])
    for name in found['ceilings'][0]
  }
  floors = roofs.floors(config, roofs.shapes(found['case']), best)
  ours = compare({'rlcw': found['steps']['rlcw']})[0]
  return {
    'ceilings': best,
    'phases': {
      name: {'floor': floor, 'measured': getattr(ours, name)}
      | {'share': floor / getattr(ours, name)}
      for name, floor in floors.items()
    },
  }


def markdown(name: str, found: dict[str, Any]) -> str:
  """A case in Markdown."""
  lines = [
    f'{name} (briefs x replies x new tokens)',
    '',
    '| | rollout, s | new tokens/s | update, s | step, s | times rlcw | '
    'peak memory, GiB |',
    '|---|---|---|---|---|---|---|',
  ]
  for row in compare(found['steps']):
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
  for phase, told in found['roofs']['phases'].items():
    lines.append(
      f'| {phase} | {told["floor"]:.2f} | {told["measured"]:.2f} | '
      f'{told["share"]:.0%} |'
    )
  best = found['roofs']['ceilings']
  weather = [step for steps in found['steps'].values() for step in steps]
  rates = [step['product_rate'] / 1e9 for step in weather]
  steal = [step['steal'] for step in weather]
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
