"""One of several processes that run `rlcw` together, and what befalls it.

  python tests/hosts.py POINT FLAG...

POINT is `undisturbed`, or as in `TERM:1:3`: a SIGTERM that process 1 gets in
its third step, between rollout and scores.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Compiled with less care, as each process compiles for itself.
_XLA = '--xla_backend_optimization_level=0'
# Of each process.  A device that waits in a collective holds a thread, and
# may wait in several at once: with one thread for each device (XLA's choice
# on few cores) none may be left for the device that they all wait for.
_THREADS = 16


def start(
  folder: pathlib.Path,
  point: str,
  flags: Sequence[str],
  processes: int = 2,
  devices: int = 4,
) -> list[subprocess.Popen]:
  """Starts processes that are to find each other on this machine.

  What process n prints goes to `n.log` in the folder.
  """
  folder.mkdir(parents=True, exist_ok=True)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  started = []
  for process in range(processes):
    environment = os.environ | {
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {_XLA}',
      'NPROC': str(_THREADS),  # how XLA's pools learn their size
      'JAX_PLATFORMS': 'cpu',
      'JAX_COORDINATOR_ADDRESS': address,
      'JAX_NUM_PROCESSES': str(processes),
      'JAX_PROCESS_ID': str(process),
      'PYTHONPATH': str(ROOT),
    }
    command = [sys.executable, str(ROOT / 'tests' / 'hosts.py'), point, *flags]
    with (folder / f'{process}.log').open('ab') as log:
      started.append(
        subprocess.Popen(
          command, cwd=ROOT, env=environment, stdout=log, stderr=log
        )
      )
  return started


def wait(started: Sequence[subprocess.Popen], seconds: float) -> list[int]:
  """Their exit codes; none of them outlives the test."""
  until = time.monotonic() + seconds
  try:
    return [p.wait(max(until - time.monotonic(), 0.1)) for p in started]
  finally:
    for process in started:
      process.kill()


def befall(point: str) -> None:
  """Lets the signal that the point names come when its time is there."""
  import jax

  from rlcw.rewards import scoring

  name, process, step = point.split(':')
  number, calls = getattr(signal, f'SIG{name}'), [0]
  original = scoring.Scorer.__call__

  def call(*args: Any) -> Any:
    calls[0] += 1
    if calls[0] == int(step) and jax.process_index() == int(process):
      os.kill(os.getpid(), number)
    return original(*args)

  scoring.Scorer.__call__ = call


if __name__ == '__main__':
  from rlcw import main

  if sys.argv[1] != 'undisturbed':
    befall(sys.argv[1])
  del sys.argv[1]
  main.console()
