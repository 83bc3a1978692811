"""Small tokenizers with the chat templates of published families."""

from typing import Any

import tokenizers
import transformers
from conftest import CHATML, CORPUS
from tokenizers import decoders, models, pre_tokenizers, trainers

_IM = ('<|im_start|>', '<|im_end|>', '<|endoftext|>')
_R1 = ('<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜User｜>')
_HEADER = (
  "'<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
  "m.content | trim + '<|eot_id|>'"
)
_LLAMA3 = (
  '{{ bos_token }}'
  "{% if messages[0].role == 'system' %}"
  '{% set system = messages[0].content | trim %}'
  '{% set messages = messages[1:] %}'
  "{% else %}{% set system = '' %}{% endif %}"
  "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + "
  "strftime_now('%d %b %Y') + '\n\n' + system + '<|eot_id|>' }}"
  '{% for m in messages %}{{ ' + _HEADER + ' }}{% endfor %}'
  '{% if add_generation_prompt %}'
  "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_GEMMA = (
  '{{ bos_token }}{% for m in messages %}'
  "{% if m.role == 'system' %}{{ raise_exception('System role not supported')"
  ' }}{% endif %}'
  "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('Roles must alternate') }}{% endif %}"
  "{% set role = 'model' if m.role == 'assistant' else m.role %}"
  "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}"
  '{% endfor %}'
  "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_QWEN25 = (
  "{% if messages[0].role != 'system' %}"
  "{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
) + CHATML
_QWEN3 = (
  "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
  "{% if m.role == 'assistant' %}"
  "{% set content = m.content.split('</think>')[-1].lstrip('\n') %}"
  "{% if loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
  '{{ content }}{% else %}{{ m.content }}{% endif %}'
  "{{ '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
  '{% if enable_thinking is defined and enable_thinking is false %}'
  "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
_DEEPSEEK = (
  '{{ bos_token }}{% for m in messages %}'
  "{% if m.role == 'system' %}{{ m.content }}"
  "{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
  "{% else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token"
  ' }}{% endif %}{% endfor %}'
  "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
_MISTRAL = (
  '{{ bos_token }}{% for m in messages %}'
  "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
  "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}"
  '{% endif %}{% endfor %}'  # leaves a system message out without a word
)
# Family: its template, special tokens, added tokens, BOS and EOS.
FAMILIES: dict[
  str, tuple[str | None, tuple[str, ...], tuple[str, ...], Any]
] = {
  'chatml': (CHATML, _IM, (), (None, '<|im_end|>')),
  'chatml-base': (CHATML, _IM, (), (None, '<|endoftext|>')),
  'llama3': (
    _LLAMA3,
    (
      '<|begin_of_text|>',
      '<|end_of_text|>',
      '<|eot_id|>',
      '<|start_header_id|>',
      '<|end_header_id|>',
      '<|python_tag|>',
    ),
    (),
    ('<|begin_of_text|>', '<|end_of_text|>'),
  ),
  'gemma': (
    _GEMMA,
    ('<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>'),
    (),
    ('<bos>', '<eos>'),
  ),
  'qwen2.5': (_QWEN25, _IM, ('<tool_call>',), (None, '<|im_end|>')),
  'qwen3': (_QWEN3, _IM, ('<think>', '</think>'), (None, '<|im_end|>')),
  'r1': (
    _DEEPSEEK,
    _R1[:2],
    (*_R1[2:], '<｜Assistant｜>', '<think>', '</think>'),
    _R1[:2],
  ),
  'mistral': (_MISTRAL, ('<s>', '</s>'), (), ('<s>', '</s>')),
  'base': (None, ('<|endoftext|>',), (), (None, '<|endoftext|>')),
}


def make_tokenizer(
  template: str | None,
  special: tuple[str, ...] = (),
  added: tuple[str, ...] = (),
  ends: tuple[str | None, str | None] = (None, None),
) -> Any:
  """A byte-level tokenizer: special tokens first, from id 0."""
  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=290,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=[*special],
    show_progress=False,
  )
  bpe.train_from_iterator(CORPUS, trainer)
  bpe.add_tokens([tokenizers.AddedToken(a, normalized=False) for a in added])
  bos, eos = ends
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, bos_token=bos, eos_token=eos, chat_template=template
  )


def of_family(name: str) -> Any:
  """The tokenizer of a family of `FAMILIES`."""
  return make_tokenizer(*FAMILIES[name])
