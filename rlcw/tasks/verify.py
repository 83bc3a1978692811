"""Task `verify`: replies in, verdicts on the rules of their briefs out.

Rules and verdicts are in IFEval's format (Zhou et al. 2023, arXiv 2311.07911),
and in mode `benchmark` its four numbers are comparable with published ones.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.data import datasets
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory, questions
from rlcw.runtime import files, metrics
from rlcw.runtime.mesh import make_mesh, with_mesh

MODES = 'benchmark', 'reward'
VERDICTS = 'strict', 'loose'


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Checks every reply; returns the summary.

  The output is written whole or not at all.

  Raises:
    ValueError: names the file, the line and what is wrong with it.
  """
  if config.mode not in MODES:
    raise ValueError(f'mode={config.mode!r}; legal: {" or ".join(MODES)}')
  records = datasets.read_numbered(config.input)
  if not records:
    raise ValueError(f'{config.input} has no lines')
  for line, record in records:
    validate(record, f'{config.input}:{line}')
  briefs = [brief(record, f'{config.input}:{line}') for line, record in records]
  demands = ask(briefs, [record['response'] for _, record in records], config)
  output = Path(config.output or workdir / 'verdicts.jsonl')
  output.parent.mkdir(parents=True, exist_ok=True)
  verified = []
  with files.atomic(output) as partial, partial.open('wb') as file:
    for index in metrics.progress('verify', 0, len(records), 'reply'):
      record = verify(
        records[index][1],
        briefs[index],
        demands[index],
        config.mode == 'benchmark',
      )
      verified.append(record)
      file.write(files.json_line(record))
  summary = {
    'mode': config.mode,
    **summarise(verified),
  }
  metrics.log(f'{table(summary)}\nverify: {len(verified)} replies; {output}')
  return summary


def validate(record: dict[str, Any], where: str) -> None:
  """Raises ValueError for a record that cannot be checked, saying where."""
  reply = record.get('response')
  ids, kwargs = record.get('instruction_id_list'), record.get('kwargs')
  if not isinstance(reply, str):
    raise ValueError(f'{where}: response={reply!r:.80}; a text is expected')
  if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
    raise ValueError(
      f'{where}: instruction_id_list={ids!r:.80}; a list of texts is expected'
    )
  if not isinstance(kwargs, list) or not all(
    isinstance(each, dict) for each in kwargs
  ):
    raise ValueError(
      f'{where}: kwargs={kwargs!r:.80}; a list of objects is expected'
    )
  try:
    constraints.validate(ids, kwargs)
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from None


def brief(record: dict[str, Any], where: str) -> Brief:
  """What a record asks for."""
  return Brief(
    where,
    str(record.get('prompt', '')),
    tuple(record['instruction_id_list']),
    tuple(record['kwargs']),
  )


def ask(
  briefs: Sequence[Brief], replies: Sequence[str], config: Config
) -> list[list[bool | None]]:
  """The judge's verdict on each reply's demands, None at rules."""
  places = [each for each, brief in enumerate(briefs) if brief.demands]
  verdicts: list[list[bool | None]] = [
    [None] * len(brief.instruction_id_list) for brief in briefs
  ]
  if not places:
    return verdicts
  panel = factory.make_judge(config.judge, make_mesh(**config.mesh))
  found = questions.follow(
    panel,
    factory.make_question('demand', config.judge),
    [briefs[each] for each in places],
    [[replies[each]] for each in places],
  )
  for each, [answers] in zip(places, found, strict=True):
    verdicts[each] = answers
  return verdicts


def verify(
  record: dict[str, Any],
  brief: Brief,
  demands: Sequence[bool | None],
  benchmark: bool,
) -> dict[str, Any]:
  """The record with its verdicts; null at a demand that got no answer."""
  verdicts = {}
  for name in VERDICTS:
    rules = brief.follow(
      record['response'], loose=name == 'loose', benchmark=benchmark
    )
    followed = [
      demand if rule is None else rule
      for rule, demand in zip(rules, demands, strict=True)
    ]
    broken = constraints.breaks(followed)
    verdicts[name] = {
      'follow_instruction_list': followed,
      'follow_all_instructions': None if math.isnan(broken) else not broken,
    }
  return {**record, **verdicts}


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """IFEval's four numbers, as shares, and both shares of each rule."""
  summary: dict[str, Any] = {
    'prompts': len(records),
    'instructions': sum(len(each['instruction_id_list']) for each in records),
  }
  rules: dict[str, dict[str, Any]] = defaultdict(dict)
  for name in VERDICTS:
    followed = defaultdict(list)
    for record in records:
      for rule, verdict in zip(
        record['instruction_id_list'],
        record[name]['follow_instruction_list'],
        strict=True,
      ):
        followed[rule].append(verdict)
    whole = [record[name]['follow_all_instructions'] for record in records]
    each = [verdict for verdicts in followed.values() for verdict in verdicts]
    summary[f'prompt_{name}'] = share(whole)
    summary[f'instruction_{name}'] = share(each)
    for rule in sorted(followed):
      rules[rule]['count'] = len(followed[rule])
      rules[rule][name] = share(followed[rule])
  return {**summary, 'by_instruction': dict(rules)}


def share(verdicts: Sequence[bool | None]) -> float:
  """How many of the verdicts are true; NaN where there are none."""
  known = [verdict for verdict in verdicts if verdict is not None]
  return sum(known) / len(known) if known else math.nan


def table(summary: dict[str, Any]) -> str:
  """The numbers of a summary, in per cent, for the terminal."""
  rows: list[tuple[str, ...]] = [('', 'count', *VERDICTS)]
  for level in ('prompt', 'instruction'):
    shares = (f'{summary[f"{level}_{name}"]:.2%}' for name in VERDICTS)
    rows.append((f'{level} level', str(summary[f'{level}s']), *shares))
  for rule, told in summary['by_instruction'].items():
    shares = (f'{told[name]:.2%}' for name in VERDICTS)
    rows.append((rule, str(told['count']), *shares))
  width = max(len(row[0]) for row in rows)
  return '\n'.join(
    f'{name:<{width}} {count:>6} {strict:>8} {loose:>8}'
    for name, count, strict, loose in rows
  )
