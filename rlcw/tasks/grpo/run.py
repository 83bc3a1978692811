"""Task `grpo`: learn to write well without breaking a rule.

One step, from top to bottom:

  1. briefs     P of them, a function of (seed, step)
  2. rollout    G replies to each, sampled from the current policy
  3. scores     the frozen decoder gives the writing score and the reference
                log-probabilities in one pass, while the host checks the rules
  4. mix        a rule-breaker's reward is lowered until its advantage is
                negative (RLMR), or one of the baselines
  5. update     clipped policy gradient (`learner`); each brief is read once for
                its group
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlcw import Config, train
from rlcw.data import datasets
from rlcw.models import language_model, lora, weights
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import mixing, scoring
from rlcw.rewards.briefs import load_briefs
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import metrics, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.tasks.grpo import monitors, objective
from rlcw.tasks.grpo.step import make_next_batch


def load(config: Config) -> LanguageModel:
  """The model that a run trains, with the adapters that it asks for."""
  mesh = make_mesh(**config.mesh)
  model = language_model.load(config.model, mesh)
  return model._replace(config=objective.configure(model.config, config))


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains a policy; returns its summary, in the process that tells."""
  check(config)
  started = time.perf_counter()
  model = load(config)
  briefs = load_briefs(config.briefs, split='train', language=config.language)
  optimizer = objective.make_optimizer(config)
  learned, frozen = lora.split(
    model.config, model.params, model.mesh, config.seed
  )
  # what learns stays float32; the reference, and a frozen base, need not
  model = language_model.cast(model, config.compute_dtype, config.attention)
  frozen = frozen and model.params
  if config.offload and not frozen:
    waiting = weights.in_memory(model.params, 'pinned_host')
    model = model._replace(params=waiting)
  scorer = Scorer(model, config)
  state = train.fit(
    learned,
    make_next_batch(model, scorer, frozen, briefs, config, workdir),
    objective.make_loss(model.config, config),
    optimizer,
    model.mesh,
    frozen=frozen,
    name='grpo',
    steps=config.steps,
    workdir=workdir,
    checkpoint_every=config.checkpoint_every,
    microbatches=config.prompts_per_step // config.microbatch_groups,
    watch=make_watch(config),
  )
  if not processes.is_primary_process():
    return {}
  history = datasets.read_jsonl(workdir / 'metrics.jsonl')
  worst = [
    row['max_violator_advantage']
    for row in history
    if row['max_violator_advantage'] is not None
  ]
  watched = monitors.survey(history, config.monitors)
  summary = {
    'steps': int(state.step),
    'warnings': watched.warnings,
    'unmonitored': watched.off(),
    'max_violator_advantage': max(worst, default=None),
    'wall_seconds': sum(row['seconds_step'] for row in history),
    'process_seconds': time.perf_counter() - started,
    'compilations': history[-1]['compilations'],
    'compile_seconds': history[-1]['seconds_compiling'],
  }
  return summary


def check(config: Config) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  objective.check(config, make_mesh(**config.mesh))
  scoring.check(config)
  monitors.check(config.monitors)
  mixing.check(config.mixing, config.advantage_scale)


def make_watch(config: Config) -> Callable[[dict[str, Any]], None]:
  """Says a line where a row of metrics trips a monitor."""
  watch = monitors.Watch(config.monitors)

  def see(row: dict[str, Any]) -> None:
    for found in watch.see(row):
      name, step, text = (found[k] for k in ('monitor', 'step', 'text'))
      metrics.log(f'grpo: warning ({name}, step {step}): {text}')

  return see
