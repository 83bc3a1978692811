"""Preferences: replies to a prompt and their relative worth."""

import dataclasses
import functools
import math
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlcw.data import characters, datasets, layouts
from rlcw.data.characters import blank
from rlcw.data.datasets import TRAIN, number_of, reply_in, shared_fields
from rlcw.data.files import Record
from rlcw.data.messages import Prompt
from rlcw.runtime import console

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


def load_preferences(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float | None = None,
  as_read: Callable[[str], str] = str,
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
    path: see `datasets.read_records`.
    split: None for all.
    language: None for all.
    heldout: share of prompts in the split 'heldout', of those whose records
      name no split (`datasets.split_of`); None for a tenth, where no setting
      changes it.
    as_read: maps a reply to the part of it that is read.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is malformed, or none is of the split and language.
  """

  share = 0.1 if heldout is None else heldout
  parse = functools.partial(_preference, heldout=share, as_read=as_read)
  loaded = datasets.load(
    path, parse, split=split, language=language, heldout=heldout
  )
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
    pair for pair in pairs if shown(pair.chosen) != shown(pair.rejected)
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


def _preference(
  record: Record, heldout: float, as_read: Callable[[str], str]
) -> Preference:
  """Returns the replies of a record, with the worth NaN of those left out."""
  prompt = layouts.prompt_of(record)
  if 'chosen' in record or 'rejected' in record:
    replies = reply_in(record, 'chosen'), reply_in(record, 'rejected')
    worth = PAIR
  elif 'scores' in record:
    replies, worth = _scored(record)
  else:
    replies = (reply_in(record, 'response', or_blank=True),)
    name = 'score' if 'score' in record else 'label'
    if name not in record:
      raise ValueError(
        f'no score beside the response; {layouts.EXPECTED}, of which this '
        'task needs chosen and rejected, or a score or label'
      )
    worth = (number_of(record, name),)
  if worth is not PAIR:
    worth = _of_whole(replies, worth, datasets.finished_of(record))
  fields = shared_fields(record, heldout)
  replies = tuple(map(as_read, replies))
  return Preference(
    prompt, replies, worth, id=str(record.get('id', '')), **fields
  )


def shown(reply: str) -> str:
  """A reply as a reader sees it: its visible characters, spelled in one way."""
  return unicodedata.normalize('NFC', characters.visible(reply)).strip()


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
      reply_in({'response': each}, 'response', or_blank=True)
      for each in replies
    ),
    tuple(number_of({'score': each}, 'score') for each in scores),
  )


def _of_whole(
  replies: Sequence[str], worth: Sequence[float], flags: Sequence[bool]
) -> tuple[float, ...]:
  """Returns the scores, NaN for a reply that is blank or was cut off.

  Raises:
    ValueError: there are flags, but not one of each reply.
  """
  flags = flags or [True] * len(worth)
  if len(flags) != len(worth):
    raise ValueError(
      f'finished has {len(flags)} flags of {len(worth)} replies; expected as '
      'many'
    )
  return tuple(
    each if flag and not blank(reply) else math.nan
    for reply, each, flag in zip(replies, worth, flags, strict=True)
  )


def _merge(group: Sequence[Preference]) -> Preference:
  """Joins scored replies to one prompt; equal ones have their mean score.

  Those with the score NaN are left out.
  """
  scores: dict[str, list[float]] = {}
  first: dict[str, str] = {}  # of replies that are shown alike
  for each in group:
    for reply, worth in zip(each.replies, each.worth, strict=True):
      if not math.isnan(worth):
        scores.setdefault(shown(reply), []).append(worth)
        first.setdefault(shown(reply), reply)
  return dataclasses.replace(
    group[0],
    replies=tuple(first.values()),
    worth=tuple(sum(worth) / len(worth) for worth in scores.values()),
  )
