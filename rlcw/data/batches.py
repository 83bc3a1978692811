"""Sampling, packing and padding of a batch's rows.

The records of a step are a pure function of (seed, step), so the step number is
the data position and a resumed run continues exactly.  Each process's share of
them is a function of its index and the number of processes.

Letters: B records of a step, or rows of a batch; L tokens of a row.
"""

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

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
  """Indices of the records of one step, a new permutation in every epoch.

  Args:
    seed: of the run.
    step: from 0.
    size: global batch size, in records.
    total: number of records.
    process: index of this process.  The shares of all processes, concatenated,
      equal the batch of a single process.
    processes: number of processes.

  Returns:
    Indices `[size / processes]`.  Every record is used once before any is used
    again.

  Raises:
    ValueError: `size` exceeds `total`, or is not a multiple of `processes`.
  """
  if size > total:
    raise ValueError(
      f'a step of {size} needs at least {size} records (or packed rows), but '
      f'there are {total}'
    )
  return share(step_indices(seed, step, size, total), process, processes)


def step_indices(seed: int, step: int, size: int, total: int) -> np.ndarray:
  """As `batch_indices`, of all processes together and of any `size`.

  A step that spans several epochs may have a record several times.
  """
  # Positions in the endless sequence of epochs.
  positions = np.arange(step * size, (step + 1) * size)
  orders = {
    epoch: np.random.default_rng((seed, int(epoch))).permutation(total)
    for epoch in np.unique(positions // total)
  }
  return np.array([orders[p // total][p % total] for p in positions])


def share(index_B: np.ndarray, process: int, processes: int) -> np.ndarray:
  """One process's share of a step's records.

  Raises:
    ValueError: they do not split over the processes.
  """
  if len(index_B) % processes:
    raise ValueError(
      f'a step of {len(index_B)} does not split over {processes} processes; '
      'expected a multiple'
    )
  return np.split(index_B, processes)[process]


def occurrences(index_B: np.ndarray) -> np.ndarray:
  """Counts, at each place, the earlier places of the same index."""
  seen: Counter[int] = Counter()
  before = []
  for index in index_B.tolist():
    before.append(seen[index])
    seen[index] += 1
  return np.array(before, int)


def pack(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
  """Packs texts into rows of fixed length by best-fit bin packing.

  Args:
    lengths: of the texts, in tokens.
    size: capacity of a row, in tokens.
    seed: of the order in which texts are placed.

  Returns:
    For each row, the indices of its texts.

  Raises:
    ValueError: a text is longer than a row; the message has the number of such
      texts and the greatest length.
  """
  too_long = sum(length > size for length in lengths)
  if too_long:
    raise ValueError(
      f'{too_long} of {len(lengths)} texts do not fit into row_tokens={size}; '
      f'the longest has {max(lengths)} tokens'
    )
  rows: list[list[int]] = []
  # (free tokens, row), sorted: the first entry with at least `length` free
  # tokens is the best fit.
  free: list[tuple[int, int]] = []
  # In random order, since neighbours in a file are often alike, and texts of
  # one row are always learned from together.
  for text in np.random.default_rng(seed).permutation(len(lengths)).tolist():
    at = bisect.bisect_left(free, (lengths[text], 0))
    if at == len(free):
      # The new row is the last entry, as no other has as many free tokens.
      rows.append([])
      free.append((size, len(rows) - 1))
    free_tokens, row = free.pop(at)
    rows[row].append(text)
    bisect.insort(free, (free_tokens - lengths[text], row))
  return rows


def by_length(lengths: Mapping[int, int], size: int) -> list[list[int]]:
  """Splits rows into batches of like length, longest first.

  The first batch needs the most memory: if it fits, all do.

  Args:
    lengths: of the rows, by their indices.
    size: of a batch, at most.

  Returns:
    The indices of each batch's rows.  Their widths, `power_of_two` of their
    lengths, are at least half of the batch's.
  """
  left = sorted(lengths, key=lambda row: (-lengths[row], row))
  batches = []
  while left:
    width = power_of_two(lengths[left[0]])
    batch = [n for n in left[:size] if 2 * power_of_two(lengths[n]) >= width]
    batches.append(batch)
    left = left[len(batch) :]
  return batches


def bucket(length: int) -> int:
  """Rounds a length up to a multiple of 32: few shapes, so few compilations."""
  return max(32, -(-length // 32) * 32)


def power_of_two(length: int) -> int:
  """Rounds a length up to a power of two, at least 32."""
  return max(32, 1 << (length - 1).bit_length())


def pad(
  rows: Iterable[Sequence[int]], width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Pads rows of ids on the right with 0.

  Args:
    rows: B sequences of ids.
    width: L; if None, `bucket` of the longest row.

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
      f'a row of {lengths_B.max()} tokens does not fit into {width} tokens'
    )
  ids_BxL = np.zeros((len(rows), width), np.int32)
  for target, row in zip(ids_BxL, rows, strict=True):
    target[: len(row)] = row
  return ids_BxL, lengths_B


def pad_coarsely(
  rows: Sequence[Sequence[int]], least: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """Pads rows to `least`, or to a power of two if a row is longer.

  Collective: all processes must call it together.
  """
  # All processes need the same width, as their rows become one global array.
  longest = max(processes.gather(max(map(len, rows))))
  return pad(rows, least if longest <= least else power_of_two(longest))
