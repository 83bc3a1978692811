"""A limit on CPU time that only a wrong order of growth can reach."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from rlcw.rewards.constraints import LONGEST

# For a check of a reply of so many characters.
SECONDS = {25_000: 1, LONGEST: 5, 10 * LONGEST: 5}


@contextlib.contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
  """Fails a block that takes more CPU time than this.

  CPU time does not depend on what else runs on the machine.  Limits are some
  hundred times what a linear algorithm takes, and a small part of what a
  quadratic one would.
  """

  def fail(*_: Any) -> None:
    raise AssertionError(f'more than {seconds} s of CPU time')

  before = signal.signal(signal.SIGVTALRM, fail)
  signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
