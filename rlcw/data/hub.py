"""Downloads data sets from the Hugging Face Hub."""

import re
from pathlib import Path
from typing import Any

from rlcw.runtime import hub

# organisation/name, then @ and a branch, tag or commit, then ? and a glob of
# its files.
_ID = re.compile(r'(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?(?:\?(.+))?')
_DATA = re.compile(r'\.(jsonl|ndjson|json|parquet|csv|tsv)(\.gz)?$')


def is_id(path: str) -> bool:
  """Returns True if a path can be the id of a data set on the Hub."""
  match = _ID.fullmatch(path)
  return match is not None and not _DATA.search(match[1])


def fetch(path: str) -> tuple[Path, str]:
  """Downloads a data set, once.

  Args:
    path: `org/name[@revision][?glob]`.

  Returns:
    The folder in the Hub's cache, and the glob of the data set's files.

  Raises:
    FileNotFoundError: the download failed.
  """
  import huggingface_hub
  from huggingface_hub import errors

  match = _ID.fullmatch(path)
  assert match is not None  # by `is_id`
  repository, revision, pattern = match.groups()
  settings: dict[str, Any] = dict(
    repo_id=repository,
    repo_type='dataset',
    revision=revision,
    allow_patterns=[pattern] if pattern else None,
  )
  try:
    # Without a request where there is a copy, so that runs work offline.
    folder = huggingface_hub.snapshot_download(
      **settings, local_files_only=True
    )
  except errors.LocalEntryNotFoundError:
    try:
      # `snapshot_download` sets no timeout for its first request.
      huggingface_hub.HfApi().dataset_info(
        repository, revision=revision, timeout=hub.TIMEOUT_SECONDS
      )
      folder = huggingface_hub.snapshot_download(**settings)
    # The HTTP clients that the Hub's library has used over its versions have no
    # other base class of errors in common.
    except Exception as error:
      raise FileNotFoundError(
        f'no data at {path}: there is no such path, and the download from the '
        f'Hugging Face Hub failed: {hub.reason(error)}'
      ) from error
  return Path(folder), pattern or '**/*'
