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
from rlcw.models.chat import ChatFormat
from rlcw.rewards import reading, revision
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scorer, Scores
from rlcw.sampling.outage import Trouble
from rlcw.sampling.rollout import Rollout


class PlainScorer:
  """A `Scorer` of replies to plain briefs, whose reference reads the others.

  Its methods are called as those of the scorer, with the tokens of the briefs
  that the policy read.

  Args:
    scorer: reads the plain briefs, and all that the policy read with its
      reference.
    chat: encodes the plain briefs.
    width: least number of tokens that these are padded to.
  """

  def __init__(self, scorer: Scorer, chat: ChatFormat, width: int = 0):
    self._scorer, self._chat = scorer.without_reference(), chat
    self._reference = scorer if scorer.reference else None
    self._width = width
    self.shards = scorer.shards

  def without_reference(self) -> 'PlainScorer':
    """See `Scorer`."""
    return PlainScorer(self._scorer, self._chat, self._width)

  def trouble(self) -> Trouble:
    """See `Scorer`."""
    return self._scorer.trouble()

  def usage(self) -> dict[str, float]:
    """See `Scorer`."""
    return self._scorer.usage()

  def __call__(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    second_opinion: bool = False,
    step: int = 0,
  ) -> Scores:
    """See `Scorer`."""
    plain, scored = self._plain(briefs, prompt_PxL.shape[-1]), rollout
    found: dict[str, Any] = {}
    if rollout.given is not None:
      local = self.shards.local_rows(rollout)
      found['draft'] = self._scorer.texts(local)
      scored = self.shards.to_global(local.last_reply())
    scores = self._scorer(briefs, *plain, scored, second_opinion, step)
    ref_logp = self._read(prompt_PxL, length_P, rollout)
    return scores._replace(ref_logp=ref_logp, **found)

  def score_again(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    scores: Scores,
    changed_P: np.ndarray,
  ) -> Scores:
    """See `Scorer`; of replies in one turn."""
    plain = self._plain(briefs, prompt_PxL.shape[-1])
    again = self._scorer.score_again(
      briefs, *plain, rollout, scores._replace(ref_logp=None), changed_P
    )
    # The log-probabilities of unchanged groups are computed again, and equal.
    ref_logp = self._read(prompt_PxL, length_P, rollout)
    return again._replace(ref_logp=ref_logp)

  def _read(
    self, prompt_PxL: jax.Array, length_P: jax.Array, rollout: Rollout
  ) -> jax.Array | None:
    """Log-probabilities `[P, G, T]` under the reference, if it is needed."""
    if self._reference is None:
      return None
    arrays = prompt_PxL, length_P, rollout
    model, config = self._reference.model, self._reference.config
    return reading.read(model, None, *arrays, config, reference=True)[1]

  def _plain(
    self, briefs: Sequence[Brief], width: int
  ) -> tuple[jax.Array, jax.Array]:
    """Global token ids `[P, L]` and lengths `[P]` of the plain briefs."""
    width = max(width, self._width)
    prompt_PxL = np.zeros((len(briefs), width), np.int32)
    length_P = np.zeros(len(briefs), np.int32)
    for p, brief in enumerate(briefs):
      ids = self._chat.encode_prompt(brief.request)
      prompt_PxL[p, : len(ids)], length_P[p] = ids, len(ids)
    return self.shards.to_global((prompt_PxL, length_P))


def scorer_of(
  scorer: Scorer,
  briefs: Sequence[Brief],
  chat: ChatFormat,
  config: Config,
  noted: bool = False,
) -> Scorer | PlainScorer:
  """Returns a scorer of what the policy of a run writes.

  Args:
    scorer: of replies to plain briefs.
    briefs: all that it may be called with.
    chat: of the policy.
    config: of the run.
    noted: true if the policy reads a note beside the briefs.
  """
  if revision.revises(config):
    # A first turn is shorter than a brief with its rules.
    longest = max(len(chat.encode_prompt(b.request)) for b in briefs)
    return PlainScorer(scorer, chat, batches.power_of_two(longest))
  return PlainScorer(scorer, chat) if noted else scorer
