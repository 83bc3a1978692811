"""A run's state on disk, written whole or not at all (Orbax).

The state holds the step, and the step is the data position and the sampling
key's second half: nothing else is needed to go on exactly.  Parameters are an
item of their own, so that a reader of the policy need not know the optimiser.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
  """The checkpoints of one run, the newest `keep` of them."""

  def __init__(self, folder: Path, keep: int = 1):
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, cleanup_tmp_directories=True
    )
    self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def latest(self) -> int | None:
    """The newest step that was saved completely."""
    return self._manager.latest_step()

  def save(self, step: int, params: Any, rest: Any) -> None:
    """Saves a run after `step` steps; a step that is there already stays."""
    if self.latest() == step:
      return
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(params),  # pyright: ignore
      rest=ocp.args.StandardSave(rest),  # pyright: ignore
    )
    self._manager.save(step, args=items)
    if jax.default_backend() == 'cpu':
      # On CPU the writer reads the very buffers that the next step is given
      # to overwrite; elsewhere it reads a copy, and may go on meanwhile.
      self._manager.wait_until_finished()

  def restore(self, **like: Any) -> dict[str, Any]:
    """The newest items `params` and `rest`, whichever are asked for.

    Args:
      **like: for each item a tree of its shapes, types and shardings.

    Raises:
      FileNotFoundError: nothing has been saved.
    """
    step = self.latest()
    if step is None:
      raise FileNotFoundError(
        f'no checkpoint in {self._manager.directory}: has the run finished?'
      )
    items = {
      name: ocp.args.StandardRestore(  # pyright: ignore
        jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
      )
      for name, tree in like.items()
    }
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    return dict(restored)

  def close(self) -> None:
    """Waits for the last save."""
    self._manager.wait_until_finished()
    self._manager.close()
