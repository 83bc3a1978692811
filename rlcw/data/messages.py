"""Conversations: messages of a system, a user and an assistant.

A prompt is a conversation up to the reply.  Where it is one message of the
user, it is kept as that message's text.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

SYSTEM, USER, ASSISTANT = 'system', 'user', 'assistant'


class Message(NamedTuple):
  """One message of a conversation."""

  role: str  # SYSTEM, USER or ASSISTANT
  content: str


Prompt = str | tuple[Message, ...]

# Names of the roles in OpenAI's layout and in sharegpt's.
_ROLES = {
  'system': SYSTEM,
  'developer': SYSTEM,
  'user': USER,
  'human': USER,
  'prompter': USER,
  'assistant': ASSISTANT,
  'gpt': ASSISTANT,
  'chatgpt': ASSISTANT,
  'bot': ASSISTANT,
  'ai': ASSISTANT,
  'model': ASSISTANT,
}
# Fields of a message, and types of parts of its content, that are a thought.
THOUGHTS = (
  'reasoning_content',
  'reasoning',
  'reasoning_text',
  'thinking',
  'thinking_content',
  'thought',
)
# Fields of a message that say more than its text does.
_UNSUPPORTED = (
  'tool_calls',
  'function_call',
  'image',
  'images',
  'audio',
  'video',
  'videos',
  *THOUGHTS,
)
# Fields of a reply that tell whether to learn it: OpenAI's, and other tools'.
_WEIGHT = (
  *('weight', 'train', 'training', 'trainable', 'loss', 'loss_weight'),
  'loss_mask',
)
# Fields of a reply that tell not to learn it.
_MASK = 'mask', 'masked'
# Types of the parts of a message's content that are nothing but text.
TEXT = None, 'text', 'input_text', 'output_text'


def messages(prompt: Prompt, system: str = '') -> tuple[Message, ...]:
  """Returns a prompt as messages.

  Args:
    prompt: a text, which is one message of the user, or messages.
    system: a system message for a prompt without its own; '' adds none.
  """
  if isinstance(prompt, str):
    prompt = (Message(USER, prompt),)
  if system and prompt[0].role != SYSTEM:
    return Message(SYSTEM, system), *prompt
  return prompt


def simplest(conversation: Sequence[Message]) -> Prompt:
  """Returns messages as a prompt: a text if the user's message is the only one.

  Raises:
    ValueError: a system message is not the first one, or the last message is
      not the user's.
  """
  roles = [message.role for message in conversation]
  if roles == [USER]:
    return conversation[0].content
  if not roles or roles[-1] != USER or SYSTEM in roles[1:]:
    raise ValueError(
      f'messages of {roles}; expected a system message at most at the start, '
      "and the user's message last, before the reply"
    )
  return tuple(conversation)


def transcript(prompt: Prompt) -> str:
  """Returns a prompt as text to read: one message, or several with roles."""
  if isinstance(prompt, str):
    return prompt
  return '\n\n'.join(f'[{each.role}]\n{each.content}' for each in prompt)


def to_json(prompt: Prompt) -> str | list[dict[str, str]]:
  """Returns a prompt as records have it."""
  if isinstance(prompt, str):
    return prompt
  return [message._asdict() for message in prompt]


def parse(value: Any, name: str) -> list[Message]:
  """Parses a list of messages, in OpenAI's layout or sharegpt's.

  Args:
    value: a list of {"role", "content"} or {"from", "value"}.
    name: of the field, for errors.

  Raises:
    ValueError: it is none; names the field and the message.
  """
  if not isinstance(value, list) or not value:
    raise ValueError(f'{name}={value!r:.80}; expected a list of messages')
  parsed = [
    parse_message(each, f'{name}[{number}]')
    for number, turn in enumerate(value)
    for each in _as_messages(turn)
  ]
  # A blank system message says nothing, and some templates would print it.
  return [
    each for each in parsed if each.role != SYSTEM or each.content.strip()
  ]


def _as_messages(turn: Any) -> list[Any]:
  """Returns the two messages of Capybara's turns; a message is one."""
  if not isinstance(turn, dict) or turn.keys() != {'input', 'output'}:
    return [turn]
  said = zip((USER, ASSISTANT), (turn['input'], turn['output']), strict=True)
  return [{'role': role, 'content': text} for role, text in said]


def is_message(value: Any) -> bool:
  """Returns whether a value has the fields of a message."""
  return isinstance(value, dict) and bool(
    value.keys() & {'role', 'from'} and value.keys() & {'content', 'value'}
  )


def parse_message(value: Any, name: str) -> Message:
  """Parses one message; see `parse`."""
  if not isinstance(value, dict):
    raise ValueError(f'{name}={value!r:.80}; expected a message (an object)')
  role = value.get('role', value.get('from'))
  if not isinstance(role, str) or role.lower() not in _ROLES:
    raise ValueError(
      f'{name} has the role {role!r:.40}; expected system, user or assistant'
    )
  for field in _UNSUPPORTED:
    if value.get(field):
      raise ValueError(f'{name} has {field}, which is not supported')
  for field in _WEIGHT:
    if _ROLES[role.lower()] == ASSISTANT and value.get(field, 1) != 1:
      raise ValueError(
        f'{name} has {field}={value[field]!r}, which is not supported: all '
        'replies of a conversation are learnt'
      )
  for field in _MASK:
    if _ROLES[role.lower()] == ASSISTANT and value.get(field):
      raise ValueError(
        f'{name} has {field}={value[field]!r}, which is not supported: all '
        'replies of a conversation are learnt'
      )
  content = value.get('content', value.get('value'))
  if isinstance(content, list):
    content = ''.join(_part(part, name) for part in content)
  if not isinstance(content, str):
    raise ValueError(f'{name}: content={content!r:.80}; expected a text')
  return Message(_ROLES[role.lower()], content)


def _part(part: Any, name: str) -> str:
  """Returns the text of one part of a message's content."""
  is_text = not isinstance(part, dict) or part.get('type') in TEXT
  text = part.get('text') if isinstance(part, dict) else part
  if not is_text or not isinstance(text, str):
    raise ValueError(
      f'{name}: content has {part!r:.80}; expected parts of text'
    )
  return text
