"""One GRPO step: brief → replies → scores → mix → batch.

  1. briefs    `draw_briefs`: P briefs, a function of (seed, step), which may
               tell how they are scored (`motivating`)
  2. replies   `sample_rollout`: G replies to each from the current policy
  3. scores    `scoring.Scorer`: one pass of the frozen decoder gives writing
               scores and reference log-probabilities, while the host checks
               the rules
  4. mix       `mix.mix_step`: the parts of the writing score become one reward
               w, and w and violations v one advantage per reply.  RLMR's reward
               is r = w − ζ·v, with a penalty ζ that makes every rule-breaker's
               advantage A = (r − mean r) / std r negative; the other mixers are
               baselines
  5. batch     `updates.make_updates`: the groups that each update learns from,
               in parts: a clipped policy gradient that reads each brief once
               for its group (`objective.make_loss`)

`make_next_batch` calls the stages in this order, and logs the step's metrics
and its replies (`logs`).

With several processes, arrays on devices are global, and the host arrays of a
process are the rows of its P / processes groups.  Stage 4 gathers both scores,
so that every process mixes all P groups.

With `oversample`, a step samples more than P briefs; the first P groups with a
signal are learned from.

Letters: N briefs in the data set, P briefs in a step, G replies to each,
L prompt tokens, T reply tokens.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlcw import Config, train
from rlcw.data import batches
from rlcw.models import lora
from rlcw.models.chat import ChatFormat
from rlcw.models.decoder import Params
from rlcw.models.language_model import LanguageModel
from rlcw.models.weights import copies, for_rollout
from rlcw.rewards import plain, revision
from rlcw.rewards.briefs import Brief, by_name
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import console, processes
from rlcw.sampling.rollout import Rollout, sample_and_count
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.grpo import (
  demonstrating,
  logs,
  motivating,
  objective,
  refitting,
  relabelling,
)
from rlcw.tasks.grpo.demonstrating import Demonstrations
from rlcw.tasks.grpo.mix import make_mix, mix_step
from rlcw.tasks.grpo.outages import Outages, end_in_outage
from rlcw.tasks.grpo.relabelling import BriefArrays, ScoredGroups
from rlcw.tasks.grpo.updates import make_updates

# --- The step ---------------------------------------------------------------


def make_next_batch(
  model: LanguageModel,
  scorer: Scorer,
  frozen: Params,
  briefs: list[Brief],
  config: Config,
  workdir: Path,
) -> Callable[[train.TrainState, int], train.Batch]:
  """Returns the function `(state, step) -> batch` that `train.fit` calls.

  Args:
    model: the policy's base, for its config, tokenizer and mesh.
    scorer: of the replies.
    frozen: parameters that are not trained (the base under LoRA), or empty.
    briefs: the N training briefs.
    config: of the `grpo` task.
    workdir: `rollouts.jsonl` is appended to here.
  """
  tokenized = encode_briefs(briefs, model.chat, config)
  scorer.check_context(briefs)
  notes = [motivating.note(brief, config) for brief in briefs]
  second_turns = revision.encode(briefs, model.chat, config, notes)
  refitter = refitting.start(scorer, config, workdir)
  if refitter:
    scorer = refitter.scorer
  scores_of = plain.scorer_of(scorer, briefs, config, any(notes))
  demos = None
  if demonstrating.shows(config):
    alone = scores_of.without_reference()
    demos = Demonstrations(briefs, model.chat, alone, config)
  mix = make_mix(config)
  old_policy = objective.make_old_policy(model.config, config)
  shards = processes.DataShards(model.mesh)
  rollout_log = workdir / 'rollouts.jsonl'
  outages = Outages.start()

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    # JAX runs asynchronously: without this wait, the end of the last update
    # would be timed as part of this rollout.
    jax.block_until_ready(state.params)
    started = time.perf_counter()
    processes.stop_together()
    if refitter:
      refitter.resume(step)

    # 1. Briefs.
    indices, arrays = draw_briefs(tokenized, step, config, shards)
    second = second_turns and shards.to_global(second_turns.of(indices))

    # 2. Replies, sampled on-policy: from the parameters of this very step.
    params = lora.join(state.params, frozen)
    rollout, slots, resharding = sample_rollout(
      model, params, arrays, second, step, config
    )
    sampled = time.perf_counter()
    processes.stop_together()

    # 3. Scores of this process's rows.
    chosen = [briefs[index] for index in indices]
    scored = score_replies(
      chosen, arrays, rollout, scores_of, model.chat, step, config
    )
    shown = demos and demos.show(indices, chosen, arrays)
    local = shards.local_rows(rollout)
    if refitter:
      scored = refitter.compare(step, scored, local)

    # 4. Mix.
    stats, scored = gather_step(local, scored, shown, shards)
    # Before anything is logged: a reward that was interrupted gave no scores.
    processes.stop_together()
    mixed = mix_step(
      mix, stats, scored, local, shown, shards, model.chat, step, config
    )
    logged = logs.log_rollouts(
      shards, rollout_log, step, scored, local, mixed.rows, config
    )
    end_in_outage(outages, mixed.stats, scores_of)
    refitted = refitter.refit(step) if refitter else {}

    # 5. Batch.
    updates = make_updates(
      scored,
      rollout,
      shown,
      mixed,
      functools.partial(old_policy, params),
      step,
      config,
      shards,
    )
    ended = time.perf_counter()
    times = {
      'tokens_per_second': stats['drawn'].sum() / (sampled - started),
      'seconds_rollout': sampled - started,
      'seconds_resharding': resharding,  # included in the rollout's
      'seconds_scoring': ended - sampled,
    }
    return train.Batch(
      [train.Minibatch(each.parts, each.divisor) for each in updates],
      logs.step_metrics(mixed, updates, slots, logged, config)
      | refitted
      | times,
      started,
      ended - started,
      sample=logs.sample(step, scored, local, mixed.rows, config),
    )

  return next_batch


# --- 1. Briefs --------------------------------------------------------------


def encode_briefs(
  briefs: list[Brief], chat: ChatFormat, config: Config
) -> tuple[np.ndarray, np.ndarray]:
  """Token ids `[N, L]` and lengths `[N]` of briefs, as the policy reads them.

  Raises:
    ValueError: one does not fit the model's context with its replies.
  """
  prompts = [motivating.encode(brief, chat, config) for brief in briefs]
  chat.check_context(
    by_name([*map(len, prompts)], briefs), config.max_new_tokens
  )
  sampled = objective.sampled_prompts(config)
  if len(briefs) < sampled:
    console.notice(
      f'a step samples replies to {sampled} briefs, but there are only '
      f'{len(briefs)}: it has some of them several times'
    )
  return batches.pad(prompts)


def draw_briefs(
  tokenized: tuple[np.ndarray, np.ndarray],
  step: int,
  config: Config,
  shards: processes.DataShards,
) -> tuple[np.ndarray, BriefArrays]:
  """Step 1: draws the briefs of a step from an epoch's permutation.

  They are a function of (seed, step) alone, so a resumed run needs no saved
  data position to continue with the same briefs.

  Args:
    tokenized: ids `[N, L]` and lengths `[N]` of all briefs.
    step: of the run.
    config: of the `grpo` task.
    shards: splits the step's rows over processes.

  Returns:
    Indices of this process's rows, and the global arrays of all P briefs.
  """
  prompt_NxL, length_N = tokenized
  row_P = batches.step_indices(
    config.seed, step, objective.sampled_prompts(config), len(prompt_NxL)
  )
  # Padded to a power of two: few widths, so few compilations.
  prompt_NxL = prompt_NxL[:, : batches.power_of_two(int(length_N[row_P].max()))]
  # A step that spans epochs may have a brief twice.  Its random keys are made
  # from this number, which must differ, or its replies would be the same.
  key_P = row_P + len(prompt_NxL) * batches.occurrences(row_P)
  rows, keys = (
    batches.share(each_P, *shards.index_and_count) for each_P in (row_P, key_P)
  )
  return rows, shards.to_global((prompt_NxL[rows], length_N[rows], keys))


# --- 2. Replies -------------------------------------------------------------


def sample_rollout(
  model: LanguageModel,
  params: Params,
  briefs: BriefArrays,
  second: tuple[jax.Array, jax.Array] | None,
  step: int,
  config: Config,
) -> tuple[Rollout, int, float]:
  """Step 2: samples G replies to each brief.

  Args:
    model: of the policy.
    params: its parameters, sharded as they are trained.
    briefs: token ids `[P, L]`, lengths `[P]` and numbers `[P]`.  The random
      keys are a function of (seed, step, number, reply).
    second: ids `[P, S]` and lengths `[P]` of their second turns, if any.
    step: of the run.
    config: of the `grpo` task.

  Returns:
    The replies, the slots (a row in a decode step) that they took, and the
    seconds taken to merge adapters, cast weights and reshard them.
  """
  started = time.perf_counter()
  decoder = lora.rollout_config(model.config)
  weights = lora.rollout_params(model.config, params)
  # Training shards weights over 'fsdp'.  Decoding reads every weight for every
  # token, so it is faster to gather them once here than once per token.
  weights = for_rollout(decoder, weights, model.mesh, config.rollout_table)
  jax.block_until_ready(weights)
  resharded = time.perf_counter()
  rollout, slots = sample_and_count(
    weights,
    *briefs,
    Temperature(config.temperature),
    config.seed,
    step,
    second=second,
    config=decoder,
    group_size=config.group_size,
    max_new_tokens=config.max_new_tokens,
    eos=model.chat.eos_ids,
    stop=model.chat.stop_ids,
    gather=True,
    spent=copies(weights, params),
    pause=processes.stop_together,
  )
  return jax.block_until_ready(rollout), slots, resharded - started


# --- 3. Scores ---------------------------------------------------------------


def score_replies(
  briefs: list[Brief],
  arrays: BriefArrays,
  rollout: Rollout,
  scorer: Scorer,
  chat: ChatFormat,
  step: int,
  config: Config,
) -> ScoredGroups:
  """Step 3: scores replies, to the briefs that groups learn from.

  Every few steps the judge also rates one reply per brief, only to monitor
  reward hacking; it is no reward.

  Args:
    briefs: this process's.
    arrays: their tokens, of all processes.
    rollout: replies of all processes.
    scorer: of the replies.
    chat: encodes briefs.
    step: of the run.
    config: of the `grpo` task.
  """
  prompt_PxL, length_P, _ = arrays
  second_opinion = step % config.monitors.judge_every == 0
  scores = scorer(briefs, prompt_PxL, length_P, rollout, second_opinion, step)
  return relabelling.relabel(
    briefs, arrays, rollout, scores, scorer, chat, config
  )


# --- 4. Mix; the rest is `mix.mix_step` ---------------------------------------


def gather_step(
  rollout: Rollout,
  scored: ScoredGroups,
  shown: demonstrating.Shown | None,
  shards: processes.DataShards,
) -> tuple[dict[str, Any], ScoredGroups]:
  """Gathers the statistics of a step that its advantages are made of.

  Two numbers and a few flags per reply are cheap to gather, and with them every
  process computes the same advantages.

  Args:
    rollout: this process's replies.
    scored: the briefs that are learned from, and scores.
    shown: the demonstrations, if a run has them.
    shards: splits groups over processes.

  Returns:
    `logs.gather_stats`, and `scored` with the costs of demonstrations.
  """
  found = logs.local_stats(rollout, scored)
  if shown:
    scored = demonstrating.add_costs(scored, shown)
    found |= demonstrating.local_stats(shown, scored)
    found['scoring'] = scored.scores.stats
  return logs.gather_stats(shards.gather(found)), scored
