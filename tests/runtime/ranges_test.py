"""Every number and every name of a config has a range, checked at the start."""

import functools
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from rlcw.models import config as model_config
from rlcw.models import lora, weights
from rlcw.rewards import mixing, pooled
from rlcw.rewards.judge import questions
from rlcw.runtime import configs, ranges, settings
from rlcw.runtime.ranges import Choice, Number


@functools.cache
def shipped() -> dict[str, ConfigDict]:
  """Every shipped config, with all of its variants."""
  found = {}
  for name in configs.names():
    variants = configs.variants(configs.find(name))
    for spec in (name, *(f'{name}:{variant}' for variant in variants)):
      found[spec] = configs.load(spec)
  return found


def _numeric(value: Any) -> bool:
  values = value if isinstance(value, tuple) and value else (value,)
  return all(type(each) in (int, float) for each in values)


@functools.cache
def numeric() -> list[tuple[str, str, Any]]:
  """Task, name and value of every number of the shipped configs."""
  return sorted(
    {
      (config.task, name, value)
      for config in shipped().values()
      for name, value in settings.leaves(config)
      if _numeric(value)
    }
  )


def refused(task: str, name: str, value: Any) -> str:
  with pytest.raises(ValueError) as error:
    ranges.check_value(task, name, value)
  return str(error.value)


def test_what_is_shipped_is_in_range() -> None:
  for config in shipped().values():
    ranges.check(config)


def test_every_number_has_a_range() -> None:
  assert len(numeric()) > 100
  for task, name, _ in numeric():
    assert isinstance(ranges.of(task, name), Number), (task, name)


def test_every_range_is_of_a_shipped_setting() -> None:
  used = {
    id(ranges.of(config.task, name))
    for config in shipped().values()
    for name, _ in settings.leaves(config)
  }
  for key, expected in ranges.RANGES.items():
    assert id(expected) in used, key


def test_names_are_those_of_the_code() -> None:
  for name, known in {
    'mixing.name': mixing.MIXERS,
    'mixing.all_violating': (*mixing.ALL_VIOLATING, 'relabel'),
    'mixing.violation': mixing.VIOLATIONS,
    'pooling': pooled.POOLING,
    'train': lora.LEARNING,
    'dtype': weights.DTYPES,
    'lora.targets': model_config.PROJECTIONS,
    'judge.language': questions.LANGUAGES,
  }.items():
    expected = ranges.RANGES[name]
    assert isinstance(expected, Choice)
    assert set(expected.names) == set(known), name


def test_names_are_those_of_the_comments() -> None:
  listed = 0
  for config in shipped().values():
    for name, comment in configs.comments(configs.find(config.task)).items():
      names = re.search(r'(?:^|\. |  )(\w+(?: \| \w+)+)(?!:|\w)', comment)
      if names and name not in ('writing',):
        expected = ranges.of(config.task, name)
        assert isinstance(expected, Choice), name
        assert {*names[1].split(' | ')} == {*expected.names} - {''}, name
        listed += 1
  assert listed > 20


@pytest.mark.parametrize(
  ('task', 'name', 'right', 'wrong'),
  [
    ('grpo', 'steps', (1, 2**31 - 1), (0, -1, 2**31, 1.0, True, '3', None)),
    ('grpo', 'group_size', (2,), (1,)),
    ('grpo', 'temperature', (0.1, 1, 9.0), (0, 0.0, -1.0, 1e-300, math.nan)),
    ('plan', 'temperature', (0.1,), (0.0,)),
    ('generate', 'temperature', (0, 0.0, 2.0), (-0.1, None, math.inf)),
    ('judge', 'judge.temperature', (None, 0.0), ('None', -1)),
    ('judge', 'judge.max_new_tokens', (None, 1), (0, 1.5)),
    ('generate', 'top_p', (1, 0.1), (0.0, 1.1)),
    ('grpo', 'learning_rate', (1e-30, 1), (0, -1e-5, math.nan, math.inf, 1e39)),
    ('sft', 'max_grad_norm', (1.0,), (0.0, -1.0, math.inf)),
    ('grpo', 'updates_per_rollout', (1, 16), (0, -1, 1.5, True)),
    ('grpo', 'minibatch_groups', (0, 1), (-1, 2.0)),
    ('grpo', 'tis', (0, 1, 2.0), (-1.0, 0.5, True)),
    ('grpo', 'dual_clip', (0, 1.5, 3), (1, 0.5, -1.0)),
    ('sft', 'beta2', (0, 0.999), (1, 1.0, -0.1)),
    ('sft', 'schedule', ('constant', 'cosine'), ('step', None)),
    ('reward_model', 'decoder.final_ratio', (0, 0.1, 1), (-0.1, 1.1)),
    ('grpo', 'mixing.margin', (1e-3, 0.5), (0, 1e-6, 9.99e-4, 1e8)),
    ('grpo', 'mixing.weight', (0, 2.0, 1e6), (-1, 1e30)),
    ('sft', 'heldout', (0, 0.5, 1), (-0.1, 1.1, True)),
    ('curate', 'length_ratio', (0, 0.0, 1, 2.5), (0.5, -1, False)),
    ('grpo', 'mesh.fsdp', (-1, 1, 8), (0, -2, 1.0)),
    ('sft', 'seed', (0, 2**32 - 1), (-1, 2**32, 0.5)),
    ('grpo', 'judge.endpoint.prices', ((0, 0.5), [1, 1]), ((1,), 3, (1, -1))),
    ('grpo', 'monitors.judge', (0.2,), (-0.1,)),
    ('grpo', 'train', ('all', 'lora'), ('head', '', None, ['all'])),
    ('reward_model', 'train', ('head',), ('none',)),
    ('sft', 'lora.targets', (('up',), ['up', 'down']), ((), 'up', ('ups',))),
    ('grpo', 'of_ones_own', (1, 1.5, 'x', None), (math.nan, (1, math.inf))),
  ],
)
def test_a_range(
  task: str, name: str, right: tuple[Any, ...], wrong: tuple[Any, ...]
) -> None:
  for value in right:
    ranges.check_value(task, name, value)
  for value in wrong:
    assert refused(task, name, value).startswith(f'{name}={value!r}; expected ')


def outside(expected: Number) -> st.SearchStrategy[Any]:
  """Values that are not in a range."""
  bad = st.sampled_from([math.nan, math.inf, -math.inf, True, 'many', (1,)])
  low = st.integers(-(10**12), math.ceil(expected.least) - 1)
  bad |= low | low.map(float)
  if expected.most < math.inf:
    bad |= st.integers(int(expected.most) + 1, 10**15)
  if expected.whole:
    bad |= st.floats(-1e6, 1e6)
  if expected.above:
    bad |= st.just(expected.least)
  return bad.filter(lambda value: value not in expected.also)


@given(data=st.data())
def test_a_value_out_of_range_is_one_line_that_names_it(
  data: st.DataObject,
) -> None:
  task, name, _ = data.draw(st.sampled_from(numeric()))
  expected = ranges.of(task, name)
  assert isinstance(expected, Number)
  value = data.draw(outside(expected))
  line = refused(task, name, value)
  assert line.startswith(f'{name}={value!r:.80}; expected {expected}')
  assert '\n' not in line


def test_a_limit_of_the_device_is_named_where_it_is_passed() -> None:
  line = refused('grpo', 'learning_rate', math.inf)
  assert line.endswith('a number above 0 and at most 3.4e+38')
  line = refused('grpo', 'steps', 2**31)
  assert line.endswith('of at least 1 and at most 2147483647')
  assert refused('grpo', 'final_ratio', math.inf).endswith('0 and at most 1')
  line = refused('grpo', 'seed', 2**40)
  assert line.endswith('an integer of at least 0 and at most 4294967295')


def test_every_number_is_checked() -> None:
  for spec, config in shipped().items():
    for name, value in settings.leaves(config):
      if ':' in spec or not _numeric(value):
        continue
      bad = config.copy_and_resolve_references()
      with bad.ignore_type(), bad.unlocked():
        bad.update_from_flattened_dict({name: math.nan})
      with pytest.raises(ValueError, match=f'^{name}=nan; expected '):
        ranges.check(bad)


@pytest.mark.parametrize(
  ('name', 'known', 'found'),
  [
    ('stpes', ['steps', 'seed'], "; did you mean 'steps'?"),
    ('window', ['monitors.window', 'x'], "; did you mean 'monitors.window'?"),
    ('qwen', ['qwen3_8b', 'tiny'], "; did you mean 'qwen3_8b'?"),
    ('RLMR', ['rlmr', 'gate'], "; did you mean 'rlmr'?"),
    ('MARGIN', ['mixing.margin'], "; did you mean 'mixing.margin'?"),
    ('zzz', ['steps'], ''),
    (None, ['steps'], ''),
    ('', ['steps'], ''),
  ],
)
def test_the_nearest_name(name: Any, known: list[str], found: str) -> None:
  assert ranges.nearest(name, known) == found
