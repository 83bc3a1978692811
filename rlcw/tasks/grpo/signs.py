"""Signs of shortcuts in the replies of a step, which the monitors compare.

All are counted in characters without white space, because Chinese has no spaces
between words.  Ten characters are two English words or a Chinese clause:
shorter runs recur in any long text.

Letters: P briefs, G replies to each, N runs of ten characters.
"""

from collections.abc import Sequence

import numpy as np

_GRAM = 10  # characters
# Characters of a reply that are searched for a phrase, at either end: long
# replies have more phrases in common by chance.
_ENDS = 200
# An odd number of 64 bits, the golden ratio's, by whose powers they are hashed.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_POWERS = _FACTOR ** np.arange(_GRAM, dtype=np.uint64)
# Marks that prose of any kind is full of, in English and in Chinese.
_PLAIN = frozenset('.,;:?\'"-()‘’“”–—…。，、；：？「」『』（）《》')


def _letters(text: str) -> str:
  return ''.join(text.split())


def _grams(text: str) -> np.ndarray:
  """Hashes `[N]` of a text's 10-grams of characters, in their order.

  Long replies have millions of them in a step, too many for sets of strings.
  """
  codes = _letters(text).encode('utf-32-le', 'surrogatepass')
  code = np.frombuffer(codes, np.uint32).astype(np.uint64)
  if len(code) < _GRAM:
    return code[:0]
  # Unsigned arithmetic wraps around.
  return np.lib.stride_tricks.sliding_window_view(code, _GRAM) @ _POWERS


def _grams_of_ends(text: str) -> np.ndarray:
  """Hashes `[N]` of the different 10-grams at a text's beginning and end."""
  letters = _letters(text.casefold())
  ends = [letters]
  if len(letters) > 2 * _ENDS:
    ends = [letters[:_ENDS], letters[-_ENDS:]]
  return np.unique(np.concatenate([*map(_grams, ends)]))


def repeated(text: str) -> float:
  """Share of a text's 10-grams of characters that repeat an earlier one.

  A loop of any period shows.  Unlike a compression ratio this is 0 for a text
  without repetition, however short.
  """
  gram_N = _grams(text)
  return 1 - len(np.unique(gram_N)) / len(gram_N) if len(gram_N) else 0.0


def copied(text: str, prompt: str) -> float:
  """Share of a text's 10-grams that its prompt has, in any case."""
  gram_N = _grams(text.casefold())
  found_N = np.isin(gram_N, _grams(prompt.casefold()))
  return float(found_N.mean()) if len(gram_N) else 0.0


def marks(text: str) -> float:
  """Share of a text's characters that are marks for effect, or of a layout.

  Such as exclamation marks, emoji, asterisks and bullets: neither letters nor
  numbers nor the plain marks of prose.
  """
  letters = _letters(text)
  showy = sum(not (c.isalnum() or c in _PLAIN) for c in letters)
  return showy / max(len(letters), 1)


def phrase(replies: Sequence[Sequence[str]]) -> float:
  """Share of replies that have the 10-gram which is common to most of them.

  Of a long reply the first and the last 200 characters count.
  Of each 10-gram the group that has it most does not count, since a brief may
  ask for words that all replies to it then have.

  Args:
    replies: to each of P briefs, one or more.

  Returns:
    The largest share among the replies to the other P − 1 briefs; NaN for fewer
    than two briefs.
  """
  if len(replies) < 2:
    return float('nan')
  # By group: its different 10-grams, and the number of replies that have each.
  groups = [
    np.unique(
      np.concatenate([_grams_of_ends(text) for text in group]),
      return_counts=True,
    )
    for group in replies
  ]
  gram, count = (np.concatenate(each) for each in zip(*groups, strict=True))
  size = np.repeat([*map(len, replies)], [len(found) for found, _ in groups])
  _, place = np.unique(gram, return_inverse=True)
  # The group that has a 10-gram most often, and its number of replies.
  order = np.argsort(count, kind='stable')
  most, left_out = np.zeros((2, len(gram)), int)
  most[place[order]], left_out[place[order]] = count[order], size[order]
  others = np.bincount(place, count, len(gram)) - most
  asked = sum(map(len, replies)) - left_out
  return float((others / asked).max(initial=0.0))
