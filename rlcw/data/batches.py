"""Rows of a step, and padding and packing them.

Which records a step reads follows from (seed, step) alone, so the step number
is the data position: a resumed run needs nothing else to go on exactly.  Which
of them one of several processes reads follows from its index and their number.
"""

import bisect
from collections.abc import Iterable, Sequence

import numpy as np

from rlcw.runtime import processes


def batch_indices(
  seed: int,
  step: int,
  size: int,
  total: int,
  process: int = 0,
  processes: int = 1,
) -> np.ndarray:
  """Which of `total` records a step reads: epochs of fresh permutations.

  Args:
    seed: of the run.
    step: from 0.
    size: how many records a step reads.
    total: how many there are.
    process: which of several processes asks; their shares, one after the
      other, are what a single one reads.
    processes: how many there are.

  Returns:
    Indices `[size / processes]`.  No record comes twice before every other
    came once.

  Raises:
    ValueError: there are fewer records than a step reads, or they cannot be
      shared equally.
  """
  if size > total:
    raise ValueError(
      f'a step of {size} needs as many records, or rows of packed ones, but '
      f'there are {total}'
    )
  if size % processes:
    raise ValueError(f'a step of {size} does not split over {processes}')
  positions = np.arange(step * size, (step + 1) * size)
  orders = {
    epoch: np.random.default_rng((seed, int(epoch))).permutation(total)
    for epoch in np.unique(positions // total)
  }
  mine = np.split(positions, processes)[process]
  return np.array([orders[p // total][p % total] for p in mine])


def pack(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
  """Which texts share a row: each goes where the least room is left over.

  Best fit, in an order that the seed draws, as texts that stand beside each
  other in a file are often alike.

  Args:
    lengths: of the texts, in tokens.
    size: how many tokens a row holds.
    seed: of the order.

  Returns:
    For each row the indices of its texts.

  Raises:
    ValueError: texts are longer than a row; it says how many, and the longest.
  """
  long = sum(length > size for length in lengths)
  if long:
    raise ValueError(
      f'{long} of {len(lengths)} texts do not fit into row_tokens={size}; the '
      f'longest takes {max(lengths)}'
    )
  rows: list[list[int]] = []
  rooms: list[tuple[int, int]] = []  # what each row has left, and which it is
  for text in np.random.default_rng(seed).permutation(len(lengths)).tolist():
    at = bisect.bisect_left(rooms, (lengths[text], 0))
    if at == len(rooms):
      rows.append([])
      rooms.append((size, len(rows) - 1))
    room, row = rooms.pop(at)
    rows[row].append(text)
    bisect.insort(rooms, (room - lengths[text], row))
  return rows


def bucket(length: int, multiple: int = 32) -> int:
  """The least multiple that holds `length`: few shapes, few compilations."""
  return max(multiple, -(-length // multiple) * multiple)


def power_of_two(length: int) -> int:
  """The least power of two, from 32, that holds `length`."""
  return max(32, 1 << (length - 1).bit_length())


def pad(
  rows: Iterable[Sequence[int]], width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Rows of ids padded on the right with 0.

  Args:
    rows: B sequences of ids.
    width: L; the bucket of the longest row where `None`.

  Returns:
    Ids `[B, L]` and lengths `[B]`, int32.

  Raises:
    ValueError: a row is longer than `width`.
  """
  rows = list(rows)
  lengths_B = np.array([len(row) for row in rows], np.int32)
  width = bucket(int(lengths_B.max())) if width is None else width
  if lengths_B.max() > width:
    raise ValueError(
      f'a row of {lengths_B.max()} tokens does not fit into {width}'
    )
  ids_BxL = np.zeros((len(rows), width), np.int32)
  for target, row in zip(ids_BxL, rows, strict=True):
    target[: len(row)] = row
  return ids_BxL, lengths_B


def pad_coarsely(
  rows: Sequence[Sequence[int]], least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """`pad` to the least width, or else to a power of two: few shapes."""
  longest = max(processes.gather(max(map(len, rows))))  # all call together
  return pad(rows, least if longest <= least else power_of_two(longest))
