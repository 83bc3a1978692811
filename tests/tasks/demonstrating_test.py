"""Demonstrations in a run of `grpo`, and in its loss."""

import json
import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_grpo
from ml_collections import ConfigDict

from rlcw import losses
from rlcw.data import datasets
from rlcw.rewards.briefs import read_brief
from rlcw.tasks.grpo import demonstrating


def test_the_loss_is_that_of_a_reply_whose_ratio_is_1() -> None:
  logp = jnp.array([[-1.0, -2.0, -9.0], [-3.0, -1.0, -1.0]])
  mask = jnp.array([[1, 1, 0], [1, 1, 1]], bool)
  advantage = jnp.array([2.0, 0.0])

  def loss(logp: jax.Array, how: str) -> jax.Array:
    return losses.demonstration_loss(logp, advantage, mask, how).numerator

  for how, share in (('token_mean', 1.0), ('sequence_mean', 0.5)):
    value, gradient = jax.value_and_grad(loss)(logp, how)
    assert float(value) == pytest.approx(-4 * share)
    np.testing.assert_allclose(gradient[0], [-2 * share, -2 * share, 0])
    assert not gradient[1].any()


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({}, ''),
    ({'response': 'A'}, 'A'),
    ({'chosen': 'B', 'rejected': 'C'}, 'B'),
    ({'response': 'A', 'label': 0}, ''),
    ({'response': 'A', 'label': 1}, 'A'),
    ({'response': 'A', 'finished': False}, ''),
    ({'responses': ['A', 'B']}, ''),
  ],
)
def test_a_brief_has_the_reply_of_its_record(
  fields: dict[str, Any], expected: str
) -> None:
  assert read_brief({'prompt': 'Write.', **fields}).demonstration == expected


def settings(**changes: Any) -> ConfigDict:
  base = {
    'demonstration_weight': 0.5,
    'demonstration_warmup': 3,
    'mixing': {'name': 'rlmr'},
    'writing': 'reward_model',
    'max_new_tokens': 4,
  }
  return ConfigDict(base | changes)


def test_the_weight_grows_to_its_setting() -> None:
  found = [demonstrating.weight(settings(), step) for step in range(6)]
  assert found == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
  assert demonstrating.weight(settings(demonstration_warmup=0), 0) == 0.5


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mixing': {'name': 'gdpo'}}, "mixing.name='gdpo'.*expected 0, or .*rlmr"),
    ({'writing': '0.5*judge + diversity'}, 'diversity compares.*expected 0'),
  ],
)
def test_settings_that_do_not_fit_are_refused(
  changes: dict[str, Any], message: str
) -> None:
  with pytest.raises(ValueError, match=message):
    demonstrating.check(settings(**changes))
  off = {'demonstration_weight': 0.0, 'demonstration_warmup': 0}
  demonstrating.check(settings(**changes, **off))


def test_a_warmup_of_no_demonstrations_is_refused() -> None:
  with pytest.raises(ValueError, match='warmup=3 needs demonstrations'):
    demonstrating.check(settings(demonstration_weight=0.0))


def test_briefs_without_a_demonstration_that_fits_are_refused() -> None:
  chat: Any = SimpleNamespace(encode_reply=lambda text: [*map(ord, text), 0])
  briefs = [
    read_brief({'prompt': 'Write.', 'response': 'too long'}),
    read_brief({'prompt': 'Write.'}),
  ]
  with pytest.raises(ValueError, match='no brief has a reply of at most'):
    demonstrating.Demonstrations(briefs, chat, None, settings())


@pytest.mark.parametrize(
  ('label', 'shown'),
  [
    (1, True),
    (True, True),
    (0.5, True),
    ('poem', True),  # no judgement
    (0, False),
    (False, False),
    (-1, False),
    (float('nan'), False),
  ],
)
def test_replies_that_are_labelled_bad_are_no_demonstrations(
  label: Any, shown: bool
) -> None:
  brief = read_brief({'prompt': 'Write.', 'response': 'Sea.', 'label': label})
  assert brief.demonstration == ('Sea.' if shown else '')


# One keeps the rule, one breaks it, one is too long, and one is missing.
SHOWN = 'sea rain moss tin', 'rain moss tin lamp', 'sea ' * 40, ''


def run(
  apprentice: pathlib.Path, folder: pathlib.Path, **changes: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Two steps of `grpo`: its metrics and its groups."""
  folder.mkdir()
  config = tiny_grpo.settings(
    apprentice, folder, steps=2, writing='tiny_grpo:variety', **changes
  )
  lines = [
    {
      'id': f'{n}',
      'prompt': f'Write {n}.',
      'instruction_id_list': ['keywords:existence'],
      'kwargs': [{'keywords': ['sea']}],
      'split': 'train',
      **({'response': text} if (text := SHOWN[n % 4]) else {}),
    }
    for n in range(8)
  ]
  (folder / 'briefs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  rows = tiny_grpo.run(config, folder / 'run')
  return rows, datasets.read_jsonl(folder / 'run' / 'rollouts.jsonl')


def check(rows: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
  """Checks a run with demonstrations."""
  advantages = []
  for group in groups:
    text = SHOWN[int(group['brief_id']) % 4]
    record = group.get('demonstration')
    assert (record is not None) == (0 < len(text) < 100)
    if record:
      assert record['text'].strip() == text
      assert record['violated'] == ('sea' not in text)
      assert not record['violated'] or record['advantage'] == 0
      advantages.append(record['advantage'])
  assert any(advantages)
  for row in rows:
    assert 0 <= row['copied_demonstration'] < 1
    assert 0 < row['demonstrated_groups'] <= 1 / 4
    assert row['grad_norm'] > 0 and np.isfinite(row['loss'])
    assert row['sampler_gap'] < 1e-3
    assert row['max_violator_advantage'] < 0


def test_a_run_learns_from_demonstrations_that_keep_the_rules(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  rows, groups = run(apprentice, tmp_path / 'on', demonstration_weight=1.0)
  check(rows, groups)
  assert len({row['compilations'] for row in rows}) == 1


@pytest.mark.slow
def test_the_groups_are_those_of_a_run_without_demonstrations(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  off = run(apprentice, tmp_path / 'off')
  on = run(apprentice, tmp_path / 'on', demonstration_weight=1.0)
  assert not any('demonstration' in group for group in off[1])
  assert not any('copied_demonstration' in row for row in off[0])
  first = [group for group in on[1] if group['step'] == 0]
  for group in first:
    group.pop('demonstration', None)
  assert first == [group for group in off[1] if group['step'] == 0]
  same = 'reward', 'kl', 'sampler_gap', 'max_violator_advantage'
  for name in same:
    assert on[0][0][name] == pytest.approx(off[0][0][name], abs=1e-5), name
  assert on[0][0]['loss'] < off[0][0]['loss']  # less the weighted advantages


@pytest.mark.slow
def test_demonstrations_go_with_all_that_a_step_may_have(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  check(
    *run(
      apprentice,
      tmp_path / 'all',
      demonstration_weight=1.0,
      demonstration_warmup=1,
      updates_per_rollout=2,
      tis=2.0,
      entropy_weight=0.01,
      tell_scoring=True,
      oversample=1.0,
      mixing__all_violating='relabel',
    )
  )
