"""A run's judge, and its questions about replies to briefs.

Letters: P briefs, G replies to each.
"""

from collections.abc import Sequence

import numpy as np

from rlcw import Config
from rlcw.rewards.briefs import Brief, by_name
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Judge, Question, Texts
from rlcw.sampling.outage import Trouble, trouble_of

# Verdicts [P][G] on each rule or criterion of a brief; None without an answer.
Verdicts = list[list[list[bool | None]]]


class ReplyJudge:
  """Asks the judge of a `grpo` run about replies.

  Args:
    model: the judge; None if the run has none.
    config: of the run, for the questions' language, principles and lengths.
  """

  def __init__(self, model: Judge | None, config: Config):
    self.model, self.config = model, config

  def usage(self) -> dict[str, float]:
    """The judge's counters so far; empty without a judge."""
    return dict(self.model.usage()) if self.model else {}

  def trouble(self) -> Trouble:
    """The reason why the judge did not answer."""
    return trouble_of(self.model)

  def follow(self, briefs: Sequence[Brief], text: list[list[str]]) -> Verdicts:
    """Verdicts on the briefs' rules, and by the judge on their demands.

    Raises:
      ValueError: a brief makes a demand, and there is no judge.
    """
    question = self._question('demand')
    return questions.follow(self.model, question, briefs, text)

  def good(self, briefs: Sequence[Brief], text: Texts) -> np.ndarray:
    """Probability `[P, G]` that a reply is Good by the principles."""
    assert self.model is not None  # ensured by `scoring.check`
    prompts = [brief.text for brief in briefs]
    question = self._question('judge')
    return questions.judge(self.model, question, prompts, text).first

  def prefer(
    self, briefs: Sequence[Brief], ours: Sequence[str], theirs: Sequence[str]
  ) -> np.ndarray:
    """Probabilities `[N, 2]` that `ours` is better (`questions.prefer`)."""
    assert self.model is not None  # ensured by `scoring.check`
    prompts = [brief.text for brief in briefs]
    question = self._question('compare')
    return questions.prefer(self.model, question, prompts, ours, theirs)

  def meet(self, briefs: Sequence[Brief], text: Texts) -> Verdicts:
    """Verdicts on the criteria of the briefs' rubrics."""
    question = self._question('criterion')
    return questions.meet(self.model, question, briefs, text)

  def check_context(self, briefs: Sequence[Brief]) -> None:
    """Raises ValueError for a brief that a judge here cannot read."""
    if not isinstance(self.model, LogprobJudge):
      return
    question = self._question('judge')
    check = self.model.checker(question)
    for name, brief in by_name(briefs, briefs).items():
      try:
        check([question.about(brief.text, '')])
      except ValueError as error:
        raise ValueError(f'{name}: {error}') from None

  def _question(self, name: str) -> Question:
    return factory.make_question(
      name, self.config.judge, self.config.max_new_tokens
    )
