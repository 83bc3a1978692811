"""A run's state on disk, written whole or not at all (Orbax).

The state holds the step, and the step is the data position and the sampling
key's second half: nothing else is needed to go on exactly.  Parameters are an
item of their own, so that a reader of the policy need not know the optimiser.

A disk may still spoil what was written whole.  Orbax would not see a flipped
bit in an array, so with each item goes its checksum; the checkpoint before the
newest is kept, and read where the newest cannot be.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rlcw.runtime import metrics, processes


class Checkpoints:
  """The checkpoints of one run, the newest two of them.

  Args:
    folder: where they are.
    read_only: for all but the run itself, which may be saving just now.
  """

  def __init__(self, folder: Path, read_only: bool = False):
    self._folder, self._read_only = folder, read_only
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else 2,
      cleanup_tmp_directories=not read_only,
      create=not read_only,
      save_interval_steps=int(not read_only),
      read_only=read_only,
    )
    self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def latest(self) -> int | None:
    """The newest step that was saved completely."""
    return self._manager.latest_step()

  def save(self, step: int, params: Any, rest: Any) -> None:
    """Saves a run after `step` steps; a step that is there already stays.

    Raises:
      OSError: it, or the one before it, could not be written.
    """
    if self.latest() == step:
      return
    sums = {'params': checksum(params), 'rest': checksum(rest)}
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(params),  # pyright: ignore
      rest=ocp.args.StandardSave(rest),  # pyright: ignore
    )
    with self._writing():
      self._manager.save(step, args=items, custom_metadata={'checksums': sums})
      if jax.default_backend() == 'cpu':
        # On CPU the writer reads the very buffers that the next step is given
        # to overwrite; elsewhere it reads a copy, and may go on meanwhile.
        self._manager.wait_until_finished()

  def restore(self, **like: Any) -> dict[str, Any]:
    """The items `params` and `rest`, whichever are asked for.

    They are of the newest checkpoint that reads whole, in every process; what
    is wrong with a newer one is said, and the run itself deletes it.

    Args:
      **like: for each item a tree of its shapes, types and shardings.

    Raises:
      FileNotFoundError: nothing has been saved.
      ValueError: what has been saved cannot be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(
        f'no checkpoint in {self._folder}: has the run finished?'
      )
    problem = ''
    for place, step in enumerate(steps):
      restored, problem = self._read(step, like)
      if not problem:
        for newer in () if self._read_only else steps[:place]:
          self._manager.delete(newer)
        return restored
      metrics.log(
        f'checkpoint {self._folder / str(step)} cannot be read and is passed '
        f'over: {problem}'
      )
    raise ValueError(
      f'none of the checkpoints {steps} in {self._folder} can be read; the '
      f'oldest: {problem} They are left as they are; without the folder, the '
      'run begins anew.'
    )

  def _read(
    self, step: int, like: dict[str, Any]
  ) -> tuple[dict[str, Any], str]:
    """The items of one checkpoint, and what is wrong with it in any process."""
    items = {
      name: ocp.args.StandardRestore(  # pyright: ignore
        jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
      )
      for name, tree in like.items()
    }
    found, sums, problem = {}, {}, ''
    try:
      found = self._manager.restore(step, args=ocp.args.Composite(**items))
      written = self._manager.metadata(step).custom_metadata or {}
      sums = written.get('checksums', {})  # earlier versions wrote none
    # Orbax has no one kind of error for what it cannot read.
    except Exception as error:
      cause = error.__cause__ or error
      problem = ' '.join(f'{type(cause).__name__}: {cause}'.split())[:300]
    problem = next(filter(None, processes.gather(problem)), '')
    # all processes take part in a sum, or none, and in the same order
    for name in () if problem else like:
      if name in sums and checksum(found[name]) != sums[name]:
        problem = f'{name} differ from what was written, by their checksum'
    return dict(found), problem

  def close(self) -> None:
    """Waits for the last save.

    Raises:
      OSError: it could not be written.
    """
    with self._writing():
      self._manager.wait_until_finished()
    self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      reason = ' '.join(str(error).split())
      raise OSError(
        f'{self._folder}: a checkpoint could not be written ({self._room()}). '
        'Those before it are whole: make room (a save takes that of one more), '
        'or mend what is wrong, and give the same command again. '
        f'{reason:.500}'
      ) from error

  def _room(self) -> str:
    try:
      free = shutil.disk_usage(self._folder).free / 2**20
    except OSError as error:  # the disk is gone
      return str(error)
    return f'{free:.1f} MiB are free'


def checksum(tree: Any) -> int:
  """A number of 32 bits that any flipped bit changes.

  However the arrays are sharded, as sums of whole numbers do not depend on
  their order.
  """
  leaves = enumerate(jax.tree.leaves(tree))
  return sum((2 * n + 1) * int(_word_sum(leaf)) for n, leaf in leaves) % 2**32


@jax.jit
def _word_sum(array: jax.Array) -> jax.Array:
  """Each word times odd numbers, by its place: modulo 2**32 none is lost."""
  kind = f'uint{8 * array.dtype.itemsize}'
  words = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
  for size in reversed(array.shape):
    odd = 2 * jnp.arange(size, dtype=jnp.uint32) + 1
    words = jnp.sum(words * odd, axis=-1, dtype=jnp.uint32)
  return words
