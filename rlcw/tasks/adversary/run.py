"""Task `adversary`: improves a judge's principles by an adversarial game.

`game` plays it.  The detector is the judge as tasks `judge` and `grpo` run it,
so that scores in the game are scores of the principles in use.  The reason for
its verdict is also the feedback to the generator.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlcw import Config
from rlcw.data import datasets
from rlcw.evaluation import labelled, plots, verdicts
from rlcw.rewards.judge import factory
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.judge.remote import Form, JSONJudge
from rlcw.runtime import (
  claim,
  console,
  files,
)
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import llm, secret, usage
from rlcw.sampling.outage import trouble_of
from rlcw.sampling.prompts import Asking
from rlcw.sampling.usage import Ledger
from rlcw.tasks.adversary.agents import (
  Agents,
  Budget,
)
from rlcw.tasks.adversary.game import Game


def play(
  config: Config,
  workdir: Path,
  asking: Asking,
  judge: Judge,
  model: llm.Model | None = None,
  ledger: Ledger | None = None,
) -> dict[str, Any]:
  """Plays the game with given models; returns the summary.

  Args:
    config: of the task.
    workdir: of the run.
    asking: makes, for a schema, the function from prompts to replies of the
      generator, the reflector and the optimiser.
    judge: the detector.
    model: behind `asking`, for its errors.
    ledger: of the usage of both, saved with the game's state.

  Raises:
    FileNotFoundError: the labelled replies or a strategy do not exist.
    ValueError: one of these, or a setting, is invalid; or nothing is answered.
  """
  splits = labelled.load(
    config.labelled,
    config.judge.language,
    dev=config.dev,
    heldout=config.heldout,
  )
  budget = Budget(config.max_calls)
  agents = Agents(
    budget.guard_asking(asking),
    budget.guard_judge(judge),
    factory.make_question('judge', config.judge),
    secret=secret.load(config.agents.cache, workdir),
    model_trouble=lambda: trouble_of(model),
  )
  ledger = ledger or Ledger(workdir, {})
  game = Game(config, workdir, agents, budget, splits, ledger)
  claim.settle()
  ended = game.play()
  game.write_principles()
  # Release the calls that were reserved for this.
  budget.limit = config.max_calls
  with agents.answering('no held-out reply got a verdict'):
    good_N, _ = agents.detect(game.state.judging, splits['heldout'])
  ledger.save()
  rounds = datasets.read_jsonl(workdir / 'metrics.jsonl')
  versions = datasets.read_jsonl(workdir / 'strategies.jsonl')
  draw(rounds, workdir / 'curves.png')
  return {
    'ended': ended,
    'rounds': len(rounds) - 1,
    **{split: len(members) for split, members in splits.items()},
    'dev_agreement_before': rounds[0]['dev_agreement'],
    'dev_agreement': game.agreement(),
    'heldout_before': game.state.heldout,
    'heldout_after': verdicts.held_out(good_N, splits['heldout']),
    # Without the initial version.
    'kept': sum(v['kept'] for v in versions if v['strategy'] == 'judging') - 1,
    'refused': sum(not v['kept'] for v in versions),
    'calls': budget.calls,
    'principles': str(workdir / 'principles.md'),
  }


def draw(rounds: Sequence[Mapping[str, Any]], file: Path) -> None:
  """Draws the metrics over rounds as a PNG."""
  columns = {
    name: np.array([each[name] for each in rounds], float)
    for name in ('step', *(n for panel in plots.ROUNDS for n in panel.series))
  }
  files.replace(file, plots.draw_curves(plots.ROUNDS, columns, 2))


def make_detector(
  config: Config, mesh: Mesh, model: llm.Model, workdir: Path
) -> Judge:
  """Makes the judge that a config names; by default the agents' model."""
  judge, base = ConfigDict(config.judge.to_dict()), None
  if isinstance(model, llm.LocalModel):
    # One copy of the weights, if both are the same model.
    base = model.model
    judge.model = judge.model or config.agents.model
  # `changing`: a game tries many principles, so the prefix of the prompt that
  # is cached for them has one of a few lengths, not one to compile for each.
  detector = factory.make_judge(
    judge, mesh, base, changing=True, workdir=workdir
  )
  # Its calls are counted as the agents'.
  return detector or JSONJudge(
    model.asking(Form), secret=secret.load(config.agents.cache, workdir)
  )


def print_table(summary: Mapping[str, Any]) -> None:
  """Prints the main numbers of a summary."""
  sides = summary['heldout_before'], summary['heldout_after']
  console.table(
    f'adversary: {summary["heldout"]} held-out replies',
    ('', 'before', 'after'),
    [
      # A game that an earlier version began has fewer numbers of its start.
      (label, *(verdicts.cell(side, *score) for side in sides))
      for label, *score in verdicts.SCORES
    ],
  )
  console.log(
    f'adversary: ended by {summary["ended"]} after {summary["rounds"]} rounds, '
    f'{summary["kept"]} changes of the principles kept, {summary["refused"]} '
    f'refused; {summary["principles"]}'
  )


def check(config: Config) -> None:
  """Raises ValueError if no model is named that plays the agents."""
  llm.check_named(config.agents, 'agents')


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Loads the models and plays the game; returns the summary.

  Raises:
    FileNotFoundError: labelled replies, a strategy or a model do not exist.
    ValueError: one of these, or a setting, is invalid.
  """
  mesh = make_mesh(**config.mesh)
  model = llm.make_ask(config.agents, mesh)
  detector = make_detector(config, mesh, model, workdir)
  ledger = Ledger(workdir, {'agents': model.usage, 'judge': detector.usage})
  summary = play(config, workdir, model.asking, detector, model, ledger)
  summary['usage'] = ledger.totals()
  print_table(summary)
  usage.log('adversary', summary['usage'])
  return summary
