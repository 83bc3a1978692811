"""Group rollouts: what is drawn, what is recorded, what it depends on."""

import math
import re
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import quick

from rlcw.models import decoder, layers, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.layers import FEW_ROWS
from rlcw.sampling import rollout as rollout_lib
from rlcw.sampling.rollout import Rollout, cache_sizes, sample
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


def _part(rollout: Rollout, *index: Any) -> Rollout:
  return jax.tree.map(lambda leaf: leaf[index], rollout)


@pytest.mark.parametrize('temperature', [0.7, 1.0, 1.3])
def test_recorded_logp_is_that_of_the_loss(
  temperature: float, tiny: Any
) -> None:
  config, params = tiny
  rollout = _draw(tiny, Temperature(temperature))
  read = jax.jit(decoder.forward_replies, static_argnums=0)
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
  budget: int,
  expected: list[int],
  for_tpu: bool,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(rollout_lib, 'platform', lambda: ('cpu', 'tpu')[for_tpu])
  assert cache_sizes(budget) == ([budget] if for_tpu else expected)


@pytest.mark.parametrize('eos', quick([(), EOS], EOS))
def test_a_cache_that_grows_changes_no_reply(
  eos: tuple[int, ...], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  expected = _draw(tiny, eos=eos)
  plain, rooms, seen = sample.__wrapped__, [1, 5, 11, BUDGET], set()
  # a function of its own, or JAX would take the trace that it has
  anew = jax.jit(
    lambda *inputs, **static: plain(*inputs, **static),
    static_argnames=('config', 'group_size', 'max_new_tokens', 'eos'),
  )

  def step(*inputs: Any) -> Any:
    _, cache = stepped = decoder.decode_step(*inputs)
    seen.add(cache[0].k.shape[-1])
    return stepped

  monkeypatch.setattr(rollout_lib, 'sample', anew)
  monkeypatch.setattr(rollout_lib, 'cache_sizes', lambda _: rooms)
  monkeypatch.setattr(rollout_lib, 'decode_step', step)
  _assert_equal(_draw(tiny, eos=eos), expected)
  assert seen == {*rooms}


@pytest.mark.parametrize('budget', [37, 300])
def test_no_token_copies_a_cache_or_a_brief_into_another_order(
  budget: int,
) -> None:
  """Of keys and values, XLA turns round those of the briefs, and once."""
  config = ModelConfig(
    512, 64, 96, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16
  )
  shape = jax.ShapeDtypeStruct
  prompts, group, length = 3, 4, 89
  assert prompts * length > FEW_ROWS  # of fewer the products are turned, too
  lowered = sample.lower(
    weights.abstract_params(config),
    shape((prompts, length), jnp.int32),
    *[shape((prompts,), jnp.int32)] * 2,
    *(PLAIN, 0, 0),
    config=config,
    group_size=group,
    max_new_tokens=budget,
    eos=(0,),
  )
  token = 2 * 16  # numbers in a token's keys
  brief = prompts * length * token
  caches = [prompts * group * room * token for room in cache_sizes(budget)]
  turned = re.findall(
    r'= f32\[([\d,]+)\]\S* transpose\(.*', lowered.compile().as_text()
  )
  sizes = [math.prod(map(int, axes.split(','))) for axes in turned]
  assert sizes.count(brief) <= 2  # of keys and of values, as they are read
  assert not {*sizes} & {*caches}


def test_one_compilation_per_bucket(tiny: Any) -> None:
  def compiled(*args: Any, **changes: Any) -> int:
    before = sample._cache_size()
    _draw(tiny, *args, max_new_tokens=2, **changes)
    return sample._cache_size() - before

  assert compiled(Temperature(1.0)) == 1
  assert compiled(Temperature(0.5)) == 0
  assert compiled(Temperature(0.5), seed=9, step=2**20) == 0
  assert compiled(Temperature(1.5), rows=(2, 1, 0)) == 0
  assert compiled(TopP(0.9, 1.0)) == 1
  assert compiled(TopP(0.5, 0.7), seed=1) == 0
  assert compiled(Temperature(1.0), rows=(0, 1)) == 1
  assert compiled(TopK(2)) == 1
  assert compiled(TopK(2, 0.3)) == 0


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
