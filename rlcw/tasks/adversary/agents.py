"""Agents of the adversarial game, and the budget of their calls.

  generator   writes a reply with a planted flaw, by the construction strategy
  detector    judges replies, by the judging strategy
  reflector   explains the detector's errors on labelled replies
  optimiser   rewrites either strategy, from notes

The detector is a judge (`rewards.judge`); each of the others is a prompt
template, `data/assets/prompts/ROLE_LANGUAGE.md`, whose answer is JSON that fits
a schema.

Letters: B replies in a batch.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic

from rlcw.data.characters import blank
from rlcw.evaluation.labelled import Labelled
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.questions import Judge, Prompt, Question, Verdicts
from rlcw.rewards.judge.remote import JSONJudge
from rlcw.sampling.outage import NoAnswers, Trouble, describe, trouble_of
from rlcw.sampling.prompts import (
  Ask,
  Asking,
  Counts,
  Form,
  Schema,
  ask_json,
  keyed,
  quote,
  template,
)
from rlcw.sampling.secret import PROCESS
from rlcw.tasks.adversary import strategy
from rlcw.tasks.adversary.strategy import Strategy

_NOTE = 500  # characters of a note in a prompt; the rest is cut


def _shown(text: str) -> str:
  """Checks that a reader sees something of a text."""
  if blank(text):
    raise ValueError('expected a text')
  return text.strip()


# A blank text counts as no answer, and is asked for again.
Text = Annotated[
  str, pydantic.Field(min_length=1), pydantic.AfterValidator(_shown)
]


class Generation(Form):
  """Answer of the generator: a reply, and a description of its flaw."""

  response: Text
  flaw: Text


class Reflection(Form):
  """Answer of the reflector: the cause of an error, and what prevents it."""

  cause: Text
  # Asked for "a change", small models rewrite the reply.
  principle: Text


class AdversarialReply(NamedTuple):
  """A reply to a prompt with a flaw planted in it."""

  prompt: str
  response: str
  flaw: str


# --- Calls ------------------------------------------------------------------


class BudgetExceeded(Exception):
  """Raised before calls that would exceed the budget."""


@dataclasses.dataclass
class Budget:
  """Counts the prompts put to models, repeated ones included.

  Attributes:
    limit: largest number of calls.
    calls: number so far.
  """

  limit: int
  calls: int = 0

  def spend(self, calls: int) -> None:
    """Counts calls that are about to be made.

    Raises:
      BudgetExceeded: fewer are left; none of them is counted.
    """
    if self.calls + calls > self.limit:
      raise BudgetExceeded
    self.calls += calls

  def guard(self, ask: Ask) -> Ask:
    """Wraps `ask` so that its prompts count against the budget."""

    def guarded(prompts: Sequence[str]) -> Sequence[str | None]:
      self.spend(len(prompts))
      return ask(prompts)

    return guarded

  def guard_asking(self, asking: Asking) -> Asking:
    """Wraps `asking` so that its prompts count against the budget."""
    return lambda schema: self.guard(asking(schema))

  def guard_judge(self, judge: Judge) -> Judge:
    """Wraps a judge so that its prompts count against the budget."""
    # A JSON judge asks again for an invalid answer and votes several times, so
    # its calls are counted, not the questions.
    if isinstance(judge, JSONJudge):
      judge.ask = self.guard(judge.ask)
      return judge
    return _CountedJudge(judge, self)


class _CountedJudge(NamedTuple):
  """A judge that makes one call per prompt, counted by a budget."""

  judge: Judge
  budget: Budget

  def usage(self) -> dict[str, float]:
    """The judge's own counts."""
    return self.judge.usage()

  def trouble(self) -> Trouble:
    """The judge's own trouble."""
    return trouble_of(self.judge)

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    self.budget.spend(sum(map(len, prompts)))
    return self.judge(question, prompts)


# --- Agents -----------------------------------------------------------------


@dataclasses.dataclass
class Agents:
  """The four roles: each fills a prompt template and parses the answer.

  Attributes:
    asking: makes, for a schema, the function from prompts to replies of the
      generator, the reflector and the optimiser.
    judge: is the detector.
    question: the detector's, in a language; each call sets its principles.
    counts: questions, and of these `repaired` and `unanswered`.
    secret: of the questions' ids (`secret.load`).
    model_trouble: returns the last error of the model behind `asking`.
    answered: number of answers and verdicts so far.
  """

  asking: Asking
  judge: Judge
  question: Question
  counts: Counts = dataclasses.field(default_factory=Counts)
  secret: bytes = PROCESS
  model_trouble: Callable[[], Trouble] = Trouble
  answered: int = 0

  def trouble(self) -> Trouble:
    """Returns the last reasons for missing answers and verdicts."""
    models = self.model_trouble() | trouble_of(self.judge)
    return models | self.counts.trouble()

  @contextlib.contextmanager
  def answering(self, subject: str) -> Iterator[None]:
    """Expects at least one answer or verdict in its context.

    Args:
      subject: of the error.

    Raises:
      NoAnswers: there was none.
    """
    before = self.answered
    yield
    if self.answered == before:
      raise NoAnswers(describe(f'adversary: {subject}', 1, self.trouble()))

  def generate(
    self, construction: Strategy, prompts: Sequence[str]
  ) -> list[AdversarialReply]:
    """Writes a flawed reply to each prompt; drops those without an answer.

    Raises:
      BudgetExceeded: as every method of this class.
    """
    answers = self._answers(
      'generator',
      Generation,
      [{'rules': construction.text, 'brief': p} for p in prompts],
    )
    return [
      AdversarialReply(prompt, answer['response'], answer['flaw'])
      # Answers are in the order of the prompts, None where both tries failed.
      for prompt, answer in zip(prompts, answers, strict=True)
      if answer
    ]

  def detect(
    self, judging: Strategy, replies: Sequence[AdversarialReply | Labelled]
  ) -> tuple[np.ndarray, list[str]]:
    """Judges replies by a strategy.

    Returns:
      The probability `[B]` that each reply is Good, NaN without an answer, and
      the reasons, blank where none is given.
    """
    if not replies:
      return np.zeros(0), []
    # Every reply is a group of its own: [B, 1].
    verdicts = questions.judge(
      self.judge,
      self.question._replace(principles=judging.text),
      [each.prompt for each in replies],
      [[each.response] for each in replies],
    )
    self.answered += int(verdicts.valid.sum())
    return verdicts.first[:, 0], [reason for (reason,) in verdicts.reason]

  def reflect(
    self,
    judging: Strategy,
    wrong: Sequence[Labelled],
    reasons: Sequence[str],
  ) -> list[str]:
    """Suggests principles, from wrong verdicts.

    Args:
      judging: the principles.
      wrong: replies whose label is not the verdict.
      reasons: of the verdicts.

    Returns:
      The suggestions; fewer than replies if an answer is missing.
    """
    good, bad = self.question.labels
    answers = self._answers(
      'reflector',
      Reflection,
      [
        {
          'principles': judging.text,
          'brief': each.prompt,
          'reply': self._quote(each.response, self.question.limit),
          # A wrong verdict is the opposite of the label.
          'verdict': bad if each.label else good,
          'label': good if each.label else bad,
          'reason': self._quote(reason, _NOTE),
        }
        for each, reason in zip(wrong, reasons, strict=True)
      ],
    )
    return [answer['principle'] for answer in answers if answer]

  def optimise(
    self, kind: str, old: Strategy, notes: Sequence[str]
  ) -> Strategy | None:
    """Rewrites a strategy.

    Args:
      kind: `construction` or `judging`, which selects the template.
      old: the strategy.
      notes: observations to take into account.

    Returns:
      The new strategy, or None if the answer is no valid list of rules.
    """
    texts = {
      'rules': '\n'.join(f'- {rule}' for rule in old.rules),
      # Notes come from models that read untrusted replies: quoted and cut.
      'notes': '\n\n'.join(self._quote(note, _NOTE) for note in notes),
      'most': str(strategy.MOST),
      'longest': str(strategy.LONGEST),
    }
    # One question, whose schema bounds number and length of rules.  The heading
    # is kept: the optimiser neither sees nor changes it.
    (answer,) = self._answers(
      f'optimiser_{kind}', strategy.RulesAnswer, [texts]
    )
    return old._replace(rules=tuple(answer['rules'])) if answer else None

  def _quote(self, text: str, limit: int) -> str:
    """Quotes untrusted text, every line behind `> `."""
    return quote(text, self.question.language, limit)

  def _answers(
    self,
    role: str,
    schema: Schema,
    texts: Sequence[Mapping[str, str]],
  ) -> list[dict[str, Any] | None]:
    """Fills a role's template with each of the texts, and asks for JSON.

    Returns:
      For each the fields of the schema, or None without a valid answer.
    """
    # Without questions no template is needed, and no call is counted.
    if not texts:
      return []
    pieces = template(f'{role}_{self.question.language}')
    answers = ask_json(
      self.asking,
      [keyed(pieces, each, self.secret) for each in texts],
      schema,
      self.question.language,
      self.counts,
    )
    self.answered += len(answers) - answers.count(None)
    return answers
