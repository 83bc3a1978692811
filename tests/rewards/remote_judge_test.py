"""A judge that answers in text: what counts as an answer, and from whom."""

import itertools
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from cpu_limit import cpu_limit
from hypothesis import given
from hypothesis import strategies as st
from server import SOON, Fault, Server, completion, prompt_of, serving
from stub_judges import key_of, quoted, verdict

from rlcw.rewards.judge import questions
from rlcw.rewards.judge.questions import Question, Verdicts
from rlcw.rewards.judge.remote import Answer, JSONJudge, parse
from rlcw.sampling import secret
from rlcw.sampling.endpoint import Endpoint

QUESTION = Question('judge', 'en', 999, '1. Be kind.')
BRIEFS = ['To the sea', 'To a hill', 'To the rain']
REPLIES = [['good', 'bad'], ['bad', 'bad'], ['good', 'good']]
GOOD = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
LABELS = QUESTION.labels
PLAIN = '{"id": "k", "verdict": "Good", "reason": "so"}'


def honest(prompt: str, **changes: object) -> str:
  """What a model answers that finds good what says so."""
  label = 'Good' if quoted(prompt) == 'good' else 'Bad'
  return verdict(prompt, label, **changes)


def put(panel: JSONJudge, question: Question = QUESTION) -> Verdicts:
  return questions.judge(panel, question, BRIEFS, REPLIES)


# --- What counts as an answer -----------------------------------------------


@pytest.mark.parametrize(
  'answer',
  [
    PLAIN,
    f' \n{PLAIN}\n',
    f'```json\n{PLAIN}\n```',
    f'```\n{PLAIN}```\n',
    f'<think>Bad? {{"id": "k", "verdict": "Bad"}} No.</think>\n\n{PLAIN}',
    f'I would say so.</think>{PLAIN}',
    f'Here you are: {PLAIN}',
    f'{PLAIN}\nI hope this helps.',
    f'The reply says {{"id": "x", "verdict": "Bad"}}, but {PLAIN} {{my}} view.',
    f'```json\n{PLAIN}\n```\nGood.',
    f'{PLAIN}{PLAIN}',
    f'[{PLAIN}]',
    PLAIN.replace('{', '{\n').replace(',', ',\n'),
    '{"reason": "so", "verdict": "Good", "id": "k", "score": [1, {}]}',
    '{"id": "\\u006b", "verdict": "Good", "reason": "so"}',
    '{"id": "k", "verdict": "Good", "reason": "so",}',
    r'{"id": "k", "verdict": "Good", "reason": "\so"}',
    r'{"id": "k", "verdict": "Good", "reason": "so", "x": "\underline\u12"}',
    PLAIN.replace(' ', '\xa0').replace('{', '{\u200b'),
  ],
)
def test_an_object_in_json_is_an_answer(answer: str) -> None:
  assert parse(answer, LABELS, 'k') == Answer(True, 'so')


@pytest.mark.parametrize('value', ['NaN', 'Infinity', '["Good"]', '"good"'])
def test_a_verdict_that_is_no_label_is_named(value: str) -> None:
  with pytest.raises(ValueError, match='^verdict=.*; expected one of'):
    parse(f'{{"id": "k", "verdict": {value}}}', LABELS, 'k')


def test_an_answer_needs_no_reason() -> None:
  found = parse('{"id": "k", "verdict": "Bad"}', LABELS, 'k')
  assert found == Answer(False, '')


@pytest.mark.parametrize(
  'answer',
  [
    '',
    'Good',
    'Verdict: Good',
    '"Good"',
    'null',
    f'{PLAIN}{PLAIN.replace("Good", "Bad")}',
    f'{PLAIN}{PLAIN.replace("Good", "Fine")}',
    f'<think>{PLAIN}',
    f'<think>So.</think><think>{PLAIN}',
    f'{{"answer": {PLAIN}}}',
    PLAIN[:-1],
    PLAIN.replace('"', "'"),
    '{"verdict": "Good"}',
    '{"id": "k"}',
    '{"id": "k", "verdict": "good"}',
    '{"id": "k", "verdict": "Good."}',
    '{"id": "k", "verdict": " Good"}',
    '{"id": "k", "verdict": "Pass"}',
    '{"id": "k", "verdict": true}',
    '{"id": "k", "verdict": 1}',
    '{"id": "k", "verdict": null}',
    '{"id": "k", "verdict": ["Good"]}',
    '{"id": "k", "verdict": {"Good": 1}}',
    '{"id": "K", "verdict": "Good"}',
    '{"id": ["k"], "verdict": "Good"}',
    '{"id": null, "verdict": "Good"}',
    '{"id": 0, "verdict": "Good"}',
    '{"id": "k", "verdict": "Bad", "verdict": "Good"}',
    '{"id": "x", "id": "k", "verdict": "Good"}',
    '{"id": "k", "verdict": "Good", "x": {"a": 1, "a": 2}}',
    '{"id": "k", "verdict": "Good", "x": ' + '9' * 9999 + '}',
    '{"a": ' * 50_000,
  ],
  ids=lambda answer: answer[:40],
)
def test_anything_else_is_none(answer: str) -> None:
  with pytest.raises((ValueError, RecursionError)):
    parse(answer, LABELS, 'k')
  panel = JSONJudge(lambda prompts: [answer] * len(prompts))
  assert not put(panel).valid.any()


@given(st.text() | st.recursive(st.none() | st.text() | st.floats(), st.lists))
def test_no_answer_breaks_the_panel(said: Any) -> None:
  answer = said if isinstance(said, str) else json.dumps(said)
  panel = JSONJudge(lambda prompts: [answer] * len(prompts))
  assert not put(panel).valid.any()


def test_a_huge_answer_is_read_in_a_moment() -> None:
  tail = '```' + ' \n' * 500_000 + 'x'
  floods = tail, '`' * 10**6, '[' * 10**6, '{"id": "' + 'k' * 10**6
  for text in (*floods, '{' * 10**6, '{"a": "' * 10**5, '{"a": ' * 10**5):
    with cpu_limit(20), pytest.raises((ValueError, RecursionError)):
      parse(text, LABELS, 'k')


# --- Asking again, and votes ------------------------------------------------


class Model:
  """Answers each round of prompts in its own way; keeps all of them."""

  def __init__(self, *rounds: Callable[[int, str], str | None]):
    self.rounds, self.asked = rounds, []

  def __call__(self, prompts: Sequence[str]) -> list[str | None]:
    answer = self.rounds[len(self.asked)]
    self.asked.append(list(prompts))
    return [answer(n, prompt) for n, prompt in enumerate(prompts)]


@pytest.mark.parametrize('language', questions.LANGUAGES)
def test_an_honest_model_is_believed(language: str) -> None:
  model = Model(lambda n, prompt: honest(prompt))
  found = put(JSONJudge(model), QUESTION._replace(language=language))
  np.testing.assert_array_equal(found.first, GOOD)
  assert found.reason == [['It is so.'] * 2] * 3
  # two replies that are alike to one brief are one question, asked twice
  assert len(set(map(key_of, model.asked[0]))) == 4


def test_a_wrong_answer_is_asked_for_once_more() -> None:
  """The first is good at last, the second never is, the third never came."""
  model = Model(
    lambda n, prompt: ['Good\n{id}', PLAIN, None, *[honest(prompt)] * 3][n],
    lambda n, prompt: [honest(prompt), 'Good'][n],
  )
  panel = JSONJudge(model)
  found = put(panel)
  expected = np.array(GOOD)
  expected[0, 1] = expected[1, 0] = np.nan
  np.testing.assert_array_equal(found.first, expected)
  assert found.reason[0] == ['It is so.', '']
  first, again = model.asked
  assert [later.startswith(first[n]) for n, later in enumerate(again)] == [
    True,
    True,
  ]
  assert '\n> Good\n> {id}\n' in again[0][len(first[0]) :]
  assert panel.usage() == {
    'questions': 6,
    'repaired': 2,
    'unanswered': 2,
    'shortened': 0,
  }


def test_a_long_wrong_answer_is_shown_cut() -> None:
  model = Model(
    lambda n, prompt: '\u200b' + 'x\n' * 10**5,
    lambda n, prompt: honest(prompt),
  )
  assert put(JSONJudge(model)).valid.all()
  assert len(model.asked[1][0]) - len(model.asked[0][0]) < 2500


def test_votes_are_shares_of_those_that_answer() -> None:
  """Good 3 of 4; 1 of 4; 2 of 4 (a tie); 2 of 2; 0 of 1; none of 0."""
  said = 'GGBG BGBB GBGB G--G --B- ----'.replace(' ', '')

  def vote(n: int, prompt: str) -> str | None:
    label = {'G': 'Good', 'B': 'Bad'}.get(said[n])
    return label and verdict(prompt, label, reason=f'{said[n]}{n}')

  model = Model(vote)
  panel = JSONJudge(model, votes=4, meter=lambda: {'cost': 0.5})
  found = put(panel)
  np.testing.assert_array_equal(
    found.first, [[0.75, 0.25], [0.5, 1.0], [0.0, np.nan]]
  )
  # that of the first vote on the winning side; a tie is no Good
  assert found.reason == [['G0', 'B4'], ['B9', 'G12'], ['B18', '']]
  assert model.asked[0][::4] == model.asked[0][3::4]  # the same, four times
  assert panel.usage() == {
    'questions': 24,
    'repaired': 0,
    'unanswered': 24 - 4 * 3 - 3,
    'shortened': 0,
    'cost': 0.5,
  }


def test_votes_are_at_least_one() -> None:
  with pytest.raises(ValueError, match=r'judge\.votes=0: expected an integer'):
    JSONJudge(lambda prompts: [], votes=0)


def test_a_reason_is_any_text() -> None:
  reasons = itertools.cycle(['\ud83d', None, ['a'], 7, 'x', ''])
  model = Model(lambda n, prompt: honest(prompt, reason=next(reasons)))
  found = put(JSONJudge(model))
  assert found.reason == [['\ud83d', ''], ["['a']", '7'], ['x', '']]


# --- A server ---------------------------------------------------------------


def remote(server: Server, **settings: Any) -> tuple[JSONJudge, Endpoint]:
  settings = {'retries': 1, 'timeout': 0.5, 'concurrency': 4} | settings
  it = Endpoint(url=server.url, model='m', **settings)
  judge = JSONJudge(
    it.ask,
    meter=lambda: it.usage.as_dict(),
    trouble=lambda: it.trouble,
    secret=secret.load(it.cache, None),
  )
  return judge, it


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr('openai._base_client.INITIAL_RETRY_DELAY', 0.01)


def test_answers_that_come_late_and_in_another_order_keep_their_place() -> None:
  def handler(request: dict[str, Any], n: int) -> Fault:
    answer = completion(honest(prompt_of(request)))
    return Fault(answer, delay=0.02 * (6 - n))

  with serving(handler) as server:
    panel, _ = remote(server, concurrency=6, prices=(1e6, 0.0))
    np.testing.assert_array_equal(put(panel).first, GOOD)
    assert server.peak == 6
    used = panel.usage()
    assert (used['questions'], used['requests'], used['cost']) == (6, 6, 60)
    assert used['seconds'] >= 0.1


@pytest.mark.usefixtures('fast')
@pytest.mark.parametrize(
  ('fault', 'repaired'),
  [
    (Fault(status=500), 0),
    (Fault(status=429, headers=SOON), 0),
    (Fault(cut=True), 0),
    (Fault(delay=60), 0),
    (Fault(completion('{"id": "12345678", "verd')), 6),
    (Fault(completion('{"verdict": "Good"}')), 6),
    (Fault(completion(PLAIN)), 6),
    (Fault(completion('Good')), 6),
  ],
)
@pytest.mark.parametrize('heals', [True, False])
def test_a_fault_is_got_over_or_leaves_no_answer(
  fault: Fault, repaired: int, heals: bool
) -> None:
  """Every prompt meets it first; some day it is over, or never."""
  met: set[str] = set()

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    key = quoted_key(prompt_of(request))
    if not heals or key not in met:
      met.add(key)
      return fault
    return honest(prompt_of(request))

  briefs = [f'{n}' for n in range(6)]
  replies = [[('good', 'bad')[n % 2]] for n in range(6)]
  with serving(handler) as server:
    panel, _ = remote(server, concurrency=6)
    found = questions.judge(panel, QUESTION, briefs, replies)
    assert len(server.requests) == 12
  expected = [1.0, 0.0] * 3 if heals else [np.nan] * 6
  np.testing.assert_array_equal(found.first[:, 0], expected)
  used = panel.usage()
  assert (used['questions'], used['repaired']) == (6, repaired)
  assert used['unanswered'] == (0 if heals else 6)


def quoted_key(prompt: str) -> str:
  return key_of(prompt.partition('Your answer before')[0])


def test_a_verdict_for_another_request_is_none() -> None:
  """Every answer is that to the prompt before it."""
  seen: list[str] = []

  def handler(request: dict[str, Any], n: int) -> str:
    seen.append(prompt_of(request))
    return verdict(seen[n - 1], 'Good') if n else '?'

  with serving(handler) as server:
    panel, _ = remote(server, concurrency=1)
    replies = [[f'reply {n}'] for n in range(5)]
    found = questions.judge(panel, QUESTION, ['x'] * 5, replies)
  assert not found.valid.any()
  assert panel.usage()['repaired'] == 5


@pytest.mark.usefixtures('fast')
def test_an_outage_ends_and_leaves_all_unanswered() -> None:
  it = Endpoint(url='http://127.0.0.1:9/v1', model='m', retries=2)
  panel = JSONJudge(it.ask, votes=2)
  assert np.isnan(put(panel).first).all()
  used = panel.usage()
  assert (used['questions'], used['repaired'], used['unanswered']) == (
    12,
    0,
    12,
  )


_ASK = """
import sys
from tests.rewards import remote_judge_test as test
from server import Server
panel, _ = test.remote(Server(sys.argv[1]), concurrency=1, cache=sys.argv[2])
test.put(panel)
"""


def test_a_killed_run_asks_nothing_twice(tmp_path: pathlib.Path) -> None:
  """It is killed while it waits for its fifth answer."""
  cache = tmp_path / 'cache.sqlite'
  with serving(_slow_after(4)) as server:
    tests = pathlib.Path(__file__).parents[1]
    paths = f'import sys; sys.path[:0] = {[str(tests), str(tests.parent)]!r}\n'
    process = subprocess.Popen(
      [sys.executable, '-c', paths + _ASK, server.url, str(cache)]
    )
    while len(server.requests) < 5:
      assert process.poll() is None
      time.sleep(0.01)
    process.kill()
    process.wait()
    panel, it = remote(server, cache=cache)
    np.testing.assert_array_equal(put(panel).first, GOOD)
    assert (it.usage.cached, it.usage.requests) == (4, 2)
    assert len(server.requests) == 5 + 2
    assert panel.usage()['questions'] == 6
    again, it = remote(server, cache=cache)
    np.testing.assert_array_equal(put(again).first, GOOD)
    assert it.usage.requests == 0


def _slow_after(count: int) -> Callable[[dict[str, Any], int], str | Fault]:
  def handler(request: dict[str, Any], n: int) -> str | Fault:
    answer = honest(prompt_of(request))
    return Fault(completion(answer), delay=60) if n == count else answer

  return handler
