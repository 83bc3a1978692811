"""Retrieval of the texts of a corpus that are nearest to a query.

Without a sentence embedder, texts are compared by TF-IDF over their n-grams of
one to three characters.  That needs no download and no word segmentation, and
so works for Chinese too.

Letters: Q queries, N texts, V n-grams.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

_RUNS = 1, 2, 3  # n of the n-grams
# Queries compared at once: bounds the dense [_BLOCK, N] array of cosines.
_BLOCK = 256


def nearest(
  queries: Sequence[str], corpus: Sequence[str], k: int, embedder: str = 'tfidf'
) -> list[list[int]]:
  """Finds the k texts of highest cosine similarity for each query.

  Args:
    queries: Q texts.
    corpus: N texts.
    k: largest number of texts per query.
    embedder: 'tfidf', or a model that `sentence-transformers` loads.

  Returns:
    For each query the indices of its texts, nearest first.  Texts of cosine 0
    or less are left out.

  Raises:
    ValueError: `sentence-transformers` is needed, but not installed.
  """
  if not queries or not corpus:
    return [[] for _ in queries]
  if embedder == 'tfidf':
    query_QxV, text_NxV = tfidf(queries, corpus)
  else:
    query_QxV, text_NxV = sentences(queries, corpus, embedder)
  found = []
  for first in range(0, len(queries), _BLOCK):
    cosine_QxN: Any = query_QxV[first : first + _BLOCK] @ text_NxV.T
    if sparse.issparse(cosine_QxN):
      cosine_QxN = cosine_QxN.toarray()
    for cosine_N in cosine_QxN:
      # A stable sort gives ties in the order of the corpus, the same on any
      # machine.
      order = np.argsort(-cosine_N, kind='stable')[:k]
      found.append([int(n) for n in order if cosine_N[n] > 0])
  return found


def tfidf(queries: Sequence[str], corpus: Sequence[str]) -> tuple[Any, Any]:
  """Sparse TF-IDF rows `[Q, V]` and `[N, V]` of Euclidean norm 1.

  An n-gram that occurs t times in a text, and in d of the N texts, has weight
  (1 + ln t) (1 + ln((1 + N) / (1 + d))).  A query without any n-gram of the
  corpus is a row of zeros.
  """
  texts = [_runs(text) for text in corpus]
  documents = Counter(run for text in texts for run in text)
  place = {run: v for v, run in enumerate(documents)}
  count_V = np.fromiter(documents.values(), float)
  rarity_V = 1 + np.log((1 + len(corpus)) / (1 + count_V))

  def rows(counts: Sequence[Counter[str]]) -> Any:
    # N-grams that no text of the corpus has are left out: they match nothing.
    entries = [
      (row, place[run], (1 + np.log(times)) * rarity_V[place[run]])
      for row, text in enumerate(counts)
      for run, times in text.items()
      if run in place
    ]
    # Without any entry there is nothing to transpose into three columns.
    row, column, weight = (
      zip(*entries, strict=True) if entries else ((), (), ())
    )
    shape = len(counts), len(place)
    matrix = sparse.csr_array((weight, (row, column)), shape=shape)
    norm = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    return sparse.diags_array(1 / np.where(norm > 0, norm, 1)) @ matrix

  return rows([_runs(text) for text in queries]), rows(texts)


def _runs(text: str) -> Counter[str]:
  """Counts the n-grams of a text, ignoring case and width of characters."""
  # NFKC maps full-width letters and punctuation to ordinary ones.
  text = unicodedata.normalize('NFKC', text).casefold()
  # Spaces around the text make its first and last n-grams those of whole words.
  text = f' {" ".join(text.split())} '
  runs = (text[i : i + n] for n in _RUNS for i in range(len(text) - n + 1))
  return Counter(run for run in runs if not run.isspace())


def sentences(
  queries: Sequence[str], corpus: Sequence[str], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Sentence embeddings of norm 1, `[Q, D]` and `[N, D]`."""
  # An optional dependency, which few installations have.
  try:
    import sentence_transformers  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ValueError(
      f'embedder={name!r} needs the package sentence-transformers, which is '
      "not installed; expected 'tfidf' without it"
    ) from None
  model = sentence_transformers.SentenceTransformer(name)
  query, text = (
    np.asarray(model.encode(list(texts), normalize_embeddings=True))
    for texts in (queries, corpus)
  )
  return query, text
