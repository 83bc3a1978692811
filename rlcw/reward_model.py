"""Task `reward_model`: a writing reward learned from preference pairs.

1. every pair is a group of two replies to one prompt; the frozen decoder
   reads them once and leaves their features
2. a linear head is fitted to them with the Bradley–Terry loss
3. it is judged on held-out themes, beside what length alone would get
"""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlcw import (
  Config,
  data,
  losses,
  metrics,
  sharding,
  tokenizer,
  train,
  weights,
)
from rlcw.rewards import writing


def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains and judges a reward model; returns its summary."""
  started = time.perf_counter()
  model_config, params = weights.load(config.model)
  params = jax.device_put(params)
  text = tokenizer.load(config.model)
  load = functools.partial(
    data.load_preferences, config.preferences, language=config.language
  )
  pairs = {split: load(split=split) for split in ('train', 'heldout')}
  features = {
    split: group_features(pairs[split], model_config, params, text, config)
    for split in pairs
  }
  head = fit_head(features['train'], config, workdir)
  writing.save(head, workdir)
  scores = {k: f @ head.weight + head.bias for k, f in features.items()}
  summary = judge(pairs['heldout'], scores['heldout'][:, :2])
  summary |= {
    'broken_accuracy': accuracy(scores['heldout'][:, [0, 2]]),
    'looping_accuracy': accuracy(scores['heldout'][:, [0, 3]]),
    'heldout_pairs': len(pairs['heldout']),
    'train_pairs': len(pairs['train']),
    'train_accuracy': accuracy(scores['train'][:, :2]),
    'wall_seconds': time.perf_counter() - started,
    'hardware': metrics.hardware(),
  }
  metrics.write_json(workdir / 'summary.json', summary)
  metrics.say(
    f'reward model: {summary["heldout_accuracy"]:.1%} of '
    f'{summary["heldout_pairs"]} held-out pairs right; length alone '
    f'{summary["length_only_accuracy"]:.1%}'
  )
  return summary


def group_tokens(
  pairs: list[data.Preference], text: Any, config: Config
) -> list[Any]:
  """Four replies to each prompt: chosen, rejected, broken, looping."""
  rng = np.random.default_rng(config.seed)
  rows = []
  for pair in pairs:
    chosen = np.array(tokenizer.encode(text, pair.chosen))
    replaced = rng.random(chosen.size) < config.broken_tokens
    noise = rng.integers(len(text), size=chosen.size)
    broken = np.where(replaced, noise, chosen)
    period = rng.integers(1, 7)
    looping = np.resize(
      chosen[rng.integers(chosen.size) :][:period], chosen.size
    )
    rejected = tokenizer.encode(text, pair.rejected)
    rows += [chosen, rejected, broken, looping]
  return rows


def group_features(
  pairs: list[data.Preference],
  model_config: Any,
  params: Any,
  text: Any,
  config: Config,
) -> np.ndarray:
  """Features `[N, 4, D]` of each pair's group, `pairs_per_pass` at a time."""
  size = config.pairs_per_pass
  prompt_NxL, length_N = data.pad(
    tokenizer.chat(text, pair.prompt) for pair in pairs
  )
  token, count = data.pad(group_tokens(pairs, text, config))
  token_Nx4xT = token.reshape(len(pairs), 4, -1)
  text_Nx4xT = np.arange(token.shape[1]) < count.reshape(-1, 4, 1)
  parts = []
  steps = -(-len(pairs) // size)
  for step in metrics.progress('features', 0, steps, 'batch'):
    # the last pass repeats some pairs, so that all passes have one shape
    rows = np.arange(step * size, (step + 1) * size) % len(pairs)
    part = writing.features(
      params,
      prompt_NxL[rows],
      length_N[rows],
      token_Nx4xT[rows],
      text_Nx4xT[rows],
      config=model_config,
    )
    parts.append(np.asarray(part))
  return np.concatenate(parts)[: len(pairs)]


def fit_head(
  features_Nx4xD: np.ndarray, config: Config, workdir: Path
) -> writing.Head:
  """Fits on standardised features; the head undoes that, and has std 1."""
  flat = features_Nx4xD.reshape(-1, features_Nx4xD.shape[-1])
  mean_D, std_D = flat.mean(0), flat.std(0) + 1e-6
  standard = (features_Nx4xD - mean_D) / std_D
  batch = {'features': jnp.asarray(standard, jnp.float32)}

  def loss_fn(params: Any, arrays: Any) -> dict[str, losses.Ratio]:
    score_Nx4 = arrays['features'] @ params['weight']
    chosen_Nx1, others_Nx3 = score_Nx4[:, :1], score_Nx4[:, 1:]
    against = jnp.broadcast_to(chosen_Nx1, others_Nx3.shape)
    loss = losses.bradley_terry(against.ravel(), others_Nx3.ravel())
    wins = jnp.sum(chosen_Nx1 > others_Nx3).astype(jnp.float32)
    penalty = config.l2 * jnp.square(params['weight']).sum()
    total = loss.numerator + penalty * loss.denominator
    return {
      'loss': losses.Ratio(total, loss.denominator),
      'accuracy': losses.Ratio(wins, loss.denominator),
    }

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
    workdir=workdir,
    checkpoint_every=config.steps,
  )
  weight_D = np.asarray(state.params['weight']) / std_D
  weight_D /= (flat @ weight_D).std() + 1e-6
  return writing.Head(weight_D, np.asarray(-mean_D @ weight_D))


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
