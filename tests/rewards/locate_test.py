"""Places where replies break rules."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.rewards import constraints
from rlcw.rewards.rules.locate import REMOVABLE, locate

LESS = 'less than'
# rule, arguments, reply with what breaks it in ⟦ ⟧
CASES: list[tuple[str, dict[str, Any], str]] = [
  ('punctuation:no_comma', {}, 'Sun⟦,⟧ rain⟦，⟧ and snow.'),
  ('punctuation:no_comma', {}, 'Sun and rain.'),
  ('punctuation:no_exclamation', {}, 'Oh⟦!!⟧ No⟦！⟧'),
  ('punctuation:no_emoji', {}, 'For you ⟦❤️⟧ and me'),
  (
    'keywords:forbidden_words',
    {'forbidden_words': ['heart', '爱']},
    'My ⟦Heart⟧, hearty, ⟦ｈｅａｒｔ⟧ 我⟦爱⟧你',
  ),
  # what is joined by the removal counts too
  ('keywords:forbidden_words', {'forbidden_words': ['甲乙']}, '丙⟦甲甲乙乙⟧丙'),
  (
    'keywords:frequency',
    {'keyword': 'sea', 'frequency': 2, 'relation': LESS},
    'The sea, the ⟦sea⟧, the ⟦sea⟧!',
  ),
  (
    'keywords:frequency',
    {'keyword': 'sea', 'frequency': 2, 'relation': 'at least'},
    'The sea alone',
  ),
  (
    'keywords:letter_frequency',
    {'letter': 'o', 'let_frequency': 2, 'let_relation': LESS},
    'no m⟦o⟧re ⟦o⟧f it',
  ),
  ('length:words', {'at_most': 3}, "Don't go out ⟦tonight, my dear.⟧"),
  ('length:words', {'at_least': 3}, 'Too short'),
  ('length:words', {'at_most': 4}, '我爱北京⟦天安门。⟧'),
  ('length:characters', {'at_most': 5}, 'ab cde ⟦fg⟧'),
  ('length:sentences', {'at_most': 1}, 'Mr. Fox ran. ⟦He fell. He rose.⟧'),
  ('length:lines', {'at_most': 2}, 'one\n\ntwo\n⟦three\nfour⟧'),
  ('length:paragraphs', {'at_most': 1}, 'one\ntwo\n\n⟦three\n\nfour⟧'),
  (
    'length_constraints:number_words',
    {'num_words': 3, 'relation': LESS},
    'one two ⟦three four⟧',
  ),
  (
    'length_constraints:number_sentences',
    {'num_sentences': 2, 'relation': LESS},
    'One. ⟦Two. Three.⟧',
  ),
  ('change_case:english_lowercase', {}, '⟦T⟧he ⟦BBC⟧ news'),
  ('change_case:english_capital', {}, 'T⟦he⟧ BBC'),
  (
    'change_case:capital_word_frequency',
    {'capital_frequency': 2, 'capital_relation': LESS},
    'A BIG ⟦RED⟧ bus, ⟦OK⟧',
  ),
  ('style:no_self_reference', {}, 'Well, ⟦as an AI⟧ I cannot feel.'),
  ('style:no_self_reference', {}, '⟦作为一个 **AI⟧**，我写'),
  (
    'keywords:forbidden_words',
    {'forbidden_words': ['good morning', 'love']},
    '⟦good *morning⟧*, I ⟦l**o**ve⟧ you',
  ),
  ('style:no_cliche', {}, '⟦a **testament**\nto⟧ love'),
  ('style:no_cliche', {}, 'It was ⟦a testament  to⟧ love, ⟦岁月静好⟧.'),
  ('style:piece_alone', {}, '⟦Here is a poem:\n⟧Roses\n⟦I hope you like it!⟧'),
  ('style:no_repeated_line', {}, 'La\nli\n⟦la \n⟧lo\n⟦LA⟧'),
  ('style:script', {'script': 'simplified'}, '我⟦愛⟧你'),
  ('style:script', {'script': 'traditional'}, '我⟦爱⟧你'),
  ('startend:start_checker', {'start_phrase': 'Dear'}, '⟦Good⟧ day'),
  ('startend:end_checker', {'end_phrase': 'Amen.'}, 'So be⟦ it!!⟧'),
  # rules that miss something point nowhere
  ('keywords:existence', {'keywords': ['bees']}, 'no insects'),
  ('detectable_format:title', {}, 'no title'),
]


def unmark(marked: str) -> tuple[str, list[tuple[int, int]]]:
  reply, spans, start = '', [], 0
  for character in marked:
    if character == '⟦':
      start = len(reply)
    elif character == '⟧':
      spans.append((start, len(reply)))
    else:
      reply += character
  return reply, spans


@pytest.mark.parametrize(('rule', 'kwargs', 'marked'), CASES)
def test_spans(rule: str, kwargs: dict[str, Any], marked: str) -> None:
  reply, spans = unmark(marked)
  assert locate(rule, reply, kwargs) == spans
  if rule in REMOVABLE and spans:
    assert not constraints.check(rule, reply, kwargs)


PIECES = st.lists(
  st.sampled_from(
    [
      *'aAoO,，!！.。\n ❤️愛爱什么甲乙',
      *('heart', 'sea', 'BIG', "don't", 'as an AI', 'a testament to'),
      *('Here is a poem:\n', 'I hope you like it', '\n\n', '\u200b', 'e\u0301'),
      *('ﬁ', 'Ｓｅａ', 'ß', 'ǅ', 'İ', '\r\n', '🇩🇪'),
    ]
  ),
  max_size=12,
).map(''.join)


@pytest.mark.parametrize(
  ('rule', 'kwargs'),
  [
    (rule, kwargs)
    for rule, kwargs, _ in {
      (r, str(k)): (r, k, m) for r, k, m in CASES
    }.values()
    if rule in REMOVABLE
    and 'at_least' not in kwargs
    and 'at least' not in kwargs.values()
  ],
)
@settings(max_examples=60)
@given(reply=PIECES)
def test_a_reply_keeps_its_rule_without_the_spans(
  rule: str, kwargs: dict[str, Any], reply: str
) -> None:
  spans = locate(rule, reply, kwargs)
  if constraints.check(rule, reply, kwargs):
    assert spans == []
    return
  assert all(0 <= start < end <= len(reply) for start, end in spans)
  assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))
  rest = ''.join(
    character
    for place, character in enumerate(reply)
    if not any(start <= place < end for start, end in spans)
  )
  # Nothing visible keeps no rule, and rules of case or script ask for a letter
  # of theirs.
  asked = {
    'change_case:english_lowercase': str.islower,
    'change_case:english_capital': str.isupper,
    'style:script': lambda character: '一' <= character <= '鿿',
  }.get(rule, str.isalnum)
  if not any(map(asked, rest)):
    return
  assert constraints.check(rule, rest, kwargs), (reply, spans)


def test_every_rule_that_only_forbids_can_point() -> None:
  assert {'style:no_cliche', 'punctuation:no_comma'} < REMOVABLE
  for rule in REMOVABLE:
    assert any(rule == tried for tried, _, _ in CASES), rule
