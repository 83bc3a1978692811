"""What a text is made of: words, sentences, paragraphs, lines.

Every count takes time linear in the text.
"""

import re
from collections.abc import Iterator, Sequence

_HAN = '々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af'
# Chinese sets no space between words, so a Han character also bounds a word
# of another script: the keyword Python occurs in 我用Python写诗.
ALNUM = rf'[^\W_{_HAN}]'
HAN_RUN = f'[{_HAN}]+'
WORD = re.compile(rf"{ALNUM}+(?:['’\-‐‑_\u0300-\u036f]{ALNUM}+)*")
_ABBREVIATIONS = 'Mr Mrs Ms Dr Prof Rev Gen Col Capt Lt St Mt Jr Sr vs cf etc'
_INNER_DOT = re.compile(
  # Looking back from a literal dot is far faster than looking ahead to it.
  r'\.(?<=\w\.)(?:(?=[a-z])'  # example.com, the first dot of e.g.
  r'|(?<=\d\.)(?=\d)'  # 3.5
  r'|(?= )(?:(?<=^\d\.)|(?<=^\d\d\.))'  # the number of a list item
  # J. K. Rowling, U.S., p.m., the last dot of e.g.; I is the pronoun.
  r'|(?<=\b[A-HJ-Za-hj-z]\.)'
  + ''.join(rf'|(?<=\b(?i:{word})\.)' for word in _ABBREVIATIONS.split())
  + ')',
  re.MULTILINE,
)


def total(runs: str, text: str) -> int:
  """How many characters all runs of a pattern have together."""
  return sum(map(len, re.findall(runs, text)))


def fold(text: str) -> str:
  """Text to compare: case, apostrophes and outer white space are the same."""
  return text.strip().casefold().replace('’', "'")


def words(text: str) -> list[str]:
  """Each Han character, and each run of other letters and digits, in order."""
  return re.findall(f'[{_HAN}]|{WORD.pattern}', text)


def count_words(reply: str) -> int:
  """A Han character, or a run of other letters and digits (don't, well-off)."""
  return total(HAN_RUN, reply) + len(WORD.findall(reply))


def count_characters(reply: str) -> int:
  """A code point that is not white space; punctuation counts."""
  return sum(map(len, reply.split()))


def count_sentences(reply: str) -> int:
  """A run with a letter or digit in it up to . ! ? … 。 ！ ？ or the end.

  The dots of numbers, initials and abbreviations end nothing. Whatever follows
  an end, a closing quote too, starts a sentence only with a letter or digit.
  """
  return len(re.findall('[^\\W_][^.!?…。！？]*', _INNER_DOT.sub(' ', reply)))


def paragraphs(reply: str) -> list[str]:
  """Blocks of lines set apart by blank lines."""
  text = reply.strip()
  return re.split(r'\n\s*\n', text) if text else []


def count_lines(reply: str) -> int:
  """A line with something on it."""
  return len(re.findall(r'\S[^\n]*', reply))


def whole(word: str) -> str:
  """A pattern of the folded word that letters and digits do not adjoin."""
  pattern = re.escape(word)
  if re.search(HAN_RUN, word):
    return pattern
  return rf'(?<!{ALNUM}){pattern}(?!{ALNUM})'


def mentions(reply: str, words: Sequence[str]) -> Iterator[int]:
  """How often each word occurs, in upper or lower case."""
  text = fold(reply)
  for word in map(fold, words):
    # The plain search, far faster, settles most words that do not occur.
    yield len(re.findall(whole(word), text)) if word in text else 0
