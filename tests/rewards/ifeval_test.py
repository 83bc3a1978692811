"""IFEval's rules: hand-worked, against the authors' verdicts, and on anything.

The authors' verdicts are not part of the package; where they are absent, their
tests are skipped.
"""

import functools
import json
import pathlib
import re
from typing import Any

import pytest
from cases import quick
from cpu_limit import SECONDS, cpu_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from ifeval_cases import CASES, SUMMER

from rlcw.rewards import constraints
from rlcw.rewards.rules import ifeval, languages, registry
from rlcw.rewards.rules import text as text_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT.parent / 'shared' / 'data' / 'ifeval'
FLAT = [(name, *case) for name, cases in CASES.items() for case in cases]
# Every rule with every distinct set of arguments that the cases have.
RULES = [
  (name, dict(kwargs))
  for name, cases in CASES.items()
  for kwargs in {repr(case[0]): case[0] for case in cases}.values()
]
IDS = [name for name, _ in RULES]
KWARGS = [kwargs for _, kwargs in RULES]


def read(name: str) -> list[dict[str, Any]]:
  path = DATA / f'{name}.jsonl'
  if not path.exists():
    pytest.skip(f'{path} is absent')
  return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


@pytest.mark.parametrize(
  ('name', 'kwargs', 'reply', 'benchmark', 'reward'), FLAT
)
def test_verdicts_of_both_modes(
  name: str, kwargs: dict[str, Any], reply: str, benchmark: bool, reward: bool
) -> None:
  follow = constraints.follow
  assert follow(reply, [name], [kwargs], benchmark=True) == [benchmark]
  assert follow(reply, [name], [kwargs]) == [reward]
  assert constraints.check(name, reply, kwargs) is reward


def test_cases_cover_ifevals_rules() -> None:
  rules = registry.VERIFIERS
  assert set(CASES) == {name for name in rules if rules[name].benchmark}
  assert len(CASES) == 25
  for name, cases in CASES.items():
    benchmark, reward = zip(*(case[2:] for case in cases), strict=True)
    assert {*benchmark} == {*reward} == {True, False}, name
    assert any(re.search('[一-龥]', reply) for _, reply, *_ in cases), name


@pytest.mark.parametrize('name', ['gpt4', 'weak_model'])
def test_every_verdict_agrees_with_the_authors(name: str) -> None:
  differing, prompts, rules = [], 0, 0
  for row in read(f'{name}_official_verdicts'):
    ids = row['instruction_id_list']
    for mode, follow in (
      ('strict', constraints.follow),
      ('loose', constraints.follow_loose),
    ):
      ours = follow(row['response'], ids, row['kwargs'], benchmark=True)
      differing += [
        (row['key'], rule, mode)
        for rule, our, their in zip(ids, ours, row[mode], strict=True)
        if our != their
      ]
    prompts, rules = prompts + 1, rules + len(ids)
  assert differing == []
  assert (prompts, rules) == (541, 834)


def test_ids_and_arguments_are_those_of_the_benchmark() -> None:
  arguments: dict[str, set[str]] = {}
  for row in read('prompts'):
    constraints.validate(row['instruction_id_list'], row['kwargs'])
    for name, kwargs in zip(
      row['instruction_id_list'], row['kwargs'], strict=True
    ):
      arguments.setdefault(name, set()).update(kwargs)
  assert arguments == {
    name: set(registry.VERIFIERS[name].parameters) for name in CASES
  }


ANY_TEXT = st.text(
  st.one_of(
    st.characters(exclude_categories=[]),
    st.sampled_from('.!"*-\n <>“”《》[]雨 a1Pp'),
  )
)


@settings(max_examples=50)
@given(ANY_TEXT, st.booleans())
def test_any_text_gets_a_verdict_that_loose_never_revokes(
  reply: str, benchmark: bool
) -> None:
  mode = {'benchmark': benchmark}
  strict = constraints.follow(reply, IDS, KWARGS, **mode)
  loose = constraints.follow_loose(reply, IDS, KWARGS, **mode)
  assert {type(each) for each in strict + loose} == {bool}
  for name, one, other in zip(IDS, strict, loose, strict=True):
    assert other or not one, name


@settings(max_examples=100)
@given(ANY_TEXT.filter(text_lib.fold), ANY_TEXT)
def test_any_text_may_be_an_argument(text: str, reply: str) -> None:
  for name, kwargs in (
    ('keywords:existence', {'keywords': [text]}),
    ('keywords:forbidden_words', {'forbidden_words': [text]}),
    (
      'keywords:frequency',
      {'keyword': text, 'frequency': 1, 'relation': 'at least'},
    ),
    (
      'length_constraints:nth_paragraph_first_word',
      {'first_word': text, 'num_paragraphs': 1, 'nth_paragraph': 1},
    ),
    ('detectable_content:postscript', {'postscript_marker': text}),
    (
      'detectable_format:multiple_sections',
      {'section_spliter': text, 'num_sections': 1},
    ),
    ('combination:repeat_prompt', {'prompt_to_repeat': text}),
    ('startend:end_checker', {'end_phrase': text}),
  ):
    for language in ('en', 'zh'):
      assert text in constraints.describe(name, kwargs, language)
    for benchmark in (False, True):
      verdict = constraints.follow(reply, [name], [kwargs], benchmark=benchmark)
      assert verdict in ([True], [False])


@pytest.mark.parametrize(
  'unit',
  [
    *'a.<["`😀\n\x00\ud800*-',
    *('雨。', 'ن ', '1. ', 'Mr. ', '[a', '<<', '* ', '***', '\n* ', "'n't"),
    *('P.S.', '\np.s', 'Section 1', 'A b ', 'http://a@b ', '[1],', '\u202e'),
  ],
)
@pytest.mark.parametrize('length', quick(SECONDS, 25_000, 1_000_000))
def test_no_check_takes_fifteen_times_a_look_at_every_character(
  unit: str, length: int
) -> None:
  languages.detect(SUMMER)  # reads its profiles once
  ifeval.number_sentences('One.', 1, 'at least')  # and Punkt its model
  reply = 'x' + (unit * length)[: length - 1]
  for name, cases in CASES.items():
    for benchmark in (False, True):
      asked: Any = reply, [name], [cases[0][0]]
      call = functools.partial(constraints.follow, *asked, benchmark=benchmark)
      with cpu_limit(SECONDS[length]):
        call()


def test_a_reply_that_no_brief_asks_for_follows_nothing() -> None:
  name = 'punctuation:no_comma'
  reply = 'a' * constraints.LONGEST
  assert constraints.check(name, reply, {})
  assert not constraints.check(name, reply + 'a', {})


def test_the_language_detected_is_the_same_every_time() -> None:
  texts = ['coastal elegance properties', 'PIXEL PRODIGY', 'la mer', 'ok']
  first = [languages.detect(text) for text in texts]
  for _ in range(5):
    assert [languages.detect(text) for text in texts] == first
  assert languages.detect(SUMMER) == 'en'
  assert languages.detect('12:30 …') is None


def test_loose_leaves_out_asterisks_and_outer_lines() -> None:
  name = 'detectable_format:json_format'
  reply = 'Here it is:\n**{"sea": 1}**\nEnjoy!'
  for benchmark in (False, True):
    mode = {'benchmark': benchmark}
    assert constraints.follow(reply, [name], [{}], **mode) == [False]
    assert constraints.follow_loose(reply, [name], [{}], **mode) == [True]


@pytest.mark.parametrize(
  ('name', 'kwargs', 'en', 'zh'),
  [
    (
      'length_constraints:number_words',
      {'num_words': 30, 'relation': 'less than'},
      'Use fewer than 30 words.',
      '少于30个字（标点不计入）。',
    ),
    (
      'keywords:frequency',
      {'keyword': '{sea}', 'frequency': 1, 'relation': 'at least'},
      'Use the word "{sea}" at least 1 time.',
      '“{sea}”一词出现至少1次。',
    ),
    (
      'language:response_language',
      {'language': 'ar'},
      'Write in Arabic.',
      '用阿拉伯语写。',
    ),
    (
      'detectable_format:constrained_response',
      {},
      'Answer with "My answer is yes.", "My answer is no." or "My answer is '
      'maybe.", word for word.',
      '原样用“My answer is yes.”“My answer is no.”或'
      '“My answer is maybe.”作答。',
    ),
  ],
)
def test_wording(name: str, kwargs: dict[str, Any], en: str, zh: str) -> None:
  assert constraints.describe(name, kwargs, 'en') == en
  assert constraints.describe(name, kwargs, 'zh') == zh


@pytest.mark.parametrize(
  ('name', 'kwargs', 'words'),
  [
    (
      'length_constraints:number_words',
      {'num_words': 3, 'relation': 'at most'},
      ["'at most'", 'less than or at least'],
    ),
    ('length_constraints:number_words', {'num_words': 3}, ['relation']),
    (
      'keywords:letter_frequency',
      {'letter': 'ab', 'let_frequency': 1, 'let_relation': 'at least'},
      ['letter', 'one character', "'ab'"],
    ),
    (
      'length_constraints:nth_paragraph_first_word',
      {'first_word': 'a', 'num_paragraphs': 2, 'nth_paragraph': 3},
      ['nth_paragraph', 'no more than num_paragraphs'],
    ),
    ('detectable_content:number_placeholders', {'num_placeholders': 0}, ['1']),
    ('language:response_language', {'language': 'xx'}, ["'xx'", 'ar, bg']),
  ],
)
def test_illegal_arguments_are_named(
  name: str, kwargs: dict[str, Any], words: list[str]
) -> None:
  with pytest.raises(ValueError) as error:
    constraints.validate([name], [kwargs])
  for word in [name, *words]:
    assert word in str(error.value)
