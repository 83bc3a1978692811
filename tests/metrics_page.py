"""The names that docs/metrics.md explains."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

from rlcw.sampling.cache import Usage

PAGE = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'metrics.md'
# Numbers of a judge, which a run without one does not write.
JUDGE = {
  f'judge_{name}'
  for name in (
    *(field.name for field in dataclasses.fields(Usage)),
    *('questions', 'repaired', 'unanswered', 'shortened'),
  )
}
# Metrics of settings that are off by default.
OPTIONAL = {
  *('sampler_gap_max', 'tis_clipped', 'entropy_exact'),
  'relabelled_groups',
  'unrevised',
  'demonstrated_groups',
  'demonstration_advantage',
  'copied_demonstration',
  *('judge_pairs', 'pairs_unanswered', 'pairs_swayed'),
  *('refit_pairs', 'refit_right_before', 'refit_right_after'),
}
# Fields of every summary, which docs/running.md explains, and a judge's usage.
EVERY = {
  'wall_seconds',
  'peak_memory_gib',
  'peak_device_memory_gib',
  'hardware',
  'notices',
  'read',
  'usage',
}


def documented(section: str) -> set[str]:
  """The names in the first column of a section's tables."""
  page = PAGE.read_text('utf-8')
  (text,) = re.findall(rf'^## {section}\n(.*?)(?=^## |\Z)', page, re.M | re.S)
  cells = re.findall(r'^\| (`.*?) \|', text, re.M)
  return {name for cell in cells for name in re.findall(r'`(\w+)`', cell)}


def stems(names: Iterable[str]) -> set[str]:
  """Names of an evaluation without the model or the kind of value."""
  ends = '_(base|trained|difference|interval)$'
  return {re.sub(ends, '', name) for name in names}
