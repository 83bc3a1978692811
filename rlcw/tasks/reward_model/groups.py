"""Preferences as arrays: prompts, R replies to each, and which pairs count.

A group holds the replies to one prompt, of which some are made here from the
best: losers that any reader would see through, but a score that is fitted to
well-written replies alone would not.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlcw import Config
from rlcw.data import batches, datasets
from rlcw.models import tokenizer
from rlcw.rewards import reward_model

DEBIAS = ('none', 'balance', 'length')
# Edges of |log(length ratio)| between pairs that are balanced together.
# Share of the tokens replaced in a made loser of random tokens.
BROKEN_TOKENS = 0.3
_EDGES = (0.1, 0.3, 0.6, 1.0)


class Groups(NamedTuple):
  """N prompts with R replies to each, as arrays to learn from."""

  prompt: np.ndarray  # [N, L]
  prompt_length: np.ndarray  # [N]
  token: np.ndarray  # [N, R, T]
  mask: np.ndarray  # [N, R, T], what the features are the mean of
  length: np.ndarray  # [N, R] characters, 0 where no reply is
  worth: np.ndarray  # [N, R], NaN where no reply is
  made: np.ndarray  # [N, R], whether it is a loser made here
  weight: np.ndarray  # [N, R, R], how much it counts that i is better than j
  covariate: np.ndarray  # [N, R, 2], functions of length

  def rows(self, index_B: np.ndarray) -> dict[str, np.ndarray]:
    """Some of the groups."""
    return {name: array[index_B] for name, array in self._asdict().items()}

  @property
  def real(self) -> np.ndarray:
    """[N, R], where a reply is."""
    return self.length > 0

  def pairs(self) -> np.ndarray:
    """Of every pair `[M, 3]` its group, its better and its worse reply.

    Pairs with made losers are left out.
    """
    given_NxR = ~self.made
    both = given_NxR[:, :, None] & given_NxR[:, None, :]
    return np.argwhere((self.weight > 0) & both)


def make_groups(
  preferences: list[datasets.Preference], text: Any, config: Config, debias: str
) -> Groups:
  """Tokenises preferences.

  Every reply ends with EOS, as a finished one does, unless it is longer than
  `max_reply_tokens` and cut there.  A prompt with more replies than a group
  holds makes several groups.
  """
  losers, size = 2 * config.made_losers, config.replies_per_group
  if size < 2 + losers:
    raise ValueError(
      f'replies_per_group={size} has no room for a pair beside {losers} made '
      f'losers; legal: {2 + losers} or more'
    )
  rng = np.random.default_rng(config.seed)
  prompts, replies, length, worth, made = [], [], [], [], []
  for each in preferences:
    rows = [tokenizer.encode_untrusted(text, reply) for reply in each.replies]
    prompt = tokenizer.chat(text, each.prompt)
    for start in range(0, len(rows), size - losers):
      part = slice(start, start + size - losers)
      best = int(np.argmax(each.worth[part]))
      bad = make_losers(np.array(rows[part][best]), len(text), rng)
      size_R = [len(reply) for reply in each.replies[part]]
      missing = size - len(rows[part]) - losers
      prompts.append(prompt)
      replies += [*rows[part], *bad[:losers]] + [None] * missing
      # made losers are as long as the best reply in tokens, so about as long
      # in characters, and worth as little as the worst
      length += size_R + [size_R[best]] * losers + [0] * missing
      worth += [*each.worth[part]] + losers * [min(each.worth[part])]
      worth += [np.nan] * missing
      made += [False] * len(size_R) + [True] * losers + [False] * missing
  shape_NxR = (len(prompts), size)
  length_NxR = np.array(length).reshape(shape_NxR)
  worth_NxR = np.array(worth).reshape(shape_NxR)
  return Groups(
    *batches.pad(prompts),
    *_tokens(replies, shape_NxR, text, config),
    length_NxR,
    worth_NxR,
    np.array(made).reshape(shape_NxR),
    pair_weights(worth_NxR, length_NxR, config.least_gap, debias),
    covariates(length_NxR),
  )


def make_losers(
  best: np.ndarray,
  vocabulary: int,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Of the best reply `[T]`: one with tokens replaced, one that only loops."""
  replaced = rng.random(best.size) < BROKEN_TOKENS
  noise = rng.integers(vocabulary, size=best.size)
  period = rng.integers(1, 7)
  looping = best[rng.integers(best.size) :][:period]
  return np.where(replaced, noise, best), np.resize(looping, best.size)


def _tokens(
  replies: list[Any], shape_NxR: tuple[int, int], text: Any, config: Config
) -> tuple[np.ndarray, np.ndarray]:
  """The replies' tokens and masks, both `[N, R, T]`."""
  limit, end = config.max_reply_tokens, [int(text.eos_token_id)]
  rows = [[] if reply is None else [*reply, *end] for reply in replies]
  token, count = batches.pad(row[:limit] for row in rows)
  whole = np.array([0 < len(row) <= limit for row in rows])
  mask = reward_model.read_mask(
    jnp.asarray(count.reshape(shape_NxR)),
    jnp.asarray(whole.reshape(shape_NxR)),
    token.shape[-1],
    config.pooling,
  )
  return token.reshape(*shape_NxR, -1), np.asarray(mask)


def pair_weights(
  worth_NxR: np.ndarray, length_NxR: np.ndarray, least_gap: float, debias: str
) -> np.ndarray:
  """How much each pair counts `[N, R, R]`: 1 where i is worth more than j.

  Balanced, the longer reply is the better one as often as the worse: among
  pairs whose lengths stand in about the same ratio the rarer case counts 1, the
  other as much less as it is more frequent (sampling that many of them, on
  average).
  """
  gap_NxRxR = worth_NxR[:, :, None] - worth_NxR[:, None, :]
  better = (gap_NxRxR > 0) & (gap_NxRxR >= least_gap)
  weight = better.astype(np.float32)
  if debias != 'balance':
    return weight
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
  """Length as a reader may be swayed by it `[N, R, 2]`: its log, and itself.

  Both are standardised over the replies there are.
  """
  real = length_NxR > 0
  both = np.stack([np.log(np.maximum(length_NxR, 1)), length_NxR], -1)
  both = (both - both[real].mean(0)) / (both[real].std(0) + 1e-6)
  return np.where(real[..., None], both, 0.0).astype(np.float32)
