"""How rlcw's step grows with the group, the brief and the reply.

Random briefs of full length, settings as beside the peers; each program runs
twice, and the second time counts.  For briefs of growing length also what it
would cost to read them once for every reply: as many groups of one reply.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peers import rlcw_step

from rlcw import train
from rlcw.models import language_model
from rlcw.runtime import files, metrics
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.rollout import Temperature, sample
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan.roofline import Shapes

BASE = Shapes(prompts=1, group=4, prompt_tokens=64, reply_tokens=32)
AXES = {
  'group': (4, 16, 64),
  'prompt_tokens': (64, 256, 1024),
  'reply_tokens': (32, 128, 512),
}


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
  """Of the second of two calls, as the first compiles; and its result."""
  jax.block_until_ready(call())
  started = time.perf_counter()
  result = jax.block_until_ready(call())
  return time.perf_counter() - started, result


def measure(model: language_model.LanguageModel, s: Shapes) -> dict[str, float]:
  """Seconds of a rollout, and of the update that learns from it."""
  settings = rlcw_step.settings(
    {'temperature': 1.0, 'learning_rate': 1e-6, 'seed': 0}
  )
  config = objective.configure(model.config, settings)
  random = np.random.default_rng(0)
  size = s.prompts, s.prompt_tokens
  prompts = (
    random.integers(0, config.vocab_size, size, np.int32),
    np.full(s.prompts, s.prompt_tokens, np.int32),
  )
  rolled, rollout = seconds(
    lambda: sample(
      model.params,
      *prompts,
      np.arange(s.prompts),
      Temperature(1.0),
      *(0, 0),  # seed and step
      config=config,
      group_size=s.group,
      max_new_tokens=s.reply_tokens,
      eos=(config.vocab_size,),
    )
  )
  optimizer = objective.make_optimizer(settings)
  params = jax.tree.map(jnp.copy, model.params)  # an update takes its own
  state = train.init_state(params, optimizer, model.mesh)
  update = train.make_update(
    objective.make_loss(config, settings), optimizer, state
  )
  reward = random.normal(size=(s.prompts, s.group)).astype(np.float32)
  arrays = rlcw_step.batch(prompts, rollout, reward)

  def learn() -> Any:
    nonlocal state
    state, _ = update(state, arrays, {})
    return state

  learned, _ = seconds(learn)
  return {'rollout': rolled, 'update': learned}


def main(model: Path, out: Path) -> None:
  """Measures every point; writes `growth.json` and `growth.md`."""
  mesh = make_mesh()
  found: dict[str, list[Any]] = {}
  with jax.set_mesh(mesh):
    loaded = language_model.load(model, mesh)
    known: dict[Shapes, Any] = {}
    for axis, sizes in AXES.items():
      for size in sizes:
        s = BASE._replace(**{axis: size})
        points = {'shared': s}
        if axis == 'prompt_tokens':
          points['repeated'] = s._replace(prompts=s.group, group=1)
        for how, point in points.items():
          if point not in known:
            known[point] = measure(loaded, point)
            metrics.log(f'{point}: {known[point]}')
          row = {'size': size, 'how': how, **known[point]}
          found.setdefault(axis, []).append(row)
  files.write_json(out / 'growth.json', {'base': BASE._asdict(), **found})
  text = table(found)
  (out / 'growth.md').write_text(text)
  print(text)


def table(found: dict[str, list[Any]]) -> str:
  """The points in Markdown."""
  base = ', '.join(f'{name} {size}' for name, size in BASE._asdict().items())
  lines = [
    f'Seconds; what does not vary is {base}.',
    '',
    '| varies | size | brief is read | rollout | update |',
    '|---|---|---|---|---|',
  ]
  times = {'shared': 'once', 'repeated': 'for each reply'}
  for axis, rows in found.items():
    lines += [
      f'| {axis} | {row["size"]} | {times[row["how"]]} | '
      f'{row["rollout"]:.2f} | {row["update"]:.2f} |'
      for row in rows
    ]
  return '\n'.join([*lines, ''])
