"""Diversity as a reward, on hand-worked groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcw.rewards.novelty import novelty


def test_what_no_other_reply_says_counts() -> None:
  # 2-grams: ab bc / ab bd / xy yz; 3-grams: abc / abd / xyz.  Share of new
  # ones: (bc, abc) 2/3, (bd, abd) 2/3, (xy, yz, xyz) 3/3
  assert novelty(['a b c', 'a b d', 'x y z']).tolist() == [0, 0, 1]


def test_scores_are_shares_between_least_and_most() -> None:
  # a b / a b / a b c d: 0, 0, and bc cd abc bcd abcd of 6
  assert novelty(['a b', 'A  B', 'a b c d']).tolist() == [0, 0, 1]
  # all n-grams of two replies are new; one of one word has none
  assert novelty(['p q', 'r s t', 'u']).tolist() == [1, 1, 0]
  # ab ba aba bab abab of ab ba ab aba bab abab: what is repeated is not new
  assert novelty(['a b a b', 'p q', 'u']) == pytest.approx([5 / 6, 1, 0])


def test_length_alone_is_not_new() -> None:
  words = iter(range(100))
  replies = [
    ' '.join(f'w{next(words)}' for _ in range(count)) for count in (8, 12, 40)
  ]
  assert not novelty(replies).any()


def test_a_chinese_character_is_a_word() -> None:
  assert novelty(['祝你快乐', '祝你快乐', '愿你安康']).tolist() == [0, 0, 1]


@pytest.mark.parametrize('replies', [['same here'] * 3, ['', ''], ['one', '']])
def test_replies_that_are_as_new_have_the_same_score(
  replies: list[str],
) -> None:
  assert not novelty(replies).any()


@given(
  st.lists(st.text('ab 我', max_size=12), min_size=1, max_size=6), st.data()
)
def test_scores_go_with_their_replies(
  replies: list[str], data: st.DataObject
) -> None:
  found = novelty(replies)
  assert ((found >= 0) & (found <= 1)).all()
  order = data.draw(st.permutations(range(len(replies))))
  moved = novelty([replies[n] for n in order])
  assert moved.tolist() == found[np.array(order)].tolist()
