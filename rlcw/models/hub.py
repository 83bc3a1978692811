"""Finds a model on this machine or on the Hugging Face Hub."""

import json
from pathlib import Path

from rlcw.models.folders import INDEX, SINGLE
from rlcw.runtime import hub

_FILES = (
  '*.json',
  '*.safetensors',
  '*.jinja',
  'tokenizer.model',
  'merges.txt',
  'vocab.txt',
)
_EXPECTED = (
  'expected a GGUF file, a folder with config.json and safetensors, or a Hub '
  'id (org/name)'
)
# The model of the shipped configs, and what puts it into their folder.
_DEFAULT = 'SmolLM2-135M-Instruct.Q4_1.gguf'
_SCRIPT = './scripts/quickstart.sh, run in a checkout,'


def fetch(model: str | Path) -> Path:
  """Returns the file or folder of a model, downloading it from the Hub once.

  Args:
    model: a path, or the id of a repository on the Hub, `org/name` or
      `org/name@revision`.  An existing path takes precedence.

  Returns:
    The path as given, or the folder in the Hub's cache with the repository's
    configuration, tokenizer and safetensors.

  Raises:
    FileNotFoundError: there is no such path, and the download failed.
  """
  path = Path(model)
  if not str(model).strip():  # `Path('')` is the current folder
    raise FileNotFoundError(f'no model is named: {_EXPECTED}')
  if path.exists():
    return path
  repository = hub.parse(str(model))
  files = path.suffix in ('.gguf', '.safetensors')
  if repository is None or repository.pattern or files:
    hint = f'; {_SCRIPT} downloads this one' if path.name == _DEFAULT else ''
    raise FileNotFoundError(f'no model at {model}: {_EXPECTED}{hint}')
  try:
    # Subfolders, and `consolidated` of Mistral, have the same weights in other
    # formats.
    others = ['*/*', 'consolidated*']
    folder = hub.snapshot(repository, 'model', _FILES, others, _is_complete)
  except FileNotFoundError as error:
    text = f'no model at {model}: {error}; {_EXPECTED}'
    raise FileNotFoundError(text) from error.__cause__
  # Adapters are named by whoever opens them.
  if not _is_complete(folder) and not (folder / 'adapter_config.json').exists():
    raise FileNotFoundError(
      f'no model at {model}: its repository on the Hugging Face Hub has no '
      f'config.json with safetensors; {_EXPECTED}'
    )
  return folder


def _is_complete(folder: Path) -> bool:
  """Returns True if all files of a model are in a folder."""
  required = ['config.json', SINGLE]
  index = folder / INDEX
  if index.is_file() and not (folder / SINGLE).is_file():
    try:
      weight_map = json.loads(index.read_text('utf-8'))['weight_map']
      required = ['config.json', *map(str, weight_map.values())]
    except (ValueError, KeyError, TypeError, AttributeError):
      return False
  return all((folder / name).is_file() for name in required)
