"""What a rollout's replies are worth, by the parts that a config names.

  writing     how well a reply is written: `reward_model`, `judge`, or a
              function of the user's own
  verifiers   what it has to keep: `rules`, those of its brief and its demands,
              and functions of the user's own
  judge       the model that answers for demands and principles, here or at an
              endpoint

A function of one's own is named `module:function`, and takes P briefs and
`[P][G]` replies to an array `[P, G]`, NaN where it cannot say.  A reply without
a score, or without a verdict, is not valid: it is never worth zero.
"""

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlcw import Config
from rlcw.models import language_model, tokenizer, weights
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import constraints, reward_model
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory, questions
from rlcw.runtime import metrics, processes
from rlcw.sampling.rollout import Rollout

Reward = Callable[[Sequence[Brief], Sequence[Sequence[str]]], Any]


class Scores(NamedTuple):
  """All that is known of a rollout's replies, `[P, G]` unless said."""

  text: list[list[str]]
  follow: list[list[list[bool | None]]]  # [P][G] a verdict per rule
  violated: np.ndarray
  writing: np.ndarray  # NaN where there is no score
  valid: np.ndarray  # whether there is a score and every verdict that matters
  ref_logp: jax.Array  # [P, G, T]
  good: np.ndarray  # [P] a second opinion of each first reply, NaN without
  told: dict[str, Any]  # statistics


def check(config: Config) -> None:
  """Raises ValueError, naming what is legal, if a part makes no sense."""
  if config.writing not in ('reward_model', 'judge'):
    import_function(config.writing, 'writing', 'reward_model or judge')
  if config.writing == 'judge' and not factory.has_judge(config.judge):
    raise ValueError(
      "writing='judge' takes a model: give judge.model or judge.endpoint.url"
    )
  for name in config.verifiers:
    if name != 'rules':
      import_function(name, 'verifiers', 'rules')
  if config.offload and config.judge.model == config.model:
    raise ValueError(
      'offload=True keeps in host memory what judge.model reads for every '
      'question: judge.model must be another one than model'
    )


def import_function(name: str, setting: str, legal: str) -> Reward:
  """The function that `module:function` names.

  Modules are looked for in the folder that the command runs in, too.

  Raises:
    ValueError: there is none.
  """
  module, _, function = str(name).partition(':')
  if '' not in sys.path:
    sys.path.insert(0, '')
  try:
    found = getattr(importlib.import_module(module or ':'), function)
    if not callable(found):
      raise AttributeError(f'{function} is no function')
    return found
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'{setting}={name!r}: {error}; legal: {legal}, or module:function'
    ) from None


def call_user_reward(
  reward: Reward,
  name: str,
  briefs: Sequence[Brief],
  replies: Sequence[Sequence[str]],
) -> np.ndarray:
  """Values `[P, G]` of a user's function.

  Raises:
    ValueError: they are no numbers, or have another shape.
  """
  given = reward(briefs, replies)
  expected = (len(replies), len(replies[0]))
  try:
    value = np.asarray(given, np.float32)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{name} gave no array of numbers: {error}') from None
  if value.shape != expected:
    raise ValueError(
      f'{name} gave an array of shape {value.shape} for {expected[0]} briefs '
      f'with {expected[1]} replies each; legal: {expected}'
    )
  return value


# --- Scores -----------------------------------------------------------------


def floor_blank_replies(
  score_PxG: np.ndarray, text: Sequence[Sequence[str]]
) -> np.ndarray:
  """A reward model's scores where a reply of no text has the group's least.

  It has nothing of it to read, and would give its bias.  Where all of a group
  are blank they have no score (NaN).
  """
  blank_PxG = np.array([[not reply for reply in group] for group in text])
  read_PxG = np.where(blank_PxG, np.nan, score_PxG)
  least_Px1 = np.fmin.reduce(read_PxG, axis=1, keepdims=True)  # but for NaN
  return np.where(blank_PxG, least_Px1, score_PxG)


class Scorer:
  """Scores rollouts, by the parts of a config that `check` has passed.

  Of several processes each scores the rows that it reads.

  Args:
    model: the base of the policy, which is its reference too.
    config: of a `grpo` run.
  """

  def __init__(self, model: LanguageModel, config: Config):
    self.model, self.config = model, config
    self.parts = processes.DataShards(model.mesh)
    self.reward = None
    if config.writing == 'reward_model':
      reward = reward_model.load(config.reward_model, model)
      own = model.config
      decoder = language_model.cast(reward.decoder, own.dtype, own.attention)
      if config.offload and not reward.shared:
        waiting = weights.in_memory(decoder.params, 'pinned_host')
        decoder = decoder._replace(params=waiting)
      self.reward = reward._replace(decoder=decoder)
      if not reward.shared and reward.limit < config.max_new_tokens:
        metrics.log(
          f'the reward model {config.reward_model} reads the first '
          f'{reward.limit} tokens of a reply, as it was trained, and replies '
          f'may have {config.max_new_tokens}: train one with '
          f'--config.max_reply_tokens={config.max_new_tokens}'
        )
    self.panel = factory.make_judge(config.judge, model.mesh, model)

  def usage(self) -> dict[str, float]:
    """What the judge has done so far, if there is one."""
    return dict(self.panel.usage()) if self.panel else {}

  def __call__(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    second_opinion: bool = False,
  ) -> Scores:
    """Writing score, verdicts, and log-probabilities under the reference.

    The device is sent off first; the host checks the rules meanwhile.  A reply
    that the token budget cut is no finished piece: it counts as a violation.
    A second opinion is the judge's, where it is not the writing score itself.
    """
    used = self.usage()
    reward, head, pooling = self.reward, None, 'mean'
    if reward is not None and reward.shared:
      head, pooling = reward.head, reward.pooling
    score_PxG, ref_logp = reward_model.score_and_reference(
      weights.in_memory(self.model.params, 'device'),
      head,
      prompt_PxL,
      length_P,
      rollout,
      self.config.temperature,
      config=self.model.reference,
      pooling=pooling,
    )
    rollout = self.parts.local_rows(rollout)
    text = self.texts(rollout)
    started = time.perf_counter()
    follow, broken = self.verify(briefs, text)
    verified = time.perf_counter()
    finished = np.asarray(rollout.finished)
    if score_PxG is not None:
      score_PxG = self.parts.local_rows(score_PxG)
    else:
      widths = prompt_PxL.shape[-1], rollout.token.shape[-1]
      score_PxG = self.write(briefs, text, finished, widths)
    score_PxG = np.asarray(score_PxG)
    if reward is not None:
      score_PxG = floor_blank_replies(score_PxG, text)
    written = time.perf_counter()
    good_P = np.full(len(text), np.nan)
    if second_opinion and self.panel and self.config.writing != 'judge':
      good_P = self.judge(briefs, [group[:1] for group in text])[:, 0]
    unknown = np.isnan(broken) & finished
    scored = np.isfinite(score_PxG)
    told = {
      'unscored': 1 - scored.mean(),
      'unverified': unknown.mean(),
      'seconds_verifying': verified - started,
      'seconds_writing': written - verified,
    } | {f'judge_{k}': v - used[k] for k, v in self.usage().items()}
    violated = (broken == 1) | ~finished
    valid = scored & ~unknown
    return Scores(
      text, follow, violated, score_PxG, valid, ref_logp, good_P, told
    )

  def texts(self, rollout: Rollout) -> list[list[str]]:
    """The replies in words, `[P][G]`."""
    token, length = np.asarray(rollout.token), np.asarray(rollout.length)
    return [
      [
        tokenizer.decode(self.model.tokenizer, ids[:n])
        for ids, n in zip(group, lengths, strict=True)
      ]
      for group, lengths in zip(token, length, strict=True)
    ]

  def verify(
    self, briefs: Sequence[Brief], text: list[list[str]]
  ) -> tuple[list[list[list[bool | None]]], np.ndarray]:
    """Every verdict, and `[P, G]`: 1 where any is against a reply.

    It is NaN where none is, but one is missing.
    """
    question = factory.make_question('demand', self.config.judge)
    follow = questions.follow(self.panel, question, briefs, text)
    broken = np.array([[constraints.breaks(r) for r in g] for g in follow])
    if 'rules' not in self.config.verifiers:
      broken = np.zeros_like(broken)
    for name in self.config.verifiers:
      if name == 'rules':
        continue
      keeps = call_user_reward(
        import_function(name, 'verifiers', 'rules'), name, briefs, text
      )
      other = np.where(np.isnan(keeps), np.nan, keeps <= 0)
      broken = np.where((broken == 1) | (other == 1), 1.0, broken + other)
    return follow, broken

  def write(
    self,
    briefs: Sequence[Brief],
    text: list[list[str]],
    finished: np.ndarray,
    widths: tuple[int, int],
  ) -> np.ndarray:
    """How well each reply is written, `[P, G]`, by what reads its text."""
    prompts = [brief.text for brief in briefs]
    if self.reward is not None:
      return reward_model.score_texts(
        self.reward, prompts, text, finished, widths
      )
    if self.config.writing == 'judge':
      return self.judge(briefs, text)
    name = self.config.writing
    return call_user_reward(
      import_function(name, 'writing', ''), name, briefs, text
    )

  def judge(
    self, briefs: Sequence[Brief], text: Sequence[Sequence[str]]
  ) -> np.ndarray:
    """How probably Good the judge finds each reply, `[P, G]`."""
    question = factory.make_question('judge', self.config.judge)
    assert self.panel is not None  # `check` has seen to it
    prompts = [brief.text for brief in briefs]
    return questions.judge(self.panel, question, prompts, text).first
