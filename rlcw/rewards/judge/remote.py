"""A judge that asks any text model for its verdicts in JSON.

Letters: P briefs, G replies to each, V votes on each.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlcw.rewards.judge.questions import (
  Prompt,
  Question,
  Verdicts,
  note_shortened,
)
from rlcw.sampling import prompts as prompts_lib
from rlcw.sampling import secret as secret_lib
from rlcw.sampling.outage import Trouble
from rlcw.sampling.prompts import Ask, Counts, ask_twice, keyed, template


class Form(prompts_lib.Form):
  """Schema of an answer, for endpoints that support structured output."""

  verdict: str
  reason: str


class Answer(NamedTuple):
  """A verdict with its reason."""

  first: bool  # true: the first label
  reason: str


def parse(answer: str, labels: Sequence[str], key: str) -> Answer:
  """Parses a model's answer.

  Args:
    answer: the model's text: thoughts, prose and a code fence may stand around
      the JSON object.
    labels: the two possible verdicts.
    key: the id that the answer must repeat.  No other object counts, because
      the text may quote the reply.

  Raises:
    ValueError: no object has the id; a verdict is none of the labels; or
      several differ.
  """
  found = prompts_lib.objects(answer, key)
  verdicts = [record.get('verdict') for record in found]
  for verdict in verdicts:
    if verdict not in labels:
      raise ValueError(f'verdict={verdict!r}; expected one of {labels}')
  if len({*verdicts}) > 1:
    raise ValueError(f'{len(verdicts)} verdicts differ; expected one')
  reason = found[0].get('reason')
  return Answer(verdicts[0] == labels[0], '' if reason is None else str(reason))


class JSONJudge:
  """Asks for verdicts in JSON, once more after an invalid answer, and votes.

  Each prompt has an id, a keyed hash of its whole text, which the answer must
  repeat.  So neither a verdict that a reply spells out nor an answer to another
  prompt is accepted.

  Args:
    ask: maps prompts to replies in order, None for a failed request.  A prompt
      that occurs several times gets as many samples.
    votes: samples per prompt; the probability is the first label's share of
      the valid ones.
    meter: returns the endpoint's counters and cost so far.
    trouble: returns the endpoint's last error.
    secret: of the ids (`secret.load`); by default one of this process.

  Raises:
    ValueError: `votes` is below 1.
  """

  def __init__(
    self,
    ask: Ask,
    votes: int = 1,
    meter: Callable[[], Mapping[str, float]] = dict,
    trouble: Callable[[], Trouble] = Trouble,
    secret: bytes = secret_lib.PROCESS,
  ):
    if votes < 1:
      raise ValueError(f'judge.votes={votes}: expected an integer >= 1')
    self.ask, self.votes, self.meter = ask, votes, meter
    self.secret, self._trouble = secret, trouble
    self.counts = Counts(questions=0, repaired=0, unanswered=0, shortened=0)

  def usage(self) -> dict[str, float]:
    """Counters of questions and of shortened replies, and the meter's."""
    return {**self.counts, **self.meter()}

  def trouble(self) -> Trouble:
    """Returns the endpoint's last error, and an answer that was refused."""
    return self._trouble() | self.counts.trouble()

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    """Computes verdicts `[P, G]`, with reasons, for prompts `[P][G]`."""
    if not prompts:
      return Verdicts(np.zeros((0, 0)), [])
    note_shortened(self.counts, prompts)
    texts = [prompt.text for group in prompts for prompt in group]
    answers = self._answers(
      question, [text for text in texts for _ in range(self.votes)]
    )
    shape = (len(prompts), len(prompts[0]), self.votes)
    # NaN marks a vote without a valid answer: it counts for neither label.
    vote_PxGxV = np.array(
      [np.nan if answer is None else answer[0] for answer in answers], float
    ).reshape(shape)
    count_PxG = np.isfinite(vote_PxGxV).sum(2)
    # A NaN divisor gives NaN without votes, and no warning, unlike 0 / 0.
    share_PxG = np.nansum(vote_PxGxV, axis=2) / np.where(
      count_PxG, count_PxG, np.nan
    )
    remaining = iter(answers)
    reason = [
      [
        _reason([*itertools.islice(remaining, self.votes)], share > 0.5)
        for share in share_G
      ]
      for share_G in share_PxG
    ]
    return Verdicts(share_PxG, reason)

  def _answers(
    self, question: Question, texts: Sequence[str]
  ) -> list[Answer | None]:
    """Answers to texts, None if the model gave no valid one in two tries."""
    # A reply cannot contain its own id, since the id hashes the reply too.  And
    # unlike a random id it is the same for a resumed run: answers are cached.
    form = template(f'json_{question.language}')
    verdicts = {'verdicts': '" or "'.join(question.labels)}
    asked = [
      keyed([text + '\n\n', *form], verdicts, self.secret) for text in texts
    ]
    return ask_twice(
      self.ask,
      [each.prompt for each in asked],
      lambda reply, index: parse(reply, question.labels, asked[index].id),
      question.language,
      self.counts,
    )


def _reason(answers: Sequence[Answer | None], first: bool) -> str:
  """Reason of the first vote that agrees with the majority; '' if none has."""
  return next((a.reason for a in answers if a and a.first == first), '')
