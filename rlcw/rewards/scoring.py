"""Scoring a rollout's replies, with the parts that a config selects.

  writing     the writing score: `reward_model`, `judge`, `rubric`, a user's
              function, or a weighted sum of several
  verifiers   the violations: `rules` (those of the brief, and its demands),
              and users' functions
  judge       the model that checks demands, answers rubrics and judges by
              principles, loaded here or at an endpoint

A user's function is named `module:function` (`functions`).  A reply that lacks
a score, of any part, or a verdict is masked as not valid, instead of getting a
score of zero.
"""

import copy
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config
from rlcw.models import language_model, packing, weights
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import constraints, reward_model, rubrics
from rlcw.rewards.briefs import Brief
from rlcw.rewards.functions import call_user_reward, import_function
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Question
from rlcw.rewards.novelty import novelty
from rlcw.rewards.reward_model import floor_blank_replies
from rlcw.runtime import console, processes, sums
from rlcw.sampling.outage import Trouble, trouble_of
from rlcw.sampling.rollout import Rollout

# Limit of a user's scores: squares of larger ones may exceed float32.
LARGEST = 1e12
# Parts of the writing score that are no user's function.
BUILT_IN = 'reward_model', 'judge', 'rubric', 'diversity'


class Scores(NamedTuple):
  """Scores and verdicts of a rollout's replies, `[P, G]` if not noted."""

  text: list[list[str]]
  follow: list[list[list[bool | None]]]  # [P][G], one verdict per rule
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

  def details(self, p: int, g: int) -> dict[str, Any]:
    """Returns the fields of a reply's record that explain its `writing`.

    Returns:
      `parts`, the scores by name, if there are several; `met`, a verdict per
      criterion, if the rubric is one.
    """
    parts = {name: float(part[p, g]) for name, part in self.parts.items()}
    found: dict[str, Any] = {'parts': parts} if parts else {}
    return found | ({'met': self.met[p][g]} if self.met else {})


def check(config: Config) -> None:
  """Validates the settings that select the parts.

  Raises:
    ValueError: `writing` is no sum of names, a function cannot be imported, a
      part needs a judge and there is none, `overlong_buffer` is longer than a
      reply, or a penalty is for rules that do not count.
  """
  parts = sums.parse(config.writing)
  for name in parts:
    if name not in BUILT_IN:
      import_function(name, 'writing', ', '.join(BUILT_IN))
  for name in ('judge', 'rubric'):
    if name in parts and not factory.has_judge(config.judge):
      raise ValueError(
        f'writing={config.writing!r} needs a judge: give judge.model or '
        'judge.endpoint.url'
      )
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


_where = jax.jit(jnp.where)


def weighted_sum(
  parts: Mapping[str, np.ndarray], weights: Mapping[str, float]
) -> np.ndarray:
  """Returns the sum `[P, G]` of all parts, each times its weight."""
  weighted = [weights[name] * part for name, part in parts.items()]
  return functools.reduce(np.add, weighted)


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
  """

  def __init__(
    self,
    model: LanguageModel,
    config: Config,
    workdir: Path | None = None,
    *,
    reference: bool = True,
  ):
    self.config, self.reference = config, reference
    self.weights = sums.parse(config.writing)  # of the parts, by name
    self._missing = ''  # the parts that gave nothing for any reply, last time
    self.shards = processes.DataShards(model.mesh)
    self.reward = None
    if 'reward_model' in self.weights:
      reward = reward_model.load(config.reward_model, model)
      policy = model.config
      decoder = language_model.cast(
        reward.decoder, policy.dtype, policy.attention
      )
      # A shared decoder is the policy's base, which the task offloads itself.
      if config.offload and not reward.shared:
        params = weights.in_memory(decoder.params, 'pinned_host')
        decoder = decoder._replace(params=params)
      self.reward = reward._replace(decoder=decoder)
      # A shared decoder scores the rollout's own tokens, without a cut.
      if not reward.shared and reward.limit < config.max_new_tokens:
        console.log(
          f'the reward model {config.reward_model} scores only the first '
          f'{reward.limit} tokens of a reply, as in its training, but '
          f'max_new_tokens={config.max_new_tokens}: train one with '
          f'--config.max_reply_tokens={config.max_new_tokens}'
        )
    self.judge_model = factory.make_judge(
      config.judge, model.mesh, model, workdir=workdir, offload=config.offload
    )
    shared = self.reward is not None and self.reward.shared
    self.reads_base = reference or shared
    self.model = model if self.reads_base else model._replace(params={})

  def without_reference(self) -> 'Scorer':
    """This scorer, with its models, without reference log-probabilities."""
    other = copy.copy(self)
    other.reference = False
    other.reads_base = self.reward is not None and self.reward.shared
    return other

  def reference_alone(self) -> 'Scorer':
    """This scorer, with its models, for `read` of the reference alone."""
    other = copy.copy(self)
    other.reward = None
    return other

  def usage(self) -> dict[str, float]:
    """The judge's counters so far; empty without a judge."""
    return dict(self.judge_model.usage()) if self.judge_model else {}

  def trouble(self) -> Trouble:
    """The reason why no reply of the last rollout got a score."""
    return Trouble(self._missing) | trouble_of(self.judge_model)

  def __call__(
    self,
    briefs: Sequence[Brief],
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    second_opinion: bool = False,
  ) -> Scores:
    """Computes writing scores, verdicts and reference log-probabilities.

    Args:
      briefs: P of this process.
      prompt_PxL: their tokens, padded on the right; global.
      length_P: the prompts' lengths in tokens; global.
      rollout: G replies to each prompt; global.
      second_opinion: also ask the judge about each brief's first reply
        (`Scores.good`), if it does not give the writing score anyway.

    Returns:
      `Scores` of this process's rows, but `ref_logp` of all.  A reply that the
      token budget cut is unfinished, and counts as a violation.
    """
    usage_before = self.usage()
    score_PxG = ref_logp = None
    if self.reads_base:
      # JAX dispatches this asynchronously: the device computes while the host
      # decodes the replies and checks the rules below.
      score_PxG, ref_logp = self.read(prompt_PxL, length_P, rollout)
    widths = prompt_PxL.shape[-1], rollout.token.shape[-1]
    rollout = self.shards.local_rows(rollout)
    text = self.texts(rollout)
    started = time.perf_counter()
    follow, broken, refused = self.verify(briefs, text)
    verified = time.perf_counter()
    finished = np.asarray(rollout.finished)
    writing_PxG, parts, met = self.write(
      briefs, text, finished, widths, self.shards.local_rows(score_PxG)
    )
    written = time.perf_counter()
    good_P = np.full(len(text), np.nan)
    if second_opinion and self.judge_model and 'judge' not in self.weights:
      good_P = self.judge(briefs, [group[:1] for group in text])[:, 0]
    # An unfinished reply is a violation whatever the missing verdict is.
    unknown = np.isnan(broken) & finished
    scored = np.isfinite(writing_PxG)
    stats = {
      'unscored': 1 - scored.mean(),
      'unverified': unknown.mean(),
      'seconds_verifying': verified - started,
      'seconds_writing': written - verified,
    } | {f'judge_{k}': v - usage_before[k] for k, v in self.usage().items()}
    missing = {
      f'writing={self.config.writing!r} scored no reply': not scored.any(),
      **{
        f'writing={name!r} scored no reply': not np.isfinite(part).any()
        for name, part in parts.items()
      },
      'all verdicts on demands or by verifiers are missing': unknown.all(),
    }
    self._missing = '; '.join(text for text, holds in missing.items() if holds)
    return Scores(
      text,
      follow,
      violated=(broken == 1) | ~finished,
      writing=writing_PxG,
      valid=scored & ~unknown,
      refused=np.where(finished, refused, 1.0),
      broken_share=np.where(
        (refused == 1) | ~finished, 1.0, self.share(follow)
      ),
      ref_logp=ref_logp,
      good=good_P,
      stats=stats,
      parts=parts if len(parts) > 1 else {},
      met=met,
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
    score_PxG, ref_logp = None, scores.ref_logp
    if self.reads_base:
      everywhere_P = np.concatenate(self.shards.gather(changed_P))
      score_PxG, read_PxGxT = self.read(
        prompt_PxL, length_P, rollout, everywhere_P
      )
      if ref_logp is not None:
        ref_logp = _where(everywhere_P[:, None, None], read_PxGxT, ref_logp)
    local = self.shards.local_rows((rollout.finished, score_PxG))
    # All replies, as processes score equally many; those of other briefs keep
    # their scores.
    writing_PxG, parts, met = self.write(
      briefs,
      scores.text,
      np.asarray(local[0]),
      (prompt_PxL.shape[-1], rollout.token.shape[-1]),
      local[1],
    )

    def merge(new_PxG: np.ndarray, old_PxG: np.ndarray) -> np.ndarray:
      return np.where(changed_P[:, None], new_PxG, old_PxG)

    writing_PxG = merge(writing_PxG, scores.writing)
    more = {f'judge_{k}': v - usage_before[k] for k, v in self.usage().items()}
    more['seconds_writing'] = time.perf_counter() - started
    return scores._replace(
      stats=scores.stats | {k: scores.stats[k] + v for k, v in more.items()},
      writing=writing_PxG,
      valid=scores.valid & np.isfinite(writing_PxG),
      ref_logp=ref_logp,
      parts={
        name: merge(parts[name], old) for name, old in scores.parts.items()
      },
      met=[
        new if changed else old
        for new, old, changed in zip(met, scores.met, changed_P, strict=True)
      ]
      if met
      else [],
    )

  def read(
    self,
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    live_P: np.ndarray | None = None,
  ) -> tuple[jax.Array | None, jax.Array | None]:
    """`reward_model.score_and_reference`, a part of the groups at a time.

    Groups that are not in `live_P` (all processes') may have zeros; None: all.
    """
    reward, head, mask_PxGxT, end = self.reward, None, None, None
    gather, local = self.shards.gather, self.shards.local_rows
    if reward is not None and reward.shared:
      head = reward.head
      mask_PxGxT = self.shards.to_global(
        reward_model.rollout_mask(
          self.model.chat, local(rollout), reward.pooling
        )
      )
      # The average over the text does not depend on what ends it.
      end = reward.end[0] if reward.end and reward.pooling == 'last' else None
    packed = packing.partition(
      np.concatenate(gather(np.asarray(local(length_P)))),
      np.concatenate(gather(np.asarray(local(rollout.length)))),
      prompt_PxL.shape[-1],
      rollout.token.shape[-1],
      part=self.config.microbatch_groups,
      live_P=live_P,
    )
    if live_P is not None:
      # Other groups only fill a part up: they have no tokens.
      length_P = _where(live_P, length_P, 0)
      count_PxG = _where(live_P[:, None], rollout.length, 0)
      rollout = rollout.replace(length=count_PxG)
    params = weights.in_memory(self.model.params, 'device')
    arrays = prompt_PxL, length_P, rollout, mask_PxGxT
    parts = []
    for part, width in zip(
      packed.split(arrays, self.shards.sharding), packed.width, strict=True
    ):
      *read, mask = part
      parts.append(
        reward_model.score_and_reference(
          params,
          head,
          *read,
          self.config.temperature,
          mask,
          end,
          config=self.model.reference,
          width=width,
          reference=self.reference,
        )
      )
    zeros = jax.tree.map(jnp.zeros_like, parts[0])
    parts += [zeros] * (packed.parts - len(parts))
    return packed.join(parts, self.shards.sharding)

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
  ) -> tuple[list[list[list[bool | None]]], np.ndarray, np.ndarray]:
    """Checks the rules and demands, and calls the users' verifiers.

    Returns:
      A verdict per rule `[P][G][rules]`; `[P, G]`, 1 if the reply violates
      anything, else NaN if a verdict is missing, else 0; and the same of the
      users' verifiers alone.
    """
    question = self.question('demand')
    follow = questions.follow(self.judge_model, question, briefs, text)
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

  def share(self, follow: list[list[list[bool | None]]]) -> np.ndarray:
    """Share `[P, G]` of a brief's rules that each reply breaks."""
    if 'rules' not in self.config.verifiers:
      return np.zeros((len(follow), len(follow[0])))
    return np.array(
      [[v.count(False) / max(len(v), 1) for v in group] for group in follow]
    )

  def write(
    self,
    briefs: Sequence[Brief],
    text: list[list[str]],
    finished: np.ndarray,
    widths: tuple[int, int],
    read_PxG: jax.Array | None,
  ) -> tuple[np.ndarray, dict[str, np.ndarray], list[Any]]:
    """Writing scores of replies.

    Args:
      briefs: P of them.
      text: `[P][G]` replies.
      finished: `[P, G]`, true if EOS ended the reply.
      widths: minimum prompt and reply widths, in tokens, for padding.
      read_PxG: scores of `read`, of a reward model on the base's decoder.

    Returns:
      The weighted sum `[P, G]` of the parts, these by name, and the verdicts
      on criteria of rubrics (`Scores.met`).
    """
    parts: dict[str, np.ndarray] = {}
    met: list[list[list[bool | None]]] = []
    for name in self.weights:
      if name == 'reward_model' and self.reward and self.reward.shared:
        # The host waits for the device here.
        score_PxG = np.asarray(read_PxG)
        parts[name] = floor_blank_replies(score_PxG, text, self.reward.floor)
      elif name == 'rubric':
        met = self.meet(briefs, text)
        parts[name] = rubrics.scores([brief.rubric for brief in briefs], met)
      elif name == 'diversity':
        parts[name] = np.array([novelty(group) for group in text])
      else:
        parts[name] = self.write_part(name, briefs, text, finished, widths)
    return weighted_sum(parts, self.weights), parts, met

  def write_part(
    self,
    name: str,
    briefs: Sequence[Brief],
    text: list[list[str]],
    finished: np.ndarray,
    widths: tuple[int, int],
  ) -> np.ndarray:
    """Scores `[P, G]` by one part, which are computed from replies' texts.

    Args:
      name: of the part.
      briefs: P of them.
      text: `[P][G]` replies.
      finished: `[P, G]`, true if EOS ended the reply.
      widths: minimum prompt and reply widths, in tokens, for padding.
    """
    if name == 'reward_model':
      assert self.reward is not None  # loaded with the part
      prompts = [brief.request for brief in briefs]
      return reward_model.score_texts(
        self.reward, prompts, text, finished, widths
      )
    if name == 'judge':
      return self.judge(briefs, text)
    score_PxG = call_user_reward(
      import_function(name, 'writing', ''), name, briefs, text
    )
    large = np.isfinite(score_PxG) & (abs(score_PxG) > LARGEST)
    if large.any():
      raise ValueError(
        f'{name} returned {score_PxG[large][0]:g}; expected numbers within '
        f'±{LARGEST:g}, or NaN for no score'
      )
    return score_PxG

  def judge(
    self, briefs: Sequence[Brief], text: Sequence[Sequence[str]]
  ) -> np.ndarray:
    """Probability `[P, G]` that a reply is Good, according to the judge."""
    question = self.question('judge')
    assert self.judge_model is not None  # ensured by `check`
    prompts = [brief.text for brief in briefs]
    return questions.judge(self.judge_model, question, prompts, text).first

  def meet(
    self, briefs: Sequence[Brief], text: Sequence[Sequence[str]]
  ) -> list[list[list[bool | None]]]:
    """Verdicts `[P][G]` on the criteria of the briefs' rubrics."""
    question = self.question('criterion')
    return questions.meet(self.judge_model, question, briefs, text)

  def question(self, name: str) -> Question:
    """Builds one of the judge's questions about replies of this run."""
    return factory.make_question(
      name, self.config.judge, self.config.max_new_tokens
    )
