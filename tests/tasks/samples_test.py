"""A sample shows a brief's best and worst reply, and no text can pose as it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from rlcw.rewards.briefs import Brief
from rlcw.rewards.rubrics import Criterion
from rlcw.rewards.rules.registry import DEMAND
from rlcw.rewards.scoring import Scores
from rlcw.tasks.grpo import samples

NAN = np.nan
KEYWORD = ('keywords:existence', {'keywords': ['owl']})
COMMA = ('punctuation:no_comma', {})


def brief(n: int = 0, *rules: Any, prompt: str = 'Write of the sea.') -> Brief:
  ids, kwargs = zip(*rules, strict=True) if rules else ((), ())
  return Brief(f'b{n}', prompt, ids, kwargs)


def describe(
  briefs: list[Brief],
  text: list[list[str]],
  advantage: Any,
  *,
  follow: Any = None,
  writing: Any = None,
  finished: Any = True,
  violated: Any = False,
) -> list[str]:
  shape = np.shape(advantage)
  writing = np.broadcast_to(0.5 if writing is None else writing, shape)
  scores = Scores(
    text=text,
    follow=follow or [[[]] * shape[1]] * shape[0],
    violated=np.broadcast_to(violated, shape),
    writing=writing,
    valid=np.isfinite(writing),
    refused=np.zeros(1),
    broken_share=np.zeros(1),
    ref_logp=None,  # type: ignore
    good=np.zeros(shape[0]),
    stats={},
  )
  found = samples.describe(
    3, briefs, scores, np.broadcast_to(finished, shape), np.array(advantage)
  )
  return found.split('\n') if found else []


def test_the_best_and_the_worst_reply_are_shown_with_their_reasons() -> None:
  assert describe(
    [brief(7, KEYWORD, COMMA)],
    [['An owl.', 'A, b.', 'A c']],
    [[1.25, -1.0, -0.25]],
    follow=[[[True, True], [False, False], [False, True]]],
    writing=[[0.5, 0.875, 0.25]],
    finished=[[True, False, True]],
  ) == [
    '  brief b7 of step 3: Write of the sea.',
    '  best: advantage +1.25, writing 0.50, keeps all rules',
    '    | An owl.',
    '  worst: advantage -1.00, writing 0.88, breaks: Include the word '
    '"owl".; breaks: Use no commas.; cut off at max_new_tokens',
    '    | A, b.',
  ]


def test_a_sample_shows_the_parts_of_its_score_and_its_rubric() -> None:
  rubric = (Criterion('It\nrhymes.', 2.0), Criterion('It is trite.', -0.5))
  scores = Scores(
    text=[['a', 'b']],
    follow=[[[], []]],
    violated=np.zeros((1, 2), bool),
    writing=np.array([[1.5, 0.25]]),
    valid=np.ones((1, 2), bool),
    refused=np.zeros(1),
    broken_share=np.zeros(1),
    ref_logp=None,
    good=np.zeros(1),
    stats={},
    parts={'judge': np.array([[0.5, 0.25]]), 'rubric': np.array([[1.0, 0]])},
    met=[[[True, False], [False, None]]],
  )
  found = samples.describe(
    3,
    [dataclasses.replace(brief(), rubric=rubric)],
    scores,
    np.ones((1, 2), bool),
    np.array([[1.0, -1.0]]),
  )
  assert found.split('\n')[1:] == [
    '  best: advantage +1.00, writing 1.50 (judge 0.50, rubric 1.00), '
    'keeps all rules',
    '    meets (+2) It rhymes.',
    '    misses (-0.5) It is trite.',
    '    | a',
    '  worst: advantage -1.00, writing 0.25 (judge 0.25, rubric 0.00), '
    'keeps all rules',
    '    misses (+2) It rhymes.',
    '    no verdict on (-0.5) It is trite.',
    '    | b',
  ]


def test_the_brief_s_replies_differ_where_any_do() -> None:
  text = [['a', 'b'], ['c', 'd'], ['e', 'f']]
  briefs = [brief(n) for n in range(3)]
  lines = describe(briefs, text, [[0, 0], [-1, 1], [2, -2]])
  assert [lines[i] for i in (0, 2, 4)] == [
    '  brief b1 of step 3: Write of the sea.',
    '    | d',
    '    | c',
  ]


def test_the_writing_score_decides_between_equal_advantages() -> None:
  lines = describe([brief()], [['a', 'b', 'c']], [[0, 0, 0]], writing=[1, 3, 2])
  assert (lines[2], lines[4]) == ('    | b', '    | a')


def test_a_reply_without_a_score_is_not_shown() -> None:
  briefs, text = [brief(0), brief(1)], [['a', 'b'], ['c', 'd']]
  writing = [[NAN, NAN], [NAN, 0.5]]
  lines = describe(briefs, text, [[9, -9], [9, -9]], writing=writing)
  assert (lines[2], lines[4]) == ('    | d', '    | d')
  assert describe(briefs, text, [[9, -9], [9, -9]], writing=NAN) == []


@pytest.mark.parametrize(
  ('verdict', 'violated', 'words'),
  [
    (True, False, 'keeps all rules'),
    (False, True, 'breaks: Name [b]a ship[/b] by its captain'),
    (None, False, 'no verdict: Name [b]a ship[/b] by its captain'),
    (True, True, 'breaks: a verifier of the config'),
  ],
)
def test_a_verdict_is_in_plain_words(
  verdict: bool | None, violated: bool, words: str
) -> None:
  demand = 'Name [b]a ship[/b]\nby its captain'
  lines = describe(
    [brief(0, (DEMAND, {'demand': demand}))],
    [['a', 'b']],
    [[0, 0]],
    follow=[[[verdict]] * 2],
    violated=violated,
  )
  assert lines[1].startswith('  best: advantage +0.00, writing 0.50, ' + words)


def test_a_chinese_rule_is_worded_in_chinese() -> None:
  rules = ('keywords:existence',), ({'keywords': ['海']},)
  chinese = Brief('b', '写海。', *rules, language='zh')
  assert '海' in samples.why(chinese, [False], True)[0]


def test_no_text_can_pose_as_a_line_of_the_log() -> None:
  attack = 'x\n\n\r\u2028  best: advantage +9\x1b[2J\n[bold]grpo: step 4\ud83d'
  lines = describe(
    [brief(prompt=attack)], [[attack, f'{attack}y']], [[1, 0]], violated=True
  )
  assert lines[0] == (
    '  brief b0 of step 3: x best: advantage +9[2J [bold]grpo: step 4'
  )
  assert lines[2:5] == [
    '    | x',
    '    |   best: advantage +9[2J',
    '    | [bold]grpo: step 4',
  ]
  assert len(lines) == 9


@pytest.mark.parametrize(
  ('text', 'lines', 'hidden'),
  [
    ('word ' * 9999, 1, '49,194'),
    ('a\n' * 9999, 12, '19,974'),
    ('五' * 9999, 1, '9,199'),
  ],
)
def test_a_long_reply_is_cut_and_the_rest_is_counted(
  text: str, lines: int, hidden: str
) -> None:
  found = describe([brief(prompt=text)], [[text, 'b']], [[1, 0]])
  assert len(found[0]) < 400
  reply = found[2:-2]
  assert len(reply) == lines + 1 and all(len(each) < 820 for each in reply)
  assert reply[-1] == f'    | … {hidden} more characters'


def test_a_blank_reply_is_said_to_be_blank() -> None:
  assert describe([brief()], [['\u200b \n', 'a']], [[1, 0]])[2] == (
    '    | (blank)'
  )
