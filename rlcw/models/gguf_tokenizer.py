"""The tokenizer of a GGUF file, rebuilt from the fields in its header."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from rlcw.models import formats

# Regular expressions of published tokenizers, copied verbatim: a token boundary
# anywhere else would give other ids than in pretraining.
_GPT2 = (
  r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
  r'|\s+(?!\S)|\s+'
)
_LLAMA3 = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)
_QWEN2 = _LLAMA3.replace('{1,3}', '')
# Words begin with upper case or the like, and go on in lower case.
_UPPER, _LOWER = (
  r'[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]',
  r'[\p{Ll}\p{Lm}\p{Lo}\p{M}]',
)
_TEKKEN = (
  rf'[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+'
  rf'|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*'
  r'|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)

# GGUF gives only the name of the pre-tokenizer, which splits text before BPE
# merges.  Each expression splits the pieces that the one before it produced.
_PRE_TOKENIZERS = {
  'gpt-2': (_GPT2,),
  'smollm': (r'\p{N}', _GPT2),
  'refact': (r'\p{N}', _GPT2),
  'llama-bpe': (_LLAMA3,),
  'smaug-bpe': (_LLAMA3,),
  'dbrx': (_LLAMA3,),
  'qwen2': (_QWEN2,),
  'deepseek-r1-qwen': (_QWEN2,),
  'tekken': (_TEKKEN,),
}
# Those with tokens that no sequence of their merges produces, and a token that
# begins a text unless their files say otherwise.
_WHOLE_WORDS = 'llama-bpe', 'tekken'

# The token types of GGUF that are treated differently here.
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


class _Header:
  """Reads the tokenizer's fields of a GGUF file, which is untrusted.

  All errors are ValueErrors that name the file and the field.
  """

  def __init__(self, file: Path):
    self._file = file
    self._reader = formats.gguf_reader(file)

  @property
  def architecture(self) -> Any:
    """Name of the model's architecture."""
    field = self._reader.get_field('general.architecture')
    return None if field is None else field.contents()

  def error(self, key: str, reason: str) -> ValueError:
    return ValueError(f'{self._file}: tokenizer.{key} {reason}')

  def scalar(self, key: str, kind: type, default: Any = None) -> Any:
    """Returns a field's single value, or the default if it is missing."""
    value = self._value(key)
    if value is None:
      return default
    if type(value) is not kind:
      raise self.error(key, f'is {value!r:.50}; expected {kind.__name__}')
    return value

  def array(self, key: str, kind: type, count: int | None = None) -> list[Any]:
    """Returns the values of a required array, `count` of them if given."""
    values = self._value(key)
    if not isinstance(values, list) or not values:
      raise self.error(key, f'is {values!r:.50}; expected an array')
    wrong = next((v for v in values if type(v) is not kind), None)
    if wrong is not None:
      raise self.error(key, f'has {wrong!r:.50}; expected {kind.__name__}')
    if count is not None and len(values) != count:
      raise self.error(key, f'has {len(values)} values; expected {count}')
    return values

  def _value(self, key: str) -> Any:
    field = self._reader.get_field(f'tokenizer.{key}')
    try:
      return None if field is None else field.contents()
    except (ValueError, IndexError) as error:
      raise self.error(key, f'cannot be read: {error}') from None


# Phi-3's control tokens that leave white space after them.
_PHI3_KEEPS = '<unk>', '<s>', '<|endoftext|>'

# Roles of the tokens that end a text, a turn and a message.
_ENDS = ('eos', 'eot', 'eom')


def load(file: Path) -> tuple[PreTrainedTokenizerFast, tuple[int, ...]]:
  """Rebuilds the tokenizer of a GGUF file.

  Returns:
    The tokenizer, and the ids that the header says to end a text, a turn or a
    message.

  Raises:
    ValueError: a field is missing, damaged or not supported; names it.
  """
  from tokenizers import AddedToken

  header = _Header(file)
  kind, pre = header.scalar('ggml.model', str), header.scalar('ggml.pre', str)
  byte_level = kind == 'gpt2' and pre in _PRE_TOKENIZERS
  if kind not in ('llama', 'gemma4') and not byte_level:
    raise ValueError(
      f'{file}: tokenizer {kind!r}/{pre!r} is not supported in GGUF; expected '
      f"'gpt2' with one of {sorted(_PRE_TOKENIZERS)}, or 'llama' or 'gemma4', "
      'which are SentencePiece'
    )
  tokens = header.array('ggml.tokens', str)
  types = header.array('ggml.token_type', int, len(tokens))

  def id_of(role: str) -> int | None:
    key = f'ggml.{role}_token_id'
    index = header.scalar(key, int)
    if index is not None and not 0 <= index < len(tokens):
      raise header.error(key, f'is {index}; expected 0 to {len(tokens) - 1}')
    return index

  def token(role: str) -> str | None:
    index = id_of(role)
    return None if index is None else tokens[index]

  bos, unknown = token('bos'), token('unknown')
  if byte_level:
    # The last ones, such as [PAD151665], only fill up the embedding.
    used = [n for n, type_ in enumerate(types, 1) if type_ != _UNUSED]
    tokenizer = _byte_level(header, tokens[: max(used, default=0)], pre)
  elif kind == 'llama':
    tokenizer = _sentencepiece(header, tokens, types, unknown)
  else:
    tokenizer = _gemma4(header, tokens, unknown)
  # Phi-4 is of this architecture too, but not its tokenizer.
  is_phi3 = kind == 'llama' and header.architecture == 'phi3'
  # No text yields these tokens by merging, so they are matched beforehand.
  tokenizer.add_tokens(
    [
      AddedToken(
        token,
        special=type_ == _CONTROL,
        normalized=False,
        # Phi-3 and 3.5: no file says so, and llama.cpp knows it by the name.
        rstrip=is_phi3 and type_ == _CONTROL and token not in _PHI3_KEEPS,
      )
      for token, type_ in zip(tokens, types, strict=True)
      if type_ in (_CONTROL, _USER_DEFINED)
    ]
  )
  # Files without the field are older than it; the default is llama.cpp's.
  add_bos = header.scalar(
    'ggml.add_bos_token', bool, kind != 'gpt2' or pre in _WHOLE_WORDS
  )
  ends = map(id_of, _ENDS)
  loaded = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    chat_template=header.scalar('chat_template', str),
    add_bos_token=add_bos,
    bos_token=bos,
    eos_token=token('eos'),
    unk_token=unknown,
    pad_token=token('padding'),
  )
  return loaded, tuple(sorted({id for id in ends if id is not None}))


def _byte_level(header: _Header, tokens: Sequence[str], pre: str) -> Any:
  """Builds a BPE tokenizer over bytes, with a printable character for each."""
  from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
  )

  vocab = {token: i for i, token in enumerate(tokens)}
  merges = _merges(header, vocab)
  whole = pre in _WHOLE_WORDS
  tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=whole))
  if _QWEN2 in _PRE_TOKENIZERS[pre]:
    tokenizer.normalizer = normalizers.NFC()
  splits = [
    pre_tokenizers.Split(Regex(regex), 'isolated')
    for regex in _PRE_TOKENIZERS[pre]
  ]
  # Its own regular expression is GPT-2's; the splits replace it.
  to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _merges(header: _Header, vocab: Mapping[str, int]) -> list[tuple[str, str]]:
  merges = []
  for merge in header.array('ggml.merges', str):
    # Checked here, as the library's own error does not name the field.
    left, space, right = merge.partition(' ')
    if not space or not {left, right, left + right} <= vocab.keys():
      raise header.error(
        'ggml.merges', f'has {merge!r}; expected two known tokens'
      )
    merges.append((left, right))
  return merges


def _gemma4(header: _Header, tokens: Sequence[str], unknown: str | None) -> Any:
  """Builds Gemma 4's BPE tokenizer over characters, of the file's merges."""
  from tokenizers import Tokenizer, decoders, models, normalizers

  vocab = {token: i for i, token in enumerate(tokens)}
  tokenizer = Tokenizer(
    models.BPE(
      vocab,
      _merges(header, vocab),
      unk_token=unknown,
      fuse_unk=True,
      byte_fallback=True,
    )
  )
  tokenizer.normalizer = normalizers.Replace(' ', '▁')
  tokenizer.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()]
  )
  return tokenizer


def _sentencepiece(
  header: _Header,
  tokens: Sequence[str],
  types: Sequence[int],
  unknown: str | None,
) -> Any:
  """Builds a BPE tokenizer over characters, with ▁ for spaces.

  Unknown characters are encoded as bytes.
  """
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers

  scores = header.array('ggml.scores', float, len(tokens))
  normal = {
    token: score
    for token, score, type_ in zip(tokens, scores, types, strict=True)
    if type_ == _NORMAL
  }
  # GGUF has no merges for SentencePiece, which merges any two tokens whose
  # concatenation is a token, in the order of that token's score.  Among several
  # splits of one token, Transformers ranks the last one first.
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
  add_prefix = header.scalar('ggml.add_space_prefix', bool, True)
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
    prepend_scheme='first' if add_prefix else 'never', split=False
  )
  # Decoding drops the space that encoding has put before the text.
  to_text = [decoders.Replace('▁', ' '), decoders.ByteFallback()]
  strip = [decoders.Strip(' ', 1, 0)] if add_prefix else []
  tokenizer.decoder = decoders.Sequence([*to_text, decoders.Fuse(), *strip])
  return tokenizer
