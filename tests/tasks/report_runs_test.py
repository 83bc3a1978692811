"""The report of any run: own reward, judge, no rules, unfinished, moved."""

import json
import pathlib
import re
import shutil
from typing import Any

import ml_collections
import pytest

from rlcw.tasks.report import run, runs
from tests.tasks import report_test
from tests.tasks.report_test import _edit, _page, _write_lines


@pytest.fixture(autouse=True)
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
  for name in ('draw_curves', 'draw_rules'):
    monkeypatch.setattr(run, name, lambda *_: b'\x89PNG')


def _runs(
  folder: pathlib.Path,
  *,
  evaluated: dict[str, Any] | None = None,
  **settings: Any,
) -> ml_collections.ConfigDict:
  """Runs in a folder, named by each other; returns a config of `evaluate`."""
  report_test.make_runs(folder, steps=4, briefs=2, replies=1)
  named = {'run': str(folder / 'grpo')}
  (folder / 'evaluate/config.json').write_text(json.dumps(evaluated or named))
  _edit(
    folder / 'grpo/config.json',
    **{'steps': 4, 'reward_model': str(folder / 'reward_model')} | settings,
  )
  return ml_collections.ConfigDict(
    {'evaluate': str(folder / 'evaluate'), 'grpo': '', 'reward_model': ''}
  )


def _text(workdir: pathlib.Path) -> str:
  return ' '.join(_page(workdir).text.split())


def test_runs_are_found_by_the_evaluation(tmp_path: pathlib.Path) -> None:
  found = runs.read_runs(_runs(tmp_path))
  assert found.folders['grpo'] == str(tmp_path / 'grpo')
  assert found.folders['reward_model'] == str(tmp_path / 'reward_model')
  assert found.reward_model and found.reward_model['heldout_accuracy'] == 0.84
  assert found.read == {
    'run': str(tmp_path / 'grpo'),
    'step': 4,
    'steps': 4,
    'finished': True,
  }


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'writing': 'judge'}, 'The writing score is a judge’s'),
    ({'writing': 'judge_logit'}, 'a judge’s: the log-odds that it calls'),
    ({'writing': 'diversity'}, 'the share of a reply’s groups of 2 to 4'),
    ({'writing': 'mine:score'}, 'is mine:score , a function of yours'),
    (
      {'reward_model': 'org/model'},
      'of the reward model org/model , which has',
    ),
    (
      {'writing': 'judge', 'verifiers': ['rules', 'a:b', 'c:d']},
      'also checked by a:b , c:d , whose verdicts',
    ),
  ],
)
def test_a_run_without_a_reward_model_of_ours(
  tmp_path: pathlib.Path, settings: dict[str, Any], words: str
) -> None:
  config = _runs(tmp_path, **settings)
  shutil.rmtree(tmp_path / 'reward_model')
  summary = run.run(config, tmp_path / 'out')
  assert summary['reward_model'] is None
  assert summary['wall_seconds'] == 4100
  text = re.sub(r' ?([^\w ]) ?', r'\1', _text(tmp_path / 'out'))
  assert re.sub(r' ?([^\w ]) ?', r'\1', words) in text
  assert 'Held-out pairs' not in text


@pytest.mark.parametrize('task', ['grpo', 'reward_model'])
def test_an_unrelated_run_is_refused(tmp_path: pathlib.Path, task: str) -> None:
  config = _runs(tmp_path / 'a')
  _runs(tmp_path / 'b')
  config[task] = str(tmp_path / 'b' / task)
  with pytest.raises(ValueError, match=f'^{task}=.*; expected that'):
    run.run(config, tmp_path / 'out')
  # the same folder by another name
  config[task] = str(tmp_path / 'b/../a' / task)
  run.run(config, tmp_path / 'out')


def test_a_reward_model_that_was_not_used_is_refused(
  tmp_path: pathlib.Path,
) -> None:
  config = _runs(tmp_path, writing='judge')
  config.reward_model = str(tmp_path / 'reward_model')
  with pytest.raises(ValueError, match="reward_model=.*writing='judge'"):
    run.run(config, tmp_path / 'out')


def test_a_run_that_was_moved_is_given(tmp_path: pathlib.Path) -> None:
  config = _runs(tmp_path, evaluated={'run': str(tmp_path / 'gone')})
  with pytest.raises(FileNotFoundError, match=r'gone, which is not there: --c'):
    run.run(config, tmp_path / 'out')
  config.grpo = str(tmp_path / 'grpo')
  run.run(config, tmp_path / 'out')
  assert 'was read in its place' in _text(tmp_path / 'out')


def test_the_evaluation_says_which_run_it_read(tmp_path: pathlib.Path) -> None:
  config = _runs(tmp_path, evaluated={})
  read = {'run': str(tmp_path / 'grpo'), 'step': 2, 'steps': 4}
  _edit(tmp_path / 'evaluate/summary.json', read=[read | {'finished': False}])
  summary = run.run(config, tmp_path / 'out')
  assert summary['read'] == [read | {'finished': False}]
  text = _text(tmp_path / 'out')
  assert 'The run has not finished, it was read at step 2 of 4. Better' in text
  assert 'step 4 since it was evaluated at step 2' in text


def test_an_unfinished_run_is_said_to_be_one(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  config = _runs(tmp_path, steps=9)
  (tmp_path / 'grpo/summary.json').unlink()
  summary = run.run(config, tmp_path / 'out')
  line = 'The run has not finished, it was read at step 4 of 9. Better than'
  assert f'\n{line}' in capsys.readouterr().out
  text = _text(tmp_path / 'out')
  assert line in text and 'at step 4 of 9, not finished' in text
  assert summary['steps'] == 4 and summary['hardware'] == {}


def _group_text(
  tmp_path: pathlib.Path, reply: dict[str, Any], **run_: Any
) -> str:
  """The page's words about one sampled reply."""
  config = _runs(tmp_path, **run_)
  path = tmp_path / 'grpo/rollouts.jsonl'
  group = json.loads(path.read_text().splitlines()[0])
  kept = {'follow': [True], 'violated': False, 'valid': True, 'finished': True}
  # 133 is the best writing score, which rewards are relative to
  kept |= {'writing': 133.0, 'reward': 0.0}
  replies = [group['replies'][0] | kept]
  replies.append(replies[0] | {'text': 'MARK'} | reply)
  _write_lines(path, [group | {'replies': replies}])
  run.run(config, tmp_path / 'out')
  text = _text(tmp_path / 'out')
  return text[text.index('Groups sampled') : text.index('MARK')]


CUT = {'violated': True, 'finished': False, 'writing': 130.0, 'reward': -5.0}
BROKEN = {'violated': True, 'follow': [False], 'writing': 130.0, 'reward': -4.5}


@pytest.mark.parametrize(
  ('reply', 'settings', 'words'),
  [
    (
      CUT | {'follow': []},
      {},
      '✂ was cut off, which counts as a broken rule: penalty 2.00',
    ),
    (BROKEN, {}, '✗ breaks 1 of 1 rule: penalty 1.50'),
    (
      BROKEN | {'finished': False, 'follow': [False, True]},
      {},
      '✗ breaks 1 of 2 rules and was cut off: penalty 1.50',
    ),
    (BROKEN | {'reward': -3.0}, {}, '✗ breaks 1 of 1 rule: no penalty needed'),
    # of a mixer whose rewards are no writing scores
    (BROKEN, {'mixing': {'name': 'gdpo'}}, '✗ breaks 1 of 1 rule'),
    (
      BROKEN | {'follow': [True]},
      {'verifiers': ['rules', 'a:b']},
      '✗ refused by a:b: penalty 1.50',
    ),
    (
      {'follow': [False]},
      {'verifiers': ['a:b']},
      'breaks 1 of 1 rule, which did not count in this run',
    ),
    ({'follow': []}, {}, 'no rules to keep'),
    ({}, {}, '✓ keeps every rule: no penalty'),
    ({'valid': False, 'writing': None}, {}, 'No writing score: left out of'),
    ({'valid': False, 'follow': [None]}, {}, 'No verdict on a rule: left out'),
  ],
)
def test_a_sampled_reply_is_told_what_happened_to_it(
  tmp_path: pathlib.Path,
  reply: dict[str, Any],
  settings: dict[str, Any],
  words: str,
) -> None:
  found = _group_text(tmp_path, reply, **settings)
  assert found.endswith(words) or f'{words} ' in found[-len(words) - 20 :]


def test_where_all_break_a_rule_a_fixed_penalty_is_shown() -> None:

  def penalties(*replies: tuple[float, float]) -> list[float]:
    group = [
      {'valid': True, 'writing': w, 'reward': reward} for w, reward in replies
    ]
    (found,) = run.add_penalties([{'replies': group}], 'linear')
    assert [r['writing'] - r['penalty'] for r in found['replies']] == [
      r['reward'] for r in found['replies']
    ]
    return [r['penalty'] for r in found['replies']]

  assert penalties((3, 1), (1, -1)) == [2, 2]
  assert penalties((3, 3), (1, -1)) == [0, 2]
  assert penalties((-2, -3), (-3, -3), (-2.5, -3.5)) == [1, 0, 1]


@pytest.mark.parametrize('name', ['rlmr_bonus', 'rlmr_clip'])
def test_the_penalty_of_every_mixer_that_subtracts_one_is_shown(
  name: str,
) -> None:
  group = [
    {'valid': True, 'writing': 2.0, 'reward': 2.0},
    {'valid': True, 'writing': 3.0, 'reward': 1.5},
  ]
  (found,) = run.add_penalties([{'replies': group}], name)
  assert [r['penalty'] for r in found['replies']] == [0, 1.5]


def test_rewards_are_shown_on_the_scale_of_writing_scores(
  tmp_path: pathlib.Path,
) -> None:
  found = _group_text(tmp_path, BROKEN)
  assert 'writing 133.00 → reward 133.00' in found
  assert 'writing 130.00 → reward 128.50' in found


def test_parts_and_rubrics_are_shown(tmp_path: pathlib.Path) -> None:
  config = _runs(tmp_path, writing='0.5*reward_model - judge + 2*rubric')
  rubric = [
    {'criterion': 'It <b>rhymes.', 'weight': 2},
    {'criterion': 'It is trite.', 'weight': -0.5},
  ]
  parts = {'reward_model': 1.0, 'judge': 0.25, 'rubric': None}
  more = {'parts': parts, 'met': [True, None]}
  path = tmp_path / 'grpo/rollouts.jsonl'
  (group, *_) = map(json.loads, path.read_text().splitlines())
  first = {'valid': True, 'violated': True, 'writing': 9.0, 'follow': [False]}
  replies = [reply | more for reply in group['replies'][:2]]
  replies[0] |= first | {'writing_reward': 0.5, 'reward': -1.5}
  replies[1] |= first | {
    'writing_reward': 0.25,
    'reward': 0.25,
    'met': [False] * 2,
  }
  _write_lines(path, [group | {'rubric': rubric, 'replies': replies}])
  path = tmp_path / 'evaluate/evaluation.jsonl'
  briefs = [json.loads(line) for line in path.read_text().splitlines()]
  for reply in (each for arm in ('base', 'trained') for each in briefs[0][arm]):
    reply |= more
  _write_lines(path, [briefs[0] | {'rubric': rubric}, *briefs[1:]])
  numbers = {'writing/judge_base': 0.25, 'writing/judge_trained': 0.75}
  gain = {'mean': 0.5, 'low': 0.25, 'high': 0.75}
  numbers |= {'writing/judge_difference': gain}
  _edit(tmp_path / 'evaluate/summary.json', **numbers)
  path = tmp_path / 'grpo/metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  _write_lines(path, [row | {'writing/judge': 0.5} for row in rows])
  run.run(config, tmp_path / 'out')
  text = _text(tmp_path / 'out')
  words = (
    'is the sum of 0.5 × reward_model , −1 × judge and 2 × rubric .',
    'Its part judge is a judge’s: the probability',
    'Its part rubric is of the briefs’ rubrics',
    'Held-out pairs',  # of the reward model
    'writing/judge0.250.75+0.50',
    '( reward_model 1.00, judge 0.25, rubric – )',
    '✓ meets (+2): It <b>rhymes.',
    '? no verdict (−0.5): It is trite.',
    '→ in its group 0.50 → reward −1.50',
    ': penalty 2.00',
    'Writing: judge . Mean of a part',
  )
  text = re.sub(r' ?([^\w ]) ?', r'\1', text)
  for each in words:
    assert re.sub(r' ?([^\w ]) ?', r'\1', each) in text, each
  assert 'Writing: rubric' not in text  # of which there are no numbers


@pytest.mark.parametrize(
  ('file', 'changes', 'message'),
  [
    ('grpo/rollouts.jsonl', {'met': [True]}, 'as long as "rubric"'),
    ('evaluate/evaluation.jsonl', {'met': [1, 'x']}, 'true, false or null'),
    (
      'grpo/rollouts.jsonl',
      {'parts': {'a': 'x'}},
      r'parts\.a should be int or',
    ),
    ('grpo/rollouts.jsonl', {'parts': 3}, 'parts should be dict'),
  ],
)
def test_malformed_parts_and_rubrics_are_named(
  tmp_path: pathlib.Path, file: str, changes: dict[str, Any], message: str
) -> None:
  config = _runs(tmp_path)
  rubric = [{'criterion': 'It rhymes.', 'weight': 2}] * 2
  path = tmp_path / file
  first, *rest = map(json.loads, path.read_text().splitlines())
  arm = 'replies' if 'replies' in first else 'base'
  first |= {'rubric': rubric, arm: [each | changes for each in first[arm]]}
  _write_lines(path, [first, *rest])
  with pytest.raises(ValueError, match=message):
    run.run(config, tmp_path / 'out')


def test_briefs_without_rules_have_no_pass_rate(tmp_path: pathlib.Path) -> None:
  config = _runs(tmp_path)
  path = tmp_path / 'evaluate/evaluation.jsonl'
  briefs = [json.loads(line) for line in path.read_text().splitlines()]
  for brief in briefs:
    brief |= {'instruction_id_list': [], 'rules': [], 'kwargs': []}
    for reply in brief['base'] + brief['trained']:
      reply['follow'] = []
  _write_lines(path, briefs)
  run.run(config, tmp_path / 'out')
  page = _page(tmp_path / 'out')
  assert 'Better than before in writing: writing score' in page.text
  assert 'Keeps every rule (' not in page.text
  assert not (tmp_path / 'out/rules.png').exists()
  ids = {attributes.get('id') for _, attributes in page.tags}
  assert {a['href'][1:] for tag, a in page.tags if tag == 'a'} <= ids


@pytest.mark.parametrize(
  ('kwargs', 'name'),
  [
    (None, 'number of words (IFEval)'),
    ([{'num_words': 60, 'relation': 'at least'}] * 2, 'at least 60 words'),
    # briefs that differ
    (
      [
        {'num_words': 60, 'relation': 'at least'},
        {'num_words': 70, 'relation': 'at least'},
      ],
      'number of words (IFEval)',
    ),
  ],
)
def test_rules_have_plain_names(
  kwargs: list[dict[str, Any]] | None, name: str
) -> None:
  rule = 'length_constraints:number_words'
  briefs = [
    {
      'instruction_id_list': [rule],
      'base': [{'follow': [True]}],
      'trained': [{'follow': [False]}],
    }
    | ({'kwargs': [kwargs[i]]} if kwargs else {})
    for i in range(2)
  ]
  [rate] = run.rule_rates(briefs)
  assert (rate['id'], rate['name']) == (rule, name)


def test_rules_with_one_name_get_general_ones() -> None:
  briefs = [
    {
      'instruction_id_list': [
        'length:words',
        'length_constraints:number_words',
      ],
      'kwargs': [{'at_least': 5}, {'num_words': 5, 'relation': 'at least'}],
    }
  ]
  found = run.rule_names(briefs)
  assert [*found.values()] == ['number of words', 'number of words (IFEval)']


def test_the_glossary_has_the_words_of_the_page(tmp_path: pathlib.Path) -> None:
  run.run(_runs(tmp_path), tmp_path / 'out')
  tags = _page(tmp_path / 'out').tags
  terms = {a['id'] for tag, a in tags if tag == 'dt'}
  used = {a['href'][1:] for tag, a in tags if a.get('class') == 'term'}
  assert terms == used and 'term-KL' in terms
  assert 'term-self-BLEU' not in terms  # of another page


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('evaluate/config.json', '{"run": 3}', 'config.json: run should be str'),
    ('evaluate/config.json', '', 'config.json: expected one JSON object'),
    ('grpo/config.json', '[]', 'config.json: it should be dict'),
    ('evaluate/summary.json', '', 'summary.json: expected one JSON object'),
    ('evaluate/evaluation.jsonl', '', 'at least one whole line of JSON'),
    ('evaluate/evaluation.jsonl', '[' * 99999, 'jsonl: expected at least one'),
    ('grpo/rollouts.jsonl', '[' * 99999 + '\n', 'jsonl:1: expected one JSON'),
    ('grpo/rollouts.jsonl', b'\xff\n', 'jsonl:1: expected one JSON object'),
  ],
)
def test_spoiled_files_are_named(
  tmp_path: pathlib.Path, name: str, content: str | bytes, words: str
) -> None:
  config = _runs(tmp_path)
  data = content if isinstance(content, bytes) else content.encode()
  (tmp_path / name).write_bytes(data)
  with pytest.raises(ValueError, match=re.escape(words)) as error:
    run.run(config, tmp_path / 'out')
  assert str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
  ('setting', 'value', 'words'),
  [
    ('evaluate', '', "^evaluate='': expected the workdir of a `evaluate` run"),
    ('evaluate', 'nowhere', '^evaluate=.nowhere.: expected the workdir'),
    ('grpo', 'nowhere', '^grpo=.nowhere.: expected the workdir'),
  ],
)
def test_a_missing_folder_is_named(
  tmp_path: pathlib.Path, setting: str, value: str, words: str
) -> None:
  config = _runs(tmp_path)
  config[setting] = value
  with pytest.raises(FileNotFoundError, match=words):
    run.run(config, tmp_path / 'out')


def test_an_unfinished_evaluation_is_said_to_be_one(
  tmp_path: pathlib.Path,
) -> None:
  config = _runs(tmp_path)
  (tmp_path / 'evaluate/summary.json').unlink()
  with pytest.raises(FileNotFoundError, match='evaluate` run has not finished'):
    run.run(config, tmp_path / 'out')


def test_a_note_and_a_demonstration_are_shown_beside_the_plain_brief(
  tmp_path: pathlib.Path,
) -> None:
  config = _runs(tmp_path)
  path = tmp_path / 'grpo/rollouts.jsonl'
  (group, *_) = map(json.loads, path.read_text().splitlines())
  demonstration = {
    'text': 'Ahoy, <b>Ines.',
    'writing': None,
    'violated': True,
    'advantage': 0.0,
  }
  more = {'note': 'Scoring: by <i>ear.', 'demonstration': demonstration}
  _write_lines(path, [group | more])
  run.run(config, tmp_path / 'out')
  text = _text(tmp_path / 'out')
  for each in (
    group['prompt'],
    'read a note after the brief: Scoring: by <i>ear.',
    'as it breaks a rule Ahoy, <b>Ines.',
  ):
    assert each in text, each
