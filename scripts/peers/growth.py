"""Measures how the time of rlcw's step grows with group, brief and reply.

Uses random briefs of full length and the settings of the comparison with other
tools; each program runs twice, and the second call is timed.  For growing
briefs the cost without prefix sharing is measured as well: the same replies in
groups of one, so that the brief is prefilled for each.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gpu_cases import SETTINGS
from ml_collections import ConfigDict

from rlcw import losses, train
from rlcw.models import compute, language_model
from rlcw.runtime import console, files
from rlcw.runtime.mesh import make_mesh, over_groups
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan.roofline import Shapes

BASE = Shapes(prompts=1, group=4, prompt_tokens=64, reply_tokens=32)
# Settings of the comparison with other tools, see `rlcw_step.settings`.
OWN = dict(
  compute_dtype='float32',
  remat=False,
  kl_weight=0.0,
  steps=1,
  warmup_steps=0,
  temperature=1.0,
  learning_rate=1e-6,
  microbatch_groups=0,  # all at once
)
AXES = {
  'group': (4, 16, 64),
  'prompt_tokens': (64, 256, 1024),
  'reply_tokens': (32, 128, 512),
}


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
  """Seconds of the second of two calls (the first compiles), and its result."""
  jax.block_until_ready(call())
  started = time.perf_counter()
  result = jax.block_until_ready(call())
  return time.perf_counter() - started, result


def measure(model: language_model.LanguageModel, s: Shapes) -> dict[str, float]:
  """Seconds of a rollout and of the update on its replies.

  Args:
    model: the policy.
    s: number of briefs, replies per brief, and their lengths.
  """
  settings = ConfigDict(SETTINGS | OWN)
  config = compute.configure(model.config, settings)
  random = np.random.default_rng(0)
  size = s.prompts, s.prompt_tokens
  prompts = (
    random.integers(0, config.vocab_size, size, np.int32),
    np.full(s.prompts, s.prompt_tokens, np.int32),
  )
  rollout_seconds, rollout = seconds(
    lambda: sample(
      model.params,
      *prompts,
      np.arange(s.prompts),
      Temperature(1.0),
      *(0, 0),  # seed and step
      config=config,
      group_size=s.group,
      max_new_tokens=s.reply_tokens,
      # no token has this id, so every reply has full length
      eos=(config.vocab_size,),
    )
  )
  optimizer = objective.make_optimizer(settings)
  # The update donates its parameters, so copy those that other points need.
  params = jax.tree.map(jnp.copy, model.params)
  state = train.init_state(params, optimizer, model.mesh)
  update = train.make_update(
    objective.make_loss(config, settings), optimizer, state
  )
  # Random rewards: the time of an update does not depend on their values.
  reward = jnp.array(random.normal(size=(s.prompts, s.group)), jnp.float32)
  valid = jnp.ones(reward.shape, bool)
  arrays = {
    'prompt': prompts[0],
    'length': prompts[1],
    'rollout': rollout,
    'valid': valid,
    'advantage': losses.group_advantages(reward, valid),
  }
  packed = objective.pack(
    arrays,
    (prompts[1], np.asarray(rollout.length)),
    settings,
    over_groups(model.mesh),
  )

  def learn() -> Any:
    nonlocal state
    state, _ = update(state, packed.parts, {}, packed.divisor)
    return state

  update_seconds, _ = seconds(learn)
  return {'rollout': rollout_seconds, 'update': update_seconds}


def main(model: Path, out: Path) -> None:
  """Measures all points of `AXES`; writes `growth.json` and `growth.md`."""
  mesh = make_mesh()
  rows: dict[str, list[Any]] = {}
  with jax.set_mesh(mesh):
    loaded = language_model.load(model, mesh)
    # Every axis starts at BASE, which is measured once.
    times: dict[Shapes, Any] = {}
    for axis, sizes in AXES.items():
      for size in sizes:
        s = BASE._replace(**{axis: size})
        points = {'shared': s}
        # The cost without prefix sharing matters only as briefs grow.
        if axis == 'prompt_tokens':
          points['repeated'] = s._replace(prompts=s.group, group=1)
        for how, point in points.items():
          if point not in times:
            times[point] = measure(loaded, point)
            console.log(f'{point}: {times[point]}')
          row = {'size': size, 'how': how, **times[point]}
          rows.setdefault(axis, []).append(row)
  files.write_json(out / 'growth.json', {'base': BASE._asdict(), **rows})
  text = table(rows)
  (out / 'growth.md').write_text(text)
  print(text)


def table(rows: dict[str, list[Any]]) -> str:
  """Formats the rows of every axis as a Markdown table."""
  base = ', '.join(f'{name} {size}' for name, size in BASE._asdict().items())
  lines = [
    f'Seconds; sizes that do not vary: {base}.',
    '',
    '| varies | size | prefill of a brief | rollout | update |',
    '|---|---|---|---|---|',
  ]
  times = {'shared': 'once', 'repeated': 'for each reply'}
  for axis, axis_rows in rows.items():
    lines += [
      f'| {axis} | {row["size"]} | {times[row["how"]]} | '
      f'{row["rollout"]:.2f} | {row["update"]:.2f} |'
      for row in axis_rows
    ]
  return '\n'.join([*lines, ''])
