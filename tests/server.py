"""A chat endpoint on a loopback port that does as a test tells it, if badly.

def handler(request, n):  # the n-th request, from 0, as its JSON
  return 'a reply' if n else Fault(status=500)

with serving(handler) as server:
  ...  # server.url, server.requests, server.headers, server.peak
"""

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fastapi
import uvicorn

_TICK = 0.01  # seconds between looks whether the client has gone


def completion(content: Any, **changes: Any) -> str:
  """The JSON of a chat completion: `content`, of so many words as tokens."""
  message = {'role': 'assistant', 'content': content}
  written = len(str(content).split())
  answer = {
    'id': 'chatcmpl-0',
    'object': 'chat.completion',
    'created': 0,
    'model': 'm',
    'choices': [{'index': 0, 'message': message, 'finish_reason': 'stop'}],
    'usage': {
      'prompt_tokens': 10,
      'completion_tokens': written,
      'total_tokens': 10 + written,
    },
  }
  return json.dumps(answer | changes)


@dataclasses.dataclass(frozen=True)
class Fault:
  """An answer that a reply alone cannot describe."""

  body: str = completion('a reply')
  status: int = 200
  headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  delay: float = 0.0  # seconds before the first byte
  trickle: float = 0.0  # seconds before each byte of the body
  cut: bool = False  # the connection drops in the middle of the body


SOON = {'retry-after-ms': '1'}  # spares a test the client's half a second
Handler = Callable[[dict[str, Any], int], str | Fault]


def prompt_of(request: Mapping[str, Any]) -> str:
  """The user message, which is the only one."""
  (message,) = request['messages']
  assert message['role'] == 'user'
  return message['content']


def echo(request: Mapping[str, Any], n: int) -> str:
  """A handler whose replies show what they reply to."""
  return f're: {prompt_of(request)}'


def fault_id(value: Any) -> str | None:
  """A short name for the case of a parametrised test."""
  if not isinstance(value, Fault):
    return None
  told = dataclasses.asdict(value)
  del told['headers']
  return ' '.join(f'{name}={v}'[:50] for name, v in told.items() if v)


class Server:
  """What a test sees of the server."""

  def __init__(self, url: str):
    self.url = url
    self.requests: list[dict[str, Any]] = []
    self.headers: list[Mapping[str, str]] = []
    self.active = 0  # requests being answered now
    self.peak = 0  # the most at one time


class _Answer(fastapi.Response):
  """Sends what a fault says, until the client has gone."""

  def __init__(self, fault: Fault, request: fastapi.Request, server: Server):
    headers = {'content-type': 'application/json', **fault.headers}
    super().__init__(fault.body.encode(), fault.status, headers)
    self._fault, self._request, self._server = fault, request, server

  async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
    try:
      if await self._is_there_after(self._fault.delay):
        await self._send(send)
    finally:
      self._server.active -= 1

  async def _send(self, send: Any) -> None:
    start = {'status': self.status_code, 'headers': self.raw_headers}
    await send({'type': 'http.response.start', **start})

    async def write(part: bytes, more_body: bool = True) -> None:
      body = {'body': part, 'more_body': more_body}
      await send({'type': 'http.response.body', **body})

    if self._fault.cut:
      # Half of what the header promises: uvicorn then drops the connection.
      await write(self.body[: len(self.body) // 2])
      return
    if self._fault.trickle:
      for byte in self.body:
        if not await self._is_there_after(self._fault.trickle):
          return
        await write(bytes([byte]))
    await write(b'' if self._fault.trickle else self.body, more_body=False)

  async def _is_there_after(self, seconds: float) -> bool:
    """Whether the client is still there when the time is over."""
    end = time.monotonic() + seconds
    while not await self._request.is_disconnected():
      left = end - time.monotonic()
      if left <= 0:
        return True
      await asyncio.sleep(min(left, _TICK))
    return False


def _application(server: Server, handler: Handler) -> fastapi.FastAPI:
  app = fastapi.FastAPI()

  @app.post('/v1/chat/completions')
  async def chat(request: fastapi.Request) -> fastapi.Response:
    asked = json.loads(await request.body())
    n = len(server.requests)
    server.requests.append(asked)
    server.headers.append(request.headers)
    server.active += 1
    server.peak = max(server.peak, server.active)
    answer = handler(asked, n)
    if isinstance(answer, str):
      answer = Fault(completion(answer))
    return _Answer(answer, request, server)

  return app


@contextlib.contextmanager
def serving(handler: Handler) -> Iterator[Server]:
  """A server on a free port, for as long as the context lasts."""
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    server = Server(f'http://127.0.0.1:{listener.getsockname()[1]}/v1')
    config = uvicorn.Config(
      _application(server, handler), log_config=None, lifespan='off'
    )
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, args=([listener],))
    thread.start()
    try:
      while not runner.started:
        assert thread.is_alive(), 'the server has not started'
        time.sleep(_TICK)
      yield server
    finally:
      runner.should_exit = runner.force_exit = True
      thread.join()
