"""Rubrics: their field, their score, and the judge's answers to them."""

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
from stub_judges import Scripted, quoted

from rlcw.rewards import briefs, forms, rubrics
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.questions import Prompt, Question
from rlcw.rewards.rubrics import Criterion

RUBRIC = (
  Criterion('It names a place.', 3.0),
  Criterion('It rhymes.', 1.0),
  Criterion('It uses a cliché.', -2.0),
)


@pytest.mark.parametrize(
  ('met', 'score'),
  [
    ([True, True, False], 1.0),
    ([True, False, False], 3 / 4),
    ([True, True, True], 2 / 4),
    ([False, False, False], 0.0),
    ([False, False, True], -2 / 4),
    ([True, None, False], math.nan),
    ([None, None, None], math.nan),
  ],
)
def test_the_score_is_the_weighted_share_of_the_merits_less_the_faults(
  met: list[bool | None], score: float
) -> None:
  np.testing.assert_equal(rubrics.score(RUBRIC, met), score)


def test_no_rubric_is_no_difference() -> None:
  found = rubrics.scores([RUBRIC, ()], [[[True, True, False]] * 2, [[], []]])
  np.testing.assert_array_equal(found, [[1, 1], [0, 0]])
  assert found.dtype == np.float32


# --- The field --------------------------------------------------------------


def write(file: pathlib.Path, *rubrics: Any) -> str:
  lines = [
    {'id': f'b{n}', 'prompt': f'Write {n}.', 'rubric': rubric}
    for n, rubric in enumerate(rubrics)
  ]
  file.write_text(''.join(f'{json.dumps(line)}\n' for line in lines))
  return str(file)


def test_a_brief_has_its_rubric_and_the_model_does_not_see_it(
  tmp_path: pathlib.Path,
) -> None:
  given = [each._asdict() for each in RUBRIC]
  as_json = [json.dumps(each) for each in given]  # as typed data sets have it
  more = [given[0] | {'tags': ['place']}, {'criterion': 'x', 'weight': 2}]
  file = write(tmp_path / 'b.jsonl', given, as_json, more, [], None)
  found = briefs.load_briefs(file, heldout=0.0)
  assert [brief.rubric for brief in found] == [
    RUBRIC,
    RUBRIC,
    (RUBRIC[0], Criterion('x', 2.0)),
    (),
    (),
  ]
  assert found[0].text == 'Write 0.'
  assert rubrics.record(found[0].rubric) == {'rubric': given}
  assert rubrics.record(()) == {}
  assert forms.brief({'prompt': 'Hi', 'rubric': given}).rubric == RUBRIC


@pytest.mark.parametrize(
  ('rubric', 'message'),
  [
    ('It rhymes.', "rubric='It rhymes.'; expected a list of objects with"),
    ({'criterion': 'x', 'weight': 1}, 'expected a list of objects'),
    ([1], 'rubric, criterion 1: 1; expected an object with criterion and'),
    (['It rhymes.'], "criterion 1: 'It rhymes.'; expected an object"),
    ([{'weight': 1}], 'criterion 1: criterion=None; expected non-blank text'),
    ([{'criterion': ' ', 'weight': 1}], "criterion=' '; expected non-blank"),
    ([{'criterion': 'x' * 10_001, 'weight': 1}], 'of at most 10000 characters'),
    ([{'criterion': 'x'}], 'weight=None; expected a number other than 0'),
    ([{'criterion': 'x', 'wieght': 2}], 'weight=None; expected a number'),
    ([{'criterion': 'x', 'weight': 0}], 'weight=0; expected'),
    ([{'criterion': 'x', 'weight': True}], 'weight=True; expected'),
    ([{'criterion': 'x', 'weight': '2'}], "weight='2'; expected"),
    ([{'criterion': 'x', 'weight': math.nan}], 'weight=nan; expected'),
    ([{'criterion': 'x', 'weight': 1e9}], 'weight=1000000000.0; expected'),
    (
      [{'criterion': 'x', 'weight': 1}, {'criterion': 'y', 'weight': [1]}],
      r'criterion 2: weight=\[1\]',
    ),
    ([{'criterion': 'x', 'weight': -1}], 'no weight is above 0'),
  ],
)
def test_a_rubric_that_is_none_is_refused_with_its_line(
  rubric: Any, message: str, tmp_path: pathlib.Path
) -> None:
  file = write(tmp_path / 'b.jsonl', [], rubric)
  with pytest.raises(ValueError, match=rf'b\.jsonl:2: b1: .*{message}'):
    briefs.load_briefs(file)


# --- The judge's answers ----------------------------------------------------

QUESTION = Question('criterion', 'en', 99)
# A rule, and no rubric.
OTHER = Brief('o', 'Write.', ('punctuation:no_comma',), ({},))


def test_a_judge_answers_each_criterion_for_each_reply() -> None:
  def answer(prompt: Prompt) -> float:
    reply = quoted(prompt.row)
    if 'rhymes' in prompt.group:
      return math.nan if reply == 'odd' else 0.5  # no majority, so not met
    return 0.9 if ('place' in prompt.group) == ('Rome' in reply) else 0.2

  brief = Brief('b', 'Write {reply}.', (), (), rubric=RUBRIC)
  judge = Scripted(answer)
  replies = [['a', 'b'], ['Rome', 'odd'], ['', 'moss']]
  met = questions.meet(judge, QUESTION, [OTHER, brief, brief], replies)
  assert met == [
    [[], []],
    [[True, False, False], [False, None, True]],
    # nothing that a reader sees has no merit and every fault
    [[False, False, True], [False, False, True]],
  ]
  assert len(judge.asked) == 2 * 3 * 2
  question, prompt = judge.asked[0]
  assert question.labels == ('Yes', 'No')
  assert 'It names a place.' in prompt.group
  assert 'Write {reply}.' in prompt.group  # the request, without the rules


def test_without_a_rubric_no_judge_is_asked() -> None:
  judge = Scripted(lambda _: 0.9)
  assert questions.meet(judge, QUESTION, [OTHER], [['a', 'b']]) == [[[], []]]
  assert questions.meet(None, QUESTION, [OTHER], [['a']]) == [[[]]]
  assert not judge.asked


def test_a_blank_reply_without_an_answer_has_none() -> None:
  brief = Brief('b', 'Write.', (), (), rubric=RUBRIC[:1])
  silent = Scripted(lambda _: math.nan)
  assert questions.meet(silent, QUESTION, [brief], [['', 'a']]) == [
    [[None], [None]]
  ]
