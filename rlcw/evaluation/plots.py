"""The report's pictures: curves over steps, pass rates per rule."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import axes, figure

# Paul Tol's `bright` scheme: told apart by every kind of colour vision.
BASE, TRAINED = '#4477AA', '#EE6677'
GREEN, YELLOW, PURPLE = '#228833', '#CCBB44', '#AA3377'
ARMS = {'base': BASE, 'trained': TRAINED}
STYLE: dict[Any, Any] = {
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
  'legend.frameon': False,
  'legend.fontsize': 8,
}


class Panel(NamedTuple):
  """One small multiple; `kind` is '', 'percent', 'zero' or 'stacked'."""

  title: str
  series: dict[str, str]  # metric -> colour; its last word is the label
  kind: str = ''
  always: bool = True  # what some runs lack is shown where they have it


PANELS = (
  Panel('Pass rate', {'pass_rate': TRAINED}, 'percent'),
  Panel('Writing score', {'writing': TRAINED}),
  Panel(
    'Violators’ largest advantage', {'max_violator_advantage': PURPLE}, 'zero'
  ),
  Panel('Penalty ζ', {'penalty_max': PURPLE, 'penalty_mean': YELLOW}),
  Panel('Reply length, tokens', {'length_mean': GREEN}),
  Panel('Truncated replies', {'truncated': GREEN}, 'percent'),
  Panel('KL to the reference', {'kl': GREEN}),
  Panel('Entropy', {'entropy': GREEN}),
  Panel('Repeated text', {'repetition': GREEN}, 'percent', False),
  Panel(
    'Groups without signal', {'no_signal_groups': PURPLE}, 'percent', False
  ),
  Panel('Good, says the judge', {'judge_good': TRAINED}, 'percent', False),
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
  """Centred running mean over a tenth of the run that skips NaN."""
  half = len(values) // 20
  kernel, known = np.ones(2 * half + 1), np.isfinite(values)
  count = np.convolve(known, kernel)[half:][: len(values)]
  total = np.convolve(np.nan_to_num(values), kernel)[half:][: len(values)]
  return np.where(count > 0.5, total, np.nan) / np.maximum(count, 1)


def _draw_panel(
  ax: axes.Axes, panel: Panel, metrics: dict[str, np.ndarray]
) -> None:
  steps, floor = metrics['step'], np.zeros(len(metrics['step']))
  for name, colour in panel.series.items():
    values, label = metrics[name], name.split('_')[-1]
    if panel.kind == 'stacked':
      ax.bar(steps, values, 0.9, floor, color=colour, label=label)
      floor = floor + np.nan_to_num(values)
    else:
      ax.plot(steps, values, '.', color=colour, alpha=0.3, markersize=4)
      ax.plot(steps, smooth(values), color=colour, label=label, linewidth=1.8)
  if panel.kind == 'percent':
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter('{x:.0%}')
  if panel.kind == 'zero':
    ax.axhline(0, color='#333333', linewidth=1)
  # The first step compiles: at its full height the others would be flat.
  if floor[0] > 2 * (rest := max([0, *floor[1:]])) > 0:
    ax.set_ylim(0, 1.3 * rest)
    ax.annotate(f'{floor[0]:.0f} s', (steps[0], 1.2 * rest))
  if len(panel.series) > 1:
    ax.legend(ncols=3)
  ax.set(title=panel.title, xlabel='step')
  ax.locator_params(axis='x', integer=True)


def png(page: figure.Figure) -> bytes:
  page.savefig(buffer := io.BytesIO(), format='png', dpi=144)
  return buffer.getvalue()


@matplotlib.rc_context(STYLE)
def draw_curves(
  panels: Sequence[Panel], metrics: dict[str, np.ndarray], columns: int = 1
) -> bytes:
  """A PNG of small multiples: every step a dot, their running mean a line."""
  rows = -(-len(panels) // columns)
  page = figure.Figure((4 * columns, 2.6 * rows), layout='constrained')
  grid = page.subplots(rows, columns, squeeze=False)
  for ax, panel in zip(grid.flat, panels, strict=False):
    _draw_panel(ax, panel, metrics)
  for ax in grid.flat[len(panels) :]:
    ax.remove()
  return png(page)


@matplotlib.rc_context(STYLE)
def draw_rules(rates: Sequence[dict[str, Any]]) -> bytes:
  """A PNG of every rule's pass rate in both arms, with 95% intervals."""
  places = np.arange(len(rates))
  page = figure.Figure((7.2, 1.2 + 0.4 * len(rates)), layout='constrained')
  ax = page.subplots()
  for shift, (arm, colour) in enumerate(ARMS.items()):
    _, rate, low, high = np.array([r[arm] for r in rates]).reshape(-1, 4).T
    ax.errorbar(
      rate,
      places + 0.26 * shift - 0.13,
      fmt='o',
      color=colour,
      # rounding may put a bound of 0 or 1 a hair on the wrong side
      xerr=np.maximum((rate - low, high - rate), 0),
      label=arm,
      capsize=2,
    )
  names = [f'{ascii(r["name"])[1:-1]:.60}  (n={r["base"][0]})' for r in rates]
  ax.set_yticks(places, names, parse_math=False)
  ax.set(title='Pass rate per rule', xlim=(-0.02, 1.02))
  ax.xaxis.set_major_formatter('{x:.0%}')
  ax.invert_yaxis()
  ax.legend(loc='lower right', bbox_to_anchor=(1, 1), ncols=2)
  return png(page)


@matplotlib.rc_context(STYLE)
def draw_scores(
  length_N: np.ndarray, score_N: np.ndarray, calibration: dict[str, Any]
) -> bytes:
  """A PNG of what a reward model's scores have to do with length, and truth.

  Args:
    length_N: characters of each reply.
    score_N: its score.
    calibration: as `agreement.calibration` gives it.
  """
  page = figure.Figure((8, 3.2), layout='constrained')
  left, right = page.subplots(1, 2)
  left.plot(length_N, score_N, '.', color=GREEN, alpha=0.3, markersize=4)
  left.set(title='Score against length', xlabel='characters', ylabel='log-odds')
  left.set_xscale('log')
  right.plot([0.5, 1], [0.5, 1], color='#999999', linewidth=1)
  right.scatter(
    calibration['confidence'],
    calibration['accuracy'],
    [20 + 180 * share for share in calibration['share']],
    color=PURPLE,
  )
  right.set(
    title='Right as often as it is sure?',
    xlabel='confidence in a pair',
    ylabel='share right',
    ylim=(min(0.45, *calibration['accuracy']) - 0.05, 1.05),
  )
  return png(page)
