"""Briefs that tell their scoring, in training alone (`tell_scoring`).

The tokens of a step's briefs have the note of `rewards.motivation`, so policy,
reference and update read it.  Scores are of replies to the plain briefs: where
the reward model shares the reference's decoder, two passes take the place of
one.

Letters: P briefs in a step, G replies to each, L prompt tokens.
"""

from collections.abc import Sequence

import jax
import numpy as np

from rlcw import Config
from rlcw.models.chat import ChatFormat
from rlcw.rewards import motivation, reading
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scorer, Scores
from rlcw.sampling.outage import Trouble
from rlcw.sampling.rollout import Rollout


def tells(config: Config) -> bool:
  """True if briefs of training rollouts tell the scoring."""
  # Configs of earlier versions do not have the setting.
  return config.get('tell_scoring', False)


def note(brief: Brief, config: Config) -> str:
  """The note of a brief in training; '' if there is none."""
  if not tells(config):
    return ''
  checked = bool(config.verifiers)
  return motivation.note(config.mixing.name, brief.language, checked)


def encode(brief: Brief, chat: ChatFormat, config: Config) -> list[int]:
  """Token ids of a brief, as the policy reads it in training."""
  prompt = brief.request
  if text := note(brief, config):
    prompt = motivation.with_note(prompt, text)
  return chat.encode_prompt(prompt)


class PlainScorer:
  """A `Scorer` of replies to plain briefs, whose reference reads the others.

  Its methods are called as those of the scorer, with the tokens of the briefs
  that the policy read.

  Args:
    scorer: of the run.
    chat: encodes plain briefs.
  """

  def __init__(self, scorer: Scorer, chat: ChatFormat):
    self._scorer, self._chat = scorer.without_reference(), chat
    self._reference = scorer if scorer.reference else None
    self.shards = scorer.shards

  def without_reference(self) -> 'PlainScorer':
    """See `Scorer`."""
    return PlainScorer(self._scorer, self._chat)

  def trouble(self) -> Trouble:
    """See `Scorer`."""
    return self._scorer.trouble()

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
    plain = self._plain(briefs, prompt_PxL.shape[-1])
    scores = self._scorer(briefs, *plain, rollout, second_opinion, step)
    ref_logp = self._read(prompt_PxL, length_P, rollout)
    return scores._replace(ref_logp=ref_logp)

  def score_again(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    scores: Scores,
    changed_P: np.ndarray,
  ) -> Scores:
    """See `Scorer`."""
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
    prompt_PxL = np.zeros((len(briefs), width), np.int32)
    length_P = np.zeros(len(briefs), np.int32)
    for p, brief in enumerate(briefs):
      ids = self._chat.encode_prompt(brief.request)
      prompt_PxL[p, : len(ids)], length_P[p] = ids, len(ids)
    return self.shards.to_global((prompt_PxL, length_P))
