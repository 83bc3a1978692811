"""Loading of records, preferences and examples by split and language.

A path in a config names a file, a folder or a glob of files, a file that the
package ships (`@NAME`), a TensorFlow dataset (`tfds:NAME`) or the id of a data
set on the Hugging Face Hub.
"""

import dataclasses
import functools
import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rlcw.data import files, layouts
from rlcw.data.characters import blank, is_chinese
from rlcw.data.files import Placed, Record
from rlcw.data.messages import ASSISTANT, Prompt, messages, transcript
from rlcw.runtime import console

TFDS = 'tfds:'  # prefix of the path of a TensorFlow dataset

TRAIN, HELDOUT = 'train', 'heldout'
# Other names of the two splits.
_SPLITS = {
  'training': TRAIN,
  'test': HELDOUT,
  'testing': HELDOUT,
  'eval': HELDOUT,
  'evaluation': HELDOUT,
  'validation': HELDOUT,
  'valid': HELDOUT,
  'val': HELDOUT,
  'held_out': HELDOUT,
  'held-out': HELDOUT,
}


# Worth of the chosen and the rejected reply of a pair.
PAIR = 1.0, 0.0


@dataclasses.dataclass(frozen=True)
class Preference:
  """Replies to one prompt, and their relative worth.

  `worth[i]` belongs to `replies[i]` and is comparable only within the prompt.
  """

  prompt: Prompt
  replies: tuple[str, ...]
  worth: tuple[float, ...]
  id: str = ''
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  split: str = TRAIN

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

  prompt: Prompt
  response: str
  language: str = 'en'
  split: str = TRAIN
  good: bool = True  # false: not to imitate, by its label or as it was cut


_Item = TypeVar('_Item')


# --- Records ----------------------------------------------------------------


def read_jsonl(path: str | Path) -> list[Record]:
  """Reads all records of a JSONL file, such as the output of a run."""
  [(file, _)] = files.find(path)
  return [record for _, record in files.read_lines(file)]


def read_records(path: str | Path) -> Placed:
  """Reads all records of a path in a config, in our layout (`layouts`).

  Args:
    path: of JSONL, JSON, csv or parquet, gzipped or not: a file, a folder or a
      glob; `@NAME` for a file that the package ships;
      `tfds:NAME/CONFIG:VERSION?SPLIT` (`tfds.read`); or `org/name` of a data
      set on the Hub (`hub.fetch`).

  Returns:
    Pairs (place, record); the place is `FILE:LINE`, or the position from 1
    where the format has no lines.

  Raises:
    FileNotFoundError: there is no such file; lists the files that are shipped.
    ValueError: a record is malformed (names file, line and reason), or the
      extra `data` is not installed.
  """
  placed = _read_tfds(path) if str(path).startswith(TFDS) else files.read(path)
  converted, unusable = [], []
  for place, record in placed:
    try:
      converted.append((place, layouts.convert(record)))
    except layouts.Unusable as error:
      unusable.append(f'{place}: {error}')
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{place}: {error}') from None
  if unusable and not converted:
    raise ValueError(unusable[0])
  if unusable:
    console.notice(
      f'{len(unusable)} of {len(placed)} records left out, the first at '
      f'{unusable[0]}'
    )
  return converted


def _read_tfds(path: str | Path) -> Placed:
  # TFDS is an optional dependency, and slow to import.
  try:
    from rlcw.data import tfds
  except ImportError as error:
    raise ValueError(
      f"{path} requires the extra `data` (pip install -e '.[data]'): {error}"
    ) from None
  records = tfds.read(str(path).removeprefix(TFDS))
  return [(f'{path}:{n}', record) for n, record in enumerate(records, 1)]


def load(
  path: str | Path,
  parse: Callable[[Record], _Item],
  *,
  language: str | None = None,
  split: str | None = None,
) -> list[_Item]:
  """Parses the records of a path, and selects those of a language and split.

  A record that names no language is in the wanted one.  Records of other
  languages, and of splits that no task reads, are counted in a notice.

  Args:
    path: see `read_records`.
    parse: maps a record to an item, whose `language` and `split` are compared;
      raises ValueError if the record is malformed.
    language: None or '' for all.
    split: None for all.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is malformed (names file, line and the record's id), or
      none is of the split and language.
  """
  items: list[Any] = []
  for place, record in read_language(path, language):
    try:
      items.append(parse(record))
    except ValueError as error:
      # Untrusted, and the error is one line.
      id = ' '.join(str(record.get('id', '')).split())
      name = f'{id:.40}: ' if id else ''
      raise ValueError(f'{place}: {name}{error}') from None
  splits = Counter(item.split for item in items)
  unknown = {k: n for k, n in splits.items() if k not in (TRAIN, HELDOUT)}
  if unknown and split:
    console.notice(
      f'{path}: {_counts(unknown)} of {len(items)} records left out; expected '
      f'the split {TRAIN} or {HELDOUT}'
    )
  selected = [item for item in items if split in (None, item.split)]
  # What is trained on tells nothing of what is new.
  if split == HELDOUT:
    trained = {item.prompt for item in items if item.split == TRAIN}
    shared = sum(item.prompt in trained for item in selected)
    if shared:
      console.notice(
        f'{path}: {shared} of {len(selected)} held-out records have a prompt '
        'that is in train too'
      )
  if not selected:
    raise ValueError(
      f'{path}: no record has the split {split!r}; found {_counts(splits)}: '
      'give some records that split, or change heldout'
    )
  return selected


def read_language(path: str | Path, language: str | None) -> Placed:
  """Reads the records of a language; one that names none is in any.

  A notice counts the records of other languages.

  Raises:
    FileNotFoundError, ValueError: see `read_records`, or there is no record, or
      a language is no text.
  """
  placed = read_records(path)
  if not placed:
    raise ValueError(f'{path} has no records')
  if not language:
    return placed
  selected = []
  other: Counter[str] = Counter()
  chinese = 0  # without saying so
  for place, record in placed:
    # As in csv, where an empty cell is no language.
    if record.get('language', '') == '':
      record['language'] = language
      chinese += language == 'en' and _is_chinese(record)
    given = record['language']
    if not isinstance(given, str):
      raise ValueError(f'{place}: language={given!r:.80}; expected a text')
    if given == language:
      selected.append((place, record))
    else:
      other[given] += 1
  if not selected:
    raise ValueError(
      f'{path}: no record is in language={language!r}; found {_counts(other)}'
    )
  if other:
    console.notice(
      f'{path}: {_counts(other)} of {len(placed)} records left out, as '
      f'language={language!r}'
    )
  if chinese:
    console.notice(
      f'{path}: {chinese} of {len(placed)} records name no language and look '
      f'Chinese, but are read as language={language!r}; set language=zh'
    )
  return selected


def _is_chinese(record: Record) -> bool:
  """Checks the prompt of a record, if it has one."""
  try:
    return is_chinese(messages(layouts.prompt_of(record))[-1].content)
  except ValueError:
    return False


def _counts(counts: Mapping[str, int]) -> str:
  """Formats the greatest counts by name, such as `zh: 3, en: 1`."""
  most = Counter(counts).most_common(10)
  # Names are untrusted, and the message is one line.
  parts = [
    f'{console.printable(" ".join(name.split())):.40}: {n}' for name, n in most
  ]
  if rest := len(counts) - len(most):
    parts.append(f'{rest} others')
  return ', '.join(parts) or 'none'


# --- Fields -----------------------------------------------------------------


def text_of(record: Record, name: str, default: str | None = None) -> str:
  """Returns a field that is a text.

  Raises:
    ValueError: it is another value, or missing without a default.
  """
  value = record.get(name, default)
  if not isinstance(value, str):
    raise ValueError(f'{name}={value!r:.80}; expected a text')
  return value


def response_of(record: Record) -> str:
  """Returns the only reply of a record.

  Raises:
    ValueError: it has none, several or another value.
  """
  if 'response' not in record and 'responses' in record:
    raise ValueError(
      'responses, which are several; expected one response a line, as '
      '`generate` writes with samples=1'
    )
  return text_of(record, 'response')


def number_of(record: Record, name: str) -> float:
  """Returns a field that is a finite number, true and false as 1 and 0.

  Raises:
    ValueError: it is another value.
  """
  value = record.get(name)
  try:
    number = float(value) if isinstance(value, (int, float)) else math.nan
  except OverflowError:  # an integer beyond the range of floats
    number = math.inf
  if not math.isfinite(number):
    raise ValueError(f'{name}={value!r:.80}; expected a finite number')
  return number


def shared_fields(record: Record, heldout: float) -> dict[str, str]:
  """Returns the fields that records of all kinds may have.

  Args:
    record: any.
    heldout: see `split_of`, for a record without a split.
  """
  names = 'language', 'genre', 'theme', 'split'
  fields = {n: text_of(record, n) for n in names if record.get(n, '') != ''}
  split = fields.get('split')
  if split is None:
    split = split_of(layouts.prompt_of(record), heldout)
  return fields | {'split': _SPLITS.get(split.lower(), split.lower())}


def split_of(prompt: Prompt, heldout: float) -> str:
  """Assigns a prompt to 'heldout' with probability `heldout`, else 'train'."""
  # A hash of the prompt, so that every run and every file agrees, and all
  # records of a prompt are on the same side.  White space around it makes it no
  # other prompt.
  text = prompt.strip() if isinstance(prompt, str) else prompt
  return HELDOUT if int(digest(text), 16) < heldout * 2**64 else TRAIN


def digest(prompt: Prompt) -> str:
  """Returns a hash of a prompt, 16 hexadecimal digits."""
  text = transcript(prompt).encode('utf-8', 'surrogatepass')
  return hashlib.blake2b(text, digest_size=8).hexdigest()


def _reply(record: Record, name: str, or_blank: bool = False) -> str:
  if name not in record:
    fields = sorted(map(str, record))
    raise ValueError(f'no {name} in the fields {fields}; {layouts.EXPECTED}')
  reply = text_of(record, name)
  if blank(reply) and not or_blank:
    raise ValueError(f'{name} is blank; expected a reply')
  return reply


# --- Preferences and examples -----------------------------------------------


def is_cut(record: Record) -> bool:
  """Returns whether `generate` wrote that a record's only reply was cut off."""
  return record.get('finished') in (False, [False])


def load_preferences(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
) -> list[Preference]:
  """Loads preferences, optionally of one split and language.

  A record is a pair, `{"prompt", "chosen", "rejected"}`, of worth 1 and 0; or a
  scored reply, `{"prompt", "response", "score"}`, where a `label` serves as the
  score; or several, `{"prompt", "responses", "scores"}`.  Scored replies to the
  same prompt become one `Preference`; each pair is one of its own.  Pairs of
  equal replies are left out, and scored replies that are blank or were cut off
  (`finished` is false); equal scored ones become one, with their mean score.
  Notices count them.

  Args:
    path: see `read_records`.
    split: None for all.
    language: None for all.
    heldout: share of prompts in the split 'heldout', of those whose records
      name no split (`split_of`).

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is malformed, or none is of the split and language.
  """

  parse = functools.partial(_preference, heldout=heldout)
  loaded = load(path, parse, split=split, language=language)
  pairs, scored, cut = [], {}, 0
  for each in loaded:
    # Pairs stay apart even for equal prompts: worth 1 and 0 compares the two
    # replies of a pair only, whereas scores compare all replies to a prompt.
    # By identity: two scores may be 1 and 0 as well.
    if each.worth is PAIR:
      pairs.append(each)
    else:
      cut += sum(map(math.isnan, each.worth))
      scored.setdefault(each.prompt, []).append(each)
  different = [
    pair for pair in pairs if _shown(pair.chosen) != _shown(pair.rejected)
  ]
  merged = [*filter(lambda each: each.replies, map(_merge, scored.values()))]
  equal = len(pairs) - len(different)
  given = sum(len(each.replies) for group in scored.values() for each in group)
  repeated = given - cut - sum(len(each.replies) for each in merged)
  if cut:
    console.notice(f'{path}: {cut} replies left out, blank or cut off')
  if equal or repeated:
    console.notice(
      f'{path}: {equal} pairs of equal replies left out, {repeated} repeated '
      'replies merged'
    )
  if not different and not merged:
    if not pairs:
      raise ValueError(
        f'{path}: all of {cut} scored replies are blank or cut off'
      )
    raise ValueError(f'{path}: chosen equals rejected in all {equal} pairs')
  return different + merged


def _preference(record: Record, heldout: float) -> Preference:
  """Returns the replies of a record, with the worth NaN of those left out."""
  prompt = layouts.prompt_of(record)
  if 'chosen' in record or 'rejected' in record:
    replies = _reply(record, 'chosen'), _reply(record, 'rejected')
    worth = PAIR
  elif 'scores' in record:
    replies, worth = _scored(record)
  else:
    replies = (_reply(record, 'response', or_blank=True),)
    name = 'score' if 'score' in record else 'label'
    if name not in record:
      raise ValueError(
        f'no score beside the response; {layouts.EXPECTED}, of which this '
        'task needs chosen and rejected, or a score or label'
      )
    worth = (number_of(record, name),)
  if worth is not PAIR:
    worth = _of_whole(replies, worth, record.get('finished'))
  fields = shared_fields(record, heldout)
  return Preference(
    prompt, replies, worth, id=str(record.get('id', '')), **fields
  )


def _shown(reply: str) -> str:
  """A reply as a reader sees it: neither white space nor spelling differ."""
  return unicodedata.normalize('NFC', reply).strip()


def _scored(record: Record) -> tuple[tuple[str, ...], tuple[float, ...]]:
  """Returns the replies of a record and their scores."""
  replies, scores = record.get('responses'), record['scores']
  if (
    not isinstance(replies, list)
    or not isinstance(scores, list)
    or not 0 < len(replies) == len(scores)
  ):
    raise ValueError(
      f'responses={replies!r:.80}, scores={scores!r:.80}; expected two lists '
      'of equal lengths'
    )
  return (
    tuple(
      _reply({'response': each}, 'response', or_blank=True) for each in replies
    ),
    tuple(number_of({'score': each}, 'score') for each in scores),
  )


def _of_whole(
  replies: Sequence[str], worth: Sequence[float], finished: Any
) -> tuple[float, ...]:
  """Returns the scores, NaN for a reply that is blank or was cut off."""
  flags = finished if isinstance(finished, list) else [finished]
  if len(flags) != len(worth):
    flags = [True] * len(worth)
  return tuple(
    math.nan if flag is False or blank(reply) else each
    for reply, each, flag in zip(replies, worth, flags, strict=True)
  )


def _merge(group: Sequence[Preference]) -> Preference:
  """Joins scored replies to one prompt; equal ones have their mean score.

  Those with the score NaN are left out.
  """
  scores: dict[str, list[float]] = {}
  for each in group:
    for reply, worth in zip(each.replies, each.worth, strict=True):
      if not math.isnan(worth):
        scores.setdefault(reply, []).append(worth)
  return dataclasses.replace(
    group[0],
    replies=tuple(scores),
    worth=tuple(sum(worth) / len(worth) for worth in scores.values()),
  )


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

  def parse(record: Record) -> Example:
    prompt = layouts.prompt_of(record)
    # All replies of a conversation are learnt.
    if any(m.role == ASSISTANT and blank(m.content) for m in messages(prompt)):
      raise ValueError('an earlier reply is blank; expected a text')
    fields = shared_fields(record, heldout)
    good = not is_cut(record) and (
      'label' not in record or number_of(record, 'label') > 0
    )
    name = 'chosen' if 'chosen' in record else 'response'
    return Example(
      prompt,
      _reply(record, name, or_blank=not good),
      fields.get('language', 'en'),
      fields['split'],
      good,
    )

  examples = load(path, parse, split=split, language=language)
  good = [each for each in examples if each.good]
  left_out = len(examples) - len(good)
  if left_out:
    console.notice(
      f'{path}: {left_out} of {len(examples)} replies left out, whose label is '
      '0 or which were cut off: they are not to be imitated'
    )
  if not good:
    raise ValueError(
      f'{path}: every reply has label 0 or was cut off; expected replies to '
      'imitate'
    )
  return good
