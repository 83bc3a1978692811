"""Loading of records, preferences and examples by split and language.

A path in a config names a file (JSONL, JSON or parquet), a file that the
package ships (`@NAME`) or a TensorFlow dataset (`tfds:NAME`).
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.data import files

TFDS = 'tfds:'  # prefix of the path of a TensorFlow dataset


@dataclasses.dataclass(frozen=True)
class Preference:
  """Replies to one prompt, and their relative worth.

  `worth[i]` belongs to `replies[i]` and is comparable only within the prompt.
  """

  prompt: str
  replies: tuple[str, ...]
  worth: tuple[float, ...]
  id: str = ''
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  split: str = 'train'

  @property
  def chosen(self) -> str:
    """The reply of greatest worth; the first one of equals."""
    return self.replies[int(np.argmax(self.worth))]

  @property
  def rejected(self) -> str:
    """The reply of least worth; the first one of equals."""
    return self.replies[int(np.argmin(self.worth))]


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and a reply to imitate (supervised fine-tuning)."""

  prompt: str
  response: str
  language: str = 'en'
  split: str = 'train'


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
  """Reads all records of a JSONL file, such as the output of a run."""
  return [record for _, record in files.read_lines(files.resolve(path))]


def read_numbered(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
  """Reads all records of a path in a config, with the number of each.

  Args:
    path: a JSONL, JSON or parquet file, `@NAME` for a file that the package
      ships, or `tfds:NAME/CONFIG:VERSION?SPLIT` (`tfds.read`).

  Returns:
    Pairs (number, record); the number is the line in JSONL, else the position
    from 1.

  Raises:
    FileNotFoundError: there is no such file; lists the files that are shipped.
    ValueError: a record is malformed (names file, line and reason), or the
      extra `data` is not installed.
  """
  if str(path).startswith(TFDS):
    # TFDS is an optional dependency, and slow to import.
    try:
      from rlcw.data import tfds
    except ImportError as error:
      raise ValueError(
        f"{path} requires the extra `data` (pip install 'rlcw[data]'): {error}"
      ) from None
    return list(enumerate(tfds.read(str(path).removeprefix(TFDS)), 1))
  return files.read(files.resolve(path))


def _parse(path: str | Path, parse: Callable[[dict[str, Any]], Any]):
  """Parses each record; errors name the file, the line and the record's id."""
  parsed = []
  for line, record in read_numbered(path):
    try:
      parsed.append(parse(record))
    except (KeyError, TypeError, ValueError) as error:
      name = f'{record["id"]}: ' if 'id' in record else ''
      # The text of a KeyError is only the missing key.
      reason = f'no field {error}' if isinstance(error, KeyError) else error
      raise ValueError(f'{path}:{line}: {name}{reason}') from None
  return parsed


def _select(items: list[Any], path: str | Path, **wanted: str | None):
  """Selects the items whose fields have the given values; None accepts any.

  Raises:
    ValueError: there are none; lists the values that the fields do have.
  """
  wanted = {field: value for field, value in wanted.items() if value}
  selected = [
    item
    for item in items
    if all(getattr(item, field) == value for field, value in wanted.items())
  ]
  if not selected:
    available = {
      field: sorted({getattr(item, field) for item in items})
      for field in wanted
    }
    raise ValueError(f'{path} has no record with {wanted}; it has {available}')
  return selected


def load_preferences(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
) -> list[Preference]:
  """Loads preferences, optionally of one split and language.

  A record is either a pair, `{"prompt", "chosen", "rejected"}`, of worth 1 and
  0, or a scored reply, `{"prompt", "response", "score"}`.  Scored replies to
  the same prompt become one `Preference`; each pair is one of its own.

  Args:
    path: see `read_numbered`.
    split: None for all.
    language: None for all.
    heldout: share of prompts in the split 'heldout', of those whose records
      name no split (`split_of`).

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is malformed, or none is of the split and language.
  """
  shared = 'id', 'language', 'genre', 'theme', 'split'

  def parse(record: dict[str, Any]) -> Preference:
    if 'score' in record:
      replies, worth = (record['response'],), (float(record['score']),)
    else:
      replies, worth = (record['chosen'], record['rejected']), (1.0, 0.0)
    if not all(reply.strip() for reply in replies):
      raise ValueError('a reply must not be empty')
    known = {key: record[key] for key in shared if key in record}
    known.setdefault('split', split_of(record['prompt'], heldout))
    return Preference(record['prompt'], replies, worth, **known)

  scored: dict[str, Preference] = {}  # by prompt
  pairs = []
  for preference in _parse(path, parse):
    # Pairs stay apart even for equal prompts: worth 1 and 0 compares the two
    # replies of a pair only, whereas scores compare all replies to a prompt.
    if len(preference.replies) == 2:
      pairs.append(preference)
      continue
    first = scored.get(preference.prompt)
    scored[preference.prompt] = (
      preference
      if first is None
      else dataclasses.replace(
        first,
        replies=first.replies + preference.replies,
        worth=first.worth + preference.worth,
      )
    )
  return _select(
    [*pairs, *scored.values()], path, split=split, language=language
  )


def split_of(prompt: str, heldout: float) -> str:
  """Assigns a prompt to 'heldout' with probability `heldout`, else 'train'."""
  # A hash of the prompt, so that every run and every file agrees, and all
  # records of a prompt are on the same side.
  digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
  return 'heldout' if int.from_bytes(digest) < heldout * 2**64 else 'train'


def load_examples(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
) -> list[Example]:
  """Loads examples, optionally of one split and language.

  Of a preference pair, the chosen reply is the response.  Arguments and errors
  are those of `load_preferences`.
  """

  def parse(record: dict[str, Any]) -> Example:
    fields = {f.name for f in dataclasses.fields(Example)}
    known = {key: value for key, value in record.items() if key in fields}
    known.setdefault('response', record.get('chosen', ''))
    known.setdefault('split', split_of(record['prompt'], heldout))
    example = Example(**known)
    if not example.response.strip():
      raise ValueError('expected a non-empty text in response or chosen')
    return example

  return _select(_parse(path, parse), path, split=split, language=language)
