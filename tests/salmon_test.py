"""Pairs of replies under drawn principles."""

import numpy as np
import pytest
import salmon

from rlcw.data.preferences import Preference

PAIRS = [
  Preference('Write to the sea.', replies, (1.0, 0.0))
  for replies in (
    ('You and I, and the sea!', 'Waves, salt, rope, and you.'),
    ('The long grey water.', 'Sea! Sea! My sea, I said. Your sea.'),
    ('I came, and went.', 'Nobody knows you here, nobody at all.'),
  )
]


def by_words(words: str) -> tuple[salmon.Principle, int]:
  for each in (*salmon.TRAINED, *salmon.UNSEEN):
    if words in (each.words, each.negated):
      return each, 1 if words == each.words else -1
  raise KeyError(words)


def draws(principles: tuple[salmon.Principle, ...]) -> list[dict[str, str]]:
  return [
    record
    for seed in range(60)
    for record in salmon.draw(
      PAIRS, principles, 'train', np.random.default_rng(seed)
    )
  ]


@pytest.mark.parametrize('principles', [salmon.TRAINED, salmon.UNSEEN])
def test_the_principle_on_which_replies_differ_most_decides(
  principles: tuple[salmon.Principle, ...],
) -> None:
  std = {
    each.words: np.std(
      [each.score(p.replies[0]) - each.score(p.replies[1]) for p in PAIRS]
    )
    for each in principles
  }
  for record in draws(principles):
    told = [
      line[2:] for line in record['prompt'].split('\n') if line[:2] == '- '
    ]
    assert 1 <= len(told) == len({*told}) <= len(principles)
    gaps = []
    for principle, sign in map(by_words, told):
      gap = principle.score(record['chosen'])
      gap -= principle.score(record['rejected'])
      gaps.append((sign * gap / std[principle.words], sign))
    gap, sign = max(gaps, key=lambda each: abs(each[0]))
    assert gap > 0
    assert record['kind'] == ('negated' if sign < 0 else 'plain')


def test_half_of_the_principles_are_negated() -> None:
  kinds = [record['kind'] for record in draws(salmon.TRAINED)]
  assert 0.35 < kinds.count('negated') / len(kinds) < 0.65
