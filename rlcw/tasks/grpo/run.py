"""Task `grpo`: train a policy to write well without breaking rules.

`run` loads the model and connects three parts: `step` makes the batch of each
step, `objective` gives loss and optimiser, and `train.fit` is the loop.  To
read how a step works, start with `step`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcw import Config, train
from rlcw.data import datasets
from rlcw.evaluation import heldout
from rlcw.models import compute, language_model, lora, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.decoder import Params
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import mixing, revision, scoring
from rlcw.rewards.briefs import Brief, load_run_briefs
from rlcw.rewards.extract import records
from rlcw.rewards.scoring import Scorer
from rlcw.rewards.writing import check_rubrics, pair_questions
from rlcw.runtime import claim, console, loggers, metrics, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import usage
from rlcw.tasks.grpo import (
  demonstrating,
  evaluation,
  measures,
  minibatches,
  monitors,
  objective,
  refitting,
  stops,
)
from rlcw.tasks.grpo.evaluation import Evaluator
from rlcw.tasks.grpo.step import make_next_batch

# Line of a step (`console.line`).
LINE = (
  'reward {reward:.3f}, {pass_rate:.1%} keep all rules, KL {kl:.4f}, '
  '{length_mean:.1f} tokens a reply, {tokens_per_second:,.0f} tokens/s, '
  '{seconds_step:.1f} s'
)


def load(config: Config) -> LanguageModel:
  """Loads the model that a run trains, on its mesh and with its adapters."""
  mesh = make_mesh(**config.mesh)
  model = language_model.load(config.model, mesh)
  return model._replace(config=compute.configure(model.config, config))


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains a policy.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    FileNotFoundError: a model or a file of briefs does not exist.
    ValueError: a setting, a model or a file is invalid.
  """
  # Before any model is loaded, so that a mistake costs no time.
  check(config)
  started = time.perf_counter()
  extracted = (
    records.extract_once(config.briefs, workdir)
    if config.get('extract_rules', False)
    else None
  )
  evaluates = config.get('eval_every', 0) > 0
  if evaluates:
    evaluation.load_briefs(config, workdir=workdir)
  model = language_model.with_system(load(config), config.system)
  briefs = load_training_briefs(config, model.system, model.chat, workdir)
  optimizer = objective.make_optimizer(config)
  model, learned, frozen = split(model, config)
  unseen = evaluation.load_unseen(model, config) if evaluates else None
  scorer = Scorer(model, config, workdir, reference=config.kl_weight > 0)
  # Without a KL term the scorer may have dropped the base's weights, a second
  # copy of those that are trained.
  model = scorer.model
  next_batch = make_next_batch(model, scorer, frozen, briefs, config, workdir)
  evaluator = None
  if evaluates:
    measured = evaluation.load_briefs(config, model.system, workdir)
    answer = evaluation.make_answer(
      model, frozen, scorer, unseen, measured, config
    )
    claim.settle()  # the first replies are written before the first step
    evaluator = Evaluator(answer, measured, config, workdir)
    evaluator.begin(learned)
  watch = monitors.Watch(config.monitors)
  if config.monitors.get('stop', False):
    next_batch = stops.stopping(next_batch, watch, workdir)
  state = train.fit(
    learned,
    next_batch,
    objective.make_loss(model.config, config),
    optimizer,
    model.mesh,
    frozen=frozen,
    name='grpo',
    steps=config.steps,
    workdir=workdir,
    checkpoint_every=config.checkpoint_every,
    microbatches=minibatches.size(config) // minibatches.micro(config),
    watch=make_watch(watch, evaluator),
    line=LINE,
    rate=objective.make_rate(config),
    config=config,
    evaluation=evaluator,
  )
  # Only process 0 has written the files that the summary is made from.
  if not processes.is_primary_process():
    return {}
  history = datasets.read_jsonl(workdir / 'metrics.jsonl')
  summary = {
    'steps': int(state.step),
    **summarise(history, config),
    'process_seconds': time.perf_counter() - started,
  }
  if extracted:
    summary['extracted'] = extracted
  if evaluator is not None:
    summary |= evaluator.summary(history)
  if spent := judge_usage(history, scorer.usage()):
    summary['usage'] = {'judge': spent}
    usage.log('grpo', summary['usage'])
  return summary


def load_training_briefs(
  config: Config, system: str, chat: ChatFormat, workdir: Path
) -> list[Brief]:
  """Loads the training briefs, and logs their questions to the judge.

  The held-out ones are read too, so that no training is followed by an
  evaluation that cannot be.

  Args:
    config: of the run.
    system: the system message of briefs without their own.
    chat: of the policy.
    workdir: of the run.

  Raises:
    FileNotFoundError, ValueError: see `load_run_briefs`, `check_rubrics` and
      `heldout.encode`.
  """
  briefs = load_run_briefs(config, 'train', system, workdir)
  check_rubrics(config, briefs)
  if asked := pair_questions(config):
    console.log(
      f'grpo: the judge compares replies by {asked} questions for each group, '
      f'{asked * objective.sampled_prompts(config):,} a step'
    )
  try:
    unread = load_run_briefs(config, 'heldout', system, workdir)
  except ValueError as error:
    console.notice(f'{error}; without them, evaluate needs --config.briefs')
  else:
    heldout.encode(unread, chat, config)
  return briefs


def split(
  model: LanguageModel, config: Config
) -> tuple[LanguageModel, Params, Params]:
  """Splits a model's parameters into those that are trained and the others.

  Returns:
    The model before training, which is the reference; the parameters that are
    trained; and those that complete them, or empty.
  """
  learned, frozen = lora.split(
    model.config, model.params, model.mesh, config.seed
  )
  # Trained weights stay float32, as small updates would be rounded away in
  # bfloat16.  The reference, and the frozen base of adapters, may be bfloat16.
  model = language_model.cast(model, config.compute_dtype, config.attention)
  # With adapters the base is the reference too: both share one copy in memory.
  frozen = frozen and model.params
  # The reference is read once per step, and may stay in host memory in between.
  # The base of adapters may not: the rollout and the update read it as well.
  if config.offload and not frozen:
    on_host = weights.in_memory(model.params, 'pinned_host')
    model = model._replace(params=on_host)
  return model, learned, frozen


def summarise(
  history: Sequence[Mapping[str, Any]], config: Config
) -> dict[str, Any]:
  """Returns the part of the summary that is computed from `metrics.jsonl`.

  Args:
    history: rows of `metrics.jsonl`, at least one.
    config: of the `grpo` task.
  """
  # None, for −inf: a step without a mixed group has no violator to compare.
  worst = [
    row['max_violator_advantage']
    for row in history
    if row.get('max_violator_advantage') is not None
  ]
  watched = monitors.survey(history, config.monitors)
  return {
    'warnings': watched.warnings,
    'unmonitored': watched.off(),
    'max_violator_advantage': max(worst, default=None),
    # Rows of earlier versions do not count them.
    'skipped_steps': sum(row.get('skipped', 0) for row in history),
    # Shares of all replies, which were left out of their groups.
    **{
      name: metrics.mean([row[name] for row in history])
      for name in ('unscored', 'unverified')
    },
    'wall_seconds': sum(
      row['seconds_step'] + (row.get('seconds_eval') or 0) for row in history
    ),
    'compilations': history[-1]['compilations'],
    'compile_seconds': history[-1]['seconds_compiling'],
  }


def judge_usage(
  history: Sequence[Mapping[str, Any]], names: Iterable[str]
) -> dict[str, float]:
  """Returns the judge's counts in all rows, earlier processes' included.

  Args:
    history: rows of `metrics.jsonl`.
    names: of the counts.
  """
  return usage.add(
    {name: row.get(f'{prefix}judge_{name}') or 0 for name in names}
    for row in history
    for prefix in ('', measures.BEFORE, measures.AFTER)
  )


def check(config: Config) -> None:
  """Checks the settings of `grpo` against each other and the devices.

  Raises:
    ValueError: some do not fit; names them and the expected values.
  """
  loggers.check(config)
  objective.check(config, make_mesh(**config.mesh))
  scoring.check(config)
  mixing.check(config.mixing, config.advantage_scale)
  mixing.check_margin(config.mixing.margin, config.group_size)
  demonstrating.check(config)
  refitting.check(config)
  revision.check(config)
  evaluation.check(config)


def make_watch(
  watch: monitors.Watch, evaluator: Evaluator | None
) -> Callable[[dict[str, Any]], None]:
  """Returns the function that `train.fit` calls with each row of metrics.

  It logs a line for each monitor that the row trips, and updates the best
  evaluation so far.
  """

  def see(row: dict[str, Any]) -> None:
    if evaluator is not None:
      evaluator.best.see(row)
    for warning in watch.see(row):
      name, step, text = (warning[k] for k in ('monitor', 'step', 'text'))
      console.log(f'grpo: warning ({name}, step {step}): {text}')

  return see
