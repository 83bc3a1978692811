"""Finds a model on this machine or on the Hugging Face Hub."""

import json
import re
from pathlib import Path

from rlcw.runtime import hub

# organisation/name, optionally followed by @ and a branch, tag or commit.
_ID = re.compile(r'(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?')
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
  if path.exists():
    return path
  match = _ID.fullmatch(str(model))
  if match is None or path.suffix in ('.gguf', '.safetensors'):
    raise FileNotFoundError(f'no model at {model}: {_EXPECTED}')
  repository, revision = match.groups()
  # A complete copy is used without any request, so runs work offline.
  cached = _cached(repository, revision)
  if cached is not None:
    return cached
  try:
    folder = _download(repository, revision)
  # The HTTP clients that the Hub's library has used over its versions have no
  # other base class of errors in common.
  except Exception as error:
    raise FileNotFoundError(
      f'no model at {model}: there is no such path, and the download from the '
      f'Hugging Face Hub failed: {hub.reason(error)}; {_EXPECTED}'
    ) from error
  # Adapters are named by whoever opens them.
  if not _is_complete(folder) and not (folder / 'adapter_config.json').exists():
    raise FileNotFoundError(
      f'no model at {model}: its repository on the Hugging Face Hub has no '
      f'config.json with safetensors; {_EXPECTED}'
    )
  return folder


def _cached(repository: str, revision: str | None) -> Path | None:
  from huggingface_hub import errors

  try:
    folder = _snapshot(repository, revision, local_files_only=True)
  except (errors.LocalEntryNotFoundError, errors.HFValidationError):
    return None
  return folder if _is_complete(folder) else None


def _download(repository: str, revision: str | None) -> Path:
  import huggingface_hub

  # `snapshot_download` sets no timeout for its first request, so an unreachable
  # Hub is detected by this one.
  huggingface_hub.HfApi().model_info(
    repository, revision=revision, timeout=hub.TIMEOUT_SECONDS
  )
  return _snapshot(repository, revision, local_files_only=False)


def _snapshot(
  repository: str, revision: str | None, local_files_only: bool
) -> Path:
  import huggingface_hub

  folder = huggingface_hub.snapshot_download(
    repository,
    revision=revision,
    local_files_only=local_files_only,
    allow_patterns=list(_FILES),
    # Subfolders have the same weights in other formats.
    ignore_patterns='*/*',
  )
  return Path(folder)


def _is_complete(folder: Path) -> bool:
  """Returns True if all files of a model are in a folder.

  Another program may have downloaded only some of the repository's files.
  """
  required = ['config.json', 'model.safetensors']
  index = folder / 'model.safetensors.index.json'
  if index.is_file():
    try:
      weight_map = json.loads(index.read_text('utf-8'))['weight_map']
      required = ['config.json', *map(str, weight_map.values())]
    except (ValueError, KeyError, TypeError, AttributeError):
      return False
  return all((folder / name).is_file() for name in required)
