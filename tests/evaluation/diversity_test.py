"""Measures of likeness, by hand and at their ends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rlcw.evaluation import diversity


def test_distinct_counts_different_pairs_of_words() -> None:
  # a b, b a, a b | c d: three different of four
  assert diversity.distinct(['A b a b', 'c d'], 2) == 3 / 4
  assert diversity.distinct(['one'], 2) == 0


def test_distinct_reads_chinese_by_characters() -> None:
  # 平安, 安平, 平安: two different of three
  assert diversity.distinct(['平安 平安'], 2, 'zh') == 2 / 3
  assert diversity.distinct(['平安 平安'], 2, 'en') == 1


def test_self_bleu_is_one_among_copies_and_low_among_strangers() -> None:
  copies = [['the bees do not know what day it is'] * 3]
  strangers = [['one two three four five', 'a b c d e', 'v w x y z']]
  assert diversity.self_bleu(copies) == pytest.approx(1)
  assert diversity.self_bleu(strangers) < 0.1
  both = diversity.self_bleu(copies + strangers)
  assert 0.4 < both < 0.6
  assert np.isnan(diversity.self_bleu([['alone']]))


def test_self_bleu_reads_chinese_by_characters() -> None:
  alike = [['愿你平安喜乐，万事如意。', '愿你平安喜乐，身体健康。']]
  assert diversity.self_bleu(alike, 'zh') > diversity.self_bleu(alike, 'en')


def test_replies_that_share_most_words_are_of_one_class() -> None:
  # 2 * 2 of 3 + 3 words are shared, then 2 * 1 of 3 + 3
  texts = ['The sea sang.', 'the SEA, sings!', 'No sea there', 'the sea sang']
  assert diversity.classes(texts) == [0, 0, 1, 0]
  assert diversity.classes(['', 'a', '', '!']) == [0, 1, 0, 0]
  assert diversity.classes([]) == []


def test_classes_of_chinese_are_of_characters() -> None:
  texts = ['愿你平安喜乐。', '愿你平安！', '春天来了']
  assert diversity.classes(texts) == [0, 0, 1]


@given(st.lists(st.text('ab \n', max_size=6), max_size=6))
def test_equal_texts_are_of_one_class(texts: list[str]) -> None:
  found = diversity.classes(texts + texts)
  assert found[: len(texts)] == found[len(texts) :]
  assert set(found) == set(range(len(set(found))))


def test_the_longest_replies_are_cut_to_the_shortest_of_their_rank() -> None:
  one = ['a b c d', 'e', 'f  g\nh']
  other = ['k l', 'm n o', 'p q']
  shorter, words = diversity.cut([one, other])
  # 4, 3, 1 words and 3, 2, 2: to 3, 2, 1
  assert shorter == [['a b c', 'e', 'f  g'], ['k l', 'm n o', 'p']]
  assert words == 6
  assert diversity.cut([one])[0] == [one]
  assert diversity.cut([['a b'], ['']]) == ([[''], ['']], 0)


def test_chinese_replies_are_cut_by_characters() -> None:
  assert diversity.cut([['平安 喜乐'], ['万事如']], 'zh') == (
    [['平安 喜'], ['万事如']],
    3,
  )
  assert diversity.cut([['平安 喜乐'], ['万事如']])[1] == 1


def _sample(rng: np.random.Generator, words: int, length: int) -> list[str]:
  """Replies whose n-th words are drawn by Zipf's law from `words` of them."""
  rate = 1 / np.arange(1, words + 1)
  return [
    ' '.join(map(str, rng.choice(words, size=length, p=rate / rate.sum())))
    for _ in range(100)
  ]


MEASURES = {
  'distinct1': lambda texts: diversity.distinct(texts, 1),
  'distinct2': lambda texts: diversity.distinct(texts, 2),
  'distinct3': lambda texts: diversity.distinct(texts, 3),
  'self_bleu': lambda texts: -diversity.self_bleu([texts[:10], texts[10:20]]),
  'compression': lambda texts: -diversity.compression_ratio(texts),
}


@pytest.mark.parametrize('name', MEASURES)
def test_fewer_words_are_not_taken_for_more_variety(name: str) -> None:
  """Replies shorter by half, of a smaller vocabulary, seem more varied."""
  measure, rng = MEASURES[name], np.random.default_rng(0)
  long, short = _sample(rng, 600, 60), _sample(rng, 450, 30)
  (cut_long, cut_short), words = diversity.cut([long, short])
  assert words == 3000 and cut_short == short
  assert measure(cut_long) > measure(cut_short)
  # the same writer, cut short: as varied as before
  (again, half), _ = diversity.cut(
    [long, [' '.join(text.split()[:30]) for text in long]]
  )
  assert again == half
  # self-BLEU may change either way
  if name != 'self_bleu':
    assert measure(long) < measure(half)


@given(
  st.lists(
    st.lists(st.text('ab 文\n', max_size=12), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
  ),
  st.sampled_from(['en', 'zh']),
)
def test_all_runs_are_cut_to_as_many_words(
  runs: list[list[str]], language: str
) -> None:
  shorter, words = diversity.cut(runs, language)
  for run, before in zip(shorter, runs, strict=True):
    lengths = [
      len(''.join(t.split()) if language == 'zh' else t.split()) for t in run
    ]
    assert sum(lengths) == words
    assert all(b.startswith(t) for t, b in zip(run, before, strict=True))


def test_repetition_compresses() -> None:
  rng = np.random.default_rng(0)
  noise = ''.join(map(chr, rng.integers(97, 123, 1000)))
  assert diversity.compression_ratio(['a b c'] * 100) > 10
  assert diversity.compression_ratio([noise]) < 2


def test_vendi_counts_what_is_different() -> None:
  one, two = [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]
  assert diversity.vendi(np.array([one, one, one])) == pytest.approx(1)
  assert diversity.vendi(np.array([one, two])) == pytest.approx(2)
  # eigenvalues 3/4 and 1/4: exp(−.75 ln .75 − .25 ln .25)
  assert diversity.vendi(np.array([one, one, one, two])) == pytest.approx(
    0.75**-0.75 * 0.25**-0.25
  )
  assert diversity.vendi(np.zeros((3, 3))) == pytest.approx(1)


@given(
  arrays.arrays(float, (5, 3), elements=st.floats(-10, 10, width=16)),
  st.floats(0.1, 10),
)
def test_vendi_is_between_one_and_all_whatever_the_scale(
  features_NxD: np.ndarray, scale: float
) -> None:
  value = diversity.vendi(features_NxD)
  assert 1 - 1e-6 <= value <= 5 + 1e-6
  assert diversity.vendi(features_NxD * scale) == pytest.approx(value, rel=1e-4)
