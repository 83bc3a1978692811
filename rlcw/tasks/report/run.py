"""The `report` task: three finished runs become one page a person can judge.

`read_runs` reads what `reward_model`, `grpo` and `evaluate` left behind, the
functions after it find what it shows, `plots` makes the PNGs, and
`page.html.jinja` is the page with all its words, the verdict's too.
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

GROUPS_PER_STEP = 2

# Label, field of evaluate's summary (_base, _trained, _difference), format.
_HEADLINE = (
  ('Keeps every rule (strict)', 'pass_rate', 'z.1%'),
  ('Keeps every rule (loose)', 'pass_rate_loose', 'z.1%'),
  ('Writing score', 'writing', 'z.2f'),
  ('Finished', 'finished', 'z.1%'),
  ('Mean length, tokens', 'length', 'z.1f'),
  ('Distinct-2', 'distinct2', 'z.3f'),
)
_REPLY = 'text writing follow finished length'
# What each file, and each field that holds objects, must contain, or with a
# `?` may, as older runs lack it …
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
# … and the type of a field; those not named here are numbers, or null for NaN.
_KINDS = {
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
  """Whether it may be missing, and the name, of each field."""
  return [(f.endswith('?'), f.rstrip('?')) for f in _FIELDS[name].split()]


def _complaints(value: Any, name: str, where: str = '') -> Iterator[str]:
  """Names each place where `value`, found as `name`, is not as expected."""
  number = (int, float, type(None))
  kinds = _KINDS.get(name, (dict,) if name in _FIELDS else number)
  empty = value == [] and name in _FIELDS and name != 'warnings'
  if not isinstance(value, kinds) or empty:
    names = ' or '.join(kind.__name__ for kind in kinds)
    yield f'{where[1:] or "it"} should be {names}, not {value!r:.40}'
  elif name in _FIELDS:
    for item in value if isinstance(value, list) else [value]:
      for optional, field in _fields(name):
        if isinstance(item, dict) and field in item:
          yield from _complaints(item[field], field, f'{where}.{field}')
        elif not optional:
          yield f'{where}.{field} is missing'[1:]


def _parse(line: bytes, name: str, where: str) -> dict[str, Any]:
  try:
    record = json.loads(line, parse_constant=lambda _: None)
  except ValueError as error:
    raise ValueError(f'{where}: expected one JSON object: {error}') from error
  if found := list(_complaints(record, name)):
    raise ValueError(f'{where}: {"; ".join(found[:4])}')
  return record


def _path(config: ml_collections.ConfigDict, name: str) -> pathlib.Path:
  task, file = name.split('/')
  path = pathlib.Path(str(config[task])).expanduser() / file
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is missing: config.{task} should name the '
      f'folder of a finished {task} run'
    )
  return path


def _lines(
  config: ml_collections.ConfigDict, name: str, notes: list[str]
) -> list[dict[str, Any]]:
  path, records = _path(config, name), []
  for number, line in enumerate(path.read_bytes().splitlines(True), 1):
    where = f'{path}, line {number}'
    try:
      records.append(_parse(line, name, where))
    except ValueError as error:
      # Only a kill in mid-write leaves a line without its end, or its sense.
      if line.endswith(b'\n') or not error.__cause__:
        raise
      notes.append(f'{where} breaks off (a killed run?): skipped.')
  if not records:
    raise ValueError(f'{path}: expected at least one whole line of JSON')
  return records


class Runs(NamedTuple):
  """What the three runs left behind."""

  reward_model: dict[str, Any]
  grpo: dict[str, Any]
  grpo_config: dict[str, Any]
  evaluation: dict[str, Any]
  metrics: dict[str, np.ndarray]  # each [steps], NaN where null
  groups: list[dict[str, Any]]
  briefs: list[dict[str, Any]]
  notes: list[str]


def read_runs(config: ml_collections.ConfigDict) -> Runs:
  """Reads and checks the three folders; of a repeated step the last counts."""
  notes: list[str] = []
  metrics = _lines(config, 'grpo/metrics.jsonl', notes)
  by_step = {row['step']: row for row in metrics}
  groups = _lines(config, 'grpo/rollouts.jsonl', notes)
  briefs = _lines(config, 'evaluate/evaluation.jsonl', notes)
  for brief in briefs:
    lists = [r['follow'] for arm in ARMS for r in brief[arm]] + [brief['rules']]
    if {len(x) for x in lists} != {len(brief['instruction_id_list'])}:
      raise ValueError(
        f'{config.evaluate}/evaluation.jsonl, brief {brief["brief_id"]!r}: '
        'expected as many "rules", and "follow" in each reply, as '
        '"instruction_id_list" has'
      )
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
  known = [v for v in values if v is not None and not math.isnan(v)]
  return sum(known) / len(known) if known else math.nan


def headline(evaluation: dict[str, Any]) -> list[tuple[str, ...]]:
  """(label, base, trained, difference, 95% interval) per row, as text."""
  rows = []
  for label, key, style in _HEADLINE:
    arms = [evaluation[f'{key}_{arm}'] for arm in ARMS]
    mean = math.nan if None in arms else arms[1] - arms[0]
    known = evaluation.get(f'{key}_difference', {'mean': mean})
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
  """Wilson's 95% interval: inside [0, 1] even at 0 of n and n of n."""
  rate, scale = kept / n, 1 + z**2 / n
  middle = rate + z**2 / (2 * n)
  spread = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2)
  return max(0, (middle - spread) / scale), min(1, (middle + spread) / scale)


def rule_rates(briefs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Per rule its name and per arm n, rate, low, high; largest gain first."""
  verdicts = collections.defaultdict(lambda: {arm: [] for arm in ARMS})
  for brief in briefs:
    for arm in ARMS:
      for reply in brief[arm]:
        for name, kept in zip(
          brief['instruction_id_list'], reply['follow'], strict=True
        ):
          if kept is not None:  # a demand without an answer
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
  """Adds [base, trained] pass rates and writing; the most changed first."""
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
    key=lambda view: [
      float(np.nan_to_num(abs(np.subtract(*view[key]))))
      for key in ('passes', 'scores')
    ],
  )


def pick_groups(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """First, middle and last step, mixed groups first: there the penalty acts."""
  picked, steps = [], sorted({g['step'] for g in groups})
  for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]}):
    here = [
      g
      | {'mixed': len({r['violated'] for r in g['replies'] if r['valid']}) == 2}
      for g in groups
      if g['step'] == step
    ]
    picked += sorted(here, key=lambda g: not g['mixed'])[:GROUPS_PER_STEP]
  return picked


def pick_panels(metrics: dict[str, np.ndarray]) -> list[Panel]:
  """Those curves that the run has, or ought to have."""
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
  """The page as a template module: its text, and its `verdict` by itself."""
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
  """Writes report.html, curves.png, rules.png and summary.json."""
  runs = read_runs(config)
  # A resumed run's own summary may know only its last part: both count.
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
  (workdir / 'curves.png').write_bytes(draw_curves(panels, runs.metrics, 3))
  (workdir / 'rules.png').write_bytes(rules_png)
  page = _render(runs, summary, rates, rules_png, panels)
  (workdir / 'report.html').write_text(str(page), encoding='utf-8')
  grid = table.Table('', *ARMS, 'difference', '95% interval')
  for row in headline(summary):
    grid.add_row(*row)
  rich.print(grid)
  print(page.verdict, workdir / 'report.html', sep='\n')
  return summary
