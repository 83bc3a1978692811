"""English wordings of case and language."""

import re

from rlcw.rewards.extract import clauses
from rlcw.rewards.extract.amounts import Amount
from rlcw.rewards.extract.english import compiled, order, ours, pattern
from rlcw.rewards.extract.facts import Build, Fact, Found, fixed, related
from rlcw.rewards.rules import languages

# --- Case -------------------------------------------------------------------

# Before the case of a part: "a title in all capitals".
_OF_WORDS = compiled(
  r'\b(?:words?|titles?|headlines?|names?|headings?|keywords?|speaks?|shouts?'
  r'|hashtags?|dialogue)\b[^,.;\n]{0,60}$'
)
_TO_STRESS = re.compile(
  r'[^,.\n]{0,3} (?:words?\b|to (?:stress|highlight|emphasi)|for )',
  re.IGNORECASE,
)


def _whole_case(found: Found) -> bool:
  of_all = re.search(r'words in your (?:entire )?re', found.before)
  return (
    ours(found)
    and (of_all is not None or not _OF_WORDS.search(found.before))
    and not _TO_STRESS.match(found.after)
  )


_LOWER, _UPPER = 'change_case:english_lowercase', 'change_case:english_capital'
_NEGATED = compiled(
  r'\b(?:no|not|without|avoid|never|any)\b(?: \w+){0,2}\s+$'
  r"|n't(?: \w+){0,2}\s+$"
  r'|\bnot a single (?:letter|word)[^,.\n]*$'
)
# "Capital letters" alone does not say which.
_ALL = compiled(
  r'\b(?:all|only|every|entire|entirely|completely|fully|just'
  r'|in)\b[^.,\n]{0,40}$'
)


_CASE_OF_PART = compiled(
  r'\b(?:begin|start)\w* (?:(?:each|every) \w+ )?(?:with an?|in) $'
  r'|\b(?:last|first|final|one) (?:line|word|sentence|verse)\b[^,.;]{0,24}$'
  r'|"[^,.;]{0,6}\bin (?:all )?$'
)
_CASED = re.compile(r' in (?:the|your) (?:title|heading|first|last)|\s*"')
_BANNED = compiled(r'\s*(?:<BANNED>|(?:must|should|may|can)(?: not|n\'t))')


def _case(name: str) -> Build:
  def build(found: Found) -> list[Fact]:
    if re.search(r'\bnot all\s*$', found.before):
      return []
    # "Do not write in all caps" does not ask for lowercase.
    if clauses.negates(found.before) and re.search(
      r'\ball[ -]$', found.before, re.IGNORECASE
    ):
      return []
    if _CASE_OF_PART.search(found.before) or _CASED.match(found.after):
      return []
    if _NEGATED.search(found.before) or _BANNED.match(found.after):
      return [Fact(_UPPER if name == _LOWER else _LOWER, {})]
    if name == _UPPER and not _ALL.search(found.before):
      return []
    return [Fact(name, {})]

  return build


def _capital_words(found: Found) -> list[Fact]:
  amount = found.amount()
  if amount.bare:
    amount = Amount(amount.low, None)
  return related(
    'change_case:capital_word_frequency',
    {},
    'capital_frequency',
    'capital_relation',
    amount,
  )


# --- Language ---------------------------------------------------------------

_CODES = {name.lower(): code for code, (name, _) in languages.NAMES.items()}
_CODES |= {'farsi': 'fa', 'mandarin': 'zh'}
_LANGUAGE = f'(?P<language>{"|".join(_CODES)})'
# After a language, and not after an adjective: "English villages".
_END = (
  r'(?= language\b|\s*(?:[.,;:!?)(\n"]|$|—|-)|\s+(?:and|with|but|only|no|not'
  r'|using|in|about|that|please|throughout|at|so|which|for|as|while)\b)'
)
_IN_OTHER = compiled(
  r'\b(?:taught|spoken|sung|said|held|published|born|made|set|filmed|words?'
  r'|conducted|interested|fluent|speaks?|reads?|course|class|lessons?)\s+'
  r'(?:(?:in|into|using|use|to|the|only) )*\w+(?: \w+)?$'
)


_IN_PART = compiled(
  r'\b(?:columns?|rows?|titles?|headings?|sentences?|lines?|phrases?|dialogues?'
  r'|narration|chorus|captions?|headline|names?|signs?)\b'
  r'[^,.;\n]{0,30}\b(?:in|into) \w+$'
)


# After the first of several languages, or that of a part.
_OTHER_LANGUAGE = compiled(
  rf'\s*(?:,|and|or|&|then)+ *(?:then )?(?:in )?(?:{"|".join(_CODES)})\b'
  r'|\s*(?:for|in) the (?:\w+ )?(?:titles?|dialogues?|narration|chorus'
  r'|captions?|verses?|headline|subject|names?|stanzas?)\b'
)


def _language(found: Found) -> list[Fact]:
  text = found.before + found.whole
  if _IN_OTHER.search(text) or _IN_PART.search(text):
    return []
  if _OTHER_LANGUAGE.match(found.after):
    return []
  code = _CODES[found.text('language').lower()]
  return [Fact('language:response_language', {'language': code})]


def _script(found: Found) -> list[Fact]:
  return [Fact('style:script', {'script': found.text('script').lower()})]


PATTERNS = (
  pattern(
    r'\blower[ -]?cased?s?\b(?: letters?)?',
    _case(_LOWER),
    _whole_case,
    reads_negation=True,
  ),
  pattern(
    r'\b(?:capitals|capital letters?|capitali[sz](?:ed|ations?)(?: letters?)?'
    r'|caps'
    r'|upper[ -]?case(?: letters?)?)\b',
    _case(_UPPER),
    _whole_case,
    reads_negation=True,
  ),
  pattern(
    r'\b(?:use|include|add) (?:some |a few )?words? (?:in|with) <CAPITALS>',
    fixed(
      'change_case:capital_word_frequency',
      capital_frequency=1,
      capital_relation='at least',
    ),
    order,
  ),
  pattern(
    r'(?P<amount><AMOUNT>) (?:such )?(?:\w+ )?words?(?: or phrases)?'
    r'(?: that are)?(?: in (?:the|your) \w+)?'
    r'(?: should be| must be| be| written| appear)?(?: entirely)? '
    r'(?:in|with) <CAPITALS>',
    _capital_words,
  ),
  pattern(
    r'(?:words? (?:in|with|of|written in) <CAPITALS>|(?:<CAPITALS>|stress)'
    r' words?)[^.\n]{0,40}? (?P<amount><TIMES>|(?:less than|fewer than|at most'
    r'|at least|no more than|up to) <NUMBER>)',
    _capital_words,
  ),
  pattern(
    r'(?P<amount><AMOUNT>) (?:such )?(?:capitali[sz]ed|upper[ -]?case'
    r'|all[ -]caps) words?',
    _capital_words,
  ),
  pattern(
    r'\b(?:write|written|respond|answer|reply|response|output|should|must|be'
    r'|it|is|entirely|completely|wholly|only|fully|provide|give|all|rewrite'
    r"|it's|translate|poem|story|text|essay|letter|song|joke)\b[^.\n?]{0,60}?"
    r'\b(?:in|into|using|use|to) (?:(?:the|only|entirely|completely|fully) )*'
    rf'{_LANGUAGE}\b{_END}',
    _language,
    order,
  ),
  pattern(
    rf'\b(?:use|using|speak) (?:(?:only|the) )*{_LANGUAGE}\b(?: language)?'
    rf'{_END}',
    _language,
    order,
  ),
  pattern(
    rf'\b{_LANGUAGE}(?: language)?(?:,? (?:and )?no other language| only\b)',
    _language,
  ),
  pattern(
    r'\b(?:in|use|using|into|to|with) (?:only )?'
    r'(?P<script>simplified|traditional) Chinese'
    r'(?! (?:medicine|restaurant|painting|poetry|style|culture|music|art))',
    _script,
  ),
)
