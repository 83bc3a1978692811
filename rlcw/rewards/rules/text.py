"""Units of English and Chinese text: words, sentences, paragraphs, lines.

Every function takes time linear in the length of the text.
"""

import re
from collections.abc import Iterator, Sequence

# Iteration mark, zero, extension A, unified and compatibility ideographs, and
# the supplementary planes.
_HAN = '々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af'
# Letters and digits but Han.  Chinese has no spaces between words, so a Han
# character also ends a word of another script: the keyword Python occurs in
# 我用Python写诗.
ALNUM = rf'[^\W_{_HAN}]'
HAN_RUN = f'[{_HAN}]+'
# Apostrophes, hyphens, underscores and combining accents join a word's parts.
WORD = re.compile(rf"{ALNUM}+(?:['’\-‐‑_\u0300-\u036f]{ALNUM}+)*")
_ABBREVIATIONS = 'Mr Mrs Ms Dr Prof Rev Gen Col Capt Lt St Mt Jr Sr vs cf etc'
# Dots that do not end a sentence.
_INNER_DOT = re.compile(
  # Matching the dot first and looking back from it is much faster than matching
  # the text before it.
  r'\.(?<=\w\.)(?:(?=[a-z])'  # example.com, the first dot of e.g.
  r'|(?<=\d\.)(?=\d)'  # 3.5
  r'|(?= )(?:(?<=^\d\.)|(?<=^\d\d\.))'  # the number of a list item
  # Initials: J. K. Rowling, U.S., p.m., the last dot of e.g.  I is left out: as
  # the pronoun it may end a sentence.
  r'|(?<=\b[A-HJ-Za-hj-z]\.)'
  + ''.join(rf'|(?<=\b(?i:{word})\.)' for word in _ABBREVIATIONS.split())
  + ')',
  re.MULTILINE,
)


def total(runs: str, text: str) -> int:
  """Total number of characters in all matches of the pattern."""
  return sum(map(len, re.findall(runs, text)))


def fold(text: str) -> str:
  """Normalises case, apostrophes and outer white space for comparisons."""
  # Not `lower`: casefold also makes ß equal to ss.
  return text.strip().casefold().replace('’', "'")


def words(text: str) -> list[str]:
  """Words in order: Han characters, and runs of other letters and digits."""
  return re.findall(f'[{_HAN}]|{WORD.pattern}', text)


def count_words(reply: str) -> int:
  """Counts Han characters and other words; don't and well-off are one each."""
  # Same as len(words(reply)), without a list of single characters.
  return total(HAN_RUN, reply) + len(WORD.findall(reply))


def count_characters(reply: str) -> int:
  """Counts code points that are not white space; punctuation is included."""
  return sum(map(len, reply.split()))


def count_sentences(reply: str) -> int:
  """Counts runs of text up to . ! ? … 。 ！ ？ or the end.

  A run counts only if it has a letter or digit, which a closing quote lacks.
  Dots in numbers, initials and abbreviations do not end a sentence.
  """
  return len(re.findall('[^\\W_][^.!?…。！？]*', _INNER_DOT.sub(' ', reply)))


def paragraphs(reply: str) -> list[str]:
  """Blocks of lines, separated by blank lines."""
  text = reply.strip()
  return re.split(r'\n\s*\n', text) if text else []


def count_lines(reply: str) -> int:
  """Counts lines that are not blank."""
  return len(re.findall(r'\S[^\n]*', reply))


def whole_word(word: str) -> str:
  """Pattern that matches the folded word, but not as a part of another word."""
  pattern = re.escape(word)
  # Chinese has no word boundaries to look for.
  if re.search(HAN_RUN, word):
    return pattern
  return rf'(?<!{ALNUM}){pattern}(?!{ALNUM})'


def mentions(reply: str, words: Sequence[str]) -> Iterator[int]:
  """Number of occurrences of each word, ignoring case."""
  text = fold(reply)
  for word in map(fold, words):
    # Most words do not occur, and `in` finds that out much faster than a regex.
    yield len(re.findall(whole_word(word), text)) if word in text else 0
