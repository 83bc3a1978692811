"""One training loop: a trainer is a loss and a source of batches.

1. next_batch(state, step)  may look at the current parameters (GRPO samples
                            from them) or not (SFT, reward model)
2. update(state, batch)     one jitted step: gradients summed over
                            microbatches, one division, clip, optimiser
3. metrics                  of step n are read after step n + 1 was sent off
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from rlcw.losses import Ratio
from rlcw.runtime import metrics, processes
from rlcw.runtime.checkpoint import Checkpoints
from rlcw.runtime.mesh import replicated

Params = Any  # a nested dict of arrays

# a loss: (params, frozen, batch) -> {'loss': Ratio, any metric: Ratio}, where
# all ratios of a batch add up over its microbatches; `params` are those that
# learn, and no gradient is taken of the `frozen` ones
LossFn = Callable[[Params, Params, Any], dict[str, Ratio]]


class TrainState(struct.PyTreeNode):
  """All that a run carries from step to step."""

  step: jax.Array
  params: Params  # those that learn
  opt_state: optax.OptState
  bad_steps: jax.Array  # updates skipped in a row: loss or gradient not finite


class Batch(NamedTuple):
  """What an update learns from, and what its making is worth telling."""

  arrays: Any  # every array has the batch as its leading axis
  metrics: Mapping[str, Any]
  started: float  # time.perf_counter() once the device was free
  seconds: float = 0.0  # that its making took from then on


def make_optimizer(
  learning_rate: float,
  *,
  warmup_steps: int,
  max_grad_norm: float,
  moment_dtype: str = 'float32',
) -> optax.GradientTransformation:
  """Adam behind a global-norm clip; the rate rises linearly, then holds.

  The first moment is kept in `moment_dtype`, the second in float32.
  """
  rate = optax.linear_schedule(
    learning_rate / (warmup_steps + 1), learning_rate, warmup_steps
  )
  return optax.chain(
    optax.clip_by_global_norm(max_grad_norm),
    optax.adam(rate, b2=0.99, mu_dtype=moment_dtype),
  )


def abstract_state(
  params: Params, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes and shardings of a state, moments sharded like the parameters.

  Of the parameters, too, only shapes and shardings are needed.
  """
  whole = replicated(mesh)

  def like(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

  count: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
  moments = optax.tree_utils.tree_map_params(
    optimizer,
    lambda moment, param: like(moment, param.sharding),
    jax.eval_shape(optimizer.init, params),
    params,
    transform_non_params=lambda leaf: like(leaf, whole),
  )
  return TrainState(count, params, moments, count)


def init_state(
  params: Params, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """The state before the first step."""
  shapes = abstract_state(params, optimizer, mesh)
  places = jax.tree.map(lambda leaf: leaf.sharding, shapes.opt_state)
  return TrainState(
    step=jax.device_put(jnp.int32(0), shapes.step.sharding),
    params=params,
    opt_state=jax.jit(optimizer.init, out_shardings=places)(params),
    bad_steps=jax.device_put(jnp.int32(0), shapes.step.sharding),
  )


def make_update(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  microbatches: int = 1,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """The jitted step `(state, arrays, frozen) -> (state, metrics)`.

  k microbatches equal one batch: sums, one division.  A step whose loss or
  gradient is not finite changes nothing but `step` and `bad_steps`.  The new
  state is sharded like `state`, whose buffers it takes.  `frozen` parameters
  complete those of the state and get no gradient.
  """

  def summed(params: Params, frozen: Params, arrays: Any):
    def numerator(params: Params, arrays: Any):
      terms = loss_fn(params, frozen, arrays)
      return terms['loss'].numerator, terms

    gradient = jax.grad(numerator, has_aux=True)
    if microbatches == 1:
      return gradient(params, arrays)
    parts = jax.tree.map(
      lambda a: a.reshape(microbatches, -1, *a.shape[1:]), arrays
    )

    def add(total: Any, part: Any):
      return jax.tree.map(jnp.add, total, gradient(params, part)), None

    first = jax.tree.map(lambda a: a[0], parts)
    shapes = jax.eval_shape(gradient, params, first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]

  def update(state: TrainState, arrays: Any, frozen: Params):
    grads, terms = summed(state.params, frozen, arrays)
    divisor = jnp.maximum(terms['loss'].denominator, 1.0)
    grads = jax.tree.map(lambda g: g / divisor, grads)
    norm = optax.tree.norm(grads)
    loss = terms['loss'].numerator / divisor
    good = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(good, new, old),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    told = {
      name: ratio.numerator / jnp.maximum(ratio.denominator, 1.0)
      for name, ratio in terms.items()
    }
    bad_steps = jnp.where(good, 0, state.bad_steps + 1)
    told |= {'grad_norm': norm, 'bad_steps': bad_steps}
    return TrainState(state.step + 1, params, opt_state, bad_steps), told

  shardings = jax.tree.map(lambda a: a.sharding, state)
  return jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))


def restore(checkpoints: Checkpoints, like: TrainState) -> TrainState:
  """The state that was saved last, sharded like another one."""
  rest = like.replace(params=None)
  saved = checkpoints.restore(params=like.params, rest=rest)
  return saved['rest'].replace(params=saved['params'])


def fit(
  params: Params,
  next_batch: Callable[[TrainState, int], Batch],
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  name: str,
  steps: int,
  workdir: Path,
  checkpoint_every: int,
  frozen: Params | None = None,
  microbatches: int = 1,
  max_bad_steps: int = 3,
  watch: Callable[[dict[str, Any]], None] | None = None,
) -> TrainState:
  """Trains `params` to `steps` steps, from the newest checkpoint if any.

  Their buffers are taken over.

  The loss sees the state's parameters and the `frozen` ones, `watch` the rows
  of metrics (`metrics.Writer`).

  Raises:
    Preempted: a SIGTERM came, to any of the processes; the state after the
      step of that time is saved.
    FloatingPointError: `max_bad_steps` steps in a row had a loss or gradient
      that was not finite; the last good state is saved.
    OSError: a disk is full, or gone; what was saved before is whole.
  """
  checkpoints = Checkpoints(workdir / 'checkpoints')
  state = init_state(params, optimizer, mesh)

  def save() -> None:
    rest = state.replace(params=None)
    checkpoints.save(int(state.step), state.params, rest)

  if checkpoints.latest() is not None:
    state = restore(checkpoints, state)
    metrics.log(f'{name}: goes on from step {int(state.step)} of {steps}')
  first = int(state.step)
  compilations = metrics.Compilations()
  update = make_update(loss_fn, optimizer, state, microbatches)
  writer = metrics.Writer(workdir, first, watch)
  with writer as write, processes.notice() as noticed:

    def tell(step: int, batch: Batch, device: Any, until: float) -> bool:
      """Writes a row; whether bad steps have become too many with it."""
      device = jax.device_get(device)
      total = until - batch.started
      times = {'seconds_update': total - batch.seconds, 'seconds_step': total}
      compiled = {
        'compilations': compilations.count,
        'seconds_compiling': compilations.seconds,
      }
      write(step, {**batch.metrics, **device, **times, **compiled})
      return device['bad_steps'] >= max_bad_steps

    late = None
    for step in metrics.progress(name, first, steps, 'step'):
      batch = next_batch(state, step)
      state, device = update(state, batch.arrays, frozen or {})
      lost = late is not None and tell(*late, until=batch.started)
      late = (step, batch, device)
      done = step + 1
      stop = noticed()
      if done % checkpoint_every == 0 or done == steps or stop or lost:
        jax.block_until_ready(state)
        lost |= tell(*late, until=time.perf_counter())
        late = None
        save()
      if lost:
        checkpoints.close()
        raise FloatingPointError(
          f'{name}: loss or gradient not finite in {max_bad_steps} steps in a '
          f'row, up to step {step}; the last good state is saved in '
          f'{workdir / "checkpoints"}. A lower learning rate may help.'
        )
      if stop:
        checkpoints.close()
        metrics.log(f'{name}: told to stop; {done} of {steps} steps are saved')
        raise processes.Preempted(0)
  checkpoints.close()
  return state
