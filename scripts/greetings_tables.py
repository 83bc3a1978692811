r"""Prints tables of the scorers of scripts/greetings.sh.

  python scripts/greetings_tables.py RUNS

RUNS is the folder of its runs.  Of the debate: its yield and, on replies with a
label, its agreement.  Of the reward models and the judge: accuracy on pairs of
prompts that none has seen.  Of the games: held-out replies before and after.
"""

import json
import operator
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import judges_table
import numpy as np

from rlcw.data import datasets
from rlcw.evaluation import stats, verdicts
from rlcw.runtime import console

# Name, key of the number, key of its interval, format.
VERDICTS = (
  ('replies', 'replies', '', ',.0f'),
  ('answered', 'answered', '', '.1%'),
  *judges_table.AGREEMENT,
)


def cells(found: dict[str, Any], columns: Sequence[Any]) -> list[str]:
  """Formats the numbers of a row; an earlier version's may lack some."""
  return [verdicts.cell(found, *column) for _, *column in columns]


def main(folder: str) -> None:
  """Prints the tables."""
  runs = pathlib.Path(folder)

  def summary(name: str) -> dict[str, Any]:
    return json.loads((runs / name / 'summary.json').read_text('utf-8'))

  debate = summary('debate')
  longer = debate['chosen_longer'] if debate['pairs'] else None
  console.log(
    f'Debate: {debate["pairs"]} pairs from {debate["queries"]} queries, '
    f'{debate["overturn_rate"]:.1%} of verdicts overturned, the longer reply '
    f'chosen in {console.number(longer, ".1%")}.'
  )
  rows = [('debate', *cells(summary('debated')['agreement'], VERDICTS))]
  # those that have ended
  for file in sorted(runs.glob('game-*/summary.json')):
    game = file.parent
    found = summary(game.name)
    for side in ('before', 'after'):
      replies = {'replies': found['heldout']}
      each = cells(found[f'heldout_{side}'] | replies, VERDICTS)
      rows.append((f'{game.name}, {side}', *each))
  console.table(
    'verdicts on held-out replies, of each its own',
    ('', *(name for name, *_ in VERDICTS)),
    rows,
  )

  columns = (
    ('right', 'heldout_accuracy', 'heldout_interval', '.1%'),
    ('length alone', 'length_only_accuracy', '', '.1%'),
    ('right, like length', 'matched_accuracy', 'matched_interval', '.1%'),
    ('length alone', 'matched_length_only', '', '.1%'),
    ('of', 'matched_pairs', '', ',.0f'),
    ('correlation with length', 'length_correlation', '', '+.2f'),
  )
  # file of the scores, field of the score, number of examples in training
  scorers = {
    'reward_model': ('scores.jsonl', 'score', 'reward_model', 'train_pairs'),
    'taste': ('scores.jsonl', 'score', 'taste', 'train_pairs'),
    'judge': ('verdicts.jsonl', 'p_good', 'judges/verdicts', 'train_examples'),
  }
  rows, pairs = [], 0
  for name, (file, field, run, examples) in scorers.items():
    path = runs / f'scores_{name}' / file
    if not path.exists():
      continue
    replies = datasets.read_jsonl(str(path))
    both = list(zip(replies[::2], replies[1::2], strict=True))
    score_Nx2, length_Nx2 = (
      np.array([[value(reply) for reply in pair] for pair in both], float)
      for value in (operator.itemgetter(field), lambda r: len(r['response']))
    )
    found = stats.agreement(
      score_Nx2,
      length_Nx2,
      np.unique([pair[0]['prompt'] for pair in both], return_inverse=True)[1],
    )
    found['length_correlation'] = stats.correlation(
      score_Nx2.ravel(), length_Nx2.ravel()
    )
    pairs = found['heldout_pairs']
    learned = f'{summary(run)[examples]:,}'
    rows.append((name, learned, *cells(found, columns)))
  console.table(
    f'scorers on {pairs} pairs of other prompts',
    ('', 'pairs or replies learned from', *(name for name, *_ in columns)),
    rows,
  )
  found = summary('unseen_scorer')
  console.log(
    f'Scorer that no writer sees: {found["heldout_accuracy"]:.1%} of '
    f'{found["heldout_pairs"]} held-out pairs.'
  )


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(sys.argv[1])
