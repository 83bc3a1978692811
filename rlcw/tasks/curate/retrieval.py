"""Which texts of a corpus are nearest to a query.

Without a model of sentences, texts are compared by their runs of one to three
characters, which needs no network, no words, and serves Chinese as well.

Letters: Q queries, N texts, V runs of characters.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

_RUNS = 1, 2, 3  # characters
_BLOCK = 256  # queries that are compared at once


def nearest(
  queries: Sequence[str], corpus: Sequence[str], k: int, embedder: str = 'tfidf'
) -> list[list[int]]:
  """The k texts most like each query by their cosine, the nearest first.

  Args:
    queries: Q texts.
    corpus: N texts.
    k: at most so many; texts with nothing in common are left out.
    embedder: 'tfidf', or a model that `sentence-transformers` loads.

  Returns:
    Places in the corpus, of those with a cosine above 0.

  Raises:
    ValueError: the embedder is neither.
  """
  if not queries or not corpus:
    return [[] for _ in queries]
  if embedder == 'tfidf':
    query_QxV, text_NxV = tfidf(queries, corpus)
  else:
    query_QxV, text_NxV = _sentences(queries, corpus, embedder)
  found = []
  for first in range(0, len(queries), _BLOCK):
    cosine_QxN: Any = query_QxV[first : first + _BLOCK] @ text_NxV.T
    if sparse.issparse(cosine_QxN):
      cosine_QxN = cosine_QxN.toarray()
    for cosine_N in cosine_QxN:
      order = np.argsort(-cosine_N, kind='stable')[:k]
      found.append([int(n) for n in order if cosine_N[n] > 0])
  return found


def tfidf(queries: Sequence[str], corpus: Sequence[str]) -> tuple[Any, Any]:
  """Sparse rows `[Q, V]` and `[N, V]` of length 1, or 0 where nothing is known.

  A run that stands t times in a text, and in d of the N, weighs
  (1 + ln t) (1 + ln((1 + N) / (1 + d))).
  """
  texts = [_runs(text) for text in corpus]
  documents = Counter(run for text in texts for run in text)
  place = {run: v for v, run in enumerate(documents)}
  count_V = np.fromiter(documents.values(), float)
  rarity_V = 1 + np.log((1 + len(corpus)) / (1 + count_V))

  def rows(counts: Sequence[Counter[str]]) -> Any:
    entries = [
      (row, place[run], (1 + np.log(times)) * rarity_V[place[run]])
      for row, text in enumerate(counts)
      for run, times in text.items()
      if run in place
    ]
    row, column, weight = (
      zip(*entries, strict=True) if entries else ((), (), ())
    )
    shape = len(counts), len(place)
    matrix = sparse.csr_array((weight, (row, column)), shape=shape)
    norm = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    return sparse.diags_array(1 / np.where(norm > 0, norm, 1)) @ matrix

  return rows([_runs(text) for text in queries]), rows(texts)


def _runs(text: str) -> Counter[str]:
  """How often each run of characters stands in a text; case does not count."""
  text = unicodedata.normalize('NFKC', text).casefold()
  text = f' {" ".join(text.split())} '
  runs = (text[i : i + n] for n in _RUNS for i in range(len(text) - n + 1))
  return Counter(run for run in runs if not run.isspace())


def _sentences(
  queries: Sequence[str], corpus: Sequence[str], name: str
) -> tuple[np.ndarray, np.ndarray]:
  try:
    import sentence_transformers  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ValueError(
      f'embedder={name!r} takes the package sentence-transformers; without it, '
      "'tfidf' is legal"
    ) from None
  model = sentence_transformers.SentenceTransformer(name)
  query, text = (
    np.asarray(model.encode(list(texts), normalize_embeddings=True))
    for texts in (queries, corpus)
  )
  return query, text
