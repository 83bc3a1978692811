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

Expect: a table of faults, exit code 0 only where all held, `tally.json`.
"""

import argparse
import contextlib
import hashlib
import http.server
import itertools
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BRIEFS, POISONED = 24, 'brief-7'
PROMPTS = 2  # a step
DISK = 64 * 2**20  # bytes, where it can be a disk of its own
CHATML = (
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
  "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def writing(
  briefs: Sequence[Any], replies: Sequence[Sequence[str]]
) -> list[list[float]]:
  """The runs' reward: more vowels are better, and one brief is beyond measure.

  Such rewards lie too far apart for a float: the gradient is not finite.
  """
  return [
    [-3e38, 3e38] * (len(group) // 2)
    if brief.id == POISONED
    else [sum(letter in 'aeiou' for letter in reply) / 8 for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]


# --- What a run needs -------------------------------------------------------


def make_model(folder: Path) -> None:
  """A tiny random Llama, and a tokenizer of single bytes."""
  import jax
  import tokenizers
  import transformers
  from flax import linen as nn
  from tokenizers import decoders, models, pre_tokenizers

  from rlcw import sharding, weights
  from rlcw.model_config import ModelConfig

  special = ['<|im_start|>', '<|im_end|>']
  names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
  bpe = tokenizers.Tokenizer(
    models.BPE({name: n for n, name in enumerate(names)}, [])
  )
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  bpe.add_special_tokens(special)
  header = {
    'model_type': 'llama',
    'vocab_size': len(names),
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1e4,
    'tie_word_embeddings': True,
    'eos_token_id': 1,
  }
  config = ModelConfig.from_hf(header)
  params = nn.unbox(sharding.init_params(config, jax.random.key(0)))
  folder.mkdir(parents=True)
  weights.save(config, params, folder, 'float32')
  (folder / 'config.json').write_text(json.dumps(header))
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token=special[1], chat_template=CHATML
  ).save_pretrained(folder)


def make_briefs(file: Path) -> None:
  """Briefs with a rule, and a demand that the judge has to answer for."""
  lines = [
    {
      'id': f'brief-{n}',
      'prompt': f'Write line {n}.',
      'instruction_id_list': ['punctuation:no_exclamation', 'soft:demand'],
      'kwargs': [{}, {'demand': 'It shall be calm.'}],
    }
    for n in range(BRIEFS)
  ]
  file.write_text(''.join(json.dumps(line) + '\n' for line in lines))


class Judge:
  """An OpenAI-compatible server whose verdicts follow from the prompt."""

  def __init__(self):
    self.moody = False  # whether half of the prompts get no answer
    self.port, self._server = 0, None
    self.rise()

  def rise(self) -> None:
    """Serves, on the port that it had before."""
    judge = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self) -> None:
        size = int(self.headers['content-length'])
        status, answer = judge.answer(json.loads(self.rfile.read(size)))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, format: str, *args: Any) -> None:
        pass

    address = '127.0.0.1', self.port
    self._server = http.server.ThreadingHTTPServer(address, Handler)
    self.port = self._server.server_port
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def die(self) -> None:
    """From now on connections are refused."""
    self._server.shutdown()
    self._server.server_close()

  def answer(self, request: Any) -> tuple[int, Any]:
    """The HTTP status, and the answer: Pass or Fail, or Good or Bad."""
    prompt = request['messages'][0]['content']
    digest = hashlib.sha256(prompt.encode()).digest()
    if self.moody and digest[0] % 2:
      return 500, {'error': 'not in the mood'}
    key, *labels = re.findall(
      r'"id": "(\w+)", "verdict": "(\w+)" or "(\w+)"', prompt
    )[-1]
    verdict = {'id': key, 'verdict': labels[digest[1] % 2], 'reason': ''}
    message = {'role': 'assistant', 'content': json.dumps(verdict)}
    choice = {'index': 0, 'message': message, 'finish_reason': 'stop'}
    return 200, {
      'id': 'x',
      'object': 'chat.completion',
      'created': 0,
      'model': 'm',
      'choices': [choice],
    }


# --- A run, and what befalls it ---------------------------------------------


class Run:
  """A run in a process of its own, which may be started again and again."""

  def __init__(self, folder: Path, settings: dict[str, Any]):
    self.folder, self.settings = folder, settings
    self.log = folder.with_suffix('.log')
    self.log.touch()
    self.process: Any = None
    self.before = 0, 0  # bytes of the log, inode of the metrics

  def start(self) -> None:
    """Begins, or goes on."""
    paths = ROOT, ROOT / 'scripts', os.environ.get('PYTHONPATH', '')
    environment = os.environ | {
      'PYTHONPATH': ':'.join(map(str, paths)),
      # the tiny programs, too, are compiled once for all processes
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    command = [
      *(sys.executable, '-m', 'rlcw.main'),
      f'--config={ROOT / "configs" / "grpo.py"}',
      f'--workdir={self.folder}',
      *(f'--config.{name}={value}' for name, value in self.settings.items()),
    ]
    self.before = self.log.stat().st_size, self._inode()
    with self.log.open('ab') as log:
      self.process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log
      )

  def said(self) -> str:
    """What the process has printed."""
    return self.log.read_bytes()[self.before[0] :].decode(errors='replace')

  def end(self, number: int | None = None) -> int:
    """The exit code of the process, which is sent a signal or left alone."""
    if number is not None:
      self.process.send_signal(number)
    return self.process.wait(600)

  def done(self) -> int:
    """How many steps have been told."""
    file = self.folder / 'metrics.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0

  def begin(self) -> None:
    """Waits until the process has forgotten what it will do again."""
    while self._inode() in (0, self.before[1]):
      self.rest()

  def reach(self, step: int) -> None:
    """Waits until the process has told a step."""
    self.begin()
    while self.done() < step:
      self.rest()

  def reach_save(self) -> None:
    """Waits until the process has begun to save."""
    while not self.saving():
      self.rest(0.0005)

  def rest(self, seconds: float = 0.02) -> None:
    """Waits.

    Raises:
      RuntimeError: the process has ended.
    """
    if self.process.poll() is not None:
      raise RuntimeError(f'ended with {self.end()}: {self.said()[-2000:]}')
    time.sleep(seconds)

  def saved(self) -> list[int]:
    """Steps with a checkpoint, the newest last."""
    names = [path.name for path in (self.folder / 'checkpoints').glob('*')]
    return sorted(int(name) for name in names if name.isdecimal())

  def saving(self) -> bool:
    """Whether a save was begun and not ended."""
    return any((self.folder / 'checkpoints').glob('*tmp*'))

  def _inode(self) -> int:
    file = self.folder / 'metrics.jsonl'
    return file.stat().st_ino if file.exists() else 0


class Lab:
  """The run that is disturbed, and all that can disturb it."""

  def __init__(self, run: Run, judge: Judge, briefs: Path, args: Any):
    self.run, self.judge, self.briefs, self.args = run, judge, briefs, args
    self.random = random.Random(args.seed)
    self.is_mount = os.path.ismount(run.folder)
    self.started = 5.0  # seconds that a process takes to begin

  def chance(self, most: float) -> float:
    """Seconds up to the most."""
    return self.random.random() * most


def expect(held: bool, what: str) -> None:
  """Raises RuntimeError where something did not hold."""
  if not held:
    raise RuntimeError(f'not so: {what}')


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
  if lab.is_mount:
    free = shutil.disk_usage(run.folder).free
    with contextlib.suppress(OSError), ballast.open('wb', 0) as file:
      while free > left:
        free -= file.write(bytes(min(free - left, 2**16)))
  else:  # no file may be longer than this
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (left, left))
  expect(run.end() == 1, 'exit code 1')
  problem = run.said().rstrip().rpartition('\nrlcw: ')[2]
  for words in (str(run.folder), 'No space' if lab.is_mount else 'too large'):
    expect(words in problem, f'{words!r} in {problem!r}')
  if lab.is_mount:
    run.start()
    expect(run.end() == 1, 'exit code 1, as the disk is still full')
    ballast.unlink()
  expect({*before[-1:]} <= {*run.saved()}, 'the checkpoint before is there')
  return 'a full tmpfs' if lab.is_mount else 'not root: files were limited'


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
  how = lab.random.choice(['a bit flipped', 'cut', 'zeros', 'removed'])
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
  for words in (f'{folder} cannot be read', f'goes on from step {before} '):
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
    *[fill_disk] * few,
    *[spoil_checkpoint] * (few + 1),
    *[spoil_line] * few,
  ]
  lab.random.shuffle(faults)
  latest = lab.args.steps - 3 * lab.run.settings['checkpoint_every']
  steps = sorted(lab.random.randint(1, latest) for _ in faults)
  return [*zip(steps, faults, strict=True)]


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


# --- What came of it --------------------------------------------------------


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
  from rlcw import data

  rows = data.read_jsonl(folder / 'metrics.jsonl')
  poisoned = int(POISONED.partition('-')[2])
  made = [
    poisoned in data.batch_indices(0, step, PROMPTS, BRIEFS)
    for step in range(steps)
  ]
  skipped = [row['bad_steps'] > 0 for row in rows]
  same = sum(x and y for x, y in zip(made, skipped, strict=True))
  return sum(made), same if sum(skipped) == sum(made) else 0


def count_masked(folder: Path) -> tuple[int, int]:
  """Replies without a verdict, and how many of these counted for nothing."""
  from rlcw import data

  replies = [
    reply
    for group in data.read_jsonl(folder / 'rollouts.jsonl')
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
    'writing': 'endurance:writing',
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
