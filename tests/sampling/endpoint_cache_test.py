"""What an endpoint keeps, counts, and accepts as its settings."""

import collections
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict
from server import Fault, Server, completion, echo, prompt_of, serving

from rlcw.sampling import llm
from rlcw.sampling.endpoint import Endpoint


def _endpoint(server: Server, **settings: Any) -> Endpoint:
  return Endpoint(url=server.url, model='m', **settings)


def test_usage_is_counted_and_told_by_difference() -> None:
  with serving(echo) as server:
    it = _endpoint(server, prices=(2.0, 8.0))
    it.ask(['one two', 'three'])
    before = it.usage
    it.ask(['four'])
    step = {
      name: now - getattr(before, name)
      for name, now in it.usage.as_dict().items()
    }
  assert step.pop('seconds') > 0
  assert step == {
    'prompts': 1,
    'cached': 0,
    'failed': 0,
    'cut': 0,
    'requests': 1,
    'prompt_tokens': 10,
    'completion_tokens': 2,
    'cost': pytest.approx(36e-6),
  }
  assert before.completion_tokens == 5


@pytest.mark.parametrize(
  'told',
  [
    None,
    7,
    {},
    {'prompt_tokens': None, 'completion_tokens': 'x'},
    {'prompt_tokens': float('nan'), 'completion_tokens': -3},
  ],
)
def test_a_server_that_counts_no_tokens(told: Any) -> None:
  fault = Fault(completion('reply', usage=told))
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, prices=(1.0, 1.0))
    assert it.ask(['a']) == ['reply']
    assert it.usage.prompt_tokens == it.usage.completion_tokens == 0
    assert it.usage.cost == 0


def _numbered(request: dict[str, Any], n: int) -> str:
  return f'{prompt_of(request)} {n}'


def test_a_prompt_given_twice_has_two_samples(tmp_path: pathlib.Path) -> None:
  with serving(_numbered) as server:
    settings = {'cache': tmp_path / 'cache.sqlite', 'concurrency': 1}
    it = _endpoint(server, **settings)
    assert it.ask(['a', 'b', 'a']) == ['a 0', 'b 1', 'a 2']
    assert it.ask(['a', 'a', 'a', 'b']) == ['a 0', 'a 2', 'a 3', 'b 1']
    assert len(server.requests) == 4


@pytest.mark.parametrize(
  'change',
  [
    {'model': 'n'},
    {'temperature': 0.5},
    {'temperature': None},
    {'max_new_tokens': 5},
    {'max_new_tokens': None},
  ],
  ids=str,
)
def test_the_cache_tells_settings_apart(
  change: dict[str, Any], tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'folder' / 'cache.sqlite'
  with serving(_numbered) as server:
    settings = {'url': server.url, 'model': 'm', 'cache': str(path)}
    assert Endpoint(**settings).ask(['a']) == ['a 0']
    assert Endpoint(**settings | change).ask(['a']) == ['a 1']
    others = {'concurrency': 2, 'timeout': 9.0, 'retries': 0}
    assert Endpoint(**settings | others).ask(['a']) == ['a 0']
    sent = server.requests[1]
    sent['max_new_tokens'] = sent.get('max_tokens')
    assert {name: sent.get(name) for name in change} == change


def test_another_system_message_is_another_question(
  tmp_path: pathlib.Path,
) -> None:
  def handler(request: dict[str, Any], n: int) -> str:
    return ' '.join(message['content'] for message in request['messages'])

  with serving(handler) as server:
    settings = {'url': server.url, 'model': 'm', 'cache': tmp_path / 'c.sqlite'}
    for system in ('', 'Be just.', 'Be kind.', 'Be just.'):
      [reply] = Endpoint(**settings, system=system).ask(['a'])
      assert reply == f'{system} a'.strip()
    assert len(server.requests) == 3


def test_no_cache_asks_each_time() -> None:
  with serving(_numbered) as server:
    it = _endpoint(server, cache='')
    assert it.ask(['a']) + it.ask(['a']) == ['a 0', 'a 1']


def _break(path: pathlib.Path, how: str) -> None:
  if how == 'a folder':
    path.mkdir()
  elif how == 'text':
    path.write_text('{"not": "a database"}' * 50)
  elif how == 'another table':
    with sqlite3.connect(path) as other:
      other.execute('CREATE TABLE replies (a, b)')
    other.close()


@pytest.mark.parametrize('how', ['a folder', 'text'])
def test_a_file_that_is_no_cache_is_refused_at_once(
  how: str, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'cache.sqlite'
  _break(path, how)
  with pytest.raises(
    ValueError, match=f"^cache='{path}': .*; expected a file that a"
  ):
    Endpoint(url='http://127.0.0.1:9/v1', model='m', cache=path)


def test_a_cache_that_breaks_later_is_named(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'cache.sqlite'
  with serving(echo) as server:
    it = _endpoint(server, cache=path)
    it.ask([f'{n}' * 1000 for n in range(100)])
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b'\xff' * (len(whole) - 4096))
    with pytest.raises(ValueError, match=f"^cache='{path}': "):
      it.ask(['a', 'b', 'c'])
    path.unlink()
    _break(path, 'another table')
    with pytest.raises(ValueError, match='no such column'):
      it.ask(['a'])


CHILD = """
  import sys
  from rlcw.sampling.endpoint import Endpoint

  url, cache, count = sys.argv[1:]
  it = Endpoint(url=url, model='m', cache=cache, concurrency=2)
  it.ask([f'prompt {n}' for n in range(int(count))])
"""


def _child(server: Server, path: pathlib.Path, count: int) -> Any:
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(CHILD), server.url, path, str(count)]
  )


@pytest.mark.slow
def test_a_killed_run_repeats_no_call_that_was_finished(
  tmp_path: pathlib.Path,
) -> None:
  """Its cache is shared all the while with a process that is not killed."""

  def handler(request: dict[str, Any], n: int) -> Fault:
    return Fault(completion(echo(request, n)), delay=0.05)

  path = tmp_path / 'cache.sqlite'
  prompts = [f'prompt {n}' for n in range(40)]
  with serving(handler) as server:
    child = _child(server, path, len(prompts))
    while len(server.requests) < 10:
      assert child.poll() is None
      time.sleep(0.01)
    it = _endpoint(server, cache=path, concurrency=4)
    others = [f'other {n}' for n in range(20)]
    assert it.ask(others) == [f're: {prompt}' for prompt in others]
    child.kill()
    child.wait()
    assert len(server.requests) < 20 + len(prompts)
    assert it.ask(prompts) == [f're: {prompt}' for prompt in prompts]
    assert it.usage.cached >= 8
    asked = collections.Counter(map(prompt_of, server.requests))
    assert set(asked) == {*prompts, *others}
    assert asked.total() <= 60 + 2  # those under way when it was killed


@pytest.fixture
def interruptible() -> Iterator[None]:
  """A shell starts jobs in the background deaf to interrupts."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
def test_an_interrupt_ends_the_call_and_keeps_what_came(
  tmp_path: pathlib.Path,
) -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    return echo(request, n) if n < 3 else Fault(delay=60)

  path = tmp_path / 'cache.sqlite'
  with serving(handler) as server:
    it = _endpoint(server, cache=path, concurrency=1)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), 2))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
      it.ask(['a', 'b', 'c', 'd', 'e'])
    again = _endpoint(server, cache=path)
    assert again.ask(['a', 'b', 'c']) == ['re: a', 're: b', 're: c']
    assert again.usage.requests == 0


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('url', 'api.example.com/v1'),
    ('url', 'http://[bad/v1'),
    ('url', ''),
    ('url', None),
    ('model', ''),
    ('key_variable', ''),
    ('temperature', -0.1),
    ('temperature', float('nan')),
    ('temperature', 'hot'),
    ('max_new_tokens', 0),
    ('max_new_tokens', 1.5),
    ('concurrency', 0),
    ('concurrency', True),
    ('timeout', 0),
    ('timeout', float('inf')),
    ('retries', -1),
    ('retries', None),
    ('cache', 3),
    ('prices', (1.0,)),
    ('prices', (1.0, -1.0)),
    ('prices', 2.0),
  ],
)
def test_a_setting_that_is_not_legal_is_named(setting: str, value: Any) -> None:
  settings: dict[str, Any] = {'url': 'http://127.0.0.1:9/v1', 'model': 'm'}
  with pytest.raises(ValueError) as caught:
    Endpoint(**settings | {setting: value})
  text = str(caught.value)
  beside = 'temperature', 'max_new_tokens', 'cache'
  name = setting if setting in beside else f'endpoint.{setting}'
  assert text.startswith(f'{name}={value!r}; expected ')


def test_an_endpoint_is_made_from_settings(tmp_path: pathlib.Path) -> None:
  settings = ConfigDict(llm.llm_settings())
  own = dict(
    url='http://127.0.0.1:9/v1',
    model='m',
    key_variable='MY_KEY',
    concurrency=3,
    timeout=9.0,
    retries=0,
    prices=(0.5, 2.0),
  )
  beside = dict(
    temperature=0.0,
    max_new_tokens=7,
    cache=str(tmp_path / 'cache.sqlite'),
    system='Be brief.',
  )
  settings.update(beside)
  settings.endpoint.update(own, schemas=True)
  made = llm.make_endpoint(settings)
  assert made.schemas
  fields = own | beside
  assert {name: getattr(made.server, name) for name in fields} == fields
  settings.cache = ''
  assert 'cache' not in llm.make_endpoint(settings).usage()
