"""The models of scripts/models.sh against Transformers, from the same files.

Those that have not been downloaded are skipped.
"""

import pathlib
from typing import Any, NamedTuple

import forward_variants
import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT

from rlcw.models import tokenizer, weights
from rlcw.models.chat import ChatFormat
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Greedy

pytestmark = pytest.mark.slow

ENGLISH = [
  'The lighthouse keeper wrote a letter to the sea every evening, and',
  'Once upon a time, in a village without clocks,',
  'Write a haiku about the sea.',
]
CHINESE = [
  '老师，教师节快乐！愿您',
  '从前，在一个没有钟表的村庄里，',
  '请为奶奶的七十岁生日写一段祝福，不超过三十字。',
]
FILES = {
  'smollm2': 'SmolLM2-135M-Instruct.Q4_1.gguf',
  'gemma3_270m': 'gemma-3-270m.Q4_K_M.gguf',
  'qwen_coder_0_5b': 'Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf',
  'qwen_coder_1_5b': 'Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf',
}
NEW_TOKENS = 32


class Real(NamedTuple):
  """What a model computes here, and the same model of Transformers.

  The larger ones do not fit into memory twice.
  """

  name: str
  chat: ChatFormat
  logits_1xLxV: np.ndarray
  replies: dict[str, np.ndarray]  # by language, [P, T]
  theirs: Any


PROMPTS = {'en': ENGLISH, 'zh': CHINESE}


def _encode(name: str, chat: ChatFormat, text: str) -> list[int]:
  # Gemma was trained to expect its start token, which a chat would add.
  start = [2] if name == 'gemma3_270m' else []
  return start + tokenizer.encode(chat.tokenizer, text)


def _text(name: str, chat: ChatFormat) -> np.ndarray:
  return np.array([_encode(name, chat, ' '.join(ENGLISH + CHINESE))[:64]])


def _greedy(config: Any, params: Any, rows: list[list[int]]) -> np.ndarray:
  prompt_PxL = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row_L, ids in zip(prompt_PxL, rows, strict=True):
    row_L[: len(ids)] = ids
  rollout = sample(
    params,
    prompt_PxL,
    np.array([len(ids) for ids in rows]),
    np.arange(len(rows)),
    Greedy(),
    0,
    0,
    config=config,
    group_size=1,
    max_new_tokens=NEW_TOKENS,
    eos=(),
  )
  return np.asarray(rollout.token[:, 0])


@pytest.fixture(scope='module', params=FILES)
def real(request: pytest.FixtureRequest) -> Real:
  name = request.param
  path = pathlib.Path(ROOT, 'models', FILES[name])
  if not path.exists():
    pytest.skip(f'{path} is absent: scripts/models.sh {name}')
  chat = ChatFormat(tokenizer.load(path))
  config, params = weights.load(path)
  logits_1xLxV = forward_variants.logits(config, params, _text(name, chat))
  replies = {
    language: _greedy(
      config, params, [_encode(name, chat, prompt) for prompt in prompts]
    )
    for language, prompts in PROMPTS.items()
  }
  del params
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    dtype=torch.float32,
    attn_implementation='eager',
  )
  return Real(name, chat, np.asarray(logits_1xLxV), replies, theirs.eval())


def test_logits_equal_transformers(real: Real) -> None:
  text_1xL = _text(real.name, real.chat)
  theirs_1xLxV = forward_variants.torch_logits(real.theirs, text_1xL)
  assert np.abs(real.logits_1xLxV - theirs_1xLxV).max() <= 1e-3


@pytest.mark.parametrize('language', PROMPTS)
def test_greedy_replies_equal_transformers(real: Real, language: str) -> None:
  real.theirs.generation_config.eos_token_id = None
  replies = real.replies[language]
  for prompt, reply in zip(PROMPTS[language], replies, strict=True):
    ids = _encode(real.name, real.chat, prompt)
    brief = torch.tensor([ids])
    written = real.theirs.generate(
      brief,
      attention_mask=torch.ones_like(brief),
      do_sample=False,
      repetition_penalty=1.0,
      max_new_tokens=NEW_TOKENS,
    )[0, len(ids) :].tolist()
    assert len(written) == NEW_TOKENS
    assert reply.tolist() == written, real.chat.decode_reply(written)
