"""Counts the distinct answers among several replies to each prompt.

  python scripts/measure_novelty.py REPLIES.jsonl...

A file has the fields `prompt` and `response`, as `generate` writes them with
`samples=10`; `evaluation.diversity.classes` tells which replies say the same.

  python scripts/measure_novelty.py --given LABELLED.jsonl

measures how its classes agree with given ones: of NoveltyBench
(github.com/novelty-bench/novelty-bench), whose lines have `generations` and
`partition`.
"""

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlcw.data import datasets
from rlcw.evaluation import diversity


class Agreement(NamedTuple):
  """Agreement of our classes of replies with given ones."""

  ours: float  # classes per prompt
  given: float
  correlation: float  # of the two numbers, over prompts
  same: float  # of the pairs given as one class, the share that ours joins
  different: float  # of the others, the share that ours tells apart


def agreement(
  groups: Sequence[tuple[Sequence[str], Sequence[int]]],
) -> Agreement:
  """Compares classes; each group has replies and the class of each."""
  counts, joined = [], {True: [], False: []}
  for texts, given in groups:
    ours = diversity.classes(texts)
    counts.append((len({*ours}), len({*given})))
    for i, j in itertools.combinations(range(len(texts)), 2):
      joined[given[i] == given[j]].append(ours[i] == ours[j])
  ours_N, given_N = np.array(counts).T
  return Agreement(
    float(ours_N.mean()),
    float(given_N.mean()),
    float(np.corrcoef(ours_N, given_N)[0, 1]),
    float(np.mean(joined[True])),
    1 - float(np.mean(joined[False])),
  )


def distinct(path: str) -> tuple[float, float]:
  """Mean number of classes per prompt of a file, and of replies per prompt."""
  groups = defaultdict(list)
  for record in datasets.read_jsonl(path):
    # several samples, or one
    replies = record.get('responses') or [record['response']]
    groups[str(record['prompt'])] += replies
  found = [len({*diversity.classes(g)}) for g in groups.values()]
  return float(np.mean(found)), float(np.mean([*map(len, groups.values())]))


def main() -> None:
  """Prints a line for each file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('file', nargs='+')
  parser.add_argument('--given', action='store_true', help='files have classes')
  options = parser.parse_args()
  for path in options.file:
    if not options.given:
      ours, replies = distinct(path)
      print(f'{path}: {ours:.2f} classes of {replies:.1f} replies to a prompt')
      continue
    found = agreement(
      [
        (record['generations'], record['partition'])
        for record in datasets.read_jsonl(path)
      ]
    )
    print(
      f'{path}: {found.ours:.2f} classes to a prompt, {found.given:.2f} given, '
      f'correlation {found.correlation:.2f}; {found.same:.1%} of the pairs of '
      f'one class are found, {found.different:.1%} of the others told apart'
    )


if __name__ == '__main__':
  main()
