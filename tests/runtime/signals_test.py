"""Requests to stop: noted, heard in the middle of a wait, obeyed at once."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rlcw.data import annotate
from rlcw.runtime import processes, signals
from rlcw.runtime.mesh import make_mesh

NAMES = ['SIGTERM', 'SIGINT', 'SIGHUP']


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
  """Signals are not ignored, as they are in a job of `nohup`."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


def later(name: str, seconds: float = 0.1) -> None:
  """Sends this process a signal in a moment."""
  number = getattr(signal, name)
  threading.Timer(seconds, os.kill, [os.getpid(), number]).start()


def spin() -> None:
  while True:
    pass


def test_a_hang_up_that_is_ignored_stays_so() -> None:
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by `nohup`
  try:
    with signals.listening():
      signal.raise_signal(signal.SIGHUP)
      assert signals.requested() == ''
  finally:
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize('name', NAMES)
def test_the_first_signal_is_noted(name: str) -> None:
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  with signals.listening():
    assert signals.requested() == ''
    processes.stop_together()
    signal.raise_signal(getattr(signal, name))
    assert signals.requested() == name
    with pytest.raises(signals.Stopped) as stopped:
      processes.stop_together()
    assert (stopped.value.code, str(stopped.value)) == (
      75,
      f'stopped by {name}',
    )
  assert signals.requested() == ''
  after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert after == before


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(
  'wait', [lambda: time.sleep(60), threading.Event().wait, spin]
)
def test_a_wait_is_interrupted(name: str, wait: Callable[[], object]) -> None:
  started = time.monotonic()
  with signals.listening():
    later(name)
    with pytest.raises(signals.Stopped), processes.interruptible():
      wait()
    # what comes next does not begin to wait
    with pytest.raises(signals.Stopped), processes.interruptible():
      time.sleep(60)
  assert time.monotonic() - started < 10


def test_a_signal_outside_of_waits_interrupts_nothing() -> None:
  with signals.listening():
    with processes.interruptible(), signals.interruptible():
      pass
    later('SIGTERM', 0.02)
    time.sleep(0.1)
    assert signals.requested() == 'SIGTERM'


def test_one_of_several_processes_leaves_a_wait_and_goes_on(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setattr(processes, 'count', lambda: 2)
  with signals.listening():
    later('SIGTERM')
    with processes.interruptible():
      time.sleep(60)
    processes.stop_alone()
    # the others hear of it where all meet
    monkeypatch.setattr(processes, 'gather', lambda mine: ['', mine])
    with pytest.raises(signals.Stopped, match='SIGTERM'):
      processes.stop_together()


def test_the_time_since_the_signal_is_measured(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  with signals.listening():
    assert signals.elapsed() == 0
    signal.raise_signal(signal.SIGTERM)
    time.sleep(0.1)
    with pytest.raises(signals.Stopped) as stopped:
      processes.stop_together()
    assert 0.1 <= stopped.value.seconds < 5
    # another process got it first
    monkeypatch.setattr(processes, 'gather', lambda own: ['', ['SIGINT', 30.0]])
    with pytest.raises(signals.Stopped, match='SIGINT') as stopped:
      processes.stop_together()
    assert 30 <= stopped.value.seconds < 35


def test_items_end_where_a_run_is_asked_to_stop() -> None:
  seen = []
  with signals.listening(), pytest.raises(signals.Stopped):
    for item in processes.stoppable(range(5)):
      seen.append(item)
      if item == 2:
        signal.raise_signal(signal.SIGINT)
  assert seen == [0, 1, 2]


def test_several_processes_end_after_the_last_item_too(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """What one has made of it lacks the answers that it has not waited for."""
  monkeypatch.setattr(processes, 'count', lambda: 2)
  monkeypatch.setattr(processes, 'gather', lambda own: [own, ''])
  with signals.listening(), pytest.raises(signals.Stopped):
    for _ in processes.stoppable([0]):
      signal.raise_signal(signal.SIGTERM)


def test_several_processes_write_no_lines_without_answers(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  source, output = tmp_path / 'in.jsonl', tmp_path / 'out.jsonl'
  source.write_text('{"prompt": "x", "response": "y"}\n')
  monkeypatch.setattr(
    processes.DataShards, 'gather_to_primary', lambda self, own: [own]
  )

  def answer(records: Any) -> Any:
    monkeypatch.setattr(processes, 'count', lambda: 2)
    monkeypatch.setattr(processes, 'gather', lambda own: [own, ''])
    signal.raise_signal(signal.SIGTERM)
    return [{'verdict': None} for _ in records]

  with signals.listening(), pytest.raises(signals.Stopped):
    records = annotate.read_replies(source)
    annotate.annotate(
      'judge', source, records, output, 'verdict', 8, answer, make_mesh()
    )
  assert not output.exists()


STUBBORN = """
import signal, sys, time
sys.path.insert(0, sys.argv[1])
from rlcw.runtime import signals
with signals.listening():
  print('ready', flush=True)
  while True:
    try:
      with signals.interruptible():
        time.sleep(60)
    except BaseException:
      pass
"""


@pytest.mark.parametrize('name', NAMES)
def test_the_second_signal_ends_a_process_at_once(name: str) -> None:
  root = pathlib.Path(__file__).resolve().parents[2]
  process = subprocess.Popen(
    [sys.executable, '-c', STUBBORN, str(root)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  assert process.stdout is not None and process.stderr is not None
  process.stdout.readline()
  number = getattr(signal, name)
  # `timeout` sends a signal twice, which is one request
  process.send_signal(number)
  process.send_signal(number)
  assert process.stderr.readline().startswith(f'rlcw: {name}: '.encode())
  time.sleep(0.4)
  assert process.poll() is None
  process.send_signal(number)
  assert process.wait(10) == 128 + number
