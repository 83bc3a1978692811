"""Folders of Hugging Face: `config.json` and safetensors, tensor by tensor.

Nothing is unpickled, and only the requested tensors are read.  Of a multimodal
model the text decoder is read, under the names of a text model.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcw.models.config import ModelConfig
from rlcw.models.config_json import text_config
from rlcw.runtime.files import read_json

_DTYPES = ('F32', 'F16', 'BF16')
INDEX = 'model.safetensors.index.json'
# As in Transformers, it takes precedence over any other file of its folder.
SINGLE = 'model.safetensors'
# Tables that follow from the configuration, which old files have nevertheless:
# rotary frequencies, masks and positions.
_BUFFER = re.compile(
  r'(.*\.)?(rotary_emb\w*\.\w*(inv_freq|cos_cached|sin_cached)'
  r'|(self_)?attn(ention)?\.(masked_)?bias|position_ids)'
)
# A multimodal model's other parts, and the prefixes of its text decoder by old
# and new versions of transformers.
_OTHER_PARTS = re.compile(
  r'(model\.)?(vision_tower|multi_modal_projector|embed_vision|audio_tower'
  r'|embed_audio)\.'
)
_TEXT_PARTS = {
  'language_model.model.': 'model.',
  'language_model.lm_head.': 'lm_head.',
  'model.language_model.': 'model.',
}


class Source(NamedTuple):
  """A checkpoint on disk, with tensors under their names in the file."""

  path: Path
  format: str  # hf | gguf
  config: dict[str, Any]  # fields of Hugging Face's config.json
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str], np.ndarray]

  def model_config(self) -> ModelConfig:
    """The decoder configuration that the header describes.

    Raises:
      ValueError: names the file, the field and the supported values.
    """
    layers = self.config.get('num_hidden_layers')
    try:
      # Checked first because building the list of expected tensors takes time
      # and memory in proportion to this untrusted number.
      if isinstance(layers, int) and layers > len(self.shapes):
        raise ValueError(
          f'num_hidden_layers={layers}, but there are only '
          f'{len(self.shapes)} tensors'
        )
      return ModelConfig.from_hf(self.config)
    except ValueError as error:
      header = self.path / 'config.json' if self.format == 'hf' else self.path
      raise ValueError(f'{header}: {error}') from None


def open_safetensors(folder: Path) -> Source:
  """Opens a Hugging Face folder: `config.json` and safetensors files.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: all faults of the files and the index, in one message.
  """
  from safetensors import safe_open

  if _has_adapters_alone(folder):
    raise _adapters_error(folder)
  if (folder / 'adapter_config.json').is_file():
    raise ValueError(
      f'{folder} has the weights of a model beside adapter_config.json of '
      'peft; expected one of them: merge the adapters, or remove their files'
    )
  if not (folder / 'config.json').exists():
    raise _no_config_error(folder)
  header = folder / 'config.json'
  whole = read_json(header)
  try:
    config = text_config(whole)
  except ValueError as error:
    raise ValueError(f'{header}: {error}') from None
  multimodal = config.get('model_type') != whole.get('model_type')
  # Name in the file, by the name of the tensor in a text model.
  stored: dict[str, str] = {}
  files: dict[str, Path] = {}
  shapes: dict[str, tuple[int, ...]] = {}
  errors = []
  for file in _safetensors_files(folder):
    # Opening reads the header alone: names, dtypes and shapes.
    try:
      handle = safe_open(file, framework='numpy')
    except Exception as error:
      raise ValueError(f'{file} is damaged: {error}') from None
    for name in handle.keys():  # noqa: SIM118
      part = handle.get_slice(name)
      if name in files:
        errors.append(f'{name} is in {files[name].name} and in {file.name}')
      files[name] = file
      if _BUFFER.fullmatch(name) or (multimodal and _OTHER_PARTS.match(name)):
        continue
      if part.get_dtype() not in _DTYPES:
        errors.append(
          f'{name}: dtype {part.get_dtype()}, expected one of {_DTYPES}'
        )
      text_name = _text_name(name) if multimodal else name
      stored[text_name], shapes[text_name] = name, tuple(part.get_shape())
  for name, file in _weight_map(folder).items():
    if files.get(name) != file:
      errors.append(f'{name} is not in {file.name}, the file in {INDEX}')
  if errors:
    raise ValueError(f'{folder} cannot be read:\n  ' + '\n  '.join(errors))

  if multimodal:
    tied = 'lm_head.weight' not in shapes
    config = {'tie_word_embeddings': tied, **config}

  def read(name: str) -> np.ndarray:
    # The file is mapped anew for each tensor: pages of one long-lived mapping
    # would stay in memory after their tensor has been used.
    with safe_open(files[stored[name]], framework='numpy') as handle:
      return handle.get_tensor(stored[name])

  return Source(folder, 'hf', config, shapes, read)


def _text_name(name: str) -> str:
  """Name in a text model of a tensor of a multimodal one."""
  for prefix, plain in _TEXT_PARTS.items():
    if name.startswith(prefix):
      return plain + name.removeprefix(prefix)
  return name


def _has_adapters_alone(folder: Path) -> bool:
  """True for a folder of `peft`, which may have a `config.json` of its base."""
  whole = INDEX, SINGLE
  return (folder / 'adapter_config.json').is_file() and not any(
    (folder / name).exists() for name in whole
  )


def _adapters_error(folder: Path) -> ValueError:
  adapters = read_json(folder / 'adapter_config.json')
  return ValueError(
    f'{folder} has adapters of peft for the base '
    f'{adapters.get("base_model_name_or_path")!r}, not a model; expected them '
    f'merged: PeftModel.from_pretrained(base, {str(folder)!r})'
    '.merge_and_unload().save_pretrained(NEW_FOLDER)'
  )


def _no_config_error(folder: Path) -> Exception:
  """The error of a folder without `config.json`, by what else it has."""
  if any(folder.glob('*.gguf')):
    return FileNotFoundError(
      f'{folder} lacks config.json; expected the path of one of its GGUF '
      f'files: {sorted(p.name for p in folder.glob("*.gguf"))}'
    )
  return _missing_error(folder, 'config.json')


def _weight_map(folder: Path) -> dict[str, Path]:
  """File of each tensor by the index; empty without one, or if none is read."""
  if not (folder / INDEX).exists() or (folder / SINGLE).exists():
    return {}
  weight_map = read_json(folder / INDEX).get('weight_map')
  if not isinstance(weight_map, dict) or not weight_map:
    raise ValueError(f'{folder / INDEX} has no weight_map')
  for name, file in weight_map.items():
    # A plain name only: a path such as `../x` would leave the folder.
    if not isinstance(file, str) or not file or Path(file).name != file:
      raise ValueError(f'{folder / INDEX}: {name}: {file!r} is not a file name')
  return {name: folder / file for name, file in weight_map.items()}


def _safetensors_files(folder: Path) -> list[Path]:
  """Safetensors files of a model: a single one, or those of the index."""
  if (folder / SINGLE).exists():
    return [folder / SINGLE]
  if files := sorted(set(_weight_map(folder).values())):
    absent = [file.name for file in files if not file.is_file()]
    if absent:
      raise _missing_error(folder, f'{absent}, which {INDEX} names')
    return files
  files = sorted(folder.glob('*.safetensors'))
  if not files:
    kinds = '*.bin', '*.pt', '*.pth', '*.ckpt'
    pickles = sorted(p.name for kind in kinds for p in folder.glob(kind))
    if pickles:
      raise FileNotFoundError(
        f'{folder} lacks a *.safetensors file: {pickles} would have to be '
        'unpickled, which may run any code; convert a folder that you trust by '
        f"transformers' AutoModelForCausalLM.from_pretrained({str(folder)!r})"
        '.save_pretrained(NEW_FOLDER)'
      )
    raise _missing_error(folder, 'a *.safetensors file')
  return files


def _missing_error(folder: Path, missing: str) -> FileNotFoundError:
  present = sorted(p.name for p in folder.iterdir())
  return FileNotFoundError(f'{folder} lacks {missing}; it has: {present}')
