"""English wordings of words, letters and marks to use or to avoid."""

import re

from rlcw.rewards.extract import amounts, clauses
from rlcw.rewards.extract.amounts import Amount
from rlcw.rewards.extract.english import (
  IS_MARKER,
  anywhere,
  compiled,
  order,
  ours,
  pattern,
  whole,
)
from rlcw.rewards.extract.facts import Build, Fact, Found, fixed, related

# --- Words ------------------------------------------------------------------

_NOUN = (
  r'(?:(?:the|these|this|both|all|any|either|following|exact|specific|of|two'
  r'|three|four|five|six|\d+) )*(?:key ?words?|words?|phrases?|terms?|names?'
  r'|items|line|expressions?|strings?)'
)
# Words that do not stand for themselves after "the word".
_STOP = (
  'a|above|add|after|also|an|and|appears|are|as|at|avoid|be|before|begin'
  '|beginning|below|can|containing|count|describing|do|else|end|ending'
  '|ensure|finish|following|for|from|having|highlight|if|in|include|into|is'
  '|it|keep|like|limit|long|make|may|must|not|occurs|of|on|or|other|out'
  '|please|put|related|rhyming|should|so|start|starting|such|that|the|then'
  '|they|to|until|use|we|what|when|which|with|wrap|write|you'
)
_BARE = rf"(?!(?:{_STOP})\b)[A-Za-z][\w'-]*"
_LIST = (
  rf'(?P<list>[\[(]?<Q>(?:(?:,? (?:and|or|nor|&)|,|/'
  rf'|;) ?(?:also )?(?:{_NOUN} )?<Q>)*[\])]?'
  # Without quotes, several only after a plural or a colon.
  rf'|(?(noun)(?:(?<=words )|(?<=: )){_BARE}(?:(?:,? (?:and|or) |, ){_BARE})*'
  rf'|(?!))|(?(noun)(?:(?<=word )|(?<=name )){_BARE}(?: or {_BARE})*|(?!)))'
)
_TIMES = '(?:,?(?: for)? (?P<times><TIMES>))?'


# Words without quotes are named by "the words sea and sky", not by "100 words
# about the sea".
_NAMED = re.compile(
  r'\b(?:the|these|this|both|all|following|exact|specific|key ?words?)\b',
  re.IGNORECASE,
)
# Of such words some will do.
_SOME_OF = re.compile(
  r'\b(?:any|either)\b|\b(?:some|several|most|half|few|one|two|three|four|five'
  r'|six|\d+)(?: or more)? of\b',
  re.IGNORECASE,
)
_ENDS_IN_SOME_OF = re.compile(
  rf'(?:{_SOME_OF.pattern})(?: of)?\s*$', re.IGNORECASE
)


# After a quotation that is a part of a name.
_NAMES_SOMETHING = re.compile(
  r'-|\s(?!(?:in|at|on|to|of|by|for|from|with|without|within|inside|into|and|but'
  r'|or|nor|then|when|while|where|if|unless|because|so|before|after|during'
  r'|throughout|somewhere|anywhere|anyway|exactly|only|once|twice|again|also|too'
  r'|please|instead|even|is|are|must|should|may|can|as|using|make|do|it|the|a'
  r'|an|your|you|this)\b)[A-Za-z]'
)


# After words and marks that are avoided in a part, or with an exception.
_PART = (
  r'(?:title|headline|subject|first|second|third|last|opening|closing|greeting'
  r'|final (?:word|line|verse|sentence|paragraph|stanza)|dialogue(?! you)'
  r'|(?:end|beginning|start)(?! (?:to|until)\b)|intro\w*|conclusion|chorus'
  r'|kingdom|world|town|head)\b'
)
_IN_PART = re.compile(
  r'[^.;\n]{0,12}\b(?:(?:in|after|before|at|from) (?:the |your |its )?'
  rf'{_PART}'
  r'|except|other than|unless|besides|apart from)',
  re.IGNORECASE,
)
_OF_PART = re.compile(
  r'\b(?:in|for) the (?:\w+ )?(?:title|headline|subject|dialogue|stanza|verse'
  r'|chorus|paragraph|line|sentence|greeting|intro\w*|ending|kingdom|world)s?\b'
  r'[^.;\n]{0,20}$|\bin a world\b[^.;\n]*$',
  re.IGNORECASE,
)
_SOMETIMES = re.compile(
  r'[^.;\n]{0,12}\b(?:too often|in a row|together|once per|each|every|per'
  r'|to (?:start|begin|open|end)|without|before|as (?:often|much)'
  r'|sparingly|rarely|seldom|most|hate|love|like)\b',
  re.IGNORECASE,
)


def _head(found: Found) -> str:
  """Returns the text of a match before its list."""
  return found.whole.partition(found.masked('list'))[0]


def _is_prose(found: Found) -> bool:
  """Returns whether a list without quotes may not be one."""
  if found.quotes('list'):
    return False
  ended = re.match(
    r'\s*(?:[^\w\s]|$|\n|(?:in|and|but|at|on|somewhere|once|twice|as|or|with|to'
    r'|exactly|only|is|are|must|should|may|can|does)\b|\d)',
    found.after,
  )
  named = ':' in _head(found) or _NAMED.search(found.masked('noun'))
  return not (named and ended)


def _some_do(found: Found) -> bool:
  """Returns whether some of the words of a list would do."""
  return bool(
    _SOME_OF.search(_head(found))
    or _ENDS_IN_SOME_OF.search(found.before)
    or re.search(r'\bor\b', found.masked('list'))
  )


def _listed(found: Found) -> list[str]:
  """Returns the words of a list, quoted or not."""
  words = found.quotes('list') or re.split(
    ',? (?:and|or) |, ?', found.text('list').strip(' :')
  )
  # American punctuation puts a comma inside of the quotes.
  return [word.strip().rstrip(',.;') for word in words if word.strip(' ,.;')]


def _used(found: Found, negated: bool) -> list[Fact]:
  """Returns rules about the words of a list."""
  words, times = _listed(found), found.masked('times').strip()
  if 'etc' in words:
    if not negated:
      return []
    words.remove('etc')
  if not words or _is_prose(found) or (not negated and _some_do(found)):
    return []
  partly = _IN_PART.match(found.after) or _OF_PART.search(found.before)
  if partly or _SOMETIMES.match(found.after):
    return []
  if not times or times.lower() == 'at all':
    if negated:
      return [Fact('keywords:forbidden_words', {'forbidden_words': words})]
    return [Fact('keywords:existence', {'keywords': words})]
  if negated:
    return []
  amount = amounts.read(times)
  # "At most use the word … twice"
  if bound := amount.bare and amounts.aside(
    f'{found.before}{found.masked("use")}'
  ):
    amount = amounts.read(f'{bound} {times}')
  return [
    fact
    for word in words
    for fact in related(
      'keywords:frequency', {'keyword': word}, 'frequency', 'relation', amount
    )
  ]


_SELDOM = re.compile(r'\b(?:rarely|seldom|sparingly)\s*$', re.IGNORECASE)


def _use(found: Found) -> list[Fact]:
  """Include the words "a" and "b"; do not use "c"."""
  negated = found.has('neg')
  # "Don't omit the word", "do not just use", "rarely use"
  if clauses.negates(found.before) or _SELDOM.search(found.before):
    return []
  named = found.has('noun') and found.has('times')
  if not negated and not found.has('use') and not named:
    return []
  if not found.has('noun'):
    # Without "the word", a quotation may be a title or an example.
    includes = re.match('inclu|contai|mentio|incorp', found.text('use').lower())
    if not found.quotes('list') or not (includes or negated):
      return []
    if re.match(r'\s*as\b', found.after):
      return []
    # "before and after" photos, a "Beatles"-style song
    if not found.has('times') and _NAMES_SOMETHING.match(found.after):
      return []
  return _used(found, negated)


def _appear(found: Found) -> list[Fact]:
  """The word "a" must appear twice."""
  if not (found.has('noun') or found.quotes('list')):
    return []
  if re.search(r'\b(?:letter|character|symbol)s?\s*$', found.before):
    return []
  if clauses.negates(found.before):
    return []
  if found.has('ban'):
    return _used(found, True)
  allowed = re.search('may|can', found.text('must').lower())
  limited = found.has('times') and amounts.read(found.masked('times')).high
  if allowed and not found.has('neg') and not limited:
    return []
  return _used(found, found.has('neg'))


# --- Letters ----------------------------------------------------------------

# "e, a common vowel" is one letter.
_BETWEEN = '(?:,? (?:and|or|nor) |, (?!an? (?!and|or)[a-z]))'
_ONE_LETTER = r'(?:<Q>|[^\s\w"]|[A-Za-z0-9](?!\w))'
_LETTER = (
  r'(?:letter|character|symbol)(?P<several>s)? '
  rf'(?P<letter>{_ONE_LETTER}(?(several)(?:{_BETWEEN}{_ONE_LETTER})*))(?!\w)'
)


def _letter(found: Found) -> list[Fact]:
  if _IN_PART.match(found.after) or _OF_PART.search(found.before):
    return []
  letters = found.masked('letter')
  negated = found.has('neg') or found.has('ban')
  if not negated and re.search(r'\bor\b', letters):
    return []
  if found.has('ban') or (found.has('neg') and not found.has('times')):
    amount = Amount(None, 0)
  elif found.has('times') and not found.has('neg'):
    amount = amounts.read(found.masked('times'))
  elif found.has('use') and not found.has('neg'):
    amount = Amount(1, None)
  else:
    return []
  listed = found.quotes('letter') or re.split(_BETWEEN, letters)
  return [
    fact
    for each in listed
    for fact in related(
      'keywords:letter_frequency',
      {'letter': each.strip()},
      'let_frequency',
      'let_relation',
      amount,
    )
  ]


def _hashtags(found: Found) -> list[Fact]:
  amount = found.amount()
  if amount.bare:
    amount = Amount(amount.low, None)
  return related(
    'keywords:letter_frequency',
    {'letter': '#'},
    'let_frequency',
    'let_relation',
    amount,
  )


# --- Marks ------------------------------------------------------------------

_RULE_OF_MARK = {
  'comma': 'punctuation:no_comma',
  'exclamation': 'punctuation:no_exclamation',
  'emoji|emoticon': 'punctuation:no_emoji',
  'clich': 'style:no_cliche',
}
_MARK = (
  '(?:commas?|exclamation (?:mark|point|sign)s?|exclamations?|emojis?'
  '|emoticons?|clich[eé]s?|question marks?|semi-?colons?|colons?|periods?'
  '|full stops?|hashtags?|dashes|hyphens|quotation marks?|apostrophes?)'
)
_MARKS = (
  rf'(?P<marks>{_MARK}(?:(?:,? (?:and|or|nor)|,) (?:any |no )?{_MARK})*)'
  r'(?![\w-]| splice)'
)


# After a mark that may be used, whatever was banned before it.  "No commas,
# dashes or emojis are allowed" bans them all.
_WELCOME = compiled(
  r'(?:,? though)?(?: (?:is|are))?(?: \w+)? (?:fine|ok|okay|good|welcome)\b'
)
_ALLOWED = compiled(
  r'(?: (?:is|are|can|may))?(?: \w+)? '
  r'(?:allowed|permitted|acceptable|be used)\b'
)
_NO = compiled(r'(?:no|zero)\b')


def _marks(found: Found) -> list[Fact]:
  marks, after = found.masked('marks').lower(), found.after
  allowed = _ALLOWED.match(after) and not _NO.match(found.whole)
  if ',' in marks and (allowed or _WELCOME.match(after)):
    marks = marks.rpartition(',')[0]
  if _IN_PART.match(found.after) or _OF_PART.search(found.before):
    return []
  return [
    Fact(name, {})
    for mark, name in _RULE_OF_MARK.items()
    if re.search(mark, marks)
  ]


# --- Beginnings and ends ----------------------------------------------------

_WITH = (
  '(?:(?:with|by|as|using|saying|the|this|following|exact|exactly|very|single'
  '|last|first|words?|phrase|sentence|line|text|statement|question|of|like'
  '|expression|quote|is|be|being|reads?|it|and|your|its|my|must|should|a|entire'
  '|whole|<REPLY>) ?)*:?\\s*'
)
_PHRASE = (
  r'(?P<phrase><Q>|(?:(?<=phrase: )|(?<=phrase:)|(?<=sentence: )'
  r'|(?<=exact phrase )|(?<=exactly like: ))'
  r'[^"\n]+)'
)


def _phrase(name: str, argument: str) -> Build:
  def build(found: Found) -> list[Fact]:
    phrase = found.quote('phrase') or found.quote('last')
    quoted = found.quotes('phrase') or found.quotes('last')
    # Without quotation marks it ends with its sentence.
    ends = '(?=No |Do not|Don|with no)' if quoted else '(?=[A-Z])'
    phrase = re.split(rf'(?<=[.!?]) {ends}', phrase)[0]
    if re.match(r'\s*(?:or|/) ?"', found.after):
      return []
    # A postscript's, or an asterisk of a highlight.
    if IS_MARKER.fullmatch(phrase) or not re.search(r'\w', phrase):
      return []
    return [Fact(name, {argument: phrase.strip()})]

  return build


# "All of her letters end with"
_USUAL = re.compile(
  r'\b(?:my|her|his|their|most|all|both)\b[^,.;]*\b(?:e-?mails|letters|poems'
  r'|songs|prayers|stories|posts)\s*$',
  re.IGNORECASE,
)


def _whole_order(found: Found) -> bool:
  nth = re.search(
    r'\bparagraph #?\w+ (?:\w+ )*$|of which $', found.before, re.IGNORECASE
  )
  usual = _USUAL.search(found.before)
  return whole(found) and order(found) and not nth and not usual


PATTERNS = (
  pattern(
    rf'(?P<neg>\b<NOT>\s+(?:ever |even |to )?)?(?:\b(?P<use><USE>)\s+)?'
    rf'(?:any of |either of |also )?(?P<noun>\b{_NOUN})?'
    rf':? ?{_LIST}(?! each)'
    rf'(?: in (?:it|(?:the|your)(?! {_PART}) (?:entire )?\w+))?{_TIMES}',
    _use,
    order,
  ),
  pattern(
    rf'(?:(?P<noun>\b{_NOUN}) ?)?{_LIST},?(?: {_NOUN})? (?:(?P<must><MUST> ?)?'
    r"(?P<neg>(?:not|n't) )?(?:only )?<APPEAR>"
    r'(?:(?: anywhere)? (?:in|throughout) (?:\w+ ){0,2}\w+)??'
    rf'{_TIMES}|(?P<ban><BANNED>))',
    _appear,
    anywhere,
  ),
  pattern(
    rf'(?P<noun>\b{_NOUN}) (?:<MUST> ?(?P<neg>not )<APPEAR>|(?P<ban><BANNED>))'
    rf'[^.:\n]{{0,30}}: ?{_LIST}',
    _appear,
    anywhere,
  ),
  pattern(
    r'(?P<neg>\b<NOT>\s+)?(?:\b(?P<use><USE>)\s+)?(?:any |the )?'
    + _LETTER
    + r"(?!,? (?:(?:<MUST> )?(?:n't |not )?(?:only )?<APPEAR>|<BANNED>))(?:"
    r' (?:anywhere|whatsoever))?'
    rf'(?: in your(?! {_PART}) (?:entire )?\w+)?{_TIMES}',
    _letter,
    order,
  ),
  pattern(
    _LETTER
    + r",? (?:(?P<use><MUST> ?)?(?P<neg>(?:not|n't) )?(?:only )?<APPEAR>"
    rf'(?: (?:in|throughout) (?:\w+ ){{0,2}}\w+)??{_TIMES}'
    r'|(?P<ban><BANNED>))',
    _letter,
    anywhere,
  ),
  pattern(
    r'(?P<times><AMOUNT>) (?:occurrences?|instances?) of (?:the )?' + _LETTER,
    _letter,
  ),
  pattern(r'(?P<amount><AMOUNT>) hashtags?\b', _hashtags),
  pattern(
    rf'\b(?:begin|start|open)(?:s|ning|ing)?(?: (?:off|out))? {_WITH}{_PHRASE}'
    r'|\b(?:first|opening) (?:words?|phrase|sentence|line)(?: (?:of|in) '
    rf'(?:the |your )?(?:entire )?<REPLY>)? (?:<MUST> ){_WITH}(?P<last><Q>)',
    _phrase('startend:start_checker', 'start_phrase'),
    _whole_order,
  ),
  pattern(
    r'\b(?:end|finish|conclud|clos|wrap|sign)(?:e?s|ing|e)?(?: up| off)? '
    rf'{_WITH}{_PHRASE}'
    r'|\b(?:last|final|closing) (?:words?|phrase|sentence|line)(?: (?:of|in) '
    rf'(?:the |your )?(?:entire )?<REPLY>)? (?:<MUST> ){_WITH}(?P<last><Q>)',
    _phrase('startend:end_checker', 'end_phrase'),
    _whole_order,
  ),
  pattern(
    rf'\b<NOT>\s+(?:(?:<USE>|the use of|any|an?|single|all|of|ever|it'
    rf'|to) )*{_MARKS}',
    _marks,
    order,
  ),
  pattern(rf'\b(?:no|zero|free (?:of|from))\s+(?:use of )?{_MARKS}', _marks),
  pattern(
    rf"\b{_MARKS} (?:(?:must|should|may|can|shall) ?(?:not|n't|never) <APPEAR>"
    '|<BANNED>)',
    _marks,
  ),
  pattern(r'\bcomma-free\b', fixed('punctuation:no_comma'), ours),
)
