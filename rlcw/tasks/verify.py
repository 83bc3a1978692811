"""Task `verify`: checks replies against the rules of their briefs.

Rules and verdicts are in IFEval's format (Zhou et al. 2023, arXiv 2311.07911),
which IFBench's is too (2507.02833).  In mode `benchmark`, rules are checked
exactly as the two do, so that their four numbers are comparable with published
ones.  A rule of theirs that needs a part-of-speech tagger gets no verdict.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.data import datasets, layouts
from rlcw.data.messages import transcript
from rlcw.models import language_model
from rlcw.models.thoughts import reply_of
from rlcw.rewards import briefs, constraints
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory, questions
from rlcw.runtime import claim, console, metrics, outputs, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import outage, usage

# IFEval's two kinds: loose ones also accept the reply without asterisks or
# without its first or last line.
VERDICTS = 'strict', 'loose'
_BATCH = 64  # replies that are checked before the task may be stopped


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Checks every reply; the output is written whole or not at all.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    ValueError: the input is empty or has an invalid line; the message names
      the file, the line and the problem.
  """
  records = datasets.read_records(config.input)
  if not records:
    raise ValueError(f'{config.input} has no lines')
  output = claim.output(config, workdir, 'verdicts.jsonl')
  # all lines, before the judge is asked about any: asking takes time and money
  asked = [read_brief(record, place) for place, record in records]
  replies = [reply_of(record['response']) for _, record in records]
  shards = processes.DataShards(make_mesh(**config.mesh))
  demands, used = ask(asked, replies, config, shards)
  verified: list[dict[str, Any]] = []
  steps = console.progress('verify', 0, len(records), 'reply', _BATCH)
  for first in processes.stoppable(steps):
    batch = range(first, min(first + _BATCH, len(records)))
    mode = config.mode == 'benchmark'
    own = [
      verify(records[n][1], asked[n], demands[n], mode)
      for n in shards.local_items(batch)
    ]
    verified += itertools.chain(*shards.gather_to_primary(own))
  if not processes.is_primary_process():
    return {}
  outputs.write(output, verified)
  summary = {
    'mode': config.mode,
    **summarise(verified),
    **({'usage': used} if used else {}),
  }
  for rule, reason in constraints.UNSUPPORTED.items():
    if rule in summary['by_instruction']:
      console.notice(f'{rule} has no verdicts: it {reason}')
  console.table(
    f'verify: {len(verified)} replies', ('', 'count', *VERDICTS), table(summary)
  )
  console.log(f'verify: {output}')
  usage.log('verify', used)
  return summary


def read_brief(record: dict[str, Any], place: str) -> Brief:
  """Returns the brief of a record; its id is `place`, which errors name.

  Raises:
    ValueError: the record is invalid; the message begins with `place`.
  """
  try:
    datasets.response_of(record)
    for name in ('instruction_id_list', 'kwargs'):
      if name not in record:
        raise ValueError(f'no field {name}; expected the rules of the brief')
    ids, kwargs = briefs.instruction_ids(record), briefs.arguments(record)
    constraints.validate(ids, kwargs, skipped=constraints.UNSUPPORTED)
    prompt = transcript(layouts.optional_prompt(record))
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from None
  return Brief(place, prompt, ids, kwargs)


def ask(
  asked: Sequence[Brief],
  replies: Sequence[str],
  config: Config,
  shards: processes.DataShards,
) -> tuple[list[list[bool | None]], dict[str, dict[str, float]]]:
  """Asks the judge about the demands of N briefs, one reply to each.

  Args:
    asked: the briefs, in every process.
    replies: to them.
    config: the settings of the task.
    shards: each process asks about its share.

  Returns:
    N lists with an entry per rule or demand: the verdict at a demand, None at
    a demand without an answer.  `verify` ignores the entries at rules.  And the
    judge's use; nothing without one.

  Raises:
    NoAnswers: the judge gave no verdict at all.
    ValueError: a brief makes a demand and no judge is configured.
  """
  rows = [row for row, brief in enumerate(asked) if brief.demands]
  verdicts: list[list[bool | None]] = [
    [None] * len(brief.instruction_id_list) for brief in asked
  ]
  # without demands no judge is needed, and none is loaded
  if not rows:
    return verdicts, {}
  base, changing, workdir = None, False, None
  placed = language_model.placement(config, config.judge.model)
  judge_model = factory.make_judge(
    config.judge, shards.mesh, base, changing, workdir, placed
  )
  own = shards.local_items(rows)
  # groups of one reply: each record is a brief of its own
  answers = questions.follow(
    judge_model,
    factory.make_question('demand', config.judge),
    [asked[row] for row in own],
    [[replies[row]] for row in own],
  )
  for row, [answer] in zip(rows, shards.gather_items(answers), strict=True):
    verdicts[row] = answer
  assert judge_model is not None  # by `questions.follow`
  outage.refuse_silence('verify: no demand got a verdict', judge_model)
  return verdicts, usage.totals({'judge': judge_model.usage}, shards.gather)


def verify(
  record: dict[str, Any],
  brief: Brief,
  demands: Sequence[bool | None],
  benchmark: bool,
) -> dict[str, Any]:
  """Adds strict and loose verdicts to a copy of a record.

  Args:
    record: the line of the input.
    brief: its brief.
    demands: the judge's verdicts, as returned by `ask`.
    benchmark: check rules exactly as their benchmarks do.

  Returns:
    The record with `strict` and `loose`; a verdict is None at a demand without
    an answer, and at a rule that cannot be checked.
  """
  verdicts, reply = {}, record['response']
  # The benchmarks know no thoughts.
  reply = reply if benchmark else reply_of(reply)
  for name in VERDICTS:
    rules = brief.follow(reply, loose=name == 'loose', benchmark=benchmark)
    # rule code returns None at demands, where the judge's verdict counts
    followed = [
      demand if rule is None else rule
      for rule, demand in zip(rules, demands, strict=True)
    ]
    # NaN where nothing is broken, but a demand has no answer
    broken = constraints.breaks(followed)
    verdicts[name] = {
      'follow_instruction_list': followed,
      'follow_all_instructions': None if math.isnan(broken) else not broken,
    }
  return {**record, **verdicts}


def summarise(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Computes IFEval's four accuracies, and strict and loose shares per rule.

  Prompt level is the share of replies that keep all their rules, among those
  with all verdicts; instruction level the share of single verdicts that are
  true.
  """
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
    # each input line is one prompt with one reply
    by_prompt = [
      constraints.keeps(record[name]['follow_instruction_list'])
      for record in records
    ]
    single = [verdict for verdicts in followed.values() for verdict in verdicts]
    summary[f'prompt_{name}'] = metrics.mean(by_prompt)
    summary[f'instruction_{name}'] = metrics.mean(single)
    for rule in sorted(followed):
      rules[rule]['count'] = len(followed[rule])
      rules[rule][name] = metrics.mean(followed[rule])
  return {**summary, 'by_instruction': dict(rules)}


def table(summary: dict[str, Any]) -> list[tuple[str, ...]]:
  """Rows of the table for the terminal: label, count, shares in per cent."""
  levels = [
    (
      f'{level} level',
      summary[f'{level}s'],
      {name: summary[f'{level}_{name}'] for name in VERDICTS},
    )
    for level in ('prompt', 'instruction')
  ]
  rules = [
    (rule, stats['count'], stats)
    for rule, stats in summary['by_instruction'].items()
  ]
  return [
    (
      label,
      f'{count:,}',
      *(console.number(shares[name], '.2%') for name in VERDICTS),
    )
    for label, count, shares in levels + rules
  ]
