"""The programs of a step, to be compiled from shapes alone.

Each is the function that training itself calls, lowered with
`jax.ShapeDtypeStruct`s for a mesh whose devices need not exist.  Programs that
run for a part of the groups at a time are compiled for the widest rows.

Letters: P briefs, G replies to each, N pairs of them.
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
from rlcw.models.packing import Groups, Part
from rlcw.rewards import (
  pairwise,
  pooled,
  revision,
  reward_model,
  rollout_scores,
  writing,
)
from rlcw.rewards.judge import local
from rlcw.runtime import console
from rlcw.runtime.mesh import (
  group_shards,
  over_groups,
  replicated,
  round_up_groups,
)
from rlcw.sampling.samplers import Temperature, make_sampler
from rlcw.tasks.grpo import minibatches, motivating, objective, refitting
from rlcw.tasks.grpo.evaluation import batch_size, load_briefs
from rlcw.tasks.plan import load, roofline, sampling
from rlcw.tasks.plan.microbatches import (
  batch,
  blank_groups,
  learned_from,
  make_microbatch,
  pack,
)
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

  Arguments must be those of the task: another dtype, sharding or static
  argument is another program.
  """
  if plan.task == 'grpo':
    yield from rollout(plan)
    # A reward model on the reference's decoder needs no pass of its own, only a
    # head, where both read the same texts.
    log_probs, scores = plan.config.kl_weight > 0, plan.shared
    if log_probs and scores and reads_plain_briefs(plan):
      yield reference(plan, log_probs=False)._replace(name='reward')
      scores = False
    if log_probs or scores:
      yield reference(plan, scores, log_probs)
    if plan.reward is not None:
      yield reward(plan, plan.reward)
    if plan.judge is not None:
      yield judge(plan, plan.judge)
      if 'pairs' in plan.parts:
        yield comparisons(plan, plan.judge)
    if refitting.refits(plan.config):
      yield from refit(plan)
    if objective.reads_old_policy(plan.config):
      yield old_policy(plan)
  if plan.task == 'reward_model':
    yield features(plan)
  if plan.learned:
    yield update(plan)
    yield optimiser(plan)
  if plan.config.get('eval_every', 0):
    yield from evaluation(plan)


def reads_plain_briefs(plan: Plan) -> bool:
  """True if scorers read other texts than the policy; see `rewards.plain`."""
  return motivating.tells(plan.config) or revision.revises(plan.config)


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
  with config.unlocked():
    config.extract_rules = False  # as many briefs before that as after it
  try:
    briefs = len(load_briefs(config))
  except FileNotFoundError as error:
    console.notice(f'plan: without the evaluation, as there is {error}')
    return
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


def reference(
  plan: Plan, scores: bool = True, log_probs: bool = True
) -> Program:
  """A pass of the reference's decoder over all replies.

  Args:
    plan: of a step.
    scores: give the writing scores, if the reward model shares the decoder.
    log_probs: give the reference's log-probabilities, if there is a KL term.
  """
  config, model = plan.config, lora.without(plan.model)
  packed = pack(plan, config.microbatch_groups)
  arrays = batch(plan, packed.groups)
  token, place = arrays['rollout'].token, over_groups(plan.mesh)
  mask = jax.ShapeDtypeStruct(token.shape, jnp.bool_, sharding=place)
  head = reward_model.Head(
    np.zeros(model.model_dim, np.float32), np.zeros((), np.float32)
  )
  scores &= plan.shared
  log_probs &= config.kl_weight > 0
  logits = packed.tokens if log_probs else 0
  read = packed.parts * read_bytes(model, plan.mesh)
  return Program(
    'reference',
    lambda: rollout_scores.score_and_reference.lower(
      plan.frozen['reference'],
      head if scores else None,
      arrays['prompt'],
      arrays['length'],
      arrays['rollout'],
      config.temperature,
      mask if scores else None,
      config=model,
      width=packed.widest,
      reference=log_probs,
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
    lambda: pooled.features.lower(
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

  A rubric counts as one question: its criteria are unknown without the briefs,
  as are their demands, which are not counted.
  """
  shapes, lengths = plan.shapes, plan.length_PxG
  if {*writing.OF_GOOD, 'rubric'} & {*plan.parts}:
    return _questions(plan, model, 'judge', shapes, lengths)
  # As a second opinion it sees a reply to each brief, now and then.
  one = shapes._replace(group=1)
  program = _questions(plan, model, 'judge', one, lengths[:, :1])
  return program._replace(per_step=1 / plan.config.monitors.judge_every)


def comparisons(plan: Plan, model: ModelConfig) -> Program:
  """The judge's passes over pairs of replies, each in both orders."""
  settings, shapes = plan.config.pairs, plan.shapes
  drawn = (
    pairwise.draw(settings.mode, shapes.group, settings.opponents, (0, p))
    for p in range(shapes.prompts)
  )
  length_N = np.concatenate(
    [
      length_G[pairs].sum(1)
      for length_G, pairs in zip(plan.length_PxG, drawn, strict=True)
    ]
  )
  shapes = shapes._replace(
    prompts=len(length_N), group=2, reply_tokens=2 * shapes.reply_tokens
  )
  return _questions(
    plan, model, 'pairs', shapes, np.stack([length_N, length_N], 1)
  )


def _questions(
  plan: Plan,
  model: ModelConfig,
  phase: str,
  shapes: roofline.Shapes,
  length_PxG: np.ndarray,
) -> Program:
  """The judge's passes over texts.

  The principles before every brief, and the question after every text, are
  left out: their number of tokens is unknown without the judge's tokenizer.

  Args:
    plan: of the run.
    model: the judge's.
    phase: its name.
    shapes: P briefs, with G texts each.
    length_PxG: tokens of the texts.
  """
  config, group = plan.config, shapes.group
  size, place = config.judge.batch_size, over_groups(plan.mesh)
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
  packed = load.pack(
    length_PxG[rows], shapes, size, group_shards(plan.mesh), padded
  )

  def of(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)

  groups = Groups(
    of(size, padded.prompt_tokens),
    of(size),
    of(size, group, padded.reply_tokens),
    of(size, group),
  )
  return Program(
    phase,
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


def features(plan: Plan) -> Program:
  """A reward model's pass over a batch of the data, before it is trained."""
  config, size = plan.config, plan.config.batch_size
  shapes = plan.shapes._replace(prompts=size)
  # Padded to powers of two.
  padded = shapes._replace(
    prompt_tokens=batches.power_of_two(shapes.prompt_tokens),
    reply_tokens=batches.power_of_two(shapes.reply_tokens),
  )
  length_PxG = load.reply_lengths(config.plan.reply_tokens, shapes)
  packed = load.pack(length_PxG, shapes, 0, group_shards(plan.mesh), padded)
  rows = blank_groups(padded)
  # All weights may be trained: then there are no others.
  params = plan.base or {k: v for k, v in plan.learned.items() if k != 'score'}
  return Program(
    'features',
    lambda: pooled.features.lower(
      params,
      Groups(rows.prompt, rows.prompt_length, rows.token, rows.read),
      rows.mask,
      config=lora.without(plan.model),
      width=packed.widest,
    ),
    params,
    roofline.score(
      plan.model, padded, packed.tokens, read_bytes(plan.model, plan.mesh)
    ),
    sharing(plan.model, plan.mesh),
    before=True,
  )


def refit(plan: Plan) -> Iterator[Program]:
  """The passes that a reward model takes to follow the policy, now and then."""
  passes = []
  if plan.judge is not None and 'pairs' not in plan.parts:
    passes.append(comparisons(plan, plan.judge))
  name = 'reference' if plan.reward is None else 'reward'
  passes.append(reward(plan, plan.reward or plan.model, name))
  for program in passes:
    yield program._replace(
      name=f'refit {program.name}', per_step=1 / plan.config.refit.every
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
      policy(plan), Part(arrays, packed.widest)
    ),
    (plan.learned, plan.base),
    roofline.score(model, shapes, packed.tokens, read, packed.tokens),
    sharing(model, plan.mesh),
    runs=packed.parts,
    sent=packed.parts,
  )


def update(plan: Plan) -> Program:
  """The gradients, the only phase whose program depends on the microbatch."""
  state = train.abstract_state(plan.learned, plan.optimizer, plan.mesh)
  part, parts, shapes, tokens, logits = make_microbatch(plan)
  work = roofline.gradient(
    plan.model,
    shapes,
    tokens,
    logits,
    parts,
    read_bytes(plan.model, plan.mesh),
    per_chip(plan.learned),
  )
  return Program(
    'update',
    lambda: train.make_accumulate(plan.loss, state).lower(
      gradients(plan), plan.learned, plan.base, part
    ),
    (plan.learned, plan.base),
    work,
    sharing(plan.model, plan.mesh),
    runs=parts,
    sent=parts,
  )


def optimiser(plan: Plan) -> Program:
  """Clipping the gradient, and Adam, of all updates."""
  state = train.abstract_state(plan.learned, plan.optimizer, plan.mesh)
  place, updates = replicated(plan.mesh), plan.updates
  scalar: Any = jax.ShapeDtypeStruct((), jnp.float32, sharding=place)
  moments = plan.resident['optimiser']

  def lower() -> Any:
    part = make_microbatch(plan).part
    terms = jax.eval_shape(plan.loss, plan.learned, plan.base, part)
    terms = jax.tree.map(lambda _: scalar, terms)
    return train.make_apply(plan.optimizer, state, plan.rate).lower(
      state, plan.learned, terms, scalar if plan.task == 'grpo' else None
    )

  return Program(
    'optimiser',
    lower,
    (plan.learned, moments),
    roofline.optimiser(per_chip(plan.learned), per_chip(moments), updates),
    runs=updates,
    sent=updates,
  )


def gradients(plan: Plan) -> Any:
  """Sums that a part's gradients are added to, if there are several parts."""
  return plan.learned if plan.microbatches > 1 else None


def host_to_device_bytes(plan: Plan, name: str) -> int:
  """Bytes per chip of a frozen model that its phase copies from host memory."""
  return per_chip(plan.frozen[name]) - per_chip(plan.resident[name])
