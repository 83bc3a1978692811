"""Demonstrations in a GRPO step (`demonstration_weight`).

A brief whose record has a reply (`response`, or `chosen` of a pair) shows it:
an additional row of the group, teacher-forced, which the update reads with the
brief and the G sampled replies.  Its advantage is `rewards.demonstrations`'.

Every group has the row, so that shapes are fixed; where there is nothing to
learn from it, it has no tokens.

Letters: N briefs, P in a step, of which P' are this process's; T reply tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.models.chat import ChatFormat
from rlcw.rewards import demonstrations, mixing
from rlcw.rewards.briefs import Brief
from rlcw.rewards.mixed import MixedRewards
from rlcw.rewards.parts import overlong_penalty
from rlcw.rewards.scoring import Scores
from rlcw.runtime import console, processes, settings, sums
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo.relabelling import BriefArrays, ScoredGroups

# Parts of a writing score that compare the replies of a group.
_RELATIVE = 'diversity', 'pairs'


def shows(config: Config) -> bool:
  """True if a run learns from demonstrations."""
  # Configs of earlier versions do not have the setting.
  return config.get('demonstration_weight', 0.0) > 0


def weight(config: Config, step: int) -> float:
  """Factor of a step's advantages: it grows linearly to its setting."""
  grown = (step + 1) / (config.demonstration_warmup + 1)
  return config.demonstration_weight * min(grown, 1.0)


def check(config: Config) -> None:
  """Checks that the settings fit demonstrations, if there are any.

  Raises:
    ValueError: rewards are not in the unit of the writing score, or this is of
      a group; or the weight of no demonstrations is to grow.
  """
  if not shows(config):
    settings.refuse_unread(
      config,
      {'demonstration_warmup': 0},
      'demonstrations: expected demonstration_weight above 0',
    )
    return
  start = f'demonstration_weight={config.demonstration_weight:g}'
  if not mixing.MIXERS[config.mixing.name].keeps_writing:
    raise ValueError(
      f'{start} does not fit mixing.name={config.mixing.name!r}, whose '
      'rewards are not in the unit of the writing score: expected 0, or '
      'mixing.name one of '
      f'{mixing.names_of(lambda each: each.keeps_writing)}'
    )
  relative = [n for n in sums.parse(config.writing) if n in _RELATIVE]
  if relative:
    raise ValueError(
      f'{start} does not fit writing={config.writing!r}: {relative[0]} '
      'compares the replies of a group, and a demonstration is scored alone; '
      f'expected 0, or a writing score without {relative[0]}'
    )


class Shown(NamedTuple):
  """The demonstrations of a step, one for each brief."""

  rollout: Rollout  # [P, 1, T], of all processes
  length_P: np.ndarray  # [P'] tokens
  given_P: np.ndarray  # [P'], false where a brief has none
  scores: Scores  # [P', 1]


class Demonstrations:
  """The demonstrations of all N briefs of a run.

  Args:
    briefs: N of them.
    chat: encodes their demonstrations.
    scorer: without reference; called as `Scorer`.
    config: of the `grpo` task.

  Raises:
    ValueError: no brief has a demonstration that `max_new_tokens` allows.
  """

  def __init__(
    self, briefs: Sequence[Brief], chat: ChatFormat, scorer: Any, config: Config
  ):
    self._scorer, self._config = scorer, config
    longest = config.max_new_tokens
    texts = [brief.demonstration for brief in briefs]
    rows = [chat.encode_reply(text) if text.strip() else [] for text in texts]
    long = sum(len(row) > longest for row in rows)
    self._given_N = np.array([0 < len(row) <= longest for row in rows])
    # A blank reply, which is scored like any other, stands where there is none.
    blank = chat.encode_reply('')
    self._length_N = np.zeros(len(rows), np.int32)
    self._token_NxT = np.zeros((len(rows), longest), np.int32)
    for n, (row, given) in enumerate(zip(rows, self._given_N, strict=True)):
      ids = row if given else blank[-longest:]
      self._token_NxT[n, : len(ids)], self._length_N[n] = ids, len(ids)
    if not self._given_N.any():
      raise ValueError(
        f'demonstration_weight={config.demonstration_weight:g}, but no brief '
        f'has a reply of at most max_new_tokens={longest} tokens; expected the '
        'field `response`, or `chosen`, in some'
      )
    if not self._given_N.all():
      console.notice(
        f'{sum(~self._given_N)} of {len(rows)} briefs have no demonstration, '
        f'{long} of them because it is longer than max_new_tokens={longest}'
      )

  def show(
    self, index_P: np.ndarray, briefs: list[Brief], arrays: BriefArrays
  ) -> Shown:
    """Scores the demonstrations of a step's briefs.

    Args:
      index_P: of this process's briefs, among all.
      briefs: this process's.
      arrays: tokens of the briefs, of all processes.
    """
    token_Px1xT = self._token_NxT[index_P][:, None]
    length_Px1 = self._length_N[index_P][:, None]
    logp_Px1xT = np.zeros(token_Px1xT.shape, np.float32)
    finished_Px1 = np.ones(length_Px1.shape, bool)
    shards: processes.DataShards = self._scorer.shards
    rollout = Rollout(
      *shards.to_global((token_Px1xT, logp_Px1xT, length_Px1, finished_Px1))
    )
    scores = self._scorer(briefs, *arrays[:2], rollout)
    return Shown(rollout, length_Px1[:, 0], self._given_N[index_P], scores)


def local_stats(shown: Shown, scored: ScoredGroups) -> dict[str, np.ndarray]:
  """Statistics `[P']` of demonstrations, for all processes to gather."""
  scores = shown.scores
  # Also of rules that do not count, as without `rules` in `verifiers`.
  kept_P = np.array([False not in verdicts for (verdicts,) in scores.follow])
  good_P = shown.given_P & kept_P & (scores.valid & ~scores.violated)[:, 0]
  copied_P = [
    np.mean([demonstrations.overlap(reply, shown_reply) for reply in group])
    if given
    else np.nan
    for group, (shown_reply,), given in zip(
      scored.scores.text, scores.text, shown.given_P, strict=True
    )
  ]
  return {
    'shown': scores.writing[:, 0],
    **{f'shown/{name}': part[:, 0] for name, part in scores.parts.items()},
    # A relabelled brief is another one than that which it is a reply to.
    'shown_good': good_P & ~scored.changed_P,
    'shown_given': shown.given_P,
    'shown_length': shown.length_P,
    'copied_demonstration': np.array(copied_P),
  }


def advantages(
  stats: dict[str, Any],
  writing_PxG: np.ndarray,
  rewards: MixedRewards,
  step: int,
  config: Config,
) -> np.ndarray:
  """Advantages `[P]` of a step's demonstrations, times their weight.

  Args:
    stats: of the step, with those of `local_stats`, of all processes.
    writing_PxG: the replies' writing rewards.
    rewards: of the replies, mixed.
    step: of the run.
    config: of the `grpo` task.
  """
  shown_P, weights = stats['shown'], sums.parse(config.writing)
  if len(weights) > 1:
    shown_P = demonstrations.combine(
      [stats[f'writing/{name}'] for name in weights],
      [*weights.values()],
      stats['valid'],
      [stats[f'shown/{name}'] for name in weights],
      normalise=config.normalise_parts,
    )
  if buffer := config.get('overlong_buffer', 0):
    length_P = stats['shown_length']
    shown_P = shown_P + overlong_penalty(
      length_P, config.max_new_tokens, buffer
    )
  found_P = demonstrations.advantages(
    rewards,
    writing_PxG,
    np.asarray(shown_P, np.float32),
    stats['shown_good'],
    config.advantage_scale,
  )
  return np.asarray(weight(config, step) * found_P, np.float32)


def add_costs(scored: ScoredGroups, shown: Shown) -> ScoredGroups:
  """Adds the seconds and judge's counts of demonstrations to the replies'."""
  stats = {
    name: value + shown.scores.stats[name]
    if name.startswith(('judge_', 'seconds_'))
    else value
    for name, value in scored.scores.stats.items()
  }
  return scored._replace(scores=scored.scores._replace(stats=stats))


def records(shown: Shown, advantage_P: np.ndarray) -> list[dict[str, Any]]:
  """Records `[P']` of demonstrations; empty where a brief has none.

  Args:
    shown: of this process.
    advantage_P: of this process's demonstrations.
  """
  scores = shown.scores
  return [
    {
      'demonstration': {
        'text': scores.text[p][0],
        'writing': float(scores.writing[p, 0]),
        'follow': scores.follow[p][0],
        'violated': bool(scores.violated[p, 0]),
        'advantage': float(advantage_P[p]),
      }
    }
    if given
    else {}
    for p, given in enumerate(shown.given_P)
  ]


def metrics_of(stats: dict[str, Any], shown_P: np.ndarray) -> dict[str, float]:
  """Metrics of a step's demonstrations, given their advantages."""
  given_P = stats['shown_given']
  return {
    'demonstrated_groups': float((shown_P > 0).mean()),
    'demonstration_advantage': float(shown_P[given_P].mean())
    if given_P.any()
    else np.nan,
    'copied_demonstration': float(stats['copied_demonstration'][given_P].mean())
    if given_P.any()
    else np.nan,
  }
