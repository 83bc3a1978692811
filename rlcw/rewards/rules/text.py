"""Units of English and Chinese text: words, sentences, paragraphs, lines.

Every function takes time linear in the length of the text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import regex

from rlcw.data.characters import visible
from rlcw.rewards.rules import han

# Iteration mark, zero, extension A, unified and compatibility ideographs, and
# the supplementary planes.
_HAN = '々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af'
HAN_RUN = f'[{_HAN}]+'
# Letters and digits but Han, with the marks that stand on them.  Chinese has no
# spaces between words, so a Han character also ends a word of another script:
# the keyword Python occurs in 我用Python写诗.
_FIRST = rf'(?![{_HAN}])[\p{{L}}\p{{N}}]'
ALNUM = rf'(?:(?![{_HAN}])[\p{{L}}\p{{N}}\p{{M}}])'
# Apostrophes, hyphens and underscores join a word's parts.
WORD = regex.compile(rf"{_FIRST}{ALNUM}*+(?:['’＇\-‐‑－_]{_FIRST}{ALNUM}*+)*+")
# Scripts without spaces between words, or between a word and its particles.
_UNSPACED = (
  r'[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}'
  r'\p{Myanmar}]'
)
# A character beside which no other word can begin or end.
INNER = rf'(?:(?!{_UNSPACED})[\p{{L}}\p{{N}}\p{{M}}])'
# Of an argument, or of all texts of a list together, in characters.
LONGEST_TEXT = 10_000
_ABBREVIATIONS = 'Mr Mrs Ms Dr Prof Rev Gen Col Capt Lt St Mt Jr Sr vs cf etc'
# Dots that do not end a sentence.
_INNER_DOT = re.compile(
  # Matching the dot first and looking back from it is much faster than matching
  # the text before it.
  r'\.(?<=\w\.)(?:(?=[a-z])'  # example.com, the first dot of e.g.
  r'|(?<=\d\.)(?=\d)'  # 3.5
  # the number of a list item, such as `1. A` or `1.祝`
  rf'|(?=[ {_HAN}])(?:(?<=^\d\.)|(?<=^\d\d\.))'
  # Initials: J. K. Rowling, U.S., p.m., the last dot of e.g.  I is left out: as
  # the pronoun it may end a sentence.
  r'|(?<=\b[A-HJ-Za-hj-z]\.)'
  + ''.join(rf'|(?<=\b(?i:{word})\.)' for word in _ABBREVIATIONS.split())
  + ')',
  re.MULTILINE,
)
# Full stops, question and exclamation marks of all scripts, and the tilde that
# ends a friendly line in Chinese.
_SENTENCE = regex.compile(
  r'[\p{L}\p{N}](?:[^\p{STerm}…~～]|[~～]++(?![^\S\n]*+(?:\n|\Z)))*+'
)
_FLOOD = regex.compile(r'(\p{M}{30})\p{M}++')
_FLAG = regex.compile('[\U0001f1e6-\U0001f1ff]{2}')
# Marks that Unicode joins with no letter of theirs: strokes through a word, or
# the towers on a text that is glitched.
_LOOSE = regex.compile(r'[\p{Me}[\p{M}&&\p{Script=Inherited}]]', regex.V1)
# Between Han characters these hide no word.
APART = regex.compile(
  rf'(?<=[{_HAN}])(?:[ \-|·•‧・]|\p{{Emoji_Presentation}})(?=[{_HAN}])'
)
# Between single letters, of which there are three or more: l-o-v-e.
_SPELLED = regex.compile(
  rf'(?<=(?<!{INNER})\p{{L}})[ \-.·](?=\p{{L}}[ \-.·]\p{{L}}(?!{INNER}))'
  rf'|(?<=(?<!{INNER})\p{{L}}[ \-.·]\p{{L}})[ \-.·](?=\p{{L}}(?!{INNER}))'
)
# Markdown's and HTML's emphasis; a mark between spaces is another.
_EMPHASIS = regex.compile(
  r'</?\w{1,6}>|(?<=[^\s*_~`])[*_~`]++|(?<![*_~`])[*_~`]++(?=\S)'
)
# The break of a line within a word: hap-\npy.
_HYPHENATED = regex.compile(r'(?<=\p{L}{2})-\n ?(?=\p{L}{2})')
# The break of a line between words that a space would part.
_SINGLE_BREAK = regex.compile(
  rf'(?<=[^\s{_HAN}]) ?\n ?(?=\S)|(?<=[{_HAN}]) ?\n ?(?=[^\s{_HAN}])'
)
# Marks that hide no phrase in a folded text, and their replacements.
HIDING = (
  (_EMPHASIS, ''),
  (_HYPHENATED, ''),
  (_SINGLE_BREAK, ' '),
  (_SPELLED, ''),
)
# Typographic quotes and hyphens, and their plain forms.
_PLAIN_FORMS = str.maketrans('‘’ʼ“”„‟‐–', '\'\'\'""""--')
# Letters that look like Latin ones and that NFKC leaves: Cyrillic, Greek and
# Armenian ones, small capitals, and those on black discs and squares.  Of small
# letters only, so that both cases of a word become the same.
_LOOKALIKES = str.maketrans(
  'асԁеһіјкмнорԛѕтвѵԝхуүαενικορτυχγϳօսոհɑɡı',
  'acdehijkmhopqstbvwxyyaevikoptuxyjounhagi',
) | str.maketrans(
  'ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ',
  'abcdefghijklmnoprstuvwyz',
)
for _first in 0x1F150, 0x1F170:
  _LOOKALIKES |= {_first + n: chr(ord('a') + n) for n in range(26)}


def total(runs: str, text: str) -> int:
  """Total number of characters in all matches of the pattern."""
  return sum(map(len, re.findall(runs, text)))


def plain(text: str) -> str:
  """The text as a reader sees it: its visible characters, in NFC.

  Of more than 30 accents on one letter, which no language has, 30 are kept.
  """
  # Normalisation would take quadratic time on a flood of accents.
  return unicodedata.normalize('NFC', _FLOOD.sub(r'\1', visible(text)))


def compatible(text: str) -> str:
  """The plain text with full-width letters, digits and marks narrowed: NFKC."""
  return unicodedata.normalize('NFKC', plain(text))


def fold(text: str) -> str:
  """Normalises a text for comparisons.

  Texts are equal whatever their case, outer white space, number of spaces
  between words, width of characters, composition of accents, shape of quotes
  and hyphens, invisible characters, and script: traditional Chinese equals
  simplified.  So are letters that look the same in another script, and those
  with marks that belong to none.
  """
  # Not `lower`: casefold also makes ß equal to ss.  It may decompose, so the
  # text is normalised again.
  folded = unicodedata.normalize('NFKC', compatible(text).casefold())
  for table in (_PLAIN_FORMS, _LOOKALIKES, han.simplified()):
    folded = folded.translate(table)
  return re.sub(r'[^\S\n]+', ' ', _LOOSE.sub('', folded)).strip()


def is_text(value: object) -> bool:
  """Returns whether a value is a text of bounded size that shows something."""
  return (
    isinstance(value, str) and len(value) <= LONGEST_TEXT and fold(value) != ''
  )


def words(text: str) -> list[str]:
  """Words in order: Han characters, and runs of other letters and digits."""
  return regex.findall(f'[{_HAN}]|{WORD.pattern}', text)


def ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
  """Runs of `order` words, in order."""
  return [tuple(words[at : at + order]) for at in range(len(words) - order + 1)]


def word_starts(text: str) -> list[int]:
  """Places of the first characters of all words, see `words`."""
  pattern = f'[{_HAN}]|{WORD.pattern}'
  return [match.start() for match in regex.finditer(pattern, text)]


def count_words(reply: str) -> int:
  """Counts Han characters and other words; don't and well-off are one each."""
  # Same as len(words(reply)), without a list of single characters.
  return total(HAN_RUN, reply) + len(WORD.findall(reply))


def count_characters(reply: str) -> int:
  """Counts what a reader takes for one character; punctuation is included.

  A letter with its accents, or an emoji of several code points, is one
  (Unicode's grapheme clusters).  White space and invisible characters are none.
  """
  # A flag is a pair of letters.  In a long row of them the search for the end
  # of each would begin at the row's start.
  clusters = Counter(regex.findall(r'\X', _FLAG.sub('F', reply)))
  return sum(
    times for cluster, times in clusters.items() if visible(cluster).strip()
  )


def count_sentences(reply: str) -> int:
  """Counts runs of text up to . ! ? … 。 ！ ？ or the end.

  A ~ at a line's end and the marks of other scripts end a sentence too.  A run
  counts only if it has a letter or digit, which a closing quote lacks.  Dots in
  numbers, initials and abbreviations do not end a sentence.
  """
  return len(sentence_starts(reply))


def sentence_starts(text: str) -> list[int]:
  """Places of the first letters of all sentences, see `count_sentences`."""
  # A space for a dot: places stay.
  sentences = _SENTENCE.finditer(_INNER_DOT.sub(' ', text))
  return [match.start() for match in sentences]


def paragraphs(reply: str) -> list[str]:
  """Blocks of lines, separated by blank lines."""
  text = reply.strip()
  return re.split(r'\n\s*\n', text) if text else []


def count_lines(reply: str) -> int:
  """Counts lines that are not blank."""
  return len(re.findall(r'\S[^\n]*', reply))


def whole_word(word: str) -> str:
  """Pattern of `regex` for the folded word, if not a part of another word.

  In scripts that do not put spaces between words it may be, and beside an end
  of it that is no letter: a dash, an emoji.
  """
  pattern = regex.escape(word)
  if regex.search(_UNSPACED, word):
    return pattern
  before = rf'(?<!{INNER})' if regex.match(INNER, word) else ''
  after = rf'(?!{INNER})' if regex.search(rf'{INNER}\Z', word) else ''
  return before + pattern + after


def joined(text: str) -> str:
  """Removes single spaces and middle dots between Han characters."""
  return APART.sub('', text)


def mentions(reply: str, words: Sequence[str]) -> Iterator[int]:
  """Number of occurrences of each word; see `fold`.

  A space or a dot between Han characters hides no word: 快 乐 is 快乐.
  """
  text = joined(fold(reply))
  for word in (joined(fold(word)) for word in words):
    # Most words do not occur, and `in` finds that out much faster than a regex.
    yield len(regex.findall(whole_word(word), text)) if word in text else 0


def unmarked(folded: str) -> str:
  """Removes marks that hide no phrase in a folded text: a **testament** to.

  Emphasis, single breaks between and within words, and marks between the
  letters of a word that is spelled out.
  """
  for pattern, by in HIDING:
    folded = pattern.sub(by, folded)
  return folded


def shown_mentions(reply: str, words: Sequence[str]) -> list[int]:
  """Number of occurrences of each word, with or without marks; the larger."""
  bare = mentions(reply, words)
  shown = mentions(unmarked(fold(reply)), words)
  return [max(counts) for counts in zip(bare, shown, strict=True)]
