"""One GRPO step, from briefs to the batch that the update learns from."""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config, losses, train
from rlcw.data import batches
from rlcw.models import lora, tokenizer
from rlcw.models.decoder import Params
from rlcw.models.language_model import LanguageModel
from rlcw.models.weights import for_rollout
from rlcw.rewards import constraints, mixing
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scorer, Scores
from rlcw.runtime import files, metrics, processes
from rlcw.sampling.rollout import Rollout, Temperature, sample
from rlcw.tasks.grpo import monitors


class Mixed(NamedTuple):
  """What the mixer makes of a rollout's scores, on the host."""

  rewards: mixing.MixedRewards
  advantage: Any  # [P, G]
  max_violator_advantage: Any  # [], −inf where no group is mixed


def make_next_batch(
  model: LanguageModel,
  scorer: Scorer,
  frozen: Params,
  briefs: list[Brief],
  config: Config,
  workdir: Path,
) -> Callable[[train.TrainState, int], train.Batch]:
  """Steps 1 to 4: from the current parameters to what they learn from."""
  prompt_NxL, length_N = batches.pad(
    tokenizer.chat(model.tokenizer, brief.text) for brief in briefs
  )
  mix = make_mix(config)
  parts = processes.DataShards(model.mesh)
  diary = workdir / 'rollouts.jsonl'

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    jax.block_until_ready(state.params)
    started = time.perf_counter()
    rows = batches.batch_indices(
      config.seed,
      step,
      config.prompts_per_step,
      len(briefs),
      *parts.index_and_count,
    )
    prompt_PxL, length_P, brief_P = parts.to_global(
      (prompt_NxL[rows], length_N[rows], rows)
    )
    params = lora.join(state.params, frozen)
    rollout, resharding = sample_rollout(
      model, params, (prompt_PxL, length_P, brief_P), step, config
    )
    sampled = time.perf_counter()
    chosen = [briefs[row] for row in rows]
    opinion = step % config.monitors.judge_every == 0
    scores = scorer(chosen, prompt_PxL, length_P, rollout, opinion)
    own = parts.local_rows(rollout)
    facts = gather_stats(parts.gather(local_stats(own, scores)))
    mixed = mix(facts['writing'], facts['violated'], facts['valid'])
    mine = {
      'valid': parts.local_slice(mixed.rewards.valid),
      'reward': parts.local_slice(mixed.rewards.reward),
      'advantage': parts.local_slice(mixed.advantage),
    }
    log_rollouts(parts, diary, step, chosen, own, scores, mine)
    arrays = {
      'prompt': prompt_PxL,
      'length': length_P,
      'rollout': rollout,
      'ref_logp': scores.ref_logp,
    }
    arrays = jax.device_put(arrays, parts.sharding) | parts.to_global(
      {name: mine[name] for name in ('valid', 'advantage')}
    )
    told = step_metrics(facts, mixed)
    scored = time.perf_counter()
    told |= {
      'tokens_per_second': facts['length'].sum() / (sampled - started),
      'seconds_rollout': sampled - started,
      'seconds_resharding': resharding,  # of the rollout's
      'seconds_scoring': scored - sampled,
    }
    return train.Batch(arrays, told, started, scored - started)

  return next_batch


def sample_rollout(
  model: LanguageModel,
  params: Params,
  briefs: tuple[jax.Array, jax.Array, jax.Array],
  step: int,
  config: Config,
) -> tuple[Rollout, float]:
  """Step 2.

  Args:
    model: of the policy.
    params: its parameters, as they are trained.
    briefs: tokens `[P, L]`, lengths `[P]` and numbers `[P]`.
    step: of the run.
    config: of the run.

  Returns:
    The replies, and the seconds that it took to merge, cast and move weights.
  """
  started = time.perf_counter()
  decoder = lora.rollout_config(model.config)
  sampled = lora.rollout_params(model.config, params)
  weights = for_rollout(decoder, sampled, model.mesh, config.rollout_table)
  jax.block_until_ready(weights)
  resharded = time.perf_counter()
  rollout = sample(
    weights,
    *briefs,
    Temperature(config.temperature),
    config.seed,
    step,
    config=decoder,
    group_size=config.group_size,
    max_new_tokens=config.max_new_tokens,
    eos=tokenizer.eos_ids(model.tokenizer),
  )
  return jax.block_until_ready(rollout), resharded - started


def make_mix(config: Config) -> Callable[..., Mixed]:
  """Step 4, jitted: two scores to one advantage per reply.

  A reply that is not valid counts for nothing; it is never zero.
  """
  mixer, names = mixing.MIXERS[config.mixing.name]
  words = {n: config.mixing[n] for n in names if n == 'all_violating'}
  numbers = {n: config.mixing[n] for n in names if n not in words}
  all_negative = words.get('all_violating') == 'suppress'

  @jax.jit
  def mix(
    writing_PxG: jax.Array,
    violated_PxG: jax.Array,
    valid_PxG: jax.Array,
    numbers: Any,
  ):
    writing_PxG = jnp.where(valid_PxG, writing_PxG, 0.0)
    mixed = mixer(writing_PxG, violated_PxG, valid_PxG, **words, **numbers)
    scale_P = {
      'reward_std': None,
      'writing_std': mixed.writing_std,
      'none': jnp.ones_like(mixed.writing_std),
    }[config.advantage_scale]
    advantage_PxG = losses.group_advantages(
      mixed.reward, mixed.valid, baseline_P=mixed.baseline, scale_P=scale_P
    )
    worst = mixing.max_violator_advantage(
      advantage_PxG, violated_PxG, mixed, all_violating=all_negative
    )
    return Mixed(mixed, advantage_PxG, worst)

  return lambda *scores: jax.device_get(mix(*scores, numbers))


def local_stats(rollout: Rollout, scores: Scores) -> dict[str, Any]:
  """What all processes are to know of one part's replies."""
  logp, length, finished = jax.device_get(
    (rollout.logp, rollout.length, rollout.finished)
  )
  return {
    'writing': scores.writing,
    'violated': scores.violated,
    'valid': scores.valid,
    'broken': np.array(
      [[constraints.breaks(r) for r in g] for g in scores.follow]
    ),
    'finished': finished,
    'length': length,
    'logp': logp.sum(),
    'repetition': np.array(
      [np.mean([*map(monitors.repeated, group)]) for group in scores.text]
    ),
    'good': scores.good,
    'told': scores.stats,
  }


def gather_stats(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The same of a whole step: its groups in order, its numbers added up.

  Of what scoring told, a judge's counts are added up; the rest is a mean, as
  all parts have as many replies.
  """
  joined = {
    name: sum(part['logp'] for part in parts)
    if name == 'logp'
    else np.concatenate([part[name] for part in parts])
    for name in parts[0]
    if name != 'told'
  }
  told = {
    name: (np.sum if name.startswith('judge_') else np.mean)(
      [part['told'][name] for part in parts]
    )
    for name in parts[0]['told']
  }
  return joined | {'told': told}


def step_metrics(facts: dict[str, Any], mixed: Mixed) -> dict[str, Any]:
  """One step's numbers.  `entropy` is the sampled estimate −mean(log p)."""
  rewards, share = mixed.rewards, mixed.rewards.violators
  length = facts['length']
  return {
    'reward': rewards.reward.mean(),
    'writing': metrics.mean(facts['writing']),
    'writing_std': rewards.writing_std.mean(),
    'pass_rate': metrics.mean(1 - facts['broken']),
    'violation_rate': facts['violated'].mean(),
    'penalty_mean': rewards.penalty.mean(),
    'penalty_max': rewards.penalty.max(),
    'max_violator_advantage': mixed.max_violator_advantage,
    'mixed_groups': np.mean((share > 0) & (share < 1)),
    'clean_groups': np.mean(share == 0),
    'all_violating_groups': np.mean(share == 1),
    'no_signal_groups': 1 - mixed.advantage.any(1).mean(),
    'length_mean': length.mean(),
    'truncated': 1 - facts['finished'].mean(),
    'entropy': -facts['logp'] / length.sum(),
    'repetition': facts['repetition'].mean(),
    'judge_good': metrics.mean(facts['good']),
    **facts['told'],
  }


def log_rollouts(
  parts: processes.DataShards,
  diary: Path,
  step: int,
  briefs: list[Brief],
  rollout: Rollout,
  scores: Scores,
  mixed: dict[str, Any],
) -> None:
  """Keeps every reply with all its scores, a line per group.

  Each process knows its own groups; the first writes all of them, in order.
  """
  columns = {
    'text': scores.text,
    'writing': scores.writing,
    'follow': scores.follow,
    'violated': scores.violated,
    'valid': scores.valid,
    'finished': rollout.finished,
    'length': rollout.length,
    'reward': mixed['reward'],
    'advantage': mixed['advantage'],
  }
  rows = {
    k: v if isinstance(v, list) else np.asarray(v).tolist()
    for k, v in columns.items()
  }
  groups = [
    {
      'step': step,
      'brief_id': brief.id,
      'prompt': brief.text,
      'replies': [
        {name: values[p][g] for name, values in rows.items()}
        for g in range(len(scores.text[p]))
      ],
    }
    for p, brief in enumerate(briefs)
  ]
  for group in itertools.chain(*parts.gather_to_primary(groups)):
    files.append_jsonl(diary, group)
