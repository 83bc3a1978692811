"""A language model ready for use: weights, tokenizer and mesh in one.

A model is named by a GGUF file, a folder, a Hub id, or the `--workdir` of a
finished run, whose model then serves as if it were a pretrained one.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import lora, tokenizer, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.runtime import settings
from rlcw.runtime.checkpoint import Checkpoints


class LanguageModel(NamedTuple):
  """A model with its tokenizer, on a mesh."""

  config: ModelConfig
  params: Params  # of the pretrained model
  tokenizer: Any
  mesh: Mesh
  source: str  # the path or id that it was loaded from

  @property
  def reference(self) -> ModelConfig:
    """The configuration with its adapters off, which `params` fit."""
    return lora.without(self.config)


def run_config(model: str | Path) -> Config | None:
  """The settings of a run, if `model` is the folder of one."""
  file = Path(model) / 'config.json'
  if not file.is_file() or not (file.parent / 'checkpoints').is_dir():
    return None
  return settings.read(model)


def origin(model: str | Path) -> str:
  """The checkpoint that a model's run, or the run before that, began with."""
  run = run_config(model)
  return str(model) if run is None else origin(run.model)


def load(model: str | Path, mesh: Mesh) -> LanguageModel:
  """Loads a model; a run's adapters are merged into its weights.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it is damaged, not supported, or no language model.
  """
  run = run_config(model)
  if run is None:
    config, params = weights.load(model, mesh)
    return LanguageModel(
      config, params, tokenizer.load(model), mesh, str(model)
    )
  if run.task == 'reward_model':
    raise ValueError(f'{model} is a reward model, which writes no text')
  base, learned = restore(model, load(run.model, mesh))
  params = lora.merge(base.config, lora.join(learned, base.params))
  return LanguageModel(base.reference, params, base.tokenizer, mesh, str(model))


def cast(model: LanguageModel, dtype: str, attention: str) -> LanguageModel:
  """A frozen model whose weights and activations are in a dtype."""
  config = dataclasses.replace(model.config, dtype=dtype, attention=attention)
  return model._replace(config=config, params=as_dtype(model.params, dtype))


def reuse(
  model: str | Path, mesh: Mesh, base: LanguageModel | None = None
) -> LanguageModel:
  """`load`, without its cost where `base` is that model; no adapters.

  It attends as `base` does.
  """
  same = base is not None and str(model) == base.source
  found = base if base is not None and same else load(model, mesh)
  attention = (base or found).config.attention
  config = dataclasses.replace(found.reference, attention=attention)
  return found._replace(config=config)


def restore(
  workdir: str | Path, base: LanguageModel, extra: Params | None = None
) -> tuple[LanguageModel, Params]:
  """What a run learned.

  Args:
    workdir: of the run.
    base: the model that it began with.
    extra: shapes and shardings of what it learned beside the model's own.

  Returns:
    The base with the run's configuration, and the learned parameters.

  Raises:
    FileNotFoundError: `workdir` is not the folder of a run, or nothing has
      been saved in it.
    ValueError: what has been saved cannot be read.
  """
  run = run_config(workdir)
  if run is None:
    raise FileNotFoundError(
      f'{workdir} holds no run: config.json and checkpoints/ are expected'
    )
  base = base._replace(config=lora.configure(base.config, run))
  checkpoints = Checkpoints(Path(workdir) / 'checkpoints', read_only=True)
  like = lora.abstract(base.config, base.mesh) | (extra or {})
  learned = checkpoints.restore(params=like)['params']
  checkpoints.close()
  return base, learned
