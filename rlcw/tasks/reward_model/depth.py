"""Chooses how many of a decoder's first layers a reward model reads.

A head is fitted to the features of each number of layers, and measured by its
accuracy on training pairs that were kept apart (cross-validation over prompts).
The fewest layers are chosen whose accuracy is no more than one standard error
below the best: the rule of one standard error (Breiman et al., Classification
and Regression Trees, 1984).

Letters: N groups, R replies in each, K numbers of layers, D features, F folds,
U prompts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from rlcw import Config
from rlcw.tasks.reward_model import head
from rlcw.tasks.reward_model.groups import Groups

# Parts of the prompts, each of which is kept apart once.
_FOLDS = 5
# Numbers of layers that are compared, in equal steps.
_DEPTHS = 8

# Of arrays of the groups and a mask of groups to be fitted to.
Fit = Callable[[Any, Any], Any]


class Depth(NamedTuple):
  """A head on the first layers, measured on training pairs kept apart."""

  layers: int
  accuracy: float
  gain: float  # in accuracy over the best number of layers, at most 0
  error: float  # standard error of the gain, over prompts


def most(config: Config) -> int:
  """Most layers that are read; 0 for all."""
  return 0 if config.layers == 'auto' else config.layers


def depths(layers: int) -> tuple[int, ...]:
  """Numbers of layers to compare, up to all of them."""
  steps = range(1, _DEPTHS + 1)
  return tuple(sorted({-(-layers * n // _DEPTHS) for n in steps}))


def fewest(tried: Sequence[Depth]) -> int:
  """Index of the first that is not worse than the best by its error."""
  # With few wrong pairs the two are often equal, but for rounding.
  return [each.gain + each.error >= -1e-9 for each in tried].index(True)


def measure(
  features_NxRxKxD: np.ndarray,
  layers_K: Sequence[int],
  groups: Groups,
  config: Config,
) -> list[Depth]:
  """Measures heads on several numbers of layers.

  Args:
    features_NxRxKxD: of the replies.
    layers_K: the numbers of layers.
    groups: to train on.
    config: of the task.

  Raises:
    ValueError: there is only one prompt.
  """
  # A prompt's pairs are kept apart together.
  _, prompt_N = np.unique(groups.prompt, axis=0, return_inverse=True)
  if not prompt_N.any():
    raise ValueError(
      "layers='auto' compares heads on prompts kept apart, but the training "
      'pairs have one prompt alone; expected a number of layers, or 0 for all'
    )
  fit, fold_N = make_fit(config), prompt_N % _FOLDS
  scores = [
    held_out(features_NxRxKxD[:, :, k], groups, fold_N, fit, config)
    for k in range(len(layers_K))
  ]

  def against(score_NxR: np.ndarray) -> list[tuple[float, float, float]]:
    return [compare(x, score_NxR, groups.weight, prompt_N) for x in scores]

  best = int(np.argmax([accuracy for accuracy, _, _ in against(scores[0])]))
  compared = zip(layers_K, against(scores[best]), strict=True)
  return [Depth(layers, *numbers) for layers, numbers in compared]


def make_fit(config: Config) -> Fit:
  """Makes the fit of F heads at once, each to some of the groups.

  It is that of `head.fit_head`, without a run around it.
  """
  optimizer = optax.adam(config.learning_rate)

  def fit(arrays: Any, fitted_N: Any) -> Any:
    arrays = arrays | {
      'weight': arrays['weight'] * fitted_N[:, None, None],
      'real': arrays['real'] & fitted_N[:, None],
    }

    def loss(params: Any) -> jax.Array:
      return head.head_loss(params, arrays, config)['loss'].quotient

    def update(state: Any, _: None) -> tuple[Any, None]:
      params, moments = state
      updates, moments = optimizer.update(jax.grad(loss)(params), moments)
      return (optax.apply_updates(params, updates), moments), None

    params = head.start(arrays['features'].shape[-1])
    state = params, optimizer.init(params)
    (params, _), _ = lax.scan(update, state, length=config.steps)
    return params['weight']

  return jax.jit(jax.vmap(fit, in_axes=(None, 0)))


def fit_to_all(
  features_NxRxD: np.ndarray, groups: Groups, fit: Fit
) -> np.ndarray:
  """Weight `[D]` of a head fitted to all groups, for features as they are.

  Args:
    features_NxRxD: of the replies.
    groups: the replies.
    fit: of `make_fit`.
  """
  arrays, std_D = head.standardise(features_NxRxD, groups)
  everything = np.ones((1, len(features_NxRxD)), bool)
  return np.asarray(fit(arrays, everything))[0] / std_D


def held_out(
  features_NxRxD: np.ndarray,
  groups: Groups,
  fold_N: np.ndarray,
  fit: Fit,
  config: Config,
) -> np.ndarray:
  """Scores `[N, R]` of replies by heads fitted to the other folds.

  Args:
    features_NxRxD: of the replies.
    groups: the replies.
    fold_N: of each group, from 0.
    fit: of `make_fit`.
    config: of the task.
  """
  arrays, std_D = head.standardise(features_NxRxD, groups)
  fitted_FxN = fold_N != np.arange(fold_N.max() + 1)[:, None]
  weight_FxD = np.asarray(fit(arrays, fitted_FxN)) / std_D
  score_NxR = np.zeros(features_NxRxD.shape[:2])
  for fitted_N, weight_D in zip(fitted_FxN, weight_FxD, strict=True):
    if config.debias == 'projection':
      weight_D = head.without_length(
        weight_D, features_NxRxD[fitted_N], groups.take(fitted_N)
      )
    score_NxR[~fitted_N] = features_NxRxD[~fitted_N] @ weight_D
  return score_NxR


def compare(
  score_NxR: np.ndarray,
  other_NxR: np.ndarray,
  weight_NxRxR: np.ndarray,
  prompt_N: np.ndarray,
) -> tuple[float, float, float]:
  """Accuracy of scores, its gain over other scores, and the gain's error.

  Both are shares of the pairs' weights.  A gain is a ratio of sums over U
  prompts, `g = Σ d_u / Σ w_u`; with the residuals `e_u = d_u − g w_u` its
  standard error is `√(U / (U − 1) Σ e_u²) / Σ w_u` (linearisation: Cochran,
  Sampling Techniques, 1977, §6).

  Args:
    score_NxR: scores.
    other_NxR: the others.
    weight_NxRxR: weights of the preferences of reply i over reply j.
    prompt_N: number of each group's prompt, from 0.
  """

  def by_prompt(value_NxRxR: np.ndarray) -> np.ndarray:
    return np.bincount(prompt_N, (weight_NxRxR * value_NxRxR).sum((1, 2)))

  right_U, other_U = (
    by_prompt(each[:, :, None] > each[:, None, :])
    for each in (score_NxR, other_NxR)
  )
  weight_U = by_prompt(np.ones_like(weight_NxRxR))
  total, count = weight_U.sum(), len(weight_U)
  gain = (right_U - other_U).sum() / total
  residual_U = right_U - other_U - gain * weight_U
  error = np.sqrt(count / (count - 1) * np.square(residual_U).sum()) / total
  return float(right_U.sum() / total), float(gain), float(error)
