"""The programs of a GRPO step, to be compiled from shapes alone.

Each is the function that training itself calls, lowered with
`jax.ShapeDtypeStruct`s for a mesh whose devices need not exist.  Programs that
run for a part of the groups at a time are compiled for the widest rows.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import train
from rlcw.data import batches
from rlcw.models import lora
from rlcw.models.config import ModelConfig
from rlcw.models.packing import Groups
from rlcw.rewards import reward_model
from rlcw.rewards.judge import local
from rlcw.runtime.mesh import (
  group_shards,
  over_groups,
  replicated,
  round_up_groups,
)
from rlcw.sampling.rollout import Rollout
from rlcw.sampling.samplers import Temperature, make_sampler
from rlcw.tasks.grpo import minibatches, objective, relabelling
from rlcw.tasks.grpo.evaluation import batch_size, load_briefs
from rlcw.tasks.plan import load, roofline, sampling
from rlcw.tasks.plan.shapes import (
  Plan,
  Program,
  per_chip,
  policy,
  read_bytes,
  sharing,
)


def phases(plan: Plan) -> Iterator[Program]:
  """Yields the programs of a step in the order in which they run.

  Arguments must be those of `grpo.step` and `scoring`: another dtype, sharding
  or static argument is another program.
  """
  yield from rollout(plan)
  # A reward model on the reference's decoder needs no pass of its own, only a
  # head.
  if plan.config.kl_weight > 0 or plan.shared:
    yield reference(plan)
  if plan.reward is not None:
    yield reward(plan, plan.reward)
  if plan.judge is not None:
    yield judge(plan, plan.judge)
  if objective.reads_old_policy(plan.config):
    yield old_policy(plan)
  yield update(plan)
  yield optimiser(plan)
  if plan.config.get('eval_every', 0):
    yield from evaluation(plan)


def rollout(plan: Plan) -> Iterator[Program]:
  """Yields the programs that sample replies."""
  arrays = batch(plan, plan.shapes.prompts)
  yield from sampling.programs(
    plan,
    arrays['prompt'],
    arrays['length'],
    Temperature(plan.config.temperature),
  )


def evaluation(plan: Plan) -> Iterator[Program]:
  """Yields the programs of an evaluation, each for all of its batches."""
  config = plan.config.copy_and_resolve_references()
  briefs = len(load_briefs(config))
  size = round_up_groups(batch_size(config, briefs), plan.mesh)
  passes, config.kl_weight = -(-briefs // size), 0.0
  shapes = plan.shapes._replace(
    prompts=size, group=config.eval.replies_per_brief
  )
  lengths = load.reply_lengths(config.plan.reply_tokens, shapes)
  one = plan._replace(config=config, shapes=shapes, length_PxG=lengths)
  arrays = batch(one, size)
  found = [
    *sampling.programs(
      one,
      arrays['prompt'],
      arrays['length'],
      make_sampler(config.eval.temperature),
      gather=False,
    )
  ]
  if plan.shared:
    found.append(reference(one))
  if plan.reward is not None:
    found.append(reward(one, plan.reward))
  if plan.unseen is not None:
    name = 'unseen' if 'unseen' in plan.frozen else 'reference'
    found.append(reward(one, plan.unseen, name)._replace(name='unseen'))
  if plan.judge is not None:
    found.append(judge(one, plan.judge))
  for program in found:
    yield program._replace(
      name=f'eval {program.name}',
      work=roofline.Work(*(passes * each for each in program.work)),
      runs=passes * program.runs,
      sent=passes * program.sent,
      per_step=1 / config.eval_every,
    )


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
  return arrays


def reference(plan: Plan) -> Program:
  """The reference's pass, which may give the writing scores as well."""
  config, model = plan.config, lora.without(plan.model)
  packed = pack(plan, config.microbatch_groups)
  arrays = batch(plan, packed.groups)
  token, place = arrays['rollout'].token, over_groups(plan.mesh)
  mask = jax.ShapeDtypeStruct(token.shape, jnp.bool_, sharding=place)
  head = reward_model.Head(
    np.zeros(model.model_dim, np.float32), np.zeros((), np.float32)
  )
  logits = packed.tokens if config.kl_weight > 0 else 0
  read = packed.parts * read_bytes(model, plan.mesh)
  return Program(
    'reference',
    lambda: reward_model.score_and_reference.lower(
      plan.frozen['reference'],
      head if plan.shared else None,
      arrays['prompt'],
      arrays['length'],
      arrays['rollout'],
      config.temperature,
      mask if plan.shared else None,
      config=model,
      width=packed.widest,
      reference=config.kl_weight > 0,
    ),
    plan.resident['reference'],
    roofline.score(model, plan.shapes, packed.tokens, read, logits),
    sharing(model, plan.mesh),
    host_to_device_bytes(plan, 'reference'),
    runs=packed.parts,
    sent=packed.parts,
  )


def reward(plan: Plan, model: ModelConfig, name: str = 'reward') -> Program:
  """The pass of a reward model with a decoder of its own, over all groups.

  Args:
    plan: of a step.
    model: config of the decoder.
    name: of its weights in `plan.frozen`.
  """
  packed = pack(plan)
  arrays = batch(plan, packed.groups)
  replies, place = arrays['rollout'], over_groups(plan.mesh)
  mask = jax.ShapeDtypeStruct(replies.token.shape, jnp.bool_, sharding=place)
  groups = Groups(
    arrays['prompt'], arrays['length'], replies.token, replies.length
  )
  read = read_bytes(model, plan.mesh)
  return Program(
    name,
    lambda: reward_model.features.lower(
      plan.frozen[name],
      groups,
      mask,
      config=lora.without(model),
      width=packed.widest,
    ),
    plan.resident[name],
    roofline.score(model, plan.shapes, packed.tokens, read),
    sharing(model, plan.mesh),
    host_to_device_bytes(plan, name),
  )


def judge(plan: Plan, model: ModelConfig) -> Program:
  """The judge's passes over replies, in a step in which it is asked.

  The principles before every brief, and the question after every reply, are
  left out: their number of tokens is unknown without the judge's tokenizer.  A
  rubric counts as one question: its criteria are unknown without the briefs.
  """
  config, shapes = plan.config, plan.shapes
  size, place = config.judge.batch_size, over_groups(plan.mesh)
  # As a second opinion it sees a reply to each brief.
  group = shapes.group if {'judge', 'rubric'} & {*plan.parts} else 1
  name = 'judge' if 'judge' in plan.frozen else 'reference'
  passes = -(-shapes.prompts // size)
  # Padded to powers of two, and a row is longer than its reply.
  padded = shapes._replace(
    prompts=passes * size,
    group=group,
    prompt_tokens=batches.power_of_two(shapes.prompt_tokens),
    reply_tokens=batches.power_of_two(shapes.reply_tokens + 1),
  )
  # Groups are repeated to fill the last pass.
  rows = np.arange(padded.prompts) % shapes.prompts
  length_PxG = plan.length_PxG[rows, :group]
  packed = load.pack(length_PxG, shapes, size, group_shards(plan.mesh), padded)

  def of(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)

  groups = Groups(
    of(size, padded.prompt_tokens),
    of(size),
    of(size, group, padded.reply_tokens),
    of(size, group),
  )
  return Program(
    'judge',
    lambda: local.probability.lower(
      plan.frozen[name],
      None,
      groups,
      (0, 1),
      config=model,
      width=packed.widest,
    ),
    plan.resident[name],
    roofline.score(
      model, padded, packed.tokens, passes * read_bytes(model, plan.mesh)
    ),
    sharing(model, plan.mesh),
    host_to_device_bytes(plan, name),
    runs=passes,
    sent=passes,
  )


def old_policy(plan: Plan) -> Program:
  """The policy's pass before the first of several updates."""
  config, model = plan.config, plan.model
  packed = pack(learned_from(plan), minibatches.micro(config))
  arrays = batch(plan, packed.groups)
  del arrays['old_logp']
  read = packed.parts * read_bytes(model, plan.mesh)
  shapes = plan.shapes._replace(prompts=config.prompts_per_step)
  return Program(
    'old policy',
    lambda: objective.make_old_policy(model, config).lower(
      policy(plan), objective.Part(arrays, packed.widest)
    ),
    (plan.learned, base(plan)),
    roofline.score(model, shapes, packed.tokens, read, packed.tokens),
    sharing(model, plan.mesh),
    runs=packed.parts,
    sent=packed.parts,
  )


def update(plan: Plan) -> Program:
  """The gradients, the only phase whose program depends on the microbatch."""
  config, model = plan.config, plan.model
  state = train.abstract_state(plan.learned, plan.optimizer, plan.mesh)
  # Each update packs its own groups; together they are so many passes.
  size, group = minibatches.size(config), plan.shapes.group
  each = [
    pack(plan._replace(length_PxG=rows), minibatches.micro(config))
    for rows in learned_from(plan).length_PxG.reshape(-1, size, group)
  ]
  passes = minibatches.updates(config) // len(each)
  parts = passes * sum(packed.parts for packed in each)
  tokens = passes * sum(packed.tokens for packed in each)
  arrays = batch(plan, each[0].groups)
  work = roofline.gradient(
    model,
    plan.shapes._replace(prompts=passes * config.prompts_per_step),
    tokens,
    tokens,
    parts,
    read_bytes(model, plan.mesh),
    per_chip(plan.learned),
  )
  return Program(
    'update',
    lambda: train.make_accumulate(plan.loss, state).lower(
      gradients(plan),
      plan.learned,
      base(plan),
      objective.Part(arrays, each[0].widest),
    ),
    (plan.learned, base(plan)),
    work,
    sharing(model, plan.mesh),
    runs=parts,
    sent=parts,
  )


def learned_from(plan: Plan) -> Plan:
  """The plan of the groups that are learned from alone."""
  prompts = plan.config.prompts_per_step
  return plan._replace(length_PxG=plan.length_PxG[:prompts])


def optimiser(plan: Plan) -> Program:
  """Clipping the gradient, and Adam."""
  state = train.abstract_state(plan.learned, plan.optimizer, plan.mesh)
  place, updates = replicated(plan.mesh), minibatches.updates(plan.config)
  scalar: Any = jax.ShapeDtypeStruct((), jnp.float32, sharding=place)
  rate = objective.make_rate(plan.config)
  moments = plan.resident['optimiser']

  def lower() -> Any:
    part = objective.Part(batch(plan, minibatches.micro(plan.config)))
    terms = jax.eval_shape(plan.loss, plan.learned, base(plan), part)
    terms = jax.tree.map(lambda _: scalar, terms)
    return train.make_apply(plan.optimizer, state, rate).lower(
      state, plan.learned, terms, scalar
    )

  return Program(
    'optimiser',
    lower,
    (plan.learned, moments),
    roofline.optimiser(per_chip(plan.learned), per_chip(moments), updates),
    runs=updates,
    sent=updates,
  )


def pack(plan: Plan, part: int = 0) -> load.Packed:
  """Rows that the plan's replies are packed into, `part` groups at a time."""
  shards = group_shards(plan.mesh)
  return load.pack(plan.length_PxG, plan.shapes, part, shards)


def base(plan: Plan) -> Any:
  """Frozen parameters that complete the learned ones, if any."""
  # With all parameters trained, the loss gets the reference's log-probabilities
  # from the batch and no frozen parameters.
  return plan.frozen['reference'] if plan.model.lora is not None else {}


def gradients(plan: Plan) -> Any:
  """Sums that a part's gradients are added to, if there are several parts."""
  return plan.learned if plan.microbatches > 1 else None


def host_to_device_bytes(plan: Plan, name: str) -> int:
  """Bytes per chip of a frozen model that its phase copies from host memory."""
  return per_chip(plan.frozen[name]) - per_chip(plan.resident[name])
