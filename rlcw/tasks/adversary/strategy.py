"""Strategies, which are short lists of rules, and when one may be replaced.

A judging strategy is what a judge reads as its principles.  Its score is how
far the verdicts that it leads to agree with labels, and how many flawed replies
it sees through.

Letters: N labelled replies, F fakes: replies with a flaw planted in them.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic

from rlcw.evaluation import stats
from rlcw.rewards.judge import questions
from rlcw.sampling import prompts
from rlcw.tasks.adversary.labelled import Labelled

MOST = 10  # rules
LONGEST = 400  # characters of one
_ANSWERED = 0.5  # the least share of replies with verdicts to be compared by
_EQUAL = 1e-9  # differences that rounding makes
_NUMBER = re.compile(r'\d+\s*[.)、．]\s*')


def _tidy(rule: object) -> object:
  """A rule on one line, without the number that a model may have given it."""
  if not isinstance(rule, str):
    return rule
  line = ' '.join(prompts.visible(rule).split())
  return line[found.end() :] if (found := _NUMBER.match(line)) else line


Rule = Annotated[
  str,
  pydantic.BeforeValidator(_tidy),
  pydantic.StringConstraints(min_length=1, max_length=LONGEST),
]


class Rules(pydantic.BaseModel):
  """A list of rules that is legal: neither too many, nor blank, nor long."""

  rules: Annotated[list[Rule], pydantic.Field(min_length=1, max_length=MOST)]


class Strategy(NamedTuple):
  """Rules under a heading, as a file of principles has them."""

  heading: str
  rules: tuple[str, ...]

  @property
  def text(self) -> str:
    """The file's text."""
    lines = [f'{n}. {rule}' for n, rule in enumerate(self.rules, 1)]
    return '\n\n'.join(filter(None, [self.heading, '\n'.join(lines)]))


def read(name: str) -> Strategy:
  """A strategy from a file of numbered rules; `@NAME` is a shipped one.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file holds no numbered rule, or one that is not legal.
  """
  heading, rules = [], []
  for line in questions.read(name).splitlines():
    if _NUMBER.match(line):
      rules.append(line)
    elif rules:
      rules[-1] += ' ' + line
    else:
      heading.append(line)
  try:
    legal = Rules(rules=rules).rules
  except pydantic.ValidationError as error:
    faults = {'.'.join(map(str, e['loc'])): e['msg'] for e in error.errors()}
    raise ValueError(
      f'{name}: {faults}; legal: 1 to {MOST} lines "1. …", each of at most '
      f'{LONGEST} characters'
    ) from None
  return Strategy('\n'.join(heading).strip(), tuple(legal))


@dataclasses.dataclass
class State:
  """All that a round leaves to the next; as JSON, it is the save."""

  construction: Strategy
  judging: Strategy
  dev: list[float | None]  # how probably Good each dev reply is, by `judging`
  heldout: dict[str, Any]  # scores before the first round
  round: int = 0
  calls: int = 0
  stale: int = 0  # rounds since agreement last rose
  # notes that no change kept has heeded
  open: list[str] = dataclasses.field(default_factory=list)

  @classmethod
  def read(cls, file: Path) -> 'State':
    saved = json.loads(file.read_text('utf-8'))
    for name in ('construction', 'judging'):
      heading, rules = saved[name]
      saved[name] = Strategy(heading, tuple(rules))
    return cls(**saved)


class Reading(NamedTuple):
  """How probably Good a judge finds each reply; NaN where it cannot say."""

  labelled_N: np.ndarray
  fake_F: np.ndarray


def score(reading: Reading, labelled: list[Labelled]) -> dict[str, float]:
  """What verdicts are worth; NaN where there is nothing to measure it by.

  Args:
    reading: of the labelled replies and the fakes.
    labelled: N of them.

  Returns:
    `agreement`, the share of verdicts that are the label; `balanced`, the same
    as a mean over the two labels; `matched`, how often they part Good from Bad
    among replies of about the same length, by `agreement.right_at_length`;
    `comparable`, what `balanced` is among those replies; `auc`, how often a
    Good one is found likelier to be Good than a Bad one; `fakes`, the share of
    fakes that are found Bad.
  """
  known_N = np.isfinite(reading.labelled_N)
  verdict_N = reading.labelled_N[known_N] > 0.5
  label_N = np.array([each.label for each in labelled], bool)[known_N]
  length_N = np.array([len(each.response) for each in labelled])[known_N]
  right_N = verdict_N == label_N
  share_N = stats.right_at_length(verdict_N, label_N, length_N)
  has_N = np.isfinite(share_N)
  fake_F = reading.fake_F[np.isfinite(reading.fake_F)]
  return {
    'agreement': float(right_N.mean()) if len(right_N) else np.nan,
    'balanced': stats.balanced(right_N, label_N),
    'matched': stats.balanced(share_N[has_N], label_N[has_N]),
    'comparable': stats.balanced(right_N[has_N], label_N[has_N]),
    'auc': stats.auc(reading.labelled_N[known_N], label_N),
    'fakes': float((fake_F <= 0.5).mean()) if len(fake_F) else np.nan,
  }


def rejection_reason(
  new: Reading, old: Reading, labelled: list[Labelled]
) -> str:
  """Why a new judging strategy is not to replace the old; blank if it may.

  It may if no score falls, by the replies that both have a verdict on: so a
  judge that does not always answer loses nothing by chance.  Of a judge whose
  verdicts are all the same, `auc` still tells better from worse.  Nor may it
  gain by length.  Whatever verdicts a change puts right, `matched` rises at
  least half as far as `comparable`; if they follow length, it does not rise.
  """
  known = [np.isfinite(n + o) for n, o in zip(new, old, strict=True)]
  if np.concatenate(known).mean() < _ANSWERED:
    return 'too few verdicts to compare by'
  after, before = (
    score(Reading(*map(np.where, known, each, [np.nan] * 2)), labelled)
    for each in (new, old)
  )
  gain = {name: after[name] - before[name] for name in after}
  fallen = [
    f'{name} {before[name]:.3f} to {after[name]:.3f}'
    for name in ('agreement', 'balanced', 'matched', 'auc', 'fakes')
    if gain[name] < -_EQUAL
  ]
  if gain['matched'] < gain['comparable'] / 2 - _EQUAL and not fallen:
    fallen.append(
      f'agreement rises by {gain["comparable"]:.3f}, but among replies of one '
      f'length by {gain["matched"]:.3f}'
    )
  return ', '.join(fallen)


def held_out(good_N: np.ndarray, labelled: list[Labelled]) -> dict[str, Any]:
  """Scores on replies that nothing was chosen by, beside length alone."""
  label_N = np.array([each.label for each in labelled], bool)
  length_N = np.array([len(each.response) for each in labelled])
  scores = score(Reading(good_N, np.zeros(0)), labelled)
  names = 'agreement', 'balanced', 'matched', 'auc'
  return {
    **{name: scores[name] for name in names},
    'answered': np.isfinite(good_N).mean(),
    'length_only_auc': stats.auc(length_N, label_N),
  }
