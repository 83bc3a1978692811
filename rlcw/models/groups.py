"""Forward passes over groups: prompts and their replies, in packed rows.

Letters: P prompts, G replies in a group, L length, T reply length, S rows,
N tokens of a row, D model.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlcw.models import packing, stacks
from rlcw.models.attention_kernels import Prefix
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Decoder, Params, head_weight
from rlcw.models.layers import RMSNorm, token_logprobs_and_entropy
from rlcw.models.packing import Groups, Layout


def forward_groups(
  config: ModelConfig,
  params: Params,
  groups: Groups,
  width: int = 0,
  preface: Prefix | None = None,
) -> tuple[jax.Array, Layout]:
  """Runs briefs and their replies in packed rows, without their padding.

  Args:
    config: of the model.
    params: of the model.
    groups: P of them, as `packing.Partition.split` orders them.
    width: N, tokens of a row, which its groups do not exceed; 0 for as many
      as they may have.
    preface: a prefix common to all briefs, already computed: a row without
      padding for each of the packed rows.

  Returns:
    Hidden states `[S, N, D]` at each token, and the layout of the rows.
  """
  layout = packing.lay_out(groups, width)
  token_SxN = layout.rows(layout.join(groups.prompt, groups.token))
  hidden_Sx1xNxD, _ = Decoder(config).apply(
    {'params': params}, token_SxN[:, None], preface, layout=layout
  )
  return hidden_Sx1xNxD[:, 0], layout


def forward_layers(
  config: ModelConfig,
  params: Params,
  groups: Groups,
  layers: Sequence[int],
  width: int = 0,
) -> tuple[list[jax.Array], Layout]:
  """Hidden states of several numbers of first layers, from one pass.

  They are those of `forward_groups` for `config.first_layers`, and the memory
  is that of all layers' activations.

  Args:
    config: of the model.
    params: of the model.
    groups: as in `forward_groups`.
    layers: numbers of first layers, at least 1.
    width: as in `forward_groups`.

  Returns:
    For each number, hidden states `[S, N, D]`; and the layout of the rows.
  """
  layout = packing.lay_out(groups, width)
  token_SxN = layout.rows(layout.join(groups.prompt, groups.token))
  _, kept = Decoder(config).apply(
    {'params': params},
    token_SxN[:, None],
    layout=layout,
    mutable=['intermediates'],
  )
  by_layer = stacks.split(kept['intermediates']['blocks'])
  norm = RMSNorm(config.norm_eps, config.norm_offset)
  variables = {'params': params['final_norm']}
  hidden = []
  for k in layers:
    (x_Sx1xNxD,) = by_layer[k - 1]['activations']
    hidden.append(norm.apply(variables, x_Sx1xNxD[:, 0]))
  return hidden, layout


def reply_logprobs(
  config: ModelConfig,
  params: Params,
  hidden_SxNxD: jax.Array,
  layout: Layout,
  token_PxGxT: jax.Array,
  temperature: jax.Array | float,
) -> jax.Array:
  """Log-probabilities `[P, G, T]` alone of `reply_logprobs_and_entropy`."""
  inputs = config, params, hidden_SxNxD, layout, token_PxGxT, temperature
  return reply_logprobs_and_entropy(*inputs, entropy=False)[0]


def reply_logprobs_and_entropy(
  config: ModelConfig,
  params: Params,
  hidden_SxNxD: jax.Array,
  layout: Layout,
  token_PxGxT: jax.Array,
  temperature: jax.Array | float,
  *,
  entropy: bool = True,
) -> list[jax.Array]:
  """Log-probabilities of reply tokens, from `forward_groups`, and entropies.

  Both are `[P, G, T]`, and 0 at padding; without `entropy` the second is left
  out.
  """
  D = hidden_SxNxD.shape[-1]
  # The hidden state at the token before predicts a token.
  predicting_SxNxD = jnp.take_along_axis(
    hidden_SxNxD, layout.previous[..., None], axis=1
  )
  brief_PxL = jnp.zeros((len(layout.length), layout.briefs[1]), int)
  target_SxN = layout.rows(layout.join(brief_PxL, token_PxGxT))
  found = token_logprobs_and_entropy(
    predicting_SxNxD.reshape(-1, D),
    head_weight(params),
    target_SxN.reshape(-1),
    temperature,
    config=config,
    entropy=entropy,
  )
  return [layout.of_replies(x_N.reshape(target_SxN.shape)) for x_N in found]
