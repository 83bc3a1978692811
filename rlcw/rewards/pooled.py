"""Features of a reply: a decoder's hidden states, pooled over the reply.

The hidden states are those after the final norm.  `mean` averages over the
reply's text without EOS, so that finished and truncated replies are scored
alike; `last` takes the last token's state, as sequence classifiers do: the last
token that the chat template puts after a reply.  Thoughts before a reply are
not read.

Letters: P prompts, G replies to each, N replies, T tokens, D model,
K numbers of layers.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.groups import forward_groups, forward_layers
from rlcw.models.packing import Groups

POOLING = ('mean', 'last')


def end_of_reply(chat: ChatFormat, pooling: str) -> list[int]:
  """Ids that a reward model reads after a whole reply.

  With `last` they are all that the chat template puts there, for whoever
  renders a conversation with it and reads the last token.
  """
  return chat.after_reply if pooling == 'last' else chat.end


def read_mask(
  span_Nx2: np.ndarray, length_N: np.ndarray, width: int, pooling: str
) -> np.ndarray:
  """Mask `[N, T]` of the tokens whose hidden states are averaged.

  Args:
    span_Nx2: first and last place (exclusive) of each reply's text.
    length_N: tokens of each row, those before and after the text included.
    width: T.
    pooling: `mean` for the text, `last` for the last token.
  """
  position_T = np.arange(width)
  # Right padding: the last real token is at length − 1.
  if pooling == 'last':
    return position_T == length_N[:, None] - 1
  first_Nx1, stop_Nx1 = np.split(span_Nx2, 2, axis=1)
  return (position_T >= first_Nx1) & (position_T < stop_Nx1)


def reply_rows(
  chat: ChatFormat,
  contents: Sequence[Sequence[int]],
  ended: Sequence[bool] | np.ndarray,
  end: Sequence[int],
  limit: int | Sequence[int],
) -> tuple[list[list[int]], np.ndarray]:
  """Rows of ids to be read after a prompt.

  Args:
    chat: of the model that reads them.
    contents: ids of the replies' texts, N of them.
    ended: false where the reply was cut off already.
    end: ids after a whole reply.
    limit: most tokens of a text with its end, or of each; a longer one is cut.

  Returns:
    The rows, and the places `[N, 2]` of the texts in them.
  """
  # Where prompts open a thought, it ends here, empty.
  before = chat.encode_thought('')
  limits = [limit] * len(contents) if isinstance(limit, int) else limit
  rows, spans = [], []
  for content, whole, most in zip(contents, ended, limits, strict=True):
    row = [*content, *(end if whole else [])][:most]
    rows.append(before + row)
    spans.append((len(before), len(before) + min(len(content), most)))
  return rows, np.array(spans)


def reply_features(
  hidden_PxGxTxD: jax.Array, mask_PxGxT: jax.Array
) -> jax.Array:
  """Mean hidden state `[P, G, D]` over the true tokens of the mask, float32.

  An all-false mask gives zeros.
  """
  # `where`, not a product: 0 · NaN is NaN, so padding could leak through one.
  hidden = jnp.where(mask_PxGxT[..., None], hidden_PxGxTxD, 0.0)
  count = jnp.maximum(mask_PxGxT.sum(-1, keepdims=True), 1)
  # bfloat16 would lose small terms in a sum over thousands of tokens.
  return hidden.sum(2, dtype=jnp.float32) / count


@functools.partial(jax.jit, static_argnames=('config', 'width'))
def features(
  params: Params,
  groups: Groups,
  mask_PxGxT: jax.Array,
  *,
  config: ModelConfig,
  width: int = 0,
) -> jax.Array:
  """Features `[P, G, D]` of G replies to each of P prompts.

  Prompts and replies are packed into rows of `width` tokens.
  """
  hidden_SxNxD, layout = forward_groups(config, params, groups, width)
  return reply_features(layout.of_replies(hidden_SxNxD), mask_PxGxT)


@functools.partial(jax.jit, static_argnames=('config', 'width', 'layers'))
def layer_features(
  params: Params,
  groups: Groups,
  mask_PxGxT: jax.Array,
  *,
  config: ModelConfig,
  layers: tuple[int, ...],
  width: int = 0,
) -> jax.Array:
  """`features` `[P, G, K, D]` of K numbers of first layers, from one pass."""
  hidden, layout = forward_layers(config, params, groups, layers, width)
  features = [
    reply_features(layout.of_replies(each_SxNxD), mask_PxGxT)
    for each_SxNxD in hidden
  ]
  return jnp.stack(features, 2)
