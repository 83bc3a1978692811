"""What waits in host memory while others work gives the same run."""

import pathlib
from typing import Any

import jax
import pytest
from pipeline import run, tiny_config

from rlcw.data import datasets
from rlcw.models import weights as weights_lib
from rlcw.models.weights import param_shardings
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


def test_a_judge_cannot_read_what_waits(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = tiny_config('grpo', tiny_folder, tmp_path)
  config.offload, config.judge.model = True, config.model
  with pytest.raises(ValueError, match='must be another one than model'):
    run('grpo', config, tmp_path)
