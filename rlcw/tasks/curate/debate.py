"""What agents find of a reply: its merits, its faults, a verdict, an audit.

Each agent is a prompt, `prompts/curate_ROLE_LANGUAGE.md`, and answers in JSON.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import pydantic

from rlcw.sampling import prompts
from rlcw.sampling.prompts import Asking

Record = dict[str, Any]


class Points(pydantic.BaseModel):
  """Merits or faults, and the reason of each."""

  points: dict[str, str]


class Verdict(pydantic.BaseModel):
  """Is a candidate good in every respect?"""

  reason: str
  judge: Annotated[
    int,
    pydantic.Field(ge=0, le=1),
    pydantic.WithJsonSchema({'enum': [0, 1]}),
  ]


class Audit(pydantic.BaseModel):
  """Is a verdict wrong?"""

  reason: str
  overturn: bool


SCHEMAS = {
  'positive': Points,
  'negative': Points,
  'judge': Verdict,
  'reflect': Audit,
}


class Case(NamedTuple):
  """A candidate under debate."""

  brief: str
  found: Record  # the reply, and by role what each agent answered


class Debate:
  """Puts replies through it.

  Args:
    asking: prompts to the agents' answers, by a schema.
    language: of the prompts.
    limit: how many characters of a reply, or of what was said, are shown.
  """

  def __init__(self, asking: Asking, language: str, limit: int):
    self.asking, self.language, self.limit = asking, language, limit
    self.counts = Counter(questions=0, repaired=0, unanswered=0)

  def __call__(self, cases: Sequence[Case]) -> None:
    """Adds what each agent finds; after one without an answer none is asked."""
    self.put(('positive', 'negative'), cases)
    cases = [c for c in cases if c.found['positive'] and c.found['negative']]
    self.put(('judge',), cases)
    cases = [case for case in cases if case.found['judge']]
    self.put(('reflect',), cases)

  def put(self, roles: Sequence[str], cases: Sequence[Case]) -> None:
    """Puts every case to every role in one batch; they share a schema."""
    asked = [(role, case) for role in roles for case in cases]
    answers = prompts.ask_json(
      self.asking,
      [self.question(role, case) for role, case in asked],
      SCHEMAS[roles[0]],
      self.language,
      self.counts,
    )
    for (role, case), answer in zip(asked, answers, strict=True):
      case.found[role] = answer

  def question(self, role: str, case: Case) -> str:
    """The prompt of a role; what it is to examine is quoted."""
    found = {role: case.found.get(role) or {} for role in SCHEMAS}
    verdict = found['judge']
    untrusted = {
      'reply': case.found['reply'],
      'merits': _listed(found['positive']),
      'faults': _listed(found['negative']),
      'reason': verdict.get('reason', ''),
    }
    slots = {
      'brief': prompts.visible(case.brief).strip(),
      'verdict': str(verdict.get('judge')),
    }
    for name, text in untrusted.items():
      slots[name] = prompts.quote(text, self.language, self.limit)
    return prompts.fill(
      prompts.template(f'curate_{role}_{self.language}'), slots
    )


def _listed(answer: Mapping[str, Any]) -> str:
  points = answer.get('points', {})
  return '\n'.join(f'{name}: {why}' for name, why in points.items()) or '-'


def overturned(candidate: Record) -> bool:
  """Whether the audit overturns the verdict, and says why."""
  audit = candidate.get('reflect')
  return bool(audit and audit['overturn'] and audit['reason'].strip())


def label(candidate: Record) -> int | None:
  """1 if it is good, 0 if not, None where an agent had no answer."""
  if not candidate.get('reflect'):
    return None
  return candidate['judge']['judge'] ^ overturned(candidate)
