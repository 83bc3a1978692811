"""Pairs of replies with made features, of which the first is the better."""

import numpy as np

from rlcw.tasks.reward_model.groups import Groups, covariates

PROMPTS = 60
# Two replies and padding; the first is better, whether longer or not.
LENGTH_Nx3 = np.tile([[30, 20, 0], [20, 30, 0]], (PROMPTS // 2, 1))


def made_groups() -> Groups:
  """One pair for each prompt."""
  weight_NxRxR = np.zeros((PROMPTS, 3, 3), np.float32)
  weight_NxRxR[:, 0, 1] = 1
  return Groups(
    np.arange(PROMPTS)[:, None],
    *[np.zeros(PROMPTS)] * 3,
    length=LENGTH_Nx3,
    worth=np.tile([1, 0, np.nan], (PROMPTS, 1)),
    made=np.zeros((PROMPTS, 3), bool),
    weight=weight_NxRxR,
    covariate=covariates(LENGTH_Nx3),
  )


def made_features(signal: float, seed: int = 0) -> np.ndarray:
  """Features `[N, 3, 4]`: the first tells the better reply, the last length."""
  features_NxRxD = np.random.default_rng(seed).normal(size=(PROMPTS, 3, 4))
  features_NxRxD[:, 0, 0] += signal
  features_NxRxD[..., 3] += LENGTH_Nx3 / 5
  features_NxRxD[:, 2] = 0
  return features_NxRxD
