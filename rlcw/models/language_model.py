"""A language model ready for use: weights, chat format and mesh in one.

A model is given as a GGUF file, a folder, a Hub id, or the `--workdir` of a
finished run, whose trained model is then used like a pretrained one.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import chat, lora, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.runtime import console, runs
from rlcw.runtime.checkpoint import Checkpoints


class LanguageModel(NamedTuple):
  """A model with its tokenizer and chat format, on a mesh."""

  config: ModelConfig
  params: Params  # of the pretrained model
  chat: ChatFormat
  mesh: Mesh
  source: str  # the path or id that it was loaded from
  system: str = ''  # system message of the run that trained it, if any

  @property
  def tokenizer(self) -> Any:
    """The tokenizer of the chat format."""
    return self.chat.tokenizer

  @property
  def reference(self) -> ModelConfig:
    """The configuration without adapters, which matches `params`."""
    return lora.without(self.config)


def run_config(model: str | Path) -> Config | None:
  """Settings of a run, or `None` if `model` is not the workdir of a run.

  Raises:
    FileNotFoundError, ValueError: the run has no model (`runs.lineage`).
  """
  found, _ = runs.lineage(model)
  return found[0][1] if found else None


def origin(model: str | Path) -> str:
  """The pretrained checkpoint at the start of a chain of runs."""
  return runs.lineage(model)[1]


def load(model: str | Path, mesh: Mesh) -> LanguageModel:
  """Loads a model; a run's adapters are merged into its weights.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it is damaged, not supported, or a reward model.
  """
  run = run_config(model)
  if run is None:
    config, params = weights.load(model, mesh)
    format = chat.load(model, config.vocab_size, config.context)
    return LanguageModel(config, params, format, mesh, str(model))
  if run.task == 'reward_model':
    raise ValueError(f'{model} is a reward model, which writes no text')
  # Recursive, because a run may have started from another run.
  base, learned = restore(model, load(run.model, mesh))
  # Merged, so that the result is like a pretrained model, to which another run
  # can add new adapters.
  params = lora.merge(base.config, lora.join(learned, base.params))
  return base._replace(config=base.reference, params=params, source=str(model))


def with_system(model: LanguageModel, system: str) -> LanguageModel:
  """Returns a model that has a system message, and says which one it reads.

  Args:
    model: with the system message of its run, or none.
    system: the setting; '' keeps that of the model.
  """
  model = model._replace(system=system or model.system)
  own = model.chat.default_system
  if model.system and model.chat.reads_system == 'user':
    console.notice(
      f'{model.source} has no system role: the system message is put before '
      "the user's first message"
    )
  elif not model.system and own is not None:
    console.notice(
      f'the chat template of {model.source} adds its own system message, '
      f'{own!r:.80}; --config.system replaces it'
    )
  return model


def cast(model: LanguageModel, dtype: str, attention: str) -> LanguageModel:
  """Returns a frozen model with another dtype and attention implementation."""
  config = dataclasses.replace(model.config, dtype=dtype, attention=attention)
  return model._replace(config=config, params=as_dtype(model.params, dtype))


def reuse(
  model: str | Path, mesh: Mesh, base: LanguageModel | None = None
) -> LanguageModel:
  """Returns `base` if it is that model, else loads it; without adapters.

  The attention implementation is that of `base`.
  """
  same = base is not None and str(model) == base.source
  loaded = base if base is not None and same else load(model, mesh)
  attention = (base or loaded).config.attention
  config = dataclasses.replace(loaded.reference, attention=attention)
  return loaded._replace(config=config)


def restore(
  workdir: str | Path, base: LanguageModel, extra: Params | None = None
) -> tuple[LanguageModel, Params]:
  """Restores the learned parameters of a run.

  Args:
    workdir: of the run.
    base: the model that the run started from.
    extra: shapes and shardings of learned parameters outside the decoder.

  Returns:
    The base with the run's configuration, and the learned parameters.

  Raises:
    FileNotFoundError: `workdir` is not the folder of a run, or has no
      checkpoint.
    ValueError: the checkpoint cannot be read.
  """
  run = run_config(workdir)
  if run is None:
    raise FileNotFoundError(
      f'{workdir} is not the folder of a run; expected config.json and '
      'checkpoints/ in it'
    )
  base = base._replace(
    config=lora.configure(base.config, run),
    system=run.get('system', '') or base.system,
  )
  checkpoints = Checkpoints(Path(workdir) / 'checkpoints', read_only=True)
  # Only `params` are restored; the optimiser state stays on disk.
  abstract = lora.abstract(base.config, base.mesh) | (extra or {})
  learned = checkpoints.restore(params=abstract)['params']
  checkpoints.close()
  return base, learned
