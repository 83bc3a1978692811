"""Summaries of measured steps: medians, ratios to rlcw, shares of ceilings."""

import statistics
from collections.abc import Sequence
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
        statistics.median(
          step['tokens'] / step['seconds_rollout'] for step in tool_steps
        ),
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


# Columns of all cases, and of those with replies of natural length.
COLUMNS = (
  '',
  'rollout, s',
  'new tokens/s',
  'update, s',
  'step, s',
  'times rlcw',
  'peak memory, GiB',
)
NATURAL = 'tokens per reply', 'cut', 'groups without signal'


def markdown(name: str, measured: dict[str, Any]) -> str:
  """Formats a case as Markdown tables.

  Args:
    name: of the case, as in `4x8x48`.
    measured: result of `bench_peers.run_case`; if replies have full length,
      with `shares` as its `roofs`.
  """
  case, steps = measured['case'], measured['steps']
  lines = [f'{name} (briefs x replies x new tokens)', '']
  columns = [*COLUMNS, *(NATURAL if case['natural'] else ())]
  lines += [cells(columns), '|---' * len(columns) + '|']
  for row in compare(steps):
    ratio = f'{row.ratio:.2f} ({row.least:.2f} to {row.most:.2f})'
    shown = [
      row.tool,
      f'{row.rollout:.2f}',
      f'{row.tokens_per_second:.0f}',
      f'{row.update:.2f}',
      f'{row.step:.2f}',
      '1' if row.tool == 'rlcw' else ratio,
      f'{row.memory_gib:.1f}',
    ]
    if case['natural']:
      replies = len(case['prompts']) * case['group']
      shown += lengths(steps[row.tool], replies)
    lines.append(cells(shown))
  lines.append('')
  if not case['natural']:
    lines += floors(measured['roofs'])
  # The load of the machine, so that readers can judge the measurements.
  all_steps = [step for each in steps.values() for step in each]
  rates = [step['product_rate'] / 1e9 for step in all_steps]
  steal = [step['steal'] for step in all_steps]
  lines += [
    f'NumPy beside the steps: {min(rates):.0f} to {max(rates):.0f} GFLOP/s; '
    f'stolen CPU time {min(steal):.1%} to {max(steal):.1%}.',
    '',
  ]
  return '\n'.join(lines)


def cells(texts: Sequence[str]) -> str:
  """A row of a Markdown table."""
  return f'| {" | ".join(texts)} |'


def lengths(steps: Sequence[dict[str, Any]], replies: int) -> list[str]:
  """Cells under `NATURAL`: means over all rounds.

  Args:
    steps: of a tool.
    replies: number of them in a step.
  """
  tokens = [step['tokens'] / replies for step in steps]
  shares = [
    statistics.mean(step[name] for step in steps)
    for name in ('cut', 'no_signal')
  ]
  return [
    f'{statistics.mean(tokens):.1f} ({min(tokens):.1f} to {max(tokens):.1f})',
    *(f'{share:.0%}' for share in shares),
  ]


def floors(roofs: dict[str, Any]) -> list[str]:
  """Formats the result of `shares`."""
  lines = ['| rlcw | floor, s | measured, s | share |', '|---|---|---|---|']
  for phase, times in roofs['phases'].items():
    lines.append(
      f'| {phase} | {times["floor"]:.2f} | {times["measured"]:.2f} | '
      f'{times["share"]:.0%} |'
    )
  best = roofs['ceilings']
  ceilings = ', '.join(
    f'{k} {v / 1e9:.0f}' for k, v in best.items() if k != 'memory'
  )
  memory = best['memory'] / 1e9
  return [
    *lines,
    '',
    f'Ceilings in GFLOP/s: {ceilings}; memory {memory:.1f} GB/s.',
    '',
  ]
