"""The writing reward: a linear head on a decoder's features of a reply.

The features are those of `pooled`.  If the decoder is also the frozen
reference policy, one forward pass gives both the reference log-probabilities
and the score.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from rlcw import Config
from rlcw.models import chat, formats, language_model, weights
from rlcw.models.config import ModelConfig
from rlcw.models.language_model import PLAIN, LanguageModel, Placement
from rlcw.rewards.pooled import end_of_reply
from rlcw.runtime import inputs, runs
from rlcw.runtime.mesh import replicated

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
    # The checkpoint also has the head's weight.  Its shape must be given to
    # restore the rest; the head itself was read from its own file.
    score = abstract_score(decoder.config, decoder.mesh)
    decoder = language_model.beside(source, decoder, {'score': score})
    shared = False
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
  config = config.computed_in(placed.dtype, placed.attention)
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
