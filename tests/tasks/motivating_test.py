"""Briefs that tell their scoring, to the policy in training and nobody else."""

import json
import pathlib
from types import SimpleNamespace
from typing import Any
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tiny_grpo
from ml_collections import ConfigDict

from rlcw.data import datasets
from rlcw.data.messages import Message, transcript
from rlcw.models.chat import ChatFormat
from rlcw.rewards import motivation, plain
from rlcw.rewards.briefs import Brief
from rlcw.tasks.grpo import motivating

RULES = ('punctuation:no_exclamation',), ({},)


@pytest.mark.parametrize(
  ('mixer', 'language', 'words', 'not_words'),
  [
    ('rlmr', 'en', ['breaks a rule', 'unfinished', 'better written'], []),
    ('gdpo', 'zh', ['违反', '没有写完', '写得更好'], ['Scoring']),
    ('writing', 'en', ['better written'], ['rule', 'unfinished']),
    ('writing', 'zh', ['写得更好'], ['违反']),
    ('constraint', 'en', ['breaks a rule', 'unfinished'], ['better']),
    ('constraint', 'zh', ['违反', '没有写完'], ['更好']),
    ('linear', 'fr', ['Scoring', 'breaks a rule', 'better written'], []),
  ],
)
def test_the_note_words_the_scoring(
  mixer: str, language: str, words: list[str], not_words: list[str]
) -> None:
  text = motivation.note(mixer, language)
  assert all(word in text for word in words)
  assert not any(word in text for word in not_words)


@pytest.mark.parametrize(
  ('language', 'expected'),
  [
    ('en', 'Scoring: a reply that is left unfinished counts as a failure; '),
    ('zh', '评分方式：没有写完的回复算作失败；'),
  ],
)
def test_without_verifiers_the_note_has_no_rules(
  language: str, expected: str
) -> None:
  assert motivation.note('rlmr', language, checked=False).startswith(expected)


def test_the_note_ends_the_last_message() -> None:
  assert motivation.with_note('Write.', 'N.') == 'Write.\n\nN.'
  turns = Message('system', 'S'), Message('user', 'A')
  last = Message('user', 'A\n\nN.')
  assert motivation.with_note(turns, 'N.') == (turns[0], last)


def spelled(prompt: Any) -> list[int]:
  return [*map(ord, transcript(prompt))]


@hypothesis.settings(max_examples=50)
@hypothesis.given(
  prompts=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=4),
  language=st.sampled_from(['en', 'zh']),
  kl=st.booleans(),
  shared=st.booleans(),
)
def test_scorers_read_plain_briefs_and_the_reference_reads_the_note(
  prompts: list[str], language: str, kl: bool, shared: bool
) -> None:
  chat: Any = SimpleNamespace(encode_prompt=spelled)
  fake: Any = SimpleNamespace(
    reference=kl,
    model=SimpleNamespace(chat=chat),
    config=ConfigDict(),
    shards=SimpleNamespace(to_global=lambda arrays: arrays),
    writing=SimpleNamespace(reward=SimpleNamespace(shared=shared)),
  )
  seen: dict[str, list[str]] = {}

  def read(
    model: Any, reward: Any, prompt: Any, length: Any, *more: Any, **how
  ):
    assert (model, more) == (fake.model, (rollout, fake.config, 'live'))
    kind = 'reference' if how['reference'] else 'scores'
    assert reward is (None if how['reference'] else fake.writing.reward)
    seen[kind] = [
      ''.join(map(chr, row[:n])) for row, n in zip(prompt, length, strict=True)
    ]
    return f'{kind}: scores', f'{kind}: log-probabilities'

  config = ConfigDict(
    {'tell_scoring': True, 'mixing': {'name': 'rlmr'}, 'verifiers': ('rules',)}
  )
  briefs = [Brief('x', each, *RULES, language) for each in prompts]
  rows = [motivating.encode(brief, chat, config) for brief in briefs]
  length_P = np.array([len(row) for row in rows])
  prompt_PxL = np.zeros((len(rows), 512), np.int32)
  for p, row in enumerate(rows):
    prompt_PxL[p, : len(row)] = row
  rollout: Any = SimpleNamespace(given=None)
  arrays: Any = prompt_PxL, length_P, rollout, 'live'
  with mock.patch.object(plain.rollout_scores, 'read', read):
    found = plain.PlainScorer(fake).read(briefs, *arrays)
  text = motivation.note('rlmr', language)
  noted = [f'{brief.text}\n\n{text}' for brief in briefs]
  assert seen.get('scores') == (
    [brief.text for brief in briefs] if shared else None
  )
  assert seen.get('reference') == (noted if kl else None)
  assert found == (
    'scores: scores' if shared else None,
    'reference: log-probabilities' if kl else None,
  )


def test_briefs_have_no_note_by_default() -> None:
  chat: Any = SimpleNamespace(encode_prompt=spelled)
  brief = Brief('x', 'Write.', *RULES)
  for config in (ConfigDict(), ConfigDict({'tell_scoring': False})):
    assert motivating.encode(brief, chat, config) == spelled(brief.request)
    assert motivating.note(brief, config) == ''


def test_a_run_tells_the_policy_alone(
  apprentice: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  one_device: None,
) -> None:
  """Its groups are relabelled, and it is evaluated while it trains."""
  encode, read, judged = ChatFormat.encode_prompt, [], []

  def encoding(self: ChatFormat, prompt: Any) -> list[int]:
    read.append(transcript(prompt))
    return encode(self, prompt)

  variety = tiny_grpo.variety

  def writing(briefs: Any, replies: Any) -> np.ndarray:
    judged.extend(str(brief) for brief in briefs)
    return variety(briefs, replies)

  monkeypatch.setattr(ChatFormat, 'encode_prompt', encoding)
  monkeypatch.setattr(tiny_grpo, 'variety', writing)
  config = tiny_grpo.settings(
    apprentice,
    tmp_path,
    steps=2,
    writing='tiny_grpo:variety',
    mixing__all_violating='relabel',
    tell_scoring=True,
    eval_every=1,
    show_every=1,
  )
  rules = [{'keywords': ['sea']}, {'keywords': ['zebra']}]
  lines = [
    {
      'id': f'brief {n}',
      'prompt': f'{"Train" if n < 8 else "Hold"} {n}.',
      'instruction_id_list': ['keywords:existence'] * 2,
      'kwargs': rules,
      'split': 'train' if n < 8 else 'heldout',
    }
    for n in range(12)
  ]
  (tmp_path / 'briefs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  rows = tiny_grpo.run(config, tmp_path / 'run')
  groups = datasets.read_jsonl(tmp_path / 'run' / 'rollouts.jsonl')
  assert rows[0]['relabelled_groups'] > 0
  # Policy and reference, which are one model at first, read the same.
  assert abs(rows[0]['kl']) < 1e-6 and rows[0]['sampler_gap'] < 1e-4
  assert any('zebra' not in each for each in read if 'Scoring' in each)
  held = [each for each in read if 'Hold' in each]
  assert held and not any('Scoring' in each for each in held)
  assert judged and not any('Scoring' in each for each in judged)
  for group in groups:
    assert group['note'] == motivation.note('rlmr', 'en')
    assert 'Scoring' not in group['prompt'] + group.get('learned_prompt', '')
