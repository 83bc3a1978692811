"""Tables and figure of a plan."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure
from rich import table

from rlcw.evaluation import plots
from rlcw.evaluation.plots import BASE, GREEN, PURPLE, STYLE, TRAINED, YELLOW
from rlcw.runtime import console
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import GIB

ROOFS = roofline.Times._fields


def attention_tables(phases: list[dict[str, Any]]) -> list[Any]:
  """Tables of each phase's kernels and, with `compare_attention`, of savings.

  Tables without a row are left out.
  """
  kernels = table.Table('phase', 'kernel', 'runs on each chip')
  saved = table.Table('phase', 'attention', 'GiB', 'fits', 'its GB', 'its s')
  saved.title = 'Attention: total HBM and its traffic, per chip'
  for phase in phases:
    for name, count in phase['kernels'].items():
      kernels.add_row(phase['phase'], name, f'{count:,}')
    compared = 'xla' in phase and phase['attention']['hbm_bytes']
    # Resharding has no attention to compare.
    variants = {'kernels': phase, 'XLA': phase['xla']} if compared else {}
    for variant, measured in variants.items():
      saved.add_row(
        phase['phase'],
        variant,
        f'{measured["hbm_total"] / GIB:.1f}',
        'yes' if measured['fits'] else 'no',
        f'{measured["attention"]["hbm_bytes"] / 1e9:.1f}',
        f'{measured["attention"]["seconds"]:.2f}',
      )
  return [each for each in (kernels, saved) if each.row_count]


def _seconds(value: float | None) -> str:
  return '–' if value is None else f'{value:.2f}'


def print_plan(record: dict[str, Any]) -> None:
  """Prints a plan's tables and advice to the terminal.

  Args:
    record: contents of `plan.json`.
  """
  memory = table.Table(
    'phase', 'resident', 'copy', 'cache', 'temporaries', 'HBM', 'fits'
  )
  axes = ' · '.join(f'{axis} {size}' for axis, size in record['mesh'].items())
  memory.title = f'{record["topology"]} ({axes}): GiB per chip'
  times = table.Table('phase', 'PFLOP', *ROOFS, 'bound by', 'at least')
  mean = record['reply_tokens_mean']
  lengths = 'full rows' if mean is None else f'{mean:.0f} tokens a reply'
  times.title = f'Seconds, with {lengths}, if one resource alone limited them'
  traffic = table.Table('phase', 'collective', 'count', 'GB sent per chip')
  for phase in record['phases']:
    name, hbm = phase['phase'], phase['hbm']
    passing = hbm['copy'], hbm['cache'], hbm['temporaries']
    # The rest of the total is resident all through the step.
    gib = phase['hbm_total'] - sum(passing), *passing, phase['hbm_limit']
    memory.add_row(
      name,
      *(f'{size / GIB:.1f}' for size in gib),
      'yes' if phase['fits'] else 'no',
    )
    seconds = [phase['seconds'][roof] for roof in ROOFS]
    times.add_row(
      name,
      f'{phase["flops"] / 1e15:.1f}',
      *map(_seconds, seconds),
      phase['bound'],
      _seconds(phase['least']),
    )
    for kind, sent in phase['collectives'].items():
      row = f'{sent["count"]:,}', f'{sent["bytes"] / 1e9:.1f}'
      traffic.add_row(name, kind, *row)
  console.show(memory, times, traffic, *attention_tables(record['phases']))
  for line in record['advice']:
    console.log(line)


# Colours of the parts of HBM, from the resident ones to the temporary ones.
_COLOURS = {
  'parameters': BASE,
  'optimiser': '#66CCEE',
  'base': GREEN,
  'reference': GREEN,
  'reward': YELLOW,
  'judge': '#CCBB44',
  'unseen': '#AA9988',
  'copy': '#BBBBBB',
  'cache': PURPLE,
  'temporaries': TRAINED,
}


@matplotlib.rc_context(STYLE)
def draw_plan(record: dict[str, Any]) -> bytes:
  """Draws memory and least times of each phase on one chip, as a PNG.

  Args:
    record: contents of `plan.json`.
  """
  phases = record['phases']
  names = [phase['phase'] for phase in phases]
  page = figure.Figure((9, 1.6 + 0.5 * len(names)), layout='constrained')
  left, right = page.subplots(1, 2)
  places, floor = np.arange(len(names)), np.zeros(len(names))
  # Stacked bars: each part starts where the one before it ends.
  for part in phases[0]['hbm']:
    gib = np.array([phase['hbm'][part] / 2**30 for phase in phases])
    left.barh(places, gib, 0.7, floor, color=_COLOURS[part], label=part)
    floor += gib
  limit = phases[0]['hbm_limit'] / 2**30
  left.axvline(limit, color='#333333', linewidth=1)
  left.set(title=f'{record["topology"]}: HBM of a chip', xlabel='GiB')
  roofs = zip(ROOFS, (GREEN, YELLOW, PURPLE, BASE), strict=True)
  for row, (roof, colour) in enumerate(roofs):
    # None where the program did not fit, and so was not compiled.
    seconds = [phase['seconds'][roof] or 0.0 for phase in phases]
    # One thin bar per roof, side by side around the phase's place.
    right.barh(places + 0.2 * row - 0.3, seconds, 0.17, color=colour)
    # An empty line, for a square in the legend instead of one entry per phase.
    right.plot([], [], 's', color=colour, label=roof)
  right.set(title='Time if one resource alone limited it', xlabel='seconds')
  for ax in (left, right):
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.25), ncols=4)
  return plots.png(page)
