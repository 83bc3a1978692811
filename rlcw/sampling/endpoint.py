"""Client of an OpenAI-compatible chat endpoint: ask(prompts) -> replies.

1. cache    replies that any run received before are read from a file
2. request  the official client sends the others concurrently, and retries
            after transient errors
3. reply    each is checked, counted and written to the cache as it arrives

A prompt whose request fails gets None; each kind of error is logged once.  A
reply is the text after a model's thoughts; one that the token limit or a filter
ended too early is a `cache.Cut`.
"""

import asyncio
import dataclasses
import functools
import json
import math
import os
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from anyio import from_thread

from rlcw.models.tokenizer import valid_unicode
from rlcw.runtime import console, processes, settings
from rlcw.sampling import answers, cache, http
from rlcw.sampling.cache import Call, Keep, Usage
from rlcw.sampling.outage import Trouble
from rlcw.sampling.prompts import excerpt

# Settings that newer models know by another name, and what is sent in place of
# a setting that is refused.
_NEWER = {'max_tokens': 'max_completion_tokens'}
_INSTEAD = {
  'max_tokens': 'max_completion_tokens is sent instead',
  'system': "it begins the user's message",
}


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
  max_new_tokens: int | None = 1024  # of a reply; None: the server's default
  concurrency: int = 16  # simultaneous requests
  timeout: float = 120.0  # seconds per request, from first to last byte
  retries: int = 4  # of a request, after transient errors
  cache: Path | str | None = None  # path of an SQLite file; empty: no cache
  prices: Sequence[float] = (0.0, 0.0)  # per 10⁶ prompt and completion tokens
  system: str = ''  # system message before each prompt; '' for none

  def __post_init__(self):
    for name, (is_valid, expected) in _VALID.items():
      value = getattr(self, name)
      # First, as the error below repeats the value.
      settings.refuse_secret(f'endpoint.{name}', value)
      if not is_valid(value):
        setting = name if name in _BESIDE else f'endpoint.{name}'
        raise ValueError(f'{setting}={value!r}; expected {expected}')
    self._usage, self._trouble = Usage(), Trouble()
    self._logged_errors: set[type[Exception]] = set()
    self._noted_free = False  # that a reply has no price
    # Settings that the server does not accept: see `_accepted`.
    self._refused: set[str] = set()
    self._lock = threading.Lock()
    # Opened once now, so that an invalid file fails before hours of training.
    with cache.opened(self.cache):
      pass

  @property
  def usage(self) -> Usage:
    """Copy of the cumulative counts."""
    return dataclasses.replace(self._usage)

  @property
  def trouble(self) -> Trouble:
    """The last error."""
    return self._trouble

  def ask(
    self, prompts: Sequence[str], schema: Mapping[str, Any] | None = None
  ) -> list[str | None]:
    """Returns a reply to each prompt, in order; None if its request failed.

    A reply that is not whole is a `Cut`.  A prompt that occurs n times gets n
    samples.  Thread-safe: concurrent calls run one after the other, so that
    `concurrency` limits them together.

    Args:
      prompts: texts.
      schema: JSON schema to constrain the replies, if the server supports it.

    Raises:
      TypeError: `prompts` is a single text.
      ValueError: the cache cannot be read or written.
    """
    fixed = self._settings(schema)
    with self._lock:
      return cache.replies(
        self.cache,
        # Any other URL or setting is another model: its replies do not match.
        [self.url, fixed, *([self.system] if self.system else [])],
        prompts,
        self._usage,
        functools.partial(self._fetch_all, fixed),
      )

  def _settings(self, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the part of a request that is the same for every prompt."""
    fixed: dict[str, Any] = {
      'model': self.model,
      'temperature': self.temperature,
      'max_tokens': self.max_new_tokens,
    }
    if schema is not None:
      named = {'name': schema['title'], 'schema': schema}
      fixed['response_format'] = {
        'type': 'json_schema',
        'json_schema': named,
      }
    # Servers need not accept null, so a setting of None is left out.
    return {name: v for name, v in fixed.items() if v is not None}

  def _fetch_all(
    self, fixed: Mapping[str, Any], calls: Mapping[str, Call], keep: Keep
  ) -> None:
    # A new event loop in another thread: the caller's may be running already,
    # as in a notebook, and cannot be entered again.
    # Replies that have not arrived when the run is asked to stop are given up.
    with (
      processes.interruptible(),
      from_thread.start_blocking_portal() as portal,
    ):
      portal.call(self._fetch, fixed, calls, keep)

  async def _fetch(
    self, fixed: Mapping[str, Any], calls: Mapping[str, Call], keep: Keep
  ) -> None:
    """Requests all replies, and caches each as it arrives."""
    slots = asyncio.Semaphore(self.concurrency)

    async def answer(key: str, call: Call) -> None:
      async with slots:
        # Cached before the slot is free, so that a kill loses at most the
        # replies of `concurrency` requests.
        keep(key, await self._reply(client, fixed, call.prompt))

    async with self._client() as client:
      await asyncio.gather(*(answer(*item) for item in calls.items()))

  def _client(self) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
      base_url=self.url,
      # The client requires a key, even if the server does not.
      api_key=self._key() or 'none',
      timeout=self.timeout,
      max_retries=self.retries,
      http_client=http.Client(self.url, self._usage, self.timeout),
    )

  def _key(self) -> str:
    # No key has white space, and an error about a line break would show it.
    return ''.join(os.environ.get(self.key_variable, '').split())

  async def _reply(
    self, client: openai.AsyncOpenAI, fixed: Mapping[str, Any], prompt: str
  ) -> str | None:
    refused = set[str]()  # found by this request
    try:
      while True:
        sent = self._accepted(fixed)
        messages: Any = self._messages(prompt)
        try:
          completion = await client.chat.completions.create(
            messages=messages, **sent
          )
          break
        except (openai.BadRequestError, openai.UnprocessableEntityError) as no:
          # Each pass takes away a setting, so they come to an end.
          roles = {each['role'] for each in messages}
          name = answers.refused_setting(no, roles | {*sent})
          if not name:
            # The prompt is refused, so settings may have been quoted only.
            self._refused -= refused
            raise
          refused |= self._note_refused(name)
      # Counted first, because an unusable reply is paid for too.
      self._count(completion)
      reply = answers.text_of(completion, self._masked)
      self._trouble = Trouble()
      return reply
    # A server is untrusted and can cause any error; one bad answer must not
    # cancel the requests of the other prompts.
    except Exception as error:
      self._log_error(error)
      return None

  def _messages(self, prompt: str) -> list[dict[str, str]]:
    """A prompt after the system message, or with it where that is refused."""
    roles = {'system': self.system, 'user': prompt}
    if 'system' in self._refused:
      roles = {'user': f'{self.system}\n\n{prompt}'}
    return [
      {'role': role, 'content': valid_unicode(text)}
      for role, text in roles.items()
      if text or role == 'user'
    ]

  def _accepted(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings as the server accepts them, as far as is known.

    Newer models know `max_completion_tokens` in place of `max_tokens`, and take
    no temperature.
    """
    return {
      _NEWER.get(name, name) if name in self._refused else name: value
      for name, value in fixed.items()
      if name in _NEWER or name not in self._refused
    }

  def _note_refused(self, name: str) -> set[str]:
    """Notes a setting that the server refuses; returns it if it is new."""
    new = {name} - self._refused
    if new:
      self._refused.add(name)
      console.log(
        f'endpoint: {self.url}, model {self.model}, refuses {name}: '
        + _INSTEAD.get(name, 'it is left out')
      )
    return new

  def _count(self, completion: Any) -> None:
    """Adds a completion's tokens and price to the usage."""
    prompt, reply = answers.tokens_of(completion)
    if any(self.prices) and not prompt + reply and not self._noted_free:
      self._noted_free = True
      console.notice(
        f'{self.url} reports no tokens of a reply: the cost does not count it'
      )
    self._usage.prompt_tokens += prompt
    self._usage.completion_tokens += reply
    self._usage.cost += (prompt * self.prices[0] + reply * self.prices[1]) / 1e6

  def _masked(self, text: str) -> str:
    """Removes the key: a server's error or reply may repeat it."""
    key = self._key()
    return text.replace(key, '[key]') if _is_secret(key) else text

  def _log_error(self, error: Exception) -> None:
    """Keeps the reason for a missing reply; logs one for each type of error."""
    status = getattr(error, 'status_code', None)
    reason = str(error)
    if isinstance(error, openai.APIStatusError):
      reason = f'status {status}, {error.body}'
      if place := error.response.headers.get('location'):
        reason += f', a redirect to {place}'
    elif isinstance(error, openai.APIConnectionError) and error.__cause__:
      reason += f' ({error.__cause__})'
    elif isinstance(error, json.JSONDecodeError):  # a page of another address
      reason = f'the answer is not JSON: {error.doc!r}'
    reason, key = self._masked(reason), self._key()
    text = (
      f'no reply from {self.url}, model {self.model}, '
      f'{"with the" if key else "without a"} key of {self.key_variable}: '
      f'{type(error).__name__}: {excerpt(reason, 300)}'
    )
    self._trouble = Trouble(text, *answers.meaning(status, reason))
    if type(error) not in self._logged_errors:
      self._logged_errors.add(type(error))
      console.log(f'endpoint: {text}')


def _is_secret(key: str) -> bool:
  """Returns whether a key is more than a word that a server here accepts.

  Replies may have such words: EMPTY, none, anything, x.
  """
  return len(key) >= 16 or (len(key) >= 6 and not key.isalpha())


def _is_url(value: Any) -> bool:
  try:
    parts = urllib.parse.urlsplit(value)
    # A query would stand before the path that is added to the URL.
    bare = not parts.query and not parts.fragment
    return parts.scheme in ('http', 'https') and bool(parts.hostname) and bare
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


# Settings that `llm.llm_settings` has beside `endpoint`.
_BESIDE = 'temperature', 'max_new_tokens', 'cache', 'system'
# Setting -> (predicate of valid values, description of them for errors).
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
  'url': (_is_url, 'http://… or https://…, up to and including /v1'),
  'model': (_is_name, "the server's name of a model"),
  'key_variable': (_is_name, 'the name of an environment variable'),
  'temperature': (lambda v: v is None or _is_number(v), '0 or more, or None'),
  'max_new_tokens': (
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
  'system': (lambda v: isinstance(v, str), 'a text'),
  'prices': (
    lambda v: (
      isinstance(v, Sequence) and len(v) == 2 and all(map(_is_number, v))
    ),
    'two numbers of 0 or more, for 10⁶ prompt and 10⁶ completion tokens',
  ),
}
