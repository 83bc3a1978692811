"""Prompt templates, quoting of untrusted text, and answers in JSON.

A reply is untrusted.  What the model sees of it is quoted line by line, so that
no text of its own can stand outside the quotation, whatever it contains.
"""

import functools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

PROMPTS = Path(__file__).parents[1] / 'data' / 'assets' / 'prompts'


# What moves on to a new line, by Python's account and Unicode's.
_BREAKS = re.compile('\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]')


# What no font need show (Unicode's `Default_Ignorable_Code_Point`), though its
# category is that of letters and marks; most are variation selectors.
_IGNORED = {*'\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0'} | {
  chr(code)
  for first, after in ((0x180B, 0x1810), (0xFE00, 0xFE10), (0xE0100, 0xE01F0))
  for code in range(first, after)
}


def visible(text: str) -> str:
  """The text without what no reader would see.

  Control and format characters go (zero-width, bidirectional, tags), and so do
  variation selectors, fillers and halves of surrogate pairs; line breaks become
  one kind, tabs spaces.
  """
  text = _BREAKS.sub('\n', text).replace('\t', ' ')
  hidden = {
    ord(c): None
    for c in set(text) - {'\n'}
    if unicodedata.category(c) in ('Cc', 'Cf', 'Cs', 'Cn', 'Co')
    or c in _IGNORED
  }
  return text.translate(hidden)


_CUT = {
  'en': '(It is cut here; {} more characters are not shown.)',
  'zh': '（此处截断，还有{}个字符未显示。）',
}


def quote(text: str, language: str, limit: int) -> str:
  """A reply as a judge sees it: its visible text, every line behind `> `.

  Args:
    text: any string.
    language: of the mark where it is cut.
    limit: how many characters are shown.  The mark stands outside the
      quotation, so that no reply can forge it.
  """
  text = visible(text).strip()
  lines = [f'> {line}' for line in text[:limit].split('\n')]
  if len(text) > limit:
    lines.append(_CUT[language].format(len(text) - limit))
  return '\n'.join(lines)


_SLOT = re.compile(r'(\{[a-z]+\})')


@functools.cache
def template(name: str) -> list[str]:
  """A template cut at its slots, which are every second piece."""
  return _SLOT.split((PROMPTS / f'{name}.md').read_text('utf-8').strip())


def fill(pieces: Sequence[str], texts: Mapping[str, str]) -> str:
  """Texts in their slots; what a text spells is never a slot itself."""
  return ''.join(
    texts[p.strip('{}')] if _SLOT.fullmatch(p) else p for p in pieces
  )


Ask = Callable[[Sequence[str]], Sequence[str | None]]
_Answer = TypeVar('_Answer')
_SHOWN = 500  # characters of an answer that was none, to who is asked again


def ask_twice(
  ask: Ask,
  prompts: Sequence[str],
  parse: Callable[[str, int], _Answer],
  language: str,
  counts: Counter[str],
) -> list[_Answer | None]:
  """The answers to prompts; what is none is quoted, and asked for once more.

  Args:
    ask: prompts to replies in their order, None where there is none.
    prompts: texts, which say in what form to answer.
    parse: a reply, and the place of its prompt, to an answer; it raises
      ValueError where there is none.
    language: of the words in which it is asked for again.
    counts: is brought up to date: `questions`; of these `repaired`, of which
      an answer was asked for again, and `unanswered`, which have none.
  """

  def read(place: int, reply: str | None) -> _Answer | None:
    try:
      return None if reply is None else parse(reply, place)
    except (ValueError, RecursionError):
      return None

  replies = ask(prompts)
  answers = [read(place, reply) for place, reply in enumerate(replies)]
  mend = template(f'repair_{language}')
  # What never came was asked for again by the endpoint, as often as it may.
  wrong = {
    place: fill(mend, {'answer': quote(reply, language, _SHOWN)})
    for place, reply in enumerate(replies)
    if answers[place] is None and reply is not None
  }
  if wrong:
    again = ask([prompts[p] + '\n\n' + text for p, text in wrong.items()])
    for place, reply in zip(wrong, again, strict=True):
      answers[place] = read(place, reply)
  counts['questions'] += len(prompts)
  counts['repaired'] += len(wrong)
  counts['unanswered'] += answers.count(None)
  return answers


_BLANK = re.compile(r'\s*<[^<>]*>\s*')  # as prompts show what to fill in

# Answers in JSON are asked for by what they have to fit.
Schema = type[pydantic.BaseModel]
Asking = Callable[[Schema], Ask]


# --- Answers in JSON --------------------------------------------------------


def ask_json(
  asking: Asking,
  prompts: Sequence[str],
  schema: Schema,
  language: str = 'en',
  counts: Counter[str] | None = None,
) -> list[dict[str, Any] | None]:
  """The answers to prompts that ask for JSON, by `judges.ask_twice`.

  Args:
    asking: a schema to what answers by it.
    prompts: each says what the JSON is to look like.
    schema: what an answer has to fit.
    language: of the words in which it is asked for again.
    counts: `questions`, `repaired` and `unanswered` are added to it.

  Returns:
    For each prompt the schema's fields, or None.
  """
  counts = Counter() if counts is None else counts
  return ask_twice(
    asking(schema),
    prompts,
    lambda reply, _: parse(reply, schema),
    language,
    counts,
  )


def parse(reply: str, schema: Schema) -> dict[str, Any]:
  """The JSON object in a reply, whatever stands around it.

  The thoughts of a model that thinks aloud do not count.

  Raises:
    ValueError: no object fits; or two do and differ, of which one may be
      quoted from what is judged; or one still has a blank of the form, such as
      <one sentence>.
  """
  fitting = []
  for found in _objects(reply.rpartition('</think>')[2]):
    try:
      answer = schema.model_validate(found).model_dump()
    except pydantic.ValidationError:
      continue
    if answer not in fitting:
      fitting.append(answer)
  if len(fitting) != 1:
    raise ValueError(f'{len(fitting)} objects fit {schema.__name__}, not one')
  if any(_BLANK.fullmatch(text) for text in _texts(fitting[0])):
    raise ValueError('a blank of the form is not filled in')
  return fitting[0]


def _texts(value: Any) -> Iterator[str]:
  """Every text in a JSON value, names of fields included."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (list, dict)):
    parts = value if isinstance(value, list) else [*value, *value.values()]
    for part in parts:
      yield from _texts(part)


def _objects(text: str) -> Iterator[dict[str, Any]]:
  """Every JSON object in a text that is not part of another."""
  decoder = json.JSONDecoder(strict=False)  # models break lines in strings
  start = text.find('{')
  while start >= 0:
    try:
      found, end = decoder.raw_decode(text, start)
      yield found
    except (ValueError, RecursionError):
      end = start + 1
    start = text.find('{', end)
