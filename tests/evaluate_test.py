"""The numbers of an evaluation, by hand."""

import numpy as np
import pytest
from panels import demanding

from rlcw import answers, evaluate


def test_bootstrap_is_paired_over_briefs() -> None:
  """Briefs differ widely, and the gain is the same on each: no spread."""
  before_PxG = np.array([[0.0, 2.0], [10.0, 12.0], [100.0, 102.0]])
  told = evaluate.paired_bootstrap(before_PxG, before_PxG + 3, seed=0)
  assert told == {'mean': 3.0, 'low': 3.0, 'high': 3.0}


def test_bootstrap_interval_is_that_of_the_mean() -> None:
  rng = np.random.default_rng(0)
  gain_P = rng.normal(0.5, 1, 400)
  after_PxG = np.repeat(gain_P[:, None], 2, axis=1)
  told = evaluate.paired_bootstrap(np.zeros((400, 2)), after_PxG, seed=1)
  margin = 1.96 * gain_P.std() / 20
  assert told['mean'] == pytest.approx(gain_P.mean())
  assert told['low'] == pytest.approx(gain_P.mean() - margin, abs=0.02)
  assert told['high'] == pytest.approx(gain_P.mean() + margin, abs=0.02)


@pytest.mark.filterwarnings('error')
def test_a_brief_that_no_reply_of_is_known_does_not_count() -> None:
  nan = np.nan
  before_PxG = np.array([[nan, nan], [1.0, nan], [1.0, 2.0]])
  after_PxG = np.array([[1.0, 1.0], [nan, 4.0], [nan, nan]])
  told = evaluate.paired_bootstrap(before_PxG, after_PxG, seed=0)
  assert told == {'mean': 3.0, 'low': 3.0, 'high': 3.0}
  told = evaluate.paired_bootstrap(before_PxG[:1], after_PxG[:1], seed=0)
  assert [*told] == ['mean', 'low', 'high']
  assert np.isnan([*told.values()]).all()


def test_a_demand_without_a_verdict_is_neither_kept_nor_broken() -> None:
  brief = demanding('x', {'punctuation:no_comma': {}}, 'Be wet.')

  def loosely(text: str, demand: bool | None) -> float:
    reply = {'text': text, 'follow': [',' not in text, demand]}
    return answers.follows_loosely(brief, reply)

  assert [loosely('a', x) for x in (True, False)] == [1, 0]
  assert loosely('a, b', None) == 0
  assert np.isnan(loosely('a', None))
