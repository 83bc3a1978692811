"""The programs that sample a planned step's replies."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlcw.models import lora, stacks
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.models.weights import param_shardings
from rlcw.rewards import revision
from rlcw.runtime.mesh import group_shards, placed_shape
from rlcw.sampling import decoding, moving, rollout, tiles
from rlcw.sampling.decoding import Setup
from rlcw.sampling.samplers import Sampler
from rlcw.tasks.plan import load, roofline
from rlcw.tasks.plan.roofline import Work
from rlcw.tasks.plan.shapes import (
  Plan,
  Program,
  per_chip,
  policy,
  read_bytes,
  sharing,
)


def programs(
  plan: Plan,
  prompt: Any,
  length: Any,
  sampler: Sampler,
  gather: bool = True,
) -> Iterator[Program]:
  """Yields the programs of a rollout in the order in which they run.

  Args:
    plan: of a step.
    prompt: ids `[P, L]` of the briefs.
    length: lengths `[P]` of the briefs.
    sampler: see `samplers`.
    gather: see `rollout.sample_and_count`.
  """
  config, model, shapes = plan.config, plan.model, plan.shapes
  learned, (weights, copied, kept) = policy(plan), to_rollout(plan)
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
      Work(0.0, copied),
      copy=copied,
    )
  # Under the table of training, weights are gathered as in training.
  table = 'wide' if config.rollout_table == 'wide' else 'decode'
  read = read_bytes(lora.rollout_config(model), plan.mesh, table)
  # The cache is split over groups, and over 'tensor' up to a key-value head
  # each.
  heads = min(plan.mesh.shape['tensor'], model.num_kv_heads)
  places = group_shards(plan.mesh) * heads
  with jax.set_mesh(plan.mesh):
    setup = rollout.make_setup(
      (shapes.prompts, shapes.prompt_tokens),
      config=lora.rollout_config(model),
      group_size=shapes.group,
      max_new_tokens=shapes.reply_tokens,
      eos=(0,),
      stop=(1,),
      gather=gather,
    )
  # In place of the briefs' indices, which have the same shape and dtype, their
  # lengths.
  inputs = (
    *(weights, prompt, length, length),
    sampler,
    *(config.seed, 0),
    None,
    # As long as the briefs.
    (prompt, length) if revision.revises(config) else None,
  )
  start = functools.partial(decoding.start.lower, *inputs, setup=setup)
  yield Program(
    'prefill',
    start,
    [*kept.values()],
    roofline.prefill(model, shapes, read),
    sharing(model, plan.mesh),
    copied,
    roofline.cache_bytes(model, shapes._replace(group=0)) // places,
  )
  # Blocks are split into layers; those that are no copy for the rollout stay
  # beside their layers.
  outside = [leaf for path, leaf in kept.items() if path[0] != 'blocks']
  rows = load.decoding(plan.length_PxG, setup.tiling, shapes.reply_tokens)
  # The loop is compiled for as many iterations as there are tokens.
  whole = shapes.reply_tokens * shapes.prompts * shapes.group
  yield Program(
    'decode',
    lambda: lower_decode(plan.mesh, start, weights, sampler, setup),
    outside,
    roofline.decode(model, shapes, rows, read),
    sharing(model, plan.mesh),
    per_chip(weights) - per_chip(outside),
    roofline.cache_bytes(model, shapes) // places,
    runs=int(np.count_nonzero(rows.rows)) / shapes.reply_tokens,
    sent=float(rows.rows.sum()) / whole,
    serial=True,
  )


def lower_decode(
  mesh: Mesh,
  start: Callable[[], Any],
  weights: Params,
  sampler: Sampler,
  setup: Setup,
) -> Any:
  """Lowers decoding with all rows and the longest cache.

  Args:
    mesh: of the devices to lower for.
    start: lowers the program before.
    weights: of the rollout.
    sampler: see `samplers`.
    setup: of both programs.
  """

  def placed(tree: Any, heads: int | None = None) -> Any:
    return jax.tree.map(
      lambda leaf: placed_shape(
        leaf, NamedSharding(mesh, tiles.spec(mesh, leaf.shape, heads))
      ),
      tree,
    )

  rows, briefs, cache, _ = start().out_info
  size = rollout.cache_sizes(setup)[-1]
  grow = functools.partial(moving.grow_cache, setup=setup, size=size)

  def layers_of(stack: Params) -> list[Params]:
    # All layers of a stack have the same shapes.
    layer = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape[1:],
        leaf.dtype,
        sharding=NamedSharding(mesh, PartitionSpec(*leaf.sharding.spec[1:])),
      ),
      stack,
    )
    return [layer] * jax.tree.leaves(stack)[0].shape[0]

  return decoding.decode.lower(
    {name: tree for name, tree in weights.items() if name != 'blocks'},
    stacks.split(weights['blocks'], layers_of),
    placed(briefs, 1),
    [placed(jax.eval_shape(grow, kv), 2) for kv in cache],
    placed(rows),
    1,
    0,
    sampler,
    setup=setup,
  )


def as_sampled(config: ModelConfig, params: Params) -> Params:
  """Weights for decoding: adapters merged or kept, cast; sharding unchanged."""
  return as_dtype(lora.rollout_params(config, params), config.dtype)


def to_rollout(plan: Plan) -> tuple[Params, int, dict[Any, Any]]:
  """Applies `weights.for_rollout` to the policy's shapes.

  Returns:
    The weights as the rollout reads them; bytes per chip of those that are
    copied for it; and, by path, those that are used in place.
  """
  trained, table = policy(plan), plan.config.rollout_table
  weights = jax.tree.map(
    placed_shape,
    jax.eval_shape(functools.partial(as_sampled, plan.model), trained),
    param_shardings(lora.rollout_config(plan.model), plan.mesh, table),
  )
  before: dict[Any, Any] = flatten_dict(trained)
  after: dict[Any, Any] = flatten_dict(weights)
  # Leaves that vanish are adapters; the kernel beside them is a new array even
  # where its dtype and sharding are the same.
  merged = {path[:-1] for path in before.keys() - after.keys()}
  kept, copied = {}, []
  for path, leaf in after.items():
    was = before[path]
    same = was.dtype == leaf.dtype and was.sharding.is_equivalent_to(
      leaf.sharding, was.ndim
    )
    if same and path[:-1] not in merged:
      kept[path] = leaf
    else:
      copied.append(leaf)
  return weights, per_chip(copied), kept
