"""The chat format of a loaded model: conversations to token ids and back.

This is the one place that knows which ids end a reply, and which ids stand
before and after one.

  prompt   ids up to the reply, as the chat template renders it
  thought  `<think>…</think>` or the like before a reply, no part of it
  content  the reply's text
  end      what the template puts after it, up to the first EOS id
"""

import bisect
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from rlcw.models import gguf_tokenizer, hub
from rlcw.models import tokenizer as tokenizer_lib
from rlcw.models.template import Message, Template
from rlcw.models.thoughts import begins, end_of_thought, markers_of, reply_of
from rlcw.models.tokenizer import (
  THOUGHT,
  broken_up,
  encode,
  encode_inside,
  encode_places,
  encode_untrusted,
)
from rlcw.runtime.files import read_json


def load(
  model: str | Path,
  vocab_size: int | None = None,
  context: int | None = None,
) -> 'ChatFormat':
  """Loads the chat format of a GGUF file, a folder, or a Hub id.

  Args:
    model: its path or id.
    vocab_size: rows of its embedding; None if there is none to fit.
    context: most tokens of a text; None if there is no limit.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it has no supported tokenizer, a token without an embedding, no
      token that ends a reply, or a chat template that fails.
  """
  path = hub.fetch(model)
  if path.is_file():
    tokenizer, listed = gguf_tokenizer.load(path)
  else:
    tokenizer, listed = tokenizer_lib.load(path), _end_ids(path)
  chat = ChatFormat(tokenizer, listed, str(model), vocab_size, context)
  chat.check()
  return chat


@dataclasses.dataclass(frozen=True, eq=False)
class ChatFormat:
  """Encodes conversations and decodes sampled replies.

  Where the template fails, all methods raise ValueError with the model's name.
  """

  tokenizer: PreTrainedTokenizerFast
  listed: tuple[int, ...] = ()  # ids that the model's other files call EOS
  source: str = ''  # the model's name
  vocab_size: int | None = None  # rows of the embedding
  context: int | None = None  # most tokens of a text

  # --- Encoding ---------------------------------------------------------------

  def encode_prompt(self, messages: str | Sequence[Message]) -> list[int]:
    """Token ids of a conversation, up to the start of the reply.

    A base model has no chat template and continues the messages themselves
    (`Template`), after the BOS token if the tokenizer adds one (Gemma and Llama
    do, Qwen does not).

    Args:
      messages: roles and texts; a text alone is one user message.
    """
    text = self.template.prompt(self._plain(messages))
    return self._embedded(self._begin + encode(self.tokenizer, text))

  def _plain(self, messages: str | Sequence[Message]) -> list[Message]:
    """Messages in which spelled-out control tokens will stay plain text.

    Without a template they are tokens of a user's message: it may be a whole
    conversation.
    """
    base = self.template.compiled is None
    return [
      (role, text)
      if base and role == 'user'
      else (role, broken_up(self.tokenizer, text))
      for role, text in self.template.messages(messages)
    ]

  def encode_next_turn(
    self, messages: Sequence[Message], request: str
  ) -> list[int]:
    """Token ids between a reply and the next one.

    They are those after the id that ended the reply, up to the start of the
    next: what is left of the reply's end, a user's message, and the cue.

    Args:
      messages: before the reply, roles and texts.
      request: the user's message.
    """
    ((_, request),) = self._plain(request)
    text = self.template.between_replies(self._plain(messages), request)
    ids, _ = encode_places(self.tokenizer, text, inside=True)
    ended = ids[: len(self.end)] == self.end
    return self._embedded(ids[len(self.end) * ended :])

  def encode_reply(self, text: str) -> list[int]:
    """Token ids of a reply, up to and including the id that ends it.

    Text like '<|im_end|>' stays plain text.
    """
    return [*self.encode_thought(text), *self.encode_content(text), *self.end]

  def encode_thought(self, text: str) -> list[int]:
    """Token ids before a reply, where prompts open a thought.

    They are those of the thought in the text, or of the end of an empty one.
    """
    if not self.thinking or self.template.thought is None:
      return []
    opened, closed = self.template.thought
    end = end_of_thought(text, closed)
    if not end:
      return encode_inside(self.tokenizer, f'\n{closed}\n\n')
    # The prompt has the opening already.
    thought = text[: end - len(closed)].lstrip()
    if begins(thought, opened):
      thought = thought[len(opened) :]
    return [
      *encode_untrusted(self.tokenizer, thought.lstrip('\n')),
      *encode_inside(self.tokenizer, f'{closed}\n\n'),
    ]

  def encode_content(self, text: str) -> list[int]:
    """Token ids of a reply, as the template writes it, without its end."""
    # Such prompts have had their thought, if only an empty one.
    if self.template.thought is not None:
      text = reply_of(text, markers=self.template.thought)
    return encode_untrusted(self.tokenizer, self.template.content(text))

  def drops_thought(self, text: str) -> bool:
    """True if a reply has a thought that `encode_reply` leaves out.

    Such prompts have had their thought, an empty one.
    """
    markers = self.template.thought
    if markers is None or self.thinking:
      return False
    return reply_of(text, markers=markers) != text

  def encode_conversation(
    self, messages: Sequence[Message]
  ) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation that ends with a reply.

    The ids before that reply are those of `encode_prompt`: earlier thoughts are
    dropped where the template drops them.

    Returns:
      The ids, and a mask that is true at the assistant's texts and at the ids
      that end them.

    Raises:
      ValueError: the last message is not the assistant's.
    """
    messages = self.template.messages(messages)
    if not messages or messages[-1][0] != 'assistant':
      raise ValueError(
        'expected a conversation whose last message is of the assistant'
      )
    *before, (_, reply) = messages
    before = self._plain(before)
    # Places in the text where each token starts and stops.
    ids, places = encode_places(self.tokenizer, self.template.prompt(before))
    starts, stops = [first for first, _ in places], [end for _, end in places]
    mask = np.zeros(len(ids), bool)
    for start, stop in self.template.reply_spans(before):
      # Every token with some of the reply's text.
      first = bisect.bisect_right(stops, start)
      stop = bisect.bisect_left(starts, stop)
      if ids[stop : stop + len(self.end)] == self.end:
        stop += len(self.end)
      mask[first:stop] = True
    row = self.encode_reply(reply)
    return (
      [*self._begin, *ids, *row],
      [False] * len(self._begin) + mask.tolist() + [True] * len(row),
    )

  def turns(self, system: str = '') -> tuple[list[int], list[int]]:
    """Token ids before and after a user's message, for an answer at once.

    With them a message can be tokenised in parts, so that untrusted text cannot
    end the user's turn.

    Args:
      system: the system message; '' for none.
    """
    opening, closing = self.template.around(system)
    return (
      [*self._begin, *encode(self.tokenizer, opening)],
      [*encode_inside(self.tokenizer, closing), *self.encode_thought('')],
    )

  # --- Replies ----------------------------------------------------------------

  @functools.cached_property
  def eos_ids(self) -> tuple[int, ...]:
    """Ids that end a reply: the files', the template's and all chat markers.

    Raises:
      ValueError: there are none.
    """
    ids = {*self._known_ends}
    ids.update([id for id in self._closing if id in self.control_ids][:1])
    if not ids:
      raise self._error(
        'no token ends a reply; expected eos_token in tokenizer_config.json, '
        'or eos_token_id in generation_config.json'
      )
    return tuple(sorted(ids))

  @functools.cached_property
  def _known_ends(self) -> list[int]:
    """EOS ids but the template's, the tokenizer's own first."""
    vocab = self.tokenizer.get_vocab()
    # A base model's EOS ends a text, not a turn, so chat markers count as well.
    size = self.vocab_size or float('inf')
    markers = (vocab.get(name, size) for name in tokenizer_lib.END_MARKERS)
    own: Any = self.tokenizer.eos_token_id
    ids = sorted({*self.listed, *(id for id in markers if id < size)})
    return [int(id) for id in (own, *ids) if id is not None]

  @functools.cached_property
  def after_reply(self) -> list[int]:
    r"""Ids that the template puts after a reply, as in [<|im_end|>, \n]."""
    if any(id in self.eos_ids for id in self._closing):
      return self._closing
    return [*self._known_ends, *self.eos_ids][:1]

  @functools.cached_property
  def end(self) -> list[int]:
    """The part of `after_reply` up to and including the first EOS id."""
    ends = [id in self.eos_ids for id in self.after_reply]
    return self.after_reply[: ends.index(True) + 1]

  @functools.cached_property
  def stop_ids(self) -> tuple[int, ...]:
    """Ids that do not end a reply, and have no place in one.

    Those of control tokens, and rows that pad the embedding: they have no text.
    """
    vocab = {*self.tokenizer.get_vocab().values()}
    padding = {*range(self.vocab_size or 0)} - vocab
    return tuple(sorted((self.control_ids | padding) - {*self.eos_ids}))

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
    text = self.decode(ids[: self._stop(ids)])
    return self._reply_of(text, self.thinking if thinking is None else thinking)

  def reply_span(self, ids: Any) -> tuple[int, int]:
    """First and last place (exclusive) of the reply's text in sampled ids."""
    stop = self._stop(ids)
    text = self.decode(ids[:stop])
    _, closed = markers_of(text) or self.template.thought or THOUGHT
    closed = closed.casefold()
    thoughts = text[: end_of_thought(text, closed)].casefold().count(closed)
    if not thoughts:
      whole = self._reply_of(text, self.thinking) == text
      return (0 if whole else stop), stop
    # The fewest tokens that have all of the thought.
    start = bisect.bisect_left(
      range(stop),
      thoughts,
      key=lambda n: self.decode(ids[:n]).casefold().count(closed),
    )
    while start < stop and not self.decode(ids[start : start + 1]):
      start += 1  # blank lines before the reply
    return start, stop

  def _reply_of(self, text: str, thinking: bool) -> str:
    return reply_of(text, thinking, self.template.thought)

  @property
  def thinking(self) -> bool:
    """True if prompts open a thought that the model has to end."""
    return self.template.thinking

  # --- The template -----------------------------------------------------------

  @property
  def reads_system(self) -> str:
    """The role in which a system message reaches the model.

    'user': it is put before the next user message, joined by a blank line.
    """
    return self.template.reads_system

  @property
  def default_system(self) -> str | None:
    """The system message that the template inserts by itself, if any."""
    return self.template.default_system

  @functools.cached_property
  def template(self) -> Template:
    """The chat template."""
    ends = [id for id in self._known_ends if id in self.control_ids]
    eos = self.tokenizer.convert_ids_to_tokens(ends[:1])
    return Template(self.tokenizer, self.source, ''.join(eos))

  def check(self) -> None:
    """Encodes and decodes a short chat, and checks the ids.

    Raises:
      ValueError: the template or the tokenizer fails, nothing ends a reply, or
        a token has no embedding.
    """
    try:
      ids = [*self.encode_prompt('Hi'), *self.encode_reply('Hi')]
      self.decode_reply(ids)
      _ = self.default_system
    except Exception as error:
      if str(error).startswith(self.source):
        raise
      # Damaged files that load may fail only here.
      raise self._error(f'its tokenizer fails: {error}') from error
    # Control tokens that no template uses may lack an embedding: Gemma 3's of
    # images in models of text, and those that a tokenizer's class adds.
    vocab = self.tokenizer.get_vocab()
    ids = {*ids, *self.eos_ids, *self.after_reply}
    highest = max(ids | ({*vocab.values()} - self.control_ids))
    if self.vocab_size is not None and highest >= self.vocab_size:
      token = self.tokenizer.convert_ids_to_tokens(highest)
      raise self._error(
        f'token {token!r} has id {highest}, but vocab_size={self.vocab_size}; '
        'expected ids below that'
      )

  def check_context(
    self,
    prompts: Mapping[str, int],
    reply_tokens: int | Mapping[str, int],
    setting: str = 'max_new_tokens',
  ) -> None:
    """Checks that prompts with their replies fit the model's context.

    Args:
      prompts: tokens of each prompt, by its name.
      reply_tokens: most tokens of a reply, or of those to each prompt.
      setting: the setting that limits them.

    Raises:
      ValueError: some do not fit; names them.
    """
    context = self.context
    if context is None:
      return
    if isinstance(reply_tokens, int):
      reply_tokens = dict.fromkeys(prompts, reply_tokens)
    excess = {
      name: tokens + reply_tokens[name] - context
      for name, tokens in prompts.items()
    }
    long = [name for name, tokens in excess.items() if tokens > 0]
    if not long:
      return
    worst = max(long, key=lambda name: excess[name])
    most, reply = prompts[worst], reply_tokens[worst]
    remedy = f'{setting} of at most {context - most}, or shorter prompts'
    if most >= context:
      remedy = f'prompts of fewer than {context} tokens'
    raise self._error(
      f'{len(long)} of {len(prompts)} prompts do not fit its context of '
      f'{context} tokens together with {setting}={reply}: the longest '
      f'has {most}; expected {remedy}; too long: {", ".join(long[:5])}'
      + (', …' if len(long) > 5 else '')
    )

  @functools.cached_property
  def _begin(self) -> list[int]:
    """BOS of a base model; a template writes its own."""
    if self.template.compiled is not None:
      return []
    ids = list(self.tokenizer.encode(''))
    # Some tokenizers add EOS after a text as well.
    first = int(ids[:1] == [self.tokenizer.bos_token_id])
    ends = ids[first:][-1:] == [self.tokenizer.eos_token_id]
    return ids[:-1] if ends else ids

  @functools.cached_property
  def _closing(self) -> list[int]:
    return encode_inside(self.tokenizer, self.template.after_reply)

  def _embedded(self, ids: list[int]) -> list[int]:
    """Returns the ids of a prompt, each of which has an embedding."""
    if self.vocab_size is not None and max(ids, default=0) >= self.vocab_size:
      token = self.tokenizer.convert_ids_to_tokens(max(ids))
      raise self._error(f'it has no embedding for {token!r}, in a prompt')
    return ids

  def _stop(self, ids: Any) -> int:
    stops = np.isin(ids, [*self.eos_ids, *self.stop_ids])
    return int(stops.argmax()) if stops.any() else len(ids)

  def decode(self, ids: Any) -> str:
    """Decodes ids to text, without control tokens and outer white space."""
    return self.decode_whole(ids).strip()

  def decode_whole(self, ids: Any) -> str:
    """Decodes ids to text, without control tokens."""
    hidden = self.control_ids
    text = self.tokenizer.decode(
      [id for id in np.asarray(ids).tolist() if id not in hidden],
      # In some files the markers of thoughts are special.
      skip_special_tokens=False,
      clean_up_tokenization_spaces=False,
    )
    return str(text)

  def _error(self, reason: str) -> ValueError:
    return self.template.error(reason)


def _end_ids(folder: Path) -> tuple[int, ...]:
  """EOS ids in the configurations of a folder.

  Raises:
    ValueError: one is not an id; names the file.
  """
  found = set()
  for name in ('generation_config.json', 'config.json'):
    file = folder / name
    config = read_json(file) if file.is_file() else {}
    # A model of images and text has the configuration of its text inside.
    for part in (config, config.get('text_config')):
      if isinstance(part, dict):
        found |= _ids(part.get('eos_token_id'), file)
  return tuple(sorted(found))


def _ids(value: Any, file: Path) -> set[int]:
  values = value if isinstance(value, list) else [value]
  ids = [each for each in values if each is not None]
  if any(type(id) is not int or id < 0 for id in ids):
    raise ValueError(
      f'{file}: eos_token_id={value!r:.80}; expected an id or a list of ids'
    )
  return {*ids}
