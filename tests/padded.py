"""A forward pass over padded groups, against which packed ones are held."""

from typing import Any

import jax
import jax.numpy as jnp

from rlcw.models import decoder
from rlcw.models.config import ModelConfig


def forward_replies(
  config: ModelConfig,
  params: Any,
  prompt_PxL: Any,
  length_P: Any,
  token_PxGxT: Any,
) -> tuple[jax.Array, jax.Array]:
  """Runs each brief once, then its G replies with the brief as prefix.

  Returns:
    `predicting` and `reading`, both `[P, G, T, D]`: the hidden state before
    each reply token, which predicts it, and the one at that token.
  """
  last_PxD, prefix = decoder.prefill(config, params, prompt_PxL, length_P)
  reading, _ = decoder.Decoder(config).apply(
    {'params': params}, token_PxGxT, prefix
  )
  # Token t is predicted at t - 1; the first one at the brief's last token.
  first = jnp.broadcast_to(
    last_PxD[:, None, None], (*token_PxGxT.shape[:2], 1, last_PxD.shape[-1])
  )
  return jnp.concatenate([first, reading[:, :, :-1]], axis=2), reading
