"""Client of an OpenAI-compatible chat endpoint: ask(prompts) -> replies.

1. cache    replies that any run received before are read from a file
2. request  the official client sends the others concurrently, and retries
            after transient errors
3. reply    each is checked, counted and written to the cache as it arrives

A prompt whose request fails gets None; each kind of error is logged once.
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
  """A language model at a URL.

  The API key is read from the environment for each request, and never stored.

  Raises:
    ValueError: a setting is invalid (named), or the cache cannot be opened.
  """

  url: str  # up to and including /v1
  model: str
  # Name of an environment variable; may be unset, as local servers need no key.
  key_variable: str = 'OPENAI_API_KEY'
  temperature: float | None = 1.0  # None: the server's default
  max_tokens: int | None = 1024  # of a reply; None: the server's default
  concurrency: int = 16  # simultaneous requests
  timeout: float = 120.0  # seconds per request, from first to last byte
  retries: int = 4  # of a request, after transient errors
  cache: Path | str | None = None  # path of an SQLite file; empty: no cache
  prices: Sequence[float] = (0.0, 0.0)  # per 10⁶ prompt and completion tokens

  def __post_init__(self):
    for name, (is_valid, expected) in _VALID.items():
      value = getattr(self, name)
      if not is_valid(value):
        setting = _SETTINGS.get(name, f'endpoint.{name}')
        raise ValueError(f'{setting}={value!r}; expected {expected}')
    self._usage = Usage()
    self._logged_errors: set[type[Exception]] = set()
    self._lock = threading.Lock()
    # Opened once now, so that an invalid file fails before hours of training.
    with cache.opened(self.cache):
      pass

  @property
  def usage(self) -> Usage:
    """Copy of the cumulative counts."""
    return dataclasses.replace(self._usage)

  def ask(
    self, prompts: Sequence[str], schema: Mapping[str, Any] | None = None
  ) -> list[str | None]:
    """Returns a reply to each prompt, in order; None if its request failed.

    A prompt that occurs n times gets n samples.  Thread-safe: concurrent calls
    run one after the other, so that `concurrency` limits them together.

    Args:
      prompts: texts.
      schema: JSON schema to constrain the replies, if the server supports it.

    Raises:
      TypeError: `prompts` is a single text.
      ValueError: the cache cannot be read or written.
    """
    settings = self._settings(schema)
    with self._lock:
      return cache.replies(
        self.cache,
        # Any other URL or setting is another model: its replies do not match.
        [self.url, settings],
        prompts,
        self._usage,
        functools.partial(self._fetch_all, settings),
      )

  def _settings(self, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the part of a request that is the same for every prompt."""
    names = 'model', 'temperature', 'max_tokens'
    settings = {name: getattr(self, name) for name in names}
    if schema is not None:
      named = {'name': schema['title'], 'schema': schema}
      settings['response_format'] = {
        'type': 'json_schema',
        'json_schema': named,
      }
    # Servers need not accept null, so a setting of None is left out.
    return {name: v for name, v in settings.items() if v is not None}

  def _fetch_all(
    self, settings: Mapping[str, Any], calls: Mapping[str, Call], keep: Keep
  ) -> None:
    # A new event loop in another thread: the caller's may be running already,
    # as in a notebook, and cannot be entered again.
    with from_thread.start_blocking_portal() as portal:
      portal.call(self._fetch, settings, calls, keep)

  async def _fetch(
    self, settings: Mapping[str, Any], calls: Mapping[str, Call], keep: Keep
  ) -> None:
    """Requests all replies, and caches each as it arrives."""
    slots = asyncio.Semaphore(self.concurrency)

    async def answer(key: str, call: Call) -> None:
      async with slots:
        # Cached before the slot is free, so that a kill loses at most the
        # replies of `concurrency` requests.
        keep(key, await self._reply(client, settings, call.prompt))

    async with self._client() as client:
      await asyncio.gather(*(answer(*item) for item in calls.items()))

  def _client(self) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
      base_url=self.url,
      # The client requires a key, even if the server does not.
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
      # Counted first, because an unusable reply is paid for too.
      self._count(completion)
      return _text(completion)
    # A server is untrusted and can cause any error; one bad answer must not
    # cancel the requests of the other prompts.
    except Exception as error:
      self._log_error(error)
      return None

  def _count(self, completion: Any) -> None:
    """Adds a completion's tokens and price to the usage."""
    reported = getattr(completion, 'usage', None)
    prompt = _tokens(reported, 'prompt_tokens')
    reply = _tokens(reported, 'completion_tokens')
    self._usage.prompt_tokens += prompt
    self._usage.completion_tokens += reply
    self._usage.cost += (prompt * self.prices[0] + reply * self.prices[1]) / 1e6

  def _log_error(self, error: Exception) -> None:
    """Logs the reason for a missing reply, once for each type of error."""
    if type(error) in self._logged_errors:
      return
    self._logged_errors.add(type(error))
    reason = str(error)
    if isinstance(error, openai.APIStatusError):
      reason = f'status {error.status_code}, {error.body}'
    reason = ' '.join(reason.split())
    key = self._key()
    # A server's error message may repeat the key, which must not be logged.
    if key:
      reason = reason.replace(key, '[key]')
    metrics.log(
      f'endpoint: no reply from {self.url}, model {self.model}, '
      f'{"with the" if key else "without a"} key of {self.key_variable}: '
      f'{type(error).__name__}: {reason:.300}'
    )


def from_config(config: Config) -> Endpoint:
  """Makes the endpoint of a config's node, whose keys are `Endpoint`'s fields.

  Raises:
    ValueError: a setting is missing, unknown or invalid.
  """
  given = set(config)
  fields = {field.name for field in dataclasses.fields(Endpoint)}
  missing, unknown = {'url', 'model'} - given, given - fields
  if missing or unknown:
    raise ValueError(
      f'endpoint: missing {sorted(missing)}, unknown {sorted(unknown)}; '
      f'expected settings: {sorted(fields)}'
    )
  return Endpoint(**config)


class _Http(openai.DefaultAsyncHttpxClient):
  """HTTP client that counts requests and limits the total time of each.

  The timeout of httpx applies to each read, so a server that sends a byte now
  and then would never exceed it.
  """

  def __init__(self, usage: Usage, seconds: float):
    super().__init__()
    self._usage, self._seconds = usage, seconds

  async def send(
    self, request: httpx2.Request, **settings: Any
  ) -> httpx2.Response:
    # Called once per attempt, so retries are counted.
    self._usage.requests += 1
    try:
      async with asyncio.timeout(self._seconds):
        return await super().send(request, **settings)
    except TimeoutError as error:
      # The official client retries after this type of error.
      raise httpx2.ReadTimeout(
        f'not complete within timeout={self._seconds} s', request=request
      ) from error


def _text(completion: Any) -> str:
  """Returns the reply of a chat completion.

  Raises:
    ValueError: the completion is malformed, or its reply empty.
  """
  # The client does not validate a server's JSON: any field may be absent or of
  # any type.
  try:
    choice = completion.choices[0]
    text = choice.message.content
  except (AttributeError, LookupError, TypeError):
    raise ValueError(f'not a chat completion: {completion!r:.200}') from None
  if not isinstance(text, str) or not text.strip():
    # Reasoning models reach `max_tokens` before their reply begins; then the
    # finish reason, 'length', explains the empty reply.
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
  # In Python True and False are integers; as a setting they are mistakes.
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
    and value >= 0
  )


def _is_count(value: Any) -> bool:
  return _is_number(value) and isinstance(value, int)


# Settings that `llm.llm_settings` has beside `endpoint`, and their names there.
_SETTINGS = {
  'temperature': 'temperature',
  'max_tokens': 'max_new_tokens',
  'cache': 'cache',
}
# Setting -> (predicate of valid values, description of them for errors).
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
  'url': (_is_url, 'http://… or https://…'),
  'model': (_is_name, "the server's name of a model"),
  'key_variable': (_is_name, 'the name of an environment variable'),
  'temperature': (lambda v: v is None or _is_number(v), '0 or more, or None'),
  'max_tokens': (
    lambda v: v is None or (_is_count(v) and v >= 1),
    'an integer of 1 or more, or None',
  ),
  'concurrency': (lambda v: _is_count(v) and v >= 1, 'an integer of 1 or more'),
  'timeout': (lambda v: _is_number(v) and v > 0, 'seconds above 0'),
  'retries': (_is_count, 'an integer of 0 or more'),
  'cache': (
    lambda v: v is None or isinstance(v, (str, Path)),
    'a path, or an empty value for no cache',
  ),
  'prices': (
    lambda v: (
      isinstance(v, Sequence) and len(v) == 2 and all(map(_is_number, v))
    ),
    'two numbers of 0 or more, for 10⁶ prompt and 10⁶ completion tokens',
  ),
}
