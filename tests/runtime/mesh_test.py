"""One program on every mesh: the same replies, the same step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlcw.models import layers, weights
from rlcw.models.config import LoraConfig, ModelConfig
from rlcw.models.decoder import Params
from rlcw.runtime.mesh import (
  MESH_AXES,
  TABLES,
  constrain,
  make_mesh,
  over_groups,
  platform,
  round_up_groups,
  vocab_parts,
)
from rlcw.sampling import rollout, samplers
from rlcw.tasks.plan import hlo
from tests.train_test import (
  CONFIG,
  G,
  P,
  T,
  assert_close,
  make_arrays,
  make_params,
  one_step,
  single,
)

FAST = [(2, 2, 2)]  # all three axes at once
SLOW = [
  (2, 4, 1),
  (1, 1, 8),
  (8, 1, 1),
  (1, 8, 1),
  (4, 2, 1),
  (2, 1, 4),
  (4, 1, 2),
  (1, 2, 4),
  (1, 4, 2),
]
FACTORISATIONS = pytest.mark.parametrize(
  'shape', [*FAST, *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW)]
)


@pytest.fixture(scope='module')
def replies() -> rollout.Rollout:
  """Of one device."""
  return rollout_on(single(), 'train')


# biases, and adapters that are not merged
ADAPTED = dataclasses.replace(
  CONFIG,
  qkv_bias=True,
  lora=LoraConfig(
    4, 8.0, ('query', 'key', 'value', 'output', 'gate', 'up', 'down')
  ),
)


def adapted_params() -> Params:
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda a: rng.normal(0, 0.2, a.shape).astype('float32'),
    weights.abstract_params(ADAPTED),
  )


def rollout_on(
  mesh: Any, table: str, config: ModelConfig = CONFIG
) -> rollout.Rollout:
  arrays = make_arrays(mesh)
  params = make_params(mesh) if config is CONFIG else adapted_params()
  return rollout.sample(
    weights.for_rollout(config, params, mesh, table),
    arrays['prompt'],
    arrays['length'],
    jax.device_put(np.arange(P), over_groups(mesh)),
    samplers.Temperature(1.0),
    0,
    0,
    config=config,
    group_size=G,
    max_new_tokens=T,
    eos=(1, 2),
  )


@pytest.fixture(scope='module')
def alone() -> Any:
  """A step of one device."""
  return one_step(single())


@FACTORISATIONS
def test_eight_devices_equal_one(
  alone: Any, shape: tuple[int, int, int]
) -> None:
  mesh, (state, told) = make_mesh(*shape), alone
  with jax.set_mesh(mesh):
    spread, told_spread = one_step(mesh)
  assert_close(state.params, spread.params, 2e-6)
  for name in told:
    np.testing.assert_allclose(told[name], told_spread[name], rtol=1e-4)
  # the parameters were split, not copied, and stayed so
  gate = spread.params['blocks']['gate']['kernel']
  whole = gate.size // (shape[1] * shape[2])
  assert gate.addressable_shards[0].data.size == whole


@pytest.mark.slow
@FACTORISATIONS
def test_eight_devices_sample_the_same_replies(
  replies: rollout.Rollout, shape: tuple[int, int, int]
) -> None:
  mesh = make_mesh(*shape)
  for table in TABLES:
    with jax.set_mesh(mesh):
      spread = rollout_on(mesh, table)
    np.testing.assert_array_equal(replies.token, spread.token)
    np.testing.assert_array_equal(replies.length, spread.length)
    np.testing.assert_allclose(replies.logp, spread.logp, atol=4e-5)


@pytest.mark.slow
@FACTORISATIONS
def test_rows_are_gathered_within_their_shard(
  shape: tuple[int, int, int],
) -> None:
  prompts, group = 16, 8
  ids = np.random.default_rng(0).integers(3, CONFIG.vocab_size, (prompts, 6))
  arrays = ids.astype(np.int32), np.arange(prompts) % 6 + 1, np.arange(prompts)

  def gathered(mesh: Any, gather: bool) -> tuple[rollout.Rollout, int]:
    with jax.set_mesh(mesh):
      return rollout.sample_and_count(
        weights.for_rollout(CONFIG, make_params(mesh), mesh, 'decode'),
        *jax.device_put(arrays, over_groups(mesh)),
        samplers.Temperature(1.0),
        0,
        0,
        config=CONFIG,
        group_size=group,
        max_new_tokens=10,
        eos=tuple(range(0, CONFIG.vocab_size, 6)),
        gather=gather,
      )

  whole, slots = gathered(single(), gather=False)
  spread, fewer = gathered(make_mesh(*shape), gather=True)
  np.testing.assert_array_equal(whole.token, spread.token)
  np.testing.assert_array_equal(whole.finished, spread.finished)
  np.testing.assert_array_equal(whole.length, spread.length)
  np.testing.assert_allclose(whole.logp, spread.logp, atol=4e-5)
  assert whole.length.sum() <= fewer < slots


@pytest.mark.slow
def test_biases_and_adapters_are_sampled_from_alike_in_every_table() -> None:
  replies, mesh = rollout_on(single(), 'train', ADAPTED), make_mesh(1, 2, 4)
  for table in TABLES:
    with jax.set_mesh(mesh):
      spread = rollout_on(mesh, table, ADAPTED)
    np.testing.assert_array_equal(replies.token, spread.token)
    np.testing.assert_allclose(replies.logp, spread.logp, atol=4e-5)


@pytest.mark.parametrize(
  ('table', 'embed', 'gate', 'query'),
  [('train', 8, 8, 8), ('decode', 2, 2, 2), ('wide', 8, 8, 2)],
)
def test_a_rollout_s_weights_are_split_by_its_table(
  table: str, embed: int, gate: int, query: int
) -> None:
  mesh = make_mesh(1, 4, 2)
  params = make_params(mesh)
  ready = weights.for_rollout(CONFIG, params, mesh, table)
  blocks = ready['blocks']
  for weight, parts in (
    (ready['embed'], embed),
    (blocks['gate']['kernel'], gate),
    (blocks['down']['kernel'], gate),
    (blocks['query']['kernel'], query),
  ):
    assert weight.addressable_shards[0].data.size == weight.size // parts
  np.testing.assert_array_equal(ready['embed'], params['embed'])


@pytest.mark.parametrize(
  ('vocab', 'shape', 'parts'),
  [
    (64, (1, 4, 2), 8),  # of the wide table, which 2 parts of others hold
    (36, (2, 1, 4), 4),
    (36, (1, 2, 4), 4),  # in 8 parts it cannot be split, so no table does
    (35, (1, 2, 4), 1),
    (64, (8, 1, 1), 1),
  ],
)
def test_a_vocabulary_s_parts_are_those_of_the_finest_table(
  vocab: int, shape: tuple[int, int, int], parts: int
) -> None:
  assert vocab_parts(vocab) == 1
  with jax.set_mesh(make_mesh(*shape)):
    assert vocab_parts(vocab) == parts


def test_a_program_s_platform_is_that_of_the_devices_it_is_made_for() -> None:
  """Not of this machine, as a program may be compiled ahead of time."""
  assert platform() == 'cpu'
  device = jax.sharding.AbstractDevice('TPU v5 lite', 1, 'tpu')
  mesh = jax.sharding.AbstractMesh((1, 1, 1), MESH_AXES, abstract_device=device)
  with jax.sharding.use_abstract_mesh(mesh):
    assert platform() == 'tpu'
    setup = rollout.make_setup(
      (8, 32), config=CONFIG, group_size=2, max_new_tokens=4096, eos=(1,)
    )
  assert rollout.cache_sizes(setup) == [4096]
  with jax.set_mesh(make_mesh(1, 8, 1)):
    assert platform() == 'cpu'


def test_weights_that_are_ready_are_not_copied_nor_the_model_traced_again(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  mesh = single()
  params = make_params(mesh)
  weights.for_rollout(CONFIG, params, mesh, 'decode')
  monkeypatch.setattr(weights, 'init_params', None)
  ready = weights.for_rollout(CONFIG, params, mesh, 'decode')
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(ready), strict=True):
    assert a.unsafe_buffer_pointer() == b.unsafe_buffer_pointer()


@pytest.mark.parametrize(
  ('shape', 'part'),
  [
    ((8, 3, 6, 5), (2, 3, 3, 5)),
    ((1, 8, 6, 5), (1, 2, 3, 5)),  # rows that continue one preface
    ((8, 3, 1, 5), (2, 3, 1, 5)),  # a token each
    ((3, 2, 7, 5), (3, 2, 7, 5)),
  ],
)
def test_activations_are_split_by_group_and_length(
  shape: tuple[int, ...], part: tuple[int, ...]
) -> None:
  x_PxGxLxD = jnp.ones(shape)
  assert constrain(x_PxGxLxD) is x_PxGxLxD
  with jax.set_mesh(make_mesh(2, 2, 2)):
    split = jax.jit(constrain)(x_PxGxLxD)
  assert split.addressable_shards[0].data.shape == part
  assert split.shape == shape


def test_the_head_travels_once_for_all_chunks() -> None:
  """Forth, and its gradient back; no logits, whose inner axis is split."""
  mesh = make_mesh(1, 8, 1)
  rows, dim, vocab = 256, 16, 96

  def of(dtype: Any, spec: PartitionSpec, *shape: int) -> Any:
    place = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  def sent(chunk: int) -> float:
    def total(hidden_NxD: jax.Array, head_VxD: jax.Array, target_N: jax.Array):
      logp_N = layers.token_logprobs(
        hidden_NxD, head_VxD, target_N, chunk=chunk
      )
      return logp_N.sum()

    over, inner = PartitionSpec('fsdp'), PartitionSpec(None, 'fsdp')
    with jax.set_mesh(mesh):
      lowered = jax.jit(jax.grad(total, argnums=(0, 1))).lower(
        of(jnp.float32, over, rows, dim),
        of(jnp.float32, inner, vocab, dim),
        of(jnp.int32, over, rows),
      )
    traffic = hlo.collectives(lowered.compile().as_text())
    return sum(kind.bytes for kind in traffic.values())

  head = 4 * vocab * dim
  assert 0 < sent(32) < 4 * head
  assert sent(4) == sent(32)


def test_a_pass_is_filled_up_to_what_splits_over_the_devices() -> None:
  mesh = make_mesh(data=2, fsdp=2, tensor=2)
  assert [round_up_groups(n, mesh) for n in (1, 4, 10)] == [4, 4, 12]
