"""An OpenAI-compatible chat endpoint: one callable, ask(prompts) -> replies.

1. cache    a reply that was had before, if only by a killed run, comes from a
            file
2. request  the official client sends the others, many at a time, and tries
            again where that may help
3. reply    is checked, counted and written to the cache as it arrives

A prompt that gets no reply gets None, and why is said once.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sqlite3
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
from anyio import from_thread

from rlcw import Config, metrics

_MANY = 50  # prompts, which are worth a progress bar
_LOCKED = 60.0  # seconds to wait for another process that writes to the cache


@dataclasses.dataclass
class Usage:
  """What an endpoint has done; `later - earlier` is what it did between."""

  prompts: int = 0  # that were answered, or given up
  cached: int = 0  # of these, answered by the cache
  failed: int = 0  # of these, given up
  requests: int = 0  # sent to the server, retries included
  prompt_tokens: int = 0  # as the server tells; 0 where it does not
  completion_tokens: int = 0
  seconds: float = 0.0  # in `ask`
  cost: float = 0.0  # in the currency of the prices

  def __sub__(self, earlier: 'Usage') -> 'Usage':
    pairs = zip(vars(self).values(), vars(earlier).values(), strict=True)
    return Usage(*(mine - its for mine, its in pairs))

  def as_dict(self) -> dict[str, float]:
    """Plain numbers by name."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(kw_only=True)
class Endpoint:
  """A model behind a URL.

  The key is read from the environment when it is needed, and kept nowhere.

  Raises:
    ValueError: names the setting that is not legal, or the cache that is none.
  """

  url: str  # up to and with /v1
  model: str
  key_variable: str = 'OPENAI_API_KEY'  # may be unset: local servers want none
  temperature: float | None = 1.0  # None leaves it to the server
  max_tokens: int | None = 1024  # of a reply; None leaves it to the server
  concurrency: int = 16  # requests at a time
  timeout: float = 120.0  # seconds for one request from first to last byte
  retries: int = 4  # of a request, after errors that may pass
  cache: Path | str | None = None  # an SQLite file; none where empty
  prices: Sequence[float] = (0.0, 0.0)  # of 10⁶ prompt, completion tokens

  def __post_init__(self):
    for name, (is_legal, legal) in _LEGAL.items():
      value = getattr(self, name)
      if not is_legal(value):
        raise ValueError(f'endpoint.{name}={value!r}; legal: {legal}')
    self._usage = Usage()
    self._told: set[type[Exception]] = set()
    self._turn = threading.Lock()
    with _open(self.cache):
      pass  # a bad file is better refused now than after hours of training

  @property
  def usage(self) -> Usage:
    """What has been done so far."""
    return dataclasses.replace(self._usage)

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """A reply to each prompt, in their order; None where none could be had.

    A prompt that is given several times gets as many samples.  Calls from
    several threads take turns, so that `concurrency` holds for them together.

    Raises:
      ValueError: the cache cannot be read or written.
    """
    if isinstance(prompts, str):
      raise TypeError(f'prompts={prompts!r:.80}; a list of texts is expected')
    with self._turn, _open(self.cache) as cache:
      started = time.perf_counter()
      asked = dict(zip(self._keys(prompts), prompts, strict=True))
      replies = {key: _find(cache, key) for key in asked}
      missing = {key: asked[key] for key in asked if replies[key] is None}
      cached = len(asked) - len(missing)
      self._usage.prompts += cached
      self._usage.cached += cached
      if missing:
        # A thread with an event loop of its own: the caller's, if there is
        # one, is running, as in a notebook.
        with from_thread.start_blocking_portal() as portal:
          replies |= portal.call(self._fetch, missing, cache)
      self._usage.seconds += time.perf_counter() - started
      return [*replies.values()]

  def _keys(self, prompts: Sequence[str]) -> Iterator[str]:
    """The name in the cache of each prompt's reply, no two the same."""
    times: Counter[str] = Counter()
    for prompt in prompts:
      identity = [self.url, self._settings(), prompt, times[prompt]]
      yield hashlib.sha256(json.dumps(identity).encode()).hexdigest()
      times[prompt] += 1

  def _settings(self) -> dict[str, Any]:
    """The part of a request that is the same for every prompt."""
    names = 'model', 'temperature', 'max_tokens'
    settings = {name: getattr(self, name) for name in names}
    return {name: v for name, v in settings.items() if v is not None}

  async def _fetch(
    self, missing: Mapping[str, str], cache: sqlite3.Connection
  ) -> dict[str, str | None]:
    """The server's replies, each written to the cache as it arrives."""
    free = asyncio.Semaphore(self.concurrency)
    replies = {}
    bar = metrics.progress('ask', 0, len(missing), 'prompt')
    steps = bar if len(missing) >= _MANY else iter(missing)
    next(steps)  # shows the bar before there is a reply

    async def answer(key: str, prompt: str) -> None:
      async with free:
        reply = replies[key] = await self._reply(client, prompt)
        self._usage.prompts += 1
        if reply is None:
          self._usage.failed += 1
        else:
          _keep(cache, key, reply)  # before the next request is sent
        next(steps, None)

    async with self._client() as client:
      await asyncio.gather(*(answer(*item) for item in missing.items()))
    return replies

  def _client(self) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
      base_url=self.url,
      # The client insists on a key, even where the server wants none.
      api_key=self._key() or 'none',
      timeout=self.timeout,
      max_retries=self.retries,
      http_client=_Http(self._usage, self.timeout),
    )

  def _key(self) -> str:
    return os.environ.get(self.key_variable, '').strip()

  async def _reply(self, client: openai.AsyncOpenAI, prompt: str) -> str | None:
    try:
      completion = await client.chat.completions.create(
        messages=[{'role': 'user', 'content': _whole(prompt)}],
        **self._settings(),
      )
      self._count(completion)
      return _text(completion)
    # Whatever a server can do wrong, the other prompts still want a reply.
    except Exception as error:
      self._tell(error)
      return None

  def _count(self, completion: Any) -> None:
    """An answer without a usable reply has its price too."""
    told = getattr(completion, 'usage', None)
    read = _tokens(told, 'prompt_tokens')
    written = _tokens(told, 'completion_tokens')
    self._usage.prompt_tokens += read
    self._usage.completion_tokens += written
    self._usage.cost += (read * self.prices[0] + written * self.prices[1]) / 1e6

  def _tell(self, error: Exception) -> None:
    """Says why a prompt has no reply, once for each kind of error."""
    if type(error) in self._told:
      return
    self._told.add(type(error))
    reason = str(error)
    if isinstance(error, openai.APIStatusError):
      reason = f'status {error.status_code}, {error.body}'
    reason = ' '.join(reason.split())
    key = self._key()
    if key:
      reason = reason.replace(key, '[key]')  # a server may repeat it
    metrics.say(
      f'endpoint: no reply from {self.url}, model {self.model}, '
      f'{"with the" if key else "without a"} key of {self.key_variable}: '
      f'{type(error).__name__}: {reason:.300}'
    )


def from_config(config: Config) -> Endpoint:
  """The endpoint that a config's node describes, by the names of its fields.

  Raises:
    ValueError: a setting is missing, unknown or not legal.
  """
  given = set(config)
  fields = {field.name for field in dataclasses.fields(Endpoint)}
  missing, unknown = {'url', 'model'} - given, given - fields
  if missing or unknown:
    raise ValueError(
      f'endpoint: missing {sorted(missing)}, unknown {sorted(unknown)}; '
      f'legal: {sorted(fields)}'
    )
  return Endpoint(**config)


class _Http(openai.DefaultAsyncHttpxClient):
  """Counts requests, and ends each that is not over in time.

  The client's own timeout is for each read: a server that trickles would never
  meet it.
  """

  def __init__(self, usage: Usage, seconds: float):
    super().__init__()
    self._usage, self._seconds = usage, seconds

  async def send(
    self, request: httpx2.Request, **settings: Any
  ) -> httpx2.Response:
    self._usage.requests += 1
    try:
      async with asyncio.timeout(self._seconds):
        return await super().send(request, **settings)
    except TimeoutError as error:
      # the kind that the official client tries again
      raise httpx2.ReadTimeout('not over in time', request=request) from error


def _text(completion: Any) -> str:
  """The reply in an answer, which may be anything at all.

  Raises:
    ValueError: there is none.
  """
  try:
    choice = completion.choices[0]
    text = choice.message.content
  except (AttributeError, LookupError, TypeError):
    raise ValueError(f'not a chat completion: {completion!r:.200}') from None
  if not isinstance(text, str) or not text.strip():
    reason = getattr(choice, 'finish_reason', None)
    raise ValueError(f'empty: content={text!r:.80}, finish_reason={reason!r}')
  return _whole(text)


def _whole(text: str) -> str:
  """The text with � for each half of a surrogate pair, which is not UTF-8."""
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def _tokens(usage: Any, name: str) -> int:
  count = getattr(usage, name, None)
  return max(count, 0) if isinstance(count, int) else 0


@contextlib.contextmanager
def _open(path: Path | str | None) -> Iterator[sqlite3.Connection]:
  """The cache of replies; without a path, one that is empty and soon gone.

  Several processes may have it open.

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
        check_same_thread=False,  # `ask` waits while its thread writes
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
      f'endpoint.cache={str(path)!r}: {error}; legal: a file that an endpoint '
      'wrote, or a new one'
    ) from error


def _find(cache: sqlite3.Connection, key: str) -> str | None:
  query = 'SELECT reply FROM replies WHERE key = ?'
  return next((reply for (reply,) in cache.execute(query, (key,))), None)


def _keep(cache: sqlite3.Connection, key: str, reply: str) -> None:
  cache.execute('INSERT OR IGNORE INTO replies VALUES (?, ?)', (key, reply))


def _is_url(value: Any) -> bool:
  try:
    parts = urllib.parse.urlsplit(value)
    return parts.scheme in ('http', 'https') and bool(parts.hostname)
  except (AttributeError, TypeError, ValueError):
    return False


def _is_name(value: Any) -> bool:
  return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
    and value >= 0
  )


def _is_count(value: Any) -> bool:
  return _is_number(value) and isinstance(value, int)


# What each setting may be, as a test and in words.
_LEGAL: dict[str, tuple[Callable[[Any], bool], str]] = {
  'url': (_is_url, 'http://… or https://…'),
  'model': (_is_name, "the server's name of a model"),
  'key_variable': (_is_name, 'the name of an environment variable'),
  'temperature': (lambda v: v is None or _is_number(v), '0 or more, or None'),
  'max_tokens': (
    lambda v: v is None or (_is_count(v) and v >= 1),
    'an integer from 1 on, or None',
  ),
  'concurrency': (lambda v: _is_count(v) and v >= 1, 'an integer from 1 on'),
  'timeout': (lambda v: _is_number(v) and v > 0, 'seconds above 0'),
  'retries': (_is_count, 'an integer from 0 on'),
  'cache': (
    lambda v: v is None or isinstance(v, (str, Path)),
    'a path, or none where empty',
  ),
  'prices': (
    lambda v: (
      isinstance(v, Sequence) and len(v) == 2 and all(map(_is_number, v))
    ),
    'two numbers from 0 on: for 10⁶ prompt, and 10⁶ completion tokens',
  ),
}
