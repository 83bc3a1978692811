"""Totals of the use of a run's models: calls, tokens, money, and what is lost.

The counts of a process end with it.  A run that is resumed adds those of its
earlier processes, which it keeps in `usage.json`.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlcw.runtime import console, files, processes, runs

Counts = Mapping[str, float]
Meters = Mapping[str, Callable[[], Counts]]


class Ledger:
  """Adds up the counts of all processes of a run, also of earlier ones.

  Of several processes, all must make the same calls together.

  Args:
    workdir: of the run; `usage.json` is read and written here.
    meters: for each model, a function that returns its counts in this process.
    gather: of the processes that count (`DataShards.gather`); by default all.

  Raises:
    ValueError: `usage.json` is damaged.
  """

  def __init__(
    self,
    workdir: Path,
    meters: Meters,
    gather: Callable[[Any], list[Any]] = processes.gather,
  ):
    self._file, self._meters = workdir / runs.USAGE, meters
    self._gather = gather
    self._before: dict[str, Counts] = {}
    if processes.is_primary_process() and self._file.exists():
      self._before = files.read_json(self._file)
      if not all(isinstance(c, Mapping) for c in self._before.values()):
        raise ValueError(
          f'{self._file} is no usage of a run; delete it, and counts begin anew'
        )
    # With the batch that is under way then: a cache may have its answers.
    runs.at_failure(self.save)

  def totals(self) -> dict[str, dict[str, float]]:
    """Returns the counts of each model, those of earlier processes included."""
    return {
      name: add([self._before.get(name, {}), used])
      for name, used in totals(self._meters, self._gather).items()
    }

  def save(self) -> None:
    """Keeps the counts for a later process; called after every batch."""
    files.write_json(self._file, self.totals())


def totals(
  meters: Meters, gather: Callable[[Any], list[Any]] = processes.gather
) -> dict[str, dict[str, float]]:
  """Returns the counts of each model, of all processes that run now.

  Args:
    meters: as of `Ledger`.
    gather: as of `Ledger`.
  """
  return {name: add(gather(dict(meter()))) for name, meter in meters.items()}


def add(counts: Iterable[Counts]) -> dict[str, float]:
  """Adds counts by name; a name that one of them lacks counts as 0 there."""
  total: dict[str, float] = {}
  for each in counts:
    for name, value in each.items():
      total[name] = total.get(name, 0) + (value or 0)
  return total


# Counts in the order of the line, and their words.
_WORDS = {
  'questions': 'questions',
  'requests': 'requests',
  'cached': 'answers from the cache',
  'prompt_tokens': 'prompt tokens',
  'completion_tokens': 'reply tokens',
  'failed': 'without a reply',
  'cut': 'cut replies',
  'repaired': 'asked again',
  'unanswered': 'without a valid answer',
  'shortened': 'not shown to their end',
}


def log(task: str, totals: Mapping[str, Counts]) -> None:
  """Logs a line for each model that was asked anything."""
  for model, counts in totals.items():
    parts = [
      f'{counts[name]:,.0f} {words}'
      for name, words in _WORDS.items()
      if counts.get(name)
    ]
    if counts.get('cost'):
      parts.append(f'cost {counts["cost"]:,.4g}')
    if parts:
      console.log(f'{task}: {model}: {", ".join(parts)}')
