"""The loss of a reward model; batch and optimiser of training its decoder.

Task `reward_model` trains with them, and task `plan` compiles them ahead of
time; one definition for both makes sure that the plan is of the program that
runs.

Letters: N groups of the data, B groups of a step, R replies in each, D model,
L prompt tokens, T reply tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from rlcw import Config, losses, train
from rlcw.models import lora, packing
from rlcw.models.compute import BatchSettings
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.packing import Part
from rlcw.rewards import pooled
from rlcw.runtime import optimizers
from rlcw.tasks.reward_model.groups import Groups


class _Groups(BatchSettings):
  """Settings of a step's groups."""

  def valid(self, config: Config, mesh: Mesh) -> list[int]:
    sizes = super().valid(config, mesh)
    # The correlation that `group_loss` penalises is one of the whole batch.
    return sizes[-1:] if config.debias == 'length' else sizes


SETTINGS = _Groups('decoder.groups_per_step', 'decoder.microbatch_groups')

# Weight of the penalty on a debiased score's squared correlation with length.
# For comparison, the Bradley–Terry loss of a trained head is about 0.1.
CORRELATION_PENALTY = 1.0


def check(config: Config, mesh: Mesh) -> None:
  """Checks the batch of a step of the decoder, if it is trained.

  Raises:
    ValueError: see `optimizers.check` and `BatchSettings.check`.
  """
  optimizers.check(config, 'decoder.')
  if config.train == 'head':
    return
  whole, part = SETTINGS.sizes(config)
  if config.debias == 'length' and part != whole:
    raise ValueError(
      'debias=length penalises a correlation over a whole step, which '
      f'{SETTINGS.part}={part} would divide; expected 0'
    )
  SETTINGS.check(config, mesh)


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """The optimiser of a decoder (`optimizers.optimizer_of`)."""
  settings = config.decoder
  return optimizers.optimizer_of(settings, settings.steps, config.moment_dtype)


def arrays_of(groups: Groups, index_B: np.ndarray) -> dict[str, Any]:
  """Arrays of the groups at these indices, as `make_loss` reads them.

  Of each reply they have the tokens that its features depend on.
  """
  rows = groups.take(index_B)
  return {
    'groups': packing.Groups(
      rows.prompt, rows.prompt_length, rows.token, rows.read.astype(np.int32)
    ),
    'mask': rows.mask,
    'weight': rows.weight,
    'covariate': rows.covariate,
    'real': rows.real,
  }


def pack(
  arrays: dict[str, Any],
  lengths: tuple[np.ndarray, np.ndarray],
  config: Config,
  sharding: Any,
) -> tuple[list[Part], float]:
  """Lays a step's batch out in packed rows.

  Args:
    arrays: of `arrays_of`, with groups on the leading axis.
    lengths: `[B]` and `[B, R]` tokens of all prompts and replies, on the host.
    config: of the task.
    sharding: of groups.

  Returns:
    The microbatches, and the share of the computed tokens that are padding.
  """
  packed = packing.partition(
    *lengths,
    arrays['groups'].prompt.shape[-1],
    arrays['groups'].token.shape[-1],
    part=SETTINGS.sizes(config)[1],
  )
  return packed.split(arrays, sharding), packed.padding


def make_loss(
  model_config: ModelConfig, config: Config, slope_2: np.ndarray
) -> train.LossFn:
  """Makes the loss of decoder and head: `group_loss` of the replies' scores.

  The loss takes learned parameters with the head's weight as `score` `[D]`,
  frozen ones, and a `Part` of `pack`.

  Args:
    model_config: of the decoder.
    config: of the task.
    slope_2: slopes of the length covariates, which stay fixed.
  """

  def loss_fn(
    params: Params, frozen: Params, part: Part
  ) -> dict[str, losses.Ratio]:
    params, arrays = lora.join(params, frozen), part.arrays
    features_BxRxD = pooled.features(
      params,
      arrays['groups'],
      arrays['mask'],
      config=model_config,
      width=part.width,
    )
    score_BxR = features_BxRxD @ params['score']
    return group_loss(score_BxR, slope_2, arrays, config.debias)

  return loss_fn


def group_loss(
  score_NxR: jax.Array,
  slope_2: jax.Array | np.ndarray,
  arrays: Any,
  debias: str,
) -> dict[str, losses.Ratio]:
  """Bradley–Terry loss over the pairs of each group, and their accuracy.

  With `debias='length'` the preferences are modelled as score plus length
  effect (a covariate, as in arXiv 2404.04475).  The effect, `slope_2`, is
  dropped after training, so that the score is left with the rest.  Features
  could encode length all the same, so correlation of the score with length is
  penalised as well.

  Args:
    score_NxR: scores of the replies.
    slope_2: slopes of the length covariates.
    arrays: `weight` `[N, R, R]`; and with `debias='length'` `covariate`
      `[N, R, 2]` and `real` `[N, R]`.
    debias: as in the config; only length changes the loss.
  """
  explained_NxR = 0.0
  if debias == 'length':
    explained_NxR = arrays['covariate'] @ slope_2
  loss = losses.bradley_terry(score_NxR + explained_NxR, arrays['weight'])
  if debias == 'length':
    covariate = arrays['covariate']
    penalty = losses.squared_correlation(
      score_NxR.reshape(-1),
      covariate.reshape(-1, covariate.shape[-1]),
      arrays['real'].reshape(-1),
    )
    total = loss.numerator + CORRELATION_PENALTY * penalty * loss.denominator
    loss = losses.Ratio(total, loss.denominator)
  pair_NxRxR = arrays['weight'] > 0
  # Unweighted, and by the score alone, as the reward model will be used.
  wins = pair_NxRxR & (score_NxR[:, :, None] > score_NxR[:, None, :])
  share = losses.Ratio(
    wins.sum().astype(jnp.float32), pair_NxRxR.sum().astype(jnp.float32)
  )
  return {'loss': loss, 'accuracy': share}
