"""Tokenizers rebuilt from small GGUF headers, of each family, and damaged."""

import inspect
import json
import pathlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import gguf
import pytest
import tokenizers
import transformers
from tokenizers import models, trainers
from tokenizers import pre_tokenizers as pre
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.integrations.gguf import gguf_tokenizer_mapping

from rlcw.models import gguf_tokenizer, tokenizer
from rlcw.models.chat import ChatFormat
from tests.models.tokenizer_test import TEXTS

# A small vocabulary, learned without a cut, so that every cut shows.
BASE = "e\u0301 don’T WE’LL DON'T 12345678 a  \n b\t\n\nc ...\r\n\r\n½²٣"


@pytest.fixture(scope='module')
def learned() -> tuple[list[str], list[tuple[str, str]]]:
  """The tokens, and the merges of them, of a BPE over whole texts."""
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=False)
  trainer = trainers.BpeTrainer(
    vocab_size=800,
    initial_alphabet=pre.ByteLevel.alphabet(),
    show_progress=False,
  )
  bpe.train_from_iterator([*TEXTS, BASE] * 2, trainer)
  model = json.loads(bpe.to_str())['model']
  tokens = sorted(model['vocab'], key=model['vocab'].get)
  return tokens, [(left, right) for left, right in model['merges']]


def _write_gguf(path: pathlib.Path, **fields: Any) -> pathlib.Path:
  """A GGUF file of nothing but a tokenizer; a field of `None` is left out."""
  fields = {
    'model': 'gpt2',
    'pre': 'gpt-2',
    'tokens': ['a', 'b', 'ab', '<|im_end|>'],
    'token_type': [1, 1, 1, 3],
    'merges': ['a b'],
    'eos_token_id': 3,
  } | fields
  writer = gguf.GGUFWriter(path, fields.pop('architecture', 'llama'))
  add: dict[type, Callable[..., None]] = {
    str: writer.add_string,
    bool: writer.add_bool,
    int: writer.add_uint32,
    list: writer.add_array,
  }
  for name, value in fields.items():
    if value is not None:
      add[type(value)](f'tokenizer.ggml.{name}', value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.close()
  return path


def _cut(regex: str) -> Any:
  return pre.Sequence(
    [
      pre.Split(tokenizers.Regex(regex), 'isolated'),
      pre.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )


def _reference(
  name: str, tokens: Sequence[str], merges: list[tuple[str, str]]
) -> Any:
  """What the family's own class in Transformers makes of the vocabulary."""
  vocab = {token: i for i, token in enumerate(tokens)}
  if 'qwen' in name:
    return transformers.Qwen2Tokenizer(vocab=vocab, merges=merges)
  one = transformers.GPT2Tokenizer(vocab=vocab, merges=merges)
  if name in ('smollm', 'refact'):  # as in the tokenizer.json of SmolLM2
    digits = pre.Digits(individual_digits=True)
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    one.backend_tokenizer.pre_tokenizer = pre.Sequence([digits, byte_level])
  if name in ('llama-bpe', 'smaug-bpe', 'dbrx'):
    regex = inspect.signature(TikTokenConverter).parameters['pattern'].default
    one.backend_tokenizer.pre_tokenizer = _cut(regex)
  if name == 'tekken':
    regex = gguf_tokenizer_mapping.GGUF_PRE_TOKENIZER_SPLITS['tekken']
    one.backend_tokenizer.pre_tokenizer = _cut(regex)
  return one


def test_unused_tokens_that_fill_the_end_are_none(
  tmp_path: pathlib.Path,
) -> None:
  path = _write_gguf(
    tmp_path / 'x.gguf',
    tokens=['a', 'b', '[PAD2]', 'ab', '<|im_end|>', '[PAD5]', '[PAD6]'],
    token_type=[1, 1, 5, 1, 3, 5, 5],
    eos_token_id=4,
  )
  found = tokenizer.load(path)
  assert {*found.get_vocab().values()} == {0, 1, 2, 3, 4}
  assert {5, 6} <= {*ChatFormat(found, (), 'x', vocab_size=7).stop_ids}


@pytest.mark.parametrize('name', gguf_tokenizer._PRE_TOKENIZERS)
def test_each_family_cuts_as_its_class_in_transformers(
  name: str, learned: Any, tmp_path: pathlib.Path
) -> None:
  tokens, merges = learned
  path = _write_gguf(
    tmp_path / 'x.gguf',
    pre=name,
    tokens=[*tokens, '<|endoftext|>'],
    token_type=[1] * len(tokens) + [3],
    merges=[' '.join(pair) for pair in merges],
    eos_token_id=len(tokens),
  )
  ours = tokenizer.load(path)
  theirs = _reference(name, [*tokens, '<|endoftext|>'], merges)
  assert len(ours) == len(theirs) == len(tokens) + 1
  draw = random.Random(0)
  drawn = [''.join(draw.choices(BASE + " \n'é1aA", k=30)) for _ in range(500)]
  for text in [*TEXTS, BASE, *drawn]:
    ids = tokenizer.encode(ours, text)
    assert ids == theirs.encode(text, add_special_tokens=False), text
    assert ours.decode(ids) == theirs.decode(ids), text


def test_some_have_words_that_no_merge_makes(tmp_path: pathlib.Path) -> None:
  fields: dict[str, Any] = {
    'tokens': ['a', 'b', 'aa', 'ab', 'aab', '<|eot_id|>'],
    'token_type': [1, 1, 1, 1, 1, 3],
    'merges': ['a a', 'a b', 'a ab'],
    'eos_token_id': 5,
  }
  for name, ids in {
    'llama-bpe': [4],
    'tekken': [4],
    'qwen2': [2, 1],
  }.items():
    path = _write_gguf(tmp_path / f'{name}.gguf', pre=name, **fields)
    assert tokenizer.encode(tokenizer.load(path), 'aab') == ids


def test_markers_are_whole_and_only_control_is_stripped(
  tmp_path: pathlib.Path,
) -> None:
  markers = ['<｜end▁of▁sentence｜>', '<｜User｜>', '<think>']
  path = _write_gguf(
    tmp_path / 'x.gguf',
    pre='deepseek-r1-qwen',
    tokens=['a', 'b', 'ab', *markers],
    token_type=[1, 1, 1, 3, 3, 4],
  )
  one = tokenizer.load(path)
  ids = tokenizer.encode(one, '<｜User｜>ab<think>a<｜end▁of▁sentence｜>')
  assert ids == [4, 2, 5, 0, 3]
  assert len(one) == 6
  assert ChatFormat(one).decode_reply(ids[1:]) == 'ab<think>a'
  assert ChatFormat(one).eos_ids == (3,)


@pytest.mark.parametrize(
  'end',
  [
    '<|im_end|>',
    '<|endoftext|>',
    '<|eot_id|>',
    '<|end_of_text|>',
    '<end_of_turn>',
    '<eos>',
    '<｜end▁of▁sentence｜>',
  ],
)
def test_every_family_has_its_end(end: str, tmp_path: pathlib.Path) -> None:
  tokens = ['a', 'b', 'ab', '<x>', end]
  path = _write_gguf(
    tmp_path / 'x.gguf', tokens=tokens, token_type=[1, 1, 1, 3, 3]
  )
  assert ChatFormat(tokenizer.load(path)).eos_ids == (3, 4)
  path = _write_gguf(
    tmp_path / 'y.gguf',
    tokens=tokens,
    token_type=[1, 1, 1, 3, 3],
    eos_token_id=None,
  )
  assert ChatFormat(tokenizer.load(path)).eos_ids == (4,)


@pytest.mark.parametrize(
  ('name', 'said', 'begins'),
  [
    ('llama-bpe', None, True),  # as llama.cpp reads older files
    ('llama-bpe', False, False),
    ('tekken', None, True),
    ('qwen2', None, False),
    ('qwen2', True, True),
  ],
)
def test_a_base_model_begins_as_its_file_says(
  name: str, said: bool | None, begins: bool, tmp_path: pathlib.Path
) -> None:
  path = _write_gguf(
    tmp_path / 'x.gguf', pre=name, bos_token_id=3, add_bos_token=said
  )
  one = tokenizer.load(path)
  assert ChatFormat(one).encode_prompt('ab') == ([3, 2] if begins else [2])
  assert tokenizer.encode(one, 'ab') == [2]


def test_no_token_begins_a_text_where_none_has_the_role(
  tmp_path: pathlib.Path,
) -> None:
  path = _write_gguf(tmp_path / 'x.gguf', pre='llama-bpe', add_bos_token=True)
  assert ChatFormat(tokenizer.load(path)).encode_prompt('ab') == [2]


SENTENCEPIECE: dict[str, Any] = {
  'model': 'llama',
  'pre': 'default',
  'tokens': ['<unk>', '<s>', '</s>', '<0x0A>', '▁', 'a', 'b', 'ab', '▁a', '  '],
  'token_type': [2, 3, 3, 6, 1, 1, 1, 1, 1, 4],
  'scores': [0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -2.0, -1000.0],
  'merges': None,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'unknown_token_id': 0,
}


def test_sentencepiece_merges_the_highest_score_first(
  tmp_path: pathlib.Path,
) -> None:
  path = _write_gguf(
    tmp_path / 'x.gguf', **SENTENCEPIECE, add_space_prefix=False
  )
  one = tokenizer.load(path)
  assert tokenizer.encode(one, 'b ab a') == [6, 4, 7, 8]
  assert tokenizer.encode(one, 'a\na  b') == [5, 3, 5, 9, 6]
  assert one.decode([6, 4, 7, 8, 3, 9]) == 'b ab a\n  '
  assert one.decode([4, 7]) == ' ab'
  assert tokenizer.encode(one, 'a语言b') == [5, 0, 6]  # no bytes for them
  lower = SENTENCEPIECE['scores'].copy()
  lower[7] = -3.0
  fields = SENTENCEPIECE | {'scores': lower, 'add_space_prefix': False}
  one = tokenizer.load(_write_gguf(tmp_path / 'y.gguf', **fields))
  assert tokenizer.encode(one, 'b ab a') == [6, 8, 6, 8]


def test_gemma_4_merges_in_the_order_of_its_file(
  tmp_path: pathlib.Path,
) -> None:
  bytes_ = [f'<0x{n:02X}>' for n in range(256)]
  words = ['▁', '\n', *'abé', 'ab', '▁a', '▁▁', 'b▁', '\n\n', 'aé']
  tokens = ['<pad>', '<eos>', '<bos>', '<unk>', '<|turn>', *bytes_, *words]
  pairs = ['▁ a', 'a b', '▁ ▁', 'b ▁', '\n \n', 'a é']
  path = _write_gguf(
    tmp_path / 'x.gguf',
    model='gemma4',
    pre=None,
    tokens=tokens,
    token_type=[3, 3, 3, 2, 3, *[6] * 256, *[1] * len(words)],
    scores=[0.0] * len(tokens),
    merges=pairs,
    bos_token_id=2,
    eos_token_id=1,
    unknown_token_id=3,
    padding_token_id=0,
    add_bos_token=True,
  )
  one = tokenizer.load(path)
  theirs = transformers.GemmaTokenizer(
    vocab={token: i for i, token in enumerate(tokens)},
    merges=[tuple(pair.split(' ')) for pair in pairs],
  )
  draw = random.Random(0)
  drawn = [''.join(draw.choices(' \nabé语🙂', k=20)) for _ in range(300)]
  for text in ['', ' ', 'a b\n\nab', '  ab aé', *drawn]:
    ids = tokenizer.encode(one, text)
    assert ids == theirs.encode(text, add_special_tokens=False), text
    assert one.decode(ids) == theirs.decode(ids) == text
  assert ChatFormat(one).encode_prompt('ab') == [2, tokens.index('ab')]
  assert tokenizer.encode(one, '<|turn>a')[0] == 4


@pytest.mark.parametrize('architecture', ['phi3', 'llama'])
def test_phi_3_reads_no_space_after_its_control_tokens(
  architecture: str, tmp_path: pathlib.Path
) -> None:
  """Its Hugging Face tokens have `rstrip`; a GGUF file does not say so."""
  tokens = ['<unk>', '<s>', '</s>', '<|end|>', '<|user|>', '\n', 'a', '▁']
  path = _write_gguf(
    tmp_path / 'x.gguf',
    architecture=architecture,
    model='llama',
    pre='default',
    tokens=tokens,
    token_type=[2, 3, 3, 3, 3, 1, 1, 1],
    scores=[0.0] * len(tokens),
    merges=None,
    eos_token_id=3,
  )
  ids = tokenizer.encode(tokenizer.load(path), '<|user|>\na<|end|>\n<s>\na')
  found = [tokens[id] for id in ids if tokens[id] != '▁']
  after = [] if architecture == 'phi3' else ['\n']
  assert found == ['<|user|>', *after, 'a', '<|end|>', *after, '<s>', '\n', 'a']


def test_control_tokens_of_gemma_4_need_no_mark(
  tmp_path: pathlib.Path,
) -> None:
  """llama.cpp's converter has these as ordinary added tokens."""
  markers = ['<|channel>', '<channel|>', '<|tool_call>', '<|"|>']
  letters = [*dict.fromkeys(''.join(markers)), 'an']
  path = _write_gguf(
    tmp_path / 'x.gguf',
    model='gemma4',
    pre=None,
    tokens=['<eos>', '<bos>', *markers, *letters],
    token_type=[3, 3, *[4] * len(markers), *[1] * len(letters)],
    merges=['a n'],
    bos_token_id=1,
    eos_token_id=0,
  )
  chat = ChatFormat(tokenizer.load(path))
  ids = range(2, 2 + len(markers))
  # The first two begin and end a thought, which is no part of a reply.
  assert {*ids[2:]} <= {*chat.stop_ids} and not {2, 3} & {*chat.stop_ids}
  for id, marker in zip(ids, markers, strict=True):
    plain = tokenizer.encode_untrusted(chat.tokenizer, f'a{marker}a')
    assert id not in plain
    assert chat.tokenizer.decode(plain) == f'a{marker}a'
    assert tokenizer.encode(chat.tokenizer, marker) == [id]
  an = 2 + len(markers) + letters.index('an')
  assert chat.decode_reply([an, 4, an]) == 'an'
  assert chat.decode_reply([2, an, an, 3, an]) == 'an'
  assert chat.decode_reply([2, an, an]) == ''
  assert chat.reply_span([2, an, an, 3, an]) == (4, 5)


@pytest.mark.parametrize('role', ['eos', 'eot', 'eom'])
def test_the_end_of_a_turn_is_a_token(
  role: str, tmp_path: pathlib.Path
) -> None:
  path = _write_gguf(tmp_path / 'x.gguf', **{f'{role}_token_id': 4})
  with pytest.raises(
    ValueError, match=f'{role}_token_id is 4; expected 0 to 3'
  ):
    tokenizer.load(path)


def test_a_text_that_spells_a_byte_is_not_the_byte(
  tmp_path: pathlib.Path,
) -> None:
  pieces = ['<0x0A>', *'<0xA>', '<0', '<0x', '<0x0', '<0x0A']
  path = _write_gguf(
    tmp_path / 'x.gguf',
    model='llama',
    tokens=pieces,
    token_type=[6] + [1] * 9,
    scores=[0.0] + [-1.0] * 9,
    eos_token_id=None,
    add_space_prefix=False,
  )
  one = tokenizer.load(path)
  assert tokenizer.encode(one, '\n<0x0A>') == [0, 9, 5]


def test_sentencepiece_may_put_a_space_before_a_text(
  tmp_path: pathlib.Path,
) -> None:
  # Without a word, the space is put: llama.cpp reads older files so.
  for name, said in {'x.gguf': True, 'y.gguf': None}.items():
    path = _write_gguf(tmp_path / name, **SENTENCEPIECE, add_space_prefix=said)
    one = tokenizer.load(path)
    theirs = transformers.AutoTokenizer.from_pretrained(
      tmp_path, gguf_file=name
    )
    for text in ['a', 'ab a', 'ba\na', 'a</s>a']:
      ids = tokenizer.encode(one, text)
      assert ids == theirs.encode(text, add_special_tokens=False)
      assert one.decode(ids) == theirs.decode(ids)
    assert ChatFormat(one).encode_prompt('a ba') == [1, 8, 4, 6, 5]
    assert one.decode([8, 4, 6, 5]) == 'a ba'


@pytest.mark.parametrize(
  ('kind', 'name'), [('gpt2', 'falcon'), ('gpt2', None), ('bert', 'smollm')]
)
def test_unsupported_gguf_tokenizers_are_refused(
  kind: str, name: str | None, tmp_path: pathlib.Path
) -> None:
  path = _write_gguf(tmp_path / 'x.gguf', model=kind, pre=name)
  with pytest.raises(ValueError, match=f"'{kind}'/{name!r}.*gpt-2.*'llama'"):
    tokenizer.load(path)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'tokens': None}, 'ggml.tokens is None; expected an array'),
    ({'tokens': 'abc'}, "ggml.tokens is 'abc'; expected an array"),
    ({'tokens': [1, 2]}, 'ggml.tokens has 1; expected str'),
    ({'token_type': None}, 'ggml.token_type is None'),
    ({'token_type': [1, 1]}, 'ggml.token_type has 2 values; expected 4'),
    ({'merges': None}, 'ggml.merges is None'),
    ({'merges': ['ab']}, "ggml.merges has 'ab'; expected two known tokens"),
    ({'merges': ['a c']}, "ggml.merges has 'a c'; expected two known tokens"),
    ({'eos_token_id': 4}, 'ggml.eos_token_id is 4; expected 0 to 3'),
    ({'bos_token_id': 9}, 'ggml.bos_token_id is 9; expected 0 to 3'),
    ({'eos_token_id': 'x'}, "ggml.eos_token_id is 'x'; expected int"),
    ({'add_bos_token': 1}, 'ggml.add_bos_token is 1; expected bool'),
    ({'model': 'llama'}, 'ggml.scores is None; expected an array'),
    (
      SENTENCEPIECE | {'scores': [0.5, 1.0]},
      'ggml.scores has 2 values; expected 10',
    ),
  ],
)
def test_a_damaged_header_names_the_file_and_the_field(
  fields: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  path = _write_gguf(tmp_path / 'x.gguf', **fields)
  with pytest.raises(ValueError, match=r'x\.gguf: tokenizer\.' + message):
    tokenizer.load(path)


def test_a_damaged_file_is_one_clear_error(tmp_path: pathlib.Path) -> None:
  path = _write_gguf(tmp_path / 'x.gguf')
  whole = path.read_bytes()
  for size in (0, 3, 30, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:size])
    with pytest.raises(
      ValueError, match=r'x\.gguf is not a complete GGUF file'
    ):
      tokenizer.load(path)
  path.write_bytes(whole.replace(b'a b', b'\xff b'))
  with pytest.raises(ValueError, match=r'x\.gguf: tokenizer\.ggml\.merges'):
    tokenizer.load(path)
