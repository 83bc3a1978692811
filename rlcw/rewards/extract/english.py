"""Parts of English wordings, and tests of the text around a match.

Patterns have names of `PARTS` in angle brackets: <Q> is a quotation.
"""

import re
from collections.abc import Callable, Mapping

from rlcw.rewards.extract import amounts
from rlcw.rewards.extract.facts import Build, Found, Pattern
from rlcw.rewards.extract.masking import DOT, MASK

PARTS = {
  'Q': f'"{MASK}+"',
  'AMOUNT': amounts.AMOUNT,
  'AFTER': amounts.AFTER,
  'TIMES': amounts.TIMES,
  'NUMBER': amounts.NUMBER,
  # Of the postscript: P.S., PS, P. P. S.
  'MARKER': f'P[.{DOT}]? ?(?:P[.{DOT}]? ?)?S(?![A-Za-z0-9])[.{DOT}]?',
  'NOT': (
    r"(?:(?:do|does|should|must|may|can|shall|will|need)(?: not|n't)|cannot"
    r'|never|not|without(?: ever)?|avoid(?:s|ing)?|refrain(?:s|ing)? from'
    r'|abstain(?:s|ing)? from|exclud(?:e|es|ing)|omit(?:s|ting)?'
    r'|steer clear of|stay away from|leav(?:e|ing) out|skip)'
  ),
  'USE': (
    '(?:includ(?:e|es|ing)|contain(?:s|ing)?|mention(?:s|ing)?'
    '|incorporat(?:e|es|ing)|featur(?:e|es|ing)|us(?:e|es|ing)'
    '|utili[sz](?:e|es|ing)|add(?:s|ing)?|ha(?:ve|s|ving)|say(?:s|ing)?'
    '|writ(?:e|ing)|insert(?:ing)?|employ(?:ing)?|put(?:ting)?'
    '|weav(?:e|ing) in|mak(?:e|ing) use of|work(?:ing)? in'
    r'|with(?= (?:these|the following|(?:the )?key ?words)))'
  ),
  'MUST': (
    '(?:must|should|has to|have to|needs? to|shall|is to|can|may|does|do|will'
    '|to)'
  ),
  'APPEAR': (
    '(?:appear(?:s|ing)?|occur(?:s|ring)?|shows? up|(?:be|is|are|being) (?:used'
    '|mentioned|included|repeated|present))'
  ),
  'BANNED': (
    r"(?:(?:is|are)(?: not|n't) (?:allowed|permitted)|(?:is|are) (?:forbidden"
    '|banned|prohibited|off limits)|(?:must|should|have to|has to|are to|is to)'
    ' be (?:avoided|omitted|excluded|left out))'
  ),
  'CAPITALS': (
    '(?:all[ -])?(?:capital(?:i[sz]ed)?(?: letters?)?|caps|upper[ -]?case'
    '(?: letters?)?)'
  ),
  'REPLY': (
    '(?:response|reply|answer|output|text|piece|poem|story|essay|letter|e-?mail'
    '|message|article|(?:blog )?post|song|rap|limerick|riddle|joke|speech'
    '|summary|tweet|content|note|review|proposal|pitch|description|itinerary'
    '|ad|advertisement|biography|resume|report|slogan|quiz|dialogue)'
  ),
}


# A marker of a postscript alone.
IS_MARKER = re.compile(r'\s*P\.?\s?(?:P\.?\s?)?S\.?[,:]?\s*', re.IGNORECASE)


def compiled(pattern: str, parts: Mapping[str, str] = PARTS) -> re.Pattern[str]:
  """Returns a pattern with its parts filled in, which ignores case."""
  while (
    filled := re.sub('<([A-Z]+)>', lambda m: f'(?:{parts[m[1]]})', pattern)
  ) != pattern:
    pattern = filled
  return re.compile(pattern, re.IGNORECASE)


# Before what somebody else does or is: "a man who wrote 300 words"; and before
# a permission.
_OTHERS = compiled(
  r'\byou (?:may|can|could|might)(?: also)?\s*$'
  r'|\b(?:who|whom|whose)\b[^,;:.!?\n]*$'
  r'|\b(?:wrote|spoke|said|used|had|learn(?:ed|t)|knew|memori[sz]ed|contained'
  r'|typed|published|sold|was|were|posted|reads?|writes|knows|wins|won)'
  r'\s+(?:\w+\s+)?$'
  r'|\b(?:he|she|they|people|we|I)\s+(?!must|should|shall|need|want|would|have)'
  r'(?:\w+\s+){0,2}$'
  r'|\b(?:about|titled|called|named|regarding)\s+(?:an?\s+|the\s+)?$'
  r'|\b(?:why|how)\b(?:(?!\band\b)[^,;:.!?\n])*\b(?:must|should|ha(?:s|ve|d) to'
  r'|needs? to)(?: \w+)?\s*$'
)
# Before what is asked of each part of the reply, unless the whole is named
# between.
_EACH = compiled(
  r'\b(?:each|every|per|any|no (?:sentence|paragraph|line|stanza))\b'
  r'(?:(?!\b(?:whole|entire|total|overall|altogether)\b)[^;.\n])*$'
)
# Before what is asked of some parts: "a title of 5 words".
_SOME = compiled(
  rf'\b(?!one\b|an?\b){amounts.NUMBER} (?:[\w-]+ ){{0,2}}?'
  r'(?!times|words|minutes|hours|days)[a-z-]+s of\s*$'
  r'|\b(?:title|headline|intro(?:duction)?|conclusion|heading|(?:first|second'
  r'|third|last|final|opening|closing) (?:sentence|paragraph|line|part|section'
  r'|stanza|chapter)|chorus|bridge|refrain|hook|bullet points?|sentences'
  r'|paragraphs|lines|stanzas|verses|items|sections|bullets)\b'
  r'(?:(?!\band\b)[^,;:.\n]){0,40}$'
)
# The same before a comma: "a short title, no more than five words".
_PART = (
  '(?:titles?|headlines?|names?|headings?|sentences|paragraphs|lines|stanzas'
  '|verses|items|sections|bullets|bullet points)'
)
_SHORT = '(?:short|long|brief|concise|snappy|catchy)'
_SHORT_PART = compiled(
  rf'\b{_SHORT} (?:\w+ )?{_PART},\s*$|\b{_PART} {_SHORT},\s*$'
)
# Before the length of a thing inside of the reply.
_INSIDE = compiled(
  r'\b(?:include|contain|add|insert)\w* an? (?:\w+ )?(?:poem|quote|letter'
  r'|song|verse|note|list|joke|speech)\b[^,;:.\n]{0,24}$'
  r'|\b(?:start|begin|open|end|close|finish|conclude)s? (?:\w+ )?with\s*$'
  r'|\b(?:the|his|her) (?:\w+ )?(?:name|quote|moral|tagline|meta description)\b'
  r'[^,;:.\n]{0,24}$|\b(?:subhead|subtitle|call to action|subject line)\b'
  r'[^,;:.\n]{0,24}$'
)
_SUBORDINATE = compiled(
  r'\b(?:about|why|how|that|which|who|whose|when|where|because|if|whether)\b'
  r'[^,;:.!?\n]*$'
)
# "Write about dogs without using commas": that is no clause about dogs.
_NO_VERB = compiled(r'(?:without|in|with|no)\b')
# Words and marks after which a verb is an order.
_ORDER = compiled(
  r'(?:^|[,;:.!?()*\-–•\d\n"]|\b(?:please|and|but|also|to|should|must|or|then'
  r'|kindly|you|always|just|sure|only|it|response|reply|answer|which|that))\s*$'
)


# Things that somebody does: "learning to write in French".
_DOES = compiled(
  r'\b(?:how|(?!needs|has\b|is\b)\w+(?:ing|s)|learn(?:ed|t)|tried|began|wanted'
  r'|decided|started) to (?:write|speak|answer|reply|read|sing|pray|output)\b'
)
_YOURS = compiled(r'\byour (?:entire |whole |full )?<REPLY>')


def ours(found: Found) -> bool:
  """Returns whether a match is about the reply, not about its content."""
  return _YOURS.search(found.whole) is not None or not _OTHERS.search(
    found.before
  )


def whole(found: Found) -> bool:
  """Returns whether a match is about the whole reply, not parts of it."""
  before = found.before
  parts = _EACH, _SOME, _SHORT_PART, _INSIDE
  return ours(found) and not any(part.search(before) for part in parts)


def order(found: Found) -> bool:
  """Returns whether a match begins with an order: not "why people avoid"."""
  ordered = (
    not _SUBORDINATE.search(found.before)
    or _ORDER.search(found.before)
    or _NO_VERB.match(found.whole)
  )
  does = _DOES.search(found.whole) or _EACH.search(found.before)
  return bool(ordered) and ours(found) and not does


def anywhere(found: Found) -> bool:
  """Accepts every match."""
  return True


def pattern(
  text: str,
  build: Build,
  accepts: Callable[[Found], bool] = ours,
  reads_negation: bool = False,
) -> Pattern:
  """Returns a pattern of an English wording; see `Pattern`."""
  reads_negation |= '<NOT>' in text or '(?P<neg>' in text
  return Pattern(compiled(text), build, accepts, reads_negation)
