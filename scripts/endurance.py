"""Tests that a run survives faults and ends bit for bit like one without any.

  python scripts/endurance.py [--workdir=runs/endurance] [--steps=200]
    [--kills=20] [--outage=60] [--seed=0]

Trains a tiny random model with GRPO twice, through the `rlcw` command.  The
first run is left alone.  In the second, faults are injected at random times: it
is killed, terminated, interrupted or started twice, its judge is unreachable,
its reward hangs, its disk is full, its newest checkpoint, its summary or a line
of its briefs or metrics is damaged, its clock jumps.  In both, some rewards are
so large that the gradient is not finite.  At the end parameters, optimiser
moments, replies and metrics of the two runs are compared bit for bit.  A third
run, without retries for its judge, checks that replies without a verdict are
masked.

Cost: 19 minutes on 2 cores shared with other work, nearly all of it spent on
starting processes.
Expect: a table of faults and `tally.json`; exit code 0 only if the run survived
every fault and nothing differs.
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
  POISONED,
  Judge,
  Run,
  expect,
  make_briefs,
  make_model,
)

PROMPTS = 2  # per step
DISK = 64 * 2**20  # bytes of the disturbed run's own disk


def disturb(lab: Lab) -> list[dict[str, Any]]:
  """Runs to the end while injecting the scheduled faults.

  Returns:
    A record per fault: its name, the step, whether the run survived, a note.

  Raises:
    RuntimeError: the run did not end with exit code 0.
  """
  records, run = [], lab.run
  run.start()
  started = time.monotonic()
  run.wait_for_resume()
  lab.startup_seconds = time.monotonic() - started
  faults = schedule(lab)
  for number, (step, fault) in enumerate(faults, 1):
    name, note, survived = fault.__name__.replace('_', ' '), '', True
    try:
      run.wait_for_step(step)
      done = run.steps()
      note = fault(lab)
    # A failed fault is recorded, and the others are injected nevertheless.
    except RuntimeError as error:
      done, note, survived = run.steps(), str(error), False
    seconds = time.monotonic() - started
    records.append(
      {'fault': name, 'step': done, 'survived': survived, 'note': note}
    )
    print(
      f'{seconds:5.0f} s  fault {number:2} of {len(faults)}  step {done:3} of '
      f'{lab.args.steps}  {name}: {note if survived else "FAILED " + note}',
      flush=True,
    )
    if run.process.poll() is not None:
      run.start()
  expect(run.wait() == 0, f'exit code 0 at the end: {run.output()[-2000:]}')
  return records


def differences(one: Path, other: Path, steps: int) -> list[str]:
  """Compares the results of two runs bit for bit.

  Args:
    one: workdir of a run.
    other: workdir of the other.
    steps: number of the last step.

  Returns:
    Names of the items that differ: `params` and `rest` (optimiser state and
    counters) of the last checkpoint, `metrics.jsonl`, `rollouts.jsonl`.
  """
  # Imported late: JAX would take memory while the runs need it.
  import jax
  import numpy as np
  from orbax import checkpoint as ocp

  def state(folder: Path, item: str) -> dict[str, bytes]:
    path = folder.absolute() / 'checkpoints' / str(steps) / item
    tree = ocp.StandardCheckpointer().restore(path)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # Bytes, because NaN compares unequal to itself.
    return {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves}

  def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    # Times, compilations and the requests to the judge (with retries) depend on
    # the faults.
    ignored = re.compile('second|compil|judge_requests')
    return [
      {k: v for k, v in json.loads(line).items() if not ignored.search(k)}
      for line in lines
    ]

  different = [
    item
    for item in ('params', 'rest')
    if state(one, item) != state(other, item)
  ]
  if rows(one) != rows(other):
    different.append('metrics.jsonl')
  rollouts = [(x / 'rollouts.jsonl').read_bytes() for x in (one, other)]
  return different + ['rollouts.jsonl'] * (rollouts[0] != rollouts[1])


def count_bad_steps(folder: Path) -> tuple[int, int]:
  """Counts steps with a non-finite gradient, and those of them skipped.

  Returns:
    The two counts; the second is 0 if any other step was skipped.
  """
  from rlcw.data import datasets

  rows = datasets.read_jsonl(folder / 'metrics.jsonl')
  steps = {
    group['step']
    for group in datasets.read_jsonl(folder / 'rollouts.jsonl')
    if group['brief_id'] == f'brief-{POISONED}'
  }
  poisoned = [row['step'] in steps for row in rows]
  skipped = [row['bad_steps'] > 0 for row in rows]
  both = sum(x and y for x, y in zip(poisoned, skipped, strict=True))
  return sum(poisoned), both if sum(skipped) == sum(poisoned) else 0


def count_masked(folder: Path) -> tuple[int, int]:
  """Counts replies without a verdict, and those of them that were masked.

  Raises:
    RuntimeError: all replies have a verdict, or none has.
  """
  from rlcw.data import datasets

  replies = [
    reply
    for group in datasets.read_jsonl(folder / 'rollouts.jsonl')
    for reply in group['replies']
  ]
  without = [reply for reply in replies if reply['writing'] is None]
  expect(0 < len(without) < len(replies), 'some replies have no verdict')
  masked = [r for r in without if not r['valid'] and r['advantage'] == 0]
  return len(without), len(masked)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
  """Creates a folder with a small tmpfs mounted on it, if mounting is allowed.

  Mounting needs root.  At the end the files move to an ordinary folder.
  """
  folder.mkdir()
  size = f'size={DISK}'
  mount = ['mount', '-t', 'tmpfs', '-o', size, 'none', str(folder)]
  try:
    subprocess.run(mount, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError):
    print(
      'mount -t tmpfs failed: the fault "fill disk" is left out', flush=True
    )
    yield
    return
  copy = folder.with_suffix('.kept')
  try:
    yield
    shutil.copytree(folder, copy)
  finally:
    # -l detaches the disk even if a process still has files open on it.
    subprocess.run(['umount', '-l', str(folder)], check=True)
  folder.rmdir()
  copy.rename(folder)


def tabulate(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Summarises the records of faults, a row for each kind."""
  rows = []
  # groupby joins neighbours only, hence the sort.
  for name, group in itertools.groupby(
    sorted(records, key=lambda each: each['fault']), lambda each: each['fault']
  ):
    group = [*group]
    notes = {e['note'] for e in group if e['note'] and e['survived']}
    rows.append(
      {
        'fault': name,
        'injected': len(group),
        'recovered': sum(each['survived'] for each in group),
        'notes': ', '.join(sorted(notes)),
      }
    )
  return rows


def endure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
  """Makes all three runs in `folder`; returns the contents of tally.json."""
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
    # Enough for the outage: the wait before a retry grows to at least 6 s.
    'judge.endpoint.retries': 10 + int(args.outage / 6),
    'steps': args.steps,
    'prompts_per_step': PROMPTS,
    'group_size': 4,
    'microbatch_groups': 1,
    'max_new_tokens': 12,
    # Several checkpoints, even in short runs.
    'checkpoint_every': max(2, min(5, args.steps // 8)),
    'learning_rate': 1e-3,
  }
  calm = Run(folder / 'undisturbed', settings)
  print(f'{args.steps} steps without faults, log in {calm.log}', flush=True)
  calm.start()
  expect(calm.wait() == 0, f'exit code 0: {calm.output()[-2000:]}')
  run = Run(folder / 'disturbed', settings)
  with small_disk(run.folder):
    records = disturb(Lab(run, judge, briefs, args))
  # Without retries, every request that fails leaves a reply without a verdict.
  no_retries = {'writing': 'judge', 'steps': 2, 'judge.endpoint.retries': 0}
  masked = Run(folder / 'masked', settings | no_retries)
  judge.failing = True
  masked.start()
  expect(masked.wait() == 0, f'exit code 0: {masked.output()[-2000:]}')
  rows = tabulate(records)
  for name, (injected, recovered), note in (
    (
      'gradient not finite',
      count_bad_steps(run.folder),
      'steps skipped and counted, in both runs',
    ),
    (
      'no verdict in the end',
      count_masked(masked.folder),
      'replies masked, in the third run',
    ),
  ):
    row = {'fault': name, 'injected': injected, 'recovered': recovered}
    rows.append(row | {'notes': note})
  different = differences(calm.folder, run.folder, args.steps)
  passed = all(0 < row['injected'] == row['recovered'] for row in rows)
  if 'fill disk' not in {row['fault'] for row in rows}:
    row = {'fault': 'fill disk', 'injected': 0, 'recovered': 0}
    rows.append(row | {'notes': 'not tested: no disk could be mounted'})
  return {
    'passed': passed and not different,
    'differences': different,
    'steps': args.steps,
    'seed': args.seed,
    'seconds': round(time.monotonic() - started),
    'table': rows,
    'faults': records,
  }


def main() -> None:
  """Runs everything and prints the table; exits with 0 only on success."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--workdir', type=Path, default=Path('runs/endurance'))
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--outage', type=float, default=60.0)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  folder = args.workdir.absolute()
  if folder.exists():
    sys.exit(f'--workdir={folder} exists: delete it or name another folder')
  folder.mkdir(parents=True)
  tally = endure(args, folder)
  (folder / 'tally.json').write_text(json.dumps(tally, indent=2) + '\n')
  line = '{:<22} {:>8} {:>9}  {}'
  print('\n' + line.format('fault', 'injected', 'recovered', 'notes'))
  for row in tally['table']:
    print(line.format(*row.values()))
  different = ', '.join(tally['differences']) or 'nothing'
  print(f'\nDifferences from the undisturbed run: {different}.')
  sys.exit(not tally['passed'])


if __name__ == '__main__':
  main()
