"""The decode kernel, interpreted, against the reference; and what runs it."""

import functools
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_programs
from cases import quick
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from rlcw.models import attention_decode, attention_kernels, weights
from rlcw.models.attention import attend
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.config import ModelConfig
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling import decoding, rollout
from rlcw.sampling.rollout import Rollout
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.plan.sampling import lower_decode

decode = jax.jit(
  functools.partial(attention_decode.decode, interpret=True),
  static_argnames='window',
)
plain = jax.jit(attention_kernels.plain, static_argnames='window')


class Shape(NamedTuple):
  """Letters as in `attention_decode`; `lengths` are those of the briefs."""

  lengths: tuple[int, ...] = (5, 9, 1)
  S: int = 9
  G: int = 2
  T: int = 7
  K: int = 2
  R: int = 2
  H: int = 8


def _inputs(s: Shape, dtype: Any = jnp.float32) -> tuple[jax.Array, KV, Prefix]:
  """Random queries of one token, a full cache, and the briefs."""
  rng, P = np.random.default_rng(0), len(s.lengths)

  def normal(*sizes: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=sizes), dtype)

  q = normal(P, s.G, 1, s.K, s.R, s.H)
  own = KV(*(normal(P, s.G, s.T, s.K, s.H) for _ in 'kv'))
  kv = KV(*(normal(P, s.S, s.K, s.H) for _ in 'kv'))
  return q, own, Prefix(kv, jnp.array(s.lengths, jnp.int32))


def _assert_close(ours: Any, theirs: Any, atol: float = 1e-5) -> None:
  ours, theirs = (np.asarray(x, np.float32) for x in (ours, theirs))
  np.testing.assert_allclose(ours, theirs, atol=atol, rtol=0)


# Blocks are of at most 1,024 keys of a brief and 512 of a reply.
CUT = Shape((1100, 700), 1100, 2, 600, 1, 3)
CASES = {
  'small': (Shape(), None),
  'small, a window': (Shape(), 4),
  'itself alone': (Shape(), 1),
  'one of each': (Shape((3,), S=4, G=1, T=2, K=1, R=1, H=2), None),
  'several blocks, the last one cut': (CUT, None),
  'several blocks, a window': (CUT, 520),
  'several blocks, all full': (Shape((1300, 3), 1536, 1, 1024, 1, 2), None),
  'replies in two chunks': (Shape((4,), 6, 16, 150, 1, 3, 128), None),
}


@pytest.mark.parametrize(
  'case',
  quick(
    CASES, 'small', 'small, a window', 'one of each', 'several blocks, a window'
  ),
)
def test_the_kernel_equals_the_reference(case: str) -> None:
  shape, window = CASES[case]
  inputs = _inputs(shape)
  for index in (0, shape.T // 2, shape.T - 1):
    ours = decode(*inputs, jnp.int32(index), window=window)
    assert ours.shape == inputs[0].shape
    _assert_close(ours, plain(*inputs, start=index, window=window))


sizes = functools.partial(st.integers, 1)


@hypothesis.settings(max_examples=4, derandomize=True)
@hypothesis.given(st.data())
@pytest.mark.slow
def test_any_shape_equals_the_reference(data: Any) -> None:
  S, T = data.draw(sizes(6)), data.draw(sizes(5))
  lengths = data.draw(st.lists(sizes(S), min_size=1, max_size=3))
  G, K, R, H = (data.draw(sizes(n)) for n in (5, 2, 3, 4))
  inputs = _inputs(Shape(tuple(lengths), S, G, T, K, R, H))
  index = data.draw(st.integers(0, T - 1))
  window = data.draw(st.sampled_from([None, 1, 3, 99]))
  ours = decode(*inputs, jnp.int32(index), window=window)
  _assert_close(ours, plain(*inputs, start=index, window=window))


def test_bfloat16_is_close_and_stays() -> None:
  whole = _inputs(Shape(S=40, T=40))
  half = jax.tree.map(
    lambda x: x if x.dtype == jnp.int32 else x.astype(jnp.bfloat16), whole
  )
  ours = decode(*half, jnp.int32(30), window=6)
  assert ours.dtype == jnp.bfloat16
  _assert_close(ours, plain(*whole, start=30, window=6), atol=0.05)


def test_what_is_not_seen_is_not_computed() -> None:
  """Of whole blocks: a weight of 0 times a value that is no number is none."""
  q, own, prefix = _inputs(Shape((400, 900), 1100, 2, 1200, 1, 2))
  index, window = 900, 300  # of blocks of 640 and of 512 keys
  key_Tx1x1 = jnp.arange(1200)[:, None, None]
  bad = jnp.where(key_Tx1x1 >= 1024, jnp.nan, own.v)
  bad = jnp.where(key_Tx1x1 < 512, jnp.nan, bad)
  brief = prefix.kv._replace(v=jnp.full_like(prefix.kv.v, jnp.nan))
  ours = decode(
    q,
    own._replace(v=bad),
    prefix._replace(kv=brief),
    jnp.int32(index),
    window=window,
  )
  _assert_close(ours, plain(q, own, prefix, start=index, window=window))


@pytest.mark.parametrize(
  ('first', 'end', 'fetched'),
  [
    (0, 1, [0, 0, 0, 0]),
    (0, 128, [0, 0, 0, 0]),
    (0, 129, [0, 1, 1, 1]),
    (128, 500, [1, 1, 2, 3]),
    (300, 310, [2, 2, 2, 2]),
    (300, 200, [1, 1, 1, 1]),  # a window that has left the brief behind
  ],
)
def test_what_is_not_seen_is_not_fetched(
  first: int, end: int, fetched: list[int]
) -> None:
  """A block is fetched when its number is another than that before."""
  numbers = [
    attention_decode._clamp_block(i, jnp.int32(first), jnp.int32(end), 128)
    for i in range(4)
  ]
  assert [int(n) for n in numbers] == fetched


@pytest.mark.parametrize(
  ('lengths', 'heads', 'share'),
  [
    ((5, 9, 1, 3), 2, (1, 1)),
    pytest.param((5, 9, 1), 3, (3, 3), marks=pytest.mark.slow),
  ],
  ids=['split', 'left whole'],
)
def test_the_kernel_is_split_over_the_mesh(
  lengths: tuple[int, ...], heads: int, share: tuple[int, int]
) -> None:
  inputs = _inputs(Shape(lengths, K=heads))
  ours = functools.partial(
    attention_decode.sharded_decode, index=5, window=6, interpret=True
  )
  with jax.set_mesh(make_mesh(2, 2, 2)):
    text = str(jax.make_jaxpr(ours)(*inputs))
    out = jax.jit(ours)(*inputs)
  prompts, own_heads = share
  assert f'f32[{prompts},{own_heads},2,2,8]' in text  # a device's queries
  _assert_close(out, plain(*inputs, start=5, window=6))


@pytest.fixture
def with_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
  """As if libtpu were installed, and nothing for GPUs."""
  monkeypatch.setattr(
    attention_kernels, 'compiles_for', lambda name: name == 'tpu'
  )


@pytest.mark.parametrize(
  ('platform', 'start', 'how', 'head', 'runs'),
  [
    ('tpu', jnp.int32(0), {}, 128, True),
    ('tpu', jnp.int32(3), {'window': 2}, 256, True),
    ('tpu', 3, {}, 128, True),
    ('tpu', jnp.int32(3), {}, 64, False),
    ('tpu', jnp.int32(3), {'implementation': 'xla'}, 128, False),
    ('cpu', jnp.int32(3), {}, 128, False),
  ],
)
def test_decoding_on_tpu_runs_the_kernel(
  platform: str,
  start: Any,
  how: dict[str, Any],
  head: int,
  runs: bool,
  with_tpu: None,
) -> None:
  inputs = _inputs(Shape(H=head), jnp.bfloat16)
  f = jax.jit(lambda *x: attend(*x, start=start, **how))
  text = f.trace(*inputs).lower(lowering_platforms=(platform,)).as_text()
  assert ('tpu_custom_call' in text) == runs


def _sampled(attention: str) -> tuple[str, Rollout]:
  """The program that decodes on this CPU, and what sampling gives."""
  config = ModelConfig(
    64, 32, 32, 1, 2, 1, head_dim=128, attention=attention, dtype='bfloat16'
  )
  params = jax.tree.map(
    lambda a: jnp.full(a.shape, 0.02, a.dtype), weights.abstract_params(config)
  )
  params['embed'] = jax.random.normal(jax.random.key(0), (64, 32))
  prompt, length = jnp.ones((2, 5), jnp.int32), jnp.array([5, 3])
  inputs = params, prompt, length, length, Temperature(1.0), 0, 0
  options: dict[str, Any] = dict(
    config=config, group_size=2, max_new_tokens=6, eos=(63,)
  )
  mesh = make_mesh()
  with jax.set_mesh(mesh):
    setup = rollout.make_setup(prompt.shape, **options)
    start = functools.partial(decoding.start.lower, *inputs, setup=setup)
    abstract = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    program = lower_decode(mesh, start, abstract, inputs[4], setup).compile()
  return program.as_text(), rollout.sample(*inputs, **options)


@pytest.mark.slow
def test_a_cpu_samples_as_if_there_were_no_kernel(with_tpu: None) -> None:
  (text, rollout), (expected_text, expected) = map(_sampled, ('auto', 'xla'))
  for operation in (' fusion(', ' dot(', ' custom-call(', ' conditional('):
    assert text.count(operation) == expected_text.count(operation)
  jax.tree.map(np.testing.assert_array_equal, rollout, expected)


HEADS = {'head_dim': 128, 'num_heads': 4, 'num_kv_heads': 2}
FIELDS = (
  HEADS | {'dtype': 'bfloat16'},
  HEADS | {'dtype': 'float32', 'window': 64, 'local_layers': (True, False)},
)


@pytest.mark.slow
@pytest.mark.parametrize('topology', ['v5e:2x2', 'v6e:2x2', 'v5p:2x2x1'])
def test_sampling_compiles_for_a_tpu(topology: str) -> None:
  """300 tokens by 2 layers, each a run of the kernel; the brief is read by

  splash attention, in windowed models by one of two at each layer.
  """
  cases = [(FIELDS[0], (2, 1, 2)), (FIELDS[0], (1, 2, 2))]
  cases.append((FIELDS[1], (1, 1, 1)))
  found = tpu_programs.compiled(topology, cases)
  for (_, axes), row in zip(cases, found, strict=True):
    names, loop, copies, seconds = row
    print(f'{topology} {axes}: {names}, {loop}, compiled in {seconds:.1f} s')
    assert loop == {attention_decode.NAME: 2 * 300}
    assert all(name.startswith('splash') for name in names) and names
    assert copies == []
