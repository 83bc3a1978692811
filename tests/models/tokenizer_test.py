"""Our GGUF tokenizer against Transformers', and what it promises."""

import json
import pathlib
from typing import Any

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import processors

from rlcw.models import tokenizer
from rlcw.models.chat import ChatFormat

TEXTS = [
  '',
  'The lighthouse keeper wrote a letter to the sea.',
  'In 1984, 12345 birds — 6.5% of 190,000 — flew on 2024-03-01.',
  "Don't, we'll, she'd, I'm, they've, it's, CAN'T, rock'n'roll; don’t.",
  'One line\nand another\n\n\nand a third\r\n\tindented\n ',
  '床前明月光，疑是地上霜。举头望明月，低头思故乡。',
  '😀 family 👩‍👩‍👧 flag 🇫🇷 heart ❤️',
  'def f(x: int) -> int:\n  return {"a": x ** 2}["a"]  # squared',
  '  leading, and   many    spaces   ',
  '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
  'text<|endoftext|>more <|im_end|><|im_end|> <|im_en|>',
  '<repo_name>a <file_sep>b',  # markers that have no role
  'Größe, naïve café, Привет, שלום, こんにちは, \u00ad\u200b\ufeff',
  'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!!!???...',
]
MESSAGES = ['Hi', 'Write 2 lines.\n\nNo commas!', '写一首诗', '  <b>"x"</b> ']

# No text without '<' spells a marker, which decoding would strip.
PLAIN = st.characters(codec='utf-8', exclude_characters='<')
PRINTED = st.characters(
  codec='utf-8', categories='LMNPSZ', exclude_characters='<'
)


@pytest.fixture(scope='session')
def ours(smollm2_path: pathlib.Path) -> Any:
  return tokenizer.load(smollm2_path)


@pytest.fixture(scope='session')
def theirs(smollm2_path: pathlib.Path) -> Any:
  return transformers.AutoTokenizer.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name
  )


@pytest.fixture(scope='session')
def gemma(gemma_path: pathlib.Path) -> Any:
  return tokenizer.load(gemma_path)


@pytest.fixture(scope='session')
def their_gemma(gemma_path: pathlib.Path) -> Any:
  return transformers.AutoTokenizer.from_pretrained(
    gemma_path.parent, gguf_file=gemma_path.name
  )


@pytest.fixture(scope='session')
def small(tiny_folder: pathlib.Path) -> Any:
  return tokenizer.load(tiny_folder)


@pytest.mark.parametrize('text', TEXTS)
def test_ids_equal_transformers(text: str, ours: Any, theirs: Any) -> None:
  ids = tokenizer.encode(ours, text)
  assert ids == theirs.encode(text, add_special_tokens=False)
  assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize('message', MESSAGES)
def test_chat_equals_transformers(message: str, ours: Any, theirs: Any) -> None:
  ids = ChatFormat(ours).encode_prompt(message)
  assert ids == theirs.apply_chat_template(
    [{'role': 'user', 'content': message}],
    add_generation_prompt=True,
    return_dict=False,
  )
  assert all(type(i) is int for i in ids)
  assert ours.decode(ids).endswith(
    f'user\n{message}<|im_end|>\n<|im_start|>assistant\n'
  )


def test_special_tokens_equal_transformers(ours: Any, theirs: Any) -> None:
  assert len(ours) == len(theirs) == 49_152
  assert ours.all_special_ids and set(ours.all_special_ids) == set(
    theirs.all_special_ids
  )
  for role in ('bos_token_id', 'eos_token_id', 'unk_token_id', 'pad_token_id'):
    assert getattr(ours, role) == getattr(theirs, role)


def test_eos_ids(ours: Any, small: Any) -> None:
  assert ours.convert_ids_to_tokens(ChatFormat(ours).eos_ids) == [
    '<|endoftext|>',
    '<|im_end|>',
  ]
  [end] = ChatFormat(small).eos_ids
  assert small.convert_ids_to_tokens(end) == '<|im_end|>'


@pytest.mark.parametrize('which', ['ours', 'small'])
def test_decode_strips_markers_and_space_around(
  which: str, request: pytest.FixtureRequest
) -> None:
  one = request.getfixturevalue(which)
  ids = tokenizer.encode(one, ' \n The sea ,  a \n b !\n<|im_end|>')
  assert len(set(ids) & set(one.get_added_vocab().values())) == 1
  assert ChatFormat(one).decode_reply(ids) == 'The sea ,  a \n b !'


def test_encode_adds_nothing_around(tiny_folder: pathlib.Path) -> None:
  one = tokenizer.load(tiny_folder)
  one.backend_tokenizer.post_processor = processors.TemplateProcessing(
    single='<|im_start|> $A', special_tokens=[('<|im_start|>', 0)]
  )
  ids = tokenizer.encode(one, 'sea')
  assert one.encode('sea') == [0, *ids]


def test_the_template_of_a_folder(small: Any) -> None:
  ids = ChatFormat(small).encode_prompt('To the sea')
  assert small.decode(ids) == (
    '<|im_start|>user\nTo the sea<|im_end|>\n<|im_start|>assistant\n'
  )
  start, end = small.convert_tokens_to_ids(['<|im_start|>', '<|im_end|>'])
  assert (ids.count(start), ids.count(end)) == (2, 1)


def test_the_template_of_a_processor_is_that_of_its_tokenizer(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  small = tokenizer.load(tiny_folder)
  template = small.chat_template
  small.chat_template = None
  small.save_pretrained(tmp_path)
  assert not tokenizer.load(tmp_path).chat_template
  file = tmp_path / 'chat_template.json'
  file.write_text(json.dumps({'chat_template': template}))
  assert tokenizer.load(tmp_path).chat_template == template
  for damaged in ('{"chat_template": ', '{"template": "x"}'):
    file.write_text(damaged)
    with pytest.raises(ValueError, match=r'chat_template\.json'):
      tokenizer.load(tmp_path)


@pytest.mark.slow  # transformers takes 40 s to read it
@pytest.mark.parametrize('text', [*TEXTS, '\t\tx <b>y</b>', 'ꙮ\x01\ue000'])
def test_gemma_ids_equal_transformers(
  text: str, gemma: Any, their_gemma: Any
) -> None:
  ids = tokenizer.encode(gemma, text)
  assert ids == their_gemma.encode(text, add_special_tokens=False)
  assert gemma.encode(text) == their_gemma.encode(text) == [2, *ids]
  assert gemma.decode(ids) == text


def test_gemma_cuts_long_runs_of_spaces_as_sentencepiece_does(
  gemma: Any,
) -> None:
  # The longest token, then the rest; Transformers merges 16 and 24 spaces.
  ids = tokenizer.encode(gemma, 'a' + 40 * ' ' + 'b')
  pieces = ['a', 31 * ' ', 9 * ' ', 'b']
  assert gemma.convert_ids_to_tokens(ids) == pieces


@pytest.mark.slow
def test_gemma_has_the_roles_that_transformers_has(
  gemma: Any, their_gemma: Any
) -> None:
  assert len(gemma) == len(their_gemma) == 262_144
  for role in ('bos_token_id', 'eos_token_id', 'unk_token_id', 'pad_token_id'):
    assert getattr(gemma, role) == getattr(their_gemma, role)
  ends = gemma.convert_ids_to_tokens(ChatFormat(gemma).eos_ids)
  assert ends == ['<eos>', '<end_of_turn>']


def test_a_base_model_goes_on_from_the_message(gemma: Any) -> None:
  ids = ChatFormat(gemma).encode_prompt('To the  sea')
  assert ids == [gemma.bos_token_id, *tokenizer.encode(gemma, 'To the  sea')]
  assert ChatFormat(gemma).decode_reply(ids[1:]) == 'To the  sea'


# Gemma has tokens for runs of up to 31 spaces.
@pytest.mark.slow
@given(
  st.text(st.characters(codec='utf-8', exclude_characters='▁'), max_size=31)
)
@settings(max_examples=200)
def test_gemma_loses_nothing(gemma: Any, their_gemma: Any, text: str) -> None:
  ids = tokenizer.encode(gemma, text)
  assert ids == their_gemma.encode(text, add_special_tokens=False)
  assert gemma.decode(ids) == text


@given(st.text(PLAIN, max_size=60))
@settings(max_examples=200)
@example("Don't\r\n1984 — 床前明月光 👩‍👩‍👧 \x00\ufffd\U0010ffff")
def test_a_byte_level_tokenizer_loses_nothing(small: Any, text: str) -> None:
  ids = tokenizer.encode(small, text)
  assert ChatFormat(small).decode_reply(ids) == text.strip()


@pytest.mark.slow
@given(st.text(PRINTED, max_size=60))
@settings(max_examples=200)
@example("Don't 1984 — 床前明月光 👩‍👩‍👧")
def test_smollm2_loses_nothing_it_has_bytes_for(ours: Any, text: str) -> None:
  ids = tokenizer.encode(ours, text)
  assert ChatFormat(ours).decode_reply(ids) == text.strip()


def test_a_folder_without_a_tokenizer_is_an_error(
  tmp_path: pathlib.Path,
) -> None:
  with pytest.raises(ValueError, match='no tokenizer.*tokenizer.json'):
    tokenizer.load(tmp_path)


def test_a_model_that_is_nowhere_is_an_error() -> None:
  with pytest.raises(FileNotFoundError, match='no model at nowhere.gguf'):
    tokenizer.load('nowhere.gguf')


def test_a_template_that_can_think_is_asked_for_the_reply_alone(
  ours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  template = '{{ messages[0].content }}{{ "|" ~ enable_thinking }}'
  monkeypatch.setattr(ours, 'chat_template', template)
  chat = ChatFormat(ours)
  assert chat.decode_reply(chat.encode_prompt('Hi')) == 'Hi|False'
  opening, closing = chat.turns()
  assert (opening, chat.decode_reply(closing)) == ([], '|False')


def test_a_text_keeps_its_first_line_break_whatever_merges_with_it() -> None:
  """As of Llama, but with tokens of several line breaks."""
  from tokenizers import Tokenizer, decoders, models, normalizers

  letters = ['<unk>', '▁', '\n', 'x', '.', ',', '1', 'y', '\n\n', '\n▁', '▁x']
  merges = [('\n', '\n'), ('\n', '▁'), ('▁', 'x')]
  made = Tokenizer(
    models.BPE({t: i for i, t in enumerate(letters)}, merges, unk_token='<unk>')
  )
  made.normalizer = normalizers.Sequence(
    [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
  )
  made.decoder = decoders.Sequence(
    [decoders.Replace('▁', ' '), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
  )
  text = transformers.PreTrainedTokenizerFast(
    tokenizer_object=made, unk_token='<unk>'
  )
  before = text.encode('y', add_special_tokens=False)
  for part in ('x', '\nx', '\n\nx', ' x', '\n', '  x', '\n\n\n x'):
    for ids in (
      tokenizer.encode_inside(text, part),
      tokenizer.encode_untrusted(text, part),
      tokenizer.encode_places(text, part, inside=True)[0],
    ):
      assert text.decode([*before, *ids]) == f'y{part}'
