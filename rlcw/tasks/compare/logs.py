"""Logs of the runs that are compared."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rlcw.data.files import Placed, read_lines
from rlcw.runtime import files
from rlcw.tasks.compare.arms import rewarded_violations
from rlcw.tasks.compare.page import CURVES


class Logs(NamedTuple):
  """Records of a run's training that a comparison shows."""

  history: list[dict[str, Any]]  # rows of metrics.jsonl
  raised: float  # see `rewarded_violations`
  warnings: list[str] | None  # of its monitors; None: an older version's run


def read_logs(folder: Path) -> Logs:
  """Reads the logs of a run.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: one is empty or spoiled; names the file and the line.
  """
  history = [row for _, row in _placed(folder / 'metrics.jsonl', _check_row)]
  groups = [g for _, g in _placed(folder / 'rollouts.jsonl', _check_group)]
  file = folder / 'summary.json'
  try:
    tripped = files.read_json(file).get('warnings')
    texts = tripped and [f'step {w["step"]}: {w["text"]}' for w in tripped]
  except (ValueError, AttributeError, TypeError, KeyError) as error:
    raise ValueError(f'{file}: expected a summary of `grpo`: {error}') from None
  return Logs(history, rewarded_violations(groups), texts)


def _placed(file: Path, check: Callable[[dict[str, Any]], Any]) -> Placed:
  """Reads JSONL and checks every line.

  Raises:
    ValueError: see `read_logs`.
  """
  placed = read_lines(file)
  if not placed:
    raise ValueError(f'{file}: expected at least one line of JSON')
  for place, record in placed:
    try:
      check(record)
    except KeyError as error:
      raise ValueError(f'{place}: {error} is missing') from None
    except (TypeError, ValueError) as error:
      raise ValueError(f'{place}: {error}') from None
  return placed


def _check_row(row: dict[str, Any]) -> None:
  for name in ('step', *CURVES):
    if not isinstance(row[name], (int, float, type(None))):
      raise ValueError(f'{name}={row[name]!r:.80}; expected a number')


def _check_group(group: dict[str, Any]) -> None:
  rewarded_violations([group])
