"""What waits in host memory while others work gives the same run."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from pipeline import run, tiny_config

from rlcw.data import datasets
from rlcw.models import language_model
from rlcw.models import weights as weights_lib
from rlcw.models.weights import param_shardings
from rlcw.rewards.judge import factory
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Question
from rlcw.runtime.mesh import make_mesh
from tests.tasks.reward_model_test import save_run


def test_memory_kinds_hold_the_same_numbers(tiny: Any) -> None:
  config, weights = tiny
  mesh = make_mesh(2, 2, 2)
  params = jax.device_put(weights, param_shardings(config, mesh))
  there = weights_lib.in_memory(params, 'pinned_host')
  again = weights_lib.in_memory(there, 'device')
  leaves = zip(*map(jax.tree.leaves, (params, there, again)), strict=True)
  for before, waiting, after in leaves:
    assert waiting.sharding.memory_kind == 'pinned_host'
    assert after.sharding.memory_kind == before.sharding.memory_kind
    assert (before == after).all()


@pytest.mark.slow
def test_a_run_is_the_same_where_frozen_models_wait(
  tiny_folder: pathlib.Path,
  make_judge: Any,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """With a reward model on a decoder of its own."""
  save_run(tmp_path / 'head', str(make_judge('qwen2')), 32)
  moved, in_memory = [], weights_lib.in_memory

  def spy(params: Any, kind: str) -> Any:
    moved.append(kind)
    return in_memory(params, kind)

  monkeypatch.setattr(weights_lib, 'in_memory', spy)
  diaries = []
  for offload in (False, True):
    config = tiny_config('grpo', tiny_folder, tmp_path)
    changes = {'reward_model': str(tmp_path / 'head'), 'steps': 2}
    config.update(changes | {'offload': offload})
    run('grpo', config, tmp_path / str(offload))
    diaries.append(
      datasets.read_jsonl(tmp_path / str(offload) / 'rollouts.jsonl')
    )
  assert diaries[0] == diaries[1]
  assert moved.count('pinned_host') == 2  # the reference, the reward


def test_a_judge_that_waits_gives_the_same_verdicts(
  make_judge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  """One with weights of its own, and one that shares those of the policy."""
  base = language_model.load(
    make_judge('llama3'), make_mesh(devices=jax.devices()[:1])
  )
  question = Question('judge', 'en', 40, 'Be kind.')
  prompts = [[question.about('To the sea', reply)] for reply in ('wave', 'x')]
  expected = LogprobJudge(base, 2)(question, prompts).first
  settings = ConfigDict(factory.judge_settings() | {'batch_size': 2})
  settings.model = base.source
  there = weights_lib.in_memory(base.params, 'pinned_host')
  for policy in (base._replace(params=there), base._replace(source='other')):
    judge: Any = factory.make_judge(settings, base.mesh, policy, offload=True)
    kinds = {
      leaf.sharding.memory_kind for leaf in jax.tree.leaves(judge.model.params)
    }
    assert kinds == {'pinned_host'}
    found = judge(question, prompts).first
    np.testing.assert_array_equal(found, expected)
