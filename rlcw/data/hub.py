"""Data sets on the Hugging Face Hub."""

import re
from collections import Counter
from pathlib import Path

from rlcw.runtime import hub

# Number of a shard and of all, from 0, as `train-00000-of-00003.parquet`.
_SHARD = re.compile(r'(.*?)(\d+)-of-(\d+)(\D.*)')
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
    folder = hub.snapshot(
      repository,
      'dataset',
      [pattern or '*'],
      is_complete=lambda folder: _is_complete(folder, pattern or '**/*'),
    )
  except FileNotFoundError as error:
    raise FileNotFoundError(f'no data at {path}: {error}') from error.__cause__
  return folder, pattern or '**/*'


def _is_complete(folder: Path, pattern: str) -> bool:
  """Returns True if a cached folder has data, and all shards of what it has.

  Another program may have downloaded some files alone.
  """
  names = [
    path.relative_to(folder).as_posix()
    for path in folder.glob(pattern)
    if _DATA.search(path.name)
  ]
  shards = Counter(
    (match[1], match[3], match[4])
    for match in map(_SHARD.fullmatch, names)
    if match
  )
  return bool(names) and all(
    n >= int(total) for (_, total, _), n in shards.items()
  )
