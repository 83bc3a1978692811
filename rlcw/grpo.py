"""Task `grpo`: learn to write well without breaking a rule.

One step, from top to bottom:

  1. briefs     P of them, a function of (seed, step)
  2. rollout    G replies to each, sampled from the current policy
  3. scores     the frozen decoder gives the writing score and the reference
                log-probabilities in one pass, while the host checks the rules
  4. mix        a rule-breaker's reward is lowered until its advantage is
                negative (RLMR), or one of the baselines
  5. update     clipped policy gradient (`learner`); each brief is read once for
                its group
"""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import (
  Config,
  data,
  learner,
  lora,
  losses,
  metrics,
  monitors,
  policy,
  processes,
  sampling,
  scoring,
  sharding,
  tokenizer,
  train,
)
from rlcw.model import Params
from rlcw.policy import Policy
from rlcw.rewards import constraints, mixing
from rlcw.scoring import Scorer, Scores


class Mixed(NamedTuple):
  """What the mixer makes of a rollout's scores, on the host."""

  rewards: mixing.MixedRewards
  advantage: Any  # [P, G]
  max_violator_advantage: Any  # [], −inf where no group is mixed


def load(config: Config) -> Policy:
  """The model that a run trains, with the adapters that it asks for."""
  mesh = sharding.make_mesh(**config.mesh)
  model = policy.load(config.model, mesh)
  return model._replace(config=learner.configure(model.config, config))


@sharding.ambient
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains a policy; returns its summary, in the process that tells."""
  check(config)
  started = time.perf_counter()
  model = load(config)
  briefs = data.load_briefs(
    config.briefs, split='train', language=config.language
  )
  optimizer = learner.make_optimizer(config)
  learned, frozen = lora.split(
    model.config, model.params, model.mesh, config.seed
  )
  # what learns stays float32; the reference, and a frozen base, need not
  model = policy.held_in(model, config.compute_dtype, config.attention)
  frozen = frozen and model.params
  if config.offload and not frozen:
    waiting = sharding.in_memory(model.params, 'pinned_host')
    model = model._replace(params=waiting)
  scorer = Scorer(model, config)
  state = train.fit(
    train.init_state(learned, optimizer, model.mesh),
    make_next_batch(model, scorer, frozen, briefs, config, workdir),
    learner.make_loss(model.config, config),
    optimizer,
    frozen=frozen,
    name='grpo',
    steps=config.steps,
    workdir=workdir,
    checkpoint_every=config.checkpoint_every,
    microbatches=config.prompts_per_step // config.microbatch_groups,
    watch=make_watch(config),
  )
  if not metrics.speaks():
    return {}
  history = data.read_jsonl(workdir / 'metrics.jsonl')
  worst = [
    row['max_violator_advantage']
    for row in history
    if row['max_violator_advantage'] is not None
  ]
  watched = monitors.survey(history, config.monitors)
  summary = {
    'steps': int(state.step),
    'warnings': watched.warnings,
    'unmonitored': watched.off(),
    'max_violator_advantage': max(worst, default=None),
    'wall_seconds': sum(row['seconds_step'] for row in history),
    'process_seconds': time.perf_counter() - started,
    'peak_memory_gib': metrics.peak_memory_gib(),
    'compilations': history[-1]['compilations'],
    'compile_seconds': history[-1]['seconds_compiling'],
    'hardware': metrics.hardware(),
  }
  metrics.write_json(workdir / 'summary.json', summary)
  return summary


def check(config: Config) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  learner.check(config, sharding.make_mesh(**config.mesh))
  scoring.check(config)
  monitors.check(config.monitors)
  mixing.check(config.mixing, config.advantage_scale)


def make_watch(config: Config) -> Callable[[dict[str, Any]], None]:
  """Says a line where a row of metrics trips a monitor."""
  watch = monitors.Watch(config.monitors)

  def see(row: dict[str, Any]) -> None:
    for found in watch.see(row):
      name, step, text = (found[k] for k in ('monitor', 'step', 'text'))
      metrics.say(f'grpo: warning ({name}, step {step}): {text}')

  return see


def make_next_batch(
  model: Policy,
  scorer: Scorer,
  frozen: Params,
  briefs: list[data.Brief],
  config: Config,
  workdir: Path,
) -> Callable[[train.TrainState, int], train.Batch]:
  """Steps 1 to 4: from the current parameters to what they learn from."""
  prompt_NxL, length_N = data.pad(
    tokenizer.chat(model.text, brief.text) for brief in briefs
  )
  mix = make_mix(config)
  parts = processes.Parts(model.mesh)
  diary = workdir / 'rollouts.jsonl'

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    jax.block_until_ready(state.params)
    started = time.perf_counter()
    rows = data.batch_indices(
      config.seed, step, config.prompts_per_step, len(briefs), *parts.share
    )
    prompt_PxL, length_P, brief_P = parts.spread(
      (prompt_NxL[rows], length_N[rows], rows)
    )
    params = lora.join(state.params, frozen)
    rollout, resharding = roll_out(
      model, params, (prompt_PxL, length_P, brief_P), step, config
    )
    sampled = time.perf_counter()
    chosen = [briefs[row] for row in rows]
    opinion = step % config.monitors.judge_every == 0
    scores = scorer(chosen, prompt_PxL, length_P, rollout, opinion)
    own = parts.own(rollout)
    facts = join_facts(parts.gather(find_facts(own, scores)))
    mixed = mix(facts['writing'], facts['violated'], facts['valid'])
    mine = {
      'valid': parts.mine(mixed.rewards.valid),
      'reward': parts.mine(mixed.rewards.reward),
      'advantage': parts.mine(mixed.advantage),
    }
    record(parts, diary, step, chosen, own, scores, mine)
    arrays = {
      'prompt': prompt_PxL,
      'length': length_P,
      'rollout': rollout,
      'ref_logp': scores.ref_logp,
    }
    arrays = jax.device_put(arrays, parts.over) | parts.spread(
      {name: mine[name] for name in ('valid', 'advantage')}
    )
    told = describe(facts, mixed)
    scored = time.perf_counter()
    told |= {
      'tokens_per_second': facts['length'].sum() / (sampled - started),
      'seconds_rollout': sampled - started,
      'seconds_resharding': resharding,  # of the rollout's
      'seconds_scoring': scored - sampled,
    }
    return train.Batch(arrays, told, started, scored - started)

  return next_batch


def roll_out(
  model: Policy,
  params: Params,
  briefs: tuple[jax.Array, jax.Array, jax.Array],
  step: int,
  config: Config,
) -> tuple[sampling.Rollout, float]:
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
  decoder = lora.decoder(model.config)
  sampled = lora.sampled(model.config, params)
  weights = sharding.for_rollout(
    decoder, sampled, model.mesh, config.rollout_table
  )
  jax.block_until_ready(weights)
  resharded = time.perf_counter()
  rollout = sampling.sample(
    weights,
    *briefs,
    sampling.Temperature(config.temperature),
    config.seed,
    step,
    config=decoder,
    group_size=config.group_size,
    max_new_tokens=config.max_new_tokens,
    eos=tokenizer.eos_ids(model.text),
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


def find_facts(rollout: sampling.Rollout, scores: Scores) -> dict[str, Any]:
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
    'told': scores.told,
  }


def join_facts(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
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


def describe(facts: dict[str, Any], mixed: Mixed) -> dict[str, Any]:
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


def record(
  parts: processes.Parts,
  diary: Path,
  step: int,
  briefs: list[data.Brief],
  rollout: sampling.Rollout,
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
  for group in itertools.chain(*parts.collect(groups)):
    metrics.append_jsonl(diary, group)
