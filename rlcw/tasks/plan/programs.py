"""The programs of a GRPO step, to be compiled from shapes alone.

Each is the function that training itself calls, lowered with
`jax.ShapeDtypeStruct`s for a mesh whose devices need not exist.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlcw import Config, train
from rlcw.models import lora
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.models.packing import Groups
from rlcw.models.weights import param_shardings
from rlcw.rewards import reward_model
from rlcw.runtime.mesh import group_shards, over_groups
from rlcw.sampling import decoding, moving, rollout, samplers, tiles
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Work


class Plan(NamedTuple):
  """Models, optimiser, loss and mesh of a run; all arrays are shapes only."""

  config: Config
  mesh: Mesh
  model: ModelConfig  # of the policy, with adapters and dtype
  reward: ModelConfig | None  # None where the reference's pass scores too
  shapes: roofline.Shapes
  optimizer: optax.GradientTransformation
  loss: train.LossFn
  learned: Params
  frozen: dict[str, Params]  # 'reference', if read; 'reward', if it is separate
  resident: dict[str, Any]  # arrays that stay in HBM all through a step, by use

  @property
  def shared(self) -> bool:
    """True if the reward model is a head on the reference's decoder."""
    return self.config.writing == 'reward_model' and self.reward is None

  @property
  def microbatches(self) -> int:
    """Number of microbatches in a step."""
    return self.config.prompts_per_step // self.config.microbatch_groups


class Program(NamedTuple):
  """One phase of a step: how to lower it, its arguments and its work."""

  name: str
  lower: Callable[[], Any]
  resident_inputs: Any  # shapes of those arguments that are resident anyway
  work: Work
  copy: int = 0  # bytes per chip of weights that exist in this phase only
  cache: int = 0  # bytes per chip of the KV cache, if evenly split


def resident_arrays(
  config: Config, learned: Params, moments: Any, frozen: dict[str, Params]
) -> dict[str, Any]:
  """Arrays that stay in HBM all through a step, by use.

  With `offload`, frozen models are in host memory between their phases.
  """
  resident = {'parameters': learned, 'optimiser': moments}
  for name, tree in frozen.items():
    # The reference is the base of the adapters, which every phase reads.
    base = name == 'reference' and config.train == 'lora'
    resident[name] = tree if base or not config.offload else {}
  return resident


def frozen_shapes(model: ModelConfig, mesh: Mesh) -> Params:
  """Shapes of a frozen model, in its compute dtype and without adapters."""
  params = lora.abstract(lora.without(model), mesh)
  return jax.tree.map(
    lambda a, b: jax.ShapeDtypeStruct(a.shape, b.dtype, sharding=a.sharding),
    params,
    jax.eval_shape(functools.partial(as_dtype, dtype=model.dtype), params),
  )


def batch(plan: Plan, prompts: int) -> dict[str, Any]:
  """Shapes of a batch, or a part of it, as `grpo.step.make_batch` makes it."""
  _, group, prompt, reply = plan.shapes
  place = over_groups(plan.mesh)

  def of(dtype: Any, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  arrays = {
    'prompt': of(jnp.int32, prompts, prompt),
    'length': of(jnp.int32, prompts),
    'rollout': rollout.Rollout(
      token=of(jnp.int32, prompts, group, reply),
      logp=of(jnp.float32, prompts, group, reply),
      length=of(jnp.int32, prompts, group),
      finished=of(jnp.bool_, prompts, group),
    ),
    'valid': of(jnp.bool_, prompts, group),
    'advantage': of(jnp.float32, prompts, group),
    'live': of(jnp.bool_, prompts),
  }
  if plan.config.kl_weight > 0:
    arrays['ref_logp'] = of(jnp.float32, prompts, group, reply)
  return arrays


def phases(plan: Plan) -> Iterator[Program]:
  """Yields the programs of a step in the order in which they run.

  Arguments must be those of `grpo.step` and `scoring`: another dtype, sharding
  or static argument is another program.
  """
  config, model, reward = plan.config, plan.model, plan.reward
  shapes, tensor = plan.shapes, plan.mesh.shape['tensor']
  arrays = batch(plan, shapes.prompts)
  # Arguments that every forward pass begins with: token ids and lengths of
  # briefs.
  read = arrays['prompt'], arrays['length']
  # Scores are computed a microbatch at a time, in rows of the greatest width.
  part = batch(plan, config.microbatch_groups)
  learned, moved = policy(plan), to_rollout(plan)
  weights, copied, kept = moved
  # Nothing to reshard if every weight has its dtype and sharding already.
  if copied:
    yield Program(
      'resharding',
      # In training this is `device_put` to the rollout's shardings; compiled as
      # one program here, for its memory and its traffic.
      lambda: jax.jit(
        functools.partial(as_sampled, model),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, weights),
      ).lower(learned),
      learned,
      Work(0.0, sum(map(size, jax.tree.leaves((learned, weights))))),
      copy=copied,
    )
  yield Program(
    'rollout',
    # Its prefill is small beside the decode steps of the whole batch.
    lambda: lower_rollout(plan, weights)[1](),
    kept,
    roofline.rollout(model, shapes),
    copied,
    # The cache is split over groups, and over 'tensor' up to a key-value head
    # each.
    roofline.cache_bytes(model, shapes)
    // (group_shards(plan.mesh) * min(tensor, model.num_kv_heads)),
  )
  token, place = part['rollout'].token, over_groups(plan.mesh)
  mask = jax.ShapeDtypeStruct(token.shape, jnp.bool_, sharding=place)
  head = reward_model.Head(
    np.zeros(model.model_dim, np.float32), np.zeros((), np.float32)
  )
  # A reward model on the reference's decoder needs no pass of its own, only a
  # head.
  if config.kl_weight > 0 or plan.shared:
    yield Program(
      'reference',
      lambda: reward_model.score_and_reference.lower(
        plan.frozen['reference'],
        head if plan.shared else None,
        part['prompt'],
        part['length'],
        part['rollout'],
        config.temperature,
        mask if plan.shared else None,
        config=lora.without(model),
        reference=config.kl_weight > 0,
      ),
      plan.resident['reference'],
      roofline.score(model, shapes, head=config.kl_weight > 0),
      host_to_device_bytes(plan, 'reference'),
    )
  if reward is not None:
    yield Program(
      'reward',
      lambda: reward_model.features.lower(
        plan.frozen['reward'],
        Groups(part['prompt'], part['length'], token, part['rollout'].length),
        mask,
        config=lora.without(reward),
      ),
      plan.resident['reward'],
      roofline.score(reward, shapes, head=False),
      host_to_device_bytes(plan, 'reward'),
    )
  yield update(plan)


def lower_rollout(
  plan: Plan, weights: Params
) -> tuple[Callable[[], Any], Callable[[], Any]]:
  """Returns how to lower a rollout's prefill and its largest decode program.

  Args:
    plan: of the run.
    weights: shapes of the weights as the rollout reads them.
  """
  config, model, mesh, shapes = plan.config, plan.model, plan.mesh, plan.shapes
  setup = rollout.make_setup(
    (shapes.prompts, shapes.prompt_tokens),
    config=lora.rollout_config(model),
    group_size=shapes.group,
    max_new_tokens=shapes.reply_tokens,
    eos=(0,),
    stop=(1,),
    gather=True,
  )
  arrays, method = batch(plan), samplers.Temperature(config.temperature)
  # In place of the briefs' numbers, which have the same shape and dtype, their
  # lengths once more.
  briefs = arrays['prompt'], arrays['length'], arrays['length']
  inputs = weights, *briefs, method, config.seed, 0
  start = functools.partial(decoding.start, setup=setup)

  def placed(tree: Any, heads: int | None = None) -> Any:
    return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape,
        x.dtype,
        sharding=NamedSharding(mesh, tiles.spec(mesh, x.shape, heads)),
      ),
      tree,
    )

  def lower_decode() -> Any:
    rows, keys, cache, _ = jax.eval_shape(start, *inputs)
    grow = functools.partial(
      moving.grow_cache, setup=setup, size=rollout.cache_sizes(setup)[-1]
    )
    # All layers have the same shapes.
    layer = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(
        a.shape[1:],
        a.dtype,
        sharding=NamedSharding(mesh, PartitionSpec(*a.sharding.spec[1:])),
      ),
      weights['blocks'],
    )
    return decoding.decode.lower(
      {name: tree for name, tree in weights.items() if name != 'blocks'},
      [layer] * model.num_layers,
      placed(keys, 1),
      [placed(jax.eval_shape(grow, kv), 2) for kv in cache],
      placed(rows),
      1,
      0,
      method,
      setup=setup,
    )

  return lambda: decoding.start.lower(*inputs, setup=setup), lower_decode


def update(plan: Plan) -> Program:
  """The update, the only phase whose program depends on the microbatch."""
  learned, optimizer = plan.learned, plan.optimizer
  state = train.abstract_state(learned, optimizer, plan.mesh)
  step = train.make_accumulate(plan.loss, state)
  # With all parameters trained, the loss gets the reference's log-probabilities
  # from the batch and no frozen parameters.
  adapted = plan.model.lora is not None
  base = plan.frozen['reference'] if adapted else {}
  part = objective.Part(batch(plan, plan.config.microbatch_groups))
  # Gradients are summed in arrays like the parameters.
  sums = learned if plan.microbatches > 1 else None
  work = roofline.update(
    plan.model, plan.shapes, plan.microbatches, plan.config.moment_dtype
  )
  return Program(
    'update',
    lambda: step.lower(sums, learned, base, part),
    (learned, base),
    work,
  )


def policy(plan: Plan) -> Params:
  """Shapes of the whole policy, sharded as it is trained."""
  base = plan.frozen['reference'] if plan.model.lora is not None else {}
  return lora.join(plan.learned, base)


def host_to_device_bytes(plan: Plan, name: str) -> int:
  """Bytes per chip of a frozen model that its phase copies from host memory."""
  return per_chip(plan.frozen[name]) - per_chip(plan.resident[name])


def as_sampled(config: ModelConfig, params: Params) -> Params:
  """Weights for decoding: adapters merged or kept, cast; sharding unchanged."""
  return as_dtype(lora.rollout_params(config, params), config.dtype)


def to_rollout(plan: Plan) -> tuple[Params, int, list[Any]]:
  """Applies `weights.for_rollout` to the policy's shapes.

  Returns:
    The weights as the rollout reads them; bytes per chip of those that are
    copied for it; and those that are used in place.
  """
  trained, table = policy(plan), plan.config.rollout_table
  weights = jax.tree.map(
    lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
    jax.eval_shape(functools.partial(as_sampled, plan.model), trained),
    param_shardings(lora.rollout_config(plan.model), plan.mesh, table),
  )
  before: dict[Any, Any] = flatten_dict(trained)
  after: dict[Any, Any] = flatten_dict(weights)
  # Leaves that vanish are adapters; the kernel beside them is a new array even
  # where its dtype and sharding are the same.
  merged = {path[:-1] for path in before.keys() - after.keys()}
  kept, copied = [], []
  for path, leaf in after.items():
    was = before[path]
    same = was.dtype == leaf.dtype and was.sharding.is_equivalent_to(
      leaf.sharding, was.ndim
    )
    (kept if same and path[:-1] not in merged else copied).append(leaf)
  return weights, per_chip(copied), kept


def size(leaf: Any) -> int:
  """Bytes of one whole array, replicas not counted."""
  return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def per_chip(tree: Any) -> int:
  """Bytes per chip of a tree of sharded shapes."""
  return sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
