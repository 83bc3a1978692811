"""A debate of agents about a reply: merits, faults, a verdict and an audit.

Each agent is a prompt template, `data/assets/prompts/curate_ROLE_LANGUAGE.md`,
whose answer is JSON that fits a schema:

  positive   an advocate names the reply's merits
  negative   a critic names its faults
  judge      reads both, and gives a verdict: 1 (good in every respect) or 0
  reflect    audits the verdict, and may overturn it
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import pydantic

from rlcw.data.characters import blank
from rlcw.sampling import prompts
from rlcw.sampling import secret as secret_lib
from rlcw.sampling.prompts import Asking, Counts, Form, Keyed

Record = dict[str, Any]


def _named(points: dict[str, str]) -> dict[str, str]:
  """Leaves out points whose name a reader cannot see."""
  return {name: why for name, why in points.items() if not blank(name)}


class Points(Form):
  """Merits or faults by name, each with its reason."""

  points: Annotated[dict[str, str], pydantic.AfterValidator(_named)]


class Verdict(Form):
  """Verdict on a candidate: 1 if it is good in every respect, else 0."""

  # First, so that a model argues before it decides.
  reason: str
  judge: Annotated[
    int,
    pydantic.Field(ge=0, le=1),
    # A grammar for constrained decoding can express an enum, but not a range.
    pydantic.WithJsonSchema({'enum': [0, 1]}),
  ]


class Audit(Form):
  """Audit of a verdict: whether it is wrong, and why."""

  reason: str
  overturn: bool


SCHEMAS = {
  'positive': Points,
  'negative': Points,
  'judge': Verdict,
  'reflect': Audit,
}


class Case(NamedTuple):
  """A candidate under debate, with the answers so far."""

  brief: str
  # The key 'reply', and a key for each role with its answer, or None without
  # one.  It becomes a candidate of the query's line in `trace.jsonl`.
  record: Record


class Debate:
  """Runs all agents on batches of cases.

  Args:
    asking: makes, for a schema, the function from prompts to replies.
    language: of the prompts.
    limit: longest quotation in characters, of a reply or another agent's text;
      the rest is cut.
    secret: of the questions' ids (`secret.load`).
  """

  def __init__(
    self,
    asking: Asking,
    language: str,
    limit: int,
    secret: bytes = secret_lib.PROCESS,
  ):
    self.asking, self.language, self.limit = asking, language, limit
    self.secret = secret
    self.counts = Counts(questions=0, repaired=0, unanswered=0, shortened=0)

  def __call__(self, cases: Sequence[Case]) -> None:
    """Adds every agent's answer to the cases' records.

    A case for which an agent gives no valid answer is dropped from the later
    stages, and stays without a label.
    """
    self.counts['shortened'] += sum(
      prompts.count_hidden(case.record['reply'], self.limit) > 0
      for case in cases
    )
    self.ask_roles(('positive', 'negative'), cases)
    # The judge needs both sides: with one alone it would be biased.
    cases = [c for c in cases if c.record['positive'] and c.record['negative']]
    self.ask_roles(('judge',), cases)
    cases = [case for case in cases if case.record['judge']]
    self.ask_roles(('reflect',), cases)

  def ask_roles(self, roles: Sequence[str], cases: Sequence[Case]) -> None:
    """Asks every role about every case in one batch.

    The roles share a schema.
    """
    asked = [(role, case) for role in roles for case in cases]
    answers = prompts.ask_json(
      self.asking,
      [self.question(role, case) for role, case in asked],
      SCHEMAS[roles[0]],
      self.language,
      self.counts,
    )
    for (role, case), answer in zip(asked, answers, strict=True):
      case.record[role] = answer

  def question(self, role: str, case: Case) -> Keyed:
    """The question to a role, with the texts under examination quoted."""
    answers = {role: case.record.get(role) or {} for role in SCHEMAS}
    verdict = answers['judge']
    # Agents' answers may repeat instructions from the reply, so they are as
    # untrusted as the reply itself: all are quoted line by line.
    untrusted = {
      'reply': case.record['reply'],
      'merits': _listed(answers['positive']),
      'faults': _listed(answers['negative']),
      'reason': verdict.get('reason', ''),
    }
    slots = {
      'brief': prompts.visible(case.brief).strip(),
      'verdict': str(verdict.get('judge')),
    }
    for name, text in untrusted.items():
      slots[name] = prompts.quote(text, self.language, self.limit)
    pieces = prompts.template(f'curate_{role}_{self.language}')
    return prompts.keyed(pieces, slots, self.secret)


def _listed(answer: Mapping[str, Any]) -> str:
  """An answer's points, one per line."""
  points = answer.get('points', {})
  return '\n'.join(f'{name}: {why}' for name, why in points.items()) or '-'


def overturned(candidate: Record) -> bool:
  """Returns whether the audit overturns the verdict with a reason."""
  audit = candidate.get('reflect')
  return bool(audit and audit['overturn'] and not blank(audit['reason']))


def label(candidate: Record) -> int | None:
  """Label of a candidate: 1 for good, 0 for bad, None without a full debate."""
  # The audit comes last: with its answer, all others are there too.
  if not candidate.get('reflect'):
    return None
  # Exclusive or: an overturned 1 is 0, and an overturned 0 is 1.
  return candidate['judge']['judge'] ^ overturned(candidate)
