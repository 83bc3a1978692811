"""Data sets on the Hugging Face Hub."""

import re
from pathlib import Path

from rlcw.runtime import hub

_DATA = re.compile(r'\.(jsonl|ndjson|json|parquet|csv|tsv)(\.gz)?$')


def is_id(path: str) -> bool:
  """Returns True if a path can be the id of a data set on the Hub."""
  repository = hub.parse(path)
  return repository is not None and not _DATA.search(repository.name)


def fetch(path: str) -> tuple[Path, str]:
  """Downloads a data set, once.

  Args:
    path: `org/name[@revision][?glob]`.

  Returns:
    The folder in the Hub's cache, and the glob of the data set's files.

  Raises:
    FileNotFoundError: the download failed.
  """
  repository = hub.parse(path)
  assert repository is not None  # by `is_id`
  pattern = repository.pattern
  try:
    folder = hub.snapshot(repository, 'dataset', [pattern or '*'])
  except FileNotFoundError as error:
    raise FileNotFoundError(f'no data at {path}: {error}') from error.__cause__
  return folder, pattern or '**/*'
