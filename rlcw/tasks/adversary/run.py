"""Task `adversary`: a game that sharpens a judge's principles.

Two strategies, each a short list of rules, play against each other: one to
write flawed replies, the other to judge replies.  A round (arXiv 2508.21476):

1. adversarial  the generator writes flawed replies, the detector judges them.
                How one was caught goes into the strategy for writing, what was
                missed into that for judging.
2. reflection   the detector judges labelled replies; of its errors the
                reflector says what principle would have prevented them.

There a rewritten strategy for judging is always taken.  Here it has to prove
itself on labelled replies kept apart, and on the fakes of the round: see
`strategy.loss`.

The detector is the judge as `judge` and `grpo` run it, so that a score in the
game is a score of the principles in use; the reason of its verdict is its
advice to the generator.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlcw import Config
from rlcw.data import batches, datasets
from rlcw.evaluation import plots
from rlcw.rewards.judge import factory
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.judge.remote import Form, JSONJudge
from rlcw.runtime import files, metrics
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import llm
from rlcw.sampling.prompts import Asking
from rlcw.tasks.adversary import labelled, strategy
from rlcw.tasks.adversary.agents import (
  AdversarialReply,
  Agents,
  Budget,
  BudgetExceeded,
)
from rlcw.tasks.adversary.labelled import Labelled
from rlcw.tasks.adversary.strategy import Reading, State, Strategy

_MOST_NOTES = 8  # that a change is to heed


class Game:
  """Plays rounds; every version of a strategy goes to disk with its cause.

  Args:
    config: of the task.
    workdir: where `strategies.jsonl`, `fakes.jsonl`, `metrics.jsonl` and
      `principles.md` go, and `state.json`, from which a killed game goes on.
    agents: the four.
    budget: of their calls.
    splits: labelled replies.

  Raises:
    ValueError: a strategy to begin with, or a number, is not legal.
  """

  def __init__(
    self,
    config: Config,
    workdir: Path,
    agents: Agents,
    budget: Budget,
    splits: Mapping[str, list[Labelled]],
  ):
    self.config, self.workdir, self.agents = config, workdir, agents
    self.budget, self.splits = budget, splits
    self.prompts = sorted({each.prompt for each in splits['train']})
    self.fakes: list[AdversarialReply] = []  # of this round
    self.fake_good = np.zeros(0)  # how probably Good each is, by `judging`
    self.tally: Counter[str] = Counter()  # of this round's rewritings
    # Twice, as each question may be put again: before and after the game.
    self.closing = 2 * len(splits['heldout']) * config.judge.votes
    opening = self.closing + 2 * len(splits['dev']) * config.judge.votes
    least = opening + self.closing + 1
    if config.max_calls < least:
      raise ValueError(
        f'max_calls={config.max_calls} does not reach to judge the labelled '
        f'replies once; legal: {least} or more'
      )
    for name in ('rounds', 'batches', 'batch_size', 'patience'):
      if config[name] < 1:
        raise ValueError(f'{name}={config[name]}; legal: an integer from 1 on')
    most = min(len(self.prompts), len(splits['train']))
    if config.batch_size > most:
      raise ValueError(
        f'batch_size={config.batch_size}, but there are {most} prompts to '
        f'train on; legal: 1 to {most}'
      )
    self.state = self.begin()

  def begin(self) -> State:
    """The state of a game that was killed, or of one that nobody has played."""
    file = self.workdir / 'state.json'
    if file.exists():
      state = State.read(file)
      self.budget.calls = state.calls
      return state
    construction = strategy.read(self.config.construction)
    judging = strategy.read(self.config.judge.principles)
    dev, _ = self.agents.detect(judging, self.splits['dev'])
    heldout, _ = self.agents.detect(judging, self.splits['heldout'])
    told = strategy.held_out(heldout, self.splits['heldout'])
    return State(construction, judging, dev.tolist(), told)

  def play(self) -> str:
    """All rounds; why they ended: `rounds`, `patience` or `calls`."""
    state, config = self.state, self.config
    self.budget.most = config.max_calls - self.closing
    first = state.round + (self.workdir / 'state.json').exists()
    with metrics.Writer(self.workdir, first) as write:
      if not first:
        for kind in ('construction', 'judging'):
          self.record(kind, getattr(state, kind), {'phase': 'start'}, '')
        write(0, self.told(0.0))
        self.save()
      steps = metrics.progress('adversary', state.round, config.rounds, 'round')
      for done in steps:
        if state.stale >= config.patience:
          return 'patience'
        state.round = done + 1
        started, before = time.perf_counter(), self.agreement()
        try:
          self.attack()
          self.reflect()
        except BudgetExceeded:
          return 'calls'
        rose = self.agreement() > before
        state.stale = 0 if rose else state.stale + 1
        told = self.told(time.perf_counter() - started)
        write(state.round, told)
        self.say(told)
        self.save()
    return 'patience' if state.stale >= config.patience else 'rounds'

  def attack(self) -> None:
    """The adversarial phase."""
    state = self.state
    self.fakes, self.fake_good = [], np.zeros(0)
    self.tally.clear()
    self.agents.counts.clear()
    for prompts in self.batches(self.prompts):
      fakes = self.agents.generate(state.construction, prompts)
      good_B, reasons = self.agents.detect(state.judging, fakes)
      verdicts = [*zip(fakes, good_B, reasons, strict=True)]
      for fake, good, reason in verdicts:
        record = {'p_good': good, 'reason': reason}
        self.log('fakes', fake._asdict() | record)
      self.fakes += fakes
      self.fake_good = np.append(self.fake_good, good_B)
      caught = [
        reason or fake.flaw for fake, good, reason in verdicts if good <= 0.5
      ]
      missed = [fake.flaw for fake, good, _ in verdicts if good > 0.5]
      self.tally.update(caught=len(caught), missed=len(missed))
      self.disguise(caught)
      self.sharpen('adversarial', missed)

  def reflect(self) -> None:
    """The reflection phase."""
    for batch in self.batches(self.splits['train']):
      judging = self.state.judging
      good_B, reasons = self.agents.detect(judging, batch)
      wrong = [
        (each, reason)
        for each, good, reason in zip(batch, good_B, reasons, strict=True)
        if np.isfinite(good) and (good > 0.5) != each.label
      ]
      if wrong:
        lessons = self.agents.reflect(judging, *zip(*wrong, strict=True))
        self.sharpen('reflection', lessons)

  def disguise(self, notes: Sequence[str]) -> None:
    """Notes on what was caught go into the strategy for writing."""
    if not notes:
      return
    cause = {'phase': 'adversarial', 'notes': notes}
    old = self.state.construction
    new = self.agents.optimise('construction', old, notes)
    self.record('construction', new, cause, '' if new else 'no legal rules')
    self.state.construction = new or old

  def sharpen(self, phase: str, notes: Sequence[str]) -> None:
    """Notes on what went wrong go into the strategy for judging, if it helps.

    It is judged by the dev replies and the round's fakes, those included that
    were missed.  The notes of a change that is refused go into the next.
    """
    if not notes:
      return
    state = self.state
    notes = [*state.open, *notes][-_MOST_NOTES:]
    cause = {'phase': phase, 'notes': notes}
    state.open = notes
    new = self.agents.optimise('judging', state.judging, notes)
    if new is None or new == state.judging:
      why = 'no legal rules' if new is None else 'nothing changed'
      self.record('judging', new, cause, why)
      return
    dev = self.splits['dev']
    good, _ = self.agents.detect(new, [*dev, *self.fakes])
    reading = Reading(good[: len(dev)], good[len(dev) :])
    why = strategy.rejection_reason(reading, self.reading(), dev)
    scores = strategy.score(reading, dev)
    self.record('judging', new, cause, why, scores)
    if not why:
      state.judging, state.dev = new, reading.labelled_N.tolist()
      state.open = []
      self.fake_good = reading.fake_F

  def batches(self, items: Sequence[Any]) -> Iterator[list[Any]]:
    """This round's batches of some items, the same ones in every run."""
    config = self.config
    for batch in range(config.batches):
      step = (self.state.round - 1) * config.batches + batch
      rows = batches.batch_indices(
        config.seed, step, config.batch_size, len(items)
      )
      yield [items[row] for row in rows]

  def reading(self) -> Reading:
    """What the judging strategy makes of the dev replies and the fakes."""
    return Reading(np.array(self.state.dev, float), self.fake_good)

  def agreement(self) -> float:
    """With the labels of the dev replies."""
    scores = strategy.score(self.reading(), self.splits['dev'])
    return scores['agreement']

  def told(self, seconds: float) -> dict[str, Any]:
    """A round's metrics."""
    calls = self.budget.calls - self.state.calls
    caught, missed = self.tally['caught'], self.tally['missed']
    scores = strategy.score(self.reading(), self.splits['dev'])
    return {
      'dev_agreement': scores['agreement'],
      'dev_balanced': scores['balanced'],
      'dev_matched': scores['matched'],
      'success': missed / (caught + missed) if caught + missed else np.nan,
      'fakes': len(self.fakes),
      'fakes_seen_through': scores['fakes'],  # by the round's last strategy
      'kept': self.tally['kept'],
      'refused': self.tally['refused'],
      'unanswered': self.agents.counts['unanswered'],
      'calls': self.budget.calls,
      'calls_per_second': calls / seconds if seconds else np.nan,
      'seconds': seconds,
    }

  def say(self, told: Mapping[str, Any]) -> None:
    """A line for whoever watches."""
    metrics.log(
      f'round {self.state.round}: agreement {told["dev_agreement"]:.1%}, '
      f"generator's success {told['success']:.1%}, "
      f'{told["kept"]} changes kept, {told["refused"]} refused, '
      f'{told["calls"]} calls, {told["calls_per_second"]:.1f}/s'
    )

  def record(
    self,
    kind: str,
    new: Strategy | None,
    cause: Mapping[str, Any],
    why: str,
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """A version of a strategy goes to disk; `why` it is refused, or blank."""
    if cause['phase'] != 'start' and kind == 'judging':
      self.tally['refused' if why else 'kept'] += 1
    record = {
      'strategy': kind,
      'rules': new.rules if new else None,
      'kept': not why,
      'refused_for': why,
      'cause': cause,
    }
    self.log('strategies', record | ({'scores': scores} if scores else {}))

  def log(self, name: str, record: Mapping[str, Any]) -> None:
    """Adds a line to one of the files that a resumed game cuts back."""
    line = {'step': self.state.round, **record}
    files.append_jsonl(self.workdir / f'{name}.jsonl', line)

  def save(self) -> None:
    """The state, and the principles as the judge loads them."""
    self.state.calls = self.budget.calls
    self.write_principles()
    files.write_json(
      self.workdir / 'state.json', dataclasses.asdict(self.state)
    )

  def write_principles(self) -> None:
    """The strategy for judging, as a file that `judge.principles` names."""
    text = self.state.judging.text + '\n'
    (self.workdir / 'principles.md').write_text(text, 'utf-8')


def play(
  config: Config, workdir: Path, asking: Asking, panel: Judge
) -> dict[str, Any]:
  """Plays the game with given models; returns the summary.

  Args:
    config: of the task.
    workdir: where files go.
    asking: answers generator, reflector and optimiser, by a schema.
    panel: answers the detector.
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
    budget.guard_panel(panel),
    factory.make_question('judge', config.judge),
  )
  game = Game(config, workdir, agents, budget, splits)
  ended = game.play()
  game.write_principles()
  budget.most = config.max_calls
  good_N, _ = agents.detect(game.state.judging, splits['heldout'])
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
    'heldout_after': strategy.held_out(good_N, splits['heldout']),
    'kept': sum(v['kept'] for v in versions if v['strategy'] == 'judging') - 1,
    'refused': sum(not v['kept'] for v in versions),
    'calls': budget.calls,
    'principles': str(workdir / 'principles.md'),
  }


def draw(rounds: Sequence[Mapping[str, Any]], file: Path) -> None:
  """A picture of the rounds' metrics."""
  columns = {
    name: np.array([each[name] for each in rounds], float)
    for name in ('step', *(n for panel in plots.ROUNDS for n in panel.series))
  }
  file.write_bytes(plots.draw_curves(plots.ROUNDS, columns, 2))


def make_detector(config: Config, mesh: Mesh, model: llm.Model) -> Judge:
  """The judge that a config names; if none, the agents' model judges too."""
  judge, base = ConfigDict(config.judge.to_dict()), None
  if isinstance(model, llm.LocalModel):
    base = model.model
    judge.model = judge.model or config.agents.model
  panel = factory.make_judge(judge, mesh, base, changing=True)
  return panel or JSONJudge(model.asking(Form))


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Loads the models and plays; returns the summary.

  Raises:
    FileNotFoundError: no such labelled replies, strategy or model.
    ValueError: one of these, or a setting, is not legal.
  """
  mesh = make_mesh(**config.mesh)
  model = llm.make_ask(config.agents, mesh)
  panel = make_detector(config, mesh, model)
  summary = play(config, workdir, model.asking, panel) | {
    'usage': {'agents': model.usage(), 'judge': panel.usage()},
  }
  before, after = summary['heldout_before'], summary['heldout_after']
  metrics.log(
    f'adversary: ended by {summary["ended"]} after {summary["rounds"]} rounds, '
    f'{summary["kept"]} changes of the principles kept; held-out agreement '
    f'{before["agreement"]:.1%} before, {after["agreement"]:.1%} after; '
    f'{summary["principles"]}'
  )
  return summary
