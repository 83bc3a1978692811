"""IFBench's rules about single words (`words:*`).

Each docstring states the condition under which a check returns true.
"""

import itertools
import string
from collections import Counter

from rlcw.rewards.rules import poetry
from rlcw.rewards.rules.ifbench.units import (
  MARKS,
  bare_words,
  sentences,
  tokens,
)

_CONSONANTS = frozenset(string.ascii_lowercase) - frozenset('aeiou')
LEAST_PALINDROMES, _LONG = 10, 5


def alphabet(reply: str) -> bool:
  """Each word begins with the letter after that of the word before it."""
  words = bare_words(reply)
  first = words[0][0].lower() if words else ''
  if not first or first not in string.ascii_lowercase:
    return False
  start = string.ascii_lowercase.index(first)
  letters = itertools.islice(
    itertools.cycle(string.ascii_lowercase), start, None
  )
  return all(
    word[0].lower() == letter
    for word, letter in zip(words, letters, strict=False)
  )


def consonants(reply: str) -> bool:
  """Each word has two consonants in a row; y is one."""
  return all(
    any({*pair} <= _CONSONANTS for pair in itertools.pairwise(word))
    for word in reply.lower().split()
  )


def keywords_specific_position(
  reply: str, keyword: str, n: int, m: int
) -> bool:
  """The mth token of the nth sentence is the keyword."""
  parts = sentences(reply)
  found = tokens(parts[n - 1]) if n <= len(parts) else []
  return m <= len(found) and found[m - 1] == keyword


def last_first(reply: str) -> bool:
  """Each sentence begins with the word that ends the one before it.

  A mark right after the first word counts as a part of it.
  """
  outer = MARKS + ' '
  parts = [part.lower() for part in sentences(reply)]
  ends = [part.rstrip(outer).split()[-1:] for part in parts]
  starts = [part.lstrip(outer).split()[:1] for part in parts]
  return all(
    end and end == start for end, start in zip(ends, starts[1:], strict=False)
  )


def no_consecutive(reply: str) -> bool:
  """No word begins with the letter with which the one before it begins."""
  words = bare_words(reply.lower())
  return all(one[0] != other[0] for one, other in itertools.pairwise(words))


def odd_even_syllables(reply: str) -> bool:
  """Words with odd and even numbers of syllables alternate."""
  words = bare_words(reply.lower())
  # A word with several pronunciations may be both.
  known = {
    word: {count % 2 for count in poetry.syllables(word)} for word in {*words}
  }
  parities = [known[word] for word in words]
  return any(
    all((place + first) % 2 in parity for place, parity in enumerate(parities))
    for first in range(2)
  )


def palindrome(reply: str) -> bool:
  """At least 10 words of 5 or more characters read the same backwards.

  A word may be counted more than once.
  """
  found = filter(is_long_palindrome, bare_words(reply.lower()))
  return len([*found]) >= LEAST_PALINDROMES


def is_long_palindrome(word: str) -> bool:
  """Checks for a word of 5 or more characters that is one backwards too."""
  return len(word) >= _LONG and word == word[::-1]


def paragraph_last_first(reply: str) -> bool:
  """Each line that is not blank ends with the word that begins it."""
  lines = [
    line.strip(MARKS + ' ').split() for line in reply.lower().split('\n')
  ]
  return all(words[0] == words[-1] for words in lines if words)


def prime_lengths(reply: str) -> bool:
  """The length of every word is a prime number."""
  return all(
    _is_prime(length) for length in {len(word) for word in bare_words(reply)}
  )


def _is_prime(number: int) -> bool:
  return number > 1 and all(
    number % divisor for divisor in range(2, int(number**0.5) + 1)
  )


def repeats(reply: str, small_n: int) -> bool:
  """No word occurs more than `small_n` times; case is ignored."""
  counts = Counter(bare_words(reply.lower()))
  return max(counts.values(), default=0) <= small_n


def vowel(reply: str) -> bool:
  """One paragraph, with three of the vowels a, e, i, o and u or fewer."""
  text = reply.strip().lower()
  return '\n' not in text and len({*text} & {*'aeiou'}) <= 3


def words_position(reply: str, keyword: str) -> bool:
  """The second token and the last but one are the keyword."""
  found = tokens(reply)
  return len(found) > 1 and found[1] == found[-2] == keyword
