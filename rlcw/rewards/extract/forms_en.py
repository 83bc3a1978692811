"""English wordings of format, verse and manner."""

import re

from rlcw.rewards.extract import amounts
from rlcw.rewards.extract.english import (
  IS_MARKER,
  anywhere,
  compiled,
  order,
  pattern,
)
from rlcw.rewards.extract.facts import (
  Fact,
  Found,
  exactly,
  fixed,
  least,
)

# --- Parts of the reply -----------------------------------------------------

_EXACTLY = exactly('detectable_format:number_bullet_lists', 'num_bullets')


def _bullets(found: Found) -> list[Fact]:
  given = re.search(r'\b(?:these|those|the|following|my|our)\s*$', found.before)
  return [] if given else [*_EXACTLY(found)]


_ORDINALS = {
  word: n
  for n, word in enumerate(
    [
      'first',
      'second',
      'third',
      'fourth',
      'fifth',
      'sixth',
      'seventh',
      'eighth',
      'ninth',
      'tenth',
    ],
    1,
  )
} | {'last': -1, 'final': -1}
_NTH = (
  rf'(?:(?:the )?(?:very )?(?P<nth>{"|".join(_ORDINALS)}|\d+(?:st|nd|rd|th))'
  r' paragraph|(?:paragraph|paragraph number|number) #?(?P<number>\d+'
  r'|<NUMBER>))'
)
_WORD = r'(?:the )?(?:exact )?(?:word )?(?P<word><Q>|[A-Za-z][\w-]*)'


def _first_word(found: Found) -> list[Fact]:
  text = (found.masked('nth') or found.masked('number')).lower()
  digits = re.match(r'\d+', text)
  nth = (
    int(digits[0]) if digits else _ORDINALS.get(text) or amounts.number(text)
  )
  word = found.quote('word').rstrip('.,')
  return [Fact('_first_word', {'nth': nth, 'word': word})] if word else []


_GIVEN = compiled(r'\b(?:the|these|those|following|my|other)\s+$')


def _parts(found: Found) -> list[Fact]:
  """Returns a number of sections, which another fact may head or divide."""
  amount = found.amount()
  if not amount.low or _GIVEN.search(found.before):
    return []
  exact = amount.single is not None
  return [Fact('_parts', {'count': amount.low, 'exact': exact})]


def _heading(found: Found) -> list[Fact]:
  """Returns the name in the headings, and the number of what they head."""
  name = re.sub(r'[\s.]*(?:\d+|X|#|I)?$', '', found.quote('name')).strip()
  if not name:
    return []
  each = re.search(r'\b(?:each|every) ([a-z]+)', found.sentence, re.IGNORECASE)
  counted = each and found.counted(each[1])
  return [Fact('_heading', {'name': name, 'count': counted or 0})]


def _postscript(found: Found) -> list[Fact]:
  marker = found.text('marker') or found.text('short') or found.quote('quoted')
  # A note may be any text.
  if found.has('quoted') and not IS_MARKER.fullmatch(marker):
    return []
  return [
    Fact('detectable_content:postscript', {'postscript_marker': marker.strip()})
  ]


# --- Verse ------------------------------------------------------------------

_SCHEME = r'(?-i:[A-Z]{2,16}(?:[ ,-]+[A-Z]{2,16})*)'


def _scheme(found: Found) -> list[Fact]:
  scheme = found.text('scheme') or found.text('before')
  # Of the verses alone, or one of two
  if re.match(r'\W{0,2}(?: or\b| for the\b)', found.after):
    return []
  letters = re.sub('[^A-Z]', '', scheme.upper())
  return [Fact('poem:rhyme', {'scheme': letters})] if len(letters) < 17 else []


def _acrostic(found: Found) -> list[Fact]:
  letters = next(filter(None, map(found.quote, ('letters', 'named', 'spelt'))))
  return [Fact('poem:acrostic', {'letters': letters})]


_WHOLE_REPLY = compiled(
  r'\b(?:your(?: entire| whole| full)?|the (?:entire|whole|full)) <REPLY>'
  r'|\ball (?:the |your )?words\b'
)
_QUOTED_PART = compiled(
  r'\b(?:dialogues?|titles?|names?|speech|each|every|any|her|his|their'
  r'|words?|phrases?|terms?|lines?|sentences?)\b'
)


def _quotation(found: Found) -> list[Fact]:
  of_all = _WHOLE_REPLY.search(found.whole)
  if not of_all and _QUOTED_PART.search(found.whole):
    return []
  return [Fact('startend:quotation', {})]


def _clauses(found: Found) -> list[Fact]:
  lines, size = (amounts.number(found.masked(n)) for n in ('lines', 'size'))
  return [Fact('poem:clauses', {'num_lines': lines, 'num_characters': size})]


def _repeat(found: Found) -> list[Fact]:
  prompt = found.quote('prompt') if found.has('prompt') else ''
  where = found.masked('where').lower()
  return [Fact('_repeat', {'prompt': prompt, 'where': where})]


PATTERNS = (
  # --- Parts of the reply
  pattern(
    r'(?P<amount><AMOUNT>) (?:markdown |short |main |such )*(?:bullet(?:ed)?'
    r'(?: points?| items?)?s?)\b(?!-)(?P<post>)',
    _bullets,
  ),
  pattern(
    r'(?P<amount>(?:exactly )?<NUMBER>) (?!bullet)(?:\w+ ){1,8}?(?:using|as|in'
    r'|with) (?:markdown )?bullet points\b',
    _bullets,
  ),
  pattern(
    r'\bbegin (?P<amount>exactly <NUMBER>) of the lines with <Q>,? as bullet',
    _bullets,
  ),
  pattern(
    r'\bdouble[ -]ang(?:ular|le)[ -]brackets|<<[^<>\n]+>>'
    r'|\btitle\b[^.\n]{0,60}<< ?(?:and|\.\.\.|…)? ?>>',
    fixed('detectable_format:title'),
    anywhere,
  ),
  pattern(
    r'\b(?:highlight|italici[sz]e|emphasi[sz]e)\w*(?: (?!words)\w+){0,5}? '
    r'(?P<amount><AMOUNT>)(?! words| times)',
    least('_highlights', 'count'),
  ),
  pattern(
    r'(?P<amount><AMOUNT>) (?:\w+ ){0,2}?(?:sections?|passages?|parts?|phrases?'
    r')(?: \w+){0,4}? (?:highlighted|italici[sz]ed|in italics)',
    least('_highlights', 'count'),
  ),
  pattern(
    r'(?P<amount><AMOUNT>) (?:italic|highlighted|bold)(?:i[sz]ed)? '
    r'(?:text )?(?:sections?|parts?|passages?|texts?|phrases?)',
    least('_highlights', 'count'),
  ),
  pattern(
    r'\bput \*\w+\* around (?P<amount><AMOUNT>) passages?',
    least('_highlights', 'count'),
  ),
  pattern(
    r'\b(?:highlight|italici[sz]e) (?:(?:some|the|a few|key|important|main) )+'
    r'(?:\w+ ){0,2}?(?:sections?|parts?|passages?|phrases?|words?|points?'
    r'|texts?|sentences?|ideas?|terms?|names?|titles?)\b',
    fixed('_highlights', count=1),
  ),
  pattern(
    r'(?P<amount><AMOUNT>) (?:[\w-]+ )?(?:sections?|parts?|chapters?|stanzas?'
    r'|verses?|paragraphs?|acts?|scenes?)\b',
    _parts,
  ),
  pattern(
    r'\b(?:mark|label|start|begin|head|number|indicat|denot|titl|nam)(?:s|k?e?d'
    r'|l?ed|e|l?ing|ning|s)?\b[^.\n"]{0,60}?(?:with|by|as|from|like|them'
    r'|headings)[: ]\s*(?P<name>[A-Za-z][A-Za-z]*) (?:X|1|#|I|N)(?!\w)',
    _heading,
  ),
  pattern(
    r'\b(?:headed|head them|headings numbered from|marked with'
    r'|(?:start|begin|mark|label)\w*[^.\n"]{0,50}?(?:section|part'
    r'|each|every)[^.\n"]{0,20}(?:with|as|by)|(?:sections|parts'
    r'|chapters):) (?P<name><Q>)',
    _heading,
  ),
  pattern(
    r'(?<!\*)\*\*\*(?!\*)|\b(?:3|three) (?:\w+ )?ast?erisks?',
    fixed('_divider'),
    anywhere,
  ),
  pattern(
    r'(?<!\*)\*{6}(?!\*)|\b(?:6|six) (?:\w+ )?ast?erisks?',
    fixed('combination:two_responses'),
    anywhere,
  ),
  # Any things, for `_divider`: "two versions".
  pattern(
    r'(?P<amount>(?:exactly )?<NUMBER>) (?:[\w-]+ ){0,2}?(?!days|years|weeks'
    r'|hours|minutes|dollars|times|words|sentences|lines|characters|asterisks'
    r'|bullets?|points|placeholders|symbols)[a-z]{3,}s\b',
    exactly('_things', 'count'),
  ),
  # Two things, such as an essay and a poem, for `_divider`.
  pattern(
    r'\bseparat\w+ (?:your |the )?[\w ]{1,30}? and (?:the )?[\w ]{1,40}?'
    r' (?:by|with|using)\b',
    fixed('_parts', count=2, exact=True),
  ),
  pattern(
    rf'{_NTH}(?: of (?:the|your) \w+)?(?: of which)? (?:<MUST> )?'
    rf'(?:start|begin)s? with {_WORD}',
    _first_word,
    anywhere,
  ),
  pattern(rf'\b(?:start|begin) {_NTH} with {_WORD}', _first_word, anywhere),
  pattern(
    rf'\bfirst word of {_NTH} (?:is|must be|should be|has to be) {_WORD}',
    _first_word,
    anywhere,
  ),
  pattern(
    r'(?P<amount><AMOUNT>) (?:\w+ )?placeholders?\b(?P<post>(?: <AFTER>)?)',
    least('detectable_content:number_placeholders', 'num_placeholders'),
  ),
  pattern(
    r'\b(?:post ?script|note)\b[^.\n"]{0,60}?"?(?P<marker><MARKER>)'
    r'|\b(?:add|with|include|opens with|starting with) (?:an? )?'
    r'(?P<short><MARKER>)|\b(?:post ?script'
    r'|note)\b[^.\n"]{0,40}?(?P<quoted><Q>)',
    _postscript,
  ),
  # --- The whole reply
  pattern(
    r'\buse (?:valid |the )?JSON\b|\b(?:wrap|format|output|respond|answer'
    r'|reply|want|writ|put|present|list'
    r'|should|must|be|provid|return|us|giv|only|contain|generat|creat)\w*\b'
    r'(?! how)[^.\n?]{0,60}?\b(?:in|as|using|into|with|be|use|valid|a) '
    r'(?:an? |the |valid |pure |proper |well-formed |single )*JSON\b'
    r'(?! (?:file|parser|schema|data|librar))',
    fixed('detectable_format:json_format'),
    order,
  ),
  pattern(
    r'\b(?:wrap|put|enclos|surround|plac|stand)\w*[^.\n]{0,60}?\b(?:in|with'
    r'|inside|within|by|between|last,) (?:in )?(?:a pair of )?(?:double[ -]quot'
    r'(?:es\b|ation marks|e marks)|quotation marks)'
    r'|\bdouble[ -]quot(?:es|ation marks)(?: \w+){0,4} around',
    _quotation,
    order,
  ),
  pattern(
    r'\brepeat(?:ing)? (?:(?:the|this|exact|entire|whole|full|all|original|my'
    r'|below|above),? )*(?:request|question|prompt|sentence|text|instructions?'
    r'|query|message)\b[^.\n"]{0,30}?(?P<where>above|below|following|itself)?'
    r'(?:(?= )|(?=[.,:;\n(])|$)(?:[^"\n]{0,60}: (?P<prompt><Q>))?',
    _repeat,
  ),
  pattern(
    r'\b(?:copy|restate|reproduce|rewrite) (?:(?:the|this|exact|entire|whole|my'
    r'|below|above) )*(?:request|question|prompt)(?P<where>)[^.\n"]{0,20}'
    r'(?:word[ -](?:for|by)[ -]word|verbatim|exactly|without)',
    _repeat,
  ),
  pattern(
    r'\b(?:repeat|first,? repeat|give this request|copying this request)'
    r'(?P<where>)[^".\n]{0,60}(?:: ?|\b(?:request|question|prompt|sentence'
    r'|message|query|this|following) ?'
    r'|(?=<Q> (?:word|verbatim|exactly|without)))(?P<prompt><Q>)',
    _repeat,
  ),
  # --- Verse
  pattern(
    r'\b(?:write|compose|create|make|be|give|as|form of|into|generate)'
    r'(?: (?:me|it|this))? an? (?:\w+ ){0,2}haiku\b',
    fixed('poem:haiku'),
    order,
  ),
  pattern(
    r'\b(?:scheme|pattern)(?: of| is|:| should be| must be)? "?(?P<scheme>'
    rf'{_SCHEME})(?!\w)|(?<![\w-])(?P<before>{_SCHEME})'
    r' (?:rhyme|rhyming) (?:scheme|pattern)',
    _scheme,
  ),
  pattern(
    r'\bacrostic\b[^".\n]{0,50}?(?:of|for|on|spell\w*|with|:) (?:the \w+ )?'
    r'(?P<letters><Q>|(?-i:[A-Z]{2,}))'
    r'|\bacrostic(?: poem)? (?:using|from) the (?:name|word) (?P<named><Q>)'
    r'(?! at\b)|\bfirst letters[^".\n]{0,40}?spell\w*'
    r'(?: out)?(?: the \w+)? (?P<spelt><Q>)',
    _acrostic,
  ),
  pattern(
    r'(?P<lines><NUMBER>) lines,?(?: of| with| each of)* (?P<size><NUMBER>)'
    r' Chinese characters',
    _clauses,
  ),
  # --- Manner
  pattern(
    r'\b<NOT>\s+(?:ever )?(?:mention|say|reveal|speak|refer|state|disclose)\w*'
    r'[^.\n]{0,30}?\b(?:AI|language model|artificial intelligence)\b',
    fixed('style:no_self_reference'),
    order,
  ),
  pattern(
    r'\b(?:with(?:out| no)|no|not include|not add|skip)(?: \w+){0,4}?'
    r' (?:introduction|intro|preamble|explanation|commentary)s?\b'
    r'(?! (?:of|at the end|how|why|for)\b)'
    r'|\bneither introduce\b'
    r'|\b(?:just|only) (?:write|give|output|return|provide) the (?:poem|story'
    r'|piece|letter|text|song|limerick|haiku|essay)\b',
    fixed('style:piece_alone'),
    order,
  ),
  pattern(
    r'\bnot repeat any lines?|\bnot have the same line twice'
    r'|\b(?:no|any|without) repeat(?:ed|ing) lines?|\bevery line must differ'
    r'|\bno (?:two lines|line)[^.\n]{0,20}(?:same|repeats?|repeated|twice)',
    fixed('style:no_repeated_line'),
  ),
)
