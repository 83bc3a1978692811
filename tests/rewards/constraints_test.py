"""Tests of rlcw.rewards.constraints."""

import functools
import math
import re
from typing import Any

import pytest
from cases import quick
from cpu_limit import SECONDS, cpu_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from ifeval_cases import CASES as IFEVAL
from writing_cases import CASES as WRITING

from rlcw.rewards import constraints
from rlcw.rewards.rules import registry, text

Case = tuple[dict[str, Any], str, bool]

# For every id of ours, and those that IFEval shares: arguments, a reply, and
# whether the reply follows the rule.
CASES: dict[str, list[Case]] = {
  'length:words': [
    ({'at_most': 3}, 'one two three', True),
    ({'at_most': 3}, 'one two three four', False),
    ({'at_least': 3}, 'one two', False),
    ({'at_least': 4, 'at_most': 4}, "Don't be well-off, friend.", True),
    ({'at_least': 2, 'at_most': 2}, 'yes—no', True),
    ({'at_least': 1, 'at_most': 1}, 'don’t', True),
    ({'at_least': 1, 'at_most': 1}, 'cafe\u0301s', True),
    ({'at_least': 5, 'at_most': 5}, '床前明月光，', True),
    ({'at_least': 4, 'at_most': 4}, '我爱Python', False),
    ({'at_least': 3, 'at_most': 3}, '我爱Python', True),
    ({'at_least': 1}, '… !', False),
    ({'at_least': 1}, '___', False),
  ],
  'length:characters': [
    ({'at_least': 4, 'at_most': 4}, ' a b\n\tc.\u3000', True),
    ({'at_most': 3}, 'abcd', False),
    ({'at_least': 12, 'at_most': 12}, '床前明月光，疑是地上霜。', True),
    ({'at_most': 11}, '床前明月光，疑是地上霜。', False),
    ({'at_least': 1, 'at_most': 1}, '😀', True),
    ({'at_least': 3}, 'a b', False),
  ],
  'length:sentences': [
    ({'at_least': 2, 'at_most': 2}, 'It rained. We left!', True),
    ({'at_least': 1, 'at_most': 1}, 'What?! ...', True),
    ({'at_least': 1, 'at_most': 1}, 'Mr. Fox met Dr. Owl at 3.5 miles', True),
    ({'at_least': 1, 'at_most': 1}, 'Read J. K. Rowling, e.g. now.', True),
    ({'at_least': 1, 'at_most': 1}, 'Go to example.com at 5 p.m. today.', True),
    ({'at_least': 2, 'at_most': 2}, 'So am I. We agree.', True),
    ({'at_least': 2, 'at_most': 2}, 'It was red.It was blue.', True),
    ({'at_least': 2, 'at_most': 2}, '"Go." (He went.)', True),
    ({'at_least': 2, 'at_most': 2}, '1. Wake up.\n2. Sleep.', True),
    ({'at_least': 2, 'at_most': 2}, 'Done. And unended', True),
    ({'at_most': 2}, 'One. Two. Three.', False),
    ({'at_least': 3, 'at_most': 3}, '下雨了。“走吧！”他来了……', True),
    ({'at_most': 1}, '下雨了？是的', False),
    ({'at_least': 1}, '...!?', False),
  ],
  'length:paragraphs': [
    ({'at_least': 2, 'at_most': 2}, '\n\none\nstill one\n \t\n\ntwo\n', True),
    ({'at_least': 2}, 'one\nstill one', False),
    ({'at_most': 1}, 'one\r\n\r\ntwo', False),
    ({'at_least': 3, 'at_most': 3}, '春\n\n夏\n\n秋', True),
  ],
  'length:lines': [
    ({'at_least': 2, 'at_most': 2}, '\n  one\n\n \n two  \n', True),
    ({'at_most': 2}, 'a\nb\nc', False),
    ({'at_least': 4, 'at_most': 4}, '床前明月光\n疑是地上霜\n举头\n低头', True),
    ({'at_least': 2}, 'one line. only', False),
  ],
  'keywords:existence': [
    ({'keywords': ['rain', 'Moon']}, 'RAIN on the moon.', True),
    ({'keywords': ['rain', 'moon']}, 'Rain alone.', False),
    ({'keywords': ['rain']}, 'The train came.', False),
    ({'keywords': ['rain']}, 'a train, then _rain_', True),
    ({'keywords': ['C++']}, 'I write C++.', True),
    ({'keywords': ['a.c']}, 'abc', False),
    ({'keywords': ["don't stop"]}, 'Please don’t stop!', True),
    ({'keywords': ['明月']}, '床前明月光', True),
    ({'keywords': ['月明']}, '床前明月光', False),
    ({'keywords': ['Python']}, '我用python写诗', True),
    ({'keywords': ['恤']}, '一件T恤', True),
  ],
  'keywords:forbidden_words': [
    ({'forbidden_words': ['very', 'love']}, 'It was lovely.', True),
    ({'forbidden_words': ['very', 'love']}, 'All you need is LOVE!', False),
    ({'forbidden_words': ['.*']}, 'anything', True),
    # no letter at an edge, so no word that it could be a part of
    ({'forbidden_words': ['—']}, 'the sea—cold', False),
    ({'forbidden_words': ['…']}, 'Hm…', False),
    ({'forbidden_words': ['!']}, 'Wow!', False),
    ({'forbidden_words': ['...']}, 'wait...', False),
    ({'forbidden_words': ['😊']}, 'hi😊you', False),
    ({'forbidden_words': ['#love']}, 'I#love it', False),
    ({'forbidden_words': ['#love']}, '#lovely', True),
    ({'forbidden_words': ['c++']}, 'abc++', True),
    ({'forbidden_words': ['c++']}, 'c++11', False),
    ({'forbidden_words': ['爱']}, '我喜爱你', False),
    ({'forbidden_words': ['爱', '恨']}, '我喜欢你', True),
  ],
  'startend:start_checker': [
    ({'start_phrase': ' Once upon '}, '\n once UPON a time', True),
    ({'start_phrase': 'Once'}, 'At once', False),
    ({'start_phrase': 'Once'}, '"Once', False),
    ({'start_phrase': '从前'}, '从前有座山', True),
    ({'start_phrase': '从前'}, '很久从前', False),
    ({'start_phrase': 'Dear'}, 'Dearest Ella', False),
    ({'start_phrase': 'Dear'}, 'Dear, dear', True),
    ({'start_phrase': '1'}, '10 owls', False),
  ],
  'startend:end_checker': [
    ({'end_phrase': 'The end.'}, 'So it was, THE END. \n', True),
    ({'end_phrase': 'the end'}, 'the end.', False),
    ({'end_phrase': 'the end.'}, '"We left. The end."', True),
    ({'end_phrase': 'he said "no"'}, 'And he said "no"', True),
    ({'end_phrase': '"'}, 'no quote', False),
    ({'end_phrase': '完。'}, '“故事讲完。”', True),
    ({'end_phrase': '完'}, '完了', False),
    ({'end_phrase': 'art'}, 'From the heart', False),
    ({'end_phrase': 'art'}, '"From the art"', True),
    ({'end_phrase': '完'}, '故事讲完', True),
  ],
  'startend:quotation': [
    ({}, ' "Hello there." \n', True),
    ({}, '“你好。”', True),
    ({}, '「你好。」', True),
    ({}, '"Hello', False),
    ({}, '"', False),
    ({}, '" "', False),
    ({}, '“你好"', False),
    ({}, "'Hello'", False),
    # a dialogue, and a quotation with another inside
    ({}, '"Hello," she said. "Bye."', False),
    ({}, '“你好。”他说。“再见。”', False),
    ({}, '"He said "no" to me."', True),
    ({}, '"你好。"他说。"再见。"', False),
    ({}, '"春"和"秋"', False),
    ({}, '“他说“好”。”', True),
  ],
  'punctuation:no_comma': [
    ({}, 'Rain; wind. Snow', True),
    ({}, 'Rain, wind', False),
    ({}, '风，雨', False),
    ({}, '风﹐雨', False),
    ({}, '风、雨。', True),
  ],
  'punctuation:no_exclamation': [
    ({}, 'Quiet? Yes.', True),
    ({}, 'Hey!', False),
    ({}, '好！', False),
    ({}, 'what‼', False),
    ({}, 'what ❗', False),
    ({}, '好。', True),
  ],
  'punctuation:no_emoji': [
    ({}, 'Plain text :) © → ★ ♪ 10# *', True),
    ({}, 'sun 😀', False),
    ({}, 'red ❤', False),
    ({}, 'key 1\ufe0f\u20e3', False),
    ({}, 'flag 🇨🇳', False),
    ({}, '春天来了。“好”！〇', True),
    ({}, '春天来了✨', False),
  ],
  'detectable_format:json_format': [
    ({}, '{"title": "雨", "lines": [1, 2.5, null]}', True),
    ({}, '```json\n["a"]\n```', True),
    ({}, '```\n{}\n```', True),
    ({}, '[' + '9' * 5000 + ']', True),
    ({}, 'Here: {}', False),
    ({}, '{"a": 1,}', False),
    ({}, '[NaN]', False),
    ({}, '[' * 100_000, False),
    ({}, '你好', False),
  ],
  'detectable_format:number_bullet_lists': [
    ({'num_bullets': 2}, 'List:\n* one\n  - two\nend', True),
    ({'num_bullets': 2}, '* one', False),
    ({'num_bullets': 1}, '* one\n* two', False),
    ({'num_bullets': 1}, '**bold**\n- one\n---\n-\n*\n', True),
    ({'num_bullets': 3}, '• 春\n·夏\n· 秋', True),
    ({'num_bullets': 1}, 'a - b', False),
    ({'num_bullets': 2}, '- a\n- b\n\n* * *\n\nThe end', True),
  ],
  'detectable_format:title': [
    ({}, '<<Rain>>\nIt fell.', True),
    ({}, '<<  >> text', False),
    ({}, '<Rain>', False),
    ({}, '<<Rain\n>>', False),
    ({}, '《春夜》\n春眠不觉晓', True),
    ({}, '《》春眠不觉晓', False),
  ],
  'change_case:english_lowercase': [
    ({}, 'quiet rain, 3 drops.', True),
    ({}, 'Quiet rain', False),
    ({}, 'ʻélan', True),
    ({}, '123!', False),
    ({}, '春眠不觉晓', False),
    ({}, '春天 spring', True),
  ],
  'change_case:english_capital': [
    ({}, 'LOUD RAIN, 3 DROPS!', True),
    ({}, 'LOUD rAIN', False),
    ({}, '123!', False),
    ({}, '春眠不觉晓', False),
    ({}, '春天 SPRING', True),
  ],
  'language:response_language': [
    ({'language': 'en'}, 'The café is open, 24/7!', True),
    ({'language': 'en'}, '我爱你', False),
    ({'language': 'en'}, 'I love 春天春天', False),
    ({'language': 'zh'}, '我爱春天，真的。', True),
    ({'language': 'zh'}, '我爱春天吗 okay', True),
    ({'language': 'zh'}, '春天 is here', False),
    ({'language': 'zh'}, '123 !?', False),
    ({'language': 'en'}, '123 !?', False),
  ],
  'style:no_repeated_line': [
    ({}, 'one\n\ntwo\n\nthree', True),
    ({}, 'The rain\nfell\n  the RAIN ', False),
    ({}, '春眠不觉晓\n处处闻啼鸟', True),
    ({}, '春\n夏\n春', False),
  ],
  **WRITING,
}
FLAT = [(name, *case) for name, cases in CASES.items() for case in cases]
# One rule of each id, to try every id on the same reply.
IDS = [*CASES, *(name for name in IFEVAL if name not in CASES)]
KWARGS = [(CASES.get(name) or IFEVAL[name])[0][0] for name in IDS]
ANY_TEXT = st.text(
  st.one_of(
    st.characters(exclude_categories=[]),
    st.sampled_from('.!"*-\n <>“”《》雨 a'),
  )
)


@pytest.mark.parametrize(('name', 'kwargs', 'reply', 'expected'), FLAT)
def test_verdict(
  name: str, kwargs: dict[str, Any], reply: str, expected: bool
) -> None:
  assert constraints.check(name, reply, kwargs) is expected


def test_cases_cover_the_table() -> None:
  # a demand is no rule: a model checks it
  assert {*IDS, 'soft:demand'} == set(registry.VERIFIERS)
  for name, cases in CASES.items():
    assert len(cases) >= 4, name
    assert {expected for *_, expected in cases} == {True, False}, name
    assert any(re.search('[一-龥]', reply) for _, reply, _ in cases), name


@pytest.mark.parametrize('reply', ['', ' \n\t\u3000'])
def test_a_blank_reply_follows_nothing(reply: str) -> None:
  assert constraints.follow(reply, IDS, KWARGS) == [False] * len(IDS)
  assert constraints.follow_loose(reply, IDS, KWARGS) == [False] * len(IDS)
  assert not constraints.check('length:words', reply, {'at_most': 9})


@settings(max_examples=200)
@given(ANY_TEXT)
def test_any_text_gets_a_verdict_that_loose_never_revokes(reply: str) -> None:
  strict = constraints.follow(reply, IDS, KWARGS)
  loose = constraints.follow_loose(reply, IDS, KWARGS)
  assert {type(each) for each in strict + loose} == {bool}
  for name, one, other in zip(IDS, strict, loose, strict=True):
    assert other or not one, name


@settings(max_examples=100)
@given(ANY_TEXT, st.integers(1, 9))
def test_bounds_agree(reply: str, size: int) -> None:
  for name in IDS[:5]:
    at_least = constraints.check(name, reply, {'at_least': size})
    at_most = constraints.check(name, reply, {'at_most': size})
    both = {'at_least': size, 'at_most': size}
    if text.plain(reply).strip():
      assert at_least or at_most
    assert constraints.check(name, reply, both) == (at_least and at_most)


@settings(max_examples=100)
@given(ANY_TEXT.filter(text.fold), ANY_TEXT)
def test_a_phrase_of_the_reply_is_found(phrase: str, rest: str) -> None:
  # Without the space, an accent in one might become part of the other.
  for id_, key, reply in (
    ('startend:start_checker', 'start_phrase', f'{phrase} {rest}'),
    ('startend:end_checker', 'end_phrase', f'{rest} {phrase}'),
  ):
    assert constraints.check(id_, reply, {key: phrase})
  for id_, key, expected in (
    ('keywords:existence', 'keywords', True),
    ('keywords:forbidden_words', 'forbidden_words', False),
  ):
    reply = f'{rest} {phrase} {rest}'
    assert constraints.check(id_, reply, {key: [phrase]}) is expected


@pytest.mark.parametrize(
  'unit',
  [
    *'a.<"[`😀\n\x00\ud800《春',
    *('a ', '雨。', '1. ', 'a\n', '《a', '* ', 'a-', 'cat\nhat\n', 'here is '),
    *('sure, ', '当然，', '注：', '在这个充满a', '-', '*', '"', '[a]('),
  ],
)
@pytest.mark.parametrize('ends', [('x', ''), ('', 'x')])
@pytest.mark.parametrize('length', quick(SECONDS, 25_000, 1_000_000))
def test_the_time_of_a_check_does_not_grow_faster_than_its_reply(
  unit: str, ends: tuple[str, str], length: int
) -> None:
  first, last = ends
  reply = first + (unit * length)[: length - 1] + last
  for name, kwargs in zip(IDS, KWARGS, strict=True):
    constraints.check(name, 'A cat\na hat', kwargs)  # reads dictionaries once
    call = functools.partial(constraints.check, name, reply, kwargs)
    with cpu_limit(SECONDS[length]):
      call()


WORDINGS = [
  ('length:words', {'at_most': 30}, 'Use at most 30 words.'),
  ('length:words', {'at_most': 30}, '不超过30个字（标点不计入）。'),
  ('length:words', {'at_most': 1}, 'Use at most 1 word.'),
  ('length:words', {'at_least': 21}, 'Use at least 21 words.'),
  (
    'length:words',
    {'at_least': 15, 'at_most': 35},
    'Use between 15 and 35 words.',
  ),
  (
    'length:characters',
    {'at_least': 15, 'at_most': 35},
    '15到35个字（标点计入）。',
  ),
  ('length:characters', {'at_most': 40}, '不超过40个字（标点计入）。'),
  ('length:characters', {'at_most': 2}, 'Use at most 2 non-space characters.'),
  (
    'length:sentences',
    {'at_least': 1, 'at_most': 1},
    'Use exactly 1 sentence.',
  ),
  ('length:sentences', {'at_least': 3, 'at_most': 3}, '正好3句话。'),
  ('length:sentences', {'at_least': 3}, '至少3句话。'),
  ('length:lines', {'at_least': 1}, 'Use at least 1 non-blank line.'),
  (
    'length:paragraphs',
    {'at_least': 1, 'at_most': 2},
    'Use between 1 and 2 paragraphs (a blank line starts a new one).',
  ),
  ('keywords:existence', {'keywords': ['a']}, 'Include the word "a".'),
  (
    'keywords:existence',
    {'keywords': ['a', 'b', 'c']},
    'Include the words "a", "b" and "c".',
  ),
  ('keywords:existence', {'keywords': ['春', '夏']}, '用到这些词：“春”“夏”。'),
  (
    'keywords:forbidden_words',
    {'forbidden_words': ['a', 'b']},
    'Do not use the words "a" or "b".',
  ),
  (
    'startend:start_checker',
    {'start_phrase': 'a {b}'},
    'Begin with "a {b}".',
  ),
  ('startend:end_checker', {'end_phrase': '完'}, '以“完”结尾。'),
  (
    'detectable_format:number_bullet_lists',
    {'num_bullets': 3},
    '正好列出3个以“- ”开头的要点。',
  ),
  ('language:response_language', {'language': 'zh'}, 'Write in Chinese.'),
  ('language:response_language', {'language': 'en'}, '用英文写。'),
]


@pytest.mark.parametrize(('name', 'kwargs', 'sentence'), WORDINGS)
def test_wording(name: str, kwargs: dict[str, Any], sentence: str) -> None:
  language = 'en' if sentence[0].isascii() and sentence.endswith('.') else 'zh'
  assert constraints.describe(name, kwargs, language) == sentence


def test_write_brief_joins_the_prompt_and_its_rules() -> None:
  ids = ['length:lines', 'punctuation:no_comma']
  kwargs = [{'at_least': 4, 'at_most': 4}, {}]
  assert constraints.write_brief('A poem.', ids, kwargs, 'en') == (
    'A poem. Use exactly 4 non-blank lines. Use no commas.'
  )
  assert constraints.write_brief('写诗。', ids, kwargs, 'zh') == (
    '写诗。正好4行（空行不计入）。不要用逗号。'
  )
  assert constraints.write_brief('A poem.', [], [], 'en') == 'A poem.'


@pytest.mark.parametrize(
  ('name', 'kwargs', 'reply', 'strict', 'loose'),
  [
    ('startend:start_checker', {'start_phrase': 'Rain'}, '**Rain**', 0, 1),
    ('punctuation:no_comma', {}, 'Sure, here:\nRain falls', 0, 1),
    ('punctuation:no_comma', {}, 'Rain falls\nHope so, yes', 0, 1),
    ('punctuation:no_comma', {}, 'Sure, here:\nRain\nHope so, yes', 0, 1),
    ('punctuation:no_comma', {}, 'Sure,\nrain, snow\nfalls', 0, 0),
    ('startend:start_checker', {'start_phrase': 'a'}, 'x\n*a*\n', 0, 1),
    ('length:words', {'at_most': 2}, 'Rain falls', 1, 1),
    # Without its only line a reply is blank, and a blank reply follows nothing.
    ('punctuation:no_comma', {}, 'a, b', 0, 0),
  ],
)
def test_loose(
  name: str, kwargs: dict[str, Any], reply: str, strict: bool, loose: bool
) -> None:
  assert constraints.follow(reply, [name], [kwargs]) == [strict]
  assert constraints.follow_loose(reply, [name], [kwargs]) == [loose]


def test_whole_numbers_may_be_floats_as_in_tables_with_nulls() -> None:
  for value in (2, 2.0):
    for name, argument in (
      ('length:words', 'at_least'),
      ('detectable_format:number_bullet_lists', 'num_bullets'),
    ):
      reply = '* rain\n* sea'
      assert constraints.check(name, reply, {argument: value})
      [(_, kwargs)] = constraints.validate([name], [{argument: value}])
      assert type(kwargs[argument]) is int


def test_verdicts_keep_the_order_of_the_rules() -> None:
  ids = ['punctuation:no_comma', 'length:words', 'length:words']
  kwargs = [{}, {'at_most': 1}, {'at_most': 2, 'num_bullets': None}]
  assert constraints.follow('a b', ids, kwargs) == [True, False, True]


@pytest.mark.parametrize(
  ('name', 'kwargs', 'words'),
  [
    ('length:words', {}, ['at_least or at_most']),
    ('length:words', {'at_least': None}, ['at_least or at_most']),
    ('length:words', {'at_least': 3, 'at_most': 2}, ['no more than']),
    ('length:words', {'at_most': 0}, ['at_most', '1 or more', 'not 0']),
    ('length:words', {'at_most': True}, ['at_most', 'whole number']),
    ('length:words', {'at_most': 3.5}, ['at_most', 'whole number']),
    ('length:words', {'at_most': math.inf}, ['at_most', 'whole number']),
    ('length:words', {'at_most': '3'}, ['at_most', 'whole number']),
    ('length:words', {'most': 3}, ["'most'", 'at_least, at_most']),
    ('length:words', {'reply': 'a'}, ["'reply'", 'at_least, at_most']),
    ('punctuation:no_comma', {'at_most': 3}, ["'at_most'", 'none']),
    ('keywords:existence', {}, ['keywords', 'list']),
    ('keywords:existence', {'keywords': 'rain'}, ['keywords', 'list']),
    ('keywords:existence', {'keywords': []}, ['keywords', 'list']),
    ('keywords:existence', {'keywords': ['a', ' ']}, ['keywords', 'list']),
    ('keywords:existence', {'keywords': ['a', 3]}, ['keywords', 'list']),
    ('startend:end_checker', {'end_phrase': '\n'}, ['end_phrase', 'text']),
    ('startend:end_checker', {}, ['end_phrase', 'text']),
    ('language:response_language', {'language': 'xx'}, ["'xx'", ' en, ']),
    ('language:response_language', {'language': []}, ['one of ar']),
    ('poem:rhyme', {'scheme': 'ABA'}, ["'ABA'", 'like AABB']),
    ('poem:rhyme', {'scheme': 'XX'}, ["'XX'", 'like AABB']),
    ('poem:rhyme', {'scheme': 'aabb'}, ["'aabb'", 'like AABB']),
    ('poem:acrostic', {'letters': '!'}, ['letters', 'text with letters']),
  ],
)
def test_illegal_arguments_are_named(
  name: str, kwargs: dict[str, Any], words: list[str]
) -> None:
  for attempt in (
    lambda: constraints.check(name, 'a reply', kwargs),
    lambda: constraints.validate([name], [kwargs]),
    lambda: constraints.describe(name, kwargs, 'en'),
  ):
    with pytest.raises(ValueError) as error:
      attempt()
    for word in [name, *words]:
      assert word in str(error.value)


def test_an_unknown_id_brings_up_similar_ones_or_else_all() -> None:
  with pytest.raises(ValueError) as error:
    constraints.validate(['length:word_count'], [{}])
  assert str(error.value) == (
    "no instruction 'length:word_count'; did you mean 'length:words'?"
  )
  with pytest.raises(ValueError) as error:
    constraints.validate(['zzz'], [{}])
  assert all(f"'{name}'" in str(error.value) for name in IDS)


def test_validate_passes_what_is_legal_and_counts_both_lists() -> None:
  constraints.validate(IDS, KWARGS)
  for attempt in (
    lambda: constraints.validate(IDS, KWARGS[1:]),
    lambda: constraints.follow('a', IDS[:1], []),
    lambda: constraints.follow_loose('a', [], KWARGS[:1]),
    lambda: constraints.write_brief('a', IDS[:1], [], 'en'),
  ):
    with pytest.raises(ValueError):
      attempt()


def test_another_language_is_named() -> None:
  with pytest.raises(ValueError, match="en or zh, not 'fr'"):
    constraints.describe('punctuation:no_comma', {}, 'fr')
