"""Replies of language models in an SQLite file, so that none is made twice.

A model that is asked through it need only make the replies that are missing:
what a killed run had is there, and several processes may have the file open.
"""

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlcw.runtime import metrics

_MANY = 50  # prompts, which are worth a progress bar
_LOCKED = 60.0  # seconds to wait for another process that writes


@dataclasses.dataclass
class Usage:
  """What a model has done so far."""

  prompts: int = 0  # that were answered, or given up
  cached: int = 0  # of these, answered by the cache
  failed: int = 0  # of these, given up
  requests: int = 0  # sent to the model, retries included
  prompt_tokens: int = 0  # as a server tells; 0 where it does not
  completion_tokens: int = 0
  seconds: float = 0.0  # in `ask`
  cost: float = 0.0  # in the currency of the prices

  def as_dict(self) -> dict[str, float]:
    """Plain numbers by name."""
    return dataclasses.asdict(self)


class Call(NamedTuple):
  """One reply that is wanted."""

  prompt: str
  sample: int  # which of the replies to the same prompt, from 0


Keep = Callable[[str, str | None], None]
# Makes the replies to calls, and hands each to `keep` by its key as it comes.
Fetch = Callable[[Mapping[str, Call], Keep], None]


def replies(
  path: Path | str | None,
  identity: Sequence[Any],
  prompts: Sequence[str],
  usage: Usage,
  fetch: Fetch,
) -> list[str | None]:
  """A reply to each prompt, in their order; None where none could be had.

  A prompt that is given several times gets as many samples.

  Args:
    path: of the cache; none where empty.
    identity: what the replies depend on beside their prompts, as JSON.
    prompts: texts.
    usage: is brought up to date.
    fetch: makes those that are missing.

  Raises:
    TypeError: one text is given instead of a list.
    ValueError: the cache cannot be read or written.
  """
  if isinstance(prompts, str):
    raise TypeError(f'prompts={prompts!r:.80}; a list of texts is expected')
  with opened(path) as cache:
    started = time.perf_counter()
    calls = {_key(identity, call): call for call in _numbered(prompts)}
    found = {key: _find(cache, key) for key in calls}
    missing = {key: calls[key] for key in calls if found[key] is None}
    usage.prompts += len(calls) - len(missing)
    usage.cached += len(calls) - len(missing)
    bar = metrics.progress('ask', 0, len(missing), 'prompt')
    steps = bar if len(missing) >= _MANY else iter(missing)
    next(steps, None)  # shows the bar before there is a reply

    def keep(key: str, reply: str | None) -> None:
      found[key] = reply
      usage.prompts += 1
      if reply is None:
        usage.failed += 1
      else:
        cache.execute(
          'INSERT OR IGNORE INTO replies VALUES (?, ?)', (key, reply)
        )
      next(steps, None)

    if missing:
      fetch(missing, keep)
    usage.seconds += time.perf_counter() - started
    return [*found.values()]


def _numbered(prompts: Sequence[str]) -> Iterator[Call]:
  times: Counter[str] = Counter()
  for prompt in prompts:
    yield Call(prompt, times[prompt])
    times[prompt] += 1


def _key(identity: Sequence[Any], call: Call) -> str:
  """The name of a reply in the cache."""
  return hashlib.sha256(json.dumps([*identity, *call]).encode()).hexdigest()


@contextlib.contextmanager
def opened(path: Path | str | None) -> Iterator[sqlite3.Connection]:
  """The file of replies; without a path, one that is empty and soon gone.

  Raises:
    ValueError: SQLite cannot use the file, now or later in the context.
  """
  if path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
  try:
    with contextlib.closing(
      sqlite3.connect(
        path or ':memory:',
        timeout=_LOCKED,
        isolation_level=None,  # each reply is in the file once it is written
        check_same_thread=False,  # one waits while another writes
      )
    ) as cache:
      # Not a kill, but a power cut could spoil the file: a wait for the disk
      # after each reply would hold up all the others.
      cache.execute('PRAGMA synchronous = OFF')
      cache.execute(
        'CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)'
      )
      yield cache
  except sqlite3.Error as error:
    raise ValueError(
      f'cache={str(path)!r}: {error}; legal: a file that a cache was written '
      'to, or a new one'
    ) from error


def _find(cache: sqlite3.Connection, key: str) -> str | None:
  query = 'SELECT reply FROM replies WHERE key = ?'
  return next((reply for (reply,) in cache.execute(query, (key,))), None)
