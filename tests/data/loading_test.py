"""Loaders: selection, notices, and one line about any wrong record."""

import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from rlcw.data import datasets
from rlcw.data.examples import load_examples
from rlcw.data.preferences import load_preferences
from rlcw.evaluation import labelled
from rlcw.models.thoughts import reply_or_all
from rlcw.rewards.briefs import load_briefs
from rlcw.runtime import console
from rlcw.tasks import verify

PAIR = {'prompt': 'p', 'chosen': 'a', 'rejected': 'b'}
RULED = {'instruction_id_list': ['length:words'], 'kwargs': [{'at_most': 9}]}
BRIEF = {'id': 'x', 'prompt': 'p'} | RULED


@pytest.fixture
def save(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
  """Writes records, and forgets earlier notices."""

  def write(*records: Any) -> pathlib.Path:
    console.take_notices()
    file = tmp_path / 'x.jsonl'
    file.write_text('\n'.join(json.dumps(record) for record in records))
    return file

  return write


def test_what_is_in_another_language_is_counted(
  save: Callable[..., pathlib.Path],
) -> None:
  file = save(
    PAIR,
    PAIR | {'language': 'zh'},
    PAIR | {'language': None},
    PAIR | {'language': ''},
  )
  assert len(load_preferences(file, language='en')) == 3
  assert {p.language for p in load_preferences(file)} == {'en', 'zh'}
  assert console.take_notices() == [
    f"{file}: zh: 1 of 4 records left out, as language='en'"
  ]
  # a record that names none is in any
  assert len(load_preferences(file, language='zh')) == 4
  assert console.take_notices() == []


def test_a_language_that_no_record_has_names_file_and_setting(
  save: Callable[..., pathlib.Path],
) -> None:
  file = save(PAIR | {'language': 'zh'}, PAIR | {'language': 'zh'})
  for load in (load_preferences, load_examples):
    with pytest.raises(ValueError, match=r"x\.jsonl: .*'en'; found zh: 2"):
      load(file, language='en')
  labelled_file = save({'prompt': 'p', 'response': 'r', 'language': 'zh'})
  with pytest.raises(ValueError, match=r"x\.jsonl: .*'en'; found zh: 1"):
    labelled.load(labelled_file, 'en', dev=0.1, heldout=0.1)


def test_a_language_that_is_no_text_is_named(
  save: Callable[..., pathlib.Path],
) -> None:
  with pytest.raises(
    ValueError, match=r'x\.jsonl:2: language=5; expected a te'
  ):
    load_examples(save(PAIR, PAIR | {'language': 5}), language='en')


def test_many_languages_make_one_short_line(
  save: Callable[..., pathlib.Path],
) -> None:
  file = save(PAIR, *[PAIR | {'language': f'{n}\n' * 99} for n in range(40)])
  assert len(load_examples(file, language='en')) == 1
  [notice] = console.take_notices()
  assert '30 others of 41 records left out' in notice
  assert '\n' not in notice and len(notice) < 800


def test_a_misspelt_split_is_counted(
  save: Callable[..., pathlib.Path],
) -> None:
  file = save(
    *[
      PAIR | {'split': s, 'prompt': s}
      for s in ('Train', 'trian', 'Test', 'validation')
    ]
  )
  assert len(load_preferences(file, split='train')) == 1
  assert len(load_preferences(file, split='heldout')) == 2
  assert console.take_notices() == [
    f'{file}: trian: 1 of 4 records left out; expected the split train or '
    'heldout'
  ]
  with pytest.raises(ValueError, match="'heldout'.*give some records that spl"):
    load_preferences(save(PAIR | {'split': 'train'}), split='heldout')


def test_where_no_prompt_is_held_out_the_share_is_named(
  save: Callable[..., pathlib.Path],
) -> None:
  records = [PAIR | {'prompt': n} for n in ('a', 'b')]
  for load in load_preferences, load_examples, load_briefs:
    with pytest.raises(ValueError) as error:
      load(save(*records), split='heldout', heldout=0.001)
    assert str(error.value).endswith(
      "no record has the split 'heldout'; found train: 2: give some records "
      'that split, or change --config.heldout=0.001'
    )
  # these are not drawn, so that no share changes them
  named = [record | {'split': 'train'} for record in records]
  with pytest.raises(ValueError, match='give some records that split$'):
    load_preferences(save(*named), split='heldout')
  # `compare` has no such setting
  with pytest.raises(ValueError, match='give some records that split$'):
    load_preferences(save(PAIR | {'prompt': 'a'}), split='heldout')


def test_pairs_of_equal_sides_are_left_out(
  save: Callable[..., pathlib.Path],
) -> None:
  file = save(PAIR, PAIR | {'rejected': 'a'})
  assert [p.replies for p in load_preferences(file)] == [('a', 'b')]
  [notice] = console.take_notices()
  assert '1 pairs of equal replies left out' in notice
  with pytest.raises(ValueError, match='equals rejected in all 1'):
    load_preferences(save(PAIR | {'rejected': 'a'}))


def test_equal_scored_replies_are_one_with_the_mean(
  save: Callable[..., pathlib.Path],
) -> None:
  score = [('a', 1), ('b', 2), ('a', 4)]
  file = save(*[{'prompt': 'p', 'response': r, 'score': s} for r, s in score])
  [group] = load_preferences(file)
  assert (group.replies, group.worth) == (('a', 'b'), (2.5, 2.0))
  [notice] = console.take_notices()
  assert '1 repeated replies merged' in notice


@pytest.mark.parametrize(
  'records',
  [
    [
      {'response': 'a', 'score': 1, 'finished': [True]},
      {'response': 'b', 'score': 2, 'finished': [False]},
      {'response': 'c', 'score': 3},
    ],
    [
      {'response': 'a', 'score': 1},
      {'response': ' ', 'score': -9, 'finished': [True]},
      {'response': 'c', 'score': 3},
    ],
    [{'responses': ['a', 'b', 'c'], 'scores': [1, 2, 3]}],
  ],
)
def test_scored_replies_that_were_cut_off_are_left_out(
  save: Callable[..., pathlib.Path], records: list[dict[str, Any]]
) -> None:
  if len(records) == 1:
    records[0]['finished'] = [True, False, True]
  file = save(*[{'prompt': 'p', **record} for record in records])
  [group] = load_preferences(file)
  assert (group.replies, group.worth) == (('a', 'c'), (1, 3))
  assert console.take_notices() == [
    f'{file}: 1 replies left out, blank or cut off'
  ]
  file = save({'prompt': 'p', 'response': 'b', 'label': 1, 'finished': False})
  with pytest.raises(ValueError, match='all of 1 scored replies are blank'):
    load_preferences(file)


@pytest.mark.parametrize('finished', [False, [True, False]])
def test_each_of_several_replies_is_told_finished_or_not(
  finished: Any, save: Callable[..., pathlib.Path]
) -> None:
  record = {'prompt': 'p', 'responses': ['a', 'b', 'c'], 'scores': [1, 2, 3]}
  file = save(record | {'finished': finished})
  with pytest.raises(ValueError, match=':1: finished has . flags of 3 replies'):
    load_preferences(file)


def test_replies_labelled_bad_are_not_imitated(
  save: Callable[..., pathlib.Path],
) -> None:
  reply = {'prompt': 'p', 'completion': 'a'}
  cut = reply | {'finished': [False]}
  file = save(reply | {'label': True}, reply | {'label': 0}, reply, cut)
  assert len(load_examples(file)) == 2
  [notice] = console.take_notices()
  assert '2 of 4 replies left out, whose label is 0 or which' in notice
  with pytest.raises(ValueError, match='every reply has label 0'):
    load_examples(save(reply | {'label': False}))


def test_briefs_without_a_split_are_held_out_by_their_prompt(
  save: Callable[..., pathlib.Path],
) -> None:
  records = [{'prompt': f'p{n}'} | RULED for n in range(200)]
  heldout = load_briefs(save(*records), split='heldout', heldout=0.25)
  train = load_briefs(save(*records), split='train', heldout=0.25)
  assert 30 < len(heldout) < 70
  assert {b.prompt for b in heldout + train} == {r['prompt'] for r in records}
  assert len({b.id for b in heldout + train}) == 200
  assert {b.split for b in heldout} == {'heldout'}
  assert {datasets.split_of(b.prompt, 0.25) for b in heldout} == {'heldout'}


def test_briefs_with_one_id_are_counted(
  save: Callable[..., pathlib.Path],
) -> None:
  load_briefs(save(BRIEF, BRIEF | {'prompt': 'q'}))
  [notice] = console.take_notices()
  assert '1 of 2 briefs have the id of another' in notice


def test_briefs_without_rules_are_counted(
  save: Callable[..., pathlib.Path],
) -> None:
  file = save({'prompt': [{'role': 'user', 'content': 'p'}]}, BRIEF)
  free, ruled = load_briefs(file)
  assert (free.text, free.follow('x')) == ('p', [])
  assert ruled.follow('x') == [True]
  [notice] = console.take_notices()
  assert '1 of 2 briefs have no rules' in notice


def test_a_brief_has_its_system_message_and_earlier_turns(
  save: Callable[..., pathlib.Path],
) -> None:
  def say(role: str, content: str) -> dict[str, str]:
    return {'role': role, 'content': content}

  file = save(
    BRIEF,
    BRIEF | {'system': 'Rhyme.'},
    BRIEF
    | {'prompt': [say('user', 'a'), say('assistant', 'b'), say('user', 'c')]},
  )
  plain, own, turns = load_briefs(file, system='Be brief.')
  assert isinstance(plain.request, tuple)
  assert plain.request[0] == ('system', 'Be brief.')
  assert own.request[0] == ('system', 'Rhyme.')
  assert own.prompt == 'p'
  words = plain.request[1][1]
  assert words.startswith('p ')  # the request, then the rules in words
  assert own.request[1] == ('user', words)
  assert [each[0] for each in turns.request] == [
    'system', 'user', 'assistant', 'user',
  ]  # fmt: skip
  assert turns.text == (
    '[system]\nBe brief.\n\n[user]\na\n\n[assistant]\nb\n\n[user]\n'
    + 'c' + words[1:]
  )  # fmt: skip
  [alone] = load_briefs(save(BRIEF))
  assert alone.request == alone.text == words


# --- Wrong and hostile values ------------------------------------------------

ANY = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.sampled_from([10**400, -(10**18)])
  | st.floats()
  | st.text(max_size=9)
  | st.sampled_from(['\ud800', '\x00', '\u2028', '<|im_end|>', '{', '∞' * 99]),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(
      st.sampled_from(['role', 'content', 'from', 'value', 'text', 'x']),
      inner,
      max_size=3,
    )
  ),
  max_leaves=6,
)
FIELDS = [
  'id', 'prompt', 'response', 'chosen', 'rejected', 'score', 'label', 'scores',
  'responses', 'messages', 'conversations', 'completion', 'completions',
  'instruction', 'input', 'output', 'system', 'history', 'query', 'kto_tag',
  'language', 'split', 'genre', 'theme', 'instruction_id_list', 'kwargs',
  'paraphrase', 'tools', 'key', 'context', 'question', 'system_message',
  'functions', 'conversation',
]  # fmt: skip
WHOLE = [
  PAIR,
  BRIEF | {'response': 'r', 'score': 1.0, 'label': 1, 'language': 'en'},
  {'messages': [{'role': r, 'content': 'x'} for r in ('user', 'assistant')]},
  {'instruction': 'i', 'output': 'o', 'history': [['a', 'b']], 'system': 's'},
]
LOADERS: dict[str, Callable[[str], Any]] = {
  'preferences': lambda file: load_preferences(file, split='train'),
  'examples': lambda file: load_examples(file, language='en'),
  'briefs': load_briefs,
  'labelled': lambda file: labelled.load(file, 'en', dev=0.1, heldout=0.1),
  'verify': lambda file: [
    verify.read_brief(record, place)
    for place, record in datasets.read_records(file)
  ],
}


@pytest.mark.parametrize('loader', LOADERS)
@hypothesis.settings(
  max_examples=150,
  suppress_health_check=[
    hypothesis.HealthCheck.function_scoped_fixture,
    hypothesis.HealthCheck.too_slow,
  ],
)
@hypothesis.given(
  record=st.sampled_from(WHOLE),
  wrong=st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4),
)
@hypothesis.example(record=WHOLE[2], wrong={'label': [10**999, 10**999]})
@hypothesis.example(record=WHOLE[0], wrong={'split': [10**999, 10**999]})
@hypothesis.example(record=WHOLE[1], wrong={'paraphrase': [10**999, 10**999]})
@hypothesis.example(record=WHOLE[1], wrong={'language': [10**999, 10**999]})
def test_any_record_is_read_or_refused_in_one_line(
  loader: str,
  record: dict[str, Any],
  wrong: dict[str, Any],
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.jsonl'
  file.write_text(json.dumps(record | wrong))
  try:
    assert LOADERS[loader](str(file))
  except ValueError as error:
    assert re.match(r'.*x\.jsonl(:1)?: ', str(error)), error
    assert len(str(error).splitlines()) == 1, error
    assert len(str(error)) < 1500


@pytest.mark.parametrize('name', ['tool_calls', 'reasoning_content'])
def test_what_says_more_than_a_reply_is_refused(
  name: str, save: Callable[..., pathlib.Path]
) -> None:
  record = {'prompt': 'Hi', 'response': 'Ho', name: [{'a': 1}]}
  file = save(record)
  with pytest.raises(ValueError, match=rf':1: .*{name} is not supported'):
    load_examples(file)
  file = save(record | {name: None})
  assert len(load_examples(file)) == 1


@pytest.mark.parametrize('scores', [(1, 9), ('1', '9')])
def test_scores_that_contradict_a_pair_are_told(
  scores: tuple[Any, Any],
  save: Callable[..., pathlib.Path],
  tmp_path: pathlib.Path,
) -> None:
  pair = {'prompt': 'A', 'chosen': 'B', 'rejected': 'C'}
  names = 'score_chosen', 'score_rejected'
  records = [
    pair | dict(zip(names, scores, strict=True)),
    pair | dict.fromkeys(names, 5),
  ]
  if isinstance(scores[0], str):
    with pytest.raises(ValueError, match=r":1: score_chosen='1' and .*numbers"):
      load_preferences(save(*records))
    return
  # A tie is no preference either.
  records.append(pair | dict(zip(names, (9, 1), strict=True)))
  assert len(load_preferences(save(*records))) == 1
  for best, worst in (
    ('chosen_rating', 'rejected_rating'),
    ('chosen-rating', 'rejected-rating'),
    ('chosen_score', 'rejected_score'),
  ):
    told = [pair | {best: n, worst: 5, 'prompt': f'{n}'} for n in (1, 5, 9)]
    [kept] = load_preferences(save(*told))
    assert kept.prompt == '9'
  unknown = pair | dict.fromkeys(names, float('nan'))
  with pytest.raises(ValueError, match=':1: score_chosen=nan .*finite'):
    load_preferences(save(unknown))
  # csv has numbers as texts
  file = tmp_path / 'x.csv'
  file.write_text(
    f'prompt,chosen,rejected,{",".join(names)}\nA,B,C,1,9\nD,E,F,9,1\n'
  )
  [kept] = load_preferences(file)
  assert kept.prompt == 'D'
  names = ['prompt', 'chosen', 'rejected', 'chosen_rating', 'rejected_rating']
  for weight in ('weight', 'loss_weight', 'loss_mask'):
    file.write_text(f'{",".join([*names, weight])}\nA,B,C,9,1,1\nD,E,F,1,9,1\n')
    [kept] = load_preferences(file)
    assert kept.prompt == 'A'


def test_pairs_that_a_reader_cannot_tell_apart_are_left_out(
  save: Callable[..., pathlib.Path],
) -> None:
  pairs = [('Ho', 'Ho\n'), ('caf\u00e9', 'cafe\u0301'), ('a', 'b')]
  records = [
    {'prompt': 'x', 'chosen': one, 'rejected': other} for one, other in pairs
  ]
  [kept] = load_preferences(save(*records))
  assert kept.chosen == 'a'


def test_a_held_out_prompt_that_is_trained_on_is_counted(
  save: Callable[..., pathlib.Path],
) -> None:
  records = [
    {'prompt': p, 'chosen': 'a', 'rejected': 'b', 'split': split}
    for p, split in (('x', 'train'), ('x', 'test'), ('y', 'test'))
  ]
  file = save(*records)
  assert len(load_preferences(file, split='heldout')) == 2
  [told] = console.take_notices()
  assert '1 of 2 held-out records have a prompt that is in train too' in told
  assert datasets.split_of('Write. ', 0.5) == datasets.split_of('Write.', 0.5)


def test_replies_are_compared_as_they_are_read(
  save: Callable[..., pathlib.Path],
) -> None:
  """A pair whose sides differ in what is left out teaches nothing."""
  sides = [
    ('Ho', 'H\u200bo'),
    ('a\r\nb', 'a\nb'),
    ('<think>plan A</think>Ho', '<think>plan B</think>Ho'),
    ('<think>plan A</think>Ho', 'Hi'),
  ]
  pairs = [
    {'prompt': f'{n}', 'chosen': one, 'rejected': other}
    for n, (one, other) in enumerate(sides)
  ]
  scored = [
    {'prompt': 'x', 'response': f'{thought}Ho', 'score': score}
    for thought, score in (('<think>a</think>', 9), ('', 1), ('\u200b', 2))
  ]
  found = load_preferences(save(*pairs, *scored), as_read=reply_or_all)
  assert [each.replies for each in found] == [('Ho', 'Hi'), ('Ho',)]
  assert found[1].worth == (4.0,)
  # a text that is nothing but a thought is taken for the reply
  thoughts = {'chosen': '<think>a</think>', 'rejected': '<think>b</think>'}
  [pair] = load_preferences(
    save({'prompt': 'y'} | thoughts), as_read=reply_or_all
  )
  assert pair.replies == tuple(thoughts.values())


@pytest.mark.parametrize('finished', ['false', 'no', 2, [0.5], {}])
def test_whether_a_reply_is_whole_is_true_or_false(
  finished: Any, save: Callable[..., pathlib.Path]
) -> None:
  record = {'prompt': 'A', 'response': 'B', 'score': 1, 'finished': finished}
  for load in (load_preferences, load_examples):
    with pytest.raises(ValueError, match=':1: finished=.*expected true or fal'):
      load(save(record))


@pytest.mark.parametrize(
  'fields',
  [
    {'reasoning': 'because'},
    {'thinking': 'hm'},
    {'chat_history': [['a', 'b']]},
    {'weight': 0},
    {'loss_mask': 0},
  ],
)
def test_what_would_be_dropped_is_refused(
  fields: dict[str, Any], save: Callable[..., pathlib.Path]
) -> None:
  record = {'prompt': 'A', 'response': 'B'}
  with pytest.raises(ValueError, match=f':1: {next(iter(fields))}'):
    load_examples(save(record | fields))


@pytest.mark.parametrize(
  'fields', [{'mask': True}, {'masked': 1}, {'trainable': False}]
)
def test_a_reply_that_is_not_to_be_learnt_is_refused(
  fields: dict[str, Any], save: Callable[..., pathlib.Path]
) -> None:
  said = [
    {'role': 'user', 'content': 'A'},
    {'role': 'assistant', 'content': 'B'} | fields,
  ]
  with pytest.raises(ValueError, match=f':1: .*{next(iter(fields))}'):
    load_examples(save({'messages': said}))


def test_a_dialogue_beside_a_prompt_is_a_reply(
  save: Callable[..., pathlib.Path],
) -> None:
  dialogue = 'Human: I wake.\nAssistant: Good morning.'
  pair = {'prompt': 'Write a dialogue.', 'chosen': dialogue, 'rejected': 'x'}
  [found] = load_preferences(save(pair))
  assert found.prompt == 'Write a dialogue.' and found.chosen == dialogue


@pytest.mark.parametrize(
  'name', ['x.jsonl.zst', 'x.csv.xz', 'x.arrow', 'x.xlsx']
)
def test_a_format_that_is_not_read_is_named(
  name: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / name
  file.write_bytes(b'\xff\xfe')
  with pytest.raises(ValueError, match=r'cannot be read; expected \.jsonl'):
    load_preferences(file)


def test_white_space_around_a_language_or_split_is_none(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.csv'
  file.write_text(
    'prompt,chosen,rejected,language,split\nA,B,C,en ,train \nD,E,F, , \n'
  )
  found = load_preferences(file, language='en', heldout=0.0)
  assert [each.split for each in found] == ['train', 'train']


def test_marks_of_a_chat_template_are_noticed(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'x.jsonl'
  marked = {'prompt': '<|im_start|>user\nHi<|im_end|>', 'response': 'Ho'}
  turns = [{'role': 'user', 'content': '[INST] Hi [/INST]'}]
  records = (
    {'prompt': 'Hi', 'response': 'A <b>bold</b> |end|.'},
    marked,
    {'prompt': 'Hi', 'chosen': 'Ho<|eot_id|>', 'rejected': 'Hm'},
    {'messages': [*turns, {'role': 'assistant', 'content': 'Ho'}]},
  )
  file.write_text('\n'.join(map(json.dumps, records)))
  console.take_notices()
  [*_, (_, last)] = datasets.read_records(file)
  assert last['prompt'] == '[INST] Hi [/INST]'  # it is kept
  [notice] = console.take_notices()
  assert notice.startswith('3 of 4 records have marks of a chat template')
  assert f'{file}:2' in notice
