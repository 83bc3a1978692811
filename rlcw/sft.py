"""Task `sft`: learn to write as shown.

1. every example is a group of one reply, its brief read but not learned
2. the loss is −log p of the reply's tokens, EOS included, over their number
3. held-out examples are measured before and after
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlcw import (
  Config,
  data,
  lora,
  losses,
  metrics,
  policy,
  sharding,
  tokenizer,
  train,
)
from rlcw.model import Params, head_weight, read_replies
from rlcw.model_config import ModelConfig


@sharding.ambient
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains a policy on examples; returns its summary."""
  started = time.perf_counter()
  model = policy.load(config.model, sharding.make_mesh(**config.mesh))
  shape = lora.configure(model.config, config)
  shape = dataclasses.replace(shape, remat=config.remat)
  load = functools.partial(
    data.load_examples, config.examples, language=config.language
  )
  arrays = {
    split: make_arrays(load(split=split), model.text)
    for split in ('train', 'heldout')
  }
  learned, frozen = lora.split(shape, model.params, model.mesh, config.seed)
  loss_fn = make_loss(shape)
  measure = functools.partial(mean_loss, loss_fn, arrays['heldout'], config)
  before = measure(lora.join(learned, frozen))
  over, total = sharding.over_groups(model.mesh), len(arrays['train']['length'])

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    rows = data.batch_indices(
      config.seed, step, config.examples_per_step, total
    )
    batch = {name: array[rows] for name, array in arrays['train'].items()}
    batch = jax.device_put(batch, over)
    jax.block_until_ready(state.params)
    return train.Batch(batch, {}, time.perf_counter())

  optimizer = train.make_optimizer(
    config.learning_rate,
    warmup_steps=config.warmup_steps,
    max_grad_norm=config.max_grad_norm,
  )
  state = train.fit(
    train.init_state(learned, optimizer, model.mesh),
    next_batch,
    loss_fn,
    optimizer,
    frozen=frozen,
    name='sft',
    steps=config.steps,
    workdir=workdir,
    checkpoint_every=config.checkpoint_every,
  )
  summary = {
    'steps': int(state.step),
    'train_examples': total,
    'heldout_examples': len(arrays['heldout']['length']),
    'heldout_loss_base': before,
    'heldout_loss_trained': measure(lora.join(state.params, frozen)),
    'wall_seconds': time.perf_counter() - started,
    'peak_memory_gib': metrics.peak_memory_gib(),
    'hardware': metrics.hardware(),
  }
  metrics.write_json(workdir / 'summary.json', summary)
  metrics.say(
    f'sft: held-out loss {before:.3f} before, '
    f'{summary["heldout_loss_trained"]:.3f} after, in nats per token'
  )
  return summary


def make_arrays(
  examples: list[data.Example], text: Any
) -> dict[str, np.ndarray]:
  """N examples: prompts `[N, L]`, their lengths, replies `[N, 1, T]`, masks."""
  prompt_NxL, length_N = data.pad(
    tokenizer.chat(text, example.prompt) for example in examples
  )
  end = int(text.eos_token_id)
  token_NxT, count_N = data.pad(
    [*tokenizer.encode(text, example.response), end] for example in examples
  )
  mask_NxT = np.arange(token_NxT.shape[1]) < count_N[:, None]
  return {
    'prompt': prompt_NxL,
    'length': length_N,
    'token': token_NxT[:, None],
    'mask': mask_NxT[:, None],
  }


def make_loss(config: ModelConfig) -> train.LossFn:
  """Cross-entropy of the replies' tokens, of parameters and a batch."""

  def loss_fn(params: Params, arrays: Any) -> dict[str, losses.Ratio]:
    predicting, _ = read_replies(
      config, params, arrays['prompt'], arrays['length'], arrays['token']
    )
    logp_N = losses.token_logprobs(
      predicting.reshape(-1, predicting.shape[-1]),
      head_weight(params),
      arrays['token'].reshape(-1),
    )
    return {'loss': losses.cross_entropy(logp_N, arrays['mask'].reshape(-1))}

  return loss_fn


def mean_loss(
  loss_fn: train.LossFn,
  arrays: dict[str, np.ndarray],
  config: Config,
  params: Params,
) -> float:
  """Nats per token over all examples, `examples_per_step` at a time."""
  loss, size = jax.jit(loss_fn), config.examples_per_step
  total, numerator, denominator = len(arrays['length']), 0.0, 0.0
  for first in range(0, total, size):
    rows = np.arange(first, first + size)
    batch = {name: array[rows % total] for name, array in arrays.items()}
    # the last batch is filled up, so that all have one shape
    batch['mask'] = batch['mask'] & (rows < total)[:, None, None]
    part = loss(params, batch)['loss']
    numerator += float(part.numerator)
    denominator += float(part.denominator)
  return numerator / denominator
