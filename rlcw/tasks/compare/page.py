"""The page of a comparison, and its plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import rich
from matplotlib import axes, figure
from rich import table

from rlcw.evaluation.page import show, template
from rlcw.evaluation.plots import GREEN, STYLE, TRAINED, YELLOW, png, smooth
from rlcw.rewards.briefs import Brief
from rlcw.tasks.compare.arms import BASE, Replies, arm_of, pareto_front

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
  briefs: list[Brief],
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
    'plane': draw_plane(arms),
    'bands': draw_bands(histories, runs),
    'drift': draw_drift(arms),
  }
  for name, picture in pictures.items():
    (workdir / f'{name}.png').write_bytes(picture)
  page = template('tasks/compare/page.html.jinja').render(
    summary=summary,
    arms=arms,
    base=BASE,
    rows=ROWS,
    ours=headline_arm(summary),
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


def headline_arm(summary: dict[str, Any]) -> str:
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
    if arm != headline_arm(summary)
    and all(
      arm == chosen or not arm.startswith(prefix)
      for prefix, chosen in best.items()
    )
  ]


def samples(replies: Replies, briefs: list[Brief]) -> list[dict[str, Any]]:
  """The first reply of each arm's first run, to briefs evenly apart."""
  first: dict[str, str] = {}
  for name in replies:
    first.setdefault(arm_of(name), name)
  rows = np.linspace(0, len(briefs) - 1, min(SHOWN, len(briefs))).astype(int)
  return [
    {
      'brief': briefs[row],
      'replies': {arm: replies[name][row][0] for arm, name in first.items()},
    }
    for row in rows
  ]


# Of the first word of an arm's name; members of a family differ by marker.
COLOURS = {
  BASE: '#777777',
  'rlmr': TRAINED,
  'linear': '#4477AA',
  'writing': GREEN,
  'constraint': YELLOW,
  'gate': '#AA3377',
  'gdpo': '#66CCEE',
}
MARKERS = 'osD^vP*'
LINES = '-', '--', ':', '-.', (0, (5, 1, 1, 1, 1, 1))
CURVES = {
  'pass_rate': 'Pass rate',
  'writing': 'Writing score',
  'length_mean': 'Reply length, tokens',
  'truncated': 'Truncated replies',
  'kl': 'KL to the reference',
  'entropy': 'Entropy',
}


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str, str]]:
  """Colour, marker and line of each arm."""
  found, seen = {}, dict.fromkeys(COLOURS, 0)
  for arm in sorted(arms, key=len):
    family = next((f for f in COLOURS if arm.startswith(f)), BASE)
    place = seen[family]
    seen[family] += 1
    found[arm] = (
      COLOURS[family],
      MARKERS[place % len(MARKERS)],
      LINES[place % len(LINES)],
    )
  return found


@matplotlib.rc_context(STYLE)
def draw_plane(arms: dict[str, Any]) -> bytes:
  """A PNG of pass rate against writing, by training's scorer and by another.

  Points are means with 95% intervals, small ones the runs; the line joins what
  no other arm beats in both.

  Args:
    arms: as `arms.measure` gives them.
  """
  page = figure.Figure((9.6, 4.4), layout='constrained')
  axs, looked = page.subplots(1, 2), looks([*arms])
  for ax, key, title in zip(
    axs,
    ('unseen', 'writing'),
    ('Writing, by a scorer unseen in training', 'Writing, by training’s own'),
    strict=True,
  ):
    points_Nx2 = np.array(
      [[a['numbers'][key], a['numbers']['pass_rate']] for a in arms.values()]
    )
    for arm, told in arms.items():
      _draw_point(ax, arm, told, key, looked[arm])
    best_Nx2 = points_Nx2[pareto_front(points_Nx2)]
    best_Nx2 = best_Nx2[best_Nx2[:, 0].argsort()]
    ax.plot(*best_Nx2.T, color='#333333', linewidth=0.8, zorder=0)
    ax.set(title=title, xlabel='mean score')
    ax.yaxis.set_major_formatter('{x:.0%}')
  axs[0].set_ylabel('keeps every rule (strict)')
  page.legend(*axs[0].get_legend_handles_labels(), loc='outside right upper')
  return png(page)


def _draw_point(
  ax: axes.Axes, arm: str, told: dict[str, Any], key: str, look: Sequence[str]
) -> None:
  colour, marker, _ = look
  x, y = told['numbers'][key], told['numbers']['pass_rate']
  (left, right), (low, high) = (
    told['intervals'][key],
    told['intervals']['pass_rate'],
  )
  runs = told['by_run']
  ax.plot(
    runs[key], runs['pass_rate'], marker, color=colour, alpha=0.35, markersize=3
  )
  ax.errorbar(
    x,
    y,
    xerr=[[max(x - left, 0)], [max(right - x, 0)]],
    yerr=[[max(y - low, 0)], [max(high - y, 0)]],
    fmt=marker,
    color=colour,
    elinewidth=0.7,
    alpha=0.9,
    label=f'{arm} ({len(told["runs"])})',
  )


@matplotlib.rc_context(STYLE)
def draw_bands(
  histories: dict[str, list[dict[str, Any]]], runs: dict[str, list[str]]
) -> bytes:
  """A PNG of training: each arm's mean over its seeds, and their range.

  Args:
    histories: metrics of each step, by run.
    runs: by arm.
  """
  page = figure.Figure((12, 6), layout='constrained')
  looked = looks([*runs])
  for ax, (key, title) in zip(
    page.subplots(2, 3).flat, CURVES.items(), strict=True
  ):
    for arm, names in runs.items():
      steps = min(len(histories[name]) for name in names)
      value_SxN = np.array(
        [[row[key] for row in histories[n][:steps]] for n in names], float
      )
      smooth_SxN = np.stack([smooth(row) for row in value_SxN])
      colour, _, line = looked[arm]
      x = np.arange(steps)
      ax.plot(x, smooth_SxN.mean(0), line, color=colour, label=arm)
      if len(names) > 1:
        low_N, high_N = smooth_SxN.min(0), smooth_SxN.max(0)
        ax.fill_between(x, low_N, high_N, color=colour, alpha=0.15, lw=0)
    ax.set(title=title, xlabel='step')
    if key in ('pass_rate', 'truncated'):
      ax.yaxis.set_major_formatter('{x:.0%}')
  page.legend(*ax.get_legend_handles_labels(), loc='outside right upper')
  return png(page)


@matplotlib.rc_context(STYLE)
def draw_drift(arms: dict[str, Any]) -> bytes:
  """A PNG of two ways to see a scorer gamed.

  Left the lengths of held-out replies; right what an arm gained by the scorer
  of its training against what another says that it gained, both in stds of the
  base's replies: below the diagonal, part of the gain is the scorer's alone.

  Args:
    arms: as `arms.measure` gives them.
  """
  page = figure.Figure((9.6, 4.4), layout='constrained')
  left, right = page.subplots(1, 2, width_ratios=(3, 2))
  names, looked = [*arms], looks([*arms])
  parts: Any = left.violinplot(
    [arms[arm]['lengths'] for arm in names],
    showmeans=True,
    orientation='horizontal',
  )
  for line in 'cmeans', 'cbars', 'cmins', 'cmaxes':
    parts[line].set(color='#333333', linewidth=0.8)
  for body, arm in zip(parts['bodies'], names, strict=True):
    body.set(facecolor=looked[arm][0], alpha=0.5)
  left.set_yticks(range(1, len(names) + 1), names)
  left.invert_yaxis()
  left.set(title='Length of held-out replies', xlabel='tokens')
  base = arms[BASE]
  gains = {
    arm: [
      (told['numbers'][key] - base['numbers'][key]) / base['spread'][key]
      for key in ('writing', 'unseen')
    ]
    for arm, told in arms.items()
  }
  for arm, (trained, unseen) in gains.items():
    colour, marker, _ = looked[arm]
    right.plot(trained, unseen, marker, color=colour, label=arm)
  ends = [min(map(min, gains.values())), max(map(max, gains.values()))]
  right.plot(ends, ends, color='#333333', linewidth=0.8, zorder=0)
  right.set(
    title='Gain in writing, stds',
    xlabel='by the scorer of training',
    ylabel='by a scorer unseen in training',
  )
  right.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return png(page)
