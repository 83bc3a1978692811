"""IFBench's rules: hand-worked, against given verdicts, and never trained on.

The verdicts are not part of the package; where they are absent, their tests are
skipped.
"""

import json
import pathlib
from typing import Any

import pytest
from cases import quick
from cpu_limit import SECONDS, cpu_limit
from hypothesis import given, settings
from hypothesis import strategies as st
from ifbench_cases import CASES
from measure_verdicts import measure

from rlcw.data import datasets
from rlcw.rewards import briefs, constraints
from rlcw.rewards.extract import proposals
from rlcw.rewards.extract.read import read
from rlcw.rewards.rules import arguments, registry
from rlcw.rewards.rules.ifbench import table, units
from rlcw.rewards.rules.ifbench.wording import SENTENCES

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT.parent / 'shared' / 'data' / 'ifbench'
TAGGED = 'words:start_verb'
REWORDED = frozenset({'0', '1', '153', '274'})
FLAT = [(name, *case) for name, cases in CASES.items() for case in cases]
IDS = [*CASES]
KWARGS = [CASES[name][0][0] for name in IDS]


def at(name: str) -> pathlib.Path:
  path = DATA / f'{name}.jsonl'
  if not path.exists():
    pytest.skip(f'{path} is absent')
  return path


@pytest.mark.parametrize(
  ('name', 'kwargs', 'reply', 'benchmark', 'reward'), FLAT
)
def test_verdicts_of_both_modes(
  name: str, kwargs: dict[str, Any], reply: str, benchmark: bool, reward: bool
) -> None:
  follow = constraints.follow
  assert follow(reply, [name], [kwargs], benchmark=True) == [benchmark]
  assert follow(reply, [name], [kwargs]) == [reward]
  assert constraints.check(name, reply, kwargs) is reward


def test_cases_cover_the_table() -> None:
  assert set(CASES) == set(table.RULES) == set(SENTENCES)
  assert len(CASES) == 57
  for name, cases in CASES.items():
    benchmark, reward = zip(*(case[2:] for case in cases), strict=True)
    assert {*benchmark} == {*reward} == {True, False}, name
    # a rule with a check of its own for rewards has a case that shows why
    rule = table.RULES[name]
    assert (benchmark != reward) == (rule.check != rule.benchmark), name
    assert rule.parameters.keys() == cases[0][0].keys(), name


@pytest.mark.parametrize(
  'name', ['sample_official_verdicts', 'qwen25_7b', 'qwen3_4b']
)
def test_every_given_verdict_agrees(name: str) -> None:
  counts = measure(str(at(name)), REWORDED, 'all')
  assert sum(count['all'] for count in counts.values()) >= 648
  for rule, count in counts.items():
    assert count['agree'] == count['all'], rule


def test_the_benchmarks_file_is_read_as_it_is() -> None:
  asked = set()
  for record in datasets.read_jsonl(at('IFBench_test')):
    ids, kwargs = record['instruction_id_list'], record['kwargs']
    constraints.validate(ids, kwargs, skipped=constraints.UNSUPPORTED)
    asked.update(ids)
  assert asked == {*table.RULES, TAGGED}


@pytest.mark.parametrize(
  ('name', 'kwargs', 'reply'),
  [
    # a line before the list, or after it
    ('custom:date_format_list', {}, 'Sure:\n1801-02-03'),
    ('custom:date_format_list', {}, '1801-02-03\nEnjoy!'),
    ('custom:csv_city', {}, CASES['custom:csv_city'][2][1]),
    # without asterisks there are no bullets, which passes
    ('format:sub-bullets', {}, '* a\n* b\n* c'),
    ('format:options', {'options': 'a), b), c)'}, '**b)**'),
  ],
)
def test_loose_leaves_out_asterisks_and_outer_lines(
  name: str, kwargs: dict[str, Any], reply: str
) -> None:
  asked: Any = reply, [name], [kwargs]
  assert constraints.follow(*asked, benchmark=True) == [False]
  assert constraints.follow_loose(*asked, benchmark=True) == [True]


@pytest.mark.parametrize(
  ('text', 'parts'),
  [
    ('Dr. Low paid 3.5. Why?! So', ['Dr. Low paid 3.5.', 'Why?', '!', 'So']),
    ('See a.m. and ex.com. "Go." He', ['See a.m. and ex.com.', '"Go".', 'He']),
    (
      'By J. Low Jr. in the U.S. He\nran',
      ['By J. Low Jr. in the U.S.', 'He ran'],
    ),
    ('At Ace Co. This is... odd', ['At Ace Co', 'This is...', 'odd']),
    ('In 1.2.3', ['In 1.2.', '3']),
    ('', []),
  ],
)
def test_sentences_are_the_benchmarks(text: str, parts: list[str]) -> None:
  assert units.sentences(text) == parts


def test_tokens_are_the_benchmarks() -> None:
  assert units.tokens('I can\'t, "he" said (Mr. Low).') == [
    *('I', 'ca', "n't", ',', '"', 'he', '"', 'said', '(', 'Mr.', 'Low', ')'),
    '.',
  ]


ANY_TEXT = st.text(
  st.one_of(
    st.characters(exclude_categories=[]),
    st.sampled_from('.!?"\'*-\n <>i()[]雨 a1'),
  )
)


@settings(max_examples=20)
@given(ANY_TEXT, st.booleans())
def test_any_text_gets_a_verdict_that_loose_never_revokes(
  reply: str, benchmark: bool
) -> None:
  mode = {'benchmark': benchmark}
  strict = constraints.follow(reply, IDS, KWARGS, **mode)
  loose = constraints.follow_loose(reply, IDS, KWARGS, **mode)
  assert {type(each) for each in strict + loose} == {bool}
  for name, one, other in zip(IDS, strict, loose, strict=True):
    assert other or not one, name
  if not reply.strip():
    assert not any(loose)


UNITS = (
  *'a."(\'*\n',
  *('. ', '" ', '(]', '<i>', '\n*', '* -', 'Question\n', 'U.S.'),
)


@pytest.mark.parametrize('unit', quick(UNITS, '. '))
def test_the_time_of_a_check_does_not_grow_faster_than_its_reply(
  unit: str,
) -> None:
  constraints.follow('A cat.', IDS, KWARGS)  # reads dictionaries once
  reply = 'x' + (unit * 25_000)[:24_999]
  for benchmark in (False, True):
    for name, kwargs in zip(IDS, KWARGS, strict=True):
      with cpu_limit(SECONDS[25_000]):
        constraints.follow(reply, [name], [kwargs], benchmark=benchmark)


@pytest.mark.parametrize(
  ('name', 'kwargs', 'words'),
  [
    (TAGGED, {}, ['not supported', 'part-of-speech tagger']),
    ('count:numbers', {}, ['N must be', 'whole number of 1']),
    ('count:numbers', {'N': 2.5}, ['N must be', '2.5']),
    ('count:numbers', {'N': True}, ['N must be', 'True']),
    ('count:numbers', {'N': float('nan')}, ['N must be', 'nan']),
    ('ratio:stop_words', {'percentage': 101}, ['from 0 to 100', '101']),
    ('ratio:stop_words', {'percentage': '9'}, ['from 0 to 100', "'9'"]),
    ('format:options', {'options': ' '}, ['non-blank text']),
    (
      'count:word_count_range',
      {'min_words': 3, 'max_words': 2},
      ['min_words must be no more than max_words'],
    ),
    (
      'repeat:repeat_span',
      {'prompt_to_repeat': 'a b', 'n_start': 2, 'n_end': 1},
      ['n_start must be no more than n_end'],
    ),
    ('words:vowel', {'N': 1}, ['unknown argument', 'none']),
  ],
)
def test_illegal_arguments_are_named(
  name: str, kwargs: dict[str, Any], words: list[str]
) -> None:
  with pytest.raises(ValueError) as error:
    constraints.validate([name], [kwargs])
  for word in [name, *words]:
    assert word in str(error.value)


def test_nulls_are_dropped_and_whole_floats_are_whole() -> None:
  kwargs = {'N': 2.0, 'keyword': None}
  [(_, given)] = constraints.validate(['count:numbers'], [kwargs])
  assert given == {'N': 2} and type(given['N']) is int
  assert constraints.describe('count:numbers', kwargs, 'en') == (
    'Use exactly 2 numbers, written in digits.'
  )


def test_a_brief_of_a_users_own_may_have_these_rules() -> None:
  record = {
    'prompt': 'A toast.',
    'instruction_id_list': ['words:repeats'],
    'kwargs': [{'small_n': 2}],
  }
  brief = briefs.read_brief(record)
  assert brief.text == 'A toast. Use no word more than 2 times.'
  assert brief.follow('Sea, sea.') == [True]
  chinese = record | {'language': 'zh'}
  with pytest.raises(ValueError, match='expected en.*words:repeats.*stated'):
    briefs.read_brief(chinese)
  assert briefs.read_brief(chinese | {'stated': True}).text == 'A toast.'
  tagged = record | {'instruction_id_list': [TAGGED], 'kwargs': [{}]}
  with pytest.raises(ValueError, match=f'{TAGGED} is not supported'):
    briefs.read_brief(tagged)


def test_no_training_data_is_made_with_these_rules() -> None:
  rules = {*table.RULES, TAGGED}
  assert not rules & {*registry.VERIFIERS}
  assert not rules & {*arguments.RECIPES}  # of which briefs are composed
  assert not rules & {*proposals._IDS}  # that a model may extract
  for sentence in SENTENCES.values():
    assert not rules & {rule.instruction_id for rule in read(sentence).rules}
  for path in (ROOT / 'rlcw' / 'data' / 'assets').glob('*.jsonl'):
    for line in path.read_text('utf-8').splitlines():
      assert not rules & {*json.loads(line).get('instruction_id_list', [])}


def test_nothing_of_the_benchmarks_prompts_is_shipped() -> None:
  shipped = '\n'.join(
    path.read_text('utf-8')
    for folder in ('rlcw', 'configs', 'tests')
    for pattern in ('*.py', '*.jsonl', '*.md', '*.txt')
    for path in (ROOT / folder).rglob(pattern)
  )
  for record in datasets.read_jsonl(at('IFBench_test')):
    assert record['prompt'].strip() not in shipped
    for kwargs in record['kwargs']:
      for name in ('prompt_to_repeat', 'reference_text'):
        assert (kwargs.get(name) or '\ud800').strip() not in shipped
