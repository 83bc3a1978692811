"""Measures how verdicts of the benchmarks' rules agree with given ones.

  python scripts/measure_verdicts.py VERDICTS.jsonl...

Each line of a file has IFEval's or IFBench's fields, a `response`, and the
verdicts of the benchmark's own program: `strict` and `loose`, lists aligned
with `instruction_id_list`, null at a rule without one.
"""

import argparse
from collections import Counter

from rlcw.data import datasets, layouts
from rlcw.rewards import constraints

KINDS = {'strict': constraints.follow, 'loose': constraints.follow_loose}


def measure(
  path: str, skipped: frozenset[str], shown: str
) -> dict[str, Counter[str]]:
  """Counts the verdicts of each rule, and those that agree.

  Args:
    path: of the file.
    skipped: values of `key` of lines that are not counted.
    shown: id of the rule whose differing verdicts are printed, or `all`.
  """
  counts: dict[str, Counter[str]] = {}
  for record in datasets.read_jsonl(path):
    if str(record.get('key')) in skipped:
      continue
    kwargs = layouts.without_nulls(record['kwargs'])
    rules = zip(record['instruction_id_list'], kwargs, strict=True)
    for n, (rule, given) in enumerate(rules):
      for kind, follow in KINDS.items():
        theirs = (record.get(kind) or {n: None})[n]
        if theirs is None or rule in constraints.UNSUPPORTED:
          continue
        [ours] = follow(record['response'], [rule], [given], benchmark=True)
        count = counts.setdefault(rule, Counter())
        count['all'] += 1
        count['agree'] += ours == theirs
        count['followed'] += theirs
        if ours != theirs and shown in (rule, 'all'):
          print(f'{path}: {record.get("key")}: {rule}: {kind}: {theirs}')
  return counts


def main() -> None:
  """Prints a table in Markdown: a row per rule, a column per file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('file', nargs='+')
  parser.add_argument('--skip', nargs='*', default=[], help='keys of lines')
  parser.add_argument('--show', default='', help='rule with differing verdicts')
  options = parser.parse_args()
  skipped = frozenset(options.skip)
  tables = [measure(path, skipped, options.show) for path in options.file]
  print(f'| Rule | {" | ".join(options.file)} |')
  print(f'|---|{"---|" * len(tables)}')
  for rule in sorted({rule for table in tables for rule in table}):
    cells = [
      f'{counts["agree"]}/{counts["all"]} ({counts["followed"]} followed)'
      for counts in (table.get(rule, Counter[str]()) for table in tables)
    ]
    print(f'| `{rule}` | {" | ".join(cells)} |')
  totals = [sum(table.values(), Counter[str]()) for table in tables]
  cells = [
    f'{t["agree"]}/{t["all"]} ({t["agree"] / t["all"]:.2%})' for t in totals
  ]
  print(f'| all | {" | ".join(cells)} |')


if __name__ == '__main__':
  main()
