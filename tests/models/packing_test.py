"""Several texts in a row: as many as fit, and none sees another."""

import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo

from rlcw.data import batches
from rlcw.models import attention_kernels
from rlcw.models.attention import attend
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.runtime.mesh import make_mesh


@hypothesis.settings(max_examples=50, derandomize=True)
@hypothesis.given(
  st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(0, 3)
)
def test_every_text_has_a_place_and_no_two_rows_fit_into_one(
  lengths: list[int], seed: int
) -> None:
  rows = batches.pack(lengths, 20, seed)
  assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
  used = sorted(sum(lengths[i] for i in row) for row in rows)
  assert used[-1] <= 20
  assert len(rows) == 1 or used[0] + used[1] > 20
  assert rows == batches.pack(lengths, 20, seed)


def test_the_seed_draws_who_shares_a_row() -> None:
  drawn = [batches.pack([5] * 40, 20, seed) for seed in (0, 1)]
  assert drawn[0] != drawn[1]
  assert all(len(row) == 4 for rows in drawn for row in rows)


def test_a_text_goes_where_the_least_room_is_left() -> None:
  lengths = [9, 5, 7, 1, 3]
  rows = {
    frozenset(lengths[i] for i in row) for row in batches.pack(lengths, 10, 0)
  }
  assert rows == {frozenset({9, 1}), frozenset({7, 3}), frozenset({5})}


def test_texts_longer_than_a_row_are_counted() -> None:
  with pytest.raises(ValueError, match='2 of 4 .* row_tokens=6; .* has 9'):
    batches.pack([7, 6, 9, 1], 6, 0)


KERNELS: dict[str, Callable[..., Any]] = {
  'plain': attention_kernels.plain,
  'attend': attend,
  'splash': functools.partial(attention_kernels.splash, interpret=True),
  'cudnn': functools.partial(attention_kernels.cudnn, implementation='xla'),
}
# of [P, G, L] the texts' lengths, and how many tokens of padding end the row
SHORT = [[[3, 4, 0], [1, 5, 1]], [[7, 0], [2, 2, 3]]]
LONG = [[[130, 60, 40]], [[1, 215, 14]]]


def _segments(lengths: list[list[list[int]]]) -> np.ndarray:
  """Numbers from 1, and 0 for the padding, which comes last."""
  return np.array(
    [
      [np.repeat([*range(1, len(row)), 0], row) for row in group]
      for group in lengths
    ],
    np.int32,
  )


def _inputs(segment_PxGxL: np.ndarray, dtype: Any = jnp.float32):
  rng, shape = np.random.default_rng(0), segment_PxGxL.shape
  q = jnp.asarray(rng.normal(size=(*shape, 2, 2, 8)), dtype)
  k, v = (jnp.asarray(rng.normal(size=(*shape, 2, 8)), dtype) for _ in 'kv')
  return q, KV(k, v)


def _alone(
  q: jax.Array, own: KV, segment: np.ndarray, window: int | None
) -> jax.Array:
  """Each token reads those of its own text up to itself, and nothing else."""
  place_L = np.arange(segment.shape[-1])
  back_LxL = place_L[:, None] - place_L
  seen_LxL = (back_LxL >= 0) & (back_LxL < (window or len(place_L)))
  seen_PxGxLxL = (segment[..., None] == segment[..., None, :]) & seen_LxL
  logits = jnp.einsum('pglkrh,pgmkh->pgkrlm', q, own.k)
  hidden = ~seen_PxGxLxL[:, :, None, None]
  weight = jax.nn.softmax(jnp.where(hidden, -jnp.inf, logits))
  return jnp.einsum('pgkrlm,pgmkh->pglkrh', weight, own.v)


def _both(f: Callable[..., jax.Array], q: jax.Array, own: KV) -> Any:
  """What `f` returns, and the gradients of a weighted sum of it."""
  weight = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

  def total(arrays: Any) -> tuple[jax.Array, jax.Array]:
    out = f(*arrays)
    return jnp.sum(weight * out), out

  return jax.jit(jax.grad(total, has_aux=True))((q, own))


def _assert_close(ours: Any, theirs: Any) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), ours, theirs
  )


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('window', [None, 3])
@pytest.mark.parametrize(
  'lengths',
  [SHORT, pytest.param(LONG, marks=pytest.mark.slow)],
  ids=['short', 'long'],
)
def test_packed_texts_see_what_they_see_alone(
  lengths: Any, window: int | None, kernel: str
) -> None:
  segment = _segments(lengths)
  q, own = _inputs(segment)
  ours = functools.partial(
    KERNELS[kernel],
    prefix=None,
    segment_PxGxL=jnp.asarray(segment),
    window=window,
  )
  theirs = functools.partial(_alone, segment=segment, window=window)
  _assert_close(_both(ours, q, own), _both(theirs, q, own))
  causal = attention_kernels.plain(q, own, window=window)
  assert jnp.abs(causal - theirs(q, own)).max() > 0.1


@pytest.mark.slow
def test_rows_are_split_over_the_mesh() -> None:
  segment = np.tile(_segments(SHORT), (2, 1, 1))
  q, own = _inputs(segment)
  ours = functools.partial(
    attention_kernels.sharded_splash,
    prefix=None,
    segment_PxGxL=jnp.asarray(segment),
    interpret=True,
  )
  with jax.set_mesh(make_mesh(2, 2, 2)):
    text = str(jax.make_jaxpr(ours)(q, own))
    told = _both(ours, q, own)
  assert 'i32[1,128]' in text  # the segments of a device's row
  theirs = functools.partial(_alone, segment=segment, window=None)
  _assert_close(told, _both(theirs, q, own))


@pytest.mark.parametrize(
  ('platform', 'call'),
  [('tpu', 'tpu_custom_call'), ('cuda', '__cudnn$fmhaScaleBias')],
)
def test_packed_rows_run_on_the_platforms_kernel(
  platform: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(attention_kernels, 'compiles_for', lambda platform: True)
  monkeypatch.setattr(
    fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000
  )
  segment = jnp.asarray(_segments(SHORT))
  q, own = _inputs(segment, jnp.bfloat16)

  def f(q: jax.Array) -> jax.Array:
    return jnp.sum(attend(q, own, None, segment).astype(jnp.float32))

  traced = jax.jit(jax.value_and_grad(f)).trace(q)
  assert call in traced.lower(lowering_platforms=(platform,)).as_text()


def test_a_packed_row_does_not_continue_a_brief() -> None:
  segment = jnp.asarray(_segments(SHORT))
  q, own = _inputs(segment)
  brief = Prefix(KV(own.k[:, 0], own.v[:, 0]), jnp.array([7, 7]))
  with pytest.raises(ValueError, match='cannot continue a prefix'):
    attend(q, own, brief, segment)
