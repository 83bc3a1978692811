"""The training loop shared by all trainers, each a loss and a batch source.

1. next_batch(state, step)  makes a batch, with the current parameters (GRPO
                            samples from them) or without (SFT, reward model)
2. update(state, parts)     gradients summed over the parts of a minibatch, one
                            division, clip, optimiser; two jitted programs.  A
                            batch may have several minibatches, an update each
3. metrics                  of step n are fetched after step n + 1 is
                            dispatched, so that the device never idles
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from rlcw import Config
from rlcw.losses import Ratio
from rlcw.runtime import claim, console, metrics, processes
from rlcw.runtime.checkpoint import Checkpoints
from rlcw.runtime.mesh import placed_shape, replicated
from rlcw.runtime.rows import Rows
from rlcw.runtime.signals import Stopped

Params = Any  # a nested dict of arrays

# (params, frozen, batch) -> {'loss': Ratio, other metrics: Ratio}.  Gradients
# are taken of `params` only.  Every ratio must be a sum over examples, so that
# numerators and denominators add up over the parts of a batch.
LossFn = Callable[[Params, Params, Any], dict[str, Ratio]]


class TrainState(struct.PyTreeNode):
  """The state carried from step to step, and saved in checkpoints."""

  step: jax.Array  # scalar int32, steps done
  params: Params  # trainable ones only
  opt_state: optax.OptState
  # Scalar int32: consecutive updates skipped, as loss or gradient was not
  # finite; those without a gradient do not count.
  bad_steps: jax.Array


class Minibatch(NamedTuple):
  """The examples of one update."""

  parts: Sequence[Any]  # trees, whose gradients are summed one after another
  # Scalar that the sum of losses is divided by, if parts of the batch that have
  # no gradient were left out; None for the sum of the denominators.
  divisor: jax.Array | None = None


class Batch(NamedTuple):
  """One training batch and the metrics of producing it."""

  minibatches: Sequence[Minibatch]  # an update each, in their order
  metrics: Mapping[str, Any]
  started: float  # time.perf_counter() when the device became free
  seconds: float = 0.0  # from then until the batch was complete
  # Counts such as `tokens`, of which the metrics have the rates per second.
  counts: Mapping[str, float] = {}
  sample: str = ''  # a text to show, if any


class Evaluation(Protocol):
  """Evaluates a run while it trains (see `fit`); called in all processes."""

  def __call__(self, state: TrainState, step: int) -> Mapping[str, Any]:
    """Returns metrics for the row of a step, from the state after it.

    Empty where no evaluation is due.  `seconds_eval` is no part of the step.
    """
    ...

  def select(self, state: TrainState, save: Callable[[], None]) -> str:
    """Keeps the state if it is the best; returns why the run ends, or ''.

    Called once the rows up to this state are written, also on resuming.  `save`
    saves a checkpoint of it.
    """
    ...


class Ended(ValueError):
  """Raised by `next_batch`, in all processes, to end a run that is saved."""


# --- The loop -----------------------------------------------------------------


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
  line: str = 'loss {loss:.4f}, {seconds_step:.2f} s',
  rate: optax.Schedule | None = None,
  config: Config | None = None,
  evaluation: Evaluation | None = None,
) -> TrainState:
  """Trains for `steps` steps, or resumes from the newest checkpoint.

  Args:
    params: the parameters to train; their buffers are donated.
    next_batch: `(state, step) -> Batch`, called once per step.  A step has an
      update for each minibatch; checkpoints are between steps.
    loss_fn: see `LossFn`.
    optimizer: applied to the gradient of the whole batch.
    mesh: the mesh of the parameters.
    name: shown in the progress bar and in messages.
    steps: number of steps, those of an earlier process included.
    workdir: checkpoints and metrics are written here.
    checkpoint_every: steps between checkpoints.
    frozen: parameters that complete `params` in the loss, without gradient.
    microbatches: the largest number of parts of a minibatch.
    max_bad_steps: updates in a row without a finite loss and gradient that stop
      the run.
    watch: receives every row of metrics (`metrics.Writer`).
    line: template of the line that is logged for each step (`console.line`).
    rate: the optimiser's learning rate, for the metrics.
    config: of the run, for its loggers.
    evaluation: adds metrics to the rows of some steps, and may end the run; a
      run that is stopped in it repeats the steps since the last checkpoint.

  Returns:
    The state after the last step.

  Raises:
    Ended: raised by `next_batch`; the state before this step is saved.
    Stopped: a process was asked to stop; the state after the last whole step
      is saved.
    FloatingPointError: loss or gradient was not finite in `max_bad_steps` steps
      in a row; the last good state is saved.
    OSError: a disk is full or gone; earlier checkpoints are intact.
  """
  folder = workdir / 'checkpoints'
  checkpoints = Checkpoints(folder)
  state = init_state(params, optimizer, mesh)
  if resumes := checkpoints.latest() is not None:
    state = restore(checkpoints, state)
  # Not before: settings that a saved state does not fit are not this run's.
  claim.settle()
  first = int(state.step)
  if resumes:
    console.log(f'{name}: resumes from step {first} of {steps}')
  writer = metrics.Writer(workdir, first, watch, config)
  rows = Rows(writer, name, steps, line)
  update = make_update(loss_fn, optimizer, state, microbatches, rate)

  def save() -> None:
    rest = state.replace(params=None)
    checkpoints.save(int(state.step), state.params, rest)

  def finish() -> None:
    rows.write()
    # At `first` there is nothing new.
    if int(state.step) > first:
      save()
    checkpoints.wait()

  # Also after an error: the state that is being written may be the only one.
  with contextlib.closing(checkpoints), writer:
    ended = evaluation.select(state, save) if evaluation else ''
    for step in console.progress(name, first, steps, 'step', lines=False):
      if ended:
        break
      with _ends_saved(finish, name, (step, steps, folder)):
        processes.stop_together()
        batch = next_batch(state, step)
        state, stats = take_step(update, state, batch, frozen or {})
      # This step runs on the device while the host writes the row of the step
      # before it.  So divergence is noticed one step late, which is harmless:
      # a bad step does not change the parameters.
      diverged = rows.write(batch.started) >= max_bad_steps
      with _ends_unsaved(checkpoints.wait, name):
        found = evaluation(state, step) if evaluation else {}
      rows.add(step, batch, stats, found)
      done = step + 1
      saves = done % checkpoint_every == 0 or done == steps or diverged
      if saves or found:
        # Rows are written before the checkpoint: a resumed run removes the
        # rows of steps that it repeats, but cannot restore missing ones.
        jax.block_until_ready(state)
        diverged |= rows.write() >= max_bad_steps
      if evaluation and found:
        ended = evaluation.select(state, save)
      if saves or diverged or ended:
        save()
      if diverged:
        checkpoints.wait()
        raise FloatingPointError(
          f'{name}: loss or gradient not finite in {max_bad_steps} steps in a '
          f'row, up to step {step}; the last good state is saved in {folder}. '
          'A lower learning rate may help.'
        )
  done = int(state.step)
  if ended:
    console.log(f'{name}: ended after {done} steps: {ended}')
  with _ends_saved(lambda: None, name, (done, steps, folder)):
    processes.stop_together()
  return state


@contextlib.contextmanager
def _ends_saved(
  finish: Callable[[], None], name: str, at: tuple[int, int, Path]
) -> Iterator[None]:
  """Calls `finish` where the context ends a run between two steps.

  A stop is logged, `at` the number of steps done, of the steps of the run, with
  the folder of checkpoints.
  """
  try:
    yield
  except (Ended, Stopped) as error:
    finish()
    if isinstance(error, Stopped):
      done, steps, folder = at
      where = f'step {done} of {steps} is saved in {folder}'
      console.log(
        f'{name}: stopped {error.seconds:.1f} s after the {error.cause}: '
        f'{where if done else "no step was done"}'
      )
    raise


@contextlib.contextmanager
def _ends_unsaved(wait: Callable[[], None], name: str) -> Iterator[None]:
  """Logs that a stop in the context, an evaluation, leaves steps to repeat."""
  try:
    yield
  except Stopped as error:
    # Without the row's other part this step cannot be saved.
    wait()
    console.log(
      f'{name}: {error}, in an evaluation; steps since the last checkpoint '
      'will be repeated'
    )
    raise


def take_step(
  update: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
  state: TrainState,
  batch: Batch,
  frozen: Params,
) -> tuple[TrainState, list[dict[str, jax.Array]]]:
  """Makes the updates of a batch, which together are one step of the state.

  Returns:
    The state, and the metrics of each update.

  Raises:
    Stopped: within the first update; the state is unchanged.
  """
  # Each update counts itself, and donates the state that it is called with.
  after = state.step + 1 if len(batch.minibatches) > 1 else None
  stats = []
  pauses: list[Callable[[], None]] = [processes.stop_together]
  for parts, divisor in batch.minibatches:
    state, found = update(state, parts, frozen, divisor, *pauses)
    stats.append(found)
    # From now on the state is that of no whole step, which could not be saved.
    pauses = []
  return state if after is None else state.replace(step=after), stats


def restore(checkpoints: Checkpoints, like: TrainState) -> TrainState:
  """Restores the newest readable state, with the shardings of `like`.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: none of the checkpoints can be read.
  """
  rest = like.replace(params=None)
  saved = checkpoints.restore(params=like.params, rest=rest)
  return saved['rest'].replace(params=saved['params'])


# --- An update ----------------------------------------------------------------


def make_update(
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  microbatches: int = 1,
  rate: optax.Schedule | None = None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Makes the step `(state, parts, frozen, divisor) -> (state, metrics)`.

  The parts of a batch give the same update as the whole, because sums are
  accumulated and divided once; only the activations of one part at a time are
  in memory.  Parts of equal shapes share one compiled program.

  Args:
    loss_fn: returns sums, see `LossFn`.
    optimizer: of the run.
    state: gives the shardings of the new state.  The step donates the buffers
      of the state that it is called with.
    microbatches: the largest number of parts of a minibatch; of one, no sum is
      kept beside its gradient.
    rate: the optimiser's learning rate, for the metrics.

  Returns:
    The step.  Its `frozen` parameters complete the state's, without gradient;
    its `divisor` is that of `Minibatch`.  It calls `pause` between two parts,
    when the state is still unchanged.
  """
  accumulate = make_accumulate(loss_fn, state)
  apply = make_apply(optimizer, state, rate)
  shardings = jax.tree.map(lambda a: a.sharding, state.params)
  zeros = jax.jit(
    lambda params: jax.tree.map(jnp.zeros_like, params), out_shardings=shardings
  )
  add = jax.jit(lambda a, b: {name: a[name].join(b[name]) for name in a})

  def update(
    state: TrainState,
    parts: Sequence[Any],
    frozen: Params,
    divisor: jax.Array | None = None,
    pause: Callable[[], None] = lambda: None,
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    # Zeros, so that the first part runs the program of the others.
    grads = zeros(state.params) if microbatches > 1 else None
    total = None
    for part in parts:
      if total is not None:
        pause()
      before = total
      grads, terms = accumulate(grads, state.params, frozen, part)
      total = terms if total is None else add(total, terms)
      # JAX would dispatch all parts at once, and a request to stop would wait
      # for them all.  One part in advance keeps the device busy.
      jax.block_until_ready(before)
    return apply(state, grads, total, divisor)

  return update


def make_accumulate(loss_fn: LossFn, state: TrainState) -> Callable[..., Any]:
  """Makes the jitted `(grads, params, frozen, part) -> (grads, terms)`.

  It adds the gradient of a part's losses to `grads`, which are donated, or
  returns that gradient if they are None; `terms` are those of `loss_fn`.
  """

  def accumulate(grads: Any, params: Params, frozen: Params, part: Any) -> Any:
    # The gradient of the numerator alone: quotients of parts with different
    # token counts would not add up to the quotient of the batch.
    def numerator(params: Params) -> tuple[jax.Array, Any]:
      terms = loss_fn(params, frozen, part)
      return terms['loss'].numerator, terms

    gradient, terms = jax.grad(numerator, has_aux=True)(params)
    if grads is not None:
      gradient = jax.tree.map(jnp.add, grads, gradient)
    return gradient, terms

  shardings = jax.tree.map(lambda a: a.sharding, state.params)
  return jax.jit(accumulate, donate_argnums=0, out_shardings=(shardings, None))


def make_apply(
  optimizer: optax.GradientTransformation,
  state: TrainState,
  rate: optax.Schedule | None,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
  """Makes the jitted `(state, grads, terms, divisor) -> (state, metrics)`.

  A step is skipped, with the metric `skipped` 1, if its loss or gradient is not
  finite, or if its gradient is 0 throughout, such as that of a batch without a
  valid reply: Adam would move the parameters by its momentum alone.  A skipped
  step changes only `step` and, in the first case, `bad_steps`; the schedule of
  the learning rate does not count it.
  """

  def apply(state: TrainState, grads: Any, terms: Any, divisor: Any):
    if divisor is None:
      divisor = terms['loss'].denominator
    terms = terms | {'loss': Ratio(terms['loss'].numerator, divisor)}
    grads = jax.tree.map(lambda g: Ratio(g, divisor).quotient, grads)
    stats = {name: ratio.quotient for name, ratio in terms.items()}
    norm = optax.tree.norm(grads)
    # Decided on the device, so that the host need not wait for the loss: the
    # update is computed in any case, and `where` selects old or new values.
    finite = jnp.isfinite(stats['loss']) & jnp.isfinite(norm)
    good = finite & (norm > 0)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(good, new, old),
      (params, opt_state),
      (state.params, state.opt_state),
    )
    # A step without a gradient neither adds to the bad ones in a row nor ends
    # them.
    bad_steps = jnp.where(good, 0, state.bad_steps + ~finite)
    stats |= {'grad_norm': norm, 'bad_steps': bad_steps}
    stats['skipped'] = (~good).astype(jnp.int32)
    if rate is not None:
      # Adam's count, which leaves out the updates that were skipped.
      counts = optax.tree_utils.tree_get_all_with_path(state.opt_state, 'count')
      stats['learning_rate'] = jnp.asarray(rate(counts[0][1]), jnp.float32)
    return TrainState(state.step + 1, params, opt_state, bad_steps), stats

  # Donating the old state halves the memory of parameters and moments.  Fixed
  # output shardings keep XLA from choosing others, which would recompile.
  shardings = jax.tree.map(lambda a: a.sharding, state)
  return jax.jit(apply, donate_argnums=0, out_shardings=(shardings, None))


# --- The state ----------------------------------------------------------------


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


def abstract_state(
  params: Params, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """Shapes, dtypes and shardings of a state; moments shard like parameters.

  Args:
    params: arrays or `jax.ShapeDtypeStruct`s with shardings.
    optimizer: of the run.
    mesh: the scalars are replicated over it.
  """
  on_all_devices = replicated(mesh)

  count: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=on_all_devices)
  # Optax can tell which leaves of its state mirror the parameters (moments)
  # and which do not (step counters).
  moments = optax.tree_utils.tree_map_params(
    optimizer,
    lambda moment, param: placed_shape(moment, param.sharding),
    jax.eval_shape(optimizer.init, params),
    params,
    transform_non_params=lambda leaf: placed_shape(leaf, on_all_devices),
  )
  return TrainState(count, params, moments, count)
