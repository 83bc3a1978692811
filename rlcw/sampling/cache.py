"""Cache of language models' replies in an SQLite file.

Only missing replies are requested from the model, so an interrupted run loses
none that had arrived.  Several processes may use the same file.
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

from rlcw.models.thoughts import reply_of
from rlcw.runtime import console

_BAR_FROM = 50  # prompts from which on a progress bar is shown
_LOCK_TIMEOUT = 60.0  # seconds to wait for another process that writes


@dataclasses.dataclass
class Usage:
  """Cumulative counts of a model's use."""

  prompts: int = 0  # answered or failed
  cached: int = 0  # of these, answered from the cache
  failed: int = 0  # of these, without a reply after all retries
  cut: int = 0  # of these, ended by the token limit or a filter: see `Cut`
  requests: int = 0  # sent to the model, retries included
  prompt_tokens: int = 0  # reported by the server; 0 if it reports none
  completion_tokens: int = 0
  seconds: float = 0.0  # spent in `ask`
  cost: float = 0.0  # in the currency of the prices

  def as_dict(self) -> dict[str, float]:
    """Returns the counts by name."""
    return dataclasses.asdict(self)


class Cut(str):
  """A reply that the token limit or a server's filter ended too early."""


class Call(NamedTuple):
  """Request for one reply."""

  prompt: str
  sample: int  # index among the replies to the same prompt, from 0


# (key, reply) -> None: stores a reply, or None if the model gave none.
Keep = Callable[[str, str | None], None]
# (calls by key, keep) -> None: generates the replies, and passes each to `keep`
# as soon as it arrives.
Fetch = Callable[[Mapping[str, Call], Keep], None]


def replies(
  path: Path | str | None,
  identity: Sequence[Any],
  prompts: Sequence[str],
  usage: Usage,
  fetch: Fetch,
) -> list[str | None]:
  """Returns a reply to each prompt, in order; None if the model gave none.

  A prompt that occurs n times gets n samples, one for each occurrence.  A reply
  that is not whole is a `Cut`, whether it comes from the cache or not.

  Args:
    path: of the cache; if empty or None, nothing is cached.
    identity: JSON values that determine the replies besides the prompts, such
      as the model and the temperature.
    prompts: texts.
    usage: updated in place.
    fetch: generates the missing replies.

  Raises:
    TypeError: `prompts` is a single text instead of a list.
    ValueError: the cache cannot be read or written.
  """
  # A string is a sequence of strings too: each letter would be a prompt.
  if isinstance(prompts, str):
    raise TypeError(f'prompts={prompts!r:.80}; expected a list of texts')
  with opened(path) as cache:
    started = time.perf_counter()
    # Repeats of a prompt have different keys, so `calls` has one per prompt
    # and, as dictionaries keep their order, in the order of the prompts.
    calls = {_key(identity, call): call for call in _number_samples(prompts)}
    by_key = {key: _lookup(cache, key) for key in calls}
    missing = {key: calls[key] for key in calls if by_key[key] is None}
    usage.prompts += len(calls) - len(missing)
    usage.cached += len(calls) - len(missing)
    bar = console.progress('ask', 0, len(missing), 'prompt')
    steps = bar if len(missing) >= _BAR_FROM else iter(missing)
    # The bar is a generator: the first `next` shows it, at 0.
    next(steps, None)

    def keep(key: str, reply: str | None) -> None:
      by_key[key] = reply
      usage.prompts += 1
      if reply is None:
        usage.failed += 1
      else:
        _store(cache, key, reply)
      next(steps, None)

    if missing:
      fetch(missing, keep)
    usage.seconds += time.perf_counter() - started
    usage.cut += sum(isinstance(reply, Cut) for reply in by_key.values())
    return [*by_key.values()]


def _number_samples(prompts: Sequence[str]) -> Iterator[Call]:
  times: Counter[str] = Counter()
  for prompt in prompts:
    yield Call(prompt, times[prompt])
    times[prompt] += 1


def _key(identity: Sequence[Any], call: Call) -> str:
  """Key of a reply in the cache."""
  return hashlib.sha256(json.dumps([*identity, *call]).encode()).hexdigest()


@contextlib.contextmanager
def opened(path: Path | str | None) -> Iterator[sqlite3.Connection]:
  """Opens the cache; without a path, a temporary one in memory.

  Args:
    path: an SQLite file, which is created if it does not exist.

  Raises:
    ValueError: SQLite cannot use the file, on opening or later in the context.
  """
  if path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
  try:
    with contextlib.closing(
      sqlite3.connect(
        path or ':memory:',
        timeout=_LOCK_TIMEOUT,
        # Autocommit: a reply survives a kill as soon as it is inserted.
        isolation_level=None,
        # Replies are inserted from the event loop's thread, while the thread
        # that opened the connection waits; the two never use it at once.
        check_same_thread=False,
      )
    ) as cache:
      # No fsync per reply, which would delay all the others.  Only a power cut
      # can then corrupt the file; a killed process cannot.
      cache.execute('PRAGMA synchronous = OFF')
      cache.execute(
        'CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)'
      )
      # A table of its own: a file that an earlier version wrote lacks it.
      cache.execute('CREATE TABLE IF NOT EXISTS cut (key TEXT PRIMARY KEY)')
      yield cache
  except sqlite3.Error as error:
    raise ValueError(
      f'cache={str(path)!r}: {error}; expected a file that a cache was written '
      'to, or the path of a new one'
    ) from error


def _store(cache: sqlite3.Connection, key: str, reply: str) -> None:
  # In a transaction, so that no kill separates a reply from its mark.
  cache.execute('BEGIN IMMEDIATE')
  # IGNORE: another process may have stored a reply to the same call.
  stored = cache.execute(
    'INSERT OR IGNORE INTO replies VALUES (?, ?)', (key, str(reply))
  )
  if stored.rowcount and isinstance(reply, Cut):
    cache.execute('INSERT OR IGNORE INTO cut VALUES (?)', (key,))
  cache.execute('COMMIT')


def _lookup(cache: sqlite3.Connection, key: str) -> str | None:
  query = (
    'SELECT reply, EXISTS(SELECT 1 FROM cut WHERE key = replies.key) '
    'FROM replies WHERE key = ?'
  )
  for reply, is_cut in cache.execute(query, (key,)):
    # Earlier versions stored thoughts too.
    whole = reply_of(reply) or None
    return Cut(whole) if whole and is_cut else whole
  return None
