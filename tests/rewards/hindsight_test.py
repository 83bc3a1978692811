"""Hindsight for rules, on hand-worked groups and by properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcw.rewards import hindsight
from rlcw.rewards.briefs import Brief

T, F = True, False
RULES = {
  'punctuation:no_comma': {},
  'keywords:existence': {'keywords': ['honey']},
  'length:words': {'at_most': 30},
  'soft:demand': {'demand': 'mention her garden'},
}
BRIEF = Brief('1', 'Write a wish.', tuple(RULES), tuple(RULES.values()))


def relabel(follow, refused=None, writing=None, scored=None, brief=BRIEF):
  count = len(follow)
  return hindsight.relabel(
    brief,
    follow,
    np.zeros(count) if refused is None else np.array(refused, float),
    np.ones(count, bool) if scored is None else np.array(scored, bool),
    np.zeros(count) if writing is None else np.array(writing, float),
  )


def test_the_largest_set_of_kept_rules_is_the_new_brief() -> None:
  found = relabel([[T, F, F, F], [F, T, T, F], [T, T, T, F][::-1]])
  # kept: {0}, {1, 2}, {1, 2, 3}
  assert found is not None
  assert found.brief.instruction_id_list == tuple(RULES)[1:]
  assert found.brief.kwargs == tuple(RULES.values())[1:]
  assert found.violated.tolist() == [T, T, F]
  assert found.valid.all()


def test_of_sets_as_large_that_of_the_best_written_reply_counts() -> None:
  follow = [[T, T, F, F], [F, F, T, T]]
  for writing, rules in (([1, 2], [2, 3]), ([2, 1], [0, 1])):
    found = relabel(follow, writing=writing)
    assert found is not None
    assert found.brief.instruction_id_list == tuple(
      tuple(RULES)[rule] for rule in rules
    )
    assert found.violated.sum() == 1


@pytest.mark.parametrize(
  ('follow', 'refused', 'scored'),
  [
    ([[F, F, F, F], [F, None, F, F]], [F, F], [T, T]),  # nothing is kept
    ([[T, T, F, F], [F, F, F, F]], [T, F], [T, T]),  # only by a cut reply
    ([[T, T, F, F], [F, F, F, F]], [F, F], [F, T]),  # only by an unscored one
    ([[T, T, T, T], [F, F, F, F]], [T, F], [T, T]),  # all, and it was refused
    ([[T, T, F, F], [F, F, F, F]], [np.nan, F], [T, T]),  # only by an unknown
  ],
)
def test_a_group_without_a_reply_to_learn_from_has_no_new_brief(
  follow, refused, scored
) -> None:
  assert relabel(follow, refused, scored=scored) is None


def test_a_brief_of_one_rule_cannot_be_relabelled() -> None:
  brief = Brief('1', 'Hi', ('punctuation:no_comma',), ({},))
  assert relabel([[F], [F], [None]], brief=brief) is None


def test_what_was_held_against_a_reply_beside_rules_stays() -> None:
  found = relabel([[T, F, F, F], [T, F, F, F]], refused=[F, T])
  assert found is not None
  assert found.violated.tolist() == [F, T]


def test_a_missing_verdict_matters_only_at_a_rule_that_is_left() -> None:
  found = relabel(
    [[T, T, F, None], [T, None, F, F], [F, None, F, F]], writing=[0, 9, 9]
  )
  assert found is not None
  assert found.brief.instruction_id_list == tuple(RULES)[:2]
  # the second may keep both, the third breaks one whatever the other is
  assert found.violated.tolist() == [F, F, T]
  assert found.valid.tolist() == [T, F, T]


def test_a_reply_without_a_verifier_s_verdict_stays_unknown() -> None:
  found = relabel(
    [[T, T, F, F], [T, T, F, F], [T, F, F, F]], refused=[F, np.nan, np.nan]
  )
  assert found is not None
  assert found.violated.tolist() == [F, F, T]
  assert found.valid.tolist() == [T, F, T]


def test_shares_are_of_the_rules_that_are_left() -> None:
  found = relabel([[T, T, F, F], [T, F, F, F], [T, T, F, F]], refused=[F, F, T])
  assert found is not None
  assert found.broken_share.tolist() == [0, 0.5, 1]


@given(
  st.lists(
    st.lists(st.sampled_from((T, F, None)), min_size=4, max_size=4),
    min_size=2,
    max_size=6,
  ),
  st.data(),
)
def test_a_new_brief_is_a_part_of_the_old_one_that_a_reply_keeps(
  follow, data
) -> None:
  flags = st.lists(st.booleans(), min_size=len(follow), max_size=len(follow))
  refused, scored = (np.array(data.draw(flags)) for _ in range(2))
  found = relabel(follow, refused, scored=scored)
  if found is None:
    return
  rules = found.brief.instruction_id_list
  assert 0 < len(rules) < len(RULES)
  assert {*rules} < {*RULES}
  assert (found.valid & ~found.violated).any()
  # no dropped rule is left in words
  text = found.brief.text
  for rule, word in {
    'punctuation:no_comma': 'comma',
    'keywords:existence': 'honey',
    'length:words': '30',
    'soft:demand': 'garden',
  }.items():
    assert (word in text) == (rule in rules)
