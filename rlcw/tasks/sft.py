"""Task `sft`: learn to write as shown.

1. examples are packed into rows, once; none sees another of its row
2. a step learns from some rows, of which each epoch has a fresh order
3. the loss is −log p of the reply's tokens, EOS included, over their number
4. held-out examples are measured before and after
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config, losses, train
from rlcw.data import batches, datasets
from rlcw.models import language_model, layers, lora, tokenizer
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, forward_packed, head_weight
from rlcw.runtime import metrics, processes
from rlcw.runtime.mesh import group_shards, make_mesh, with_mesh


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains a policy on examples; returns its summary."""
  check(config)
  model = language_model.load(config.model, make_mesh(**config.mesh))
  shape = lora.configure(model.config, config)
  shape = dataclasses.replace(shape, remat=config.remat)
  load = functools.partial(
    datasets.load_examples,
    config.examples,
    language=config.language,
    heldout=config.heldout,
  )
  examples = {split: load(split=split) for split in ('train', 'heldout')}
  arrays = {
    split: make_arrays(each, model.tokenizer, config.row_tokens, config.seed)
    for split, each in examples.items()
  }
  total = len(arrays['train']['token'])
  padding = float(np.mean(arrays['train']['segment'] == 0))
  metrics.log(
    f'sft: {len(examples["train"])} examples in {total} rows of '
    f'{config.row_tokens} tokens, {padding:.1%} of them padding'
  )
  learned, frozen = lora.split(shape, model.params, model.mesh, config.seed)
  loss_fn = make_loss(shape)
  measure = functools.partial(mean_loss, loss_fn, arrays['heldout'], config)
  before = measure(learned, frozen)
  parts = processes.DataShards(model.mesh)

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    rows = batches.batch_indices(
      config.seed, step, config.rows_per_step, total, *parts.index_and_count
    )
    batch = {name: array[rows] for name, array in arrays['train'].items()}
    batch = parts.to_global(batch)
    jax.block_until_ready(state.params)
    return train.Batch(batch, {}, time.perf_counter())

  optimizer = train.make_optimizer(
    config.learning_rate,
    warmup_steps=config.warmup_steps,
    max_grad_norm=config.max_grad_norm,
  )
  state = train.fit(
    learned,
    next_batch,
    loss_fn,
    optimizer,
    model.mesh,
    frozen=frozen,
    name='sft',
    steps=config.steps,
    workdir=workdir,
    checkpoint_every=config.checkpoint_every,
  )
  summary = {
    'steps': int(state.step),
    'train_examples': len(examples['train']),
    'heldout_examples': len(examples['heldout']),
    'train_rows': total,
    'padding': padding,
    'heldout_loss_base': before,
    'heldout_loss_trained': measure(state.params, frozen),
  }
  metrics.log(
    f'sft: held-out loss {before:.3f} before, '
    f'{summary["heldout_loss_trained"]:.3f} after, in nats per token'
  )
  return summary


def check(config: Config) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  shards = group_shards(make_mesh(**config.mesh))
  if config.rows_per_step < 1 or config.rows_per_step % shards:
    raise ValueError(
      f'rows_per_step={config.rows_per_step} does not split over the {shards} '
      f'devices of the data and fsdp axes; legal: multiples of {shards}'
    )


def make_arrays(
  examples: Sequence[datasets.Example], text: Any, row_tokens: int, seed: int
) -> dict[str, np.ndarray]:
  """Examples packed into B rows of L tokens, of which at most T are learned.

  Returns:
    token: ids `[B, L]`.
    segment: the number of the example in its row that each token is of
      `[B, L]`, from 1; 0 is padding.
    place: where the tokens stand after which one is learned `[B, T]`.
    mask: which of those places are real `[B, T]`.

  Raises:
    ValueError: an example is longer than a row.
  """
  end = int(text.eos_token_id)
  prompts = [tokenizer.chat(text, each.prompt) for each in examples]
  replies = [[*tokenizer.encode(text, each.response), end] for each in examples]
  lengths = [len(p) + len(r) for p, r in zip(prompts, replies, strict=True)]
  tokens, segments, places = [], [], []
  for row in batches.pack(lengths, row_tokens, seed):
    token, segment, place = [], [], []
    for number, i in enumerate(row, 1):
      # nothing comes before the first token of an example without a prompt
      first = len(token) + max(len(prompts[i]), 1) - 1
      token += prompts[i] + replies[i]
      segment += [number] * lengths[i]
      place += range(first, len(token) - 1)
    tokens.append(token)
    segments.append(segment)
    places.append(place)
  place_BxT, count_B = batches.pad(places)
  return {
    'token': batches.pad(tokens, row_tokens)[0],
    'segment': batches.pad(segments, row_tokens)[0],
    'place': place_BxT,
    'mask': np.arange(place_BxT.shape[1]) < count_B[:, None],
  }


def make_loss(config: ModelConfig) -> train.LossFn:
  """Cross-entropy of the replies' tokens, of parameters and a batch."""

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    params = lora.join(params, frozen)
    token_BxL, place_BxT = arrays['token'], arrays['place']
    hidden_BxLxD = forward_packed(config, params, token_BxL, arrays['segment'])
    # the head is as dear as many blocks, and runs where something is learned
    predicting_BxTxD = jnp.take_along_axis(
      hidden_BxLxD, place_BxT[..., None], axis=1
    )
    logp_N = layers.token_logprobs(
      predicting_BxTxD.reshape(-1, hidden_BxLxD.shape[-1]),
      head_weight(params),
      jnp.take_along_axis(token_BxL, place_BxT + 1, axis=1).reshape(-1),
    )
    return {'loss': losses.cross_entropy(logp_N, arrays['mask'].reshape(-1))}

  return loss_fn


def mean_loss(
  loss_fn: train.LossFn,
  arrays: dict[str, np.ndarray],
  config: Config,
  params: Params,
  frozen: Params,
) -> float:
  """Nats per token over all rows, `rows_per_step` at a time."""
  loss, size = jax.jit(loss_fn), config.rows_per_step
  total, numerator, denominator = len(arrays['token']), 0.0, 0.0
  for first in range(0, total, size):
    rows = np.arange(first, first + size)
    batch = {name: array[rows % total] for name, array in arrays.items()}
    # the last batch is filled up, so that all have one shape
    batch['mask'] = batch['mask'] & (rows < total)[:, None]
    part = loss(params, frozen, batch)['loss']
    numerator += float(part.numerator)
    denominator += float(part.denominator)
  return numerator / denominator
