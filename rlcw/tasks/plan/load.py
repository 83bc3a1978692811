"""Share of a step's arrays that is computed, by the lengths of its replies.

Memory does not depend on them: it is planned for replies of full length.

Letters: P prompts of L tokens, G replies of up to T tokens to each.
"""

import math
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from rlcw.models import packing
from rlcw.runtime import files
from rlcw.sampling.tiles import Tiling
from rlcw.tasks.plan.roofline import Decoding, Shapes

_EXPECTED = (
  "expected '' for replies of full length, lognormal:MEDIAN,SIGMA, or a run's "
  'rollouts.jsonl'
)


def check(setting: str) -> None:
  """Raises ValueError or FileNotFoundError for a wrong `plan.reply_tokens`."""
  quantiles(setting, 1, 1)


def reply_lengths(setting: str, shapes: Shapes) -> np.ndarray:
  """Lengths `[P, G]` of a step's replies, the same at every call.

  They are evenly spaced quantiles of the distribution, in random order.

  Args:
    setting: `plan.reply_tokens`.
    shapes: of the step; longer replies are cut at T.
  """
  shape = shapes.prompts, shapes.group
  length_R = quantiles(setting, math.prod(shape), shapes.reply_tokens)
  return np.random.default_rng(0).permutation(length_R).reshape(shape)


def quantiles(setting: str, count: int, most: int) -> np.ndarray:
  """Quantiles `[count]` of the reply lengths that a setting describes.

  Args:
    setting: `plan.reply_tokens`.
    count: of lengths.
    most: tokens that a reply may have.

  Raises:
    ValueError: the setting is no distribution, or the file has no replies.
    FileNotFoundError: there is no such file.
  """
  share = (np.arange(count) + 0.5) / count
  if not setting:
    return np.full(count, most)
  name, colon, numbers = setting.partition(':')
  if name == 'lognormal' and colon:
    log_median, sigma = _lognormal(setting, numbers)
    normal = NormalDist().inv_cdf
    length = np.exp([log_median + sigma * normal(each) for each in share])
  else:
    length = np.quantile(_logged(setting), share, method='inverted_cdf')
  return np.clip(np.ceil(length), 1, most).astype(int)


def _lognormal(setting: str, numbers: str) -> tuple[float, float]:
  """Logarithm of the median, and sigma."""
  try:
    median, sigma = map(float, numbers.split(','))
    if not (1 <= median < math.inf and 0 <= sigma <= 10):
      raise ValueError
  except ValueError:
    raise ValueError(
      f'plan.reply_tokens={setting!r}; {_EXPECTED}, as in lognormal:600,0.8: '
      'a median of at least 1 token and a sigma of 0 to 10'
    ) from None
  return math.log(median), sigma


def _logged(setting: str) -> list[int]:
  """Lengths of all replies in a `rollouts.jsonl`."""
  if not Path(setting).is_file():
    raise FileNotFoundError(
      f'plan.reply_tokens={setting!r}: there is no such file; {_EXPECTED}'
    )
  groups = files.read_jsonl(Path(setting))
  if any('turns' in group for group in groups):
    raise ValueError(
      f'plan.reply_tokens={setting!r} is of two turns, of which it has the '
      'length of the second reply alone; ' + _EXPECTED
    )
  try:
    found = [int(reply['length']) for g in groups for reply in g['replies']]
  except (KeyError, TypeError, ValueError):
    found = []
  if not found:
    raise ValueError(
      f'plan.reply_tokens={setting!r} has no replies with their lengths; '
      + _EXPECTED
    )
  return found


class Packed(NamedTuple):
  """Rows that a step's groups are packed into."""

  groups: int  # of a part
  parts: int
  widest: int  # tokens of a row with groups of full length
  tokens: int  # of all rows of all parts, padding included


def pack(
  length_PxG: np.ndarray,
  shapes: Shapes,
  part: int,
  shards: int,
  padded: Shapes | None = None,
) -> Packed:
  """Packs groups whose briefs have L tokens.

  Args:
    length_PxG: of the replies.
    shapes: of the step.
    part: groups that are computed at a time; 0 for all.
    shards: that a part's rows are split over.
    padded: lengths that briefs and replies are padded to; None for `shapes`.
  """
  prompts, group = length_PxG.shape
  _, _, prompt, reply = padded or shapes

  def partition(count_PxG: np.ndarray) -> packing.Partition:
    length_P = np.full(prompts, shapes.prompt_tokens)
    return packing.partition(
      length_P, count_PxG, prompt, reply, part=part, shards=shards
    )

  packed, full = (
    partition(each)
    for each in (length_PxG, np.full((prompts, group), shapes.reply_tokens))
  )
  return Packed(
    prompts // packed.parts,
    len(packed.width),
    full.width[0],
    packed.rows * sum(packed.width),
  )


def decoding(length_PxG: np.ndarray, tiling: Tiling, most: int) -> Decoding:
  """Rows and briefs that each iteration of a rollout computes.

  Args:
    length_PxG: of the replies.
    tiling: how live replies are gathered into fewer rows.
    most: T.
  """
  length_SxBxG = length_PxG.reshape(tiling.shards, tiling.briefs, -1)
  rows, briefs = np.zeros(most - 1), np.zeros(most - 1)
  for t in range(1, most):
    live_SxB = (length_SxBxG > t).sum(-1)
    if not live_SxB.any():
      break
    # Every shard has as many tiles as the fullest one needs.
    needed = int((-(-live_SxB // tiling.width)).sum(1).max())
    tiles = min((n for n in tiling.sizes if n >= needed), default=0)
    rows[t - 1] = tiling.shards * (tiles * tiling.width or tiling.rows)
    briefs[t - 1] = tiling.shards * (tiles or tiling.briefs)
  return Decoding(rows, briefs)
