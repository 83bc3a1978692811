"""Diversity of a model's replies.

A policy that games a scorer repeats whatever scores well: within a reply,
between the replies to one brief, or between briefs.  No single number detects
all three.

The more text, the more is repeated in it, so that shorter replies seem more
diverse by distinct-n and the compression ratio; self-BLEU depends on length
too.  Compare them only between texts of as many words, which `cut` makes.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from rlcw.rewards.rules import text as text_lib

# Chinese puts no spaces between words, so characters count.
_WORD, _CHARACTER = re.compile(r'\S+'), re.compile(r'\S')
# Overlap of two replies of one class; docs/evaluation.md has its agreement with
# NoveltyBench's own classes.
SAME_CLASS = 0.4


def cut(
  runs: Sequence[Sequence[str]], language: str = 'en'
) -> tuple[list[list[str]], int]:
  """Cuts replies so that all runs have replies of the same numbers of words.

  The longest reply of each run is cut after as many words as the shortest of
  these has, the second longest likewise, and so on; of replies of one length
  the earlier one comes first.  A run then has as many words, and word pairs, as
  any other: about as many as the run whose replies are shortest had.

  Args:
    runs: the same number of replies of each run.
    language: of the replies; in Chinese (`zh`) characters are counted.

  Returns:
    The runs with their replies cut, and the number of words of each run.
  """
  unit = _CHARACTER if language == 'zh' else _WORD
  # where each word of each reply ends
  ends = [[[w.end() for w in unit.finditer(t)] for t in run] for run in runs]
  by_rank = zip(
    *(sorted(map(len, of_run), reverse=True) for of_run in ends), strict=True
  )
  least = [min(lengths) for lengths in by_rank]
  shorter = []
  for run, of_run in zip(runs, ends, strict=True):
    ranks = sorted(range(len(run)), key=lambda n, e=of_run: -len(e[n]))
    words = dict(zip(ranks, least, strict=True))
    shorter.append(
      [
        text[: of_run[n][words[n] - 1]] if words[n] else ''
        for n, text in enumerate(run)
      ]
    )
  return shorter, sum(least)


def distinct(texts: Sequence[str], n: int, language: str = 'en') -> float:
  """Distinct-n: distinct n-grams over all n-grams, 0 to 1 (arXiv 1510.03055).

  The n-grams are of words, or of characters in Chinese (`zh`), which puts no
  spaces between words.  0 where no text is long enough for an n-gram.  It falls
  as texts grow: `cut` them first.
  """

  def split(text: str) -> list[str]:
    words = text.lower().split()
    return list(''.join(words)) if language == 'zh' else words

  # n-grams never cross from one text into the next
  grams = [
    tuple(words[i : i + n])
    for words in map(split, texts)
    for i in range(len(words) - n + 1)
  ]
  return len(set(grams)) / max(len(grams), 1)


def self_bleu(groups: Sequence[Sequence[str]], language: str = 'en') -> float:
  """Mean BLEU of each reply against the others of its group, 0 to 1.

  Texygen's measure (arXiv 1802.01886), computed with sacreBLEU's sentence
  score.  Higher means less diverse.  NaN where no group has two replies.  It
  depends on the length of replies (`cut` them first) and on their number.
  """
  # A slogan may have no 4-gram, which would make its BLEU 0: the effective
  # order leaves out the orders that a reply is too short for.
  bleu = BLEU(
    effective_order=True, tokenize='zh' if language == 'zh' else '13a'
  )
  scores = [
    bleu.sentence_score(text, [*group[:i], *group[i + 1 :]]).score / 100
    for group in groups
    for i, text in enumerate(group)
    if len(group) > 1
  ]
  return float(np.mean(scores)) if scores else np.nan


def compression_ratio(texts: Sequence[str]) -> float:
  """Size of all texts in bytes over their compressed size (arXiv 2403.00553).

  Higher is more repetitive.  It grows with the amount of text: `cut` it first.
  """
  # a reply may contain lone surrogates, which strict UTF-8 cannot encode
  data = '\n'.join(texts).encode('utf-8', 'backslashreplace')
  return len(data) / len(zlib.compress(data, 9))


def overlap(a: Counter[str], b: Counter[str]) -> float:
  """F1 of the words that two texts share, 0 to 1; 1 where both are empty."""
  size = a.total() + b.total()
  return 2 * (a & b).total() / size if size else 1.0


def classes(texts: Sequence[str]) -> list[int]:
  """Classes of replies that say the same, numbered as they first occur.

  A reply joins the first class whose first reply it overlaps with by at least
  `SAME_CLASS`, else it begins a class.  Their number is NoveltyBench's
  "distinct" (arXiv 2504.05228), where a trained classifier decides.  A Han
  character is a word.
  """
  firsts: list[Counter[str]] = []
  found = []
  for text in texts:
    words = Counter(text_lib.words(text_lib.fold(text)))
    alike = (n for n, f in enumerate(firsts) if overlap(words, f) >= SAME_CLASS)
    number = next(alike, len(firsts))
    if number == len(firsts):
      firsts.append(words)
    found.append(number)
  return found


def vendi(features_NxD: np.ndarray) -> float:
  """Vendi score: effective number of distinct rows, 1 to N (arXiv 2210.02410).

  The exponential of the entropy of the eigenvalues of K / N, where K `[N, N]`
  is the matrix of cosines between rows.  Rows of zeros count as equal to each
  other.  It grows with N, so compare only groups of the same size.
  """
  norm_Nx1 = np.linalg.norm(features_NxD, axis=-1, keepdims=True)
  unit_NxD = features_NxD / np.maximum(norm_Nx1, 1e-12)
  kernel_NxN = unit_NxD @ unit_NxD.T
  # the cosine of two zero rows is undefined: set it to 1
  empty_N = norm_Nx1[:, 0] < 1e-12
  kernel_NxN[np.ix_(empty_N, empty_N)] = 1
  # rounding makes some eigenvalues negative; clipped, they add nothing below
  value_N = np.linalg.eigvalsh(kernel_NxN / len(kernel_NxN)).clip(min=1e-12)
  return float(np.exp(-(value_N * np.log(value_N)).sum()))
