"""Does a run survive what befalls it, and end as one that nothing befell?

  python scripts/endurance.py [--workdir=runs/endurance] [--steps=200]
    [--kills=20] [--outage=60] [--seed=0]

Two GRPO runs of a tiny random model, through the `rlcw` command.  One is left
alone.  The other is killed, told to stop, left without its judge and without
room on its disk, has its newest checkpoint spoiled and a line of its briefs,
all at random times.  Some rewards are so wild in both that the gradient is not
finite.  At the end parameters, moments, replies and metrics are held against
each other bit for bit.  A third run, which may not wait for its judge, shows
what becomes of a reply without a verdict.

Cost: 19 minutes beside other work on 2 cores; nearly all of it goes to
processes that begin.
Expect: a table of faults, exit code 0 only where all held, `tally.json`.
"""

import argparse
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from endurance_faults import Lab, schedule
from endurance_lab import (
  BRIEFS,
  POISONED,
  Judge,
  Run,
  expect,
  make_briefs,
  make_model,
)

PROMPTS = 2  # a step
DISK = 64 * 2**20  # bytes, where it can be a disk of its own


def disturb(lab: Lab) -> list[dict[str, Any]]:
  """Lets all of it happen; returns what, when, and whether it was survived."""
  told, run = [], lab.run
  run.start()
  started = time.monotonic()
  run.begin()
  lab.started = time.monotonic() - started
  faults = schedule(lab)
  for number, (step, fault) in enumerate(faults, 1):
    name, note, survived = fault.__name__.replace('_', ' '), '', True
    try:
      run.reach(step)
      at = run.done()
      note = fault(lab)
    except RuntimeError as error:
      at, note, survived = run.done(), str(error), False
    seconds = time.monotonic() - started
    told.append({'fault': name, 'step': at, 'survived': survived, 'note': note})
    print(
      f'{seconds:5.0f} s  fault {number:2} of {len(faults)}  step {at:3} of '
      f'{lab.args.steps}  {name}: {note if survived else "FAILED " + note}',
      flush=True,
    )
    if run.process.poll() is not None:
      run.start()
  expect(run.end() == 0, f'exit code 0 at the end: {run.said()[-2000:]}')
  return told


def differences(one: Path, other: Path, steps: int) -> list[str]:
  """What two runs left that is not the same, bit for bit."""
  import jax
  import numpy as np
  from orbax import checkpoint as ocp

  def state(folder: Path, item: str) -> dict[str, bytes]:
    path = folder.absolute() / 'checkpoints' / str(steps) / item
    tree = ocp.StandardCheckpointer().restore(path)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves}

  def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    free = re.compile('second|compil|judge_requests')  # the last has retries
    return [
      {k: v for k, v in json.loads(line).items() if not free.search(k)}
      for line in lines
    ]

  found = [
    item
    for item in ('params', 'rest')
    if state(one, item) != state(other, item)
  ]
  if rows(one) != rows(other):
    found.append('metrics.jsonl')
  diaries = [(x / 'rollouts.jsonl').read_bytes() for x in (one, other)]
  return found + ['rollouts.jsonl'] * (diaries[0] != diaries[1])


def count_bad_steps(folder: Path, steps: int) -> tuple[int, int]:
  """Steps whose gradient was made not finite, and those that were skipped."""
  from rlcw.data import batches, datasets

  rows = datasets.read_jsonl(folder / 'metrics.jsonl')
  made = [
    POISONED in batches.batch_indices(0, step, PROMPTS, BRIEFS)
    for step in range(steps)
  ]
  skipped = [row['bad_steps'] > 0 for row in rows]
  same = sum(x and y for x, y in zip(made, skipped, strict=True))
  return sum(made), same if sum(skipped) == sum(made) else 0


def count_masked(folder: Path) -> tuple[int, int]:
  """Replies without a verdict, and how many of these counted for nothing."""
  from rlcw.data import datasets

  replies = [
    reply
    for group in datasets.read_jsonl(folder / 'rollouts.jsonl')
    for reply in group['replies']
  ]
  without = [reply for reply in replies if reply['writing'] is None]
  expect(0 < len(without) < len(replies), 'some replies have no verdict')
  right = [r for r in without if not r['valid'] and r['advantage'] == 0]
  return len(without), len(right)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
  """A disk of its own for a folder, where that is allowed (to root)."""
  folder.mkdir()
  size = f'size={DISK}'
  mount = ['mount', '-t', 'tmpfs', '-o', size, 'none', str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    print('mount -t tmpfs is refused: no disk will be full', flush=True)
    yield
    return
  kept = folder.with_suffix('.kept')
  try:
    yield
    shutil.copytree(folder, kept)
  finally:
    subprocess.run(['umount', '-l', str(folder)], check=True)
  folder.rmdir()
  kept.rename(folder)


def tabulate(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """A row for each kind of fault."""
  rows = []
  for name, these in itertools.groupby(
    sorted(told, key=lambda each: each['fault']), lambda each: each['fault']
  ):
    these = [*these]
    notes = {e['note'] for e in these if e['note'] and e['survived']}
    rows.append(
      {
        'fault': name,
        'injected': len(these),
        'recovered': sum(each['survived'] for each in these),
        'notes': ', '.join(sorted(notes)),
      }
    )
  return rows


def endure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
  """All three runs; returns the tally."""
  started = time.monotonic()
  model, briefs, judge = folder / 'model', folder / 'briefs.jsonl', Judge()
  make_model(model)
  make_briefs(briefs)
  settings = {
    'model': model,
    'briefs': briefs,
    'writing': 'endurance_lab:writing',
    'mixing.all_violating': 'suppress',
    'judge.endpoint.url': f'http://127.0.0.1:{judge.port}/v1',
    'judge.endpoint.model': 'm',
    # a wait between two of these grows to 6 seconds at least
    'judge.endpoint.retries': 10 + int(args.outage / 6),
    'steps': args.steps,
    'prompts_per_step': PROMPTS,
    'group_size': 4,
    'microbatch_groups': 1,
    'max_new_tokens': 12,
    'checkpoint_every': max(2, min(5, args.steps // 8)),
    'learning_rate': 1e-3,
  }
  calm = Run(folder / 'undisturbed', settings)
  print(f'{args.steps} steps undisturbed, see {calm.log}', flush=True)
  calm.start()
  expect(calm.end() == 0, f'exit code 0: {calm.said()[-2000:]}')
  run = Run(folder / 'disturbed', settings)
  with small_disk(run.folder):
    told = disturb(Lab(run, judge, briefs, args))
  hasty = {'writing': 'judge', 'steps': 2, 'judge.endpoint.retries': 0}
  masked = Run(folder / 'masked', settings | hasty)
  judge.moody = True
  masked.start()
  expect(masked.end() == 0, f'exit code 0: {masked.said()[-2000:]}')
  rows = tabulate(told)
  for name, (made, held), note in (
    (
      'gradient not finite',
      count_bad_steps(run.folder, args.steps),
      'steps skipped and counted, in both runs',
    ),
    (
      'no verdict in the end',
      count_masked(masked.folder),
      'replies masked, in the third run',
    ),
  ):
    row = {'fault': name, 'injected': made, 'recovered': held, 'notes': note}
    rows.append(row)
  found = differences(calm.folder, run.folder, args.steps)
  held = all(0 < row['injected'] == row['recovered'] for row in rows)
  if 'fill disk' not in {row['fault'] for row in rows}:
    row = {'fault': 'fill disk', 'injected': 0, 'recovered': 0}
    rows.append(row | {'notes': 'not tried: no disk could be mounted'})
  return {
    'held': held and not found,
    'differences': found,
    'steps': args.steps,
    'seed': args.seed,
    'seconds': round(time.monotonic() - started),
    'table': rows,
    'faults': told,
  }


def main() -> None:
  """Prints the tally, and ends with 0 only where all held."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--workdir', type=Path, default=Path('runs/endurance'))
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--outage', type=float, default=60.0)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  folder = args.workdir.absolute()
  if folder.exists():
    sys.exit(f'{folder} exists; delete it, or give another --workdir')
  folder.mkdir(parents=True)
  tally = endure(args, folder)
  (folder / 'tally.json').write_text(json.dumps(tally, indent=2) + '\n')
  line = '{:<22} {:>8} {:>9}  {}'
  print('\n' + line.format('fault', 'injected', 'recovered', 'notes'))
  for row in tally['table']:
    print(line.format(*row.values()))
  same = ', '.join(tally['differences']) or 'nothing'
  print(f'\nDifferent from the undisturbed run: {same}.')
  sys.exit(not tally['held'])


if __name__ == '__main__':
  main()
