"""Loading of records by split and language, and their fields.

A path in a config names a file, a folder or a glob of files, a file that the
package ships (`@NAME`), a TensorFlow dataset (`tfds:NAME`) or the id of a data
set on the Hugging Face Hub.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlcw.data import files, layouts, published
from rlcw.data.characters import blank, is_chinese
from rlcw.data.files import Placed, Record
from rlcw.data.messages import Prompt, messages, transcript
from rlcw.runtime import console

TFDS = 'tfds:'  # prefix of the path of a TensorFlow dataset

TRAIN, HELDOUT = 'train', 'heldout'
# Marks of chat templates, with which some published texts come.
_MARK = re.compile(
  r'<\|(?:im_start|im_end|start_header_id|eot_id|user|assistant|end)\|>'
  r'|<(?:start|end)_of_turn>|\[/?INST\]|<｜(?:User|Assistant)｜>'
)
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
    except published.Unusable as error:
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
  marked = [place for place, record in converted if _is_marked(record)]
  if marked:
    console.notice(
      f'{len(marked)} of {len(placed)} records have marks of a chat template, '
      f'the first at {marked[0]}: with a model that has a template they are '
      'plain text; expected messages, or texts without marks'
    )
  return converted


def _is_marked(record: Record) -> bool:
  """Checks the prompt and the replies of a record for marks of a template."""
  names = 'prompt', 'response', 'chosen', 'rejected', 'responses'
  return bool(_MARK.search(str([record.get(name) for name in names])))


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
  heldout: float | None = None,
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
    heldout: share that `parse` holds out of the records without a split, which
      an error names; None if no setting changes it.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is malformed (names file, line and the record's id), or
      none is of the split and language.
  """
  items: list[Any] = []
  placed = read_language(path, language)
  for place, record in placed:
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
    # Where all records name their split, no share changes it.
    named = all(record.get('split', '').strip() for _, record in placed)
    fixed = named or heldout is None
    advice = '' if fixed else f', or change --config.heldout={heldout}'
    raise ValueError(
      f'{path}: no record has the split {split!r}; found {_counts(splits)}: '
      f'give some records that split{advice}'
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
    given = record.get('language', '')
    if not isinstance(given, str):
      raise ValueError(f'{place}: language={given!r:.80}; expected a text')
    given = given.strip()
    # As in csv, where an empty cell is no language.
    if not given:
      given = language
      chinese += language == 'en' and _is_chinese(record)
    record['language'] = given
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
  given = {n: text_of(record, n, '').strip() for n in names}
  fields = {name: text for name, text in given.items() if text}
  split = fields.get('split')
  if split is None:
    split = split_of(layouts.prompt_of(record), heldout)
  return fields | {'split': split_named(split)}


def split_named(name: str) -> str:
  """Returns our name of a split, such as 'heldout' for 'test'."""
  return _SPLITS.get(name.lower(), name.lower())


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


def reply_in(record: Record, name: str, or_blank: bool = False) -> str:
  """Returns a field that is a reply.

  Raises:
    ValueError: it is missing, no text or, unless `or_blank`, blank.
  """
  if name not in record:
    fields = sorted(map(str, record))
    raise ValueError(f'no {name} in the fields {fields}; {layouts.EXPECTED}')
  reply = text_of(record, name)
  if blank(reply) and not or_blank:
    raise ValueError(f'{name} is blank; expected a reply')
  return reply


def is_cut(record: Record) -> bool:
  """Returns whether `generate` wrote that a record's only reply was cut off.

  Raises:
    ValueError: see `finished_of`.
  """
  return finished_of(record) == [False]


def finished_of(record: Record) -> list[bool]:
  """Returns which replies of a record are whole; empty if it does not tell.

  Raises:
    ValueError: `finished` is neither true nor false, nor a list of these.
  """
  finished = record.get('finished', [])
  flags = finished if isinstance(finished, list) else [finished]
  if any(flag not in (0, 1) for flag in flags):
    raise ValueError(f'finished={finished!r:.80}; expected true or false')
  return [bool(flag) for flag in flags]
