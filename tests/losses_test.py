"""Losses and advantages, by hand and against plainer formulas."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlcw import losses
from rlcw.models import layers

RATIOS = ('token', 'sequence')
AGGREGATIONS = ('token_mean', 'sequence_mean', 'constant')
LOG2 = math.log(2.0)

every_ratio = pytest.mark.parametrize('ratio', RATIOS)
every_aggregation = pytest.mark.parametrize('aggregation', AGGREGATIONS)


def normal(seed: int, *shape: int) -> jax.Array:
  return jax.random.normal(jax.random.key(seed), shape)


def close(value: Any) -> Any:
  return pytest.approx(value, rel=1e-5, abs=1e-6)


def ratio_of(pair: losses.Ratio) -> tuple[float, float]:
  return float(pair.numerator), float(pair.denominator)


def plain_logprobs(
  hidden_NxD: jax.Array,
  head_VxD: jax.Array,
  target_N: jax.Array,
  temperature: float,
) -> jax.Array:
  logits_NxV = hidden_NxD @ head_VxD.T / temperature
  rows = jnp.arange(target_N.shape[0])
  return jax.nn.log_softmax(logits_NxV, axis=-1)[rows, target_N]


@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('chunk', [2048, 7, 6, 3, 1])  # of 7 rows
def test_token_logprobs_equal_a_gather_from_log_softmax(
  temperature: float, chunk: int
) -> None:
  hidden_NxD, head_VxD = normal(0, 7, 4), normal(1, 11, 4)
  target_N = jnp.array([0, 10, 3, 3, 7, 1, 0])
  weight_N = normal(2, 7)

  def value_and_grad(logprobs: Callable[..., jax.Array]) -> Any:
    def scalar(hidden: jax.Array, head: jax.Array) -> Any:
      logp_N = logprobs(hidden, head, target_N, temperature)
      return (weight_N * logp_N).sum(), logp_N

    both = jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)
    return both(hidden_NxD, head_VxD)

  ours = value_and_grad(functools.partial(layers.token_logprobs, chunk=chunk))
  for got, want in zip(
    jax.tree.leaves(ours),
    jax.tree.leaves(value_and_grad(plain_logprobs)),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('chunk', [2048, 3])  # of 7 rows
def test_entropies_are_of_the_whole_distribution(chunk: int) -> None:
  """With their gradients, beside those of the log-probabilities."""
  hidden_NxD, head_VxD = normal(0, 7, 4), normal(1, 11, 4)
  target_N = jnp.array([0, 10, 3, 3, 7, 1, 0])
  weight_2xN = normal(2, 2, 7)

  def plain(hidden_NxD: jax.Array, head_VxD: jax.Array) -> list[jax.Array]:
    logp_NxV = jax.nn.log_softmax(hidden_NxD @ head_VxD.T / 0.7)
    chosen_N = logp_NxV[jnp.arange(7), target_N]
    return [chosen_N, -(jnp.exp(logp_NxV) * logp_NxV).sum(-1)]

  def ours(hidden_NxD: jax.Array, head_VxD: jax.Array) -> list[jax.Array]:
    return layers.token_logprobs_and_entropy(
      hidden_NxD, head_VxD, target_N, 0.7, chunk
    )

  def value_and_grad(function: Callable[..., Any]) -> Any:
    def scalar(*args: jax.Array) -> Any:
      found = function(*args)
      return (weight_2xN * jnp.stack(found)).sum(), found

    both = jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)
    return jax.jit(both)(hidden_NxD, head_VxD)

  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    value_and_grad(ours),
    value_and_grad(plain),
  )


def test_the_entropy_of_equal_logits_is_that_of_the_vocabulary() -> None:
  entropy_N = layers.token_logprobs_and_entropy(
    jnp.array([[0.0], [1e4]]),
    jnp.array([[1.0], [-1.0], [0.0]]),
    jnp.array([0, 1]),
  )[1]
  assert entropy_N == close([math.log(3), 0])


def test_token_logprobs_do_not_overflow() -> None:
  logp_N = layers.token_logprobs(
    jnp.array([[1e4], [1e4]]), jnp.array([[1.0], [-1.0]]), jnp.array([0, 1])
  )
  assert logp_N == close([0, -2e4])


def test_token_logprobs_temperature_does_not_recompile() -> None:
  compiled = jax.jit(lambda *args: layers.token_logprobs(*args))
  args = normal(0, 3, 4), normal(1, 11, 4), jnp.array([1, 2, 3])
  cold, warm = compiled(*args, 0.5), compiled(*args, 2.0)
  assert not np.allclose(cold, warm)
  assert compiled._cache_size() == 1


@pytest.mark.parametrize('jit', [False, True])
@pytest.mark.parametrize('chunk', [2048, 10])
@pytest.mark.parametrize('head_dtype', [jnp.bfloat16, jnp.float32])
def test_token_logprobs_in_bfloat16_are_of_a_distribution(
  jit: bool, chunk: int, head_dtype: Any
) -> None:
  """`ModelConfig.dtype='bfloat16'` puts a float32 head on such activations."""
  rows, dim, vocab = 5, 64, 9
  hidden_NxD = jnp.repeat(normal(0, rows, dim), vocab, 0).astype(jnp.bfloat16)
  head_VxD = normal(1, vocab, dim).astype(head_dtype)
  logprobs = functools.partial(layers.token_logprobs, chunk=chunk)
  logp_N = (jax.jit(logprobs) if jit else logprobs)(
    hidden_NxD, head_VxD, jnp.tile(jnp.arange(vocab), rows)
  )
  assert logp_N.dtype == jnp.float32
  total = jnp.exp(logp_N).reshape(rows, vocab).sum(-1)
  np.testing.assert_allclose(total, np.ones(rows), atol=1e-4)


def test_token_logprobs_of_bfloat16_are_summed_in_float32() -> None:
  hidden_NxD = normal(0, 50, 64).astype(jnp.bfloat16)
  head_VxD = normal(1, 9, 64).astype(jnp.bfloat16)
  target_N = jnp.arange(50) % 9
  np.testing.assert_allclose(
    layers.token_logprobs(hidden_NxD, head_VxD, target_N),
    plain_logprobs(
      hidden_NxD.astype(jnp.float32),
      head_VxD.astype(jnp.float32),
      target_N,
      1.0,
    ),
    rtol=1e-4,
    atol=1e-4,
  )


def _inner_jaxprs(jaxpr: Any) -> Iterator[Any]:
  yield jaxpr
  for equation in jaxpr.eqns:
    for leaf in jax.tree.leaves(
      equation.params, is_leaf=lambda x: hasattr(x, 'eqns')
    ):
      if hasattr(leaf, 'eqns'):
        yield from _inner_jaxprs(getattr(leaf, 'jaxpr', leaf))


def _shapes_traced(function: Callable, *args: Any) -> set[tuple[int, ...]]:
  return {
    variable.aval.shape
    for jaxpr in _inner_jaxprs(jax.make_jaxpr(function)(*args).jaxpr)
    for equation in jaxpr.eqns
    for variable in equation.outvars
    if jnp.issubdtype(variable.aval.dtype, jnp.floating)
  }


def _shapes_compiled(function: Callable, *args: Any) -> set[tuple[int, ...]]:
  text = jax.jit(function).lower(*args).compile().as_text()
  found = re.findall(r'\b(?:f64|f32|f16|bf16)\[([\d,]+)\]', text)
  return {tuple(map(int, shape.split(','))) for shape in found}


@pytest.mark.parametrize('shapes_of', [_shapes_traced, _shapes_compiled])
@pytest.mark.parametrize(
  ('chunk', 'alive', 'entropy'),
  [(8, 8, False), (7, 7, False), (37, 37, False), (8, 8, True)],
)
def test_no_more_than_a_chunk_of_logits_is_alive(
  shapes_of: Callable, chunk: int, alive: int, entropy: bool
) -> None:
  """In value and gradient; one chunk of all rows shows the search works."""
  rows, dim, vocab = 37, 3, 101  # no two shapes alike, the head narrow

  def scalar(hidden_NxD: jax.Array, head_VxD: jax.Array) -> jax.Array:
    target_N = jnp.arange(rows)
    found = layers.token_logprobs_and_entropy(
      hidden_NxD, head_VxD, target_N, chunk=chunk, entropy=entropy
    )
    return sum(x_N.sum() for x_N in found)

  shapes = shapes_of(
    jax.value_and_grad(scalar, argnums=(0, 1)),
    normal(0, rows, dim),
    normal(1, vocab, dim),
  )
  widest = max(math.prod(shape) // vocab for shape in shapes if vocab in shape)
  assert widest == alive


def test_cross_entropy() -> None:
  logp_N = jnp.array([-1.0, -2.0, -jnp.inf, jnp.nan])
  mask_N = jnp.array([True, True, False, False])
  assert ratio_of(losses.cross_entropy(logp_N, mask_N)) == (3, 2)
  slope = jax.grad(lambda logp: losses.cross_entropy(logp, mask_N).numerator)
  slope_N = slope(logp_N)
  assert slope_N.tolist() == [-1, -1, 0, 0]


def test_bradley_terry() -> None:
  """σ(0) = 1/2 and σ(log 3) = 3/4; the second pair is the wrong way round."""
  score_NxR = jnp.array([[5.0, 5.0], [1.0, 1 + math.log(3)]])
  first = jnp.array([[[0, 1], [0, 0]]] * 2)  # reply 0 is better than reply 1
  loss = losses.bradley_terry(score_NxR, first)
  assert ratio_of(loss) == close((LOG2 + math.log(4), 2))
  swapped = losses.bradley_terry(score_NxR, first.swapaxes(1, 2))
  assert ratio_of(swapped) == close((LOG2 + math.log(4 / 3), 2))
  weighted = losses.bradley_terry(score_NxR, first * jnp.array([[[3]], [[0]]]))
  assert ratio_of(weighted) == close((3 * LOG2, 3))


def test_bradley_terry_far_apart_is_finite() -> None:
  def total(gap: float) -> jax.Array:
    score_1x2 = jnp.array([[gap, 0.0]])
    return losses.bradley_terry(score_1x2, jnp.eye(2)[None, ::-1, :]).numerator

  # both orders count here: one of them costs the gap, the other nothing
  for gap, slope in ((1e4, 1.0), (-1e4, -1.0)):
    assert float(total(gap)) == close(1e4)
    assert float(jax.grad(total)(gap)) == close(slope)


def test_squared_correlation_is_pearsons() -> None:
  rng = np.random.default_rng(0)
  x_N, y_NxK = rng.normal(size=50), rng.normal(size=(50, 2))
  y_NxK[:, 0] += x_N
  real_N = np.arange(50) < 40
  expected = sum(
    np.corrcoef(x_N[:40], y_NxK[:40, k])[0, 1] ** 2 for k in (0, 1)
  )
  for scale, shift in ((1.0, 0.0), (7.0, -3.0)):
    found = losses.squared_correlation(
      jnp.asarray(scale * x_N + shift), jnp.asarray(y_NxK), jnp.asarray(real_N)
    )
    assert float(found) == pytest.approx(expected, abs=1e-3)
  assert float(
    losses.squared_correlation(jnp.ones(50), jnp.asarray(y_NxK), real_N)
  ) == close(0.0)


def test_squared_correlation_has_a_slope_where_nothing_varies() -> None:
  def of(x_N: jax.Array) -> jax.Array:
    return losses.squared_correlation(x_N, jnp.eye(3)[:, :1], jnp.ones(3, bool))

  assert np.isfinite(jax.grad(of)(jnp.zeros(3))).all()


def test_masked_mean_std() -> None:
  x_PxG = jnp.array([[1.0, 3.0, jnp.nan], [7.0, 7.0, 7.0]])
  valid_PxG = jnp.array([[1, 1, 0], [0, 0, 0]], bool)
  mean_Px1, std_Px1 = losses.masked_mean_std(x_PxG, valid_PxG)
  assert mean_Px1.tolist() == [[2], [0]]
  assert std_Px1.tolist() == [[1], [0]]


@pytest.mark.parametrize(
  ('reward', 'valid', 'options', 'advantage'),
  [
    ([1, 3, 1, 3], [1, 1, 1, 1], {}, [-1, 1, -1, 1]),
    ([5, 5, 5, 5], [1, 1, 1, 1], {}, [0, 0, 0, 0]),
    ([1, 3, 99, -9], [1, 1, 0, 0], {}, [-1, 1, 0, 0]),
    ([1, 3, np.nan, np.inf], [1, 1, 0, 0], {}, [-1, 1, 0, 0]),
    ([8, 1, 1, 1], [1, 0, 0, 0], {}, [0, 0, 0, 0]),
    ([8, 1, 1, 1], [0, 0, 0, 0], {}, [0, 0, 0, 0]),
    ([0, 4, 0, 4], [1, 1, 1, 1], {'scale_P': 1.0}, [-2, 2, -2, 2]),
    ([0, 4, 0, 4], [1, 1, 1, 1], {'baseline_P': 4.0}, [-2, 0, -2, 0]),
    ([0, 4, 9, 9], [1, 1, 0, 0], {'baseline_P': 1.0}, [-0.5, 1.5, 0, 0]),
    ([0, 2e-4, 0, 2e-4], [1, 1, 1, 1], {}, [-0.1, 0.1, -0.1, 0.1]),
    ([0, 4, 0, 4], [1, 1, 1, 1], {'std_floor': 4.0}, [-0.5, 0.5, -0.5, 0.5]),
    ([0, 2e-3, 2e-3, 0], [1, 1, 1, 1], {'scale_P': 0.0}, [-1, 1, 1, -1]),
  ],
)
def test_group_advantages(
  reward: list[float],
  valid: list[int],
  options: dict[str, float],
  advantage: list[float],
) -> None:
  """The second group is there to be left alone."""
  other = [2.0, 6.0, 2.0, 6.0]
  options = {
    name: x if name == 'std_floor' else jnp.array([x, 4.0])
    for name, x in options.items()
  }
  result_PxG = losses.group_advantages(
    jnp.array([reward, other], jnp.float32),
    jnp.array([valid, [1, 1, 1, 1]], bool),
    **options,
  )
  assert np.asarray(result_PxG[0]) == close(advantage)
  assert np.isfinite(result_PxG).all()
  if not options:
    assert np.asarray(result_PxG[1]) == close([-1, 1, -1, 1])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
  'value', [10_000.1, 0.1, -1e6, 1e-8, 1 / 3, 0.0, -7.7e30]
)
def test_equal_rewards_have_no_advantages(value: float, dtype: Any) -> None:
  """Exactly none, beside a reply without a score and in a group of one."""
  reward_PxG = jnp.full((3, 8), value, dtype).at[:2, 3].set(jnp.nan)
  valid_PxG = jnp.ones((3, 8), bool).at[:2, 3].set(False)
  valid_PxG = valid_PxG.at[1].set(jnp.arange(8) == 5)
  found_PxG = losses.group_advantages(reward_PxG, valid_PxG)
  assert found_PxG.dtype == jnp.float32
  np.testing.assert_array_equal(found_PxG, np.zeros((3, 8)))
  mean_Px1, std_Px1 = losses.masked_mean_std(reward_PxG, valid_PxG)
  assert std_Px1.tolist() == [[0], [0], [0]]
  assert mean_Px1.tolist() == [[float(dtype(value))]] * 3


@pytest.mark.parametrize(
  ('low', 'high', 'most'),
  [
    (10_000.1, np.nextafter(np.float32(10_000.1), np.float32(2e4)), 0.2),
    (-1e6, -1e6 + 1, 1.0),  # 16 steps of float32 apart
    (1e-8, 2e-8, 1e-5),
    (10_000.0, 10_001.0, 1.0),
  ],
)
def test_differences_of_the_size_of_rounding_are_not_scaled_up(
  low: float, high: float, most: float
) -> None:
  found_PxG = losses.group_advantages(
    jnp.array([[low, high, low, high]], jnp.float32), jnp.ones((1, 4), bool)
  )
  sign = np.array([[-1, 1, -1, 1]])
  assert (found_PxG * sign > 0).all()
  assert (found_PxG * sign <= most + 1e-6).all()
  if most == 1:
    np.testing.assert_allclose(found_PxG, sign, rtol=1e-5)


def test_squared_correlation_of_equal_large_scores_is_0() -> None:
  x_N, y_NxK = jnp.full(8, 10_000.1), normal(0, 8, 2)
  found = losses.squared_correlation(x_N, y_NxK, jnp.ones(8, bool))
  assert float(found) == 0


@pytest.mark.parametrize(
  ('numerator', 'denominator', 'quotient'),
  [(6.0, 4.0, 1.5), (0.0, 0.0, 0.0), (0.1, 0.2, 0.5), (3, 2, 1.5)],
)
def test_a_quotient_is_a_mean_of_any_weights(
  numerator: float, denominator: float, quotient: float
) -> None:
  ratio = losses.Ratio(jnp.asarray(numerator), jnp.asarray(denominator))
  assert float(ratio.quotient) == close(quotient)


def test_ratios_join_as_sums_and_peaks_as_the_greatest() -> None:
  a, b = (jnp.asarray(x, jnp.float32) for x in (6.0, 2.0))
  joined = losses.Ratio(a, b).join(losses.Ratio(b, b))
  assert ratio_of(joined) == (8, 4)
  one = jnp.float32(1)
  peak = jax.jit(losses.Peak.join)(losses.Peak(b, one), losses.Peak(a, one))
  assert isinstance(peak, losses.Peak) and float(peak.quotient) == 6


def k3(difference: Any) -> np.ndarray:
  """Of tokens at which `log π_ref − log π` is `difference`."""
  d_T = jnp.asarray(difference, jnp.float32)
  mask_T = jnp.ones(d_T.shape, bool)
  return np.asarray(losses.k3_kl(-d_T, jnp.zeros_like(d_T), mask_T))


def test_k3_by_hand() -> None:
  assert k3([0.0, LOG2, -LOG2]) == close([0, 1 - LOG2, LOG2 - 0.5])
  assert k3([0.0])[0] == 0


def test_k3_expected_under_the_policy_is_the_divergence() -> None:
  logp_V, ref_V = (jax.nn.log_softmax(normal(seed, 50)) for seed in (0, 1))
  k3_V = losses.k3_kl(logp_V, ref_V, jnp.ones(50, bool))
  policy_V = jnp.exp(logp_V)
  divergence = (policy_V * (logp_V - ref_V)).sum()
  assert float((policy_V * k3_V).sum()) == close(float(divergence))


@settings(max_examples=200)
@given(hnp.arrays(np.float32, 16, elements=st.floats(-1e4, 1e4, width=32)))
def test_k3_is_finite_and_not_negative_but_for_rounding(
  d_T: np.ndarray,
) -> None:
  value_T = k3(d_T)
  assert np.isfinite(value_T).all()
  assert (value_T >= -1.2e-7).all()  # an ulp of 1


def test_k3_is_not_negative_near_zero() -> None:
  assert k3(np.linspace(-0.01, 0.01, 20001)).min() >= 0


def slopes(estimate: Callable[..., jax.Array], difference: Any) -> np.ndarray:
  """Derivatives to log π where `log π_ref − log π` is `difference`."""
  d_T = jnp.asarray(difference, jnp.float32)

  def total(logp_T: jax.Array) -> jax.Array:
    return estimate(
      logp_T, jnp.zeros_like(d_T), jnp.ones(d_T.shape, bool)
    ).sum()

  return np.asarray(jax.grad(total)(-d_T))


def test_far_apart_the_divergences_and_their_slopes_are_limited() -> None:
  """Beyond the limit the pull back stays, as it is at the limit."""
  far = [5.0, 6.0, 1e4, np.inf]
  most = math.exp(5) - 1
  assert k3(far) == close([most - 5] * 4)
  assert slopes(losses.k3_kl, far) == close([-most] * 4)
  # where the policy is above the reference, nothing explodes
  assert k3([-6.0, -1e4, -np.inf]) == close([5 + math.exp(-6), 19, 19])
  assert slopes(losses.k3_kl, [-6.0, -1e4, -np.inf]) == close(
    [1 - math.exp(-6), 1, 1]
  )
  assert slopes(losses.k2_kl, [*far, *(-x for x in far)]) == close(
    [-5] * 4 + [5] * 4
  )


@pytest.mark.parametrize('kl', losses.KL_ESTIMATORS)
@pytest.mark.parametrize('far', [20.0, -20.0])
def test_no_token_outweighs_a_batch(kl: str, far: float) -> None:
  """One token that is far off, among 4,095 with a log-ratio of 0.3."""
  d_NxT = jnp.full((8, 512), 0.3).at[0, 0].set(far)
  ones_NxT = jnp.ones(d_NxT.shape, bool)

  def loss(logp_NxT: jax.Array) -> tuple[jax.Array, losses.GRPOTerms]:
    terms = losses.grpo(
      logp_NxT,
      logp_NxT,
      jnp.zeros(8),
      ones_NxT,
      jnp.zeros_like(d_NxT),
      kl=kl,
      kl_weight=1.0,
    )
    return terms.loss.numerator, terms

  slope_NxT, terms = jax.grad(loss, has_aux=True)(-d_NxT)
  pull_NxT = abs(np.asarray(slope_NxT))
  # one against thousands; e^20 was 10^5 times as much as all others
  assert 2 * pull_NxT[0, 0] < pull_NxT.sum()
  limited = float(far > 0 or kl == 'k2')
  assert ratio_of(terms.kl_clipped) == (limited, 4096)


@pytest.mark.parametrize(
  ('estimate', 'reversed'), [(losses.k3_kl, True), (losses.k2_kl, False)]
)
def test_the_mean_gradient_is_that_of_a_divergence(
  estimate: Callable[..., jax.Array], reversed: bool
) -> None:
  """Over all 36 replies of two of six tokens, weighted as π samples them.

  π depends on the token before, as a model's does.  The divergence at each
  place is taken of the next token, at the prefixes that π reaches.
  """
  shape = (7, 6)  # the beginning and each first token; the next token
  theta, ref = normal(3, *shape), jax.nn.log_softmax(normal(4, *shape))
  first, second = (x.reshape(-1) for x in np.mgrid[:6, :6])
  # rows of the table, and the token that follows
  prefix_NxT = np.stack([np.full(36, 6), first], 1)
  token_NxT = np.stack([first, second], 1)

  def estimated(theta: jax.Array) -> jax.Array:
    logp = jax.nn.log_softmax(theta)
    logp_NxT = logp[prefix_NxT, token_NxT]
    chance_N = jax.lax.stop_gradient(jnp.exp(logp_NxT.sum(-1)))
    each_NxT = estimate(
      logp_NxT, ref[prefix_NxT, token_NxT], jnp.ones((36, 2), bool)
    )
    return (chance_N[:, None] * each_NxT).sum()

  def exact(theta: jax.Array) -> jax.Array:
    logp = jax.nn.log_softmax(theta)
    p, q = (ref, logp) if reversed else (logp, ref)
    divergence = (jnp.exp(p) * (p - q)).sum(-1)
    reached = jax.lax.stop_gradient(jnp.exp(logp[6]))
    return divergence[6] + (reached * divergence[:6]).sum()

  assert abs(jax.nn.log_softmax(theta) - ref).max() < losses.KL_LIMIT
  np.testing.assert_allclose(
    jax.grad(estimated)(theta), jax.grad(exact)(theta), rtol=1e-4, atol=1e-6
  )
  if reversed:  # the value of k3 is the other divergence
    logp = jax.nn.log_softmax(theta)
    divergence = (jnp.exp(logp) * (logp - ref)).sum(-1)
    value = divergence[6] + (jnp.exp(logp[6]) * divergence[:6]).sum()
    assert float(estimated(theta)) == close(float(value))


def test_k3_is_float32_and_masked_before_exp() -> None:
  logp_T = jnp.array([-jnp.inf, jnp.nan, 0.0], jnp.bfloat16)
  ref_T = jnp.array([0.0, 0.0, LOG2], jnp.float32)
  mask_T = jnp.array([False, False, True])
  value_T = losses.k3_kl(logp_T, ref_T, mask_T)
  assert value_T.dtype == jnp.float32
  assert value_T.tolist() == close([0, 0, 1 - LOG2])
  slope_T = jax.grad(lambda x: losses.k3_kl(x, ref_T, mask_T).sum())(logp_T)
  assert slope_T.astype(jnp.float32).tolist() == close([0, 0, -1])


def test_aggregations() -> None:
  """Replies of 3, 1 and no tokens, in a window of 4."""
  loss_NxT = jnp.array([[1.0, 2, 3, 9], [4, 9, 9, 9], [9, 9, jnp.nan, jnp.inf]])
  mask_NxT = jnp.arange(4) < jnp.array([[3], [1], [0]])
  aggregate = functools.partial(losses.aggregate, loss_NxT, mask_NxT)
  assert ratio_of(aggregate('token_mean', 4)) == (10, 4)
  assert ratio_of(aggregate('sequence_mean', 4)) == (2 + 4, 2)
  assert ratio_of(aggregate('constant', 4)) == (10, 2 * 4)


# Two replies whose tokens have ratio 1.8 and 0.5, and a masked third token.
RHO_NxT = np.array([[1.8, 0.5, 7.0], [1.8, 0.5, 7.0]], np.float32)
OLD_NxT = np.array([[-1.0, -2.0, -3.0], [-2.0, -1.0, -3.0]], np.float32)
MASK_NxT = np.array([[True, True, False], [True, True, False]])
ADVANTAGE_N = np.array([2.0, -1.0], np.float32)


def grpo(logp_NxT: Any, **options: Any) -> losses.GRPOTerms:
  defaults = {'ref_logp_NxT': logp_NxT, 'clip_low': 0.2, 'clip_high': 0.5}
  return losses.grpo(
    jnp.asarray(logp_NxT),
    OLD_NxT,
    ADVANTAGE_N,
    MASK_NxT,
    **(defaults | options),
  )


def test_grpo_clips_either_side_by_its_own_limit() -> None:
  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  terms = grpo(logp_NxT)
  # A = 2: −min(3.6, 1.5 · 2), −min(1, 0.8 · 2); A = −1: 1.8, 0.8
  assert ratio_of(terms.loss) == close((-3 - 1 + 1.8 + 0.8, 4))
  assert ratio_of(terms.clip_fraction) == (2, 4)
  gap = 2 * math.log(1.8) + 2 * LOG2
  assert ratio_of(terms.sampler_gap) == close((gap, 4))
  assert ratio_of(terms.kl) == (0, 4)
  slope_NxT = jax.grad(lambda x: grpo(x).loss.numerator)(logp_NxT)
  np.testing.assert_allclose(
    slope_NxT, [[0, -0.5 * 2, 0], [1.8, 0, 0]], rtol=1e-5
  )


def test_a_dual_clip_bounds_the_loss_of_bad_replies() -> None:
  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  terms = grpo(logp_NxT, dual_clip=1.5)
  # as above, but −max(−1.8, 1.5 · −1) in place of 1.8
  assert ratio_of(terms.loss) == close((-3 - 1 + 1.5 + 0.8, 4))
  assert ratio_of(terms.clip_fraction) == (3, 4)
  slope_NxT = jax.grad(lambda x: grpo(x, dual_clip=1.5).loss.numerator)(
    logp_NxT
  )
  np.testing.assert_allclose(slope_NxT, [[0, -1, 0], [0, 0, 0]], rtol=1e-5)
  # one that is never reached changes nothing
  assert ratio_of(grpo(logp_NxT, dual_clip=2.0).loss) == ratio_of(
    grpo(logp_NxT).loss
  )


@settings(max_examples=100)
@given(
  log_ratio=st.floats(-30, 30),
  advantage=st.floats(-5, 5, width=32),
  bound=st.floats(1.01, 10),
)
def test_with_a_dual_clip_no_ratio_costs_more_than_its_bound(
  log_ratio: float, advantage: float, bound: float
) -> None:
  def loss(logp: float) -> float:
    arrays = (np.full((1, 1), x, np.float32) for x in (logp, 0.0))
    mask_NxT = np.ones((1, 1), bool)
    options = {'dual_clip': bound, 'ref_logp_NxT': None}
    advantage_N = np.full(1, advantage, np.float32)
    terms = losses.grpo(*arrays, advantage_N, mask_NxT, **options)
    return float(terms.loss.numerator)

  found, size = loss(log_ratio), abs(advantage)
  if advantage < 0:
    assert 0.8 * size - 1e-5 <= found <= bound * size * (1 + 1e-5)
  else:
    assert -1.2 * size - 1e-5 <= found <= 0


def test_weights_of_importance_sampling_by_hand() -> None:
  """Ratios 3, 1.5 and 0.5 by the trainer and the sampler, at most 2."""
  policy_NxT = np.log([[0.3, 0.3, 0.1, 0.7]]).astype(np.float32)
  sampler_NxT = np.log([[0.1, 0.2, 0.2, 0.1]]).astype(np.float32)
  mask_NxT = np.array([[True, True, True, False]])
  weight_NxT = losses.truncated_weight(policy_NxT, sampler_NxT, mask_NxT, 2.0)
  assert np.asarray(weight_NxT)[0] == close([2, 1.5, 0.5, 1])


@settings(max_examples=50)
@given(
  hnp.arrays(np.float32, (2, 8), elements=st.floats(-1e4, 0, width=32)),
  st.floats(1, 100),
)
def test_weights_of_importance_sampling_are_within_their_bounds(
  logp_2xT: np.ndarray, most: float
) -> None:
  weight_T = np.asarray(
    losses.truncated_weight(*logp_2xT, np.ones(8, bool), most)
  )
  assert (weight_T > 0).all() and (weight_T <= np.float32(most)).all()
  below = logp_2xT[0] <= logp_2xT[1]
  assert (weight_T[below] <= 1).all() and (weight_T[~below] >= 1).all()


def test_weights_scale_the_policy_term_alone() -> None:
  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  weight_NxT = jnp.array([[2.0, 0.5, 9.0], [1.0, 0.5, 9.0]])
  options = {'ref_logp_NxT': logp_NxT + LOG2, 'kl_weight': 0.5}

  def loss(logp_NxT: Any, weight_NxT: Any) -> jax.Array:
    return grpo(logp_NxT, weight_NxT=weight_NxT, **options).loss.numerator

  expected = 2 * -3 + 0.5 * -1 + 1.8 + 0.5 * 0.8 + 0.5 * 4 * (1 - LOG2)
  assert float(loss(logp_NxT, weight_NxT)) == close(expected)
  slope_NxT = jax.grad(loss, argnums=1)(logp_NxT, weight_NxT)
  assert not np.asarray(slope_NxT).any()


def test_grpo_sequence_ratio_is_the_geometric_mean() -> None:
  """√(1.8 · 0.5) = √0.9 for both replies, within the clip."""
  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  terms = grpo(logp_NxT, ratio='sequence')
  rho = math.sqrt(0.9)
  assert ratio_of(terms.loss) == close((2 * (-2 * rho) + 2 * rho, 4))
  assert ratio_of(terms.clip_fraction) == (0, 4)
  clipped = grpo(logp_NxT, ratio='sequence', clip_low=0.01)
  assert ratio_of(clipped.loss) == close((2 * (-2 * rho) + 2 * 0.99, 4))
  assert ratio_of(clipped.clip_fraction) == (2, 4)


def test_grpo_sequence_ratio_gives_each_token_its_own_advantage() -> None:
  def slope(advantage: Any) -> np.ndarray:
    def loss(logp_1xT: Any) -> jax.Array:
      terms = losses.grpo(
        logp_1xT,
        np.zeros((1, 3), np.float32),
        advantage,
        np.ones((1, 3), bool),
        None,
        ratio='sequence',
        aggregation='sequence_mean',
      )
      return terms.loss.quotient

    return np.asarray(jax.grad(loss)(np.zeros((1, 3), np.float32)))[0]

  # −A / T of a token that breaks a rule and of the others
  located = np.array([[-0.5, -2.5, -0.5]], np.float32)
  assert slope(located) == pytest.approx([0.5 / 3, 2.5 / 3, 0.5 / 3])
  # one advantage for all: GSPO's
  assert slope(np.array([-0.5], np.float32)) == pytest.approx(3 * [0.5 / 3])


@pytest.mark.parametrize(
  ('kl', 'each'), [('k3', 1 - LOG2), ('k2', LOG2**2 / 2)]
)
def test_grpo_adds_the_weighted_divergence(kl: str, each: float) -> None:
  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  terms = grpo(logp_NxT, ref_logp_NxT=logp_NxT + LOG2, kl=kl, kl_weight=0.5)
  # the metric is k3, whose value estimates the divergence, in either case
  assert ratio_of(terms.kl) == close((4 * (1 - LOG2), 4))
  assert ratio_of(terms.kl_clipped) == (0, 4)
  assert float(terms.loss.numerator) == close(-1.4 + 0.5 * 4 * each)


def test_without_a_reference_there_is_no_divergence() -> None:
  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  terms = grpo(logp_NxT, ref_logp_NxT=None, kl_weight=0.5)
  assert terms.kl is None and terms.kl_clipped is None
  assert float(terms.loss.numerator) == close(-1.4)


@every_ratio
def test_grpo_metrics_carry_no_gradient(ratio: str) -> None:
  def metric(logp_NxT: jax.Array) -> jax.Array:
    terms = grpo(logp_NxT, ref_logp_NxT=OLD_NxT, ratio=ratio)
    return sum(pair.numerator for pair in terms[1:] if pair is not None)

  logp_NxT = OLD_NxT + np.log(RHO_NxT)
  assert float(metric(logp_NxT)) > 0
  assert not jax.grad(metric)(logp_NxT).any()


@every_ratio
def test_on_policy_gradient_is_the_policy_gradient(ratio: str) -> None:
  theta_V, token_NxT = normal(0, 5), jnp.array([[0, 4, 1], [2, 2, 3]])

  def logp(theta: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(theta)[token_NxT]

  def loss(theta: jax.Array) -> jax.Array:
    terms = losses.grpo(
      logp(theta),
      logp(theta_V),
      ADVANTAGE_N,
      MASK_NxT,
      logp(theta_V),
      kl_weight=0.1,  # its slope is 0 where the policy is the reference
      ratio=ratio,
    )
    return terms.loss.numerator

  def reinforce(theta: jax.Array) -> jax.Array:
    return -(ADVANTAGE_N[:, None] * logp(theta) * MASK_NxT).sum()

  np.testing.assert_allclose(
    jax.grad(loss)(theta_V), jax.grad(reinforce)(theta_V), rtol=1e-5, atol=1e-6
  )


_grpo = jax.jit(losses.grpo, static_argnames=('ratio', 'aggregation'))


@every_ratio
@every_aggregation
@settings(max_examples=20)
@given(data=st.data(), split=st.sampled_from((1, 2)))
def test_microbatches_add_up_to_the_batch(
  ratio: str, aggregation: str, data: st.DataObject, split: int
) -> None:
  """Some of the four replies are longer than others, and some are empty."""
  logps = hnp.arrays(np.float32, (4, 3), elements=st.floats(-6, 0, width=32))
  lengths = hnp.arrays(np.int32, (4, 1), elements=st.integers(0, 3))
  arrays = (
    data.draw(logps),
    data.draw(logps),
    data.draw(hnp.arrays(np.float32, 4, elements=st.floats(-3, 3, width=32))),
    np.arange(3) < data.draw(lengths),
    data.draw(logps),
  )

  def terms(part: slice) -> losses.GRPOTerms:
    options = {'ratio': ratio, 'aggregation': aggregation, 'kl_weight': 0.1}
    return _grpo(*(x[part] for x in arrays), **options)

  parts = [terms(slice(i, i + split)) for i in range(0, 4, split)]
  total = jax.tree.map(lambda *x: sum(map(float, x)), *parts)
  for got, want in zip(
    jax.tree.leaves(total), jax.tree.leaves(terms(slice(4))), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@functools.partial(jax.jit, static_argnames=('ratio', 'aggregation'))
@functools.partial(jax.grad, has_aux=True)
def _grpo_slope(*arrays: Any, **options: str) -> Any:
  terms = losses.grpo(*arrays, kl_weight=0.1, **options)
  return terms.loss.numerator, terms


@every_ratio
@every_aggregation
@pytest.mark.parametrize('junk', [7.0, 1e30, -1e30, np.inf, -np.inf, np.nan])
def test_what_is_masked_is_inert(
  ratio: str, aggregation: str, junk: float
) -> None:
  """The last reply is masked throughout; the first two, at the end."""
  mask_NxT = np.concatenate([MASK_NxT, np.zeros((1, 3), bool)])
  logp_NxT, old_NxT, ref_NxT = np.log(
    np.random.default_rng(0).uniform(0.2, 0.3, (3, 3, 3)).astype(np.float32)
  )

  def value_and_grad(*fill: float) -> tuple[losses.GRPOTerms, jax.Array]:
    slope_NxT, terms = _grpo_slope(
      np.where(mask_NxT, logp_NxT, fill[0]).astype(np.float32),
      np.where(mask_NxT, old_NxT, fill[1]).astype(np.float32),
      np.array([*ADVANTAGE_N, fill[2]], np.float32),
      mask_NxT,
      np.where(mask_NxT, ref_NxT, fill[3]).astype(np.float32),
      ratio=ratio,
      aggregation=aggregation,
    )
    return terms, slope_NxT

  terms, slope_NxT = value_and_grad(0.0, 0.0, 0.0, 0.0)
  assert np.asarray(slope_NxT)[mask_NxT].all()
  for fill in ((junk, 0.0, junk, 0.0), (0.0, junk, 0.0, junk), (junk,) * 4):
    other, other_slope_NxT = value_and_grad(*fill)
    np.testing.assert_array_equal(other_slope_NxT, slope_NxT)
    assert jax.tree.leaves(other) == jax.tree.leaves(terms)
  assert not np.asarray(slope_NxT)[~mask_NxT].any()
  votes = {'token_mean': 4, 'sequence_mean': 2, 'constant': 6}
  assert float(terms.loss.denominator) == votes[aggregation]


@every_ratio
@pytest.mark.parametrize('difference', [1e4, -1e4])
def test_grpo_is_finite_far_off_policy(ratio: str, difference: float) -> None:
  def loss(logp_NxT: jax.Array) -> jax.Array:
    options = {'ref_logp_NxT': OLD_NxT, 'kl_weight': 0.1, 'ratio': ratio}
    return grpo(logp_NxT, **options).loss.numerator

  value, slope_NxT = jax.value_and_grad(loss)(OLD_NxT + difference)
  assert np.isfinite(value)
  assert np.isfinite(slope_NxT).all()


def test_a_batch_masked_throughout_is_nothing_over_nothing() -> None:
  terms = losses.grpo(
    OLD_NxT, OLD_NxT, ADVANTAGE_N, np.zeros_like(MASK_NxT), OLD_NxT
  )
  assert all(ratio_of(pair) == (0, 0) for pair in terms)


def test_changing_a_grpo_weight_does_not_recompile() -> None:
  compiled = jax.jit(lambda *args, **options: losses.grpo(*args, **options))
  logp_NxT = OLD_NxT + np.log(RHO_NxT)

  def loss(low: float, high: float, weight: float) -> float:
    options = {'clip_low': low, 'clip_high': high, 'kl_weight': weight}
    args = logp_NxT, OLD_NxT, ADVANTAGE_N, MASK_NxT, OLD_NxT
    return float(compiled(*args, **options).loss.numerator)

  values = {loss(0.2, 0.5, 0.1), loss(0.1, 0.5, 0.1), loss(0.2, 0.4, 0.1)}
  assert len(values | {loss(0.2, 0.5, 0.2)}) == 4
  assert compiled._cache_size() == 1


def test_unknown_names_raise_with_the_legal_values() -> None:
  with pytest.raises(ValueError, match=r"'word'.*token.*sequence"):
    grpo(OLD_NxT, ratio='word')
  with pytest.raises(ValueError, match=r"kl='k1'.*k3.*k2"):
    grpo(OLD_NxT, kl='k1')
  for how in (
    functools.partial(grpo, OLD_NxT, aggregation='median'),
    functools.partial(losses.aggregate, OLD_NxT, MASK_NxT, 'median', 3),
  ):
    with pytest.raises(
      ValueError, match=r"'median'.*token_mean.*sequence_mean.*constant"
    ):
      how()
