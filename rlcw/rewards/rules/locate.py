"""Places in a reply where it breaks a rule.

A check says that a reply has a forbidden word; `locate` says where.  Most rules
that can point forbid something or limit it: without the located spans, such a
reply keeps its rule (`REMOVABLE`).  Rules that miss something point nowhere.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import regex

from rlcw.data.characters import BREAK
from rlcw.rewards.rules import checks, habits, languages
from rlcw.rewards.rules import text as text_lib
from rlcw.rewards.rules.registry import VERIFIERS

Span = tuple[int, int]  # first and last character (exclusive)
# Removing a span may join what stood beside it to another match, as the word
# 甲乙 in 甲甲乙乙; so the rest is searched again, but not for ever.
_ROUNDS = 8


class _Mapped(NamedTuple):
  """A normalised text, and the span of the given one of each character."""

  text: str
  spans: list[Span]

  def span(self, start: int, end: int) -> Span:
    return self.spans[start][0], self.spans[end - 1][1]

  def find(self, pattern: str) -> Iterator[Span]:
    for match in regex.finditer(pattern, self.text):
      if match.end() > match.start():
        yield self.span(*match.span())

  def replaced(self, pattern: regex.Pattern, by: str = '') -> '_Mapped':
    """The text with one character, or none, for each match of a pattern."""
    letters, spans, end = [], [], 0
    for match in pattern.finditer(self.text):
      letters.append(self.text[end : match.start()] + by)
      spans.extend(self.spans[end : match.start()])
      spans.extend([self.span(*match.span())] * len(by))
      end = match.end()
    letters.append(self.text[end:])
    return _Mapped(''.join(letters), spans + self.spans[end:])

  def after(self, start: int) -> list[Span]:
    """The rest of the text from a character on, if there is one."""
    if start >= len(self.spans):
      return []
    return [self.span(start, len(self.spans))]


def _mapped(text: str, normalise: Callable[[str], str]) -> _Mapped:
  """Normalises a text character by character, as a reader counts them."""
  letters, spans = [], []
  for cluster in regex.finditer(r'\X', text):
    part = normalise(cluster[0])
    # As in `text.fold`, one space stands for several.
    if part == ' ' and letters and letters[-1] == ' ':
      continue
    letters.extend(part)
    spans.extend([cluster.span()] * len(part))
  return _Mapped(''.join(letters), spans)


def _fold(cluster: str) -> str:
  # `fold` strips, which is for whole texts.
  if cluster.isspace():
    return '\n' if '\n' in text_lib.plain(cluster) else ' '
  return text_lib.fold(cluster)


def _plain(text: str) -> _Mapped:
  return _mapped(text, text_lib.plain)


def _compatible(text: str) -> _Mapped:
  return _mapped(text, text_lib.compatible)


def _folded(text: str) -> _Mapped:
  return _mapped(text, _fold)


def _unmarked(text: str) -> _Mapped:
  bare = _folded(text)
  for pattern, by in text_lib.HIDING:
    bare = bare.replaced(pattern, by)
  return bare


# --- Finders: (reply, arguments) -> spans of what breaks the rule -----------

_Finder = Callable[..., list[Span]]


def _pattern(
  pattern: str, normalise: Callable[[str], _Mapped] = _plain
) -> _Finder:
  return lambda reply: [*normalise(reply).find(pattern)]


def _words(reply: str, words: list[str]) -> list[Span]:
  texts = [
    text.replaced(text_lib.APART) for text in (_folded(reply), _unmarked(reply))
  ]
  wanted = (text_lib.joined(text_lib.fold(word)) for word in words)
  return [
    span
    for pattern in map(text_lib.whole_word, wanted)
    for span in max(([*text.find(pattern)] for text in texts), key=len)
  ]


def _rest(starts: list[int], limit: float, text: _Mapped) -> list[Span]:
  """The text from the first unit beyond the limit on."""
  return text.after(starts[int(limit)]) if len(starts) > limit else []


def _paragraph_starts(text: str) -> list[int]:
  pattern = r'(?:\A|\n\s*\n)\s*+(?=\S)'
  return [match.end() for match in regex.finditer(pattern, text)]


def _line_starts(text: str) -> list[int]:
  return [match.start() for match in regex.finditer(r'\S[^\n]*', text)]


def _character_starts(text: str) -> list[int]:
  return [
    match.start()
    for match in regex.finditer(r'\X', text)
    if text_lib.count_characters(match[0])
  ]


def _at_most(starts: Callable[[str], list[int]]) -> _Finder:
  def find(
    reply: str, at_least: int = 0, at_most: float = math.inf
  ) -> list[Span]:
    del at_least
    text = _plain(reply)
    return _rest(starts(text.text), at_most, text)

  return find


def _less_than(starts: Callable[[str], list[int]], number: str) -> _Finder:
  def find(reply: str, relation: str, **given: int) -> list[Span]:
    if relation != 'less than':
      return []
    text = _plain(reply)
    return _rest(starts(text.text), given[number] - 1, text)

  return find


def _beyond(spans: list[Span], relation: str, number: int) -> list[Span]:
  return spans[number - 1 :] if relation == 'less than' else []


def _keyword(
  reply: str, keyword: str, frequency: int, relation: str
) -> list[Span]:
  return _beyond(_words(reply, [keyword]), relation, frequency)


def _letter(
  reply: str, letter: str, let_frequency: int, let_relation: str
) -> list[Span]:
  text = _mapped(reply, lambda part: text_lib.compatible(part).lower())
  wanted = regex.escape(text_lib.compatible(letter).lower())
  return _beyond([*text.find(wanted)], let_relation, let_frequency)


def _capital_words(
  reply: str, capital_frequency: int, capital_relation: str
) -> list[Span]:
  text = _compatible(reply)
  spans = [
    text.span(*match.span())
    for match in text_lib.WORD.finditer(text.text)
    if len(match[0]) > 1 and match[0].isupper()
  ]
  return _beyond(spans, capital_relation, capital_frequency)


def _letters(wrong: Callable[[str], bool]) -> _Finder:
  def find(reply: str) -> list[Span]:
    text = _plain(reply)
    return [text.spans[n] for n, char in enumerate(text.text) if wrong(char)]

  return find


def _script(reply: str, script: str) -> list[Span]:
  text = _plain(reply)
  return [
    text.span(*span) for span in languages.other_script(text.text, script)
  ]


def _repeated_lines(reply: str) -> list[Span]:
  spans, seen = [], set()
  for match in regex.finditer(f'[^{BREAK}]+[{BREAK}]?', reply):
    line = text_lib.fold(match[0])
    if line and line in seen:
      spans.append(match.span())
    seen.add(line)
  return spans


def _talk(reply: str) -> list[Span]:
  """The first line that announces the piece, the last that explains it."""
  line = rf'[^{BREAK}]*\S[^{BREAK}]*[{BREAK}]?'
  lines = [match.span() for match in regex.finditer(line, reply)]
  spans = []
  for start, end in {*lines[:1], *lines[-1:]}:
    if not habits.is_piece_alone(reply[start:end]):
      spans.append((start, end))
  return spans


def _start(reply: str, start_phrase: str) -> list[Span]:
  """As many characters as the phrase has, in its place."""
  text = _mapped(reply, _fold)
  first = len(text.text) - len(text.text.lstrip())
  last = min(first + len(text_lib.fold(start_phrase)), len(text.text))
  return [text.span(first, last)] if last > first else []


def _end(reply: str, end_phrase: str) -> list[Span]:
  text = _mapped(reply, _fold)
  last = len(text.text.rstrip())
  first = max(last - len(text_lib.fold(end_phrase)), 0)
  return [text.span(first, last)] if last > first else []


_REMOVE: dict[str, _Finder] = {
  'length:words': _at_most(text_lib.word_starts),
  'length:characters': _at_most(_character_starts),
  'length:sentences': _at_most(text_lib.sentence_starts),
  'length:paragraphs': _at_most(_paragraph_starts),
  'length:lines': _at_most(_line_starts),
  'length_constraints:number_words': _less_than(
    text_lib.word_starts, 'num_words'
  ),
  'length_constraints:number_sentences': _less_than(
    text_lib.sentence_starts, 'num_sentences'
  ),
  'keywords:forbidden_words': lambda reply, forbidden_words: _words(
    reply, forbidden_words
  ),
  'keywords:frequency': _keyword,
  'keywords:letter_frequency': _letter,
  'punctuation:no_comma': _pattern(checks.COMMAS),
  'punctuation:no_exclamation': _pattern(checks.EXCLAMATIONS),
  'punctuation:no_emoji': _pattern(
    checks.EMOJI, lambda reply: _mapped(reply, str)
  ),
  'change_case:english_lowercase': _letters(
    lambda char: char.isupper() or unicodedata.category(char) == 'Lt'
  ),
  'change_case:english_capital': _letters(
    lambda char: char.islower() or unicodedata.category(char) == 'Lt'
  ),
  'change_case:capital_word_frequency': _capital_words,
  'style:no_self_reference': _pattern(habits.SELF.pattern, _unmarked),
  'style:no_cliche': _pattern(habits.CLICHES, _unmarked),
  'style:piece_alone': _talk,
  'style:no_repeated_line': _repeated_lines,
  'style:script': _script,
}
# Rules that a reply keeps without its located spans, if anything is left of it
# and the rule asks for nothing else (such as a least length).
REMOVABLE = frozenset(_REMOVE)
# Something else should stand in these spans.
_REPLACE: dict[str, _Finder] = {
  'startend:start_checker': _start,
  'startend:end_checker': _end,
}


def locate(
  instruction_id: str, reply: str, kwargs: Mapping[str, Any]
) -> list[Span]:
  """Returns the spans of a reply that break a rule, in order.

  Args:
    instruction_id: of a valid rule (`constraints.validate`).
    reply: any text.
    kwargs: the arguments of the rule.

  Returns:
    Spans of characters that do not touch.  None for a rule that the reply
    keeps, or that cannot point.
  """
  given = {name: value for name, value in kwargs.items() if value is not None}
  verifier = VERIFIERS.get(instruction_id)

  def kept(text: str) -> bool:
    assert verifier is not None
    return verifier.follows(text, text_lib.plain(text), given, benchmark=False)

  find = _REMOVE.get(instruction_id) or _REPLACE.get(instruction_id)
  if find is None or kept(reply):
    return []
  if instruction_id in _REPLACE:
    return find(reply, **given)
  left = [*range(len(reply))]  # places of the characters not yet removed
  for _ in range(_ROUNDS):
    spans = find(''.join(reply[n] for n in left), **given)
    for start, end in joined(spans)[::-1]:
      del left[start:end]
    if not spans or kept(''.join(reply[n] for n in left)):
      break
  removed = sorted({*range(len(reply))} - {*left})
  return joined([(n, n + 1) for n in removed])


def joined(spans: Iterable[Span]) -> list[Span]:
  """Spans in order, those that touch or overlap as one."""
  merged: list[Span] = []
  for start, end in sorted(spans):
    if merged and start <= merged[-1][1]:
      merged[-1] = merged[-1][0], max(end, merged[-1][1])
    else:
      merged.append((start, end))
  return merged
