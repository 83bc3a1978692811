"""Task `generate`: samples replies to a file of briefs.

Several processes share each batch of briefs; process 0 writes all replies.
Briefs of like length share a batch, which is padded to its longest.  Lines are
put into the order of the briefs at the end; a run that was killed resumes after
the last complete line (`outputs`).  A reply depends only on the seed, the place
of its brief in the file, and its number among that brief's replies, not on the
batch.

Letters: P briefs in a batch, G replies to each, L prompt tokens, T reply
tokens.
"""

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.data import batches, datasets, layouts, messages
from rlcw.data.messages import Prompt
from rlcw.models import language_model
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import briefs, revision
from rlcw.rewards.revision import SecondTurns
from rlcw.runtime import (
  claim,
  console,
  files,
  outputs,
  processes,
)
from rlcw.runtime.mesh import make_mesh, round_up_groups, with_mesh
from rlcw.sampling.moving import Weights
from rlcw.sampling.rollout import Rollout, sample
from rlcw.sampling.samplers import make_sampler


def check(config: Config) -> None:
  """Raises ValueError if both tails of the distribution are to be cut."""
  make_sampler(config.temperature, config.top_k, config.top_p)


# Fields of the input's own replies, and of what was said of them.
_OF_REPLIES = {
  *('response', 'responses', 'chosen', 'rejected', 'drafts', 'finished'),
  *('score', 'scores', 'label', 'strict', 'loose', 'verdict', 'reason'),
  'p_good',
}


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Samples `samples` replies to every brief.

  Returns:
    The summary.

  Raises:
    ValueError: a sampling setting is out of range, there is no brief, one has
      no prompt or does not fit the model's context, or the output does not
      belong to this input.
  """
  sampler = make_sampler(config.temperature, config.top_k, config.top_p)
  placed = datasets.read_records(config.input)
  if not placed:
    raise ValueError(f'{config.input} has no records')
  records = [record for _, record in placed]
  prompts = [prompt_of(record, config, place) for place, record in placed]
  model = language_model.load(
    config.model,
    make_mesh(**config.mesh),
    language_model.placement(config, config.model),
    merge=False,
  )
  model = language_model.with_system(model, config.system)
  ids = [
    model.chat.encode_prompt(messages.messages(prompt, model.system))
    for prompt in prompts
  ]
  model.chat.check_context(
    {place: len(row) for (place, _), row in zip(placed, ids, strict=True)},
    config.max_new_tokens,
  )
  second_turns = None
  if revision.revises(config):
    asked = [briefs.read_brief(record) for record in records]
    second_turns = revision.encode(asked, model.chat, config)
  file = claim.output(config, workdir, 'replies.jsonl')
  output = outputs.Output(file, 'responses', config.input, records)
  left = {
    row: len(prompt) for row, prompt in enumerate(ids) if row not in output.done
  }
  queue = batches.by_length(left, config.batch_size)
  shards = processes.DataShards(model.mesh)
  weights = Weights(model.params, model.config.dtype)
  tokens, sampling_seconds = 0, 0.0  # of this process
  steps = console.progress('generate', 0, len(queue), 'batch')
  for step in processes.stoppable(steps):
    rows = queue[step]
    before = time.perf_counter()
    rollout = answer(model, ids, rows, sampler, config, weights, second_turns)
    sampling_seconds += time.perf_counter() - before
    sampled = decode(model, shards.local_rows(rollout))
    # the rollout may have more rows, which fill the batch (see `answer`)
    answers = itertools.chain(*shards.gather_to_primary(sampled))
    for row, (fields, drawn) in zip(rows, answers, strict=False):
      own = {k: v for k, v in records[row].items() if k not in _OF_REPLIES}
      output.append(row, own | fields)
      tokens += drawn
  output.sort()
  replies, finished = processes.from_primary(lambda: count_finished(file))
  summary: dict[str, Any] = {
    'prompts': len(prompts),
    'replies': replies,
    'resumed_at': len(output.done),
    'finished': finished,
    # of this process, which went on at `resumed_at`
    'tokens': tokens,
    'tokens_per_second': tokens / max(sampling_seconds, 1e-9),
  }
  console.log(
    f'generate: {replies:,} replies, {finished:.1%} of them finished, '
    f'{tokens:,} tokens, {summary["tokens_per_second"]:,.0f} tokens/s; {file}'
  )
  return summary


def count_finished(output: Path) -> tuple[int, float]:
  """Number of all replies in the output, and the share that ended."""
  lines = files.read_jsonl(output)
  ended = [whole for line in lines for whole in line['finished']]
  return len(ended), float(np.mean(ended))


def prompt_of(record: dict[str, Any], config: Config, place: str) -> Prompt:
  """Prompt of a record; with `write_rules`, its rules are added in words.

  With `two_turns` it is the first turn, without them.

  Raises:
    ValueError: the record has no prompt; names the file and the line.
  """
  try:
    prompt = layouts.prompt_of(record)
    if revision.revises(config):
      return revision.first_turn(briefs.read_brief(record))
    if config.write_rules:
      return briefs.read_brief(record).request
  except ValueError as error:
    raise ValueError(f'{place}: {error}') from None
  return prompt


def decode(
  model: LanguageModel, rollout: Rollout
) -> list[tuple[dict[str, Any], int]]:
  """Returns the output's fields of each group, and its number of tokens.

  The fields are `responses`; the same as `response`, which `verify`, `score`
  and `judge` read, if it is one; `finished`; and `drafts`, the texts of first
  turns, if there are two.
  """
  # one transfer for all arrays of the batch
  found: Any = jax.device_get(rollout)
  last: Any = found.last_reply()

  def texts(token_GxT: np.ndarray, length_G: np.ndarray) -> list[str]:
    rows = zip(token_GxT, length_G, strict=True)
    return [model.chat.decode_reply(ids[:n]) for ids, n in rows]

  groups = []
  for p in range(len(found.token)):
    replies = texts(last.token[p], last.length[p])
    fields: dict[str, Any] = (
      {'response': replies[0]} if len(replies) == 1 else {}
    )
    fields['responses'] = replies
    if found.given is not None:
      # A text ends at the first end of its row.
      fields['drafts'] = texts(found.token[p], found.length[p])
    fields['finished'] = found.finished[p].tolist()
    groups.append((fields, int(found.drawn_length[p].sum())))
  return groups


def answer(
  model: LanguageModel,
  prompts: Sequence[Sequence[int]],
  rows: Sequence[int],
  sampler: Any,
  config: Config,
  own: Weights | None = None,
  second_turns: SecondTurns | None = None,
) -> Rollout:
  """Samples G replies to each of the briefs `rows`.

  P is the next power of two, at most `batch_size`, rounded up to a multiple of
  the devices that the batch is split over.  `rows` is repeated to fill it.

  Args:
    model: the model to sample from.
    prompts: token ids of all briefs.
    rows: indices of the briefs to answer, at most P.
    sampler: as returned by `make_sampler`.
    config: the settings of the task.
    own: its weights, if they are only sampled from; None for `model.params`.
    second_turns: of all briefs, if they have two.

  Returns:
    A rollout `[P, G, T]`, of which the first `len(rows)` rows count.
  """
  shards = processes.DataShards(model.mesh)
  # Few shapes, so that batches of different prompts share compilations.
  size = min(1 << (len(rows) - 1).bit_length(), config.batch_size)
  padded_P = np.resize(rows, round_up_groups(size, model.mesh))
  ids = [prompts[row] for row in padded_P]
  prompt_PxL, length_P = batches.pad(
    ids, batches.power_of_two(max(map(len, ids)))
  )
  arrays = shards.to_global(
    tuple(map(shards.local_slice, (prompt_PxL, length_P, padded_P)))
  )
  # The row's index in the file selects its random keys, hence replies do not
  # depend on the batch they are sampled in.
  rollout = sample(
    own or model.params,
    *arrays,
    sampler,
    config.seed,
    0,
    second=second_turns
    and shards.to_global(
      tuple(map(shards.local_slice, second_turns.of(padded_P)))
    ),
    config=model.config,
    group_size=config.samples,
    max_new_tokens=config.max_new_tokens,
    eos=model.chat.eos_ids,
    stop=model.chat.stop_ids,
    # Compiles more programs, which pays over several batches.
    gather=len(prompts) > 4 * config.batch_size,
  )
  # JAX returns before the device is done; the caller measures time
  return jax.block_until_ready(rollout)
