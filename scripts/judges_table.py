r"""Prints the table of scripts/judges.sh: judges on the same labelled replies.

  python scripts/judges_table.py WORKDIR

WORKDIR has a finished `judge` run of each judge; replies that one of them gave
no verdict on are left out.  Below the table are differences on pairs of like
length: of the trained judge, and of the larger one with examples or principles
of a game, from the larger one alone.
"""

import pathlib
import sys
from typing import Any

import numpy as np

from rlcw.data import datasets
from rlcw.evaluation import intervals, stats, verdicts
from rlcw.evaluation.labelled import Labelled
from rlcw.runtime import console
from rlcw.tasks import judge

Rows = list[dict[str, Any]]

# Name, key of the number, key of its interval, format.
AGREEMENT = (
  ('right, mean over labels', 'balanced', '', '.1%'),
  ('threshold tuned', 'balanced_tuned', '', '.1%'),
  ('AUC', 'auc', 'auc_interval', '.3f'),
  ('AUC, like length', 'matched_auc', 'matched_auc_interval', '.3f'),
)
COLUMNS = (
  ('Good', 'good', '', '.1%'),
  *AGREEMENT,
  ('correlation with length', 'length_correlation', '', '+.2f'),
)
TRAINED, LARGE = 'small_trained', 'large'


def load(folder: pathlib.Path) -> dict[str, Rows]:
  """Reads the verdicts of each judge on the replies that all have judged.

  Raises:
    ValueError: a run is missing, or judged other replies than the first one.
  """
  names = ('small', TRAINED, LARGE, f'{LARGE}_*')
  files = [
    file.with_name('verdicts.jsonl')
    for name in names
    for file in sorted(folder.glob(f'{name}/summary.json'))
  ]
  rows = {file.parent.name: datasets.read_jsonl(str(file)) for file in files}
  if missing := {TRAINED, LARGE} - {*rows}:
    raise ValueError(f'{folder}: expected finished runs {sorted(missing)}')
  of_first = replies(next(iter(rows.values())))
  for name, each in rows.items():
    if replies(each) != of_first:
      raise ValueError(
        f'{folder / name}: expected verdicts on the replies of {files[0]}'
      )
  answered = [
    not any(map(judge.is_unanswered, each))
    for each in zip(*rows.values(), strict=True)
  ]
  return {
    name: [row for row, known in zip(each, answered, strict=True) if known]
    for name, each in rows.items()
  }


def replies(rows: Rows) -> list[Labelled]:
  """The labelled replies of a run."""
  return [*map(judge.labelled_reply, rows)]


def measure(rows: Rows) -> dict[str, Any]:
  """Computes the numbers of a judge."""
  good = float(np.mean([row['verdict'] == 'Good' for row in rows]))
  return judge.agreement(rows) | {'good': good}


def difference(ours: Rows, theirs: Rows) -> intervals.Interval:
  """Our AUC between replies of like length less theirs, on the same replies."""
  labelled = replies(ours)
  label_N = np.array([each.label for each in labelled])
  length_N = np.array([len(each.response) for each in labelled])
  prompt_N = intervals.groups(each.prompt for each in labelled)
  return stats.area_difference(
    *(
      stats.area(
        np.array([row['p_good'] for row in rows]), label_N, prompt_N, length_N
      )
      for rows in (ours, theirs)
    )
  )


def main(folder: str) -> None:
  """Prints the table."""
  rows = load(pathlib.Path(folder))
  found = {name: measure(each) for name, each in rows.items()}
  # of replies that all judges have in common
  any_of = found[LARGE]
  console.table(
    f'judges: {len(rows[LARGE])} held-out replies, {any_of["matched_pairs"]} '
    'pairs of like length; length alone has an AUC of '
    f'{any_of["length_only_auc"]:.3f}, {any_of["length_matched_auc"]:.3f} '
    'on these pairs',
    ('judge', *(name for name, *_ in COLUMNS)),
    [
      (name, *(verdicts.cell(each, *column) for _, *column in COLUMNS))
      for name, each in found.items()
    ],
  )
  for name, ours in rows.items():
    if name != TRAINED and not name.startswith(f'{LARGE}_'):
      continue
    gap, *ends = difference(ours, rows[LARGE])
    console.log(
      f'{name} less {LARGE}, AUC between replies of like length: '
      f'{console.number(gap, "+.3f")} ({console.interval(ends, "+.3f")})'
    )


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  main(sys.argv[1])
