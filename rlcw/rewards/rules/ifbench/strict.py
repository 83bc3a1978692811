"""IFBench's rules for rewards, where the benchmark's own checks are too easy.

A policy learns to exploit its reward, and the benchmark lets pass a reply
without the thing that it counts, a keyword within another word, and marks in
any place.  Each docstring states the condition under which a check returns
true.  Rules that are not here have one check for both.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

import regex

from rlcw.rewards.rules import text as text_lib
from rlcw.rewards.rules.ifbench import counts, customs, formats, units, words
from rlcw.rewards.rules.text import fold, mentions

_BULLET = re.compile(r'^[^\S\n]*\*(?!\*)', re.MULTILINE)
_SUB_BULLET = re.compile(r'^[^\S\n]*-', re.MULTILINE)
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_EMOJI = regex.compile(
  r'(?V1)(?:[\p{Emoji}--[0-9#*\p{Regional_Indicator}]][\ufe0f\u200d]?'
  r'|\p{Regional_Indicator}{2})'
)
_HEADINGS = 'My Answer:', 'My Conclusion:', 'Future Outlook:'


def _rises(values: Sequence[int]) -> bool:
  return len(values) > 1 and all(
    one < other for one, other in itertools.pairwise(values)
  )


def keywords_multiple(
  reply: str,
  keyword1: str,
  keyword2: str,
  keyword3: str,
  keyword4: str,
  keyword5: str,
) -> bool:
  """The keywords occur exactly 1, 2, 3, 5 and 7 times, as whole words."""
  keywords = keyword1, keyword2, keyword3, keyword4, keyword5
  return (*mentions(reply, keywords),) == counts.TIMES


def conjunctions(reply: str, small_n: int) -> bool:
  """At least `small_n` different coordinating conjunctions occur."""
  found = {*text_lib.words(fold(' '.join(counts.conjunctions_of(reply))))}
  return len(found) >= small_n


def unique_word_count(reply: str, N: int) -> bool:
  """At least `N` different words occur; marks alone are none."""
  return len({*text_lib.words(fold(reply))}) >= N


def word_count_range(reply: str, min_words: int, max_words: int) -> bool:
  """The number of words is in the range; don't is one."""
  return min_words <= text_lib.count_words(reply) <= max_words


def words_japanese(reply: str, N: int) -> bool:
  """Every `N`th word is Japanese, and there are `N` or more."""
  return len(reply.split()) >= N and counts.words_japanese(reply, N)


def sentence_balance(reply: str) -> bool:
  """As many sentences end with . as with ? and as with !, at least one each."""
  return min(counts.ends(reply)) > 0 and counts.sentence_balance(reply)


def sentence_type(reply: str) -> bool:
  """Twice as many sentences end with . as with ?, of which there is one."""
  return counts.ends(reply)[1] > 0 and counts.sentence_type(reply)


def sentence_words(reply: str) -> bool:
  """Three sentences, of one length in characters, share no word."""
  parts = [{*units.bare_words(p.lower())} for p in units.sentences(reply)]
  apart = len(set().union(*parts)) == sum(map(len, parts))
  return apart and counts.sentence_words(reply)


def stop_words(reply: str, percentage: float) -> bool:
  """No more than `percentage` of the words are stop words; there is a word."""
  return bool(units.runs(reply)) and counts.stop_words(reply, percentage)


def alliteration_increment(reply: str) -> bool:
  """The longest alliteration grows from each of two or more sentences on."""
  return _rises(
    [
      max(counts.alliterations(part), default=1)
      for part in units.sentences(reply)
    ]
  )


def increment(reply: str, small_n: int) -> bool:
  """Each of two or more sentences is `small_n` words longer than the last."""
  lengths = [
    text_lib.count_words(part)
    for part in units.sentences(reply)
    if re.search(r'\w', part)
  ]
  return len(lengths) > 1 and all(
    other - one == small_n for one, other in itertools.pairwise(lengths)
  )


def keyword(reply: str, word: str, N: int) -> bool:
  """The `N`th sentence has the word, as a whole word."""
  parts = units.sentences(reply)
  return len(parts) >= N and any(mentions(parts[N - 1], [word]))


def emoji(reply: str) -> bool:
  """Each sentence ends with an emoji, or the next one begins with it.

  A flag is one, and so is an emoji with a skin tone.
  """
  parts = [units.without_marks(part).strip() for part in units.sentences(reply)]
  starts = [part[:2] for part in parts[1:]] + ['']
  return all(
    _EMOJI.search(part[-2:]) or _EMOJI.match(start)
    for part, start in zip(parts, starts, strict=True)
  )


def line_indent(reply: str) -> bool:
  """Each of two or more lines is indented more than the one before it."""
  lines = '\n'.join(line for line in reply.split('\n') if line.strip())
  return '\n' in lines and formats.line_indent(lines)


def separated(reply: str, sep: str) -> bool:
  """At least two lines begin with the separator."""
  lines = [line.strip() for line in reply.split('\n')]
  return sum(line.startswith(sep) and line != sep for line in lines) > 1


def newline(reply: str) -> bool:
  """Each line that is not blank has one word."""
  lines = reply.split('\n')
  return all(len(line.split()) <= 1 for line in lines)


def no_bullets_bullets(reply: str) -> bool:
  """Two sentences that end with a dot or more, then two lines with * or more.

  Blank lines may be anywhere.
  """
  before, *bullets = _BULLET.split(reply)
  ended = [part for part in units.sentences(before) if part.endswith('.')]
  return (
    len(ended) >= 2
    and len(bullets) >= 2
    and all('\n' not in bullet.strip() for bullet in bullets)
  )


def output_template(reply: str) -> bool:
  """The template's headings, in order, each with a text after it."""
  text, parts = reply.strip(), []
  for heading in _HEADINGS:
    before, found, text = text.partition(heading)
    if not found:
      return False
    parts.append(before)
  return not parts[0] and all(map(str.strip, [*parts[1:], text]))


def parentheses(reply: str) -> bool:
  """Brackets that match are nested five deep, and all are closed."""
  return formats.are_nested(reply, until_closed=True)


def quote_unquote(reply: str) -> bool:
  """After every quotation a word follows, and there is one."""
  parts = re.sub('[“”]', '"', reply).split('"')
  return (
    len(parts) > 2
    and len(parts) % 2 == 1
    and all(re.search(r'\w', part) for part in parts[2::2])
  )


def quotes(reply: str) -> bool:
  """Double and single quotes are nested three deep; apostrophes are none."""
  plain = re.sub('[‘’]', "'", re.sub('[“”]', '"', reply))
  return formats.quotes(_APOSTROPHE.sub('', plain))


def thesis(reply: str) -> bool:
  """An HTML element in italics is not blank, and text follows it."""
  for tag in ('i', 'em'):
    inside, closed, after = reply.partition(f'<{tag}>')[2].partition(
      f'</{tag}>'
    )
    if closed and inside.strip() and after.strip():
      return True
  return False


def repeat_change(reply: str, prompt_to_repeat: str) -> bool:
  """The prompt with another first word and nothing else."""
  changed = fold(reply).split()[:1] != fold(prompt_to_repeat).split()[:1]
  return changed and customs.repeat_change(reply, prompt_to_repeat)


def sub_bullets(reply: str) -> bool:
  """There is a line with *, and after each a line with - before the next."""
  _, *bullets = _BULLET.split(reply)
  return bool(bullets) and all(map(_SUB_BULLET.search, bullets))


def no_consecutive(reply: str) -> bool:
  """No word begins with the letter with which the one before it begins.

  A dash divides words; a hyphen does not.
  """
  found = text_lib.words(fold(reply))
  return all(one[0] != other[0] for one, other in itertools.pairwise(found))


def repeats(reply: str, small_n: int) -> bool:
  """No word occurs more than `small_n` times; a dash divides words."""
  times = Counter(text_lib.words(fold(reply)))
  return max(times.values(), default=0) <= small_n


def last_first(reply: str) -> bool:
  """Each of two or more sentences begins with the last word of the one before.

  Marks around the words do not matter.
  """
  parts = [text_lib.words(fold(part)) for part in units.sentences(reply)]
  parts = [part for part in parts if part]
  return len(parts) > 1 and all(
    one[-1] == other[0] for one, other in itertools.pairwise(parts)
  )


def palindrome(reply: str) -> bool:
  """At least 10 different palindromes of 5 or more letters occur."""
  found = {
    w for w in units.bare_words(reply.lower()) if words.is_long_palindrome(w)
  }
  return len(found) >= words.LEAST_PALINDROMES


def paragraph_last_first(reply: str) -> bool:
  """Each paragraph ends with its first word, and has more than that word."""
  lines = [text_lib.words(fold(line)) for line in reply.split('\n')]
  return any(lines) and all(
    len(line) > 1 and line[0] == line[-1] for line in lines if line
  )


def words_position(reply: str, keyword: str) -> bool:
  """The second word and the last but one are the keyword; marks are none."""
  found = text_lib.words(fold(reply))
  return len(found) > 3 and found[1] == found[-2] == fold(keyword)
