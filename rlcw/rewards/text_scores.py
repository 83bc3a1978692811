"""Scores of replies by a reward model, from their texts.

The reward model reads them with its own tokenizer and chat template, whichever
policy they are of.

Letters: P prompts, G replies to each, N replies, L prompt tokens, T reply
tokens, D model.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlcw.data import batches
from rlcw.data.characters import blank
from rlcw.data.messages import Prompt, messages, transcript
from rlcw.models import packing, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.packing import Groups
from rlcw.rewards.pooled import features, read_mask, reply_rows
from rlcw.rewards.reward_model import RewardModel
from rlcw.runtime import processes


def score(
  model: RewardModel,
  prompts: Sequence[Prompt],
  replies: Sequence[Sequence[str]],
  finished: np.ndarray,
  widths: tuple[int, int] = (0, 0),
) -> np.ndarray:
  """Scores `[P, G]` of G replies to each of P prompts; see `read`."""
  features_PxGxD = read(model, prompts, replies, finished, widths)
  return score_features(model, features_PxGxD, replies)


def score_features(
  model: RewardModel,
  features_PxGxD: np.ndarray,
  replies: Sequence[Sequence[str]],
) -> np.ndarray:
  """Scores `[P, G]` of replies from the features of `read`."""
  weight_D, bias = (np.asarray(each) for each in model.head)
  score_PxG = features_PxGxD @ weight_D + bias
  return floor_blank_replies(score_PxG, replies, model.floor)


def floor_blank_replies(
  score_PxG: np.ndarray,
  text: Sequence[Sequence[str]],
  floor: float = float('nan'),
) -> np.ndarray:
  """Replaces scores `[P, G]` of blank replies with the lowest one there is.

  A blank reply has no text to average features over, so a reward model would
  give it just the bias, which is more than many real replies get.  It gets the
  lowest score of training, whichever other replies were sampled, unless one of
  these has a lower one.

  Args:
    score_PxG: of the replies.
    text: `[P][G]` replies.
    floor: the lowest score of training; NaN if it is not known: then the
      lowest of the group's other replies, NaN without any.
  """
  blank_PxG = np.array([[blank(reply) for reply in group] for group in text])
  nonblank_PxG = np.where(blank_PxG, np.nan, score_PxG)
  # `fmin` ignores NaN, and unlike `nanmin` gives no warning if all are NaN.
  min_Px1 = np.fmin.reduce(nonblank_PxG, axis=1, keepdims=True)
  return np.where(blank_PxG, np.fmin(min_Px1, floor), score_PxG)


def check_context(
  model: RewardModel, prompts: Mapping[str, Prompt], sampled: int
) -> None:
  """Checks that a reward model can read all replies to some prompts.

  Args:
    model: the reward model.
    prompts: by their names.
    sampled: most tokens that the policy samples.

  Raises:
    ValueError: some do not fit its context.
  """
  format = model.decoder.chat
  lengths = {
    name: len(format.encode_prompt(messages(prompt, model.system)))
    for name, prompt in prompts.items()
  }
  before = len(format.encode_thought(''))
  format.check_context(
    lengths, min(model.limit, sampled) + before, 'tokens of a reply'
  )


def check_reply(model: RewardModel, prompt: Prompt, reply: str) -> None:
  """Raises ValueError for a reply that does not fit a model's context."""
  format = model.decoder.chat
  end = format.end if model.end is None else model.end
  tokens = len(format.encode_content(reply)) + len(end)
  length = len(format.encode_prompt(messages(prompt, model.system)))
  format.check_context(
    {f'{transcript(prompt)[:40]!r}': length},
    min(tokens, model.limit) + len(format.encode_thought('')),
    'max_reply_tokens',
  )


def _limits(
  format: ChatFormat, asked: Sequence[Sequence[int]], limit: int
) -> list[int]:
  """Most tokens of a reply to each of P prompts, which the context allows.

  One that takes more tokens here than it was sampled in is then cut rather than
  refused late in a run.
  """
  if format.context is None:
    return [limit] * len(asked)
  room = format.context - len(format.encode_thought(''))
  return [max(min(limit, room - len(ids)), 1) for ids in asked]


def read(
  model: RewardModel,
  prompts: Sequence[Prompt],
  replies: Sequence[Sequence[str]],
  finished: np.ndarray,
  widths: tuple[int, int] = (0, 0),
) -> np.ndarray:
  """Features of G replies to each of P prompts, from their texts.

  All processes must call it together, each with the same number of texts.

  Args:
    model: the reward model, whose own tokenizer is used.
    prompts: P texts or messages, for the decoder's chat template.
    replies: `[P][G]` texts.  They are untrusted: no text becomes a control
      token.  Replies longer than `model.limit` tokens are cut.
    finished: `[P, G]`, true if EOS ended the reply.
    widths: of a rollout: tokens that prompts are padded to, and those that the
      policy may sample.  Replies then have one width, known from `stretch` and
      `limit`: one that is longer here, or than the context allows, is cut, so
      that it compiles nothing late in a run.  0 for texts of any length, padded
      to powers of two.

  Returns:
    Features `[P, G, D]` of this process's replies.
  """
  decoder = model.decoder
  shards = processes.DataShards(decoder.mesh)
  groups, mask_PxGxT = _encode(model, prompts, replies, finished, widths)
  packed = packing.partition(
    np.concatenate(shards.gather(groups.length)),
    np.concatenate(shards.gather(groups.count)),
    groups.prompt.shape[-1],
    groups.token.shape[-1],
  )
  (part,) = packed.split(
    shards.to_global((groups, mask_PxGxT)), shards.sharding
  )
  # With offload=True the weights are in host memory between calls.
  params = weights.in_memory(decoder.params, 'device')
  features_PxGxD = packed.join(
    [features(params, *part.arrays, config=decoder.config, width=part.width)],
    shards.sharding,
  )
  return np.asarray(shards.local_rows(features_PxGxD))


def _encode(
  model: RewardModel,
  prompts: Sequence[Prompt],
  replies: Sequence[Sequence[str]],
  finished: np.ndarray,
  widths: tuple[int, int],
) -> tuple[Groups, np.ndarray]:
  """Tokens of prompts and replies, and the mask `[P, G, T]` of those read.

  The arguments are those of `read`.  The token ids of a rollout cannot be
  reused: this tokenizer may be another one than the policy's.

  Raises:
    ValueError: a prompt does not fit the context with a reply.
  """
  format = model.decoder.chat
  min_prompt_width, sampled = widths
  limit = model.limit
  asked = [
    format.encode_prompt(messages(prompt, model.system)) for prompt in prompts
  ]
  limits_P = [limit] * len(asked)
  if sampled:
    limit = min(limit, math.ceil(model.stretch * sampled))
    limits_P = _limits(format, asked, limit)
  # What decoding dropped after a reply is put back.
  rows, span_Nx2 = reply_rows(
    format,
    [format.encode_content(reply) for group in replies for reply in group],
    finished.reshape(-1),
    format.end if model.end is None else model.end,
    np.repeat(limits_P, finished.shape[1]).tolist(),
  )
  if sampled:
    width = batches.bucket(limit + len(format.encode_thought('')))
    token_NxT, length_N = batches.pad(rows, width)
  else:
    token_NxT, length_N = batches.pad_coarsely(rows)
  mask_NxT = read_mask(span_Nx2, length_N, token_NxT.shape[-1], model.pooling)
  names = [
    f'prompt {n} ({transcript(prompt)[:40]!r})'
    for n, prompt in enumerate(prompts)
  ]
  longest_P = length_N.reshape(finished.shape).max(1).tolist()
  format.check_context(
    dict(zip(names, map(len, asked), strict=True)),
    dict(zip(names, longest_P, strict=True)),
    'max_reply_tokens',
  )
  prompt_PxL, length_P = batches.pad_coarsely(asked, min_prompt_width)
  token_PxGxT, mask_PxGxT = (
    x_NxT.reshape(*finished.shape, -1) for x_NxT in (token_NxT, mask_NxT)
  )
  count_PxG = length_N.reshape(finished.shape)
  return Groups(prompt_PxL, length_P, token_PxGxT, count_PxG), mask_PxGxT
