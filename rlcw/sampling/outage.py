"""Ends a run whose models answer nothing, and says why.

A single failed request leaves one reply without a score.  If all fail, because
a server is down, refuses the key, or answers in another form, a run would go on
without learning anything: it ends instead, and resumes once that is mended.
"""

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from rlcw.runtime import processes

MOST = 3  # rounds in a row without any answer


class Trouble(NamedTuple):
  """The last reason why a model gave no answer."""

  text: str = ''  # without control characters; '' if nothing is known
  lasting: bool = False  # trying again cannot help: status 401, 404, …
  refused: bool = False  # another prompt may be answered: status 400, …

  def __or__(self, other: 'Trouble') -> 'Trouble':  # pyright: ignore
    """Joins the troubles of two models."""
    texts = filter(None, dict.fromkeys([self.text, other.text]))
    return Trouble(
      '; '.join(texts),
      self.lasting or other.lasting,
      self.refused or other.refused,
    )


def trouble_of(*models: Any) -> Trouble:
  """Returns the troubles of models and judges, by their methods `trouble`.

  A model of a user's own need not have the method.
  """
  found = Trouble()
  for model in models:
    found |= getattr(model, 'trouble', Trouble)()
  return found


def trouble_of_all(*models: Any) -> Trouble:
  """`trouble_of` models in all processes, which must call it together.

  Any process may know the reason, and all must decide alike.
  """
  found = itertools.starmap(Trouble, processes.gather(trouble_of(*models)))
  return functools.reduce(operator.or_, found)


class NoAnswers(ValueError):
  """Raised when no question has been answered for some rounds."""


class Patience:
  """Counts rounds in a row without an answer.

  Args:
    subject: of the error, such as `judge: no reply got a verdict`.
  """

  def __init__(self, subject: str):
    self.subject, self.rounds = subject, 0

  def see(self, answered: bool, trouble: Callable[[], Trouble]) -> None:
    """Takes one round into account.

    Args:
      answered: whether there was any answer in it.
      trouble: returns the cause, if there was none.

    Raises:
      NoAnswers: it was the `MOST`-th round in a row without any, or the first
        if trying again cannot help.
    """
    self.rounds = 0 if answered else self.rounds + 1
    if answered:
      return
    found = trouble()
    if found.lasting or self.rounds >= MOST:
      raise NoAnswers(describe(self.subject, self.rounds, found))


def refuse_silence(subject: str, model: Any) -> None:
  """Ends a task whose model has answered none of its questions so far.

  For tasks without rounds.  All processes must call it together.

  Args:
    subject: of the error, as of `Patience`.
    model: has methods `usage`, for `questions` and `unanswered`, and perhaps
      `trouble`.

  Raises:
    NoAnswers: there were questions, and no answer.
  """
  names = 'questions', 'unanswered'
  counts = processes.gather([model.usage().get(name, 0) for name in names])
  asked, unanswered = map(sum, zip(*counts, strict=True))
  if asked == unanswered > 0:
    raise NoAnswers(describe(subject, 1, trouble_of_all(model)))


def describe(subject: str, rounds: int, trouble: Trouble) -> str:
  """Returns the message of `NoAnswers`."""
  cause = trouble.text or 'no cause is known'
  times = f' {rounds} times in a row' if rounds > 1 else ''
  return (
    f'{subject}{times}: {cause}. Once this is mended, and a cache of such '
    'answers deleted, the same command resumes here.'
  )
