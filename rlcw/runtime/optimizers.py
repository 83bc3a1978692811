"""The optimiser of all trainers: Adam, its learning rate, and weight decay.

The learning rate is a function of the number of updates, those left out that
were skipped.
"""

from typing import Any

import jax
import optax

from rlcw import Config
from rlcw.runtime import console
from rlcw.runtime.settings import leaves, refuse_unread

_FALLING = 'linear', 'cosine'
SCHEDULES = 'constant', *_FALLING  # values of `schedule`
# The weights of all layers are stacked along the first axis of these.
STACKED = 'blocks'


def optimizer_settings(
  *, learning_rate: float, warmup_steps: int
) -> dict[str, Any]:
  """Returns the settings of an optimiser, with defaults for a trainer."""
  return dict(
    learning_rate=learning_rate,  # after the warm-up
    warmup_steps=warmup_steps,  # updates of linear growth of the learning rate
    schedule='constant',  # constant | linear | cosine, after the warm-up
    final_ratio=0.0,  # of the rate at the end of linear or cosine to the first
    weight_decay=0.0,  # of matrices, not of norms and biases (AdamW)
    beta1=0.9,  # of Adam's first moment
    beta2=0.99,  # of its second
    max_grad_norm=1.0,  # gradients are clipped to this norm
  )


def check(config: Config, node: str = '') -> None:
  """Checks the settings of an optimiser against each other.

  Args:
    config: of a task.
    node: the node with the optimiser's settings, as in `decoder.`.

  Raises:
    ValueError: the rate is to fall, but not by its schedule.
  """
  if dict(leaves(config)).get(f'{node}schedule') in _FALLING:
    return
  refuse_unread(
    config,
    {f'{node}final_ratio': 0.0},
    f'a rate that falls: expected {node}schedule one of {_FALLING}',
  )


def rate_of(settings: Config, updates: int) -> optax.Schedule:
  """Learning rate of a run, by the number of updates.

  Args:
    settings: with those of `optimizer_settings`.
    updates: of the whole run.
  """
  if 0 < updates <= settings.warmup_steps:
    console.notice(
      f'warmup_steps={settings.warmup_steps} of {updates} updates: the '
      f'learning rate never reaches {settings.learning_rate:g}'
    )
  return make_rate(
    settings.learning_rate,
    settings.warmup_steps,
    # Configs of earlier versions do not have these settings.
    schedule=settings.get('schedule', 'constant'),
    final_ratio=settings.get('final_ratio', 0.0),
    updates=updates,
  )


def optimizer_of(
  settings: Config, updates: int, moment_dtype: str = 'float32'
) -> optax.GradientTransformation:
  """Optimiser of a run; arguments as `rate_of` and `make_optimizer`."""
  return make_optimizer(
    rate_of(settings, updates),
    max_grad_norm=settings.max_grad_norm,
    moment_dtype=moment_dtype,
    weight_decay=settings.get('weight_decay', 0.0),
    beta1=settings.get('beta1', 0.9),
    beta2=settings.get('beta2', 0.99),
  )


def make_rate(
  learning_rate: float,
  warmup_steps: int,
  *,
  schedule: str = 'constant',
  final_ratio: float = 0.0,
  updates: int = 0,
) -> optax.Schedule:
  """Learning rate by the number of updates: warm-up, then a schedule.

  Of U updates, the first W of which warm up, the rate of update n is

    n < W     η (n + 1) / (W + 1)
    n ≥ W     η (f + (1 − f) g(t)), with t = (n − W) / (U − W), where g is
              constant  1
              linear    1 − t
              cosine    (1 + cos πt) / 2  (arXiv 1608.03983, without restarts)

  so that it is above 0 in every update, and would reach f η in one more.

  Args:
    learning_rate: η.
    warmup_steps: W.
    schedule: constant, linear or cosine.
    final_ratio: f, in `[0, 1]`.
    updates: U; not read if constant.

  Raises:
    ValueError: an unknown schedule.
  """
  # Divided by warmup_steps + 1 so that the first step's rate is above 0.
  warmup = optax.linear_schedule(
    learning_rate / (warmup_steps + 1), learning_rate, warmup_steps
  )
  # A run that is all warm-up has no update after it.
  rest = max(updates - warmup_steps, 1)
  if schedule == 'constant':
    return warmup
  if schedule == 'linear':
    fall = optax.linear_schedule(
      learning_rate, final_ratio * learning_rate, rest
    )
  elif schedule == 'cosine':
    fall = optax.cosine_decay_schedule(learning_rate, rest, final_ratio)
  else:
    raise ValueError(f'schedule={schedule!r}; expected one of {SCHEDULES}')
  return optax.join_schedules([warmup, fall], [warmup_steps])


def make_optimizer(
  learning_rate: float | optax.Schedule,
  *,
  max_grad_norm: float,
  warmup_steps: int = 0,
  moment_dtype: str = 'float32',
  weight_decay: float = 0.0,
  beta1: float = 0.9,
  beta2: float = 0.99,
) -> optax.GradientTransformation:
  """Adam with gradient clipping and decoupled weight decay.

  Sources: Adam, arXiv 1412.6980; AdamW, arXiv 1711.05101.

  Args:
    learning_rate: a schedule, or the constant rate after a linear warm-up.
    max_grad_norm: global norm that gradients are clipped to.
    warmup_steps: of a rate that is no schedule.
    moment_dtype: dtype of the first moment; the second is float32.
    weight_decay: each update also subtracts so many times the learning rate
      times the weight, of the weights that `decayed` selects.
    beta1: decay of the first moment.
    beta2: decay of the second moment.
  """
  rate = learning_rate
  if not callable(rate):
    rate = make_rate(rate, warmup_steps)
  adam: Any = dict(b1=beta1, b2=beta2, mu_dtype=moment_dtype)
  clip = optax.clip_by_global_norm(max_grad_norm)
  # A state of the optimiser without a decay has no place for one.
  if weight_decay == 0:
    return optax.chain(clip, optax.adam(rate, **adam))
  decay: Any = dict(weight_decay=weight_decay, mask=decayed)
  return optax.chain(clip, optax.adamw(rate, **adam, **decay))


def decayed(params: Any) -> Any:
  """Selects the weights that decay: true for matrices, false for vectors.

  Matrices are kernels, adapters, embedding and head; vectors are biases, the
  scales of norms and a reward model's head.  A stack of matrices, one for each
  layer, has rank 3, and a stack of vectors has rank 2.
  """

  def is_matrix(path: Any, leaf: Any) -> bool:
    stacked = getattr(path[0], 'key', None) == STACKED
    return leaf.ndim - stacked >= 2

  return jax.tree.map_with_path(is_matrix, params)
