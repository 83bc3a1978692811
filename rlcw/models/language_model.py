"""A language model ready for use: weights, chat format and mesh in one.

A model is given as a GGUF file, a folder, a Hub id, or the `--workdir` of a
finished run, whose trained model is then used like a pretrained one.
"""

from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import chat, formats, lora, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.runtime import console, inputs, runs
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


class Placement(NamedTuple):
  """Dtype, attention and sharding of a model that is only read."""

  dtype: str = 'float32'
  attention: str = 'auto'  # auto | xla
  table: str = 'train'  # of `runtime.mesh`, by which weights are split


PLAIN = Placement()


def placement(config: Config, model: str | Path = '') -> Placement:
  """Returns the placement that a task's settings ask for.

  A setting that is empty is that of the run that trained the model.

  Args:
    config: of the task; `rollout_table` only if it samples from the model.
    model: that it reads; perhaps the workdir of a run.

  Raises:
    FileNotFoundError, ValueError: see `run_config`.
  """
  run = run_config(model) if model else None

  def setting(name: str, default: str) -> str:
    # Configs of earlier versions lack some of them.
    return config.get(name) or (run and run.get(name)) or default

  return Placement(
    setting('compute_dtype', 'float32'),
    setting('attention', 'auto'),
    setting('rollout_table', 'decode')
    if 'rollout_table' in config
    else 'train',
  )


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


def load(
  model: str | Path,
  mesh: Mesh,
  placed: Placement = PLAIN,
  *,
  merge: bool = True,
) -> LanguageModel:
  """Loads a model.

  Each device gets its own shards alone, in the dtype of `placed`.  The weights
  of a run that trained them all are in float32 first.

  Args:
    model: as settings name it.
    mesh: of devices.
    placed: its dtype, attention and sharding.
    merge: false to keep a run's adapters apart from weights in bfloat16, as the
      run itself samples: a merged kernel loses small changes to rounding.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it is damaged, not supported, or a reward model.
  """
  run = run_config(model)
  if run is None:
    config, params = weights.load(
      model, mesh, placed.dtype, placed.table, 'float32'
    )
    format = chat.load(model, config.vocab_size, config.context)
    config = config.computed_in(placed.dtype, placed.attention)
    if config.score_cap and mesh.devices.flat[0].platform == 'gpu':
      console.notice(
        f'{model} caps attention scores softly, which cuDNN cannot: attention '
        'is computed in plain XLA operations'
      )
    return LanguageModel(config, params, format, mesh, str(model))
  if run.task == 'reward_model':
    raise ValueError(f'{model} is a reward model, which writes no text')
  if run.train == 'all':
    base, params = restore(model, without_weights(run.model, mesh, placed))
  else:
    # Recursive, because a run may have started from another run.
    base, learned = restore(model, load(run.model, mesh, placed))
    params = lora.join(learned, base.params)
    # Merged, the result is like a pretrained model, to which another run can
    # add new adapters.
    if merge or placed.dtype == 'float32':
      params = lora.merge(base.config, params, spent=True)
      base = base._replace(config=base.reference)
  params = weights.moved(base.config, params, mesh, placed.table)
  return base._replace(params=params, source=str(model))


def without_weights(
  model: str | Path, mesh: Mesh, placed: Placement = PLAIN
) -> LanguageModel:
  """Returns a model without its weights, for a run that trained all of them.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  found, start = runs.lineage(model)
  config = formats.open_source(start).model_config()
  config = config.computed_in(placed.dtype, placed.attention)
  format = chat.load(start, config.vocab_size, config.context)
  systems = (run.get('system', '') for _, run in found)
  system = next(filter(None, systems), '')
  return LanguageModel(config, {}, format, mesh, str(model), system)


def with_system(model: LanguageModel, system: str) -> LanguageModel:
  """Returns a model that has a system message, and says which one it reads.

  Args:
    model: with the system message of its run, or none.
    system: the setting; '' keeps that of the model.
  """
  model = model._replace(system=system or model.system)
  note_system(model, model.system)
  return model


def note_system(
  model: LanguageModel, system: str, setting: str = '--config.system'
) -> None:
  """Says how a model reads a system message, or which one it has without.

  Args:
    model: any.
    system: the message; '' for none.
    setting: that gives it.
  """
  own = model.chat.default_system
  if system and model.chat.reads_system == 'user':
    console.notice(
      f'{model.source} has no system role: the system message is put before '
      "the user's first message"
    )
  elif not system and own is not None:
    console.notice(
      f'the chat template of {model.source} adds its own system message, '
      f'{own!r:.80}; {setting} replaces it'
    )


def first_layers(model: LanguageModel, count: int) -> LanguageModel:
  """Returns a model of the first layers alone; 0 for all of them.

  Their weights are copied, so that the others can be freed.

  Raises:
    ValueError: the model has fewer layers.
  """
  config, params = model.config.first_layers(count), model.params
  if config == model.config:
    return model
  if params:  # not of a model without weights
    params = weights.first_layers(config, params)
  return model._replace(config=config, params=params)


def cast(model: LanguageModel, dtype: str, attention: str) -> LanguageModel:
  """Returns a frozen model with another dtype and attention implementation."""
  config = model.config.computed_in(dtype, attention)
  return model._replace(config=config, params=as_dtype(model.params, dtype))


def reuse(
  model: str | Path,
  mesh: Mesh,
  base: LanguageModel | None = None,
  placed: Placement = PLAIN,
) -> LanguageModel:
  """Returns `base` if it is that model, else loads it; without adapters.

  Args:
    model: as settings name it.
    mesh: of devices.
    base: a loaded model, whose dtype and attention the other one has, too.
    placed: those of a model without a base.
  """
  if base is not None:
    placed = Placement(base.config.dtype, base.config.attention)
  same = base is not None and str(model) == base.source
  loaded = base if base is not None and same else load(model, mesh, placed)
  config = loaded.reference.computed_in(placed.dtype, placed.attention)
  return loaded._replace(config=config)


def beside(
  workdir: str | Path, base: LanguageModel, extra: Params | None = None
) -> LanguageModel:
  """Loads the model that a run ended with, beside the one that it began with.

  Adapters stay apart from the base's weights, which both share.

  Args:
    workdir: of the run.
    base: the model that the run started from.
    extra: as of `restore`; these parameters are left out.

  Raises:
    FileNotFoundError, ValueError: see `restore`.
  """
  model, learned = restore(workdir, base, extra)
  for name in extra or {}:
    del learned[name]
  if model.config.lora is None:
    learned = weights.moved(model.config, learned, base.mesh, 'train')
  return model._replace(params=lora.join(learned, base.params))


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
    ValueError: the checkpoint cannot be read, or the model that the run started
      from has other content since.
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
  # Weights that are all the run's own are used or compared with no others.
  if base.params or base.config.lora:
    inputs.check_base(workdir)
  checkpoints = Checkpoints(Path(workdir) / 'checkpoints', read_only=True)
  # Only `params` are restored; the optimiser state stays on disk.
  abstract = lora.abstract(base.config, base.mesh) | (extra or {})
  learned = checkpoints.restore(params=abstract)['params']
  checkpoints.close()
  return base, learned
