"""The numbers of an evaluation, by hand."""

import numpy as np
from stub_judges import demanding

from rlcw.evaluation import heldout


def test_a_demand_without_a_verdict_is_neither_kept_nor_broken() -> None:
  brief = demanding('x', {'punctuation:no_comma': {}}, 'Be wet.')

  def loosely(text: str, demand: bool | None) -> float:
    reply = {'text': text, 'follow': [',' not in text, demand]}
    return heldout.follows_loosely(brief, reply)

  assert [loosely('a', x) for x in (True, False)] == [1, 0]
  assert loosely('a, b', None) == 0
  assert np.isnan(loosely('a', None))
