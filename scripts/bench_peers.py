r"""Compares the speed of a GRPO step with TRL, tunix and the machine's ceiling.

  python scripts/bench_peers.py --out=runs/bench_peers \
    --torch-index=https://download.pytorch.org/whl/cpu

All tools use the same model, briefs, group size and lengths, in float32, and
train all weights.  Advantages come from the length of the replies; there is no
KL term and thus no reference pass.  Replies always have full length.  No tool
rematerialises whole blocks; rlcw recomputes everything but the outputs of
products with weights (remat=False).

`--natural` also measures cases whose replies end as each tool ends them for its
users.  Advantages then come from two rules (`peers.worker.rewards`), gradients
are accumulated over microbatches of two briefs, and the tables show how long
the replies were, which is random.  rlcw always runs its task `grpo`.

Each tool runs in a separate process, TRL and tunix in environments that this
script creates with pip.  The tools take turns, so that a slow moment of the
machine affects them all, and only one works at a time.  A turn is two steps, of
which the second is timed: as in training, it starts from the state that a step
left in memory.  A second step that compiles a program is repeated.  Each timed
step is stored with the CPU time stolen by the hypervisor meanwhile, and with
the speed of a NumPy product measured before the turn, while every process is
idle (after a step, some are still freeing memory).

The default case takes 20 minutes on 2 cores and 20 GiB of memory for the three
tools together, and `--natural` 16 minutes more for each round of 8x8x64; the
environments take 3 GiB of disk.  --torch-index selects a torch without CUDA;
omit it if pip finds one by default.

`bench.json` has every number, `bench.md` the tables.  `--growth` measures rlcw
alone, for growing groups, briefs and replies.
"""

import argparse
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# JAX reads this at import, so it is set before the imports below.
os.environ['JAX_PLATFORMS'] = 'cpu'

import numpy as np
from peers import growth, tables

from rlcw.models import formats, tokenizer
from rlcw.models.chat import ChatFormat
from rlcw.rewards.briefs import load_briefs
from rlcw.runtime import console, files, metrics

ROOT = Path(__file__).resolve().parents[1]
MODEL = 'models/SmolLM2-135M-Instruct.Q4_1.gguf'
# Requirements of each peer, a tuple for each call of pip.  torch comes first:
# as a dependency of TRL it would be installed with CUDA.
PEERS = {
  'trl': (('torch==2.13.0',), ('trl==1.16.0', 'transformers==5.24.0')),
  'tunix': (('google-tunix==0.1.7', 'jax==0.10.2', 'transformers==5.12.1'),),
}
TOOLS = ('rlcw', *PEERS)
NATURAL = '8x8x64,8x8x128'
# Timed steps of a turn, at most, until one compiles nothing.
TRIES = 8


# --- Workers ----------------------------------------------------------------


def environment(name: str, out: Path, torch_index: str) -> Path:
  """Returns the Python of a peer's environment; creates it if missing.

  Args:
    name: key of `PEERS`.
    out: folder for the environment.
    torch_index: pip's index for torch; '' for the default.

  Raises:
    CalledProcessError: pip or venv failed.
  """
  folder, pins = (out / f'env-{name}').resolve(), PEERS[name]
  # Written last: an interrupted installation is repeated from the start.
  marker = folder / 'installed.json'
  if not marker.exists() or marker.read_text() != json.dumps(pins):
    console.log(f'{name}: installing into {folder}')
    subprocess.run(
      [sys.executable, '-m', 'venv', '--clear', folder], check=True
    )
    for pin in pins:
      index = ['--index-url', torch_index] if 'torch' in pin[0] else []
      pip = folder / 'bin/python', '-m', 'pip', 'install', '-q'
      subprocess.run([*pip, *(index if torch_index else []), *pin], check=True)
    marker.write_text(json.dumps(pins))
  return folder / 'bin/python'


class Worker:
  """A tool's process, driven by one line of JSON per command.

  Args:
    command: program and arguments.
    log: file for its standard error.
    **variables: additional environment variables.
  """

  def __init__(self, command: list[Any], log: Path, **variables: str):
    self.log = log
    with log.open('w') as stderr:
      self.process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=os.environ | variables,
      )

  def ask(self, command: str) -> dict[str, Any]:
    """Sends a command and waits for its answer.

    Raises:
      RuntimeError: the process ended; the message has the end of its log.
    """
    assert self.process.stdin and self.process.stdout
    try:
      self.process.stdin.write(command + '\n')
      self.process.stdin.flush()
    except BrokenPipeError:
      # The process ended.  Reading returns '' then, which is handled below.
      pass
    line = self.process.stdout.readline()
    if not line:
      end = self.log.read_text(errors='replace')[-2000:]
      raise RuntimeError(
        f'{self.log.stem} ended with status {self.process.wait()} at the '
        f'command {command!r}; the end of {self.log}:\n{end}'
      )
    return json.loads(line)

  def close(self) -> None:
    self.process.kill()
    self.process.wait()


def start(tool: str, python: Path, case: Path) -> Worker:
  """Starts a tool's worker for a case, with downloads disabled."""
  # Only rlcw's worker may import rlcw; the peers' environments lack its
  # dependencies.
  paths = [str(ROOT / 'scripts'), *([str(ROOT)] if tool == 'rlcw' else [])]
  return Worker(
    [python, '-m', f'peers.{tool}_step', case],
    case.with_name(f'{case.stem}-{tool}.log'),
    PYTHONPATH=os.pathsep.join(paths),
    JAX_PLATFORMS='cpu',
    HF_HUB_OFFLINE='1',
    TOKENIZERS_PARALLELISM='false',
  )


# --- Cases ------------------------------------------------------------------


def export(out: Path, model: str) -> Path:
  """Exports the model once, to a folder that all tools can load."""
  folder = out / f'export-{formats.digest(model)[:16]}'
  if not (folder / 'summary.json').exists():
    console.log(f'exporting {model}')
    command = [sys.executable, '-m', 'rlcw.main', '--config=configs/export.py']
    subprocess.run(
      [*command, f'--workdir={folder}', f'--config.model={model}'],
      check=True,
      cwd=ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
    )
  return folder / 'model'


def write_case(
  shape: str, model: Path, out: Path, natural: bool = False
) -> Path:
  """Writes the description of a step that all workers read.

  Args:
    shape: briefs x replies per brief x tokens per reply, as in `4x8x48`.
    model: folder of the model.
    out: folder for the file.
    natural: replies end by themselves, at the latest after these tokens.

  Returns:
    The file, SHAPE.json or SHAPE-natural.json.
  """
  prompts, group, reply = map(int, shape.split('x'))
  name = f'{shape}-natural' if natural else shape
  chat = ChatFormat(tokenizer.load(model))
  briefs = load_briefs('@briefs.jsonl', split='train', language='en')[:prompts]
  rows = [chat.encode_prompt(brief.text) for brief in briefs]
  # rlcw's task reads the briefs themselves; their ids are their places here.
  records = [
    dataclasses.asdict(brief) | {'id': str(n)} for n, brief in enumerate(briefs)
  ]
  file = out / f'{name}-briefs.jsonl'
  file.write_text(''.join(f'{json.dumps(record)}\n' for record in records))
  # Prompts are stored as text after the chat template, so that every tool gets
  # the same tokens.
  case = {
    'model': str(model.resolve()),
    'workdir': str(out.resolve() / name),
    'briefs': str(file.resolve()),
    'natural': natural,
    'prompts': [chat.tokenizer.decode(row) for row in rows],
    # The longest word of each request.
    'words': [
      max(re.findall('[a-z]+', brief.prompt.lower()), key=len)
      for brief in briefs
    ],
    'prompt_tokens': max(map(len, rows)),
    'prompt_tokens_in_all': sum(map(len, rows)),
    'group': group,
    'reply_tokens': reply,
    # In briefs.  More replies of natural length at a time may exceed 24 GiB in
    # some tools.
    'microbatch': math.gcd(prompts, 2) if natural else prompts,
    'temperature': 0.7 if natural else 1.0,
    'learning_rate': 1e-6,
    'seed': 0,
    'threads': len(os.sched_getaffinity(0)),
  }
  file = out / f'{name}.json'
  files.write_json(file, case)
  return file


# --- Rounds -----------------------------------------------------------------


def cpu_times() -> tuple[int, int]:
  """Clock ticks of all cores since boot: total, and stolen.

  Stolen time is spent by the hypervisor on other virtual machines.
  """
  # user nice system idle iowait irq softirq steal; `guest` is part of user
  with open('/proc/stat') as file:
    ticks = [int(field) for field in file.readline().split()[1:9]]
  return sum(ticks), ticks[7]


def product_rate(side: int = 2048) -> float:
  """FLOP/s of NumPy's product of two square matrices, the best of three."""
  a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
  seconds = []
  for _ in range(3):
    started = time.perf_counter()
    a @ a
    seconds.append(time.perf_counter() - started)
  return 2.0 * side**3 / min(seconds)


def take_step(tool: str, worker: Worker, tokens: int | None) -> dict[str, Any]:
  """Takes two steps and returns the second, with the machine's load.

  The second is repeated until it compiles nothing.

  Args:
    tool: its name, for the error message.
    worker: its process.
    tokens: new tokens expected of a step; None if replies end by themselves.

  Returns:
    The worker's answer with `steal` (share of CPU time stolen during the step)
    and `product_rate` (FLOP/s of NumPy before it).

  Raises:
    RuntimeError: the tool sampled another number of tokens than expected, or
      each of its steps compiles.
  """
  rate = product_rate()
  worker.ask('step')
  for _ in range(TRIES):
    total_before, stolen_before = cpu_times()
    step = worker.ask('step')
    total_after, stolen_after = cpu_times()
    if not step.get('compiled'):
      break
  else:
    raise RuntimeError(f'{tool} still compiles after {TRIES} steps')
  # Makes the worker return freed memory to the system before the next turn.
  worker.ask('rest')
  if tokens is not None and step['tokens'] != tokens:
    raise RuntimeError(
      f'{tool} made {step["tokens"]} new tokens, expected {tokens}: the tools '
      'do not do equal work'
    )
  ticks = max(total_after - total_before, 1)
  steal = (stolen_after - stolen_before) / ticks
  return step | {'steal': steal, 'product_rate': rate}


def run_case(
  case: Path, pythons: dict[str, Path], rounds: int
) -> dict[str, Any]:
  """Measures a step of every tool, and the ceilings, once per round.

  Ceilings are for replies of full length alone.
  """
  settings = json.loads(case.read_text())
  natural, tokens = settings['natural'], None
  if not natural:
    replies = len(settings['prompts']) * settings['group']
    tokens = replies * settings['reply_tokens']
  workers: dict[str, Worker] = {}
  steps: dict[str, list[Any]] = {tool: [] for tool in pythons}
  ceilings = []
  try:
    for n in range(rounds):
      for tool, python in pythons.items():
        # Started at its first turn, so that loading disturbs no other step.
        if tool not in workers:
          workers[tool] = start(tool, python, case)
        steps[tool].append(take_step(tool, workers[tool], tokens))
        console.log(
          f'{case.stem} round {n} {tool}: {steps[tool][-1]["seconds"]:.2f} s'
        )
      if not natural:
        ceilings.append(workers['rlcw'].ask('ceilings'))
  finally:
    for worker in workers.values():
      worker.close()
  return {
    'case': settings,
    'steps': steps,
    'ceilings': ceilings,
  }


# --- Command ----------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--out', type=Path, default=Path('runs/bench_peers'))
  parser.add_argument('--model', default=MODEL)
  parser.add_argument('--cases', default='4x8x48')
  parser.add_argument(
    '--natural',
    nargs='?',
    const=NATURAL,
    default='',
    help=f'cases in which replies end by themselves; {NATURAL} if none follow',
  )
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--tools', default=','.join(TOOLS))
  parser.add_argument(
    '--torch-index', default='', help="pip's package index for TRL's torch"
  )
  parser.add_argument('--growth', action='store_true')
  flags = parser.parse_args(arguments)
  flags.out.mkdir(parents=True, exist_ok=True)
  model = export(flags.out, flags.model)
  if flags.growth:
    return growth.main(model, flags.out)
  pythons = {'rlcw': Path(sys.executable)} | {
    name: environment(name, flags.out, flags.torch_index)
    for name in flags.tools.split(',')
    if name != 'rlcw'
  }
  config = formats.open_source(model).model_config()
  cases: dict[str, Any] = {}
  shapes = [(shape, False) for shape in flags.cases.split(',') if shape]
  shapes += [(shape, True) for shape in flags.natural.split(',') if shape]
  for shape, natural in shapes:
    case = write_case(shape, model, flags.out, natural)
    measured = cases[case.stem] = run_case(case, pythons, flags.rounds)
    if not natural:
      measured['roofs'] = tables.shares(config, measured)
    results = {'pins': PEERS, 'hardware': metrics.hardware(), 'cases': cases}
    # Rewritten after every case, so that an interrupted run keeps its results.
    files.write_json(flags.out / 'bench.json', results)
  text = '\n'.join(
    tables.markdown(name, measured) for name, measured in cases.items()
  )
  (flags.out / 'bench.md').write_text(text)
  print(text)


if __name__ == '__main__':
  main()
