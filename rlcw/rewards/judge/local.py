"""A panel that reads its verdicts from a model in JAX, without sampling.

One forward pass leaves the probabilities of the next token; those of the two
labels' first tokens, against each other, are the verdict.  What prompts have
in common is read once: the principles by the first call of a run, a brief by
the pass that reads its G replies.

Several processes call it together, each with prompts of its own, or none.

The pieces of a prompt are tokenised one by one and never as control tokens, so
that a reply changes no token outside its own row.

Letters: P briefs, G replies, L a brief's tokens, T a row's, D model, V vocab.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlcw.data import batches
from rlcw.models import tokenizer
from rlcw.models.attention_kernels import Prefix
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, forward_replies, head_weight, prefill
from rlcw.models.language_model import LanguageModel
from rlcw.rewards.judge.questions import Prompt, Question, Verdicts
from rlcw.runtime import processes
from rlcw.runtime.mesh import group_shards

CUE = 'Verdict:'  # the beginning of the model's own turn
_KEPT = 4  # readings of principles: a game tries many, each of them large


class LogprobJudge:
  """Answers questions with a model that is loaded here.

  Args:
    model: any policy, best one that follows instructions.
    batch_size: how many briefs, each with its replies, are read at once.
    changing: whether the principles will.  Then what is read of them once has
      one of few lengths, as each would be compiled for; the rest of them goes
      before every brief.
  """

  def __init__(
    self, model: LanguageModel, batch_size: int, changing: bool = False
  ):
    self.model, self.parts = model, processes.DataShards(model.mesh)
    self.changing = changing
    self.questions = 0
    self.prefaces: dict[str, tuple[Prefix, list[int]]] = {}
    shards = group_shards(model.mesh)
    if batch_size % shards:
      raise ValueError(
        f'judge.batch_size={batch_size} does not split over the '
        f'{shards} devices of the data and fsdp axes; legal: multiples of '
        f'{shards}'
      )
    self.size = batch_size // self.parts.index_and_count[1]  # of them, here

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    """Prompts `[P][G]` to verdicts `[P, G]`, without reasons."""
    size, first = self.size, []
    self.questions += sum(map(len, prompts))
    blank = question.about('', '')
    replies = max(processes.gather(len(prompts[0]) if prompts else 0))
    ids = [self.tokens(group) for group in prompts or [[blank] * replies]]
    preface, rest = self.preface(blank.shared)
    passes = max(processes.gather(-(-len(ids) // size)))
    for start in range(0, passes * size, size):
      # the last pass is filled up; widths are powers of two: few shapes
      part = [ids[i % len(ids)] for i in range(start, start + size)]
      briefs, rows = zip(*part, strict=True)
      prompt_PxL, length_P = batches.pad_coarsely([rest + b for b in briefs])
      token, count = batches.pad_coarsely(
        [row for group in rows for row in group]
      )
      arrays = self.parts.to_global(
        (
          prompt_PxL,
          length_P,
          token.reshape(size, -1, token.shape[-1]),
          count.reshape(size, -1),
        )
      )
      found_PxG = probability(
        self.model.params,
        preface,
        *arrays,
        self.labels(question),
        config=self.model.config,
      )
      first.append(np.asarray(self.parts.local_rows(found_PxG)))
    first_PxG = np.concatenate(first)[: len(prompts)]
    return Verdicts(first_PxG, [[''] * len(group) for group in prompts])

  def usage(self) -> dict[str, float]:
    """How many questions were put to it."""
    return {'questions': self.questions}

  def labels(self, question: Question) -> tuple[int, int]:
    """The tokens that the two labels begin with, after the cue."""
    first, second = (
      tokenizer.encode(self.model.tokenizer, f' {label}')[0]
      for label in question.labels
    )
    if first == second:
      raise ValueError(
        f'the labels {question.labels} begin with the same token of '
        f'{self.model.source}: it cannot answer this question here'
      )
    return first, second

  def preface(self, shared: str) -> tuple[Prefix, list[int]]:
    """The principles, read once, and the tokens of them that were not.

    There is a row for each device that reads briefs.
    """
    if shared not in self.prefaces:
      if len(self.prefaces) == _KEPT:
        del self.prefaces[next(iter(self.prefaces))]
      opening, _ = tokenizer.turns(self.model.tokenizer)
      row = opening + tokenizer.encode_untrusted(self.model.tokenizer, shared)
      cut = len(row)
      if self.changing:
        cut = min(cut, batches.power_of_two(cut + 1) // 2)
      rows = group_shards(self.model.mesh) // self.parts.index_and_count[1]
      token_SxL, length_S = self.parts.to_global(
        (np.tile(row[:cut], (rows, 1)), np.full(rows, cut))
      )
      prefix = _read(
        self.model.params, token_SxL, length_S, config=self.model.config
      )
      self.prefaces[shared] = prefix, row[cut:]
    return self.prefaces[shared]

  def tokens(
    self, group: Sequence[Prompt]
  ) -> tuple[list[int], list[list[int]]]:
    """A brief's tokens, and those of each of its replies with the question."""
    text = self.model.tokenizer
    _, closing = tokenizer.turns(text)
    closing = closing + tokenizer.encode(text, CUE)
    rows = [tokenizer.encode_untrusted(text, each.row) for each in group]
    brief = tokenizer.encode_untrusted(text, group[0].group)
    return brief, [row + closing for row in rows]


@functools.partial(jax.jit, static_argnames='config')
def _read(
  params: Params,
  token_SxL: jax.Array,
  length_S: jax.Array,
  *,
  config: ModelConfig,
) -> Prefix:
  return prefill(config, params, token_SxL, length_S)[1]


@functools.partial(jax.jit, static_argnames='config')
def probability(
  params: Params,
  preface: Prefix | None,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  token_PxGxT: jax.Array,
  count_PxG: jax.Array,
  label_2: tuple[jax.Array | int, jax.Array | int],
  *,
  config: ModelConfig,
) -> jax.Array:
  """How likely the first label is next, rather than the second.

  Args:
    params: of the model.
    preface: what every prompt begins with, as `read_brief` takes it.
    prompt_PxL: briefs, padded on the right.
    length_P: their lengths.
    token_PxGxT: replies, each with the question after it.
    count_PxG: their lengths.
    label_2: a token for each label.
    config: of the model.

  Returns:
    `[P, G]` in float32.
  """
  _, reading = forward_replies(
    config, params, prompt_PxL, length_P, token_PxGxT, preface
  )
  last_PxGx1xD = jnp.take_along_axis(
    reading, count_PxG[..., None, None] - 1, axis=2
  )
  head_2xD = head_weight(params)[jnp.asarray(label_2)].astype(reading.dtype)
  logit_PxGx2 = jnp.einsum(
    'pgd,vd->pgv',
    last_PxGx1xD[:, :, 0],
    head_2xD,
    preferred_element_type=jnp.float32,
  )
  return jax.nn.softmax(logit_PxGx2)[..., 0]
