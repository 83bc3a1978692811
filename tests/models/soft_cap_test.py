"""Soft caps of attention scores, in each kernel that has them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlcw.models import attention_decode, attention_kernels
from rlcw.models.attention import attend
from rlcw.models.attention_kernels import KV, Prefix

CAP = 0.7
P, S, G, L, K, R, H = 2, 5, 2, 4, 2, 2, 8


def _inputs(queries: int = L, head: int = H) -> tuple[jax.Array, KV, Prefix]:
  """Random queries, own keys and values, and briefs of 5 and 2 tokens."""
  rng = np.random.default_rng(0)

  def normal(*sizes: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=sizes), jnp.float32)

  own = KV(*(normal(P, G, L, K, head) for _ in 'kv'))
  brief = KV(*(normal(P, S, K, head) for _ in 'kv'))
  q = normal(P, G, queries, K, R, head)
  return q, own, Prefix(brief, jnp.array([5, 2]))


def _oracle(q: Any, own: KV, prefix: Prefix, start: int = 0) -> np.ndarray:
  """One query at a time over its brief and its past in one row."""
  out = np.zeros(q.shape)
  for p, g, i, k, r in np.ndindex(q.shape[:5]):
    key_SxH, value_SxH = (
      np.concatenate([brief[p, : prefix.length_P[p], k], mine])
      for brief, mine in (
        (brief, mine[p, g, : start + i + 1, k])
        for brief, mine in zip(prefix.kv, own, strict=True)
      )
    )
    weight_S = np.exp(CAP * np.tanh(key_SxH @ q[p, g, i, k, r] / CAP))
    out[p, g, i, k, r] = weight_S @ value_SxH / weight_S.sum()
  return out


@pytest.mark.parametrize(
  'kernel',
  [
    'plain',
    pytest.param('splash', marks=pytest.mark.slow),
  ],
)
def test_scores_are_capped(kernel: str) -> None:
  attention = {
    'plain': attention_kernels.plain,
    'splash': functools.partial(attention_kernels.splash, interpret=True),
  }[kernel]
  inputs = _inputs()
  ours = jax.jit(functools.partial(attention, cap=CAP))(*inputs)
  np.testing.assert_allclose(ours, _oracle(*inputs), atol=1e-5)


@pytest.mark.slow
def test_gradients_of_splash_equal_those_of_plain_operations() -> None:
  def gradient(attention: Any) -> Any:
    q, own, prefix = _inputs()

    def total(q: jax.Array, own: KV) -> jax.Array:
      return jnp.sum(attention(q, own, prefix, cap=CAP) ** 2)

    return jax.jit(jax.grad(total, (0, 1)))(q, own)

  splash = functools.partial(attention_kernels.splash, interpret=True)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5),
    gradient(splash),
    gradient(attention_kernels.plain),
  )


def test_scores_are_capped_while_decoding() -> None:
  q, own, prefix = _inputs(queries=1)
  ours = attention_decode.decode(
    q, own, prefix, jnp.int32(2), cap=CAP, interpret=True
  )
  expected = _oracle(q, own, prefix, start=2)
  np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize('cap', [None, CAP])
def test_cudnn_computes_scores_without_a_cap_alone(
  cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    attention_kernels, 'compiles_for', lambda name: name == 'cuda'
  )
  used = []

  def cudnn(q: jax.Array, *rest: Any, **options: Any) -> jax.Array:
    used.append(options)
    return q

  monkeypatch.setattr(attention_kernels, 'cudnn', cudnn)
  inputs = jax.tree.map(
    lambda x: x if x.dtype == jnp.int32 else x.astype(jnp.bfloat16), _inputs()
  )
  jax.eval_shape(functools.partial(attend, cap=cap), *inputs)
  assert bool(used) == (cap is None)
