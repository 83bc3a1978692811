"""Diversity as a reward: what a reply says that no other of its group says.

A policy that is rewarded for writing alone ends in one way of writing.  The
score of a reply is its number of different n-grams that no other reply to the
brief has, as a share of its n-grams, scaled within the group to 0 for the least
and 1 for the most.  (Source: DPWriter, arXiv 2601.09609, with n of 2, 3 and 4,
which divides by the words: long replies, with more n-grams per word, then are
the newest.)

It is a part of a sum (`parts`), where DPWriter multiplies it with a reward,
which must not be negative for that.  Rules come first in either case: a reply
that differs from the others by breaking a rule has a negative advantage.

Letters: P briefs, G replies to each.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlcw.rewards.rules import text as text_lib

ORDERS = 2, 3, 4


def novelty(replies: Sequence[str]) -> np.ndarray:
  """Scores the replies to one brief `[G]`, from 0 to 1.

  Words are compared by `text.fold`; a Han character is a word.  All scores are
  0 if all replies are as new.
  """
  words = [text_lib.words(text_lib.fold(reply)) for reply in replies]
  grams = [
    [gram for order in ORDERS for gram in text_lib.ngrams(each, order)]
    for each in words
  ]
  different = [*map(set, grams)]
  count = Counter(gram for each in different for gram in each)
  new_G = np.array(
    [
      sum(count[gram] == 1 for gram in each) / max(len(all_), 1)
      for each, all_ in zip(different, grams, strict=True)
    ]
  )
  spread = new_G.max() - new_G.min()
  return (new_G - new_G.min()) / spread if spread else np.zeros(len(new_G))
