"""A judge that computes verdicts from a JAX model's logits, without sampling.

One forward pass gives the logits of the next token; a softmax over the two
labels' first tokens is the verdict.  Shared parts of the prompts are prefilled
once: the principles at the first call of a run, a brief in the pass that reads
its G replies.

All processes must call it together, each with prompts of its own or with none.

The parts of a prompt are tokenised separately, and never as control tokens, so
a reply cannot change any token outside its own row.

Letters: P briefs, G replies, L tokens of a brief, T tokens of a row (a reply
and the question after it), S shards of the batch (each a packed row of N
tokens), D model, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlcw.data import batches
from rlcw.models import packing, weights
from rlcw.models.attention_kernels import Prefix
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, head_weight, prefill
from rlcw.models.groups import forward_groups
from rlcw.models.language_model import LanguageModel
from rlcw.models.layers import final_logits
from rlcw.models.packing import Groups
from rlcw.models.tokenizer import encode_inside, encode_untrusted
from rlcw.rewards.judge.questions import (
  Prompt,
  Question,
  Verdicts,
  note_shortened,
)
from rlcw.runtime import processes
from rlcw.runtime.mesh import group_shards

CUE = 'Verdict:'  # starts the model's turn, so that a label comes next
# Cached prefixes.  The adversary task tries many principles, and the KV cache
# of each is large.
_MAX_PREFACES = 4


class LogprobJudge:
  """Answers questions with a model that is loaded in this process.

  Args:
    model: any language model, preferably one that follows instructions.
    batch_size: how many briefs, each with its replies, are read at once.
    changing: true if the principles change often.  Then only a power-of-two
      number of their tokens is prefilled once, because every length compiles a
      program; the remaining tokens are put before every brief.
    system: the system message; '' for none.

  Raises:
    ValueError: `batch_size` does not divide over the batch's shards.
  """

  def __init__(
    self,
    model: LanguageModel,
    batch_size: int,
    changing: bool = False,
    system: str = '',
  ):
    self.model, self.shards = model, processes.DataShards(model.mesh)
    self.system = system
    self.changing = changing
    self.counts = {'questions': 0, 'shortened': 0}
    # shared text -> its KV cache, and the tokens of it that are not in there
    self.prefaces: dict[str, tuple[Prefix, list[int]]] = {}
    shards = group_shards(model.mesh)
    if batch_size % shards:
      raise ValueError(
        f'judge.batch_size={batch_size} does not split over the {shards} '
        f'devices of the data and fsdp axes; expected a multiple of {shards}'
      )
    # Briefs that this process reads at once.
    self.size = batch_size // self.shards.index_and_count[1]

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    """Computes verdicts `[P, G]`, without reasons, for prompts `[P][G]`."""
    size, first = self.size, []
    self.counts['questions'] += sum(map(len, prompts))
    note_shortened(self.counts, prompts)
    blank, common = question.about('', ''), self.shared(question)
    # A process without prompts joins the collective passes with blank ones, of
    # the same G as the others.
    replies = max(processes.gather(len(prompts[0]) if prompts else 0))
    ids = [self.tokens(group) for group in prompts or [[blank] * replies]]
    # With offload=True the weights are in host memory between calls.
    params = weights.in_memory(self.model.params, 'device')
    preface, rest = self.preface(common, params)
    shared = len(self.opening(common))
    for brief, rows in ids:
      self._check(shared + len(brief), rows)
    # All processes run as many passes as the one with the most prompts.
    passes = max(processes.gather(-(-len(ids) // size)))
    for start in processes.stoppable(range(0, passes * size, size)):
      # Rows are repeated to fill the last pass, and widths are powers of two:
      # few shapes, so few compilations.
      batch = [ids[i % len(ids)] for i in range(start, start + size)]
      briefs, rows = zip(*batch, strict=True)
      prompt_PxL, length_P = batches.pad_coarsely([rest + b for b in briefs])
      token, count = batches.pad_coarsely(
        [row for group in rows for row in group]
      )
      groups = Groups(
        prompt_PxL,
        length_P,
        token.reshape(size, -1, token.shape[-1]),
        count.reshape(size, -1),
      )
      packed = packing.partition(
        np.concatenate(self.shards.gather(groups.length)),
        np.concatenate(self.shards.gather(groups.count)),
        prompt_PxL.shape[-1],
        token.shape[-1],
      )
      (part,) = packed.split(
        self.shards.to_global(groups), self.shards.sharding
      )
      probability_PxG = probability(
        params,
        preface,
        part.arrays,
        self.labels(question),
        config=self.model.config,
        width=part.width,
      )
      probability_PxG = packed.join([probability_PxG], self.shards.sharding)
      first.append(np.asarray(self.shards.local_rows(probability_PxG)))
    # Drops the rows that only filled a pass.
    first_PxG = np.concatenate(first)[: len(prompts)]
    return Verdicts(first_PxG, [[''] * len(group) for group in prompts])

  def usage(self) -> dict[str, float]:
    """Counts of questions, and of replies that were not shown to their end."""
    return dict(self.counts)

  def labels(self, question: Question) -> tuple[int, int]:
    """First token of each of the two labels, after the cue.

    Raises:
      ValueError: both labels begin with the same token.
    """
    # After "Verdict:" the model would continue with a space and the label.
    first, second = (
      encode_inside(self.model.tokenizer, f' {label}')[0]
      for label in question.labels
    )
    if first == second:
      raise ValueError(
        f'the labels {question.labels} begin with the same token of '
        f'{self.model.source}: expected two labels that differ in their first '
        'token; ask this question at an endpoint instead'
      )
    return first, second

  def shared(self, question: Question) -> str:
    """Text that all prompts of a question begin with."""
    return question.about('', '').shared

  def opening(self, shared: str) -> list[int]:
    """Tokens of a prompt up to the brief."""
    opening, _ = self.model.chat.turns(self.system)
    return opening + encode_untrusted(self.model.tokenizer, shared)

  def preface(self, shared: str, params: Params) -> tuple[Prefix, list[int]]:
    """KV cache of the shared text, and the tokens of it that are not in it.

    The cache has one row per shard of the batch (S), prefilled at the first
    call with this text.
    """
    if shared not in self.prefaces:
      # First in, first out: dicts keep the order of insertion.
      if len(self.prefaces) == _MAX_PREFACES:
        del self.prefaces[next(iter(self.prefaces))]
      row = self.opening(shared)
      cut = len(row)
      # The largest power of two that the row fills, from 16 on; a shorter row
      # is cached entirely.
      if self.changing:
        cut = min(cut, batches.power_of_two(cut + 1) // 2)
      # One copy per shard, so that no device fetches it from another one.
      rows = group_shards(self.model.mesh) // self.shards.index_and_count[1]
      token_SxL, length_S = self.shards.to_global(
        (np.tile(row[:cut], (rows, 1)), np.full(rows, cut))
      )
      prefix = _prefill(params, token_SxL, length_S, config=self.model.config)
      self.prefaces[shared] = prefix, row[cut:]
    return self.prefaces[shared]

  def checker(self, question: Question) -> Callable[[Sequence[Prompt]], None]:
    """Returns a function that raises ValueError for prompts of one brief.

    It does so if the model cannot read them.
    """
    shared = len(self.opening(self.shared(question)))

    def check(prompts: Sequence[Prompt]) -> None:
      brief, rows = self.tokens(prompts)
      self._check(shared + len(brief), rows)

    return check

  def _check(self, tokens: int, rows: Sequence[Sequence[int]]) -> None:
    try:
      self.model.chat.check_context(
        {"a judge's question": tokens},
        max(map(len, rows), default=0),
        'reply tokens',
      )
    except ValueError as error:
      raise ValueError(
        f'{error}; judge.max_reply_characters limits what a judge reads'
      ) from None

  def tokens(
    self, group: Sequence[Prompt]
  ) -> tuple[list[int], list[list[int]]]:
    """Tokens of a brief, and of each of its replies with the question after it.

    Only the end of the user's turn and the cue are encoded with control tokens.
    """
    tokenizer = self.model.tokenizer
    _, closing = self.model.chat.turns(self.system)
    closing = closing + encode_inside(tokenizer, CUE)
    rows = [encode_untrusted(tokenizer, each.row) for each in group]
    # All prompts of a group have the same brief.
    brief = encode_untrusted(tokenizer, group[0].group)
    return brief, [row + closing for row in rows]

  def example(
    self, question: Question, prompt: Prompt, first: bool
  ) -> tuple[list[int], list[bool]]:
    """Tokens of a question with its answer, for training on verdicts.

    Args:
      question: that the prompt asks.
      prompt: about one reply.
      first: whether the first label is right.

    Returns:
      The tokens, and a mask that is true at the last, the label's.

    Raises:
      ValueError: as of `labels`.
    """
    brief, [row] = self.tokens([prompt])
    ids = [*self.opening(prompt.shared), *brief, *row]
    label = self.labels(question)[0 if first else 1]
    return [*ids, label], [*[False] * len(ids), True]


@functools.partial(jax.jit, static_argnames='config')
def _prefill(
  params: Params,
  token_SxL: jax.Array,
  length_S: jax.Array,
  *,
  config: ModelConfig,
) -> Prefix:
  return prefill(config, params, token_SxL, length_S)[1]


@functools.partial(jax.jit, static_argnames=('config', 'width'))
def probability(
  params: Params,
  preface: Prefix | None,
  groups: Groups,
  label_2: tuple[jax.Array | int, jax.Array | int],
  *,
  config: ModelConfig,
  width: int = 0,
) -> jax.Array:
  """Probability of the first label as the next token, against the second.

  Args:
    params: of the model.
    preface: KV cache of the text before every brief, as `forward_groups` takes
      it.
    groups: briefs, and replies, each with the question after it.
    label_2: the first token of each label.
    config: of the model.
    width: of the packed rows that they are read in (`forward_groups`).

  Returns:
    `[P, G]` in float32.
  """
  hidden_SxNxD, layout = forward_groups(config, params, groups, width, preface)
  # The state at the last real token predicts the label.
  last_PxGxD = jnp.take_along_axis(
    layout.of_replies(hidden_SxNxD), groups.count[..., None, None] - 1, axis=2
  )[:, :, 0]
  # Logits of two tokens only: the whole head would need [P, G, V].  Labels are
  # traced, not static, so all questions share one compiled program.
  head_2xD = head_weight(params)[jnp.asarray(label_2)].astype(last_PxGxD.dtype)
  logit_PxGx2 = jnp.einsum(
    'pgd,vd->pgv', last_PxGxD, head_2xD, preferred_element_type=jnp.float32
  )
  return jax.nn.softmax(final_logits(config, logit_PxGx2))[..., 0]
