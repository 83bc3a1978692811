"""Hindsight for rules in a GRPO step (`mixing.all_violating='relabel'`).

Where all replies of a group break a rule, the group learns from a brief with
the rules that some of them keep (`rewards.hindsight`).  The replies stay; the
tokens of the brief are replaced, and with them everything that reads it: the
reference's log-probabilities, the writing score, and in the update those of the
policy.  The replies were not sampled for the new brief, so the ratio of policy
to sampler is that of the policy to itself before the first update.

Letters: P briefs in a step, G replies to each, L prompt tokens.
"""

from typing import NamedTuple

import jax
import numpy as np

from rlcw import Config
from rlcw.models.chat import ChatFormat
from rlcw.rewards import hindsight
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scorer, Scores
from rlcw.runtime import processes
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import motivating

# Token ids [P, L], lengths [P] and key numbers [P] of briefs (`step`).
BriefArrays = tuple[jax.Array, jax.Array, jax.Array]


class ScoredGroups(NamedTuple):
  """The briefs of a step that are learned from, and scores of their replies."""

  arrays: BriefArrays  # of all processes
  length_P: np.ndarray  # this process's rows of their lengths
  scores: Scores  # of this process's rows
  asked: list[Brief]  # this process's briefs that were replied to
  # Those that are learned from; None where the brief is the one that was asked.
  relabelled: list[Brief | None]

  @property
  def briefs(self) -> list[Brief]:
    """This process's briefs that are learned from."""
    return [
      new or brief
      for new, brief in zip(self.relabelled, self.asked, strict=True)
    ]

  @property
  def changed_P(self) -> np.ndarray:
    """True at the relabelled briefs of this process, `[P]`."""
    return np.array([brief is not None for brief in self.relabelled])


def relabels(config: Config) -> bool:
  """True if a run relabels briefs."""
  return config.mixing.all_violating == 'relabel'


def relabel(
  briefs: list[Brief],
  arrays: BriefArrays,
  rollout: Rollout,
  scores: Scores,
  scorer: Scorer,
  chat: ChatFormat,
  config: Config,
) -> ScoredGroups:
  """Replaces briefs whose rules no reply keeps, if the run does so.

  Called in all processes.

  Args:
    briefs: P of this process.
    arrays: their tokens, of all processes.
    rollout: G replies to each, of all processes.
    scores: of this process's replies.
    scorer: that gave them.
    chat: encodes the new briefs.
    config: of the `grpo` task.
  """
  shards: processes.DataShards = scorer.shards
  prompt_PxL, length_P, key_P = (shards.local_rows(a) for a in arrays)
  length_P = np.array(length_P)
  scored = ScoredGroups(arrays, length_P, scores, briefs, [None] * len(briefs))
  if not relabels(config):
    return scored
  prompt_PxL, key_P = np.array(prompt_PxL), np.asarray(key_P)
  violated, valid = scores.violated.copy(), scores.valid.copy()
  broken_share = scores.broken_share.copy()
  for p, brief in enumerate(briefs):
    new = _relabelled(brief, scores, p)
    ids = motivating.encode(new.brief, chat, config) if new else []
    # With fewer rules a brief is shorter in nearly every wording.
    if new is None or len(ids) > prompt_PxL.shape[1]:
      continue
    scored.relabelled[p] = new.brief
    prompt_PxL[p], length_P[p] = 0, len(ids)
    prompt_PxL[p, : len(ids)] = ids
    violated[p], valid[p] = new.violated, new.valid
    broken_share[p] = new.broken_share
  changed_P = scored.changed_P
  if not np.concatenate(shards.gather(changed_P)).any():
    return scored
  arrays = shards.to_global((prompt_PxL, length_P, key_P))
  scores = scorer.score_again(
    scored.briefs,
    *arrays[:2],
    rollout,
    scores._replace(violated=violated, valid=valid, broken_share=broken_share),
    changed_P,
  )
  return scored._replace(arrays=arrays, scores=scores)


def _relabelled(
  brief: Brief, scores: Scores, p: int
) -> hindsight.Relabelled | None:
  """`hindsight.relabel` of a group in which every valid reply violates."""
  valid_G = scores.valid[p]
  if not valid_G.any() or not scores.violated[p][valid_G].all():
    return None
  return hindsight.relabel(
    brief,
    scores.follow[p],
    scores.refused[p],
    np.isfinite(scores.writing[p]),
    scores.writing[p],
  )
