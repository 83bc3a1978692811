"""Where a model is: on this machine, or on the Hugging Face Hub."""

import json
import re
from pathlib import Path

# An organisation, a name, and the branch, tag or commit where one is wanted.
_ID = re.compile(r'(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?')
_FILES = (
  '*.json',
  '*.safetensors',
  '*.jinja',
  'tokenizer.model',
  'merges.txt',
  'vocab.txt',
)
_SECONDS = 10.0  # to wait for the Hub's first answer
_LEGAL = (
  'give a GGUF file, a folder with config.json and safetensors, or a Hub id '
  '(org/name)'
)


def fetch(model: str | Path) -> Path:
  """The file or folder of a model, downloaded once where it is on the Hub.

  Args:
    model: a path, or the id of a repository on the Hub, `org/name` or
      `org/name@revision`.  A path that exists goes first.

  Returns:
    The path as given, or the folder of the Hub's cache that holds the
    repository's configuration, tokenizer and safetensors.

  Raises:
    FileNotFoundError: there is no such path, or the Hub does not give it.
  """
  path = Path(model)
  if path.exists():
    return path
  match = _ID.fullmatch(str(model))
  if match is None or path.suffix in ('.gguf', '.safetensors'):
    raise FileNotFoundError(f'no model at {model}: {_LEGAL}')
  repository, revision = match.groups()
  cached = _cached(repository, revision)
  if cached is not None:
    return cached
  try:
    folder = _download(repository, revision)
  # The errors of the HTTP clients that the Hub's library has used over its
  # versions have no other base in common.
  except Exception as error:
    raise FileNotFoundError(
      f'no model at {model}: there is no such path, and the Hugging Face Hub '
      f'does not give it: {_reason(error)}; {_LEGAL}'
    ) from error
  if not _is_whole(folder):
    raise FileNotFoundError(
      f'no model at {model}: that repository of the Hugging Face Hub has no '
      f'config.json with safetensors; {_LEGAL}'
    )
  return folder


def _cached(repository: str, revision: str | None) -> Path | None:
  from huggingface_hub import errors

  try:
    folder = _snapshot(repository, revision, local_files_only=True)
  except (errors.LocalEntryNotFoundError, errors.HFValidationError):
    return None
  return folder if _is_whole(folder) else None


def _download(repository: str, revision: str | None) -> Path:
  import huggingface_hub

  # The download itself waits for its first answer without a limit.
  huggingface_hub.HfApi().model_info(
    repository, revision=revision, timeout=_SECONDS
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
    ignore_patterns='*/*',  # the same weights in other formats
  )
  return Path(folder)


def _is_whole(folder: Path) -> bool:
  """Whether every file is there: another program may have fetched a few."""
  wanted = ['config.json', 'model.safetensors']
  index = folder / 'model.safetensors.index.json'
  if index.is_file():
    try:
      named = json.loads(index.read_text('utf-8'))['weight_map']
      wanted = ['config.json', *map(str, named.values())]
    except (ValueError, KeyError, TypeError, AttributeError):
      return False
  return all((folder / name).is_file() for name in wanted)


def _reason(error: Exception) -> str:
  from huggingface_hub import errors

  known = {
    errors.GatedRepoError: 'its owner asks you to accept terms on its page, '
    'and to log in (hf auth login)',
    errors.RepositoryNotFoundError: 'it has no such repository, or a private '
    'one',
    errors.RevisionNotFoundError: 'the repository has no such revision',
    errors.OfflineModeIsEnabled: 'HF_HUB_OFFLINE forbids to ask it',
  }
  for kind, reason in known.items():
    if isinstance(error, kind):
      return reason
  text = str(error).strip() or 'no reason given'
  return f'{type(error).__name__}: {text.splitlines()[0]}'
