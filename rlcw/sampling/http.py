"""HTTP client for servers that are not trusted: bounded in time and size.

The official client of the OpenAI API sends its requests through this one.
"""

import asyncio
import ipaddress
import json
import re
import urllib.parse
from typing import Any

import httpx2
import openai

from rlcw.runtime import console
from rlcw.sampling.cache import Usage

MOST_BYTES = 4 * 2**20  # of an answer


class TooLong(Exception):
  """Raised for an answer of more than `MOST_BYTES`."""


class Client(openai.DefaultAsyncHttpxClient):
  """HTTP client that counts requests, and bounds each in time and size.

  * The timeout of httpx applies to each read, so a server that sends a byte now
    and then would never exceed it; here `seconds` bound the whole request.
  * An answer is read in parts, and refused if it gets too long.
  * An error inside an answer of status 200 gets the status that it names, so
    that the official client tries again where that may help.
  * Redirects are not followed: prompts, and perhaps the key, would go to
    another server than the one that a user has named.
  * A server on this machine is asked directly, whatever proxy is set.

  Args:
    url: of the server.
    usage: `requests` is updated in place.
    seconds: for a request, from first to last byte.
  """

  def __init__(self, url: str, usage: Usage, seconds: float):
    super().__init__(
      follow_redirects=False,
      trust_env=not _is_loopback(url),
      # A compressed answer could be a thousand times as long as what is sent.
      headers={'accept-encoding': 'identity'},
    )
    self._usage, self._seconds = usage, seconds

  async def send(
    self, request: httpx2.Request, **settings: Any
  ) -> httpx2.Response:
    # Called once per attempt, so retries are counted.
    self._usage.requests += 1
    try:
      async with asyncio.timeout(self._seconds):
        settings['stream'] = True
        return await _read(await super().send(request, **settings), request)
    except TimeoutError as error:
      console.notice(
        f'{request.url.host} gave no whole answer within endpoint.timeout='
        f'{self._seconds:g} s; a slow server needs more of it, or fewer '
        'requests at a time (endpoint.concurrency)'
      )
      # The official client retries after this type of error.
      raise httpx2.ReadTimeout(
        f'not complete within timeout={self._seconds} s', request=request
      ) from error


async def _read(
  response: httpx2.Response, request: httpx2.Request
) -> httpx2.Response:
  """Reads a response; one that contains an error gets the error's status."""
  try:
    content = bytearray()
    async for part in response.aiter_bytes():
      content += part
      if len(content) > MOST_BYTES:
        raise TooLong(f'the answer is longer than {MOST_BYTES / 2**20:g} MiB')
  finally:
    await response.aclose()
  status = response.status_code
  if status == 200:
    status = _hidden_status(bytes(content)) or status
  # The content is decoded already, and has another length than was sent.
  headers = [
    (name, value)
    for name, value in response.headers.multi_items()
    if name.lower() not in _OF_TRANSFER
  ]
  return httpx2.Response(
    status, headers=headers, content=bytes(content), request=request
  )


_OF_TRANSFER = 'content-encoding', 'content-length', 'transfer-encoding'


# Fields of an error with its status, or a word for it.
_CODES = 'code', 'status', 'status_code'
# Words in an error's code or type, for servers that give no number.
_STATUS_OF = {
  'rate_limit': 429,
  'too_many_requests': 429,
  'quota': 429,
  'exhausted': 429,
  'overloaded': 503,
  'unavailable': 503,
  'timeout': 504,
  'server_error': 500,
  'internal': 500,
  'api_key': 401,
  'authentication': 401,
  'permission': 403,
  'not_found': 404,
}


def _hidden_status(content: bytes) -> int | None:
  """Returns the status of an error inside an answer, None without one.

  Servers that pass requests on to others answer 200 before they know the
  outcome (OpenRouter); the error stands beside the choices, or in the first.
  """
  try:
    answer: Any = json.loads(content)
    choices = answer.get('choices')
    error: Any = answer.get('error') or (
      # Without choices the answer itself may be the error.
      choices[0].get('error') if choices else answer
    )
    status = _status_of(error if isinstance(error, dict) else {'type': error})
  # Anything else is for the reader of the answer to refuse.
  except (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
  ):
    return None
  return status if 400 <= status <= 599 else None


def _status_of(error: dict[str, Any]) -> int:
  """Returns the status that an error gives as a number, or else in words."""
  codes: list[Any] = [error.get(name) for name in _CODES]
  for code in codes:
    if isinstance(code, (int, float)) or str(code).isdecimal():
      return int(code)
  named = _status_in(f'{codes} {error.get("type")}')
  # A message may speak of anything, so no run ends at once for its words.
  said = _status_in(f'{error.get("message")}')
  return named or (said if said >= 429 else 0)


def _status_in(text: str) -> int:
  text = re.sub(r'[\s-]+', '_', text.lower())
  return next((n for word, n in _STATUS_OF.items() if word in text), 0)


def _is_loopback(url: str) -> bool:
  host = urllib.parse.urlsplit(url).hostname or ''
  try:
    address = ipaddress.ip_address(host)
    # 0.0.0.0, which servers print, leads to this machine too.
    return address.is_loopback or address.is_unspecified
  except ValueError:
    return host == 'localhost' or host.endswith('.localhost')
