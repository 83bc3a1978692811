"""The library in five functions, on tiny models."""

import copy
import doctest
import inspect
import json
import math
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import library
import numpy as np
import pytest
from server import Fault, prompt_of, serving
from stub_judges import verdict

import rlcw
from rlcw import api
from rlcw.data.messages import Message
from rlcw.rewards import forms
from rlcw.rewards.briefs import Brief
from rlcw.rewards.forms import Reply
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh

PROMPT = 'Write a toast to the sea.'
RULES = {'length:words': {'at_most': 3}, 'punctuation:no_comma': {}}
BRIEF = {
  'prompt': 'A toast.',
  'instruction_id_list': ['length:words', 'punctuation:no_comma'],
  'kwargs': [{'at_most': 3}, {}],
}
CHAT = [
  {'role': 'system', 'content': 'Be brief.'},
  {'role': 'user', 'content': 'A toast.'},
]


def kept(verdicts: list[api.Verdict]) -> list[bool | None]:
  return [each.kept for each in verdicts]


# --- The package ------------------------------------------------------------


def test_importing_the_package_imports_no_jax() -> None:
  code = (
    'import sys, rlcw; print("jax" in sys.modules, "numpy" in sys.modules);'
    'print({*rlcw.__all__} <= {*dir(rlcw)})'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert done.stdout.split() == [b'False', b'False', b'True'], done.stderr


def test_the_package_has_the_five_functions() -> None:
  assert rlcw.__all__ == ['check', 'judge', 'load', 'sample', 'score']
  for name in rlcw.__all__:
    assert getattr(rlcw, name) is getattr(api, name)
  with pytest.raises(AttributeError, match="'rlcw' has no attribute 'lode'"):
    _ = rlcw.lode  # pyright: ignore


def test_the_functions_below_stay_where_they_were() -> None:
  from rlcw import losses
  from rlcw.rewards import constraints, mixing
  from rlcw.sampling import sample

  assert callable(losses.grpo) and callable(losses.group_advantages)
  assert callable(mixing.rlmr) and callable(sample)
  assert constraints.check('length:words', 'One two.', {'at_most': 2})


def test_examples_of_docstrings_are_true(in_library: pathlib.Path) -> None:
  names: dict[str, Any] = {'rlcw': rlcw}
  runner = doctest.DocTestRunner()
  for name in ('load', 'sample', 'check', 'score', 'judge'):
    text = inspect.getdoc(getattr(api, name)) or ''
    parsed = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert parsed.examples, name
    parsed.globs = names  # one example uses what the one before it made
    runner.run(parsed, clear_globs=False)
  assert runner.summarize(verbose=False).failed == 0


# --- load -------------------------------------------------------------------


def test_an_unfinished_run_is_its_last_checkpoint_and_says_so(
  in_library: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  trained, base = rlcw.load('runs/my/begun'), rlcw.load('MODEL')
  said = 'runs/my/begun has not finished: the model is that of step 2 of 4'
  assert said in capsys.readouterr().out
  assert trained.config == base.config  # the adapters are merged
  query = [m.params['blocks']['query']['kernel'] for m in (trained, base)]
  assert np.abs(np.subtract(*query)).max() > 1e-3


def test_a_run_of_an_unfinished_run_says_so_too(
  in_library: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
  library.save_policy(
    tmp_path / 'next', str(in_library / 'runs/my/begun'), steps=2
  )
  files.write_json(tmp_path / 'next' / 'summary.json', {})
  capsys.readouterr()
  rlcw.load(tmp_path / 'next')
  said = capsys.readouterr().out
  assert 'runs/my/begun has not finished' in said
  assert 'next has not finished' not in said


@pytest.mark.parametrize(
  ('model', 'options', 'error', 'message'),
  [
    ('nothing', {}, FileNotFoundError, 'no model at nothing'),
    ('nothing', {'reward': True}, FileNotFoundError, 'no model at nothing'),
    ('', {}, FileNotFoundError, 'no model is named'),
    ('', {'reward': True}, FileNotFoundError, 'no model is named'),
    (None, {}, ValueError, 'model=None; expected a path'),
    ('runs/my/reward_model', {}, ValueError, 'is a reward model'),
    ('runs/my/grpo', {'reward': True}, FileNotFoundError, 'no reward model at'),
    ('MODEL', {'reward': True}, ValueError, 'score'),
    ('MODEL', {'dtype': 'float16'}, ValueError, "dtype='float16'; expected"),
  ],
)
def test_a_model_of_the_wrong_kind_is_named(
  in_library: pathlib.Path,
  model: Any,
  options: Any,
  error: Any,
  message: str,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  if not model:  # not that of the current folder either
    monkeypatch.chdir('MODEL')
  with pytest.raises(error, match=message):
    rlcw.load(model, **options)


def test_weights_can_be_in_bfloat16(in_library: pathlib.Path) -> None:
  model = rlcw.load('MODEL', dtype='bfloat16')
  assert model.config.dtype == 'bfloat16'
  assert model.params['blocks']['query']['kernel'].dtype == 'bfloat16'
  taste = rlcw.load('runs/my/reward_model', reward=True, dtype='bfloat16')
  assert taste.decoder.config.dtype == 'bfloat16'


# --- sample -----------------------------------------------------------------


def test_one_prompt_gets_a_list_and_several_get_lists(
  in_library: pathlib.Path,
) -> None:
  model = rlcw.load('MODEL')
  few: Any = {'n': 4, 'max_new_tokens': 16}
  one = rlcw.sample(model, PROMPT, **few)
  assert [type(reply) for reply in one] == [Reply] * 4 and len({*one}) == 4
  prompts = [PROMPT, PROMPT, CHAT, BRIEF]
  many = rlcw.sample(model, prompts, **few)
  assert [len(group) for group in many] == [4] * 4
  ends = [reply.finished for group in many for reply in group]
  assert {*map(type, ends)} == {bool} and not all(ends)
  assert many[0] == one
  # The longest first, and each in its place.
  assert rlcw.sample(model, prompts, batch_size=2, **few) == many
  assert many[1] != one  # the same prompt, of another place
  assert rlcw.sample(model, PROMPT, seed=1, **few) != one
  assert rlcw.sample(model, [], **few) == []


@pytest.mark.slow
def test_devices_change_no_reply(
  library_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Eight devices; one prompt and one reply are no full batch."""
  monkeypatch.chdir(library_folder)
  model = rlcw.load('MODEL')
  assert model.mesh.size == 8
  [found] = rlcw.sample(model, 'A toast.', max_new_tokens=4, temperature=0)
  taste = rlcw.load('runs/my/reward_model', reward=True)
  score = rlcw.score(taste, 'A toast.', found)
  good = rlcw.judge('JUDGE', 'A toast.', ['To rain.', 'x'])
  mesh = make_mesh(devices=jax.devices()[:1])
  one = rlcw.load('MODEL', mesh=mesh)
  assert [found] == rlcw.sample(
    one, 'A toast.', max_new_tokens=4, temperature=0
  )
  taste = rlcw.load('runs/my/reward_model', reward=True, mesh=mesh)
  assert rlcw.score(taste, 'A toast.', found) == pytest.approx(score, abs=1e-4)
  again = rlcw.judge(
    rlcw.load('JUDGE', mesh=mesh), 'A toast.', ['To rain.', 'x']
  )
  assert [x.p_good for x in good] == pytest.approx(
    [x.p_good for x in again], abs=1e-5
  )


@pytest.mark.parametrize(
  ('prompts', 'options', 'message'),
  [
    ('', {}, 'a prompt is blank'),
    (['A', ' \n'], {}, 'a prompt is blank'),
    ([3], {}, 'a prompt is 3; expected a text, a list of messages'),
    ({'text': 'A'}, {}, "no prompt in the fields .'text'."),
    ([CHAT[:1]], {}, "the user's message last"),
    ([{'role': 'poet', 'content': 'A'}], {}, "the role 'poet'"),
    (BRIEF | {'kwargs': [{'at_most': 0}, {}]}, {}, 'at_most must be a whole'),
    ('A', {'n': 0}, 'n=0; expected an integer of at least 1'),
    ('A', {'max_new_tokens': 0}, 'max_new_tokens=0'),
    ('A', {'temperature': float('nan')}, 'temperature=nan'),
    ('A', {'temperature': float('inf')}, 'temperature=inf'),
    ('A', {'temperature': '1'}, "temperature='1'"),
    ('A', {'top_k': 1.5}, r'top_k=1\.5'),
    ('A', {'seed': 2**40}, 'seed=1099511627776'),
    ('A', {'seed': -1}, 'seed=-1'),
    ('A', {'seed': True}, 'seed=True'),
    (5, {}, 'prompts=5; expected a prompt, or a list of prompts'),
    (None, {}, 'prompts=None; expected'),
    ('A', {'max_new_tokens': 1.0}, r'max_new_tokens=1\.0'),
    ('A', {'batch_size': True}, 'batch_size=True'),
    ('A', {'temperature': -1.0}, 'expected temperature >= 0'),
    ('A', {'max_new_tokens': 512}, '1 of 1 prompts do not fit its context'),
  ],
)
def test_a_prompt_or_setting_out_of_order_is_named(
  in_library: pathlib.Path, prompts: Any, options: Any, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    rlcw.sample('MODEL', prompts, **options)


def test_a_reply_is_a_text_that_knows_its_end() -> None:
  cut = Reply('To rain', finished=False)
  assert cut == 'To rain' and json.dumps(cut) == '"To rain"'
  for again in (copy.deepcopy(cut), pickle.loads(pickle.dumps(cut))):
    assert again == cut and not again.finished


# --- check ------------------------------------------------------------------


def test_verdicts_are_nested_like_the_replies() -> None:
  good, bad = 'To old rain', 'To rain, and to the sea'
  assert kept(rlcw.check(RULES, good)) == [True, True]
  assert [*map(kept, rlcw.check(BRIEF, [good, bad]))] == [
    [True, True],
    [False, False],
  ]
  rules = [RULES, {'punctuation:no_exclamation': {}}]
  assert [*map(kept, rlcw.check(rules, [bad, 'Ah!']))] == [
    [False, False],
    [False],
  ]
  [first, second] = rlcw.check(rules, [[good, bad], []])
  assert [*map(kept, first)] == [[True, True], [False, False]]
  assert second == []
  [[alone]] = rlcw.check(RULES, [[good]])
  assert kept(alone) == [True, True]
  assert rlcw.check(RULES, []) == [] == rlcw.check([], [])
  assert rlcw.check({}, good) == rlcw.check({'prompt': 'x'}, good) == []


def test_a_verdict_has_its_rule_in_words() -> None:
  verdicts = rlcw.check(RULES, 'To rain')
  assert [v.rule for v in verdicts] == [*RULES]
  assert '3' in verdicts[0].text and 'comma' in verdicts[1].text
  [chinese] = rlcw.check(
    {
      'language': 'zh',
      'instruction_id_list': ['punctuation:no_comma'],
      'kwargs': [{}],
    },
    '雨，海',
  )
  assert '逗号' in chinese.text and chinese.kept is False
  brief = Brief('', 'x', ('punctuation:no_comma',), ({},), language='fr')
  assert 'comma' in rlcw.check(brief, 'a')[0].text


def test_thoughts_and_messages_are_read_as_in_training() -> None:
  thought = '<think>One, two, three, four.</think>\nTo rain'
  assert kept(rlcw.check(RULES, thought)) == [True, True]
  said = [{'role': 'assistant', 'content': 'To rain, and the sea'}]
  assert kept(rlcw.check(RULES, said)) == [False, False]
  assert [*map(kept, rlcw.check([RULES], [said]))] == [[False, False]]
  said[0] |= {'reasoning_content': 'One, two, three, four.'}
  assert kept(rlcw.check(RULES, said)) == [False, False]
  parts = [
    {'type': 'thinking', 'thinking': 'One, two, three, four.'},
    {'type': 'text', 'text': 'To rain'},
  ]
  message = {'role': 'assistant', 'content': parts}
  assert kept(rlcw.check(RULES, [message])) == [True, True]
  assert kept(rlcw.check(RULES, [Message('assistant', 'To rain')])) == [
    True,
    True,
  ]


def test_rules_of_a_row_of_a_data_set_may_be_null_or_of_numpy() -> None:
  row = {'prompt': None, 'instruction_id_list': None, 'kwargs': None}
  assert rlcw.check([row], ['x']) == [[]]
  row = {
    'instruction_id_list': ('length:words',),
    'kwargs': ({'at_most': np.int64(3), 'at_least': None},),
    'paraphrase': None,
  }
  assert kept(rlcw.check(row, 'To rain')) == [True]


@pytest.mark.parametrize(
  ('rules', 'replies', 'message'),
  [
    ({'length:wrods': {}}, 'x', "no instruction 'length:wrods'"),
    ({'length:words': {'at_mots': 3}}, 'x', "unknown argument 'at_mots'"),
    ({'length:words': 3}, 'x', 'expected a list of objects'),
    (BRIEF | {'kwargs': []}, 'x', '2 ids but 0 kwargs'),
    ('To rain', RULES, 'replies={.*expected a text'),
    (['To rain'], ['x'], "rules='To rain'; expected a brief"),
    ('Write a toast.', 'To rain', "rules='Write a toast.'; expected a brief"),
    ([RULES], ['a', 'b'], '1 prompts, but replies for 2'),
    ([RULES], 'a', 'lists of texts for a list of prompts'),
    (RULES, 3, 'replies=3; expected a text'),
    (RULES, None, 'replies=None; expected a text'),
    (RULES, ['a', 3], 'a reply is 3; expected a text'),
    (RULES, [None], 'a reply is None'),
    (RULES, [{'role': 'user', 'content': 'x'}], r'1 messages \(user\)'),
    (
      RULES,
      [{'role': role, 'content': 'x'} for role in ('assistant', 'user')],
      r'2 messages \(assistant, user\); expected one of the assistant',
    ),
  ],
)
def test_rules_and_replies_that_do_not_fit_are_named(
  rules: Any, replies: Any, message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    rlcw.check(rules, replies)


def test_demands_need_a_judge() -> None:
  rules = RULES | {'soft:demand': {'demand': 'Mention rain.'}}
  assert kept(rlcw.check(rules, 'To rain')) == [True, True, None]

  def handler(request: Any, n: int) -> str:
    prompt = prompt_of(request)
    return verdict(prompt, 'Pass' if '> To rain' in prompt else 'Fail')

  with serving(handler) as server:
    brief = BRIEF | {
      'instruction_id_list': [*rules],
      'kwargs': [*rules.values()],
    }
    found = rlcw.check(
      [rules, RULES, brief],
      [['To rain', 'To tin'], 'a', ['To rain']],
      judge={'url': server.url, 'model': 'm'},
    )
  assert any('A toast.' in prompt_of(each) for each in server.requests)
  groups = [[kept(v) for v in found[0]], kept(found[1]), kept(found[2][0])]
  assert groups == [
    [[True, True, True], [True, True, False]],
    [True, True],
    [True, True, True],
  ]


# --- score ------------------------------------------------------------------


def test_scores_are_nested_like_the_replies(in_library: pathlib.Path) -> None:
  taste = rlcw.load('runs/my/reward_model', reward=True)
  replies = ['To rain', 'To the old sea and wind']
  both = rlcw.score(taste, 'A toast.', replies)
  assert len(both) == 2 and both[0] != both[1]
  # groups of several sizes
  ragged = rlcw.score(taste, ['A toast.', CHAT], [replies, replies[0]])
  assert ragged[0] == pytest.approx(both, abs=1e-4)
  assert ragged[1] != pytest.approx(both[0], abs=1e-4)  # the prompt counts
  assert rlcw.score(taste, [], []) == [] == rlcw.score(taste, 'A', [])


def test_a_blank_reply_is_never_the_best(in_library: pathlib.Path) -> None:
  taste = rlcw.load('runs/my/reward_model', reward=True)
  blank, other = rlcw.score(taste, 'A toast.', [' ', 'To rain'])
  assert blank == other
  assert all(map(math.isnan, rlcw.score(taste, 'A toast.', ['', ' '])))
  taste = taste._replace(floor=-3.0)
  assert rlcw.score(taste, 'A toast.', ['', '\u200b']) == [-3.0, -3.0]
  assert rlcw.score(taste, 'A toast.', ' ') == -3.0
  taste = taste._replace(floor=-1e9)
  assert rlcw.score(taste, 'A toast.', [' ', 'To rain'])[0] == -1e9


def test_a_sequence_classifier_scores(
  in_library: pathlib.Path,
  make_model: Callable[..., Any],
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  import torch
  import transformers

  make_model(
    'llama', 'ForSequenceClassification', num_labels=1
  ).save_pretrained(tmp_path)
  tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
  tokenizer.save_pretrained(tmp_path)
  found = rlcw.score(tmp_path, 'A toast.', 'To rain')
  chat = [*CHAT[1:], {'role': 'assistant', 'content': 'To rain'}]
  ids = tokenizer.apply_chat_template(chat, return_dict=False)
  model = transformers.AutoModelForSequenceClassification.from_pretrained(
    tmp_path
  )
  with torch.no_grad():
    expected = model(torch.tensor([ids])).logits.item()
  assert found == pytest.approx(expected, abs=1e-3)


def test_a_language_model_scores_nothing(in_library: pathlib.Path) -> None:
  model: Any = rlcw.load('MODEL')
  with pytest.raises(ValueError, match='MODEL is no reward model'):
    rlcw.score(model, 'A', 'x')
  taste: Any = rlcw.load('runs/my/reward_model', reward=True)
  with pytest.raises(ValueError, match='RewardModel is no language model'):
    rlcw.sample(taste, 'A')
  with pytest.raises(ValueError, match='a prompt is blank'):
    rlcw.score(taste, '', 'x')


# --- judge ------------------------------------------------------------------


def test_a_model_loaded_here_judges_without_reasons(
  in_library: pathlib.Path,
) -> None:
  model = rlcw.load('JUDGE')
  found = rlcw.judge(model, 'A toast.', ['To rain', 'To tin'])
  assert all(0 < each.p_good < 1 and each.reason == '' for each in found)
  assert rlcw.judge(model, 'A toast.', []) == []


def test_an_endpoint_judges_with_reasons() -> None:
  asked = []

  def handler(request: Any, n: int) -> str | Fault:
    prompt = prompt_of(request)
    asked.append(prompt)
    if '> silence' in prompt:
      return Fault(status=400)
    return verdict(prompt, 'Good' if '> To rain' in prompt else 'Bad')

  with serving(handler) as server:
    judge = {'url': server.url, 'model': 'm', 'max_new_tokens': 9}
    [[good, bad], [none]] = rlcw.judge(
      judge,
      [CHAT, 'To the sea.'],
      [['To rain', 'To tin'], ['silence']],
      principles='雨是好的。',
      language='zh',
    )
    with pytest.raises(ValueError, match='no reply got a verdict: no reply fr'):
      rlcw.judge(judge, 'A toast.', 'silence')
    with pytest.raises(ValueError, match='no demand got a verdict: no reply f'):
      rlcw.check(
        {'soft:demand': {'demand': 'Be brief.'}}, ['silence'], judge=judge
      )
  assert (good.p_good, bad.p_good) == (1.0, 0.0) and good.reason == 'It is so.'
  assert math.isnan(none.p_good) and none.reason == ''
  assert '雨是好的。' in asked[0]
  assert {each['max_tokens'] for each in server.requests} == {9}
  assert any('Be brief.' in prompt for prompt in asked)


@pytest.mark.parametrize(
  ('model', 'options', 'error', 'message'),
  [
    (
      {'url': 'http://x/v1'},
      {},
      ValueError,
      r"are \['url'\]; expected url and",
    ),
    ({'url': 'x', 'model': 'm'}, {}, ValueError, 'expected http'),
    ({'url': 'http://x/v1', 'model': 'm', 'key': 1}, {}, ValueError, "'key'"),
    (
      {'url': 'http://x/v1', 'model': 'm', 'retries': 'a'},
      {},
      ValueError,
      r"judge\.endpoint\.retries='a'; expected an integer of at least 0",
    ),
    (
      {'url': 'http://x/v1', 'model': 'm', 'cache': 5},
      {},
      ValueError,
      'settings of a server: ',
    ),
    (
      {'url': 'http://x/v1', 'model': 'm', 'votes': True},
      {},
      ValueError,
      'votes=True; expected an integer of at least 1 and at most 1000',
    ),
    (
      {'url': 'http://x/v1', 'model': 'm', 'votes': 10**30},
      {},
      ValueError,
      'votes=10+; expected',
    ),
    (
      {'url': 'http://x/v1', 'model': 'm', 'votes': 0},
      {},
      ValueError,
      'votes=0',
    ),
    ('nothing', {}, FileNotFoundError, 'no model at nothing'),
    ('x', {'language': 'fr'}, ValueError, "language='fr'; expected"),
    ('x', {'principles': 'mine.md'}, FileNotFoundError, 'no file mine.md'),
    ('x', {'principles': '@mine'}, FileNotFoundError, '@principles_writing_en'),
    ('x', {'principles': ' '}, ValueError, 'principles are blank'),
  ],
)
def test_a_judge_that_cannot_be_asked_is_named(
  in_library: pathlib.Path, model: Any, options: Any, error: Any, message: str
) -> None:
  with pytest.raises(error, match=message):
    rlcw.judge(model, 'A toast.', 'To rain', **options)


def test_principles_can_be_a_file(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'mine.md'
  file.write_text('Be wet.\n')
  for given in (file, str(file), 'Be wet.'):
    assert api._principles(given) == 'Be wet.'


def test_a_column_is_a_list_like_any_other() -> None:
  """Arrays and tuples hold texts as lists do."""
  texts = np.array(['To rain', 'To rain, and the sea'])
  assert [*map(kept, rlcw.check(RULES, texts))] == [  # pyright: ignore
    [True, True],
    [False, False],
  ]
  assert forms.is_prompt((Message('user', 'A'),))
  assert not forms.is_prompt(('A', 'B'))
