"""The microbatch that a planned update is compiled for, as shapes.

Letters: P briefs, G replies to each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlcw.models.packing import Part
from rlcw.rewards import revision
from rlcw.runtime.mesh import group_shards, over_groups, placed_shape
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import (
  demonstrating,
  minibatches,
  objective,
  relabelling,
)
from rlcw.tasks.plan import load
from rlcw.tasks.plan.roofline import Shapes
from rlcw.tasks.plan.shapes import Plan
from rlcw.tasks.reward_model import objective as reward_objective
from rlcw.tasks.reward_model.groups import Groups


class Microbatch(NamedTuple):
  """Input of one call of the loss, and the work of a whole step."""

  part: Any  # as the loss takes it
  parts: int  # microbatches in a step
  shapes: Shapes  # of the step
  tokens: int  # of all rows of a step, padding included
  logits: int  # tokens of a step whose log-probabilities are computed


def make_microbatch(plan: Plan) -> Microbatch:
  """Makes the microbatch of a plan, with the widest rows."""
  make = {'sft': _sft, 'reward_model': _reward_model}.get(plan.task, _grpo)
  return make(plan)


def _grpo(plan: Plan) -> Microbatch:
  config, learned = plan.config, learned_from(plan)
  micro, size = minibatches.micro(config), minibatches.size(config)
  # Each update packs its own groups; together they are so many passes.
  each = [
    pack(learned._replace(length_PxG=rows), micro)
    for rows in learned.length_PxG.reshape(-1, size, learned.shapes.group)
  ]
  passes = plan.updates // len(each)
  tokens = passes * sum(packed.tokens for packed in each)
  return Microbatch(
    Part(batch(plan, each[0].groups), each[0].widest),
    passes * sum(packed.parts for packed in each),
    plan.shapes._replace(prompts=passes * config.prompts_per_step),
    tokens,
    tokens,
  )


def learned_from(plan: Plan) -> Plan:
  """The plan of the groups that are learned from alone.

  Their demonstrations, if a run has any, are as long as the first replies.
  """
  length_PxG = plan.length_PxG[: plan.config.prompts_per_step]
  if demonstrating.shows(plan.config):
    length_PxG = np.concatenate([length_PxG, length_PxG[:, :1]], axis=1)
  shapes = plan.shapes._replace(group=length_PxG.shape[1])
  return plan._replace(length_PxG=length_PxG, shapes=shapes)


def batch(plan: Plan, prompts: int) -> dict[str, Any]:
  """Shapes of a batch, or a part of it, as `grpo.objective.pack` makes it."""
  _, group, prompt, reply = plan.shapes
  place = over_groups(plan.mesh)

  def of(dtype: Any, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

  arrays = {
    'prompt': of(jnp.int32, prompts, prompt),
    'length': of(jnp.int32, prompts),
    'rollout': Rollout(
      token=of(jnp.int32, prompts, group, reply),
      logp=of(jnp.float32, prompts, group, reply),
      length=of(jnp.int32, prompts, group),
      finished=of(jnp.bool_, prompts, group),
      given=of(jnp.bool_, prompts, group, reply)
      if revision.revises(plan.config)
      else None,
    ),
    'valid': of(jnp.bool_, prompts, group),
    'advantage': of(jnp.float32, prompts, group),
    'live': of(jnp.bool_, prompts),
  }
  if plan.config.kl_weight > 0:
    arrays['ref_logp'] = of(jnp.float32, prompts, group, reply)
  if objective.reads_old_policy(plan.config):
    arrays['old_logp'] = of(jnp.float32, prompts, group, reply)
  if relabelling.relabels(plan.config):
    arrays['relabelled'] = of(jnp.bool_, prompts)
  if plan.config.mixing.get('located_penalty', 0.0):
    arrays['located'] = of(jnp.bool_, prompts, group, reply)
  if demonstrating.shows(plan.config):
    arrays['demonstrated'] = of(jnp.float32, prompts)
    arrays['demonstration'] = Rollout(
      token=of(jnp.int32, prompts, 1, reply),
      logp=of(jnp.float32, prompts, 1, reply),
      length=of(jnp.int32, prompts, 1),
      finished=of(jnp.bool_, prompts, 1),
    )
  return arrays


def _sft(plan: Plan) -> Microbatch:
  rows, size = plan.settings.sizes(plan.config)
  length, place = plan.shapes.prompt_tokens, over_groups(plan.mesh)
  # as `sft.pack_rows` has them
  dtypes = {
    'token': jnp.int32,
    'segment': jnp.int32,
    'place': jnp.int32,
    'mask': jnp.bool_,
  }
  part = {
    name: jax.ShapeDtypeStruct((size, length), dtype, sharding=place)
    for name, dtype in dtypes.items()
  }
  return Microbatch(
    part, rows // size, plan.shapes, rows * length, rows * length
  )


def _reward_model(plan: Plan) -> Microbatch:
  packed = pack(plan, plan.settings.sizes(plan.config)[1])
  arrays = reward_objective.arrays_of(
    blank_groups(plan.shapes), np.arange(packed.groups)
  )
  place = over_groups(plan.mesh)
  arrays = jax.tree.map(lambda a: placed_shape(a, place), arrays)
  return Microbatch(
    Part(arrays, packed.widest), packed.parts, plan.shapes, packed.tokens, 0
  )


def blank_groups(shapes: Shapes) -> Groups:
  """Preferences without content, of the given sizes."""
  N, R, L, T = shapes
  return Groups(
    np.zeros((N, L), np.int32),
    np.zeros(N, np.int32),
    np.zeros((N, R, T), np.int32),
    np.zeros((N, R, T), bool),
    np.zeros((N, R), int),
    np.zeros((N, R)),
    np.zeros((N, R), bool),
    np.zeros((N, R, R), np.float32),
    np.zeros((N, R, 2), np.float32),
  )


def pack(plan: Plan, part: int = 0) -> load.Packed:
  """Rows that the plan's replies are packed into, `part` groups at a time."""
  shards = group_shards(plan.mesh)
  return load.pack(plan.length_PxG, plan.shapes, part, shards)
