"""A reward model that follows the policy (`refit`).

A policy that learns writes other replies than those that its reward model was
fitted to.  So every few steps the judge compares replies of the step, and the
head is fitted anew, to the pairs of its own run and to all that were compared
since, whose weights have a fixed share of the loss:

    loss = (1 − share) · mean_old −log σ(s_i − s_j)
         + share · mean_new −[p log σ(s_i − s_j) + (1 − p) log σ(s_j − s_i)]

with p the probability, by the judge, that reply i is better than j.  Scores are
centred and scaled anew on the replies of the reward model's run.  The new head
scores from the next step on; evaluations keep the one of the run, so that
numbers of different steps can be compared.  (Source: preferences over the
policy's own behaviour, learned while it trains: arXiv 1706.03741.)

One group in four is never fitted to, and shows whether it helped.  Comparisons
are in files, one per step; a head is a function of these, so a resumed run has
the same.

Letters: P briefs in a step, of which P' are this process's; G replies to each,
L prompt tokens, N groups of the reward model's run and of all steps, R replies
in each, D features, M replies.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlcw import Config
from rlcw.data import datasets
from rlcw.models import language_model, weights
from rlcw.rewards import pairwise, text_scores
from rlcw.rewards.judge import factory
from rlcw.rewards.reward_model import Head, RewardModel
from rlcw.rewards.scoring import Scorer, Scores
from rlcw.runtime import console, files, processes, settings, sums
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.grpo import objective
from rlcw.tasks.grpo.relabelling import ScoredGroups
from rlcw.tasks.reward_model import depth, run
from rlcw.tasks.reward_model import head as heads
from rlcw.tasks.reward_model.groups import Groups, covariates

FOLDER = 'comparisons'
_KEPT_APART = 4  # one group in so many
METRICS = 'refit_pairs', 'refit_right_before', 'refit_right_after'


def refits(config: Config) -> bool:
  """True if a run fits its reward model anew."""
  # Configs of earlier versions do not have the setting.
  return config.get('refit', {}).get('every', 0) > 0


def check(config: Config) -> None:
  """Checks that a run can fit its reward model anew, if it does.

  Raises:
    FileNotFoundError: there is no reward model.
    ValueError: it is no part of the writing score or no head on a decoder that
      stays as it is, or nobody compares replies; or a share or pairs of no
      comparisons are given.
  """
  if not refits(config):
    settings.refuse_unread(
      config,
      {'refit.share': 0.5},
      'comparisons: expected refit.every above 0',
    )
    if 'pairs' not in sums.parse(config.writing):
      settings.refuse_unread(
        config,
        {'pairs.mode': 'round', 'pairs.opponents': 2},
        'comparisons: expected pairs in writing, or refit.every above 0',
      )
    return
  start = f'refit.every={config.refit.every}'
  if 'reward_model' not in sums.parse(config.writing):
    raise ValueError(
      f'{start}, but writing={config.writing!r}; expected reward_model in it, '
      'or 0'
    )
  if not factory.has_judge(config.judge):
    raise ValueError(
      f'{start} needs a judge, which compares replies: give judge.model or '
      'judge.endpoint.url, or 0'
    )
  trained = language_model.run_config(config.reward_model)
  if trained is None or trained.get('train') != 'head':
    raise ValueError(
      f'{start} fits a head on a decoder that stays as it is, but '
      f'reward_model={config.reward_model!r} is none; expected a run of the '
      'task reward_model with train=head, or 0'
    )


class Compared(NamedTuple):
  """Replies of a step that the judge compared."""

  features: np.ndarray  # [P, G, D]
  win: np.ndarray  # [P, G, G], of `pairwise.win_matrix`
  length: np.ndarray  # [P, G] characters
  apart: np.ndarray  # [P], true at groups that no head is fitted to

  @property
  def weight(self) -> np.ndarray:
    """Weights `[P, G, G]` of the preference of reply i over j: p, 0 if unknown.

    Blank replies are in no pair.
    """
    written_PxG = self.length > 0
    both_PxGxG = written_PxG[:, :, None] & written_PxG[:, None, :]
    return np.where(np.isfinite(self.win) & both_PxGxG, self.win, 0.0)

  def right(self, weight_D: np.ndarray) -> float:
    """Share of the pairs kept apart that a head ranks as the judge does.

    NaN if it decided on none of them.
    """
    weight_PxGxG, score_PxG = self.weight, self.features @ weight_D
    better_PxGxG = weight_PxGxG > np.swapaxes(weight_PxGxG, 1, 2)
    better_PxGxG &= self.apart[:, None, None]
    higher_PxGxG = score_PxG[:, :, None] > score_PxG[:, None, :]
    agree_PxGxG = better_PxGxG & higher_PxGxG
    pairs = better_PxGxG.sum()
    return agree_PxGxG.sum() / pairs if pairs else np.nan


def load(file: Path) -> Compared | None:
  """Reads comparisons; None, with a notice, if they are absent or damaged."""
  try:
    with np.load(file) as archive:
      return Compared(**archive)
  # Whatever the damage, the run can go on without these pairs.
  except Exception as error:
    console.notice(f'{file} is left out, as it cannot be read: {error}')
    return None


# --- The fit ----------------------------------------------------------------


def joined(
  old: Groups,
  features_NxRxD: np.ndarray,
  new: Sequence[Compared],
  share: float,
  capacity: int,
) -> tuple[np.ndarray, Groups]:
  """Joins the groups of a reward model's run with those compared since.

  Shapes depend on `capacity`, not on how many there are: one fit is compiled.

  Args:
    old: groups of the run.
    features_NxRxD: of their replies.
    new: comparisons of steps.
    share: of the new pairs in the sum of weights, if there are any.
    capacity: groups of the arrays that are returned.

  Returns:
    Features `[capacity, R, D]` and groups, of which only what `heads` reads is
    given.
  """
  size = max([old.length.shape[1], *(each.length.shape[1] for each in new)])

  def stack(rows: Sequence[np.ndarray], square: bool = False) -> np.ndarray:
    """Rows of replies, padded with 0 to so many groups of one size."""
    ends = (size, size) if square else (size, *rows[0].shape[2:])
    found = np.zeros((capacity, *ends), rows[0].dtype)
    first = 0
    for each in rows:
      replies = [slice(n) for n in each.shape[1 : 3 if square else 2]]
      found[(slice(first, first + len(each)), *replies)] = each
      first += len(each)
    return found

  fitted = [each.weight * ~each.apart[:, None, None] for each in new]
  total = sum(each.sum() for each in fitted)
  factor = share / (1 - share) * old.weight.sum() / total if total else 0.0
  length_NxR = stack([old.length, *(each.length for each in new)])
  groups = Groups(
    *(np.zeros(0) for _ in range(4)),  # texts, which are read already
    length=length_NxR,
    worth=np.full(length_NxR.shape, np.nan),
    made=stack([old.made]),
    weight=stack([old.weight, *(factor * each for each in fitted)], True),
    covariate=covariates(length_NxR),
  )
  return stack([features_NxRxD, *(each.features for each in new)]), groups


class Pairs(NamedTuple):
  """The pairs that a reward model was fitted to, and how."""

  groups: Groups
  features: np.ndarray  # [N, R, D]
  config: Config  # of its run
  fit: depth.Fit


def read_pairs(reward: RewardModel, source: str) -> Pairs:
  """Reads the pairs of a reward model's run, with their features.

  Called in all processes.

  Args:
    reward: the reward model.
    source: workdir of its run, beside which features are cached.

  Raises:
    FileNotFoundError, ValueError: they cannot be read.
  """
  config = language_model.run_config(source)
  assert config is not None  # ensured by `check`
  decoder = reward.decoder._replace(
    params=weights.in_memory(reward.decoder.params, 'device'),
    system=reward.system,
  )
  groups = run.read_groups(datasets.TRAIN, decoder, config)
  folder = Path(source).parent / run.CACHE
  features_NxRxD = run.cached_features(groups, decoder, config, folder)
  return Pairs(groups, features_NxRxD, config, depth.make_fit(config))


def fit(
  old: Pairs, new: Sequence[Compared], share: float, capacity: int
) -> Head:
  """Fits a head to old and new pairs, as the run of the old ones did.

  Its scores have mean 0 and std 1 over the old replies.
  """
  features_NxRxD, groups = joined(
    old.groups, old.features, new, share, capacity
  )
  weight_D = depth.fit_to_all(features_NxRxD, groups, old.fit)
  if old.config.debias == 'projection':
    weight_D = heads.without_length(weight_D, old.features, old.groups)
  head, _ = heads.scaled(weight_D, old.features[old.groups.real])
  return head


# --- The run ----------------------------------------------------------------


class Refitter:
  """Fits the reward model of a run anew; called in all processes.

  Args:
    scorer: of the run.
    config: of the `grpo` task.
    workdir: of the run.

  Attributes:
    scorer: the same with a head of its own, which changes.

  Raises:
    FileNotFoundError, ValueError: the pairs of the reward model cannot be read.
  """

  def __init__(self, scorer: Scorer, config: Config, workdir: Path):
    self.scorer, self._config = copy.copy(scorer), config
    self.scorer.writing = copy.copy(scorer.writing)
    self._folder, self._compared = workdir / FOLDER, list[Compared]()
    self._old = read_pairs(self._reward, config.reward_model)
    self._resumed = False

  @property
  def _reward(self) -> RewardModel:
    reward = self.scorer.writing.reward
    assert reward is not None  # ensured by `check`
    return reward

  def resume(self, step: int) -> None:
    """Before a step: scores as if the run had not been interrupted."""
    if self._resumed:
      return
    self._resumed = True
    if processes.is_primary_process():
      self._folder.mkdir(exist_ok=True)
      # Files of later steps are of a part of the run that was lost.
      earlier = range(0, step, self._config.refit.every)
      found = (load(self._file(each)) for each in earlier)
      self._compared += [each for each in found if each is not None]
    if step:
      self._fit()

  def compare(
    self, step: int, scored: ScoredGroups, rollout: Rollout
  ) -> ScoredGroups:
    """Lets the judge compare replies, if they are due in this step.

    Args:
      step: of the run.
      scored: briefs and scores of this process's replies.
      rollout: this process's replies.

    Returns:
      `scored` with the counts of the judge's questions.
    """
    every = self._config.refit.every
    if step % every:
      return scored
    prompt_PxL, shards = scored.arrays[0], self.scorer.shards
    index_P = np.arange(len(prompt_PxL))
    asked, scores = scored.asked, self._ask(step, index_P, scored)
    against_PxGxG = scores.against
    assert against_PxGxG is not None
    features_PxGxD = text_scores.read(
      self._reward,
      [brief.request for brief in asked],
      scores.text,
      np.asarray(rollout.finished),
      (self.scorer.width(prompt_PxL), rollout.token.shape[-1]),
    )
    length_PxG = np.array(
      [[len(reply.strip()) for reply in g] for g in scores.text]
    )
    # Rotates with the steps, so that no group is always kept apart.
    apart_P = (index_P + step // every) % _KEPT_APART == 0
    rows = [
      shards.gather_rows(np.asarray(each, np.float32))
      for each in (features_PxGxD, against_PxGxG, length_PxG)
    ]
    self._compared.append(Compared(*rows, apart=apart_P))
    return scored._replace(scores=scores)

  def _ask(
    self, step: int, index_P: np.ndarray, scored: ScoredGroups
  ) -> Scores:
    """Scores with comparisons, which these may have already."""
    scores, shards = scored.scores, self.scorer.shards
    if scores.against is not None:
      return scores
    before, settings = self.scorer.usage(), self._config.pairs
    pairs = [
      pairwise.draw(
        settings.mode,
        len(scores.text[0]),
        settings.opponents,
        (self._config.seed, step, index),
      )
      for index in shards.local_slice(index_P)
    ]
    writing = self.scorer.writing
    against_PxGxG, _ = writing.compare(scored.asked, scores.text, pairs)
    spent = self.scorer.spent(before)
    stats = scores.stats | {k: scores.stats[k] + v for k, v in spent.items()}
    return scores._replace(against=against_PxGxG, stats=stats)

  def refit(self, step: int) -> dict[str, float]:
    """After the rewards of a step: fits the head if there are new pairs.

    Returns:
      Metrics: the pairs of the step that have an answer; and of those kept
      apart the share that the head ranks as the judge does, before and after.
    """
    if step % self._config.refit.every:
      return dict.fromkeys(METRICS, np.nan)
    new = self._compared[-1]
    if processes.is_primary_process():
      with files.atomic(self._file(step)) as partial, partial.open('wb') as out:
        np.savez(out, **new._asdict())
    known = np.isfinite(new.win).sum() / 2
    before = new.right(np.asarray(self._reward.head.weight))
    self._fit()
    after = new.right(np.asarray(self._reward.head.weight))
    console.log(
      f'grpo: reward model fitted to {known:.0f} more pairs of step {step}; of '
      f'those kept apart it ranked {before:.1%} as the judge does, now '
      f'{after:.1%}'
    )
    return dict(zip(METRICS, (known, before, after), strict=True))

  def _file(self, step: int) -> Path:
    return self._folder / f'{step}.npz'

  def _fit(self) -> None:
    """Replaces the head.  Process 0 fits it, so that all have the same bits."""
    weight, bias, floor = processes.from_primary(self._fit_alone)
    head = Head(np.asarray(weight, np.float32), np.asarray(bias, np.float32))
    self.scorer.writing.reward = self._reward._replace(head=head, floor=floor)

  def _fit_alone(self) -> tuple[list[float], float, float]:
    """Weight, bias and least score on old replies, as JSON values."""
    config, old = self._config, self._old
    times = -(-config.steps // config.refit.every)
    capacity = len(old.features) + times * objective.sampled_prompts(config)
    head = fit(old, self._compared, config.refit.share, capacity)
    scores_M = old.features[old.groups.real] @ head.weight + head.bias
    return head.weight.tolist(), float(head.bias), float(scores_M.min())


def start(scorer: Scorer, config: Config, workdir: Path) -> Refitter | None:
  """Returns the `Refitter` of a run; None if its reward model stays fixed."""
  return Refitter(scorer, config, workdir) if refits(config) else None
