"""Answers of endpoints: replies, thoughts, cuts, hidden errors, and bounds."""

import errno
import json
import os
import pathlib
from typing import Any

import pytest
from server import SOON, Fault, Server, completion, echo, prompt_of, serving

from rlcw.runtime import runs
from rlcw.sampling import http, secret
from rlcw.sampling.cache import Cut
from rlcw.sampling.endpoint import Endpoint
from rlcw.sampling.outage import (
  NoAnswers,
  Patience,
  Trouble,
  refuse_silence,
  trouble_of,
)
from rlcw.sampling.usage import Ledger, log


def _endpoint(server: Server, **settings: Any) -> Endpoint:
  settings = {'retries': 1, 'timeout': 5.0} | settings
  return Endpoint(url=server.url, model='m', **settings)


def _choice(content: Any, finish_reason: Any, **message: Any) -> Fault:
  choice = {'index': 0, 'finish_reason': finish_reason}
  choice['message'] = {'role': 'assistant', 'content': content, **message}
  return Fault(completion('', choices=[choice]))


# --- Replies ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('reason', 'whole'),
  [
    ('stop', True),
    (None, True),
    ('eos', True),
    ('length', False),
    ('content_filter', False),
    ('MAX_TOKENS', False),
    ('model_length', False),
    ('content_filter: SAFETY', False),
    ('insufficient_system_resource', False),
    ('abort', False),
    ('refusal', False),
    ('model_context_window_exceeded', False),
    ('PROHIBITED_CONTENT', False),
    ('truncated', False),
    ('time_out', False),
    ('sensitive', False),
    ('SPII', False),
    ('OTHER', False),
    ('preempted', False),
    ('tool_calls', True),
    ('stop_sequence', True),
    ('end_turn', True),
  ],
)
def test_a_reply_that_is_not_whole_is_marked_and_counted(
  reason: str | None, whole: bool, tmp_path: pathlib.Path
) -> None:
  with serving(lambda request, n: _choice('Once upon', reason)) as server:
    for cached in (0, 1):  # the cache knows it too
      it = _endpoint(server, cache=tmp_path / 'cache.sqlite')
      (reply,) = it.ask(['a'])
      assert reply == 'Once upon' and isinstance(reply, Cut) == (not whole)
      usage = it.usage
      assert (usage.cut, usage.cached) == (int(not whole), cached)
      assert usage.failed == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize(
  ('content', 'reply'),
  [
    ('<think>A sea?</think>\n\nThe sea.', 'The sea.'),
    ('A sea?\n</think>\nThe sea.', 'The sea.'),
    (
      [
        {'type': 'thinking', 'thinking': [{'type': 'text', 'text': 'A sea?'}]},
        {'type': 'text', 'text': 'The '},
        {'type': 'text', 'text': 'sea.'},
      ],
      'The sea.',
    ),
    ('<think>A sea?', None),
    ('<think>A sea?</think>', None),
    ([{'type': 'output_text', 'text': 'The '}, {'text': 'sea.'}], 'The sea.'),
    ('[THINK]A sea?[/THINK]The sea.', 'The sea.'),
    ([{'type': 'thinking', 'thinking': 'A sea?'}], None),
    ('\u200b\u2060 ', None),
    ([], None),
  ],
)
def test_thoughts_are_no_part_of_a_reply(
  content: Any, reply: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
  with serving(lambda request, n: _choice(content, 'stop')) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [reply]
    assert it.usage.failed == (reply is None)
  assert ("finish_reason='stop'" in capsys.readouterr().out) == (reply is None)


def test_a_refusal_is_the_reason_for_no_reply() -> None:
  fault = _choice(None, 'stop', refusal='I cannot.')
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
  assert "refusal='I cannot.'" in it.trouble.text


def _error(code: Any, **beside: Any) -> Fault:
  error = {'message': 'upstream is busy', 'code': code}
  return Fault(json.dumps({'error': error, **beside}), headers=SOON)


IN_CHOICE = json.loads(completion('Half of a rep'))
IN_CHOICE['choices'][0] |= {
  'finish_reason': 'error',
  'error': {'code': 502, 'message': 'the provider has gone'},
}


@pytest.mark.parametrize(
  'fault',
  [
    _error(429),
    _error('502'),
    _error('rate_limit_exceeded'),
    Fault(json.dumps({'error': {'type': 'overloaded_error'}}), headers=SOON),
    _error(503, choices=[]),
    Fault(json.dumps(IN_CHOICE), headers=SOON),
    Fault(json.dumps({'error': 'Rate limit exceeded'}), headers=SOON),
    Fault(json.dumps({'code': 503, 'message': 'busy'}), headers=SOON),
    Fault(
      json.dumps({'error': {'message': 'Too many requests'}}), headers=SOON
    ),
  ],
)
def test_an_error_inside_an_answer_is_tried_again(fault: Fault) -> None:
  with serving(lambda request, n: echo(request, n) if n else fault) as server:
    assert _endpoint(server).ask(['a']) == ['re: a']
    assert len(server.requests) == 2


@pytest.mark.parametrize(
  ('fault', 'lasting'),
  [
    (_error(401), True),
    (Fault('{}', status=403), True),
    (Fault('{}', status=404), True),
    (Fault('{}', status=402), True),
    (Fault('{}', status=405), True),
    (_error(400), False),
    (_error('busy'), False),
    (_error(None), False),
    (_error(10**400), False),
  ],
)
def test_an_error_that_stays_is_told(fault: Fault, lasting: bool) -> None:
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
    assert len(server.requests) == 1
  assert it.trouble.lasting == lasting
  assert 'busy' in it.trouble.text or 'status 40' in it.trouble.text


def test_a_page_of_another_address_is_shown() -> None:
  fault = Fault('<html>Welcome to nginx!</html>')
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
  assert "not JSON: '<html>Welcome to nginx!" in it.trouble.text


def test_trouble_ends_with_a_reply() -> None:
  fault = Fault('{}', status=401)
  with serving(lambda request, n: echo(request, n) if n else fault) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None] and it.trouble.lasting
    assert it.ask(['a']) == ['re: a'] and it.trouble == Trouble()


@pytest.mark.parametrize(
  ('count', 'tokens'),
  [(12, 12), (12.0, 12), (True, 0), (-1, 0), (10**400, 0), ('12', 0)],
)
def test_a_count_that_is_none_costs_nothing(count: Any, tokens: int) -> None:
  fault = Fault(completion('reply', usage={'prompt_tokens': count}))
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, prices=(1e6, 0.0))
    assert it.ask(['a']) == ['reply']
  assert (it.usage.prompt_tokens, it.usage.cost) == (tokens, tokens)


# --- Settings that a server refuses -----------------------------------------

NEWER = {
  'max_tokens': (
    "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead."
  ),
  'temperature': (
    "Unsupported value: 'temperature' does not support 0.5 with this model. "
    'Only the default (1) value is supported.'
  ),
  'response_format': 'response_format: json_schema is not supported',
}


@pytest.mark.parametrize('status', [400, 422])
def test_a_setting_that_a_server_refuses_is_left_out(
  status: int, capsys: pytest.CaptureFixture[str]
) -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    for name, message in NEWER.items():
      if name in request:
        error: Any = {'message': message, 'param': name}
        if status == 422:  # as FastAPI says it
          error = [{'loc': ['body', name], 'msg': 'Extra inputs not permitted'}]
        return Fault(json.dumps({'error': error}), status=status)
    return echo(request, n)

  with serving(handler) as server:
    it = _endpoint(server, temperature=0.5, max_new_tokens=7, concurrency=3)
    schema = {'title': 'Answer', 'type': 'object'}
    assert it.ask(['a', 'b', 'c'], schema) == ['re: a', 're: b', 're: c']
    known = len(server.requests)
    assert it.ask(['d'], schema) == ['re: d']
    assert len(server.requests) == known + 1  # it is remembered
    sent = server.requests[-1]
    assert it.usage.failed == 0 and it.usage.requests == known + 1
  assert sent.keys() == {'messages', 'model', 'max_completion_tokens'}
  assert sent['max_completion_tokens'] == 7
  said = capsys.readouterr().out.splitlines()
  assert [line.partition('refuses ')[2] for line in said] == [
    'max_tokens: max_completion_tokens is sent instead',
    'temperature: it is left out',
    'response_format: it is left out',
  ]


_CAUSE = {'message': NEWER['temperature']}


@pytest.mark.parametrize(
  'body',
  [
    {'error': {'message': 'No.', 'metadata': {'raw': json.dumps(_CAUSE)}}},
    {'error': {'message': 'No.', 'metadata': {'raw': _CAUSE}}},
    {'errors': [_CAUSE], 'success': False},
    {'detail': None, **_CAUSE},
    [{'error': _CAUSE}],
    {'detail': NEWER['temperature']},
  ],
)
def test_a_refusal_is_found_in_any_form(body: Any) -> None:
  """As of servers that pass it on: OpenRouter, Cloudflare."""
  fault = Fault(json.dumps(body), status=400)
  with serving(
    lambda request, n: fault if 'temperature' in request else 'ok'
  ) as server:
    it = _endpoint(server, temperature=0.5)
    assert it.ask(['a']) == ['ok']


@pytest.mark.parametrize(
  'message',
  [
    'max_tokens is too large: 7. This model supports at most 5.',
    'temperature must be between 0 and 2',
    'Invalid max_tokens value, the valid range of max_tokens is [1, 5]',
    'Range of max_tokens should be [1, 5]',
    'max_tokens must be strictly positive',
    'no such model',
    'max_completion_tokens is not supported',
  ],
)
def test_a_mistake_of_the_user_is_an_error(message: str) -> None:
  fault = Fault(json.dumps({'error': {'message': message}}), status=400)
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, max_new_tokens=7)
    assert it.ask(['a']) == [None]
    assert len(server.requests) == 1
  assert message in it.trouble.text


def test_a_quoted_request_refuses_no_setting() -> None:
  """vLLM puts the whole request into the message of an error."""

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    prompt = request['messages'][-1]['content']
    if 'bad' not in prompt:
      return f're: {prompt}'
    quoted = {'type': 'value_error', 'loc': ('body',), 'msg': 'No.'}
    quoted['input'] = request
    message = f'1 validation error: {quoted}'
    return Fault(json.dumps({'error': {'message': message}}), status=400)

  with serving(handler) as server:
    it = _endpoint(server, system='Be brief.', concurrency=1, max_new_tokens=7)
    assert it.ask(['bad', 'good']) == [None, 're: good']
    assert len(server.requests) == 2
    sent = server.requests[-1]
  assert [each['role'] for each in sent['messages']] == ['system', 'user']
  assert sent['max_tokens'] == 7


def test_settings_come_back_where_the_prompt_was_refused() -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    prompt = request['messages'][-1]['content']
    if 'bad' not in prompt:
      return f're: {prompt}'
    message = f'Refused: {json.dumps(request)}'
    return Fault(json.dumps({'error': {'message': message}}), status=400)

  with serving(handler) as server:
    it = _endpoint(server, system='Be brief.', concurrency=1, max_new_tokens=7)
    assert it.ask(['bad', 'good']) == [None, 're: good']
    sent = server.requests[-1]
  assert [each['role'] for each in sent['messages']] == ['system', 'user']
  assert sent['max_tokens'] == 7


@pytest.mark.parametrize(
  'message',
  [
    'Structured outputs are not supported by this model',
    'This model does not support response format json_schema',
    'response_format: schemas of the maximum depth are not supported',
  ],
)
def test_a_server_without_schemas_answers_without_them(message: str) -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    if 'response_format' in request:
      return Fault(json.dumps({'error': {'message': message}}), status=400)
    return echo(request, n)

  with serving(handler) as server:
    it = _endpoint(server)
    assert it.ask(['a'], {'title': 'Answer', 'type': 'object'}) == ['re: a']


def test_a_system_message_that_is_refused_begins_the_prompt() -> None:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    if request['messages'][0]['role'] == 'system':
      error = {'message': 'System role not supported', 'code': 400}
      # Gemini sends a list of what others send alone.
      return Fault(json.dumps([{'error': error}]), status=400)
    return echo(request, n)

  with serving(handler) as server:
    it = _endpoint(server, system='Be brief.', concurrency=1)
    assert it.ask(['a', 'b']) == ['re: Be brief.\n\na', 're: Be brief.\n\nb']
    assert len(server.requests) == 3


def test_a_wrong_key_is_a_lasting_trouble_in_any_status() -> None:
  error = {'message': 'API key not valid. Please pass a valid API key.'}
  fault = Fault(json.dumps([{'error': error}]), status=400)
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
  assert it.trouble.lasting and not it.trouble.refused


def test_what_a_server_says_in_place_of_a_reply_is_told() -> None:
  said = {'status_code': 1008, 'status_msg': 'insufficient balance'}
  fault = Fault(json.dumps({'choices': None, 'base_resp': said}))
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
  assert 'insufficient balance' in it.trouble.text


@pytest.mark.parametrize(
  ('usage', 'tokens', 'cost'),
  [
    ({'prompt_tokens': 10, 'completion_tokens': 5, 'total_tokens': 15}, 5, 60),
    # thoughts are in the total alone
    ({'prompt_tokens': 9, 'completion_tokens': 5, 'total_tokens': 64}, 55, 458),
    ({'input_tokens': 10, 'output_tokens': 5}, 5, 60),
  ],
)
def test_all_tokens_have_their_price(
  usage: dict[str, int], tokens: int, cost: float
) -> None:
  fault = Fault(completion('ok', usage=usage))
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, prices=(2.0, 8.0))
    assert it.ask(['a']) == ['ok']
  assert it.usage.completion_tokens == tokens
  assert it.usage.cost == pytest.approx(cost / 1e6)


def test_a_reply_whose_tokens_are_not_told_is_noted(
  capsys: pytest.CaptureFixture[str],
) -> None:
  fault = Fault(completion('ok', usage=None))
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, prices=(2.0, 8.0))
    assert it.ask(['a', 'b']) == ['ok', 'ok']
  assert capsys.readouterr().out.count('reports no tokens') == 1


# --- Bounds -----------------------------------------------------------------


@pytest.mark.parametrize('status', [200, 400])
def test_an_answer_without_end_is_given_up(
  status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(http, 'MOST_BYTES', 2**20)

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    long = completion('x' * 2**21)
    return (
      echo(request, n) if prompt_of(request) == 'b' else Fault(long, status)
    )

  with serving(handler) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
    assert 'the answer is longer than 1 MiB' in it.trouble.text
    assert it.ask(['b']) == ['re: b']
    assert len(server.requests) == 2


def test_headers_without_end_are_given_up() -> None:
  fault = Fault(headers={f'x-{n}': 'y' * 9000 for n in range(99)})
  with serving(lambda request, n: fault) as server:
    it = _endpoint(server, retries=0)
    assert it.ask(['a']) == [None]
  assert 'APIConnectionError' in it.trouble.text


@pytest.mark.parametrize('status', [200, 404])
def test_no_control_character_reaches_the_terminal(
  status: int, capsys: pytest.CaptureFixture[str]
) -> None:
  body = 'no\x1b[2J\x1b]0;title\x07 such\r\n\u202emodel\x9b31m'
  headers = {'content-type': 'text/plain'}
  with serving(lambda request, n: Fault(body, status, headers)) as server:
    it = _endpoint(server)
    assert it.ask(['a']) == [None]
  said = capsys.readouterr().out
  for text in (said.removesuffix('\n'), it.trouble.text):
    assert 'such' in text and text.isprintable()


@pytest.mark.parametrize('status', [301, 302, 307, 308])
def test_a_key_is_not_taken_to_another_server(
  status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('MY_KEY', 'sk-secret')
  with serving(echo) as other:
    place = f'{other.url}/chat/completions'
    fault = Fault('', status, {'location': place})
    with serving(lambda request, n: fault) as server:
      it = _endpoint(server, key_variable='MY_KEY')
      assert it.ask(['a']) == [None]
    assert not other.requests
  assert f'a redirect to {place}' in it.trouble.text


def test_a_server_on_this_machine_needs_no_proxy(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')
  monkeypatch.delenv('no_proxy', raising=False)
  monkeypatch.delenv('NO_PROXY', raising=False)
  with serving(echo) as server:
    assert _endpoint(server).ask(['a']) == ['re: a']


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('key_variable', 'sk-abcdef'),
    ('key_variable', 'hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567'),
    ('key_variable', '0123456789abcdef0123456789abcdef'),
    ('key_variable', 'OPENAI API KEY'),
    ('url', 'https://user:hunter2@example.com/v1'),
    ('url', 'https://hunter2@example.com/v1'),
    ('url', 'https://example.com/v1?key=hunter2'),
  ],
)
def test_a_secret_is_no_setting_and_not_shown(setting: str, value: str) -> None:
  settings = {'url': 'http://127.0.0.1:9/v1', 'model': 'm', setting: value}
  with pytest.raises(ValueError) as caught:
    Endpoint(**settings)
  text = str(caught.value)
  assert text.startswith(f'endpoint.{setting}: expected ')
  assert value not in text and 'hunter2' not in text


@pytest.mark.parametrize(
  'name', ['OPENAI_API_KEY', 'MY_COMPANY_TEST_KEY_2', '_k', 'mistral_api_key']
)
def test_the_name_of_a_variable_is_accepted(name: str) -> None:
  Endpoint(url='http://127.0.0.1:9/v1', model='m', key_variable=name)


# --- Outages, and totals ----------------------------------------------------


@pytest.mark.parametrize(
  ('counts', 'silent'),
  [
    ({'questions': 2, 'unanswered': 2}, True),
    ({'questions': 2, 'unanswered': 1}, False),
    ({'questions': 2}, False),
    ({}, False),  # not asked
  ],
)
def test_a_task_ends_if_its_model_answers_nothing(
  counts: dict[str, int], silent: bool
) -> None:
  class Judge:
    def usage(self) -> dict[str, int]:
      return counts

    def trouble(self) -> Trouble:
      return Trouble('it is down')

  if silent:
    with pytest.raises(NoAnswers, match='judge: no verdict: it is down'):
      refuse_silence('judge: no verdict', Judge())
  else:
    refuse_silence('judge: no verdict', Judge())


def test_patience_ends_after_three_rounds_in_a_row() -> None:
  patience = Patience('no reply got a score')

  def trouble() -> Trouble:
    return Trouble('status 500')

  for answered in (False, False, True, False, False):
    patience.see(answered, trouble)
  with pytest.raises(
    NoAnswers, match='^no reply got a score 3 times in a row: status 500. Once'
  ):
    patience.see(False, trouble)


def test_patience_ends_at_once_where_no_time_helps() -> None:
  with pytest.raises(NoAnswers, match='^no score: status 401. Once'):
    Patience('no score').see(False, lambda: Trouble('status 401', True))


def test_troubles_are_joined_and_a_model_need_have_none() -> None:
  class Down:
    def trouble(self) -> Trouble:
      return Trouble('down', True)

  class Slow:
    def trouble(self) -> Trouble:
      return Trouble('slow')

  assert trouble_of(object(), Slow(), Down()) == Trouble('slow; down', True)
  assert trouble_of(Slow(), Slow(), None) == Trouble('slow')
  assert trouble_of(object()) == Trouble()


def test_a_damaged_usage_is_told(tmp_path: pathlib.Path) -> None:
  (tmp_path / 'usage.json').write_text('{"judge": 5}')
  with pytest.raises(ValueError, match=r'usage\.json is no usage of a run'):
    Ledger(tmp_path, {})


def test_usage_adds_up_over_the_processes_of_a_run(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  counts = {'requests': 1000, 'prompt_tokens': 2_000_000, 'cost': 0.5, 'cut': 0}
  for times in (1, 2):
    ledger = Ledger(tmp_path, {'judge': lambda: counts, 'idle': dict})
    ledger.save()
    ledger.save()
    assert ledger.totals()['judge'] == {k: times * v for k, v in counts.items()}
  log('curate', ledger.totals())
  assert capsys.readouterr().out == (
    'curate: judge: 2,000 requests, 4,000,000 prompt tokens, cost 1\n'
  )


def test_what_a_task_has_paid_is_kept_if_it_fails_in_a_batch(
  tmp_path: pathlib.Path,
) -> None:
  counts = {'cost': 1.0}
  with pytest.raises(NoAnswers), runs.failing():
    Ledger(tmp_path, {'judge': lambda: counts}).save()
    counts['cost'] = 3.0
    raise NoAnswers
  counts['cost'] = 0.5
  totals = Ledger(tmp_path, {'judge': lambda: counts}).totals()
  assert totals == {'judge': {'cost': 3.5}}


def test_a_full_disk_does_not_hide_why_a_task_has_failed() -> None:
  def full() -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')

  with pytest.raises(NoAnswers), runs.failing():
    runs.at_failure(full)
    raise NoAnswers


@pytest.mark.parametrize(
  ('error', 'status'),
  [
    ({'code': 400, 'type': 'server_error'}, 400),  # the number counts
    ({'code': '502', 'type': 'rate_limit_error'}, 502),
    ({'code': 'insufficient_quota'}, 429),
    ({'code': None, 'type': 'authentication_error'}, 401),
    ({'message': 'unknown'}, 0),
    ({'message': 'the model is not found'}, 0),  # words are no proof
    ({'message': 'Rate limit exceeded'}, 429),
    ({'type': 'Internal Server Error'}, 500),
    ({'status': 'RESOURCE_EXHAUSTED'}, 429),
    ({'code': None, 'status_code': 503.0}, 503),
  ],
)
def test_an_error_gives_its_status_as_a_number_or_in_words(
  error: dict[str, Any], status: int
) -> None:
  assert http._status_of(error) == status


def test_a_secret_is_whole_to_whoever_comes_while_it_is_made(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Several arms that begin together share a cache."""
  cache, link = tmp_path / 'cache.sqlite', os.link
  theirs: list[bytes] = []

  def late(made: str, file: pathlib.Path) -> None:
    assert not file.exists()
    with monkeypatch.context() as other:
      other.setattr(os, 'link', link)
      other.setattr(os, 'getpid', lambda: 1)
      theirs.append(secret.load(cache, None))
    link(made, file)

  monkeypatch.setattr(os, 'link', late)
  ours = secret.load(cache, None)
  assert [ours] == theirs
  (kept,) = tmp_path.iterdir()
  assert kept.stat().st_mode & 0o777 == 0o600


def test_a_secret_is_made_where_files_have_no_links(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def refuse(*_: object) -> None:
    raise PermissionError

  monkeypatch.setattr(os, 'link', refuse)
  ours = secret.load(tmp_path / 'cache.sqlite', None)
  assert secret.load(tmp_path / 'cache.sqlite', None) == ours
  (_,) = tmp_path.iterdir()
