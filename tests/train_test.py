"""One update: golden numbers, microbatches, bad steps, and eight devices."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from rlcw import losses, train
from rlcw.data import datasets
from rlcw.models import weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.runtime import checkpoint, metrics, optimizers, rows
from rlcw.runtime.mesh import make_mesh, over_groups, replicated
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import objective

CONFIG = ModelConfig(
  vocab_size=64,
  model_dim=32,
  mlp_dim=48,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
)
SETTINGS = ConfigDict(
  dict(
    temperature=0.9,
    clip_low=0.2,
    clip_high=0.3,
    kl='k3',
    kl_weight=0.1,
    ratio='token',
    aggregation='token_mean',
  )
)
P, G, L, T = 8, 4, 12, 6


def make_params(mesh: Any) -> Params:
  """Weights from NumPy alone, the same whatever the libraries."""
  rng = np.random.default_rng(0)
  shardings = weights.param_shardings(CONFIG, mesh)
  abstract = jax.eval_shape(_shapes)
  leaves, tree = jax.tree.flatten(abstract)
  values = [rng.normal(0, 0.2, leaf.shape).astype('float32') for leaf in leaves]
  return jax.device_put(jax.tree.unflatten(tree, values), shardings)


def _shapes() -> Params:
  import flax.linen as nn

  from rlcw.models.decoder import Decoder

  token = jnp.zeros((1, 1, 1), jnp.int32)
  variables = Decoder(CONFIG).init(jax.random.key(0), token)
  return nn.unbox(variables)['params']


def make_arrays(mesh: Any) -> dict[str, Any]:
  rng = np.random.default_rng(1)
  length_PxG = rng.integers(1, T + 1, (P, G))
  prompt_PxL = rng.integers(0, 64, (P, L)).astype('int32')
  length_P = rng.integers(3, L + 1, P).astype('int32')
  rollout = Rollout(
    token=rng.integers(0, 64, (P, G, T)).astype('int32'),
    logp=rng.normal(-4, 0.3, (P, G, T)).astype('float32'),
    length=length_PxG.astype('int32'),
    finished=np.ones((P, G), bool),
  )
  arrays = {
    'prompt': prompt_PxL,
    'length': length_P,
    'rollout': rollout,
    'valid': np.ones((P, G), bool),
    'ref_logp': rng.normal(-4, 0.3, (P, G, T)).astype('float32'),
    'advantage': rng.normal(0, 1, (P, G)).astype('float32'),
  }
  return jax.device_put(arrays, over_groups(mesh))


def make_parts(mesh: Any, microbatches: int = 1) -> list[objective.Part]:
  """The arrays in packed rows."""
  arrays = make_arrays(mesh)
  lengths = np.asarray(arrays['length']), np.asarray(arrays['rollout'].length)
  settings = ConfigDict(SETTINGS.to_dict())
  settings.microbatch_groups = P // microbatches
  with jax.set_mesh(mesh):
    return objective.pack(arrays, lengths, settings, over_groups(mesh)).parts


SGD = optax.sgd(0.1)  # Adam's first step would magnify rounding to a sign


def one_step(
  mesh: Any, microbatches: int = 1, optimizer: Any = SGD
) -> tuple[train.TrainState, dict[str, float]]:
  (told,), state = take_steps(1, mesh, microbatches, optimizer)
  return state, told


def take_steps(
  steps: int, mesh: Any, microbatches: int = 1, optimizer: Any = SGD
) -> tuple[list[dict[str, float]], train.TrainState]:
  """Steps on the same arrays: what each told, and the last state."""
  state, told = train.init_state(make_params(mesh), optimizer, mesh), []
  loss_fn = objective.make_loss(CONFIG, SETTINGS)
  update = train.make_update(loss_fn, optimizer, state, microbatches)
  for _ in range(steps):
    with jax.set_mesh(mesh):
      state, values = update(state, make_parts(mesh, microbatches), {})
    told.append({name: float(value) for name, value in values.items()})
  return told, state


def single() -> Any:
  return make_mesh(devices=jax.devices()[:1])


def assert_close(a: Params, b: Params, tolerance: float) -> None:
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


def test_golden_grpo_step() -> None:
  """Changes only with the mathematics of the step.

  What a second step tells is what the first did to the parameters.

  If you meant to change the loss, the optimiser or the model, put the new
  numbers here; otherwise something broke.
  """
  adam = optimizers.make_optimizer(1e-2, warmup_steps=1, max_grad_norm=1.0)
  told, _ = take_steps(2, single(), optimizer=adam)
  for values, golden in zip(told, GOLDEN, strict=True):
    assert values == pytest.approx(golden, rel=2e-4)


FIRST = {
  'bad_steps': 0.0,
  'clip_fraction': 0.2844036817550659,
  'grad_norm': 0.23534026741981506,
  'kl': 0.11268836259841919,
  'kl_clipped': 0.0,
  'loss': -0.099924236536026,
  'sampler_gap': 0.32306167483329773,
  'skipped': 0.0,
}
SECOND = {
  'bad_steps': 0.0,
  'clip_fraction': 0.3302752375602722,
  'grad_norm': 0.17121756076812744,
  'kl': 0.11897464841604233,
  'kl_clipped': 0.0,
  'loss': -0.1525144726037979,
  'sampler_gap': 0.32317298650741577,
  'skipped': 0.0,
}
GOLDEN = FIRST, SECOND


@pytest.mark.slow
@pytest.mark.parametrize(
  'microbatches', [2, pytest.param(8, marks=pytest.mark.slow)]
)
def test_microbatches_equal_one_batch(microbatches: int) -> None:
  whole, told = one_step(single())
  parts, told_parts = one_step(single(), microbatches)
  assert_close(whole.params, parts.params, 2e-6)
  for name in told:
    np.testing.assert_allclose(told[name], told_parts[name], rtol=1e-4)


def test_a_mesh_that_does_not_fit_is_refused() -> None:
  with pytest.raises(ValueError, match="'data': 3.*the 8 devices"):
    make_mesh(3, 1, 1)


# A loss of one number, to drive `fit` with.


def scalar_loss(
  params: Params, _: Params, arrays: Any
) -> dict[str, losses.Ratio]:
  error = jnp.square(params['x'] - arrays['target'])
  return {'loss': losses.Ratio(error.sum(), jnp.float32(error.size))}


def fit(
  workdir: pathlib.Path,
  targets: list[float],
  optimizer: optax.GradientTransformation = optax.sgd(0.25),  # noqa: B008
  **settings: Any,
) -> train.TrainState:
  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    target = jnp.full((2,), targets[step])
    minibatch = train.Minibatch([{'target': target}])
    return train.Batch([minibatch], {}, time.perf_counter())

  params = jax.device_put({'x': jnp.float32(1.0)}, replicated(single()))
  return train.fit(
    params,
    next_batch,
    scalar_loss,
    optimizer,
    single(),
    name='test',
    steps=len(targets),
    workdir=workdir,
    checkpoint_every=100,
    **settings,
  )


@pytest.mark.parametrize('decays', [(0.0, 0.1), (0.1, 0.0)])
def test_a_run_is_not_resumed_with_another_optimizer(
  tmp_path: pathlib.Path, decays: tuple[float, float]
) -> None:
  first, second = (
    optimizers.make_optimizer(0.1, max_grad_norm=1.0, weight_decay=decay)
    for decay in decays
  )
  fit(tmp_path, [0.0], first)
  with pytest.raises(ValueError, match='opt_state.*settings.*weight_decay'):
    fit(tmp_path, [0.0, 0.0], second)
  state = fit(tmp_path, [0.0, 0.0], first)
  assert int(state.step) == 2


def test_a_bad_step_is_skipped_and_counted(tmp_path: pathlib.Path) -> None:
  state = fit(tmp_path, [0.0, float('nan'), 0.0])
  assert float(state.params['x']) == pytest.approx(0.25)  # halved twice
  assert int(state.bad_steps) == 0
  assert int(state.step) == 3


def masked_loss(
  params: Params, _: Params, arrays: Any
) -> dict[str, losses.Ratio]:
  """The mean distance to the targets that are numbers."""
  known = jnp.isfinite(arrays['target'])
  error = jnp.where(known, params['x'] - arrays['target'], 0.0)
  return {'loss': losses.Ratio(jnp.square(error).sum(), known.sum())}


def halves(target_N: np.ndarray, mesh: Any) -> list[dict[str, jax.Array]]:
  """Two parts of a batch."""
  rows = target_N.reshape(2, -1, 1)
  return [jax.device_put({'target': x}, over_groups(mesh)) for x in rows]


@pytest.mark.parametrize('devices', [1, 8])
def test_a_step_with_nothing_to_learn_from_changes_nothing(
  devices: int,
) -> None:
  """Neither parameters nor moments nor the schedule's count; Adam moves on."""
  mesh = make_mesh(devices=jax.devices()[:devices])
  optimizer = optimizers.make_optimizer(0.1, warmup_steps=4, max_grad_norm=1.0)
  params = jax.device_put({'x': jnp.float32(1.0)}, replicated(mesh))
  state = train.init_state(params, optimizer, mesh)
  update = train.make_update(masked_loss, optimizer, state, 2)
  full, empty = np.arange(16, dtype=np.float32), np.full(16, np.nan, np.float32)
  batches = [full, empty, full, empty, empty, full]
  rows, leaves = [], []
  for batch in batches:
    state, stats = update(state, halves(batch, mesh), {})
    rows.append(jax.device_get(stats))
    leaves.append(jax.device_get([state.params, state.opt_state]))
  assert [row['skipped'] for row in rows] == [0, 1, 0, 1, 1, 0]
  assert [row['bad_steps'] for row in rows] == [0] * 6
  assert int(state.step) == 6
  for skipped in (1, 3, 4):
    jax.tree.map(
      np.testing.assert_array_equal, leaves[skipped], leaves[skipped - 1]
    )
  # as if the empty batches had never been
  other = train.init_state(
    jax.device_put({'x': jnp.float32(1.0)}, replicated(mesh)), optimizer, mesh
  )
  for _ in range(3):
    other, _ = update(other, halves(full, mesh), {})
  jax.tree.map(
    np.testing.assert_array_equal,
    leaves[-1],
    jax.device_get([other.params, other.opt_state]),
  )


def test_an_empty_step_does_not_end_a_row_of_bad_ones() -> None:
  optimizer = optax.sgd(0.25)
  params = jax.device_put({'x': jnp.float32(1.0)}, replicated(single()))
  state = train.init_state(params, optimizer, single())
  update = train.make_update(masked_loss, optimizer, state)
  counts = []
  for target in (1e30, np.nan, 1e30, 0.0, np.nan):  # 1e30² is infinite
    arrays = {'target': jnp.full((2,), target, jnp.float32)}
    state, stats = update(state, [arrays], {})
    counts.append(int(stats['bad_steps']))
  assert counts == [1, 1, 2, 0, 0]


def fit_updates(
  workdir: pathlib.Path, targets: list[list[float]], **settings: Any
) -> train.TrainState:
  """Trains with an update for each target of a step."""

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    minibatches = [
      train.Minibatch([{'target': jnp.full(2, target)}])
      for target in targets[step]
    ]
    return train.Batch(minibatches, {}, time.perf_counter())

  return train.fit(
    jax.device_put({'x': jnp.float32(1.0)}, replicated(single())),
    next_batch,
    scalar_loss,
    optax.chain(optax.sgd(0.25), optax.scale_by_schedule(lambda _: 1.0)),
    single(),
    name='test',
    steps=len(targets),
    workdir=workdir,
    **{'checkpoint_every': 1} | settings,
  )


def test_a_step_may_have_several_updates(tmp_path: pathlib.Path) -> None:
  """Each halves the distance to its target."""
  state = fit_updates(
    tmp_path, [[0.0, 2.0], [0.0], [1.0] * 3], rate=lambda count: 0.1 * count
  )
  assert float(state.params['x']) == pytest.approx(1 - 0.375 / 8)
  assert int(state.step) == 3
  saved = checkpoint.Checkpoints(tmp_path / 'checkpoints', read_only=True)
  assert saved.latest() == 3
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [0, 1, 2]
  # 1² and 1.5²; the rate is that of the last update
  assert rows[0]['loss'] == pytest.approx((1 + 2.25) / 2)
  assert rows[0]['grad_norm'] == pytest.approx((2 + 3) / 2)
  assert [row['learning_rate'] for row in rows] == pytest.approx(
    [0.1, 0.2, 0.5]
  )


def test_a_bad_update_among_several_is_skipped_and_counted(
  tmp_path: pathlib.Path,
) -> None:
  nan = float('nan')
  state = fit_updates(tmp_path, [[0.0, nan, 0.0], [nan, 0.0, nan], [0.0]])
  assert float(state.params['x']) == pytest.approx(0.5**4)
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert [row['skipped'] for row in rows] == [1, 2, 0]
  assert [row['bad_steps'] for row in rows] == [1, 1, 0]
  # the mean of the updates that were made
  assert rows[0]['loss'] == pytest.approx((1 + 0.25) / 2)
  with pytest.raises(FloatingPointError, match='3 steps in a row'):
    fit_updates(tmp_path / 'bad', [[0.0, nan], [nan, nan], [0.0], [0.0]])


def test_a_run_with_several_updates_goes_on_as_if_it_had_not_stopped(
  tmp_path: pathlib.Path,
) -> None:
  targets = [[0.1, 2.0], [0.7, -1.0], [1.0, 0.3]]
  whole = fit_updates(tmp_path / 'whole', targets)
  fit_updates(tmp_path / 'parts', targets[:2])
  parts = fit_updates(tmp_path / 'parts', targets)
  jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_several_updates_compile_no_more_than_one(
  tmp_path: pathlib.Path,
) -> None:
  fit_updates(tmp_path, [[0.0, 1.0]] * 3)
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert rows[2]['compilations'] == rows[0]['compilations']


def test_weights_that_sum_to_less_than_1_are_divided_by() -> None:
  """Half of one pair weighs as much as a whole one, if it is alone."""

  def loss(params: Params, _: Params, arrays: Any) -> dict[str, losses.Ratio]:
    weight = arrays['weight']
    total = (weight * jnp.square(params['x'])).sum()
    return {'loss': losses.Ratio(total, weight.sum())}

  optimizer, found = optax.sgd(0.25), []
  for weight in (0.25, 4.0):
    params = jax.device_put({'x': jnp.float32(1.0)}, replicated(single()))
    state = train.init_state(params, optimizer, single())
    update = train.make_update(loss, optimizer, state)
    state, stats = update(state, [{'weight': jnp.full(2, weight)}], {})
    found.append((float(state.params['x']), float(stats['loss'])))
  assert found == [(0.5, 1.0)] * 2


def test_bad_steps_in_a_row_stop_the_run_with_a_saved_state(
  tmp_path: pathlib.Path,
) -> None:
  nan = float('nan')
  with pytest.raises(FloatingPointError, match='2 steps in a row'):
    fit(tmp_path, [0.0, nan, nan, nan, nan, 0.0], max_bad_steps=2)
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  saved = checkpoint.Checkpoints(tmp_path / 'checkpoints')
  # no step that is in the saved state lacks its row
  assert [row['step'] for row in rows] == [*range(saved.latest() or 0)]
  like = {'x': jax.device_put(jnp.float32(0), jax.devices()[0])}
  assert float(saved.restore(params=like)['params']['x']) == 0.5


@pytest.mark.parametrize('step', [0, 1, 2, 4])
def test_a_source_of_batches_that_ends_leaves_a_saved_state(
  step: int, tmp_path: pathlib.Path
) -> None:
  ended = True

  def next_batch(state: train.TrainState, now: int) -> train.Batch:
    if ended and now == step:
      raise train.Ended('no reply got a score')
    batch = {'target': jnp.zeros(2)}
    return train.Batch([train.Minibatch([batch])], {}, time.perf_counter())

  def run() -> train.TrainState:
    return train.fit(
      jax.device_put({'x': jnp.float32(1.0)}, replicated(single())),
      next_batch,
      scalar_loss,
      optax.sgd(0.25),
      single(),
      name='test',
      steps=5,
      workdir=tmp_path,
      checkpoint_every=2,
    )

  with pytest.raises(train.Ended, match='no reply got a score'):
    run()
  saved = checkpoint.Checkpoints(tmp_path / 'checkpoints', read_only=True)
  assert (saved.latest() or 0) == step
  ended = False
  assert float(run().params['x']) == 0.5**5
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [*range(5)]


def test_too_many_bad_steps_stop_the_run_though_the_next_is_good(
  tmp_path: pathlib.Path,
) -> None:
  nan = float('nan')
  with pytest.raises(FloatingPointError, match='the last good state is saved'):
    fit(tmp_path, [0.0, nan, nan, 0.0, 0.0, 0.0], max_bad_steps=2)


def test_the_update_takes_over_its_buffers_and_compiles_once() -> None:
  compiled = metrics.Compilations()
  optimizer = optax.sgd(0.25)
  params = jax.device_put({'x': jnp.float32(1.0)}, replicated(single()))
  state = train.init_state(params, optimizer, single())
  update = train.make_update(scalar_loss, optimizer, state)
  arrays = {'target': jnp.zeros(2)}
  first = state.params['x']
  for step in range(3):
    state, _ = update(state, [arrays], {})
    if step == 0:
      after_first = compiled.count
  assert first.is_deleted()
  assert compiled.count == after_first


@pytest.mark.parametrize(('seconds', 'lines'), [(0.0, 60), (1e9, 21)])
def test_steps_that_follow_fast_have_fewer_lines(
  seconds: float,
  lines: int,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(rows, '_SECONDS', seconds)
  target = {'target': jnp.zeros(2)}
  train.fit(
    jax.device_put({'x': jnp.float32(1.0)}, replicated(single())),
    lambda state, step: train.Batch(
      [train.Minibatch([target])], {}, time.perf_counter()
    ),
    scalar_loss,
    optimizers.make_optimizer(0.1, warmup_steps=0, max_grad_norm=1.0),
    single(),
    name='test',
    steps=60,
    workdir=tmp_path,
    checkpoint_every=100,
    line='loss {loss:.1f}',
    rate=optimizers.make_rate(0.1, 0),
    config=ConfigDict({'loggers': ()}),
  )
  said = capsys.readouterr().out.splitlines()
  # the first twenty, and the last
  assert len(said) == lines and 'step 59 of 60' in said[-1]
  written = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in written] == [*range(60)]


def test_every_step_is_a_line_with_its_sample_rate_and_tempo(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    # The second step is skipped, so it does not count for the warm-up.
    target = jnp.full((2,), float('nan') if step == 1 else 0.0)
    return train.Batch(
      [train.Minibatch([{'target': target}])],
      {'extra': step, 'word': '[bold]'},
      time.perf_counter(),
      counts={'tokens': 10},
      sample='  a [bold]reply' if step == 2 else '',
    )

  train.fit(
    jax.device_put({'x': jnp.float32(1.0)}, replicated(single())),
    next_batch,
    scalar_loss,
    optimizers.make_optimizer(0.3, warmup_steps=2, max_grad_norm=1.0),
    single(),
    name='test',
    steps=4,
    workdir=tmp_path,
    checkpoint_every=100,
    line='extra {extra:d}, loss {loss:.1f}, rate {learning_rate:.1f}',
    rate=optimizers.make_rate(0.3, 2),
    config=ConfigDict({'loggers': ()}),
  )
  said = capsys.readouterr()
  assert said.out.splitlines() == [
    'test: step 0 of 4: extra 0, loss 1.0, rate 0.1',
    'test: step 1 of 4: extra 1, loss –, rate 0.2',
    'test: step 2 of 4: extra 2, loss 0.8, rate 0.2',
    '  a [bold]reply',
    'test: step 3 of 4: extra 3, loss 0.5, rate 0.3',
  ]
  assert said.err == ''
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  for row in rows:
    tempo = 10 / row['seconds_step']
    assert row['tokens_per_second'] == pytest.approx(tempo)
  assert not (tmp_path / 'tensorboard').exists()
