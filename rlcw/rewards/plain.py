"""Scores of replies to plain briefs, where the policy read something else.

The policy may read more than the brief (`tasks.grpo.motivating`), or reply in
two turns (`revision`), of which the second reply is scored.  The reference
reads all that the policy read; scorers read the brief and that reply, so where
the reward model shares the reference's decoder, two passes take the place of
one.

Letters: P briefs in a step, G replies to each, L prompt tokens.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.data import batches
from rlcw.rewards import revision, rollout_scores
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scorer
from rlcw.sampling.rollout import Rollout


class PlainScorer(Scorer):
  """A scorer whose reward model reads the plain briefs, in a pass of its own.

  The reference reads the briefs as the policy did.

  Args:
    scorer: of the run, whose models it has.
    width: least number of tokens that plain briefs are padded to.
  """

  def __init__(self, scorer: Scorer, width: int = 0):
    vars(self).update(vars(scorer))
    self._width = width

  def width(self, prompt_PxL: jax.Array) -> int:
    """See `Scorer`."""
    return max(prompt_PxL.shape[-1], self._width)

  def read(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    live_P: np.ndarray | None = None,
  ) -> tuple[jax.Array | None, jax.Array | None]:
    """See `Scorer`."""
    score_PxG = ref_logp = None
    more: Any = self.config, live_P
    reward = self.writing.reward
    if reward is not None and reward.shared:
      plain = self._plain(briefs, self.width(prompt_PxL))
      scored = rollout
      if rollout.given is not None:
        last = self.shards.local_rows(rollout).last_reply()
        scored = self.shards.to_global(last)
      score_PxG, _ = rollout_scores.read(
        self.model, reward, *plain, scored, *more, reference=False
      )
    if self.reference:
      _, ref_logp = rollout_scores.read(
        *(self.model, None, prompt_PxL, length_P, rollout),
        *more,
        reference=True,
      )
    return score_PxG, ref_logp

  def _plain(
    self, briefs: Sequence[Brief], width: int
  ) -> tuple[jax.Array, jax.Array]:
    """Global token ids `[P, L]` and lengths `[P]` of the plain briefs."""
    prompt_PxL = np.zeros((len(briefs), width), np.int32)
    length_P = np.zeros(len(briefs), np.int32)
    for p, brief in enumerate(briefs):
      ids = self.model.chat.encode_prompt(brief.request)
      prompt_PxL[p, : len(ids)], length_P[p] = ids, len(ids)
    return self.shards.to_global((prompt_PxL, length_P))


def scorer_of(
  scorer: Scorer, briefs: Sequence[Brief], config: Config, noted: bool = False
) -> Scorer:
  """Returns a scorer of what the policy of a run writes.

  Args:
    scorer: of replies to plain briefs.
    briefs: all that it may be called with.
    config: of the run.
    noted: true if the policy reads a note beside the briefs.
  """
  if revision.revises(config):
    # A first turn is shorter than a brief with its rules.
    encode = scorer.model.chat.encode_prompt
    longest = max(len(encode(brief.request)) for brief in briefs)
    return PlainScorer(scorer, batches.power_of_two(longest))
  return PlainScorer(scorer) if noted else scorer
