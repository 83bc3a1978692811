"""Task `reward_model`: a writing reward learned from preference pairs.

1. every pair is a group of four replies to one prompt; the frozen decoder
   reads them once and leaves their features
2. a linear head is fitted to them with the Bradley–Terry loss
3. where `train` is more than the head, decoder and head go on together from
   there (first the head, then all: arXiv 2202.10054)
4. it is judged on held-out themes, beside what length alone would get
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from rlcw.model import Params, read_replies
from rlcw.policy import Policy
from rlcw.rewards import writing


@sharding.ambient
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains and judges a reward model; returns its summary."""
  started = time.perf_counter()
  check(config)
  model = policy.load(config.model, sharding.make_mesh(**config.mesh))
  load = functools.partial(
    data.load_preferences, config.preferences, language=config.language
  )
  groups = {
    split: make_groups(load(split=split), model.text, config)
    for split in ('train', 'heldout')
  }
  features = {k: group_features(g, model, config) for k, g in groups.items()}
  head = fit_head(features['train'], config, workdir)
  if config.train != 'head':
    model, head = fit_decoder(groups['train'], model, head, config, workdir)
    features = {k: group_features(g, model, config) for k, g in groups.items()}
    spread = (features['train'] @ head.weight).std() + 1e-6
    head = writing.Head(head.weight / spread, head.bias / spread)
  writing.save(head, workdir)
  scores = {k: f @ head.weight + head.bias for k, f in features.items()}
  summary = judge(groups['heldout'].pairs, scores['heldout'][:, :2])
  summary |= {
    'broken_accuracy': accuracy(scores['heldout'][:, [0, 2]]),
    'looping_accuracy': accuracy(scores['heldout'][:, [0, 3]]),
    'heldout_pairs': len(scores['heldout']),
    'train_pairs': len(scores['train']),
    'train_accuracy': accuracy(scores['train'][:, :2]),
    'wall_seconds': time.perf_counter() - started,
    'peak_memory_gib': metrics.peak_memory_gib(),
    'hardware': metrics.hardware(),
  }
  metrics.write_json(workdir / 'summary.json', summary)
  metrics.say(
    f'reward model: {summary["heldout_accuracy"]:.1%} of '
    f'{summary["heldout_pairs"]} held-out pairs right; length alone '
    f'{summary["length_only_accuracy"]:.1%}'
  )
  return summary


def check(config: Config) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  for name, value, legal in (
    ('train', config.train, ('head', *lora.LEARNING)),
    ('pooling', config.pooling, writing.POOLING),
  ):
    if value not in legal:
      raise ValueError(f'{name}={value!r} is unknown; legal: {legal}')


class Groups(NamedTuple):
  """Preference pairs as arrays: N prompts with 4 replies to each."""

  pairs: list[data.Preference]
  prompt: np.ndarray  # [N, L]
  length: np.ndarray  # [N]
  token: np.ndarray  # [N, 4, T]
  mask: np.ndarray  # [N, 4, T], what the features are the mean of

  def rows(self, index_B: np.ndarray) -> dict[str, np.ndarray]:
    """Some of them, without the pairs."""
    arrays = self._asdict()
    del arrays['pairs']
    return {name: array[index_B] for name, array in arrays.items()}


def make_groups(
  pairs: list[data.Preference], text: Any, config: Config
) -> Groups:
  """Tokenises pairs; every reply ends with EOS, as a finished one does."""
  prompt_NxL, length_N = data.pad(
    tokenizer.chat(text, pair.prompt) for pair in pairs
  )
  token, count = data.pad(group_tokens(pairs, text, config))
  token_Nx4xT, count_Nx4 = (
    array.reshape(len(pairs), 4, *array.shape[1:]) for array in (token, count)
  )
  mask_Nx4xT = writing.read_mask(
    jnp.asarray(count_Nx4),
    jnp.ones(count_Nx4.shape, bool),
    token_Nx4xT.shape[-1],
    config.pooling,
  )
  return Groups(
    pairs, prompt_NxL, length_N, token_Nx4xT, np.asarray(mask_Nx4xT)
  )


def group_tokens(
  pairs: list[data.Preference], text: Any, config: Config
) -> list[Any]:
  """Four replies to each prompt: chosen, rejected, broken, looping."""
  rng = np.random.default_rng(config.seed)
  rows = []
  for pair in pairs:
    chosen = np.array(tokenizer.encode_untrusted(text, pair.chosen))
    replaced = rng.random(chosen.size) < config.broken_tokens
    noise = rng.integers(len(text), size=chosen.size)
    broken = np.where(replaced, noise, chosen)
    period = rng.integers(1, 7)
    looping = np.resize(
      chosen[rng.integers(chosen.size) :][:period], chosen.size
    )
    rejected = tokenizer.encode_untrusted(text, pair.rejected)
    rows += [
      np.append(row, text.eos_token_id)
      for row in (chosen, rejected, broken, looping)
    ]
  return rows


def group_features(groups: Groups, model: Policy, config: Config) -> np.ndarray:
  """Features `[N, 4, D]` of each pair's group, `pairs_per_pass` at a time."""
  size, total, parts = config.pairs_per_pass, len(groups.pairs), []
  for step in metrics.progress('features', 0, -(-total // size), 'batch'):
    # the last pass repeats some pairs, so that all passes have one shape
    index_B = np.arange(step * size, (step + 1) * size) % total
    part = writing.features(
      model.params, *groups.rows(index_B).values(), config=model.config
    )
    parts.append(np.asarray(part))
  return np.concatenate(parts)[:total]


def fit_head(
  features_Nx4xD: np.ndarray, config: Config, workdir: Path
) -> writing.Head:
  """Fits on standardised features; the head undoes that, and has std 1."""
  flat = features_Nx4xD.reshape(-1, features_Nx4xD.shape[-1])
  mean_D, std_D = flat.mean(0), flat.std(0) + 1e-6
  standard = (features_Nx4xD - mean_D) / std_D
  batch = {'features': jnp.asarray(standard, jnp.float32)}

  def loss_fn(params: Any, arrays: Any) -> dict[str, losses.Ratio]:
    terms = group_loss(arrays['features'] @ params['weight'])
    loss = terms['loss']
    penalty = config.l2 * jnp.square(params['weight']).sum()
    total = loss.numerator + penalty * loss.denominator
    return terms | {'loss': losses.Ratio(total, loss.denominator)}

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    return train.Batch(batch, {}, time.perf_counter())

  optimizer = optax.adam(config.learning_rate)
  mesh = sharding.make_mesh()
  params = jax.device_put(
    {'weight': jnp.zeros(mean_D.shape[0])}, sharding.replicated(mesh)
  )
  state = train.fit(
    train.init_state(params, optimizer, mesh),
    next_batch,
    loss_fn,
    optimizer,
    name='reward model',
    steps=config.steps,
    workdir=workdir if config.train == 'head' else workdir / 'head',
    checkpoint_every=config.steps,
  )
  weight_D = np.asarray(state.params['weight']) / std_D
  weight_D /= (flat @ weight_D).std() + 1e-6
  # A sequence classifier has no bias, nor do groups or pairs need one.
  bias = -mean_D @ weight_D if config.pooling == 'mean' else 0.0
  return writing.Head(weight_D, np.asarray(bias))


def group_loss(score_Nx4: jax.Array) -> dict[str, losses.Ratio]:
  """Bradley–Terry of each chosen reply against the three others."""
  chosen_Nx1, others_Nx3 = score_Nx4[:, :1], score_Nx4[:, 1:]
  against = jnp.broadcast_to(chosen_Nx1, others_Nx3.shape)
  loss = losses.bradley_terry(against.ravel(), others_Nx3.ravel())
  wins = jnp.sum(chosen_Nx1 > others_Nx3).astype(jnp.float32)
  return {'loss': loss, 'accuracy': losses.Ratio(wins, loss.denominator)}


def fit_decoder(
  groups: Groups,
  model: Policy,
  head: writing.Head,
  config: Config,
  workdir: Path,
) -> tuple[Policy, writing.Head]:
  """Trains the decoder, or adapters on it, together with the head."""
  model_config = lora.configure(model.config, config)
  model_config = dataclasses.replace(model_config, remat=config.remat)
  learned, frozen = lora.split(
    model_config, model.params, model.mesh, config.seed
  )
  score_D = jnp.asarray(head.weight, jnp.float32)
  learned['score'] = jax.device_put(score_D, sharding.replicated(model.mesh))
  over = sharding.over_groups(model.mesh)
  settings = config.decoder

  def loss_fn(params: Params, arrays: Any) -> dict[str, losses.Ratio]:
    _, reading = read_replies(
      model_config, params, arrays['prompt'], arrays['length'], arrays['token']
    )
    features_Bx4xD = writing.reply_features(reading, arrays['mask'])
    return group_loss(features_Bx4xD @ params['score'])

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    index_B = data.batch_indices(
      config.seed, step, settings.pairs_per_step, len(groups.pairs)
    )
    arrays = jax.device_put(groups.rows(index_B), over)
    jax.block_until_ready(state.params)
    return train.Batch(arrays, {}, time.perf_counter())

  optimizer = train.make_optimizer(
    settings.learning_rate,
    warmup_steps=settings.warmup_steps,
    max_grad_norm=settings.max_grad_norm,
  )
  state = train.fit(
    train.init_state(learned, optimizer, model.mesh),
    next_batch,
    loss_fn,
    optimizer,
    name='decoder',
    steps=settings.steps,
    workdir=workdir,
    checkpoint_every=settings.checkpoint_every,
    frozen=frozen,
  )
  params = lora.join(state.params, frozen)
  score_D = np.asarray(params.pop('score'))
  return (
    model._replace(config=model_config, params=params),
    head._replace(weight=score_D),
  )


def accuracy(score_Nx2: np.ndarray) -> float:
  """Share of pairs whose chosen reply scores higher; a tie counts half."""
  difference = score_Nx2[:, 0] - score_Nx2[:, 1]
  return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def judge(
  pairs: list[data.Preference], score_Nx2: np.ndarray
) -> dict[str, float]:
  """Accuracy beside the length-only baseline, and what length has to do."""
  length_Nx2 = np.array(
    [(len(p.chosen), len(p.rejected)) for p in pairs], float
  )
  gap = np.abs(length_Nx2[:, 0] - length_Nx2[:, 1]) / length_Nx2.max(1)
  matched = gap <= 0.1
  return {
    'heldout_accuracy': accuracy(score_Nx2),
    'length_only_accuracy': accuracy(length_Nx2),
    'matched_accuracy': accuracy(score_Nx2[matched]),
    'matched_pairs': int(matched.sum()),
    'length_correlation': float(
      np.corrcoef(score_Nx2.ravel(), length_Nx2.ravel())[0, 1]
    ),
  }
