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
from jax.sharding import Mesh

from rlcw import Config, train
from rlcw.data import batches
from rlcw.models import lora
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.models.weights import abstract_params, param_shardings
from rlcw.rewards import reward_model
from rlcw.rewards.judge import local
from rlcw.runtime.mesh import group_shards, over_groups
from rlcw.sampling import rollout, samplers, tiles
from rlcw.tasks.plan import load, roofline
from rlcw.tasks.plan.roofline import Work


class Plan(NamedTuple):
  """Models, optimiser, loss and mesh of a run; all arrays are shapes only."""

  config: Config
  mesh: Mesh
  model: ModelConfig  # of the policy, with adapters and dtype
  reward: ModelConfig | None  # None where the reference's pass scores too
  judge: ModelConfig | None  # None where no judge is loaded
  shapes: roofline.Shapes
  optimizer: optax.GradientTransformation
  loss: train.LossFn
  learned: Params
  # 'reference', if read; 'reward' and 'judge', if models of their own
  frozen: dict[str, Params]
  resident: dict[str, Any]  # arrays that stay in HBM all through a step, by use
  length_PxG: np.ndarray  # of the replies

  @property
  def shared(self) -> bool:
    """True if the reward model is a head on the reference's decoder."""
    return self.config.writing == 'reward_model' and self.reward is None

  @property
  def microbatches(self) -> int:
    """Number of microbatches in a step."""
    return self.shapes.prompts // self.config.microbatch_groups


class Program(NamedTuple):
  """One phase of a step: how to lower it, its arguments and its work."""

  name: str
  lower: Callable[[], Any]
  resident_inputs: Any  # shapes of those arguments that are resident anyway
  work: Work
  sharing: int = 1  # chips that attention is split over
  copy: int = 0  # bytes per chip of weights that exist in this phase only
  cache: int = 0  # bytes per chip of the KV cache, if evenly split
  # Whether what follows a collective waits for it, as a token for the last one.
  serial: bool = False
  # Shares of the compiled loops' iterations, and of all their rows, that run
  # for replies of the plan's lengths.
  turns: float = 1.0
  rows: float = 1.0


def resident_arrays(
  config: Config, learned: Params, moments: Any, frozen: dict[str, Params]
) -> dict[str, Any]:
  """Arrays that stay in HBM all through a step, by use.

  With `offload`, frozen models but the judge are in host memory between their
  phases.
  """
  resident = {'parameters': learned, 'optimiser': moments}
  for name, tree in frozen.items():
    # The reference is the base of the adapters, which every phase reads; a
    # judge is never moved.
    base = name == 'reference' and config.train == 'lora'
    stays = base or name == 'judge' or not config.offload
    resident[name] = tree if stays else {}
  return resident


def frozen_shapes(
  model: ModelConfig, mesh: Mesh, table: str = 'train'
) -> Params:
  """Shapes of a frozen model, in its compute dtype and without adapters."""
  model = lora.without(model)
  return jax.tree.map(
    lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
    jax.eval_shape(
      functools.partial(as_dtype, dtype=model.dtype), abstract_params(model)
    ),
    param_shardings(model, mesh, table),
  )


def batch(plan: Plan) -> dict[str, Any]:
  """Shapes of a training batch, as `grpo.step.make_batch` makes it."""
  prompts, group, prompt, reply = plan.shapes
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
  }
  if plan.config.kl_weight > 0:
    arrays['ref_logp'] = of(jnp.float32, prompts, group, reply)
  return arrays


def phases(plan: Plan) -> Iterator[Program]:
  """Yields the programs of a step in the order in which they run.

  Arguments must be those of `grpo.step` and `scoring`: another dtype, sharding
  or static argument is another program.
  """
  yield from sampling(plan)
  config, model, reward = plan.config, plan.model, plan.reward
  arrays = batch(plan)
  # Arguments that every forward pass begins with: token ids and lengths of
  # briefs.
  read = arrays['prompt'], arrays['length']
  token, place = arrays['rollout'].token, over_groups(plan.mesh)
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
        *read,
        arrays['rollout'],
        config.temperature,
        mask if plan.shared else None,
        config=lora.without(model),
        reference=config.kl_weight > 0,
      ),
      plan.resident['reference'],
      forward_work(plan, model, logits=config.kl_weight > 0),
      sharing(model, plan.mesh),
      host_to_device_bytes(plan, 'reference'),
    )
  if reward is not None:
    yield Program(
      'reward',
      lambda: reward_model.features.lower(
        plan.frozen['reward'],
        *read,
        token,
        mask,
        config=lora.without(reward),
      ),
      plan.resident['reward'],
      forward_work(plan, reward),
      sharing(reward, plan.mesh),
      host_to_device_bytes(plan, 'reward'),
    )
  if plan.judge is not None:
    yield judge(plan, plan.judge)
  yield update(plan)


def sampling(plan: Plan) -> Iterator[Program]:
  """Yields the programs that sample replies."""
  config, model, shapes = plan.config, plan.model, plan.shapes
  learned, (weights, copied, kept) = policy(plan), to_rollout(plan)
  arrays = batch(plan)
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
  sampled, shards = lora.rollout_config(model), group_shards(plan.mesh)
  # Under the table of training, weights are gathered as in training.
  table = 'wide' if config.rollout_table == 'wide' else 'decode'
  read = read_bytes(sampled, plan.mesh, table)
  with jax.set_mesh(plan.mesh):
    tiling = tiles.tiling(shapes.prompts, shapes.group, gather=True)
  rows = load.decoding(plan.length_PxG, tiling, shapes.reply_tokens)
  works = (
    roofline.prefill(model, shapes, read),
    roofline.decode(model, shapes, rows, read),
  )
  whole = max(len(rows.rows), 1)
  yield Program(
    'rollout',
    lambda: rollout.sample.lower(
      weights,
      arrays['prompt'],
      arrays['length'],
      # In place of the briefs' indices, which have the same shape and dtype.
      arrays['length'],
      samplers.Temperature(config.temperature),
      config.seed,
      0,
      config=sampled,
      group_size=shapes.group,
      max_new_tokens=shapes.reply_tokens,
      eos=(0,),
      stop=(1,),
    ),
    kept,
    Work(*map(sum, zip(*works, strict=True))),
    sharing(model, plan.mesh),
    copied,
    # The cache is split over groups, and over 'tensor' up to a key-value head
    # each.
    shapes.tokens
    * roofline.token_bytes(model)
    // (shards * min(plan.mesh.shape['tensor'], model.num_kv_heads)),
    serial=True,
    turns=int(np.count_nonzero(rows.rows)) / whole,
    rows=float(rows.rows.sum()) / (whole * shapes.prompts * shapes.group),
  )


def judge(plan: Plan, model: ModelConfig) -> Program:
  """The judge's pass over replies, in a step in which it is asked.

  The principles before every brief, and the question after every reply, are
  left out: their number of tokens is unknown without the judge's tokenizer.
  """
  config, shapes = plan.config, plan.shapes
  size, place = config.judge.batch_size, over_groups(plan.mesh)
  # As a second opinion it sees a reply to each brief.
  group = shapes.group if config.writing == 'judge' else 1
  name = 'judge' if 'judge' in plan.frozen else 'reference'

  def of(*shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)

  # Widths are powers of two, and a row is longer than its reply.
  row = batches.power_of_two(shapes.reply_tokens + 1)
  seen, length_PxG = shapes._replace(group=group), plan.length_PxG[:, :group]
  tokens = shapes.prompts * shapes.prompt_tokens + int(length_PxG.sum())
  passes = -(-shapes.prompts // size)
  return Program(
    'judge',
    lambda: local.probability.lower(
      plan.frozen[name],
      None,
      of(size, batches.power_of_two(shapes.prompt_tokens)),
      of(size),
      of(size, group, row),
      of(size, group),
      (0, 1),
      config=model,
    ),
    plan.resident[name],
    roofline.score(model, seen, tokens, passes * read_bytes(model, plan.mesh)),
    sharing(model, plan.mesh),
  )


def forward_work(
  plan: Plan, model: ModelConfig, *, logits: bool = False
) -> Work:
  """Work of a forward pass of a model over the packed rows of a step."""
  tokens = packed_tokens(plan)
  read = read_bytes(model, plan.mesh)
  return roofline.score(
    model, plan.shapes, tokens, read, tokens if logits else 0
  )


def packed_tokens(plan: Plan) -> int:
  """Tokens of the rows that a step's groups are packed into."""
  return load.packed_tokens(
    plan.length_PxG,
    plan.shapes,
    plan.config.microbatch_groups,
    group_shards(plan.mesh),
  )


def read_bytes(model: ModelConfig, mesh: Mesh, table: str = 'decode') -> int:
  """Bytes per chip of the weights that it reads in one pass.

  Training shards weights over 'fsdp', but a chip reads all that it gathers: as
  much as the table `decode` keeps on it.  Of an embedding beside a head, a pass
  reads a few rows.
  """
  shapes = frozen_shapes(model, mesh, table)
  if 'head' in shapes:
    shapes = {name: tree for name, tree in shapes.items() if name != 'embed'}
  return per_chip(shapes)


def update(plan: Plan) -> Program:
  """The update, the only phase whose program depends on the microbatch."""
  learned, optimizer = plan.learned, plan.optimizer
  state = train.abstract_state(learned, optimizer, plan.mesh)
  step = train.make_update(plan.loss, optimizer, state, plan.microbatches)
  # With all parameters trained, the loss gets the reference's log-probabilities
  # from the batch and no frozen parameters.
  adapted = plan.model.lora is not None
  base = plan.frozen['reference'] if adapted else {}
  tokens = packed_tokens(plan)
  work = roofline.update(
    plan.model,
    plan.shapes,
    tokens,
    plan.microbatches,
    read_bytes(plan.model, plan.mesh),
    per_chip(learned),
    per_chip(plan.resident['optimiser']),
  )
  return Program(
    'update',
    lambda: step.lower(state, batch(plan), base),
    (learned, plan.resident['optimiser'], base),
    work,
    sharing(plan.model, plan.mesh),
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


def sharing(model: ModelConfig, mesh: Mesh) -> int:
  """Number of chips that attention is split over.

  By groups, and by key-value heads where these split evenly.
  """
  tensor = mesh.shape['tensor']
  return group_shards(mesh) * (1 if model.num_kv_heads % tensor else tensor)


def per_chip(tree: Any) -> int:
  """Bytes per chip of a tree of sharded shapes."""
  return sum(
    int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
