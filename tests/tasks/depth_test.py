"""The choice of how many layers a reward model reads."""

from typing import Any

import numpy as np
import pipeline
import pytest
from made_pairs import PROMPTS, made_features, made_groups

from rlcw.tasks.reward_model import depth


def test_a_gain_and_its_error_are_worked_by_hand() -> None:
  """Two pairs of a prompt, and one of each of two others."""
  weight_NxRxR = np.tile(np.array([[0.0, 1.0], [0.0, 0.0]]), (4, 1, 1))
  score_NxR = np.array([[1, 0], [1, 0], [1, 0], [0, 0]])  # a tie is not right
  other_NxR = np.array([[1, 0], [0, 1], [1, 0], [1, 0]])
  prompt_N = np.array([0, 0, 1, 2])
  found = depth.compare(score_NxR, other_NxR, weight_NxRxR, prompt_N)
  # of the prompts the gains are 1, 0 and −1
  np.testing.assert_allclose(found, [0.75, 0, np.sqrt(3 / 2 * 2) / 4])
  found = depth.compare(score_NxR, other_NxR, 2 * weight_NxRxR, prompt_N)
  np.testing.assert_allclose(found, [0.75, 0, np.sqrt(3 / 2 * 2) / 4])
  # of weights 3, 1 and 2 the sum of gains is 1, and the residuals are 2.5 less
  weight_NxRxR[[1, 3]] *= 2
  right, gain, error = depth.compare(
    score_NxR, other_NxR, weight_NxRxR, prompt_N
  )
  assert (right, gain) == (pytest.approx(4 / 6), 0)
  assert error == pytest.approx(np.sqrt(3 / 2 * (2**2 + 2**2)) / 6)


@pytest.mark.parametrize(
  ('layers', 'expected'),
  [
    (30, (4, 8, 12, 15, 19, 23, 27, 30)),
    (8, tuple(range(1, 9))),
    (2, (1, 2)),
    (1, (1,)),
  ],
)
def test_depths_are_eighths_of_the_layers(
  layers: int, expected: tuple[int, ...]
) -> None:
  assert depth.depths(layers) == expected


@pytest.mark.parametrize('debias', ['none', 'length', 'projection'])
def test_the_fewest_layers_as_good_as_the_best_are_chosen(debias: str) -> None:
  config = pipeline.shipped('reward_model')
  config.update(debias=debias, steps=60)
  layers = (2, 4, 6, 8)
  features_NxRxKxD = np.stack(
    [made_features(3.0 if k in (6, 8) else 0.5, k) for k in layers], 2
  )
  tried = depth.measure(features_NxRxKxD, layers, made_groups(), config)
  assert tuple(each.layers for each in tried) == layers
  assert layers[depth.fewest(tried)] == 6
  assert min(t.accuracy for t in tried[2:]) > 0.9 > tried[1].accuracy + 0.1
  assert max(each.gain for each in tried) == 0


def test_one_standard_error_below_the_best_is_as_good() -> None:
  tried = [
    depth.Depth(1, 0.70, -0.20, 0.10),
    depth.Depth(2, 0.85, -0.05, 0.05),
    depth.Depth(3, 0.90, 0.0, 0.0),
    depth.Depth(4, 0.80, -0.10, 0.2),
  ]
  assert depth.fewest(tried) == 1
  assert depth.fewest(tried[2:]) == 0
  rounded = depth.Depth(1, 0.6, -0.1 - 0.2, 0.3)
  assert rounded.gain < -rounded.error
  assert depth.fewest([rounded, *tried[2:]]) == 0


def test_a_fold_is_scored_by_heads_that_have_not_seen_it() -> None:
  config = pipeline.shipped('reward_model')
  config.steps = 5
  groups, features_NxRxD = made_groups(), made_features(1.0)
  fold_N = np.arange(PROMPTS) % 5
  turned_NxRxR = groups.weight.copy()
  turned_NxRxR[fold_N == 3] = turned_NxRxR[fold_N == 3].swapaxes(1, 2)
  fit = depth.make_fit(config)
  one, other = (
    depth.held_out(features_NxRxD, each, fold_N, fit, config)
    for each in (groups, groups._replace(weight=turned_NxRxR))
  )
  np.testing.assert_array_equal(one[fold_N == 3], other[fold_N == 3])
  same_NxR: Any = np.isclose(one, other)
  assert not same_NxR[fold_N != 3, :2].any()


def test_pairs_of_one_prompt_cannot_be_kept_apart() -> None:
  config: Any = pipeline.shipped('reward_model')
  groups = made_groups()._replace(prompt=np.zeros((PROMPTS, 1)))
  with pytest.raises(ValueError, match="layers='auto' .* one prompt alone"):
    depth.measure(made_features(1.0)[:, :, None], [2], groups, config)
