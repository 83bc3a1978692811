"""Measures the rules that patterns read from prompts whose rules are known.

  python scripts/measure_extract.py IFEVAL.jsonl --half=both

The file has IFEval's layout: prompts that state rules, `instruction_id_list`
and `kwargs`.  The patterns were written with the first half of IFEval's 541
prompts, drawn by a fixed seed, in view (`--half=seen`), and with none of the
other half (`--half=unseen`).

A rule is right where the conditions that it puts on a reply are those of the
file (`combine.conditions`), so "at most 9 words" and "fewer than 10" agree.  As
in IFEval, a rule about case implies English.  Rules whose ids the file lacks
are not counted; one that a prompt states and the file omits is an error.
"""

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlcw.data import datasets, layouts
from rlcw.rewards.extract.combine import conditions
from rlcw.rewards.extract.read import read

SEED, SEEN = 0, 270
# Ids of ours that ask for the same as IFEval's.
SAME = {
  'length:words': 'length_constraints:number_words',
  'length:sentences': 'length_constraints:number_sentences',
}
CASE = 'change_case:english_lowercase', 'change_case:english_capital'
Rule = tuple[str, dict[str, Any]]
ENGLISH: Rule = (
  'language:response_language',
  {'language': 'en'},
)


def half_of(records: list[Any], half: str) -> list[Any]:
  """Returns the records of a half, in their order."""
  order = random.Random(SEED).sample(range(len(records)), len(records))
  halves = {'seen': order[:SEEN], 'unseen': order[SEEN:], 'both': order}
  return [records[n] for n in sorted(halves[half])]


def measure(records: Sequence[dict[str, Any]], shown: bool) -> Counter[str]:
  """Counts the rules of the file, those read, and those that agree.

  Args:
    records: of the file.
    shown: whether to print the rules that disagree.
  """
  counts: Counter[Any] = Counter()
  known = {name for each in records for name in each['instruction_id_list']}
  for record in records:
    kwargs = layouts.without_nulls(record['kwargs'])
    given = [*zip(record['instruction_id_list'], kwargs, strict=True)]
    stated = [
      (r.instruction_id, r.kwargs) for r in read(record['prompt']).rules
    ]
    cased = [ENGLISH] if any(name in CASE for name, _ in given) else []
    both: list[tuple[str, list[Rule], list[Rule]]] = [
      ('given', stated, given),
      ('read', [*given, *cased], stated),
    ]
    for name, other, rules in both:
      there = frozenset[Any]().union(*(conditions(*each) for each in other))
      for rule, kwargs in rules:
        id = SAME.get(rule, rule)
        if id not in known:
          continue
        agrees = conditions(rule, kwargs) <= there
        counts[name, id] += 1
        counts[f'{name} and right', id] += agrees
        if shown and not agrees:
          print(f'{record.get("key")}: {name} alone: {rule} {kwargs}')
  return counts


def main() -> None:
  """Prints a table in Markdown."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('file')
  parser.add_argument(
    '--half', default='both', choices=('seen', 'unseen', 'both')
  )
  parser.add_argument('--show', action='store_true', help='print disagreements')
  options = parser.parse_args()
  records = [record for _, record in datasets.read_records(options.file)]
  counts = measure(half_of(records, options.half), options.show)
  print('| Rule | Recall | Precision |\n|---|---|---|')
  ids = sorted({id for _, id in counts})
  for id in [*ids, '']:
    found = [
      sum(
        n
        for (kind, each), n in counts.items()
        if kind == name and id in ('', each)
      )
      for name in ('given and right', 'given', 'read and right', 'read')
    ]
    right, given, correct, stated = found
    name = (
      f'`{id}`' if id else f'all: {right / given:.3f}, {correct / stated:.3f}'
    )
    print(f'| {name} | {right}/{given} | {correct}/{stated} |')


if __name__ == '__main__':
  main()
