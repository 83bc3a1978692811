"""What replies are worth, by parts of one's own, a judge, or nobody."""

import asyncio
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pipeline
import pytest
from ml_collections import ConfigDict
from server import SOON, Fault, prompt_of, serving
from stub_judges import Scripted, demanding, quoted, verdict

from rlcw import train as train_lib
from rlcw.data import batches, datasets
from rlcw.models import language_model, tokenizer
from rlcw.rewards import (
  constraints,
  functions,
  parts,
  reward_model,
  rollout_scores,
  scoring,
  text_scores,
  writing,
)
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Prompt, Question
from rlcw.rewards.judge.remote import JSONJudge
from rlcw.rewards.judge.replies import ReplyJudge
from rlcw.rewards.rubrics import Criterion
from rlcw.runtime import files, signals
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.outage import NoAnswers, Patience, Trouble
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import run as grpo
from rlcw.tasks.grpo import step

COMMA = {'punctuation:no_comma': {}}
OWN = """
import numpy as np

def table(value):
  return lambda briefs, replies: [[value(r) for r in g] for g in replies]

length = table(len)
kind = table(lambda r: np.nan if 'odd' in r else 'rude' not in r)
text = table(str)
nothing = table(lambda r: np.nan)
one = lambda briefs, replies: [1.0] * len(replies)
ragged = lambda briefs, replies: [[0] * n for n in range(len(replies))]
number = 7
huge = table(lambda r: -1e30)
"""


@pytest.fixture
def mine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
  """The name of a module in the folder that the test runs in."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  name = f'mine_{tmp_path.name.replace("-", "_")}'
  (tmp_path / f'{name}.py').write_text(OWN)
  return name


def settings_of(**changes: Any) -> ConfigDict:
  config = pipeline.shipped('grpo')
  config.update_from_flattened_dict(
    {k.replace('__', '.'): v for k, v in changes.items()}
  )
  return config


def test_a_reply_of_no_text_is_worth_no_more_than_any_of_its_group() -> None:
  score_PxG = np.array([[1.0, 5.0, -2.0], [3.0, np.nan, 2.0], [4.0, 4.0, 4.0]])
  # nothing that a reader sees: a zero-width space, a filler of Hangul
  text = [['a', '', 'b'], [' \u200b\n', 'c', 'd'], ['', ' ', '\u3164']]
  found = text_scores.floor_blank_replies(score_PxG, text)
  np.testing.assert_array_equal(found[0], [1.0, -2.0, -2.0])
  np.testing.assert_array_equal(found[1], [2.0, np.nan, 2.0])
  assert np.isnan(found[2]).all()  # so all of them are masked
  found = text_scores.floor_blank_replies(score_PxG, text, -3.0)
  assert found[2].tolist() == [-3.0] * 3
  # not by what else was sampled, unless that is lower
  assert found[0].tolist() == [1.0, -3.0, -2.0]
  found = text_scores.floor_blank_replies(score_PxG, text, -1.0)
  assert found[0].tolist() == [1.0, -2.0, -2.0]


# --- Names ------------------------------------------------------------------


def test_a_function_of_the_working_directory_is_found(mine: str) -> None:
  scoring.check(
    settings_of(writing=f'{mine}:length', verifiers=('rules', f'{mine}:kind'))
  )
  reward = functions.import_function(f'{mine}:length', 'writing', '')
  found = functions.call_user_reward(
    reward, 'x', [], [['a', 'bcd'], ['', 'ef']]
  )
  np.testing.assert_array_equal(found, [[1, 3], [0, 2]])
  assert found.dtype == np.float32


@pytest.mark.parametrize(
  ('setting', 'value', 'message'),
  [
    ('writing', 'nowhere:f', r"writing='nowhere:f': No module named 'nowhere'"),
    ('writing', 'nowhere', 'diversity, or module:function'),
    ('writing', '', 'expected reward_model, judge, pairs, rubric'),
    ('writing', '{}:none', "'none'; expected reward_model, judge"),
    ('writing', '{}', "''; expected"),
    ('writing', '{}:number', 'number is not a function; expected'),
    ('writing', 'judge', r'give judge\.model or judge\.endpoint\.url'),
    ('writing', '{}:length + rubric', r"rubric' needs a judge: give"),
    ('writing', '{}:length + 2*nowhere:f', r"writing='nowhere:f': No module"),
    ('writing', '0.5*judge 2', r"writing='0.5\*judge 2': '2' is no term"),
    ('overlong_buffer', 65, 'overlong_buffer=65: expected at most max_new_t'),
    (
      'verifiers',
      ('rules', 'nowhere:f'),
      r"verifiers='nowhere:f': .*expected rules,",
    ),
    ('verifiers', ('demands',), "verifiers='demands'"),
    ('writing', '../x', r"writing='../x': TypeError\("),
    ('writing', 'broken:f', r'SyntaxError.*broken\.py'),
    ('writing', 'leaves:f', r'SystemExit\(0\)'),
  ],
)
def test_a_name_that_is_none_is_told(
  setting: str, value: Any, message: str, mine: str
) -> None:
  pathlib.Path('broken.py').write_text('def f(:')
  pathlib.Path('leaves.py').write_text('raise SystemExit(0)')
  if isinstance(value, str):
    value = value.format(mine)
  with pytest.raises(ValueError, match=message):
    scoring.check(settings_of(**{setting: value}))


def test_a_penalty_of_rules_takes_rules_that_count(mine: str) -> None:
  changes = {'mixing__located_penalty': 0.5, 'verifiers': (f'{mine}:kind',)}
  with pytest.raises(
    ValueError, match=r'located_penalty=0\.5.*expected .rules'
  ):
    scoring.check(settings_of(**changes))
  changes['verifiers'] = ('rules', f'{mine}:kind')
  scoring.check(settings_of(**changes))


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    (
      'one',
      r'm:one returned an array of shape \(2,\) for 2 briefs with 2 replies',
    ),
    ('ragged', 'm:ragged returned no array of numbers'),
    ('text', 'm:text returned no array of numbers'),
  ],
)
def test_an_array_of_another_shape_is_told(
  function: str, message: str, mine: str
) -> None:
  reward = functions.import_function(f'{mine}:{function}', 'writing', '')
  with pytest.raises(ValueError, match=message):
    functions.call_user_reward(
      reward, f'm:{function}', [], [['a', 'b'], ['c', 'd']]
    )


@pytest.mark.parametrize('score', [-np.inf, np.inf, 1e300, -1e13])
def test_an_infinite_score_is_not_taken_for_none(
  score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Else the worst replies, of log 0, would leave their group unpunished."""
  monkeypatch.setattr(
    writing, 'import_function', lambda *_: lambda *_: [[score, 1.0]]
  )
  with pytest.raises(ValueError, match='or NaN for no score'):
    writing.user_scores('m:f', [], [['a', 'b']])


def test_a_masked_score_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
  scores = np.ma.masked_equal([[9, 1]], 9)
  monkeypatch.setattr(writing, 'import_function', lambda *_: lambda *_: scores)
  found = writing.user_scores('m:f', [], [['a', 'b']])
  np.testing.assert_array_equal(found, [[np.nan, 1]])


def test_a_score_whose_square_is_no_number_is_told(mine: str) -> None:
  with pytest.raises(ValueError, match=r'huge returned -1e\+30; .*NaN'):
    writing.user_scores(f'{mine}:huge', [], [['a']])


# --- What a user's function may do --------------------------------------------

GROUPS = [['a', 'bcd'], ['', 'ef']]
BRIEF = Brief('b', 'Write.', ('keywords:existence',), ({'keywords': ['a']},))


def test_a_function_may_raise_anything_and_go_anywhere(
  tmp_path: pathlib.Path,
) -> None:
  before = os.getcwd()

  def wanders(briefs: Any, replies: Any) -> Any:
    os.chdir(tmp_path)
    return next(iter(()))

  with pytest.raises(RuntimeError, match='m:f failed: StopIteration'):
    call(wanders)
  assert os.getcwd() == before


def call(reward: Any) -> np.ndarray:
  return functions.call_user_reward(reward, 'm:f', [BRIEF] * 2, GROUPS)


@pytest.mark.parametrize(
  'error',
  [
    SystemExit(0),
    SystemExit(),
    SystemExit(75),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
  ],
)
def test_a_function_that_ends_the_process_is_an_error(
  error: BaseException,
) -> None:
  def leave(*_: object) -> None:
    raise error

  def leave_in_a_thread(*_: object) -> list[Any]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      return [*pool.map(leave, range(2))]

  for reward in leave, leave_in_a_thread:
    with pytest.raises(ValueError, match='m:f raised .*would end the run'):
      call(reward)


def test_a_function_that_fails_is_named_and_keeps_its_traceback() -> None:
  def fail(*_: object) -> None:
    raise ValueError('mine')

  with pytest.raises(RuntimeError, match='m:f failed: ValueError') as failed:
    call(fail)
  assert isinstance(failed.value.__cause__, ValueError)


def test_a_function_cannot_change_what_is_recorded() -> None:
  kept = np.zeros((2, 2), np.float32)

  def change(briefs: Any, replies: Any) -> np.ndarray:
    replies[0][0] = 'mine'
    replies.append(replies.pop(0))
    briefs[0].kwargs[0]['keywords'].append('mine')
    return kept

  found = call(change)
  kept[:] = 7.0
  assert GROUPS == [['a', 'bcd'], ['', 'ef']]
  assert BRIEF.kwargs == ({'keywords': ['a']},)
  assert found.tolist() == [[0.0, 0.0], [0.0, 0.0]]


class _Refuses:
  """An object that is no array, as a PyTorch tensor with a gradient."""

  def __array__(self, *_: Any, **__: Any) -> np.ndarray:
    raise RuntimeError('no array')


@pytest.mark.parametrize(
  'value',
  [
    None,
    1.0,
    [1.0],
    [[1.0]],
    'text',
    [[], []],
    [['1', '2'], ['3', '4']],
    [[1, 2], [3, 10**400]],
    np.ones((2, 2), complex),
    np.ones((2, 2), 'datetime64[s]'),
    _Refuses(),
  ],
)
def test_values_of_another_kind_are_refused(value: Any) -> None:
  with pytest.raises(ValueError, match=r'm:f returned .*\(2, 2\)'):
    call(lambda *_: value)


def test_a_function_that_hangs_ends_with_the_run(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def hang(*_: object) -> None:
    threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    time.sleep(60)

  with signals.listening(), pytest.raises(signals.Stopped):
    call(hang)
  # one of several processes goes on to where all of them stop
  monkeypatch.setattr(functions.processes, 'count', lambda: 2)
  with signals.listening():
    assert np.isnan(call(hang)).all()


def test_questions_come_from_the_settings(tmp_path: pathlib.Path) -> None:
  settings = factory.judge_settings()
  (tmp_path / 'p.md').write_text('Be kind.')
  settings |= {'principles': str(tmp_path / 'p.md'), 'language': 'zh'}
  config = ConfigDict(settings)
  question = factory.make_question('judge', config, 500)
  assert question == Question('judge', 'zh', 4000, 'Be kind.')
  assert factory.make_question('demand', config).principles == ''
  config.language = 'fr'
  with pytest.raises(
    ValueError, match=r"judge\.language='fr': expected one of \('en'"
  ):
    factory.make_question('judge', config)


def test_a_panel_is_where_the_settings_say(
  make_judge: Callable[[str], pathlib.Path],
) -> None:
  mesh = make_mesh(devices=jax.devices()[:1])
  config = ConfigDict(factory.judge_settings())
  assert factory.make_judge(config, mesh) is None
  base = language_model.load(make_judge('llama3'), mesh)
  config.model = base.source
  local = factory.make_judge(config, mesh, base)
  assert isinstance(local, LogprobJudge) and local.model.params is base.params
  config.model = str(make_judge('gemma3'))
  other = factory.make_judge(config, mesh, base)
  assert isinstance(other, LogprobJudge) and other.model.source == config.model
  config.endpoint.update(url='http://127.0.0.1:9/v1', model='m')
  config.votes = 3
  remote = factory.make_judge(config, mesh, base)
  assert isinstance(remote, JSONJudge) and remote.votes == 3
  assert {'questions', 'cost', 'requests'} <= remote.usage().keys()


# --- Verdicts ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('verdicts', 'broken'),
  [
    ([], 0),
    ([True, True], 0),
    ([True, False], 1),
    ([None, False], 1),
    ([False, None], 1),
    ([True, None], np.nan),
  ],
)
def test_a_missing_verdict_matters_where_no_other_is_against(
  verdicts: list[bool | None], broken: float
) -> None:
  np.testing.assert_equal(constraints.breaks(verdicts), broken)


MERIT, FAULT = (
  Criterion('It is of the sea.', 2.0),
  Criterion('It is sad.', -1.0),
)
BRIEFS = [
  dataclasses.replace(
    demanding('one', COMMA, 'Be wet.'), rubric=(MERIT, FAULT)
  ),
  demanding('two', COMMA),
]
#            scored and kept, a comma, no score, no verdict, cut
REPLIES = [
  ['wave', 'a, b', 'sad', 'dry?', 'cut'],
  ['x', ',', 'odd', 'rude', 'odd,'],
]
FINISHED = [[True, True, True, True, False], [True] * 5]


def panel_of() -> Scripted:
  def answer(prompt: Prompt) -> float:
    reply = quoted(prompt.row)
    if prompt.shared.startswith('You check'):
      return {'wave': 0.9, 'sad': 0.9}.get(reply, np.nan)
    return np.nan if reply == 'sad' else len(reply) / 10

  return Scripted(answer)


@pytest.fixture(scope='module')
def score(
  tiny_folder: pathlib.Path,
) -> Callable[..., tuple[scoring.Scores, Scripted]]:
  """A function that scores the replies by a config."""
  mesh = make_mesh(devices=jax.devices()[:1])
  model = language_model.load(tiny_folder, mesh)
  ids = [tokenizer.encode(model.tokenizer, r) for g in REPLIES for r in g]
  token_NxT, length_N = batches.pad(ids, 8)
  prompt_PxL, length_P = batches.pad(
    [model.chat.encode_prompt(brief.text) for brief in BRIEFS]
  )
  rollout = Rollout(
    token=token_NxT.reshape(2, 5, 8),
    logp=np.zeros((2, 5, 8)),
    length=length_N.reshape(2, 5),
    finished=np.array(FINISHED),
  )

  def scored(
    reference: bool = True, **changes: Any
  ) -> tuple[scoring.Scores, Scripted]:
    scorer = scoring.Scorer(model, settings_of(**changes), reference=reference)
    shared = changes['writing'] == 'reward_model'
    assert bool(scorer.model.params) == (reference or shared)
    scorer.judge.model = panel = panel_of()
    return scorer(BRIEFS, prompt_PxL, length_P, rollout), panel

  return scored


@pytest.mark.parametrize('judge', ['the same', 'another'])
def test_what_scores_attends_as_the_policy_does(
  tiny_folder: pathlib.Path, judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  mesh = make_mesh(devices=jax.devices()[:1])
  loaded = language_model.load(tiny_folder, mesh)._replace(source='the same')
  shape = dataclasses.replace(loaded.config, attention='xla')
  head = reward_model.Head(np.zeros(shape.model_dim), np.zeros(()))
  reward = reward_model.RewardModel(head, 'mean', loaded, shared=False)
  monkeypatch.setattr(language_model, 'load', lambda *_: loaded)
  monkeypatch.setattr(reward_model, 'load', lambda *_: reward)
  scorer = scoring.Scorer(
    loaded._replace(config=shape),
    settings_of(writing='reward_model', judge__model=judge),
  )
  assert scorer.writing.reward.decoder.config.attention == 'xla'
  assert scorer.judge.model.model.config.attention == 'xla'


@pytest.mark.parametrize(('limit', 'told'), [(7, True), (8, False)])
def test_a_reward_model_that_reads_less_than_a_reply_may_have_says_so(
  tiny_folder: pathlib.Path,
  limit: int,
  told: bool,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  model = language_model.load(tiny_folder, make_mesh(devices=jax.devices()[:1]))
  head = reward_model.Head(np.zeros(model.config.model_dim), np.zeros(()))
  reward = reward_model.RewardModel(
    head, 'mean', model, shared=False, limit=limit
  )
  monkeypatch.setattr(reward_model, 'load', lambda *_: reward)
  scoring.Scorer(model, settings_of(writing='reward_model', max_new_tokens=8))
  assert ('--config.max_reply_tokens=8' in capsys.readouterr().out) == told


def test_a_reward_model_s_bias_is_no_blank_reply_s_score(
  score: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
  def load(
    _: str, model: language_model.LanguageModel
  ) -> reward_model.RewardModel:
    weight_D = np.linspace(-1, 1, model.config.model_dim)
    return reward_model.RewardModel(
      reward_model.Head(weight_D, np.full((), 100.0)),
      'mean',
      model,
      shared=True,
    )

  blank = [['wave', '', 'sad', 'dry', 'cut'], REPLIES[1]]
  monkeypatch.setattr(reward_model, 'load', load)
  monkeypatch.setattr(scoring.Scorer, 'texts', lambda *_: blank)
  scores, _ = score(writing='reward_model')
  assert scores.writing[0, 1] == np.delete(scores.writing[0], 1).min()
  assert len({*scores.writing[0]}) == 4  # of five: two share the least


def test_without_a_reference_there_are_scores_alone(
  score: Callable[..., Any], mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  def load(_: str, model: language_model.LanguageModel) -> Any:
    head = reward_model.Head(
      np.linspace(-1, 1, model.config.model_dim), np.zeros(())
    )
    return reward_model.RewardModel(head, 'mean', model, shared=True)

  monkeypatch.setattr(reward_model, 'load', load)
  shared, _ = score(writing='reward_model')
  assert shared.ref_logp is not None
  alone, _ = score(writing='reward_model', reference=False)
  assert alone.ref_logp is None
  np.testing.assert_allclose(alone.writing, shared.writing, atol=1e-5)
  monkeypatch.delattr(rollout_scores, 'score_and_reference')
  own, _ = score(writing=f'{mine}:length', reference=False)
  assert own.ref_logp is None
  assert own.writing[0].tolist() == [len(reply) for reply in REPLIES[0]]


def test_log_odds_are_of_the_judge_s_probability_of_good(
  score: Callable[..., Any],
) -> None:
  good, _ = score(writing='judge')
  scores, panel = score(writing='judge_logit')
  p = good.writing
  np.testing.assert_allclose(scores.writing, np.log(p / (1 - p)), rtol=1e-6)
  np.testing.assert_array_equal(scores.valid, good.valid)
  # and no second opinion: the judge is not asked twice
  assert len(panel.asked) == 5 + 10
  both, panel = score(writing='judge + 0.5*judge_logit', normalise_parts=False)
  np.testing.assert_allclose(both.writing, p + scores.writing / 2, rtol=1e-6)
  assert len(panel.asked) == 5 + 10
  served = settings_of(
    writing='judge_logit + diversity',
    judge__endpoint__url='http://127.0.0.1:9/v1',
    judge__endpoint__model='m',
  )
  with pytest.raises(ValueError, match='judge_logit needs.*probabilities'):
    scoring.check(served)


def test_a_reply_counts_where_it_has_a_score_and_all_verdicts(
  score: Callable[..., Any],
) -> None:
  scores, panel = score(writing='judge')
  assert scores.text == REPLIES
  assert scores.follow[0] == [
    [True, True],
    [False, None],
    [True, True],
    [True, None],
    [True, None],
  ]
  np.testing.assert_array_equal(
    scores.violated, [[0, 1, 0, 0, 1], [0, 1, 0, 0, 1]]
  )
  np.testing.assert_array_equal(
    scores.valid, [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
  )
  np.testing.assert_allclose(
    scores.writing, [[0.4, 0.4, np.nan, 0.4, 0.3], [0.1, 0.1, 0.3, 0.4, 0.4]]
  )
  assert scores.stats['unscored'] == pytest.approx(0.1)
  assert scores.stats['unverified'] == pytest.approx(0.1)
  assert scores.stats['judge_questions'] == len(panel.asked) == 5 + 10
  # the judge reads the brief with its rules, the verifier the request alone
  named = {q.name: p.group for q, p in panel.asked if 'one' in p.group}
  assert BRIEFS[0].text in named['judge']
  assert BRIEFS[0].prompt in named['demand']
  assert BRIEFS[0].text not in named['demand']


def test_functions_of_ones_own_beside_the_rules(
  score: Callable[..., Any], mine: str
) -> None:
  scores, panel = score(
    writing=f'{mine}:length', verifiers=('rules', f'{mine}:kind')
  )
  np.testing.assert_array_equal(
    scores.violated, [[0, 1, 0, 0, 1], [0, 1, 0, 1, 1]]
  )
  np.testing.assert_array_equal(
    scores.valid, [[1, 1, 1, 0, 1], [1, 1, 0, 1, 1]]
  )
  np.testing.assert_array_equal(
    scores.writing, [[len(reply) for reply in group] for group in REPLIES]
  )
  assert scores.stats['unverified'] == pytest.approx(0.2)
  assert {q.name for q, _ in panel.asked} == {'demand'}


def test_functions_of_ones_own_in_the_place_of_the_rules(
  score: Callable[..., Any], mine: str
) -> None:
  scores, _ = score(writing=f'{mine}:nothing', verifiers=(f'{mine}:kind',))
  np.testing.assert_array_equal(
    scores.violated, [[0, 0, 0, 0, 1], [0, 0, 0, 1, 0]]
  )
  assert not scores.valid.any()
  assert scores.stats['unscored'] == 1
  assert scores.stats['unverified'] == pytest.approx(0.2)  # both odd ones


def test_parts_are_added_by_weight_and_a_missing_one_masks_the_reply(
  score: Callable[..., Any], mine: str
) -> None:
  scores, panel = score(writing=f'{mine}:length - 10*judge')
  length = np.array([[len(reply) for reply in group] for group in REPLIES])
  judge = length / 10
  judge[0, 2] = np.nan  # 'sad' has no verdict
  assert [*scores.parts] == [f'{mine}:length', 'judge']
  np.testing.assert_allclose(scores.parts['judge'], judge, rtol=1e-6)
  np.testing.assert_allclose(scores.writing, length - 10 * judge, atol=1e-5)
  np.testing.assert_array_equal(
    scores.valid, [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
  )
  assert scores.stats['unscored'] == pytest.approx(0.1)
  assert scores.details(1, 2) == {
    'parts': {f'{mine}:length': 3, 'judge': pytest.approx(0.3)}
  }
  # a second opinion would be the first
  assert np.isnan(scores.good).all()
  assert len(panel.asked) == 5 + 10


def test_a_rubric_is_a_part(score: Callable[..., Any], mine: str) -> None:
  scores, panel = score(writing=f'{mine}:length + 2*rubric')
  nothing = [None, None]
  assert scores.met[0] == [[True] * 2, nothing, [True] * 2, nothing, nothing]
  np.testing.assert_array_equal(
    scores.parts['rubric'], [[0.5, np.nan, 0.5, np.nan, np.nan], [0] * 5]
  )
  assert scores.writing[0, 0] == 4 + 2 * 0.5
  np.testing.assert_array_equal(scores.valid[0], [1, 0, 1, 0, 0])
  assert scores.valid[1].all()
  assert scores.details(0, 1)['met'] == nothing
  names = [question.name for question, _ in panel.asked]
  assert names.count('criterion') == 2 * 5
  alone, _ = score(writing='rubric')
  assert alone.parts == {}
  assert alone.details(0, 0) == {'met': [True, True]}


def test_comparisons_are_a_part(score: Callable[..., Any], mine: str) -> None:
  scores, panel = score(writing=f'{mine}:length + pairs', pairs__opponents=4)
  # of 'wave' over 'cut' (0.4 + 1 - 0.3) / 2; nobody answers about 'sad'
  wave, cut, none = (0.5 + 0.5 + 0.55) / 3, 0.45, np.nan
  x, rude = (0.5 + 0.4 + 2 * 0.35) / 4, (2 * 0.65 + 0.55 + 0.5) / 4
  odd = (2 * 0.6 + 2 * 0.45) / 4
  np.testing.assert_allclose(
    scores.parts['pairs'],
    [[wave, wave, none, wave, cut], [x, x, odd, rude, rude]],
  )
  np.testing.assert_array_equal(scores.valid[0], [1, 1, 0, 0, 1])
  assert scores.writing[0, 0] == pytest.approx(4 + wave)
  assert scores.details(0, 4)['against'][0] == pytest.approx(0.45)
  names = [question.name for question, _ in panel.asked]
  assert names.count('compare') == 2 * 2 * 10
  assert scores.stats['judge_pairs'] == 2 * 10
  assert scores.stats['pairs_unanswered'] == 4 / 20
  assert scores.stats['pairs_swayed'] == 16 / 20


def test_one_part_of_weight_1_is_the_score_itself() -> None:
  own = np.array([[-0.0, np.nan, 3.0]], np.float32)
  found = parts.weighted_sum([own], [1.0])
  assert found.tobytes() == own.tobytes() and found.dtype == own.dtype


def test_a_part_of_rubrics_takes_briefs_with_some(
  capsys: pytest.CaptureFixture[str],
) -> None:
  config = settings_of(writing='rubric', briefs='mine.jsonl')
  writing.check_rubrics(config, BRIEFS[:1])
  assert not capsys.readouterr().out
  writing.check_rubrics(config, BRIEFS)
  assert '1 of 2 briefs have no rubric' in capsys.readouterr().out
  with pytest.raises(ValueError, match='no brief in mine.jsonl has a rubric'):
    writing.check_rubrics(config, BRIEFS[1:])
  writing.check_rubrics(settings_of(), BRIEFS[1:])


def test_a_demand_takes_a_judge(score: Callable[..., Any], mine: str) -> None:
  scorer = scoring.Scorer.__new__(scoring.Scorer)
  scorer.config = settings_of()
  scorer.judge = ReplyJudge(None, scorer.config)
  assert scorer.usage() == {}
  with pytest.raises(ValueError, match='brief one makes a demand'):
    scorer.verify(BRIEFS, REPLIES)


def test_questions_about_relabelled_replies_are_counted(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  scorer, asked = scoring.Scorer.__new__(scoring.Scorer), {'questions': 3.0}
  stats = {'judge_questions': 3.0, 'seconds_writing': 1.0, 'unscored': 0.0}

  def write(*_: Any) -> writing.Written:
    asked['questions'] += 5
    return writing.Written(np.ones((1, 2)), {}, [])

  monkeypatch.setattr(scorer, 'read', lambda *_: (None, None))
  local: Any = types.SimpleNamespace(
    local_rows=lambda rows: rows, gather=lambda rows: [rows]
  )
  scorer.shards = local
  monkeypatch.setattr(scorer, 'usage', lambda: dict(asked))
  monkeypatch.setattr(scorer, 'writing', write, raising=False)
  flags = np.ones((1, 2), bool)
  rollout: Any = types.SimpleNamespace(
    finished=flags, token=np.zeros((1, 2, 4))
  )
  scores = scoring.Scores(
    [['a', 'b']],
    [[[True], [False]]],
    violated=~flags,
    writing=np.zeros((1, 2)),
    valid=flags,
    refused=np.zeros((1, 2)),
    broken_share=np.zeros((1, 2)),
    ref_logp=None,
    good=np.zeros(1),
    stats=stats,
  )
  prompt: Any = np.zeros((1, 3))
  found = scorer.score_again(
    [], prompt, prompt[:, 0], rollout, scores, np.array([True])
  )
  assert found.stats['judge_questions'] == 8
  assert found.stats['seconds_writing'] >= 1
  assert found.stats['unscored'] == 0


def test_other_briefs_alone_are_compared_again(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  config = settings_of(writing='pairs', pairs__opponents=1)
  scorer = scoring.Scorer.__new__(scoring.Scorer)
  panel = Scripted(lambda prompt: 0.9 if 'one' in prompt.group else 0.5)
  model: Any = None
  scorer.config, scorer.judge = config, ReplyJudge(panel, config)
  scorer.writing = writing.WritingScorer(model, config, scorer.judge)
  local: Any = types.SimpleNamespace(
    local_rows=lambda rows: rows, gather=lambda rows: [rows]
  )
  scorer.shards = local
  monkeypatch.setattr(scorer, 'read', lambda *_: (None, None))
  flags = np.ones((2, 2), bool)
  rollout: Any = types.SimpleNamespace(
    finished=flags, token=np.zeros((2, 2, 4))
  )
  against = np.full((2, 2, 2), 0.25)
  scores = scoring.Scores(
    [['a', 'b'], ['c', 'd']],
    [[[True], [False]]] * 2,
    violated=~flags,
    writing=np.full((2, 2), 0.25),
    valid=flags,
    refused=np.zeros((2, 2)),
    broken_share=np.zeros((2, 2)),
    ref_logp=None,
    good=np.zeros(2),
    stats={'judge_questions': 4, 'judge_pairs': 2.0, 'seconds_writing': 1.0},
    pairs=[np.array([[0, 1]])] * 2,
    against=against,
  )
  prompt: Any = np.zeros((2, 3))
  found = scorer.score_again(
    BRIEFS, prompt, prompt[:, 0], rollout, scores, np.array([False, True])
  )
  assert {prompt.group for _, prompt in panel.asked} == {
    prompt.group for _, prompt in panel.asked if BRIEFS[1].text in prompt.group
  }
  assert len(panel.asked) == 2
  assert found.writing.tolist() == [[0.25, 0.25], [0.5, 0.5]]
  np.testing.assert_array_equal(found.against[0], against[0])
  np.testing.assert_array_equal(
    found.against[1], [[np.nan, 0.5], [0.5, np.nan]]
  )
  assert found.stats['judge_pairs'] == 3
  assert found.stats['judge_questions'] == 6


# --- Whole runs -------------------------------------------------------------


@pytest.fixture
def train(
  make_judge: Callable[[str], pathlib.Path], tmp_path: pathlib.Path, mine: str
) -> Callable[..., tuple[ConfigDict, list[dict[str, Any]]]]:
  """A function that runs `grpo` with some settings, on briefs with demands."""
  folder = make_judge('llama3')
  for n in range(16):
    demands = [COMMA, f'Name {n} waves.'] if n % 2 else [COMMA]
    brief = demanding(f'brief {n}', *demands)
    record = {**vars(brief), 'split': 'heldout' if n >= 12 else 'train'}
    if n % 4 < 2:
      record['rubric'] = [{'criterion': 'Name the sea.', 'weight': 1}]
    files.append_jsonl(tmp_path / 'briefs.jsonl', record)

  def run(**changes: Any) -> tuple[ConfigDict, list[dict[str, Any]]]:
    config = pipeline.tiny_config('grpo', folder, tmp_path)
    small = {'steps': 2, 'group_size': 2, 'max_new_tokens': 4}
    changes = {k.replace('__', '.'): v for k, v in changes.items()}
    config.update_from_flattened_dict(
      {'briefs': str(tmp_path / 'briefs.jsonl'), **small, **changes}
    )
    (tmp_path / 'principles.md').write_text('Be kind.')
    config.judge.principles = str(tmp_path / 'principles.md')
    pipeline.run('grpo', config, tmp_path / 'grpo')
    return config, datasets.read_jsonl(tmp_path / 'grpo' / 'metrics.jsonl')

  return run


def evaluated(runs: pathlib.Path) -> dict[str, Any]:
  config = pipeline.tiny_config('evaluate', runs, runs)
  config.update(batch_size=8, replies_per_brief=2)
  pipeline.run('evaluate', config, runs / 'evaluate')
  return json.loads((runs / 'evaluate' / 'summary.json').read_text())


def replies_of(runs: pathlib.Path) -> list[dict[str, Any]]:
  groups = datasets.read_jsonl(runs / 'grpo' / 'rollouts.jsonl')
  return [reply for group in groups for reply in group['replies']]


MAY_BE_NULL = {'max_violator_advantage', 'judge_good'}


def told_well(rows: list[dict[str, Any]], nulls: set[str]) -> None:
  assert len(rows) == 2
  for row in rows:
    assert {k for k, v in row.items() if v is None} <= nulls
    assert all(isinstance(row[k], (int, float)) for k in row.keys() - nulls)
    assert {'unscored', 'unverified', 'judge_questions'} <= row.keys()
    parts = row['seconds_verifying'] + row['seconds_writing']
    assert 0 <= parts <= row['seconds_scoring']
    phases = ('seconds_rollout', 'seconds_scoring', 'seconds_update')
    assert sum(row[p] for p in phases) == pytest.approx(row['seconds_step'])
    assert row['seconds_update'] > 0


@pytest.mark.slow
def test_a_judge_and_a_verifier_of_ones_own_train_a_policy(
  train: Callable[..., Any],
  make_judge: Callable[[str], pathlib.Path],
  tmp_path: pathlib.Path,
  mine: str,
) -> None:
  _, rows = train(
    writing='judge',
    judge__model=str(make_judge('llama3')),
    verifiers=('rules', f'{mine}:kind'),
  )
  told_well(rows, MAY_BE_NULL)
  # a question a reply, and one more where its brief makes a demand
  demands = sum(len(reply['follow']) > 1 for reply in replies_of(tmp_path))
  assert demands
  asked = sum(row['judge_questions'] for row in rows)
  assert asked == 2 * 8 * 2 + demands
  for row in rows:
    assert row['unscored'] == row['unverified'] == 0
    assert 0 < row['writing'] < 1
    assert row['writing_std'] > 0
  for reply in replies_of(tmp_path):
    assert None not in reply['follow']
    assert reply['valid']
  summary = evaluated(tmp_path)
  assert 0 < summary['writing_base'] < 1
  assert summary['writing_difference']['low'] is not None


class Silent:
  """A scorer that knows why it gives no score."""

  def __init__(self, lasting: bool = False):
    self.lasting = lasting

  def trouble(self) -> Trouble:
    return Trouble('status 401, wrong key', self.lasting)


def outages() -> step.Outages:
  return step.Outages(Patience('no score'), Patience('no verdict'))


def stats_of(valid: bool, **counts: int) -> dict[str, Any]:
  scoring = {f'judge_{name}': count for name, count in counts.items()}
  valid_PxG = np.array([[False, valid], [False, False]])
  return {'valid': valid_PxG, 'scoring': scoring}


@pytest.mark.parametrize(('lasting', 'steps'), [(False, 3), (True, 1)])
def test_steps_without_a_score_end_a_run_and_name_the_cause(
  lasting: bool, steps: int
) -> None:
  scorer: Any = Silent(lasting)
  found = outages()
  step.end_in_outage(found, stats_of(True), scorer)
  for _ in range(steps - 1):
    step.end_in_outage(found, stats_of(False), scorer)
  with pytest.raises(train_lib.Ended, match='score.*: status 401, wrong key'):
    step.end_in_outage(found, stats_of(False), scorer)


def test_a_judge_that_answers_nothing_ends_a_run_that_has_other_scores() -> (
  None
):
  scorer: Any = Silent(lasting=True)
  found = outages()
  silent, idle = stats_of(True, questions=4, unanswered=4), stats_of(True)
  for each in (silent, silent, stats_of(True, questions=4, unanswered=3)):
    step.end_in_outage(found, each, scorer)
  for each in (silent, idle, silent, idle, idle):
    step.end_in_outage(found, each, scorer)
  with pytest.raises(train_lib.Ended, match='no verdict 3 times.*wrong key'):
    step.end_in_outage(found, silent, scorer)


def test_the_judge_s_usage_is_that_of_all_steps() -> None:
  rows = [
    {'judge_questions': 8, 'judge_cost': 0.5, 'judge_good': 0.9},
    {'judge_questions': 4, 'judge_cost': None},
    {},  # of an earlier version
  ]
  found = grpo.judge_usage(rows, ['questions', 'cost', 'cut'])
  assert found == {'questions': 12, 'cost': 0.5, 'cut': 0}
  assert grpo.judge_usage(rows, []) == {}


@pytest.mark.parametrize(
  ('setting', 'tokens', 'limit'),
  [
    (0, 2048, 8 * 2048),
    (4000, 2048, 4000),
    (4000, None, 4000),
    (0, None, sys.maxsize),
  ],
)
def test_a_reply_is_shown_as_far_as_its_budget_goes(
  setting: int, tokens: int | None, limit: int
) -> None:
  settings = ConfigDict(factory.judge_settings())
  settings.max_reply_characters = setting
  question = factory.make_question('judge', settings, tokens)
  assert question.limit == limit
  # 2,048 tokens of prose
  shown = question.about('x', 'four' * 2250)
  assert shown.hidden == max(0, 9000 - limit)
  with pytest.raises(ValueError, match='max_reply_characters=-1; expected 0'):
    factory.reply_limit(-1, tokens)


@pytest.mark.slow
def test_a_run_whose_judge_is_gone_ends_and_resumes(
  train: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  settings = {'writing': 'judge', 'steps': 5, 'judge__endpoint__model': 'm'}
  down = True

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    if down:
      return Fault('{"error": "overloaded"}', 500, SOON)
    label = 'Good' if n % 2 else 'Bad'
    return verdict(prompt_of(request), label)

  with serving(handler) as server:
    settings['judge__endpoint__url'] = server.url
    settings['judge__endpoint__retries'] = 0
    with pytest.raises(
      train_lib.Ended, match='no reply of a step got a score 3 times.*overload'
    ):
      train(**settings)
    rows = datasets.read_jsonl(tmp_path / 'grpo' / 'metrics.jsonl')
    assert [row['unscored'] for row in rows] == [1, 1]
    assert not (tmp_path / 'grpo' / 'summary.json').exists()
    down = False
    _, rows = train(**settings)
  assert [row['step'] for row in rows] == [*range(5)]
  assert rows[-1]['unscored'] == 0
  summary = json.loads((tmp_path / 'grpo' / 'summary.json').read_text())
  assert summary['unscored'] == pytest.approx(2 / 5)
  used = summary['usage']['judge']
  assert used['requests'] == sum(row['judge_requests'] for row in rows)
  assert used['failed'] >= 2 * 8 * 2


@pytest.mark.slow
def test_nobody_answers_and_nothing_is_learned(
  train: Callable[..., Any],
  make_judge: Callable[[str], pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:
  endpoint = {'url': 'http://127.0.0.1:9/v1', 'model': 'm', 'retries': 0}
  config, rows = train(
    writing='judge',
    **{f'judge__endpoint__{name}': v for name, v in endpoint.items()},
  )
  # no reply is scored, and whether rules are kept no finished one can know
  unknown = {'writing', 'writing_std', 'reward', 'pass_rate', 'violation_rate'}
  told_well(rows, MAY_BE_NULL | unknown)
  for row in rows:
    assert row['unscored'] == 1 and row['writing'] is None
    assert row['judge_failed'] == row['judge_unanswered']
    assert row['judge_unanswered'] == row['judge_questions'] > 0
    assert row['judge_cost'] == row['judge_repaired'] == 0
    assert row['loss'] == row['grad_norm'] == 0
    assert row['skipped'] == 1
  for reply in replies_of(tmp_path):
    assert not reply['valid']
    assert reply['advantage'] == 0
    assert reply['writing'] is None
  base = language_model.load(make_judge('llama3'), make_mesh(**config.mesh))
  _, learned = language_model.restore(tmp_path / 'grpo', base)
  jax.tree.map(np.testing.assert_array_equal, learned, base.params)
  # Numbers of silence are worth nothing, so there are none.
  with pytest.raises(NoAnswers, match='evaluate: the judge answered nothing'):
    evaluated(tmp_path)
  assert not (tmp_path / 'evaluate' / 'summary.json').exists()


@pytest.mark.slow
def test_a_reward_of_ones_own_trains_a_policy(
  train: Callable[..., Any], tmp_path: pathlib.Path, mine: str
) -> None:
  _, rows = train(
    writing=f'{mine}:length',
    verifiers=(f'{mine}:kind',),
    judge__endpoint__url='http://127.0.0.1:9/v1',
    judge__endpoint__model='m',
    judge__endpoint__retries=0,
  )
  told_well(rows, MAY_BE_NULL | {'pass_rate'})
  for reply in replies_of(tmp_path):
    assert reply['writing'] == len(reply['text'])
    assert reply['valid']
  assert rows[0]['grad_norm'] > 0


@pytest.mark.slow
def test_comparisons_train_a_policy(
  train: Callable[..., Any],
  make_judge: Callable[[str], pathlib.Path],
  tmp_path: pathlib.Path,
  mine: str,
) -> None:
  settings = {
    'writing': f'{mine}:length + pairs',
    'pairs__mode': 'pivot',
    'group_size': 4,
    'oversample': 2.0,
    'mixing__all_violating': 'relabel',
    'judge__model': str(make_judge('llama3')),
    'checkpoint_every': 1,
  }
  _, rows = train(**settings)
  told_well(rows, MAY_BE_NULL)
  assert all(row['pairs_unanswered'] == 0 for row in rows)
  assert all(row['judge_pairs'] >= 16 * 3 for row in rows)
  whole = datasets.read_jsonl(tmp_path / 'grpo' / 'rollouts.jsonl')
  assert len(whole) == 2 * 16
  for group in whole:
    against = np.array([r['against'] for r in group['replies']], float)
    assert sorted(np.isfinite(against).sum(1)) == [1, 1, 1, 3]
    np.testing.assert_allclose(
      [reply['parts']['pairs'] for reply in group['replies']],
      np.nanmean(against, 1),
      rtol=1e-5,
    )
  # a run that was stopped compares the same replies
  (tmp_path / 'grpo').rename(tmp_path / 'whole')
  train(**settings, steps=1)
  train(**settings)
  assert datasets.read_jsonl(tmp_path / 'grpo' / 'rollouts.jsonl') == whole
  summary = evaluated(tmp_path)
  assert 0 < summary['writing/judge_base'] < 1
  config = pipeline.tiny_config('report', tmp_path, tmp_path)
  config.reward_model = ''
  pipeline.run('report', config, tmp_path / 'report')
  page = (tmp_path / 'report' / 'report.html').read_text()
  assert 'the mean probability that a reply is better' in page


@pytest.mark.slow
def test_several_parts_train_a_policy(
  train: Callable[..., Any],
  make_judge: Callable[[str], pathlib.Path],
  tmp_path: pathlib.Path,
  mine: str,
) -> None:
  names = [f'{mine}:length', 'judge', 'rubric']
  _, rows = train(
    writing=f'{names[0]} + 0.5*judge + 2*rubric',
    overlong_buffer=2,
    judge__model=str(make_judge('llama3')),
  )
  told_well(rows, MAY_BE_NULL)
  groups = datasets.read_jsonl(tmp_path / 'grpo' / 'rollouts.jsonl')
  assert any('rubric' in group for group in groups)
  for group in groups:
    criteria = len(group.get('rubric', ()))
    for reply in group['replies']:
      assert [*reply['parts']] == names
      assert len(reply['met']) == criteria and None not in reply['met']
      length, judge, rubric = reply['parts'].values()
      total = length + 0.5 * judge + 2 * rubric
      assert reply['writing'] == pytest.approx(total, rel=1e-5)
  for row, step_groups in zip(rows, (groups[:8], groups[8:]), strict=True):
    all_replies = [r for group in step_groups for r in group['replies']]
    for name in names:
      mean = np.mean([reply['parts'][name] for reply in all_replies])
      assert row[f'writing/{name}'] == pytest.approx(mean, rel=1e-4, abs=1e-6)
    # of up to four tokens, with a buffer of two
    costs = [np.clip((2 - r['length']) / 2, -1, 0) for r in all_replies]
    assert row['writing/overlong'] == pytest.approx(np.mean(costs))
    # a group's normalised parts cancel
    reward = np.mean([r['writing_reward'] for r in all_replies])
    assert reward == pytest.approx(np.mean(costs), abs=1e-5)
  assert rows[0]['grad_norm'] > 0
  summary = evaluated(tmp_path)
  assert 0 < summary['writing/judge_base'] < 1
  config = pipeline.tiny_config('report', tmp_path, tmp_path)
  config.reward_model = ''
  pipeline.run('report', config, tmp_path / 'report')
  page = (tmp_path / 'report' / 'report.html').read_text()
  assert 'is the sum of' in page and 'Name the sea.' in page


@pytest.mark.parametrize(
  ('part', 'demand', 'kept'),
  [
    ('reward_model', False, False),
    ('reward_model', True, True),
    ('reward_model + 0.5*rubric', False, True),
    ('judge', False, True),
    ('judge_logit', False, True),
    ('pairs', False, True),
  ],
)
def test_a_judge_that_no_held_out_reply_needs_is_not_loaded(
  part: str, demand: bool, kept: bool
) -> None:
  """It gives a second opinion in training, and would take its memory again."""
  config = pipeline.shipped('grpo')
  config.writing = part
  config.judge.model, config.judge.endpoint.url = 'x', 'y'
  briefs = [Brief('b', 'Write.', (), ())]
  if demand:
    briefs.append(demanding('two', 'Be wet.'))
  found = scoring.without_idle_judge(config, briefs).judge
  assert bool(found.model) == bool(found.endpoint.url) == kept
  assert config.judge.model == 'x'
