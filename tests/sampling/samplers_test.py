"""Samplers: what is recorded, and what is drawn from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.samplers import (
  Greedy,
  Temperature,
  TopK,
  TopP,
  inverse_cdf,
  make_sampler,
)
from rlcw.tasks.plan import hlo

LAST = 1 - 2**-24  # the largest float32 below 1


def _random_logits() -> np.ndarray:
  logits_BxV = 3 * np.random.default_rng(0).normal(size=(50, 40))
  return logits_BxV.astype(np.float32)


def _softmax(logits_BxV: np.ndarray) -> np.ndarray:
  weight_BxV = np.exp(logits_BxV.astype(np.float64))
  return weight_BxV / weight_BxV.sum(-1, keepdims=True)


@pytest.mark.parametrize(
  ('method', 'temperature'),
  [
    (Greedy(), 1),
    (Temperature(0.7), 0.7),
    (TopK(5, 0.7), 0.7),
    (TopP(0.8, 1.3), 1.3),
  ],
)
def test_recorded_logp_is_of_the_whole_softmax(
  method: Any, temperature: float
) -> None:
  logits_BxV = _random_logits()
  logp_BxV, _ = method(logits_BxV)
  expected_BxV = np.log(_softmax(logits_BxV / temperature))
  np.testing.assert_allclose(logp_BxV, expected_BxV, rtol=1e-5, atol=1e-5)


def test_more_than_all_tokens_are_all_of_them() -> None:
  logits_BxV = jnp.asarray(np.random.default_rng(0).normal(size=(3, 7)))
  found, expected = TopK(1000, 0.7)(logits_BxV), TopK(7, 0.7)(logits_BxV)
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('k', [1, 2, 7, 40])
def test_top_k_draws_from_the_k_likeliest(k: int) -> None:
  logits_BxV = _random_logits()
  _, weight_BxV = TopK(k, 0.7)(logits_BxV)
  kept_BxV = np.argsort(np.argsort(-logits_BxV)) < k
  prob_BxV = _softmax(logits_BxV / 0.7)
  expected_BxV = np.where(kept_BxV, prob_BxV, 0)
  np.testing.assert_allclose(weight_BxV, expected_BxV, atol=1e-6)
  np.testing.assert_array_equal(weight_BxV > 0, kept_BxV)


@pytest.mark.parametrize('p', [0.0, 1e-6, 0.3, 0.9, 0.999])
def test_top_p_draws_from_the_fewest_that_hold_p(p: float) -> None:
  logits_BxV = _random_logits()
  _, weight_BxV = TopP(p, 1.5)(logits_BxV)
  prob_BxV = _softmax(logits_BxV / 1.5)
  for weight_V, prob_V in zip(np.asarray(weight_BxV), prob_BxV, strict=True):
    falling_V = -np.sort(-prob_V)
    held = max(int(np.searchsorted(np.cumsum(falling_V), p)) + 1, 1)
    expected_V = np.where(prob_V >= falling_V[held - 1], prob_V, 0)
    np.testing.assert_allclose(weight_V, expected_V, atol=1e-6)


def test_top_p_of_one_is_the_whole_softmax() -> None:
  logits_BxV = np.random.default_rng(0).normal(size=(50, 40))
  logp_BxV, weight_BxV = TopP(1.0)(jnp.asarray(logits_BxV, jnp.float32))
  np.testing.assert_array_equal(weight_BxV, jnp.exp(logp_BxV))


VOCAB, BLOCK, ROWS = 37, 8, 4
Floats = st.floats(0, 1, width=32, allow_subnormal=False)
Uniforms = st.lists(
  st.integers(0, 2**12 - 1), min_size=ROWS, max_size=ROWS
).map(lambda counts: np.array(counts, np.float32) / 2**12)
_inverse_cdf = jax.jit(inverse_cdf, static_argnames='block')


@given(
  st.lists(st.integers(0, 9), min_size=VOCAB, max_size=VOCAB).filter(any),
  Uniforms,
)
@settings(max_examples=100)
@example([0] * 36 + [1], np.array([0, 0.25, 0.5, LAST], np.float32))
@example([1] + [0] * 36, np.array([0, 0.25, 0.5, LAST], np.float32))
@example([0] * 8 + [5] * 16 + [0] * 13, np.array([0, 0.5, LAST, 0.1]))
def test_inverse_cdf_is_searchsorted(
  weight: list[int], uniform_B: np.ndarray
) -> None:
  """Small whole weights and dyadic numbers, so float32 sums are exact."""
  weight_BxV = np.tile(np.array(weight, np.float32), (ROWS, 1))
  drawn_B = _inverse_cdf(weight_BxV, np.float32(uniform_B), block=BLOCK)
  target_B = np.float64(np.float32(uniform_B)) * sum(weight)
  expected_B = np.searchsorted(np.cumsum(weight), target_B, side='right')
  np.testing.assert_array_equal(drawn_B, expected_B)


@given(
  st.lists(Floats | st.just(0.0), min_size=VOCAB, max_size=VOCAB).filter(
    lambda weight: max(weight) > 1e-6
  ),
  st.floats(0, LAST, width=32, allow_subnormal=False),
)
@settings(max_examples=200)
def test_inverse_cdf_never_draws_weight_zero(
  weight: list[float], uniform: float
) -> None:
  weight_BxV = np.tile(np.array(weight, np.float32), (ROWS, 1))
  uniform_B = np.array([0, uniform, 1 - 2**-23, LAST], np.float32)
  drawn_B = np.asarray(_inverse_cdf(weight_BxV, uniform_B, block=BLOCK))
  assert (weight_BxV[0, drawn_B] > 0).all()
  total_V = np.cumsum(np.array(weight, np.float32), dtype=np.float64)
  target_B = uniform_B * total_V[-1]
  slack = 1e-5 * total_V[-1]
  assert (total_V[drawn_B] >= target_B - slack).all()
  start_B = total_V[drawn_B] - weight_BxV[0, drawn_B]
  assert (start_B <= target_B + slack).all()


def test_inverse_cdf_on_a_real_vocabulary() -> None:
  rng = np.random.default_rng(0)
  weight_BxV = np.exp(3 * rng.normal(size=(64, 49_152))).astype(np.float32)
  weight_BxV[rng.random(weight_BxV.shape) < 0.9] = 0
  weight_BxV[:, 40_000:] = 0
  weight_BxV /= weight_BxV.sum(-1, keepdims=True)
  for uniform in (0, 1e-7, 0.5, LAST):
    uniform_B = np.full(64, uniform, np.float32)
    drawn_B = np.asarray(_inverse_cdf(weight_BxV, uniform_B))
    assert (weight_BxV[np.arange(64), drawn_B] > 0).all()
  first_B = (weight_BxV > 0).argmax(-1)
  drawn_B = _inverse_cdf(weight_BxV, np.zeros(64, np.float32))
  np.testing.assert_array_equal(drawn_B, first_B)


def test_inverse_cdf_draws_the_same_of_a_vocabulary_in_parts() -> None:
  """Parts of 9 or 18 tokens, which blocks of 4 do not fill."""
  weight_BxV = np.random.default_rng(0).integers(0, 9, (200, 72))
  uniform_B = np.arange(200, dtype=np.float32) / 200
  inputs = weight_BxV.astype(np.float32), uniform_B
  alone_B = inverse_cdf(*inputs, block=4)
  for shape in ((1, 4, 2), (2, 1, 4), (1, 8, 1)):
    with jax.set_mesh(make_mesh(*shape)):
      drawn_B = jax.jit(inverse_cdf, static_argnames='block')(*inputs, block=4)
    np.testing.assert_array_equal(drawn_B, alone_B)


@pytest.mark.parametrize('axes', ['tensor', ('tensor', 'fsdp')])
@pytest.mark.parametrize('vocab', [8 * 128, 8 * 131])
def test_no_weights_of_tokens_travel_to_be_drawn_from(
  vocab: int, axes: Any
) -> None:
  """Only sums of blocks and, of each row, one block."""
  mesh, rows, block = make_mesh(1, 2, 4), 16, 32
  weight, uniform = (
    jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec))
    )
    for shape, spec in (((rows, vocab), (None, axes)), ((rows,), ()))
  )
  with jax.set_mesh(mesh):
    lowered = jax.jit(lambda *x: inverse_cdf(*x, block=block)).lower(
      weight, uniform
    )
  traffic = hlo.collectives(lowered.compile().as_text())
  sent = sum(kind.bytes for kind in traffic.values())
  # a row's block and all sums, gathered or added up over 8 devices at most
  assert 0 < sent < 4 * rows * 2 * (block + 3 * vocab / block)
  assert sent < 4 * rows * vocab / 4


def test_inverse_cdf_at_the_very_end() -> None:
  """There a block's sum may exceed its running total by rounding."""
  weight_BxV = np.random.default_rng(0).random((1000, 256), np.float32)
  weight_BxV[:, 0] = 0
  drawn_B = _inverse_cdf(weight_BxV, np.full(1000, LAST, np.float32))
  assert np.min(drawn_B) > 250


def test_inverse_cdf_draws_in_proportion() -> None:
  weight_V = np.array([5, 0, 1, 3, 0.5, 8, 0, 2, 0.1, 4], np.float32)
  uniform_B = jax.random.uniform(jax.random.key(0), (20_000,))
  drawn_B = _inverse_cdf(np.tile(weight_V, (20_000, 1)), uniform_B, block=4)
  count_V = np.bincount(drawn_B, minlength=10)
  expected_V = 20_000 * weight_V / weight_V.sum()
  some = weight_V > 0
  assert (count_V[~some] == 0).all()
  error_V = (count_V[some] - expected_V[some]) ** 2 / expected_V[some]
  assert error_V.sum() < 24.3  # chi-square of 7 degrees at 0.1 %


@pytest.mark.parametrize(
  ('values', 'kind'),
  [
    ((0.0,), Greedy),
    ((0.7,), Temperature),
    ((1e-9,), Greedy),  # logits divided by it are no numbers
    ((1e-9, 40), Greedy),
    ((0.7, 40), TopK),
    ((0.7, 0, 0.9), TopP),
  ],
)
def test_settings_choose_a_method(values: Any, kind: Any) -> None:
  assert isinstance(make_sampler(*values), kind)


@pytest.mark.parametrize('values', [(-1.0,), (1.0, -1), (1.0, 0, 0.0)])
def test_settings_out_of_range(values: Any) -> None:
  with pytest.raises(ValueError, match=r'expected temperature >= 0'):
    make_sampler(*values)


def test_two_tails_cannot_be_cut() -> None:
  with pytest.raises(ValueError, match='expected only one'):
    make_sampler(1.0, 5, 0.9)
