"""An OpenAI-compatible chat endpoint: one callable, ask(prompts) -> replies.

1. cache    a reply that was had before, if only by a killed run, comes from a
            file
2. request  the official client sends the others, many at a time, and tries
            again where that may help
3. reply    is checked, counted and written to the cache as it arrives

A prompt that gets no reply gets None, and why is said once.
"""

import asyncio
import dataclasses
import functools
import math
import os
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
from anyio import from_thread

from rlcw import Config
from rlcw.models.tokenizer import valid_unicode
from rlcw.runtime import metrics
from rlcw.sampling import cache
from rlcw.sampling.cache import Call, Keep, Usage


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
    with cache.opened(self.cache):
      pass  # a bad file is better refused now than after hours of training

  @property
  def usage(self) -> Usage:
    """What has been done so far."""
    return dataclasses.replace(self._usage)

  def ask(
    self, prompts: Sequence[str], schema: Mapping[str, Any] | None = None
  ) -> list[str | None]:
    """A reply to each prompt, in their order; None where none could be had.

    A prompt that is given several times gets as many samples.  Calls from
    several threads take turns, so that `concurrency` holds for them together.

    Args:
      prompts: texts.
      schema: a JSON schema that the server is told to hold replies to.

    Raises:
      ValueError: the cache cannot be read or written.
    """
    settings = self._settings(schema)
    with self._turn:
      return cache.replies(
        self.cache,
        [self.url, settings],
        prompts,
        self._usage,
        functools.partial(self._fetch_all, settings),
      )

  def _settings(self, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """The part of a request that is the same for every prompt."""
    names = 'model', 'temperature', 'max_tokens'
    settings = {name: getattr(self, name) for name in names}
    if schema is not None:
      form = {'name': schema['title'], 'schema': schema}
      settings['response_format'] = {'type': 'json_schema', 'json_schema': form}
    return {name: v for name, v in settings.items() if v is not None}

  def _fetch_all(
    self, settings: Mapping[str, Any], calls: Mapping[str, Call], keep: Keep
  ) -> None:
    # A thread with an event loop of its own: the caller's, if there is
    # one, is running, as in a notebook.
    with from_thread.start_blocking_portal() as portal:
      portal.call(self._fetch, settings, calls, keep)

  async def _fetch(
    self, settings: Mapping[str, Any], calls: Mapping[str, Call], keep: Keep
  ) -> None:
    """The server's replies, each written to the cache as it arrives."""
    free = asyncio.Semaphore(self.concurrency)

    async def answer(key: str, call: Call) -> None:
      async with free:
        # before the next request is sent
        keep(key, await self._reply(client, settings, call.prompt))

    async with self._client() as client:
      await asyncio.gather(*(answer(*item) for item in calls.items()))

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

  async def _reply(
    self, client: openai.AsyncOpenAI, settings: Mapping[str, Any], prompt: str
  ) -> str | None:
    try:
      completion = await client.chat.completions.create(
        messages=[{'role': 'user', 'content': valid_unicode(prompt)}],
        **settings,
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
    metrics.log(
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
  return valid_unicode(text)


def _tokens(usage: Any, name: str) -> int:
  count = getattr(usage, name, None)
  return max(count, 0) if isinstance(count, int) else 0


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
