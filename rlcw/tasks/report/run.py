"""Task `report`: one HTML page about three finished runs.

1. `read_runs` reads and validates the folders of `reward_model`, `grpo` and
   `evaluate`
2. `headline`, `rule_rates`, `sort_briefs`, `pick_groups` and `pick_panels`
   select and order the content
3. `plots` draws the PNGs
4. `page.html.jinja` is the page with all its words, the verdict included
"""

import collections
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import rich
from rich import table

from rlcw.evaluation.page import show, template
from rlcw.evaluation.plots import ARMS, PANELS, Panel, draw_curves, draw_rules
from rlcw.rewards import constraints
from rlcw.runtime import files
from rlcw.runtime import runs as runs_lib

# Groups of replies shown per training step.
GROUPS_PER_STEP = 2

# Label, field of evaluate's summary without its suffix (_base, _trained or
# _difference), format.
_HEADLINE = (
  ('Keeps every rule (strict)', 'pass_rate', 'z.1%'),
  ('Keeps every rule (loose)', 'pass_rate_loose', 'z.1%'),
  ('Writing score', 'writing', 'z.2f'),
  ('Finished', 'finished', 'z.1%'),
  ('Mean length, tokens', 'length', 'z.1f'),
  ('Distinct-2', 'distinct2', 'z.3f'),
)
_REPLY = 'text writing follow finished length'
# Schema: the fields of each file, and of each field whose value is an object
# or a list of objects.  A field with `?` is optional, as older runs lack it.
_FIELDS = {
  'reward_model/summary.json': (
    'heldout_accuracy length_only_accuracy matched_accuracy heldout_pairs '
    'train_accuracy train_pairs length_correlation matched_length_only '
    'matched_pairs calibration_error wall_seconds'
  ),
  'grpo/metrics.jsonl': ' '.join(
    ['step'] + [m + '?' * (not p.always) for p in PANELS for m in p.series]
  ),
  'grpo/rollouts.jsonl': 'step brief_id prompt replies',
  'grpo/summary.json': 'steps wall_seconds max_violator_advantage hardware '
  'warnings? unmonitored?',
  'grpo/config.json': '',
  'evaluate/evaluation.jsonl': 'brief_id language genre prompt rules base '
  'trained instruction_id_list',
  'evaluate/summary.json': ' '.join(
    [f'{key}_{arm}' for _, key, _ in _HEADLINE for arm in ARMS]
    + [
      'briefs replies_per_brief wall_seconds pass_rate_difference '
      'writing_difference'
    ]
  ),
  'replies': _REPLY + ' violated valid reward advantage',
  'warnings': 'monitor step value threshold text',
  'base': _REPLY,
  'trained': _REPLY,
  'pass_rate_difference': 'mean low high',
  'writing_difference': 'mean low high',
}
# Types of fields; fields not listed here are numbers, or null for NaN.
_TYPES = {
  'brief_id': (str, int),
  **dict.fromkeys(('hardware', 'unmonitored'), (dict,)),
  **dict.fromkeys(('text', 'prompt', 'language', 'genre', 'monitor'), (str,)),
  **dict.fromkeys(
    ('follow', 'rules', 'instruction_id_list', 'replies', 'base', 'trained'),
    (list,),
  ),
  'warnings': (list,),
  **dict.fromkeys(('finished', 'violated', 'valid'), (bool,)),
  **dict.fromkeys(('step', 'steps', 'briefs', 'replies_per_brief'), (int,)),
}


def _fields(name: str) -> list[tuple[bool, str]]:
  """Parses a schema entry into (optional, name) for each field."""
  return [(f.endswith('?'), f.rstrip('?')) for f in _FIELDS[name].split()]


def _schema_errors(value: Any, name: str, where: str = '') -> Iterator[str]:
  """Describes each place where `value`, of field or file `name`, is invalid.

  `where` is the path of fields to the value, each with a leading dot.
  """
  number = (int, float, type(None))
  types = _TYPES.get(name, (dict,) if name in _FIELDS else number)
  # a list of objects has at least one, except warnings
  empty = value == [] and name in _FIELDS and name != 'warnings'
  if not isinstance(value, types) or empty:
    names = ' or '.join(each.__name__ for each in types)
    yield f'{where[1:] or "it"} should be {names}, not {value!r:.40}'
  elif name in _FIELDS:
    for item in value if isinstance(value, list) else [value]:
      for optional, field in _fields(name):
        if isinstance(item, dict) and field in item:
          yield from _schema_errors(item[field], field, f'{where}.{field}')
        elif not optional:
          yield f'{where}.{field} is missing'[1:]


def _parse(line: bytes, name: str, where: str) -> dict[str, Any]:
  """Parses and validates one JSON object of file `name`.

  Raises:
    ValueError: it is not JSON (then with a `__cause__`) or not of the schema.
  """
  try:
    # NaN and Infinity, which some writers emit, become null
    record = json.loads(line, parse_constant=lambda _: None)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: expected one JSON object: {error}') from error
  if errors := list(_schema_errors(record, name)):
    raise ValueError(f'{where}: {"; ".join(errors[:4])}')
  return record


def _path(config: ml_collections.ConfigDict, name: str) -> pathlib.Path:
  """Path of file `name`, TASK/FILE, in the folder that `config.TASK` names.

  Raises:
    FileNotFoundError: there is no such file.
  """
  task, file = name.split('/')
  path = pathlib.Path(str(config[task])).expanduser() / file
  if not path.is_file():
    reason = f'config.{task} should name the folder of a finished {task} run'
    if runs_lib.is_run(path.parent) and not runs_lib.is_finished(path.parent):
      reason += f'; {runs_lib.unfinished(path.parent)}'
    raise FileNotFoundError(f'{path} is missing: {reason}')
  return path


def _lines(
  config: ml_collections.ConfigDict, name: str, notes: list[str]
) -> list[dict[str, Any]]:
  """Reads a JSONL file; appends to `notes` if its last line is cut off.

  Raises:
    FileNotFoundError, ValueError: as `_path` and `_parse`, or no line is whole.
  """
  path, records = _path(config, name), []
  for number, line in enumerate(path.read_bytes().splitlines(True), 1):
    where = f'{path}, line {number}'
    try:
      records.append(_parse(line, name, where))
    except ValueError as error:
      # A process killed while writing leaves a last line without its newline
      # that is not JSON.  Anything else is an error.
      if line.endswith(b'\n') or not error.__cause__:
        raise
      notes.append(f'{where} breaks off (a killed run?): skipped.')
  if not records:
    raise ValueError(f'{path}: expected at least one whole line of JSON')
  return records


class Runs(NamedTuple):
  """Validated records of the three runs."""

  reward_model: dict[str, Any]  # reward_model/summary.json
  grpo: dict[str, Any]  # grpo/summary.json
  grpo_config: dict[str, Any]  # grpo/config.json
  evaluation: dict[str, Any]  # evaluate/summary.json
  metrics: dict[str, np.ndarray]  # grpo/metrics.jsonl: each [steps], NaN: null
  groups: list[dict[str, Any]]  # grpo/rollouts.jsonl
  briefs: list[dict[str, Any]]  # evaluate/evaluation.jsonl
  notes: list[str]  # remarks for the page, such as lines skipped


def read_runs(config: ml_collections.ConfigDict) -> Runs:
  """Reads and validates the three folders.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is malformed; names the file, the line and the field.
  """
  notes: list[str] = []
  metrics = _lines(config, 'grpo/metrics.jsonl', notes)
  # a resumed run may repeat steps: the last row of a step counts
  by_step = {row['step']: row for row in metrics}
  groups = _lines(config, 'grpo/rollouts.jsonl', notes)
  briefs = _lines(config, 'evaluate/evaluation.jsonl', notes)
  # `_schema_errors` sees one field at a time: lengths are compared here
  for brief in briefs:
    lists = [r['follow'] for arm in ARMS for r in brief[arm]] + [brief['rules']]
    if {len(x) for x in lists} != {len(brief['instruction_id_list'])}:
      raise ValueError(
        f'{config.evaluate}/evaluation.jsonl, brief {brief["brief_id"]!r}: '
        'expected "rules", and "follow" of each reply, to be as long as '
        '"instruction_id_list"'
      )
  # in the order of `_FIELDS`
  reward_model, grpo, grpo_config, evaluation = (
    _parse(_path(config, name).read_bytes(), name, str(_path(config, name)))
    for name in _FIELDS
    if name.endswith('.json')
  )
  return Runs(
    reward_model,
    grpo,
    grpo_config,
    evaluation,
    {
      name: np.array([by_step[s].get(name) for s in sorted(by_step)], float)
      for _, name in _fields('grpo/metrics.jsonl')
    },
    list({(g['step'], g['brief_id']): g for g in groups}.values()),
    briefs,
    notes,
  )


def _mean(values: Iterable[float | None]) -> float:
  """Mean of the values that are neither None nor NaN; NaN if there is none."""
  known = [v for v in values if v is not None and not math.isnan(v)]
  return sum(known) / len(known) if known else math.nan


def headline(evaluation: dict[str, Any]) -> list[tuple[str, ...]]:
  """Rows of the main table, formatted.

  Returns:
    (label, base, trained, difference, 95% interval) for each row; the interval
    is '' where `evaluate` computed none.
  """
  rows = []
  for label, key, style in _HEADLINE:
    arms = [evaluation[f'{key}_{arm}'] for arm in ARMS]
    mean = math.nan if None in arms else arms[1] - arms[0]
    known = evaluation.get(f'{key}_difference', {'mean': mean})
    # differences of shares are in percentage points, not per cent
    mean, low, high = (
      show(known.get(name), '+' + style).replace('%', '')
      for name in ('mean', 'low', 'high')
    )
    unit = ' points' if style.endswith('%') else ''
    rows.append(
      (
        label,
        *(show(arm, style) for arm in arms),
        mean + unit,
        '' if low == '–' else f'{low} to {high}',
      )
    )
  return rows


def wilson(kept: float, n: float, z: float = 1.96) -> tuple[float, float]:
  """Wilson score interval of a share, 95% by default (Wilson, 1927).

  Unlike the normal approximation it lies inside [0, 1] and has a width even
  where `kept` is 0 or `n`.
  """
  rate, scale = kept / n, 1 + z**2 / n
  middle = rate + z**2 / (2 * n)
  spread = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
  return max(0, (middle - spread) / scale), min(1, (middle + spread) / scale)


def rule_rates(briefs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Pass rates per rule, the largest gain first.

  Returns:
    For each rule with verdicts in both arms its `name` and per arm (number of
    verdicts, pass rate, lower and upper bound of the 95% interval).
  """
  verdicts = collections.defaultdict(lambda: {arm: [] for arm in ARMS})
  for brief in briefs:
    for arm in ARMS:
      for reply in brief[arm]:
        for name, kept in zip(
          brief['instruction_id_list'], reply['follow'], strict=True
        ):
          # a demand has None where the judge gave no verdict
          if kept is not None:
            verdicts[name][arm].append(bool(kept))
  rates = [
    {'name': name}
    | {
      arm: (len(kept), sum(kept) / len(kept), *wilson(sum(kept), len(kept)))
      for arm, kept in arms.items()
    }
    for name, arms in verdicts.items()
    if all(arms.values())
  ]
  return sorted(rates, key=lambda r: r['base'][1] - r['trained'][1])


def sort_briefs(briefs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sorts briefs by how much training changed their replies, most first.

  Adds `passes` and `scores`: pass rate and mean writing score, [base, trained].
  Pass rates are compared first, writing scores break ties.
  """
  views = [
    brief
    | {
      'passes': [
        _mean(1 - constraints.breaks(r['follow']) for r in brief[arm])
        for arm in ARMS
      ],
      'scores': [_mean(r['writing'] for r in brief[arm]) for arm in ARMS],
    }
    for brief in briefs
  ]
  return sorted(
    views,
    reverse=True,
    # changes in either direction count; NaN counts as no change
    key=lambda view: [
      float(np.nan_to_num(abs(np.subtract(*view[key]))))
      for key in ('passes', 'scores')
    ],
  )


def pick_groups(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Picks sampled groups of the first, the middle and the last step.

  Takes `GROUPS_PER_STEP` of each and adds `mixed`, true where some replies keep
  the rules and others break them.  Mixed groups come first, because only in
  them does the penalty change the order of replies.
  """
  picked, steps = [], sorted({g['step'] for g in groups})
  for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]}):
    # invalid replies have no score and take no part in training
    of_step = [
      g
      | {'mixed': len({r['violated'] for r in g['replies'] if r['valid']}) == 2}
      for g in groups
      if g['step'] == step
    ]
    picked += sorted(of_step, key=lambda g: not g['mixed'])[:GROUPS_PER_STEP]
  return picked


def pick_panels(metrics: dict[str, np.ndarray]) -> list[Panel]:
  """Panels to draw: those that every run has, and others with any value."""
  return [
    panel
    for panel in PANELS
    if panel.always or any(np.isfinite(metrics[m]).any() for m in panel.series)
  ]


def _render(
  runs: Runs,
  summary: dict[str, Any],
  rates: list[dict[str, Any]],
  rules_png: bytes,
  panels: Sequence[Panel],
) -> Any:
  """Renders the page as a template module.

  `str` of the module is the page; its `verdict` is the verdict's text alone,
  for the terminal.
  """
  curves = [(panel, draw_curves([panel], runs.metrics)) for panel in panels]
  return template('tasks/report/page.html.jinja').make_module(
    {
      'runs': runs,
      'summary': summary,
      'rates': rates,
      'curves': curves,
      'rules_png': rules_png,
      'rows': headline(runs.evaluation),
      'arms': ARMS,
      'briefs': sort_briefs(runs.briefs),
      'groups': pick_groups(runs.groups),
    }
  )


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
  """Writes report.html, curves.png and rules.png.

  Returns:
    The summary.

  Raises:
    FileNotFoundError, ValueError: see `read_runs`.
  """
  runs = read_runs(config)
  # A summary of an earlier version covers only the steps since the run was
  # resumed, so the largest value of the curve counts too.
  key = 'max_violator_advantage'
  advantages = np.append(runs.metrics[key], np.array(runs.grpo[key], float))
  summary = runs.evaluation | {
    'steps': runs.grpo['steps'],
    key: max(advantages[np.isfinite(advantages)].tolist(), default=None),
    'wall_seconds': sum(
      part['wall_seconds'] or 0
      for part in (runs.reward_model, runs.grpo, runs.evaluation)
    ),
    'reward_model': runs.reward_model,
    'hardware': runs.grpo['hardware'],
    'warnings': runs.grpo.get('warnings'),
  }
  workdir.mkdir(parents=True, exist_ok=True)
  rates = rule_rates(runs.briefs)
  rules_png = draw_rules(rates)
  panels = pick_panels(runs.metrics)
  files.replace(workdir / 'curves.png', draw_curves(panels, runs.metrics, 3))
  files.replace(workdir / 'rules.png', rules_png)
  page = _render(runs, summary, rates, rules_png, panels)
  files.replace(workdir / 'report.html', str(page))
  grid = table.Table('', *ARMS, 'difference', '95% interval')
  for row in headline(summary):
    grid.add_row(*row)
  rich.print(grid)
  print(page.verdict, workdir / 'report.html', sep='\n')
  return summary
