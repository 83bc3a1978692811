"""Results on public benchmarks of rules, beside a comparison."""

import glob
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.data import datasets
from rlcw.evaluation import intervals
from rlcw.rewards import constraints
from rlcw.rewards.constraints import IFEVAL
from rlcw.runtime import metrics
from rlcw.runtime.files import read_json
from rlcw.tasks.compare.arms import BASE


def benchmark(pattern: str, of: str = IFEVAL) -> dict[str, dict[str, Any]]:
  """Reads a benchmark's four numbers of each arm from `verify` runs.

  Args:
    pattern: glob pattern of their folders, which are named by arm; '' for none.
      It may match runs on several benchmarks' prompts.
    of: name of the benchmark.

  Returns:
    By arm, the four numbers and `gain`: the mean difference of `prompt_strict`
    from the base's, `low` and `high`, its 95% interval over prompts; None where
    there is no base.

  Raises:
    ValueError: a folder is not that of a `verify` run with mode=benchmark, two
      have the same name, or the prompts of one are not those of the base.
  """
  scores: dict[str, dict[str, Any]] = {}
  strict: dict[str, dict[Any, float]] = {}
  files = sorted(glob.glob(f'{pattern}/summary.json')) if pattern else []
  for file in map(Path, files):
    summary = read_json(file)
    numbers = {
      k: v for k, v in summary.items() if k.endswith(('strict', 'loose'))
    }
    if summary.get('mode') != 'benchmark' or not numbers:
      raise ValueError(
        f'{file}: expected the summary of a `verify` run with mode=benchmark'
      )
    if constraints.benchmark_of(summary.get('by_instruction', ())) != of:
      continue
    if file.parent.name in scores:
      raise ValueError(
        f'{pattern} matches several folders {file.parent.name}; expected one '
        'for each arm'
      )
    scores[file.parent.name] = numbers
    rows = datasets.read_jsonl(file.with_name('verdicts.jsonl'))
    # prompts are matched between arms by the benchmark's `key`
    if not all('key' in row for row in rows):
      raise ValueError(
        f'{file.parent}/verdicts.jsonl: expected {of} records, found a line '
        'without `key`'
      )
    verdicts: dict[Any, list[float]] = {}
    for row in rows:
      kept = constraints.keeps(row['strict']['follow_instruction_list'])
      verdicts.setdefault(row['key'], []).append(kept)
    # Of several replies to a prompt, the mean; NaN without a verdict.
    strict[file.parent.name] = {
      key: metrics.mean(found) for key, found in verdicts.items()
    }
  base = strict.get(BASE)
  for name, kept in strict.items():
    if base is not None and kept.keys() != base.keys():
      raise ValueError(f'{name} of {pattern} answers other prompts than {BASE}')
    if base is None:
      scores[name]['gain'] = None
      continue
    # in the order of the base's keys: prompts are paired; one with a rule that
    # cannot be checked may have no verdict
    paired = [key for key in base if np.isfinite([base[key], kept[key]]).all()]
    ours_1xP, base_1xP = (
      np.array([[each[key] for key in paired]], float) for each in (kept, base)
    )
    # The base differs from itself by nothing.
    theirs_1xP = ours_1xP if kept is base else base_1xP
    gain = intervals.difference(ours_1xP, theirs_1xP, 1)
    # an arm's benchmark is of one run
    scores[name]['gain'] = gain._asdict() | {'over': intervals.scope(1)}
  return scores
