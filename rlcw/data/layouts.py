"""Layouts of records: other tools' fields converted to ours.

Ours are `prompt`, a text or a list of {"role", "content"} up to the reply, and
the reply or replies: `response`; `chosen` and `rejected`; or `responses` with
`scores`.  docs/data.md shows an example of every layout.
"""

import itertools
import json
import math
import re
from typing import Any

from rlcw.data import messages
from rlcw.data.characters import blank
from rlcw.data.messages import ASSISTANT, SYSTEM, USER, Message, Prompt
from rlcw.data.published import Record, Unusable, renamed

_CONVERSATION = 'messages', 'conversations', 'conversation'
# The request of a record without messages, and the text that it is about.  The
# latter is the request of a record that has no other.
_REQUEST = 'prompt', 'query', 'question', 'instruction'
_INPUT = 'input', 'context'
_REPLY = 'response', 'completion', 'output'
_SYSTEM = 'system', 'system_prompt', 'system_message'
# Fields of a conversation that say more than its texts do.
_UNSUPPORTED = (
  'tools',
  'functions',
  'image',
  'images',
  'video',
  'videos',
  'audio',
  'audios',
  'tool_calls',
  'function_call',
  *messages.THOUGHTS,
  'chat_history',
)
# Scores of the chosen and of the rejected reply.
SCORES = (
  ('score_chosen', 'score_rejected'),
  ('chosen_score', 'rejected_score'),
  ('chosen_rating', 'rejected_rating'),
  ('chosen-rating', 'rejected-rating'),
)
# Fields of a reply that tell whether to learn it.
WEIGHT = 'weight', 'loss_weight', 'loss_mask'
# In some files all structures are JSON in a text.
_NONE = None, '', [], {}, '[]', '{}', 'null'
_WRITTEN_MESSAGES = re.compile(
  r"""\s*\[\s*\{(?=\s*(["'])(?:role|content|from|value)\1\s*:)"""
  r"""(?=.*(["'])(?:role|from)\2\s*:)(?=.*(["'])(?:content|value)\3\s*:)""",
  re.DOTALL,
)
# Anthropic's HH.  Some copies have lost outer or all blank lines.
_TURN = re.compile(r'\n\n(Human|Assistant):')
_STRIPPED = re.compile(r'Human:.*\n\s*Assistant:', re.DOTALL)
_CLOSE_TURN = re.compile(r'\n+(Human|Assistant):')

EXPECTED = (
  'expected one of these layouts: prompt with response, completion, or chosen '
  'and rejected; chosen and rejected that both begin with the prompt; messages '
  'or conversations; instruction with output; query with response'
)


def convert(record: Record) -> Record:
  """Converts a record to our layout; other fields are kept.

  A record without a prompt in any layout is returned as it is, without nulls.

  Raises:
    ValueError: a field is malformed, fields contradict each other, or one says
      something that cannot be kept.
  """
  record = renamed(without_nulls(record))
  conversation = _pop_messages(record) or _pop_request(record)
  replies, conversation = _pop_replies(record, conversation)
  if 'kto_tag' in record:
    tag = record.pop('kto_tag')
    if record.setdefault('label', tag) != tag:
      raise ValueError('label differs from kto_tag; expected one')
  if conversation is None:
    return record | replies
  unsupported = [n for n in _UNSUPPORTED if record.get(n) not in _NONE]
  if unsupported:
    raise ValueError(f'{unsupported[0]} is not supported')
  for name in WEIGHT:
    if record.get(name, 1) != 1:
      raise ValueError(
        f'{name}={record[name]!r:.40} is not supported: all replies count alike'
      )
  conversation = _with_earlier(record, conversation)
  if conversation and conversation[-1].role == ASSISTANT:
    last = {'response': conversation.pop().content}
    others = replies.keys() - {'rejected'}
    if others and replies != last:
      raise ValueError(
        f'the messages end with a reply, beside another in {sorted(others)}; '
        'expected one of the two'
      )
    replies |= last
  # ms-swift: beside a rejected reply, the response is the chosen one.
  if replies.keys() == {'response', 'rejected'}:
    replies['chosen'] = replies.pop('response')
  prompt = messages.to_json(messages.simplest(conversation))
  return {'prompt': prompt} | replies | record


def prompt_of(record: Record) -> Prompt:
  """Returns the prompt of a converted record.

  Raises:
    ValueError: it has none; lists its fields, and the layouts that are read.
      Or the user's last message is blank.
  """
  value = record.get('prompt')
  if value is None:
    raise ValueError(
      f'no prompt in the fields {sorted(map(str, record))}; {EXPECTED}'
    )
  prompt = value
  if not isinstance(prompt, str):
    prompt = messages.simplest(messages.parse(value, 'prompt'))
  if blank(messages.messages(prompt)[-1].content):
    raise ValueError('a prompt is blank; expected a request')
  return prompt


def optional_prompt(record: Record) -> Prompt:
  """Returns the prompt of a converted record, '' if there is none to read.

  Raises:
    ValueError: see `prompt_of`.
  """
  value = record.get('prompt') or ''
  if isinstance(value, str) and blank(value):
    return ''
  return prompt_of(record)


def without_nulls(value: Any) -> Any:
  """Removes the fields of objects that are null, at any depth.

  All rows of a parquet file have the same columns, and all structs of a column
  the same fields: there a field that a record lacks is null.
  """
  if isinstance(value, dict):
    return {k: without_nulls(v) for k, v in value.items() if v is not None}
  return [without_nulls(v) for v in value] if isinstance(value, list) else value


def _with_earlier(record: Record, conversation: list[Message]) -> list[Message]:
  """Removes earlier turns and the system message from a record.

  Returns the conversation after them.
  """
  history = record.pop('history', '')
  history = [] if history == '' else history
  if not isinstance(history, list) or not all(
    isinstance(pair, list) and len(pair) == 2 for pair in history
  ):
    raise ValueError(
      f'history={history!r:.80}; expected a list of [request, reply]'
    )
  # alpaca's earlier turns come before the request.
  turns = [
    Message(role, _text(text, 'history'))
    for pair in history
    for role, text in zip((USER, ASSISTANT), pair, strict=True)
  ]
  conversation = turns + conversation
  given = [_text(record.pop(n), n) for n in _SYSTEM if n in record]
  own = [each for each in conversation[:1] if each.role == SYSTEM]
  system = own + [Message(SYSTEM, text) for text in given if text.strip()]
  if len({*system}) > 1:
    raise ValueError('system differs from the system message; expected one')
  return system[:1] + conversation[len(own) :]


def _pop_messages(record: Record) -> list[Message] | None:
  """Returns the messages of a record that has some, without those fields."""
  prompt, chosen = record.get('prompt'), record.get('chosen')
  texts_or_lists = 'prompt', *_INPUT
  names = [n for n in texts_or_lists if isinstance(record.get(n), list)]
  names += [name for name in _CONVERSATION if name in record]
  if not names:
    return None
  parsed = [messages.parse(record.pop(name), name) for name in names]
  if isinstance(chosen, list):
    # UltraFeedback: `messages` repeats the prompt with the chosen reply.
    side = messages.parse(chosen, 'chosen')
    parsed = [each[:-1] if each[-1:] == side[-1:] else each for each in parsed]
    if len(side) > 1 and all(each == side[:-1] for each in parsed):
      return None if isinstance(prompt, str) else parsed[0]
  conversation, *others = parsed
  if any(other != conversation for other in others):
    raise ValueError(f'{" and ".join(names)} differ; expected one')
  texts = [each.content for each in conversation]
  if isinstance(prompt, str):
    if prompt not in texts:
      raise ValueError(f'prompt is no message of {names[0]}; expected the same')
    del record['prompt']
  for name in (*_REQUEST[1:], *_INPUT):
    text = record.get(name)
    if isinstance(text, str) and not any(text in each for each in texts):
      raise ValueError(f'{name} is in no message of {names[0]}; expected one')
  return conversation


def _pop_request(record: Record) -> list[Message] | None:
  """Returns the request of a record as a message, without those fields."""
  names = [name for name in (*_REQUEST, *_INPUT) if name in record]
  if not names:
    return None
  request, *others = [_text(record.pop(name), name) for name in names]
  turns = _turns(request)
  for name, text in zip(names[1:], others, strict=True):
    if name in _INPUT and names[0] != 'prompt' and not turns:
      # LLaMA-Factory joins the two like this.
      request = '\n'.join(filter(str.strip, [request, text]))
    # A prompt is often made of other fields.
    elif text not in request:
      raise ValueError(f'{name} is no part of {names[0]}; expected one of them')
  if turns:
    # Such a prompt ends with a blank message of the assistant.
    return turns if turns[-1].content else turns[:-1]
  return [Message(USER, request)]


def _pop_replies(
  record: Record, conversation: list[Message] | None
) -> tuple[Record, list[Message] | None]:
  """Removes the replies from a record, and returns them in our fields.

  Beside them, returns the conversation: that with which chosen and rejected
  begin, or the one given.
  """
  replies: Record = {}
  if conversation is not None:
    given = {n: _reply(record.pop(n), n) for n in _REPLY if n in record}
    if len({*given.values()}) > 1:
      raise ValueError(f'{" and ".join(given)} differ; expected one')
    if given:
      replies['response'] = next(iter(given.values()))
  if isinstance(record.get('completions'), list) and conversation is not None:
    rated = record.pop('completions')
    replies |= {
      'responses': [_rated(each, 'response') for each in rated],
      'scores': [_rated(each, 'overall_score') for each in rated],
    }
  sides = {
    name: _side(record.pop(name), name, alone=conversation is None)
    for name in ('chosen', 'rejected')
    if name in record
  }
  replies |= {name: side[-1].content for name, side in sides.items()}
  both = replies.keys() >= {'response', 'chosen'}
  if both and replies['response'] != replies['chosen']:
    raise ValueError('response differs from chosen; expected one of them')
  if len(sides) == 2:
    _check_scores(record)
  # One side may be the reply alone.
  prompts = {tuple(side[:-1]) for side in sides.values() if len(side) > 1}
  if len(prompts) > 1:
    raise Unusable('chosen and rejected answer different prompts')
  prompt = [message for each in prompts for message in each]
  if not prompt:
    return replies, conversation
  # UltraFeedback: `prompt` is the text of the user's message.
  if not {each.content for each in conversation or []} <= {
    each.content for each in prompt
  }:
    raise ValueError('chosen begins with another prompt than prompt')
  return replies, prompt


def _check_scores(record: Record) -> None:
  """Checks that the scores beside a pair, if it has some, are of its order.

  Raises:
    Unusable: the chosen reply has no better score.
    ValueError: a score is no finite number.
  """
  for names in SCORES:
    if not {*names} <= record.keys():
      continue
    scores: list[Any] = [record[name] for name in names]
    told = ' and '.join(f'{n}={record[n]!r:.40}' for n in names)
    if not all(
      isinstance(each, int | float) and math.isfinite(each) for each in scores
    ):
      raise ValueError(f'{told}; expected finite numbers')
    best, worst = scores
    if best <= worst:
      raise Unusable(f'{told}: the chosen reply has no better score')


def _side(value: Any, name: str, alone: bool = True) -> list[Message]:
  """Returns one side of a preference: its prompt, if it has one, and reply.

  Without a prompt beside it, it stands `alone`.
  """
  if isinstance(value, dict):
    value = [value]
  if isinstance(value, list):
    side = messages.parse(value, name)
    if side[-1].role != ASSISTANT:
      raise ValueError(
        f"{name} ends with the {side[-1].role}'s message; expected the "
        "assistant's"
      )
    return side
  text = _text(value, name)
  # Beside a prompt, a reply may be a dialogue.
  side = _turns(text) if alone or _TURN.match(text) else []
  if not side or side[-1].role != ASSISTANT:
    return [Message(ASSISTANT, text)]
  if not side[-1].content:
    raise Unusable(f'{name} ends before the reply')
  return side


def _turns(text: str) -> list[Message]:
  """Returns the messages of Anthropic's HH: a conversation as one text.

  It has none if it is another text.
  """
  turn = _TURN
  if not turn.match(text):
    bare = text.replace('\r\n', '\n').strip()
    if not _STRIPPED.match(bare):
      return []
    text = f'\n\n{bare}'
    turn = turn if '\n\nAssistant:' in text else _CLOSE_TURN
  _, *pieces = turn.split(text)
  roles = {'Human': USER, 'Assistant': ASSISTANT}
  said = [
    Message(roles[role], content.strip())
    for role, content in zip(pieces[::2], pieces[1::2], strict=True)
  ]
  # Some turns come in several pieces.
  return [
    Message(role, '\n\n'.join(each.content for each in group))
    for role, group in itertools.groupby(said, key=lambda each: each.role)
  ]


def _reply(value: Any, name: str) -> str:
  """Returns a reply's text; it may be a message, or a list of one."""
  side = _side(value, name) if isinstance(value, (list, dict)) else None
  if side is None:
    return _text(value, name)
  if len(side) > 1:
    raise ValueError(
      f'{name} has {len(side)} messages; expected the reply alone'
    )
  return side[0].content


def _rated(completion: Any, name: str) -> Any:
  if not isinstance(completion, dict) or name not in completion:
    raise ValueError(
      f'completions has {completion!r:.80}; expected response and overall_score'
    )
  return completion[name]


def _text(value: Any, name: str) -> str:
  if not isinstance(value, str):
    raise ValueError(f'{name}={value!r:.80}; expected a text')
  if _is_written_messages(value):
    raise ValueError(
      f'{name}={value!r:.80}; expected a text, or a list of messages that is '
      'JSON'
    )
  return value


def _is_written_messages(text: str) -> bool:
  """Returns whether a text is a list of messages, not one that was said."""
  if not _WRITTEN_MESSAGES.match(text):
    return False
  try:
    items = json.loads(text)
  # pandas writes lists into csv as Python does, some without commas.
  except (ValueError, RecursionError):
    return True
  return all(map(messages.is_message, items))
