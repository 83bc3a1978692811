"""Protocol of a tool's process: takes a step per command and returns its times.

A command is one line of standard input, its answer one line of JSON on standard
output; the process ends at the end of its input.  Uses only the standard
library, because every tool runs in a separate environment.
"""

import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def read_case() -> dict[str, Any]:
  """Reads the description of the step from the file in `sys.argv[1]`.

  `bench_peers.write_case` writes it: `prompts` are texts in the model's chat
  format, `model` is a folder.
  """
  return json.loads(Path(sys.argv[1]).read_text('utf-8'))


class Clock:
  """Reads commands, times the steps, writes the answers.

  Redirects the tool's standard output to standard error, which goes to a log,
  so that every line of the original output is an answer.
  """

  def __init__(self) -> None:
    # Redirect the file descriptor itself: native libraries print to it, too.
    self.out = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)

  def commands(self) -> Iterator[str]:
    """Yields each command when it arrives and starts the time of a step.

    The command `rest` is answered here.
    """
    for line in sys.stdin:
      if line.strip() == 'rest':
        # The next tool needs the memory: glibc keeps freed memory until it is
        # trimmed.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.answer()
        continue
      self.started, self.rollout = time.perf_counter(), 0.0
      yield line.strip()

  def timed(self, generate: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a function so that its time counts as rollout."""

    def call(*args: Any, **kwargs: Any) -> Any:
      started = time.perf_counter()
      result = generate(*args, **kwargs)
      self.rollout += time.perf_counter() - started
      return result

    return call

  def answer(self, **values: Any) -> None:
    """Writes one line of JSON."""
    self.out.write(json.dumps(values) + '\n')

  def step_done(self, tokens: int, **others: float) -> None:
    """Answers a step with its times, peak memory and number of new tokens.

    All time outside the rollout counts as update: rewards, advantages,
    gradient, optimiser.

    Args:
      tokens: new ones, EOS included.
      **others: `cut`, the share of replies that the budget cut; `no_signal`,
        the share of groups whose rewards are equal; `compiled`, the number of
        programs that the step had to compile.
    """
    seconds = time.perf_counter() - self.started
    self.answer(
      seconds=seconds,
      seconds_rollout=self.rollout,
      seconds_update=seconds - self.rollout,
      tokens=tokens,
      # Linux reports the peak resident set size in KiB.
      memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
      **others,
    )


# --- Rewards ----------------------------------------------------------------

MOST_WORDS = 30


def rewards(
  case: dict[str, Any], words: Sequence[str], replies: Sequence[str]
) -> list[float]:
  """Rewards replies by two rules, or by their length if that is fixed.

  A reply of natural length gets 1 for at most `MOST_WORDS` words, and 1 for
  mentioning the word.

  Args:
    case: description of the step.
    words: a word of each reply's brief, in lower case.
    replies: texts.
  """
  if not case['natural']:
    # In characters; takes no time.
    return [float(len(reply)) for reply in replies]
  return [
    float(len(reply.split()) <= MOST_WORDS) + float(word in reply.lower())
    for word, reply in zip(words, replies, strict=True)
  ]


def no_signal(rewards: Sequence[float], group: int) -> float:
  """Share of groups whose replies all have the same reward.

  Args:
    rewards: group after group.
    group: replies of each.
  """
  starts = range(0, len(rewards), group)
  equal = [len({*rewards[start : start + group]}) == 1 for start in starts]
  return sum(equal) / len(equal)
