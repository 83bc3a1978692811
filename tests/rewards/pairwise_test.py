"""Scores from comparisons within a group."""

from collections import Counter
from typing import Any

import numpy as np
import pipeline
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_collections import ConfigDict
from stub_judges import Scripted, demanding, quoted

from rlcw.rewards import pairwise, writing
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.questions import Prompt, Question
from rlcw.rewards.judge.replies import ReplyJudge
from rlcw.rewards.writing import WritingScorer

KEY = (3, 1, 4)

# --- Who meets whom -----------------------------------------------------------


@given(st.integers(2, 9), st.data())
def test_each_reply_meets_as_many_others_as_are_asked_for(
  size: int, data: st.DataObject
) -> None:
  opponents = data.draw(st.integers(1, size - 1))
  pairs_Kx2 = pairwise.draw('round', size, opponents, KEY)
  assert len({frozenset(pair) for pair in pairs_Kx2.tolist()}) == len(pairs_Kx2)
  assert (pairs_Kx2[:, 0] != pairs_Kx2[:, 1]).all()
  met = sorted(Counter(pairs_Kx2.ravel().tolist()).values())
  odd = size * opponents % 2
  assert met == [opponents] * (size - odd) + [opponents + 1] * odd
  assert pairwise.count('round', size, opponents) == len(pairs_Kx2)


def test_all_meet_one_that_is_drawn() -> None:
  pivots = set()
  for group in range(40):
    pairs_Kx2 = pairwise.draw('pivot', 4, 1, (0, 0, group))
    pivots.add(pairs_Kx2[0, 0])
    assert (pairs_Kx2[:, 0] == pairs_Kx2[0, 0]).all()
    assert {*pairs_Kx2.ravel()} == {*range(4)} and len(pairs_Kx2) == 3
  assert pivots == {*range(4)}


def test_pairs_are_a_function_of_their_key() -> None:
  one, again, other = (
    pairwise.draw('round', 8, 2, key) for key in (KEY, KEY, (3, 2, 4))
  )
  np.testing.assert_array_equal(one, again)
  assert (one != other).any()


@pytest.mark.parametrize('mode', ['round', 'pivot'])
def test_one_reply_meets_none_and_few_meet_all(mode: str) -> None:
  assert pairwise.draw(mode, 1, 3, KEY).shape == (0, 2)
  assert sorted(pairwise.draw(mode, 2, 3, KEY)[0]) == [0, 1]
  assert pairwise.count('round', 4, 7) == 6


# --- Scores -------------------------------------------------------------------


def test_a_score_is_the_mean_over_answered_comparisons() -> None:
  pairs = [np.array([[0, 1], [2, 0], [1, 2]]), np.array([[2, 1]])]
  won_N = np.array([0.8, 0.4, np.nan, 1.0])
  win_PxGxG = pairwise.win_matrix(pairs, won_N, 3)
  np.testing.assert_allclose(win_PxGxG[0, :, 0], [np.nan, 0.2, 0.4])
  np.testing.assert_allclose(
    pairwise.scores(win_PxGxG), [[0.7, 0.2, 0.4], [np.nan, 0.0, 1.0]]
  )


GROUPS = st.tuples(st.integers(1, 3), st.integers(1, 6)).flatmap(
  lambda shape: hnp.arrays(
    float,
    (*shape, shape[1]),
    elements=st.floats(0, 1) | st.just(np.nan),
  )
)


def matrix(upper_PxGxG: np.ndarray) -> np.ndarray:
  """Of the upper half, which has one answer for each pair."""
  place, full = np.triu_indices(upper_PxGxG.shape[1], 1), []
  for each in upper_PxGxG:
    pairs = np.stack(place, 1)
    full.append(pairwise.win_matrix([pairs], each[place], len(each))[0])
  return np.array(full)


@given(GROUPS, st.randoms(use_true_random=False))
def test_scores_are_shares_that_follow_their_replies(
  upper_PxGxG: np.ndarray, random: Any
) -> None:
  win_PxGxG = matrix(upper_PxGxG)
  score_PxG = pairwise.scores(win_PxGxG)
  known = np.isfinite(score_PxG)
  assert ((score_PxG[known] >= 0) & (score_PxG[known] <= 1)).all()
  np.testing.assert_array_equal(known, np.isfinite(win_PxGxG).any(2))
  order = random.sample(range(score_PxG.shape[1]), score_PxG.shape[1])
  swapped = pairwise.scores(win_PxGxG[:, order][:, :, order])
  np.testing.assert_allclose(swapped, score_PxG[:, order], atol=1e-12)


@given(GROUPS)
def test_scores_of_a_full_tournament_add_up_to_half_its_replies(
  upper_PxGxG: np.ndarray,
) -> None:
  size = upper_PxGxG.shape[1]
  score_PxG = pairwise.scores(matrix(np.nan_to_num(upper_PxGxG)))
  if size > 1:
    np.testing.assert_allclose(score_PxG.sum(1), size / 2)


@given(st.integers(3, 6), st.data())
def test_a_missing_pair_changes_its_two_replies_alone(
  size: int, data: st.DataObject
) -> None:
  upper = data.draw(
    hnp.arrays(float, (1, size, size), elements=st.floats(0, 1))
  )
  before_G = pairwise.scores(matrix(upper))[0]
  one, other = sorted(data.draw(st.permutations(range(size)))[:2])
  upper[0, one, other] = np.nan
  after_G = pairwise.scores(matrix(upper))[0]
  others = np.delete(np.arange(size), [one, other])
  np.testing.assert_array_equal(after_G[others], before_G[others])


# --- Questions ----------------------------------------------------------------


def shown(prompt: Prompt) -> tuple[str, str]:
  """The first and the second reply in a prompt."""
  return quoted(prompt.row), quoted(prompt.row.rpartition('Second reply')[2])


def longer(prompt: Prompt) -> float:
  first, second = map(len, shown(prompt))
  return 0.9 if first > second else 0.3


def prefer(judge: Scripted, *pairs: tuple[str, str]) -> np.ndarray:
  question = Question('compare', 'en', 5, 'Be kind.')
  ours, theirs = zip(*pairs, strict=True)
  return questions.prefer(judge, question, ['x'] * len(pairs), ours, theirs)


def test_a_pair_is_asked_about_in_both_orders() -> None:
  judge = Scripted(longer)
  found_Nx2 = prefer(judge, ('long', 'no'), ('no', 'long'))
  np.testing.assert_allclose(found_Nx2, [[0.9, 0.7], [0.3, 0.1]])
  assert [shown(p) for _, p in judge.asked[:2]] == [
    ('long', 'no'),
    ('no', 'long'),
  ]
  # a taste for the first place is none for a reply
  first = prefer(Scripted(lambda prompt: 0.8), ('a', 'b'))
  assert first.mean() == 0.5


@pytest.mark.parametrize(
  'pair', [('a', 'a'), ('a', ' a\u200b'), ('', '\u3164'), ('five!1', 'five!2')]
)
def test_what_looks_the_same_is_a_tie_without_a_question(
  pair: tuple[str, str],
) -> None:
  judge = Scripted(longer)
  assert prefer(judge, pair).tolist() == [[0.5, 0.5]]
  assert not judge.asked
  assert prefer(judge, pair, ('long', 'no'))[0].tolist() == [0.5, 0.5]
  assert len(judge.asked) == 2


def test_a_blank_reply_loses_where_the_judge_answers() -> None:
  found = prefer(Scripted(lambda _: 0.9), ('', 'a'), ('a', ' \n'))
  assert found.tolist() == [[0, 0], [1, 1]]
  assert np.isnan(prefer(Scripted(lambda _: np.nan), ('', 'a'))).all()


def test_a_process_without_pairs_joins_the_others(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  calls = []

  def judge(_: Question, prompts: Any) -> questions.Verdicts:
    calls.append(prompts)
    return questions.Verdicts(np.zeros((0, 0)), [])

  model: Any = judge
  question = Question('compare', 'en', 5)
  for elsewhere in (False, True):
    monkeypatch.setattr(
      questions.processes, 'gather', lambda own, e=elsewhere: [own, e]
    )
    found = questions.prefer(model, question, [], [], [])
    assert found.shape == (0, 2)
    assert calls == [[]] * elsewhere


# --- A part of the writing score ----------------------------------------------

TEXT = [['wave', 'sea', '', 'wave'], ['odd', 'odd', 'odd', 'odd']]
FINISHED = np.ones((2, 4), bool)
BRIEFS = [demanding(name, {'punctuation:no_comma': {}}) for name in 'ab']


def settings_of(**changes: Any) -> ConfigDict:
  config = pipeline.shipped('grpo')
  changes = {'writing': 'pairs', 'judge.model': 'm', 'group_size': 4} | changes
  config.update_from_flattened_dict(changes)
  return config


def scorer_of(config: ConfigDict, judge: Scripted) -> WritingScorer:
  model: Any = None
  return WritingScorer(model, config, ReplyJudge(judge, config))


def write(scorer: WritingScorer, pairs: Any) -> writing.Written:
  return scorer(BRIEFS, TEXT, FINISHED, (1, 1), None, pairs)


def test_a_tournament_gives_scores_and_their_cost() -> None:
  judge = Scripted(longer)
  scorer = scorer_of(settings_of(**{'pairs.opponents': 3}), judge)
  found = write(scorer, scorer.draw(0, [0, 1], 4))
  # of the longer 'wave' over 'sea' (0.9 + 0.7) / 2
  wave, sea = (0.8 + 1 + 0.5) / 3, (0.2 + 0.2 + 1) / 3
  np.testing.assert_allclose(found.total, [[wave, sea, 0, wave], [0.5] * 4])
  assert found.against is not None
  np.testing.assert_allclose(found.against[0, 0], [np.nan, 0.8, 1, 0.5])
  assert found.parts.keys() == {'pairs'}
  # all but the pair of equal ones; of blank ones, too
  assert len(judge.asked) == 2 * 5
  assert found.stats == {
    'judge_pairs': 12,
    'pairs_unanswered': 0,
    'pairs_swayed': 0,
  }


def test_replies_without_an_answered_comparison_have_no_score() -> None:
  def silent(prompt: Prompt) -> float:
    return np.nan if 'wave' in shown(prompt) else 0.9

  scorer = scorer_of(settings_of(**{'pairs.mode': 'pivot'}), Scripted(silent))
  pairs = [
    np.array([[0, 1], [0, 2], [0, 3]]),
    np.array([[0, 1], [2, 0], [3, 0]]),
  ]
  found = write(scorer, pairs)
  np.testing.assert_array_equal(
    found.total, [[0.5, np.nan, np.nan, 0.5], [0.5] * 4]
  )
  assert found.stats['pairs_unanswered'] == 2 / 6
  scorer = scorer_of(settings_of(), Scripted(lambda _: np.nan))
  found = write(scorer, [pair[:0] for pair in pairs])
  assert np.isnan(found.total).all()
  assert found.stats['pairs_unanswered'] == 0


def test_a_pair_whose_order_decides_is_counted() -> None:
  scorer = scorer_of(settings_of(), Scripted(lambda _: 0.9))
  found = write(scorer, [np.array([[0, 1]]), np.array([[0, 1]])])
  assert found.stats['pairs_swayed'] == 1 / 2
  assert found.total[0, :2].tolist() == [0.5, 0.5]


def test_each_group_of_a_step_has_pairs_of_its_own() -> None:
  scorer = scorer_of(settings_of(group_size=8), Scripted(longer))
  steps = [scorer.draw(step, range(4), 8) for step in (0, 0, 1)]
  np.testing.assert_array_equal(steps[0], steps[1])
  # as several processes draw them, each of its own groups
  np.testing.assert_array_equal(steps[0][2:], scorer.draw(0, [2, 3], 8))
  each = {pairs.tobytes() for step in steps[1:] for pairs in step}
  assert len(each) == 8
  assert (
    scorer_of(settings_of(writing='judge'), Scripted(longer)).draw(0, [0], 8)
    == []
  )


@pytest.mark.parametrize(
  ('parts', 'weight'),
  [('pairs', 1), ('2*pairs', 2), ('pairs + 0.5*judge', 1.5)],
)
def test_held_out_replies_are_judged_by_themselves(
  parts: str, weight: float, capsys: pytest.CaptureFixture[str]
) -> None:
  judge = Scripted(lambda prompt: 0.6)
  scorer = scorer_of(settings_of(writing=parts), judge)
  found = write(scorer.heldout(), ())
  np.testing.assert_allclose(
    found.total[0], weight * np.array([0.6, 0.6, 0, 0.6])
  )
  assert {question.name for question, _ in judge.asked} == {'judge'}
  assert found.against is None
  assert 'held-out replies get the judge’s P(Good)' in capsys.readouterr().out
  assert 'pairs' in scorer.weights  # training goes on
  other = scorer_of(settings_of(writing='judge'), judge)
  assert other.heldout() is other


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'judge.model': ''}, "writing='pairs' needs a judge: give judge.model"),
    ({'pairs.opponents': 0}, r'pairs\.opponents=0: .*expected 1 to 3'),
    ({'pairs.opponents': 4}, r'=4: .* has 3 others; expected 1 to 3'),
    ({'group_size': 1}, 'group_size=1; expected 2 or more'),
    (
      {'writing': '0.3*pairs + diversity - 0.3*judge'},
      'pairs and judge whose sum is not 0',
    ),
  ],
)
def test_groups_that_allow_no_such_pairs_are_refused(
  changes: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    writing.check(settings_of(**changes))


@pytest.mark.parametrize(
  ('changes', 'asked'),
  [
    ({}, 8),
    ({'pairs.opponents': 3}, 12),
    ({'pairs.mode': 'pivot', 'pairs.opponents': 9}, 6),
    ({'writing': 'judge + 2*pairs', 'group_size': 8}, 16),
    ({'writing': 'pairs - 2*judge'}, 8),
    ({'writing': 'judge'}, 0),
  ],
)
def test_the_cost_of_a_group_is_known_before_training(
  changes: dict[str, Any], asked: int
) -> None:
  config = settings_of(**changes)
  writing.check(config)
  assert writing.pair_questions(config) == asked
