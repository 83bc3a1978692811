"""Faults that `endurance.py` injects into a run, and the expected reactions."""

import contextlib
import itertools
import math
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from endurance_lab import BRIEFS, Judge, Run, expect

STOPPED = 75  # exit code of a run that was asked to stop
# Error messages for a full disk: of the system, and of a failed checkpoint.
FULL = r'No space left on device|\(0\.\d MiB are free\)'


class Lab:
  """The run under test, and everything that the faults act on.

  Args:
    run: the run.
    judge: its judge server.
    briefs: its file of briefs.
    args: command line of `endurance.py`.
  """

  def __init__(self, run: Run, judge: Judge, briefs: Path, args: Any):
    self.run, self.judge, self.briefs, self.args = run, judge, briefs, args
    self.random = random.Random(args.seed)
    self.startup_seconds = 5.0  # from a process's start until it resumes
    self.damages = itertools.cycle(['a bit flipped', 'cut', 'zeros', 'removed'])

  def delay(self, most: float) -> float:
    """A random number of seconds between 0 and `most`."""
    return self.random.random() * most


# Each fault acts on a run that has just finished a step.  It may leave the run
# ended; the caller restarts it then.  It returns a note for the table, and
# raises RuntimeError if the run does not react as expected.


def kill(lab: Lab) -> str:
  """Kills the run at a random moment."""
  time.sleep(lab.delay(0.5))
  lab.run.wait(signal.SIGKILL)
  return ''


def kill_in_save(lab: Lab) -> str:
  """Kills the run while it writes a checkpoint."""
  # The save may finish before the signal arrives, so try several times.
  for _ in range(5):
    lab.run.wait_for_save()
    time.sleep(lab.delay(0.05))
    lab.run.wait(signal.SIGKILL)
    if lab.run.is_saving():
      return 'an incomplete checkpoint was left'
    lab.run.start()
    lab.run.wait_for_resume()
  raise RuntimeError('in 5 attempts every save finished before the kill')


def kill_at_start(lab: Lab) -> str:
  """Kills the run, then again while it starts."""
  lab.run.wait(signal.SIGKILL)
  lab.run.start()
  time.sleep(lab.delay(lab.startup_seconds))
  lab.run.wait(signal.SIGKILL)
  return ''


def terminate(lab: Lab) -> str:
  """Sends SIGTERM, as at preemption: the run saves and exits with code 75."""
  time.sleep(lab.delay(0.5))
  return stop(lab, signal.SIGTERM)


def interrupt(lab: Lab) -> str:
  """Sends SIGINT, as Ctrl-C does: the run saves and exits with code 75."""
  time.sleep(lab.delay(0.5))
  return stop(lab, signal.SIGINT)


def stop(lab: Lab, number: int) -> str:
  """Asks the run to stop."""
  expect(lab.run.wait(number) == STOPPED, f'exit code {STOPPED}')
  expect(
    lab.run.checkpoints()[-1] == lab.run.steps(),
    'a checkpoint of the last step',
  )
  return f'saved, exit code {STOPPED}'


def hang_reward(lab: Lab) -> str:
  """Lets the reward function hang, and asks the run to stop meanwhile."""
  lab.run.hang.touch()
  try:
    while not lab.run.is_hanging():
      lab.run.sleep()
    return stop(lab, signal.SIGTERM)
  finally:
    lab.run.hang.unlink()
    lab.run.hanging.unlink(missing_ok=True)


def start_twice(lab: Lab) -> str:
  """Starts the run a second time: the second process names the first."""
  other = Run(lab.run.folder, lab.run.settings)
  other.start()
  expect(other.wait() == 1, 'exit code 1')
  words = f'is in use by process {lab.run.process.pid} on '
  expect(words in other.output(), f'{words!r} in the output')
  return 'the second one was refused'


def halve_summary(lab: Lab) -> str:
  """Leaves a part of a summary: the run is not taken for finished."""
  lab.run.wait(signal.SIGKILL)
  (lab.run.folder / 'summary.json').write_text('{"steps": ')
  lab.run.start()
  lab.run.wait_for_resume()
  expect('already done' not in lab.run.output(), 'a run that goes on')
  return ''


def spoil_log(lab: Lab) -> str:
  """Damages a line of the metrics: the run exits with an error naming it."""
  lab.run.wait(signal.SIGKILL)
  file = lab.run.folder / 'metrics.jsonl'
  original = file.read_bytes()
  lines = original.split(b'\n')
  n = lab.random.randrange(len(lines) - 1)
  lines[n] = bytes(len(lines[n]))
  file.write_bytes(b'\n'.join(lines))
  lab.run.start()
  expect(lab.run.wait() == 1, 'exit code 1')
  file.write_bytes(original)
  words = f'rlcw: {file}:{n + 1}: not JSON'
  expect(words in lab.run.output(), f'{words!r} in the output')
  return 'the error names file and line; repaired'


def jump_clock(lab: Lab) -> str:
  """Restarts the run a year earlier or later, with new times of its inputs."""
  lab.run.wait(signal.SIGKILL)
  lab.run.clock = lab.random.choice([-1, 1]) * 365 * 24 * 3600
  moment = time.time() - lab.run.clock
  os.utime(lab.briefs, (moment, moment))
  before = lab.run.checkpoints()
  lab.run.start()
  lab.run.wait_for_step(max(before, default=0) + 1)
  lab.run.clock = 0
  return 'a year'


def take_judge(lab: Lab) -> str:
  """Stops the judge server for a while: the run retries and loses nothing."""
  lab.judge.stop()
  try:
    # By half of the outage a step in progress has got its last verdicts.
    time.sleep(lab.args.outage / 2)
    before = lab.run.steps()
    time.sleep(lab.args.outage / 2)
    expect(lab.run.process.poll() is None, 'the run waits for its judge')
    expect(lab.run.steps() == before, 'no step is done without the judge')
  finally:
    lab.judge.start()
  lab.run.wait_for_step(before + 1)
  return f'{lab.args.outage} s, bridged by retries'


def take_judge_and_kill(lab: Lab) -> str:
  """Stops the judge server, and kills and restarts the run meanwhile."""
  lab.judge.stop()
  try:
    time.sleep(lab.args.outage / 2)
    lab.run.wait(signal.SIGKILL)
    lab.run.start()
    time.sleep(lab.args.outage / 2)
  finally:
    lab.judge.start()
  return f'{lab.args.outage} s'


def fill_disk(lab: Lab) -> str:
  """Fills the disk completely, or up to less than a checkpoint needs."""
  run, left = lab.run, lab.random.choice([0, 100_000])
  before, ballast = run.checkpoints(), run.folder / 'ballast'
  free = shutil.disk_usage(run.folder).free
  # The run writes at the same time, so the disk may be full early (OSError).
  with contextlib.suppress(OSError), ballast.open('wb', 0) as file:
    while free > left:
      free -= file.write(bytes(min(free - left, 2**16)))
  try:
    expect(run.wait() == 1, 'exit code 1')
    problem = run.output().rstrip().rpartition('\nrlcw: ')[2]
    expect(str(run.folder) in problem, f'the folder in {problem!r}')
    expect(bool(re.search(FULL, problem)), f'{FULL} in {problem!r}')
    run.start()
    expect(run.wait() == 1, 'exit code 1 again, as the disk is still full')
  finally:
    ballast.unlink()
  expect(
    {*before[-1:]} <= {*run.checkpoints()},
    'the checkpoint from before still exists',
  )
  where = 'a save' if 'checkpoint could not be written' in problem else 'a line'
  return f'{where} had no room on a tmpfs'


def spoil_checkpoint(lab: Lab) -> str:
  """Damages the newest checkpoint: the run resumes from the one before."""
  while len(lab.run.checkpoints()) < 2:
    lab.run.sleep()
  lab.run.wait(signal.SIGKILL)
  *_, before, newest = lab.run.checkpoints()
  folder = lab.run.folder / 'checkpoints' / str(newest)
  files = [path for path in folder.rglob('*') if path.is_file()]
  # The largest file has most of the arrays' bytes.
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  offset = lab.random.randrange(len(content))
  damage = next(lab.damages)
  if damage == 'a bit flipped':
    content[offset] ^= 1 << lab.random.randrange(8)
  elif damage == 'cut':
    del content[offset:]
  elif damage == 'zeros':
    content[offset // 2 :] = bytes(len(content) - offset // 2)
  largest.write_bytes(content)
  if damage == 'removed':
    largest.unlink()
  lab.run.start()
  lab.run.wait_for_resume()
  for words in (f'{folder} cannot be read', f'resumes from step {before} '):
    expect(words in lab.run.output(), f'{words!r} in the output')
  return damage


def spoil_line(lab: Lab) -> str:
  """Truncates a line of the briefs: the run exits with an error naming it."""
  lab.run.wait(signal.SIGKILL)
  original = lab.briefs.read_bytes()
  lines, n = original.split(b'\n'), lab.random.randrange(BRIEFS)
  lines[n] = lines[n][: lab.random.randrange(1, len(lines[n]))]
  lab.briefs.write_bytes(b'\n'.join(lines))
  lab.run.start()
  expect(lab.run.wait() == 1, 'exit code 1')
  # Restore the file, so that the run can go on.
  lab.briefs.write_bytes(original)
  words = f'rlcw: {lab.briefs}:{n + 1}: not JSON'
  expect(words in lab.run.output(), f'{words!r} in the output')
  return 'the error names file and line; repaired'


def schedule(lab: Lab) -> list[tuple[int, Callable[[Lab], str]]]:
  """Draws the faults in random order, each with the step to wait for.

  Their numbers are in proportion to --kills.
  """
  kills, few = lab.args.kills, max(1, lab.args.kills // 10)
  in_save, at_start = math.ceil(kills / 3), kills // 6
  faults = [
    *[kill] * (kills - in_save - at_start),
    *[kill_in_save] * in_save,
    *[kill_at_start] * at_start,
    *[terminate] * (few + 1),
    *[interrupt] * few,
    *[hang_reward] * few,
    *[start_twice] * few,
    *[halve_summary] * few,
    *[spoil_log] * few,
    *[jump_clock] * few,
    *[take_judge] * max(1, few // 2),
    *[take_judge_and_kill] * max(1, few // 2),
    # Only on the small tmpfs: filling the machine's disk would harm others.
    *[fill_disk] * (few if os.path.ismount(lab.run.folder) else 0),
    *[spoil_checkpoint] * (few + 1),
    *[spoil_line] * few,
  ]
  lab.random.shuffle(faults)
  # Some faults wait for further checkpoints, so none starts near the end.
  latest = lab.args.steps - 3 * lab.run.settings['checkpoint_every']
  steps = sorted(lab.random.randint(1, latest) for _ in faults)
  return [*zip(steps, faults, strict=True)]
