"""Prompt templates, quotation of untrusted text, and answers in JSON.

Replies are untrusted.  They are quoted in prompts line by line, so that no part
of a reply can appear outside the quotation, whatever it contains.  An answer
must repeat the id of its question, which no reply can know (`secret.make_id`):
so an object that an answer quotes from a reply is never taken for the answer.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic

from rlcw.data.characters import visible as visible
from rlcw.models.thoughts import reply_of
from rlcw.runtime import console
from rlcw.sampling.outage import Trouble
from rlcw.sampling.secret import ID, make_id

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
  shown = visible(text).strip()[:limit]
  lines = [f'> {line}' for line in shown.split('\n')]
  if hidden := count_hidden(text, limit):
    lines.append(_CUT[language].format(hidden))
  return '\n'.join(lines)


def count_hidden(text: str, limit: int) -> int:
  """Counts the characters that `quote` does not show, invisible ones aside."""
  return max(len(visible(text).strip()) - limit, 0)


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


def excerpt(text: str, limit: int = 200) -> str:
  """Returns the beginning of an untrusted text on one line, for messages.

  Its visible text alone: a terminal would obey control characters.
  """
  text = ' '.join(visible(text).split())
  return text if len(text) <= limit else text[:limit] + '…'


Ask = Callable[[Sequence[str]], Sequence[str | None]]
_Answer = TypeVar('_Answer')
_QUOTED_CHARACTERS = 500  # of an unusable answer, in the request to repair it


class Counts(Counter[str]):
  """Counts of questions, and an example of an answer that was refused."""

  refused: str = ''  # the last one, with the reason; '' if there is none

  def trouble(self) -> Trouble:
    """Returns the last reason why a question has no answer, if known."""
    text = f'an answer was refused: {self.refused}' if self.refused else ''
    return Trouble(text)


def ask_twice(
  ask: Ask,
  prompts: Sequence[str],
  parse: Callable[[str, int], _Answer],
  language: str,
  counts: Counts,
) -> list[_Answer | None]:
  """Asks for answers, and once more for those that cannot be parsed.

  The second request quotes the unusable reply.  The first answer that is
  refused twice is logged.

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
  refused: dict[int, str] = {}

  def try_parse(index: int, reply: str | None) -> _Answer | None:
    try:
      return None if reply is None else parse(reply, index)
    except ValueError as error:
      refused[index] = f'{excerpt(str(error))}: {excerpt(str(reply))}'
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
  for index in repairs:
    if answers[index] is None:
      if not counts.refused:
        console.log(f'no valid answer in two tries: {refused[index]}')
      counts.refused = refused[index]
  return answers


# --- Answers in JSON --------------------------------------------------------


# A blank such as '<one sentence>', as prompts show in the form to fill in.
_BLANK = re.compile(r'\s*<[^<>]*>\s*')
# A backslash that JSON forbids, and the pairs of them before it.
_WRONG_ESCAPE = re.compile(
  r'(?<!\\)((?:\\\\)*)\\(?![\\"/bfnrt]|u[0-9a-fA-F]{4})'
)
# Opening braces at which an answer is looked for.  Each takes a parse of what
# follows it, and a text may consist of them.
_MOST_BRACES = 1000


class Form(pydantic.BaseModel):
  """Base of the schemas of answers: the question's id, and no other fields."""

  model_config = pydantic.ConfigDict(extra='forbid')

  # First, as a model copies it best from the form at the end of its prompt.
  id: Annotated[str, pydantic.Field(pattern=f'^{ID}$')]


# An answer in JSON is requested by its schema, so that a server or a grammar
# can enforce it: `asking(schema)` is an `ask` whose replies should fit.
Schema = type[Form]
Asking = Callable[[Schema], Ask]


class Keyed(NamedTuple):
  """A prompt, and the id that it asks the answer to repeat."""

  prompt: str
  id: str


def keyed(
  pieces: Sequence[str], texts: Mapping[str, str], secret: bytes
) -> Keyed:
  """Fills a template whose slot `{id}` gets the question's own id.

  Args:
    pieces: of the template.
    texts: of all other slots.
    secret: of the run (`secret.load`).
  """
  id = make_id(secret, fill(pieces, {**texts, 'id': ''}))
  return Keyed(fill(pieces, {**texts, 'id': id}), id)


def ask_json(
  asking: Asking,
  questions: Sequence[Keyed],
  schema: Schema,
  language: str = 'en',
  counts: Counts | None = None,
) -> list[dict[str, Any] | None]:
  """Asks for answers in JSON, by `ask_twice`.

  Args:
    asking: maps a schema to an `ask` whose replies should fit it.
    questions: prompts, each of which describes the JSON, and their ids.
    schema: model that an answer must fit.
    language: of the second request.
    counts: updated in place: `questions`, `repaired` and `unanswered`.

  Returns:
    For each question the schema's fields without the id, or None.
  """
  return ask_twice(
    asking(schema),
    [each.prompt for each in questions],
    lambda reply, index: parse(reply, schema, questions[index].id),
    language,
    Counts() if counts is None else counts,
  )


def parse(reply: str, schema: Schema, id: str) -> dict[str, Any]:
  """Parses the answer to a question: the JSON object with its id.

  Args:
    reply: the model's text, with any text around the object.
    schema: that the object must fit.
    id: of the question.

  Raises:
    ValueError: there is no such object, or several that differ; or it does not
      fit the schema; or a blank of the form, such as <one sentence>, is not
      filled in.
  """
  found = objects(reply, id)
  try:
    answers = [schema.model_validate(each).model_dump() for each in found]
  except pydantic.ValidationError as error:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = '.'.join(map(str, fault['loc']))
    raise ValueError(f'{schema.__name__}: {place}: {fault["msg"]}') from None
  if any(answer != answers[0] for answer in answers):
    raise ValueError(f'{len(answers)} answers differ; expected one')
  answer = answers[0]
  if any(_BLANK.fullmatch(text) for text in _texts(answer)):
    raise ValueError('a blank of the form is not filled in')
  del answer['id']
  return answer


def _texts(value: Any) -> Iterator[str]:
  """Yields every string in a JSON value, names of fields included."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, (list, dict)):
    parts = value if isinstance(value, list) else [*value, *value.values()]
    for part in parts:
      yield from _texts(part)


class _RepeatedKey(Exception):
  """Raised for an object in which a key occurs twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Builds a JSON object whose keys all differ."""
  # By default the last value wins silently, so a model that echoes a reply
  # could give two verdicts in one object.
  record = dict(pairs)
  if len(record) < len(pairs):
    raise _RepeatedKey
  return record


def objects(reply: str, id: str) -> list[dict[str, Any]]:
  """Returns the JSON objects of a reply with an id, at least one.

  Thoughts are left out, and so is any text around the objects.  An object that
  is part of another is not an answer.

  Raises:
    ValueError: there is none, a key occurs twice in an object, one is nested
      too deeply, or more than `_MOST_BRACES` braces begin none.
  """
  text = reply_of(reply)
  found = _objects(text, id)
  # Habits of models that JSON forbids: \' for ' and other escapes, spaces that
  # do not break or show, and a comma after the last.
  if not found:
    mended = visible(text).replace('\xa0', ' ')
    mended = _WRONG_ESCAPE.sub(r'\1', mended)
    found = _objects(re.sub(r',(\s*[}\]])', r'\1', mended), id)
  if not found:
    raise ValueError('no JSON object with the id of the question')
  return found


def _objects(text: str, id: str) -> list[dict[str, Any]]:
  # Models write raw line breaks in strings, which strict JSON forbids.
  decoder = json.JSONDecoder(strict=False, object_pairs_hook=_unique)
  found, start = [], text.find('{')
  for _ in range(_MOST_BRACES):
    if start < 0:
      break
    try:
      value, end = decoder.raw_decode(text, start)
      if value.get('id') == id:
        found.append(value)
    except _RepeatedKey:
      raise ValueError('a key occurs twice in an object') from None
    # No answer is as deep, and a text of braces would take a parse for each.
    except RecursionError:
      raise ValueError('an object is too deeply nested') from None
    # Not JSON: try at the next brace.
    except ValueError:
      end = start + 1
    start = text.find('{', end)
  else:
    raise ValueError(f'more than {_MOST_BRACES} braces')
  return found
