"""Records in, padded or packed batches out; a run's order is a pure function.

Which records a step reads follows from (seed, step) alone, so the step number
is the data position: a resumed run needs nothing else to go on exactly.  Which
of them one of several processes reads follows from its index and their number.
"""

import bisect
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import processes, records
from rlcw.rewards import constraints
from rlcw.rewards.rules import DEMAND

TFDS = 'tfds:'  # what the path of a TensorFlow dataset begins with


@dataclasses.dataclass(frozen=True)
class Brief:
  """A writing task and the rules that its reply must keep."""

  id: str
  prompt: str  # the request alone
  instruction_id_list: tuple[str, ...]
  kwargs: tuple[dict[str, Any], ...]
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  split: str = 'train'
  paraphrase: int = 0  # which wording of each rule

  @property
  def text(self) -> str:
    """The request with its rules written out: what the model reads."""
    return constraints.write_brief(
      self.prompt,
      self.instruction_id_list,
      self.kwargs,
      self.language,
      self.paraphrase,
    )

  @property
  def demands(self) -> dict[int, str]:
    """What only a model can check, by its place among the ids."""
    rules = zip(self.instruction_id_list, self.kwargs, strict=True)
    return {
      place: kwargs['demand']
      for place, (rule, kwargs) in enumerate(rules)
      if rule == DEMAND
    }

  def follow(
    self, reply: str, *, loose: bool = False, benchmark: bool = False
  ) -> list[bool | None]:
    """The verdict on each rule, strict or loose; None at a demand."""
    demands = self.demands
    places = [
      place
      for place in range(len(self.instruction_id_list))
      if place not in demands
    ]
    check = constraints.follow_loose if loose else constraints.follow
    verdicts: list[bool | None] = [None] * len(self.instruction_id_list)
    found = check(
      reply,
      [self.instruction_id_list[place] for place in places],
      [self.kwargs[place] for place in places],
      benchmark=benchmark,
    )
    for place, verdict in zip(places, found, strict=True):
      verdicts[place] = verdict
    return verdicts


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
  return [record for _, record in records.read_lines(records.resolve(path))]


def read_numbered(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
  """All records that a path in a config names, and the number of each.

  Args:
    path: a file of JSONL, JSON or parquet, `@NAME` for one that the package
      ships, or `tfds:NAME/CONFIG:VERSION?SPLIT` (`builders.read`).

  Returns:
    Records, each with its line in JSONL, else its place from 1.

  Raises:
    FileNotFoundError: with the names that do exist.
    ValueError: names the file, the line and what is wrong with it.
  """
  if str(path).startswith(TFDS):
    try:
      from rlcw import builders
    except ImportError as error:
      raise ValueError(
        f"{path} needs pip install 'rlcw[data]': {error}"
      ) from None
    return list(enumerate(builders.read(str(path).removeprefix(TFDS)), 1))
  return records.read(records.resolve(path))


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


def load_briefs(
  path: str | Path, *, split: str | None = None, language: str | None = None
) -> list[Brief]:
  """Briefs of a split and language, every rule checked for being legal."""

  def parse(record: dict[str, Any]) -> Brief:
    fields = {f.name for f in dataclasses.fields(Brief)}
    known = {key: value for key, value in record.items() if key in fields}
    known['id'] = str(record['id'])
    known['instruction_id_list'] = tuple(record['instruction_id_list'])
    # in TensorFlow datasets, whose fields have fixed types, they are JSON
    known['kwargs'] = tuple(
      json.loads(each) if isinstance(each, str) else each
      for each in record['kwargs']
    )
    brief = Brief(**known)
    constraints.validate(brief.instruction_id_list, brief.kwargs)
    return brief

  return _select(_parse(path, parse), path, split=split, language=language)


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


def batch_indices(
  seed: int,
  step: int,
  size: int,
  total: int,
  process: int = 0,
  processes: int = 1,
) -> np.ndarray:
  """Which of `total` records a step reads: epochs of fresh permutations.

  Args:
    seed: of the run.
    step: from 0.
    size: how many records a step reads.
    total: how many there are.
    process: which of several processes asks; their shares, one after the
      other, are what a single one reads.
    processes: how many there are.

  Returns:
    Indices `[size / processes]`.  No record comes twice before every other
    came once.

  Raises:
    ValueError: there are fewer records than a step reads, or they cannot be
      shared equally.
  """
  if size > total:
    raise ValueError(
      f'a step of {size} needs as many records, or rows of packed ones, but '
      f'there are {total}'
    )
  if size % processes:
    raise ValueError(f'a step of {size} does not split over {processes}')
  positions = np.arange(step * size, (step + 1) * size)
  orders = {
    epoch: np.random.default_rng((seed, int(epoch))).permutation(total)
    for epoch in np.unique(positions // total)
  }
  mine = np.split(positions, processes)[process]
  return np.array([orders[p // total][p % total] for p in mine])


def pack(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
  """Which texts share a row: each goes where the least room is left over.

  Best fit, in an order that the seed draws, as texts that stand beside each
  other in a file are often alike.

  Args:
    lengths: of the texts, in tokens.
    size: how many tokens a row holds.
    seed: of the order.

  Returns:
    For each row the indices of its texts.

  Raises:
    ValueError: texts are longer than a row; it says how many, and the longest.
  """
  long = sum(length > size for length in lengths)
  if long:
    raise ValueError(
      f'{long} of {len(lengths)} texts do not fit into row_tokens={size}; the '
      f'longest takes {max(lengths)}'
    )
  rows: list[list[int]] = []
  rooms: list[tuple[int, int]] = []  # what each row has left, and which it is
  for text in np.random.default_rng(seed).permutation(len(lengths)).tolist():
    at = bisect.bisect_left(rooms, (lengths[text], 0))
    if at == len(rooms):
      rows.append([])
      rooms.append((size, len(rows) - 1))
    room, row = rooms.pop(at)
    rows[row].append(text)
    bisect.insort(rooms, (room - lengths[text], row))
  return rows


def bucket(length: int, multiple: int = 32) -> int:
  """The least multiple that holds `length`: few shapes, few compilations."""
  return max(multiple, -(-length // multiple) * multiple)


def power_of_two(length: int) -> int:
  """The least power of two, from 32, that holds `length`."""
  return max(32, 1 << (length - 1).bit_length())


def pad(
  rows: Iterable[Sequence[int]], width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of ids padded on the right with 0.

  Args:
    rows: B sequences of ids.
    width: L; the bucket of the longest row where `None`.

  Returns:
    Ids `[B, L]` and lengths `[B]`, int32.

  Raises:
    ValueError: a row is longer than `width`.
  """
  rows = list(rows)
  lengths_B = np.array([len(row) for row in rows], np.int32)
  width = bucket(int(lengths_B.max())) if width is None else width
  if lengths_B.max() > width:
    raise ValueError(
      f'a row of {lengths_B.max()} tokens does not fit into {width}'
    )
  ids_BxL = np.zeros((len(rows), width), np.int32)
  for target, row in zip(ids_BxL, rows, strict=True):
    target[: len(row)] = row
  return ids_BxL, lengths_B


def pad_coarsely(
  rows: Sequence[Sequence[int]], least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """`pad` to the least width, or else to a power of two: few shapes."""
  longest = max(processes.gather(max(map(len, rows))))  # all call together
  return pad(rows, least if longest <= least else power_of_two(longest))
