"""What can befall a run in `endurance.py`, and what it is to do about it."""

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

# What is said of a full disk: by the system, and where a save had no room.
FULL = r'No space left on device|\(0\.\d MiB are free\)'


class Lab:
  """The run that is disturbed, and all that can disturb it."""

  def __init__(self, run: Run, judge: Judge, briefs: Path, args: Any):
    self.run, self.judge, self.briefs, self.args = run, judge, briefs, args
    self.random = random.Random(args.seed)
    self.started = 5.0  # seconds that a process takes to begin
    self.damages = itertools.cycle(['a bit flipped', 'cut', 'zeros', 'removed'])

  def chance(self, most: float) -> float:
    """Seconds up to the most."""
    return self.random.random() * most


# Each disturbs a run that has just told a step, and leaves it ended or not.
# It returns a note, and raises RuntimeError if the run does not do as it ought.


def kill(lab: Lab) -> str:
  time.sleep(lab.chance(0.5))
  lab.run.end(signal.SIGKILL)
  return ''


def kill_in_save(lab: Lab) -> str:
  for _ in range(5):
    lab.run.reach_save()
    time.sleep(lab.chance(0.05))
    lab.run.end(signal.SIGKILL)
    if lab.run.saving():
      return 'half a checkpoint was left'
    lab.run.start()
    lab.run.begin()
  raise RuntimeError('five times the save was over')


def kill_at_start(lab: Lab) -> str:
  lab.run.end(signal.SIGKILL)
  lab.run.start()
  time.sleep(lab.chance(lab.started))
  lab.run.end(signal.SIGKILL)
  return ''


def terminate(lab: Lab) -> str:
  time.sleep(lab.chance(0.5))
  expect(lab.run.end(signal.SIGTERM) == 0, 'exit code 0')
  expect(lab.run.saved()[-1] == lab.run.done(), 'its last step was saved')
  return 'saved, exit code 0'


def take_judge(lab: Lab) -> str:
  lab.judge.die()
  try:
    time.sleep(lab.args.outage / 2)
    before = lab.run.done()
    time.sleep(lab.args.outage / 2)
    expect(lab.run.process.poll() is None, 'it waits for its judge')
    expect(lab.run.done() == before, 'no step is done without')
  finally:
    lab.judge.rise()
  lab.run.reach(before + 1)
  return f'{lab.args.outage} s, waited out by retries'


def take_judge_and_kill(lab: Lab) -> str:
  lab.judge.die()
  try:
    time.sleep(lab.args.outage / 2)
    lab.run.end(signal.SIGKILL)
    lab.run.start()
    time.sleep(lab.args.outage / 2)
  finally:
    lab.judge.rise()
  return f'{lab.args.outage} s'


def fill_disk(lab: Lab) -> str:
  """Full at once, or with less room than a save takes."""
  run, left = lab.run, lab.random.choice([0, 100_000])
  before, ballast = run.saved(), run.folder / 'ballast'
  free = shutil.disk_usage(run.folder).free
  with contextlib.suppress(OSError), ballast.open('wb', 0) as file:
    while free > left:
      free -= file.write(bytes(min(free - left, 2**16)))
  try:
    expect(run.end() == 1, 'exit code 1')
    problem = run.said().rstrip().rpartition('\nrlcw: ')[2]
    expect(str(run.folder) in problem, f'the folder in {problem!r}')
    expect(bool(re.search(FULL, problem)), f'{FULL} in {problem!r}')
    run.start()
    expect(run.end() == 1, 'exit code 1, as the disk is still full')
  finally:
    ballast.unlink()
  expect({*before[-1:]} <= {*run.saved()}, 'the checkpoint before is there')
  where = 'a save' if 'checkpoint could not be written' in problem else 'a line'
  return f'{where} had no room on a tmpfs'


def spoil_checkpoint(lab: Lab) -> str:
  while len(lab.run.saved()) < 2:
    lab.run.rest()
  lab.run.end(signal.SIGKILL)
  *_, before, newest = lab.run.saved()
  folder = lab.run.folder / 'checkpoints' / str(newest)
  files = [path for path in folder.rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  at = lab.random.randrange(len(content))
  how = next(lab.damages)
  if how == 'a bit flipped':
    content[at] ^= 1 << lab.random.randrange(8)
  elif how == 'cut':
    del content[at:]
  elif how == 'zeros':
    content[at // 2 :] = bytes(len(content) - at // 2)
  largest.write_bytes(content)
  if how == 'removed':
    largest.unlink()
  lab.run.start()
  lab.run.begin()
  for words in (f'{folder} cannot be read', f'resumes from step {before} '):
    expect(words in lab.run.said(), words)
  return how


def spoil_line(lab: Lab) -> str:
  lab.run.end(signal.SIGKILL)
  whole = lab.briefs.read_bytes()
  lines, n = whole.split(b'\n'), lab.random.randrange(BRIEFS)
  lines[n] = lines[n][: lab.random.randrange(1, len(lines[n]))]
  lab.briefs.write_bytes(b'\n'.join(lines))
  lab.run.start()
  expect(lab.run.end() == 1, 'exit code 1')
  lab.briefs.write_bytes(whole)
  words = f'rlcw: {lab.briefs}:{n + 1}: not JSON'
  expect(words in lab.run.said(), words)
  return 'the error names file and line; mended'


def schedule(lab: Lab) -> list[tuple[int, Callable[[Lab], str]]]:
  """When what happens."""
  kills, few = lab.args.kills, max(1, lab.args.kills // 10)
  in_save, at_start = math.ceil(kills / 3), kills // 6
  faults = [
    *[kill] * (kills - in_save - at_start),
    *[kill_in_save] * in_save,
    *[kill_at_start] * at_start,
    *[terminate] * (few + 1),
    *[take_judge] * max(1, few // 2),
    *[take_judge_and_kill] * max(1, few // 2),
    *[fill_disk] * (few if os.path.ismount(lab.run.folder) else 0),
    *[spoil_checkpoint] * (few + 1),
    *[spoil_line] * few,
  ]
  lab.random.shuffle(faults)
  latest = lab.args.steps - 3 * lab.run.settings['checkpoint_every']
  steps = sorted(lab.random.randint(1, latest) for _ in faults)
  return [*zip(steps, faults, strict=True)]
