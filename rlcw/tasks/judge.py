"""Task `judge`: replies in, verdicts by principles out.

Where the lines say who is right (`label`, 1 for Good and 0 for Bad), so does
the summary, beside what length alone would get.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data.annotate import Record, annotate
from rlcw.evaluation import stats
from rlcw.rewards.judge import factory, questions
from rlcw.runtime import metrics
from rlcw.runtime.mesh import make_mesh, with_mesh


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Judges every reply; returns the summary.

  Raises:
    ValueError: no model is named, or none of its answers was a verdict.
  """
  settings = config.judge
  question = factory.make_question('judge', settings)
  panel = factory.make_judge(settings, make_mesh(**config.mesh))
  if panel is None:
    raise ValueError(
      'no judge is named: give --config.judge.model or '
      '--config.judge.endpoint.url'
    )
  output = Path(config.output or workdir / 'verdicts.jsonl')

  def answer(records: Sequence[Record]) -> list[Record]:
    prompts = [record['prompt'] for record in records]
    replies = [[record['response']] for record in records]
    found = questions.judge(panel, question, prompts, replies)
    return [
      tell(p_good, reason[0], question.labels)
      for p_good, reason in zip(found.first[:, 0], found.reason, strict=True)
    ]

  rows, done = annotate(
    'judge', config.input, output, 'verdict', config.batch_size, answer
  )
  judged = [row for row in rows if row['verdict'] is not None]
  if not judged:
    output.unlink()
    raise ValueError(
      f'none of {len(rows)} replies got a verdict; check judge.endpoint'
    )
  good = [row['verdict'] == question.labels[0] for row in judged]
  summary = {
    'replies': len(rows),
    'resumed_at': done,
    'unanswered': len(rows) - len(judged),
    'good': np.mean(good),
    **compare(judged, good),
    'usage': panel.usage(),
  }
  metrics.log(
    f'judge: {summary["good"]:.1%} of {len(judged)} replies are Good, '
    f'{summary["unanswered"]} got no verdict; {output}'
  )
  return summary


def tell(p_good: float, reason: str, labels: Sequence[str]) -> Record:
  """What is added to a line; null where there is no answer."""
  if not np.isfinite(p_good):
    return {'verdict': None, 'p_good': None}
  verdict = {'verdict': labels[0 if p_good > 0.5 else 1], 'p_good': p_good}
  return verdict | ({'reason': reason} if reason else {})


def compare(rows: Sequence[Record], good: Sequence[bool]) -> Record:
  """Agreement with labels, if every line has one, and that of length alone."""
  if not all(row.get('label') in (0, 1) for row in rows):
    return {}
  label = np.array([row['label'] for row in rows], bool)
  right = np.array(good) == label
  return {
    'agreement': right.mean(),
    'balanced_agreement': stats.balanced(right, label),
    'auc': stats.auc(np.array([row['p_good'] for row in rows]), label),
    'length_only_auc': stats.auc(
      np.array([len(row['response']) for row in rows]), label
    ),
  }
