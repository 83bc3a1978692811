"""The whole pipeline on a tiny model, as tests drive it; and how to kill it.

As a script, runs the `grpo` task with one line replaced by a `kill -9`:
  python tests/pipeline.py CONFIG.json WORKDIR KILL_AT
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).resolve().parents[1]


def shipped(name: str) -> ConfigDict:
  """The configuration in `configs/NAME.py`."""
  scope: dict[str, Any] = {}
  exec((ROOT / 'configs' / f'{name}.py').read_text(), scope)
  return scope['get_config']()


def tiny_config(name: str, model: pathlib.Path, runs: pathlib.Path):
  """A shipped configuration, made small."""
  config = shipped(name)
  small = {
    'reward_model': {
      'model': str(model),
      'batch_size': 32,
      'steps': 20,
      'checkpoint_every': 20,
    },
    'grpo': {
      'model': str(model),
      'reward_model': str(runs / 'reward_model'),
      'steps': 5,
      'prompts_per_step': 8,  # one for each simulated device
      'group_size': 4,
      'microbatch_groups': 8,
      'max_new_tokens': 8,
      'checkpoint_every': 2,
      'learning_rate': 1e-3,
    },
    'evaluate': {
      'run': str(runs / 'grpo'),
      'replies_per_brief': 2,
      'batch_size': 16,
    },
    'sft': {
      'model': str(model),
      'steps': 6,
      'rows_per_step': 8,  # one for each simulated device
      'row_tokens': 96,
      'learning_rate': 3e-3,
    },
    'generate': {
      'model': str(model),
      'samples': 2,
      'max_new_tokens': 8,
      'batch_size': 8,
    },
    'export': {'model': str(runs / 'grpo')},
    'report': {k: str(runs / k) for k in ('reward_model', 'grpo', 'evaluate')},
  }[name]
  for key, value in small.items():
    if key in config:
      config[key] = value
  if 'lora' in config:
    config.lora.rank = 2
  if 'decoder' in config:
    config.decoder.steps = 3
  if name == 'grpo':  # a random model breaks some rule nearly always
    config.mixing.all_violating = 'suppress'
  return config


def few_pairs(folder: pathlib.Path) -> str:
  """Enough preference pairs for a run that only has to run."""
  from rlcw.data.preferences import load_preferences
  from rlcw.runtime import files

  file = folder / 'pairs.jsonl'
  for split, count in (('train', 16), ('heldout', 8)):
    for pair in load_preferences('@preferences.jsonl', split=split)[:count]:
      short = {'chosen': pair.chosen[:60], 'rejected': pair.rejected[:50]}
      files.append_jsonl(file, dataclasses.asdict(pair) | short)
  return str(file)


@contextlib.contextmanager
def one_device() -> Iterator[None]:
  """Meshes are of one device meanwhile, for which compilers are faster."""
  import jax

  # not `make_mesh`: a module that is imported meanwhile would keep the patch
  first = jax.devices()[:1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'devices', lambda *_: first)
    yield


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
  """No file has room for a byte meanwhile."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(task: str, config: ConfigDict, workdir: pathlib.Path) -> Any:
  """Runs a task as `rlcw.main` does, in this process."""
  from rlcw import main
  from rlcw.runtime import files

  workdir.mkdir(parents=True, exist_ok=True)
  resolved = json.loads(config.to_json())
  files.write_json(workdir / 'config.json', resolved)
  return main.run_task(config, workdir)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
  """Runs `rlcw ARGUMENTS` in this process; returns its exit status.

  The process keeps its log level and its cache of compiled programs.
  """
  from rlcw import main

  monkeypatch.setattr(main.logging, 'set_verbosity', lambda _: None)
  monkeypatch.setattr(main.jax.config, 'update', lambda *_: None)
  monkeypatch.setattr(sys, 'argv', ['rlcw', *arguments])
  try:
    main.console()
  except SystemExit as stopped:
    if isinstance(stopped.code, int):
      return stopped.code
    print(stopped.code, file=sys.stderr)  # as Python does
    return 1
  return 0


def kill_at(point: str) -> None:
  """Replaces one call by a kill: 'rollout:3', 'update:2', 'save:2'…"""
  from orbax import checkpoint as ocp

  from rlcw.rewards import scoring
  from rlcw.runtime import checkpoint
  from rlcw.tasks.grpo import logs

  target, name, nth = {
    'scoring': (scoring.Scorer, '__call__', 3),  # step 2, after its rollout
    'diary': (logs, 'log_rollouts', 4),  # step 3, not yet logged
    'saving': (ocp.CheckpointManager, 'wait_until_finished', 2),  # mid-write
    'saved': (checkpoint.Checkpoints, 'close', 1),  # all steps done, no summary
  }[point]
  original, calls = getattr(target, name), [0]

  def fatal(*args: Any, **kwargs: Any) -> Any:
    calls[0] += 1
    if calls[0] == nth:
      os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)

  setattr(target, name, fatal)


if __name__ == '__main__':
  import jax

  config_file, workdir, point = sys.argv[1:]
  jax.config.update('jax_compilation_cache_dir', os.environ['XLA_CACHE'])
  if point != 'nowhere':
    kill_at(point)
  settings = ConfigDict(json.loads(pathlib.Path(config_file).read_text()))
  run('grpo', settings, pathlib.Path(workdir))
