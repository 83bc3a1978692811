"""Task `reward_model`: learns a writing reward from preferences.

  1. groups     replies to a prompt form one group (`groups`)
  2. features   the frozen decoder reads each group once, and its mean hidden
                states become the replies' features
  3. head       fit a linear head on them with the Bradley–Terry loss
  4. decoder    where `train` is more than the head, train decoder and head
                together from there (head first, then all: arXiv 2202.10054)
  5. evaluate   accuracy on held-out prompts, beside a length-only baseline

Letters: N groups, R replies in each, D model, L prompt tokens, T reply tokens,
M pairs or replies, B groups of a batch.
"""

import dataclasses
import functools
import hashlib
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlcw import Config, losses, train
from rlcw.data import batches, datasets
from rlcw.evaluation import plots, stats
from rlcw.models import formats, language_model, lora, packing
from rlcw.models.decoder import Params, forward_replies
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import reward_model
from rlcw.runtime import console, files, loggers, optimizers, processes
from rlcw.runtime.mesh import make_mesh, replicated, with_mesh
from rlcw.tasks.reward_model.groups import (
  Groups,
  check_pairs,
  check_weights,
  make_groups,
)

# Weight of the penalty on a debiased score's squared correlation with length.
# For comparison, the Bradley–Terry loss of a trained head is about 0.1.
CORRELATION_PENALTY = 1.0

# Line of a step (`console.line`).
LINE = (
  'loss {loss:.4f}, accuracy {accuracy:.1%}, {pairs_per_second:,.0f} pairs/s, '
  'learning rate {learning_rate:.2e}, {seconds_step:.2f} s'
)


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains and evaluates a reward model; returns its summary.

  Raises:
    FileNotFoundError: the model or the preferences do not exist.
    ValueError: a setting or a record is invalid, or no prompt has a pair.
  """
  # Before any model is loaded, so that a mistake costs no time.
  check(config)
  model = language_model.load(config.model, make_mesh(**config.mesh))
  load = functools.partial(
    datasets.load_preferences,
    config.preferences,
    language=config.language,
    heldout=config.heldout,
  )
  given = {split: load(split=split) for split in ('train', 'heldout')}
  for split, preferences in given.items():
    check_pairs(preferences, config, split)
  model = language_model.with_system(model, config.system)
  groups = {
    split: make_groups(given[split], model.chat, config, debias, model.system)
    # Held-out pairs all weigh 1: the accuracy is of the data as they are.
    for split, debias in (('train', config.debias), ('heldout', 'none'))
  }
  check_weights(groups['train'], config)
  features = {
    split: cached_features(group, model, config, workdir.parent / '.features')
    for split, group in groups.items()
  }
  head, slope_2 = fit_head(features['train'], groups['train'], config, workdir)
  if config.train != 'head':
    model, head = fit_decoder(
      groups['train'], model, head, slope_2, config, workdir
    )
    # The decoder has changed, so its features are computed again, and not
    # cached.
    features = {k: group_features(g, model, config) for k, g in groups.items()}
  # The head is scaled to scores of std 1 over the training replies.  Before
  # that, a difference of two scores is the log-odds that the loss fits;
  # `odds` restores them for the evaluation.
  real_MxD = features['train'][groups['train'].real]
  odds = float((real_MxD @ head.weight).std()) + 1e-6
  weight_D = head.weight / odds
  # Centred scores are easier to read.  The loss does not need a bias, and a
  # sequence classifier (pooling 'last') has none.
  bias = -real_MxD.mean(0) @ weight_D if config.pooling == 'mean' else 0.0
  head = reward_model.Head(weight_D, np.asarray(bias))
  scores = {k: f @ head.weight + head.bias for k, f in features.items()}
  if processes.is_primary_process():
    end = reward_model.end_of_reply(model.chat, config.pooling)
    floor = scores['train'][groups['train'].real].min()
    reward_model.save(head, workdir, end, floor)
  summary = judge(groups['heldout'], scores['heldout'] * odds, workdir)
  train_Mx2 = pair_scores(groups['train'], scores['train'])
  summary |= {
    'train_pairs': len(train_Mx2),
    'train_accuracy': stats.accuracy(train_Mx2),
  }
  print_table(summary)
  return summary


def check(config: Config) -> None:
  """Checks the loggers.

  Raises:
    ValueError: see `loggers.check`.
  """
  loggers.check(config)


def cached_features(
  groups: Groups, model: LanguageModel, config: Config, folder: Path
) -> np.ndarray:
  """Returns `group_features`, cached on disk for other heads on this decoder.

  The key is a hash of the model's files, its configuration, the backend and all
  arrays that the features depend on.
  """
  identity = formats.digest(model.source), model.config, jax.default_backend()
  digest = hashlib.blake2b(repr(identity).encode(), digest_size=16)
  for array in (groups.prompt, groups.token, groups.mask):
    digest.update(np.ascontiguousarray(array).tobytes())
  kept = folder / f'{digest.hexdigest()}.npz'
  features_NxRxD = _read_features(kept, groups.token.shape[:2])
  # All processes must agree: if only some compute, their collectives never
  # meet.
  if all(processes.gather(features_NxRxD is not None)):
    assert features_NxRxD is not None
    return features_NxRxD
  features_NxRxD = group_features(groups, model, config)
  if processes.is_primary_process():
    folder.mkdir(exist_ok=True)
    with files.atomic(kept) as partial, partial.open('wb') as out:
      # An archive has checksums, by which damage is found.
      np.savez(out, features=features_NxRxD)
  return features_NxRxD


def _read_features(kept: Path, shape: tuple[int, ...]) -> np.ndarray | None:
  """Features `[N, R, D]` from the cache; None if absent or damaged."""
  try:
    with np.load(kept) as archive:
      features_NxRxD = archive['features']
    if features_NxRxD.shape[:2] != shape:
      raise ValueError(f'shape {features_NxRxD.shape}, expected {shape}')
  except FileNotFoundError:
    return None
  # Whatever the damage, the file is only a copy.
  except Exception as error:
    console.log(f'{kept} is damaged, so it is made anew: {error}')
    return None
  return features_NxRxD


def group_features(
  groups: Groups, model: LanguageModel, config: Config
) -> np.ndarray:
  """Features `[N, R, D]` of each reply, `batch_size` groups at a time.

  Groups of similar length share a batch, whose widths are powers of two: little
  padding and few compilations.
  """
  size, total = config.batch_size, len(groups.prompt)
  # Tokens up to the last one that the mask of a reply needs.
  mask_NxRxT = np.asarray(groups.mask)
  count_NxR = mask_NxRxT.shape[2] - mask_NxRxT[:, :, ::-1].argmax(2)
  count_NxR *= mask_NxRxT.any(2)
  reply_N = count_NxR.max(1)
  order = np.argsort(reply_N, kind='stable')
  found: list[Any] = [None] * total
  steps = console.progress('features', 0, -(-total // size), 'batch')
  for step in processes.stoppable(steps):
    # The last batch is filled up with other groups, to keep one batch size;
    # their features are computed twice.
    index_B = order[np.arange(step * size, (step + 1) * size) % total]
    length_B = groups.prompt_length[index_B]
    L = batches.power_of_two(int(length_B.max()))
    T = batches.power_of_two(int(reply_N[index_B].max()))
    packed = packing.partition(length_B, count_NxR[index_B], L, T)
    index_B = index_B[packed.order_P]
    rows = groups.rows(index_B)
    part = reward_model.features(
      model.params,
      packing.Groups(
        rows['prompt'][:, :L],
        rows['prompt_length'],
        rows['token'][:, :, :T],
        count_NxR[index_B],
      ),
      rows['mask'][:, :, :T],
      config=model.config,
      width=packed.width[0],
    )
    for n, features_RxD in zip(index_B, processes.to_host(part), strict=True):
      found[n] = features_RxD
  return np.stack(found)


def fit_head(
  features_NxRxD: np.ndarray, groups: Groups, config: Config, workdir: Path
) -> tuple[reward_model.Head, np.ndarray]:
  """Fits a linear head with the Bradley–Terry loss, an L2 penalty and Adam.

  Every step uses all groups.  The fit is on standardised features, which scales
  penalty and learning rate alike for all of them; the weight that is returned
  applies to the features as they are.

  Returns:
    The head, without bias, and the slopes `[2]` of the length covariates.
  """
  real_MxD = features_NxRxD[groups.real]
  # Padding has no features and must not shift the mean.
  mean_D, std_D = real_MxD.mean(0), real_MxD.std(0) + 1e-6
  # A feature that varies by rounding alone would be scaled up to noise.
  rounding_D = losses.ROUNDING * abs(real_MxD).max(0)
  std_D = np.where(std_D > rounding_D, std_D, np.inf)
  standard = (features_NxRxD - mean_D) / std_D
  batch = {
    'features': np.asarray(standard, np.float32),
    'real': groups.real,
    'weight': groups.weight,
    'covariate': groups.covariate,
  }

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    del frozen  # The decoder has run already: its features are in `arrays`.
    score_NxR = arrays['features'] @ params['weight']
    terms = group_loss(score_NxR, params['slope'], arrays, config.debias)
    loss = terms['loss']
    penalty = config.l2 * jnp.square(params['weight']).sum()
    # `train.fit` divides by the denominator, so that the penalty counts once.
    total = loss.numerator + penalty * loss.denominator
    return terms | {'loss': losses.Ratio(total, loss.denominator)}

  counts = {'pairs': len(groups.pairs())}

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    # Asynchronous dispatch: wait, so that the update before is not timed here.
    jax.block_until_ready(state.params)
    return train.Batch([batch], {}, time.perf_counter(), counts=counts)

  optimizer = optax.adam(config.learning_rate)
  # The head is small: it is replicated on every device.
  mesh = make_mesh()
  params = jax.device_put(
    {'weight': jnp.zeros(mean_D.shape[0]), 'slope': jnp.zeros(2)},
    replicated(mesh),
  )
  state = train.fit(
    params,
    next_batch,
    loss_fn,
    optimizer,
    mesh,
    name='reward model',
    steps=config.steps,
    workdir=workdir if config.train == 'head' else workdir / 'head',
    checkpoint_every=config.steps,
    line=LINE,
    rate=optax.constant_schedule(config.learning_rate),
    config=config,
  )
  weight_D = np.asarray(state.params['weight']) / std_D
  return reward_model.Head(weight_D, np.zeros(())), np.asarray(
    state.params['slope']
  )


def group_loss(
  score_NxR: jax.Array,
  slope_2: jax.Array | np.ndarray,
  arrays: Any,
  debias: str,
) -> dict[str, losses.Ratio]:
  """Bradley–Terry loss over the pairs of each group, and their accuracy.

  With `debias='length'` the preferences are modelled as score plus length
  effect (a covariate, as in arXiv 2404.04475).  The effect, `slope_2`, is
  dropped after training, so that the score is left with the rest.  Features
  could encode length all the same, so correlation of the score with length is
  penalised as well.

  Args:
    score_NxR: scores of the replies.
    slope_2: slopes of the length covariates.
    arrays: `weight` `[N, R, R]`; and with `debias='length'` `covariate`
      `[N, R, 2]` and `real` `[N, R]`.
    debias: none, balance or length.
  """
  explained_NxR = 0.0
  if debias == 'length':
    explained_NxR = arrays['covariate'] @ slope_2
  loss = losses.bradley_terry(score_NxR + explained_NxR, arrays['weight'])
  if debias == 'length':
    covariate = arrays['covariate']
    penalty = losses.squared_correlation(
      score_NxR.reshape(-1),
      covariate.reshape(-1, covariate.shape[-1]),
      arrays['real'].reshape(-1),
    )
    total = loss.numerator + CORRELATION_PENALTY * penalty * loss.denominator
    loss = losses.Ratio(total, loss.denominator)
  pair_NxRxR = arrays['weight'] > 0
  # Unweighted, and by the score alone, as the reward model will be used.
  wins = pair_NxRxR & (score_NxR[:, :, None] > score_NxR[:, None, :])
  share = losses.Ratio(
    wins.sum().astype(jnp.float32), pair_NxRxR.sum().astype(jnp.float32)
  )
  return {'loss': loss, 'accuracy': share}


def fit_decoder(
  groups: Groups,
  model: LanguageModel,
  head: reward_model.Head,
  slope_2: np.ndarray,
  config: Config,
  workdir: Path,
) -> tuple[LanguageModel, reward_model.Head]:
  """Trains the decoder, or adapters on it, together with the head.

  Args:
    groups: to train on.
    model: the pretrained decoder.
    head: fitted to it, as a start.
    slope_2: slopes of the length covariates, which stay fixed.
    config: of the task.
    workdir: for checkpoints and metrics.

  Returns:
    The trained model and its head.
  """
  model_config = lora.configure(model.config, config)
  model_config = dataclasses.replace(model_config, remat=config.remat)
  learned, frozen = lora.split(
    model_config, model.params, model.mesh, config.seed
  )
  score_D = jnp.asarray(head.weight, jnp.float32)
  # The head is one more leaf of the trained tree, saved in the same checkpoint.
  learned['score'] = jax.device_put(score_D, replicated(model.mesh))
  shards = processes.DataShards(model.mesh)
  settings = config.decoder
  pairs_N = np.bincount(groups.pairs()[:, 0], minlength=len(groups.prompt))

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    params = lora.join(params, frozen)
    # `reading`: hidden states [B, R, T, D] after each token is read.
    _, reading = forward_replies(
      model_config,
      params,
      arrays['prompt'],
      arrays['prompt_length'],
      arrays['token'],
    )
    features_BxRxD = reward_model.reply_features(reading, arrays['mask'])
    score_BxR = features_BxRxD @ params['score']
    return group_loss(score_BxR, slope_2, arrays, config.debias)

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    draw = functools.partial(
      batches.batch_indices,
      config.seed,
      step,
      settings.groups_per_step,
      len(groups.prompt),
    )
    index_B = draw(*shards.index_and_count)
    arrays = groups.rows(index_B)
    arrays['real'] = groups.real[index_B]
    arrays = shards.to_global(arrays)
    # Asynchronous dispatch: wait, so that the update before is not timed here.
    jax.block_until_ready(state.params)
    counts = {'pairs': pairs_N[draw()].sum()}
    return train.Batch([arrays], {}, time.perf_counter(), counts=counts)

  state = train.fit(
    learned,
    next_batch,
    loss_fn,
    optimizers.optimizer_of(settings, settings.steps),
    model.mesh,
    name='decoder',
    steps=settings.steps,
    workdir=workdir,
    checkpoint_every=settings.checkpoint_every,
    frozen=frozen,
    line=LINE,
    rate=optimizers.rate_of(settings, settings.steps),
    config=config,
  )
  params = lora.join(state.params, frozen)
  score_D = np.asarray(params.pop('score'))
  return (
    model._replace(config=model_config, params=params),
    head._replace(weight=score_D),
  )


def pair_scores(groups: Groups, value_NxR: np.ndarray) -> np.ndarray:
  """Values `[M, 2]` of the better and the worse reply of each pair."""
  pair_Mx3 = groups.pairs()
  return value_NxR[pair_Mx3[:, :1], pair_Mx3[:, 1:]]


def judge(
  groups: Groups, score_NxR: np.ndarray, workdir: Path
) -> dict[str, Any]:
  """Evaluates scores on held-out pairs, beside a length-only baseline.

  Args:
    groups: held-out groups.
    score_NxR: scores, whose differences are log-odds.
    workdir: `reward_model.png` is written here.

  Returns:
    Accuracies, calibration and the score's correlation with length, for the
    summary.
  """
  given = groups.real & ~groups.made
  score_Mx2 = pair_scores(groups, score_NxR)
  prompt_M = groups.pairs()[:, 0]
  summary = stats.agreement(
    score_Mx2, pair_scores(groups, groups.length), prompt_M
  )
  score_N, length_N = score_NxR[given], groups.length[given]
  summary['length_correlation'] = float(np.corrcoef(score_N, length_N)[0, 1])
  if groups.made.any():
    # Each synthetic loser is compared with the group's best reply.  Padding may
    # come after them, so they are found by their mask, not by their column.
    made_Nx2 = score_NxR[groups.made].reshape(len(score_NxR), 2)
    best_N = np.where(given, groups.worth, -np.inf).argmax(1)
    best_N = score_NxR[np.arange(len(best_N)), best_N]
    for name, column in (('broken', 0), ('looping', 1)):
      against_Nx2 = np.stack([best_N, made_Nx2[:, column]], 1)
      summary[f'{name}_accuracy'] = stats.accuracy(against_Nx2)
  if processes.is_primary_process():
    picture = plots.draw_scores(length_N, score_N, stats.calibration(score_Mx2))
    files.replace(workdir / 'reward_model.png', picture)
  return summary


# Label, key in the summary, key of its 95% interval, format.
_ROWS = (
  ('right, all pairs', 'heldout_accuracy', '', '.1%'),
  ('by length alone', 'length_only_accuracy', '', '.1%'),
  (
    'right, pairs of like length',
    'matched_accuracy',
    'matched_interval',
    '.1%',
  ),
  (
    'right, the shorter is better',
    'shorter_better_accuracy',
    'shorter_better_interval',
    '.1%',
  ),
  ('calibration error', 'calibration_error', '', '.3f'),
  ('correlation with length', 'length_correlation', '', '.2f'),
  ('right, training pairs', 'train_accuracy', '', '.1%'),
)


def print_table(summary: dict[str, Any]) -> None:
  """Prints the main numbers of a summary."""
  console.table(
    f'reward_model: {summary["heldout_pairs"]} held-out pairs',
    ('', 'value', '95% interval'),
    [
      (
        label,
        console.number(summary[key], style),
        console.interval(summary.get(ends), style),
      )
      for label, key, ends, style in _ROWS
    ],
  )
