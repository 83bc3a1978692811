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

import functools
import hashlib
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config, train
from rlcw.data import batches, datasets
from rlcw.data.preferences import load_preferences
from rlcw.evaluation import plots, stats
from rlcw.models import compute, formats, language_model, lora, packing
from rlcw.models.decoder import Params, as_dtype
from rlcw.models.language_model import LanguageModel
from rlcw.models.thoughts import reply_or_all
from rlcw.rewards import pooled, reward_model
from rlcw.runtime import console, files, loggers, optimizers, processes
from rlcw.runtime.mesh import make_mesh, replicated, with_mesh
from rlcw.tasks.reward_model import depth, objective
from rlcw.tasks.reward_model.groups import (
  Groups,
  check_pairs,
  check_weights,
  make_groups,
)
from rlcw.tasks.reward_model.head import (
  LINE,
  fit_head,
  scaled,
  without_length,
)

CACHE = '.features'  # beside the workdirs of runs


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains and evaluates a reward model; returns its summary.

  Raises:
    FileNotFoundError: the model or the preferences do not exist.
    ValueError: a setting or a record is invalid, or no prompt has a pair.
  """
  # Before any model is loaded, so that a mistake costs no time.
  check(config)
  model, groups = prepare(config)
  cache = workdir.parent / CACHE
  layers, tried, features = config.layers, [], {}
  if layers == 'auto':
    layers, tried, features['train'] = choose_layers(
      groups['train'], model, config, cache
    )
  model = language_model.first_layers(model, layers)
  model, learned, frozen = divide(model, config)
  for split, group in groups.items():
    if split not in features:
      features[split] = cached_features(group, model, config, cache)
  head, slope_2 = fit_head(features['train'], groups['train'], config, workdir)
  if config.train != 'head':
    # Of the parameters, only those are left in memory that training needs.
    model = model._replace(
      config=compute.configure(model.config, config), params=None
    )
    model, head = fit_decoder(
      groups['train'], model, learned, frozen, head, slope_2, config, workdir
    )
    # The decoder has changed, so its features are computed again, and not
    # cached.
    features = {k: group_features(g, model, config) for k, g in groups.items()}
  if config.debias == 'projection':
    weight_D = without_length(
      np.asarray(head.weight), features['train'], groups['train']
    )
    head = head._replace(weight=weight_D)
  # Centred scores are easier to read.  The loss does not need a bias, and a
  # sequence classifier (pooling 'last') has none.  `odds` restores the log-odds
  # of the loss for the evaluation.
  head, odds = scaled(
    np.asarray(head.weight),
    features['train'][groups['train'].real],
    centred=config.pooling == 'mean',
  )
  scores = {k: f @ head.weight + head.bias for k, f in features.items()}
  if processes.is_primary_process():
    end = pooled.end_of_reply(model.chat, config.pooling)
    floor = scores['train'][groups['train'].real].min()
    reward_model.save(head, workdir, end, floor, model.config.num_layers)
  summary = judge(groups['heldout'], scores['heldout'] * odds, workdir)
  train_Mx2 = pair_scores(groups['train'], scores['train'])
  summary |= {
    'train_pairs': len(train_Mx2),
    'train_accuracy': stats.accuracy(train_Mx2),
    'layers': model.config.num_layers,
  }
  if tried:
    summary['layers_tried'] = [each._asdict() for each in tried]
  print_table(summary)
  return summary


def prepare(config: Config) -> tuple[LanguageModel, dict[str, Groups]]:
  """Loads the model, with all of its layers, and the pairs of both splits."""
  model = language_model.load(config.model, make_mesh(**config.mesh))
  # before the data are read
  model.config.first_layers(depth.most(config))
  model = language_model.with_system(model, config.system)
  groups = {
    split: read_groups(split, model, config)
    for split in (datasets.TRAIN, datasets.HELDOUT)
  }
  check_weights(groups['train'], config)
  if config.train != 'head':
    total = len(groups['train'].prompt)
    objective.SETTINGS.check_total(config, total, 'groups of replies')
  return model, groups


def read_groups(split: str, model: LanguageModel, config: Config) -> Groups:
  """Reads the pairs of a split.

  Args:
    split: `train` or `heldout`.
    model: whose tokens they become, with a system message.
    config: of the task.

  Raises:
    FileNotFoundError, ValueError: they cannot be read, or there are none.
  """
  given = load_preferences(
    config.preferences,
    split=split,
    language=config.language,
    heldout=config.heldout,
    as_read=reply_or_all,
  )
  check_pairs(given, config, split)
  # Held-out pairs all weigh 1: the accuracy is of the data as they are.
  debias = config.debias if split == 'train' else 'none'
  return make_groups(given, model.chat, config, debias, model.system)


def check(config: Config) -> None:
  """Checks the settings that cost time if they are found wrong later.

  Raises:
    ValueError: see `loggers.check` and `objective.check`.
  """
  loggers.check(config)
  objective.check(config, make_mesh(**config.mesh))


def divide(
  model: LanguageModel, config: Config
) -> tuple[LanguageModel, Params, Params]:
  """Divides a model's parameters into those to train and the frozen rest.

  Trained parameters stay float32, the others have the compute dtype.

  Returns:
    The pretrained model as features are read from it, and both trees.
  """
  learned, frozen = {}, model.params
  if config.train != 'head':
    adapted = lora.configure(model.config, config)
    learned, frozen = lora.split(adapted, frozen, model.mesh, config.seed)
  frozen = as_dtype(frozen, config.compute_dtype)
  # New adapters change nothing, so features need not read them.
  reading = compute.configure_frozen(model.config, config)
  model = model._replace(config=reading, params=frozen or learned)
  return model, learned, frozen


def choose_layers(
  groups: Groups, model: LanguageModel, config: Config, folder: Path
) -> tuple[int, list[depth.Depth], np.ndarray]:
  """Chooses how many layers of a decoder are read (`depth`).

  Args:
    groups: to train on.
    model: the decoder with all of its layers.
    config: of the task.
    folder: of cached features.

  Returns:
    The number of layers, the numbers that were tried, and the features
    `[N, R, D]` of the chosen one.
  """
  layers = depth.depths(model.config.num_layers)
  reading, _, _ = divide(model, config)
  features = cached_features(groups, reading, config, folder, layers)
  tried = depth.measure(features, layers, groups, config)
  k = depth.fewest(tried)
  console.table(
    f'layers=auto: {layers[k]} of {model.config.num_layers}',
    ('layers', 'right, pairs kept apart', 'more than the best', 'error'),
    [
      (str(n), *(console.number(share, '.2%') for share in shares))
      for n, *shares in tried
    ],
  )
  # A copy, so that the others can be freed.
  return layers[k], tried, features[:, :, k].copy()


def cached_features(
  groups: Groups,
  model: LanguageModel,
  config: Config,
  folder: Path,
  layers: tuple[int, ...] = (),
) -> np.ndarray:
  """Returns `group_features`, cached on disk for other heads on this decoder.

  The key is a hash of the model's files, its configuration, the backend and all
  arrays that the features depend on.
  """
  identity = formats.digest(model.source), model.config, jax.default_backend()
  identity += (layers,) if layers else ()
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
  features_NxRxD = group_features(groups, model, config, layers)
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
  groups: Groups,
  model: LanguageModel,
  config: Config,
  layers: tuple[int, ...] = (),
) -> np.ndarray:
  """Features `[N, R, D]` of each reply, `batch_size` groups at a time.

  With K numbers of `layers` they are `[N, R, K, D]`, of so many first layers.
  Groups of similar length share a batch, whose widths are powers of two: little
  padding and few compilations.
  """
  read: Any = pooled.features
  if layers:
    read = functools.partial(pooled.layer_features, layers=layers)
  size, total = config.batch_size, len(groups.prompt)
  count_NxR = groups.read
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
    rows = groups.take(index_B)
    part = read(
      model.params,
      packing.Groups(
        rows.prompt[:, :L],
        rows.prompt_length,
        rows.token[:, :, :T],
        count_NxR[index_B],
      ),
      rows.mask[:, :, :T],
      config=model.config,
      width=packed.width[0],
    )
    for n, features_RxD in zip(index_B, processes.to_host(part), strict=True):
      found[n] = features_RxD
  return np.stack(found)


def fit_decoder(
  groups: Groups,
  model: LanguageModel,
  learned: Params,
  frozen: Params,
  head: reward_model.Head,
  slope_2: np.ndarray,
  config: Config,
  workdir: Path,
) -> tuple[LanguageModel, reward_model.Head]:
  """Trains the decoder, or adapters on it, together with the head.

  Args:
    groups: to train on.
    model: the decoder; only its configuration and mesh are used.
    learned: parameters to train; their buffers are donated.
    frozen: the rest of the decoder's parameters.
    head: fitted to the decoder, as a start.
    slope_2: slopes of the length covariates, which stay fixed.
    config: of the task.
    workdir: for checkpoints and metrics.

  Returns:
    The trained model and its head.
  """
  score_D = jnp.asarray(head.weight, jnp.float32)
  # The head is one more leaf of the trained tree, saved in the same checkpoint.
  score_D = jax.device_put(score_D, replicated(model.mesh))
  shards = processes.DataShards(model.mesh)
  settings, read_NxR = config.decoder, groups.read
  pairs_N = np.bincount(groups.pairs()[:, 0], minlength=len(groups.prompt))

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    draw = functools.partial(
      batches.batch_indices,
      config.seed,
      step,
      settings.groups_per_step,
      len(groups.prompt),
    )
    rows = objective.arrays_of(groups, draw(*shards.index_and_count))
    arrays, index_B = shards.to_global(rows), draw()
    # Asynchronous dispatch: wait, so that the update before is not timed here.
    jax.block_until_ready(state.params)
    started = time.perf_counter()
    lengths = groups.prompt_length[index_B], read_NxR[index_B]
    parts, padding = objective.pack(arrays, lengths, config, shards.sharding)
    counts = {'pairs': pairs_N[index_B].sum()}
    return train.Batch(
      [train.Minibatch(parts)], {'padding': padding}, started, counts=counts
    )

  whole, part = objective.SETTINGS.sizes(config)
  state = train.fit(
    learned | {'score': score_D},
    next_batch,
    objective.make_loss(model.config, config, slope_2),
    objective.make_optimizer(config),
    model.mesh,
    name='decoder',
    steps=settings.steps,
    workdir=workdir,
    checkpoint_every=settings.checkpoint_every,
    frozen=frozen,
    microbatches=whole // part,
    line=LINE,
    rate=optimizers.rate_of(settings, settings.steps),
    config=config,
  )
  params = lora.join(state.params, frozen)
  score_D = np.asarray(params.pop('score'))
  return model._replace(params=params), head._replace(weight=score_D)


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
  # several groups may be of one prompt
  prompt_N = np.unique(groups.prompt, axis=0, return_inverse=True)[1]
  prompt_M = prompt_N[groups.pairs()[:, 0]]
  summary = stats.agreement(
    score_Mx2, pair_scores(groups, groups.length), prompt_M
  )
  score_N, length_N = score_NxR[given], groups.length[given]
  summary['length_correlation'] = stats.correlation(score_N, length_N)
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
  ('right, all pairs', 'heldout_accuracy', 'heldout_interval', '.1%'),
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
