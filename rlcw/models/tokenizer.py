"""The tokenizer of a checkpoint: text to token ids.

Tokenizers of Hugging Face folders are loaded by Transformers; those of GGUF
files are rebuilt from the fields in the header.  What stands around a message
or a reply is the chat format's (`chat`).
"""

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlcw.models import gguf_tokenizer, hub
from rlcw.runtime.files import read_json

# Tokens that end a reply or a turn in any supported family.
END_MARKERS = {
  '<|im_end|>',
  '<|endoftext|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end_of_text|>',
  '<end_of_turn>',
  '<eos>',
  '<｜end▁of▁sentence｜>',
}

# What begins and ends a model's thoughts before its reply.
THOUGHT = '<think>', '</think>'
# What else does, at the start of a text: Mistral's, and those that are asked
# for in prompts.
OTHER_THOUGHTS = (
  ('[THINK]', '[/THINK]'),
  ('<|channel>', '<channel|>'),  # Gemma 4
  ('<|channel|>analysis', '<|channel|>final<|message|>'),  # gpt-oss
  ('<|START_THINKING|>', '<|END_THINKING|>'),  # Command A
  ('<|begin_of_thought|>', '<|end_of_thought|>'),
  ('◁think▷', '◁/think▷'),
  ('<analysis>', '</analysis>'),
  ('<thinking>', '</thinking>'),
  ('<thought>', '</thought>'),
  ('<reasoning>', '</reasoning>'),
  ('<seed:think>', '</seed:think>'),
  ('<mm:think>', '</mm:think>'),
  ('<|thinking|>', '<|/thinking|>'),
  ('<thoughts>', '</thoughts>'),
  ('<scratchpad>', '</scratchpad>'),
  ('<unused94>thought', '<unused95>'),  # MedGemma
)
# What some of them write around the reply after a thought.
REPLY_MARKERS = (
  ('<|begin_of_solution|>', '<|end_of_solution|>'),
  ('<|START_RESPONSE|>', '<|END_RESPONSE|>'),
  ('<answer>', '</answer>'),
  ('', '<|return|>'),  # gpt-oss
)
_THOUGHTS = {*THOUGHT, *itertools.chain(*OTHER_THOUGHTS)}

# Spelling of control tokens.  Some files do not mark them as special: there
# DeepSeek's <｜User｜>, or Gemma 4's <|channel> and <channel|>, are ordinary
# added tokens.
_CONTROL_LIKE = re.compile(r'<(\|.*|.*\||｜.*｜|start_of_turn)>')
# A lone surrogate, which cannot occur after `valid_unicode`.
_SEPARATOR = '\ud800'
# A code point that is no character, and never will be; templates keep it.
DIVIDER = '\ufdd0'


def load(path: str | Path) -> PreTrainedTokenizerFast:
  """Loads the tokenizer of a GGUF file or a Hugging Face folder.

  Args:
    path: a GGUF file, a folder, or the id of a repository on the Hub.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: the file or folder has no supported tokenizer.
  """
  path = hub.fetch(path)
  if path.is_file():
    return gguf_tokenizer.load(path)[0]
  try:
    tokenizer = AutoTokenizer.from_pretrained(
      path, local_files_only=True, trust_remote_code=False
    )
    if not tokenizer.is_fast:
      raise ValueError('it has no fast form')
    # Processors of multimodal models keep the template here, where only they
    # look for it.
    template = path / 'chat_template.json'
    if not tokenizer.chat_template and template.is_file():
      text = read_json(template).get('chat_template')
      if not isinstance(text, str):
        raise ValueError(f'{template.name} has no text "chat_template"')
      tokenizer.chat_template = text
    return tokenizer
  # The library raises errors of many kinds for damaged files.
  except Exception as error:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise ValueError(
      f'{path}: no tokenizer could be loaded; expected tokenizer.json, with '
      f'tokenizer_config.json if needed: {reason}'
    ) from error


def valid_unicode(text: str) -> str:
  """Replaces each unpaired surrogate by �, because tokenizers reject them."""
  # Replies parsed from JSON can contain them.  The round trip also joins pairs.
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
  """Token ids of a text, without special tokens around it."""
  return encode_places(tokenizer, text)[0]


def encode_places(
  tokenizer: PreTrainedTokenizerFast, text: str, inside: bool = False
) -> tuple[list[int], list[tuple[int, int]]]:
  """Token ids of a text as of `encode`, and the place of each in it.

  Control tokens that `broken_up` has divided stay plain text.

  Args:
    tokenizer: of the ids.
    text: with or without divided tokens.
    inside: whether it stands inside another text (`encode_inside`).
  """
  ids, places, start = [], [], 0
  for n, part in enumerate(text.split(DIVIDER)):
    encoding, guard, first_id = _guarded(
      tokenizer,
      valid_unicode(part),
      _guards(tokenizer) if n or inside else (),
      return_offsets_mapping=True,
    )
    shift = start - len(guard)
    ids += encoding['input_ids'][first_id:]
    places += [
      (first + shift, last + shift)
      for first, last in encoding['offset_mapping'][first_id:]
    ]
    start += len(part) + 1
  return ids, places


def broken_up(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
  """Divides the control tokens that a text spells out, for `encode_places`."""
  text = valid_unicode(text).replace(DIVIDER, '\ufffd')
  for token in _spelled(tokenizer):
    if token in text:
      text = text.replace(token, token[0] + DIVIDER + token[1:])
  return text


@functools.lru_cache(maxsize=8)
def _spelled(tokenizer: PreTrainedTokenizerFast) -> list[str]:
  """Control tokens as they are spelled, longest first."""
  known = tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer)))
  # One of a single character has nothing to divide.
  return sorted((each for each in known if len(each) > 1), key=len)[::-1]


def encode_inside(
  tokenizer: PreTrainedTokenizerFast, text: str, **settings: Any
) -> list[int]:
  """Token ids of a text that stands inside another, after a line break.

  Llama 2's tokenizer begins every text with a space; here it has none.
  """
  encoding, _, first = _guarded(tokenizer, text, _guards(tokenizer), **settings)
  return list(encoding['input_ids'])[first:]


@functools.lru_cache(maxsize=8)
def _guards(
  tokenizer: PreTrainedTokenizerFast,
) -> tuple[tuple[str, list[int]], ...]:
  """Texts to put before another, and their ids.

  None if the tokenizer does not begin every text with a space.
  """
  texts = '\n', '.', ',', '1', 'x'
  ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
  tokens = tokenizer.convert_ids_to_tokens(ids[-1][:1])
  if not str(*tokens).startswith('▁'):
    return ()
  return (*zip(texts, ids, strict=True),)


def _guarded(
  tokenizer: PreTrainedTokenizerFast,
  text: str,
  guards: Sequence[tuple[str, list[int]]],
  **settings: Any,
) -> tuple[Any, str, int]:
  """Encodes a text after the first guard that does not merge with it.

  Returns:
    The encoding, the guard, and the number of its ids.
  """
  settings['add_special_tokens'] = False
  for guard, ids in guards:
    encoding: Any = tokenizer(guard + text, **settings)
    if list(encoding['input_ids'][: len(ids)]) == ids:
      return encoding, guard, len(ids)
  return tokenizer(text, **settings), '', 0


def encode_untrusted(
  tokenizer: PreTrainedTokenizerFast, text: str
) -> list[int]:
  """Token ids of a text in which spelled-out control tokens stay plain text.

  It stands inside another text (`encode_inside`).
  """
  text = valid_unicode(text)
  # `split_special_tokens` covers only tokens marked as special.  The others are
  # broken up by a separator after their first character.
  for marker in _unmarked(tokenizer):
    text = text.replace(marker, marker[0] + _SEPARATOR + marker[1:])
  return [
    id
    for part in text.split(_SEPARATOR)
    for id in encode_inside(tokenizer, part, split_special_tokens=True)
  ]


@functools.lru_cache(maxsize=8)
def control_ids(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
  """Ids of the tokens that no text should contain: those of roles and ends."""
  unmarked = _unmarked(tokenizer)
  marked = {
    id
    for id, token in tokenizer.added_tokens_decoder.items()
    if token.content not in _THOUGHTS
    and (token.special or token.content in unmarked)
  }
  thoughts = {tokenizer.get_vocab().get(token) for token in _THOUGHTS}
  return frozenset(marked | ({*tokenizer.all_special_ids} - thoughts))


@functools.lru_cache(maxsize=8)
def _unmarked(tokenizer: PreTrainedTokenizerFast) -> list[str]:
  """Control tokens that the tokenizer's file does not mark as special."""
  return [
    token.content
    for token in tokenizer.added_tokens_decoder.values()
    if not token.special
    and (token.content in END_MARKERS or _CONTROL_LIKE.fullmatch(token.content))
  ]
