"""Strategies (short lists of rules), their scores, and when one is replaced.

A judging strategy becomes the principles in a judge's prompt.  It is scored by
the agreement of the resulting verdicts with labels, and by the share of
adversarial replies that are judged Bad.

Letters: N labelled replies, F fakes (adversarial replies).
"""

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic
from scipy import special

from rlcw.evaluation import stats
from rlcw.evaluation.labelled import Labelled
from rlcw.evaluation.verdicts import Reading, score
from rlcw.rewards.judge import questions
from rlcw.runtime import files
from rlcw.sampling import prompts

MOST = 10  # rules of a strategy
LONGEST = 400  # characters of a rule
# Least share of replies on which both strategies need a verdict.
_ANSWERED = 0.5
# Scores are means of floats: smaller differences are rounding errors.
_EQUAL = 1e-9
_LEAST = 1e-6  # probability, where log-odds are taken
# Notes are quoted, and a model may copy the mark.
_QUOTE = re.compile(r'^(?:> ?)+')
# A number before a rule, in ASCII or Chinese punctuation: `1.`, `2)`, `3、`.
_NUMBER = re.compile(r'\d+\s*[.)、．]\s*')


def _tidy(rule: object) -> object:
  """Puts a rule on one line, without a mark of quotation or a number."""
  # Other types are left to the validation, which rejects them.
  if not isinstance(rule, str):
    return rule
  # A model wrote it: invisible characters could hide instructions from people
  # who read the principles.
  line = _QUOTE.sub('', ' '.join(prompts.visible(rule).split()))
  return line[found.end() :] if (found := _NUMBER.match(line)) else line


Rule = Annotated[
  str,
  pydantic.BeforeValidator(_tidy),
  pydantic.StringConstraints(min_length=1, max_length=LONGEST),
]


def _once(rules: list[str]) -> list[str]:
  """Leaves out rules that differ from an earlier one in marks alone."""
  kept: dict[str, str] = {}
  for rule in rules:
    kept.setdefault(re.sub(r'\W', '', rule), rule)
  return [*kept.values()]


class Rules(pydantic.BaseModel):
  """A valid list of 1 to `MOST` rules, none blank or longer than `LONGEST`."""

  rules: Annotated[
    list[Rule],
    pydantic.Field(min_length=1, max_length=MOST),
    pydantic.AfterValidator(_once),
  ]


class RulesAnswer(Rules, prompts.Form):
  """Answer of the optimiser: a list of rules."""


class Strategy(NamedTuple):
  """Rules under a heading, as in a file of principles."""

  heading: str
  rules: tuple[str, ...]

  @property
  def text(self) -> str:
    """The text of the file: the heading, then numbered rules."""
    lines = [f'{n}. {rule}' for n, rule in enumerate(self.rules, 1)]
    return '\n\n'.join(filter(None, [self.heading, '\n'.join(lines)]))


def read(name: str) -> Strategy:
  """Reads a strategy from a file of numbered rules; `@NAME` is a shipped one.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file has no numbered rule, too many, or one that is blank or
      too long.
  """
  heading, rules = [], []
  for line in questions.read(name).splitlines():
    if _NUMBER.match(line):
      rules.append(line)
    elif rules:
      # A rule may go on over several lines; `_tidy` joins them.
      rules[-1] += ' ' + line
    else:
      heading.append(line)
  try:
    valid = Rules(rules=rules).rules
  except pydantic.ValidationError as error:
    faults = {'.'.join(map(str, e['loc'])): e['msg'] for e in error.errors()}
    raise ValueError(
      f'{name}: {faults}; expected 1 to {MOST} lines "1. …", each of at most '
      f'{LONGEST} characters'
    ) from None
  return Strategy('\n'.join(heading).strip(), tuple(valid))


@dataclasses.dataclass
class State:
  """State between two rounds; `state.json` is this as JSON."""

  construction: Strategy
  judging: Strategy
  # Probability of Good of each dev reply under `judging`.
  dev: list[float | None]
  heldout: dict[str, Any]  # held-out scores before the first round
  round: int = 0
  calls: int = 0
  stale: int = 0  # rounds since agreement last rose
  # Notes that no accepted strategy has taken into account yet.
  open: list[str] = dataclasses.field(default_factory=list)

  @classmethod
  def read(cls, file: Path) -> 'State':
    """Reads a saved state.

    Raises:
      ValueError: it is damaged; names the file.
    """
    saved = files.read_json(file)
    try:
      for name in ('construction', 'judging'):
        heading, rules = saved[name]
        saved[name] = Strategy(heading, tuple(rules))
      return cls(**saved)
    except (KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f'{file} is not the state of a game: {error!r}'
      ) from None


def rejection_reason(
  new: Reading, old: Reading, labelled: list[Labelled]
) -> str:
  """Returns the reason to reject a new judging strategy, or '' to accept it.

  It is accepted if no score falls.  Scores are over the replies on which both
  strategies have a verdict, so that missing answers decide nothing by chance.
  `auc` can show progress even while all verdicts are the same.

  A gain must not come from length either.  A verdict put right for another
  reason raises `matched` at least half as much as `comparable`; a preference
  for length raises only `comparable`.  Of a gain in `auc` at least half must be
  left without the part of the change that goes with length.

  Args:
    new: probabilities under the new strategy.
    old: probabilities under the old one, for the same replies and fakes.
    labelled: the N labelled replies.
  """
  # A sum with NaN is NaN: finite where both have an answer.
  known = [np.isfinite(n + o) for n, o in zip(new, old, strict=True)]
  if np.concatenate(known).mean() < _ANSWERED:
    return 'too few verdicts to compare'
  # Replies that are not known to both become NaN in both, which `score` skips.
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
      f'agreement rises by {gain["comparable"]:.3f}, but among replies of '
      f'similar length by {gain["matched"]:.3f}'
    )
  if gain['auc'] > _EQUAL and not fallen:
    left = _gain_without_length(new.labelled_N, old.labelled_N, labelled)
    if left < gain['auc'] / 2 - _EQUAL:
      fallen.append(
        f'auc rises by {gain["auc"]:.3f}, but by {left:.3f} without what goes '
        'with length'
      )
  return ', '.join(fallen)


def _gain_without_length(
  after_N: np.ndarray, before_N: np.ndarray, labelled: list[Labelled]
) -> float:
  """Gain in AUC, without the part of the change that goes with length.

  Args:
    after_N: probabilities of Good after the change, NaN without an answer.
    before_N: those before it.
    labelled: the N labelled replies.
  """
  known_N = np.isfinite(after_N + before_N)
  label_N = np.array([each.label for each in labelled], bool)[known_N]
  length_N = np.array([len(each.response) for each in labelled])[known_N]
  after_N, before_N = (
    special.logit(np.clip(good_N[known_N], _LEAST, 1 - _LEAST))
    for good_N in (after_N, before_N)
  )
  left_N = stats.without_length(after_N, before_N, label_N, length_N)
  return stats.auc(left_N, label_N) - stats.auc(before_N, label_N)
