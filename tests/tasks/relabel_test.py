"""Groups whose brief no reply keeps learn from a brief that some do."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tiny_grpo

from rlcw.data import datasets

ONE = {'keywords': ['sea']}
ABSENT = {'keywords': ['zebra']}  # no reply has it
KEPT = {'at_least': 1}  # every reply that is not blank has a word


def run(
  apprentice: pathlib.Path,
  folder: pathlib.Path,
  rules: list[tuple[str, dict[str, Any]]],
  policy: str,
  **changes: Any,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  """Two steps of `grpo`: its metrics and its groups."""
  folder.mkdir()
  config = tiny_grpo.settings(
    apprentice,
    folder,
    steps=2,
    writing='tiny_grpo:variety',
    mixing__all_violating=policy,
    show_every=1,
    **changes,
  )
  lines = [
    {
      'id': f'brief {n}',
      'prompt': f'Write {n}.',
      'instruction_id_list': [rule for rule, _ in rules],
      'kwargs': [kwargs for _, kwargs in rules],
      'split': 'train',
    }
    for n in range(8)
  ]
  (folder / 'briefs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  rows = tiny_grpo.run(config, folder / 'run')
  return rows, datasets.read_jsonl(folder / 'run' / 'rollouts.jsonl')


@pytest.fixture(scope='module')
def relabelled(
  apprentice: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
  import pipeline

  rules = [('keywords:existence', ONE), ('keywords:existence', ABSENT)]
  with pipeline.one_device():
    folder = tmp_path_factory.mktemp('relabel') / 'a'
    return run(apprentice, folder, rules, 'relabel')


def test_a_group_learns_from_the_rules_that_a_reply_keeps(relabelled) -> None:
  rows, groups = relabelled
  found = [group for group in groups if 'learned_prompt' in group]
  assert rows[0]['relabelled_groups'] > 0
  assert len(found) == sum(8 * row['relabelled_groups'] for row in rows)
  for group in found:
    assert 'zebra' in group['prompt']
    assert 'zebra' not in group['learned_prompt']
    assert 'sea' in group['learned_prompt']
    for reply in group['replies']:
      # of the new brief, while `follow` is of the one that was asked
      kept = reply['finished'] and 'sea' in reply['text'].split()
      assert reply['violated'] == (not kept)
      assert reply['follow'][1] is False
    assert any(reply['advantage'] for reply in group['replies'])
  # the guarantee, for the briefs that are learned from
  assert all(row['max_violator_advantage'] < 0 for row in rows)
  assert all(row['pass_rate'] == 0 for row in rows)


def test_a_group_that_keeps_nothing_is_skipped(relabelled) -> None:
  _, groups = relabelled
  others = [group for group in groups if 'learned_prompt' not in group]
  assert others
  for group in others:
    replies = [r for r in group['replies'] if r['finished']]
    assert not any('sea' in reply['text'].split() for reply in replies)
    assert not any(reply['advantage'] for reply in group['replies'])


def test_policy_and_reference_read_the_new_brief(relabelled) -> None:
  first = relabelled[0][0]
  # Before the first update both are the same model.
  assert abs(first['kl']) < 1e-6
  assert first['sampler_gap'] < 1e-4
  assert first['grad_norm'] > 0


@pytest.mark.slow
def test_without_an_all_violating_group_nothing_changes(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  rules = [('length:words', KEPT)]
  changes = {'max_new_tokens': 16}
  (skip, skipped), (rows, groups) = (
    run(apprentice, tmp_path / policy, rules, policy, **changes)
    for policy in ('skip', 'relabel')
  )
  assert groups == skipped
  assert [row.pop('relabelled_groups') for row in rows] == [0, 0]
  for row, other in zip(rows, skip, strict=True):
    exact = {
      name: value
      for name, value in row.items()
      if not name.startswith(('seconds', 'compil')) and 'per_second' not in name
    }
    assert exact == {name: other[name] for name in exact}


@pytest.mark.slow
def test_several_updates_are_against_the_policy_before_them(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  rules = [('keywords:existence', ONE), ('keywords:existence', ABSENT)]
  rows, _ = run(
    apprentice,
    tmp_path / 'a',
    rules,
    'relabel',
    updates_per_rollout=2,
    tis=2.0,
  )
  assert rows[0]['relabelled_groups'] > 0
  assert np.isfinite(rows[0]['loss'])
  # Relabelled groups are no gap between sampler and trainer.
  assert rows[0]['sampler_gap'] < 1e-3
