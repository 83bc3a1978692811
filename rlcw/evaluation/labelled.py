"""Replies labelled Good or Bad, in three splits.

The game of `tasks.adversary` reflects on errors on `train`, accepts or rejects
rewritten principles by `dev`, and only reports agreement on `heldout`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlcw.data import datasets, layouts
from rlcw.data.characters import blank
from rlcw.data.messages import transcript
from rlcw.data.preferences import shown
from rlcw.models.thoughts import reply_or_all
from rlcw.runtime import console

SPLITS = 'train', 'dev', 'heldout'


@dataclasses.dataclass(frozen=True)
class Labelled:
  """A reply to a prompt; `label` is true for Good."""

  prompt: str
  response: str
  label: bool
  split: str


def load(
  path: str | Path,
  language: str,
  *,
  dev: float | None,
  heldout: float,
) -> dict[str, list[Labelled]]:
  """Loads labelled replies in a language, by split.

  A record is `{"prompt", "response", "label"}` with label 1 or 0, or a pair
  `{"prompt", "chosen", "rejected"}`, which makes two replies.  A record that
  names no language is in any.  If it names no split, a hash of its prompt
  decides, so that all replies to a prompt are in the same split.  Replies that
  are not finished, or labelled Good and Bad, are left out, and notices count
  them.

  Args:
    path: see `datasets.read_records`.
    language: en or zh.
    dev: share of the training prompts that goes to `dev`, if no record names
      that split; None for no such split: its records are in `train`.
    heldout: share of the prompts held out, of those whose records name no
      split.

  Raises:
    FileNotFoundError: there is no such file; lists those that exist.
    ValueError: names the line that is invalid, or the split without replies of
      both labels.
  """
  replies = _read(path, language, heldout)
  if dev is None:
    replies = [
      dataclasses.replace(each, split='train') if each.split == 'dev' else each
      for each in replies
    ]
  elif all(each.split != 'dev' for each in replies):
    # Hash another text than for `heldout`: the prompts with the smallest hashes
    # are held out already, which would leave `dev` too small.
    replies = [
      dataclasses.replace(each, split='dev')
      if each.split == 'train'
      and datasets.split_of(f'dev: {each.prompt}', dev) == 'heldout'
      else each
      for each in replies
    ]
  splits = {
    split: [each for each in replies if each.split == split]
    for split in SPLITS
    if split != 'dev' or dev is not None
  }
  for split, members in splits.items():
    # With one label alone, neither balanced agreement nor an AUC is defined.
    if len({each.label for each in members}) < 2:
      raise ValueError(
        f'{path}: {len(members)} replies in {language!r} are in {split!r}; '
        'expected at least one of each label: give more replies, or change '
        + ' or '.join(
          f'--config.{name}={share}'
          for name, share in (('heldout', heldout), ('dev', dev))
          if share is not None
        )
      )
  return splits


def _read(path: str | Path, language: str, heldout: float) -> list[Labelled]:
  """Reads the replies of `load`, whose splits are not final."""
  replies: list[Labelled] = []
  cut = 0
  for place, record in datasets.read_language(path, language):
    try:
      if datasets.is_cut(record):
        cut += 1
        continue
      replies += _parse(record, heldout)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  texts = [(each.prompt, shown(each.response)) for each in replies]
  labels: dict[tuple[str, str], set[bool]] = {}
  for text, each in zip(texts, replies, strict=True):
    labels.setdefault(text, set()).add(each.label)
  pairs = zip(texts, replies, strict=True)
  agreed = [each for text, each in pairs if len(labels[text]) == 1]
  for count, words in (
    (cut, 'that are not finished'),
    (len(replies) - len(agreed), 'labelled Good and Bad'),
  ):
    if count:
      console.notice(f'{path}: {count} replies {words} left out')
  return agreed


def _parse(record: dict[str, Any], heldout: float) -> Iterator[Labelled]:
  """Yields the one or two replies of a record; ValueError if it is invalid."""
  prompt = transcript(layouts.prompt_of(record))
  if not prompt.strip():
    raise ValueError('prompt is blank; expected a text')
  split = datasets.shared_fields(record, heldout)['split']
  if split not in SPLITS:
    raise ValueError(f'split={split!r:.80}; expected one of {SPLITS}')
  if 'chosen' in record:
    # A preference is relative, but the game needs absolute labels: the chosen
    # reply counts as Good, the rejected one as Bad.
    yield Labelled(prompt, _text(record, 'chosen'), True, split)
    yield Labelled(prompt, _text(record, 'rejected'), False, split)
    return
  label = record.get('label')
  if label not in (0, 1):
    raise ValueError(f'label={label!r:.80}; expected 1 for Good or 0 for Bad')
  yield Labelled(prompt, _text(record, 'response'), bool(label), split)


def _text(record: dict[str, Any], field: str) -> str:
  """A field's text; ValueError if it is missing, blank or not a string."""
  text = record.get(field)
  if not isinstance(text, str) or blank(text):
    raise ValueError(f'{field}={text!r:.80}; expected a string')
  return reply_or_all(text)
