"""Folders of tiny models and runs, as the docs of the Python library name them.

MODEL                  a language model
judge                  another, which can answer questions
runs/my/grpo           a run with adapters, at step 2 of 4
runs/my/reward_model   a finished reward model
"""

import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlcw.models import language_model, lora
from rlcw.rewards import reward_model
from rlcw.runtime import files
from rlcw.runtime.checkpoint import Checkpoints
from rlcw.runtime.mesh import make_mesh

ADAPTERS = {'rank': 2, 'alpha': 4.0, 'targets': ('query', 'down')}


def build(
  folder: pathlib.Path, model: pathlib.Path, judge: pathlib.Path
) -> None:
  """Makes the folders of the module's docstring."""
  (folder / 'MODEL').symlink_to(model)
  (folder / 'JUDGE').symlink_to(judge)
  runs = folder / 'runs' / 'my'
  save_policy(runs / 'grpo', str(model), steps=2)
  shutil.copytree(runs / 'grpo', runs / 'begun')
  settings = json.loads((runs / 'begun' / 'config.json').read_text())
  files.write_json(runs / 'begun' / 'config.json', settings | {'steps': 4})
  files.write_json(runs / 'grpo' / 'summary.json', {})
  save_head(runs / 'reward_model', str(model))


def save_policy(workdir: pathlib.Path, model: str, **settings: Any) -> None:
  """Writes the folder of a run that has saved step 2."""
  config = {'task': 'grpo', 'model': model, 'train': 'lora', 'lora': ADAPTERS}
  config |= settings
  base = language_model.load(model, make_mesh(devices=jax.devices()[:1]))
  adapted = lora.configure(base.config, ConfigDict(config))
  learned, _ = lora.split(adapted, base.params, base.mesh, seed=0)
  # The second factor begins as zeros, and would change nothing.
  learned = jax.tree.map(lambda a: a + 0.3 * jnp.ones_like(a), learned)
  checkpoints = Checkpoints(workdir / 'checkpoints')
  checkpoints.save(2, learned, {'step': jnp.int32(2)})
  checkpoints.close()
  files.write_json(workdir / 'config.json', config)


def save_head(workdir: pathlib.Path, model: str, **settings: Any) -> None:
  """Writes the folder of a finished run of `reward_model`."""
  config = {
    'task': 'reward_model',
    'model': model,
    'train': 'head',
    'pooling': 'mean',
    'max_reply_tokens': 64,
  }
  (workdir / 'checkpoints').mkdir(parents=True)
  rng = np.random.default_rng(0)
  head = reward_model.Head(rng.normal(size=32), np.float32(0.5))
  reward_model.save(head, workdir, [1])
  files.write_json(workdir / 'config.json', config | settings)
  files.write_json(workdir / 'summary.json', {})
