"""Preferences as padded arrays: prompts, R replies to each, weights of pairs.

A group is a prompt with its replies.  Synthetic losers are added to it, made
from its best reply: text with tokens replaced, and text that loops.  Any reader
would reject them, but a score fitted to well-written replies alone might not,
and a policy would soon find that out.

Letters: N groups, R replies in each (padding included), L prompt tokens,
T reply tokens, M pairs.
"""

from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.data import batches
from rlcw.data.messages import messages, transcript
from rlcw.data.preferences import Preference
from rlcw.models.chat import ChatFormat
from rlcw.models.thoughts import reply_or_all
from rlcw.rewards import pooled
from rlcw.runtime import console

# Probability that a token of a synthetic loser is replaced by a random one.
BROKEN_TOKENS = 0.3
# Edges of the bins of |log(length ratio)| within which pairs are balanced.
_EDGES = (0.1, 0.3, 0.6, 1.0)


class Groups(NamedTuple):
  """N prompts with R replies to each, as padded training arrays."""

  prompt: np.ndarray  # [N, L] ids, padded with 0
  prompt_length: np.ndarray  # [N] tokens
  token: np.ndarray  # [N, R, T] ids, padded with 0
  mask: np.ndarray  # [N, R, T], tokens that the features average over
  length: np.ndarray  # [N, R] characters, 0 at padding
  worth: np.ndarray  # [N, R], higher is better; NaN at padding
  made: np.ndarray  # [N, R], true at synthetic losers
  weight: np.ndarray  # [N, R, R], weight of the preference of i over j
  covariate: np.ndarray  # [N, R, 2], functions of length

  def take(self, index_B: np.ndarray) -> 'Groups':
    """Returns the groups at these indices."""
    return Groups(*(array[index_B] for array in self))

  @property
  def real(self) -> np.ndarray:
    """[N, R], true at replies, synthetic ones included; false at padding."""
    return self.length > 0

  @property
  def read(self) -> np.ndarray:
    """[N, R], tokens of each reply up to the last one that its mask needs."""
    after_NxR = self.mask[:, :, ::-1].argmax(2)
    return (self.mask.shape[2] - after_NxR) * self.mask.any(2)

  def pairs(self) -> np.ndarray:
    """Pairs `[M, 3]`: indices of the group, of its better and its worse reply.

    Pairs with synthetic losers are left out.
    """
    given_NxR = ~self.made
    both = given_NxR[:, :, None] & given_NxR[:, None, :]
    return np.argwhere((self.weight > 0) & both)


def check(config: Config) -> None:
  """Raises ValueError if a group has no room for a pair and the losers."""
  losers, size = 2 * config.made_losers, config.replies_per_group
  if size < 2 + losers:
    raise ValueError(
      f'replies_per_group={size} is too small for a pair and {losers} '
      f'synthetic losers; expected {2 + losers} or more'
    )


def check_pairs(
  preferences: list[Preference], config: Config, split: str
) -> None:
  """Counts the prompts without a pair of replies in a notice.

  Raises:
    ValueError: no prompt has a pair.
  """
  gaps = [max(each.worth) - min(each.worth) for each in preferences]
  total, lone = len(gaps), sum(g == 0 or g < config.least_gap for g in gaps)
  causes = (
    'one reply, or scores that are equal or closer than '
    f'least_gap={config.least_gap:g}'
  )
  if lone == total:
    raise ValueError(
      f'{config.preferences}: each of the {total} prompts of the split '
      f'{split!r} has {causes}; expected pairs, or replies to a prompt with '
      'different scores or labels'
    )
  if lone:
    console.notice(
      f'{config.preferences}: {lone} of {total} prompts of the split {split!r} '
      f'make no pair: they have {causes}'
    )


def check_weights(groups: Groups, config: Config) -> None:
  """Raises ValueError if no pair of the data has a weight.

  There would be nothing to learn from, or only synthetic losers.
  """
  if not len(groups.pairs()):
    raise ValueError(
      f'debias={config.debias!r} leaves no pair to train on: among pairs of '
      'like length ratio, the better reply is always the longer one, or always '
      'the shorter; expected debias=length or none'
    )


def make_groups(
  preferences: list[Preference],
  chat: ChatFormat,
  config: Config,
  debias: str,
  system: str = '',
) -> Groups:
  """Tokenises preferences, adds synthetic losers and pads.

  Every reply ends as the chat template ends one, unless it is longer than
  `max_reply_tokens` and cut there.  A prompt with more replies than fit a group
  makes several groups, such that any two of its replies are compared in one of
  them (`cover`).

  Args:
    preferences: prompts with replies of known worth.
    chat: of the model.
    config: of the `reward_model` task.
    debias: see `pair_weights`.
    system: a system message for prompts without their own.

  Raises:
    ValueError: `replies_per_group` is too small for a pair and the losers, or
      a prompt and its replies exceed the model's context.
  """
  check(config)
  losers, size = 2 * config.made_losers, config.replies_per_group
  rng = np.random.default_rng(config.seed)
  vocabulary = len(chat.tokenizer)
  if chat.vocab_size is not None:
    vocabulary = min(vocabulary, chat.vocab_size)
  prompts, replies, length, worth, made, new = [], [], [], [], [], []
  split = 0  # prompts that make several groups
  asked: dict[str, int] = {}  # tokens of each prompt
  answered: dict[str, int] = {}  # and of its longest reply, as it is read
  for n, each in enumerate(preferences, 1):
    texts = [*map(reply_or_all, each.replies)]
    # Replies are untrusted: text like '<|im_end|>' must not become a control
    # token.
    rows = [chat.encode_content(text) for text in texts]
    prompt = chat.encode_prompt(messages(each.prompt, system))
    name = f'prompt {n} ({transcript(each.prompt)[:40]!r})'
    longest = max(map(len, rows)) + len(chat.after_reply)
    asked[name] = len(prompt)
    answered[name] = min(longest, config.max_reply_tokens)
    parts = cover(len(rows), size - losers)
    split += len(parts) > 1
    for part, is_new in parts:
      worth_R = [each.worth[r] for r in part]
      best = part[int(np.argmax(worth_R))]
      bad = make_losers(np.array(rows[best]), vocabulary, rng)
      missing = size - len(part) - losers
      prompts.append(prompt)
      replies += [rows[r] for r in part] + [*bad[:losers]] + [None] * missing
      # Synthetic losers have as many tokens as the best reply, so about as many
      # characters; they are worth as little as the worst reply.
      length += [len(texts[r]) for r in part]
      length += [len(texts[best])] * losers + [0] * missing
      worth += worth_R + losers * [min(worth_R)] + [np.nan] * missing
      made += [False] * len(part) + [True] * losers + [False] * missing
      # Pairs with synthetic losers occur in one group only.
      new.append(np.pad(is_new, (0, size - len(part)), constant_values=True))
  if split:
    console.notice(
      f'{split} prompts have more than {size - losers} replies and make '
      'several groups each; a larger replies_per_group reads them fewer times'
    )
  _note_cut(
    [len(reply) for reply in replies if reply is not None],
    config.max_reply_tokens,
  )
  chat.check_context(asked, answered, 'max_reply_tokens')
  shape_NxR = (len(prompts), size)
  length_NxR = np.array(length).reshape(shape_NxR)
  worth_NxR = np.array(worth).reshape(shape_NxR)
  return Groups(
    *batches.pad(prompts),
    *_tokens(replies, shape_NxR, chat, config),
    length_NxR,
    worth_NxR,
    np.array(made).reshape(shape_NxR),
    pair_weights(
      worth_NxR, length_NxR, config.least_gap, debias, np.stack(new)
    ),
    covariates(length_NxR),
  )


def _note_cut(lengths: list[int], most: int) -> None:
  """Counts the replies that are cut at `max_reply_tokens` in a notice."""
  if cut := sum(length > most for length in lengths):
    console.notice(
      f'{cut} of {len(lengths)} replies are longer than max_reply_tokens='
      f'{most} and cut there; the longest has {max(lengths)}'
    )


def cover(count: int, size: int) -> list[tuple[list[int], np.ndarray]]:
  """Divides replies into groups such that any two are together in one.

  Greedy: a group begins with a reply that lacks partners, and takes the replies
  that add the most new pairs.

  Args:
    count: of the replies, at least 1.
    size: replies that a group holds, at least 2.

  Returns:
    For each group the indices of its R replies, and a mask `[R, R]`, true at
    the pairs that no earlier group has.
  """
  if count == 1:
    return [([0], np.ones((1, 1), bool))]
  together = np.eye(count, dtype=bool)
  groups = []
  for first in range(count):
    while not together[first].all():
      part = [first]
      while len(part) < size:
        gain = (~together[part]).sum(0)
        gain[part] = 0
        if not gain.any():
          break
        part.append(int(gain.argmax()))
      part.sort()
      pairs = np.ix_(part, part)
      groups.append((part, ~together[pairs]))
      together[pairs] = True
  return groups


def make_losers(
  best: np.ndarray,
  vocabulary: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Synthetic losers `[T]`, as long as the best reply they are made from.

  Args:
    best: ids `[T]` of the best reply.
    vocabulary: ids are drawn below this.
    rng: is advanced.

  Returns:
    The reply with tokens replaced, and a loop of 1 to 6 of its tokens.
  """
  replaced = rng.random(best.size) < BROKEN_TOKENS
  noise = rng.integers(vocabulary, size=best.size)
  period = rng.integers(1, 7)
  looping = best[rng.integers(best.size) :][:period]
  return np.where(replaced, noise, best), np.resize(looping, best.size)


def _tokens(
  replies: list[Any],
  shape_NxR: tuple[int, int],
  chat: ChatFormat,
  config: Config,
) -> tuple[np.ndarray, np.ndarray]:
  """Token ids and pooling masks of the replies, both `[N, R, T]`."""
  real = [reply is not None for reply in replies]
  rows, span_Nx2 = pooled.reply_rows(
    chat,
    [[] if reply is None else reply for reply in replies],
    real,
    pooled.end_of_reply(chat, config.pooling),
    config.max_reply_tokens,
  )
  # None is padding: a row without tokens, whose mask is false throughout.
  token, count = batches.pad(
    row if there else [] for row, there in zip(rows, real, strict=True)
  )
  mask = pooled.read_mask(span_Nx2, count, token.shape[-1], config.pooling)
  return token.reshape(*shape_NxR, -1), mask.reshape(*shape_NxR, -1)


def pair_weights(
  worth_NxR: np.ndarray,
  length_NxR: np.ndarray,
  least_gap: float,
  debias: str,
  new_NxRxR: np.ndarray | bool = True,
) -> np.ndarray:
  """Weights of pairs `[N, R, R]`: 1 where i is worth more than j, else 0.

  With `debias='balance'` length predicts nothing: within each bin of length
  ratios, pairs whose longer reply is better weigh as much in total as pairs
  whose shorter reply is better.  The rarer kind keeps weight 1, and the other
  is weighted down, which in expectation subsamples it.

  Args:
    worth_NxR: worth of each reply, NaN at padding.
    length_NxR: characters.
    least_gap: pairs closer in worth than this have weight 0.
    debias: as in the config; only balance changes the weights.
    new_NxRxR: false at pairs that another group has; their weight is 0.
  """
  gap_NxRxR = worth_NxR[:, :, None] - worth_NxR[:, None, :]
  # Comparisons with NaN are false, so padding is in no pair.
  better = (gap_NxRxR > 0) & (gap_NxRxR >= least_gap) & new_NxRxR
  weight = better.astype(np.float32)
  if debias != 'balance':
    return weight
  # A difference of logarithms is the logarithm of the ratio: 20 to 10 words
  # biases like 200 to 100.
  log_NxR = np.log(np.maximum(length_NxR, 1))
  ratio_NxRxR = log_NxR[:, :, None] - log_NxR[:, None, :]
  bin_NxRxR = np.digitize(np.abs(ratio_NxRxR), _EDGES)
  for b in range(len(_EDGES) + 1):
    inside = better & (bin_NxRxR == b)
    longer, shorter = inside & (ratio_NxRxR > 0), inside & (ratio_NxRxR < 0)
    rarer = min(longer.sum(), shorter.sum())
    for side in (longer, shorter):
      weight[side] = rarer / max(side.sum(), 1)
  return weight


def covariates(length_NxR: np.ndarray) -> np.ndarray:
  """Length covariates `[N, R, 2]`: log of the length, and the length.

  Both are standardised over the replies, and 0 at padding.
  """
  real = length_NxR > 0
  both = np.stack([np.log(np.maximum(length_NxR, 1)), length_NxR], -1)
  both = (both - both[real].mean(0)) / (both[real].std(0) + 1e-6)
  return np.where(real[..., None], both, 0.0).astype(np.float32)
