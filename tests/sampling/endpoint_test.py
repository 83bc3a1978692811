"""The endpoint against a real server that keeps to no rule."""

import asyncio
import json
import pathlib
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from server import (
  SOON,
  Fault,
  Server,
  completion,
  echo,
  fault_id,
  prompt_of,
  serving,
)

from rlcw.runtime import console
from rlcw.sampling.cache import Usage
from rlcw.sampling.endpoint import Endpoint


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
  """The official client backs off for hundredths of a second."""
  monkeypatch.setattr('openai._base_client.INITIAL_RETRY_DELAY', 0.01)


def _endpoint(server: Server, **settings: Any) -> Endpoint:
  return Endpoint(url=server.url, model='m', **settings)


def _adds_up(usage: Usage, server: Server) -> None:
  assert usage.requests == len(server.requests)
  assert usage.cached + usage.failed <= usage.prompts
  assert all(isinstance(v, (int, float)) for v in usage.as_dict().values())


def test_replies_come_in_the_order_of_the_prompts() -> None:
  def handler(request: dict[str, Any], n: int) -> Fault:
    return Fault(completion(echo(request, n)), delay=0.01 * (20 - n))

  prompts = [f'prompt {n}' for n in range(20)]
  with serving(handler) as server:
    it = _endpoint(server, concurrency=20)
    assert it.ask(prompts) == [f're: {prompt}' for prompt in prompts]
    assert it.ask([]) == []
    assert server.requests[0].keys() == {
      'messages',
      'model',
      'temperature',
      'max_tokens',
    }
    assert it.usage.seconds >= 0.2
    _adds_up(it.usage, server)


@pytest.mark.parametrize('limit', [1, 7])
def test_no_more_requests_at_a_time_than_allowed(limit: int) -> None:
  def handler(request: dict[str, Any], n: int) -> Fault:
    return Fault(completion(echo(request, n)), delay=0.03)

  with serving(handler) as server:
    it = _endpoint(server, concurrency=limit)
    asks = [
      threading.Thread(target=it.ask, args=([f'{ask} {n}' for n in range(8)],))
      for ask in range(2)
    ]
    for ask in asks:
      ask.start()
    for ask in asks:
      ask.join()
    assert len(server.requests) == 16
    assert server.peak == limit
    assert it.usage.prompts == 16


def test_asks_from_inside_an_event_loop() -> None:
  async def notebook() -> list[str | None]:
    return it.ask(['a', 'b'])

  with serving(echo) as server:
    it = _endpoint(server)
    assert asyncio.run(notebook()) == ['re: a', 're: b']


@pytest.mark.usefixtures('fast')
@pytest.mark.parametrize(
  'fault',
  [
    Fault(status=429, headers=SOON),
    Fault('not JSON', status=500),
    Fault(status=503, headers=SOON),
    Fault(status=408, headers=SOON),
    Fault(cut=True),
    Fault(delay=60),
    Fault(trickle=0.1),
  ],
  ids=fault_id,
)
def test_what_may_pass_is_tried_again(fault: Fault) -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    return fault if n < 2 else 'at last'

  with serving(handler) as server:
    it = _endpoint(server, retries=2, timeout=0.5)
    assert it.ask(['a']) == ['at last']
    assert len(server.requests) == 3
    _adds_up(it.usage, server)


@pytest.mark.usefixtures('fast')
@pytest.mark.parametrize(
  ('fault', 'reason'),
  [
    (Fault(status=500), 'InternalServerError: status 500, '),
    (Fault(status=429), 'RateLimitError: status 429, '),
    (Fault(cut=True), 'APIConnectionError: Connection error.'),
    (Fault(delay=60), 'APITimeoutError: Request timed out.'),
    (Fault(trickle=0.1), 'APITimeoutError: Request timed out.'),
  ],
  ids=fault_id,
)
def test_what_does_not_pass_is_given_up(
  fault: Fault, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, retries=2, timeout=0.5, concurrency=4)
    assert it.ask(['a', 'b', 'c', 'd']) == [None] * 4
    assert len(server.requests) == 12
    assert it.usage.failed == it.usage.prompts == 4
    _adds_up(it.usage, server)
  said = capsys.readouterr().out
  assert said.count('endpoint: no reply from http://127.0.0.1:') == 1
  assert reason in said


def test_waits_longer_from_one_attempt_to_the_next() -> None:
  times = []

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    times.append(time.monotonic())
    return Fault(status=500) if n < 2 else 'at last'

  with serving(handler) as server:
    assert _endpoint(server).ask(['a']) == ['at last']
  assert times[1] - times[0] > 0.37
  assert times[2] - times[1] > 0.74


def test_waits_as_long_as_the_server_asks() -> None:
  times = []

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    times.append(time.monotonic())
    return 'ok' if n else Fault(status=429, headers={'retry-after': '1'})

  with serving(handler) as server:
    assert _endpoint(server).ask(['a']) == ['ok']
  assert times[1] - times[0] > 0.99


def test_does_not_wait_for_hours() -> None:
  fault = Fault(status=429, headers={'retry-after': '7200'})
  with serving(lambda request, n: fault) as server:
    assert _endpoint(server).ask(['a']) == [None]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
  ('body', 'told'),
  [
    ('{"error": {"message": "of sk-secret"}}', "{'message': 'of [key]'}"),
    ('{"detail": "of sk-secret"}', "{'detail': 'of [key]'}"),
    ('<p>\n of sk-secret', '<p> of [key]'),
  ],
)
@pytest.mark.parametrize(
  ('status', 'name'),
  [
    (400, 'BadRequestError'),
    (401, 'AuthenticationError'),
    (403, 'PermissionDeniedError'),
    (404, 'NotFoundError'),
    (422, 'UnprocessableEntityError'),
  ],
)
def test_what_cannot_pass_is_told_once_and_not_tried_again(
  status: int,
  name: str,
  body: str,
  told: str,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setenv('MY_KEY', 'sk-secret')
  fault = Fault(body, status)
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, key_variable='MY_KEY')
    assert it.ask(['a', 'b', 'c']) == [None] * 3
    assert it.ask(['d']) == [None]
    assert len(server.requests) == 4
    said = capsys.readouterr().out
    assert said == (
      f'endpoint: no reply from {server.url}, model m, with the key of MY_KEY: '
      f'{name}: status {status}, {told}\n'
    )


@pytest.mark.parametrize('lead', [0, 62, 75, 190])
def test_a_key_is_masked_before_a_text_is_cut(
  lead: int,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  key = 'sk-' + 'SECRET' * 4
  monkeypatch.setenv('MY_KEY', key)
  told = 'z' * lead + key
  refused = json.loads(completion(None))
  refused['choices'][0]['message']['refusal'] = told
  answers = (
    json.dumps(refused),
    completion([told]),
    json.dumps({'error': told}),
  )
  for answer in answers:
    with serving(lambda request, n, a=answer: Fault(a)) as server:
      assert _endpoint(server, key_variable='MY_KEY').ask(['a']) == [None]
  assert 'SECRET' not in capsys.readouterr().out


HTML = '<!DOCTYPE html><html><body>Bad gateway</body></html>'


@pytest.mark.parametrize(
  ('fault', 'reason'),
  [
    (Fault(completion('x')[:40]), 'JSONDecodeError: '),
    (Fault(''), 'JSONDecodeError: '),
    (Fault('[' * 100_000), 'RecursionError: '),
    (Fault(HTML, headers={'content-type': 'text/html'}), 'Bad gateway'),
    (Fault('{"error": "busy"}'), 'not a chat completion'),
    (Fault('[1, 2]'), 'not a chat completion'),
    (Fault('null'), 'not a chat completion'),
    (Fault(completion('x', choices=[])), 'not a chat completion'),
    (Fault(completion('x', choices=None)), 'not a chat completion'),
    (Fault(completion('x', choices={'a': 1})), 'not a chat completion'),
    (Fault(completion('x', choices=[{'text': 'x'}])), 'not a chat completion'),
    (Fault(completion(None)), "content=None, finish_reason='stop'"),
    (Fault(completion('')), "content='', finish_reason='stop'"),
    (Fault(completion(' \n')), 'content='),
    (Fault(completion(['x'])), "content=['x']"),
    (Fault(completion(3)), 'content=3'),
  ],
  ids=fault_id,
)
def test_an_answer_without_a_reply_is_a_failure_of_its_prompt_alone(
  fault: Fault,
  reason: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    return fault if prompt_of(request) == 'bad' else echo(request, n)

  with serving(handler) as server:
    it = _endpoint(server, cache=tmp_path / 'cache.sqlite')
    assert it.ask(['a', 'bad', 'b']) == ['re: a', None, 're: b']
    assert len(server.requests) == 3
    assert reason in capsys.readouterr().out
    assert it.ask(['a', 'bad', 'b']) == ['re: a', None, 're: b']
    assert len(server.requests) == 4  # a failure is not in the cache
    assert (it.usage.failed, it.usage.cached) == (2, 2)
    _adds_up(it.usage, server)


@pytest.mark.usefixtures('fast')
def test_a_late_answer_does_not_go_to_another_prompt() -> None:
  def handler(request: dict[str, Any], n: int) -> Fault:
    late = prompt_of(request) == 'late' and n == 0
    text = 'too late' if late else echo(request, n)
    return Fault(completion(text), delay=0.4 if late else 0.03)

  prompts = ['late', *(str(n) for n in range(20))]
  with serving(handler) as server:
    it = _endpoint(server, timeout=0.2, concurrency=2)
    assert it.ask(prompts) == [f're: {prompt}' for prompt in prompts]
    said = [n for n in console.take_notices() if 'endpoint.timeout=0.2 s' in n]
    assert len(said) == 1
    # On a busy machine others may be late as well.
    assert it.usage.requests >= 22


def test_halves_of_surrogate_pairs_are_replaced(tmp_path: pathlib.Path) -> None:
  def handler(request: dict[str, Any], n: int) -> Fault:
    assert prompt_of(request) == 'a � b 😀'
    return Fault(completion('half \ud83d, whole \U0001f600, nul \0'))

  with serving(handler) as server:
    it = _endpoint(server, cache=tmp_path / 'cache.sqlite')
    for _ in range(2):
      assert it.ask(['a \udc00 b \ud83d\ude00']) == ['half �, whole 😀, nul \0']
    assert len(server.requests) == 1


def test_a_text_is_no_list_of_prompts() -> None:
  with pytest.raises(
    TypeError, match="prompts='abc'; expected a list of texts"
  ):
    Endpoint(url='http://127.0.0.1:9/v1', model='m').ask('abc')


@pytest.mark.usefixtures('fast')
def test_a_server_that_is_not_there_is_no_reply() -> None:
  it = Endpoint(url='http://127.0.0.1:9/v1', model='m', retries=1)
  assert it.ask(['a']) == [None]
  assert it.usage.requests == 2


def test_the_key_is_sent_and_kept_nowhere(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  path = tmp_path / 'cache.sqlite'
  with serving(echo) as server:
    it = _endpoint(server, key_variable='MY_KEY', cache=path)
    monkeypatch.delenv('MY_KEY', raising=False)
    it.ask(['a'])
    monkeypatch.setenv('MY_KEY', ' sk-secret\n')
    it.ask(['b'])
    keys = [headers['authorization'] for headers in server.headers]
    assert keys == ['Bearer none', 'Bearer sk-secret']
  assert 'sk-secret' not in repr(it) + str(vars(it))
  assert b'sk-secret' not in path.read_bytes()
  assert 'sk-secret' not in ''.join(capfd.readouterr())


def test_a_key_that_a_reply_repeats_is_kept_nowhere(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / 'cache.sqlite'
  monkeypatch.setenv('MY_KEY', 'sk-secret')
  with serving(lambda request, n: 'You said Bearer sk-secret.') as server:
    it = _endpoint(server, key_variable='MY_KEY', cache=path)
    assert it.ask(['a']) == ['You said Bearer [key].']
  assert b'sk-secret' not in path.read_bytes()


@pytest.mark.parametrize('word', ['EMPTY', 'anything', 'x', '0'])
def test_a_word_for_a_key_is_no_secret(
  word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('MY_KEY', word)
  said = f'of {word} 0, max. 16'
  fault = Fault(json.dumps({'error': said}), status=400)
  with serving(lambda request, n: fault if n else said) as server:
    it = _endpoint(server, key_variable='MY_KEY')
    assert it.ask(['a']) == [said] and it.ask(['b']) == [None]
  assert it.trouble.text.endswith(f': status 400, {said}')


@pytest.fixture
def storm() -> Iterator[Server]:
  """A server that answers every third request well, and any other somehow."""
  faults = [
    Fault(status=500),
    Fault(status=429, headers=SOON),
    Fault(status=400),
    Fault(cut=True),
    Fault(delay=60),
    Fault(trickle=0.05),
    Fault(HTML, headers={'content-type': 'text/html'}),
    Fault(completion('x')[:40]),
    Fault(completion(None)),
    Fault(completion('x', choices=[])),
  ]
  chance = random.Random(0)

  def handler(request: dict[str, Any], n: int) -> Fault:
    if n % 3:
      return chance.choice(faults)
    return Fault(completion(echo(request, n)), delay=chance.random() * 0.05)

  with serving(handler) as server:
    yield server


@pytest.mark.usefixtures('fast')
def test_a_storm_of_faults_loses_nothing(
  storm: Server, tmp_path: pathlib.Path
) -> None:
  prompts = [f'prompt {n % 190}' for n in range(200)]
  it = _endpoint(
    storm,
    cache=tmp_path / 'cache.sqlite',
    retries=2,
    timeout=0.5,
    concurrency=32,
    prices=(1.0, 1.0),
  )
  replies = it.ask(prompts)
  assert len(replies) == 200
  for prompt, reply in zip(prompts, replies, strict=True):
    assert reply in (None, f're: {prompt}')
  usage = it.usage
  assert usage.prompts == 200
  assert usage.cached == 0
  assert usage.failed == replies.count(None)
  assert 20 < usage.failed < 180
  # One that hangs may be given up before the server has read it.
  assert usage.requests >= len(storm.requests) > 200
  assert usage.cost == pytest.approx(
    (usage.prompt_tokens + usage.completion_tokens) / 1e6
  )
  again = it.ask(prompts)
  assert it.usage.cached - usage.cached == 200 - usage.failed
  for first, second in zip(replies, again, strict=True):
    assert first in (None, second)
