"""Rules that a language model reads in prompts, validated one by one.

The schema of its answers is made from the registry of rules.  Of each proposal
the prompt must contain the quotation, the registry must accept the rule, and
neither the patterns nor an earlier proposal may have given it or contradict it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import pydantic

from rlcw.rewards import constraints
from rlcw.rewards.extract.combine import Stated, conditions
from rlcw.rewards.extract.read import read
from rlcw.rewards.rules import compose, languages, wording
from rlcw.rewards.rules.arguments import RECIPES
from rlcw.rewards.rules.registry import DEMAND, VERIFIERS
from rlcw.rewards.rules.text import HAN_RUN, count_words, total
from rlcw.sampling import prompts
from rlcw.sampling.prompts import Asking, Counts, Form

# A demand is no rule that a program checks.
_IDS = tuple(name for name in VERIFIERS if name != DEMAND)


class Proposal(pydantic.BaseModel):
  """A rule, and the words of the prompt that state it."""

  model_config = pydantic.ConfigDict(extra='forbid')

  quote: str
  instruction_id: Literal[_IDS]  # pyright: ignore[reportInvalidTypeForm]
  kwargs: dict[str, int | str | list[str]]


class Proposals(Form):
  """All rules of a prompt."""

  rules: list[Proposal]


def catalogue(language: str) -> str:
  """Returns a line for each rule: its id, its arguments, and an example."""
  lines = []
  for name in _IDS:
    parameters = ', '.join(VERIFIERS[name].parameters) or '-'
    example = wording.TABLES[language][name][0]
    lines.append(f'{name} ({parameters}): {example}')
  codes = ', '.join(languages.NAMES)
  return '\n'.join([*lines, f'language: {codes}'])


def propose(
  asking: Asking,
  texts: Sequence[str],
  secret: bytes,
  counts: Counts,
) -> list[list[Stated]]:
  """Asks a model for the rules of prompts that the patterns have not found.

  Args:
    asking: makes, for a schema, the function from prompts to replies.
    texts: the prompts.
    secret: of the questions' ids (`secret.load`).
    counts: updated in place: `questions`, `repaired`, `unanswered`; `proposed`
      rules; and of these `accepted`, `known`, `unquoted`, `invalid` and
      `contradictory` ones.

  Returns:
    For each prompt the further rules, none without an answer.
  """
  found: list[list[Stated]] = [[] for _ in texts]
  for language in constraints.LANGUAGES:
    rows = [n for n, text in enumerate(texts) if _language(text) == language]
    if not rows:
      continue
    pieces = prompts.template(f'extract_{language}')
    rules = catalogue(language)
    questions = [
      prompts.keyed(
        pieces,
        {'rules': rules, 'prompt': prompts.quote(texts[n], language, 10_000)},
        secret,
      )
      for n in rows
    ]
    answers = prompts.ask_json(asking, questions, Proposals, language, counts)
    for row, answer in zip(rows, answers, strict=True):
      proposed = (answer or {'rules': []})['rules']
      found[row] = accepted(texts[row], proposed, counts)
  return found


def _language(text: str) -> str:
  words = count_words(text)
  return 'zh' if 2 * total(HAN_RUN, text) > words else 'en'


def accepted(
  text: str, proposed: Sequence[dict[str, Any]], counts: Counter[str]
) -> list[Stated]:
  """Returns the proposals that hold, in the order of the answer.

  Args:
    text: the prompt.
    proposed: `quote`, `instruction_id` and `kwargs` of each.
    counts: see `propose`.
  """
  rules = [*read(text).rules]
  kept: list[Stated] = []
  for each in proposed:
    counts['proposed'] += 1
    name, kwargs = each['instruction_id'], each['kwargs']
    fault = _fault(text, each, [*rules, *kept])
    counts[fault or 'accepted'] += 1
    if not fault:
      start = text.find(each['quote'])
      span = start, start + len(each['quote'])
      kept.append(Stated(name, kwargs, (span,)))
  return kept


def _fault(text: str, proposal: dict[str, Any], rules: Sequence[Stated]) -> str:
  """Returns why a proposal does not hold, '' if it does."""
  name, kwargs = proposal['instruction_id'], proposal['kwargs']
  if not proposal['quote'].strip() or proposal['quote'] not in text:
    return 'unquoted'
  try:
    constraints.validate([name], [kwargs])
  except ValueError:
    return 'invalid'
  given = frozenset[Any]().union(
    *(conditions(rule.instruction_id, rule.kwargs) for rule in rules)
  )
  if conditions(name, kwargs) <= given:
    return 'known'
  return 'contradictory' if any(_pairs(name, kwargs, rules)) else ''


def _pairs(
  name: str, kwargs: dict[str, Any], rules: Sequence[Stated]
) -> Iterator[str]:
  """Yields the reasons why a rule contradicts each of the others."""
  for rule in rules:
    # `constrained_response` has no recipe.
    if name in RECIPES and rule.instruction_id in RECIPES:
      yield compose.contradiction(
        [(rule.instruction_id, rule.kwargs), (name, kwargs)]
      )
