"""Task `judge`: verdicts on a file of replies, Good or Bad by principles.

Where every line has a `label`, 1 for Good and 0 for Bad, the summary reports
the judge's agreement with labels, beside that of length alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import layouts
from rlcw.data.annotate import Record, annotate
from rlcw.data.messages import transcript
from rlcw.evaluation import stats
from rlcw.evaluation.labelled import Labelled
from rlcw.evaluation.verdicts import held_out
from rlcw.models import language_model
from rlcw.models.chat import reply_of
from rlcw.rewards.judge import factory, questions
from rlcw.runtime import claim, console, files, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import usage
from rlcw.sampling.outage import NoAnswers, Patience, Trouble, trouble_of_all
from rlcw.sampling.usage import Ledger

# Label, key in the summary, key of its 95% interval, format; all but the first
# need labelled replies.
_ROWS = (
  ('Good', 'good', '', '.1%'),
  ('agrees with labels', 'agreement', '', '.1%'),
  ('agrees, mean over labels', 'balanced_agreement', '', '.1%'),
  ('agrees, calibrated, mean over labels', 'calibrated', '', '.1%'),
  ('AUC', 'auc', 'auc_interval', '.3f'),
  ('AUC of length alone', 'length_only_auc', '', '.3f'),
  ('AUC, pairs of like length', 'matched_auc', 'matched_auc_interval', '.3f'),
  ('pairs of like length', 'matched_pairs', '', ',.0f'),
  ('correlation with length', 'length_correlation', '', '.2f'),
)


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
    ValueError: no judge is configured, or no reply got a verdict.
  """
  check(config)
  settings = config.judge
  question = factory.make_question('judge', settings)
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
    verdicts = questions.judge(judge_model, question, prompts, replies)
    ledger.save()
    # all processes must end alike
    answered = any(processes.gather(bool(verdicts.valid.any())))
    patience.see(answered, trouble)
    return [
      verdict_fields(p_good, reason, question.labels)
      for [p_good], [reason] in zip(
        verdicts.first, verdicts.reason, strict=True
      )
    ]

  try:
    rows, done = annotate(
      'judge', config.input, output, 'verdict', config.batch_size, answer, mesh
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
  good = [row['verdict'] == question.labels[0] for row in judged]
  summary = {
    'replies': len(rows),
    'resumed_at': done,
    'unanswered': len(rows) - len(judged),
    'good': np.mean(good),
    **compare(judged),
    'usage': used['judge'],
  }
  console.table(
    f'judge: {len(judged)} of {len(rows)} replies got a verdict',
    ('', 'value', '95% interval'),
    [
      (
        label,
        console.number(summary[key], style),
        console.interval(summary.get(ends), style),
      )
      for label, key, ends, style in _ROWS
      if key in summary
    ],
  )
  console.log(f'judge: {output}')
  usage.log('judge', used)
  return summary


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


def compare(rows: Sequence[Record]) -> Record:
  """Agreement of verdicts with labels; empty unless every row has a label.

  Args:
    rows: judged replies, with `prompt`, `p_good`, `response` and `label`.

  Returns:
    `balanced_agreement`, which is a mean over labels; `threshold`, the
    probability above which a reply is best called Good; and of
    `verdicts.held_out` the agreement, the judge's areas under the ROC curve
    with their intervals, and what length alone would do.
  """
  if not all(row.get('label') in (0, 1) for row in rows):
    return {}
  replies = [
    Labelled(
      transcript(layouts.prompt_of(row)),
      reply_of(row['response']),
      bool(row['label']),
      '',
    )
    for row in rows
  ]
  good_N = np.array([row['p_good'] for row in rows])
  found = held_out(good_N, replies)
  label_N = np.array([each.label for each in replies])
  del found['answered']  # only lines with a verdict are compared
  return {
    'balanced_agreement': found.pop('balanced'),
    'threshold': stats.threshold(good_N, label_N),
    **found,
  }
