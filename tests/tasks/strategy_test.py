"""Lists of rules: which are legal, and which may replace another."""

import pathlib
from typing import Any

import numpy as np
import pydantic
import pytest
from scipy import special

from rlcw.evaluation import stats, verdicts
from rlcw.evaluation.labelled import Labelled
from rlcw.rewards.judge import questions
from rlcw.sampling import prompts
from rlcw.tasks.adversary import strategy
from rlcw.tasks.adversary.strategy import Reading, Rules


def test_rules_are_tidied() -> None:
  told = [
    '1. Be\n  brief.',
    ' 2、不要啰嗦。',
    '10) No\u200b slogans',
    '> > 3. Name the sea.',
    '3 wishes',
    'Be brief!',
  ]
  assert Rules.model_validate({'rules': told}).rules == [
    'Be brief.',
    '不要啰嗦。',
    'No slogans',
    'Name the sea.',
    '3 wishes',
  ]


@pytest.mark.parametrize(
  'rules',
  [
    [],
    ['x'] * 11,
    ['good', ' \u200b\n'],
    ['7.'],
    ['x' * 401],
    ['x', 3],
    [['x']],
    'one rule',
    None,
  ],
)
def test_a_list_that_is_not_legal_is_refused(rules: Any) -> None:
  with pytest.raises(pydantic.ValidationError):
    Rules.model_validate({'rules': rules})
  assert Rules.model_validate({'rules': ['x' * 400] * 10})


@pytest.mark.parametrize(
  'name', sorted(p.stem for p in prompts.PROMPTS.glob('principles_*.md'))
)
def test_shipped_principles_are_strategies(name: str) -> None:
  read = strategy.read(f'@{name}')
  assert len(read.rules) == 10
  assert read.text == questions.read(f'@{name}')


def test_a_file_is_read_as_it_is_written(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'p.md'
  file.write_text('Be just.\n\n1. One\n   and a half.\n\n2. Two.\n')
  read = strategy.read(str(file))
  assert read == ('Be just.', ('One and a half.', 'Two.'))
  file.write_text(read.text)
  assert strategy.read(str(file)) == read


@pytest.mark.parametrize('text', ['Be good.', '1. x\n2.\n', '1. ' + 'x' * 401])
def test_a_file_without_legal_rules_is_refused(
  text: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'p.md'
  file.write_text(text)
  with pytest.raises(
    ValueError, match='p.md: .*rules.*; expected 1 to 10 lines'
  ):
    strategy.read(str(file))


# --- Scores -----------------------------------------------------------------


def _labelled(*lengths: tuple[int, int]) -> list[Labelled]:
  """Replies of a length, and a label."""
  return [Labelled('p', 'x' * n, bool(label), 'dev') for n, label in lengths]


EVEN = _labelled((20, 1), (20, 1), (20, 1), (20, 0), (20, 0))


def _reading(labelled: str, fakes: str = '') -> Reading:
  """Verdicts: G, B, or - for none."""
  value = {'G': 0.9, 'B': 0.1, '-': np.nan}
  return Reading(
    *(np.array([value[v] for v in part]) for part in (labelled, fakes))
  )


def test_scores_by_hand() -> None:
  scores = verdicts.score(_reading('GGBGB', 'BBG-'), EVEN)
  assert scores['agreement'] == 3 / 5
  assert scores['balanced'] == pytest.approx((2 / 3 + 1 / 2) / 2)
  assert scores['fakes'] == pytest.approx(2 / 3)
  # of the good replies: 3/4, 3/4, 1/4; of the bad: (0.5 + 0.5 + 0) / 3, 5/6
  assert scores['matched'] == pytest.approx((7 / 12 + (1 / 3 + 5 / 6) / 2) / 2)
  assert scores['comparable'] == scores['balanced']


def test_nothing_to_measure_is_nan() -> None:
  scores = verdicts.score(_reading('-----'), EVEN)
  assert all(np.isnan(value) for value in scores.values())


def test_a_verdict_on_length_is_right_half_of_the_time_at_one_length() -> None:
  length_N = np.array([100, 100, 20, 20, 20, 104])
  label_N = np.array([1, 1, 1, 0, 0, 0], bool)
  share_N = stats.right_at_length(length_N > 50, label_N, length_N)
  np.testing.assert_array_equal(share_N, 0.5)
  alone_N = stats.right_at_length(label_N, label_N, 100 * np.arange(6))
  assert np.isnan(alone_N).all()


@pytest.mark.parametrize(
  ('new', 'why'),
  [
    (('GGGBG', 'B'), ''),  # one bad reply seen through
    (('GGGGG', 'B'), ''),  # nothing but the fake
    (('GGGGG', 'G'), ''),  # all the same
    (('GGBGG', 'B'), 'agreement 0.600 to 0.400, balanced'),
    (('GBBBB', 'B'), ''),  # 3 of 5 as before, but of each label more alike
    (('GGG--', 'B'), ''),  # no worse where both say something
    (('GGB--', 'B'), 'agreement 1.000 to 0.667'),
    (('-----', 'B'), 'too few verdicts to compare'),
  ],
)
def test_what_loses_is_refused(new: tuple[str, str], why: str) -> None:
  found = strategy.rejection_reason(
    _reading(*new), _reading('GGGGG', 'G'), EVEN
  )
  assert found.startswith(why) and bool(found) == bool(why)


def test_a_change_that_lets_fakes_pass_is_refused() -> None:
  why = strategy.rejection_reason(
    _reading('GGGBB', 'G'), _reading('GGGGG', 'B'), EVEN
  )
  assert why == 'fakes 1.000 to 0.000'


def test_of_a_judge_that_finds_all_good_the_order_counts() -> None:
  none = np.zeros(0)
  right = Reading(np.array([0.9, 0.8, 0.8, 0.7, 0.6]), none)
  wrong = Reading(np.array([0.9, 0.8, 0.6, 0.7, 0.8]), none)
  assert strategy.rejection_reason(wrong, right, EVEN) == 'auc 1.000 to 0.583'
  assert strategy.rejection_reason(right, wrong, EVEN) == ''


def test_a_gain_by_length_is_refused() -> None:
  """Where the good are long, a taste for length agrees: it is no progress."""
  replies = _labelled(
    (100, 1), (100, 1), (100, 1), (21, 1), (20, 0), (20, 0), (20, 0), (98, 0)
  )
  before, long = _reading('GGGGGGGG'), _reading('GGGBBBBG')
  scores = verdicts.score(long, replies)
  assert scores['agreement'] == 0.75
  assert scores['matched'] == 0.5
  why = strategy.rejection_reason(long, before, replies)
  assert why == (
    'agreement rises by 0.250, but among replies of similar length by 0.000'
  )


LONGER = _labelled(
  (60, 1), (55, 1), (70, 1), (20, 1), (22, 0), (25, 0), (18, 0), (58, 0)
)


def test_a_better_order_by_length_is_refused() -> None:
  """Also where every verdict is Good, so that no other score changes."""
  none = np.zeros(0)
  before_N = np.array([0.80, 0.70, 0.90, 0.85, 0.82, 0.86, 0.75, 0.70])
  by_length_N = before_N + 0.002 * np.array([60, 55, 70, 20, 22, 25, 18, 58])
  by_quality_N = before_N + 0.09 * np.array([1, 1, 1, 1, 0, 0, 0, 0])

  def why(after_N: np.ndarray) -> str:
    return strategy.rejection_reason(
      Reading(after_N, none), Reading(before_N, none), LONGER
    )

  assert why(by_length_N) == (
    'auc rises by 0.156, but by 0.031 without what goes with length'
  )
  assert why(by_quality_N) == ''
  # A reply without a verdict counts in neither.
  by_length_N[3] = np.nan
  assert why(by_length_N).startswith('auc rises by ')


@pytest.mark.parametrize('quality', [True, False])
def test_length_is_told_from_quality_where_the_good_are_longer(
  quality: bool,
) -> None:
  rng = np.random.default_rng(0)
  refused = 0
  for _ in range(100):
    label_N = rng.random(40) < 0.5
    log_N = 3 + 0.7 * label_N + rng.normal(0, 0.4, 40)
    replies = _labelled(*zip(np.exp(log_N).astype(int), label_N, strict=True))
    before_N = rng.normal(2, 1, 40) + 0.7 * label_N
    gain_N = 1.0 * label_N if quality else 2 * (log_N - 3)
    after_N = before_N + gain_N + rng.normal(0, 0.4, 40)
    both = (
      Reading(special.expit(each_N), np.zeros(0))
      for each_N in (after_N, before_N)
    )
    why = strategy.rejection_reason(*both, replies)
    # Noise may turn a verdict, which other scores tell.
    refused += why.startswith('auc rises')
  assert refused <= 5 if quality else refused >= 75


@pytest.mark.parametrize('seed', range(20))
def test_whatever_is_put_right_may_stay(seed: int) -> None:
  """Also among few replies of other lengths: the guard costs nothing."""
  rng = np.random.default_rng(seed)
  label_N = np.append([True, False], rng.random(10) < 0.5)
  length_N = rng.integers(10, 60, 12)
  replies = _labelled(*zip(length_N, label_N, strict=True))
  before_N = rng.random(12)
  after_N = np.where(rng.random(12) < 0.4, label_N, before_N)
  none = np.zeros(0)
  why = strategy.rejection_reason(
    Reading(after_N, none), Reading(before_N, none), replies
  )
  assert why == ''
