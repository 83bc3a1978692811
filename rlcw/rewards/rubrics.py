"""Rubrics: weighted criteria of a brief, which a judge answers one by one.

A criterion of positive weight is a merit, one of negative weight a fault.  With
weights w_j, and m_j = 1 where a reply meets criterion j, else 0, its score is

    Σ_j w_j m_j / Σ_{w_j > 0} w_j

as in HealthBench (arXiv 2505.08775): 1 for all merits and no fault.  Faults can
make it negative.  It is not cut at 0, or the worst replies would count alike.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlcw.rewards.rules.text import LONGEST_TEXT, is_text


class Criterion(NamedTuple):
  """A statement that holds for a reply or does not, and its weight."""

  criterion: str
  weight: float  # not 0; negative for a fault


Rubric = tuple[Criterion, ...]


def parse(value: Any) -> Rubric:
  """Returns the rubric of a record's field.

  Args:
    value: a list of objects with `criterion` and `weight`; empty for none.

  Raises:
    ValueError: it is no such list, a criterion shows no text, a weight is not
      a finite number other than 0, or none is above 0.
  """
  if not isinstance(value, list):
    raise ValueError(
      f'rubric={value!r:.80}; expected a list of objects with criterion and '
      'weight'
    )
  rubric = tuple(_criterion(each, n) for n, each in enumerate(value, 1))
  # The score is relative to the sum of these.
  if rubric and not any(each.weight > 0 for each in rubric):
    raise ValueError('rubric: no weight is above 0; expected one or more')
  return rubric


def _criterion(value: Any, number: int) -> Criterion:
  place = f'rubric, criterion {number}'
  if not isinstance(value, dict):
    raise ValueError(
      f'{place}: {value!r:.80}; expected an object with criterion and weight'
    )
  text, weight = value.get('criterion'), value.get('weight')
  if not is_text(text):
    raise ValueError(
      f'{place}: criterion={text!r:.80}; expected non-blank text of at most '
      f'{LONGEST_TEXT} characters'
    )
  # A bool is a number too, and a mistake here.
  if (
    isinstance(weight, bool)
    or not isinstance(weight, int | float)
    or not 1e-6 <= abs(weight) <= 1e6
  ):
    raise ValueError(
      f'{place}: weight={weight!r:.80}; expected a number other than 0, '
      'negative for a fault, from 1e-06 to 1e+06 in size'
    )
  return Criterion(str(text), float(weight))


def record(rubric: Rubric) -> dict[str, Any]:
  """Returns the field of a record that `parse` reads; empty for no rubric."""
  return {'rubric': [each._asdict() for each in rubric]} if rubric else {}


def score(rubric: Rubric, met: Sequence[bool | None]) -> float:
  """Returns the score of a reply, by the formula of the module.

  Args:
    rubric: of the brief; without criteria the score is 0.
    met: whether the reply meets each of them; None where that is unknown.

  Returns:
    NaN if any is unknown.
  """
  if None in met:
    return math.nan
  most = sum(each.weight for each in rubric if each.weight > 0)
  got = sum(
    each.weight for each, is_met in zip(rubric, met, strict=True) if is_met
  )
  return got / most if rubric else 0.0


def scores(
  rubrics: Sequence[Rubric], met: Sequence[Sequence[Sequence[bool | None]]]
) -> np.ndarray:
  """Returns the scores `[P, G]` of replies; `met` is `[P][G][criteria]`."""
  return np.array(
    [
      [score(rubric, each) for each in group]
      for rubric, group in zip(rubrics, met, strict=True)
    ],
    np.float32,
  )
