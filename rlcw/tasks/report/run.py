"""Task `report`: one HTML page about a run, before and after training.

1. `runs.read_runs` finds, reads and validates the evaluation, the `grpo` run
   that it evaluated and, where one was used, that run's reward model
2. `headline`, `rule_rates`, `sort_briefs`, `pick_groups` and `pick_panels`
   select and order the content
3. `plots` draws the PNGs
4. `verdict` words the first line; `page.html.jinja` has all other words
"""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from rlcw.evaluation import intervals, names
from rlcw.evaluation.page import template
from rlcw.evaluation.plots import (
  ARMS,
  EVALUATED,
  PANELS,
  TRAINED,
  Panel,
  draw_curves,
  draw_rules,
  labels,
)
from rlcw.rewards import constraints
from rlcw.rewards.mixing import MIXERS
from rlcw.runtime import console, files
from rlcw.runtime.metrics import mean
from rlcw.tasks.report.runs import read_runs
from rlcw.tasks.report.verdict import headline, verdict

# Groups of replies shown per training step.
GROUPS_PER_STEP = 2
# Briefs whose replies in evaluations during training are shown.
EVALUATED_BRIEFS = 4
# Rules that are drawn from either end of the list.
DRAWN = 30


def rule_rates(briefs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Pass rates per rule, the largest gain first.

  Returns:
    For each rule with verdicts in both arms its `id`, its plain `name`, and per
    arm (number of verdicts, pass rate, lower and upper bound of the 95%
    interval over briefs, which are NaN for a rule of one brief).
  """
  # (verdict, brief)
  verdicts = collections.defaultdict(lambda: {arm: [] for arm in ARMS})
  for n, brief in enumerate(briefs):
    # of an earlier version without the number of its prompt
    group = brief.get('group', n)
    for arm in ARMS:
      for reply in brief[arm]:
        for rule, kept in zip(
          brief['instruction_id_list'], reply['follow'], strict=True
        ):
          # a demand has None where the judge gave no verdict
          if kept is not None:
            verdicts[rule][arm].append((kept, group))
  named = rule_names(briefs)
  rates = [
    {'id': rule, 'name': named[rule]}
    | {
      arm: (len(kept), *intervals.share(*intervals.table(*np.transpose(kept))))
      for arm, kept in arms.items()
    }
    for rule, arms in verdicts.items()
    if all(arms.values())
  ]
  return sorted(rates, key=lambda r: r['base'][1] - r['trained'][1])


def rule_names(briefs: Sequence[dict[str, Any]]) -> dict[str, str]:
  """Plain names of all rules: with their arguments where all briefs agree."""
  found: dict[str, set[str]] = collections.defaultdict(set)
  for brief in briefs:
    ids = brief['instruction_id_list']
    # older evaluations lack the arguments
    for rule, kwargs in zip(
      ids, brief.get('kwargs', [None] * len(ids)), strict=True
    ):
      found[rule].add(constraints.name(rule, kwargs))
  exact = {rule: min(texts) for rule, texts in found.items() if len(texts) == 1}
  count = collections.Counter(exact.values())
  return {
    rule: exact[rule]
    if count[exact.get(rule, '')] == 1
    else constraints.name(rule)
    for rule in found
  }


def sort_briefs(briefs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Sorts briefs by how much training changed their replies, most first.

  Adds `passes` and `scores`: pass rate and mean writing score, [base, trained].
  Pass rates are compared first, writing scores break ties.
  """
  views = [
    brief
    | {
      'passes': [
        mean([constraints.keeps(r['follow']) for r in brief[arm]])
        for arm in ARMS
      ],
      'scores': [mean([r['writing'] for r in brief[arm]]) for arm in ARMS],
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


def pick_evaluations(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Picks replies of evaluations during training: how some briefs fared.

  Args:
    groups: lines of `evaluations.jsonl`.

  Returns:
    `brief_id` and `prompt` of `EVALUATED_BRIEFS`, those whose writing score
    changed most, and `columns`: (updates before it, its replies) at the first,
    the middle and the last evaluation; before training, 0 updates.
  """
  steps = sorted({g['step'] for g in groups})
  shown = sorted({steps[0], steps[len(steps) // 2], steps[-1]}) if steps else []
  by_brief = collections.defaultdict(dict)
  for group in groups:
    # Two briefs of a user may have one id.
    key = group['brief_id'], group['prompt']
    by_brief[key][group['step']] = group
  picked = []
  for (brief_id, prompt), by_step in by_brief.items():
    columns = [(s + 1, by_step[s]['replies']) for s in shown if s in by_step]
    scores = [mean([r['writing'] for r in each]) for _, each in columns]
    view = {'brief_id': brief_id, 'prompt': prompt, 'columns': columns}
    view['change'] = float(np.nan_to_num(abs(scores[-1] - scores[0])))
    picked.append(view)
  ranked = sorted(picked, key=lambda view: -view['change'])
  return ranked[:EVALUATED_BRIEFS]


def add_penalties(
  groups: Sequence[dict[str, Any]], mixer: str
) -> list[dict[str, Any]]:
  """Adds to each valid reply its `penalty`, and puts rewards on one scale.

  Rewards count only within their group, and earlier versions wrote them
  relative to its best reply.  Here the reward of a reply without a penalty is
  its writing score, or what its parts add up to.  Mixers with other rewards
  than that get no penalties.
  """
  found = []
  penalised = MIXERS[mixer].subtracts_penalty
  for group in groups:
    writing = [r.get('writing_reward', r['writing']) for r in group['replies']]
    gaps = [
      None
      if not r['valid'] or w is None or r['reward'] is None
      else w - r['reward']
      for r, w in zip(group['replies'], writing, strict=True)
    ]
    least = min((gap for gap in gaps if gap is not None), default=0)
    if mixer == 'linear':
      # Where all replies break a rule, the least gap is a penalty too.
      least = 0.0
    replies = []
    for reply, w, gap in zip(group['replies'], writing, gaps, strict=True):
      if gap is not None and penalised:
        # rewards are written in float32
        scale = max(abs(w), abs(least), 1e-3)
        penalty = gap - least if gap - least > 1e-6 * scale else 0.0
        reply = reply | {'penalty': penalty, 'reward': w - penalty}
      replies.append(reply)
    found.append(group | {'replies': replies})
  return found


def pick_panels(metrics: dict[str, np.ndarray]) -> list[Panel]:
  """Panels to draw: those that every run has, and others with any value."""
  prefix = 'writing/'
  parts = labels(m.removeprefix(prefix) for m in metrics if prefix in m)
  parts = [
    Panel(f'Writing: {shown}', {f'{prefix}{part}': TRAINED}, always=False)
    for part, shown in parts.items()
  ]
  return [
    panel
    for panel in (*PANELS, *parts, *EVALUATED)
    if panel.always or any(np.isfinite(metrics[m]).any() for m in panel.columns)
  ]


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict:
  """Writes report.html, curves.png and, where there are rules, rules.png.

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
  parts = runs.reward_model or {}, runs.grpo, runs.evaluation
  summary = runs.evaluation | {
    'read': [runs.read],
    'steps': runs.grpo['steps'],
    key: max(advantages[np.isfinite(advantages)].tolist(), default=None),
    'wall_seconds': sum(part.get('wall_seconds') or 0 for part in parts),
    'reward_model': runs.reward_model,
    'hardware': runs.grpo['hardware'],
    'warnings': runs.grpo.get('warnings'),
  }
  rates = rule_rates(runs.briefs)
  panels = pick_panels(runs.metrics)
  pictures = {'curves.png': draw_curves(panels, runs.metrics, 3)}
  if rates:
    # the largest gains and losses, as a plot of any length could not be drawn
    pictures['rules.png'] = draw_rules(rates[:DRAWN] + rates[DRAWN:][-DRAWN:])
  has_rules = any(brief['instruction_id_list'] for brief in runs.briefs)
  result = verdict(summary, runs.read, has_rules)
  page = template('tasks/report/page.html.jinja').render(
    runs=runs,
    folders=names.labels(runs.folders.values(), 80),
    summary=summary,
    verdict=result,
    has_rules=has_rules,
    rates=rates,
    curves=[(panel, draw_curves([panel], runs.metrics)) for panel in panels],
    rules_png=pictures.get('rules.png'),
    drawn=DRAWN,
    rows=headline(runs.evaluation),
    arms=ARMS,
    stopped=[(stop['monitor'], stop['step']) for stop in runs.stops],
    briefs=sort_briefs(runs.briefs),
    evaluations=pick_evaluations(runs.evaluations),
    groups=add_penalties(
      pick_groups(runs.groups),
      runs.grpo_config.get('mixing', {}).get('name', 'rlmr'),
    ),
  )
  workdir.mkdir(parents=True, exist_ok=True)
  for name, content in {**pictures, 'report.html': page}.items():
    files.replace(workdir / name, content)
  console.table(
    f'report: {summary["briefs"]} briefs',
    ('', *ARMS, 'difference', '95% interval, briefs only'),
    [*headline(summary).values()],
  )
  console.log(f'{result}\n{names.label(workdir / "report.html", 999)}')
  return summary
