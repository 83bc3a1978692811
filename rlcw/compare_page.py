"""The page of `compare`: all arms in numbers, pictures and words."""

from pathlib import Path
from typing import Any

import numpy as np
import rich
from rich import table

from rlcw import arm_plots, data
from rlcw.arms import BASE, Replies, of
from rlcw.page import show, template

# Label, number, format; by what tells most.
ROWS = (
  (
    'Keeps every rule and is better written than base',
    'kept_and_better',
    '.1%',
  ),
  ('Keeps every rule (strict)', 'pass_rate', '.1%'),
  ('Keeps every rule (loose)', 'pass_rate_loose', '.1%'),
  ('Writing, by the scorer of training', 'writing', 'z.2f'),
  ('Writing, by a scorer unseen in training', 'unseen', 'z.2f'),
  ('Rule-breakers with a positive advantage, in training', 'raised', '.1%'),
  ('Good, by the judge', 'good', '.1%'),
  ('Length, tokens', 'length', '.1f'),
  ('Truncated', 'truncated', '.1%'),
  ('Distinct-1', 'distinct1', '.3f'),
  ('Distinct-2', 'distinct2', '.3f'),
  ('Distinct-3', 'distinct3', '.3f'),
  ('Self-BLEU', 'self_bleu', '.3f'),
  ('Compression ratio', 'compression', '.2f'),
  ('Vendi score', 'vendi', '.2f'),
  ('KL from base, nats per reply', 'kl', 'z.2f'),
)
SHOWN = 12  # briefs whose replies are shown
_TERMINAL = 'kept_and_better', 'pass_rate', 'writing', 'unseen', 'length', 'kl'


def write(
  workdir: Path,
  summary: dict[str, Any],
  replies: Replies,
  briefs: list[data.Brief],
  histories: dict[str, list[dict[str, Any]]],
) -> None:
  """Writes report.html and the PNGs in it; prints the main table.

  Args:
    workdir: where they go.
    summary: of the task.
    replies: of each run, and of the base.
    briefs: that they answer.
    histories: of each run, its metrics by step.
  """
  arms = summary['arms']
  runs = {arm: told['runs'] for arm, told in arms.items() if arm != BASE}
  pictures = {
    'plane': arm_plots.draw_plane(arms),
    'bands': arm_plots.draw_bands(histories, runs),
    'drift': arm_plots.draw_drift(arms),
  }
  for name, png in pictures.items():
    (workdir / f'{name}.png').write_bytes(png)
  page = template('compare.html.jinja').render(
    summary=summary,
    arms=arms,
    base=BASE,
    rows=ROWS,
    ours=favourite(summary),
    baselines=baselines(summary),
    pictures=pictures,
    samples=samples(replies, briefs),
  )
  (workdir / 'report.html').write_text(page, encoding='utf-8')
  grid = table.Table('', *(label for label, key, _ in ROWS if key in _TERMINAL))
  for arm, told in arms.items():
    cells = (
      show(told['numbers'][key], style)
      for _, key, style in ROWS
      if key in _TERMINAL
    )
    grid.add_row(f'{arm} ({len(told["runs"])})', *cells)
  rich.print(grid)
  print(workdir / 'report.html')


def favourite(summary: dict[str, Any]) -> str:
  """The arm whose case is argued: `rlmr`, or where there is none the best."""
  numbers = {a: told['numbers'] for a, told in summary['arms'].items()}
  best = max(numbers, key=lambda arm: numbers[arm]['kept_and_better'])
  return 'rlmr' if 'rlmr' in numbers else best


def baselines(summary: dict[str, Any]) -> list[str]:
  """What it is compared with: each arm, of some families the best alone."""
  best = summary['best']
  return [
    arm
    for arm in summary['arms']
    if arm != favourite(summary)
    and all(
      arm == chosen or not arm.startswith(prefix)
      for prefix, chosen in best.items()
    )
  ]


def samples(replies: Replies, briefs: list[data.Brief]) -> list[dict[str, Any]]:
  """The first reply of each arm's first run, to briefs evenly apart."""
  first: dict[str, str] = {}
  for name in replies:
    first.setdefault(of(name), name)
  rows = np.linspace(0, len(briefs) - 1, min(SHOWN, len(briefs))).astype(int)
  return [
    {
      'brief': briefs[row],
      'replies': {arm: replies[name][row][0] for arm, name in first.items()},
    }
    for row in rows
  ]
