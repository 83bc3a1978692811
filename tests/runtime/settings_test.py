"""Old names of settings, from the command line, files and old runs."""

import json
import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlcw.runtime import settings


@pytest.mark.parametrize(
  ('old', 'new'),
  [
    ('prompts_per_pass', 'batch_size'),
    ('briefs_per_pass', 'batch_size'),
    ('judge.groups_per_pass', 'judge.batch_size'),
    ('judge.endpoint.max_tokens', 'judge.max_new_tokens'),
    ('judge.endpoint.cache', 'judge.cache'),
    ('judge.endpoint.temperature', 'judge.temperature'),
    ('judge.endpoint.url', 'judge.endpoint.url'),
    ('temperature', 'temperature'),
  ],
)
def test_names(old: str, new: str) -> None:
  assert settings.new_name(old) == new


def test_an_old_name_on_the_command_line_is_replaced_with_a_warning() -> None:
  warnings: list[str] = []
  arguments = settings.upgrade_arguments(
    [
      'rlcw',
      '--config=configs/judge.py',
      '--config.judge.endpoint.max_tokens=9',
      '--config.replies_per_pass',
      '4',
      '--config.judged_per_brief=1',
      '--config.broken_tokens',
      '0.2',
      '--workdir=runs/per_pass',
    ],
    warnings.append,
  )
  assert arguments == [
    'rlcw',
    '--config=configs/judge.py',
    '--config.judge.max_new_tokens=9',
    '--config.batch_size',
    '4',
    '--workdir=runs/per_pass',
  ]
  assert 'config.judge.max_new_tokens' in warnings[0]
  assert 'config.batch_size' in warnings[1]
  assert 'no longer a setting' in warnings[2]


def test_a_config_with_old_names_is_moved() -> None:
  config = ConfigDict(
    {
      'judge': {'endpoint': {'url': 'u', 'max_tokens': 7}, 'votes': 2},
      'briefs_per_pass': 3,
      'judged_per_brief': 1,
    }
  )
  config.lock()
  warnings: list[str] = []
  settings.upgrade(config, warnings.append)
  assert config.to_dict() == {
    'judge': {'endpoint': {'url': 'u'}, 'max_new_tokens': 7, 'votes': 2},
    'batch_size': 3,
  }
  assert len(warnings) == 3


def test_the_settings_of_an_old_run_are_read(tmp_path: pathlib.Path) -> None:
  (tmp_path / 'config.json').write_text(json.dumps({'groups_per_pass': 8}))
  assert settings.read(tmp_path).to_dict() == {'batch_size': 8}


def test_differences_are_named_and_later_settings_are_none() -> None:
  old = {'a': 1, 'b': {'c': 2, 'd': (1, 2)}}
  new = {'a': 1, 'b': {'c': 3, 'd': (1, 2), 'e': 5}, 'f': 6}
  assert settings.differences(old, new) == {'b.c': (2, 3)}
  assert settings.differences(new, old) == {
    'b.c': (3, 2),
    'b.e': (5, None),
    'f': (6, None),
  }


def test_what_a_run_shows_is_no_difference() -> None:
  old = {'loggers': ['tensorboard'], 'show_every': 10, 'steps': 3}
  new = {'loggers': ['wandb'], 'show_every': 0, 'steps': 3}
  assert settings.differences(old, new) == {}
  assert settings.differences(old, {}) == {'steps': (3, None)}


def test_a_default_that_has_changed_is_no_difference() -> None:
  old = {'judge': {'max_reply_characters': 4000, 'votes': 1}}
  new = {'judge': {'max_reply_characters': 0, 'votes': 1}}
  assert settings.differences(old, new) == {}
  new['judge']['max_reply_characters'] = 9
  name = 'judge.max_reply_characters'
  assert settings.differences(old, new) == {name: (4000, 9)}
  # `report` once had to be given all three runs
  old = {'grpo': 'runs/quickstart/grpo', 'evaluate': 'x'}
  assert settings.differences(old, {'grpo': '', 'evaluate': 'x'}) == {}


@pytest.mark.parametrize(
  'damaged',
  [
    {'inputs': None},
    {'inputs': [1]},
    {'inputs': {'model': 5}},
    {'inputs': {'model': {}}},
    {'inputs': {'model': {'path': 'a', 'digest': 1}}},
    {'workdir': 5},
  ],
)
def test_damaged_records_of_inputs_are_named(
  damaged: dict[str, Any], tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'inputs.json'
  file.write_text(json.dumps(damaged))
  (tmp_path / 'config.json').write_text('{"task": "verify"}')
  with pytest.raises(ValueError, match=r'inputs\.json is damaged'):
    settings.read(tmp_path)
