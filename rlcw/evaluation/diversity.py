"""How unlike each other a model's replies are.

A policy that games a scorer repeats what the scorer likes: within a reply,
between replies to one brief, or between briefs.  No one number sees all three.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU


def distinct(texts: Sequence[str], n: int, language: str = 'en') -> float:
  """Share of n-grams of words that are different (arXiv 1510.03055).

  Of Chinese (`zh`), which does not part words, n-grams of characters.
  """

  def split(text: str) -> list[str]:
    words = text.lower().split()
    return list(''.join(words)) if language == 'zh' else words

  grams = [
    tuple(words[i : i + n])
    for words in map(split, texts)
    for i in range(len(words) - n + 1)
  ]
  return len(set(grams)) / max(len(grams), 1)


def self_bleu(groups: Sequence[Sequence[str]], language: str = 'en') -> float:
  """Mean BLEU of each reply against the others of its group, 0 to 1.

  Texygen's measure (arXiv 1802.01886), by sacreBLEU's sentence score; higher
  is more alike.  NaN where no group has two replies.
  """
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
  """Bytes of all texts over their bytes when compressed (arXiv 2403.00553).

  Higher is more repetitive.  It grows with the amount of text, so that only
  samples of like size compare.
  """
  whole = '\n'.join(texts).encode('utf-8', 'backslashreplace')
  return len(whole) / len(zlib.compress(whole, 9))


def vendi(features_NxD: np.ndarray) -> float:
  """The effective number of different rows, 1 to N (arXiv 2210.02410).

  The exponential of the entropy of the eigenvalues of K / N, where K holds the
  cosines between rows; two rows that are all zero count as the same.
  """
  norm_Nx1 = np.linalg.norm(features_NxD, axis=-1, keepdims=True)
  unit_NxD = features_NxD / np.maximum(norm_Nx1, 1e-12)
  kernel_NxN = unit_NxD @ unit_NxD.T
  empty_N = norm_Nx1[:, 0] < 1e-12
  kernel_NxN[np.ix_(empty_N, empty_N)] = 1
  value_N = np.linalg.eigvalsh(kernel_NxN / len(kernel_NxN)).clip(min=1e-12)
  return float(np.exp(-(value_N * np.log(value_N)).sum()))
