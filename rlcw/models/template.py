"""The chat template of a tokenizer, as text.

The template is the authority on what stands around a message or a reply.  It is
rendered with random markers in their place, and the text around them is read
off.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import random
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from rlcw.models.tokenizer import (
  DIVIDER,
  OTHER_THOUGHTS,
  THOUGHT,
  valid_unicode,
)

Message = tuple[str, str]  # role and text
ROLES = ('system', 'user', 'assistant')

# Templates with `strftime_now` always see this day, the one that Llama 3's
# falls back to.  With the day of today, a run resumed tomorrow would be another
# run, and a reward model would read other prompts than it was trained on.
DATE = datetime.date(2024, 7, 26)


@dataclasses.dataclass(frozen=True, eq=False)
class Template:
  """Renders conversations.

  A base model has no template: its replies continue the user's message, and
  end with its EOS; a blank line is before each later message.  Where a template
  fails, all methods raise ValueError, in one line with the model's name.
  """

  tokenizer: PreTrainedTokenizerFast
  source: str = ''  # the model's name
  eos: str = ''  # ends a reply of a base model

  def prompt(self, messages: str | Sequence[Message]) -> str:
    """Text of a conversation, up to the start of the reply.

    Args:
      messages: roles and texts; a text alone is one user message.
    """
    text = self._render(self.messages(messages), True)
    return text + self._gap if self._gap.strip() else text

  def messages(self, messages: str | Sequence[Message]) -> list[Message]:
    """Valid messages, the system's in the form that the template reads."""
    if isinstance(messages, str):
      messages = [('user', messages)]
    unknown = next((role for role, _ in messages if role not in ROLES), None)
    if unknown is not None:
      raise ValueError(f'role={unknown!r}; expected one of {ROLES}')
    valid = [(role, valid_unicode(text)) for role, text in messages]
    roles = [role for role, _ in valid]
    if 'system' not in roles or self.reads_system == 'system':
      return valid
    merged, system = [], []
    for role, text in valid:
      if role == 'system':
        system.append(text)
      elif role == 'user':
        merged.append((role, '\n\n'.join([*system, text])))
        system = []
      else:
        merged.append((role, text))
    return merged + ([('user', '\n\n'.join(system))] if system else [])

  def around(self, system: str = '') -> tuple[str, str]:
    """Text of a prompt before and after the user's message.

    Args:
      system: the system message; '' for none.
    """
    user = ('user', self._marker)
    parts = self.prompt([('system', system), user] if system else [user])
    opening, *closing = parts.split(self._marker)
    if len(closing) != 1:
      raise self.error(
        f"its chat template writes the user's message {len(closing)} times; "
        'expected once'
      )
    return opening, closing[0]

  def content(self, reply: str) -> str:
    """A reply as the template writes it: trimmed, or after a space."""
    reply = valid_unicode(reply)
    before, after = self._around_reply
    messages = [('user', self._marker), ('assistant', reply)]
    text = self._render(messages, False)
    whole = text.startswith(before) and text.endswith(after)
    if whole and len(before) + len(after) <= len(text):
      reply = text[len(before) : len(text) - len(after)]
    return reply if self._gap.strip() else self._gap + reply

  def reply_spans(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Places of the assistant's texts in the prompt of `messages`."""
    text, spans = self.prompt(messages), []
    for i, (role, _) in enumerate(messages):
      if role != 'assistant':
        continue
      marker = secrets.token_hex(8)
      marked = [*messages[:i], (role, marker), *messages[i + 1 :]]
      before, found, after = self.prompt(marked).partition(marker)
      whole = found and text.startswith(before) and text.endswith(after)
      if not whole or len(before) + len(after) > len(text):
        raise self.error(
          f'its chat template rewrites message {i + 1}, so that the reply in '
          'it is not found; expected a template that writes replies as they are'
        )
      spans.append((len(before), len(text) - len(after)))
    return spans

  def with_system(self, system: str) -> str:
    """The template with a system message for conversations without their own.

    It is the text of a template, with the message in the form that `messages`
    gives it.
    """
    text = json.dumps(system, ensure_ascii=False)
    first = f"[{{'role': 'system', 'content': {text}}}] + messages"
    if self.reads_system == 'user':
      joined = json.dumps(f'{system}\n\n', ensure_ascii=False)
      first = (
        f"[{{'role': 'user', 'content': {joined} + messages[0]['content']}}]"
        ' + messages[1:]'
      )
    return (
      "{%- if messages and messages[0]['role'] != 'system' -%}"
      f'{{%- set messages = {first} -%}}'
      '{%- endif -%}'
    ) + self.tokenizer.get_chat_template()

  def between_replies(self, messages: Sequence[Message], request: str) -> str:
    """Text from the end of a reply to the start of the next.

    Args:
      messages: before the reply.
      request: the user's message after it.
    """
    reply = ('assistant', self._marker)
    text = self.prompt([*messages, reply, ('user', request)])
    _, found, after = text.partition(self._marker)
    if not found:
      raise self.error('its chat template leaves out earlier replies')
    return after

  @property
  def after_reply(self) -> str:
    """Text after a reply."""
    return self._around_reply[1]

  @functools.cached_property
  def cue(self) -> str:
    """Text of a prompt after the user's message, which the reply follows."""
    _, found, cue = self.prompt(self._marker).rpartition(self._marker)
    if not found:
      raise self.error("its chat template leaves out the user's message")
    return cue

  @functools.cached_property
  def thought(self) -> tuple[str, str] | None:
    """Markers around the thought that prompts have; None without one."""
    pairs = THOUGHT, *OTHER_THOUGHTS
    return next((pair for pair in pairs if pair[0] in self.cue), None)

  @property
  def thinking(self) -> bool:
    """True if prompts open a thought that the model has to end."""
    if self.thought is None:
      return False
    opened, closed = self.thought
    return self.cue.rfind(opened) > self.cue.rfind(closed)

  @functools.cached_property
  def reads_system(self) -> str:
    """The role in which a system message is rendered: 'system' or 'user'.

    'user' puts it before the next user message, joined by a blank line.
    """
    marker = secrets.token_hex(8)
    try:
      text = self._render([('system', marker), ('user', self._marker)], True)
    except ValueError:  # Gemma's template refuses the role
      return 'user'
    # Others leave it out without a word.
    return 'system' if self.compiled is not None and marker in text else 'user'

  @functools.cached_property
  def default_system(self) -> str | None:
    """The system message that the template inserts by itself, if any."""
    if self.reads_system == 'user':
      return None
    marker, user = secrets.token_hex(8), ('user', self._marker)
    given = self._render([('system', marker), user], True)
    before, _, rest = given.partition(marker)
    between = rest.partition(self._marker)[0]
    opening = self._render([user], True).partition(self._marker)[0]
    inside = opening.removeprefix(before).removesuffix(between)
    return inside if before + inside + between == opening and inside else None

  @functools.cached_property
  def compiled(self) -> Any:
    """The compiled template; None for a base model."""
    if not self.tokenizer.chat_template:
      return None
    try:
      text = self.tokenizer.get_chat_template()
      # The public `apply_chat_template` takes no `strftime_now`.
      return chat_template_utils._compile_jinja_template(text)
    except Exception as error:
      raise self.error(f'its chat template is broken: {error}') from error

  def error(self, reason: str) -> ValueError:
    """An error in one line that names the model."""
    return ValueError(f'{self.source}: {" ".join(reason.split())}')

  @functools.cached_property
  def _marker(self) -> str:
    """A user's message that occurs in no template."""
    return secrets.token_hex(8)

  @functools.cached_property
  def _around_reply(self) -> tuple[str, str]:
    marker = secrets.token_hex(8)
    text = self._render([('user', self._marker), ('assistant', marker)], False)
    before, _, after = text.partition(marker)
    return before, after

  @functools.cached_property
  def _gap(self) -> str:
    """Text that the template puts between its prompt and a reply.

    It is the start of a reply, if the template does not write that when asked.
    Otherwise it is blank; in Mistral's it is a space.
    """
    user = [('user', self._marker)]
    asked, before = self._render(user, True), self._around_reply[0]
    if self.compiled is None or not before.startswith(asked):
      return ''
    gap = before.removeprefix(asked)
    ignored = asked == self._render(user, False)
    return gap if ignored or not gap.strip() else ''

  def _render(self, messages: Sequence[Message], reply_next: bool) -> str:
    if self.compiled is None:
      text = ''
      for role, content in messages:
        # Divided, so that no token has the end of a request and of a reply.
        reply = DIVIDER + content + self.eos
        text += reply if role == 'assistant' else f'\n\n{content}'
      return text.removeprefix('\n\n')
    try:
      with _fixed_randomness():
        return self.compiled.render(
          messages=[{'role': role, 'content': text} for role, text in messages],
          tools=None,
          documents=None,
          add_generation_prompt=reply_next,
          # Thinking is off, or Qwen3's thoughts would be most of the reply.
          # Templates without this variable ignore it.
          enable_thinking=False,
          strftime_now=lambda format: DATE.strftime(format),
          **self.tokenizer.special_tokens_map,
        )
    except Exception as error:
      # Enough to find the record: some templates refuse an order of roles.
      roles = ', '.join(role for role, _ in messages)
      last = messages[-1][1] if messages else ''
      raise self.error(
        f'its chat template fails: {error}; in messages of {roles:.80}, of '
        f'which the last is {last[:40]!r}'
      ) from error


@contextlib.contextmanager
def _fixed_randomness() -> Iterator[None]:
  """Templates that draw at random (`|random`) draw the same each time."""
  state = random.getstate()
  random.seed(0)
  try:
    yield
  finally:
    random.setstate(state)
