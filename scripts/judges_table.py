r"""Prints the table of scripts/judges.sh: judges on the same labelled replies.

  python scripts/judges_table.py WORKDIR

WORKDIR has a `judge` run for each judge.  Below the table is the difference
between the trained judge and the larger one on pairs of like length.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcw.data import datasets
from rlcw.evaluation import intervals, stats
from rlcw.runtime import console
from rlcw.tasks import judge

Row = dict[str, Any]

# Name, key of the number, key of its interval, format.
COLUMNS = (
  ('Good', 'good', '', '.1%'),
  ('right, mean over labels', 'balanced_agreement', '', '.1%'),
  ('calibrated', 'calibrated', '', '.1%'),
  ('AUC', 'auc', 'auc_interval', '.3f'),
  ('AUC, like length', 'matched_auc', 'matched_auc_interval', '.3f'),
  ('correlation with length', 'length_correlation', '', '.2f'),
)


def measure(rows: Sequence[Row]) -> dict[str, Any]:
  """Computes the numbers of a judge."""
  judged = [row for row in rows if not judge.is_unanswered(row)]
  good = float(np.mean([row['verdict'] == 'Good' for row in judged]))
  return judge.compare(judged) | {'good': good}


def difference(
  ours: Sequence[Row], theirs: Sequence[Row]
) -> intervals.Interval:
  """Our AUC between replies of like length less theirs, on the same replies."""
  both = [
    pair
    for pair in zip(ours, theirs, strict=True)
    if not any(map(judge.is_unanswered, pair))
  ]
  label_N = np.array([row['label'] for row, _ in both]) == 1
  prompt_N = np.array([row['prompt'] for row, _ in both])
  length_N = np.array([len(row['response']) for row, _ in both])
  good_Nx2 = np.array([[row['p_good'] for row in pair] for pair in both])
  return stats.area_difference(
    *(stats.area(good_N, label_N, prompt_N, length_N) for good_N in good_Nx2.T)
  )


def cell(found: dict[str, Any], key: str, ends: str, style: str) -> str:
  """Formats a number, with its interval if it has one."""
  value = console.number(found[key], style)
  return f'{value} ({console.interval(found[ends], style)})' if ends else value


def main(folder: str) -> None:
  """Prints the table."""
  rows = {
    file.parent.name: datasets.read_jsonl(str(file))
    for name in ('small', 'small_trained', 'large', 'large_*')
    for file in sorted(pathlib.Path(folder).glob(f'{name}/verdicts.jsonl'))
  }
  found = {name: measure(each) for name, each in rows.items()}
  any_of = found['large']
  console.table(
    f'judges: {len(rows["large"])} held-out replies, '
    f'{any_of["matched_pairs"]} pairs of like length; length alone has an AUC '
    f'of {any_of["length_only_auc"]:.3f}',
    ('judge', *(name for name, *_ in COLUMNS)),
    [
      (name, *(cell(each, *column) for _, *column in COLUMNS))
      for name, each in found.items()
    ],
  )
  gap, *ends = difference(rows['small_trained'], rows['large'])
  console.log(
    'small_trained less large, AUC between replies of like length: '
    f'{console.number(gap, "+.3f")} ({console.interval(ends, "+.3f")})'
  )


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(sys.argv[1])
