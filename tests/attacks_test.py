"""Attacks by a reply: on tokenizers, the report, files and the terminal."""

import functools
import json
import pathlib
import unicodedata
from typing import Any

import pipeline
import pytest
from attacks import ATTACKS, LINE_SEPARATORS, PLAIN

from rlcw.data import datasets
from rlcw.data.preferences import Preference
from rlcw.evaluation.page import clean
from rlcw.models import tokenizer
from rlcw.models.chat import ChatFormat
from rlcw.runtime import files
from rlcw.sampling.prompts import PROMPTS
from rlcw.tasks.report import run
from rlcw.tasks.reward_model.groups import make_groups
from tests.models import tokenizer_gguf_test
from tests.tasks import report_test

MARKERS = [
  '<|im_start|>',
  '<|im_end|>',
  '<|endoftext|>',
  '<|eot_id|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<start_of_turn>',
  '<end_of_turn>',
  '<bos>',
  '<eos>',
  '<pad>',
  '<s>',
  '</s>',
  '[INST]',
  '[/INST]',
  '<｜begin▁of▁sentence｜>',
  '<｜end▁of▁sentence｜>',
  '<｜User｜>',
  '<｜Assistant｜>',
]
SURROGATES = dict.fromkeys(range(0xD800, 0xE000), '\ufffd')
FLOOD = 3000  # characters of a flood that show as much as all
# Gemma's has 262,144 tokens, so reading it takes long.
GEMMA = pytest.param('gemma', marks=pytest.mark.slow)
TOKENIZERS = ['smollm2', GEMMA, 'tiny', 'all_special', 'none_special']
# Characters that steer a terminal: not the bar's own \r, nor line ends.
STEERING = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0))} - set('\n\r')


@functools.cache
def _load(path: pathlib.Path) -> Any:
  return tokenizer.load(path)


def _named(name: str, request: pytest.FixtureRequest) -> Any:
  if name in ('smollm2', 'gemma'):
    return _load(request.getfixturevalue(f'{name}_path'))
  one = tokenizer.load(request.getfixturevalue('tiny_folder'))
  if name == 'all_special':
    one.add_special_tokens({'additional_special_tokens': MARKERS})
  if name == 'none_special':  # as old files have DeepSeek's
    one.add_tokens([marker for marker in MARKERS if 'im_' not in marker])
  return one


def _control_ids(one: Any) -> set[int]:
  """What no untrusted text may become."""
  special = [i for i, t in one.added_tokens_decoder.items() if t.special]
  marked = [
    i
    for i, token in one.added_tokens_decoder.items()
    if token.content.startswith(('<|', '<｜', '<start_of'))
  ]
  return {*one.all_special_ids, *special, *marked, *ChatFormat(one).eos_ids}


@pytest.mark.parametrize('name', TOKENIZERS)
def test_no_reply_becomes_a_control_token(
  name: str, request: pytest.FixtureRequest
) -> None:
  one = _named(name, request)
  control = _control_ids(one)
  assert control
  for attack, text in {**ATTACKS, **PLAIN}.items():
    text = text if name == 'smollm2' else text[:FLOOD]
    ids = tokenizer.encode_untrusted(one, text)
    found = one.convert_ids_to_tokens(sorted(control & set(ids)))
    assert not found, (attack, found)
    # SmolLM2 lacks some bytes, and Gemma's decoder forgets some spaces.
    if name not in ('smollm2', 'gemma'):
      kept = one.decode(ids, clean_up_tokenization_spaces=False)
      assert kept == text.translate(SURROGATES), attack


@pytest.mark.parametrize('name', ['tiny', 'smollm2', GEMMA])
def test_ordinary_text_is_cut_as_ever(
  name: str, request: pytest.FixtureRequest
) -> None:
  one = _named(name, request)
  for text in PLAIN.values():
    assert tokenizer.encode_untrusted(one, text) == tokenizer.encode(one, text)


def test_a_control_token_of_a_gguf_that_does_not_say_so(
  tmp_path: pathlib.Path,
) -> None:
  letters = sorted(set('<|im_end>'))
  path = tokenizer_gguf_test._write_gguf(
    tmp_path / 'x.gguf',
    tokens=[*letters, 'im', '<|im_end|>'],
    token_type=[1] * (len(letters) + 1) + [4],
    merges=['i m'],
    eos_token_id=0,
  )
  one = tokenizer.load(path)
  end = len(one) - 1
  assert tokenizer.encode(one, '<|im_end|>') == [end]
  ids = tokenizer.encode_untrusted(one, '<|im_<|im_end|>end|>')
  assert end not in ids and one.decode(ids) == '<|im_<|im_end|>end|>'


def test_half_a_surrogate_pair_is_read(tiny_folder: pathlib.Path) -> None:
  one = tokenizer.load(tiny_folder)
  assert tokenizer.encode(one, 'a\ud83d') == tokenizer.encode(one, 'a\ufffd')
  prompt = ChatFormat(one).encode_prompt
  assert prompt('\udc00b') == prompt('\ufffdb')
  assert tokenizer.valid_unicode('\ud83d\ude00') == '😀'
  assert tokenizer.valid_unicode('\ufeff天 \x00') == '\ufeff天 \x00'


def test_pairs_are_read_as_untrusted(tiny_folder: pathlib.Path) -> None:
  one = tokenizer.load(tiny_folder)
  replies = ATTACKS['chatml'], ATTACKS['ends']
  pair = Preference('Greet.', replies, (1.0, 0.0))
  config = pipeline.shipped('reward_model')
  groups = make_groups([pair], ChatFormat(one), config, 'none')
  for row, mask in zip(groups.token[0, :2], groups.mask[0, :2], strict=True):
    assert row[mask.sum()] == one.eos_token_id
    assert not _control_ids(one) & {*row[mask].tolist()}


def _page(folder: pathlib.Path, texts: list[str]) -> Any:
  """The report of a run whose briefs and replies are these texts."""
  config = report_test.make_runs(folder, steps=1, briefs=1, replies=1)
  path = folder / 'evaluate/evaluation.jsonl'
  brief = json.loads(path.read_text())
  path.unlink()
  for text in texts:
    arm = [brief['base'][0] | {'text': text}]
    named = dict.fromkeys(('brief_id', 'language', 'genre'), text[:99])
    said = {'prompt': text, 'rules': [text, text], 'base': arm, 'trained': arm}
    files.append_jsonl(path, brief | named | said)
  path = folder / 'grpo/rollouts.jsonl'
  group = json.loads(path.read_text())
  path.unlink()
  replies = [group['replies'][0] | {'text': text} for text in texts]
  files.append_jsonl(path, group | {'prompt': texts[0], 'replies': replies})
  run.run(config, folder / 'out')
  return report_test._page(folder / 'out')


def _skeleton(page: Any) -> list[Any]:
  """A page's elements and their attributes, less what data may fill in."""
  return [
    (tag, attributes | dict.fromkeys({'lang', 'src'} & attributes.keys()))
    for tag, attributes in page.tags
  ]


@pytest.mark.slow
def test_a_page_of_attacks_has_the_elements_of_an_honest_one(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  page = _page(tmp_path / 'attacks', [*ATTACKS.values()])
  printed = capsys.readouterr()
  honest = [*PLAIN.values()] * len(ATTACKS)
  assert _skeleton(page) == _skeleton(
    _page(tmp_path / 'plain', honest[: len(ATTACKS)])
  )
  for attack, text in ATTACKS.items():
    # a prompt, two replies, two rules of each, and a sampled reply
    assert page.text.count(clean(text)) >= 8, attack
  assert not STEERING & {*page.text} - {'\t'}
  assert not STEERING & {*printed.out, *printed.err}


def test_a_record_is_one_line_and_reads_back(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'rollouts.jsonl'
  for attack, text in ATTACKS.items():
    record = {'step': 0, 'text': text, text[:99]: 1}
    files.append_jsonl(path, record)
    files.append_jsonl(path, record)
    written = path.read_bytes().decode()
    assert not STEERING & {*written}, attack
    assert list(map(json.loads, written.splitlines())) == [record] * 2, attack
    assert datasets.read_jsonl(path) == [record] * 2, attack
    assert files.count_whole_lines(path, 'step') == 2, attack
    files.drop_from_step(path, 0)
    assert path.read_bytes() == b'', attack


def test_a_summary_of_attacks_reads_back(tmp_path: pathlib.Path) -> None:
  files.write_json(tmp_path / 'summary.json', ATTACKS)
  assert json.loads((tmp_path / 'summary.json').read_text('utf-8')) == ATTACKS


def test_verifying_attacks_prints_none_of_them(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  config = pipeline.shipped('verify')
  config.input = str(tmp_path / 'replies.jsonl')
  rules = ['punctuation:no_comma', 'poem:haiku']
  for text in ATTACKS.values():
    files.append_jsonl(
      tmp_path / 'replies.jsonl',
      {
        'prompt': text,
        'response': text[:FLOOD],
        'instruction_id_list': rules,
        'kwargs': [{}, {}],
      },
    )
  pipeline.run('verify', config, tmp_path)
  lines = (tmp_path / 'verdicts.jsonl').read_text('utf-8').splitlines()
  assert [json.loads(line)['prompt'] for line in lines] == [*ATTACKS.values()]
  printed = capsys.readouterr()
  assert not STEERING & {*printed.out, *printed.err}
  assert 'Verdict' not in printed.out + printed.err


def test_the_attacks_are_what_they_claim_to_be() -> None:
  assert len(ATTACKS) >= 60 and len({*ATTACKS.values()}) == len(ATTACKS)
  assert all(len(f'a{s}b'.splitlines()) == 2 for s in LINE_SEPARATORS.values())
  for name in ('tag-characters', 'bidi-override', 'zero-width-order'):
    assert 'Cf' in map(unicodedata.category, ATTACKS[name])


@pytest.mark.parametrize('kind', ['greetings', 'writing'])
@pytest.mark.parametrize('language', ['en', 'zh'])
def test_principles_are_ten_short_rules_at_most(
  kind: str, language: str
) -> None:
  text = (PROMPTS / f'principles_{kind}_{language}.md').read_text('utf-8')
  _, _, *rules = text.splitlines()
  assert 1 <= len(rules) <= 10
  for number, rule in enumerate(rules, 1):
    assert rule.startswith(f'{number}. ')
  size = len(text.split()) if language == 'en' else len(text)
  low, high = (150, 350) if language == 'en' else (250, 600)
  assert low <= size <= high
  assert 'Good' in text and 'Bad' in text
  assert ('Longer is not better' if language == 'en' else '长不等于好') in text
  assert not {*text} & {*'{}<>#'}
