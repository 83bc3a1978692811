"""The numbers of an evaluation, by hand."""

import pathlib
from typing import Any

import numpy as np
import pytest
from stub_judges import demanding

from rlcw.evaluation import heldout
from rlcw.tasks import evaluate
from rlcw.tasks.grpo import measures


def test_a_broken_rule_decides_but_rates_need_all_verdicts() -> None:
  brief = demanding('x', {'punctuation:no_comma': {}}, 'Be wet.')

  def loosely(text: str, demand: bool | None) -> dict[str, Any]:
    reply: dict[str, Any] = {'text': text, 'follow': [',' not in text, demand]}
    reply['loose'] = heldout.follows_loosely(brief, reply)
    return reply

  replies = [loosely('a', x) for x in (True, False, None)]
  replies.append(loosely('a, b', None))
  verdicts = [reply['loose'] for reply in replies]
  np.testing.assert_array_equal(verdicts, [1, 0, np.nan, 0])
  # else only the failures of such replies would be known
  [rates] = heldout.values([replies], 'pass_rate_loose')
  np.testing.assert_array_equal(rates, [1, 0, np.nan, np.nan])


def _reply(text: str, strict: float, writing: float) -> dict[str, Any]:
  return {
    'text': text,
    'strict': strict,
    'loose': 1.0,
    'writing': writing,
    'length': len(text.split()),
    'finished': True,
    'kl': 0.0,
  }


def test_differences_are_paired_over_briefs_and_of_one_model() -> None:
  before = [[_reply('a', 0, x), _reply('a', 1, x + 2)] for x in (0, 10, 100)]
  after = [[_reply('a', 1, x + 3), _reply('a', 1, x + 5)] for x in (0, 10, 100)]
  told = evaluate.summarise({'base': before, 'trained': after}, 'en')
  gain = {'mean': 3, 'low': 3, 'high': 3, 'over': 'briefs only'}
  assert told['writing_difference'] == gain
  after[2][0]['strict'] = 0.0
  told = evaluate.summarise({'base': before, 'trained': after}, 'en')
  # gains of ½, ½, 0: t(2) = 4.3027 and s² = 1/12; shares differ by 1 at most
  half = 4.302653 / 6
  assert told['pass_rate_difference'] == pytest.approx(
    {'mean': 1 / 3, 'low': 1 / 3 - half, 'high': 1} | {'over': 'briefs only'}
  )


def test_briefs_of_one_prompt_are_no_more_certain_than_one() -> None:
  base = [[_reply('a', 0, 0)] for _ in range(30)]
  trained = [[_reply('a', 0, x % 3)] for x in range(30)]

  def told(group_P: np.ndarray | None) -> dict[str, Any]:
    both = {'base': base, 'trained': trained}
    return evaluate.summarise(both, 'en', group_P)['writing_difference']

  alike, apart = told(np.arange(30) % 3), told(None)
  assert alike['mean'] == apart['mean'] == 1
  # three prompts with gains of 0, 1, 2: s² = 1 and t(2) = 4.3027
  assert alike['high'] - 1 == pytest.approx(4.302653 / np.sqrt(3))
  assert apart['high'] - 1 == pytest.approx(2.04523 * np.sqrt(20 / 29 / 30))
  assert told(np.arange(30)) == apart


def test_cliches_are_counted() -> None:
  texts = ['A tapestry of light.', 'The bus was late.']
  base = [[_reply(text, 1, 0) for text in texts]]
  trained = [[_reply(texts[1], 1, 0) for _ in texts]]
  told = evaluate.summarise({'base': base, 'trained': trained}, 'en')
  assert (told['cliche_base'], told['cliche_trained']) == (0.5, 0)


def test_shorter_replies_do_not_count_as_more_varied() -> None:
  """The trained model repeats a pair of words, in half as many of them."""
  rng = np.random.default_rng(0)
  words = [[str(word) for word in rng.permutation(20)] * 2 for _ in range(10)]
  base = [[_reply(' '.join(each), 1, 0)] for each in words]
  trained = [[_reply(' '.join(each[:18] + each[:2]), 1, 0)] for each in words]
  told = evaluate.summarise({'base': base, 'trained': trained}, 'en')
  assert told['diversity_words'] == 200
  assert told['distinct2_trained'] < told['distinct2_base']


def test_replies_are_made_once_for_a_key(tmp_path: pathlib.Path) -> None:
  file, made = tmp_path / 'replies.json', []

  def make() -> list[list[dict[str, Any]]]:
    made.append(1)
    writing = np.array([0.1, np.nan], np.float32)
    return [[{'text': 'é\ud800', 'writing': value} for value in writing]]

  for key in ({'run': 'a'}, {'run': 'a'}, {'run': 'b'}):
    ((one, other),) = evaluate.stored(file, key, make)
    assert one == {'text': 'é\ud800', 'writing': pytest.approx(0.1)}
    assert other['writing'] is None  # NaN to `heldout.values`
    assert np.isnan(heldout.values([[other]], 'writing')).all()
  assert len(made) == 2


def test_a_reply_that_is_not_known_counts_in_neither_aim() -> None:
  """A judge's silence is no failure, of a reply or of the base's."""

  def groups(*rows: tuple[float, float]) -> Any:
    return [[_reply('a', kept, score) for kept, score in rows]]

  nan = np.nan
  found = heldout.kept_and_better(
    groups((1, 2), (1, 0), (0, 2), (1, nan), (0, nan), (nan, 2)),
    np.array([1.0]),
    'writing',
  )
  np.testing.assert_equal(found, [[1, 0, 0, nan, nan, nan]])
  base = groups((1, 0), (1, nan))
  told = measures.measure(groups((1, 1), (1, nan)), base, ['both'])
  assert told['both'] == 1
  told = measures.measure(groups((1, 1)), groups((1, nan)), ['both'])
  assert np.isnan(told['both'])


def test_a_brief_without_scores_does_not_count() -> None:
  before = [[_reply('a', 1, np.nan)], [_reply('a', 1, 1)]]
  after = [[_reply('a', 1, 1)], [_reply('a', 1, 2)]]
  told = evaluate.summarise({'base': before, 'trained': after}, 'en')
  gain = told['writing_difference']
  # and one brief shows no spread
  assert gain['mean'] == 1 and np.isnan([gain['low'], gain['high']]).all()


def test_each_part_of_the_writing_score_has_its_numbers(
  capsys: pytest.CaptureFixture[str],
) -> None:
  def reply(judge: float) -> dict[str, Any]:
    parts = {'m:a': 2.0, 'judge': judge}
    return _reply('a', 1, 2 + judge) | {'parts': parts}

  before = [[reply(0.25), reply(0.75)], [reply(0.5), reply(np.nan)]]
  after = [[reply(0.5), reply(1.0)], [reply(0.75), reply(0.75)]]
  told = evaluate.summarise({'base': before, 'trained': after}, 'en')
  assert heldout.parts_of(told) == ['writing/m:a', 'writing/judge']
  assert told['writing/m:a_base'] == told['writing/m:a_trained'] == 2
  assert told['writing/judge_base'] == 0.5
  assert told['writing/judge_trained'] == 0.75
  assert told['writing/judge_difference']['mean'] == 0.25
  evaluate.print_tables(told)
  assert 'writing/judge' in capsys.readouterr().out
  alone = {'base': [[_reply('a', 1, 2)]], 'trained': [[_reply('a', 1, 2)]]}
  assert not heldout.parts_of(evaluate.summarise(alone, 'en'))
