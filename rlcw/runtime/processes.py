"""Several processes, one for each host, that run one program together.

Every process runs the same code on the same mesh.  What is on devices is
global: each holds its shards.  What is on hosts is each process's own, for the
rows that it reads, until it is gathered here: through the service that
`jax.distributed` keeps for all, so that nothing is compiled and no device
waits.  A single process needs none of it, and gets back what it gave.
"""

import contextlib
import itertools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh

from rlcw.runtime.mesh import data_shard, group_shards, over_groups, replicated

VARIABLES = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_FOREVER = 7 * 24 * 3600 * 1000  # ms; who waits for the dead ends by heartbeat
# which call of `gather`, and of `collect`: alike in all processes
_gathered, _collected = itertools.count(), itertools.count()


class Preempted(SystemExit):
  """A run was told to stop and has saved its state: exit code 0."""


def start(detect: bool, heartbeat: int) -> None:
  """Joins the other processes, if there are any; before JAX has a device.

  Args:
    detect: whether JAX finds out who they are (TPU pods, Slurm, Open MPI);
      else the environment says it in `VARIABLES`, or this process is alone.
    heartbeat: seconds of silence after which a process is given up, and with
      it all others.

  Raises:
    ValueError: only some of the variables are set, or not to numbers; or JAX
      found nothing out.
  """
  given = {name: os.environ.get(name, '') for name in VARIABLES}
  if not detect and not any(given.values()):
    return
  # It would take SIGTERM from `notice`, which does the same for one process.
  jax.config.update('jax_enable_preemption_service', False)
  if detect:
    try:
      jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
    except ValueError as error:
      names = ', '.join(VARIABLES)
      raise ValueError(f'--distributed: {error} Else set {names}') from None
    return
  address, *numbers = given.values()
  if not address or not all(number.isdecimal() for number in numbers):
    raise ValueError(
      f'{given}: several processes need all of these, an address with a port '
      'and two numbers; or --distributed, where JAX can find them out'
    )
  jax.distributed.initialize(
    address,
    *map(int, numbers),
    cluster_detection_method='deactivate',
    heartbeat_timeout_seconds=heartbeat,
  )


@contextlib.contextmanager
def together() -> Iterator[None]:
  """Ends this process at once where its work failed.

  Python's usual end would first wait for the others, which wait for this one.
  """
  try:
    yield
  except BaseException as error:
    ended = isinstance(error, SystemExit)
    if not jax.distributed.is_initialized() or (ended and not error.code):
      raise
    if not ended:
      traceback.print_exc()
    elif not isinstance(error.code, int):
      print(error.code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def count() -> int:
  """How many processes there are."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def gather(value: Any) -> list[Any]:
  """Every process's value, in their order, in every process.

  Args:
    value: what JSON holds; an array becomes lists, unless there is but one
      process.  A few KiB: it goes from each process to each.
  """
  if count() == 1:
    return [value]
  client, turn = _client(), next(_gathered)
  mine = f'rlcw/all/{{}}/{jax.process_index()}'
  client.key_value_set_bytes(mine.format(turn), _to_bytes(value))
  client.wait_at_barrier(f'rlcw/{turn}', _FOREVER)
  found = client.key_value_dir_get_bytes(f'rlcw/all/{turn}/')
  if turn:  # whoever comes to a barrier has read all before it
    client.key_value_delete(mine.format(turn - 1))
  by_process = {int(k.rpartition('/')[2]): json.loads(v) for k, v in found}
  return [by_process[index] for index in range(count())]


def whole(array: jax.Array) -> np.ndarray:
  """A global array on every process's host."""
  if not array.is_fully_addressable and not array.is_fully_replicated:
    mesh: Any = getattr(array.sharding, 'mesh', None)
    array = jax.device_put(array, replicated(mesh))
  return np.asarray(array)


class DataShards:
  """A step's rows, shared out among the processes.

  Processes that split the model of the same rows read the same part; the first
  of them speaks for it.

  Raises:
    ValueError: a process would read parts of two parts.
  """

  def __init__(self, mesh: Mesh):
    devices_SxT = mesh.devices.reshape(group_shards(mesh), -1)
    readers = {frozenset(d.process_index for d in row) for row in devices_SxT}
    if sum(map(len, readers)) != len(frozenset().union(*readers)):
      raise ValueError(
        f'mesh {dict(mesh.shape)}: the tensor axis must divide the devices of '
        'a process, or be a multiple of them'
      )
    self.index_and_count = data_shard(mesh)
    self.sharding = over_groups(mesh)
    first = dict.fromkeys(
      min(device.process_index for device in row) for row in devices_SxT
    )
    self.primaries = list(first)

  def to_global(self, rows: Any) -> Any:
    """Global arrays, of each process's own rows on its host."""
    return jax.make_array_from_process_local_data(self.sharding, rows)

  def local_rows(self, arrays: Any) -> Any:
    """This process's rows of global arrays, in the order of `to_global`."""
    if count() == 1:
      return arrays
    arrays = jax.device_put(arrays, self.sharding)

    def rows(array: jax.Array) -> np.ndarray:
      shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
      return np.concatenate([np.asarray(shards[at]) for at in sorted(shards)])

    return jax.tree.map(rows, arrays)

  def local_slice(self, whole: Any) -> Any:
    """This process's rows of an array of all, on its host."""
    part, number = self.index_and_count
    return np.split(whole, number)[part]

  def gather(self, value: Any) -> list[Any]:
    """`gather`, of each part one value, in the order of the rows."""
    found = gather(value if self._is_primary else None)
    return [found[index] for index in self.primaries]

  def gather_to_primary(self, value: Any) -> list[Any]:
    """The same for process 0 alone, and of any size; the others get nothing."""
    if count() == 1:
      return [value]
    client, turn = _client(), next(_collected)
    keys = [f'rlcw/first/{turn}/{index}' for index in self.primaries]
    mine = f'rlcw/first/{turn}/{jax.process_index()}'
    if mine in keys:
      client.key_value_set_bytes(mine, _to_bytes(value))
    if jax.process_index() > 0:
      return []
    found = []
    for key in keys:
      text = client.blocking_key_value_get_bytes(key, _FOREVER)
      client.key_value_delete(key)
      found.append(json.loads(text))
    return found

  @property
  def _is_primary(self) -> bool:
    return jax.process_index() in self.primaries


@contextlib.contextmanager
def notice() -> Iterator[Callable[[], bool]]:
  """Listens for SIGTERM, the notice of preemption.

  Yields:
    A function that says whether any process has heard one, the same in all.
    All must ask at the same place, and stop where it says so.
  """
  heard: list[int] = []
  before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
  try:
    yield lambda: any(gather(bool(heard)))
  finally:
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
  if heard:  # after the last question
    signal.raise_signal(signal.SIGTERM)


def _client() -> Any:
  return distributed.global_state.client


def _to_bytes(value: Any) -> bytes:
  text = json.dumps(value, default=lambda array: array.tolist())
  return text.encode()  # ASCII, as halves of surrogate pairs are escaped


def is_primary_process() -> bool:
  """Whether this process, of all those of a run, writes and prints."""
  # asked of one process alone, JAX would take hold of its devices
  return not jax.distributed.is_initialized() or jax.process_index() == 0
