"""Requests to stop a run: SIGTERM, as at preemption, SIGINT, as of Ctrl-C, and
SIGHUP, as of a terminal that is closed.

The first one is noted.  The run ends where it can resume without losing work
(`processes.stop_together`), or in the middle of a wait (`interruptible`), with
the exit status `STOPPED`.  The second one ends the process at once.

A run may stop in the same way for a reason of its own (`Halted`).
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

STOPPED = 75  # EX_TEMPFAIL: unfinished, and the same command resumes
HALTED = 76  # unfinished, as its monitors warned; the same command goes on
_HANG_UP = (signal.SIGHUP,)  # ignored where it was, as by `nohup`
_SIGNALS = signal.SIGTERM, signal.SIGINT, *_HANG_UP
# Signals this close together are one request: `timeout`, for one, sends its
# signal to the process and to its group.
_ONE_REQUEST_SECONDS = 0.3


class Stopped(SystemExit):
  """Ends a run that was asked to stop.

  Args:
    name: of the signal.
    elapsed: seconds since the signal.
  """

  status = STOPPED
  cause = 'signal'

  def __init__(self, name: str, elapsed: float = 0.0):
    super().__init__(self.status)
    self.signal = name
    self._heard = time.monotonic() - elapsed

  def __str__(self) -> str:
    return f'stopped by {self.signal}'

  @property
  def seconds(self) -> float:
    """Seconds since the signal."""
    return time.monotonic() - self._heard


class Halted(Stopped):
  """Ends a run at a warning of its monitors, in all processes alike.

  Args: as of `Stopped`, but for the warnings in place of the signal's name.
  """

  status = HALTED
  cause = 'warning'


class _State:
  """The state of this process, which has one set of signal handlers."""

  request = ''  # name of the first signal
  heard = 0.0  # time.monotonic() of it
  waiting = False  # whether the main thread is in `interruptible`
  raised = False  # whether a handler has raised `Stopped`


@contextlib.contextmanager
def listening() -> Iterator[None]:
  """Notes requests to stop while in the context, which the main thread enters.

  A thread counts the signals, since Python runs handlers only between two
  instructions of the main thread, which may be in a compilation for minutes.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = {
    number: signal.signal(number, _hear)
    for number in _SIGNALS
    if number not in _HANG_UP or signal.getsignal(number) != signal.SIG_IGN
  }
  other_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  counter = threading.Thread(target=_count, args=(reader,), daemon=True)
  counter.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(other_writer)
    os.close(writer)  # ends the thread
    counter.join()
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
    _State.request, _State.raised = '', False


def requested() -> str:
  """Returns the name of the signal that asked this process to stop, or ''."""
  return _State.request


def elapsed() -> float:
  """Returns the seconds since that signal; 0 without one."""
  return time.monotonic() - _State.heard if _State.request else 0.0


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
  """Lets a request end a wait: raises `Stopped` in the middle of the context.

  In other threads than the main one, which alone runs signal handlers, the
  context has no effect.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before, _State.waiting = _State.waiting, True
  try:
    if _State.request:
      raise Stopped(_State.request, elapsed())
    yield
  finally:
    _State.waiting = before


def _hear(number: int, frame: FrameType | None) -> None:
  _note(number)
  # Once, because a second exception would interrupt the clean-up.
  if _State.waiting and not _State.raised:
    _State.raised = True
    raise Stopped(_State.request, elapsed())


def _note(number: int) -> None:
  if not _State.request:
    _State.heard = time.monotonic()
    _State.request = signal.Signals(number).name


def _count(reader: int) -> None:
  first = None
  with open(reader, 'rb', buffering=0) as pipe:
    while number := pipe.read(1):
      if number[0] not in _SIGNALS:
        continue
      if first is None:
        first = time.monotonic()
        _note(number[0])
        # Not through `sys.stderr`, whose lock the main thread may hold.
        line = f'rlcw: {_State.request}: will stop; a second one ends at once\n'
        with contextlib.suppress(OSError):
          os.write(2, line.encode())
      elif time.monotonic() - first > _ONE_REQUEST_SECONDS:
        os._exit(128 + number[0])
