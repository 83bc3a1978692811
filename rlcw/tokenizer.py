"""The tokenizer and chat template that came with a checkpoint."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

# GGUF names the regular expression that cuts text before BPE merges; these
# are the ones we know how to rebuild: name -> digits are cut one by one.
_PRE_TOKENIZERS = {'smollm': True, 'gpt-2': False}


def load(path: str | Path) -> PreTrainedTokenizerFast:
  """The tokenizer of a GGUF file or a Hugging Face folder, no torch needed."""
  path = Path(path)
  if path.is_file():
    return _from_gguf(path)
  return AutoTokenizer.from_pretrained(path, local_files_only=True)


def eos_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
  """Every id that ends a reply: the tokenizer's own and the chat markers."""
  names = {'<|im_end|>', '<|eot_id|>', '<end_of_turn>', '<|endoftext|>'}
  known = tokenizer.get_vocab()
  ids = {known[name] for name in names if name in known}
  return tuple(sorted(ids | {int(tokenizer.eos_token_id)}))  # type: ignore[arg-type]


def chat(tokenizer: PreTrainedTokenizerFast, message: str) -> list[int]:
  """The ids of a conversation with one user message, ready for a reply."""
  ids = tokenizer.apply_chat_template(
    [{'role': 'user', 'content': message}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=False,
  )
  return list(ids)  # type: ignore[arg-type]


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
  """The ids of a plain text, without special tokens around it."""
  return list(tokenizer.encode(text, add_special_tokens=False))


def decode(tokenizer: PreTrainedTokenizerFast, ids: Any) -> str:
  """The text of a reply, without special tokens or white space around it."""
  text = tokenizer.decode(
    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
  )
  return str(text).strip()


def _from_gguf(file: Path) -> PreTrainedTokenizerFast:
  import gguf
  from tokenizers import AddedToken, Tokenizer, decoders, models
  from tokenizers import pre_tokenizers as pre

  reader = gguf.GGUFReader(file)

  def field(key: str, default: Any = None) -> Any:
    found = reader.get_field(f'tokenizer.{key}')
    return default if found is None else found.contents()

  kind, cut = field('ggml.model'), field('ggml.pre')
  if kind != 'gpt2' or cut not in _PRE_TOKENIZERS:
    raise ValueError(
      f'{file}: tokenizer {kind!r}/{cut!r} is not supported in GGUF; legal: '
      f"'gpt2' with one of {sorted(_PRE_TOKENIZERS)}"
    )
  tokens, types = field('ggml.tokens'), field('ggml.token_type')
  merges = [tuple(merge.split(' ')) for merge in field('ggml.merges')]
  vocab = {token: i for i, token in enumerate(tokens)}
  tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
  byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=True)
  tokenizer.pre_tokenizer = (
    pre.Sequence([pre.Digits(individual_digits=True), byte_level])
    if _PRE_TOKENIZERS[cut]
    else byte_level
  )
  tokenizer.decoder = decoders.ByteLevel()
  control = 3  # GGUF's type for tokens that no text may produce by merging
  tokenizer.add_special_tokens(
    [
      AddedToken(token, special=True, normalized=False)
      for token, type_ in zip(tokens, types, strict=True)
      if type_ == control
    ]
  )

  def token(role: str) -> str | None:
    index = field(f'ggml.{role}_token_id')
    return None if index is None else tokens[index]

  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    chat_template=field('chat_template'),
    bos_token=token('bos'),
    eos_token=token('eos'),
    unk_token=token('unknown'),
    pad_token=token('padding'),
  )
