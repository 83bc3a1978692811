"""Tokens at which replies break rules."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.rewards import located
from rlcw.rewards.briefs import Brief
from rlcw.rewards.rules.locate import joined

BRIEF = Brief(
  '1',
  'Write.',
  ('punctuation:no_comma', 'keywords:forbidden_words', 'length:words'),
  ({}, {'forbidden_words': ['moon']}, {'at_most': 4}),
)


def test_spans_of_all_broken_rules_are_joined() -> None:
  assert located.broken_spans(BRIEF, 'A moon, a sun and more') == [
    (2, 7),
    (14, 22),
  ]
  assert located.broken_spans(BRIEF, 'A sun') == []


def test_tokens_that_overlap_a_span_are_marked() -> None:
  words = ['<think>', 'moon', '</think>', 'A ', 'mo', 'on', ', ', 'a sun']
  ids = np.arange(len(words))

  def decode(some: np.ndarray) -> str:
    return ''.join(words[n] for n in some)

  found = located.token_mask(decode, ids, 'A moon, a sun', [(2, 7)])
  assert found.tolist() == [0, 0, 0, 0, 1, 1, 1, 0]
  # the text of ids that were cut may not have the reply
  assert not located.token_mask(decode, ids, 'another', [(0, 3)]).any()


def decode_bytes(ids: np.ndarray) -> str:
  return bytes(ids.tolist()).decode(errors='replace')


@settings(max_examples=100)
@given(text=st.text('ab 我🐝é', min_size=1, max_size=8), data=st.data())
def test_a_token_is_marked_if_it_has_a_part_of_a_marked_character(
  text: str, data: st.DataObject
) -> None:
  """Each byte is a token here, so that tokens split characters."""
  start = data.draw(st.integers(0, len(text) - 1))
  end = data.draw(st.integers(start + 1, len(text)))
  ids = np.frombuffer(text.encode(), np.uint8)
  found = located.token_mask(decode_bytes, ids, text, [(start, end)])
  expected = [
    start <= place < end
    for place, character in enumerate(text)
    for _ in character.encode()
  ]
  assert found.tolist() == expected


@pytest.mark.parametrize('drops', [False, True])
def test_many_spans_in_a_long_reply_cost_little(drops: bool) -> None:
  words, decoded = [' The', ' sea', ','], 0

  def decode(some: np.ndarray) -> str:
    nonlocal decoded
    decoded += len(some)
    text = ''.join(words[n] for n in some)
    # as tokenizers of SentencePiece do at the start of a text
    return text.removeprefix(' ') if drops else text

  ids = np.arange(1500) % 3
  text = decode(ids).strip()
  spans = [m.span() for m in re.finditer('The', text)]
  decoded = 0
  found = located.token_mask(decode, ids, text, spans)
  assert found.tolist() == (ids == 0).tolist()
  assert decoded < 10 * len(ids)


def test_white_space_can_be_marked() -> None:
  words = ['A', '  ', 'b']
  found = located.token_mask(
    lambda ids: ''.join(words[n] for n in ids), np.arange(3), 'A  b', [(1, 3)]
  )
  assert found.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
  ('spans', 'together'),
  [
    ([], []),
    ([(3, 4), (0, 2), (1, 3)], [(0, 4)]),
    ([(5, 6), (0, 1)], [(0, 1), (5, 6)]),
  ],
)
def test_spans_that_touch_are_one(spans: list, together: list) -> None:
  assert joined(spans) == together
