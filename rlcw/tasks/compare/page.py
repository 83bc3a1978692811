"""Page and plots of a comparison of arms.

`write` is the entry point; the words of the page are in `page.html.jinja`.
"""

import collections
import itertools
from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure

from rlcw.evaluation import names, plots
from rlcw.evaluation.page import show, template
from rlcw.evaluation.plots import (
  GREEN,
  PURPLE,
  STYLE,
  TRAINED,
  YELLOW,
  png,
  smooth,
)
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief
from rlcw.runtime import console, files
from rlcw.tasks.compare.arms import (
  BASE,
  Replies,
  arm_of,
  pareto_front,
  rank,
)

# Label, key of an arm's `numbers`, format; the most telling first.
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
  ('Cut off (truncated)', 'truncated', '.1%'),
  ('Has a cliché', 'cliche', '.1%'),
  ('Distinct-1', 'distinct1', '.3f'),
  ('Distinct-2', 'distinct2', '.3f'),
  ('Distinct-3', 'distinct3', '.3f'),
  ('Self-BLEU', 'self_bleu', '.3f'),
  ('Compression ratio', 'compression', '.2f'),
  ('Vendi score', 'vendi', '.2f'),
  ('KL from base, nats per reply', 'kl', 'z.2f'),
)
# Number of briefs whose replies are shown.
SHOWN = 12
# Rows that are also printed in the terminal.
_TERMINAL = 'kept_and_better', 'pass_rate', 'writing', 'unseen', 'length', 'kl'


def write(
  workdir: Path,
  summary: dict[str, Any],
  replies: Replies,
  briefs: list[Brief],
  histories: dict[str, list[dict[str, Any]]],
) -> None:
  """Writes report.html and its PNGs; prints the main table.

  Args:
    workdir: the folder to write to.
    summary: the summary of the `compare` task.
    replies: of each run, and of the base.
    briefs: the P briefs that they answer.
    histories: each run's rows of `metrics.jsonl`.
  """
  arms = summary['arms']
  runs = {arm: stats['runs'] for arm, stats in arms.items() if arm != BASE}
  pictures = {
    'plane': draw_plane(arms),
    'bands': draw_bands(histories, runs),
    'drift': draw_drift(arms),
  }
  # the page embeds the PNGs; the files are for use elsewhere
  for name, picture in pictures.items():
    files.replace(workdir / f'{name}.png', picture)
  shown = names.labels([*arms, *histories])
  page = template('tasks/compare/page.html.jinja').render(
    summary=summary,
    arms=arms,
    shown=shown,
    read=summary.get('read') or steps_read(histories, summary['steps']),
    rules={rule: constraints.name(rule) for rule in arms[BASE]['rules']},
    base=BASE,
    rows=ROWS,
    ours=headline_arm(summary),
    # chosen by its result among several
    picked='rlmr' not in arms and len(arms) > 2,
    families={
      prefix: sum(arm.startswith(prefix) for arm in arms)
      for prefix in summary['best']
    },
    baselines=baselines(summary),
    pictures=pictures,
    samples=samples(replies, briefs),
  )
  files.replace(workdir / 'report.html', page)
  print_table(arms, shown)
  console.log(names.label(workdir / 'report.html', 999))


def print_table(arms: dict[str, Any], shown: dict[str, str]) -> None:
  """Prints the main numbers of all arms, each above its 95% intervals.

  Args:
    arms: `arms` of the summary.
    shown: the names that stand for theirs.
  """
  rows = []
  for label, key, style in ROWS:
    if key not in _TERMINAL:
      continue
    cells = (show(stats['numbers'][key], style) for stats in arms.values())
    rows.append((label, *cells))
    ends = [stats['intervals'].get(key) for stats in arms.values()]
    if any(ends):
      rows.append(
        ('  95% interval', *(console.interval(each, style) for each in ends))
      )
  over = (stats['over'] for stats in arms.values())
  rows.append(('95% intervals are over', *over))
  labels = (f'{shown[arm]} ({len(arms[arm]["runs"])})' for arm in arms)
  console.table('compare: arms (runs)', ('', *labels), rows)


def steps_read(
  histories: dict[str, list[dict[str, Any]]], steps: int
) -> list[dict[str, Any]]:
  """The step at which each run was read, by its metrics, as in a summary.

  Args:
    histories: each run's rows of `metrics.jsonl`.
    steps: of a whole run.
  """
  return [
    {
      'run': name,
      'step': max(row['step'] for row in rows) + 1,
      'steps': steps,
      'finished': True,  # `run.find` takes no others
    }
    for name, rows in histories.items()
  ]


def headline_arm(summary: dict[str, Any]) -> str:
  """Arm that the page compares with the others: `rlmr`, else the best one."""
  found = {arm: each for arm, each in summary['arms'].items() if arm != BASE}
  return 'rlmr' if 'rlmr' in found else max(found, key=lambda a: rank(found[a]))


def baselines(summary: dict[str, Any]) -> list[str]:
  """Arms to compare the headline arm with, the base among them.

  Of each family in `summary['best']` only the best arm is included.
  """
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
  """Sample replies: the first one of each arm's first run to `SHOWN` briefs."""
  first: dict[str, str] = {}
  for name in replies:
    first.setdefault(arm_of(name), name)
  # evenly spaced, because briefs of one kind may be neighbours in the file
  rows = np.linspace(0, len(briefs) - 1, min(SHOWN, len(briefs))).astype(int)
  return [
    {
      'brief': briefs[row],
      'replies': {arm: replies[name][row][0] for arm, name in first.items()},
    }
    for row in rows
  ]


# A family is the arms that start with the same one of these words: they share
# its colour and differ by line style.
COLOURS = {
  BASE: '#777777',
  'rlmr': TRAINED,
  'linear': plots.BASE,
  'writing': GREEN,
  'constraint': YELLOW,
  'gate': PURPLE,
  'gdpo': '#5522BB',
}
MARKERS = 'osD^vP*X<>phd'
LINES = '-', '--', ':', '-.', (0, (5, 1, 1, 1, 1, 1))
# Metrics of training that are drawn, with their titles; 2 rows of 3.
CURVES = {
  'pass_rate': 'Pass rate',
  'writing': 'Writing score',
  'length_mean': 'Reply length, tokens',
  'truncated': 'Truncated replies',
  'kl': 'KL to the reference',
  'entropy': 'Entropy',
}


def looks(arms: Sequence[str]) -> dict[str, tuple[str, str, Any]]:
  """Colour, marker and line style of each arm.

  An arm of no family gets a colour that the families leave, if there is one.
  """
  families = {
    arm: next((f for f in COLOURS if arm.startswith(f)), '') for arm in arms
  }
  left = [c for f, c in COLOURS.items() if f not in {BASE, *families.values()}]
  # the one of the base is for the base alone
  free = itertools.cycle(left or [*COLOURS.values()][1:])
  styles, members = {}, collections.Counter()
  # The base comes first, then families.  The shortest name of a family is its
  # plain arm, which gets the solid line.
  for arm in sorted(
    arms, key=lambda arm: (arm != BASE, not families[arm], len(arm))
  ):
    family = families[arm]
    colour = COLOURS[family] if family else next(free)
    styles[arm] = (
      colour,
      MARKERS[len(styles) % len(MARKERS)],
      LINES[members[colour] % len(LINES)],
    )
    members[colour] += 1
  return styles


def _height(arms: Sized) -> float:
  """Height of a figure, in inches, whose legend has a line for each arm."""
  return max(4.4, 1 + 0.22 * len(arms))


@matplotlib.rc_context(STYLE)
def draw_plane(arms: dict[str, Any]) -> bytes:
  """Draws pass rate against writing score, by the unseen and training scorers.

  Large points are means with 95% intervals, small ones are runs; the line
  joins the Pareto-optimal arms.

  Args:
    arms: `arms` as returned by `arms.measure`.

  Returns:
    The PNG.
  """
  fig = figure.Figure((9.6, _height(arms)), layout='constrained')
  axs, styles = fig.subplots(1, 2), looks([*arms])
  shown = plots.labels(arms)
  for ax, key, title in zip(
    axs,
    ('unseen', 'writing'),
    ('Writing, by a scorer unseen in training', 'Writing, by training scorer'),
    strict=True,
  ):
    points_Nx2 = np.array(
      [[a['numbers'][key], a['numbers']['pass_rate']] for a in arms.values()]
    )
    for arm, stats in arms.items():
      label = f'{shown[arm]} ({len(stats["runs"])})'
      _draw_point(ax, label, stats, key, styles[arm])
    # joined from left to right
    best_Nx2 = points_Nx2[pareto_front(points_Nx2)]
    best_Nx2 = best_Nx2[best_Nx2[:, 0].argsort()]
    ax.plot(*best_Nx2.T, color='#333333', linewidth=0.8, zorder=0)
    ax.set(title=title, xlabel='mean score')
    ax.yaxis.set_major_formatter('{x:.0%}')
  axs[0].set_ylabel('keeps every rule (strict)')
  fig.legend(*axs[0].get_legend_handles_labels(), loc='outside right upper')
  return png(fig)


def _draw_point(
  ax: axes.Axes,
  label: str,
  stats: dict[str, Any],
  key: str,
  style: Sequence[Any],
) -> None:
  """Draws one arm: its runs as small points, its mean with 95% intervals."""
  colour, marker, _ = style
  x, y = stats['numbers'][key], stats['numbers']['pass_rate']
  (left, right), (low, high) = (
    stats['intervals'][key],
    stats['intervals']['pass_rate'],
  )
  runs = stats['by_run']
  ax.plot(
    runs[key], runs['pass_rate'], marker, color=colour, alpha=0.35, markersize=3
  )
  # matplotlib refuses negative lengths, which rounding can produce where a
  # share is 0 or 1
  ax.errorbar(
    x,
    y,
    xerr=[[max(x - left, 0)], [max(right - x, 0)]],
    yerr=[[max(y - low, 0)], [max(high - y, 0)]],
    fmt=marker,
    color=colour,
    elinewidth=0.7,
    alpha=0.9,
    label=label,
  )


@matplotlib.rc_context(STYLE)
def draw_bands(
  histories: dict[str, list[dict[str, Any]]], runs: dict[str, list[str]]
) -> bytes:
  """Draws training curves: each arm's mean over its S seeds, and their range.

  Args:
    histories: each run's rows of `metrics.jsonl`.
    runs: the names of each arm's runs.

  Returns:
    The PNG.
  """
  fig = figure.Figure((12, max(6, _height(runs))), layout='constrained')
  # with the base, for the looks of the other plots
  styles, shown = looks([BASE, *runs]), plots.labels(runs)
  for ax, (key, title) in zip(
    fig.subplots(2, 3).flat, CURVES.items(), strict=True
  ):
    for arm, members in runs.items():
      # runs may differ in length: the mean is over the steps that all have
      steps = min(len(histories[name]) for name in members)
      value_SxN = np.array(
        [[row[key] for row in histories[n][:steps]] for n in members], float
      )
      smooth_SxN = np.stack([smooth(row) for row in value_SxN])
      colour, marker, line = styles[arm]
      x = np.arange(steps)
      ax.plot(
        x,
        smooth_SxN.mean(0),
        linestyle=line,
        color=colour,
        label=shown[arm],
        marker=marker,
        markersize=4,
        markevery=max(1, steps // 6),
      )
      if len(members) > 1:
        low_N, high_N = smooth_SxN.min(0), smooth_SxN.max(0)
        ax.fill_between(x, low_N, high_N, color=colour, alpha=0.15, lw=0)
    ax.set(title=title, xlabel='step')
    if key in ('pass_rate', 'truncated'):
      ax.yaxis.set_major_formatter('{x:.0%}')
  # all six plots have the same lines: one legend, from the last
  fig.legend(*ax.get_legend_handles_labels(), loc='outside right upper')
  return png(fig)


@matplotlib.rc_context(STYLE)
def draw_drift(arms: dict[str, Any]) -> bytes:
  """Draws two signs of a gamed scorer: reply lengths and disagreeing gains.

  On the left are the lengths of held-out replies.  On the right is each arm's
  gain over the base by the unseen scorer (y) against its gain by the training
  scorer (x), in standard deviations of the base's replies.  Below the diagonal
  part of the gain shows by the training scorer alone.

  Args:
    arms: `arms` as returned by `arms.measure`.

  Returns:
    The PNG.
  """
  fig = figure.Figure((9.6, _height(arms)), layout='constrained')
  left, right = fig.subplots(1, 2, width_ratios=(3, 2))
  styles, shown = looks([*arms]), plots.labels(arms)
  parts: Any = left.violinplot(
    [stats['lengths'] for stats in arms.values()],
    showmeans=True,
    orientation='horizontal',
  )
  for line in 'cmeans', 'cbars', 'cmins', 'cmaxes':
    parts[line].set(color='#333333', linewidth=0.8)
  for body, arm in zip(parts['bodies'], arms, strict=True):
    body.set(facecolor=styles[arm][0], alpha=0.5)
  # matplotlib numbers violins from 1
  left.set_yticks(range(1, len(arms) + 1), [*shown.values()])
  left.invert_yaxis()
  left.set(title='Length of held-out replies', xlabel='tokens')
  # the two scorers have different scales: divide by the base's spread
  base = arms[BASE]
  gains = {
    arm: [
      (stats['numbers'][key] - base['numbers'][key]) / base['spread'][key]
      for key in ('writing', 'unseen')
    ]
    for arm, stats in arms.items()
  }
  for arm, (trained, unseen) in gains.items():
    colour, marker, _ = styles[arm]
    right.plot(trained, unseen, marker, color=colour, label=shown[arm])
  ends = [min(map(min, gains.values())), max(map(max, gains.values()))]
  right.plot(ends, ends, color='#333333', linewidth=0.8, zorder=0)
  right.set(
    title='Gain in writing, stds',
    xlabel='by the training scorer',
    ylabel='by a scorer unseen in training',
  )
  right.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return png(fig)
