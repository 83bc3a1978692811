"""Prompts, replies and rules in the forms in which Python users give them.

A prompt is a text, a conversation (a list of {"role", "content"} up to the
reply), or a brief: a record with `prompt`, `instruction_id_list` and `kwargs`,
or a `Brief`.  A reply is a text, or the message of an assistant.

Letters: P prompts, G replies to each.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rlcw.data import layouts, messages
from rlcw.data.messages import Message
from rlcw.models.thoughts import reply_of
from rlcw.rewards import briefs, constraints
from rlcw.rewards.briefs import Brief

Conversation: TypeAlias = Sequence[Mapping[str, str]] | Sequence[Message]
Prompt: TypeAlias = str | Conversation | Brief | Mapping[str, Any]
Prompts: TypeAlias = Prompt | Sequence[Prompt]
# The message of an assistant counts as its text, as TRL passes it.
Text: TypeAlias = str | Conversation
Rules: TypeAlias = Brief | Mapping[str, Any]


class Reply(str):
  """A sampled text, and whether the model ended it."""

  finished: bool  # false if `max_new_tokens` cut it off

  def __new__(cls, text: str, finished: bool = True) -> 'Reply':
    reply = super().__new__(cls, text)
    reply.finished = finished
    return reply

  # Copies and pickles of a `str` would lose the attribute.
  def __getnewargs__(self) -> tuple[str, bool]:  # pyright: ignore
    return str(self), self.finished


class Asked(NamedTuple):
  """Prompts with their replies, and the nesting of results."""

  prompts: list[Brief]  # P
  groups: list[list[Reply]]  # [P][G], where G may differ
  nest: Callable[[list[list[Any]]], Any]  # [P][G] to the form of the replies

  def rows(self) -> list[tuple[Brief, list[Reply]]]:
    """Prompts with groups of one size, as batches need them.

    Groups of several sizes are split into single replies.
    """
    pairs = zip(self.prompts, self.groups, strict=True)
    if len({*map(len, self.groups)}) == 1 and self.groups[0]:
      return [*pairs]
    return [(brief, [reply]) for brief, group in pairs for reply in group]

  def join(self, results: Iterable[Any]) -> Any:
    """Nests the results of all replies, given in order."""
    rest = iter(results)
    return self.nest([[next(rest) for _ in group] for group in self.groups])


def match(prompts: Any, replies: Any, parse: Callable[[Any], Brief]) -> Asked:
  """Matches prompts and replies.

  Args:
    prompts: one, or a list.
    replies: see the module.
    parse: maps one prompt to a brief.

  Raises:
    ValueError: they differ in length, or something is malformed.
  """
  one = is_prompt(prompts)
  if one and _is_text(replies):
    return Asked([parse(prompts)], [[_reply(replies)]], lambda v: v[0][0])
  if not _is_list(replies):
    raise ValueError(
      f'replies={replies!r:.80}; expected a text, a list of texts, or a list '
      'of lists of texts' + ('' if one else ' for a list of prompts')
    )
  entries = [*replies]
  if one and all(map(_is_text, entries)):
    group = [*map(_reply, entries)]
    return Asked([parse(prompts)], [group], lambda v: v[0])
  given = [prompts] * len(entries) if one else listed(prompts)
  if len(given) != len(entries):
    raise ValueError(
      f'{len(given)} prompts, but replies for {len(entries)}; expected an '
      'entry of replies for each prompt'
    )
  single = [_is_text(entry) for entry in entries]
  groups = [
    [*map(_reply, entry)] if _is_list(entry) and not alone else [_reply(entry)]
    for entry, alone in zip(entries, single, strict=True)
  ]
  return Asked(
    [*map(parse, given)],
    groups,
    lambda v: [
      x[0] if alone else x for x, alone in zip(v, single, strict=True)
    ],
  )


def listed(prompts: Any) -> list[Any]:
  """Returns several prompts as a list.

  Raises:
    ValueError: they are no list.
  """
  if not _is_list(prompts):
    raise ValueError(
      f'prompts={prompts!r:.80}; expected a prompt, or a list of prompts'
    )
  return [*prompts]


def _is_list(value: Any) -> bool:
  return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _is_conversation(value: Any) -> bool:
  return (
    isinstance(value, Sequence)
    and not isinstance(value, str)
    and len(value) > 0
    and all(
      isinstance(each, Message)
      or (isinstance(each, Mapping) and ('role' in each or 'from' in each))
      for each in value
    )
  )


def _is_text(value: Any) -> bool:
  return isinstance(value, str) or _is_conversation(value)


def is_prompt(value: Any) -> bool:
  """Returns whether a value is one prompt, and not a list of them."""
  return isinstance(value, Brief | Mapping) or _is_text(value)


def _conversation(value: Conversation) -> list[dict[str, Any]]:
  """Returns messages as records have them."""
  return [
    each._asdict() if isinstance(each, Message) else dict(each)
    for each in value
  ]


def _reply(value: Any) -> Reply:
  """Returns a reply without its thoughts."""
  if not _is_text(value):
    raise ValueError(f'a reply is {value!r:.80}; expected a text')
  finished = getattr(value, 'finished', True)
  if not isinstance(value, str):
    given = [*map(_without_thought, _conversation(value))]
    said = messages.parse(given, 'reply')
    if len(said) > 1 or said[0].role != messages.ASSISTANT:
      roles = ', '.join(each.role for each in said)
      raise ValueError(
        f'a reply has {len(said)} messages ({roles:.80}); expected one of the '
        'assistant, with earlier turns in the prompt'
      )
    value = said[0].content
  return Reply(reply_of(value), finished)


def _without_thought(message: dict[str, Any]) -> dict[str, Any]:
  """Leaves out the thought of a message, in a field or a part of its own."""
  kept = {k: v for k, v in message.items() if k not in messages.THOUGHTS}
  if isinstance(content := kept.get('content'), list):
    kept['content'] = [part for part in content if not _is_thought(part)]
  return kept


def _is_thought(part: Any) -> bool:
  return isinstance(part, Mapping) and part.get('type') in messages.THOUGHTS


def _plain(value: Any) -> Any:
  """Returns a value with the types of JSON: of NumPy's, and of tuples."""
  if isinstance(value, Mapping):
    return {name: _plain(each) for name, each in value.items()}
  if isinstance(value, list | tuple):
    return [*map(_plain, value)]
  return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def brief(value: Any) -> Brief:
  """Returns one prompt as a brief; that of a text has no rules."""
  if not isinstance(value, Brief):
    if isinstance(value, Mapping):
      record = layouts.convert(_plain(dict(value)))
    elif _is_text(value):
      text = value if isinstance(value, str) else _conversation(value)
      record = {'prompt': text}
    else:
      raise ValueError(
        f'a prompt is {value!r:.80}; expected a text, a list of messages, or a '
        'brief'
      )
    value = briefs.read_brief(record)
  if not messages.transcript(value.request).strip():
    raise ValueError('a prompt is blank; expected some text')
  return value


def rules(value: Any) -> Brief:
  """Returns a brief, whose prompt may be absent, or rules as a brief."""
  if isinstance(value, Brief):
    return value
  if not isinstance(value, Mapping):
    raise ValueError(
      f'rules={value!r:.80}; expected a brief with instruction_id_list and '
      'kwargs, or {id: arguments}, before the replies'
    )
  # Of a row of a data set, where what it lacks is null.
  record = layouts.without_nulls(_plain(dict(value)))
  if not {'instruction_id_list', 'prompt'} & {*record}:
    kwargs = [given or {} for given in record.values()]
    record = {'instruction_id_list': [*record], 'kwargs': kwargs}
  ids, kwargs = briefs.instruction_ids(record), briefs.arguments(record)
  constraints.validate(ids, kwargs)
  # A judge of demands reads the request as well.
  prompt = layouts.optional_prompt(record)
  return Brief(
    '',
    messages.transcript(prompt),
    ids,
    kwargs,
    record.get('language', 'en'),
    paraphrase=record.get('paraphrase', 0),
  )
