"""Questions to judges: what they show, and what is made of the answers."""

import itertools
import pathlib
import re

import numpy as np
import pytest
import regex
from cpu_limit import cpu_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_judges import Scripted, demanding, quoted

from rlcw.rewards.judge import questions
from rlcw.rewards.judge.questions import Prompt, Question
from rlcw.sampling import prompts

TEXT = st.text(st.characters() | st.sampled_from('>\n\r\u2028\u200b\ud83d '))
SLOTS = '{principles} {brief} {reply} {other} {demand} {id} {verdicts} {answer}'
RULES = 'Rules:\n\n1. ' + SLOTS


@given(TEXT)
def test_what_is_visible_is_all_that_is_left(text: str) -> None:
  seen = prompts.visible(text)
  assert prompts.visible(seen) == seen
  assert len(seen) <= len(text)
  assert f'{seen}.'.splitlines() == f'{seen}.'.split('\n')
  assert not regex.search(r'[\p{C}\p{Zl}\p{Zp}]', seen.replace('\n', ''))
  seen.encode()  # no half of a surrogate pair


@pytest.mark.parametrize(
  'hidden',
  [
    *'\u200b\u2060\ufeff\u202e\u00ad\U000e0041',
    *'\ufe0f\U000e0100\U000e01ef\u180b\u180f\u034f\u115f\u3164\uffa0',
    *'\x00\x1b\x9b\ud83d\ue000\uffff\u2800',
  ],
  ids=lambda c: f'{ord(c):x}',
)
def test_a_character_that_shows_nothing_goes(hidden: str) -> None:
  assert prompts.visible(f'a{hidden}b') == 'ab'
  assert prompts.quote(hidden * 9 + 'x', 'en', 1) == '> x'


@given(TEXT)
def test_ordinary_characters_stay(text: str) -> None:
  ordinary = ''.join(c for c in text if c.isalnum() or c in ' \n')
  kept = ''.join(c for c in ordinary if not regex.match(r'\p{DI}', c))
  assert prompts.visible(ordinary) == kept
  # newer than the tables of Unicode that Python 3.11 has
  assert prompts.visible('\U0001fae8') == '\U0001fae8'


@pytest.mark.parametrize('language', questions.LANGUAGES)
@given(text=TEXT, limit=st.integers(1, 30))
def test_every_line_of_a_quotation_has_its_mark(
  language: str, text: str, limit: int
) -> None:
  whole = prompts.visible(text).strip()
  *lines, last = prompts.quote(text, language, limit).splitlines()
  cut = len(whole) > limit
  if cut:
    missing = len(whole) - limit
    assert last == prompts._CUT[language].format(missing)
    assert not last.startswith('> ')
  else:
    lines = [*lines, last]
  assert all(line.startswith('> ') for line in lines)
  assert '\n'.join(line[2:] for line in lines) == whole[:limit]
  assert len(lines) == whole[:limit].count('\n') + 1


def test_a_cut_says_how_much_is_missing() -> None:
  assert prompts.quote('abcde', 'en', 5) == '> abcde'
  assert prompts.quote('abcdef', 'en', 5) == (
    '> abcde\n(It is cut here; 1 more characters are not shown.)'
  )
  assert prompts.quote('春眠不觉晓', 'zh', 2) == (
    '> 春眠\n（此处截断，还有3个字符未显示。）'
  )
  assert prompts.quote('', 'en', 5) == '> '
  # a reply that spells the mark has it behind the sign of a quotation
  assert prompts.quote('a\n(It is cut here;', 'en', 99) == (
    '> a\n> (It is cut here;'
  )


@pytest.mark.parametrize(
  'text',
  ['a', '\n', '\ud800', '\u200b', 'e\u0301', '\r\n', '😀\ufe0f'],
  ids=ascii,
)
def test_a_megabyte_is_quoted_at_once(text: str) -> None:
  with cpu_limit(10):
    found = prompts.quote(f'x{text * (10**6 // len(text))}x', 'en', 1000)
  assert len(found) < 4000


@pytest.mark.parametrize('language', questions.LANGUAGES)
@pytest.mark.parametrize(
  ('name', 'slots'),
  [
    ('judge', ['principles', 'brief', 'reply']),
    ('demand', ['brief', 'demand', 'reply']),
    ('criterion', ['brief', 'demand', 'reply']),
    ('compare', ['principles', 'brief', 'reply', 'other']),
    ('json', ['id', 'verdicts']),
    ('repair', ['answer']),
  ],
)
def test_templates_have_their_slots(
  name: str, slots: list[str], language: str
) -> None:
  pieces = prompts.template(f'{name}_{language}')
  assert [piece.strip('{}') for piece in pieces[1::2]] == slots
  for label in questions.LABELS.get(name, ()):
    assert re.search(rf'\b{label}\b', pieces[-1])  # the question names both
  if 'reply' in slots:
    assert '> ' in ''.join(pieces)  # what a quotation looks like
    at = pieces.index('{reply}')
    assert pieces[at - 1][-1] == pieces[at + 1][0] == '\n'


@pytest.mark.parametrize('language', questions.LANGUAGES)
@pytest.mark.parametrize('name', questions.LABELS)
def test_what_spells_a_slot_is_left_as_it_is(name: str, language: str) -> None:
  question = Question(name, language, 999, RULES)
  prompt = question.about(SLOTS, SLOTS, demand=SLOTS, other=SLOTS)
  slots = len(prompts.template(f'{name}_{language}')[1::2])
  assert prompt.text.count(SLOTS) == slots
  assert prompt.group.startswith(SLOTS)
  assert prompt.row.startswith(f'> {SLOTS}\n')


@pytest.mark.parametrize('language', questions.LANGUAGES)
@pytest.mark.parametrize('name', questions.LABELS)
@given(reply=TEXT, other=TEXT)
@settings(max_examples=30)
def test_a_reply_changes_its_row_alone(
  name: str, language: str, reply: str, other: str
) -> None:
  question = Question(name, language, 99, 'Be kind.')
  one = question.about('To the sea', 'A', demand='Say wave.', other='B')
  two = question.about('To the sea', reply, demand='Say wave.', other=other)
  assert (one.shared, one.group) == (two.shared, two.group)
  far = question.about('To a hill', 'A', demand='Say stone.', other='B')
  assert far.shared == one.shared
  assert far.row == one.row
  assert far.group != one.group
  single = name in ('demand', 'criterion')  # asks about one statement
  assert ('Be kind.' in one.shared) == (not single)
  assert 'To the sea' not in one.shared + one.row
  assert ('Say wave.' in one.group) == single
  # what follows the quotation is the same whatever it holds
  tail = one.row.rpartition('\n> ')[2] if name == 'compare' else one.row[2:]
  assert two.row.endswith(tail[1:])


def test_judge_asks_of_every_reply_in_order() -> None:
  worth = {'a': 0.1, 'b': 0.9, 'c': np.nan, 'd': 0.4}
  panel = Scripted(lambda prompt: worth[quoted(prompt.row)])
  question = Question('judge', 'en', 99, 'Be kind.')
  found = questions.judge(panel, question, ['x', 'y'], [['a', 'b'], ['c', 'd']])
  np.testing.assert_array_equal(found.first, [[0.1, 0.9], [np.nan, 0.4]])
  assert found.valid.tolist() == [[True, True], [False, True]]
  briefs = [prompt.group[0] for _, prompt in panel.asked]
  assert briefs == ['x', 'x', 'y', 'y']


def test_compare_asks_in_both_orders() -> None:
  """The better is the longer; then places alone; then some do not answer."""
  question = Question('compare', 'en', 99, 'Be kind.')
  ours, theirs = ['long one', 'a', 'b'], ['short', 'longer', 'c']

  def longer(prompt: Prompt) -> float:
    first, second = re.findall('^> (.*)$', prompt.row, re.M)
    return 0.9 if len(first) > len(second) else 0.2

  def compare(panel: Scripted) -> list[float]:
    briefs = ['x', 'y', 'z']
    return questions.compare(panel, question, briefs, ours, theirs).tolist()

  panel = Scripted(longer)
  assert compare(panel) == [1, 0, 0.5]  # of equal ones the second always wins
  asked = [re.findall('^> (.*)$', p.row, re.M) for _, p in panel.asked]
  assert asked == [
    pair for a, b in zip(ours, theirs, strict=True) for pair in ([a, b], [b, a])
  ]
  assert compare(Scripted(lambda prompt: 0.8)) == [0.5] * 3  # always the first
  answers = itertools.cycle([np.nan, 0.1, 0.7, np.nan, 0.7, 0.2])
  found = compare(Scripted(lambda prompt: next(answers)))
  np.testing.assert_array_equal(found, [np.nan, np.nan, 1])


COMMA = {'punctuation:no_comma': {}}
WAVE = {'keywords:existence': {'keywords': ['wave']}}


def test_follow_puts_rules_and_demands_in_the_order_of_the_ids() -> None:
  briefs = [
    demanding('one', WAVE, 'Be sad.', COMMA, 'Be short.'),
    demanding('two', COMMA),
    demanding('three', 'Be wet.'),
  ]
  replies = [['wave', 'a, b'], ['wave', 'a, b'], ['wave', 'a, b']]

  def answer(prompt: Prompt) -> float:
    sad, long = 'Be sad.' in prompt.group, 'a, b' in prompt.row
    return np.nan if long and not sad else 0.9 if sad and long else 0.5

  panel = Scripted(answer)
  question = Question('demand', 'en', 99)
  assert questions.follow(panel, question, briefs, replies) == [
    [[True, False, True, False], [False, True, False, None]],
    [[True], [False]],
    [[False], [None]],
  ]
  shown = [(p.group.split('\n')[0], quoted(p.row)) for _, p in panel.asked]
  assert shown == [
    (f'Write {name}.', reply)
    for name in ('one', 'one', 'three')
    for reply in ('wave', 'a, b')
  ]
  # one prompt for each demand, which names no other
  for _, prompt in panel.asked:
    assert sum(x in prompt.group for x in ('sad', 'short.', 'wet')) == 1


BLANK = '', ' \n', '\u200b\u3164'


@pytest.mark.parametrize('blank', BLANK)
def test_a_blank_reply_pleases_no_judge(blank: str) -> None:
  panel = Scripted(lambda prompt: 0.9)
  question = Question('judge', 'en', 99)
  found = questions.judge(
    panel, question, ['a', 'b'], [[blank, 'x'], ['y', '']]
  )
  assert found.first.tolist() == [[0, 0.9], [0.9, 0]]
  silent = Scripted(lambda prompt: np.nan)
  found = questions.judge(silent, question, ['a'], [[blank, 'x']])
  assert np.isnan(found.first).all()  # a judge that is gone is noticed
  first = Scripted(lambda prompt: 0.9)  # always the one it is shown first
  won = questions.compare(
    first,
    Question('compare', 'en', 99),
    ['a'] * 4,
    [blank, 'x', blank, 'x'],
    ['y', blank, '', 'y'],
  )
  assert won.tolist() == [0, 1, 0.5, 0.5]
  briefs = [demanding('one', 'Be sad.', COMMA)]
  demand = Question('demand', 'en', 99)
  assert questions.follow(panel, demand, briefs, [[blank, 'x']]) == [
    [[False, False], [True, True]]
  ]


def test_follow_takes_a_panel_for_demands_alone() -> None:
  question = Question('demand', 'en', 99)
  rules = [demanding('two', COMMA, WAVE)]
  found = questions.follow(None, question, rules, [['wave', 'a,']])
  assert found == [[[True, True], [False, False]]]
  panel = Scripted(lambda prompt: 1.0)
  questions.follow(panel, question, rules, [['wave', 'a,']])
  assert panel.asked == []
  with pytest.raises(
    ValueError, match=r'brief one makes a demand .* judge\.model'
  ):
    questions.follow(None, question, [demanding('one', 'Be.')], [['a']])


def test_principles_come_from_the_package_or_a_file(
  tmp_path: pathlib.Path,
) -> None:
  assert 'Good' in questions.read('@principles_writing_zh')
  (tmp_path / 'mine.md').write_text('\n春 {reply}\n', 'utf-8')
  assert questions.read(str(tmp_path / 'mine.md')) == '春 {reply}'
  (tmp_path / 'blank.md').write_text(' \n')
  with pytest.raises(ValueError, match=r'blank\.md is blank'):
    questions.read(str(tmp_path / 'blank.md'))
  for name in ('@principles_none', str(tmp_path / 'no.md'), str(tmp_path)):
    with pytest.raises(FileNotFoundError, match='@principles_greetings_en'):
      questions.read(name)
