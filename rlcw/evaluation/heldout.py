"""Samples and scores a model's replies to held-out briefs."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import batches
from rlcw.models import lora
from rlcw.models.language_model import LanguageModel
from rlcw.models.weights import copies, for_rollout
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scores
from rlcw.runtime import console, processes
from rlcw.runtime.mesh import round_up_groups
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Sampler, Temperature

# Values of one reply, from the fields that `answer` and later scorers write.
PER_REPLY: dict[str, Callable[[dict[str, Any]], Any]] = {
  'pass_rate': lambda reply: reply['strict'],
  'pass_rate_loose': lambda reply: reply['loose'],
  'writing': lambda reply: reply['writing'],
  'unseen': lambda reply: reply.get('unseen'),
  'good': lambda reply: reply.get('good'),
  'length': lambda reply: reply['length'],
  'truncated': lambda reply: not reply['finished'],
  'kl': lambda reply: reply['kl'],
}

# Those that lie between 0 and 1, for their intervals.
SHARES = 'pass_rate', 'pass_rate_loose', 'good', 'truncated'


def answer(
  model: LanguageModel,
  scorer: Callable[..., Scores],
  briefs: list[Brief],
  trained: Config,
  config: Config,
  *,
  sampler: Sampler | None = None,
  also: Callable[[list[Brief], Scores, np.ndarray], dict[str, Any]]
  | None = None,
) -> list[list[dict[str, Any]]]:
  """Samples and scores G = `replies_per_brief` replies to each of P briefs.

  Of several processes each reads its share of the briefs.

  Args:
    model: the policy.
    scorer: as `scoring.Scorer`.
    briefs: P held-out briefs.
    trained: the training run's settings, for temperature, reply length and the
      sharding of the weights.
    config: the evaluation's settings, for batch size, group size and seed.
    sampler: of tokens; None for the temperature of training.
    also: a function of a batch's briefs, their scores, and a mask `[P, G]` of
      finished replies.  It returns further fields, `[P, G]` each.

  Returns:
    `[P][G]` dictionaries, none in other processes than process 0: `text`;
    `writing`, the writing score; `follow`, a verdict per rule; `finished`,
    false for a truncated reply; `length` in tokens; `kl`, which is
    log p − log p_base of the reply in nats, NaN where the scorer gives no
    log p_base; `strict` and `loose`, verdicts on the whole reply.  The mean of
    `kl` over replies estimates the KL divergence from the base model.
  """
  prompts = [model.chat.encode_prompt(brief.request) for brief in briefs]
  model.chat.check_context(
    {f'brief {b.id}': len(ids) for b, ids in zip(briefs, prompts, strict=True)},
    trained.max_new_tokens,
  )
  prompt_NxL, length_N = batches.pad(prompts)
  # merges adapters into the weights where that costs no precision
  decoder = lora.rollout_config(model.config)
  params = lora.rollout_params(model.config, model.params)
  table = trained.get('rollout_table', 'decode')
  shards = processes.DataShards(model.mesh)
  size, replies = round_up_groups(config.batch_size, model.mesh), []
  passes = -(-len(briefs) // size)
  steps = console.progress('evaluate', 0, passes, 'batch')
  for step in processes.stoppable(steps):
    # Every batch has the same shape, so that `sample` compiles once and rows
    # split over the devices; the last batch is filled with repeated briefs.
    rows = np.arange(step * size, (step + 1) * size) % len(briefs)
    own = shards.local_slice(rows)
    prompt_PxL, length_P, brief_P = shards.to_global(
      (prompt_NxL[own], length_N[own], own)
    )
    # Anew for each batch, so that no more is in memory than in training.
    ready = for_rollout(decoder, params, model.mesh, table)
    # Random keys depend on seed, step (0) and row alone: all models draw the
    # same numbers for the same brief, which makes comparisons paired.
    rollout = sample(
      ready,
      prompt_PxL,
      length_P,
      brief_P,
      sampler or Temperature(trained.temperature),
      config.seed,
      0,
      config=decoder,
      group_size=config.replies_per_brief,
      max_new_tokens=trained.max_new_tokens,
      eos=model.chat.eos_ids,
      stop=model.chat.stop_ids,
      spent=copies(ready, params),
    )
    del ready  # it need not be in memory while replies are scored
    chosen = [briefs[row] for row in own]
    scores = scorer(chosen, prompt_PxL, length_P, rollout)
    rollout, ref_logp = shards.local_rows((rollout, scores.ref_logp))
    finished = np.asarray(rollout.finished)
    length = np.asarray(rollout.length)
    kl = np.full(length.shape, np.nan)
    if ref_logp is not None:
      gap_PxGxT = np.asarray(rollout.logp - ref_logp)
      # the mask leaves out padding after a reply's last token
      kl = gap_PxGxT.sum(-1, where=np.asarray(rollout.mask))
    further = also(chosen, scores, finished) if also else {}
    groups = [
      [
        {
          'text': scores.text[p][g],
          'writing': scores.writing[p, g],
          'follow': scores.follow[p][g],
          'finished': finished[p, g],
          'length': length[p, g],
          'kl': kl[p, g],
          **{name: values_PxG[p, g] for name, values_PxG in further.items()},
        }
        for g in range(config.replies_per_brief)
      ]
      for p in range(len(own))
    ]
    replies += itertools.chain(*shards.gather_to_primary(groups))
  # drop the repeated briefs of the last batch
  replies = replies[: len(briefs)]
  for brief, group in zip(briefs, replies, strict=False):
    for reply in group:
      reply['strict'] = 1 - constraints.breaks(reply['follow'])
      reply['loose'] = follows_loosely(brief, reply)
  return replies


def values(groups: Sequence[Sequence[dict[str, Any]]], key: str) -> np.ndarray:
  """One of PER_REPLY for each reply, `[P, G]`; NaN where it is not known."""
  value = PER_REPLY[key]
  return np.array([[value(r) for r in group] for group in groups], float)


def kept_and_better(
  groups: Sequence[Sequence[dict[str, Any]]],
  base_P: np.ndarray,
  score: str = 'unseen',
) -> np.ndarray:
  """Returns which replies reach both aims, `[P, G]`; NaN if not known.

  They keep every rule, and are better written than the mean of the base's
  replies to the same brief.

  Args:
    groups: of replies.
    base_P: that mean.
    score: of writing, `unseen` (by a reward model that training never used) or
      `writing`.
  """
  kept_PxG = values(groups, 'pass_rate')
  better_PxG = values(groups, score) > base_P[:, None]
  # a reply without a verdict on its rules stays NaN, even if it is not better
  return np.where(np.isnan(kept_PxG), np.nan, kept_PxG * better_PxG)


def follows_loosely(brief: Brief, reply: dict[str, Any]) -> float:
  """IFEval's loose verdict on a whole reply.

  Rules are checked loosely.  A demand has no loose form, so the judge's
  verdict in `reply['follow']` counts.

  Returns:
    1 if the reply keeps everything, 0 if it breaks something; NaN where
    nothing is broken but a demand has no verdict.
  """
  # None at demands, which rule code cannot check
  loose = brief.follow(reply['text'], loose=True)
  verdicts = zip(loose, reply['follow'], strict=True)
  return 1 - constraints.breaks(
    [strict if rule is None else rule for rule, strict in verdicts]
  )
