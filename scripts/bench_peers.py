r"""How fast is a GRPO step beside TRL and tunix, and beside the machine's best?

  python scripts/bench_peers.py --out=runs/bench_peers \
    --torch-index=https://download.pytorch.org/whl/cpu

The same model, briefs, group and lengths for all, in float32, with all weights
learning: by advantages from the length of the replies, without a KL term and
so without a reference pass.  No token ends a reply early.  No tool recomputes
blocks to save memory; rlcw recomputes what lies between products with weights.

Each tool is a process of its own, TRL and tunix in environments that are made
here with pip.  After a step that compiles, they take turns, so that all meet
the same weather; only one works at a time.  A turn is two steps, of which the
second counts, as in training, where a step finds what the one before left.
Beside every step stand the CPU time that other machines took meanwhile, and the
speed of a product before the turn, when every process is at rest: after a step
some still give back its memory.

The default case takes 11 minutes on 2 cores, and 20 GiB of memory for
the three together; the environments take 3 GiB of disk.  The index
is for a torch without CUDA; leave it out where pip finds one by itself.

`bench.json` has every number, `bench.md` the tables.  `--growth` measures rlcw
alone, as groups, briefs and replies grow.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ['JAX_PLATFORMS'] = 'cpu'  # read when JAX is imported

import numpy as np
from peers import growth, tables

from rlcw.models import formats, tokenizer
from rlcw.rewards.briefs import load_briefs
from rlcw.runtime import files, metrics

ROOT = Path(__file__).resolve().parents[1]
MODEL = 'models/SmolLM2-135M-Instruct.Q4_1.gguf'
# what pip installs, one call after the other: TRL would bring CUDA's torch
PEERS = {
  'trl': (('torch==2.13.0',), ('trl==1.16.0', 'transformers==5.23.0')),
  'tunix': (('google-tunix==0.1.7', 'jax==0.10.2', 'transformers==5.12.1'),),
}
TOOLS = ('rlcw', *PEERS)


# --- Workers ----------------------------------------------------------------


def environment(name: str, out: Path, torch_index: str) -> Path:
  """The Python of a peer's environment, which is made where it is missing."""
  folder, pins = (out / f'env-{name}').resolve(), PEERS[name]
  marker = folder / 'installed.json'
  if not marker.exists() or marker.read_text() != json.dumps(pins):
    metrics.log(f'{name}: making {folder}')
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
  """A tool's process; what it prints beside its answers goes to `log`."""

  def __init__(self, command: list[Any], log: Path, **variables: str):
    self.log = log
    with log.open('w') as told:
      self.process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=told,
        text=True,
        env=os.environ | variables,
      )

  def ask(self, command: str) -> dict[str, Any]:
    """Waits for the answer to a command.

    Raises:
      RuntimeError: the process ended instead; with the end of its log.
    """
    assert self.process.stdin and self.process.stdout
    try:
      self.process.stdin.write(command + '\n')
      self.process.stdin.flush()
    except BrokenPipeError:
      pass  # its output has ended, too
    line = self.process.stdout.readline()
    if not line:
      end = self.log.read_text(errors='replace')[-2000:]
      raise RuntimeError(
        f'{self.log.stem} ended with status {self.process.wait()} when told '
        f'{command!r}; the end of {self.log}:\n{end}'
      )
    return json.loads(line)

  def close(self) -> None:
    self.process.kill()
    self.process.wait()


def start(tool: str, python: Path, case: Path) -> Worker:
  """A tool's worker for a case; nothing is fetched."""
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
  """The model as a folder that all tools read."""
  folder = out / 'export'
  if not (folder / 'summary.json').exists():
    metrics.log(f'exporting {model}')
    command = [sys.executable, '-m', 'rlcw.main', '--config=configs/export.py']
    subprocess.run(
      [*command, f'--workdir={folder}', f'--config.model={model}'],
      check=True,
      cwd=ROOT,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
    )
  return folder / 'model'


def write_case(shape: str, model: Path, out: Path) -> Path:
  """A file that says what a step is; `shape` is briefs x replies x tokens."""
  prompts, group, reply = map(int, shape.split('x'))
  text = tokenizer.load(model)
  briefs = load_briefs('@briefs.jsonl', split='train', language='en')
  rows = [tokenizer.chat(text, brief.text) for brief in briefs[:prompts]]
  case = {
    'model': str(model.resolve()),
    'workdir': str(out.resolve() / 'trl'),
    'prompts': [text.decode(row) for row in rows],
    'prompt_tokens': max(map(len, rows)),
    'prompt_tokens_in_all': sum(map(len, rows)),
    'group': group,
    'reply_tokens': reply,
    'temperature': 1.0,
    'learning_rate': 1e-6,
    'seed': 0,
    'threads': len(os.sched_getaffinity(0)),
  }
  file = out / f'{shape}.json'
  files.write_json(file, case)
  return file


# --- Rounds -----------------------------------------------------------------


def cpu_times() -> tuple[int, int]:
  """Ticks of all cores since boot: in all, and those that were stolen."""
  with open('/proc/stat') as file:
    ticks = [int(field) for field in file.readline().split()[1:9]]
  return sum(ticks), ticks[7]


def product_rate(side: int = 2048) -> float:
  """FLOPs a second of NumPy's square product, the best of three."""
  a = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
  seconds = []
  for _ in range(3):
    started = time.perf_counter()
    a @ a
    seconds.append(time.perf_counter() - started)
  return 2.0 * side**3 / min(seconds)


def take_step(tool: str, worker: Worker, tokens: int) -> dict[str, Any]:
  """The second of two steps, and the weather it met.

  Raises:
    RuntimeError: the tool made more or fewer tokens than the others.
  """
  rate = product_rate()
  worker.ask('step')
  before, stolen = cpu_times()
  found = worker.ask('step')
  after, later = cpu_times()
  worker.ask('rest')
  if found['tokens'] != tokens:
    raise RuntimeError(
      f'{tool} made {found["tokens"]} new tokens where {tokens} are due: the '
      'work of the tools is not equal'
    )
  steal = (later - stolen) / max(after - before, 1)
  return found | {'steal': steal, 'product_rate': rate}


def run_case(
  case: Path, pythons: dict[str, Path], rounds: int
) -> dict[str, Any]:
  """Rounds of a step of every tool, and the ceilings, measured in each."""
  about = json.loads(case.read_text())
  due = len(about['prompts']) * about['group'] * about['reply_tokens']
  workers: dict[str, Worker] = {}
  steps: dict[str, list[Any]] = {tool: [] for tool in pythons}
  ceilings = []
  try:
    for n in range(rounds):
      for tool, python in pythons.items():
        if tool not in workers:
          workers[tool] = start(tool, python, case)
        steps[tool].append(take_step(tool, workers[tool], due))
        metrics.log(
          f'{case.stem} round {n} {tool}: {steps[tool][-1]["seconds"]:.2f} s'
        )
      ceilings.append(workers['rlcw'].ask('ceilings'))
  finally:
    for worker in workers.values():
      worker.close()
  return {
    'case': about,
    'steps': steps,
    'ceilings': ceilings,
  }


# --- The whole -------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('--out', type=Path, default=Path('runs/bench_peers'))
  parser.add_argument('--model', default=MODEL)
  parser.add_argument('--cases', default='4x8x48')
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--tools', default=','.join(TOOLS))
  parser.add_argument(
    '--torch-index', default='', help="pip's index for TRL's torch"
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
  for shape in flags.cases.split(','):
    case = write_case(shape, model, flags.out)
    found = cases[shape] = run_case(case, pythons, flags.rounds)
    found['roofs'] = tables.shares(config, found)
    about = {'pins': PEERS, 'hardware': metrics.hardware(), 'cases': cases}
    files.write_json(flags.out / 'bench.json', about)
  text = '\n'.join(
    tables.markdown(name, found) for name, found in cases.items()
  )
  (flags.out / 'bench.md').write_text(text)
  print(text)


if __name__ == '__main__':
  main()
