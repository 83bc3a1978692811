"""Task `judge`: verdicts on a file of replies, Good or Bad by principles.

Where every line has a `label`, 1 for Good and 0 for Bad, the summary reports
the judge's agreement with labels, beside that of length alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import layouts
from rlcw.data.annotate import Record, annotate, read_replies
from rlcw.data.messages import transcript
from rlcw.evaluation import verdicts
from rlcw.evaluation.labelled import Labelled
from rlcw.models import language_model
from rlcw.models.thoughts import reply_of
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Judge, Question
from rlcw.runtime import claim, console, files, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import usage
from rlcw.sampling.outage import NoAnswers, Patience, Trouble, trouble_of_all
from rlcw.sampling.usage import Ledger

# Names in the summary of scores that are named otherwise elsewhere.
_NAMES = {'balanced': 'balanced_agreement'}


def check(config: Config) -> None:
  """Raises ValueError if no judge is configured."""
  if not factory.has_judge(config.judge):
    raise ValueError(
      'no judge is configured: expected --config.judge.model or '
      '--config.judge.endpoint.url'
    )


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Judges every reply; a run that was killed resumes where it stopped.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    FileNotFoundError, ValueError: see `read_replies`; or no judge is
      configured, or no reply got a verdict.
  """
  check(config)
  settings = config.judge
  question = factory.make_question('judge', settings)
  records = read_replies(config.input)
  mesh = make_mesh(**config.mesh)
  placed = language_model.placement(config, settings.model)
  judge_model = factory.make_judge(
    settings, mesh, workdir=workdir, placed=placed
  )
  assert judge_model is not None
  output = claim.output(config, workdir, 'verdicts.jsonl')
  shards = processes.DataShards(mesh)
  ledger = Ledger(workdir, {'judge': judge_model.usage}, shards.gather)
  patience = Patience('judge: no reply of a batch got a verdict')

  def trouble() -> Trouble:
    return trouble_of_all(judge_model)

  def answer(records: Sequence[Record]) -> list[Record]:
    prompts = [transcript(layouts.prompt_of(each)) for each in records]
    # groups of one reply: lines of a file need not share a prompt
    replies = [[reply_of(record['response'])] for record in records]
    judged = questions.judge(judge_model, question, prompts, replies)
    ledger.save()
    # all processes must end alike
    answered = any(processes.gather(bool(judged.valid.any())))
    patience.see(answered, trouble)
    return [
      verdict_fields(p_good, reason, question.labels)
      for [p_good], [reason] in zip(judged.first, judged.reason, strict=True)
    ]

  try:
    rows, done = annotate(
      'judge',
      config.input,
      records,
      output,
      'verdict',
      config.batch_size,
      answer,
      mesh,
      check_length(judge_model, question),
    )
  except NoAnswers:
    if processes.is_primary_process():
      files.drop_last(output, is_unanswered)
    raise
  judged = [row for row in rows if not is_unanswered(row)]
  # Most likely the endpoint is misconfigured.
  cause = trouble().text or 'check judge.endpoint'

  def refuse_none() -> None:
    if not judged:
      files.drop_last(output, is_unanswered)
      words = f'none of the {len(rows)} replies got a verdict: {cause}'
      raise ValueError(words)

  processes.from_primary(refuse_none)
  used = ledger.totals()
  if not processes.is_primary_process():
    return {}
  good = float(
    np.mean([row['verdict'] == question.labels[0] for row in judged])
  )
  found = agreement(judged)
  print_table(good, found, len(judged), len(rows))
  console.log(f'judge: {output}')
  usage.log('judge', used)
  return {
    'replies': len(rows),
    'resumed_at': done,
    'unanswered': len(rows) - len(judged),
    'good': good,
    **{_NAMES.get(name, name): value for name, value in found.items()},
    'usage': used['judge'],
  }


def print_table(good: float, found: Record, judged: int, total: int) -> None:
  """Prints the share of Good replies, and the agreement with labels.

  Args:
    good: share of the judged replies.
    found: of `agreement`.
    judged: number of replies with a verdict.
    total: number of replies.
  """
  console.table(
    f'judge: {judged} of {total} replies got a verdict',
    ('', 'value'),
    [
      ('Good', console.number(good, '.1%')),
      *(
        (label, verdicts.cell(found, key, *form))
        for label, key, *form in verdicts.SCORES
        if key in found
      ),
    ],
  )


def check_length(
  judge_model: Judge, question: Question
) -> Callable[[Record], None]:
  """Returns a check that a judge can read a record."""
  if not isinstance(judge_model, LogprobJudge):
    return lambda record: None
  check_prompts = judge_model.checker(question)

  def check(record: Record) -> None:
    brief = transcript(layouts.prompt_of(record))
    check_prompts([question.about(brief, reply_of(record['response']))])

  return check


def is_unanswered(row: Record) -> bool:
  """Returns whether a line has no verdict."""
  return row['verdict'] is None


def verdict_fields(p_good: float, reason: str, labels: Sequence[str]) -> Record:
  """Fields to add to a reply's line.

  Args:
    p_good: the judge's probability of Good; NaN if it gave no verdict.
    reason: the judge's reason, '' if it gave none.
    labels: the words for good and bad.

  Returns:
    `verdict` and `p_good`, both None without a verdict; `reason` if given.
  """
  if not np.isfinite(p_good):
    return {'verdict': None, 'p_good': None}
  # a tie of votes counts against the reply
  verdict = {'verdict': labels[0 if p_good > 0.5 else 1], 'p_good': p_good}
  return verdict | ({'reason': reason} if reason else {})


def agreement(rows: Sequence[Record]) -> Record:
  """Agreement of verdicts with labels; empty unless every row has a label.

  Args:
    rows: judged replies, with `p_good`.

  Returns:
    `verdicts.held_out`, but `answered`, as only judged replies are compared.
  """
  if not all(row.get('label') in (0, 1) for row in rows):
    return {}
  found = verdicts.held_out(
    np.array([row['p_good'] for row in rows], float),
    [*map(labelled_reply, rows)],
  )
  del found['answered']
  return found


def labelled_reply(row: Record) -> Labelled:
  """The reply of a line with a label."""
  return Labelled(
    transcript(layouts.prompt_of(row)),
    reply_of(row['response']),
    bool(row['label']),
    '',
  )
