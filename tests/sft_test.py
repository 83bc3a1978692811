"""Learning from examples: what counts, and that it is learned."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pipeline
import pytest

from rlcw import data, metrics, policy, sft, sharding, tokenizer
from rlcw.model import Decoder, head_weight

EXAMPLES = [
  data.Example('To the sea', 'Dear sea, be kind.'),
  data.Example('To the keeper of the light', 'No.'),
]


@pytest.fixture(scope='module')
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('examples') / 'examples.jsonl'
  for n in range(24):
    metrics.append_jsonl(
      path,
      {
        'prompt': f'Letter {n}',
        'response': f'The keeper wrote letter {n} to the sea.',
        'split': 'heldout' if n % 3 == 0 else 'train',
      },
    )
  return path


def test_the_loss_is_that_of_the_replies_tokens(
  tiny_folder: pathlib.Path,
) -> None:
  model = policy.load(
    tiny_folder, sharding.make_mesh(devices=jax.devices()[:1])
  )
  arrays = sft.make_arrays(EXAMPLES, model.text)
  told = sft.make_loss(model.config)(model.params, arrays)['loss']
  expected, count = 0.0, 0
  for example in EXAMPLES:
    prompt = tokenizer.chat(model.text, example.prompt)
    reply = tokenizer.encode(model.text, example.response)
    row = np.array([*prompt, *reply, model.text.eos_token_id])
    hidden, _ = Decoder(model.config).apply(
      {'params': model.params}, row[None, None]
    )
    logits = hidden[0, 0] @ head_weight(model.params).T
    logp = np.asarray(jax.nn.log_softmax(logits))
    for at in range(len(prompt), len(row)):
      expected -= logp[at - 1, row[at]]
      count += 1
  assert told.denominator == count
  assert float(told.numerator) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('learns', ['all', 'lora'])
def test_held_out_loss_falls(
  learns: str,
  file: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.examples, config.train = str(file), learns
  if learns == 'lora':
    config.learning_rate = 3e-2
  pipeline.run('sft', config, tmp_path / 'sft')
  told: dict[str, Any] = json.loads(
    (tmp_path / 'sft' / 'summary.json').read_text()
  )
  assert told['train_examples'] == 16 and told['heldout_examples'] == 8
  assert told['heldout_loss_trained'] < told['heldout_loss_base'] - 0.2
  mesh = sharding.make_mesh()
  assert policy.load(tmp_path / 'sft', mesh).config.lora is None


def test_a_short_last_batch_counts_each_example_once(
  tiny_folder: pathlib.Path,
) -> None:
  from ml_collections import ConfigDict

  model = policy.load(
    tiny_folder, sharding.make_mesh(devices=jax.devices()[:1])
  )
  arrays = sft.make_arrays([*EXAMPLES, EXAMPLES[0]], model.text)
  loss_fn = sft.make_loss(model.config)
  losses = [
    sft.mean_loss(
      loss_fn, arrays, ConfigDict({'examples_per_step': size}), model.params
    )
    for size in (2, 3, 5)
  ]
  assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.parametrize('record', [{'prompt': 'x'}, {'response': 'x'}])
def test_a_record_that_lacks_something_is_named(
  record: dict[str, str], tmp_path: pathlib.Path
) -> None:
  metrics.append_jsonl(tmp_path / 'bad.jsonl', record)
  with pytest.raises(ValueError, match=r'bad\.jsonl: record 1: '):
    data.load_examples(tmp_path / 'bad.jsonl')


def test_of_a_pair_the_chosen_reply_is_the_example() -> None:
  pairs = data.load_preferences('@preferences.jsonl', split='heldout')
  examples = data.load_examples('@preferences.jsonl', split='heldout')
  assert [e.response for e in examples] == [p.chosen for p in pairs]
