"""The tokenizer and chat template that came with a checkpoint."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlcw.models import formats, hub

_GPT2 = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
  r'|\s+(?!\S)|\s+'
)
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN2 = _LLAMA3.replace('{1,3}', '')

# GGUF names how text is cut before BPE merges; these are the cuts we know.
# Each expression cuts the pieces that the one before it left.
_CUTS = {
  'gpt-2': (_GPT2,),
  'smollm': (r'\p{N}', _GPT2),
  'llama-bpe': (_LLAMA3,),
  'qwen2': (_QWEN2,),
  'deepseek-r1-qwen': (_QWEN2,),
}

# GGUF's types of tokens that we tell apart.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

_ENDS = {
  '<|im_end|>',
  '<|endoftext|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|end_of_text|>',
  '<end_of_turn>',
  '<eos>',
  '<｜end▁of▁sentence｜>',
}

# How control tokens are spelled, even in files that do not call them special:
# there DeepSeek's <｜User｜> is an ordinary token of its own.
_CONTROL_LIKE = re.compile(r'<(\|.*\||｜.*｜|start_of_turn)>')
_CUT = '\ud800'  # stands in no text that `whole` has seen


def load(path: str | Path) -> PreTrainedTokenizerFast:
  """The tokenizer of a GGUF file or a Hugging Face folder, no torch needed.

  Args:
    path: a GGUF file, a folder, or the id of a repository on the Hub.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: the file or folder has no tokenizer that we can read.
  """
  path = hub.fetch(path)
  if path.is_file():
    return _from_gguf(path)
  try:
    return AutoTokenizer.from_pretrained(path, local_files_only=True)
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{path}: no tokenizer can be read there; legal: tokenizer.json, with '
      f'tokenizer_config.json where it has one: {str(error).splitlines()[0]}'
    ) from error


def eos_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
  """Every id that ends a reply: the tokenizer's own and the chat markers."""
  known = tokenizer.get_vocab()
  ids = {known[name] for name in _ENDS if name in known}
  own: Any = tokenizer.eos_token_id
  return tuple(sorted(ids if own is None else ids | {int(own)}))


def whole(text: str) -> str:
  """The text, where half a surrogate pair, which no tokenizer reads, is �."""
  return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')


# what a chat template is told; Qwen3's would have thoughts scored as the reply
_FOR_A_REPLY: dict[str, Any] = {
  'add_generation_prompt': True,
  'enable_thinking': False,
}


def chat(tokenizer: PreTrainedTokenizerFast, message: str) -> list[int]:
  """The ids of a conversation with one user message, ready for a reply.

  A base model has no chat template: then these are the ids of the message
  alone, for the model to go on from, after the token that begins a text
  where the tokenizer puts one (Gemma and Llama do, Qwen does not).
  """
  message = whole(message)
  if tokenizer.chat_template is None:
    return list(tokenizer.encode(message))
  ids = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': message}],
    **_FOR_A_REPLY,
    tokenize=True,
    return_dict=False,
  )
  return list(ids)  # type: ignore[arg-type]


def turns(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
  """The ids before and after a user's message in `chat`.

  They let a message be tokenised in pieces, none of which can end it.
  """
  template = tokenizer.chat_template
  if template is None:
    return list(tokenizer.encode('')), []
  message = 'MESSAGE'
  text = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': message}],
    **_FOR_A_REPLY,
    tokenize=False,
  )
  opening, closing = str(text).split(message)
  return encode(tokenizer, opening), encode(tokenizer, closing)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
  """The ids of a plain text, without special tokens around it."""
  return list(tokenizer.encode(whole(text), add_special_tokens=False))


def encode_untrusted(
  tokenizer: PreTrainedTokenizerFast, text: str
) -> list[int]:
  """The same where a text that spells a control token stays text."""
  text = whole(text)
  for marker in _unmarked(tokenizer):
    text = text.replace(marker, marker[0] + _CUT + marker[1:])
  return [
    id
    for part in text.split(_CUT)
    for id in tokenizer.encode(
      part, add_special_tokens=False, split_special_tokens=True
    )
  ]


@functools.lru_cache(maxsize=8)
def _unmarked(tokenizer: PreTrainedTokenizerFast) -> list[str]:
  """Control tokens that the tokenizer's file does not call special."""
  return [
    token.content
    for token in tokenizer.added_tokens_decoder.values()
    if not token.special
    and (token.content in _ENDS or _CONTROL_LIKE.fullmatch(token.content))
  ]


def decode(tokenizer: PreTrainedTokenizerFast, ids: Any) -> str:
  """The text of a reply, without special tokens or white space around it."""
  text = tokenizer.decode(
    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
  )
  return str(text).strip()


class _Header:
  """The tokenizer's fields in a GGUF file; errors name the file and field."""

  def __init__(self, file: Path):
    self._file = file
    self._reader = formats.gguf_reader(file)

  def error(self, key: str, reason: str) -> ValueError:
    return ValueError(f'{self._file}: tokenizer.{key} {reason}')

  def one(self, key: str, kind: type, default: Any = None) -> Any:
    """A field's single value, or the default where there is no such field."""
    value = self._value(key)
    if value is None:
      return default
    if type(value) is not kind:
      raise self.error(key, f'is {value!r:.50} where {kind.__name__} belongs')
    return value

  def many(self, key: str, kind: type, count: int | None = None) -> list[Any]:
    """The values of an array that must be there, with `count` of them."""
    values = self._value(key)
    if not isinstance(values, list) or not values:
      raise self.error(key, f'is {values!r:.50} where an array belongs')
    wrong = next((v for v in values if type(v) is not kind), None)
    if wrong is not None:
      raise self.error(key, f'has {wrong!r:.50} where {kind.__name__} belongs')
    if count is not None and len(values) != count:
      raise self.error(key, f'has {len(values)} values for {count} tokens')
    return values

  def _value(self, key: str) -> Any:
    field = self._reader.get_field(f'tokenizer.{key}')
    try:
      return None if field is None else field.contents()
    except (ValueError, IndexError) as error:
      raise self.error(key, f'cannot be read: {error}') from None


def _from_gguf(file: Path) -> PreTrainedTokenizerFast:
  from tokenizers import AddedToken

  header = _Header(file)
  kind, cut = header.one('ggml.model', str), header.one('ggml.pre', str)
  if kind != 'llama' and (kind != 'gpt2' or cut not in _CUTS):
    raise ValueError(
      f'{file}: tokenizer {kind!r}/{cut!r} is not supported in GGUF; legal: '
      f"'gpt2' with one of {sorted(_CUTS)}, and 'llama', which is SentencePiece"
    )
  tokens = header.many('ggml.tokens', str)
  types = header.many('ggml.token_type', int, len(tokens))

  def token(role: str) -> str | None:
    key = f'ggml.{role}_token_id'
    index = header.one(key, int)
    if index is not None and not 0 <= index < len(tokens):
      raise header.error(key, f'is {index}; there are {len(tokens)} tokens')
    return None if index is None else tokens[index]

  bos, unknown = token('bos'), token('unknown')
  if kind == 'llama':
    tokenizer = _sentencepiece(header, tokens, types, unknown)
  else:
    tokenizer = _byte_level(header, tokens, cut)
  tokenizer.add_tokens(
    [
      AddedToken(token, special=type_ == _CONTROL, normalized=False)
      for token, type_ in zip(tokens, types, strict=True)
      if type_ in (_CONTROL, _USER_DEFINED)  # no text makes them by merging
    ]
  )
  # Files that do not say are older than the field; llama.cpp reads them so.
  begins = header.one(
    'ggml.add_bos_token', bool, kind == 'llama' or cut == 'llama-bpe'
  )
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    chat_template=header.one('chat_template', str),
    add_bos_token=begins,
    bos_token=bos,
    eos_token=token('eos'),
    unk_token=unknown,
    pad_token=token('padding'),
  )


def _byte_level(header: _Header, tokens: Sequence[str], cut: str) -> Any:
  """BPE over bytes, each written as one printable character."""
  from tokenizers import Regex, Tokenizer, decoders, models, normalizers
  from tokenizers import pre_tokenizers as pre

  vocab = {token: i for i, token in enumerate(tokens)}
  merges = []
  for merge in header.many('ggml.merges', str):
    left, space, right = merge.partition(' ')
    if not space or not {left, right, left + right} <= vocab.keys():
      raise header.error('ggml.merges', f'has {merge!r}, not two known tokens')
    merges.append((left, right))
  # Llama 3 has words that its merges do not lead to.
  whole = cut == 'llama-bpe'
  tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole))
  if _QWEN2 in _CUTS[cut]:
    tokenizer.normalizer = normalizers.NFC()
  splits = [pre.Split(Regex(regex), 'isolated') for regex in _CUTS[cut]]
  to_bytes = pre.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre.Sequence([*splits, to_bytes])
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _sentencepiece(
  header: _Header,
  tokens: Sequence[str],
  types: Sequence[int],
  unknown: str | None,
) -> Any:
  """BPE over characters, unknown ones as bytes, with ▁ for a space."""
  from tokenizers import Tokenizer, decoders, models
  from tokenizers import pre_tokenizers as pre

  scores = header.many('ggml.scores', float, len(tokens))
  normal = {
    token: score
    for token, score, type_ in zip(tokens, scores, types, strict=True)
    if type_ == _NORMAL
  }
  # SentencePiece merges any two tokens that make a third, whose score ranks
  # the merge; of one token's cuts, Transformers ranks the last one first.
  ranked = sorted(
    (
      (score, at, token)
      for token, score in normal.items()
      for at in range(1, len(token))
      if token[:at] in normal and token[at:] in normal
    ),
    key=lambda merge: merge[:2],
    reverse=True,
  )
  tokenizer = Tokenizer(
    models.BPE(
      {token: i for i, token in enumerate(tokens)},
      [(token[:at], token[at:]) for _, at, token in ranked],
      unk_token=unknown,
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  prefix = header.one('ggml.add_space_prefix', bool, True)
  tokenizer.pre_tokenizer = pre.Metaspace(
    prepend_scheme='first' if prefix else 'never', split=False
  )
  to_text = [decoders.Replace('▁', ' '), decoders.ByteFallback()]
  strip = [decoders.Strip(' ', 1, 0)] if prefix else []
  tokenizer.decoder = decoders.Sequence([*to_text, decoders.Fuse(), *strip])
  return tokenizer
