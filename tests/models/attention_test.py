"""Every platform's attention against briefs repeated by hand, in NumPy."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tpu_programs
from cases import quick
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo

from rlcw.models import attention_kernels
from rlcw.models.attention import attend
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.runtime.mesh import make_mesh

# the same functions that a TPU and a GPU run, computed here
KERNELS = {
  'splash': functools.partial(attention_kernels.splash, interpret=True),
  'cudnn': functools.partial(attention_kernels.cudnn, implementation='xla'),
}


class Shape(NamedTuple):
  """Letters as in `attention_kernels`; `lengths` are those of the briefs."""

  lengths: tuple[int, ...] = (5, 9, 1)
  S: int = 9
  G: int = 2
  L: int = 7
  K: int = 2
  R: int = 2
  H: int = 8


def _inputs(
  shape: Shape, brief: bool = True, keys: int | None = None, dtype: Any = None
) -> tuple[jax.Array, KV, Prefix | None]:
  """Random queries, own keys and values, and the brief's."""
  rng, s = np.random.default_rng(0), shape
  P, dtype = len(s.lengths), dtype or jnp.float32

  def normal(*sizes: int) -> jax.Array:
    return jnp.asarray(rng.normal(size=sizes), dtype)

  row = (P, s.G, s.L if keys is None else keys, s.K, s.H)
  q = normal(P, s.G, s.L, s.K, s.R, s.H)
  own = KV(normal(*row), normal(*row))
  kv = KV(normal(P, s.S, s.K, s.H), normal(P, s.S, s.K, s.H))
  prefix = Prefix(kv, jnp.array(s.lengths, jnp.int32)) if brief else None
  return q, own, prefix


def _oracle(
  q_PxGxLxKxRxH: jax.Array,
  own: KV,
  prefix: Prefix | None,
  start: int = 0,
  window: int | None = None,
) -> np.ndarray:
  """One query at a time over its brief and its past in one row, in float64."""
  q = np.asarray(q_PxGxLxKxRxH, np.float64)
  out = np.zeros_like(q)
  for p, g, i, k, r in np.ndindex(q.shape[:5]):
    rows = [np.asarray(x[p, g, : start + i + 1, k], np.float64) for x in own]
    if prefix is not None:
      n = int(prefix.length_P[p])
      brief = [np.asarray(x[p, :n, k], np.float64) for x in prefix.kv]
      rows = [np.concatenate(pair) for pair in zip(brief, rows, strict=True)]
    key_SxH, value_SxH = (x if window is None else x[-window:] for x in rows)
    weight_S = np.exp(key_SxH @ q[p, g, i, k, r])
    out[p, g, i, k, r] = weight_S @ value_SxH / weight_S.sum()
  return out


def _both(f: Callable[..., Any], *inputs: Any) -> tuple[Any, Any]:
  """What `f` returns, and the gradients of a weighted sum of it.

  The gradients are those by queries, own and brief's keys and values.
  """
  q, own, prefix = inputs
  weight = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

  def total(arrays: Any) -> tuple[jax.Array, jax.Array]:
    q, own, kv = arrays
    out = f(q, own, None if kv is None else Prefix(kv, prefix.length_P))
    return jnp.sum(weight * out), out

  arrays = q, own, None if prefix is None else prefix.kv
  grads, out = jax.jit(jax.grad(total, has_aux=True))(arrays)
  return out, grads


def _assert_close(ours: Any, theirs: Any, atol: float = 1e-5) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float64), np.asarray(b, np.float64), atol=atol, rtol=0
    ),
    ours,
    theirs,
  )


sizes = functools.partial(st.integers, 1)


@pytest.mark.slow
@hypothesis.settings(max_examples=12, derandomize=True)
@hypothesis.given(st.data())
def test_attend_equals_repeated_briefs(data: Any) -> None:
  S, L = data.draw(sizes(6)), data.draw(sizes(5))
  lengths = data.draw(st.lists(sizes(S), min_size=1, max_size=3))
  G, K, R, H = (data.draw(sizes(n)) for n in (3, 2, 3, 4))
  shape = Shape(tuple(lengths), S, G, L, K, R, H)
  start = data.draw(st.sampled_from([0, 0, 2]))
  window = data.draw(st.sampled_from([None, 1, 3, 99]))
  spare = data.draw(st.sampled_from([0, 2])) if start else 0
  inputs = _inputs(shape, data.draw(st.booleans()), start + L + spare)
  ours = functools.partial(attend, start=start, window=window)
  _assert_close(jax.jit(ours)(*inputs), _oracle(*inputs, start, window))


CASES = {
  'brief': (Shape(), True, None),
  'window over brief and reply': (Shape(), True, 4),
  'window of two': (Shape(), True, 2),
  'window longer than the text': (Shape(), True, 99),
  'rows': (Shape(), False, None),
  'rows and window': (Shape(), False, 3),
  'one head': (Shape((2,), 3, 1, 4, 1, 1, 8), True, None),
  'many blocks': (Shape((3, 200), 200, 3, 230, 1, 2, 8), True, None),
  'many blocks and window': (Shape((3, 200), 200, 3, 230, 1, 2, 8), True, 70),
}


@functools.cache
def _expected(case: str) -> tuple[Any, Any]:
  """Inputs, and what `_both` returns of the reference."""
  shape, brief, window = CASES[case]
  inputs = _inputs(shape, brief)
  plain = functools.partial(attention_kernels.plain, window=window)
  return inputs, _both(plain, *inputs)


@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize(
  'case',
  quick(
    CASES, 'brief', 'window over brief and reply', 'rows and window', 'one head'
  ),
)
def test_a_kernel_equals_the_reference(kernel: str, case: str) -> None:
  shape, _, window = CASES[case]
  inputs, (expected, expected_grads) = _expected(case)
  ours = functools.partial(KERNELS[kernel], window=window)
  out, grads = _both(ours, *inputs)
  if shape.L < 20:
    _assert_close(expected, _oracle(*inputs, window=window))
  assert all(jnp.abs(x).max() > 0.1 for x in jax.tree.leaves(expected_grads))
  _assert_close(out, expected)
  _assert_close(grads, expected_grads, atol=3e-5)


def _jitted(kernel: str, window: int | None) -> Callable[..., jax.Array]:
  f = {**KERNELS, 'plain': attention_kernels.plain}[kernel]
  return jax.jit(functools.partial(f, window=window))


@pytest.mark.parametrize('kernel', ['plain', *KERNELS])
def test_bfloat16_is_close_and_stays(kernel: str) -> None:
  inputs = _inputs(Shape(), dtype=jnp.bfloat16)
  ours = _jitted(kernel, 6)(*inputs)
  assert ours.dtype == jnp.bfloat16
  _assert_close(ours, _oracle(*inputs, window=6), atol=0.05)


@pytest.mark.parametrize('kernel', ['plain', *KERNELS])
@pytest.mark.parametrize('window', [None, 4])
def test_padding_of_a_brief_is_inert(kernel: str, window: int | None) -> None:
  run = _jitted(kernel, window)
  q, own, prefix = _inputs(Shape())
  assert prefix is not None
  real_PxSx1x1 = (jnp.arange(9) < prefix.length_P[:, None])[..., None, None]
  assert not real_PxSx1x1.all()
  kv = jax.tree.map(lambda x: jnp.where(real_PxSx1x1, x, 77.0), prefix.kv)
  changed = prefix._replace(kv=kv)
  one, other = (run(q, own, x) for x in (prefix, changed))
  np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
  ('lengths', 'heads', 'share'),
  [
    ((5, 9, 1, 3), 2, (1, 1)),
    pytest.param((5, 9, 1), 3, (3, 3), marks=pytest.mark.slow),
  ],
  ids=['split', 'left whole'],
)
def test_splash_is_split_over_the_mesh(
  lengths: tuple[int, ...], heads: int, share: tuple[int, int]
) -> None:
  inputs = _inputs(Shape(lengths, K=heads))
  ours = functools.partial(
    attention_kernels.sharded_splash, window=6, interpret=True
  )
  with jax.set_mesh(make_mesh(2, 2, 2)):
    text = str(jax.make_jaxpr(ours)(*inputs))
    out, grads = _both(ours, *inputs)
  prompts, own_heads = share
  assert f'f32[{prompts},{2 * own_heads},128,8]' in text  # a device's queries
  expected = _both(
    functools.partial(attention_kernels.plain, window=6), *inputs
  )
  _assert_close((out, grads), expected, atol=3e-5)


def test_blocks_between_replies_are_skipped() -> None:
  mask = attention_kernels.GroupMask(
    brief=128, reply=256, queries=1024, window=None
  )
  seen_NxM = mask[:, :]
  blocks = seen_NxM.reshape(4, 256, 9, 128).any((1, 3))
  own = np.repeat(np.eye(4, dtype=bool), 2, axis=1)
  np.testing.assert_array_equal(blocks, np.insert(own, 0, True, axis=1))


@pytest.fixture
def all_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
  """As if JAX's TPU and CUDA plugins were installed."""
  monkeypatch.setattr(attention_kernels, 'compiles_for', lambda platform: True)
  monkeypatch.setattr(
    fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000
  )


def _lowered(platform: str, inputs: Any, **how: Any) -> str:
  """What `attend` and its gradient are lowered to for a platform."""
  q, own, prefix = inputs
  start = how.pop('start', 0)

  def f(q: jax.Array, start: jax.Array | int) -> jax.Array:
    out = attend(q, own, prefix, start=start, **how)
    return jnp.sum(out.astype(jnp.float32))

  fixed = isinstance(start, int)
  g = jax.value_and_grad(functools.partial(f, start=start) if fixed else f)
  traced = jax.jit(g).trace(q) if fixed else jax.jit(g).trace(q, start)
  return traced.lower(lowering_platforms=(platform,)).as_text()


CALLS = ('tpu_custom_call', '__cudnn$fmha', '__cudnn$fmhaScaleBiasSoftmaxBack')


@pytest.mark.parametrize(
  ('platform', 'dtype', 'head', 'calls'),
  [
    ('cpu', 'bfloat16', 64, []),
    ('tpu', 'bfloat16', 64, CALLS[:1]),
    ('tpu', 'float32', 64, CALLS[:1]),
    ('cuda', 'bfloat16', 64, CALLS[1:]),
    ('cuda', 'float16', 128, CALLS[1:]),
    ('cuda', 'float32', 64, []),
    ('cuda', 'bfloat16', 256, []),
    ('cuda', 'bfloat16', 12, []),
    ('rocm', 'bfloat16', 64, []),
  ],
)
def test_the_platform_that_is_lowered_for_chooses(
  platform: str, dtype: str, head: int, calls: list[str], all_platforms: None
) -> None:
  text = _lowered(platform, _inputs(Shape(H=head), dtype=dtype))
  assert [call for call in CALLS if call in text] == list(calls)


@pytest.mark.parametrize('platform', ['tpu', 'cuda'])
@pytest.mark.parametrize('start', [3, jnp.int32(0)], ids=['fixed', 'traced'])
def test_decoding_with_short_heads_stays_on_plain_operations(
  platform: str, start: Any, all_platforms: None
) -> None:
  one = _inputs(Shape(L=1), keys=7, dtype='bfloat16')
  more = _inputs(Shape(L=4), keys=7, dtype='bfloat16')
  first = _inputs(Shape(L=1), dtype='bfloat16')
  full = _inputs(Shape(L=4), dtype='bfloat16')  # as many keys as queries
  texts = [
    _lowered(platform, one, start=start),
    _lowered(platform, more, start=start),
    _lowered(platform, full, start=start),
    _lowered(platform, first),
  ]
  assert not any(call in text for call in CALLS for text in texts)


@pytest.mark.parametrize('missing', ['tpu', 'cuda'])
def test_a_platform_that_is_not_installed_is_not_traced(
  missing: str, all_platforms: None, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    attention_kernels, 'compiles_for', lambda name: name != missing
  )
  text = _lowered(missing, _inputs(Shape(), dtype='bfloat16'))
  assert not any(call in text for call in CALLS)


@pytest.mark.slow
def test_a_cpu_runs_the_reference_and_nothing_else(all_platforms: None) -> None:
  """Under everything that the model wraps around it."""
  inputs = _inputs(Shape(L=40, S=60), dtype='bfloat16')

  def program(attend: Callable[..., Any]) -> Any:
    def block(q: jax.Array, local: jax.Array) -> tuple[jax.Array, None]:
      look = functools.partial(attend, q, *inputs[1:])
      return jax.lax.cond(local, lambda: look(window=4), look), None

    def loss(q: jax.Array) -> jax.Array:
      local = jnp.array([True, False, True])
      return jnp.sum(jax.lax.scan(jax.remat(block), q, local)[0])

    return jax.jit(jax.value_and_grad(loss)).lower(inputs[0]).compile()

  ours, plain = program(attend), program(attention_kernels.plain)
  texts = [p.as_text() for p in (ours, plain)]
  for operation in (' conditional(', ' dot(', ' exponential(', ' custom-call('):
    assert texts[0].count(operation) == texts[1].count(operation)
  assert texts[0].count(' conditional(') == 3
  temporary, flops = (
    [f(p) for p in (ours, plain)]
    for f in (
      lambda p: p.memory_analysis().temp_size_in_bytes,
      lambda p: p.cost_analysis()['flops'],
    )
  )
  assert temporary[0] == temporary[1]
  assert flops[0] == flops[1]
  for a, b in zip(ours(inputs[0]), plain(inputs[0]), strict=True):
    np.testing.assert_array_equal(a, b)


# Runs in its own process, as libtpu reads its environment when it is loaded.
COMPILE = """
import json, sys, time
import jax, jax.numpy as jnp
from jax.experimental import topologies
from rlcw.models.config import ModelConfig
from rlcw.models.groups import forward_groups, reply_logprobs
from rlcw.models.packing import Groups
from rlcw.models.weights import abstract_params, param_shardings
from rlcw.runtime.mesh import make_mesh, over_groups

chips = topologies.get_topology_desc(
  platform='tpu', topology_name=sys.argv[1]
).devices
SMALL = dict(
  vocab_size=512, model_dim=256, mlp_dim=512, num_layers=2, num_heads=4,
  num_kv_heads=2, dtype='bfloat16', remat=True,
)

def compiled(fields, axes):
  count = axes[0] * axes[1] * axes[2]
  mesh = make_mesh(*axes, devices=chips[:count])
  # JSON has lists alone, which cannot be hashed.
  if 'local_layers' in fields:
    fields['local_layers'] = tuple(fields['local_layers'])
  config = ModelConfig(**SMALL, **fields)
  like = lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s)
  params = jax.tree.map(
    like,
    abstract_params(config),
    param_shardings(config, mesh),
  )
  groups = Groups(*(
    jax.ShapeDtypeStruct(size, jnp.int32, sharding=over_groups(mesh))
    for size in ((4, 200), (4,), (4, 3, 300), (4, 3))
  ))
  def loss(params, groups):
    hidden, layout = forward_groups(config, params, groups, 1152)
    logp = reply_logprobs(config, params, hidden, layout, groups.token, 0.7)
    return jnp.sum(jnp.square(logp))
  with jax.set_mesh(mesh):
    lowered = jax.jit(jax.value_and_grad(loss)).lower(params, groups)
  return lowered.compile().as_text()

for line in sys.stdin:
  started = time.perf_counter()
  calls = compiled(*json.loads(line)).count('"tpu_custom_call"')
  print('RESULT', json.dumps([calls, time.perf_counter() - started]))
"""


@pytest.mark.slow
def test_replies_and_their_gradient_compile_for_a_tpu() -> None:
  """Of briefs and replies, a forward and two backward kernels each; with

  rematerialisation the forward one twice; windowed layers have another set.
  """
  windowed = {'window': 64, 'local_layers': (True, False)}
  fields = [{'head_dim': 128}, {'head_dim': 64}, {'head_dim': 128, **windowed}]
  cases = [(f, axes) for f in fields for axes in [(1, 1, 1), (1, 2, 2)]]
  found = tpu_programs.run(COMPILE, 'v5e:2x2', cases)
  for (field, axes), (calls, seconds) in zip(cases, found, strict=True):
    print(f'{field} on {axes}: {calls} kernels, compiled in {seconds:.1f} s')
    assert calls == (16 if 'window' in field else 8)
