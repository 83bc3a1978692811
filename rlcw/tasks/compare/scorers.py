"""Scorers of replies that training never saw: a reward model and a judge.

Letters: P briefs, G replies to each, D features of a reply; N pairs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.data.messages import transcript
from rlcw.data.preferences import load_preferences
from rlcw.evaluation import stats
from rlcw.models.language_model import LanguageModel
from rlcw.models.thoughts import reply_or_all
from rlcw.rewards import reward_model, scoring, text_scores
from rlcw.rewards.briefs import Brief, by_name
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.reward_model import RewardModel
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import console, metrics, processes
from rlcw.runtime.mesh import round_up_groups
from rlcw.sampling import outage

# Replies to each brief that the judge reads; it is the slowest scorer.
JUDGED_PER_BRIEF = 1
SILENCE = 'compare: the judge answered nothing'


class Scorers(NamedTuple):
  """The three scorers of held-out replies."""

  scorer: Scorer  # as in training
  unseen: RewardModel  # not used in training
  judge: Judge | None  # not used in training either; None if not configured


def load(
  config: Config,
  trained: Config,
  base: LanguageModel,
  workdir: Path,
  briefs: Sequence[Brief],
) -> Scorers:
  """Loads the scorers, which share the base's weights where they can."""
  trained = scoring.without_idle_judge(trained, briefs)
  scorer = Scorer(base, trained, heldout=True)
  unseen = reward_model.load(config.unseen, base)
  # All fit, or an error before any reply is sampled.
  scorer.check_context(briefs)
  prompts = by_name([brief.request for brief in briefs], briefs)
  text_scores.check_context(unseen, prompts, trained.max_new_tokens)
  return Scorers(
    scorer,
    unseen,
    factory.make_judge(
      config.judge, base.mesh, base, workdir=workdir, offload=trained.offload
    ),
  )


def rate(
  answered: list[list[dict[str, Any]]],
  base: list[list[dict[str, Any]]] | None,
  briefs: list[Brief],
  scorers: Scorers,
  config: Config,
) -> np.ndarray:
  """Adds the scores of `read` and, with a judge, of `judge` to each reply.

  Args:
    answered: `[P][G]` replies of a model, changed in place.
    base: those of the base; None for the base itself.
    briefs: the P briefs.
    scorers: all three.
    config: the settings of the task.

  Returns:
    The unseen reward model's features `[P, G, D]`.
  """
  features_PxGxD = read(answered, briefs, scorers, config)
  if scorers.judge is not None:
    shards = scorers.scorer.shards
    judge(scorers.judge, answered, base, briefs, config, shards)
    outage.refuse_silence(SILENCE, scorers.judge)
  return features_PxGxD


def read(
  answered: list[list[dict[str, Any]]],
  briefs: list[Brief],
  scorers: Scorers,
  config: Config,
) -> np.ndarray:
  """Adds the unseen reward model's score to each reply, as `unseen`.

  Returns:
    The features `[P, G, D]` that the scores are computed from.
  """
  shards = processes.DataShards(scorers.unseen.decoder.mesh)
  found = []
  for rows in _batches('read', len(briefs), 'brief', config, shards):
    features_PxGxD = text_scores.read(
      scorers.unseen,
      [briefs[row].request for row in rows],
      [[reply['text'] for reply in answered[row]] for row in rows],
      np.array([[reply['finished'] for reply in answered[r]] for r in rows]),
    )
    found += [*shards.gather_rows(features_PxGxD)]
  features_PxGxD = np.stack(found[: len(briefs)])
  # the score is linear in the features, so one forward pass gives both
  texts = [[reply['text'] for reply in group] for group in answered]
  score_PxG = text_scores.score_features(scorers.unseen, features_PxGxD, texts)
  for group, score_G in zip(answered, score_PxG, strict=True):
    for reply, score in zip(group, score_G, strict=True):
      reply['unseen'] = score
  return features_PxGxD


def _batches(
  name: str, count: int, unit: str, config: Config, shards: processes.DataShards
) -> Iterator[np.ndarray]:
  """Yields this process's numbers of each batch of `count` things.

  The last batch is filled with repeated ones: batches of one size need no new
  compilation.
  """
  size = round_up_groups(config.batch_size, shards.mesh)
  steps = console.progress(name, 0, count, unit, size)
  for first in processes.stoppable(steps):
    yield shards.local_slice(np.arange(first, first + size) % count)


def judge(
  judge: Judge,
  answered: list[list[dict[str, Any]]],
  base: list[list[dict[str, Any]]] | None,
  briefs: list[Brief],
  config: Config,
  shards: processes.DataShards,
) -> None:
  """Adds the judge's verdicts to the first JUDGED_PER_BRIEF replies.

  Adds `good`, the probability of Good, and `won`, the comparison with the
  base's reply of the same number: 1 for a win, 0 for a loss, 0.5 where the two
  orders of asking disagree.  `won` is NaN for the base itself; both are NaN
  where the judge gave no verdict.

  Args:
    judge: the model that answers.
    answered: `[P][G]` replies of the model that is judged; changed in place.
    base: `[P][G]` replies of the base; None while judging the base.
    briefs: the P briefs.
    config: the settings of the task.
    shards: each process asks about its share of the briefs.
  """
  count = JUDGED_PER_BRIEF
  own = shards.local_items(range(len(briefs)))
  prompts = [briefs[p].text for p in own]
  ours = [[reply['text'] for reply in answered[p][:count]] for p in own]
  question = factory.make_question('judge', config.judge)
  good = questions.judge(judge, question, prompts, ours).first
  good_PxG = np.array(shards.gather_items([*good]))
  won_PxG = np.full_like(good_PxG, np.nan)
  if base is not None:
    # flat lists of P · count pairs, brief by brief
    won = questions.compare(
      judge,
      factory.make_question('compare', config.judge),
      [prompt for prompt in prompts for _ in range(count)],
      [text for group in ours for text in group],
      [reply['text'] for p in own for reply in base[p][:count]],
    )
    won_N = np.array(shards.gather_items([*won]))
    won_PxG = won_N.reshape(good_PxG.shape)
  for p, group in enumerate(answered):
    for g, reply in enumerate(group[:count]):
      reply |= {'good': good_PxG[p, g], 'won': won_PxG[p, g]}


def accuracy(
  scorers: Scorers, trained: Config, config: Config
) -> dict[str, float]:
  """Accuracy of each scorer on held-out preference pairs; a tie counts half.

  Returns:
    `unseen` for the reward model, and `judge` where there is one.
  """
  pairs = load_preferences(
    config.preferences,
    split='heldout',
    language=trained.language,
    as_read=reply_or_all,
  )
  found = {}
  shards = processes.DataShards(scorers.unseen.decoder.mesh)
  right = []
  for rows in _batches('pairs', len(pairs), 'pair', config, shards):
    score_Px2 = text_scores.score(
      scorers.unseen,
      [pairs[row].prompt for row in rows],
      [[pairs[row].chosen, pairs[row].rejected] for row in rows],
      np.ones((len(rows), 2), bool),
    )
    score_Px2 = shards.gather_rows(score_Px2)
    right += [*stats.right(score_Px2)]
  found['unseen'] = np.mean(right[: len(pairs)])
  if scorers.judge is not None:
    own = shards.local_items(pairs)
    won = questions.compare(
      scorers.judge,
      factory.make_question('compare', config.judge),
      [transcript(pair.prompt) for pair in own],
      [pair.chosen for pair in own],
      [pair.rejected for pair in own],
    )
    found['judge'] = metrics.mean(np.array(shards.gather_items([*won])))
  return found
