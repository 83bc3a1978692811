"""Arms measured on replies whose numbers are known."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from rlcw.tasks.compare import arms, runs

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
  # two briefs and two seeds tell nothing
  assert gain['interval'][0] < 0 and gain['interval'][1] > 0.99
  back = found['against']['bad']['good']['pass_rate']
  assert back['mean'] == -gain['mean']
  assert back['interval'] == pytest.approx([-x for x in gain['interval'][::-1]])


def test_the_scope_of_every_interval_is_named() -> None:
  found = _measure()
  over = {arm: table['over'] for arm, table in found['arms'].items()}
  assert over == {
    'base': 'briefs only',
    'good': 'briefs and seeds',
    'bad': 'briefs only',
  }
  scopes = {
    (ours, theirs): found['against'][ours][theirs]['pass_rate']['over']
    for ours, theirs in itertools.permutations(over, 2)
  }
  assert scopes['good', 'base'] == scopes['base', 'good'] == 'briefs and seeds'
  assert scopes['bad', 'base'] == 'briefs only'
  assert scopes['good', 'bad'] == 'briefs, seeds of one arm only'
  wins = {arm: found['arms'][arm]['wins']['unseen'] for arm in ('good', 'bad')}
  assert wins['good']['win_rate_over'] == 'briefs and seeds'
  assert wins['bad']['win_rate_over'] == 'briefs only'


def _arm(rng: np.random.Generator, mean: float, text: str) -> list[list[dict]]:
  """A run's replies to 40 briefs, whose unseen scores scatter about a mean."""
  return [
    [_reply(float(rng.random() < 0.5), mean + rng.normal(), text)]
    for _ in range(40)
  ]


def _many(**means: float) -> dict:
  """Measures runs of the given mean scores, and a base of mean 0."""
  rng = np.random.default_rng(0)
  replies = {'base': _arm(rng, 0, 'a b c a b')} | {
    name.replace('_', '-'): _arm(rng, mean, 'a b c a b c d')
    for name, mean in means.items()
  }
  features = {name: np.ones((40, 1, 2)) for name in replies}
  return arms.measure(replies, features, [['a', 'b']] * 40, 'en')


def test_seeds_that_differ_widen_every_interval() -> None:
  alike = _many(x_0=1, x_1=1, x_2=1, y_0=0, y_1=0, y_2=0)
  differ = _many(x_0=0, x_1=1, x_2=2, y_0=-1, y_1=0, y_2=1)

  def widths(found: dict) -> np.ndarray:
    x = found['arms']['x']
    return np.diff(
      [
        x['intervals']['unseen'],
        x['wins']['unseen']['win_rate_interval'],
        found['against']['x']['y']['unseen']['interval'],
        found['against']['x']['base']['unseen']['interval'],
      ]
    )

  assert (widths(differ) > 2 * widths(alike)).all()
  gain = alike['against']['x']['base']['unseen']
  assert gain['mean'] == pytest.approx(1, abs=0.4) and gain['interval'][0] > 0


def test_an_arm_that_is_always_longer_has_no_rate_at_equal_length() -> None:
  wins = _many(x_0=1)['arms']['x']['wins']['unseen']
  assert wins['win_rate'] > 0.5
  assert wins['length_controlled_win_rate'] is None
  assert '100% of 40 comparisons' in wins['length_controlled_reason']


def test_diversity_is_of_as_many_words_in_every_run() -> None:
  found = _many(x_0=1)
  assert found['diversity_words'] == 40 * 5
  numbers = [found['arms'][arm]['numbers'] for arm in ('base', 'x')]
  # a b c a b c d is cut to a b c a b
  for key in 'distinct1', 'distinct2', 'distinct3', 'compression':
    assert numbers[0][key] == numbers[1][key]
  assert numbers[0]['distinct2'] == 3 / (40 * 4)


def test_a_reply_that_nobody_could_score_does_not_count() -> None:
  replies = copy.deepcopy(REPLIES)
  for reply in replies['good-0'][1]:
    reply['unseen'] = np.nan
  found = arms.measure(replies, FEATURES, RULES, 'en')['arms']['good']
  # briefs of good-0 and good-1: 1, none, 3, 5
  assert found['numbers']['unseen'] == pytest.approx(3)
  assert np.isfinite(found['intervals']['unseen']).all()


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


def test_runs_of_the_same_sum_are_alike_however_it_is_written() -> None:
  def notes(other: str) -> list[str]:
    sums = {'a-0': 'judge + 0.5*m:f', 'b-0': other}
    return runs.differences(
      {k: ConfigDict({'writing': v}) for k, v in sums.items()}
    )

  assert notes('0.5*m:f+1.0*judge') == []
  with pytest.raises(ValueError, match='runs cannot be compared: they differ'):
    notes('judge + 0.4*m:f')


def test_briefs_of_one_prompt_count_as_one() -> None:
  twice = {
    name: [group for group in run for _ in range(2)]
    for name, run in REPLIES.items()
  }
  features = {name: np.ones((4, 2, 3)) for name in twice}
  rules = [rule for rule in RULES for _ in range(2)]
  once, same, apart = (
    _measure(),
    arms.measure(twice, features, rules, 'en', group_P=np.repeat(range(2), 2)),
    arms.measure(twice, features, rules, 'en'),
  )

  def widths(found: dict) -> np.ndarray:
    bad = found['arms']['bad']
    return np.diff(
      [
        bad['intervals']['unseen'],
        bad['wins']['unseen']['win_rate_interval'],
        found['against']['bad']['base']['unseen']['interval'],
      ]
    )

  np.testing.assert_allclose(widths(same), widths(once))
  assert (widths(apart) < widths(same)).all()


@pytest.mark.parametrize(
  ('here', 'there', 'message'),
  [
    ({}, {}, 'a-0 and a-1 both have seed=0'),
    (
      {'mixing': {'margin': 0.5}},
      {'seed': 1, 'mixing': {'margin': 1.0}},
      r'a-0 and a-1 differ in mixing.margin: 0.5 and 1.0; expected runs of an',
    ),
    (
      {'advantage_scale': 'std'},
      {'seed': 1, 'advantage_scale': 'none'},
      "differ in advantage_scale: 'std' and 'none'",
    ),
  ],
)
def test_runs_of_an_arm_are_samples_of_it(
  here: dict, there: dict, message: str
) -> None:
  one, other = (ConfigDict({'seed': 0} | each) for each in (here, there))
  with pytest.raises(ValueError, match=message):
    runs.check_arms({'a-0': one, 'a-1': other})
  runs.check_arms({'a-0': one, 'b-0': other})


def test_a_run_of_an_earlier_version_lacks_settings() -> None:
  one = ConfigDict({'seed': 0, 'mixing': {'margin': 1.0}})
  other = ConfigDict({'seed': 1, 'mixing': {'margin': 1.0, 'weight': 1.0}})
  runs.check_arms({'a-0': one, 'a-1': other})


def test_a_single_reply_is_not_compared_with_itself() -> None:
  one = {name: [g[:1] for g in run] for name, run in REPLIES.items()}
  features = {name: np.ones((2, 1, 3)) for name in one}
  found = arms.measure(one, features, RULES, 'en')['arms']
  assert np.isnan(found['base']['numbers']['kept_and_better'])
  # 1.5 and 5 against 0 and 4; 3 and 5
  assert found['good']['numbers']['kept_and_better'] == 1


def test_a_blank_reply_loses_whatever_its_score() -> None:
  blank = [[_reply(1, 9.0, ' '), _reply(1, 9.0)], [_reply(1, 9.0)] * 2]
  blank = _run(*blank)
  replies = {'base': REPLIES['base'], 'blank-0': blank}
  features = {name: np.ones((2, 2, 3)) for name in replies}
  found = arms.measure(replies, features, RULES, 'en')['arms']['blank']
  assert found['numbers']['kept_and_better'] == 3 / 4
  assert found['wins']['unseen']['win_rate'] == 3 / 4
