"""Statistics of a GRPO step: gathered over processes, as metrics, and its log.

Letters: P briefs in a step, of which P' are this process's; G replies to each,
T reply tokens.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlcw import Config, losses
from rlcw.rewards import constraints, revision, rubrics
from rlcw.rewards.mixing import Advantages
from rlcw.runtime import files, metrics, processes
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import demonstrating, objective, samples, signs
from rlcw.tasks.grpo.mix import MixedStep
from rlcw.tasks.grpo.motivating import note
from rlcw.tasks.grpo.relabelling import ScoredGroups, relabels

# Metrics that are means over replies: (reply, its prompt) -> a share.
SIGNS = {
  'repetition': lambda text, _: signs.repeated(text),
  'copied': signs.copied,
  'marks': lambda text, _: signs.marks(text),
}


def local_stats(rollout: Rollout, scored: ScoredGroups) -> dict[str, Any]:
  """Statistics of this process's replies, for all processes to gather.

  Arrays are `[P', G]` for its P' groups, but for `logp` (a sum), the `SIGNS`,
  `good`, `prompt_length` and `relabelled` (all `[P']`).
  """
  scores = scored.scores
  logp, length, drawn, finished = jax.device_get(
    (rollout.logp, rollout.length, rollout.drawn_length, rollout.finished)
  )
  return {
    'writing': scores.writing,
    **{f'writing/{name}': part for name, part in scores.parts.items()},
    'violated': scores.violated,
    'broken_share': scores.broken_share,
    'valid': scores.valid,
    'kept': np.array(
      [[constraints.keeps(r) for r in g] for g in scores.follow]
    ),
    'finished': finished,
    'length': length,  # of the row, which may have two turns
    'drawn': drawn,
    'scored': np.asarray(rollout.last_reply().length),
    # Only the sum: gathering [P, G, T] through the host would be slow.
    'logp': logp.sum(),
    **{
      name: np.array(
        [
          np.mean([sign(text, brief.text) for text in group])
          for brief, group in zip(scored.asked, scores.text, strict=True)
        ]
      )
      for name, sign in SIGNS.items()
    },
    'good': scores.good,
    'prompt_length': scored.length_P,
    'relabelled': scored.changed_P,
    'scoring': scores.stats,
  }


def gather_stats(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Joins the `local_stats` of all processes into those of the step.

  Groups are concatenated in their order, and `logp` is summed.  Of the scorer's
  statistics the `judge_…` counts are summed and all others averaged, without
  weights, because all processes have equally many replies.
  """
  joined = {
    name: sum(part['logp'] for part in parts)
    if name == 'logp'
    else np.concatenate([part[name] for part in parts])
    for name in parts[0]
    if name != 'scoring'
  }
  scoring = {
    name: (np.sum if name.startswith('judge_') else np.mean)(
      [part['scoring'][name] for part in parts]
    )
    for name in parts[0]['scoring']
  }
  return joined | {'scoring': scoring}


def step_metrics(
  mixed: MixedStep,
  updates: Sequence[objective.Batch],
  slots: int,
  logged: Sequence[dict[str, Any]],
  config: Config,
) -> dict[str, Any]:
  """Metrics of a step, without those of time.

  Args:
    mixed: of the step.
    updates: of the step.
    slots: of `step.sample_rollout`.
    logged: lines of the step in the log, in process 0.
    config: of the `grpo` task.
  """
  stats, kept_P = mixed.stats, mixed.kept_P
  values = score_metrics(stats, mixed.advantages, config)
  if demonstrating.shows(config):
    values |= demonstrating.metrics_of(stats, mixed.shown_P)
  # A brief may be in a step several times.
  texts: dict[tuple[str, str], list[str]] = {}
  for group in logged:
    texts.setdefault((group['brief_id'], group['prompt']), []).extend(
      reply['text'] for reply in group['replies']
    )
  return values | {
    'idle_slots': 1 - stats['length'].sum() / slots,
    'padding': objective.padding(updates),
    'dropped_groups': 1 - kept_P.mean(),
    'phrase': signs.phrase([*texts.values()]),
  }


def score_metrics(
  stats: dict[str, Any], advantages: Advantages, config: Config
) -> dict[str, Any]:
  """Metrics of a step's replies, scores and advantages.

  `entropy` is the sampled estimate −mean(log p) in nats per token.
  """
  rewards = advantages.rewards
  # Replies that were not scored, and groups of nothing else, have no share in
  # the numbers about scores.
  share = np.where(rewards.valid.any(1), rewards.violators, np.nan)
  writing_std = np.where(rewards.valid.any(1), rewards.writing_std, np.nan)
  violated = np.where(rewards.valid, stats['violated'], np.nan)
  return {
    'reward': metrics.mean(advantages.reward),
    # `metrics.mean` skips NaN: replies without a score, rules without a
    # verdict.
    'writing': metrics.mean(stats['writing']),
    **{
      name: metrics.mean(part)
      for name, part in stats.items()
      if name.startswith('writing/')
    },
    'writing_std': metrics.mean(writing_std),
    'pass_rate': metrics.mean(stats['kept']),
    'violation_rate': metrics.mean(violated),
    'penalty_mean': rewards.penalty.mean(),
    'penalty_max': rewards.penalty.max(),
    'max_violator_advantage': advantages.max_violator_advantage,
    'mixed_groups': np.mean((share > 0) & (share < 1)),
    'clean_groups': np.mean(share == 0),
    'all_violating_groups': np.mean(share == 1),
    # An advantage that is not exactly 0 may be one of rounding.
    'no_signal_groups': np.mean(
      (abs(advantages.advantage) <= losses.LEAST_ADVANTAGE).all(1)
    ),
    'length_mean': stats['scored'].mean(),
    'truncated': 1 - stats['finished'].mean(),
    'entropy': -stats['logp'] / stats['drawn'].sum(),
    **{name: stats[name].mean() for name in SIGNS},
    'judge_good': metrics.mean(stats['good']),
    'kl': np.nan,  # without a KL term; else the update replaces it
    **stats['scoring'],
    **(
      {'relabelled_groups': stats['relabelled'].mean()}
      if relabels(config)
      else {}
    ),
    **(
      {'unrevised': np.mean(stats['scored'] == 0)}
      if revision.revises(config)
      else {}
    ),
  }


def sample(
  step: int,
  scored: ScoredGroups,
  rollout: Rollout,
  rows: dict[str, Any],
  config: Config,
) -> str:
  """Returns the text that shows a step (`samples`), or '' if none is due.

  Args:
    step: of the run.
    scored: briefs and scores of this process's groups.
    rollout: this process's replies.
    rows: of `mix.local_rows`.
    config: of the `grpo` task.
  """
  if not config.show_every or step % config.show_every:
    return ''
  return samples.describe(
    step,
    scored.asked,
    scored.scores,
    np.asarray(rollout.finished),
    rows['advantage'],
    scored.relabelled,
  )


def log_rollouts(
  shards: processes.DataShards,
  rollout_log: Path,
  step: int,
  scored: ScoredGroups,
  rollout: Rollout,
  rows: dict[str, Any],
  config: Config,
) -> list[dict[str, Any]]:
  """Appends every reply with all its scores to the log, a line per group.

  Args:
    shards: gathers the groups to process 0, which alone writes.
    rollout_log: `rollouts.jsonl`.
    step: of the run.
    scored: briefs and scores of this process's groups.
    rollout: this process's replies.
    rows: of `mix.local_rows`, and `writing_reward` `[P', G]` if it is not the
      writing score; `records` `[P']` are added to those of the groups.
    config: of the `grpo` task.

  Returns:
    The lines of all groups in process 0, which alone has them.
  """
  scores = scored.scores
  columns = {
    'text': scores.text,
    'writing': scores.writing,
    **{k: v for k, v in rows.items() if k == 'writing_reward'},
    'follow': scores.follow,
    'violated': scores.violated,
    'valid': rows['valid'],  # the update leaves out other replies
    'finished': rollout.finished,
    'length': rollout.last_reply().length,
    'reward': rows['reward'],
    'advantage': rows['advantage'],
    **{k: v for k, v in rows.items() if k == 'spans'},
  }
  fields = {
    k: v if isinstance(v, list) else np.asarray(v).tolist()
    for k, v in columns.items()
  }
  groups = [
    {
      'step': step,
      'brief_id': brief.id,
      'prompt': brief.text,
      # which the policy read after it
      **({'note': text} if (text := note(brief, config)) else {}),
      **revision.record(brief, config),
      'kept': bool(rows['kept'][p]),  # false if `oversample` dropped it
      # then `violated` and `writing` are of this brief
      **({'learned_prompt': new.text} if (new := scored.relabelled[p]) else {}),
      **rubrics.record(brief.rubric),
      **(rows['records'][p] if 'records' in rows else {}),
      'replies': [
        {name: values[p][g] for name, values in fields.items()}
        | scores.details(p, g)
        for g in range(len(scores.text[p]))
      ],
    }
    for p, brief in enumerate(scored.asked)
  ]
  # In the order of the rows, so that the file is the same however many
  # processes took part.
  everywhere = [*itertools.chain(*shards.gather_to_primary(groups))]
  for group in everywhere:
    files.append_jsonl(rollout_log, group)
  return everywhere
