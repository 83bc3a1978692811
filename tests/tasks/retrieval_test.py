"""The texts of a corpus that are nearest to a query, without a model."""

import math
import sys
import types
from typing import Any

import numpy as np
import pytest

from rlcw.tasks.curate import retrieval

CORPUS = [
  'A birthday wish for my mother',
  'Good luck in the exam',
  '祝妈妈生日快乐，身体健康',
  '祝你考试顺利，金榜题名',
  '新年快乐，阖家幸福',
]


@pytest.mark.parametrize(
  ('query', 'best'),
  [
    ('BIRTHDAY wishes for mothers', 0),
    ('luck with my exams', 1),
    ('给妈妈的生日祝福', 2),
    ('考试加油', 3),
    ('新年祝福语', 4),
  ],
)
def test_the_nearest_text_comes_first(query: str, best: int) -> None:
  (found,) = retrieval.nearest([query], CORPUS, 2)
  assert found[0] == best and len(found) <= 2


def test_what_has_nothing_in_common_is_left_out() -> None:
  assert retrieval.nearest(['xyz', 'Q?', ''], ['祝你'] * 3, 3) == [[], [], []]
  assert retrieval.nearest(['a'], [], 3) == [[]]
  assert retrieval.nearest([], ['a'], 3) == []


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
  whole = retrieval.nearest(CORPUS, CORPUS, 3)
  monkeypatch.setattr(retrieval, '_BLOCK', 2)
  assert retrieval.nearest(CORPUS, CORPUS, 3) == whole
  assert [found[0] for found in whole] == [0, 1, 2, 3, 4]


def test_weights_by_hand() -> None:
  """`aa` has runs a (twice), aa, ' a', 'a ', ' aa', 'aa '; `b` five others."""
  query_QxV, text_NxV = retrieval.tfidf(['b', 'c'], ['aa', 'b'])
  runs = ['a', 'aa', ' a', 'a ', ' aa', 'aa ']
  rare = 1 + math.log(3 / 2)
  weight = np.array([1 + math.log(2) if r == 'a' else 1.0 for r in runs]) * rare
  dense = text_NxV.toarray()
  np.testing.assert_allclose(
    np.sort(dense[0][dense[0] > 0]), np.sort(weight / np.linalg.norm(weight))
  )
  np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1)
  np.testing.assert_allclose(query_QxV.toarray() @ dense.T, [[0, 1], [0, 0]])


def test_an_embedder_that_is_not_installed_is_named(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
  with pytest.raises(ValueError, match="embedder='x' needs .*expected 'tfidf'"):
    retrieval.nearest(['a'], ['a'], 1, 'x')


def test_a_model_of_sentences_ranks_by_its_own_cosine(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  class Model:
    def __init__(self, name: str):
      assert name == 'x'

    def encode(self, texts: list[str], normalize_embeddings: bool) -> Any:
      assert normalize_embeddings
      angle = np.array([float(text) for text in texts])
      return np.stack([np.cos(angle), np.sin(angle)], axis=1)

  package = types.SimpleNamespace(SentenceTransformer=Model)
  monkeypatch.setitem(sys.modules, 'sentence_transformers', package)
  found = retrieval.nearest(['0', '3'], ['3', '0.5', '0.1'], 3, 'x')
  assert found == [[2, 1], [0]]
