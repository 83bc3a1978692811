"""Replies that somebody found good or not, in three splits.

A game learns from `train`, chooses by `dev`, and is told by `heldout`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlcw.data import datasets

SPLITS = 'train', 'dev', 'heldout'


@dataclasses.dataclass(frozen=True)
class Labelled:
  """A reply, and whether it is Good."""

  prompt: str
  response: str
  label: bool
  split: str


def load(
  path: str | Path, language: str, *, dev: float, heldout: float
) -> dict[str, list[Labelled]]:
  """Labelled replies in a language, by split.

  A record is `{"prompt", "response", "label"}` with label 1 or 0, or a pair
  `{"prompt", "chosen", "rejected"}`, which is two.  One that names no language
  is in any.  Where it names no split, its prompt's text decides, so that a
  prompt is in one only.

  Args:
    path: JSONL; `@NAME` is a file that the package ships.
    language: en or zh.
    dev: this share of the training prompts goes to `dev`, if no record does.
    heldout: share of the prompts held out, of those without a split.

  Raises:
    FileNotFoundError: with the names that do exist.
    ValueError: names the line that is not legal, or what a split lacks.
  """
  found: list[Labelled] = []
  for line, record in datasets.read_numbered(path):
    if record.get('language', language) != language:
      continue
    try:
      found += _parse(record, heldout)
    except ValueError as error:
      raise ValueError(f'{path}:{line}: {error}') from None
  if all(each.split != 'dev' for each in found):
    found = [
      dataclasses.replace(each, split='dev')
      if each.split == 'train'
      and datasets.split_of(f'dev: {each.prompt}', dev) == 'heldout'
      else each
      for each in found
    ]
  splits = {s: [each for each in found if each.split == s] for s in SPLITS}
  for split, members in splits.items():
    if len({each.label for each in members}) < 2:
      raise ValueError(
        f'{path}: {len(members)} replies in {language!r} are in {split!r}; '
        'one at least of each label is needed: give more, or other shares'
      )
  return splits


def _parse(record: dict[str, Any], heldout: float) -> Iterator[Labelled]:
  prompt = _text(record, 'prompt')
  split = record.get('split') or datasets.split_of(prompt, heldout)
  if split not in SPLITS:
    raise ValueError(f'split={split!r}; legal: {SPLITS}')
  if 'chosen' in record:
    yield Labelled(prompt, _text(record, 'chosen'), True, split)
    yield Labelled(prompt, _text(record, 'rejected'), False, split)
    return
  label = record.get('label')
  if label not in (0, 1):
    raise ValueError(f'label={label!r}; legal: 1 for Good, 0 for Bad')
  yield Labelled(prompt, _text(record, 'response'), bool(label), split)


def _text(record: dict[str, Any], field: str) -> str:
  text = record.get(field)
  if not isinstance(text, str) or not text.strip():
    raise ValueError(f'{field}={text!r:.80}; a text is expected')
  return text
