"""English wordings of lengths: "at least 300 words", "in three sentences"."""

import re
from collections.abc import Iterable

from rlcw.rewards.extract import amounts
from rlcw.rewards.extract.english import compiled, pattern, whole
from rlcw.rewards.extract.facts import (
  Build,
  Fact,
  Found,
  both_bounds,
  bounds,
)

_ADJECTIVES = (
  '(?:(?:total|english|short|simple|long|complete|full|non-blank|non-empty'
  '|separate|different|distinct|well-developed|concise|brief|non-space) )*'
)
# Before a number alone that is a length.
_FRAME = compiled(
  r'(?:^|[,:(]|\b(?:in|of|with|use|using|write|be|to|contain|contains|has'
  r'|containing|is|at|have|having|include|includes|including|into|compose'
  r'|generate|create|give me|give|provide|produce|make|exactly|and|an?|me'
  r'))\s*$'
)
# After or before a part of the reply that has a length of its own.
_COMPONENT = compiled(
  r'\s(?:\w+ ){0,2}(?:stanzas?|verses?|chorus|hook|bridge|refrain|sentences'
  r'|lines|paragraphs|intro\w*|summary|moral|tagline|quote|signature|dedication'
  r'|epigraph|conclusion|caption|title|call to action|P[.\ue001]?S'
  r'|(?:horror )?stories|jokes|prompts|captions|poems)\b'
)
# "1,000 words left", "100 words a day"; "so far it has", "a haiku has".
_NOT_ASKED = compiled(
  r'\s(?:already|so far|left|a (?:day|week)|as punishment)\b'
)
_KNOWN = compiled(
  r'\bso far\b[^,;]*$|\balready\b[^,;]*$'
  r'|^\W*(?:remember that )?an? (?:\w+ ){1,2}(?:has|is)\s*$'
)
# After texts that are not accepted: "less than 100 words is too short".
_REFUSED = compiled(
  r" (?:(?:is|are|will be|would be)(?:n't| not| never| too| un\w+)\b"
  r"|(?:will|would) not\b|won't\b|(?:will |would )?(?:get|lose|fail)s?\b"
  r'|counts? against|will be (?:rejected|refused|penali[sz]ed|ignored|cut'
  r'|disqualified)\b)'
)
# After some of a text: "exactly one sentence must be a question".
_OF_SOME = compiled(
  r' (?:must|should|shall|has to|have to|needs? to|may|can) (?:all |each )?'
  r'(?:be an?\b|rhyme|begin|start|end|contain|have|include|mention|use)'
)
# Before and after words to use in the reply: "put three words in bold", "use 5
# words ending in -ing".
_MARK = compiled(
  r'\b(?:put|bold|highlight|underline|italici[sz]e|emphasi[sz]e|mark)\s*$'
)
_USE = compiled(r'\b(?:includ|us|add|insert|hav|contain)(?:e|s|es|ing)?\s*$')
_OF_THESE = compiled(
  r' (?:in (?!your\b|the\b|total\b|all\b|this\b)|of\b|ending\b|rhyming\b)'
)
# After the length of a first part.
_THEN = compiled(
  r',? (?:and )?then\b|[^.;!?\n]*?(?:,| and) then (?:<NUMBER>|tell|write)\b'
)
_CLAUSE = re.compile(r'(?:^|[,;:\n])\s*(?:and |but )?$', re.IGNORECASE)
_ADDED = compiled(
  r'\b(?:include|add|start|begin|open|clos|end|finish)(?:e|s|es|ing)?'
  r'(?: (?:it|with|by|a|an|off|the|out))*\s*$'
)
# Before a number of things that are there already, or that are the topic.
_GIVEN = compiled(
  r'\b(?:(?:list|set|group|pair|series|collection) of|the|these|those|following'
  r'|this|that|our|attached an?|for an?'
  r'|last|first|top|above|my|other|about an?|about the)\s+$'
)
_TAIL = (
  r' (?:that|which|who|whose|of (?:code|dialogue|advice|wisdom)|from'
  r'|(?:in |for )?(?:each|every)|apiece'
  r'|per\b|related|starting|beginning)'
)
# Then the words are those in capitals.
_CAPITALS = (
  r'|,? (?:or phrases )?(?:(?:that|which) (?:are|is) |be )?'
  r'(?:(?:appear |written )?(?:entirely )?'
  r'(?:in|with) <CAPITALS>|entirely in|in the \w+ should be)'
)
_SPACES = compiled(
  'non-space|spaces (?:are )?not (?:counted|included)|not counting spaces'
  '|(?:excluding|without) (?:white ?)?spaces'
)
# Fewer characters than these are persons: "a story with 3 characters".
_FEWEST_CHARACTERS = 60


def _length(name: str, exact: bool) -> Build:
  """Returns a builder of bounds on the whole reply.

  Args:
    name: of the rule.
    exact: whether a number alone is exact; else it is about the number.
  """

  def build(found: Found) -> list[Fact]:
    amount = found.amount()
    if _REFUSED.match(found.after) or _THEN.match(found.after):
      return []
    if _MARK.search(found.before) or (
      _USE.search(found.before) and _OF_THESE.match(found.after)
    ):
      return []
    if _OF_SOME.match(found.after) and _CLAUSE.search(found.before):
      return []
    framed = _FRAME.search(found.before) is not None or found.negated()
    framed |= (
      re.search('long|length|total|all', found.masked('post')) is not None
    )
    # "A story about 300 words" may be a story about words.
    vague = re.match('about|some|around|over|within', found.masked('amount'))
    if vague and not framed:
      return []
    if amount.bare:
      # "A 300-word story"
      compound = found.masked('unit').lower() == found.masked('one').lower()
      if _GIVEN.search(found.before) or not (framed or compound):
        return []
      part = _COMPONENT.match(found.after) or _ADDED.search(found.before)
      given = _NOT_ASKED.match(found.after) or _KNOWN.search(found.before)
      if given or (compound and part):
        return []
      if not exact:
        amount = amounts.about(amount.low or 0)
    return both_bounds(name, amount, found)

  return build


def _unit(unit: str, tail: str = _TAIL) -> str:
  return (
    rf'(?P<amount><AMOUNT>)[ -]{_ADJECTIVES}'
    rf'(?P<unit>(?P<one>{unit})s?)\b'
    r'(?P<post>(?:,? (?:long|in (?:length|total|all(?! cap| upper))|total'
    # Possessive: "9 words or less per line" is no bound of the whole.
    r'|altogether))*+'
    # After a comma it may bound the next: "minimum 100 words, maximum 200".
    r'(?: <AFTER>|, <AFTER>(?!:? (?:of |is )?<NUMBER>))?+)'
    rf'(?!{tail})'
    # The unit of a second bound is left out.
    r'(?P<more>,? (?:but|and|yet)(?: (?:also|still|be))* <AMOUNT>'
    r'(?=\s*(?:[,.;!?)\n]|$)))?'
  )


def _count(found: Found) -> list[Fact]:
  amount = found.amount()
  if amount.bare:
    amount = amounts.about(amount.low or 0)
  return [bounds('length:words', amount)]


def _number(name: str) -> Build:
  """Returns a builder of "the number of words should be …"."""

  def build(found: Found) -> list[Fact]:
    amount = found.amount()
    limited = re.search(r'\b(?:limit|keep|restrict)', found.before.lower())
    if amount.bare and limited:
      amount = amounts.Amount(None, amount.high)
    return [bounds(name, amount)]

  return build


def _limit(found: Found) -> list[Fact]:
  return [Fact('length:words', {'at_most': found.amount().low})]


def _characters(found: Found) -> Iterable[Fact]:
  amount = found.amount()
  # With spaces counted, only an upper bound holds for the others too.
  bounded = not amount.low and (amount.high or 0) >= _FEWEST_CHARACTERS
  if not bounded and not _SPACES.search(found.sentence):
    return []
  return _length('length:characters', True)(found)


PATTERNS = (
  pattern(
    _unit('word', _TAIL + _CAPITALS), _length('length:words', False), whole
  ),
  *(
    pattern(
      rf'\bnumber of {unit}s(?: in \w+ \w+)?(?: (?:should|must|is|to|be'
      r'|has to|needs to))+ (?P<amount><AMOUNT>)(?P<post>(?: <AFTER>)?)',
      _number(f'length:{unit}s'),
      whole,
    )
    for unit in ('word', 'sentence', 'paragraph', 'line')
  ),
  pattern(
    r'\bword (?:count|length)(?:\s?(?:of|is|:|should be|must be|to be))*\s?'
    r'(?P<amount><AMOUNT>)(?P<post>(?: <AFTER>)?)',
    _count,
  ),
  pattern(
    r'\bword limit(?:\s?(?:of|is|:|should be|to))*\s?(?P<amount><NUMBER>)',
    _limit,
  ),
  pattern(_unit('sentence'), _length('length:sentences', True), whole),
  pattern(
    _unit('paragraph', r' \d'), _length('length:paragraphs', True), whole
  ),
  pattern(
    _unit('line', _TAIL + '|[^.]*Chinese char'),
    _length('length:lines', True),
    whole,
  ),
  pattern(_unit('character'), _characters, whole),
)
