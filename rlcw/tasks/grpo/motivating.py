"""Briefs that tell their scoring, in training alone (`tell_scoring`).

The tokens of a step's briefs have the note of `rewards.motivation`, so policy,
reference and update read it.  Scores are of replies to the plain briefs: where
the reward model shares the reference's decoder, two passes take the place of
one.

Letters: P briefs in a step, G replies to each, L prompt tokens.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.models.chat import ChatFormat
from rlcw.rewards import motivation, reading
from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scorer
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


class PlainScorer(Scorer):
  """A scorer whose reward model reads the plain briefs, in a pass of its own.

  The reference reads the briefs as the policy did.

  Args:
    scorer: of the run, whose models it has.
  """

  def __init__(self, scorer: Scorer):
    vars(self).update(vars(scorer))

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
    more: Any = rollout, self.config, live_P
    reward = self.writing.reward
    if reward is not None and reward.shared:
      plain = self._plain(briefs, prompt_PxL.shape[-1])
      score_PxG, _ = reading.read(
        self.model, reward, *plain, *more, reference=False
      )
    if self.reference:
      _, ref_logp = reading.read(
        self.model, None, prompt_PxL, length_P, *more, reference=True
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
