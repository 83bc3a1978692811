"""The data that we ship is as large, as clean and as balanced as promised."""

import collections
import statistics
from collections.abc import Callable

import pytest
from compliant_replies import Writer

from rlcw.data import datasets
from rlcw.data.preferences import load_preferences
from rlcw.rewards import briefs, constraints
from rlcw.rewards.rules import arguments, compose, registry
from rlcw.rewards.rules import text as text_lib

BRIEFS = briefs.load_briefs('@briefs.jsonl')
REPORTED = briefs.load_briefs('@briefs_reported.jsonl')
PAIRS = load_preferences('@preferences.jsonl')
TRAIN = [brief for brief in BRIEFS if brief.split == 'train']
# Words of a phrase (Han characters) that two prompts share only if one was
# copied from the other.
PHRASE = {'en': 5, 'zh': 8}


@pytest.mark.parametrize(
  ('items', 'least'),
  [
    (BRIEFS, {'en': 240, 'zh': 120}),
    (PAIRS, {'en': 240, 'zh': 120}),
    (REPORTED, {'en': 120, 'zh': 60}),
  ],
)
def test_sizes_and_unique_ids(items: list, least: dict[str, int]) -> None:
  counts = collections.Counter(item.language for item in items)
  assert all(counts[language] >= least[language] for language in least)
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


@pytest.mark.parametrize('items', [BRIEFS, REPORTED])
def test_briefs_have_one_to_three_rules_of_many_kinds(
  items: list[briefs.Brief],
) -> None:
  assert {len(b.instruction_id_list) for b in items} == {1, 2, 3}
  used = {rule for b in items for rule in b.instruction_id_list}
  assert used <= set(registry.VERIFIERS)
  assert len(used) >= 20


def test_reported_briefs_are_all_held_out() -> None:
  assert {brief.split for brief in REPORTED} == {'heldout'}
  counts = collections.Counter(brief.language for brief in REPORTED)
  assert counts == {'en': 120, 'zh': 60}


def phrases(prompt: str, language: str) -> set[tuple[str, ...]]:
  words = text_lib.words(text_lib.fold(prompt))
  return {*text_lib.ngrams(words, PHRASE[language])}


def test_reported_briefs_share_no_theme_or_phrase_with_other_data() -> None:
  themes, seen = set(), set()
  for name in ('briefs', 'preferences', 'themes'):
    for record in datasets.read_jsonl(f'@{name}.jsonl'):
      themes.add(record['theme'])
      seen |= phrases(record['prompt'], record['language'])
  for brief in REPORTED:
    assert brief.theme not in themes, brief.id
    assert not phrases(brief.prompt, brief.language) & seen, brief.id


def rules(brief: briefs.Brief) -> list[tuple[str, arguments.Arguments]]:
  return [*zip(brief.instruction_id_list, brief.kwargs, strict=True)]


def test_reported_rules_can_be_kept_by_one_short_reply() -> None:
  for brief in REPORTED:
    assert compose.contradiction(rules(brief)) == '', brief.id
    replies = Writer(vars(brief)).replies()
    kept = [reply for reply in replies if all(brief.follow(reply))]
    # Far less than 64 tokens.
    assert min(map(text_lib.count_words, kept)) <= 45, brief.id


@pytest.mark.parametrize('language', ['en', 'zh'])
@pytest.mark.parametrize(
  'kinds',
  [
    lambda brief: [brief.genre],
    lambda brief: [len(brief.instruction_id_list)],
    lambda brief: brief.instruction_id_list,
  ],
  ids=['genre', 'number of rules', 'rule'],
)
def test_reported_briefs_are_composed_like_the_training_briefs(
  language: str, kinds: Callable[[briefs.Brief], list]
) -> None:
  shares = []
  for items in (TRAIN, REPORTED):
    items = [brief for brief in items if brief.language == language]
    counts = collections.Counter(kind for b in items for kind in kinds(b))
    shares.append({kind: n / len(items) for kind, n in counts.items()})
  assert shares[1] == pytest.approx(shares[0], abs=0.015)


def test_numbers_in_reported_rules_are_those_of_training_rules() -> None:
  def numbers(items: list[briefs.Brief]) -> set[str]:
    return {
      f'{brief.language} {name} {kwargs}'
      for brief in items
      for name, kwargs in rules(brief)
      if any(isinstance(value, int) for value in kwargs.values())
    }

  assert numbers(REPORTED) <= numbers(TRAIN)


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
