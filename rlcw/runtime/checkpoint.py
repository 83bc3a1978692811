"""Atomic checkpoints of a run's state (Orbax), with checksums.

The state contains the step.  The step determines the data position and is
folded into the sampling key, so a restored run continues exactly.  Parameters
are a separate item, so that the policy can be read without the optimiser.

A file may also be damaged after it was written.  Orbax does not detect a
flipped bit in an array, so each item is saved with a checksum.  The newest two
checkpoints are kept; if the newest cannot be read, the one before it is.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from rlcw.runtime import console, processes


class Checkpoints:
  """The newest checkpoints of one run.

  Args:
    folder: the run's checkpoint folder.
    read_only: true for every reader other than the run itself, which may be
      saving at the same time.
    keep: number of checkpoints; older ones are deleted once a new one is whole.
  """

  def __init__(self, folder: Path, read_only: bool = False, keep: int = 2):
    self._folder, self._read_only = folder, read_only
    # A reader must not clean up: the "temporary" directories that it sees may
    # belong to a save in progress.
    options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      cleanup_tmp_directories=not read_only,
      create=not read_only,
      save_interval_steps=int(not read_only),
      read_only=read_only,
    )
    self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def latest(self) -> int | None:
    """Returns the newest step that was saved completely, or None."""
    return self._manager.latest_step()

  def save(self, step: int, params: Any, rest: Any) -> None:
    """Saves the state after `step` steps, unless that step is saved already.

    Raises:
      OSError: this checkpoint or the one before it could not be written.
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
        # Orbax writes in the background.  On CPU it reads the buffers that the
        # next step is donated and overwrites; on other platforms it reads a
        # host copy, so the run need not wait.
        self._manager.wait_until_finished()

  def drop_from(self, step: int) -> None:
    """Deletes the states of this step and of later ones."""
    for each in self._manager.all_steps():
      if each >= step:
        self._manager.delete(each)

  def restore(self, **like: Any) -> dict[str, Any]:
    """Restores the items `params` and `rest`, or one of them.

    Reads the newest checkpoint that every process can read completely.  The
    error of each newer, damaged one is logged; the run itself (not a
    `read_only` reader) then deletes the damaged ones.

    Args:
      **like: for each item, a tree of its shapes, dtypes and shardings.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: none of the checkpoints can be read, or they are of arrays
        other than `like`.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      raise FileNotFoundError(
        f'no checkpoint in {self._folder}: has the run finished?'
      )
    misfits = [self._misfit(step, like) for step in steps]
    # Of one alone, its description may be damaged.
    if all(misfits):
      raise ValueError(
        f'{self._folder}: the run was begun with settings of another state: '
        f'{misfits[0]}; expected those that it was begun with, for example of '
        'weight_decay, moment_dtype, train or model, or another --workdir'
      )
    problem = ''
    for place, step in enumerate(steps):
      restored, problem = self._read(step, like)
      if not problem:
        # The resumed run reaches these steps again; `save` would skip them if
        # the damaged checkpoints still existed.
        for newer in () if self._read_only else steps[:place]:
          self._manager.delete(newer)
        return restored
      console.log(
        f'checkpoint {self._folder / str(step)} cannot be read and is skipped: '
        f'{problem}'
      )
    raise ValueError(
      f'none of the checkpoints {steps} in {self._folder} can be read; error '
      f'of the oldest: {problem} They were not changed; delete the folder to '
      'start the run from step 0.'
    )

  def _misfit(self, step: int, like: dict[str, Any]) -> str:
    """Returns where the arrays of a checkpoint are not those of `like`, or ''.

    Called in all processes.
    """
    problem = ''
    for name, tree in like.items():
      with contextlib.suppress(Exception):  # see `_read`, which names it
        item = self._folder.absolute() / str(step) / name
        handler = ocp.StandardCheckpointHandler()
        # It is annotated as of another library of paths, and takes any.
        saved = _shapes(handler.metadata(item).tree)  # pyright: ignore
        here = _shapes(tree)
        different = [p for p in saved | here if saved.get(p) != here.get(p)]
        if different and not problem:
          path = different[0]
          problem = (
            f'{path} is {saved.get(path, "missing")} in the checkpoint of step '
            f'{step}, and {here.get(path, "missing")} by the settings given'
          )
    return next(filter(None, processes.gather(problem)), '')

  def _read(
    self, step: int, like: dict[str, Any]
  ) -> tuple[dict[str, Any], str]:
    """Reads one checkpoint.

    Returns:
      The items, and the first error of any process ('' if there is none).
    """
    items = {
      name: ocp.args.StandardRestore(  # pyright: ignore
        jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
      )
      for name, tree in like.items()
    }
    restored, sums, problem = {}, {}, ''
    try:
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
      written = self._manager.metadata(step).custom_metadata or {}
      sums = written.get('checksums', {})  # earlier versions wrote none
    # Orbax raises errors of many types for unreadable files.
    except Exception as error:
      cause = error.__cause__ or error
      problem = ' '.join(f'{type(cause).__name__}: {cause}'.split())[:300]
    # All processes must agree, or they would resume from different steps.
    problem = next(filter(None, processes.gather(problem)), '')
    # `checksum` is a computation over all devices: every process must run it
    # for the same items in the same order, or none may.
    for name in () if problem else like:
      if name in sums and checksum(restored[name]) != sums[name]:
        problem = f'the checksum of {name} differs from the one written with it'
    return dict(restored), problem

  def wait(self) -> None:
    """Waits until the last save is on disk.

    Raises:
      OSError: it could not be written.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits until the last save is on disk, then closes the manager.

    Raises:
      OSError: the last checkpoint could not be written.
    """
    self.wait()
    self._manager.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Turns any error of a write into an OSError that names a remedy."""
    try:
      yield
    # Orbax raises errors of many types here too, also for an earlier save that
    # failed in the background.
    except Exception as error:
      reason = ' '.join(str(error).split())
      raise OSError(
        f'{self._folder}: a checkpoint could not be written '
        f'({self._free_space()}). Earlier checkpoints are intact: free enough '
        'space for one more checkpoint, or fix the error below, and run the '
        f'same command again. {reason:.500}'
      ) from error

  def _free_space(self) -> str:
    try:
      free = shutil.disk_usage(self._folder).free / 2**20
    except OSError as error:  # the disk is no longer mounted
      return str(error)
    return f'{free:.1f} MiB are free'


def _shapes(tree: Any) -> dict[str, str]:
  """Returns the shape and dtype of each array of a tree, by its path."""

  def key(entry: Any) -> str:
    # Orbax reads named tuples and objects as dicts, and tuples as lists.
    names = (getattr(entry, each, None) for each in ('key', 'name', 'idx'))
    return str(next(name for name in names if name is not None))

  return {
    '.'.join(map(key, path)): f'{jnp.dtype(leaf.dtype).name}{[*leaf.shape]}'
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def checksum(tree: Any) -> int:
  """Returns a 32-bit checksum that changes with any single flipped bit.

  It does not depend on the sharding, because integer sums do not depend on
  their order.
  """
  leaves = enumerate(jax.tree.leaves(tree))
  return sum((2 * n + 1) * int(_word_sum(leaf)) for n, leaf in leaves) % 2**32


@jax.jit
def _word_sum(array: jax.Array) -> jax.Array:
  """Sums an array's words, each times odd numbers that depend on its index."""
  # An odd number is invertible modulo 2**32, so a changed word always changes
  # its product.  Weights that differ by index also detect swapped words.
  kind = f'uint{8 * array.dtype.itemsize}'
  words = jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
  for size in reversed(array.shape):
    odd = 2 * jnp.arange(size, dtype=jnp.uint32) + 1
    words = jnp.sum(words * odd, axis=-1, dtype=jnp.uint32)
  return words
