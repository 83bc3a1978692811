"""Every rule is worded several ways in both languages, all of them whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.rewards import briefs, constraints
from rlcw.rewards.rules import ifeval, languages, registry, wording
from rlcw.rewards.rules.registry import DEMAND
from rlcw.rewards.rules.text import count_words

TEXT = st.text('ab 春"%', min_size=1).filter(lambda text: text.strip())
COUNT = st.integers(1, 999)
RELATION = st.sampled_from([*ifeval.RELATIONS])
WORDS = st.lists(TEXT, min_size=1, max_size=4)
ARGUMENTS = {
  'keywords': WORDS,
  'forbidden_words': WORDS,
  'letter': st.sampled_from('a春!'),
  'letters': st.sampled_from(['Hope', '春眠不觉晓']),
  'scheme': st.sampled_from(['AABB', 'XAXA']),
  'language': st.sampled_from([*languages.NAMES]),
  'script': st.sampled_from(languages.SCRIPTS),
  **dict.fromkeys(['relation', 'let_relation', 'capital_relation'], RELATION),
  **dict.fromkeys(
    [
      *('num_words', 'num_sentences', 'num_paragraphs', 'num_bullets'),
      *('num_highlights', 'num_sections', 'num_placeholders', 'num_lines'),
      *('num_characters', 'frequency', 'let_frequency', 'capital_frequency'),
    ],
    COUNT,
  ),
}
BOUNDS = st.tuples(COUNT, COUNT).map(sorted)
LENGTHS = st.one_of(
  COUNT.map(lambda n: {'at_least': n}),
  COUNT.map(lambda n: {'at_most': n}),
  BOUNDS.map(lambda pair: {'at_least': pair[0], 'at_most': pair[1]}),
)
NTH = st.tuples(BOUNDS, TEXT).map(
  lambda drawn: {
    'nth_paragraph': drawn[0][0],
    'num_paragraphs': drawn[0][1],
    'first_word': drawn[1],
  }
)


def legal(name: str) -> st.SearchStrategy[dict[str, Any]]:
  """Any legal arguments of a rule."""
  names = registry.VERIFIERS[name].parameters
  if 'at_least' in names:
    return LENGTHS
  if 'nth_paragraph' in names:
    return NTH
  return st.fixed_dictionaries({n: ARGUMENTS.get(n, TEXT) for n in names})


def mentioned(name: str, value: Any, language: str) -> list[str]:
  """What a sentence must hold of an argument."""
  if name == 'script' and language == 'zh':
    return ['简体' if value == 'simplified' else '繁体']
  if name == 'language':
    return [languages.NAMES[value][language == 'zh']]
  if 'relation' in name:
    fewer = {'en': 'fewer than', 'zh': '少于'}[language]
    return [fewer] if value == 'less than' else []
  return [str(each) for each in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize('language', constraints.LANGUAGES)
def test_every_rule_is_worded(language: str) -> None:
  table = wording.TABLES[language]
  assert set(table) == set(registry.VERIFIERS)
  for templates in table.values():
    assert len({*templates}) == len(templates) >= wording.PARAPHRASES


@pytest.mark.parametrize('name', sorted({*registry.VERIFIERS} - {DEMAND}))
@settings(max_examples=20)
@given(st.data())
def test_every_paraphrase_says_it_all(name: str, data: st.DataObject) -> None:
  kwargs = data.draw(legal(name))
  constraints.validate([name], [kwargs])
  for language in constraints.LANGUAGES:
    count = len(wording.TABLES[language][name])
    texts = [
      constraints.describe(name, kwargs, language, each)
      for each in range(count)
    ]
    assert len({*texts}) == count
    assert constraints.describe(name, kwargs, language, count) == texts[0]
    for text in texts:
      assert not {'{', '}', 'None'} & {*text, *text.split()}
      for argument, value in kwargs.items():
        for each in mentioned(argument, value, language):
          assert each in text
      if language == 'en':
        assert text[0].isupper() and text[-1] == '.'
      else:
        assert text[-1] == '。' and count_words(text) > 2


@pytest.mark.parametrize('language', constraints.LANGUAGES)
def test_a_demand_is_in_the_authors_own_words(language: str) -> None:
  demand = {'demand': 'Mention her garden in {spring}.'}
  texts = [constraints.describe(DEMAND, demand, language, n) for n in range(3)]
  assert texts[0] == demand['demand']
  assert len({*texts}) == 3
  assert all(text.endswith(demand['demand']) for text in texts)
  with pytest.raises(ValueError, match='non-blank text'):
    constraints.validate([DEMAND], [{'demand': ' '}])
  with pytest.raises(ValueError, match='only a model'):
    constraints.check(DEMAND, 'A reply.', demand)


@pytest.mark.parametrize(
  ('name', 'kwargs', 'paraphrase', 'sentence'),
  [
    ('length:words', {'at_most': 1}, 1, 'have no more than 1 word.'),
    ('length:words', {'at_most': 1}, 2, 'Write 1 or fewer words in all.'),
    (
      'length:lines',
      {'at_least': 2, 'at_most': 2},
      1,
      '全文恰好2行，空行不算。',
    ),
    ('length:lines', {'at_least': 2, 'at_most': 3}, 2, '行数要求：2～3行'),
    (
      'keywords:existence',
      {'keywords': ['a', 'b']},
      2,
      'the words "a" and "b"',
    ),
    ('style:script', {'script': 'traditional'}, 1, '全文须用繁体中文。'),
    (
      'detectable_format:number_bullet_lists',
      {'num_bullets': 1},
      1,
      'exactly 1 bullet point, each',
    ),
    (
      'detectable_format:constrained_response',
      {},
      1,
      '“My answer is yes.”“My answer is no.”或“My answer is maybe.”',
    ),
  ],
)
def test_paraphrase(
  name: str, kwargs: dict[str, Any], paraphrase: int, sentence: str
) -> None:
  language = 'en' if sentence.isascii() else 'zh'
  text = constraints.describe(name, kwargs, language, paraphrase)
  assert sentence in text


def test_a_brief_is_worded_by_its_paraphrase() -> None:
  rules = {'instruction_id_list': ('punctuation:no_comma',), 'kwargs': ({},)}
  brief = briefs.Brief(id='1', prompt='A toast.', **rules)
  assert brief.text == 'A toast. Use no commas.'
  other = briefs.Brief(id='1', prompt='A toast.', paraphrase=2, **rules)
  assert other.text == 'A toast. Write it without commas.'


@settings(max_examples=50)
@given(st.integers(-9, 9))
def test_any_paraphrase_is_legal(paraphrase: int) -> None:
  wanted = constraints.describe('poem:haiku', {}, 'en', paraphrase % 3)
  said = constraints.describe('poem:haiku', {}, 'en', paraphrase)
  assert said == wanted


@pytest.mark.parametrize('paraphrase', ['1', 1.0, None])
def test_a_paraphrase_that_is_no_number_is_named(paraphrase: Any) -> None:
  with pytest.raises(ValueError, match='a whole number, not '):
    constraints.describe('poem:haiku', {}, 'en', paraphrase)


@pytest.mark.parametrize(
  ('rule', 'kwargs', 'named'),
  [
    (
      'length_constraints:number_words',
      {'num_words': 121, 'relation': 'less than'},
      'fewer than 121 words',
    ),
    ('length:words', {'at_most': 120}, 'at most 120 words'),
    ('length:lines', {'at_least': 4, 'at_most': 4}, 'exactly 4 lines'),
    ('length:sentences', {'at_most': 1}, 'at most 1 sentence'),
    (
      'keywords:existence',
      {'keywords': ['sea', 'oak']},
      'with the words "sea" and "oak"',
    ),
    ('language:response_language', {'language': 'fr'}, 'in French'),
    ('punctuation:no_comma', {}, 'no commas'),
    # without arguments, or with ones of another version, a general name
    ('length:words', None, 'number of words'),
    ('length:words', {'most': 120}, 'number of words'),
    ('mine:rule', {'x': 1}, 'mine:rule'),
  ],
)
def test_a_rule_has_a_plain_name(
  rule: str, kwargs: dict[str, Any] | None, named: str
) -> None:
  assert constraints.name(rule, kwargs) == named


def test_every_rule_has_a_name_of_its_own() -> None:
  names = [constraints.name(rule) for rule in registry.VERIFIERS]
  assert len({*names}) == len(names)
  assert not any(':' in name or '{' in name for name in names)


@pytest.mark.parametrize('rule', registry.VERIFIERS)
@settings(max_examples=5)
@given(data=st.data())
def test_a_name_mentions_its_arguments(rule: str, data: st.DataObject) -> None:
  kwargs = data.draw(legal(rule))
  name = constraints.name(rule, kwargs)
  for argument, value in kwargs.items():
    for text in mentioned(argument, value, 'en'):
      assert text in name
