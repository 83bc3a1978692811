"""Repositories on the Hugging Face Hub, downloaded once."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# organisation/name, then @ and a branch, tag or commit, then ? and a glob of
# its files.
_ID = re.compile(r'(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?(?:\?(.+))?')
_TIMEOUT_SECONDS = 10.0  # of the first request


class Repository(NamedTuple):
  """A repository on the Hub, as settings name it."""

  name: str  # organisation/name
  revision: str | None
  pattern: str | None  # glob of its files


def parse(text: str) -> Repository | None:
  """Parses `org/name[@revision][?glob]`; anything else gives None."""
  match = _ID.fullmatch(text)
  return Repository(*match.groups()) if match else None


def snapshot(
  repository: Repository,
  kind: str,
  patterns: Sequence[str],
  ignored: Sequence[str] = (),
  is_complete: Callable[[Path], bool] = lambda _: True,
) -> Path:
  """Returns a repository's folder in the Hub's cache.

  A complete copy is used without any request, so runs work offline.

  Args:
    repository: on the Hub.
    kind: `model` or `dataset`.
    patterns: globs of the files to download.
    ignored: globs of files among these that are not downloaded.
    is_complete: whether a cached folder has every file that is needed: another
      program may have downloaded only some.

  Raises:
    FileNotFoundError: the download failed; says why in one line.
  """
  import huggingface_hub
  from huggingface_hub import errors

  def fetch(local_files_only: bool) -> Path:
    return Path(
      huggingface_hub.snapshot_download(
        repository.name,
        repo_type=kind,
        revision=repository.revision,
        local_files_only=local_files_only,
        allow_patterns=list(patterns),
        ignore_patterns=list(ignored),
      )
    )

  try:
    folder = fetch(local_files_only=True)
    if is_complete(folder):
      return folder
  except (errors.LocalEntryNotFoundError, errors.HFValidationError):
    pass
  try:
    # `snapshot_download` sets no timeout for its first request, so an
    # unreachable Hub is detected by this one.
    huggingface_hub.HfApi().repo_info(
      repository.name,
      repo_type=kind,
      revision=repository.revision,
      timeout=_TIMEOUT_SECONDS,
    )
    return fetch(local_files_only=False)
  # The HTTP clients that the Hub's library has used over its versions have no
  # other base class of errors in common.
  except Exception as error:
    raise FileNotFoundError(
      'there is no such path, and the download from the Hugging Face Hub '
      f'failed: {_reason(error)}'
    ) from error


def _reason(error: Exception) -> str:
  """Returns one line that explains an error of the Hub's library."""
  from huggingface_hub import errors

  # In this order, because a GatedRepoError is also a RepositoryNotFoundError.
  known = {
    errors.GatedRepoError: 'accept terms on its page, and log in '
    '(hf auth login)',
    errors.RepositoryNotFoundError: 'no such repository, or a private one',
    errors.RevisionNotFoundError: 'no such revision in the repository',
    errors.OfflineModeIsEnabled: 'HF_HUB_OFFLINE forbids requests',
  }
  for kind, explanation in known.items():
    if isinstance(error, kind):
      return explanation
  text = str(error).strip() or 'no reason given'
  return f'{type(error).__name__}: {text.splitlines()[0]}'
