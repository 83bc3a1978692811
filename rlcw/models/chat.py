"""The chat format of a loaded model: conversations to token ids and back.

One place knows which ids end a reply, and what a chat template puts before and
after one.  The template is the authority: it is rendered with random markers in
place of messages, and its text around them is read off.

  prompt      everything up to the reply, as the template renders it
  reply       an assistant's text, and what ends it
  thought     `<think>…</think>` before a reply; it is no part of the reply
"""

import bisect
import contextlib
import dataclasses
import datetime
import functools
import json
import random
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from rlcw.models import gguf_tokenizer, hub
from rlcw.models import tokenizer as tokenizer_lib
from rlcw.models.tokenizer import THOUGHT, encode, encode_untrusted

Message = tuple[str, str]  # role and text
ROLES = ('system', 'user', 'assistant')

# Templates with `strftime_now` always see this day, the one that Llama 3's
# falls back to: a run and its reward model, resumed or read on another day,
# must see the same prompts.
DATE = datetime.date(2024, 7, 26)
# Closes a thought that a template has opened, like Qwen3's empty thoughts.
_CLOSE_THOUGHT = f'\n{THOUGHT[1]}\n\n'


def reply_of(text: str, thinking: bool = False) -> str:
  """Returns the reply in a text, without the thought before it.

  It is blank if the thought never ends.

  Args:
    text: of a model.
    thinking: true if the prompt has opened a thought.
  """
  opened, closed = THOUGHT
  _, end, reply = text.rpartition(closed)
  if end:
    return reply.strip()
  return '' if thinking or text.lstrip().startswith(opened) else text


def load(model: str | Path) -> 'ChatFormat':
  """Loads the chat format of a GGUF file, a folder, or a Hub id.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it has no supported tokenizer, no token that ends a reply, or a
      chat template that fails.
  """
  path = hub.fetch(model)
  read = gguf_tokenizer.end_ids if path.is_file() else _end_ids
  chat = ChatFormat(tokenizer_lib.load(path), read(path), str(model))
  chat.check()
  return chat


@dataclasses.dataclass(frozen=True, eq=False)
class ChatFormat:
  """How conversations become ids, and sampled ids become replies.

  All methods raise ValueError, with the model's name, where the template fails.
  """

  tokenizer: PreTrainedTokenizerFast
  listed: tuple[int, ...] = ()  # ids that the model's other files call EOS
  source: str = ''  # the model's name

  # --- Encoding ---------------------------------------------------------------

  def encode_prompt(self, messages: str | Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to the start of the reply.

    A base model has no chat template and continues the messages themselves:
    then the ids are those of their texts, after the BOS token if the tokenizer
    adds one (Gemma and Llama do, Qwen does not).

    Args:
      messages: roles and texts; a text alone is one user message.
    """
    return self._begin + encode(self.tokenizer, self._prompt(messages))

  def encode_reply(self, text: str) -> list[int]:
    """Token ids of a reply, up to and including the id that ends it.

    Text like '<|im_end|>' stays plain text.  If the prompt has opened a thought
    that the text does not end, an empty one is closed first.
    """
    return [*self.encode_thought(text), *self.encode_content(text), *self.end]

  def encode_thought(self, text: str) -> list[int]:
    """Token ids of the thought before a reply, or of an empty one."""
    if not self.thinking:
      return []
    opened, closed = THOUGHT
    thought, end, _ = text.rpartition(closed)
    if not end:
      return encode(self.tokenizer, _CLOSE_THOUGHT)
    # The prompt has the opening already.
    thought = thought.lstrip().removeprefix(opened).lstrip('\n')
    return [
      *encode_untrusted(self.tokenizer, thought),
      *encode(self.tokenizer, f'{closed}\n\n'),
    ]

  def encode_content(self, text: str) -> list[int]:
    """Token ids of a reply, as the template writes it, without its end."""
    opened, _ = THOUGHT
    # The prompt has had its thought already, open or empty.
    if opened in self._cue:
      text = reply_of(text)
    before, after = self._around_reply
    rendered = self._render(
      [('user', self._marker), ('assistant', text)], False
    )
    # Templates may trim a reply.
    if rendered.startswith(before) and rendered.endswith(after):
      text = rendered[len(before) : len(rendered) - len(after)]
    return encode_untrusted(self.tokenizer, text)

  def encode_conversation(
    self, messages: Sequence[Message]
  ) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation that ends with a reply.

    The ids before that reply are those of `encode_prompt`, so that earlier
    thoughts are dropped where the template drops them.

    Returns:
      The ids, and a mask that is true at the assistant's texts and at the ids
      that end them.

    Raises:
      ValueError: the last message is not the assistant's.
    """
    messages = self._messages(messages)
    if not messages or messages[-1][0] != 'assistant':
      raise ValueError('expected a conversation that ends with a reply')
    *before, (_, reply) = messages
    text, spans = self._prompt(before), self._reply_spans(before)
    encoding = self.tokenizer(
      text, add_special_tokens=False, return_offsets_mapping=True
    )
    ids = [*encoding['input_ids']]  # type: ignore[arg-type]
    mask = [False] * len(ids)
    starts = [start for start, _ in encoding['offset_mapping']]  # type: ignore
    for first, last in spans:
      i, stop = (
        bisect.bisect_left(starts, first),
        bisect.bisect_left(starts, last),
      )
      mask[i:stop] = [True] * (stop - i)
      if ids[stop : stop + len(self.end)] == self.end:
        mask[stop : stop + len(self.end)] = [True] * len(self.end)
    row = self.encode_reply(reply)
    return (
      [*self._begin, *ids, *row],
      [False] * len(self._begin) + mask + [True] * len(row),
    )

  def turns(self, system: str = '') -> tuple[list[int], list[int]]:
    """Token ids before and after a user's message, for an answer at once.

    With them a message can be tokenised in parts, so that untrusted text cannot
    end the user's turn.

    Args:
      system: the system message; '' for none.
    """
    message = ('user', self._marker)
    messages = [('system', system), message] if system else [message]
    parts = self._prompt(messages).split(self._marker)
    if len(parts) != 2:
      raise self._error(
        f'its chat template writes a message {len(parts) - 1} times; expected '
        'once'
      )
    opening, closing = (encode(self.tokenizer, part) for part in parts)
    return [*self._begin, *opening], [*closing, *self.encode_thought('')]

  # --- Replies ----------------------------------------------------------------

  @functools.cached_property
  def eos_ids(self) -> tuple[int, ...]:
    """Ids that end a reply: the files', the template's and all chat markers.

    Raises:
      ValueError: there are none.
    """
    vocab = self.tokenizer.get_vocab()
    # A base model's EOS ends a text, not a turn, so chat markers count as well.
    ids = {vocab[name] for name in tokenizer_lib.END_MARKERS if name in vocab}
    ids |= {*self.listed}
    own: Any = self.tokenizer.eos_token_id
    if own is not None:
      ids.add(int(own))
    ids.update(id for id in self._closing[:1] if id in self.control_ids)
    if not ids:
      raise self._error(
        'no token ends a reply; expected eos_token in tokenizer_config.json, '
        'or eos_token_id in generation_config.json'
      )
    return tuple(sorted(ids))

  @functools.cached_property
  def after_reply(self) -> list[int]:
    """Ids that the template puts after a reply, as in [<|im_end|>, \\n]."""
    if any(id in self.eos_ids for id in self._closing):
      return self._closing
    own: Any = self.tokenizer.eos_token_id
    return [int(own) if own is not None else self.eos_ids[0]]

  @functools.cached_property
  def end(self) -> list[int]:
    """The part of `after_reply` up to and including the first EOS id."""
    ends = [id in self.eos_ids for id in self.after_reply]
    return self.after_reply[: ends.index(True) + 1]

  @functools.cached_property
  def stop_ids(self) -> tuple[int, ...]:
    """Control ids that do not end a reply, and have no place in one."""
    return tuple(sorted(self.control_ids - {*self.eos_ids}))

  @property
  def control_ids(self) -> frozenset[int]:
    """Ids of tokens that are no text: those of roles, ends and padding."""
    return tokenizer_lib.control_ids(self.tokenizer)

  def decode_reply(self, ids: Any, thinking: bool | None = None) -> str:
    """Decodes a reply, without thoughts and surrounding white space.

    Args:
      ids: sampled after a prompt.  The reply ends before the first id that ends
        one, and before any other control token.
      thinking: true if the prompt has opened a thought; None for a prompt of
        `encode_prompt`.
    """
    stop = self._stop(ids)
    thinking = self.thinking if thinking is None else thinking
    return reply_of(self._decode(ids[:stop]), thinking).strip()

  def reply_span(self, ids: Any) -> tuple[int, int]:
    """First and last place (exclusive) of the reply's text in sampled ids."""
    stop, closed = self._stop(ids), THOUGHT[1]
    text = self._decode(ids[:stop])
    if closed not in text:
      return (0 if reply_of(text, self.thinking) else stop), stop
    # The fewest tokens that have all of the thought.
    ends = text.count(closed)
    start = bisect.bisect_left(
      range(stop), ends, key=lambda n: self._decode(ids[:n]).count(closed)
    )
    return start, stop

  def _stop(self, ids: Any) -> int:
    stops = {*self.eos_ids, *self.stop_ids}
    return next((i for i, id in enumerate(ids) if int(id) in stops), len(ids))

  def _decode(self, ids: Any) -> str:
    hidden = self.control_ids
    return str(
      self.tokenizer.decode(
        [id for id in np.asarray(ids).tolist() if id not in hidden],
        # Markers of thoughts are special in some files.
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
      )
    )

  # --- The template -----------------------------------------------------------

  @functools.cached_property
  def thinking(self) -> bool:
    """True if the template opens a thought that the model has to end."""
    opened, closed = THOUGHT
    return self._cue.rfind(opened) > self._cue.rfind(closed)

  @functools.cached_property
  def reads_system(self) -> str:
    """How a system message reaches the model: as 'system', or as 'user'.

    'user' puts it before the first user message, joined by a blank line.
    """
    marker = secrets.token_hex(8)
    try:
      text = self._render([('system', marker), ('user', self._marker)], True)
    except ValueError:  # Gemma's template refuses the role
      return 'user'
    templated = self._template is not None
    return 'system' if templated and marker in text else 'user'

  @functools.cached_property
  def default_system(self) -> str | None:
    """The system message that the template inserts by itself, if any."""
    if self.reads_system == 'user':
      return None
    marker = secrets.token_hex(8)
    user = ('user', self._marker)
    given = self._render([('system', marker), user], True)
    before, _, rest = given.partition(marker)
    between = rest.partition(self._marker)[0]
    opening = self._render([user], True).partition(self._marker)[0]
    inside = len(before), len(opening) - len(between)
    if opening.startswith(before) and opening[inside[0] :].endswith(between):
      return opening[slice(*inside)] or None
    return None

  def check(self) -> None:
    """Renders the template and finds the ends of replies.

    Raises:
      ValueError: the template fails, or nothing ends a reply.
    """
    _ = self.end, self.default_system, self._cue

  @functools.cached_property
  def _marker(self) -> str:
    # Random, so that no template contains it.
    return secrets.token_hex(8)

  @functools.cached_property
  def _begin(self) -> list[int]:
    """BOS of a base model; a template writes its own."""
    if self._template is not None:
      return []
    tokenizer = self.tokenizer
    ids = list(tokenizer.encode(''))
    # Some tokenizers add EOS after a text as well.
    first = ids[:1] == [tokenizer.bos_token_id]
    return ids[:-1] if ids[first:][-1:] == [tokenizer.eos_token_id] else ids

  @functools.cached_property
  def _template(self) -> Any:
    if not self.tokenizer.chat_template:
      return None
    try:
      text = self.tokenizer.get_chat_template()
      # The public `apply_chat_template` takes no `strftime_now`.
      return chat_template_utils._compile_jinja_template(text)
    except Exception as error:
      raise self._error(f'its chat template is broken: {error}') from error

  def _render(self, messages: Sequence[Message], reply_next: bool) -> str:
    """Text of a conversation, with the start of a reply if that is next."""
    if self._template is None:
      return '\n\n'.join(text for _, text in messages)
    try:
      with _fixed_randomness():
        return self._template.render(
          messages=[{'role': role, 'content': text} for role, text in messages],
          tools=None,
          documents=None,
          add_generation_prompt=reply_next,
          # Thinking is off, or Qwen3's thoughts would cost tokens.  Templates
          # without this variable ignore it.
          enable_thinking=False,
          strftime_now=lambda format: DATE.strftime(format),
          **self.tokenizer.special_tokens_map,
        )
    except Exception as error:
      raise self._error(f'its chat template fails: {error}') from error

  def _prompt(self, messages: str | Sequence[Message]) -> str:
    return self._render(self._messages(messages), True) + self._header

  def _messages(self, messages: str | Sequence[Message]) -> list[Message]:
    """Valid messages, the system's in the form that the model reads."""
    if isinstance(messages, str):
      messages = [('user', messages)]
    unknown = next((role for role, _ in messages if role not in ROLES), None)
    if unknown is not None:
      raise ValueError(f'role={unknown!r}; expected one of {ROLES}')
    valid = [
      (role, tokenizer_lib.valid_unicode(text)) for role, text in messages
    ]
    if not any(role == 'system' for role, _ in valid):
      return valid
    if self.reads_system == 'system':
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

  @functools.cached_property
  def _around_reply(self) -> tuple[str, str]:
    """Text before and after a reply to the user's message `_marker`."""
    marker = secrets.token_hex(8)
    text = self._render([('user', self._marker), ('assistant', marker)], False)
    before, _, after = text.partition(marker)
    return before, after

  @functools.cached_property
  def _closing(self) -> list[int]:
    return encode(self.tokenizer, self._around_reply[1])

  @functools.cached_property
  def _header(self) -> str:
    """The start of a reply, of a template that does not write it if asked."""
    user = [('user', self._marker)]
    asked, before = self._render(user, True), self._around_reply[0]
    if asked != self._render(user, False) or not before.startswith(asked):
      return ''
    header = before.removeprefix(asked)
    return header if header.strip() else ''

  @functools.cached_property
  def _cue(self) -> str:
    """Text of a prompt after the user's message.

    Raises:
      ValueError: the template does not write the message.
    """
    _, found, cue = self._prompt(self._marker).rpartition(self._marker)
    if not found:
      raise self._error("its chat template leaves out the user's message")
    return cue

  def _reply_spans(self, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Places of the assistant's texts in the prompt of `messages`."""
    text, spans = self._prompt(messages), []
    for i, (role, _) in enumerate(messages):
      if role != 'assistant':
        continue
      marker = secrets.token_hex(8)
      marked = [*messages[:i], (role, marker), *messages[i + 1 :]]
      before, found, after = self._prompt(marked).partition(marker)
      whole = found and text.startswith(before) and text.endswith(after)
      if not whole or len(before) + len(after) > len(text):
        raise self._error(
          f'its chat template rewrites message {i + 1}, so that the reply in '
          'it is not found; expected a template that writes replies as they are'
        )
      spans.append((len(before), len(text) - len(after)))
    return spans

  def _error(self, reason: str) -> ValueError:
    return ValueError(f'{self.source}: {" ".join(reason.split())}')


@contextlib.contextmanager
def _fixed_randomness() -> Iterator[None]:
  """Templates may draw at random (`|random`): the same numbers each time."""
  state = random.getstate()
  random.seed(0)
  try:
    yield
  finally:
    random.setstate(state)


def _end_ids(folder: Path) -> tuple[int, ...]:
  """EOS ids in the configurations of a folder.

  Raises:
    ValueError: one is not an id; names the file.
  """
  found = set()
  for name in ('generation_config.json', 'config.json'):
    file = folder / name
    if not file.is_file():
      continue
    try:
      config = json.loads(file.read_text('utf-8'))
      value = config.get('eos_token_id')
    except (ValueError, AttributeError) as error:
      raise ValueError(f'{file}: expected a JSON object: {error}') from None
    ids = value if isinstance(value, list) else [value]
    for id in ids:
      if id is not None and (type(id) is not int or id < 0):
        raise ValueError(
          f'{file}: eos_token_id={value!r:.80}; expected an id or a list of ids'
        )
    found |= {*ids} - {None}
  return tuple(sorted(found))
