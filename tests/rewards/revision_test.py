"""Two turns of a brief in words and tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlcw.data.messages import Message
from rlcw.rewards import revision
from rlcw.rewards.briefs import Brief

RULES = ('punctuation:no_exclamation', 'keywords:existence')
BOTH = RULES, ({}, {'keywords': ['sea']})
NONE = (), ()


def config(**changes: Any) -> ConfigDict:
  base = {
    'two_turns': True,
    'mixing': {'all_violating': 'skip'},
    'demonstration_weight': 0.0,
    'max_new_tokens': 200,
  }
  return ConfigDict(base | changes)


def test_the_rules_are_in_the_second_turn_alone() -> None:
  brief = Brief('x', 'Write.', *BOTH, earlier=(Message('system', 'S'),))
  first = revision.first_turn(brief)
  assert first == (Message('system', 'S'), Message('user', 'Write.'))
  # The rules' words are those of the brief in one turn.
  rules = brief.text.removeprefix('[system]\nS\n\n[user]\nWrite. ')
  second = revision.second_turn(brief)
  assert second.endswith(f'keeps all of these rules. {rules}')
  assert 'sea' in rules and 'Write' not in second
  assert revision.record(brief, config()) == {
    'turns': ['[system]\nS\n\n[user]\nWrite.', second]
  }


@pytest.mark.parametrize(
  ('brief', 'words'),
  [
    (Brief('x', 'No sea!', *BOTH, stated=True), 'every rule of my request.'),
    (Brief('x', 'Write.', *NONE), 'better written.'),
    (Brief('x', '写。', *BOTH, language='zh'), '使它遵守以下所有要求。'),
    (Brief('x', '写。', *BOTH, language='zh', stated=True), '每一条要求。'),
    (Brief('x', '写。', *NONE, language='zh'), '写得更好。'),
    (Brief('x', 'Écris.', *NONE, language='fr'), 'better written.'),
  ],
)
def test_the_second_turn_fits_its_brief(brief: Brief, words: str) -> None:
  text = revision.second_turn(brief)
  assert words in text
  states = 'sea' in text
  assert states == (bool(brief.kwargs) and not brief.stated)
  assert revision.first_turn(brief) == brief.prompt


def next_turn(_: Any, text: str) -> list[int]:
  return [*map(ord, text)]


CHAT: Any = SimpleNamespace(encode_next_turn=next_turn)


def test_second_turns_are_padded_to_one_width_and_end_with_a_note() -> None:
  briefs = [Brief('a', 'Write.', *NONE), Brief('b', 'Write.', *BOTH)]
  found = revision.encode(briefs, CHAT, config(), ['Note.', ''])
  assert found is not None and found.token_NxS.shape == (2, 128)
  token_PxS, count_P = found.of([1, 0, 1])  # type: ignore
  texts = [
    ''.join(map(chr, row[:n]))
    for row, n in zip(token_PxS, count_P, strict=True)
  ]
  a, b = map(revision.second_turn, briefs)
  assert texts == [b, f'{a}\n\nNote.', b]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'mixing': {'all_violating': 'relabel'}},
      'relabel.*two_turns=True.*expected skip',
    ),
    ({'demonstration_weight': 0.5}, '=0.5 does not.*one turn; expected 0'),
  ],
)
def test_settings_that_do_not_fit_are_refused(
  changes: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    revision.check(config(**changes))
  revision.check(config(**changes, two_turns=False))
  revision.check(config())


def test_a_budget_without_room_for_both_replies_is_refused() -> None:
  brief = Brief('short', 'Write.', *NONE)
  longest = len(revision.second_turn(brief))
  with pytest.raises(ValueError, match=f'brief short has {longest} tokens'):
    revision.encode([brief], CHAT, config(max_new_tokens=longest + 1))
  assert revision.encode([brief], CHAT, config(max_new_tokens=longest + 2))


def test_runs_have_one_turn_by_default() -> None:
  brief = Brief('x', 'Write.', *BOTH)
  for off in (ConfigDict(), config(two_turns=False)):
    assert revision.encode([brief], CHAT, off) is None
    assert revision.record(brief, off) == {}
