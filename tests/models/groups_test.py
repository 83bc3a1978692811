"""Groups in packed rows equal groups in padded ones."""

import dataclasses
from typing import Any

import forward_variants
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import train_test
from cases import quick
from ml_collections import ConfigDict
from padded import forward_replies
from train_test import CONFIG, SETTINGS

from rlcw import losses, train
from rlcw.models import decoder, layers, lora, packing
from rlcw.models.config import LoraConfig
from rlcw.models.packing import Groups
from rlcw.runtime.mesh import make_mesh, over_groups
from rlcw.tasks.grpo import mix, objective

# --- Which groups share a row -----------------------------------------------


def test_widths_fall_by_a_fifth() -> None:
  # 2 · (6 + 4 · 10) = 92 tokens at most; 92, 73.6, 58.9, 47.1, 37.7, 30.1, …
  assert packing.widths(2, 6, 4, 10)[::-1] == [
    96,
    80,
    64,
    48,
    40,
    32,
    24,
    16,
    8,
  ]
  assert all(w % 128 == 0 for w in packing.widths(4, 1024, 8, 2048))
  assert packing.widths(1, 1024, 8, 2048)[-1] == 1024 + 8 * 2048


def test_the_largest_group_is_with_the_smallest() -> None:
  # totals 9, 3, 8, 4, of which two share a row: 9 + 3 and 8 + 4
  count_PxG = np.array([[8], [2], [7], [3]])
  packed = packing.partition(np.ones(4), count_PxG, 4, 8, part=2, shards=1)
  assert packed.order_P.tolist() == [0, 1, 2, 3]
  assert packed.width == [16, 16] and packed.tokens == 24
  assert packed.padding == 0.25


def test_groups_that_are_not_live_come_last() -> None:
  live_P = np.array([False, True, False, True, False, True])
  packed = packing.partition(
    np.ones(6), np.ones((6, 2), int), 4, 8, part=2, shards=1, live_P=live_P
  )
  # three live groups in two parts, of which one is filled up
  assert len(packed.width) == 2 and packed.parts == 3
  assert sorted(packed.order_P.tolist()) == [*range(6)]
  assert live_P[packed.order_P[:4]].sum() == live_P.sum() == 3
  assert packed.tokens == 9


def test_a_part_is_computed_even_without_a_live_group() -> None:
  packed = packing.partition(
    np.ones(2), np.ones((2, 2), int), 4, 8, part=1, live_P=np.zeros(2, bool)
  )
  assert packed.width == packing.widths(1, 4, 2, 8)[:1]
  assert packed.padding == 1.0


@hypothesis.given(
  groups=st.integers(1, 12),
  replies=st.integers(1, 5),
  part=st.integers(0, 12),
  shards=st.integers(1, 4),
  seed=st.integers(0, 9),
)
def test_every_group_has_a_place_in_a_row_that_holds_it(
  groups: int, replies: int, part: int, shards: int, seed: int
) -> None:
  rng = np.random.default_rng(seed)
  length_P = rng.integers(1, 20, groups)
  count_PxG = rng.integers(0, 30, (groups, replies))
  live_P = rng.random(groups) < 0.7
  packed = packing.partition(
    length_P, count_PxG, 20, 30, part=part, shards=shards, live_P=live_P
  )
  assert sorted(packed.order_P.tolist()) == [*range(groups)]
  assert packed.rows in (1, shards)
  per_part = groups // packed.parts
  sizes = packing.widths(per_part // packed.rows, 20, replies, 30)
  total_P = np.where(live_P, length_P + count_PxG.sum(1), 0)[packed.order_P]
  used = len(packed.width)
  assert total_P[used * per_part :].sum() == 0
  full = total_P.reshape(packed.parts, packed.rows, -1).sum(2)
  for row_S, width in zip(full, packed.width, strict=False):
    assert width in sizes
    assert row_S.max() <= width
    # the next smaller width would not hold the fullest row
    assert width == sizes[0] or row_S.max() > sizes[sizes.index(width) - 1]


def test_a_batch_is_split_and_joined() -> None:
  rng = np.random.default_rng(0)
  mesh = make_mesh(devices=jax.devices()[:2])
  sharding = over_groups(mesh)
  packed = packing.partition(
    rng.integers(1, 9, 8), rng.integers(1, 9, (8, 3)), 9, 9, part=4, shards=2
  )
  array = jax.device_put(np.arange(8.0), sharding)
  parts = packed.split({'a': array}, sharding)
  np.testing.assert_array_equal(
    np.concatenate([part.arrays['a'] for part in parts]), packed.order_P
  )
  assert [part.width for part in parts] == packed.width
  joined = packed.join([part.arrays for part in parts], sharding)
  np.testing.assert_array_equal(joined['a'], array)
  assert joined['a'].sharding.is_equivalent_to(sharding, 1)


# --- Where the tokens of a row are from -------------------------------------


def test_a_row_has_briefs_and_replies_end_to_end() -> None:
  groups = Groups(
    np.array([[11, 12, 0], [21, 0, 0]]),
    np.array([2, 1]),
    np.array([[[13, 14], [15, 0]], [[22, 0], [0, 0]]]),
    np.array([[2, 1], [1, 0]]),
  )
  layout = packing.lay_out(groups, 9)
  row = layout.rows(layout.join(groups.prompt, groups.token))
  assert row.tolist() == [[11, 12, 13, 14, 15, 21, 22, 0, 0]]
  assert layout.position[:, :7].tolist() == [[0, 1, 2, 3, 2, 0, 1]]
  # a reply's first token comes after its brief's last one
  places = np.asarray(layout.previous)[0]
  assert places[[1, 2, 3, 4, 6]].tolist() == [0, 1, 2, 1, 5]
  np.testing.assert_array_equal(layout.of_replies(row), groups.token)


def test_moving_slots_and_rows_are_transposes() -> None:
  groups = forward_variants.sampled()
  layout = packing.lay_out(groups, 120)
  M = layout.row.shape[1]
  rng = np.random.default_rng(0)
  x_SxM, y_SxN = (
    jnp.asarray(rng.normal(size=(1, n, 2)), jnp.float32) for n in (M, 120)
  )
  forward, back = jax.vjp(layout.rows, x_SxM)
  np.testing.assert_allclose(
    (forward * y_SxN).sum(), (x_SxM * back(y_SxN)[0]).sum(), rtol=1e-5
  )
  np.testing.assert_array_equal(back(y_SxN)[0], layout.slots(y_SxN))


# --- The same log-probabilities and gradients -------------------------------


@pytest.mark.slow
def test_packing_changes_nothing(tiny: Any) -> None:
  forward_variants.assert_packing_changes_nothing(*tiny)


@pytest.mark.slow
def test_packing_changes_nothing_with_recomputation(tiny: Any) -> None:
  config, params = tiny
  forward_variants.assert_packing_changes_nothing(
    dataclasses.replace(config, remat=True), params
  )


@pytest.mark.slow
def test_packing_changes_nothing_for_adapters(tiny: Any) -> None:
  config, params = tiny
  config = dataclasses.replace(
    config, lora=LoraConfig(2, 4.0, ('query', 'value', 'gate', 'down'))
  )
  learned, _ = lora.split(config, params, make_mesh(), 0)
  learned = jax.tree.map(
    lambda a: a + 0.1 * np.random.default_rng(3).normal(size=a.shape), learned
  )
  joined = lora.join(learned, params)
  forward_variants.assert_packing_changes_nothing(config, joined)


# --- The same update --------------------------------------------------------


def taken(
  mesh: Any,
  microbatches: int,
  settings: ConfigDict,
  live_P: np.ndarray | None = None,
  advantage: np.ndarray | None = None,
  rate: float = 0.1,
) -> tuple[Any, dict[str, float]]:
  """Parameters and metrics after a step of SGD."""
  arrays = train_test.make_arrays(mesh)
  if settings.kl_weight == 0:
    del arrays['ref_logp']
  if advantage is not None:
    arrays['advantage'] = jax.device_put(
      np.asarray(advantage, np.float32), over_groups(mesh)
    )
  lengths = np.asarray(arrays['length']), np.asarray(arrays['rollout'].length)
  settings = ConfigDict(settings.to_dict())
  settings.microbatch_groups = train_test.P // microbatches
  with jax.set_mesh(mesh):
    batch = objective.pack(
      arrays, lengths, settings, over_groups(mesh), None, live_P
    )
  optimizer = optax.sgd(rate)
  state = train.init_state(train_test.make_params(mesh), optimizer, mesh)
  loss = objective.make_loss(CONFIG, settings)
  update = train.make_update(loss, optimizer, state, microbatches)
  with jax.set_mesh(mesh):
    state, told = update(state, batch.parts, {}, batch.divisor)
  return jax.device_get(state.params), {k: float(v) for k, v in told.items()}


def settings_of(**changes: Any) -> ConfigDict:
  return ConfigDict(SETTINGS.to_dict() | changes)


@pytest.mark.parametrize('ratio', quick(losses.RATIOS, 'token'))
@pytest.mark.parametrize('aggregation', quick(losses.AGGREGATIONS, 'constant'))
def test_the_update_equals_that_of_padded_arrays(
  aggregation: str, ratio: str
) -> None:
  mesh, settings = (
    train_test.single(),
    settings_of(aggregation=aggregation, ratio=ratio),
  )
  arrays = train_test.make_arrays(mesh)
  params = train_test.make_params(mesh)
  rollout = arrays['rollout']

  @jax.jit
  @jax.grad
  def padded(params: Any) -> jax.Array:
    groups = arrays['prompt'], arrays['length'], rollout.token
    before, _ = forward_replies(CONFIG, params, *groups)
    logp_N = layers.token_logprobs(
      before.reshape(-1, before.shape[-1]),
      decoder.head_weight(params),
      rollout.token.reshape(-1),
      settings.temperature,
    )
    rows = -1, train_test.T
    terms = losses.grpo(
      logp_N.reshape(rows),
      rollout.logp.reshape(rows),
      arrays['advantage'].reshape(-1),
      rollout.mask.reshape(rows),
      arrays['ref_logp'].reshape(rows),
      **{k: settings[k] for k in ('clip_low', 'clip_high', 'kl', 'kl_weight')},
      ratio=ratio,
      aggregation=aggregation,
    )
    return terms.loss.quotient

  # so far that the parameters of before are rounding
  expected = jax.tree.map(lambda p, g: p - 1e6 * g, params, padded(params))
  for microbatches in (1, 2):
    after, _ = taken(mesh, microbatches, settings, rate=1e6)
    assert forward_variants.distance(after, expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize('axes', [(8, 1, 1), (1, 4, 2), (2, 2, 2)])
def test_eight_devices_equal_one(axes: tuple[int, int, int]) -> None:
  mesh = make_mesh(*axes)
  one, told = taken(train_test.single(), 1, settings_of())
  many, told_many = taken(mesh, 1, settings_of())
  train_test.assert_close(one, many, 2e-6)
  for name, value in told.items():
    np.testing.assert_allclose(told_many[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('microbatches', quick([1, 2, 8], 2))
@pytest.mark.parametrize('how', quick(losses.AGGREGATIONS, 'token_mean'))
def test_groups_without_a_gradient_may_be_left_out(
  how: str, microbatches: int
) -> None:
  mesh = train_test.single()
  settings = settings_of(kl_weight=0.0, aggregation=how)
  advantage = np.random.default_rng(5).normal(size=(train_test.P, train_test.G))
  live_P = np.array([0, 1, 0, 0, 1, 1, 0, 0], bool)
  advantage *= live_P[:, None]
  all_of_them, told = taken(mesh, microbatches, settings, None, advantage)
  live, told_live = taken(mesh, microbatches, settings, live_P, advantage)
  train_test.assert_close(all_of_them, live, 1e-6)
  for name in ('loss', 'grad_norm', 'skipped'):
    assert told[name] == pytest.approx(told_live[name], rel=1e-5)


def test_a_step_without_a_live_group_changes_nothing() -> None:
  mesh, settings = train_test.single(), settings_of(kl_weight=0.0)
  nothing = np.zeros((train_test.P, train_test.G))
  after, told = taken(mesh, 8, settings, nothing.any(1), nothing)
  assert told['skipped'] == 1 and told['bad_steps'] == 0
  train_test.assert_close(after, train_test.make_params(mesh), 0.0)


# --- Which groups are learned from ------------------------------------------


def test_the_first_groups_with_a_signal_are_kept() -> None:
  config = ConfigDict({'prompts_per_step': 3})
  signal = np.array([0, 1, 0, 1, 1, 1])[:, None] * np.array([[-1.0, 1.0]])
  kept = mix.kept_groups(signal, config)
  assert kept.tolist() == [False, True, False, True, True, False]
  # too few: the first of the others fill up
  few = mix.kept_groups(signal * (np.arange(6) == 4)[:, None], config)
  assert few.tolist() == [True, True, False, False, True, False]
  # an advantage of rounding is no signal
  assert (
    mix.kept_groups(1e-4 * signal, config).tolist() == [True] * 3 + [False] * 3
  )


@pytest.mark.parametrize(
  ('prompts', 'micro', 'oversample', 'expected'),
  [
    (8, 4, 1.0, 8),
    (8, 4, 1.25, 12),
    (8, 2, 1.25, 10),
    (8, 1, 1.3, 11),
    (10, 1, 1.1, 11),
    (32, 4, 2.0, 64),
  ],
)
def test_more_briefs_are_whole_microbatches(
  prompts: int, micro: int, oversample: float, expected: int
) -> None:
  config = ConfigDict(
    {
      'prompts_per_step': prompts,
      'microbatch_groups': micro,
      'oversample': oversample,
    }
  )
  assert objective.sampled_prompts(config) == expected


def test_rows_are_split_over_the_shards_of_groups() -> None:
  count_PxG = np.full((8, 2), 3)
  packed = packing.partition(np.full(8, 4), count_PxG, 8, 8, part=4, shards=4)
  # four rows of a group of 10 tokens each, in both parts
  assert packed.rows == 4 and packed.width == [16, 16]
  assert packed.padding == pytest.approx(1 - 80 / 128)
