"""The end of a GRPO run whose scorers have stopped answering."""

import functools
from typing import Any, NamedTuple

from rlcw import train
from rlcw.rewards.scoring import Scorer
from rlcw.sampling.outage import NoAnswers, Patience, trouble_of_all


class Outages(NamedTuple):
  """Counts of steps in a row in which scorers answered nothing."""

  scores: Patience
  judge: Patience  # of the steps in which it was asked

  @classmethod
  def start(cls) -> 'Outages':
    """No steps so far."""
    return cls(
      Patience('no reply of a step got a score'),
      Patience('the judge answered no question of a step'),
    )


def end_in_outage(
  outages: Outages, stats: dict[str, Any], scorer: Scorer
) -> None:
  """Ends a run whose scorers have answered nothing for some steps.

  Args:
    outages: of the run.
    stats: of the step (`logs.gather_stats`).
    scorer: knows the reason.

  Raises:
    train.Ended: in all processes.
  """
  trouble = functools.partial(trouble_of_all, scorer)
  asked = stats['scoring'].get('judge_questions', 0)
  unanswered = stats['scoring'].get('judge_unanswered', 0)
  try:
    outages.scores.see(bool(stats['valid'].any()), trouble)
    if asked:
      # Some replies have a score without the judge.  Its few questions of one
      # step may all be refused for their content, with status 403.
      outages.judge.see(
        asked > unanswered, lambda: trouble()._replace(lasting=False)
      )
  except NoAnswers as error:
    raise train.Ended(str(error)) from None
