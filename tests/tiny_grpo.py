"""A model that knows some words and when to end, and what it may learn.

Its runs take seconds, as they have one device and what one compiled serves all
(the fixtures `apprentice` and `one_device`).
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pipeline
import torch
import transformers
from ml_collections import ConfigDict

from rlcw.data import datasets

WORDS = ['the', 'sea', 'rain', 'owl', 'moss', 'tin', 'lamp', 'plum']
KEYWORDS = 'sea', 'owl'  # of the briefs: words that it seldom writes
_RARE, _END, _ABSENT = -2.5, 0.5, -9.0  # logits, where other words have 0
_STEADY = 4.0  # the first feature of every token, by which biases are read


def save(
  folder: pathlib.Path,
  make_llama: Callable[..., Any],
  save_tokenizer: Callable[..., None],
) -> pathlib.Path:
  """Writes a random tiny Llama whose replies are words in any order.

  Its head reads a feature that is the same everywhere as a bias.
  """
  save_tokenizer(folder, [f'{" ".join(WORDS)} ' * 50])
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = make_llama(
    tie_word_embeddings=False,
    initializer_range=0.1,
    max_position_embeddings=4096,
  )
  bias = torch.full((model.config.vocab_size,), _ABSENT)
  bias[tokenizer.eos_token_id] = _END
  for word in WORDS:
    (token,) = tokenizer.encode(f' {word}', add_special_tokens=False)
    bias[token] = _RARE if word in KEYWORDS else 0.0
  with torch.no_grad():
    model.model.norm.weight[0] = 1.0
    model.model.embed_tokens.weight[:, 0] = _STEADY
    model.lm_head.weight[:, 0] = bias / 5.0  # the feature after the norm
  model.save_pretrained(folder)
  return folder


def write_briefs(file: pathlib.Path) -> None:
  """Writes 16 briefs, each with the rule to mention a keyword."""
  lines = [
    json.dumps(
      {
        'id': f'brief {n}',
        'prompt': f'Write {n}.',
        'instruction_id_list': ['keywords:existence'],
        'kwargs': [{'keywords': [KEYWORDS[n % 2]]}],
        'split': 'train',
      }
    )
    for n in range(16)
  ]
  file.write_text('\n'.join(lines) + '\n')


def settings(
  model: pathlib.Path, folder: pathlib.Path, **changes: Any
) -> ConfigDict:
  """Of a `grpo` run on 64 replies of up to 16 tokens a step."""
  write_briefs(folder / 'briefs.jsonl')
  config = pipeline.tiny_config('grpo', model, folder)
  small = {
    'briefs': str(folder / 'briefs.jsonl'),
    'group_size': 8,
    'max_new_tokens': 16,
    'checkpoint_every': 1000,
    'temperature': 1.0,
    'kl_weight': 0.01,
    'learning_rate': 4e-3,
    'mixing.all_violating': 'skip',
  }
  config.update_from_flattened_dict(
    small | {k.replace('__', '.'): v for k, v in changes.items()}
  )
  return config


def run(config: ConfigDict, workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Runs `grpo`; returns its metrics."""
  pipeline.run('grpo', config, workdir)
  return datasets.read_jsonl(workdir / 'metrics.jsonl')


# --- Writing rewards --------------------------------------------------------


def _table(value: Callable[[list[str]], float]) -> Callable[..., np.ndarray]:
  return lambda briefs, replies: np.array(
    [[value(reply.split()) for reply in group] for group in replies], float
  )


variety = _table(lambda words: min(len({*words} & {*WORDS}), 3))
length = _table(len)
plums = _table(lambda words: words.count('plum'))
nothing = _table(lambda words: 0.0)
choice = _table(
  lambda words: np.mean([w in WORDS[4:] for w in words]) if words else np.nan
)
