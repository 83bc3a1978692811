"""The models of scripts/models.sh against Transformers, from the same files.

Those that have not been downloaded are skipped.
"""

import pathlib
from typing import Any, NamedTuple

import forward_variants
import jax
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
  """A model, as it was loaded here and by Transformers."""

  name: str
  config: Any
  params: Any
  theirs: Any
  chat: ChatFormat

  def encode(self, text: str) -> list[int]:
    # Gemma was trained to expect its start token, which a chat would add.
    start = [2] if self.name == 'gemma3_270m' else []
    return start + tokenizer.encode(self.chat.tokenizer, text)


@pytest.fixture(scope='module', params=FILES)
def real(request: pytest.FixtureRequest) -> Real:
  path = pathlib.Path(ROOT, 'models', FILES[request.param])
  if not path.exists():
    pytest.skip(f'{path} is absent: scripts/models.sh {request.param}')
  config, params = weights.load(path)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    path.parent,
    gguf_file=path.name,
    dtype=torch.float32,
    attn_implementation='eager',
  )
  return Real(
    request.param,
    config,
    jax.tree.map(jax.numpy.asarray, params),
    theirs.eval(),
    ChatFormat(tokenizer.load(path)),
  )


def test_logits_equal_transformers(real: Real) -> None:
  text = ' '.join(ENGLISH + CHINESE)
  token_1xL = np.array([real.encode(text)[:64]])
  ours = forward_variants.logits(real.config, real.params, token_1xL)
  theirs = forward_variants.torch_logits(real.theirs, token_1xL)
  assert np.abs(ours - theirs).max() <= 1e-3


@pytest.mark.parametrize('prompts', [ENGLISH, CHINESE], ids=['en', 'zh'])
def test_greedy_replies_equal_transformers(
  real: Real, prompts: list[str]
) -> None:
  rows = [real.encode(prompt) for prompt in prompts]
  prompt_PxL = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row_L, ids in zip(prompt_PxL, rows, strict=True):
    row_L[: len(ids)] = ids
  rollout = sample(
    real.params,
    prompt_PxL,
    np.array([len(ids) for ids in rows]),
    np.arange(len(rows)),
    Greedy(),
    0,
    0,
    config=real.config,
    group_size=1,
    max_new_tokens=NEW_TOKENS,
    eos=(),
  )
  real.theirs.generation_config.eos_token_id = None
  for i, ids in enumerate(rows):
    brief = torch.tensor([ids])
    written = real.theirs.generate(
      brief,
      attention_mask=torch.ones_like(brief),
      do_sample=False,
      repetition_penalty=1.0,
      max_new_tokens=NEW_TOKENS,
    )[0, len(ids) :].tolist()
    assert len(written) == NEW_TOKENS
    assert rollout.token[i, 0].tolist() == written, real.chat.decode_reply(
      written
    )
