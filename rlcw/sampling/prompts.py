"""Prompt templates, quotation of untrusted text, and answers in JSON.

Replies are untrusted.  They are quoted in prompts line by line, so that no part
of a reply can appear outside the quotation, whatever it contains.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from rlcw.data.characters import visible as visible

PROMPTS = Path(__file__).parents[1] / 'data' / 'assets' / 'prompts'


_CUT = {
  'en': '(It is cut here; {} more characters are not shown.)',
  'zh': '（此处截断，还有{}个字符未显示。）',
}


def quote(text: str, language: str, limit: int) -> str:
  """Quotes a reply for a judge: its visible text, each line after `> `.

  Args:
    text: any string.
    language: of the note that is added if the text is cut.  The note is
      outside the quotation, so that no reply can forge it.
    limit: number of characters to show.
  """
  text = visible(text).strip()
  lines = [f'> {line}' for line in text[:limit].split('\n')]
  if len(text) > limit:
    lines.append(_CUT[language].format(len(text) - limit))
  return '\n'.join(lines)


_SLOT = re.compile(r'(\{[a-z]+\})')


@functools.cache
def template(name: str) -> list[str]:
  """Reads a template, split at its slots, which are every second piece."""
  return _SLOT.split((PROMPTS / f'{name}.md').read_text('utf-8').strip())


def fill(pieces: Sequence[str], texts: Mapping[str, str]) -> str:
  """Fills the slots of a template with texts."""
  # Unlike `str.format` or repeated `replace`, a text that contains '{reply}'
  # is never taken for a slot.
  return ''.join(
    texts[p.strip('{}')] if _SLOT.fullmatch(p) else p for p in pieces
  )


Ask = Callable[[Sequence[str]], Sequence[str | None]]
_Answer = TypeVar('_Answer')
_QUOTED_CHARACTERS = 500  # of an unusable answer, in the request to repair it


def ask_twice(
  ask: Ask,
  prompts: Sequence[str],
  parse: Callable[[str, int], _Answer],
  language: str,
  counts: Counter[str],
) -> list[_Answer | None]:
  """Asks for answers, and once more for those that cannot be parsed.

  The second request quotes the unusable reply.

  Args:
    ask: maps prompts to replies in order, None where there is no reply.
    prompts: texts, which describe the form of the answer.
    parse: maps a reply, and the index of its prompt, to an answer; raises
      ValueError if the reply has none.
    language: of the second request.
    counts: updated in place: `questions`; of these, `repaired` were requested
      a second time, and `unanswered` have no answer in the end.

  Returns:
    For each prompt an answer or None.
  """

  def try_parse(index: int, reply: str | None) -> _Answer | None:
    try:
      return None if reply is None else parse(reply, index)
    # Deeply nested JSON, which a reply may contain, exhausts the parser's
    # stack.
    except (ValueError, RecursionError):
      return None

  replies = ask(prompts)
  answers = [try_parse(index, reply) for index, reply in enumerate(replies)]
  repair = template(f'repair_{language}')
  # Not for missing replies, which `ask` has retried already.
  repairs = {
    index: fill(repair, {'answer': quote(reply, language, _QUOTED_CHARACTERS)})
    for index, reply in enumerate(replies)
    if answers[index] is None and reply is not None
  }
  if repairs:
    # A longer prompt is also a new key: the cache would repeat the reply.
    repaired = ask([prompts[i] + '\n\n' + text for i, text in repairs.items()])
    for index, reply in zip(repairs, repaired, strict=True):
      answers[index] = try_parse(index, reply)
  counts['questions'] += len(prompts)
  counts['repaired'] += len(repairs)
  counts['unanswered'] += answers.count(None)
  return answers


# A blank such as '<one sentence>', as prompts show in the form to fill in.
_BLANK = re.compile(r'\s*<[^<>]*>\s*')

# An answer in JSON is requested by its schema, so that a server or a grammar
# can enforce it: `asking(schema)` is an `ask` whose replies should fit.
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
  """Asks for answers in JSON, by `ask_twice`.

  Args:
    asking: maps a schema to an `ask` whose replies should fit it.
    prompts: texts, each of which describes the JSON.
    schema: model that an answer must fit.
    language: of the second request.
    counts: updated in place: `questions`, `repaired` and `unanswered`.

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
  """Parses the only JSON object in a reply, with any text around it.

  Reasoning before `</think>` is ignored.

  Raises:
    ValueError: no object fits the schema; or two different ones do; or a blank
      of the form, such as <one sentence>, is not filled in.
  """
  # With two different answers, one may be quoted from the judged reply, which
  # is untrusted and could so dictate its own verdict.
  fitting = []
  for candidate in _objects(reply.rpartition('</think>')[2]):
    try:
      answer = schema.model_validate(candidate).model_dump()
    except pydantic.ValidationError:
      continue
    if answer not in fitting:
      fitting.append(answer)
  if len(fitting) != 1:
    raise ValueError(
      f'{len(fitting)} objects fit {schema.__name__}; expected one'
    )
  if any(_BLANK.fullmatch(text) for text in _texts(fitting[0])):
    raise ValueError('a blank of the form is not filled in')
  return fitting[0]


def _texts(value: Any) -> Iterator[str]:
  """Yields every string in a JSON value, names of fields included."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (list, dict)):
    parts = value if isinstance(value, list) else [*value, *value.values()]
    for part in parts:
      yield from _texts(part)


def _objects(text: str) -> Iterator[dict[str, Any]]:
  """Yields every JSON object in a text that is not part of another."""
  # Models write raw line breaks in strings, which strict JSON forbids.
  decoder = json.JSONDecoder(strict=False)
  start = text.find('{')
  while start >= 0:
    try:
      value, end = decoder.raw_decode(text, start)
      yield value
    # Not JSON, or too deeply nested: try at the next brace.
    except (ValueError, RecursionError):
      end = start + 1
    start = text.find('{', end)
