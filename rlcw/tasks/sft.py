"""Task `sft`: supervised fine-tuning on examples of prompt and reply.

1. examples are packed into rows once; attention does not cross examples
2. each step trains on `rows_per_step` rows, a microbatch at a time; every epoch
   has a new random order
3. the loss is the mean −log p of the replies' tokens, EOS included
4. the loss on held-out examples is measured before and after training

With `principles` the examples are labelled replies, and a judge is trained: the
reply to learn is the verdict on each, Good or Bad (`encode_verdicts`).

Letters: N packed rows, B of them in a batch, L tokens of a row, T targets of a
row, D model.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlcw import Config, losses, train
from rlcw.data import batches
from rlcw.data.examples import Example, load_examples
from rlcw.data.messages import ASSISTANT, Message, messages, transcript
from rlcw.evaluation import labelled
from rlcw.models import compute, language_model, layers, lora
from rlcw.models.chat import ChatFormat
from rlcw.models.compute import BatchSettings
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype, forward_packed, head_weight
from rlcw.models.language_model import LanguageModel
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Question
from rlcw.runtime import console, loggers, optimizers, processes
from rlcw.runtime.mesh import group_shards, make_mesh, with_mesh

SETTINGS = BatchSettings('rows_per_step', 'microbatch_rows')

# Line of a step (`console.line`).
LINE = (
  'loss {loss:.4f}, {tokens_per_second:,.0f} tokens/s, learning rate '
  '{learning_rate:.2e}, {seconds_step:.2f} s'
)


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Fine-tunes a policy on examples.

  Returns:
    The summary.

  Raises:
    ValueError: see `check`, `compute.configure`, `encode_examples`,
      `encode_verdicts` and `pack_rows`.
  """
  check(config)
  model = language_model.load(config.model, make_mesh(**config.mesh))
  model_config = compute.configure(model.config, config)
  model = language_model.with_system(model, config.system)
  encode = encode_verdicts if config.principles else encode_examples
  examples = encode(config, model)
  arrays = {
    split: pack_rows(each, config.row_tokens, config.seed)
    for split, each in examples.items()
  }
  total = len(arrays['train']['token'])
  # segment 0 is padding
  padding = float(np.mean(arrays['train']['segment'] == 0))
  console.log(
    f'sft: {len(examples["train"])} examples in {total} rows of '
    f'{config.row_tokens} tokens, {padding:.1%} of them padding'
  )
  SETTINGS.check_total(config, total, 'packed rows')
  # without adapters `learned` is a copy of all parameters, `frozen` is empty
  learned, frozen = lora.split(
    model_config, model.params, model.mesh, config.seed
  )
  frozen = as_dtype(frozen, config.compute_dtype)
  # Drops the reference to the weights as they were loaded.
  model = model._replace(params=frozen)
  loss_fn = make_loss(model_config)
  measure = functools.partial(mean_loss, loss_fn, arrays['heldout'], config)
  before = measure(learned, frozen)
  whole, part = SETTINGS.sizes(config)
  state = train.fit(
    learned,
    make_next_batch(arrays['train'], model.mesh, config),
    loss_fn,
    make_optimizer(config),
    model.mesh,
    frozen=frozen,
    microbatches=whole // part,
    name='sft',
    steps=config.steps,
    workdir=workdir,
    checkpoint_every=config.checkpoint_every,
    line=LINE,
    rate=optimizers.rate_of(config, config.steps),
    config=config,
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
  console.table(
    'sft: held-out loss, nats per token',
    ('', 'loss'),
    [
      (label, console.number(summary[f'heldout_loss_{key}'], '.3f'))
      for label, key in (('before', 'base'), ('after', 'trained'))
    ],
  )
  return summary


def check(config: Config) -> None:
  """Checks the settings that cost time if they are found wrong later.

  Raises:
    FileNotFoundError, ValueError: see `verdict_question`.
    ValueError: see `loggers.check`, `optimizers.check` and
      `BatchSettings.check`.
  """
  loggers.check(config)
  optimizers.check(config)
  if config.principles:
    verdict_question(config)
  SETTINGS.check(config, make_mesh(**config.mesh))


def make_next_batch(
  arrays: dict[str, np.ndarray], mesh: Mesh, config: Config
) -> Callable[[train.TrainState, int], train.Batch]:
  """Returns the function `(state, step) -> batch` that `train.fit` calls.

  Args:
    arrays: of `pack_rows`, the training rows.
    mesh: of the run.
    config: of the `sft` task.
  """
  shards = processes.DataShards(mesh)
  whole, part = SETTINGS.sizes(config)
  tokens_N = (arrays['segment'] > 0).sum(1)

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    # each process reads its part of the rows of every microbatch; together they
    # form one global array
    draw = functools.partial(
      batches.batch_indices, config.seed, step, whole, len(tokens_N)
    )
    rows, all_rows = draw(*shards.index_and_count), draw()
    parts = [
      shards.to_global({k: array[at] for k, array in arrays.items()})
      for at in np.split(rows, whole // part)
    ]
    # `Batch.started` is the time from which the device is free for this update
    jax.block_until_ready(state.params)
    counts = {'tokens': tokens_N[all_rows].sum()}
    return train.Batch(
      [train.Minibatch(parts)], {}, time.perf_counter(), counts=counts
    )

  return next_batch


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """The optimiser of a run (`optimizers.optimizer_of`)."""
  return optimizers.optimizer_of(config, config.steps, config.moment_dtype)


# Token ids of an example, and a mask of those that are targets.
Encoded = tuple[list[int], list[bool]]


def encode_examples(
  config: Config, model: LanguageModel
) -> dict[str, list[Encoded]]:
  """Reads and encodes the examples of both splits.

  Raises:
    FileNotFoundError, ValueError: as of `load_examples`.
    ValueError: an example is longer than the model's context.
  """
  load = functools.partial(
    load_examples,
    config.examples,
    language=config.language,
    heldout=config.heldout,
  )
  examples = {split: load(split=split) for split in ('train', 'heldout')}
  replies = [each.response for part in examples.values() for each in part]
  if dropped := sum(map(model.chat.drops_thought, replies)):
    console.notice(
      f'{config.examples}: {dropped} of {len(replies)} replies are learned '
      f'without their thoughts, which prompts of {model.source} leave blank'
    )
  return {
    split: encode(part, model.chat, model.system)
    for split, part in examples.items()
  }


def encode(
  examples: Sequence[Example], chat: ChatFormat, system: str = ''
) -> list[Encoded]:
  """Encodes examples; the targets are all the assistant's messages.

  Args:
    examples: prompts and replies.
    chat: of the model.
    system: a system message for examples without their own.

  Raises:
    ValueError: an example is longer than the model's context.
  """
  encoded = [
    chat.encode_conversation(
      [*messages(each.prompt, system), Message(ASSISTANT, each.response)]
    )
    for each in examples
  ]
  for each, (ids, _) in zip(examples, encoded, strict=True):
    chat.check_context(
      {f'{transcript(each.prompt)[:40]!r}': len(ids)}, 0, 'reply tokens'
    )
  return encoded


def verdict_question(config: Config) -> Question:
  """The question of a judge that is trained by `principles`.

  Raises:
    FileNotFoundError: there is no such file of principles.
    ValueError: it is blank, or the language is none of the question.
  """
  if config.language not in questions.LANGUAGES:
    raise ValueError(
      f'language={config.language!r}; with principles, expected one of '
      f'{questions.LANGUAGES}, for the question'
    )
  settings = ConfigDict(
    dict(
      language=config.language,
      principles=config.principles,
      max_reply_characters=0,
    )
  )
  return factory.make_question('judge', settings)


def encode_verdicts(
  config: Config, model: LanguageModel
) -> dict[str, list[Encoded]]:
  """Reads labelled replies, and encodes a judge's question about each.

  The prompt is that of a judge which is loaded here, with the same principles;
  the target is the label that is right.

  Raises:
    FileNotFoundError: there is no such file of replies.
    ValueError: a reply is invalid, a split has replies of one label only, or a
      question is longer than the model's context.
  """
  question = verdict_question(config)
  # Not the model's own system message, as a judge does not have it either.
  judge = LogprobJudge(model, group_shards(model.mesh), system=config.system)
  replies = labelled.load(
    config.examples, config.language, dev=None, heldout=config.heldout
  )
  encoded = {
    split: [
      judge.example(question, question.about(r.prompt, r.response), r.label)
      for r in members
    ]
    for split, members in replies.items()
  }
  longest = max(len(ids) for each in encoded.values() for ids, _ in each)
  model.chat.check_context({"a judge's question": longest}, 0, 'reply tokens')
  return encoded


def pack_rows(
  encoded: Sequence[Encoded], row_tokens: int, seed: int
) -> dict[str, np.ndarray]:
  """Packs examples into B rows of L tokens, at most T of them targets.

  Args:
    encoded: token ids of each example, and the mask of its targets.
    row_tokens: L.
    seed: of the order in which examples are packed.

  Returns:
    token: ids `[B, L]`.
    segment: `[B, L]`, the number of each token's example within its row, from
      1; 0 is padding.
    place: `[B, T]`, positions whose next token is a target of the loss.
    mask: `[B, T]`, false where `place` is padding.

  Raises:
    ValueError: an example is longer than a row.
  """
  lengths = [len(ids) for ids, _ in encoded]
  tokens, segments, places = [], [], []
  for row in batches.pack(lengths, row_tokens, seed):
    token, segment, place = [], [], []
    for number, i in enumerate(row, 1):
      ids, is_reply = encoded[i]
      # A token is predicted at the position before it.  Nothing precedes the
      # first one, which is a reply's only where there is no prompt.
      place += [len(token) + t - 1 for t in range(1, len(ids)) if is_reply[t]]
      token += ids
      segment += [number] * len(ids)
    tokens.append(token)
    segments.append(segment)
    places.append(place)
  # T is the same for all rows, so that the loss has one shape
  place_BxT, count_B = batches.pad(places)
  return {
    'token': batches.pad(tokens, row_tokens)[0],
    'segment': batches.pad(segments, row_tokens)[0],
    'place': place_BxT,
    'mask': np.arange(place_BxT.shape[1]) < count_B[:, None],
  }


def make_loss(config: ModelConfig) -> train.LossFn:
  """Makes the loss: the cross-entropy of the replies' tokens, in nats.

  It takes learned and frozen parameters and a batch of `pack_rows`.
  """

  def loss_fn(
    params: Params, frozen: Params, arrays: Any
  ) -> dict[str, losses.Ratio]:
    params = lora.join(params, frozen)
    token_BxL, place_BxT = arrays['token'], arrays['place']
    hidden_BxLxD = forward_packed(config, params, token_BxL, arrays['segment'])
    # The LM head costs as much as many blocks: it runs only at the T positions
    # that predict a reply's token, not at all L.
    predicting_BxTxD = jnp.take_along_axis(
      hidden_BxLxD, place_BxT[..., None], axis=1
    )
    logp_N = layers.token_logprobs(
      predicting_BxTxD.reshape(-1, hidden_BxLxD.shape[-1]),
      head_weight(params),
      # the target of a position is the token after it
      jnp.take_along_axis(token_BxL, place_BxT + 1, axis=1).reshape(-1),
      config=config,
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
  """Mean loss over all rows, in nats per token, a microbatch at a time.

  Args:
    loss_fn: of `make_loss`.
    arrays: of `pack_rows`; the same rows in every process.
    config: of the `sft` task, for the size of a microbatch.
    params: learned parameters.
    frozen: the others, or empty.
  """
  loss, size = jax.jit(loss_fn), SETTINGS.sizes(config)[1]
  total, numerator, denominator = len(arrays['token']), 0.0, 0.0
  bar = console.progress('held-out loss', 0, total, 'row', size)
  for first in processes.stoppable(bar):
    rows = np.arange(first, first + size)
    batch = {name: array[rows % total] for name, array in arrays.items()}
    # the last batch is filled with masked rows, so that all have one shape
    batch['mask'] = batch['mask'] & (rows < total)[:, None]
    ratio = loss(params, frozen, batch)['loss']
    # sums, not means: batches differ in their number of targets
    numerator += float(ratio.numerator)
    denominator += float(ratio.denominator)
  return numerator / denominator
