"""Examples: replies to imitate, as in supervised fine-tuning."""

import dataclasses
from pathlib import Path

from rlcw.data import datasets, layouts
from rlcw.data.characters import blank
from rlcw.data.datasets import (
  TRAIN,
  is_cut,
  number_of,
  reply_in,
  shared_fields,
)
from rlcw.data.files import Record
from rlcw.data.messages import ASSISTANT, Prompt, messages
from rlcw.runtime import console


@dataclasses.dataclass(frozen=True)
class Example:
  """A prompt and a reply to imitate (supervised fine-tuning)."""

  prompt: Prompt
  response: str
  language: str = 'en'
  split: str = TRAIN
  good: bool = True  # false: not to imitate, by its label or as it was cut


def load_examples(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
) -> list[Example]:
  """Loads examples, optionally of one split and language.

  Of a preference pair, the chosen reply is the response.  Arguments and errors
  are those of `preferences.load_preferences`.
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
      reply_in(record, name, or_blank=not good),
      fields.get('language', 'en'),
      fields['split'],
      good,
    )

  examples = datasets.load(
    path, parse, split=split, language=language, heldout=heldout
  )
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
