"""Multi-host runs: one process per host, all running the same program.

Every process runs the same code on the same mesh.  Arrays on devices are
global; each process addresses its own shards.  Values on hosts are local to a
process and concern the rows that it reads, until they are gathered here.
Gathers use the key-value store of `jax.distributed`'s coordinator, so they
compile nothing and do not synchronise devices.  With a single process they
return their input.
"""

import contextlib
import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh

from rlcw.runtime import signals
from rlcw.runtime.mesh import data_shard, group_shards, over_groups, replicated
from rlcw.runtime.signals import Stopped

_Item = TypeVar('_Item')

VARIABLES = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
# The coordinator detects a dead process by its heartbeat and ends all others,
# so a wait may be as long as the slowest step: 7 days, in milliseconds.
_NO_TIMEOUT_MS = 7 * 24 * 3600 * 1000
# Longest wait of processes that fail for each other (`exit_on_failure`).
_FAILED_TIMEOUT_MS = 10_000
# Most bytes of a message to the key-value store; longer values are cut.
_PIECE = 2**18
# Serial numbers of the calls of `gather`, `gather_to_primary`, `gather_items`
# and `from_primary`.  They are the same in all processes, which make the same
# calls in the same order.
_gather_calls, _primary_calls = itertools.count(), itertools.count()
_item_calls, _from_calls = itertools.count(), itertools.count()


def start(detect: bool, heartbeat: int) -> None:
  """Joins the other processes, if any; call it before JAX opens its devices.

  Args:
    detect: whether JAX detects the processes (TPU pods, Slurm, Open MPI).
      Otherwise the environment variables `VARIABLES` name them; if none is
      set, this process is the only one.
    heartbeat: seconds without a heartbeat after which a process counts as
      dead and all others end.

  Raises:
    ValueError: only some of the variables are set, or not to numbers; or JAX
      detected no processes.
  """
  given = {name: os.environ.get(name, '') for name in VARIABLES}
  if not detect and not any(given.values()):
    return
  # JAX's preemption service would replace the SIGTERM handler of `signals`,
  # which also serves runs of a single process.
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
      f'{given}: expected all of these variables, an address with a port and '
      'two numbers; or set --distributed, if JAX can detect the processes'
    )
  jax.distributed.initialize(
    address,
    *map(int, numbers),
    cluster_detection_method='deactivate',
    heartbeat_timeout_seconds=heartbeat,
  )


@contextlib.contextmanager
def exit_on_failure() -> Iterator[None]:
  """Ends this process within seconds if the code in the context fails.

  Python's normal exit runs the shutdown barrier of `jax.distributed`, which
  waits for the other processes, while they wait for this one in a collective.
  Where all processes fail alike, each must print its error before any exits,
  because the first exit aborts the others: so they meet at a barrier, for at
  most `_FAILED_TIMEOUT_MS`.
  """
  try:
    yield
  except BaseException as error:
    is_exit = isinstance(error, SystemExit)
    # All processes succeed alike, and stop alike on request.
    alike = isinstance(error, Stopped) or (is_exit and not error.code)
    if alike or not jax.distributed.is_initialized():
      raise
    if not is_exit:
      traceback.print_exc()
    elif not isinstance(error.code, int):
      print(error.code, file=sys.stderr)
    # `os._exit` skips exit handlers and does not flush.
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(Exception):
      _client().wait_at_barrier('rlcw/failed', _FAILED_TIMEOUT_MS)
    os._exit(error.code if is_exit and isinstance(error.code, int) else 1)


def count() -> int:
  """Number of processes of the run."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def gather(value: Any) -> list[Any]:
  """Gathers one value per process, in process order, on every process.

  All processes must make the same calls in the same order.

  Args:
    value: a JSON value or an array, which becomes lists (a single process gets
      its value back unchanged).  At most a few KiB, because every process
      reads the values of all others at once; `DataShards.gather_items` takes
      more.
  """
  if count() == 1:
    return [value]
  client, call = _client(), next(_gather_calls)
  key = f'rlcw/all/{{}}/{jax.process_index()}'
  client.key_value_set_bytes(key.format(call), _to_bytes(value))
  # Behind the barrier every process has written its value.
  client.wait_at_barrier(f'rlcw/{call}', _NO_TIMEOUT_MS)
  entries = client.key_value_dir_get_bytes(f'rlcw/all/{call}/')
  # The values of this call may still be unread elsewhere.  Those of the call
  # before are not: a process reaches this barrier only after reading them.
  if call:
    client.key_value_delete(key.format(call - 1))
  # The store sorts keys as text, so '10' would come before '2'.
  by_process = {int(k.rpartition('/')[2]): json.loads(v) for k, v in entries}
  return [by_process[index] for index in range(count())]


def to_host(array: jax.Array) -> np.ndarray:
  """Copies a global array to the host of every process, in full."""
  # NumPy can read only addressable shards; replicating is an all-gather, in
  # which every process must take part.
  if not array.is_fully_addressable and not array.is_fully_replicated:
    mesh: Any = getattr(array.sharding, 'mesh', None)
    array = jax.device_put(array, replicated(mesh))
  return np.asarray(array)


class DataShards:
  """Division of a batch's rows among the processes.

  Processes whose devices share the same rows, because the 'tensor' axis spans
  them, read the same part; the one of lowest index is its primary.

  Args:
    mesh: the global mesh.

  Raises:
    ValueError: the parts of two processes overlap without being equal.
  """

  def __init__(self, mesh: Mesh):
    # S shards of the batch, T devices that share each.
    devices_SxT = mesh.devices.reshape(group_shards(mesh), -1)
    # A set of processes per shard of the batch.  Two different sets must be
    # disjoint, or a process would have to read parts that differ.
    readers = {frozenset(d.process_index for d in row) for row in devices_SxT}
    if sum(map(len, readers)) != len(frozenset().union(*readers)):
      raise ValueError(
        f'mesh={dict(mesh.shape)}: expected tensor to be a divisor or a '
        'multiple of the number of devices per process'
      )
    self.mesh, self.index_and_count = mesh, data_shard(mesh)
    self.sharding = over_groups(mesh)
    first = dict.fromkeys(
      min(device.process_index for device in row) for row in devices_SxT
    )
    self.primaries = list(first)

  def to_global(self, rows: Any) -> Any:
    """Makes global arrays from the rows that each process has on its host."""
    return jax.make_array_from_process_local_data(self.sharding, rows)

  def local_rows(self, arrays: Any) -> Any:
    """Returns this process's rows of global arrays, in `to_global`'s order."""
    if count() == 1:
      return arrays
    arrays = jax.device_put(arrays, self.sharding)

    def rows(array: jax.Array) -> np.ndarray:
      # Keyed by first row: the copies of a shard on several devices count once.
      shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
      return np.concatenate([np.asarray(shards[at]) for at in sorted(shards)])

    return jax.tree.map(rows, arrays)

  def local_slice(self, array: Any) -> Any:
    """Returns this process's rows of a host array that has all rows."""
    index, parts = self.index_and_count
    return np.split(array, parts)[index]

  def gather(self, value: Any) -> list[Any]:
    """Gathers one value per part, in row order, on every process."""
    by_process = gather(value if self._is_primary else None)
    return [by_process[index] for index in self.primaries]

  def gather_to_primary(self, value: Any) -> list[Any]:
    """Gathers one value per part, of any size, on process 0.

    Returns:
      The values in row order on process 0, an empty list on the others.
    """
    if count() == 1:
      return [value]
    place = f'rlcw/first/{next(_primary_calls)}'
    if self._is_primary:
      _store(f'{place}/{jax.process_index()}', value)
    # No barrier: the others go on at once, and process 0 waits for each key.
    if jax.process_index() > 0:
      return []
    values = []
    for key in (f'{place}/{index}' for index in self.primaries):
      values.append(_stored(key))
      # There is no other reader, so the memory can be freed here.
      _client().key_value_delete(key)
    return values

  def local_items(self, items: Sequence[_Item]) -> Sequence[_Item]:
    """Returns this process's share of a list that every process has.

    Shares are in the order of `gather_items`; they need not be equally long,
    and may be empty.
    """
    index, parts = self.index_and_count
    first, stop = (len(items) * n // parts for n in (index, index + 1))
    return items[first:stop]

  def gather_items(self, items: Sequence[Any]) -> list[Any]:
    """Joins the shares of a list, of any size, on every process.

    Args:
      items: JSON values or arrays, which become lists (a single process gets
        its items back unchanged).
    """
    if count() == 1:
      return [*items]
    call = next(_item_calls)
    place = f'rlcw/items/{{}}/{jax.process_index()}'
    if self._is_primary:
      _store(place.format(call), [*items])
    joined = []
    for index in self.primaries:
      joined += _stored(f'rlcw/items/{call}/{index}')
    # Behind the barrier every process has read them all.
    _client().wait_at_barrier(f'rlcw/items/{call}', _NO_TIMEOUT_MS)
    if self._is_primary:
      _client().key_value_delete(place.format(call))
    return joined

  def gather_rows(self, rows: np.ndarray) -> np.ndarray:
    """Joins equally long parts of a host array, on every process.

    It travels between the devices, so large arrays are fine.
    """
    return rows if count() == 1 else to_host(self.to_global(rows))

  @property
  def _is_primary(self) -> bool:
    return jax.process_index() in self.primaries


def from_primary(make: Callable[[], Any]) -> Any:
  """Returns a JSON value of any size that process 0 makes, in all processes.

  Raises:
    OSError, ValueError: raised by `make`; of several processes, in all alike.
  """
  if count() == 1:
    return make()
  value, problem, key = None, '', f'rlcw/from/{next(_from_calls)}'
  if is_primary_process():
    try:
      value = make()
    except (OSError, ValueError) as error:
      problem = str(error)
    _store(key, [value, problem])
  value, problem = _stored(key)
  # Behind the barrier every process has read it.
  _client().wait_at_barrier(key, _NO_TIMEOUT_MS)
  if is_primary_process():
    _client().key_value_delete(key)
  if problem:
    raise ValueError(problem)
  return value


@contextlib.contextmanager
def on_primary(
  make: Callable[[], contextlib.AbstractContextManager[None]],
) -> Iterator[None]:
  """Enters a context in process 0 alone.

  Raises:
    OSError, ValueError: it could not be entered, in all processes alike.
  """
  with contextlib.ExitStack() as stack:
    from_primary(lambda: stack.enter_context(make()))
    yield


def stop_together() -> None:
  """Ends the run if any process was asked to stop.

  All processes must call it at the same place, where the run can resume.

  Raises:
    Stopped: in all processes, if one was asked.
  """
  name = signals.requested()
  # With the time since the signal, as the clocks of hosts differ.
  for heard in filter(None, gather(name and [name, signals.elapsed()])):
    raise Stopped(*heard)


def stoppable(items: Iterable[_Item]) -> Iterator[_Item]:
  """Yields items, and ends the run before the next one if asked to stop.

  Of several processes also after the last one: see `interruptible`.

  Raises:
    Stopped: see `stop_together`.
  """
  for item in items:
    stop_together()
    yield item
  if count() > 1:
    stop_together()


def stop_alone() -> None:
  """Ends the run if asked to stop, unless there are several processes.

  For places that not all processes reach; several stop at the next place that
  they do.
  """
  if count() == 1:
    stop_together()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
  """Lets a request to stop end a wait in the context.

  Raises:
    Stopped: in a single process.  One of several leaves the context early
      instead, because the others wait for it at the next `stop_together`.  That
      must come before what is made without the answers is kept.
  """
  try:
    with signals.interruptible():
      yield
  except Stopped:
    if count() == 1:
      raise


def _client() -> Any:
  return distributed.global_state.client


def _store(key: str, value: Any) -> None:
  """Writes a value of any size for `_stored`, in pieces."""
  text = _to_bytes(value)
  for number, first in enumerate(range(0, len(text), _PIECE)):
    piece = text[first : first + _PIECE]
    _client().key_value_set_bytes(f'{key}/{number}', piece)
  # The last key tells a reader that the pieces are there.
  _client().key_value_set_bytes(f'{key}/bytes', str(len(text)).encode())


def _stored(key: str) -> Any:
  """Waits for a value that another process `_store`s, and returns it."""
  get = _client().blocking_key_value_get_bytes
  size = int(get(f'{key}/bytes', _NO_TIMEOUT_MS))
  pieces = (
    get(f'{key}/{n}', _NO_TIMEOUT_MS) for n in range(-(-size // _PIECE))
  )
  return json.loads(b''.join(pieces))


def _to_bytes(value: Any) -> bytes:
  text = json.dumps(value, default=lambda array: array.tolist())
  return text.encode()  # ASCII, as halves of surrogate pairs are escaped


def is_primary_process() -> bool:
  """Returns whether this is process 0, the only one that writes and prints."""
  # `jax.process_index` opens the devices, which a single process that needs
  # no device should not do.
  return not jax.distributed.is_initialized() or jax.process_index() == 0
