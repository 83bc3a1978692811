"""The writing reward: a linear head on a decoder's features of a reply.

The features are hidden states after the final norm, pooled over the reply.
`mean` averages over its text without EOS, so that finished and truncated
replies are scored alike; `last` takes the last token's state, as sequence
classifiers do.  If the decoder is also the frozen reference policy, one forward
pass gives both the reference log-probabilities and the score.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from rlcw.data import batches
from rlcw.data.messages import Prompt, messages
from rlcw.models import chat, language_model, lora, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, forward_replies, head_weight
from rlcw.models.language_model import LanguageModel
from rlcw.models.layers import token_logprobs
from rlcw.runtime import processes
from rlcw.runtime.mesh import replicated
from rlcw.sampling.rollout import Rollout

FILE = 'reward_model.safetensors'
POOLING = ('mean', 'last')


class Head(NamedTuple):
  """`score = features · weight + bias`; unit: std over the training replies."""

  weight: np.ndarray | jax.Array  # [D]
  bias: np.ndarray | jax.Array  # []


class RewardModel(NamedTuple):
  """A linear head, its pooling, and the decoder that computes the features."""

  head: Head
  pooling: str  # one of POOLING
  decoder: LanguageModel
  shared: bool  # the decoder is the policy's pretrained model
  limit: int = 4096  # tokens per reply, as in training; longer ones are cut
  system: str = ''  # system message of prompts without their own


def save(head: Head, workdir: Path) -> None:
  """Writes a head to `reward_model.safetensors` in its run's folder."""
  arrays = {k: np.asarray(v, np.float32) for k, v in head._asdict().items()}
  save_file(arrays, workdir / FILE)


def load(source: str, base: LanguageModel) -> RewardModel:
  """Loads a reward model for use beside a policy.

  Args:
    source: the folder of a finished `reward_model` run, or a sequence
      classifier with one label (a folder or Hub id).
    base: the policy.  Its pretrained model is reused instead of loaded again
      if the reward model was trained on the same one.

  Raises:
    FileNotFoundError: there is no such model, or its run has not finished.
    ValueError: the head does not fit the decoder; or see `weights.load`.
  """
  run, file = language_model.run_config(source), Path(source) / FILE
  # The head is written after training: without its file a run is unfinished.
  if run is None or not file.exists():
    try:
      return load_classifier(source, base.mesh)
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f'no reward model at {source}: run the reward_model task with '
        f'--workdir={source} first, or give a sequence classifier ({error})'
      ) from None
  head = Head(**load_file(file))
  shared = run.model == base.source
  decoder = language_model.reuse(run.model, base.mesh, base)
  if head.weight.shape != (decoder.config.model_dim,):
    raise ValueError(
      f'{file}: weight has shape {head.weight.shape}, expected '
      f'({decoder.config.model_dim},), the model_dim of {run.model}'
    )
  # A fine-tuned decoder is no longer the reference policy: its score needs a
  # forward pass of its own.
  if run.train != 'head':
    decoder, shared = load_trained_decoder(source, decoder), False
  return RewardModel(
    head,
    run.pooling,
    decoder,
    shared,
    run.max_reply_tokens,
    run.get('system', ''),
  )


def load_trained_decoder(
  workdir: str | Path, base: LanguageModel
) -> LanguageModel:
  """Restores the decoder of a run that fine-tuned it.

  LoRA adapters are kept separate from the base weights.
  """
  # The checkpoint also has the head's weight.  Its shape must be given to
  # restore the rest; the head itself was read from its own file.
  score = jax.ShapeDtypeStruct(
    (base.config.model_dim,),
    jnp.float32,
    sharding=replicated(base.mesh),
  )
  model, learned = language_model.restore(workdir, base, {'score': score})
  del learned['score']
  return model._replace(params=lora.join(learned, base.params))


def load_alone(source: str, mesh: Mesh) -> RewardModel:
  """Loads a reward model with its decoder, for use without a policy.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  run = language_model.run_config(source)
  if run is None:
    return load_classifier(source, mesh)
  return load(source, language_model.load(run.model, mesh))


def load_classifier(source: str, mesh: Mesh) -> RewardModel:
  """Loads an `AutoModelForSequenceClassification` checkpoint with one label."""
  config, params, weight_D = weights.load_classifier(source, mesh)
  decoder = LanguageModel(config, params, chat.load(source), mesh, source)
  # Hugging Face's classifiers have no bias and read the last token's state.
  head = Head(weight_D, np.zeros((), np.float32))
  return RewardModel(head, 'last', decoder, shared=False)


def read_mask(
  length_PxG: jax.Array, finished_PxG: jax.Array, width: int, pooling: str
) -> jax.Array:
  """Mask `[P, G, T]` of the tokens whose hidden states are averaged.

  Args:
    length_PxG: tokens of each reply, EOS included.
    finished_PxG: true if the last token is EOS.
    width: T.
    pooling: `mean` for the text without EOS, `last` for the last token.
  """
  position_T = jnp.arange(width)
  # Right padding: the last real token is at length − 1.
  if pooling == 'last':
    return position_T == length_PxG[..., None] - 1
  # Only a finished reply ends in EOS, so only there is one token dropped.
  return position_T < (length_PxG - finished_PxG)[..., None]


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


@functools.partial(jax.jit, static_argnames='config')
def features(
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  token_PxGxT: jax.Array,
  mask_PxGxT: jax.Array,
  *,
  config: ModelConfig,
) -> jax.Array:
  """Features `[P, G, D]` of G replies to each of P prompts.

  Each prompt is prefilled once for all its replies.
  """
  _, hidden = forward_replies(config, params, prompt_PxL, length_P, token_PxGxT)
  return reply_features(hidden, mask_PxGxT)


@functools.partial(jax.jit, static_argnames=('config', 'pooling'))
def score_and_reference(
  params: Params,
  head: Head | None,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  rollout: Rollout,
  temperature: jax.Array | float,
  *,
  config: ModelConfig,
  pooling: str,
) -> tuple[jax.Array | None, jax.Array]:
  """Scores and reference log-probabilities from one forward pass.

  Returns:
    Writing scores `[P, G]`, or None without a head; and log-probabilities
    `[P, G, T]` of the tokens at `temperature` under the reference policy.
  """
  # `before` predicts each token and `after` has read it: they differ by one
  # position, so both come from the same pass.
  before, after = forward_replies(
    config, params, prompt_PxL, length_P, rollout.token
  )
  logp_N = token_logprobs(
    before.reshape(-1, before.shape[-1]),
    head_weight(params),
    rollout.token.reshape(-1),
    temperature,
  )
  logp_PxGxT = logp_N.reshape(rollout.token.shape)
  if head is None:
    return None, logp_PxGxT
  width = rollout.token.shape[-1]
  mask = read_mask(rollout.length, rollout.finished, width, pooling)
  features_PxGxD = reply_features(after, mask)
  score_PxG = features_PxGxD @ head.weight + head.bias
  return score_PxG, logp_PxGxT


def score_texts(
  model: RewardModel,
  prompts: Sequence[Prompt],
  replies: list[list[str]],
  finished: np.ndarray,
  widths: tuple[int, int] = (0, 0),
) -> np.ndarray:
  """Scores `[P, G]` of G replies to each of P prompts; see `read_texts`."""
  features_PxGxD = read_texts(model, prompts, replies, finished, widths)
  return features_PxGxD @ np.asarray(model.head.weight) + model.head.bias


def read_texts(
  model: RewardModel,
  prompts: Sequence[Prompt],
  replies: list[list[str]],
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
    widths: minimum widths, in tokens, to pad prompts and replies to, so that
      shapes repeat and nothing is compiled again.

  Returns:
    Features `[P, G, D]` of this process's replies.
  """
  decoder, format = model.decoder, model.decoder.chat
  shards = processes.DataShards(decoder.mesh)
  end = format.end
  # The sampled token ids cannot be reused: this tokenizer may be another one
  # than the policy's.  The EOS that decoding dropped is put back.
  rows = [
    format.encode_content(reply) + end * bool(ended)
    for group, flags in zip(replies, finished, strict=True)
    for reply, ended in zip(group, flags, strict=True)
  ]
  shape_PxG = finished.shape
  # A row that is cut here loses its EOS, so its mask must not skip one.
  uncut = np.array([len(row) <= model.limit for row in rows])
  finished = finished & uncut.reshape(shape_PxG)
  min_prompt_width, min_reply_width = widths
  token, length = batches.pad_coarsely(
    [row[: model.limit] for row in rows], min_reply_width
  )
  prompt_PxL, length_P = batches.pad_coarsely(
    [
      format.encode_prompt(messages(prompt, model.system)) for prompt in prompts
    ],
    min_prompt_width,
  )
  *inputs, length_PxG, finished_PxG = shards.to_global(
    (
      prompt_PxL,
      length_P,
      token.reshape(*shape_PxG, -1),
      length.reshape(shape_PxG),
      finished,
    )
  )
  mask = read_mask(length_PxG, finished_PxG, token.shape[-1], model.pooling)
  # With offload=True the weights are in host memory between calls.
  params = weights.in_memory(decoder.params, 'device')
  features_PxGxD = features(params, *inputs, mask, config=decoder.config)
  return np.asarray(shards.local_rows(features_PxGxD))
