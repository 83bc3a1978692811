"""Metrics of an evaluation on held-out briefs, and which one is the best.

Letters: P held-out briefs, G replies to each.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.evaluation import heldout, intervals, stats
from rlcw.rewards import writing
from rlcw.rewards.judge import factory
from rlcw.runtime import metrics, sums

Groups = Sequence[Sequence[dict[str, Any]]]  # records of replies, [P][G]

# Of metrics after a step, and of those before the first one, which are in its
# row as well.
AFTER, BEFORE = 'eval/', 'initial_eval/'
# Metric -> the value of a reply (`heldout.PER_REPLY`) that it is the mean of.
_VALUES = {
  'pass_rate': 'pass_rate',
  'writing': 'writing',
  'unseen': 'unseen',
  'judge_good': 'good',
  'length': 'length',
  'truncated': 'truncated',
}
# Parts of the writing score that are the judge's P(Good) on held-out replies.
_BY_GOOD = {*writing.OF_GOOD, 'pairs'}
_SHARES = 'both', 'pass_rate', 'judge_good', 'truncated'
# Less is better; of `length` neither is.
_LESS = 'gap', 'truncated'


def names(config: Config) -> list[str]:
  """Returns the metrics of an evaluation, without prefix."""
  found = ['both', 'pass_rate', 'writing', 'length', 'truncated']
  if config.eval.unseen:
    found += ['unseen', 'gap']
  # As the writing score, which it is in place of comparisons, it is no second
  # opinion.
  parts = sums.parse(config.writing)
  if factory.has_judge(config.judge) and not parts.keys() & _BY_GOOD:
    found.append('judge_good')
  return found


def measure(
  groups: Groups,
  base: Groups,
  wanted: Iterable[str],
  group_P: np.ndarray | None = None,
) -> dict[str, float]:
  """Returns metrics of replies, each with the ends of its 95% interval.

  Args:
    groups: replies of the policy.
    base: those of the base to the same briefs.
    wanted: metrics, as of `names`.
    group_P: number of each brief's prompt (`heldout.prompt_groups`); None if
      all differ.

  Returns:
    Of each metric NAME the mean, and `NAME_low` and `NAME_high`, over briefs.
    `both` is the mean of `heldout.kept_and_better`, by the writing score where
    no other scorer is wanted.
  """
  wanted = list(wanted)
  score = 'unseen' if 'unseen' in wanted else 'writing'
  found: dict[str, float] = {}
  for name in wanted:
    if name == 'both':
      base_P = metrics.mean(heldout.values(base, score), 1)
      value_P = metrics.mean(heldout.kept_and_better(groups, base_P, score), 1)
    elif name == 'gap':
      value_P = gain(groups, base, 'writing') - gain(groups, base, 'unseen')
    else:
      value_P = metrics.mean(heldout.values(groups, _VALUES[name]), 1)
    # one trained model
    estimate = intervals.share if name in _SHARES else intervals.mean
    mean, low, high = estimate(*intervals.by_group(value_P[None], group_P))
    found |= {name: mean, f'{name}_low': low, f'{name}_high': high}
  return found


def gain(groups: Groups, base: Groups, score: str) -> np.ndarray:
  """Gains `[P]` in a score, in standard deviations of the base's replies.

  In this unit the gains of scores on different scales can be compared.
  """
  ours_PxG, base_PxG = (heldout.values(each, score) for each in (groups, base))
  apart_P = metrics.mean(ours_PxG, 1) - metrics.mean(base_PxG, 1)
  return apart_P / stats.spread(base_PxG)


class Best:
  """The best evaluation so far, from a run's rows of metrics in order.

  Of equal ones the first is the best; a value that is null never is.

  Args:
    keep: the setting.
  """

  def __init__(self, keep: str):
    self.metric = keep.removeprefix('best:') if keep != 'newest' else ''
    self.step: int | None = None  # updates before it
    self.value = float('nan')
    self.since = 0  # evaluations after it, or all if none is the best

  def see(self, row: Mapping[str, Any]) -> None:
    """Reads a row of `metrics.jsonl`."""
    name = self.metric.removeprefix(AFTER)
    for prefix, step in ((BEFORE, 0), (AFTER, row['step'] + 1)):
      if not name or prefix + name not in row:
        continue
      value = row[prefix + name]
      if value is not None and self._is_better(name, value):
        self.step, self.value, self.since = step, value, 0
      else:
        self.since += 1

  def _is_better(self, name: str, value: float) -> bool:
    if self.step is None:
      return True
    return value < self.value if name in _LESS else value > self.value

  def ends(self, patience: int) -> str:
    """Returns why a run ends, or ''."""
    if not patience or self.since < patience:
      return ''
    best = f'; the best was {self.value:.4g} after {self.step} steps'
    return (
      f'no better {self.metric} in {self.since} evaluations'
      f'{best if self.step is not None else ""}'
    )
