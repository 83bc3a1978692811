"""The data that we ship is as large, as clean and as balanced as promised."""

import collections
import statistics

import pytest

from rlcw.data import datasets
from rlcw.rewards import briefs, constraints
from rlcw.rewards.rules import registry

BRIEFS = briefs.load_briefs('@briefs.jsonl')
PAIRS = datasets.load_preferences('@preferences.jsonl')
LEAST = {'en': 240, 'zh': 120}


@pytest.mark.parametrize('items', [BRIEFS, PAIRS])
def test_sizes_and_unique_ids(items: list) -> None:
  counts = collections.Counter(item.language for item in items)
  assert all(counts[language] >= LEAST[language] for language in LEAST)
  assert len({item.id for item in items}) == len(items)
  assert len({item.prompt for item in items}) == len(items)
  assert {item.genre for item in items} == {
    'greeting',
    'story',
    'poem',
    'slogan',
  }


@pytest.mark.parametrize('items', [BRIEFS, PAIRS])
@pytest.mark.parametrize('language', ['en', 'zh'])
def test_no_theme_is_in_both_splits(items: list, language: str) -> None:
  themes = collections.defaultdict(set)
  for item in items:
    if item.language == language:
      themes[item.split].add(item.theme)
  assert set(themes) == {'train', 'heldout'}
  assert not themes['train'] & themes['heldout']


def test_held_out_briefs_suffice_for_the_quickstart() -> None:
  held_out = [b for b in BRIEFS if (b.split, b.language) == ('heldout', 'en')]
  assert len(held_out) >= 40


def test_briefs_have_one_to_three_rules_of_many_kinds() -> None:
  assert {len(b.instruction_id_list) for b in BRIEFS} == {1, 2, 3}
  used = {rule for b in BRIEFS for rule in b.instruction_id_list}
  assert used <= set(registry.VERIFIERS)
  assert len(used) >= 20


@pytest.mark.parametrize('language', ['en', 'zh'])
@pytest.mark.parametrize('split', ['train', 'heldout'])
def test_length_does_not_tell_chosen_from_rejected(
  language: str, split: str
) -> None:
  pairs = [p for p in PAIRS if (p.language, p.split) == (language, split)]
  longer = statistics.mean(len(p.chosen) > len(p.rejected) for p in pairs)
  assert 0.45 <= longer <= 0.55
  gaps = [
    abs(len(p.chosen) - len(p.rejected)) / max(len(p.chosen), len(p.rejected))
    for p in pairs
  ]
  assert statistics.median(gaps) <= 0.15


def test_no_reply_stands_twice() -> None:
  texts = [text for p in PAIRS for text in (p.chosen, p.rejected)]
  assert len(set(texts)) == len(texts)


def test_pairs_are_written_in_their_language() -> None:
  for pair in PAIRS:
    for reply in (pair.chosen, pair.rejected):
      kwargs = {'language': pair.language}
      assert constraints.check('language:response_language', reply, kwargs)
