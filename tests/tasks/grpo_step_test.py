"""A step's briefs, mixed rewards and metrics, and what no KL term saves."""

import gc
import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pipeline
import pytest
import tiny_grpo
from ml_collections import ConfigDict

from rlcw.models import language_model
from rlcw.rewards import mixing, rollout_scores
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.decoding import reply_keys
from rlcw.tasks.grpo import logs, mix, step

CONFIG = pipeline.shipped('grpo')  # rlmr, δ 0.5, skip


def drawn(
  number: int, size: int, total: int, process: int = 0, processes: int = 1
) -> tuple[np.ndarray, np.ndarray]:
  """Rows and the numbers of their keys, of one process in one step."""
  shards: Any = SimpleNamespace(
    index_and_count=(process, processes), to_global=lambda arrays: arrays
  )
  config = ConfigDict({'seed': 3, 'prompts_per_step': size})
  tokenized = np.arange(total)[:, None], np.ones(total, int)
  rows, (prompt_PxL, _, keys) = step.draw_briefs(
    tokenized, number, config, shards
  )
  np.testing.assert_array_equal(prompt_PxL[:, 0], rows)
  return rows, keys


@pytest.mark.parametrize(
  ('size', 'total'),
  [(32, 220), (8, 9), (7, 10), (8, 8), (8, 5), (8, 3), (4, 1), (2, 3)],
)
def test_no_two_groups_of_a_step_share_their_random_keys(
  size: int, total: int
) -> None:
  again = 0
  for number in range(30):
    rows, keys = drawn(number, size, total)
    assert len(set(keys.tolist())) == size
    np.testing.assert_array_equal(keys % total, rows)
    # a brief that occurs once has the key that it always had
    first = [rows.tolist().index(row) for row in rows]
    assert all((keys == rows) == (np.arange(size) == first))
    again += len({*rows.tolist()}) < size
  # steps that span two epochs; none where the epoch is a multiple of the step
  assert bool(again) == (total % size > 0)


def test_a_brief_that_occurs_twice_gets_other_replies() -> None:
  number = next(n for n in range(99) if len({*drawn(n, 8, 9)[0].tolist()}) < 8)
  _, keys = drawn(number, 8, 9)
  data = jax.random.key_data(reply_keys(3, number, keys, 4)).reshape(32, -1)
  assert len({tuple(row) for row in np.asarray(data).tolist()}) == 32


def test_processes_share_the_keys_of_a_step() -> None:
  whole = drawn(1, 8, 5)
  parts = [drawn(1, 8, 5, process, 4) for process in range(4)]
  for each, joined in zip(whole, zip(*parts, strict=True), strict=True):
    np.testing.assert_array_equal(np.concatenate(joined), each)


# --- Mixing and metrics -----------------------------------------------------


def mixed_step() -> tuple[dict[str, Any], mixing.Advantages]:
  """Groups that are mixed, all violating, without signal, without a score."""
  writing = np.array(
    [[103, 101, 103, np.nan], [7, 5, 7, 5], [2, 2, 2, 2], [np.nan] * 4],
    np.float32,
  )
  violated = np.array([[1, 0, 0, 1], [1] * 4, [0] * 4, [0] * 4], bool)
  valid = np.isfinite(writing)
  stats = {
    'writing': writing,
    'violated': violated,
    'valid': valid,
    'kept': 1.0 - violated,
    'finished': np.ones((4, 4), bool),
    **dict.fromkeys(('length', 'drawn', 'scored'), np.full((4, 4), 5)),
    'logp': -80.0,
    **{name: np.zeros(4) for name in logs.SIGNS},
    'good': np.full(4, np.nan),
    'scoring': {},
  }
  return stats, step.make_mix(CONFIG)(writing, violated, valid)


def test_a_group_of_violators_only_stays_in_the_kl_term() -> None:
  _, mixed = mixed_step()
  assert not mixed.advantage[1].any()
  assert mixed.rewards.valid[1].all()  # the mask of the loss
  assert not mixed.rewards.valid[3].any()


def test_metrics_are_of_the_replies_that_have_a_score() -> None:
  stats, mixed = mixed_step()
  row = logs.score_metrics(stats, mixed, CONFIG)
  # of the first group: mean 307/3, std √(8/9), two of three keep the rules
  std = (8 / 9) ** 0.5
  penalty = (103 - 307 / 3 + 0.5 * std) * 3 / 2
  assert row['reward'] == pytest.approx((307 - penalty + 24 + 8) / 11)
  assert row['writing'] == pytest.approx((307 + 24 + 8) / 11)
  assert row['writing_std'] == pytest.approx((std + 1 + 0) / 3)
  assert row['violation_rate'] == pytest.approx(5 / 11)
  shares = row['mixed_groups'], row['clean_groups'], row['all_violating_groups']
  assert shares == (1 / 4, 1 / 4, 1 / 4)
  assert row['no_signal_groups'] == 3 / 4
  assert row['max_violator_advantage'] < 0
  assert np.isnan(row['kl'])  # until the update has one
  np.testing.assert_allclose(
    mixed.reward[:2],
    [[103 - penalty, 101, 103, np.nan], [7, 5, 7, 5]],
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('writing', [[9, 4, 6], [2, 1, 3]]),
    ('linear', [[4, 4, 6], [-3, 1, -2]]),  # weight 5
    ('gate', [[4, 4, 6], [1, 1, 1]]),
    ('constraint', [[0, 1, 1], [0, 1, 0]]),
    ('quality_gate', [[0, 0.5, 0.5], [0, 0.5, 0]]),
    # z of w and of 1 − v
    ('gdpo', [[-0.116, -0.428, 0.545], [-0.707, 0.189, 0.518]]),
  ],
)
def test_the_reward_that_is_shown_is_the_mixers(
  name: str, expected: list[list[float]]
) -> None:
  config = pipeline.shipped('grpo')
  config.mixing.update(name=name, weight=5.0 if name == 'linear' else 1.0)
  writing = np.array([[9, 4, 6, 0], [2, 1, 3, 0]], np.float32)
  violated = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], bool)
  valid = np.array([[1, 1, 1, 0]] * 2, bool)
  shown = step.make_mix(config)(writing, violated, valid).reward
  assert np.isnan(shown[:, 3]).all()
  np.testing.assert_allclose(shown[:, :3], expected, atol=2e-3)


def parts_of_step() -> dict[str, Any]:
  """Statistics of two groups with scores of two parts."""
  a = np.array([[1, 3, 1, 3], [5, 7, np.nan, 9]], np.float32)
  b = np.array([[0.1, 0.3, 0.3, 0.1], [0.5, 0.5, 0.5, 0.1]], np.float32)
  return {
    'writing': a + b,
    'writing/m:a': a,
    'writing/judge': b,
    'valid': np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool),
    'length': np.array([[4, 14, 15, 16], [16, 4, 4, 4]]),
  }


@pytest.mark.parametrize(
  ('changes', 'reward'),
  [
    ({'normalise_parts': False}, [[1.1, 3.3, 1.3, 3.1], [5.5, 7.5]]),
    # z-scores −1 1 −1 1 and −1 1 1 −1; −1 1 and 0 0 of the valid replies
    ({}, [[-2, 2, 0, 0], [-1, 1]]),
    # the last 4 of 16 tokens cost a quarter each
    ({'overlong_buffer': 4}, [[-2, 1.5, -0.75, -1], [-2, 1]]),
    ({'writing': 'm:a - 2*judge'}, [[1, -1, -3, 3], [-1, 1]]),
  ],
)
def test_the_parts_of_a_step_become_one_reward(
  changes: dict[str, Any], reward: list[list[float]]
) -> None:
  config = pipeline.shipped('grpo')
  config.update(writing='m:a + judge', max_new_tokens=16)
  config.update(changes)
  stats = mix.with_penalty(parts_of_step(), config)
  found = mix.combine(stats, config)
  np.testing.assert_allclose(found[0], reward[0], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found[1, :2], reward[1], rtol=1e-5, atol=1e-5)
  assert np.isnan(found[1, 2:]).all()


def test_one_part_is_mixed_as_it_is() -> None:
  stats, config = parts_of_step(), pipeline.shipped('grpo')
  assert mix.with_penalty(stats, config) is stats
  assert mix.combine(stats, config) is stats['writing']
  config.update(overlong_buffer=4, max_new_tokens=16)
  found = mix.combine(mix.with_penalty(stats, config), config)
  penalty = [[0, -0.5, -0.75, -1], [-1, 0, 0, 0]]
  np.testing.assert_array_equal(found, stats['writing'] + np.array(penalty))


def test_each_part_has_a_metric() -> None:
  stats, mixed = mixed_step()
  part = np.array([[1, 2, 3, np.nan]] * 4)
  more = {'writing/judge': part, 'writing/overlong': -part}
  row = logs.score_metrics(stats | more, mixed, CONFIG)
  assert (row['writing/judge'], row['writing/overlong']) == (2, -2)
  assert {*row} - {*logs.score_metrics(stats, mixed, CONFIG)} == {*more}


def test_an_advantage_of_rounding_is_no_signal() -> None:
  stats, mixed = mixed_step()
  nearly = np.full((4, 4), 6e-5) * [1, -1, 1, -1]
  row = logs.score_metrics(stats, mixed._replace(advantage=nearly), CONFIG)
  assert row['no_signal_groups'] == 1
  nearly[0, 0] = -2e-3
  row = logs.score_metrics(stats, mixed._replace(advantage=nearly), CONFIG)
  assert row['no_signal_groups'] == 3 / 4


# --- Without a KL term ------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures('one_device')
def test_without_a_kl_term_there_is_no_reference(
  apprentice: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Neither its pass nor its weights, which are a second copy."""
  mesh = make_mesh(devices=jax.devices()[:1])
  leaves = jax.tree.leaves(language_model.load(apprentice, mesh).params)
  shape = max(leaves, key=lambda leaf: leaf.size).shape
  each = sum(leaf.shape == shape for leaf in leaves)
  del leaves
  variety = tiny_grpo.variety
  alive: list[int] = []

  def counting(briefs: Any, replies: Any) -> np.ndarray:
    gc.collect()
    alive.append(sum(a.shape == shape for a in jax.live_arrays()))
    return variety(briefs, replies)

  monkeypatch.setattr(tiny_grpo, 'variety', counting)
  rows = []
  for weight in (0.01, 0.0):
    folder = tmp_path / f'kl_{weight}'
    folder.mkdir()
    passes = rollout_scores.score_and_reference._cache_size()  # type: ignore
    config = tiny_grpo.settings(
      apprentice,
      folder,
      writing='tiny_grpo:variety',
      steps=2,
      kl_weight=weight,
    )
    rows.append(tiny_grpo.run(config, folder / 'grpo'))
    passes = rollout_scores.score_and_reference._cache_size() - passes  # type: ignore
    assert passes == 0 or weight > 0
  with_reference, without = alive[1], alive[3]
  assert with_reference - without == each
  assert [row['kl'] is None for row in rows[1]] == [True, True]
  assert 'kl_clipped' in rows[0][1] and 'kl_clipped' not in rows[1][1]
  # the first step has the same replies and advantages
  assert rows[0][0]['reward'] == rows[1][0]['reward']
