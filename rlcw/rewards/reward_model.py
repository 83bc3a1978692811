"""The writing reward: a linear score on a decoder's reply features.

A reply's features are hidden states of its tokens after the final norm: their
mean over the text, EOS left out, so that a finished and a cut reply are
measured alike; or the last token's alone, as sequence classifiers read it.
Where the decoder is also the frozen reference policy, one forward pass gives
both the reference log-probabilities and the score.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from rlcw.data import batches
from rlcw.models import language_model, lora, tokenizer, weights
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
  """`score = features · weight + bias`, in stds over the training replies."""

  weight: np.ndarray | jax.Array  # [D]
  bias: np.ndarray | jax.Array  # []


class RewardModel(NamedTuple):
  """A head, which tokens it reads, and the decoder that it reads them with."""

  head: Head
  pooling: str  # one of POOLING
  decoder: LanguageModel
  shared: bool  # the decoder is the policy's pretrained model
  limit: int = 4096  # tokens of a reply that it reads, as in its training


def save(head: Head, workdir: Path) -> None:
  """Writes a head into its run's folder."""
  arrays = {k: np.asarray(v, np.float32) for k, v in head._asdict().items()}
  save_file(arrays, workdir / FILE)


def load(source: str, base: LanguageModel) -> RewardModel:
  """Reads a reward model for use beside a policy.

  Args:
    source: the folder of a finished `reward_model` run; or a sequence
      classifier with one label, as a folder or Hub id.
    base: the policy, whose pretrained model need not be loaded again.

  Raises:
    FileNotFoundError: there is no such model, or its run has not finished.
    ValueError: its head does not fit its decoder; or see `weights.load`.
  """
  run, file = language_model.run_config(source), Path(source) / FILE
  if run is None or not file.exists():
    try:
      return classifier(source, base.mesh)
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
      f'{file} has weights {head.weight.shape} for features of '
      f'({decoder.config.model_dim},)'
    )
  if run.train != 'head':
    decoder, shared = trained(source, decoder), False
  return RewardModel(head, run.pooling, decoder, shared, run.max_reply_tokens)


def trained(workdir: str | Path, base: LanguageModel) -> LanguageModel:
  """The decoder of a run that trained it; adapters stay beside the base."""
  score = jax.ShapeDtypeStruct(
    (base.config.model_dim,),
    jnp.float32,
    sharding=replicated(base.mesh),
  )
  model, learned = language_model.restore(workdir, base, {'score': score})
  del learned['score']
  return model._replace(params=lora.join(learned, base.params))


def load_alone(source: str, mesh: Mesh) -> RewardModel:
  """Reads a reward model with its decoder, for use without a policy.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  run = language_model.run_config(source)
  if run is None:
    return classifier(source, mesh)
  return load(source, language_model.load(run.model, mesh))


def classifier(source: str, mesh: Mesh) -> RewardModel:
  """A checkpoint of `AutoModelForSequenceClassification` with one label."""
  config, params, weight_D = weights.load_classifier(source, mesh)
  text = tokenizer.load(source)
  decoder = LanguageModel(config, params, text, mesh, source)
  head = Head(weight_D, np.zeros((), np.float32))
  return RewardModel(head, 'last', decoder, shared=False)


def read_mask(
  length_PxG: jax.Array, finished_PxG: jax.Array, width: int, pooling: str
) -> jax.Array:
  """Which tokens `[P, G, T]` the features are the mean of.

  Args:
    length_PxG: tokens of each reply, EOS included.
    finished_PxG: whether its last one is EOS.
    width: T.
    pooling: `mean` for the text without EOS, `last` for the last token.
  """
  place_T = jnp.arange(width)
  if pooling == 'last':
    return place_T == length_PxG[..., None] - 1
  return place_T < (length_PxG - finished_PxG)[..., None]


def reply_features(
  reading_PxGxTxD: jax.Array, mask_PxGxT: jax.Array
) -> jax.Array:
  """Mean hidden state `[P, G, D]` over the true tokens of the mask."""
  reading = jnp.where(mask_PxGxT[..., None], reading_PxGxTxD, 0.0)
  count = jnp.maximum(mask_PxGxT.sum(-1, keepdims=True), 1)
  return reading.sum(2, dtype=jnp.float32) / count


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
  """Features `[P, G, D]` of G replies to each prompt, the prompt read once."""
  _, reading = forward_replies(
    config, params, prompt_PxL, length_P, token_PxGxT
  )
  return reply_features(reading, mask_PxGxT)


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
  """One pass of the frozen decoder for both of its uses.

  Returns:
    Writing scores `[P, G]` where there is a head, and log-probabilities
    `[P, G, T]` of the tokens at `temperature` under the reference policy.
  """
  predicting, reading = forward_replies(
    config, params, prompt_PxL, length_P, rollout.token
  )
  logp_N = token_logprobs(
    predicting.reshape(-1, predicting.shape[-1]),
    head_weight(params),
    rollout.token.reshape(-1),
    temperature,
  )
  logp_PxGxT = logp_N.reshape(rollout.token.shape)
  if head is None:
    return None, logp_PxGxT
  width = rollout.token.shape[-1]
  mask = read_mask(rollout.length, rollout.finished, width, pooling)
  features_PxGxD = reply_features(reading, mask)
  score_PxG = features_PxGxD @ head.weight + head.bias
  return score_PxG, logp_PxGxT


def score_texts(
  model: RewardModel,
  prompts: list[str],
  replies: list[list[str]],
  finished: np.ndarray,
  widths: tuple[int, int] = (0, 0),
) -> np.ndarray:
  """Scores `[P, G]` of G replies to each of P prompts; see `read_texts`."""
  features_PxGxD = read_texts(model, prompts, replies, finished, widths)
  return features_PxGxD @ np.asarray(model.head.weight) + model.head.bias


def read_texts(
  model: RewardModel,
  prompts: list[str],
  replies: list[list[str]],
  finished: np.ndarray,
  widths: tuple[int, int] = (0, 0),
) -> np.ndarray:
  """G replies to each of P prompts by the reward model's own eyes.

  Args:
    model: the reward model.
    prompts: P user messages, to be put into the decoder's chat template.
    replies: `[P][G]` texts.  They are untrusted: no text becomes a control
      token, and what is longer than the model's limit is cut.
    finished: `[P, G]`, whether EOS ended the reply.
    widths: least numbers of tokens to pad prompts and replies to, so that
      shapes repeat.

  Returns:
    Features `[P, G, D]`.  Several processes call it together, each with as
    many texts of its own.
  """
  decoder, text = model.decoder, model.decoder.tokenizer
  parts = processes.DataShards(decoder.mesh)
  end = [int(text.eos_token_id)]
  whole = [
    tokenizer.encode_untrusted(text, reply) + end * bool(ended)
    for group, flags in zip(replies, finished, strict=True)
    for reply, ended in zip(group, flags, strict=True)
  ]
  shape_PxG = finished.shape
  uncut = np.array([len(row) <= model.limit for row in whole])
  finished = finished & uncut.reshape(shape_PxG)
  least_L, least_T = widths
  token, length = batches.pad_coarsely(
    [row[: model.limit] for row in whole], least_T
  )
  prompt_PxL, length_P = batches.pad_coarsely(
    [tokenizer.chat(text, prompt) for prompt in prompts], least_L
  )
  *read, length_PxG, finished_PxG = parts.to_global(
    (
      prompt_PxL,
      length_P,
      token.reshape(*shape_PxG, -1),
      length.reshape(shape_PxG),
      finished,
    )
  )
  mask = read_mask(length_PxG, finished_PxG, token.shape[-1], model.pooling)
  params = weights.in_memory(decoder.params, 'device')
  found = features(params, *read, mask, config=decoder.config)
  return np.asarray(parts.local_rows(found))
