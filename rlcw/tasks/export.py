"""Task `export`: writes a run's model in the format of `transformers`.

The folder `WORKDIR/model` also loads in vLLM, SGLang and `peft`.  It contains:

  a policy         config.json, safetensors, tokenizer: AutoModelForCausalLM
  its adapters     adapter_config.json and the adapters alone: PeftModel; and
                   the base in base/, if peft could not load it by its name
  a reward model   AutoModelForSequenceClassification with one label

Letters: L layers, O outputs and I inputs of a kernel, R rank of an adapter.
"""

import copy
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from rlcw import Config
from rlcw.models import (
  formats,
  language_model,
  lora,
  names,
  stacks,
  weights,
)
from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.families import FAMILIES
from rlcw.rewards import reward_model
from rlcw.runtime import claim, console, processes
from rlcw.runtime.files import naming, read_json, write_json
from rlcw.runtime.mesh import make_mesh, with_mesh

# The `architectures` of a config.json, by `model_type`.
_CAUSAL = {name: family.causal for name, family in FAMILIES.items()}
_CLASSIFIER = {
  name: family.classifier
  for name, family in FAMILIES.items()
  if family.classifier
}


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Writes the folder.

  All processes take part; process 0 writes.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    ValueError: `adapters` is set for a model without any; or see
      `check_folder` and `save_classifier`.
    FileNotFoundError: there is no such model.
  """
  mesh = make_mesh(**config.mesh)
  folder = workdir / 'model'
  primary = processes.is_primary_process()
  check_folder(folder)
  # None for a model that is not the folder of a run
  run = language_model.run_config(config.model)
  if config.adapters:
    if run is None or run.task == 'reward_model' or run.train != 'lora':
      raise ValueError(
        'adapters=True: expected a run of a language model with train=lora, '
        f'found model={config.model}'
      )
    start = language_model.without_weights(run.model, mesh)
    model, learned = language_model.restore(config.model, start)
    base = peft_base(run.model)
    begin(folder)
    if not base:
      # `peft` could not load the base, so it stands beside the adapters
      beside = folder / 'base'
      if primary:
        beside.mkdir(exist_ok=True)
      save_model(language_model.load(run.model, mesh), beside, config)
      base = {'base_model_name_or_path': str(beside.resolve())}
    save_adapters(model.config, learned, base, folder)
  elif run is not None and run.task == 'reward_model':
    reward = reward_model.load_alone(config.model, mesh)
    model = reward.decoder._replace(system=reward.system)
    begin(folder)
    save_classifier(reward, folder, config)
  else:
    # `load` merges a run's adapters into the weights
    model = language_model.load(config.model, mesh)
    begin(folder)
    save_model(model, folder, config)
  save_tokenizer(model, folder)
  if not primary:
    return {}
  files = sorted(folder.rglob('*.safetensors'))
  for file in files:
    # safetensors creates files that only their owner can read, whatever the
    # umask is, which made the mode of the header beside them
    file.chmod(next(file.parent.glob('*config.json')).stat().st_mode)
  summary = {
    'folder': str(folder),
    'files': [str(file.relative_to(folder)) for file in files],
    'bytes': sum(file.stat().st_size for file in files),
  }
  console.log(f'export: {folder}, {summary["bytes"] / 2**20:.0f} MiB')
  return summary


def check_folder(folder: Path) -> None:
  """Checks that a folder is empty, or from an earlier try of the same export.

  Raises:
    ValueError: it has other files, such as the model that is read.
  """

  def refuse() -> None:
    begun = (folder.parent / 'config.json').exists()
    found = (
      any(folder.iterdir()) if folder.is_dir() else os.path.lexists(folder)
    )
    if found and not begun:
      raise ValueError(
        f'{folder} exists, and no export has begun in {folder.parent}; '
        'expected another --workdir'
      )

  processes.from_primary(refuse)


def begin(folder: Path) -> None:
  """Claims the workdir, and empties the folder that is exported to.

  An earlier try, of another content of the model perhaps, may have left parts.
  """
  claim.settle()
  if processes.is_primary_process():
    folder.mkdir(exist_ok=True)
    for part in folder.iterdir():
      if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
      else:
        part.unlink()


def save_model(
  model: language_model.LanguageModel, folder: Path, config: Config
) -> None:
  """Writes a language model whole: header, weights and tokenizer."""
  write_header(config, folder, model.chat, _CAUSAL)
  weights.save(model.config, model.params, folder, config.dtype)
  save_tokenizer(model, folder)


def save_tokenizer(model: language_model.LanguageModel, folder: Path) -> None:
  """Writes a tokenizer, whose template begins with the model's system message.

  A conversation with a system message of its own keeps that one.
  """
  tokenizer = model.tokenizer
  if model.system and model.chat.template.compiled is None:
    console.notice(
      f'{model.source} has no chat template, which would hold the system '
      f'message {model.system!r:.80}'
    )
  elif model.system:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = model.chat.template.with_system(model.system)
  if processes.is_primary_process():
    # Its library raises plain Exceptions, as for a full disk.
    with naming(folder, Exception):
      tokenizer.save_pretrained(folder)


def peft_base(model: str) -> dict[str, str]:
  """The entries by which `peft` finds a base; {} if it could not load it.

  It loads what `transformers` loads as a language model: a folder or Hub id of
  a text model, but no GGUF file, run, or multimodal model.
  """
  path = Path(model)
  if path.is_file() or language_model.run_config(model) is not None:
    return {}
  source = formats.open_source(model)
  header = read_json(source.path / 'config.json')
  if header.get('model_type') != source.config['model_type']:
    return {}
  if path.is_dir():
    # absolute, because the adapters may be loaded from another folder
    return {'base_model_name_or_path': str(path.resolve())}
  name, _, revision = model.partition('@')
  named = {'base_model_name_or_path': name}
  return named | {'revision': revision} if revision else named


def write_header(
  config: Config, folder: Path, chat: ChatFormat, architectures: dict[str, str]
) -> dict[str, Any]:
  """Writes config.json and, for a language model, generation_config.json.

  Both are those of the checkpoint that training began with, apart from the
  entries that the export changes: architecture, dtype, labels and padding of a
  classifier, and the ids that end a reply.

  Args:
    config: the settings of the task.
    folder: the folder to write to.
    chat: of the model.
    architectures: class names by `model_type`.

  Returns:
    The content of config.json.

  Raises:
    ValueError: there is no such class for the model's family.
  """
  # for a GGUF file, `source.config` is derived from its metadata
  source = formats.open_source(language_model.origin(config.model))
  header = dict(source.config)
  if header['model_type'] not in architectures:
    raise ValueError(
      f'transformers has no sequence classifier of {header["model_type"]!r}; '
      f'expected a reward model of one of {(*architectures,)}'
    )
  # describe the old weights, a classifier's old labels, or code that is not
  # exported
  for old in (
    *('torch_dtype', 'transformers_version', 'id2label', 'label2id'),
    'auto_map',
  ):
    header.pop(old, None)
  header |= {
    'architectures': [architectures[header['model_type']]],
    'dtype': config.dtype,
  }
  if architectures is _CLASSIFIER:
    header |= {'id2label': {'0': 'score'}, 'label2id': {'score': 0}}
    header['pad_token_id'] = chat.tokenizer.pad_token_id
  else:
    # inference engines stop at the ids of this file, which may be more than the
    # tokenizer's one EOS
    name = 'generation_config.json'
    before = source.path / name
    generation = read_json(before) if before.exists() else {}
    generation['eos_token_id'] = list(chat.eos_ids)
    write_json(folder / name, generation)
  write_json(folder / 'config.json', header)
  return header


def save_classifier(
  reward: reward_model.RewardModel, folder: Path, config: Config
) -> None:
  """Writes a reward model as a sequence classifier with one label.

  Raises:
    ValueError: its pooling is not 'last': classifiers read the last token only.
  """
  if reward.pooling != 'last':
    raise ValueError(
      f'{config.model} was trained with pooling={reward.pooling!r}, but a '
      'sequence classifier reads only the last token: expected a reward model '
      "trained with pooling='last'"
    )
  model = reward.decoder
  model.tokenizer.pad_token_id = padding(model.chat)
  header = write_header(config, folder, model.chat, _CLASSIFIER)
  # `load_classifier` reads these fields.
  own: dict[str, Any] = {}
  if model.config.num_layers != header['num_hidden_layers']:
    own['num_hidden_layers'] = model.config.num_layers
    for field in ('layer_types', 'no_rope_layers'):
      if header.get(field):
        own[field] = header[field][: model.config.num_layers]
  if reward.end != model.chat.after_reply:  # a head of an earlier version
    own[reward_model.END] = reward.end
  if np.isfinite(reward.floor):
    own[reward_model.FLOOR] = reward.floor
  if own:
    write_json(folder / 'config.json', header | own)
  params = lora.merge(model.config, model.params, spent=True)
  # the score head `[1, D]` replaces the language-model head
  params = {k: v for k, v in params.items() if k != 'head'}
  params['score'] = np.asarray(reward.head.weight)[None]
  weights.save(model.config, params, folder, config.dtype)


def padding(chat: ChatFormat) -> int | None:
  """Id of a classifier's padding; None if every control token ends a reply.

  `transformers` reads the score at the last token that is not padding.  Here
  that token ends a reply, so the padding token must be another one.
  """
  own = chat.tokenizer
  ids: Any = own.pad_token_id, own.unk_token_id, own.bos_token_id
  ends = {None, *chat.after_reply}
  return next(
    (i for i in (*ids, *sorted(chat.control_ids)) if i not in ends), None
  )


def save_adapters(
  config: ModelConfig, learned: Params, base: dict[str, str], folder: Path
) -> None:
  """Writes adapters in the layout of `peft`.

  Args:
    config: of the model, with `lora`.
    learned: the adapters, stacked over layers.
    base: of the model that they were trained on, as of `peft_base`.
    folder: the folder to write to.

  Per layer, `lora_A` is `[R, I]` and `lora_B` `[O, R]` for rank R, inputs I and
  outputs O.
  """
  assert config.lora is not None
  tensors, ranks = {}, {}
  flat: dict[str, Any] = flatten_dict(learned, sep='/')  # pyright: ignore
  for target, prefix in itertools.product(
    config.lora.targets, stacks.stacks(config)
  ):
    path = f'{prefix}{target}/kernel'
    stems = [
      'base_model.model.' + name.removesuffix('.weight')
      for name in names.names(config, path)
    ]
    # Not all layers have all projections, and a tensor may have several.
    written = f'{stems[0]}.lora_A.weight' in tensors
    if written or f'{prefix}{target}/lora_a' not in flat:
      continue
    # our arrays have a leading axis of layers, `peft` one tensor per layer
    a_LxRxI, b_LxOxR = _of_tensor(config, flat, path)
    # 'q_proj' of 'base_model.model.model.layers.0.self_attn.q_proj'
    ranks[stems[0].split('.')[-1]] = a_LxRxI.shape[1]
    for stem, *halves in zip(stems, a_LxRxI, b_LxOxR, strict=True):
      for half, array in zip('AB', halves, strict=True):
        tensors[f'{stem}.lora_{half}.weight'] = array
  rank, alpha = config.lora.rank, config.lora.alpha
  wider = {module: each for module, each in ranks.items() if each != rank}
  patterns = {}
  if wider:
    patterns = {
      'rank_pattern': wider,
      'alpha_pattern': {m: alpha * each / rank for m, each in wider.items()},
    }
  file = folder / 'adapter_model.safetensors'
  if processes.is_primary_process():
    weights.save_tensors(tensors, file, {'format': 'pt'})
  write_json(
    folder / 'adapter_config.json',
    {
      'peft_type': 'LORA',
      'task_type': 'CAUSAL_LM',
      **base,
      'r': rank,
      'lora_alpha': alpha,
      **patterns,
      'lora_dropout': 0.0,
      'target_modules': [*ranks],
      'bias': 'none',
      'inference_mode': True,
    },
  )


def _of_tensor(
  config: ModelConfig, learned: dict[str, Any], path: str
) -> tuple[np.ndarray, np.ndarray]:
  """Adapters `[L, R, I]` and `[L, O, R]` of a checkpoint's tensor.

  Those of several kernels in one tensor become one of their ranks together,
  whose `lora_B` is block diagonal: each reads its own rows of `lora_A`.
  """
  parts = names.members(config, path)
  halves = []
  for part, rows in parts.items():
    paths = [part.replace('kernel', half) for half in ('lora_a', 'lora_b')]
    if paths[0] in learned:
      pair = [processes.to_host(learned[each]) for each in paths]
      halves.append((rows, *pair))
  if len(parts) == 1:
    return halves[0][1:]
  outputs = max(rows.stop for rows in parts.values())
  a_LxRxI = np.concatenate([a for _, a, _ in halves], axis=1)
  b_LxOxR = np.zeros((len(a_LxRxI), outputs, a_LxRxI.shape[1]), a_LxRxI.dtype)
  first = 0
  for rows, _, b in halves:
    b_LxOxR[:, rows, first : first + b.shape[2]] = b
    first += b.shape[2]
  return a_LxRxI, b_LxOxR
