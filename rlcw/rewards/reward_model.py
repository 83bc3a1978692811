"""The writing reward: a linear head on a decoder's features of a reply.

The features are those of `pooled`.  If the decoder is also the frozen
reference policy, one forward pass gives both the reference log-probabilities
and the score.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from rlcw import Config
from rlcw.data import batches
from rlcw.data.characters import blank
from rlcw.data.messages import Prompt, messages, transcript
from rlcw.models import (
  chat,
  formats,
  language_model,
  lora,
  packing,
  weights,
)
from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.groups import forward_groups, reply_logprobs
from rlcw.models.language_model import PLAIN, LanguageModel, Placement
from rlcw.models.packing import Groups
from rlcw.rewards.pooled import (
  end_of_reply,
  features,
  read_mask,
  reply_features,
  reply_rows,
)
from rlcw.runtime import inputs, processes, runs
from rlcw.runtime.mesh import replicated
from rlcw.sampling.rollout import Rollout

FILE = 'reward_model.safetensors'
# Fields of an exported config.json: ids after a reply, where the template has
# others, and the lowest training score.
END = 'rlcw_end_of_reply'
FLOOR = 'rlcw_lowest_score'
# Tokens of a reply for each one that the policy sampled, at most: of the same
# tokenizer, which may split a text in another way than it was sampled; and of
# another one, such as of English for a Chinese text.
_STRETCH, _OTHER_STRETCH = 1.25, 4.0


class Head(NamedTuple):
  """`score = features · weight + bias`; unit: std over the training replies."""

  weight: np.ndarray | jax.Array  # [D]
  bias: np.ndarray | jax.Array  # []


class RewardModel(NamedTuple):
  """A linear head, its pooling, and the decoder that computes the features."""

  head: Head
  pooling: str  # one of `pooled.POOLING`
  decoder: LanguageModel
  shared: bool  # the decoder is the policy's pretrained model
  limit: int = 4096  # tokens per reply, as in training; longer ones are cut
  # ids read after a whole reply, as in training; None: those that end one
  end: list[int] | None = None
  system: str = ''  # system message of prompts without their own
  # lowest score of the training replies, NaN if it was not saved
  floor: float = float('nan')
  stretch: float = (
    _OTHER_STRETCH  # tokens read per token of the policy, at most
  )


def save(
  head: Head,
  workdir: Path,
  end: Sequence[int],
  floor: float = float('nan'),
  layers: int = 0,
) -> None:
  """Writes a head to `reward_model.safetensors` in its run's folder.

  Args:
    head: the head.
    workdir: of the run.
    end: ids that it was trained to read after a whole reply.
    floor: lowest score of the training replies.
    layers: of the decoder, that are read; 0: those of the run's settings.
  """
  arrays = {k: np.asarray(v, np.float32) for k, v in head._asdict().items()}
  metadata = {
    'end': json.dumps([*end]),
    'floor': repr(float(floor)),
    'layers': str(layers),
  }
  # One field, as safetensors writes several in any order, and the file's digest
  # would differ from run to run.
  weights.save_tensors(arrays, workdir / FILE, {'head': json.dumps(metadata)})


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
  # The head is written after training.
  if run is not None and run.task == 'reward_model' and not file.exists():
    raise FileNotFoundError(runs.unfinished(source))
  if run is None or not file.exists():
    try:
      placed = Placement(base.config.dtype, base.config.attention)
      loaded = load_classifier(source, base.mesh, placed)
      return loaded._replace(stretch=_stretch(loaded.decoder, base))
    except FileNotFoundError as error:
      raise FileNotFoundError(
        f'no reward model at {source}: run the reward_model task with '
        f'--workdir={source} first, or give a sequence classifier ({error})'
      ) from None
  if run.train == 'all' and run.model != base.source:
    # all weights are the run's own
    placed = Placement(base.config.dtype, base.config.attention)
    decoder = language_model.without_weights(run.model, base.mesh, placed)
  else:
    inputs.check_base(source)
    decoder = language_model.reuse(run.model, base.mesh, base)
  whole = decoder.config
  try:
    head, (end, floor) = Head(**load_file(file)), _saved(file, decoder)
    layers = layers_of(source, run)
  except (SafetensorError, TypeError, ValueError) as error:
    raise ValueError(f'{file} is damaged: {error}') from None
  decoder = language_model.first_layers(decoder, layers)
  # A policy's replies have one token after their text.
  fits = run.pooling == 'mean' or len(end) == 1
  # The reference's pass gives no features of an earlier layer.
  fits = fits and decoder.config == whole
  shared = run.model == base.source and fits
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
    end,
    run.get('system', '') or decoder.system,
    floor,
    _stretch(decoder, base),
  )


def _stretch(decoder: LanguageModel, policy: LanguageModel) -> float:
  """Tokens that a reply has for the decoder, per token of the policy."""
  same = decoder.chat is policy.chat or (
    decoder.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
  )
  return _STRETCH if same else _OTHER_STRETCH


def layers_of(workdir: str | Path, run: Config) -> int:
  """Number of first layers that a run's reward model reads; 0 for all.

  Args:
    workdir: of the run.
    run: its settings.

  Raises:
    FileNotFoundError: the run chooses it, and has not finished.
  """
  file = Path(workdir) / FILE
  saved = int(_metadata(file).get('layers', 0)) if file.exists() else 0
  # Runs of earlier versions lack the setting.
  layers = saved or run.get('layers', 0)
  if layers == 'auto':
    raise FileNotFoundError(runs.unfinished(workdir))
  return layers


def _saved(file: Path, decoder: LanguageModel) -> tuple[list[int], float]:
  """The ids after a whole reply, and the lowest training score."""
  saved = _metadata(file)
  # Files without the ids are older than them; they read the tokenizer's EOS.
  eos = [int(decoder.tokenizer.eos_token_id)]
  end = json.loads(saved['end']) if 'end' in saved else eos
  return end, float(saved.get('floor', 'nan'))


def _metadata(file: Path) -> dict[str, str]:
  with safe_open(file, 'numpy') as opened:
    found = opened.metadata() or {}
  # Earlier versions wrote a field for each.
  return json.loads(found['head']) if 'head' in found else found


def load_trained_decoder(
  workdir: str | Path, base: LanguageModel
) -> LanguageModel:
  """Restores the decoder of a run that fine-tuned it.

  LoRA adapters are kept separate from the base weights.
  """
  # The checkpoint also has the head's weight.  Its shape must be given to
  # restore the rest; the head itself was read from its own file.
  score = abstract_score(base.config, base.mesh)
  model, learned = language_model.restore(workdir, base, {'score': score})
  del learned['score']
  if model.config.lora is None:
    params = weights.moved(model.config, learned, base.mesh, 'train')
    return model._replace(params=params)
  return model._replace(params=lora.join(learned, base.params))


def abstract_score(config: ModelConfig, mesh: Mesh) -> jax.ShapeDtypeStruct:
  """Shape and sharding of a head's weight that is trained with its decoder."""
  return jax.ShapeDtypeStruct(
    (config.model_dim,), jnp.float32, sharding=replicated(mesh)
  )


def load_alone(
  source: str, mesh: Mesh, placed: Placement = PLAIN
) -> RewardModel:
  """Loads a reward model with its decoder, for use without a policy.

  Args:
    source: as in `load`.
    mesh: of devices.
    placed: dtype and attention of the decoder.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  run = language_model.run_config(source)
  if run is None:
    return load_classifier(source, mesh, placed)
  start = (
    language_model.without_weights
    if run.train == 'all'
    else language_model.load
  )
  return load(source, start(run.model, mesh, placed))


def load_classifier(
  source: str, mesh: Mesh, placed: Placement = PLAIN
) -> RewardModel:
  """Loads an `AutoModelForSequenceClassification` checkpoint with one label."""
  config, params, weight_D = weights.load_classifier(
    source, mesh, placed.dtype, 'float32'
  )
  config = dataclasses.replace(
    config, dtype=placed.dtype, attention=placed.attention
  )
  decoder = LanguageModel(
    config,
    params,
    chat.load(source, config.vocab_size, config.context),
    mesh,
    source,
  )
  # Hugging Face's classifiers have no bias and read the last token's state.
  head = Head(weight_D, np.zeros((), np.float32))
  header = formats.open_source(source).config
  end = header.get(END, end_of_reply(decoder.chat, 'last'))
  floor = float(header.get(FLOOR, 'nan'))
  return RewardModel(head, 'last', decoder, shared=False, end=end, floor=floor)


def rollout_mask(
  chat: ChatFormat, rollout: Rollout, pooling: str
) -> np.ndarray:
  """`read_mask` `[P, G, T]` of sampled replies, as arrays on the host."""
  *shape, width = rollout.token.shape
  length_N = np.asarray(rollout.length).reshape(-1)
  token_NxT = np.asarray(rollout.token).reshape(-1, width)
  rows = zip(token_NxT, length_N, strict=True)
  span_Nx2 = np.array([chat.reply_span(ids[:n]) for ids, n in rows])
  return read_mask(span_Nx2, length_N, width, pooling).reshape(*shape, width)


@functools.partial(jax.jit, static_argnames=('config', 'width', 'reference'))
def score_and_reference(
  params: Params,
  head: Head | None,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  rollout: Rollout,
  temperature: jax.Array | float,
  mask_PxGxT: jax.Array | None = None,
  end: jax.Array | int | None = None,
  *,
  config: ModelConfig,
  width: int = 0,
  reference: bool = True,
) -> tuple[jax.Array | None, jax.Array | None]:
  """Scores and reference log-probabilities from one forward pass.

  Args:
    params: of the reference policy.
    head: of the reward model; None for no scores.
    prompt_PxL: ids of the prompts.
    length_P: their lengths.
    rollout: replies to them.
    temperature: of the log-probabilities.
    mask_PxGxT: of `rollout_mask`; None without a head.
    end: the id that the reward model reads where a reply ends, whichever the
      policy chose; None for the policy's.
    config: of the model.
    width: of the packed rows that prompts and replies are read in
      (`forward_groups`).
    reference: false for no log-probabilities.

  Returns:
    Writing scores `[P, G]`, or None without a head; and log-probabilities
    `[P, G, T]` of the tokens at `temperature` under the reference policy, 0 at
    padding, or None.
  """
  token_PxGxT = rollout.token
  if end is not None:
    last = jnp.arange(token_PxGxT.shape[-1]) == rollout.length[..., None] - 1
    token_PxGxT = jnp.where(
      last & rollout.finished[..., None], end, token_PxGxT
    )
  # A token is predicted from those before it and scored with itself, so one
  # pass gives both.  Nothing that predicts depends on a reply's last token.
  groups = Groups(prompt_PxL, length_P, token_PxGxT, rollout.length)
  hidden_SxNxD, layout = forward_groups(config, params, groups, width)
  logp_PxGxT = None
  if reference:
    logp_PxGxT = reply_logprobs(
      config, params, hidden_SxNxD, layout, rollout.token, temperature
    )
  if head is None or mask_PxGxT is None:
    return None, logp_PxGxT
  features_PxGxD = reply_features(layout.of_replies(hidden_SxNxD), mask_PxGxT)
  score_PxG = features_PxGxD @ head.weight + head.bias
  return score_PxG, logp_PxGxT


def score_texts(
  model: RewardModel,
  prompts: Sequence[Prompt],
  replies: Sequence[Sequence[str]],
  finished: np.ndarray,
  widths: tuple[int, int] = (0, 0),
) -> np.ndarray:
  """Scores `[P, G]` of G replies to each of P prompts; see `read_texts`."""
  features_PxGxD = read_texts(model, prompts, replies, finished, widths)
  return score_features(model, features_PxGxD, replies)


def score_features(
  model: RewardModel,
  features_PxGxD: np.ndarray,
  replies: Sequence[Sequence[str]],
) -> np.ndarray:
  """Scores `[P, G]` of replies from the features of `read_texts`."""
  weight_D, bias = (np.asarray(each) for each in model.head)
  score_PxG = features_PxGxD @ weight_D + bias
  return floor_blank_replies(score_PxG, replies, model.floor)


def floor_blank_replies(
  score_PxG: np.ndarray,
  text: Sequence[Sequence[str]],
  floor: float = float('nan'),
) -> np.ndarray:
  """Replaces scores `[P, G]` of blank replies with their group's minimum.

  A blank reply has no text to average features over, so a reward model would
  give it just the bias, which is more than many real replies get.

  Args:
    score_PxG: of the replies.
    text: `[P][G]` replies.
    floor: the score of blank replies in groups of nothing else.
  """
  blank_PxG = np.array([[blank(reply) for reply in group] for group in text])
  nonblank_PxG = np.where(blank_PxG, np.nan, score_PxG)
  # `fmin` ignores NaN, and unlike `nanmin` gives no warning if all are NaN.
  min_Px1 = np.fmin.reduce(nonblank_PxG, axis=1, keepdims=True)
  only_Px1 = blank_PxG.all(1, keepdims=True)
  return np.where(blank_PxG, np.where(only_Px1, floor, min_Px1), score_PxG)


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


def read_texts(
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
  decoder, format = model.decoder, model.decoder.chat
  shards = processes.DataShards(decoder.mesh)
  # The sampled token ids cannot be reused: this tokenizer may be another one
  # than the policy's.  What decoding dropped after a reply is put back.
  min_prompt_width, sampled = widths
  limit = model.limit
  asked = [
    format.encode_prompt(messages(prompt, model.system)) for prompt in prompts
  ]
  limits_P = [limit] * len(asked)
  if sampled:
    limit = min(limit, math.ceil(model.stretch * sampled))
    limits_P = _limits(format, asked, limit)
  rows, span_Nx2 = reply_rows(
    format,
    [format.encode_content(reply) for group in replies for reply in group],
    finished.reshape(-1),
    format.end if model.end is None else model.end,
    np.repeat(limits_P, finished.shape[1]).tolist(),
  )
  shape_PxG = finished.shape
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
  count_PxG = length_N.reshape(shape_PxG)
  packed = packing.partition(
    np.concatenate(shards.gather(length_P)),
    np.concatenate(shards.gather(count_PxG)),
    prompt_PxL.shape[-1],
    token_NxT.shape[-1],
  )
  token_PxGxT, mask_PxGxT = (
    x_NxT.reshape(*shape_PxG, -1) for x_NxT in (token_NxT, mask_NxT)
  )
  groups = Groups(prompt_PxL, length_P, token_PxGxT, count_PxG)
  (part,) = packed.split(
    shards.to_global((groups, mask_PxGxT)), shards.sharding
  )
  # With offload=True the weights are in host memory between calls.
  params = weights.in_memory(decoder.params, 'device')
  features_PxGxD = packed.join(
    [features(params, *part, config=decoder.config, width=packed.width[0])],
    shards.sharding,
  )
  return np.asarray(shards.local_rows(features_PxGxD))
