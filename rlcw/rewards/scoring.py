"""Scoring a rollout's replies, with the parts that a config selects.

  writing     the writing score: `reward_model`, `judge`, or a user's function
  verifiers   the violations: `rules` (those of the brief, and its demands),
              and users' functions
  judge       the model that checks demands and judges by principles, loaded
              here or at an endpoint

A user's function is named `module:function`.  It maps P briefs and `[P][G]`
replies to an array `[P, G]`, NaN for unknown.  A reply that lacks a score or a
verdict is masked as not valid, instead of getting a score of zero.
"""

import contextlib
import copy
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlcw import Config
from rlcw.models import language_model, packing, weights
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import constraints, reward_model
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Question
from rlcw.rewards.reward_model import floor_blank_replies
from rlcw.runtime import console, processes
from rlcw.runtime.signals import Stopped
from rlcw.sampling.outage import Trouble, trouble_of
from rlcw.sampling.rollout import Rollout

# Limit of a user's scores: squares of larger ones may exceed float32.
LARGEST = 1e12
Reward = Callable[[Sequence[Brief], Sequence[Sequence[str]]], Any]


class Scores(NamedTuple):
  """Scores and verdicts of a rollout's replies, `[P, G]` if not noted."""

  text: list[list[str]]
  follow: list[list[list[bool | None]]]  # [P][G], one verdict per rule
  violated: np.ndarray
  writing: np.ndarray  # NaN without a score
  valid: np.ndarray  # true with a score and all verdicts that matter
  ref_logp: jax.Array | None  # [P, G, T]
  good: np.ndarray  # [P], the judge's score of each first reply; NaN if unasked
  stats: dict[str, Any]  # metrics of scoring: shares, seconds, judge usage


def check(config: Config) -> None:
  """Validates the settings that select the parts.

  Raises:
    ValueError: a function cannot be imported, `writing='judge'` has no judge,
      or `offload` would move weights that the judge shares.
  """
  if config.writing not in ('reward_model', 'judge'):
    import_function(config.writing, 'writing', 'reward_model or judge')
  if config.writing == 'judge' and not factory.has_judge(config.judge):
    raise ValueError(
      "writing='judge' needs a judge: give judge.model or judge.endpoint.url"
    )
  for name in config.verifiers:
    if name != 'rules':
      import_function(name, 'verifiers', 'rules')
  if config.offload and config.judge.model == config.model:
    raise ValueError(
      f'judge.model={config.judge.model!r} equals model, whose weights '
      'offload=True keeps in host memory, but the judge reads them for every '
      'question: judge.model must be another one than model'
    )


def import_function(name: str, setting: str, expected: str) -> Reward:
  """Imports a user's function.

  Args:
    name: `module:function`.  The working directory is searched for the module
      too.
    setting: the setting that names it, for the error message.
    expected: the setting's other values, for the error message.

  Raises:
    ValueError: there is no such module or function, or the module fails.
  """
  module, _, function = str(name).partition(':')
  # An installed command, unlike `python -m`, does not search the working
  # directory.
  if '' not in sys.path:
    sys.path.insert(0, '')
  try:
    # ':' is no module's name, so an empty name raises ImportError as well,
    # where '' would raise ValueError.
    reward = getattr(importlib.import_module(module or ':'), function)
    if not callable(reward):
      raise AttributeError(f'{function} is not a function')
    return reward
  # A module may raise anything, and an exit would be taken for a success.
  except (Exception, SystemExit) as error:
    plain = isinstance(error, (ImportError, AttributeError))
    raise ValueError(
      f'{setting}={name!r}: {error if plain else repr(error)}; expected '
      f'{expected}, or module:function'
    ) from None


@contextlib.contextmanager
def user_code(name: str) -> Iterator[None]:
  """Turns whatever a user's function raises into an error that names it.

  Raises:
    ValueError: it ended the process, which is no success of the run.
    RuntimeError: it failed.
  """
  try:
    yield
  except Stopped:
    raise
  except (SystemExit, KeyboardInterrupt) as error:
    raise ValueError(
      f'{name} raised {error!r}, which would end the run; expected it to '
      'return its values'
    ) from None
  except Exception as error:
    raise RuntimeError(f'{name} failed: {error!r}') from error


def call_user_reward(
  reward: Reward,
  name: str,
  briefs: Sequence[Brief],
  replies: Sequence[Sequence[str]],
) -> np.ndarray:
  """Calls a user's function, and returns its values `[P, G]` in float32.

  It gets copies, so that it cannot change the replies that are recorded.  A
  request to stop ends it: one of several processes then returns NaN.

  Raises:
    ValueError: the values are not numbers, or have another shape; or the
      function ended the process.
    RuntimeError: the function failed.
    Stopped: the run was asked to stop (`processes.interruptible`).
  """
  expected = (len(replies), len(replies[0]))
  returned = np.full(expected, np.nan)
  with processes.interruptible(), user_code(name):
    returned = reward(copy.deepcopy(briefs), [[*group] for group in replies])
  try:
    if returned is None:
      raise TypeError('it returned None')
    # A copy, because the function may write into its array at the next call.
    value = np.array(returned, np.float32)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{name} returned no array of numbers, expected shape {expected}: {error}'
    ) from None
  if value.shape != expected:
    raise ValueError(
      f'{name} returned an array of shape {value.shape} for {expected[0]} '
      f'briefs with {expected[1]} replies each: expected {expected}'
    )
  return value


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
    self._missing = ''  # the parts that gave nothing for any reply, last time
    self.shards = processes.DataShards(model.mesh)
    self.reward = None
    if config.writing == 'reward_model':
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
      config.judge, model.mesh, model, workdir=workdir
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
    reward, head, mask, end = self.reward, None, None, None
    local_rollout = self.shards.local_rows(rollout)
    if reward is not None and reward.shared:
      head = reward.head
      mask = self.shards.to_global(
        reward_model.rollout_mask(
          self.model.chat, local_rollout, reward.pooling
        )
      )
      # The average over the text does not depend on what ends it.
      end = reward.end[0] if reward.end and reward.pooling == 'last' else None
    score_PxG = ref_logp = None
    if self.reads_base:
      # JAX dispatches this asynchronously: the device computes while the host
      # decodes the replies and checks the rules below.
      score_PxG, ref_logp = self.read(
        prompt_PxL, length_P, rollout, head, mask, end
      )
    rollout = local_rollout
    text = self.texts(rollout)
    started = time.perf_counter()
    follow, broken = self.verify(briefs, text)
    verified = time.perf_counter()
    finished = np.asarray(rollout.finished)
    if reward is not None and score_PxG is not None:
      # The host waits for the device here.
      score_PxG = np.asarray(self.shards.local_rows(score_PxG))
      score_PxG = floor_blank_replies(score_PxG, text, reward.floor)
    else:
      widths = prompt_PxL.shape[-1], rollout.token.shape[-1]
      score_PxG = self.write(briefs, text, finished, widths)
    written = time.perf_counter()
    good_P = np.full(len(text), np.nan)
    if second_opinion and self.judge_model and self.config.writing != 'judge':
      good_P = self.judge(briefs, [group[:1] for group in text])[:, 0]
    # An unfinished reply is a violation whatever the missing verdict is.
    unknown = np.isnan(broken) & finished
    scored = np.isfinite(score_PxG)
    stats = {
      'unscored': 1 - scored.mean(),
      'unverified': unknown.mean(),
      'seconds_verifying': verified - started,
      'seconds_writing': written - verified,
    } | {f'judge_{k}': v - usage_before[k] for k, v in self.usage().items()}
    violated = (broken == 1) | ~finished
    valid = scored & ~unknown
    parts = {
      f'writing={self.config.writing!r} scored no reply': not scored.any(),
      'all verdicts on demands or by verifiers are missing': unknown.all(),
    }
    self._missing = '; '.join(text for text, holds in parts.items() if holds)
    return Scores(
      text, follow, violated, score_PxG, valid, ref_logp, good_P, stats
    )

  def read(
    self,
    prompt_PxL: jax.Array,
    length_P: jax.Array,
    rollout: Rollout,
    head: reward_model.Head | None,
    mask_PxGxT: jax.Array | None,
    end: int | None,
  ) -> tuple[jax.Array | None, jax.Array | None]:
    """`reward_model.score_and_reference`, a part of the groups at a time."""
    gather, local = self.shards.gather, self.shards.local_rows
    packed = packing.partition(
      np.concatenate(gather(np.asarray(local(length_P)))),
      np.concatenate(gather(np.asarray(local(rollout.length)))),
      prompt_PxL.shape[-1],
      rollout.token.shape[-1],
      part=self.config.microbatch_groups,
    )
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
  ) -> tuple[list[list[list[bool | None]]], np.ndarray]:
    """Checks the rules and demands, and calls the users' verifiers.

    Returns:
      A verdict per rule `[P][G][rules]`, and `[P, G]`: 1 if the reply violates
      anything, else NaN if a verdict is missing, else 0.
    """
    question = self.question('demand')
    follow = questions.follow(self.judge_model, question, briefs, text)
    broken = np.array([[constraints.breaks(r) for r in g] for g in follow])
    # The rules' verdicts are still logged when they do not count.
    if 'rules' not in self.config.verifiers:
      broken = np.zeros_like(broken)
    for name in self.config.verifiers:
      if name == 'rules':
        continue
      value = call_user_reward(
        import_function(name, 'verifiers', 'rules'), name, briefs, text
      )
      # Above 0 means that the reply is fine.  NaN <= 0 is False, hence `where`.
      other = np.where(np.isnan(value), np.nan, value <= 0)
      # A violation outweighs a missing verdict.  In the last case both are 0 or
      # NaN, so the sum keeps NaN.
      broken = np.where((broken == 1) | (other == 1), 1.0, broken + other)
    return follow, broken

  def write(
    self,
    briefs: Sequence[Brief],
    text: list[list[str]],
    finished: np.ndarray,
    widths: tuple[int, int],
  ) -> np.ndarray:
    """Writing scores `[P, G]` that are computed from the replies' texts.

    Args:
      briefs: P of them.
      text: `[P][G]` replies.
      finished: `[P, G]`, true if EOS ended the reply.
      widths: minimum prompt and reply widths, in tokens, for padding.
    """
    if self.reward is not None:
      prompts = [brief.request for brief in briefs]
      return reward_model.score_texts(
        self.reward, prompts, text, finished, widths
      )
    if self.config.writing == 'judge':
      return self.judge(briefs, text)
    name = self.config.writing
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

  def question(self, name: str) -> Question:
    """Builds one of the judge's questions about replies of this run."""
    return factory.make_question(
      name, self.config.judge, self.config.max_new_tokens
    )
