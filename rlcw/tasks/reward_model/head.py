"""A linear head on features of a decoder that stays as it is.

Letters: N groups, R replies in each, D features, M replies.
"""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlcw import Config, losses, train
from rlcw.models.decoder import Params
from rlcw.rewards.reward_model import Head
from rlcw.runtime.mesh import make_mesh, replicated
from rlcw.tasks.reward_model import objective
from rlcw.tasks.reward_model.groups import Groups
from rlcw.tasks.reward_model.projection import length_direction, project_out

# Line of a step (`console.line`).
LINE = (
  'loss {loss:.4f}, accuracy {accuracy:.1%}, {pairs_per_second:,.0f} pairs/s, '
  'learning rate {learning_rate:.2e}, {seconds_step:.2f} s'
)


def standardise(
  features_NxRxD: np.ndarray, groups: Groups
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Scales features to mean 0 and std 1 over the replies, without padding.

  Penalty and learning rate then mean the same for all of them.

  Returns:
    The arrays that `head_loss` reads; and the stds `[D]` that divided the
    features, infinite for one that varies by rounding alone.
  """
  real_MxD = features_NxRxD[groups.real]
  mean_D, std_D = real_MxD.mean(0), real_MxD.std(0) + 1e-6
  # Such a feature would be scaled up to noise.
  rounding_D = losses.ROUNDING * abs(real_MxD).max(0)
  std_D = np.where(std_D > rounding_D, std_D, np.inf)
  standard_NxRxD = (features_NxRxD - mean_D) / std_D
  arrays = {
    'features': np.asarray(standard_NxRxD, np.float32),
    'real': groups.real,
    'weight': groups.weight,
    'covariate': groups.covariate,
  }
  return arrays, std_D


def start(size: int) -> Params:
  """A head's parameters before its fit: all scores are 0."""
  return {'weight': jnp.zeros(size), 'slope': jnp.zeros(2)}


def head_loss(
  params: Params, arrays: Any, config: Config
) -> dict[str, losses.Ratio]:
  """`objective.group_loss` of a head, with an L2 penalty on its weight."""
  score_NxR = arrays['features'] @ params['weight']
  terms = objective.group_loss(
    score_NxR, params['slope'], arrays, config.debias
  )
  loss = terms['loss']
  penalty = config.l2 * jnp.square(params['weight']).sum()
  # Times the denominator, by which the sum is divided.
  total = loss.numerator + penalty * loss.denominator
  return terms | {'loss': losses.Ratio(total, loss.denominator)}


def fit_head(
  features_NxRxD: np.ndarray, groups: Groups, config: Config, workdir: Path
) -> tuple[Head, np.ndarray]:
  """Fits a linear head with the Bradley–Terry loss, an L2 penalty and Adam.

  Every step uses all groups.  The fit is on standardised features; the weight
  that is returned applies to the features as they are.

  Returns:
    The head, without bias, and the slopes `[2]` of the length covariates.
  """
  batch, std_D = standardise(features_NxRxD, groups)

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    del frozen  # The decoder has run already: its features are in `arrays`.
    return head_loss(params, arrays, config)

  counts = {'pairs': len(groups.pairs())}

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    # Asynchronous dispatch: wait, so that the update before is not timed here.
    jax.block_until_ready(state.params)
    return train.Batch(
      [train.Minibatch([batch])], {}, time.perf_counter(), counts=counts
    )

  optimizer = optax.adam(config.learning_rate)
  # The head is small: it is replicated on every device.
  mesh = make_mesh()
  params = jax.device_put(start(len(std_D)), replicated(mesh))
  state = train.fit(
    params,
    next_batch,
    loss_fn,
    optimizer,
    mesh,
    name='reward model',
    steps=config.steps,
    workdir=workdir if config.train == 'head' else workdir / 'head',
    checkpoint_every=config.steps,
    line=LINE,
    rate=optax.constant_schedule(config.learning_rate),
    config=config,
  )
  weight_D = np.asarray(state.params['weight']) / std_D
  return Head(weight_D, np.zeros(())), np.asarray(state.params['slope'])


def scaled(
  weight_D: np.ndarray, real_MxD: np.ndarray, centred: bool = True
) -> tuple[Head, float]:
  """Scales a head to scores of std 1, and perhaps mean 0, over some replies.

  Before that, a difference of two scores is the log-odds that the loss fits.

  Args:
    weight_D: of the head.
    real_MxD: features of the replies.
    centred: false for no bias.

  Returns:
    The head, and the std that its weight was divided by.
  """
  std = float((real_MxD @ weight_D).std()) + 1e-6
  weight_D = weight_D / std
  bias = -real_MxD.mean(0) @ weight_D if centred else 0.0
  return Head(weight_D, np.asarray(bias)), std


def without_length(
  weight_D: np.ndarray, features_NxRxD: np.ndarray, groups: Groups
) -> np.ndarray:
  """Takes the direction of length out of a head's weight (`projection`)."""
  given_NxR = groups.real & ~groups.made
  direction_D = length_direction(
    features_NxRxD[given_NxR], groups.length[given_NxR], groups.worth[given_NxR]
  )
  return project_out(weight_D, direction_D)
