"""Group rollouts: what is drawn, what is recorded, what it depends on."""

import dataclasses
import functools
import math
import re
import signal
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import padded
import pytest
from cases import quick

from rlcw.models import decoder, layers, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.layers import FEW_ROWS
from rlcw.runtime import signals
from rlcw.runtime.metrics import Compilations
from rlcw.sampling import decoding, moving, tiles
from rlcw.sampling import rollout as rollout_lib
from rlcw.sampling.rollout import Rollout, cache_sizes, make_setup, sample
from rlcw.sampling.samplers import Greedy, Temperature, TopK, TopP

LENGTHS = (3, 8, 5)  # of three briefs, padded to 8
BRIEF_IDS = (11, 7, 300)
GROUP, BUDGET = 4, 12
EOS = tuple(range(0, 300, 12))  # frequent, so that some replies end early
PLAIN = Temperature(1.0)


def _prompts() -> np.ndarray:
  prompt_PxL = np.random.default_rng(0).integers(0, 300, (3, 8))
  real_PxL = np.arange(8) < np.array(LENGTHS)[:, None]
  return np.where(real_PxL, prompt_PxL, 0).astype(np.int32)


def _draw(
  tiny: Any,
  method: Any = PLAIN,
  rows: tuple[int, ...] = (0, 1, 2),
  seed: int = 0,
  step: int = 0,
  **static: Any,
) -> Rollout:
  """A rollout of some of the briefs, as NumPy arrays."""
  config, params = tiny
  rows_P = list(rows)
  rollout = rollout_lib.sample(
    params,
    _prompts()[rows_P],
    np.array(LENGTHS, np.int32)[rows_P],
    np.array(BRIEF_IDS, np.int32)[rows_P],
    method,
    seed,
    step,
    config=config,
    **{'group_size': GROUP, 'max_new_tokens': BUDGET, 'eos': EOS} | static,
  )
  return jax.tree.map(np.asarray, rollout)


def _assert_equal(one: Rollout, other: Rollout, logp: float = 1e-4) -> None:
  for name in ('token', 'length', 'finished'):
    np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
  np.testing.assert_allclose(one.logp, other.logp, atol=logp, rtol=0)


def _setup(config: ModelConfig, **changes: Any) -> decoding.Setup:
  static = {'group_size': GROUP, 'max_new_tokens': BUDGET, 'eos': EOS}
  return make_setup((3, 8), config=config, **static | changes)


def _part(rollout: Rollout, *index: Any) -> Rollout:
  return jax.tree.map(lambda leaf: leaf[index], rollout)


@pytest.mark.parametrize('temperature', [0.7, 1.0, 1.3])
def test_recorded_logp_is_that_of_the_loss(
  temperature: float, tiny: Any
) -> None:
  config, params = tiny
  rollout = _draw(tiny, Temperature(temperature))
  read = jax.jit(padded.forward_replies, static_argnums=0)
  predicting, _ = read(
    config, params, _prompts(), np.array(LENGTHS), rollout.token
  )
  logp_N = layers.token_logprobs(
    predicting.reshape(-1, config.model_dim),
    decoder.head_weight(params),
    rollout.token.reshape(-1),
    temperature,
  )
  logp_PxGxT = np.where(rollout.mask, logp_N.reshape(rollout.mask.shape), 0)
  np.testing.assert_allclose(rollout.logp, logp_PxGxT, atol=1e-4, rtol=0)


def test_replies_do_not_depend_on_the_batch(tiny: Any) -> None:
  whole = _draw(tiny)
  _assert_equal(_draw(tiny, rows=(2, 0, 1)), _part(whole, [2, 0, 1]))
  for p in range(3):
    _assert_equal(_draw(tiny, rows=(p,)), _part(whole, [p]))


@pytest.mark.slow
def test_replies_do_not_depend_on_the_group_size(tiny: Any) -> None:
  few = _draw(tiny, group_size=2)
  _assert_equal(few, _part(_draw(tiny), slice(None), slice(0, 2)))


def test_every_token_has_its_own_noise(tiny: Any) -> None:
  rollout = _draw(tiny, Temperature(1e6))  # flat, so that noise alone decides
  tokens = rollout.token[rollout.mask]
  assert len(tokens) > 50
  assert len(np.unique(tokens)) > len(tokens) / 2


def test_noise_is_named_by_the_brief_id(tiny: Any) -> None:
  config, params = tiny
  drawn = sample(
    params,
    _prompts()[[0, 0, 0]],
    np.full(3, LENGTHS[0], np.int32),
    np.array([5, 6, 5], np.int32),
    Temperature(1.0),
    0,
    0,
    config=config,
    group_size=GROUP,
    max_new_tokens=BUDGET,
    eos=EOS,
  )
  np.testing.assert_array_equal(drawn.token[0], drawn.token[2])
  assert (drawn.token[0] != drawn.token[1]).any(-1).all()


def test_the_same_seed_and_step_repeat_and_others_do_not(tiny: Any) -> None:
  first = _draw(tiny, seed=3, step=5)
  _assert_equal(first, _draw(tiny, seed=3, step=5), logp=0)
  for seed, step in ((3, 6), (4, 5), (5, 3)):
    other = _draw(tiny, seed=seed, step=step)
    assert (first.token != other.token).any(-1).mean() > 0.9


def test_eos_is_kept_and_nothing_follows_it(tiny: Any) -> None:
  rollout = _draw(tiny)
  last_PxG = np.take_along_axis(
    rollout.token, rollout.length[..., None] - 1, axis=-1
  )[..., 0]
  assert 0 < rollout.finished.sum() < rollout.finished.size  # both kinds
  np.testing.assert_array_equal(np.isin(last_PxG, EOS), rollout.finished)
  assert (rollout.length[~rollout.finished] == BUDGET).all()
  after = ~np.asarray(rollout.mask)
  assert not rollout.token[after].any()
  assert not rollout.logp[after].any()
  assert (rollout.logp[~after] < 0).all()
  before = np.arange(BUDGET) < rollout.length[..., None] - 1
  assert not np.isin(rollout.token[before], EOS).any()


@flax.struct.dataclass
class _Counted:
  """Plain sampling that leaves a mark for each turn of the loop."""

  turns: Any = flax.struct.field(pytree_node=False)

  def __call__(self, logits_BxV: jax.Array) -> tuple[jax.Array, jax.Array]:
    jax.debug.callback(lambda: self.turns.append(1))
    return PLAIN(logits_BxV)


class _Turns(list):
  """A list that `jit` can hash."""

  __hash__ = object.__hash__  # type: ignore[assignment]


def test_decoding_pauses_and_goes_on_with_the_same_replies(
  tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  whole = _draw(tiny)
  assert whole.length.max() == BUDGET
  monkeypatch.setattr(decoding, 'MOST_TOKENS', 5)
  pauses = []
  # the same ends twice, because it is traced only for a new setup
  parts = _draw(tiny, eos=2 * EOS, pause=lambda: pauses.append(1))
  assert len(pauses) == 3  # of 1 + 5 + 5 + 1 tokens
  _assert_equal(parts, whole, logp=0)


def test_a_request_to_stop_ends_a_rollout(tiny: Any) -> None:
  with signals.listening():
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(signals.Stopped):
      _draw(tiny)


def test_the_loop_leaves_when_all_have_ended(tiny: Any) -> None:
  counted = _Counted(_Turns())
  rollout = _draw(tiny, counted, eos=tuple(range(300)))
  jax.effects_barrier()
  assert len(counted.turns) == 1
  assert (rollout.length == 1).all()
  assert rollout.finished.all()


def test_the_loop_goes_on_while_one_reply_lives(tiny: Any) -> None:
  counted = _Counted(_Turns())
  rollout = _draw(tiny, counted, rows=(0,), group_size=2)
  jax.effects_barrier()
  assert len(counted.turns) == rollout.length.max() > rollout.length.min()


@pytest.mark.parametrize(
  ('budget', 'expected'),
  [
    (1, [1]),
    (255, [255]),
    (300, [150, 300]),
    (511, [171, 341, 511]),
    (4096, [1024, 2048, 3072, 4096]),
  ],
)
@pytest.mark.parametrize('for_tpu', [False, True])
def test_a_cache_grows_in_equal_steps(
  budget: int, expected: list[int], for_tpu: bool, tiny: Any
) -> None:
  setup = _setup(tiny[0], max_new_tokens=budget)._replace(for_tpu=for_tpu)
  assert cache_sizes(setup) == ([budget] if for_tpu else expected)


@pytest.mark.parametrize('eos', quick([(), EOS], EOS))
def test_a_cache_that_grows_changes_no_reply(
  eos: tuple[int, ...], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  expected = _draw(tiny, eos=eos)
  rooms, seen = [1, 5, BUDGET], []

  def decode(*inputs: Any, **static: Any) -> Any:
    seen.append(inputs[3][0].v.shape[-2])
    return decoding.decode(*inputs, **static)

  monkeypatch.setattr(rollout_lib, 'cache_sizes', lambda _: rooms)
  monkeypatch.setattr(rollout_lib, 'decode', decode)
  _assert_equal(_draw(tiny, eos=eos), expected)
  assert seen == rooms


@pytest.mark.slow
@pytest.mark.parametrize('for_tpu', [False, True])
def test_the_order_of_kept_keys_changes_no_reply(
  for_tpu: bool, tiny: Any
) -> None:
  many = dict(group_size=8, gather=True)
  expected = _draw(tiny, **many)
  with pytest.MonkeyPatch.context() as patch:
    make = rollout_lib.make_setup
    patch.setattr(
      rollout_lib,
      'make_setup',
      lambda *p, **s: make(*p, **s)._replace(for_tpu=for_tpu),
    )
    _assert_equal(_draw(tiny, **many), expected)


def _decode_text(
  config: ModelConfig, prompts: int, group: int, length: int, budget: int
) -> list[str]:
  """The compiled decode programs of a rollout, one per cache length."""
  shape = jax.ShapeDtypeStruct
  setup = make_setup(
    (prompts, length),
    config=config,
    group_size=group,
    max_new_tokens=budget,
    eos=(0,),
  )
  params = weights.abstract_params(config)
  rows, briefs, cache, _ = jax.eval_shape(
    functools.partial(decoding.start, setup=setup),
    params,
    shape((prompts, length), jnp.int32),
    *[shape((prompts,), jnp.int32)] * 2,
    *(PLAIN, 0, 0),
  )
  layers = jax.eval_shape(
    lambda blocks: moving.split_blocks(blocks, config.dtype), params['blocks']
  )
  others = {name: tree for name, tree in params.items() if name != 'blocks'}
  others = jax.eval_shape(lambda p: decoder.as_dtype(p, config.dtype), others)
  texts = []
  for size in cache_sizes(setup):
    grow = functools.partial(moving.grow_cache, setup=setup, size=size)
    room = [jax.eval_shape(grow, kv) for kv in cache]
    inputs = others, layers, briefs, room, rows, 1, 0, PLAIN
    lowered = decoding.decode.lower(*inputs, setup=setup)
    texts.append(lowered.compile().as_text())
  return texts


@pytest.mark.parametrize('budget', [37, 300])
def test_no_token_copies_a_cache_or_a_brief_into_another_order(
  budget: int,
) -> None:
  """Keys and values are kept in the order in which XLA reads them."""
  config = ModelConfig(
    512, 64, 96, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16
  )
  prompts, group, length = 3, 4, 89
  assert prompts * length > FEW_ROWS  # of fewer the products are turned, too
  token = 2 * 16  # numbers in a token's keys
  kept = {prompts * length * token}
  for text in _decode_text(config, prompts, group, length, budget):
    room = max(map(int, re.findall(r'f32\[3,4,2,(\d+),16\]', text)))
    kept.add(prompts * group * room * token)
    turned = re.findall(r'= f32\[([\d,]+)\]\S* transpose\(.*', text)
    sizes = [math.prod(map(int, axes.split(','))) for axes in turned]
    assert not {*sizes} & kept
  assert len(kept) == (2 if budget == 37 else 3)


def test_weights_are_cast_once_and_not_for_every_token(tiny: Any) -> None:
  config = dataclasses.replace(tiny[0], dtype='bfloat16')
  layers = moving.split_blocks(tiny[1]['blocks'], config.dtype)
  kernel = layers[0]['gate']['kernel']
  assert kernel.dtype == jnp.bfloat16
  np.testing.assert_array_equal(
    kernel, tiny[1]['blocks']['gate']['kernel'][0].astype(jnp.bfloat16)
  )
  assert layers[1]['mlp_norm']['scale'].dtype == jnp.float32


def test_one_compilation_per_bucket(tiny: Any) -> None:
  def compiled(*args: Any, **changes: Any) -> list[int]:
    programs = decoding.start, decoding.decode
    before = [program._cache_size() for program in programs]
    _draw(tiny, *args, max_new_tokens=2, **changes)
    return [p._cache_size() - n for p, n in zip(programs, before, strict=True)]

  assert compiled(Temperature(1.0)) == [1, 1]
  assert compiled(Temperature(0.5)) == [0, 0]
  assert compiled(Temperature(0.5), seed=9, step=2**20) == [0, 0]
  assert compiled(Temperature(1.5), rows=(2, 1, 0)) == [0, 0]
  assert compiled(TopP(0.9, 1.0)) == [1, 1]
  assert compiled(TopP(0.5, 0.7), seed=1) == [0, 0]
  assert compiled(Temperature(1.0), rows=(0, 1)) == [1, 1]
  assert compiled(TopK(2)) == [1, 1]
  assert compiled(TopK(2, 0.3)) == [0, 0]


# --- Rows that are gathered -------------------------------------------------


def _counted(tiny: Any, **options: Any) -> tuple[Rollout, int]:
  """A rollout that gathers its rows, and the tokens they had time for."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rollout_lib, 'sample', rollout_lib.sample_and_count)
    return _draw(tiny, **{'gather': True} | options)  # type: ignore


@pytest.mark.parametrize(
  'options',
  [
    {'group_size': 8, 'stop': tuple(range(5, 300, 12))},
    *(
      pytest.param(options, marks=pytest.mark.slow)
      for options in (
        {'group_size': 16, 'method': TopP(0.9)},
        {'group_size': 7, 'method': TopK(40)},
        {'group_size': 8, 'method': Greedy()},
        {'group_size': 1, 'rows': (0, 1, 2) * 5},
        {'group_size': 8, 'eos': ()},
        {'group_size': 8, 'eos': tuple(range(300))},
        {'group_size': 8, 'max_new_tokens': 1},
        {'group_size': 1, 'rows': (0,)},
      )
    ),
  ],
)
def test_gathering_rows_changes_no_reply(
  options: dict[str, Any], tiny: Any
) -> None:
  whole, all_slots = _counted(tiny, gather=False, **options)
  gathered, slots = _counted(tiny, **options)
  _assert_equal(gathered, whole)
  longest = whole.length.max()
  assert all_slots == longest * whole.length.size
  assert whole.length.sum() <= slots <= all_slots
  # Of a batch with a smaller size, some rows end early.
  sizes = tiles.tiling(*whole.length.shape, 8, BUDGET, gather=True).sizes
  if sizes and longest > whole.length.min():
    assert slots < all_slots


def test_rows_are_gathered_as_soon_as_they_fit(tiny: Any) -> None:
  """Slots, from the lengths alone: sizes are 24, 18 and 12 rows in pairs."""
  rollout, slots = _counted(tiny, group_size=8)
  assert tiles.tiling(3, 8, 8, BUDGET, gather=True).sizes == (9, 6)
  expected, pairs = 24, 12
  for t in range(1, rollout.length.max()):
    live = (rollout.length > t).sum(-1)
    pairs = min(n for n in (12, 9, 6) if n >= -(-live // 2).sum())
    expected += 2 * pairs
  assert slots == expected
  assert pairs == 6


def test_each_size_is_compiled_once(tiny: Any) -> None:
  _counted(tiny, group_size=8, step=1)
  compilations = Compilations()
  before = decoding.decode._cache_size()
  for step in range(1, 4):
    _counted(tiny, group_size=8, step=step, seed=step)
  assert decoding.decode._cache_size() == before
  assert compilations.count == 0


def test_spent_weights_are_freed_and_no_others(tiny: Any) -> None:
  config, params = tiny
  mine = jax.tree.map(jnp.array, params)
  gate, up = (mine['blocks'][name]['kernel'] for name in ('gate', 'up'))
  _assert_equal(_draw((config, mine), spent=[gate]), _draw(tiny))
  assert gate.is_deleted()
  assert not up.is_deleted() and not mine['embed'].is_deleted()


def test_greedy_is_the_argmax_of_full_forwards(tiny: Any) -> None:
  config, params = tiny
  rollout = _draw(tiny, Greedy(), eos=())

  @jax.jit
  def next_token(
    params: Params, row_PxL: jax.Array, length_P: jax.Array
  ) -> jax.Array:
    hidden_PxD, _ = decoder.prefill(config, params, row_PxL, length_P)
    return jnp.argmax(hidden_PxD @ decoder.head_weight(params).T, axis=-1)

  row_PxL = np.pad(_prompts(), ((0, 0), (0, BUDGET)))
  length_P = np.array(LENGTHS)
  for t in range(BUDGET):
    token_P = np.asarray(next_token(params, row_PxL, length_P + t))
    np.testing.assert_array_equal(rollout.token[:, 0, t], token_P)
    row_PxL[np.arange(3), length_P + t] = token_P
  assert (rollout.token == rollout.token[:, :1]).all()
  assert len(np.unique(rollout.token)) > 6


@pytest.mark.slow
def test_top_1_is_greedy(tiny: Any) -> None:
  one, greedy = _draw(tiny, TopK(1, 0.9), eos=()), _draw(tiny, Greedy(), eos=())
  np.testing.assert_array_equal(one.token, greedy.token)


def test_a_token_out_of_place_cuts_a_reply_off(tiny: Any) -> None:
  whole = _draw(tiny)
  stop = tuple(range(5, 300, 12))
  cut = _draw(tiny, stop=stop)
  places = np.isin(whole.token, stop) & np.asarray(whole.mask)
  assert places.any() and not places.any(-1).all()
  first = np.where(places.any(-1), places.argmax(-1) + 1, whole.length)
  np.testing.assert_array_equal(cut.length, first)
  np.testing.assert_array_equal(cut.finished, whole.finished & ~places.any(-1))
  mask = np.asarray(cut.mask)
  np.testing.assert_array_equal(cut.token, np.where(mask, whole.token, 0))
  np.testing.assert_array_equal(cut.logp, np.where(mask, whole.logp, 0))


def test_rows_end_before_the_cache_has_a_token() -> None:
  """They are gathered at once, as a cache of no tokens is."""
  slot_NxC = jnp.array([[1, 5], [0, 6]])  # 6: empty
  taken = tiles.take_rows(jnp.zeros((2, 3, 4, 0)), slot_NxC)
  assert taken.shape == (2, 2, 4, 0)
