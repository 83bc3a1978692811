"""Scores of a rollout's replies, with the parts that a config selects.

  1. read     one pass of the base gives the reference's log-probabilities, and
              the scores of a reward model on its decoder (`rollout_scores`)
  2. verify   rules, the judge's verdicts on demands, and users' verifiers give
              the violations
  3. write    the parts of `writing` give one writing score (`writing`)
  4. valid    a reply that lacks a score, of any part, or a verdict is masked as
              not valid, instead of getting a score of zero

A user's function is named `module:function` (`functions`).

Letters: P briefs, G replies to each, L prompt tokens, T reply tokens.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from rlcw import Config
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import constraints, rollout_scores, text_scores, writing
from rlcw.rewards.briefs import Brief, by_name
from rlcw.rewards.functions import call_user_reward, import_function
from rlcw.rewards.judge import factory
from rlcw.rewards.judge.replies import ReplyJudge, Verdicts
from rlcw.rewards.writing import WritingScorer, Written
from rlcw.runtime import processes, sums
from rlcw.sampling.outage import Trouble
from rlcw.sampling.rollout import Rollout


class Scores(NamedTuple):
  """Scores and verdicts of a rollout's replies, `[P, G]` if not noted."""

  text: list[list[str]]
  follow: Verdicts  # [P][G], one verdict per rule
  violated: np.ndarray
  writing: np.ndarray  # the weighted sum of its parts; NaN without a score
  valid: np.ndarray  # true with a score and all verdicts that matter
  refused: np.ndarray  # 1: cut, or refused by a user's verifier; NaN: unknown
  broken_share: np.ndarray  # of the rules that the reply breaks; 1 if refused
  ref_logp: jax.Array | None  # [P, G, T]
  good: np.ndarray  # [P], the judge's score of each first reply; NaN if unasked
  stats: dict[str, Any]  # metrics of scoring: shares, seconds, judge usage
  # The parts of `writing` by name, unweighted, if there are several.
  parts: Mapping[str, np.ndarray] = MappingProxyType({})
  # [P][G], one verdict per criterion of the rubric; empty if it is no part.
  met: Sequence[list[list[bool | None]]] = ()
  # Where comparisons are a part, the pairs of each group that were compared
  # [P][K, 2], and the probabilities that one is better [P, G, G].
  pairs: Sequence[np.ndarray] = ()
  against: np.ndarray | None = None
  # [P][G], the replies of first turns (`revision`); empty in one turn.
  draft: Sequence[list[str]] = ()

  def details(self, p: int, g: int) -> dict[str, Any]:
    """Returns the fields of a reply's record that explain its `writing`.

    Returns:
      `parts`, the scores by name, if there are several; `met`, a verdict per
      criterion, if the rubric is one; `against`, the probability that it is
      better than each reply of its group, if comparisons are one.  And `draft`,
      the reply of the first turn, if there are two.
    """
    parts = {name: float(part[p, g]) for name, part in self.parts.items()}
    found: dict[str, Any] = {'parts': parts} if parts else {}
    if self.met:
      found['met'] = self.met[p][g]
    if self.against is not None:
      found['against'] = self.against[p, g].tolist()
    if self.draft:
      found['draft'] = self.draft[p][g]
    return found


def check(config: Config) -> None:
  """Validates the settings that select the parts.

  Raises:
    ValueError: as `writing.check`; or a verifier cannot be imported,
      `overlong_buffer` is longer than a reply, or a penalty is for rules that
      do not count.
  """
  writing.check(config)
  for name in config.verifiers:
    if name != 'rules':
      import_function(name, 'verifiers', 'rules')
  # Configs of earlier versions do not have the setting.
  penalty = config.mixing.get('located_penalty', 0.0)
  if penalty and 'rules' not in config.verifiers:
    raise ValueError(
      f'mixing.located_penalty={penalty:g} is for tokens that break rules, but '
      f"verifiers={[*config.verifiers]}: expected 'rules' among them, or 0"
    )
  buffer = config.get('overlong_buffer', 0)
  if buffer > config.max_new_tokens:
    raise ValueError(
      f'overlong_buffer={buffer}: expected at most max_new_tokens='
      f'{config.max_new_tokens}'
    )


def without_idle_judge(config: Config, briefs: Sequence[Brief]) -> Config:
  """Settings for held-out replies, without a judge that none of them needs.

  In training a judge may give a second opinion alone, for the monitors.
  """
  config = ConfigDict(config.to_dict())
  asked = {*sums.parse(config.writing)} & {*writing.BY_JUDGE}
  if not asked and not any(brief.demands for brief in briefs):
    config.judge.model = config.judge.endpoint.url = ''
  return config


def _either(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """1 where either is, as it outweighs a missing verdict; else NaN or 0."""
  # Where neither is 1, the sum keeps NaN.
  return np.where((one == 1) | (other == 1), 1.0, one + other)


# --- Scores -----------------------------------------------------------------


class Scorer:
  """Scores rollouts with the parts that a config selects.

  Each process scores its own rows of the batch.

  Args:
    model: the policy's base model, which is also the reference policy.
    config: of a `grpo` run, validated by `check`.
    workdir: of the run, for the judge (`factory.make_judge`).
    reference: false for no log-probabilities under the reference.  Unless the
      reward model shares its decoder, it is then not kept in memory.
    heldout: true for replies of several models, which are compared by their
      scores (`WritingScorer.heldout`).
  """

  def __init__(
    self,
    model: LanguageModel,
    config: Config,
    workdir: Path | None = None,
    *,
    reference: bool = True,
    heldout: bool = False,
  ):
    self.config, self.reference = config, reference
    self.shards = processes.DataShards(model.mesh)
    self.judge = ReplyJudge(
      factory.make_judge(
        config.judge, model.mesh, model, workdir=workdir, offload=config.offload
      ),
      config,
    )
    self.writing = WritingScorer(model, config, self.judge)
    if heldout:
      self.writing = self.writing.heldout()
    self._missing = ''  # the parts that gave nothing for any reply, last time
    self.model = model if self.reads_base else model._replace(params={})

  @property
  def has_parts(self) -> bool:
    """True if the writing score is a sum of several parts."""
    return len(sums.parse(self.config.writing)) > 1

  @property
  def reads_base(self) -> bool:
    """True if scores take a pass of the base."""
    reward = self.writing.reward
    return self.reference or (reward is not None and reward.shared)

  def without_reference(self) -> 'Scorer':
    """This scorer, with its models, without reference log-probabilities."""
    other = copy.copy(self)
    other.reference = False
    return other

  def heldout(self) -> 'Scorer':
    """This scorer, with its models, for held-out replies while a run trains.

    It gives no reference log-probabilities.
    """
    other = self.without_reference()
    other.writing = self.writing.heldout()
    return other

  def check_context(self, briefs: Sequence[Brief]) -> None:
    """Checks that the models that score can read all briefs.

    A reward model of its own decoder has to read the longest replies as well; a
    judge here is shown as much of a reply as is set.

    Raises:
      ValueError: one cannot; names the briefs.
    """
    self.judge.check_context(briefs)
    reward = self.writing.reward
    if reward is not None and not reward.shared:
      prompts = by_name([brief.request for brief in briefs], briefs)
      most = self.config.max_new_tokens
      text_scores.check_context(reward, prompts, most)

  def usage(self) -> dict[str, float]:
    """The judge's counters so far; empty without a judge."""
    return self.judge.usage()

  def trouble(self) -> Trouble:
    """The reason why no reply of the last rollout got a score."""
    return Trouble(self._missing) | self.judge.trouble()

  def __call__(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    second_opinion: bool = False,
    step: int = 0,
  ) -> Scores:
    """Computes writing scores, verdicts and reference log-probabilities.

    Args:
      briefs: P of this process.
      prompt_PxL: their tokens, padded on the right; global.
      length_P: the prompts' lengths in tokens; global.
      rollout: G replies to each prompt; global.
      second_opinion: also ask the judge about each brief's first reply
        (`Scores.good`), if it does not give the writing score anyway.
      step: of the run, by which replies are drawn that are compared.

    Returns:
      `Scores` of this process's rows, but `ref_logp` of all.  A reply that the
      token budget cut is unfinished, and counts as a violation.
    """
    usage_before = self.usage()
    # JAX dispatches this asynchronously: the device computes while the host
    # decodes the replies and checks the rules below.
    score_PxG, ref_logp = self.read(briefs, prompt_PxL, length_P, rollout)
    widths = self.width(prompt_PxL), rollout.token.shape[-1]
    rollout = self.shards.local_rows(rollout)
    draft = () if rollout.given is None else self.texts(rollout)
    rollout = rollout.last_reply()
    text = self.texts(rollout)
    started = time.perf_counter()
    follow, broken, refused = self.verify(briefs, text)
    verified = time.perf_counter()
    finished = np.asarray(rollout.finished)
    groups = self.shards.local_slice(np.arange(len(prompt_PxL)))
    pairs = self.writing.draw(step, groups, len(text[0]))
    written = self.writing(
      briefs, text, finished, widths, self.shards.local_rows(score_PxG), pairs
    )
    seconds_writing = time.perf_counter() - verified
    good_P = np.full(len(text), np.nan)
    if (
      second_opinion
      and self.judge.model
      and not self.writing.weights.keys() & writing.OF_GOOD
    ):
      good_P = self.judge.good(briefs, [group[:1] for group in text])[:, 0]
    # An unfinished reply is a violation whatever the missing verdict is.
    unknown = np.isnan(broken) & finished
    scored = np.isfinite(written.total)
    self._missing = self.missing(written, unknown)
    return Scores(
      text,
      follow,
      violated=(broken == 1) | ~finished,
      writing=written.total,
      valid=scored & ~unknown,
      refused=np.where(finished, refused, 1.0),
      broken_share=np.where(
        (refused == 1) | ~finished, 1.0, self.share(follow)
      ),
      ref_logp=ref_logp,
      good=good_P,
      stats={
        'unscored': 1 - scored.mean(),
        'unverified': unknown.mean(),
        'seconds_verifying': verified - started,
        'seconds_writing': seconds_writing,
        **self.spent(usage_before),
        **written.stats,
      },
      parts=written.parts if self.has_parts else {},
      met=written.met,
      pairs=pairs,
      against=written.against,
      draft=draft,
    )

  def score_again(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    scores: Scores,
    changed_P: np.ndarray,
  ) -> Scores:
    """Scores the same replies as replies to other briefs, where these changed.

    Called in all processes.  Verdicts stay as they are.

    Args:
      briefs: P of this process; those with other prompts have changed.
      prompt_PxL: as in `__call__`, as are the next two.
      length_P: the prompts' lengths.
      rollout: the replies.
      scores: of the replies to the briefs before.
      changed_P: this process's briefs that have changed.
    """
    usage_before, started = self.usage(), time.perf_counter()
    everywhere_P = np.concatenate(self.shards.gather(changed_P))
    score_PxG, ref_logp = self.read(
      briefs, prompt_PxL, length_P, rollout, everywhere_P
    )
    if scores.ref_logp is not None and ref_logp is not None:
      ref_logp = rollout_scores.where(
        everywhere_P[:, None, None], ref_logp, scores.ref_logp
      )
    finished, score_PxG = self.shards.local_rows((rollout.finished, score_PxG))
    # All replies, as processes score equally many; those of other briefs keep
    # their scores.
    written = self.writing(
      briefs,
      scores.text,
      np.asarray(finished),
      (self.width(prompt_PxL), rollout.token.shape[-1]),
      score_PxG,
      [
        pairs if changed else pairs[:0]
        for pairs, changed in zip(scores.pairs, changed_P, strict=False)
      ],
    )

    def merge(new: np.ndarray, old: np.ndarray) -> np.ndarray:
      by_group = changed_P.reshape(-1, *[1] * (new.ndim - 1))
      return np.where(by_group, new, old)

    writing_PxG, against_PxGxG = merge(written.total, scores.writing), None
    more = self.spent(usage_before)
    more['seconds_writing'] = time.perf_counter() - started
    if written.against is not None and scores.against is not None:
      against_PxGxG = merge(written.against, scores.against)
      more['judge_pairs'] = written.stats['judge_pairs']
    return scores._replace(
      stats=scores.stats | {k: scores.stats[k] + v for k, v in more.items()},
      writing=writing_PxG,
      valid=scores.valid & np.isfinite(writing_PxG),
      ref_logp=ref_logp,
      parts={
        name: merge(written.parts[name], old)
        for name, old in scores.parts.items()
      },
      met=[
        new if changed else old
        for new, old, changed in zip(
          written.met, scores.met, changed_P, strict=True
        )
      ]
      if written.met
      else [],
      against=against_PxGxG,
    )

  def width(self, prompt_PxL: jax.Array) -> int:
    """Least number of tokens that briefs are padded to, for other readers."""
    return prompt_PxL.shape[-1]

  def read(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    live_P: np.ndarray | None = None,
  ) -> tuple[jax.Array | None, jax.Array | None]:
    """`rollout_scores.read` of a rollout; twice None if it is not needed.

    `briefs` are this process's.  `prompt_PxL` has their tokens as the policy
    read them, which `plain.PlainScorer` encodes anew for the reward model.
    """
    del briefs
    if not self.reads_base:
      return None, None
    return rollout_scores.read(
      self.model,
      self.writing.reward,
      prompt_PxL,
      length_P,
      rollout,
      self.config,
      live_P,
      reference=self.reference,
    )

  def texts(self, rollout: Rollout) -> list[list[str]]:
    """Decodes the replies to text, `[P][G]`."""
    token, length = np.asarray(rollout.token), np.asarray(rollout.length)
    return [
      [
        self.model.chat.decode_reply(ids[:n])
        for ids, n in zip(group, lengths, strict=True)
      ]
      for group, lengths in zip(token, length, strict=True)
    ]

  def verify(
    self, briefs: Sequence[Brief], text: list[list[str]]
  ) -> tuple[Verdicts, np.ndarray, np.ndarray]:
    """Checks the rules and demands, and calls the users' verifiers.

    Returns:
      A verdict per rule `[P][G][rules]`; `[P, G]`, 1 if the reply violates
      anything, else NaN if a verdict is missing, else 0; and the same of the
      users' verifiers alone.
    """
    follow = self.judge.follow(briefs, text)
    broken = np.array([[constraints.breaks(r) for r in g] for g in follow])
    # The rules' verdicts are still logged when they do not count.
    if 'rules' not in self.config.verifiers:
      broken = np.zeros_like(broken)
    refused = np.zeros_like(broken)
    for name in self.config.verifiers:
      if name == 'rules':
        continue
      value = call_user_reward(
        import_function(name, 'verifiers', 'rules'), name, briefs, text
      )
      # Above 0 means that the reply is fine.  NaN <= 0 is False, hence `where`.
      other = np.where(np.isnan(value), np.nan, value <= 0)
      refused = _either(refused, other)
    return follow, _either(broken, refused), refused

  def share(self, follow: Verdicts) -> np.ndarray:
    """Share `[P, G]` of a brief's rules that each reply breaks."""
    if 'rules' not in self.config.verifiers:
      return np.zeros((len(follow), len(follow[0])))
    return np.array(
      [[v.count(False) / max(len(v), 1) for v in group] for group in follow]
    )

  def missing(self, written: Written, unknown_PxG: np.ndarray) -> str:
    """Names the scores and verdicts that no reply has; '' if there are none."""
    found = {
      f'writing={self.config.writing!r} scored no reply': written.total,
      **{
        f'writing={name!r} scored no reply': part
        for name, part in written.parts.items()
      },
      'all verdicts on demands or by verifiers are missing': np.where(
        unknown_PxG, np.nan, 0.0
      ),
    }
    return '; '.join(
      text for text, value in found.items() if not np.isfinite(value).any()
    )

  def spent(self, before: Mapping[str, float]) -> dict[str, float]:
    """The judge's counts `judge_…` since an earlier `usage`."""
    return {f'judge_{k}': v - before[k] for k, v in self.usage().items()}
