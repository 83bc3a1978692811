"""The report's numbers before and after training, and its verdict in a line."""

import math
from collections.abc import Mapping
from typing import Any

from rlcw.evaluation import heldout, names
from rlcw.evaluation.page import read_step, show
from rlcw.evaluation.plots import ARMS
from rlcw.tasks.report.runs import HEADLINE

# By the rules (rows) and the writing score (columns): worse, unclear, better.
_OUTCOMES = (
  (
    'Worse than before on both counts',
    'Worse than before: rules are kept less often, the writing is no better',
    'Mixed: rules are kept less often, though the writing score rose',
  ),
  (
    'Worse than before: the writing score fell, rules are kept no more often',
    'No clear difference from before',
    'Better than before in writing, with no clear change in the rules',
  ),
  (
    'Mixed: rules are kept more often, but the writing score fell',
    'Better than before in keeping rules, with no clear change in the writing',
    'Better than before on both counts',
  ),
)
_WRITING_ALONE = (
  'Worse than before in writing',
  'No clear difference from before',
  'Better than before in writing',
)


def sign(difference: Mapping[str, Any]) -> int:
  """1, −1 or 0: a difference is above or below 0, or its interval has the 0."""
  low, high = difference.get('low') or 0, difference.get('high') or 0
  return int(low > 0) - int(high < 0)


def headline(evaluation: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
  """Rows of the main table, formatted, by the name of the number.

  Returns:
    (label, base, trained, difference, 95% interval) for each row; the interval
    is '' where `evaluate` computed none.
  """
  rows = {}
  parts = (
    (names.label(part), part, 'z.2f') for part in heldout.parts_of(evaluation)
  )
  for label, key, style in (*HEADLINE, *parts):
    arms = [evaluation[f'{key}_{arm}'] for arm in ARMS]
    mean = math.nan if None in arms else arms[1] - arms[0]
    known = evaluation.get(f'{key}_difference', {'mean': mean})
    # differences of shares are in percentage points, not per cent
    mean, low, high = (
      show(known.get(name), '+' + style) for name in ('mean', 'low', 'high')
    )
    rows[key] = (
      label,
      *(show(arm, style) for arm in arms),
      mean.replace('%', ' points'),
      '' if low == '–' else f'{low} to {high}'.replace('%', ''),
    )
  return rows


def verdict(
  summary: Mapping[str, Any], read: Mapping[str, Any], has_rules: bool
) -> str:
  """Returns the first line of the page, without markup.

  Args:
    summary: of `evaluate`.
    read: the step that was evaluated (`page.read_step`).
    has_rules: false: the briefs have no rules, so none is kept or broken.
  """
  rows = headline(summary)
  writing = 1 + sign(summary['writing_difference'])
  outcome = _WRITING_ALONE[writing]
  parts = [f'writing score {_change(rows["writing"])}']
  checked = None not in (
    summary['pass_rate_base'],
    summary['pass_rate_trained'],
  )
  if has_rules and not checked:
    parts.insert(0, 'no verdict on the rules')
  elif has_rules:
    outcome = _OUTCOMES[1 + sign(summary['pass_rate_difference'])][writing]
    parts.insert(0, f'keeps all rules {_change(rows["pass_rate"])}')
  _, before, after, *_ = rows['distinct2']
  parts += [_length(summary), f'distinct-2 {before} → {after}']
  unfinished = (
    ''
    if read.get('finished')
    else f'The run has not finished, it was read at {read_step(read)}. '
  )
  return f'{unfinished}{outcome}: {"; ".join(parts)}.'


def _change(row: tuple[str, ...]) -> str:
  _, before, after, difference, interval = row
  interval = interval or 'unknown'
  return f'{before} → {after} ({difference}, 95% interval {interval})'


def _length(summary: Mapping[str, Any]) -> str:
  """Words the change of the replies' mean length, as in "12% longer"."""
  before, after = summary['length_base'], summary['length_trained']
  if not before or after is None:
    return 'length of replies unknown'
  change = after / before - 1
  if abs(change) < 0.005:
    return 'replies as long as before'
  return f'replies {abs(change):.0%} {"longer" if change > 0 else "shorter"}'
