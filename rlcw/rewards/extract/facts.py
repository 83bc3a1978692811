"""Facts that patterns find in a prompt: rules, or parts of rules."""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from rlcw.rewards.extract import amounts, clauses
from rlcw.rewards.extract.amounts import Amount
from rlcw.rewards.extract.masking import MASK, Masked

Arguments = dict[str, Any]


class Fact(NamedTuple):
  """A rule, or a part of one if its name begins with `_`."""

  name: str
  kwargs: Arguments


class Found:
  """A match of a pattern in a masked text."""

  def __init__(self, masked: Masked, match: re.Match[str]):
    self._masked, self._match = masked, match
    self.span = match.span()

  def has(self, group: str) -> bool:
    """Returns whether a group has matched some text."""
    return bool(self._match.groupdict().get(group))

  def text(self, group: str) -> str:
    """Returns the original text of a group, '' if there is none."""
    if not self.has(group):
      return ''
    start, end = self._match.span(group)
    return self._masked.raw[start:end]

  def masked(self, group: str) -> str:
    """Returns the masked text of a group, '' if there is none."""
    return self._match.groupdict().get(group) or ''

  def quotes(self, group: str) -> list[str]:
    """Returns the quotations in a group."""
    if not self.has(group):
      return []
    start, end = self._match.span(group)
    found = re.finditer(f'{MASK}+', self._masked.text[start:end])
    raw = self._masked.raw[start:end]
    return [raw[slice(*each.span())] for each in found]

  def quote(self, group: str) -> str:
    """Returns the first quotation in a group, or else its text."""
    return [*self.quotes(group), self.text(group)][0].strip()

  def amount(self, group: str = 'amount', after: str = 'post') -> Amount:
    """Returns the amount of a group, and of a bound after its unit."""
    text = f'{self.masked(group)} {self.masked(after)}'
    amount = amounts.read(text, self.negated(group))
    bound = amounts.aside(self._text_before(group)) if amount.bare else ''
    return amounts.read(f'{bound}{text}') if bound else amount

  def negated(self, group: str = 'amount') -> bool:
    """Returns whether a negation is just before an amount: "not over 9"."""
    return clauses.negates_amount(self._text_before(group))

  def is_taken_back(self, reads_negation: bool) -> bool:
    """Returns whether the words before make it no rule.

    Args:
      reads_negation: whether the pattern reads a negation itself.
    """
    is_amount = self.has('amount')
    before = self._text_before('amount' if is_amount else '')
    if clauses.offers(before) or clauses.is_condition(before):
      return True
    if not is_amount:
      if clauses.is_needless(self.whole) or clauses.is_of_actor(before):
        return True
      if clauses.allows(before):
        return True
      if reads_negation:
        return False
      return clauses.negates(before) or clauses.bans(self.whole)
    if clauses.is_question(self.sentence):
      return True
    amount = self.amount()
    if clauses.allows(before) and amount.low is not None:
      return True
    if self.negated():
      # "Do not write 9 words"
      return amount.low is not None and amount.high is not None
    # "Do not make the poem for my aunt longer than 9 lines"
    bounded = amounts.ABOVE_OR_BELOW.search(self.masked('amount').lower())
    return bounded is not None and clauses.negates(before)

  def _text_before(self, group: str) -> str:
    """Returns the sentence up to a group, or up to the match."""
    start, _ = self._masked.sentence_at(self.span[0])
    end = self._match.start(group) if group else self.span[0]
    # Bounded, as a text without full stops is one sentence.
    return self._masked.text[max(start, end - 300) : end]

  @property
  def whole(self) -> str:
    """The masked text of the match."""
    return self._match[0]

  @cached_property
  def sentence(self) -> str:
    """The masked sentence that the match begins in."""
    start, end = self._masked.sentence_at(self.span[0])
    return self._masked.text[start:end]

  @property
  def prompt(self) -> str:
    """The whole masked text."""
    return self._masked.text

  @cached_property
  def before(self) -> str:
    """The masked sentence up to the match."""
    return self._text_before('')

  def counted(self, noun: str) -> int | None:
    """Returns the number before the plural of a noun, anywhere in the text."""
    pattern = rf'(?<!\w)({amounts.NUMBER}) (?:[\w-]+ ){{0,2}}{noun}s\b'
    match = re.search(pattern, self._masked.text, re.IGNORECASE)
    return amounts.number(match[1]) if match else None

  @property
  def after(self) -> str:
    """The masked text after the match."""
    return self._masked.text[self.span[1] :]


Build = Callable[[Found], Iterable[Fact]]


class Pattern(NamedTuple):
  """A wording, and the facts that it states.

  Attributes:
    expression: to be found in the masked text.
    build: returns the facts of a match, none if it is no rule.
    accepts: whether a match may be a rule, by the text around it.
    reads_negation: whether a negation before a match is for `build` to read.
  """

  expression: re.Pattern[str]
  build: Build
  accepts: Callable[[Found], bool] = lambda found: True
  reads_negation: bool = False

  def find(self, masked: Masked) -> Iterator[tuple[Fact, tuple[int, int]]]:
    """Yields the facts of all matches, with their spans."""
    for match in self.expression.finditer(masked.text):
      found = Found(masked, match)
      if not match[0] or not self.accepts(found):
        continue
      if not found.has('amount') and _EXCEPTED.match(found.after):
        continue
      if not found.is_taken_back(self.reads_negation):
        for fact in self.build(found):
          yield fact, found.span


# After a rule about letters, words or marks: "except in the title".
_EXCEPTED = re.compile(
  r',? (?:except|but not|other than|apart from|save|with the exception of)'
  r'(?: (?:for|in|of|the|its|your|any|a)){0,3} (?:titles?|headings?|headlines?'
  r'|names?|proper|initials?|acronyms?|dialogue|quot\w+|first|last|greeting)\b'
  r'|[,(]?(?:标题|题目|署名|落款|称呼|人名|专有名词|专名)(?:可以)?除外',
  re.IGNORECASE,
)


def fixed(name: str, **kwargs: Any) -> Build:
  """Returns a builder of one fact, always the same."""
  return lambda found: [Fact(name, kwargs)]


def bounds(name: str, amount: Amount) -> Fact:
  """Returns a rule with `at_least` and `at_most`."""
  given = {'at_least': amount.low, 'at_most': amount.high}
  return Fact(name, {k: v for k, v in given.items() if v is not None})


def both_bounds(name: str, amount: Amount, found: Found) -> list[Fact]:
  """Returns `bounds`, and those of a second amount without a unit.

  It is the group `more`: "over 300 words but under 500".
  """
  more = found.amount('more', '') if found.has('more') else None
  second = [] if more is None or more.bare else [bounds(name, more)]
  return [bounds(name, amount), *second]


def related(
  name: str, kwargs: Arguments, count: str, relation: str, amount: Amount
) -> list[Fact]:
  """Returns rules with a count and a relation, one for each bound.

  Args:
    name: of the rule.
    kwargs: its other arguments.
    count: name of the argument that is the count.
    relation: name of the argument that is the relation.
    amount: the bounds.
  """
  facts = []
  if amount.low:
    facts.append(
      Fact(name, {**kwargs, count: amount.low, relation: 'at least'})
    )
  if amount.high is not None:
    more = {count: amount.high + 1, relation: 'less than'}
    facts.append(Fact(name, {**kwargs, **more}))
  return facts


def exactly(name: str, argument: str) -> Build:
  """Returns a builder of a rule that has only an exact number."""

  def build(found: Found) -> list[Fact]:
    single = found.amount().single
    return [Fact(name, {argument: single})] if single else []

  return build


def least(name: str, argument: str) -> Build:
  """Returns a builder of a rule that has only a least number.

  A number alone is one: "with 3 placeholders".
  """

  def build(found: Found) -> list[Fact]:
    amount = found.amount()
    if amount.low and (amount.bare or amount.high is None):
      return [Fact(name, {argument: amount.low})]
    return []

  return build
