"""Records in, padded or packed batches out; a run's order is a pure function.

Which records a step reads follows from (seed, step) alone, so the step number
is the data position: a resumed run needs nothing else to go on exactly.  Which
of them one of several processes reads follows from its index and their number.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.data import files

TFDS = 'tfds:'  # what the path of a TensorFlow dataset begins with


@dataclasses.dataclass(frozen=True)
class Preference:
  """Replies to one prompt, and what each is worth beside the others."""

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
    """The best reply, the first of them where several are."""
    return self.replies[int(np.argmax(self.worth))]

  @property
  def rejected(self) -> str:
    """The worst reply, the first of them where several are."""
    return self.replies[int(np.argmin(self.worth))]


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and a reply to learn from."""

  prompt: str
  response: str
  language: str = 'en'
  split: str = 'train'


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
  """All records of a JSONL file, such as a run leaves."""
  return [record for _, record in files.read_lines(files.resolve(path))]


def read_numbered(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
  """All records that a path in a config names, and the number of each.

  Args:
    path: a file of JSONL, JSON or parquet, `@NAME` for one that the package
      ships, or `tfds:NAME/CONFIG:VERSION?SPLIT` (`tfds.read`).

  Returns:
    Records, each with its line in JSONL, else its place from 1.

  Raises:
    FileNotFoundError: with the names that do exist.
    ValueError: names the file, the line and what is wrong with it.
  """
  if str(path).startswith(TFDS):
    try:
      from rlcw.data import tfds
    except ImportError as error:
      raise ValueError(
        f"{path} needs pip install 'rlcw[data]': {error}"
      ) from None
    return list(enumerate(tfds.read(str(path).removeprefix(TFDS)), 1))
  return files.read(files.resolve(path))


def _parse(path: str | Path, parse: Callable[[dict[str, Any]], Any]):
  """Parses each record, saying which one was at fault."""
  parsed = []
  for line, record in read_numbered(path):
    try:
      parsed.append(parse(record))
    except (KeyError, TypeError, ValueError) as error:
      name = f'{record["id"]}: ' if 'id' in record else ''
      reason = f'no field {error}' if isinstance(error, KeyError) else error
      raise ValueError(f'{path}:{line}: {name}{reason}') from None
  return parsed


def _select(items: list[Any], path: str | Path, **wanted: str | None):
  """The items whose fields have the wanted values; `None` wants any."""
  wanted = {field: value for field, value in wanted.items() if value}
  chosen = [
    item
    for item in items
    if all(getattr(item, field) == value for field, value in wanted.items())
  ]
  if not chosen:
    legal = {
      field: sorted({getattr(item, field) for item in items})
      for field in wanted
    }
    raise ValueError(f'{path} has nothing with {wanted}; it has {legal}')
  return chosen


def load_preferences(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
) -> list[Preference]:
  """What was preferred to what, of a split and language.

  A record is a pair, `{"prompt", "chosen", "rejected"}`, worth 1 and 0; or a
  reply with its score, `{"prompt", "response", "score"}`, and all of a prompt
  belong together.  A prompt whose record names no split is held out with
  probability `heldout`, which its own text decides.
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

  together: dict[str, Preference] = {}
  pairs = []
  for each in _parse(path, parse):
    if len(each.replies) == 2:
      pairs.append(each)
      continue
    first = together.get(each.prompt)
    together[each.prompt] = (
      each
      if first is None
      else dataclasses.replace(
        first,
        replies=first.replies + each.replies,
        worth=first.worth + each.worth,
      )
    )
  return _select(
    [*pairs, *together.values()], path, split=split, language=language
  )


def split_of(prompt: str, heldout: float) -> str:
  """`heldout` for that share of all prompts, the same ones in every run."""
  digest = hashlib.blake2b(prompt.encode(), digest_size=8).digest()
  return 'heldout' if int.from_bytes(digest) < heldout * 2**64 else 'train'


def load_examples(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
) -> list[Example]:
  """Examples of a split and language; of a preference pair, what was chosen.

  A prompt whose record names no split is held out as in `load_preferences`.
  """

  def parse(record: dict[str, Any]) -> Example:
    fields = {f.name for f in dataclasses.fields(Example)}
    known = {key: value for key, value in record.items() if key in fields}
    known.setdefault('response', record.get('chosen', ''))
    known.setdefault('split', split_of(record['prompt'], heldout))
    example = Example(**known)
    if not example.response.strip():
      raise ValueError('neither response nor chosen holds a text')
    return example

  return _select(_parse(path, parse), path, split=split, language=language)
