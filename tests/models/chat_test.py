"""Chat formats of published families, against transformers' templates."""

import dataclasses
import datetime
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tokenizers
import transformers
from chat_formats import FAMILIES, make_tokenizer, of_family
from conftest import CHATML

from rlcw.models import chat, language_model, template
from rlcw.models.chat import ChatFormat
from rlcw.models.thoughts import reply_of
from rlcw.models.tokenizer import OTHER_THOUGHTS, encode, encode_untrusted
from rlcw.runtime import console
from tests.models import tokenizer_gguf_test

TALK = [
  ('user', 'A letter'),
  ('assistant', 'The keeper wrote.'),
  ('user', 'More'),
  ('assistant', 'The sea never wrote.'),
]
IM = '<|im_start|>', '<|im_end|>'


def of(name: str) -> ChatFormat:
  made = ChatFormat(of_family(name), source=name)
  made.check()
  return made


def theirs(
  tokenizer: Any, messages: list[tuple[str, str]], reply_next: bool
) -> list[int]:
  return tokenizer.apply_chat_template(
    [{'role': role, 'content': text} for role, text in messages],
    add_generation_prompt=reply_next,
    enable_thinking=False,
    return_dict=False,
  )


@pytest.fixture(autouse=True)
def day(monkeypatch: pytest.MonkeyPatch) -> None:
  """Templates that transformers renders see our day too."""

  class Day(datetime.datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
      return template.DATE

  module = transformers.utils.chat_template_utils
  monkeypatch.setattr(module, 'datetime', Day)


@pytest.mark.parametrize('name', [n for n in FAMILIES if n != 'base'])
@pytest.mark.parametrize('text', ['A letter', '  two\n\nlines ', '写 <b>'])
def test_prompts_equal_transformers(name: str, text: str) -> None:
  made = of(name)
  talk = [*TALK[:3][:-1], ('user', text)]
  for messages in ([('user', text)], talk):
    ids = theirs(made.tokenizer, messages, True)
    assert made.encode_prompt(messages) == ids
  assert made.encode_prompt(text) == made.encode_prompt([('user', text)])
  if made.reads_system == 'system':
    talk = [('system', 'Be brief.'), *talk]
    ids = theirs(made.tokenizer, talk, True)
    assert made.encode_prompt(talk) == ids


@pytest.mark.parametrize(
  'name', [n for n in FAMILIES if n not in ('base', 'r1')]
)
def test_conversations_equal_transformers(name: str) -> None:
  made = of(name)
  for talk in (TALK[:2], TALK):
    ids, mask = made.encode_conversation(talk)
    whole = theirs(made.tokenizer, talk, False)
    assert [*ids, *made.after_reply[len(made.end) :]] == whole
    learned = made.tokenizer.decode(np.array(ids)[mask])
    end = made.tokenizer.decode(made.end)
    replies = [text for role, text in talk if role == 'assistant']
    assert learned.replace(' ', '') == ''.join(
      text.replace(' ', '') + end for text in replies
    )


@pytest.mark.parametrize(
  'name', [n for n in FAMILIES if n not in ('base', 'r1')]
)
@pytest.mark.parametrize('text', ['More', '  two\n\nlines', '写 <b>'])
def test_a_next_turn_equals_transformers(name: str, text: str) -> None:
  made = of(name)
  for before in (TALK[:1], TALK[:3]):
    messages = [*before, ('assistant', 'The keeper wrote.'), ('user', text)]
    first = made.encode_prompt([*before])
    # An earlier reply has no thought, where a cue has an empty one.
    thought = encode(made.tokenizer, '<think>\n\n</think>\n\n')
    if first[-len(thought) :] == thought:
      first = first[: -len(thought)]
    reply = made.encode_reply('The keeper wrote.')
    ids = [*first, *reply, *made.encode_next_turn(before, text)]
    assert ids == theirs(made.tokenizer, messages, True)


def test_a_base_model_reads_the_next_turn_after_a_blank_line() -> None:
  made = of('base')
  assert made.decode(made.encode_next_turn(TALK[:1], 'More')) == 'More'
  whole = made.decode_whole(made.encode_next_turn(TALK[:1], 'More'))
  assert whole == '\n\nMore'


@pytest.mark.parametrize(
  ('name', 'ends', 'after', 'system'),
  [
    ('chatml', ['<|im_end|>', '<|endoftext|>'], ['<|im_end|>', 'Ċ'], 'system'),
    (
      'chatml-base',
      ['<|im_end|>', '<|endoftext|>'],
      ['<|im_end|>', 'Ċ'],
      'system',
    ),
    ('llama3', ['<|end_of_text|>', '<|eot_id|>'], ['<|eot_id|>'], 'system'),
    ('gemma', ['<eos>', '<end_of_turn>'], ['<end_of_turn>', 'Ċ'], 'user'),
    ('r1', ['<｜end▁of▁sentence｜>'], ['<｜end▁of▁sentence｜>'], 'system'),
    ('mistral', ['</s>'], ['</s>'], 'user'),
    ('base', ['<|endoftext|>'], ['<|endoftext|>'], 'user'),
  ],
)
def test_what_ends_a_reply(
  name: str, ends: list[str], after: list[str], system: str
) -> None:
  made = of(name)
  spelled = made.tokenizer.convert_ids_to_tokens
  assert spelled(made.eos_ids) == ends
  assert spelled(made.after_reply) == after
  assert spelled(made.end) == after[:1]
  assert spelled(made.encode_reply('The sea')[-1:]) == after[:1]
  assert made.reads_system == system


def test_a_system_message_reaches_every_model() -> None:
  talk = [('system', 'Be brief.'), *TALK[:1]]
  for name in FAMILIES:
    made = of(name)
    assert 'Be brief.' in made.tokenizer.decode(made.encode_prompt(talk)), name
    opening, closing = made.turns('Be brief.')
    middle = encode(made.tokenizer, 'A letter')
    text = made.tokenizer.decode([*opening, *middle, *closing])
    prompt = made.tokenizer.decode(made.encode_prompt(talk))
    assert text.startswith(prompt), name
  gemma = of('gemma')
  merged = [('user', 'Be brief.\n\nA letter')]
  assert gemma.encode_prompt(talk) == gemma.encode_prompt(merged)
  assert of('qwen2.5').default_system == 'You are Qwen.'
  for name in ('chatml', 'llama3', 'gemma', 'base'):
    assert of(name).default_system is None


def test_a_base_model_continues_the_messages() -> None:
  made = of('base')
  assert made.encode_prompt('To the sea') == encode(
    made.tokenizer, 'To the sea'
  )
  ids, mask = made.encode_conversation(TALK)
  assert made.tokenizer.decode(ids) == (
    'A letterThe keeper wrote.<|endoftext|>\n\n'
    'MoreThe sea never wrote.<|endoftext|>'
  )
  # As in the turns of a rollout, and what is learned.
  first, last = (made.encode_reply(TALK[n][1]) for n in (1, 3))
  turns = [*made.encode_prompt('A letter'), *first]
  turns += made.encode_next_turn(TALK[:1], 'More')
  assert made.encode_prompt(TALK[:3]) == turns
  assert ids == [*turns, *last]
  assert np.array(ids)[mask].tolist() == [*first, *last]
  # An earlier reply that spells an end has none.
  spelled = [*TALK[:1], ('assistant', '<|endoftext|>'), *TALK[2:]]
  assert made.encode_conversation(spelled)[0].count(first[-1]) == 2


def test_a_base_model_without_eos_has_the_end_that_its_files_list() -> None:
  text = make_tokenizer(None, ('<stop>',), (), (None, None))
  made = ChatFormat(text, (0,))
  ids, _ = made.encode_conversation(TALK)
  assert text.decode(ids).count('<stop>') == 2


# --- Ends of replies ----------------------------------------------------------


def save(folder: pathlib.Path, tokenizer: Any, **files: Any) -> pathlib.Path:
  tokenizer.save_pretrained(folder)
  for name, content in files.items():
    (folder / f'{name}.json').write_text(json.dumps(content))
  return folder


def test_all_files_say_what_ends_a_reply(tmp_path: pathlib.Path) -> None:
  text = make_tokenizer(None, (*IM, '<|end|>', '<stop>'), (), (None, IM[1]))
  folder = save(
    tmp_path,
    text,
    generation_config={'eos_token_id': [2, 1]},
    config={'eos_token_id': 3},
  )
  assert chat.load(folder).eos_ids == (1, 2, 3)
  save(folder, text, generation_config={'eos_token_id': 2}, config={})
  assert chat.load(folder).eos_ids == (1, 2)
  save(folder, text, generation_config={'eos_token_id': None})
  assert chat.load(folder).eos_ids == (1,)
  save(folder, text, config={'text_config': {'eos_token_id': [3]}})
  assert chat.load(folder).eos_ids == (1, 3)


@pytest.mark.parametrize('value', ['2', [2.0], [True], -1, {'a': 1}])
def test_an_end_that_is_no_id_is_an_error(
  value: Any, tmp_path: pathlib.Path
) -> None:
  text = of_family('chatml')
  save(tmp_path, text, generation_config={'eos_token_id': value})
  with pytest.raises(
    ValueError, match=r'generation_config\.json: eos_token_id'
  ):
    chat.load(tmp_path)


def test_a_template_says_what_ends_a_reply() -> None:
  # EOS of a base model, and a marker that no list has
  text = make_tokenizer(
    CHATML.replace('im_end', 'done'),
    ('<|im_start|>', '<eos>'),
    ('<|done|>',),
    (None, '<eos>'),
  )
  made = ChatFormat(text)
  done = text.convert_tokens_to_ids('<|done|>')
  assert made.eos_ids == (1, done)
  assert made.end == [done]
  # its file does not call it special, and it is cut all the same
  ids = encode(text, 'The sea.\n<|done|>\n')
  assert done in ids and '<|done|>' in text.decode(
    ids, skip_special_tokens=True
  )
  assert made.decode_reply(ids) == 'The sea.'


def test_a_gguf_header_says_what_ends_a_reply(tmp_path: pathlib.Path) -> None:
  path = tokenizer_gguf_test._write_gguf(
    tmp_path / 'x.gguf',
    pre='qwen2',
    tokens=['a', 'b', 'ab', '<x>', '<y>', '<z>'],
    token_type=[1, 1, 1, 3, 3, 3],
    eot_token_id=4,
  )
  assert chat.load(path).eos_ids == (3, 4)


def test_a_reply_has_no_space_that_the_tokenizer_puts_before_a_text() -> None:
  # as Llama 2's and TinyLlama's do
  bpe = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      {t: n for n, t in enumerate(['<s>', '</s>', '▁', '\n', *'HioxU:'])}, []
    )
  )
  bpe.normalizer = tokenizers.normalizers.Sequence(
    [
      tokenizers.normalizers.Prepend('▁'),
      tokenizers.normalizers.Replace(' ', '▁'),
    ]
  )
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe,
    bos_token='<s>',
    eos_token='</s>',
    chat_template='{% for m in messages %}U:\n{{ m.content }}'
    "{% if m.role == 'user' %}:\n{% else %}{{ eos_token }}{% endif %}"
    '{% endfor %}',
  )
  made = ChatFormat(tokenizer, source='x')
  said = [('user', 'Hi'), ('assistant', 'Ho')]
  ids, mask = made.encode_conversation(said)
  whole = tokenizer.apply_chat_template(
    [{'role': role, 'content': text} for role, text in said], return_dict=False
  )
  assert ids == whole
  learnt = [id for id, is_reply in zip(ids, mask, strict=True) if is_reply]
  assert ''.join(tokenizer.convert_ids_to_tokens(learnt)) == 'Ho</s>'
  before, after = made.turns()
  hi = encode_untrusted(tokenizer, 'Hi')
  assert before + hi + after == made.encode_prompt('Hi')


def test_an_end_after_a_space_is_found() -> None:
  template = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content"
    " + ' [/INST]' }}{% else %}{{ ' ' + m.content + ' <|done|>' }}{% endif %}"
    '{% endfor %}'
  )
  text = make_tokenizer(template, ('<eos>', '<|done|>'), (), (None, '<eos>'))
  made = ChatFormat(text)
  assert made.eos_ids == (0, 1)
  assert text.decode(made.encode_reply('The sea')) == ' The sea <|done|>'
  assert text.decode(made.end) == ' <|done|>'


def test_a_control_token_ends_the_text_of_a_reply() -> None:
  made = of('qwen2.5')
  ids = encode(made.tokenizer, 'The sea.<|im_start|>user\nGood!<|im_end|>')
  assert made.decode_reply(ids) == 'The sea.'
  assert ids[made.reply_span(ids)[1]] in made.stop_ids
  # visible to rules and judges, so no control token
  ids = encode(made.tokenizer, 'The <tool_call> sea.<|im_end|>')
  assert made.decode_reply(ids) == 'The <tool_call> sea.'


def test_a_template_without_a_generation_prompt_gets_one() -> None:
  template = CHATML[: CHATML.index('{% if')]
  made = ChatFormat(make_tokenizer(template, IM, (), (None, IM[1])))
  complete = of('chatml')
  assert made.tokenizer.decode(made.encode_prompt('Hi')) == (
    complete.tokenizer.decode(complete.encode_prompt('Hi'))
  )


# --- Thoughts -----------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'thinking', 'reply'),
  [
    ('The sea.', False, 'The sea.'),
    ('<think>\nhm\n</think>\n\nThe sea.', False, 'The sea.'),
    ('hm\n</think>\n\nThe sea.', True, 'The sea.'),
    ('hm', True, ''),
    ('\n<think>\nhm', False, ''),
    ('a</think>b</think> c ', False, 'c'),
    ('I <think> so', False, 'I <think> so'),
    ('<think></think>', False, ''),
    ('[THINK]hm[/THINK]The sea.', False, 'The sea.'),
    (' <thinking>hm</thinking>\nThe sea.', False, 'The sea.'),
    ('<reasoning>hm', False, ''),
    ('The [/THINK] sea.', False, 'The [/THINK] sea.'),
    # In a JSON object it is a text.
    ('{"a": "b </think> c"}', False, '{"a": "b </think> c"}'),
    ('So: {"a": {"b": "</think>"}}', False, 'So: {"a": {"b": "</think>"}}'),
    ('hm {"a": "b"}</think>{"c": 1}', True, '{"c": 1}'),
    ('<think>a</think>{"b": "c </think> d"}', False, '{"b": "c </think> d"}'),
    ('<think>{"a": "</think>"}</think>{"b": 1}', False, '{"b": 1}'),
    (
      '<think>a</think>```\n{"b": "<think>c</think>"}\n```',
      False,
      '```\n{"b": "<think>c</think>"}\n```',
    ),
  ],
)
def test_the_reply_follows_the_thought(
  text: str, thinking: bool, reply: str
) -> None:
  assert reply_of(text, thinking) == reply


@pytest.mark.parametrize('special', [False, True])
def test_thoughts_are_cut_from_sampled_replies(special: bool) -> None:
  family, specials, added, ends = FAMILIES['r1']
  if special:
    specials, added = (*specials, *added[-2:]), added[:-2]
  made = ChatFormat(make_tokenizer(family, specials, added, ends))
  assert made.thinking
  ids = encode(made.tokenizer, 'hm\n</think>\n\nThe sea.') + made.end
  assert made.decode_reply(ids) == 'The sea.'
  start, stop = made.reply_span(ids)
  assert made.tokenizer.decode(ids[start:stop]).strip() == 'The sea.'
  unfinished = encode(made.tokenizer, 'hm, the sea')
  assert made.decode_reply(unfinished) == ''
  assert made.reply_span(unfinished) == (len(unfinished),) * 2
  # a given reply closes the thought that the prompt has opened
  prompt = made.encode_prompt('A letter')
  for text, thought in (
    ('The sea.', ''),
    ('<think>\nhm\n</think>\n\nThe sea.', 'hm'),
    ('hm\n</think>\n\nThe sea.', 'hm'),
  ):
    row = made.encode_reply(text)
    assert made.decode_reply(row) == 'The sea.'
    assert made.tokenizer.decode([*prompt, *row]).endswith(
      f'<｜Assistant｜><think>\n{thought}\n</think>\n\nThe sea.'
      '<｜end▁of▁sentence｜>'
    )


@pytest.mark.parametrize('pair', OTHER_THOUGHTS)
def test_prompts_may_open_thoughts_of_other_spellings(
  pair: tuple[str, str],
) -> None:
  opened, closed = pair
  template, _, ends = FAMILIES['chatml'][0], (), FAMILIES['chatml'][3]
  cue = "'<|im_start|>assistant\n'"
  assert template and cue in template
  template = template.replace(cue, f"'<|im_start|>assistant\n{opened}\n'")
  made = ChatFormat(
    make_tokenizer(template, ('<|im_start|>', '<|im_end|>'), (), ends)
  )
  assert made.thinking
  ids = encode(made.tokenizer, f'hm{closed}The sea.') + made.end
  assert made.decode_reply(ids) == 'The sea.'
  start, stop = made.reply_span(ids)
  assert made.tokenizer.decode(ids[start:stop]).startswith('The sea.')
  assert made.decode_reply(encode(made.tokenizer, 'hm, the sea')) == ''
  prompt = made.encode_prompt('A letter')
  for text in (
    'The sea.',
    f'hm{closed}The sea.',
    f'{opened}hm{closed}The sea.',
  ):
    row = made.encode_reply(text)
    assert made.decode_reply(row) == 'The sea.'
    whole = made.tokenizer.decode([*prompt, *row])
    assert (whole.count(opened), whole.count(closed)) == (1, 1)


def test_thoughts_between_tokens_of_their_own_are_cut() -> None:
  family, special, _, ends = FAMILIES['mistral']
  marks = '[THINK]', '[/THINK]'
  made = ChatFormat(make_tokenizer(family, (*special, *marks), (), ends))
  ids = [
    *made.tokenizer.convert_tokens_to_ids(marks[:1]),
    *encode(made.tokenizer, 'hm'),
    *made.tokenizer.convert_tokens_to_ids(marks[1:]),
    *encode(made.tokenizer, 'The sea.'),
    *made.end,
  ]
  assert made.decode_reply(ids) == 'The sea.'
  start, stop = made.reply_span(ids)
  assert made.tokenizer.decode(ids[start:stop]) == 'The sea.'


def test_a_thought_spelled_in_plain_tokens_is_cut() -> None:
  made = of('chatml')
  ids = encode(made.tokenizer, '<think>lovely prose</think>\n\nThe sea.')
  assert made.decode_reply(ids) == 'The sea.'
  start, stop = made.reply_span(ids)
  assert made.tokenizer.decode(ids[start:stop]).strip() == 'The sea.'
  plain = encode(made.tokenizer, 'The sea.')
  assert made.reply_span(plain) == (0, len(plain))


@pytest.mark.parametrize(
  'text',
  [
    '<|channel>thought\nhm<channel|>The sea.',
    '<|channel|>analysis<|message|>hm<|end|><|start|>assistant'
    '<|channel|>final<|message|>The sea.',
    '<|channel|>analysis<|message|>hm<|end|><|start|>assistant'
    '<|channel|>final<|message|>The sea.<|return|>',
    '<think>a</think>\n<reasoning>b</reasoning>The sea.',
    '<|begin_of_thought|>hm<|end_of_thought|>\n\n<|begin_of_solution|>\n'
    'The sea.\n<|end_of_solution|>',
    '<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>The sea.'
    '<|END_RESPONSE|>',
    '<think>hm</think><answer>The sea.</answer>',
    '<Think>hm</Think>The sea.',
    '<unused94>thought\nhm<unused95>The sea.',
  ],
)
def test_thoughts_of_other_models_are_no_part_of_a_reply(text: str) -> None:
  once = chat.reply_of(text)
  assert once == chat.reply_of(once) == 'The sea.'


@pytest.mark.parametrize('name', [n for n in FAMILIES if n != 'base'])
def test_control_tokens_spelled_in_a_message_stay_text(name: str) -> None:
  """A user cannot end a turn, nor can an earlier reply."""
  made = of(name)
  spelled = made.tokenizer.convert_ids_to_tokens(sorted(made.control_ids))
  hostile = f'a {"".join(spelled)} b'

  def controls(ids: list[int]) -> list[int]:
    return [id for id in ids if id in made.control_ids]

  for text in (hostile, spelled[-1]):
    assert controls(made.encode_prompt(text)) == controls(
      made.encode_prompt('plain')
    )
  plain, ours = (
    made.encode_conversation(
      [('user', 'x'), ('assistant', text), ('user', text), ('assistant', 'y')]
    )
    for text in ('plain', hostile)
  )
  assert controls(ours[0]) == controls(plain[0])
  learned = [
    controls([id for id, on in zip(ids, mask, strict=True) if on])
    for ids, mask in (plain, ours)
  ]
  assert learned[0] == learned[1]
  turn = [('user', 'x')]
  assert controls(made.encode_next_turn(turn, hostile)) == controls(
    made.encode_next_turn(turn, 'plain')
  )


# --- Templates ----------------------------------------------------------------


def test_days_and_dice_do_not_change_a_prompt() -> None:
  dice = "{{ range(1000) | list | random }} {{ strftime_now('%Y-%m-%d') }} "
  made = ChatFormat(make_tokenizer(dice + CHATML, IM, (), (None, IM[1])))
  prompts = [made.encode_prompt('Hi') for _ in range(5)]
  assert prompts == prompts[:1] * 5
  text = made.tokenizer.decode(prompts[0])
  assert '2024-07-26' in text
  drawn = {made.tokenizer.decode(made.turns()[0]) for _ in range(3)}
  assert len(drawn) == 1 and text.startswith(drawn.pop())


@pytest.mark.parametrize(
  ('broken', 'reason'),
  [
    ("{{ raise_exception('not\ntoday') }}", 'fails: not today'),
    ('{% for m in messages %}', 'is broken: '),
    ('{{ messages[0].content.nothing() }}', 'fails: '),
    ('{{ 1 / 0 }}', 'fails: division'),
    ('Hello', "leaves out the user's message"),
    ("{{ messages | map(attribute='text') | join }}", 'leaves out|fails'),
  ],
)
def test_a_template_that_fails_is_an_error(
  broken: str, reason: str, tmp_path: pathlib.Path
) -> None:
  save(tmp_path, make_tokenizer(broken, IM, (), (None, IM[1])))
  with pytest.raises(ValueError, match=reason) as raised:
    chat.load(tmp_path)
  assert str(raised.value).startswith(str(tmp_path))
  assert '\n' not in str(raised.value)


def test_messages_that_a_template_refuses_are_named() -> None:
  said = [('user', 'Hi'), ('user', 'A toast.'), ('assistant', 'To you!')]
  with pytest.raises(
    ValueError, match=r"alternate; in messages of user, user, .*'A toast\.'"
  ):
    of('gemma').encode_conversation(said)


def test_a_message_that_is_written_twice_cannot_be_asked_about() -> None:
  twice = '{{ messages[0].content }} {{ messages[0].content }}'
  made = ChatFormat(make_tokenizer(twice, IM, (), (None, IM[1])), source='x')
  with pytest.raises(ValueError, match='x: .*2 times; expected once'):
    made.turns()


def test_a_template_may_contain_any_word() -> None:
  made = ChatFormat(make_tokenizer('MESSAGE ' + CHATML, IM, (), (None, IM[1])))
  opening, closing = made.turns()
  ids = [*opening, *encode(made.tokenizer, 'Hi'), *closing]
  assert ids == made.encode_prompt('Hi')


def test_a_tokenizer_without_an_end_is_an_error(tmp_path: pathlib.Path) -> None:
  save(tmp_path, make_tokenizer(None))
  with pytest.raises(ValueError, match='no token ends a reply') as raised:
    chat.load(tmp_path)
  assert str(raised.value).startswith(str(tmp_path))
  save(tmp_path, make_tokenizer(None), generation_config={'eos_token_id': 7})
  assert chat.load(tmp_path).end == [7]


def test_a_token_without_an_embedding_is_an_error(
  tmp_path: pathlib.Path,
) -> None:
  text = of_family('chatml')
  size = len(text)
  save(tmp_path, text)
  assert chat.load(tmp_path, size).vocab_size == size
  assert chat.load(tmp_path, size + 20).vocab_size == size + 20
  with pytest.raises(
    ValueError, match=f'has id {size - 1}.*={size - 1}'
  ) as bad:
    chat.load(tmp_path, size - 1)
  assert str(bad.value).startswith(str(tmp_path))
  text.add_special_tokens({'additional_special_tokens': ['<image_soft_token>']})
  save(tmp_path, text)
  made = chat.load(tmp_path, size)
  # In a message it is a text; in a template it is the token.
  assert max(made.encode_prompt('An <image_soft_token>')) < size
  save(tmp_path, text, generation_config={'eos_token_id': [1, 10**6]})
  with pytest.raises(ValueError, match='has id 1000000'):
    chat.load(tmp_path, size)
  text.chat_template = f'<image_soft_token>{text.chat_template}'
  save(tmp_path / 'other', text)
  with pytest.raises(ValueError, match='no embedding for .<image_soft_token>'):
    chat.load(tmp_path / 'other', size)


def test_prompts_that_do_not_fit_the_context_are_named() -> None:
  made = ChatFormat(of_family('chatml'), source='x', context=100)
  made.check_context({'a': 60, 'b': 40}, 40)
  with pytest.raises(ValueError) as raised:
    made.check_context({'a': 61, 'b': 40, 'c': 70}, 40)
  assert str(raised.value) == (
    'x: 2 of 3 prompts do not fit its context of 100 tokens together with '
    'max_new_tokens=40: the longest has 70; expected max_new_tokens of at most '
    '30, or shorter prompts; too long: a, c'
  )
  with pytest.raises(ValueError, match='expected prompts of fewer than 100'):
    made.check_context({'a': 100}, 1)
  ChatFormat(of_family('chatml')).check_context({'a': 10**6}, 1)


def test_each_prompt_may_have_replies_of_its_own_length() -> None:
  made = ChatFormat(of_family('chatml'), source='x', context=100)
  made.check_context({'a': 90, 'b': 10}, {'a': 10, 'b': 90})
  with pytest.raises(ValueError, match='1 of 2 .*max_new_tokens=91: .*has 10'):
    made.check_context({'a': 90, 'b': 10}, {'a': 10, 'b': 91})


def test_rows_that_pad_the_embedding_cut_a_reply_off() -> None:
  made = of('qwen2.5')
  size = len(made.tokenizer)
  padded = dataclasses.replace(made, vocab_size=size + 3)
  assert {*padded.stop_ids} - {*made.stop_ids} == {size, size + 1, size + 2}
  ids = [*encode(made.tokenizer, 'The sea'), size, *encode(made.tokenizer, 's')]
  assert padded.decode_reply(ids) == 'The sea'


# --- Damaged and hostile folders ----------------------------------------------


@pytest.mark.parametrize(
  'edit',
  [
    lambda file: file.update(model=None),
    lambda file: file.update(version='x'),
    lambda file: file['model'].update(merges=[['no', 'such']]),
    lambda file: file['model'].update(vocab={}),
    lambda file: file.update(pre_tokenizer={'type': 'none such'}),
    lambda file: file.update(added_tokens=[{'id': 5}]),
  ],
)
def test_a_damaged_tokenizer_is_an_error(
  edit: Any, tmp_path: pathlib.Path
) -> None:
  save(tmp_path, of_family('chatml'))
  file = tmp_path / 'tokenizer.json'
  content = json.loads(file.read_text())
  edit(content)
  file.write_text(json.dumps(content))
  with pytest.raises(ValueError) as raised:
    chat.load(tmp_path)
  assert str(raised.value).startswith(str(tmp_path))
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('file', ['tokenizer.json', 'tokenizer_config.json'])
@pytest.mark.parametrize('content', [b'{', b'[]', b'\xff', b''])
def test_a_file_that_is_no_tokenizer_is_an_error(
  file: str, content: bytes, tmp_path: pathlib.Path
) -> None:
  save(tmp_path, of_family('chatml'))
  (tmp_path / file).write_bytes(content)
  with pytest.raises(ValueError) as raised:
    chat.load(tmp_path)
  assert str(raised.value).startswith(str(tmp_path))


@pytest.mark.parametrize('known', [True, False])
def test_code_in_a_folder_is_never_run(
  known: bool, tmp_path: pathlib.Path
) -> None:
  save(tmp_path, of_family('chatml'))
  trap = tmp_path / 'sprung'
  (tmp_path / 'trap.py').write_text(f'open({str(trap)!r}, "w")\nclass Trap: 0')
  name = 'PreTrainedTokenizerFast' if known else 'TrapTokenizer'
  tokenizers = {'AutoTokenizer': [None, 'trap.Trap']}
  for file, extra in {
    'tokenizer_config.json': {'tokenizer_class': name, 'auto_map': tokenizers},
    'config.json': {'auto_map': {'AutoConfig': 'trap.Trap'}},
  }.items():
    path = tmp_path / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | extra))
  try:
    chat.load(tmp_path)
  except ValueError as error:
    assert str(error).startswith(str(tmp_path))
  assert not trap.exists()


@pytest.mark.parametrize('name', [n for n in FAMILIES if n != 'base'])
def test_a_template_with_a_system_message_says_it_unless_there_is_another(
  name: str,
) -> None:
  made, system = of(name), 'Say "Ahoy".\n\\ {{ x }} 🌊'
  user, other = ('user', 'Hi'), ('system', 'Rhyme.')
  expected = made.encode_prompt([('system', system), user])
  refused = made.reads_system == 'user'
  tokenizer = of_family(name)
  tokenizer.chat_template = made.template.with_system(system)
  assert ChatFormat(tokenizer, source=name).encode_prompt([user]) == expected
  if not refused:
    said = ChatFormat(tokenizer, source=name).encode_prompt([other, user])
    assert said == made.encode_prompt([other, user])


@pytest.mark.parametrize(
  ('name', 'own', 'given', 'used', 'notice'),
  [
    ('chatml', '', '', '', None),
    ('chatml', '', 'Rhyme.', 'Rhyme.', None),
    ('chatml', 'Old.', '', 'Old.', None),
    ('qwen2.5', '', '', '', "adds its own system message, 'You are Qwen.'"),
    ('qwen2.5', '', 'Rhyme.', 'Rhyme.', None),
    ('gemma', '', 'Rhyme.', 'Rhyme.', 'has no system role'),
    ('gemma', '', '', '', None),
  ],
)
def test_which_system_message_is_read_is_said(
  name: str, own: str, given: str, used: str, notice: str | None
) -> None:
  console.take_notices()
  model: Any = language_model.LanguageModel(
    None,
    None,
    of(name),
    None,
    name,
    own,  # type: ignore
  )
  assert language_model.with_system(model, given).system == used
  said = console.take_notices()
  assert len(said) == (notice is not None)
  assert notice is None or notice in said[0]
  # a judge's system message is its setting alone
  language_model.note_system(model, given, '--config.judge.system')
  said = console.take_notices()
  assert any('--config.judge.system' in each for each in said) == (
    name == 'qwen2.5' and not given
  )
