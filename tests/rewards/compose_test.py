"""Composed briefs are legal, can be kept, and are the same for a seed."""

import collections
import itertools
import json
import pathlib
from typing import Any

import pytest
from compliant_replies import Writer
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.data import datasets
from rlcw.rewards import constraints
from rlcw.rewards.briefs import load_briefs
from rlcw.rewards.rules import arguments, compose, registry

THEMES = datasets.read_jsonl('@themes.jsonl')
ROOT = pathlib.Path(__file__).resolve().parents[2]
IFEVAL = ROOT.parent / 'shared' / 'data' / 'ifeval' / 'prompts.jsonl'
Rule = tuple[str, dict[str, Any]]


def write(count: int, seed: int = 0, **rules: int) -> list[dict[str, Any]]:
  briefs, _ = compose.write_briefs(THEMES, count, seed, **rules)
  return briefs


def test_some_reply_keeps_every_rule_of_a_brief() -> None:
  used = collections.Counter()
  for brief in write(1000, most=5):
    rules = brief['instruction_id_list'], brief['kwargs']
    tried = {}
    for reply in Writer(brief).replies():
      tried[reply] = constraints.follow(reply, *rules)
    assert any(map(all, tried.values())), (brief, tried)
    used.update(brief['instruction_id_list'])
  assert set(used) == set(arguments.RECIPES)


def test_two_rules_are_never_drawn() -> None:
  left_out = set(registry.VERIFIERS) - set(arguments.RECIPES)
  assert left_out == {'detectable_format:constrained_response', 'soft:demand'}


@settings(max_examples=30)
@given(st.integers(0, 10**9), st.integers(1, 3), st.integers(0, 3))
def test_briefs_are_legal_and_the_same_for_a_seed(
  seed: int, least: int, more: int
) -> None:
  most = least + more
  briefs = write(20, seed, least=least, most=most)
  assert briefs == write(20, seed, least=least, most=most)
  assert briefs[:5] == write(5, seed, least=least, most=most)
  assert len({brief['id'] for brief in briefs}) == 20
  languages = {theme['prompt']: theme['language'] for theme in THEMES}
  for brief in briefs:
    ids, kwargs = brief['instruction_id_list'], brief['kwargs']
    constraints.validate(ids, kwargs)
    assert least <= len({*ids}) == len(ids) <= most
    assert brief['language'] == languages[brief['prompt']]
    rules = [*zip(ids, kwargs, strict=True)]
    assert compose.contradiction(rules) == ''
    for pair in itertools.combinations(rules, 2):
      # a script is checked on Chinese text, which a third rule may require
      if 'style:script' not in dict(pair):
        assert compose.contradiction(pair) == ''
        assert compose.contradiction(pair[::-1]) == ''


def test_seeds_differ_and_every_theme_has_its_turn() -> None:
  assert write(40, 1) != write(40, 2)
  counts = collections.Counter(brief['prompt'] for brief in write(160))
  assert {*counts.values()} == {2} and len(counts) == len(THEMES)


def test_no_theme_is_in_both_splits() -> None:
  themes = collections.defaultdict(set)
  for brief in write(160):
    themes[brief['split']].add(brief['theme'])
  assert set(themes) == {'train', 'heldout'}
  assert not themes['train'] & themes['heldout']


def keywords(*words: str) -> Rule:
  return 'keywords:existence', {'keywords': [*words]}


def forbidden(*words: str) -> Rule:
  return 'keywords:forbidden_words', {'forbidden_words': [*words]}


def length(of: str, **bounds: int) -> Rule:
  return f'length:{of}', bounds


def plain(name: str) -> Rule:
  return name, {}


LOWER = plain('change_case:english_lowercase')
NO_COMMA = plain('punctuation:no_comma')
JSON = plain('detectable_format:json_format')
HAIKU = plain('poem:haiku')
START = 'startend:start_checker', {'start_phrase': 'Dear Ann,'}
CLAUSES = 'poem:clauses', {'num_lines': 4, 'num_characters': 5}
FEW = {'let_frequency': 2, 'let_relation': 'less than'}
OFTEN = {'keyword': 'sea', 'frequency': 3, 'relation': 'at least'}
CAPITALS = {'capital_frequency': 2, 'capital_relation': 'at least'}


@pytest.mark.parametrize(
  ('one', 'other'),
  [
    (length('paragraphs', at_least=5), length('words', at_most=4)),
    (length('sentences', at_least=5), length('words', at_most=12)),
    (length('sentences', at_most=1), length('words', at_least=200)),
    (length('paragraphs', at_least=5), length('lines', at_most=4)),
    (length('words', at_least=9), length('characters', at_most=9)),
    (length('words', at_most=3), keywords('sea', 'night sky', 'sand')),
    (length('words', at_most=2), ('keywords:frequency', OFTEN)),
    (LOWER, plain('change_case:english_capital')),
    (LOWER, ('change_case:capital_word_frequency', CAPITALS)),
    (keywords('sea'), forbidden('Sea')),
    (keywords('deep sea'), forbidden('sea')),
    (keywords('大海'), forbidden('海')),
    (keywords('zoo'), ('keywords:letter_frequency', {'letter': 'o', **FEW})),
    (keywords('海，天'), NO_COMMA),
    (START, NO_COMMA),
    (START, forbidden('Ann')),
    (START, JSON),
    (START, plain('startend:quotation')),
    (START, ('combination:repeat_prompt', {'prompt_to_repeat': 'A toast'})),
    (('startend:end_checker', {'end_phrase': 'So!'}), JSON),
    (
      ('startend:end_checker', {'end_phrase': 'So!'}),
      plain('punctuation:no_exclamation'),
    ),
    (
      ('startend:end_checker', {'end_phrase': 'So!'}),
      plain('startend:quotation'),
    ),
    (JSON, plain('detectable_format:title')),
    (JSON, ('detectable_format:number_bullet_lists', {'num_bullets': 2})),
    (JSON, plain('style:piece_alone')),
    (JSON, ('detectable_content:postscript', {'postscript_marker': 'P.S.'})),
    (plain('combination:two_responses'), length('words', at_least=9)),
    (HAIKU, length('lines', at_least=4)),
    (HAIKU, length('words', at_least=50)),
    (HAIKU, CLAUSES),
    (
      ('combination:repeat_prompt', {'prompt_to_repeat': 'A toast, please.'}),
      length('words', at_most=4),
    ),
    (CLAUSES, length('words', at_most=9)),
    (CLAUSES, keywords('春眠不觉晓处')),
    (CLAUSES, keywords('KTV')),
    (('poem:acrostic', {'letters': 'hope'}), length('lines', at_most=3)),
    (('poem:acrostic', {'letters': '春江'}), forbidden('江')),
    (('style:script', {'script': 'traditional'}), keywords('车窗')),
    (('style:script', {'script': 'simplified'}), keywords('車窗')),
    (
      ('length_constraints:number_paragraphs', {'num_paragraphs': 3}),
      plain('style:no_repeated_line'),
    ),
  ],
)
def test_what_cannot_be_kept_together_is_refused(
  one: Rule, other: Rule
) -> None:
  assert compose.contradiction([one, other])
  assert compose.contradiction([other, one])


@pytest.mark.parametrize(
  'rules',
  [
    [length('words', at_most=40), length('sentences', at_least=3), NO_COMMA],
    [keywords('sea'), forbidden('season'), HAIKU, LOWER],
    [START, LOWER, plain('punctuation:no_exclamation')],
    [CLAUSES, keywords('春雨'), ('style:script', {'script': 'traditional'})],
    [('poem:rhyme', {'scheme': 'AABB'}), keywords('sea'), NO_COMMA],
  ],
)
def test_what_goes_together_is_not_refused(rules: list[Rule]) -> None:
  assert compose.contradiction(rules) == ''


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    ({'prompt': ' '}, ["prompt=' '"]),
    ({'prompt': None}, ['prompt=None']),
    ({'prompt': '\u200b'}, ["prompt='\\u200b'"]),
    ({'prompt': 'a' * 10_001}, ['prompt=']),
    ({'keywords': ['sea', '\u200b']}, ['keywords=', 'list']),
    ({'language': 'fr'}, ["language='fr'", 'en or zh']),
    ({'language': ['en']}, ["language=['en']"]),
    ({'keywords': 'sea'}, ["keywords='sea'", 'list']),
    ({'keywords': ['']}, ["keywords=['']", 'list']),
    ({'recipient': 3}, ['recipient=3']),
  ],
)
def test_a_theme_that_is_not_legal_is_named(
  change: dict[str, Any], words: list[str]
) -> None:
  with pytest.raises(ValueError) as error:
    compose.write_briefs([{**THEMES[0], **change}], 1, 0)
  assert all(word in str(error.value) for word in words)


def test_rules_without_keywords_suffice() -> None:
  for language in constraints.LANGUAGES:
    bare = {'prompt': 'A toast.', 'language': language}
    briefs, _ = compose.write_briefs([bare], 100, 0, most=4)
    assert len({*map(json.dumps, briefs)}) == 100


def test_too_many_rules_are_an_error() -> None:
  with pytest.raises(
    ValueError, match='found no 30 rules that fit together for'
  ):
    write(1, least=30, most=30)
  for least, most in ((0, 2), (3, 2)):
    with pytest.raises(ValueError, match=f'{least} to {most} rules'):
      write(1, least=least, most=most)
  with pytest.raises(ValueError, match='0 themes'):
    compose.write_briefs([], 1, 0)


def test_themes_are_many_and_their_own() -> None:
  counts = collections.Counter(theme['language'] for theme in THEMES)
  assert counts['en'] >= 40 and counts['zh'] >= 40
  assert len({theme['prompt'] for theme in THEMES}) == len(THEMES)
  shipped = {brief.prompt for brief in load_briefs('@briefs.jsonl')}
  assert not shipped & {theme['prompt'] for theme in THEMES}


def test_no_brief_asks_what_ifeval_asks() -> None:
  if not IFEVAL.exists():
    pytest.skip(f'{IFEVAL} is absent')
  asked = [record['prompt'] for record in datasets.read_jsonl(IFEVAL)]
  for brief in write(80):
    assert not any(
      prompt in brief['prompt'] or brief['prompt'] in prompt for prompt in asked
    )
