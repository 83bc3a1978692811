"""The real model against Transformers; one file, as both take long to load."""

import pathlib
from typing import Any

import forward_variants
import numpy as np
import pytest
import torch

from rlcw.models import tokenizer
from rlcw.models.chat import ChatFormat
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Greedy

TEXT = (
  'The lighthouse keeper wrote a letter to the sea every evening, folded it '
  'twice, and let the wind take it. On the 14th of March, the sea answered: '
  '"Dear keeper, your lamp has been too bright; the whales cannot sleep." He '
  'read it by moonlight, and he laughed until the gulls came to look at him.'
)


@pytest.mark.slow
def test_smollm2_logits_equal_transformers(
  smollm2: Any, smollm2_torch: Any, smollm2_path: pathlib.Path
) -> None:
  ids = tokenizer.encode(tokenizer.load(smollm2_path), TEXT)
  token_1xL = np.array([ids[:64]])
  assert token_1xL.shape == (1, 64)
  ours = forward_variants.logits(*smollm2, token_1xL)
  theirs = forward_variants.torch_logits(smollm2_torch, token_1xL)
  assert np.abs(ours - theirs).max() <= 1e-3


@pytest.mark.slow
def test_greedy_equals_transformers_on_smollm2(
  smollm2: Any, smollm2_torch: Any, smollm2_path: Any
) -> None:
  config, params = smollm2
  chat = ChatFormat(tokenizer.load(smollm2_path))
  ids = chat.encode_prompt('Write a haiku about the sea.')
  theirs = smollm2_torch.generate(
    torch.tensor([ids]), max_new_tokens=16, do_sample=False
  )[0, len(ids) :].numpy()
  prompt_1xL = np.pad([ids], ((0, 0), (0, 64 - len(ids))))
  rollout = sample(
    params,
    prompt_1xL,
    np.array([len(ids)]),
    np.array([0]),
    Greedy(),
    0,
    0,
    config=config,
    group_size=1,
    max_new_tokens=16,
    eos=(0, 2),
  )
  assert len(theirs) == 16
  np.testing.assert_array_equal(rollout.token[0, 0], theirs)
