"""The writing reward: a linear score on a frozen decoder's reply features.

A reply's features are its tokens' final hidden states, averaged; EOS is left
out, so that a finished and a cut reply are measured alike.  Where the frozen
decoder is also the reference policy, one forward pass gives both the reference
log-probabilities and the score.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from rlcw.losses import token_logprobs
from rlcw.model import ModelConfig, Params, head_weight, read_replies
from rlcw.sampling import Rollout

FILE = 'reward_model.safetensors'


class Head(NamedTuple):
  """`score = features · weight + bias`, in stds over the training replies."""

  weight: np.ndarray | jax.Array  # [D]
  bias: np.ndarray | jax.Array  # []


def save(head: Head, workdir: Path) -> None:
  """Writes a head into its run's folder."""
  arrays = {k: np.asarray(v, np.float32) for k, v in head._asdict().items()}
  save_file(arrays, workdir / FILE)


def load(workdir: str | Path, model: str, model_dim: int) -> Head:
  """Reads the head of a finished `reward_model` run.

  Raises:
    FileNotFoundError: the run has not finished.
    ValueError: it was trained on another decoder than `model`.
  """
  workdir = Path(workdir)
  if not (workdir / FILE).exists():
    raise FileNotFoundError(
      f'{workdir / FILE} does not exist: run the reward_model task with '
      f'--workdir={workdir} first'
    )
  trunk = json.loads((workdir / 'config.json').read_text())['model']
  head = Head(**load_file(workdir / FILE))
  if trunk != model or head.weight.shape != (model_dim,):
    raise ValueError(
      f'the reward model in {workdir} was trained on {trunk!r} (features '
      f'{head.weight.shape}); it cannot read {model!r} ({model_dim} features)'
    )
  return head


def reply_features(
  reading_PxGxTxD: jax.Array, text_PxGxT: jax.Array
) -> jax.Array:
  """Mean hidden state `[P, G, D]` over the true tokens of `text_PxGxT`."""
  reading = jnp.where(text_PxGxT[..., None], reading_PxGxTxD, 0.0)
  count = jnp.maximum(text_PxGxT.sum(-1, keepdims=True), 1)
  return reading.sum(2) / count


@functools.partial(jax.jit, static_argnames='config')
def features(
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  token_PxGxT: jax.Array,
  text_PxGxT: jax.Array,
  *,
  config: ModelConfig,
) -> jax.Array:
  """Features `[P, G, D]` of G replies to each prompt, the prompt read once."""
  _, reading = read_replies(config, params, prompt_PxL, length_P, token_PxGxT)
  return reply_features(reading, text_PxGxT)


@functools.partial(jax.jit, static_argnames='config')
def score_and_reference(
  params: Params,
  head: Head,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  rollout: Rollout,
  temperature: jax.Array | float,
  *,
  config: ModelConfig,
) -> tuple[jax.Array, jax.Array]:
  """One pass of the frozen decoder for both of its uses.

  Returns:
    Writing scores `[P, G]`, and log-probabilities `[P, G, T]` of the tokens at
    `temperature` under the reference policy.
  """
  predicting, reading = read_replies(
    config, params, prompt_PxL, length_P, rollout.token
  )
  logp_N = token_logprobs(
    predicting.reshape(-1, predicting.shape[-1]),
    head_weight(params),
    rollout.token.reshape(-1),
    temperature,
  )
  features_PxGxD = reply_features(reading, rollout.text_mask)
  score_PxG = features_PxGxD @ head.weight + head.bias
  return score_PxG, logp_N.reshape(rollout.token.shape)
