"""Who plays in the adversarial game, and how many calls they may make.

Letters: B replies of a batch.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic

from rlcw.rewards.judge import questions
from rlcw.rewards.judge.questions import Judge, Prompt, Question, Verdicts
from rlcw.rewards.judge.remote import JSONJudge
from rlcw.sampling.prompts import (
  Ask,
  Asking,
  Schema,
  ask_json,
  fill,
  quote,
  template,
)
from rlcw.tasks.adversary import strategy
from rlcw.tasks.adversary.labelled import Labelled
from rlcw.tasks.adversary.strategy import Strategy

_NOTE = 500  # characters of an observation that is shown

Text = Annotated[
  str, pydantic.StringConstraints(strip_whitespace=True, min_length=1)
]


class Generation(pydantic.BaseModel):
  """What the generator answers."""

  response: Text
  flaw: Text


class Reflection(pydantic.BaseModel):
  """What the reflector answers."""

  cause: Text
  change: Text


class AdversarialReply(NamedTuple):
  """A reply with a flaw planted in it."""

  prompt: str
  response: str
  flaw: str


# --- Calls ------------------------------------------------------------------


class BudgetExceeded(Exception):
  """The next call would be one too many."""


@dataclasses.dataclass
class Budget:
  """Counts prompts put to models, those put again included."""

  most: int
  calls: int = 0

  def spend(self, calls: int) -> None:
    """Raises Spent if there are not as many left."""
    if self.calls + calls > self.most:
      raise BudgetExceeded
    self.calls += calls

  def guard(self, ask: Ask) -> Ask:
    """The same, within the budget."""

    def guarded(prompts: Sequence[str]) -> Sequence[str | None]:
      self.spend(len(prompts))
      return ask(prompts)

    return guarded

  def guard_asking(self, asking: Asking) -> Asking:
    """The same, within the budget."""
    return lambda schema: self.guard(asking(schema))

  def guard_panel(self, panel: Judge) -> Judge:
    """The same; one that asks may ask again, so that its calls are counted."""
    if isinstance(panel, JSONJudge):
      panel.ask = self.guard(panel.ask)
      return panel
    return _Counted(panel, self)


class _Counted(NamedTuple):
  panel: Judge
  budget: Budget

  def usage(self) -> dict[str, float]:
    return self.panel.usage()

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    self.budget.spend(sum(map(len, prompts)))
    return self.panel(question, prompts)


# --- Agents -----------------------------------------------------------------


@dataclasses.dataclass
class Agents:
  """Four roles; each is a prompt, and what is read from the reply.

  Args:
    asking: answers generator, reflector and optimiser, by a schema.
    panel: answers the detector.
    question: the detector's, in a language; by which principles is said later.
  """

  asking: Asking
  panel: Judge
  question: Question
  counts: Counter[str] = dataclasses.field(default_factory=Counter)

  def generate(
    self, construction: Strategy, prompts: Sequence[str]
  ) -> list[AdversarialReply]:
    """Flawed replies; fewer than prompts where an answer was none."""
    answers = self._answers(
      'generator',
      Generation,
      [{'rules': construction.text, 'brief': p} for p in prompts],
    )
    return [
      AdversarialReply(prompt, answer['response'], answer['flaw'])
      for prompt, answer in zip(prompts, answers, strict=True)
      if answer
    ]

  def detect(
    self, judging: Strategy, replies: Sequence[AdversarialReply | Labelled]
  ) -> tuple[np.ndarray, list[str]]:
    """How probably each is Good `[B]`, NaN where unknown; and reasons."""
    if not replies:
      return np.zeros(0), []
    found = questions.judge(
      self.panel,
      self.question._replace(principles=judging.text),
      [each.prompt for each in replies],
      [[each.response] for each in replies],
    )
    return found.first[:, 0], [reason for (reason,) in found.reason]

  def reflect(
    self,
    judging: Strategy,
    wrong: Sequence[Labelled],
    reasons: Sequence[str],
  ) -> list[str]:
    """What to change in the principles, for verdicts that were not right."""
    good, bad = self.question.labels
    answers = self._answers(
      'reflector',
      Reflection,
      [
        {
          'principles': judging.text,
          'brief': each.prompt,
          'reply': self._quote(each.response, self.question.limit),
          'verdict': bad if each.label else good,
          'label': good if each.label else bad,
          'reason': self._quote(reason, _NOTE),
        }
        for each, reason in zip(wrong, reasons, strict=True)
      ],
    )
    return [answer['change'] for answer in answers if answer]

  def optimise(
    self, kind: str, old: Strategy, notes: Sequence[str]
  ) -> Strategy | None:
    """The strategy rewritten; None where the answer was no legal one."""
    texts = {
      'rules': '\n'.join(f'- {rule}' for rule in old.rules),
      'notes': '\n\n'.join(self._quote(note, _NOTE) for note in notes),
      'most': str(strategy.MOST),
      'longest': str(strategy.LONGEST),
    }
    (answer,) = self._answers(f'optimiser_{kind}', strategy.Rules, [texts])
    return old._replace(rules=tuple(answer['rules'])) if answer else None

  def _quote(self, text: str, limit: int) -> str:
    return quote(text, self.question.language, limit)

  def _answers(
    self,
    role: str,
    schema: Schema,
    texts: Sequence[Mapping[str, str]],
  ) -> list[dict[str, Any] | None]:
    """What a role answers to each of its questions, by a schema."""
    if not texts:
      return []
    pieces = template(f'{role}_{self.question.language}')
    return ask_json(
      self.asking,
      [fill(pieces, each) for each in texts],
      schema,
      self.question.language,
      self.counts,
    )
