"""A tool's own process: it takes a step when told, and says how long it took.

One line in, one line out; the end of its input ends it.  The standard library
alone, as every tool has an environment of its own.
"""

import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def read_case() -> dict[str, Any]:
  """The step to take, from the file that the command names.

  `prompts` are texts in the model's chat format; `model` is a folder.
  """
  return json.loads(Path(sys.argv[1]).read_text('utf-8'))


class Clock:
  """Commands in, times out.

  What a tool prints goes to the log, so that every line of the output is an
  answer.
  """

  def __init__(self) -> None:
    self.out = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)

  def commands(self) -> Iterator[str]:
    """Each command as it comes; the time of a step runs from then on.

    At `rest`, which is answered here, what was freed goes back to the system,
    as the next tool needs it.
    """
    for line in sys.stdin:
      if line.strip() == 'rest':
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.answer()
        continue
      self.started, self.rollout = time.perf_counter(), 0.0
      yield line.strip()

  def timed(self, generate: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose time counts as rollout."""

    def call(*args: Any, **kwargs: Any) -> Any:
      started = time.perf_counter()
      result = generate(*args, **kwargs)
      self.rollout += time.perf_counter() - started
      return result

    return call

  def answer(self, **found: Any) -> None:
    self.out.write(json.dumps(found) + '\n')

  def step_done(self, tokens: int) -> None:
    """Answers a step that made so many new tokens.

    What is not rollout is update: rewards, advantages, gradient, optimiser.
    """
    seconds = time.perf_counter() - self.started
    self.answer(
      seconds=seconds,
      seconds_rollout=self.rollout,
      seconds_update=seconds - self.rollout,
      tokens=tokens,
      # Linux gives VmHWM, in KiB
      memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def rewards(replies: list[str]) -> list[float]:
  """A reward that costs nothing: a reply's length in characters."""
  return [float(len(reply)) for reply in replies]
