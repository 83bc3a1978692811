"""Arms measured on replies whose numbers are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcw.evaluation import stats
from rlcw.tasks.compare import arms

RULES = [['a', 'b'], ['a']]


def _reply(strict: float, unseen: float, text: str = 'some words') -> dict:
  return {
    'text': text,
    'strict': strict,
    'loose': 1.0,
    'writing': unseen + 1,
    'unseen': unseen,
    'follow': [bool(strict), True],
    'length': len(text),
    'finished': strict == 1,
    'kl': 0.5,
  }


def _run(first: list[dict], second: list[dict]) -> list[list[dict]]:
  for reply in second:
    reply['follow'] = reply['follow'][:1]
  return [first, second]


REPLIES = {
  'base': _run(
    [_reply(0, 0.0), _reply(1, 2.0)],  # mean 1
    [_reply(0, 4.0), _reply(0, 4.0)],
  ),
  'good-0': _run(
    [_reply(1, 1.5), _reply(1, 0.5)],  # better, worse
    [_reply(1, 5.0), _reply(0, 9.0)],  # better, broken
  ),
  'good-1': _run(
    [_reply(1, 3.0), _reply(1, 3.0)], [_reply(1, 5.0), _reply(1, 5.0)]
  ),
  'bad-0': _run(
    [_reply(0, 3.0), _reply(0, 3.0)], [_reply(0, 5.0), _reply(0, 5.0)]
  ),
}
FEATURES = {name: np.ones((2, 2, 3)) for name in REPLIES}


def _measure(**best_of: tuple[str, ...]) -> dict:
  return arms.measure(REPLIES, FEATURES, RULES, 'en', **best_of)


def test_numbers_by_hand() -> None:
  found = _measure()['arms']
  assert [*found] == ['base', 'good', 'bad']
  good = found['good']
  assert good['runs'] == ['good-0', 'good-1']
  assert good['numbers']['pass_rate'] == pytest.approx((3 / 4 + 1) / 2)
  assert good['numbers']['kept_and_better'] == pytest.approx((2 / 4 + 1) / 2)
  assert good['by_run']['kept_and_better'] == pytest.approx([0.5, 1])
  assert good['numbers']['unseen'] == pytest.approx((4 + 4) / 2)
  assert good['numbers']['truncated'] == pytest.approx(1 / 8)
  # base's 2.0 is above its mean of 1 and keeps the rules
  assert found['base']['numbers']['kept_and_better'] == 0.25
  assert found['base']['numbers']['vendi'] == pytest.approx(1)
  # rule a in both briefs, rule b in the first alone
  assert good['rules'] == {'a': 7 / 8, 'b': 1}


def test_wins_are_against_the_reply_of_the_same_key() -> None:
  wins = _measure()['arms']['good']['wins']
  # good-0: 1.5 > 0, 0.5 < 2, 5 > 4, 9 > 4; good-1: all four
  assert wins['unseen']['win_rate'] == 7 / 8
  assert 'judge' not in wins


def test_differences_and_the_best_of_a_family() -> None:
  found = _measure(best_of=('good', 'none'))
  assert found['best'] == {'good': 'good'}
  gain = found['against']['good']['bad']['pass_rate']
  assert gain['mean'] == pytest.approx(7 / 8)
  assert gain['interval'][0] > 0
  back = found['against']['bad']['good']['pass_rate']
  assert back['mean'] == -gain['mean']
  assert back['interval'] == pytest.approx([-x for x in gain['interval'][::-1]])


def test_seeds_that_disagree_widen_the_interval() -> None:
  rng = np.random.default_rng(0)
  brief_DxP = rng.integers(40, size=(500, 40))
  seed_DxS = stats.draw_seeds(rng, 2)[:500]
  value_P = rng.normal(size=40)

  def width(gap: float) -> float:
    value_SxP = np.stack([value_P, value_P + gap])
    low, high = stats.interval(stats.bootstrap(value_SxP, brief_DxP, seed_DxS))
    return high - low

  assert width(3.0) > 2 * width(0.0) > 0


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_the_spread_of_seeds_is_not_understated(seeds: int) -> None:
  """The variance drawn is s² / S, s² being the unbiased one."""
  rng = np.random.default_rng(0)
  value_S = rng.normal(size=seeds)
  one_brief = np.zeros((stats.DRAWS, 1), int)
  seed_DxS = stats.draw_seeds(rng, seeds)
  drawn_D = stats.bootstrap(value_S[:, None], one_brief, seed_DxS)
  expected = value_S.var(ddof=1) / seeds
  assert drawn_D.var() == pytest.approx(expected, rel=0.1)


def test_one_seed_is_drawn_alone() -> None:
  assert stats.draw_seeds(np.random.default_rng(0), 1).shape == (stats.DRAWS, 1)


def test_a_reply_that_nobody_could_score_does_not_count() -> None:
  value_SxP = np.array([[1.0, np.nan]])
  drawn = stats.bootstrap(
    value_SxP, np.array([[0, 1], [0, 0], [1, 1]]), np.zeros((3, 1), int)
  )
  np.testing.assert_array_equal(drawn, [1, 1, np.nan])
  assert stats.interval(drawn) == [1, 1]
  assert np.isnan(stats.interval(drawn[2:])).all()


def test_names() -> None:
  names = 'base', 'rlmr-0', 'linear_0.5-12'
  assert [*map(arms.arm_of, names)] == ['base', 'rlmr', 'linear_0.5']


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 2), min_size=1, max_size=8))
def test_the_front_is_what_none_beats(points: list[tuple[int, int]]) -> None:
  found = arms.pareto_front(np.array(points, float))
  for point, kept in zip(points, found, strict=True):
    beaten = any(
      x >= point[0] and y >= point[1] and (x, y) != point for x, y in points
    )
    assert kept == (not beaten)


def test_rule_breakers_with_a_positive_advantage_are_counted() -> None:
  def group(*replies: tuple[bool, float, bool]) -> dict:
    names = 'violated', 'advantage', 'valid'
    return {'replies': [dict(zip(names, r, strict=True)) for r in replies]}

  mixed = group((True, 0.5, True), (True, -0.5, True), (False, 0.0, True))
  unknown = group((True, 1.0, False), (False, -1.0, True), (True, 0.0, True))
  broken = group((True, 1.0, True), (True, -1.0, True))
  assert arms.rewarded_violations([mixed, unknown, broken]) == 1 / 3
  assert np.isnan(arms.rewarded_violations([broken]))


def test_bootstrap_is_paired_over_briefs() -> None:
  """Briefs differ widely, and the gain is the same on each: no spread."""
  before_PxG = np.array([[0.0, 2.0], [10.0, 12.0], [100.0, 102.0]])
  told = stats.paired_bootstrap(before_PxG, before_PxG + 3, seed=0)
  assert told == {'mean': 3.0, 'low': 3.0, 'high': 3.0}


def test_bootstrap_interval_is_that_of_the_mean() -> None:
  rng = np.random.default_rng(0)
  gain_P = rng.normal(0.5, 1, 400)
  after_PxG = np.repeat(gain_P[:, None], 2, axis=1)
  told = stats.paired_bootstrap(np.zeros((400, 2)), after_PxG, seed=1)
  margin = 1.96 * gain_P.std() / 20
  assert told['mean'] == pytest.approx(gain_P.mean())
  assert told['low'] == pytest.approx(gain_P.mean() - margin, abs=0.02)
  assert told['high'] == pytest.approx(gain_P.mean() + margin, abs=0.02)


@pytest.mark.filterwarnings('error')
def test_a_brief_that_no_reply_of_is_known_does_not_count() -> None:
  nan = np.nan
  before_PxG = np.array([[nan, nan], [1.0, nan], [1.0, 2.0]])
  after_PxG = np.array([[1.0, 1.0], [nan, 4.0], [nan, nan]])
  told = stats.paired_bootstrap(before_PxG, after_PxG, seed=0)
  assert told == {'mean': 3.0, 'low': 3.0, 'high': 3.0}
  told = stats.paired_bootstrap(before_PxG[:1], after_PxG[:1], seed=0)
  assert [*told] == ['mean', 'low', 'high']
  assert np.isnan([*told.values()]).all()
