"""Checks of verse in English and Chinese: lines, syllables and rhymes.

English pronunciations are from the CMU Pronouncing Dictionary, which we ship
with its notice; a word may have several, and any of them counts.  Chinese
rhymes are the thirteen classes of northern song (十三辙), applied to a
character's finals as given by `pypinyin`.
"""

import functools
import gzip
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlcw.rewards.rules import text as text_lib
from rlcw.rewards.rules.text import HAN_RUN, fold

_ASSETS = Path(__file__).parents[2] / 'data' / 'assets'
_DICTIONARY = _ASSETS / 'cmudict.dict.gz'
# Finals in one row rhyme.
_THIRTEEN = (
  'a ia ua',
  'o e uo io',
  'ie ve ê',
  'i v er',
  'u',
  'ai uai',
  'ei uei',
  'ao iao',
  'ou iou',
  'an ian uan van',
  'en in uen vn',
  'ang iang uang',
  'eng ing ueng ong iong',
)
_RHYMES = {
  final: finals.split()[0] for finals in _THIRTEEN for final in finals.split()
}
_HAIKU = 5, 7, 5
# Phonemes of a possessive 's after a final phoneme (boss's, cat's); else Z.
_POSSESSIVE = {
  **{hiss: ('IH0', 'Z') for hiss in ('S', 'Z', 'SH', 'ZH', 'CH', 'JH')},
  **{voiceless: ('S',) for voiceless in ('P', 'T', 'K', 'F', 'TH')},
}
# Limits beyond which a reply is not treated as verse, because looking up
# pronunciations takes time.
_MAX_LINE = 200  # characters
_MAX_LINES = 200


@functools.cache
def _cmudict() -> dict[str, list[list[str]]]:
  pronunciations: dict[str, list[list[str]]] = {}
  with gzip.open(_DICTIONARY, 'rt', encoding='utf-8') as file:
    for line in file:
      # `read(2) R EH1 D # past tense`: another pronunciation, and a comment.
      word, *phonemes = line.partition('#')[0].split()
      word = re.sub(r'\(\d+\)$', '', word)
      pronunciations.setdefault(word, []).append(phonemes)
  return pronunciations


def lines(reply: str) -> list[str]:
  """Lines that are not blank, nor just a 《title》 or <<title>>."""
  stripped = map(str.strip, reply.strip().split('\n'))
  return [
    line
    for line in stripped
    if line and not re.fullmatch(r'《.*》|<<.*>>|＜＜.*＞＞', line)
  ]


def pronunciations(word: str) -> list[list[str]]:
  """Pronunciations of an English word as phonemes; [] if unknown.

  Vowels end in a digit for their stress: 0 none, 1 primary, 2 secondary.
  """
  word = fold(word)
  # The dictionary has café and naïve without their accents.
  letters = unicodedata.normalize('NFD', word)
  bare = ''.join(c for c in letters if not unicodedata.combining(c))
  known = _cmudict().get(word) or _cmudict().get(bare, [])
  # Possessives that the dictionary lacks are derived from the noun.
  if not known and word.endswith("'s"):
    nouns = _cmudict().get(word[:-2], [])
    known = [[*noun, *_POSSESSIVE.get(noun[-1], ('Z',))] for noun in nouns]
  return known


def syllables(word: str) -> set[int]:
  """Returns the possible numbers of syllables of a word.

  Words that are not in the dictionary get their groups of vowels counted.
  """
  if re.fullmatch(HAN_RUN, word):
    return {1}
  word = fold(word)
  # A compound is looked up whole first, then by its parts.
  parts = [word] if pronunciations(word) else re.split("['\\-_]", word)
  totals = {0}
  for part in filter(None, parts):
    # Each vowel phoneme, marked by its stress digit, is a syllable.
    counts = {
      sum(phoneme[-1].isdigit() for phoneme in phonemes)
      for phonemes in pronunciations(part)
    }
    if not counts:
      # A final e is usually silent.
      vowels = re.findall('[aeiouy]+', re.sub('e$', '', part))
      counts = {max(len(vowels), 1)}
    totals = {total + count for total in totals for count in counts}
  return totals


def is_haiku(reply: str) -> bool:
  """Checks for three lines of 5, 7 and 5 syllables.

  A Han character is one syllable.  A line passes if any combination of its
  words' pronunciations has the right number.
  """
  verses = lines(reply)
  if len(verses) != len(_HAIKU) or max(map(len, verses)) > _MAX_LINE:
    return False
  for line, wanted in zip(verses, _HAIKU, strict=True):
    # A set of sums, as the combinations themselves would grow exponentially.
    totals = {0}
    for word in text_lib.words(line):
      totals = {total + n for total in totals for n in syllables(word)}
    if wanted not in totals:
      return False
  return True


def has_clauses(reply: str, num_lines: int, num_characters: int) -> bool:
  """Checks for `num_lines` runs of `num_characters` Han characters each.

  Punctuation or line ends separate runs: 床前明月光，疑是地上霜。 are two of
  five.  Quotation marks do not.  A 《title》 at the beginning, or on a line of
  its own, is not counted.
  """
  text = re.sub(
    r'\A\s*《[^《》\n]*+》|^[^\S\n]*《[^《》\n]*+》[^\S\n]*$',
    '',
    reply,
    flags=re.MULTILINE,
  )
  runs = re.findall(HAN_RUN, re.sub('[“”‘’「」『』《》〈〉"\']', '', text))
  return [*map(len, runs)] == [num_characters] * num_lines


# Vowels that differ before r in the dictionary alone: dear and here, poor, sure
# and more.
_MERGED = {'IH R': 'IY R', 'UH R': 'AO R', 'UW R': 'AO R'}
_BEFORE_R = re.compile(rf'\b(?:{"|".join(_MERGED)})\b')


def _endings(line: str) -> tuple[str, set[str]]:
  """Last word of a line, and its rhyme endings, one per pronunciation.

  Two words rhyme if they share an ending: a class of finals in Chinese, in
  English the phonemes from the last stressed vowel on.
  """
  # The last word is '' if the line has none.
  *_, word = itertools.chain([''], text_lib.words(line))
  if re.fullmatch(HAN_RUN, word):
    # Imported at first use: it loads a large dictionary.
    import pypinyin

    # `heteronym` gives all readings of a character.
    (finals,) = pypinyin.pinyin(
      word, style=pypinyin.Style.FINALS, heteronym=True
    )
    return word, {_RHYMES[each] for each in finals if each in _RHYMES}
  # The last part of a compound such as well-off rhymes.
  word = re.split('[-_]', fold(word))[-1]
  endings = set()
  for phonemes in pronunciations(word):
    stressed = [i for i, p in enumerate(phonemes) if p[-1] in '12']
    vowels = [i for i, p in enumerate(phonemes) if p[-1].isdigit()]
    start = (stressed or vowels or [0])[-1]
    # Without stress digits, so that main and secondary stress rhyme.
    ending = ' '.join(p.rstrip('012') for p in phonemes[start:])
    endings.add(_BEFORE_R.sub(lambda match: _MERGED[match[0]], ending))
    # At the end of a line the last syllable of melody may bear a rhyme.
    if phonemes[-1:] == ['IY0'] and len([v for v in vowels if v > start]) > 1:
      endings.add('IY')
  return word, endings


def rhymes(reply: str, scheme: str) -> bool:
  """Checks that lines with the same letter of the scheme rhyme.

  The scheme, such as AABB or XAXA (X marks free lines), applies to each stanza
  of as many lines.  Blank lines and titles are ignored; the last stanza must be
  complete.  A word does not rhyme with itself, and a word that is in no
  dictionary rhymes with none.
  """
  verses = lines(reply)
  if not 0 < len(verses) <= _MAX_LINES or max(map(len, verses)) > _MAX_LINE:
    return False
  if len(verses) % len(scheme):
    return False
  for first in range(0, len(verses), len(scheme)):
    stanza = verses[first : first + len(scheme)]
    for letter in {*scheme} - {'X'}:
      marked = zip(stanza, scheme, strict=True)
      ends = [_endings(line) for line, each in marked if each == letter]
      words = [word for word, _ in ends]
      # One ending common to all lines: pairwise rhymes by different
      # pronunciations of a word do not count.
      shared = set.intersection(*(endings for _, endings in ends))
      if len({*words}) < len(words) or not shared:
        return False
  return True


def is_acrostic(reply: str, letters: str) -> bool:
  """Checks that the lines' first letters or characters (藏头) spell a text."""
  # `zip_longest` pads with None, so extra or missing lines fail.
  firsts = itertools.zip_longest(
    _firsts(lines(reply)), _firsts(text_lib.plain(letters))
  )
  # Both are generators, and `all` stops at the first difference: a reply may
  # have very many lines.
  return all(actual == expected for actual, expected in firsts)


def _firsts(texts: Sequence[str]) -> Iterator[str]:
  """First letter or digit of each text that has one, folded."""
  for text in texts:
    if match := re.search(r'[^\W_]', text):
      # `yield from`: the fold of one letter may be two (ß).
      yield from fold(match[0])
