"""Plots as PNG: curves over steps, pass rates per rule, scores by length.

Names reach a plot only through `labels`.
"""

import functools
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import axes, figure, font_manager, ticker

from rlcw.evaluation import names

# Paul Tol's `bright` scheme, whose colours stay distinct for colour-blind
# readers; its yellow is darkened, to be seen on white and, inverted, on black.
BASE, TRAINED = '#4477AA', '#EE6677'
GREEN, YELLOW, PURPLE = '#228833', '#C08A00', '#AA3377'
# Colour and marker of each: plots can be read in grey too.
ARMS = {'base': (BASE, 's'), 'trained': (TRAINED, 'o')}
LINES = '-', '--', ':'
HATCHES = '', '//', '..'
# The first comes with matplotlib.  The others are used where they are
# installed, since matplotlib warns of every missing one.
_FONTS = (
  'DejaVu Sans',
  'Noto Sans CJK SC',
  'Noto Sans SC',
  'Source Han Sans SC',
  'PingFang SC',
  'Hiragino Sans GB',
  'Microsoft YaHei',
  'WenQuanYi Zen Hei',
  'Arial Unicode MS',
  'Noto Sans Devanagari',
  'Noto Sans Thai',
  'Noto Emoji',
  'Segoe UI Emoji',
)
FONTS = [f for f in _FONTS if f in font_manager.get_font_names()]
STYLE: dict[Any, Any] = {
  'font.family': FONTS,
  # a `$`, `_` or `%` in a name is no formula
  'text.parse_math': False,
  'text.usetex': False,
  'font.size': 9,
  'axes.titlesize': 10,
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.edgecolor': '#999999',
  'axes.labelcolor': '#555555',
  'xtick.color': '#555555',
  'ytick.color': '#555555',
  'axes.axisbelow': True,
  'grid.color': '#e8e8e8',
  'hatch.linewidth': 0.6,
  'legend.frameon': False,
  'legend.fontsize': 8,
}


class Panel(NamedTuple):
  """One small plot of a figure: some metrics over training steps."""

  title: str
  # metric name -> colour; the name's last word becomes the legend's label
  series: dict[str, str]
  # '' for lines, 'percent' for a percent axis from 0, 'zero' for a line at 0,
  # 'stacked' for stacked bars
  kind: str = ''
  # False: left out for runs that lack the metric, as older ones do
  always: bool = True
  # Metric of evaluations, drawn as points with intervals; '' for none.
  evaluated: str = ''

  @property
  def columns(self) -> dict[str, bool]:
    """Metrics that it draws, and whether every run has them."""
    names = [
      f'{before}{self.evaluated}{end}'
      for before in ('', 'initial_')
      for end in ('', '_low', '_high')
      if self.evaluated
    ]
    return dict.fromkeys(self.series, self.always) | dict.fromkeys(names, False)


# Training curves, in the order of the report.
PANELS = (
  Panel(
    'Pass rate', {'pass_rate': TRAINED}, 'percent', evaluated='eval/pass_rate'
  ),
  Panel('Writing score', {'writing': TRAINED}, evaluated='eval/writing'),
  Panel(
    'Violators’ largest advantage', {'max_violator_advantage': PURPLE}, 'zero'
  ),
  Panel('Penalty ζ', {'penalty_max': PURPLE, 'penalty_mean': YELLOW}),
  Panel(
    'Reply length, tokens', {'length_mean': GREEN}, evaluated='eval/length'
  ),
  Panel(
    'Truncated replies',
    {'truncated': GREEN},
    'percent',
    evaluated='eval/truncated',
  ),
  Panel('KL to the reference', {'kl': GREEN}, always=False),
  Panel('Entropy', {'entropy': GREEN}),
  Panel('Repeated text', {'repetition': GREEN}, 'percent', False),
  Panel(
    'Signs of shortcuts',
    {'copied': GREEN, 'phrase': PURPLE, 'marks': YELLOW},
    'percent',
    False,
  ),
  Panel(
    'Groups without signal', {'no_signal_groups': PURPLE}, 'percent', False
  ),
  Panel(
    'Rated Good by the judge',
    {'judge_good': TRAINED},
    'percent',
    False,
    'eval/judge_good',
  ),
  Panel(
    'Seconds per step',
    {
      'seconds_rollout': GREEN,
      'seconds_scoring': YELLOW,
      'seconds_update': PURPLE,
    },
    'stacked',
  ),
)
# Of evaluations alone, behind the others.
EVALUATED = (
  Panel('Both aims', {}, 'percent', False, 'eval/both'),
  Panel('Unseen writing score', {}, '', False, 'eval/unseen'),
  Panel('Gap of the scores', {}, 'zero', False, 'eval/gap'),
)
# Curves over the rounds of the adversarial game.
ROUNDS = (
  Panel(
    'Judge: agreement with labels, by round',
    {
      'dev_agreement': TRAINED,
      'dev_balanced': PURPLE,
      'dev_matched': YELLOW,
    },
    'percent',
  ),
  Panel('Generator: flaws that passed, by round', {'success': BASE}, 'percent'),
)


def smooth(values: np.ndarray) -> np.ndarray:
  """Centred running mean `[N]` over a tenth of the run, NaN skipped."""
  half = len(values) // 20
  # NaN counts as 0 in the sum and is left out of the number it is divided by
  kernel, known = np.ones(2 * half + 1), np.isfinite(values)
  count = np.convolve(known, kernel)[half:][: len(values)]
  total = np.convolve(np.nan_to_num(values), kernel)[half:][: len(values)]
  return np.where(count > 0.5, total, np.nan) / np.maximum(count, 1)


@functools.cache
def _glyphs() -> frozenset[int]:
  """Characters that some font of `FONTS` has."""
  files = [font_manager.findfont(family) for family in FONTS]
  return frozenset(
    c for f in files for c in font_manager.get_font(f).get_charmap()
  )


def labels(texts: Iterable[str], width: int = 30) -> dict[str, str]:
  """Returns the label in plots of each name, all of them different.

  Characters that no font has are escaped as in Python.
  """

  def shows(character: str) -> bool:
    return ord(character) in _glyphs() and names.shows(character)

  shown = names.labels(texts, width, shows)
  # A legend leaves out labels that begin with an underscore.
  return {
    text: f' {label}' if label.startswith('_') else label
    for text, label in shown.items()
  }


def evaluations(metrics: dict[str, np.ndarray], name: str) -> np.ndarray:
  """Evaluations of a run, of which a metric is known.

  Args:
    metrics: as of `draw_curves`.
    name: of the metric, `eval/…`.

  Returns:
    `[N, 4]`: updates before it, the mean, and the ends of its interval.
  """
  # A row's evaluation is of the parameters after its step, which its other
  # metrics in the next row are of.
  after = [metrics['step'] + 1]
  before = [metrics['step'][:1]]
  missing = np.full(len(metrics['step']), np.nan)
  for end in ('', '_low', '_high'):
    after.append(metrics.get(f'{name}{end}', missing))
    before.append(metrics.get(f'initial_{name}{end}', missing)[:1])
  rows_Nx4 = np.concatenate([np.stack(before, 1), np.stack(after, 1)])
  return rows_Nx4[np.isfinite(rows_Nx4[:, 1])]


def _draw_panel(
  ax: axes.Axes, panel: Panel, metrics: dict[str, np.ndarray]
) -> None:
  steps, floor = metrics['step'], np.zeros(len(metrics['step']))
  points_Nx4 = evaluations(metrics, panel.evaluated)
  for i, (name, colour) in enumerate(panel.series.items()):
    values = metrics[name]
    label = 'training' if len(points_Nx4) else name.split('_')[-1]
    if panel.kind == 'stacked':
      ax.bar(
        steps,
        values,
        0.9,
        floor,
        color=colour,
        label=label,
        hatch=HATCHES[i],
        edgecolor='white',
        linewidth=0,
      )
      floor = floor + np.nan_to_num(values)
    else:
      ax.plot(steps, values, '.', color=colour, alpha=0.3, markersize=4)
      ax.plot(
        steps, smooth(values), LINES[i], color=colour, label=label, lw=1.8
      )
  if len(points_Nx4):
    after_N, mean_N, low_N, high_N = points_Nx4.T
    ends_2xN = np.nan_to_num((mean_N - low_N, high_N - mean_N))
    ax.errorbar(
      after_N,
      mean_N,
      # Rounding may put an end on the other side.
      yerr=np.maximum(ends_2xN, 0),
      fmt='D',
      color=BASE,
      label='held-out briefs',
      capsize=2,
      markersize=4,
    )
  if floor.max() > 0:
    ax.set_ylim(0, 1.3 * floor.max())  # the legend stands above the bars
  if panel.kind == 'percent':
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter('{x:.0%}')
  if panel.kind == 'zero':
    ax.axhline(0, color='#333333', linewidth=1)
  # The first step includes compilation.  Where its bar would flatten all
  # others, cut the axis and write its height beside it.
  if floor[0] > 2 * (rest := max([0, *floor[1:]])) > 0:
    ax.set_ylim(0, 1.3 * rest)
    ax.annotate(f'{floor[0]:.0f} s', (steps[0], 1.2 * rest))
  if len(panel.series) + bool(len(points_Nx4)) > 1:
    ax.legend(ncols=3)
  ax.set(title=panel.title, xlabel='step')
  ax.locator_params(axis='x', integer=True)


def png(fig: figure.Figure) -> bytes:
  """Renders a figure as a PNG file in memory."""
  fig.savefig(buffer := io.BytesIO(), format='png', dpi=144)
  return buffer.getvalue()


@matplotlib.rc_context(STYLE)
def draw_curves(
  panels: Sequence[Panel], metrics: dict[str, np.ndarray], columns: int = 1
) -> bytes:
  """Draws panels in a grid: a dot per step, a line for the running mean.

  Args:
    panels: the plots, row by row.
    metrics: `[N]` values of each metric, and `step`; NaN leaves a gap.  Those
      of evaluations may be absent.
    columns: of the grid.

  Returns:
    The PNG.
  """
  rows = -(-len(panels) // columns)
  fig = figure.Figure((4 * columns, 2.6 * rows), layout='constrained')
  grid = fig.subplots(rows, columns, squeeze=False)
  for ax, panel in zip(grid.flat, panels, strict=False):
    _draw_panel(ax, panel, metrics)
  # cells of the last row that no panel fills
  for ax in grid.flat[len(panels) :]:
    ax.remove()
  return png(fig)


@matplotlib.rc_context(STYLE)
def draw_rules(rates: Sequence[dict[str, Any]]) -> bytes:
  """Draws every rule's pass rate in both arms, with 95% intervals, as a PNG.

  A rule's name stands above its row, so that the plot is narrow enough for a
  phone.

  Args:
    rates: as returned by the report's `rule_rates`.
  """
  places = np.arange(len(rates))
  fig = figure.Figure((4.2, 0.9 + 0.5 * len(rates)), layout='constrained')
  ax = fig.subplots()
  for shift, (arm, (colour, marker)) in enumerate(ARMS.items()):
    _, rate, low, high = np.array([r[arm] for r in rates]).reshape(-1, 4).T
    ax.errorbar(
      rate,
      places + 0.24 * shift,
      fmt=marker,
      color=colour,
      # matplotlib refuses negative lengths, which rounding can produce where
      # the rate itself is 0 or 1
      xerr=np.maximum((rate - low, high - rate), 0),
      label=arm,
      capsize=2,
      markersize=5,
    )
  shown = labels((r['name'] for r in rates), names.WIDTH)
  for place, rate in enumerate(rates):
    name = f'{shown[rate["name"]]} (n={rate["base"][0]})'
    ax.text(0, place - 0.22, name, fontsize=8.5, in_layout=False)
  ax.set(xlim=(-0.02, 1.02), ylim=(len(rates) - 0.4, -0.7), yticks=[])
  ax.xaxis.set_major_formatter('{x:.0%}')
  ax.spines['left'].set_visible(False)
  ax.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=2)
  return png(fig)


@matplotlib.rc_context(STYLE)
def draw_scores(
  length_N: np.ndarray, score_N: np.ndarray, calibration: dict[str, Any]
) -> bytes:
  """Draws a reward model's scores against length, and its calibration.

  Args:
    length_N: characters of each of N replies.
    score_N: their scores.
    calibration: as returned by `stats.calibration`.

  Returns:
    The PNG: scores by length on the left, accuracy by confidence on the right.
  """
  fig = figure.Figure((8, 3.2), layout='constrained')
  left, right = fig.subplots(1, 2)
  left.plot(length_N, score_N, '.', color=GREEN, alpha=0.3, markersize=4)
  left.set(title='Score against length', xlabel='characters', ylabel='log-odds')
  left.set_xscale('log')
  # plain numbers: the default formatter writes powers of ten as formulas
  left.xaxis.set_major_formatter(ticker.LogFormatter())
  left.xaxis.set_minor_formatter(ticker.LogFormatter())
  # on the diagonal the score is exactly as confident as it is accurate
  right.plot([0.5, 1], [0.5, 1], color='#999999', linewidth=1)
  # a point's area grows with its bin's share of the pairs
  right.scatter(
    calibration['confidence'],
    calibration['accuracy'],
    [20 + 180 * share for share in calibration['share']],
    color=PURPLE,
  )
  right.set(
    title='Accuracy against confidence',
    xlabel='confidence in a pair',
    ylabel='accuracy',
    ylim=(min(0.45, *calibration['accuracy']) - 0.05, 1.05),
  )
  return png(fig)
