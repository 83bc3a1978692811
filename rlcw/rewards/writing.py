"""The writing score of replies: one part, or a weighted sum of several.

`writing` of a `grpo` config names the parts: `reward_model`, `judge`,
`judge_logit`, `pairs`, `rubric`, `diversity`, or a user's function,
`module:function` (`functions`).

Letters: P briefs, G replies to each, N pairs of replies.
"""

import copy
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from rlcw import Config
from rlcw.models import language_model, weights
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import pairwise, reward_model, rubrics, text_scores
from rlcw.rewards.briefs import Brief
from rlcw.rewards.functions import call_user_reward, import_function
from rlcw.rewards.judge import factory
from rlcw.rewards.judge.replies import ReplyJudge, Verdicts
from rlcw.rewards.novelty import novelty
from rlcw.rewards.parts import log_odds, weighted_sum
from rlcw.rewards.reward_model import RewardModel
from rlcw.runtime import console, sums

# Limit of a user's scores: squares of larger ones may exceed float32.
LARGEST = 1e12
BY_JUDGE = 'judge', 'pairs', 'rubric', 'judge_logit'  # parts that need a judge
OF_GOOD = 'judge', 'judge_logit'  # of these, the ones made of its P(Good)
# Parts that are no user's function.
BUILT_IN = 'reward_model', *BY_JUDGE, 'diversity'


def check(config: Config) -> None:
  """Checks the setting `writing`.

  Raises:
    ValueError: it is no sum of names, a function cannot be imported, a part
      needs a judge and there is none, `judge_logit` has a server in place of a
      judge that is loaded here, or `pairs` does not fit the groups.
  """
  parts = sums.parse(config.writing)
  for name in parts:
    if name not in BUILT_IN:
      import_function(name, 'writing', ', '.join(BUILT_IN))
  for name in BY_JUDGE:
    if name in parts and not factory.has_judge(config.judge):
      raise ValueError(
        f'writing={config.writing!r} needs a judge: give judge.model or '
        'judge.endpoint.url'
      )
  if 'judge_logit' in parts and config.judge.endpoint.url:
    raise ValueError(
      f'writing={config.writing!r}: judge_logit needs a judge that gives '
      'probabilities; expected judge.model, which is loaded here, not a server'
    )
  if 'pairs' in parts:
    check_pairs(config)


def check_pairs(config: Config) -> None:
  """Checks the settings of comparisons within groups.

  Raises:
    ValueError: a group has too few replies, or the weights cancel.
  """
  weights = sums.parse(config.writing)
  if abs(weights['pairs'] + weights.get('judge', 0)) < sums.LEAST_WEIGHT:
    raise ValueError(
      f'writing={config.writing!r}: held-out replies get P(Good) in the place '
      'of pairs, which judge would take away again; expected weights of pairs '
      'and judge whose sum is not 0'
    )
  mode, opponents = config.pairs.mode, config.pairs.opponents
  others = config.group_size - 1
  if others < 1:
    raise ValueError(
      f'writing={config.writing!r} compares the replies of a group, but '
      f'group_size={config.group_size}; expected 2 or more'
    )
  if mode == 'round' and not 1 <= opponents <= others:
    raise ValueError(
      f'pairs.opponents={opponents}: in a group of group_size='
      f'{config.group_size} a reply has {others} others; expected 1 to {others}'
    )


def pair_questions(config: Config) -> int:
  """Number of questions about the pairs of a group; 0 without comparisons.

  Each pair is asked about in both orders.
  """
  if 'pairs' not in sums.parse(config.writing):
    return 0
  pairs = config.pairs
  return 2 * pairwise.count(pairs.mode, config.group_size, pairs.opponents)


def check_rubrics(config: Config, briefs: Sequence[Brief]) -> None:
  """Checks that there are rubrics if the writing score has a part of them.

  A notice counts the briefs without one.

  Raises:
    ValueError: no brief has one.
  """
  if 'rubric' not in sums.parse(config.writing):
    return
  without = sum(not brief.rubric for brief in briefs)
  if without == len(briefs):
    raise ValueError(
      f'writing={config.writing!r}, but no brief in {config.briefs} has a '
      'rubric; expected the field `rubric` in some'
    )
  if without:
    console.notice(
      f'{config.briefs}: {without} of {len(briefs)} briefs have no rubric: all '
      'their replies get 0 for it'
    )


class Written(NamedTuple):
  """Writing scores of replies, NaN where there is none."""

  total: np.ndarray  # [P, G], the weighted sum of the parts
  parts: dict[str, np.ndarray]  # [P, G] each, by name, without weights
  met: Verdicts  # on criteria of rubrics; empty if they are no part
  # [P, G, G], probability that one reply is better than another, NaN where they
  # were not compared; None if comparisons are no part.
  against: np.ndarray | None = None
  stats: Mapping[str, float] = MappingProxyType({})  # of the comparisons


class WritingScorer:
  """Scores the writing of replies with the parts that a config names.

  Args:
    model: the policy's base model, whose decoder a reward model may share.
    config: of a `grpo` run, validated by `scoring.check`.
    judge: of the run.
  """

  def __init__(self, model: LanguageModel, config: Config, judge: ReplyJudge):
    self.config, self.judge = config, judge
    self.weights = sums.parse(config.writing)  # of the parts, by name
    self.reward = (
      load_reward_model(model, config)
      if 'reward_model' in self.weights
      else None
    )

  def heldout(self) -> 'WritingScorer':
    """This scorer for replies of several models, whose scores are compared.

    Scores within a group have no meaning beside those of another model: the
    judge's probability of Good takes the place of `pairs`.
    """
    if 'pairs' not in self.weights:
      return self
    console.notice(
      f'writing={self.config.writing!r}: pairs ranks the replies of one group '
      'alone, so held-out replies get the judge’s P(Good) in its place'
    )
    other = copy.copy(self)
    other.weights = dict(self.weights)
    weight = other.weights.pop('pairs')
    other.weights['judge'] = weight + other.weights.get('judge', 0.0)
    return other

  def draw(
    self, step: int, groups: Sequence[int], size: int
  ) -> list[np.ndarray]:
    """Draws the pairs `[K, 2]` of each group that are compared (`pairwise`).

    They are a function of (seed, step, group), so a resumed run has the same.

    Args:
      step: of the run.
      groups: numbers of this process's groups in the step.
      size: replies of a group.
    """
    if 'pairs' not in self.weights:
      return []
    mode, opponents = self.config.pairs.mode, self.config.pairs.opponents
    return [
      pairwise.draw(mode, size, opponents, (self.config.seed, step, group))
      for group in groups
    ]

  def __call__(
    self,
    briefs: Sequence[Brief],
    text: list[list[str]],
    finished: np.ndarray,
    widths: tuple[int, int],
    read_PxG: jax.Array | None,
    pairs: Sequence[np.ndarray] = (),
  ) -> Written:
    """Scores replies.

    Args:
      briefs: P of them.
      text: `[P][G]` replies.
      finished: `[P, G]`, true if EOS ended the reply.
      widths: minimum prompt and reply widths, in tokens, for padding.
      read_PxG: scores of a reward model on the base's decoder, if it is one
        (`rollout_scores.read`).
      pairs: of `draw`.
    """
    parts: dict[str, np.ndarray] = {}
    met: Verdicts = []
    compared: dict[str, Any] = {}
    good_PxG = None  # asked for once, though two parts may be of it
    for name in self.weights:
      if name == 'reward_model' and self.reward and self.reward.shared:
        # The host waits for the device here.
        score_PxG = np.asarray(read_PxG)
        parts[name] = text_scores.floor_blank_replies(
          score_PxG, text, self.reward.floor
        )
      elif name == 'rubric':
        met = self.judge.meet(briefs, text)
        parts[name] = rubrics.scores([brief.rubric for brief in briefs], met)
      elif name == 'pairs':
        against_PxGxG, stats = self.compare(briefs, text, pairs)
        parts[name] = pairwise.scores(against_PxGxG)
        compared = {'against': against_PxGxG, 'stats': stats}
      elif name in OF_GOOD:
        if good_PxG is None:
          good_PxG = self.judge.good(briefs, text)
        parts[name] = good_PxG if name == 'judge' else log_odds(good_PxG)
      else:
        parts[name] = self.part(name, briefs, text, finished, widths)
    total_PxG = weighted_sum([*parts.values()], [*self.weights.values()])
    return Written(total_PxG, parts, met, **compared)

  def compare(
    self,
    briefs: Sequence[Brief],
    text: list[list[str]],
    pairs: Sequence[np.ndarray],
  ) -> tuple[np.ndarray, dict[str, float]]:
    """Lets the judge compare pairs of replies, in both orders.

    Args:
      briefs: P of them.
      text: `[P][G]` replies.
      pairs: of each group, `[K, 2]`.

    Returns:
      `pairwise.win_matrix`; and the metrics `judge_pairs`, the number of pairs,
      and as shares of them `pairs_unanswered`, without a verdict, and
      `pairs_swayed`, in which the order decided.
    """
    met = [(p, *pair) for p, each in enumerate(pairs) for pair in each]
    won_Nx2 = self.judge.prefer(
      [briefs[p] for p, _, _ in met],
      [text[p][one] for p, one, _ in met],
      [text[p][other] for p, _, other in met],
    )
    known_N = np.isfinite(won_Nx2).all(1)
    swayed_N = known_N & ((won_Nx2[:, 0] > 0.5) != (won_Nx2[:, 1] > 0.5))
    total = max(len(met), 1)
    return pairwise.win_matrix(pairs, won_Nx2.mean(1), len(text[0])), {
      'judge_pairs': float(len(met)),
      'pairs_unanswered': (~known_N).sum() / total,
      'pairs_swayed': swayed_N.sum() / total,
    }

  def part(
    self,
    name: str,
    briefs: Sequence[Brief],
    text: list[list[str]],
    finished: np.ndarray,
    widths: tuple[int, int],
  ) -> np.ndarray:
    """Scores `[P, G]` by one part that needs no more than replies' texts.

    Args:
      name: of the part.
      briefs: P of them.
      text: `[P][G]` replies.
      finished: `[P, G]`, true if EOS ended the reply.
      widths: minimum prompt and reply widths, in tokens, for padding.

    Raises:
      ValueError: a user's score is too large.
    """
    if name == 'reward_model':
      assert self.reward is not None  # loaded with the part
      prompts = [brief.request for brief in briefs]
      return text_scores.score(self.reward, prompts, text, finished, widths)
    if name == 'diversity':
      return np.array([novelty(group) for group in text])
    return user_scores(name, briefs, text)


def load_reward_model(model: LanguageModel, config: Config) -> RewardModel:
  """Loads the reward model of a `grpo` run, computed as the policy is.

  Its decoder is the base's where it was trained on that one.
  """
  reward = reward_model.load(config.reward_model, model)
  policy = model.config
  decoder = language_model.cast(reward.decoder, policy.dtype, policy.attention)
  # A shared decoder is the policy's base, which the task offloads itself.
  if config.offload and not reward.shared:
    params = weights.in_memory(decoder.params, 'pinned_host')
    decoder = decoder._replace(params=params)
  # A shared decoder scores the rollout's own tokens, without a cut.
  if not reward.shared and reward.limit < config.max_new_tokens:
    console.log(
      f'the reward model {config.reward_model} scores only the first '
      f'{reward.limit} tokens of a reply, as in its training, but '
      f'max_new_tokens={config.max_new_tokens}: train one with '
      f'--config.max_reply_tokens={config.max_new_tokens}'
    )
  return reward._replace(decoder=decoder)


def check_unseen(unseen: str, trained: Config, setting: str) -> None:
  """Checks that a scorer for evaluation is not what a run learns from.

  Args:
    unseen: the reward model; '' for none.
    trained: settings of the run.
    setting: the one that names `unseen`.

  Raises:
    ValueError: it is the run's own reward model.
  """
  learns = 'reward_model' in sums.parse(trained.writing)
  own = trained.reward_model if learns else ''
  if unseen and own and os.path.realpath(unseen) == os.path.realpath(own):
    raise ValueError(
      f'{setting}={unseen} is the reward model of training; expected another '
      'one, which is a second opinion'
    )


def user_scores(
  name: str, briefs: Sequence[Brief], text: list[list[str]]
) -> np.ndarray:
  """Scores `[P, G]` by a user's function.

  Raises:
    ValueError: a score is infinite or too large.
  """
  score_PxG = call_user_reward(
    import_function(name, 'writing', ''), name, briefs, text
  )
  large = abs(score_PxG) > LARGEST  # NaN compares false
  if large.any():
    raise ValueError(
      f'{name} returned {score_PxG[large][0]:g}; expected numbers within '
      f'±{LARGEST:g}, or NaN for no score'
    )
  return score_PxG
