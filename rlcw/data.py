"""Records in, padded batches out; the order of a run is a pure function.

Which briefs a step reads follows from (seed, step) alone, so the step number
is the data position: a resumed run needs nothing else to go on exactly.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.rewards import constraints
from rlcw.rewards.rules import DEMAND

DATASETS = Path(__file__).parent / 'datasets'


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
  """All records of a JSONL file; `@NAME` is a file that the package ships.

  Raises:
    FileNotFoundError: with the names that do exist.
    ValueError: names the file, the line and what is wrong with it.
  """
  return [record for _, record in read_numbered(path)]


def read_numbered(path: str | Path) -> list[tuple[int, dict[str, Any]]]:
  """The same with the number of each record's line; blank lines hold none."""
  file = resolve(path)
  records = []
  for number, line in enumerate(file.read_bytes().split(b'\n'), 1):
    if not line.strip():
      continue
    try:
      record = json.loads(line.decode('utf-8'))
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{file}:{number}: not JSON: {error}') from None
    if not isinstance(record, dict):
      raise ValueError(f'{file}:{number}: a JSON object is expected')
    records.append((number, record))
  return records


def resolve(path: str | Path) -> Path:
  """A path as given, or `@NAME` as a file in the package's datasets."""
  file = Path(path)
  if str(path).startswith('@'):
    file = DATASETS / str(path)[1:]
  if not file.is_file():
    shipped = sorted(f'@{p.name}' for p in DATASETS.glob('*.jsonl'))
    raise FileNotFoundError(f'no file {file}; the package ships {shipped}')
  return file


def _parse(path: str | Path, parse: Callable[[dict[str, Any]], Any]):
  """Parses each record, saying which one was at fault."""
  parsed = []
  for index, record in enumerate(read_jsonl(path), 1):
    try:
      parsed.append(parse(record))
    except (KeyError, TypeError, ValueError) as error:
      name = record.get('id', f'record {index}')
      reason = f'no field {error}' if isinstance(error, KeyError) else error
      raise ValueError(f'{resolve(path)}: {name}: {reason}') from None
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
    known['kwargs'] = tuple(record['kwargs'])
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
  path: str | Path, *, split: str | None = None, language: str | None = None
) -> list[Example]:
  """Examples of a split and language; of a preference pair, what was chosen."""

  def parse(record: dict[str, Any]) -> Example:
    fields = {f.name for f in dataclasses.fields(Example)}
    known = {key: value for key, value in record.items() if key in fields}
    known.setdefault('response', record.get('chosen', ''))
    example = Example(**known)
    if not example.response.strip():
      raise ValueError('neither response nor chosen holds a text')
    return example

  return _select(_parse(path, parse), path, split=split, language=language)


def batch_indices(seed: int, step: int, size: int, total: int) -> np.ndarray:
  """Which of `total` records a step reads: epochs of fresh permutations.

  Returns:
    Indices `[size]`.  No record comes twice before every other came once.
  """
  if size > total:
    raise ValueError(
      f'a step of {size} needs as many records, but there are {total}'
    )
  positions = np.arange(step * size, (step + 1) * size)
  orders = {
    epoch: np.random.default_rng((seed, int(epoch))).permutation(total)
    for epoch in np.unique(positions // total)
  }
  return np.array([orders[p // total][p % total] for p in positions])


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
  longest = max(map(len, rows))
  return pad(rows, least if longest <= least else power_of_two(longest))
