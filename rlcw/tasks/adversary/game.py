"""The adversarial game: two strategies, each a short list of rules, compete.

By the construction strategy flawed replies are written, by the judging strategy
replies are judged.  A round (arXiv 2508.21476):

  1. attack    the generator writes flawed replies, and the detector judges
               them.  The reasons for which flaws were caught go into the
               construction strategy, missed flaws into the judging strategy.
  2. reflect   the detector judges labelled replies, and the reflector suggests
               principles that would have prevented its errors.

The paper accepts every rewritten judging strategy.  Here it must not score
lower on the `dev` replies and on the fakes of the round: see
`strategy.rejection_reason`.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import batches
from rlcw.evaluation import verdicts
from rlcw.evaluation.labelled import Labelled
from rlcw.runtime import (
  console,
  files,
  metrics,
  processes,
)
from rlcw.sampling.usage import Ledger
from rlcw.tasks.adversary import strategy
from rlcw.tasks.adversary.agents import (
  AdversarialReply,
  Agents,
  Budget,
  BudgetExceeded,
)
from rlcw.tasks.adversary.strategy import Reading, State, Strategy

_MOST_NOTES = 8  # shown to the optimiser at once, the latest ones


class Game:
  """Plays rounds, and logs every version of a strategy with its cause.

  Args:
    config: of the task.
    workdir: `strategies.jsonl`, `fakes.jsonl`, `metrics.jsonl` and
      `principles.md` are written here, and `state.json`, from which a killed
      game resumes.
    agents: the four roles.
    budget: of their calls.
    splits: labelled replies.
    ledger: of the models' usage, saved with the game's state.

  Raises:
    FileNotFoundError: an initial strategy does not exist.
    ValueError: an initial strategy or a setting is invalid.
  """

  def __init__(
    self,
    config: Config,
    workdir: Path,
    agents: Agents,
    budget: Budget,
    splits: Mapping[str, list[Labelled]],
    ledger: Ledger,
  ):
    self.ledger = ledger
    self.config, self.workdir, self.agents = config, workdir, agents
    self.budget, self.splits = budget, splits
    self.prompts = sorted({each.prompt for each in splits['train']})
    # Fakes of this round, and their probabilities of Good under `judging`.
    self.fakes: list[AdversarialReply] = []
    self.fake_good = np.zeros(0)
    self.tally: Counter[str] = Counter()  # of this round, for its metrics
    # Calls to judge the held-out replies once.  Twice their number, because an
    # invalid answer is asked for again; they are reserved for the end of the
    # game, so that a budget used up by rounds still gives a result.
    self.closing = 2 * len(splits['heldout']) * config.judge.votes
    opening = self.closing + 2 * len(splits['dev']) * config.judge.votes
    least = opening + self.closing + 1
    if config.max_calls < least:
      raise ValueError(
        f'max_calls={config.max_calls} is too small: judging the labelled '
        f'replies once needs {least} calls'
      )
    # A batch has no prompt, and no reply, twice.
    most = min(len(self.prompts), len(splits['train']))
    if config.batch_size > most:
      raise ValueError(
        f'batch_size={config.batch_size}, but there are {most} prompts to '
        f'train on; expected 1 to {most}'
      )
    self.state = self.initial_state()

  def initial_state(self) -> State:
    """Reads the state of a killed game, or makes that of a new one."""
    file = self.workdir / 'state.json'
    if file.exists():
      state = State.read(file)
      self.budget.calls = state.calls
      return state
    construction = strategy.read(self.config.construction)
    judging = strategy.read(self.config.judge.principles)
    with self.agents.answering('no labelled reply got a verdict'):
      dev, _ = self.agents.detect(judging, self.splits['dev'])
      heldout, _ = self.agents.detect(judging, self.splits['heldout'])
    scores = verdicts.held_out(heldout, self.splits['heldout'])
    return State(construction, judging, dev.tolist(), scores)

  def play(self) -> str:
    """Plays all rounds.

    Returns:
      The reason why they ended: `rounds` (all were played), `patience` (no
      progress) or `calls` (the budget is used up).

    Raises:
      NoAnswers: a whole round got no answer; it is played again when resumed.
    """
    state, config = self.state, self.config
    self.budget.limit = config.max_calls - self.closing
    # Step 0 is the state before the first round.  A resumed game continues
    # after its last saved round, and the writer drops later lines of all logs.
    first = state.round + (self.workdir / 'state.json').exists()
    with metrics.Writer(self.workdir, first) as write:
      if not first:
        for kind in ('construction', 'judging'):
          self.log_version(kind, getattr(state, kind), {'phase': 'start'}, '')
        write(0, self.round_metrics(0.0))
        self.save()
      steps = console.progress('adversary', state.round, config.rounds, 'round')
      for done in processes.stoppable(steps):
        if state.stale >= config.patience:
          return 'patience'
        state.round = done + 1
        started, before = time.perf_counter(), self.agreement()
        try:
          with self.agents.answering('no question of a round was answered'):
            self.attack()
            self.reflect()
        except BudgetExceeded:
          # The unfinished round is not saved, but its accepted strategies stay
          # in `state` for the final evaluation.
          return 'calls'
        rose = self.agreement() > before
        state.stale = 0 if rose else state.stale + 1
        values = self.round_metrics(time.perf_counter() - started)
        write(state.round, values)
        self.log_round(values)
        # Last: a round counts as played once its state is saved.
        self.save()
    return 'patience' if state.stale >= config.patience else 'rounds'

  def attack(self) -> None:
    """Adversarial phase: learns from flaws that are caught or missed."""
    state = self.state
    self.fakes, self.fake_good = [], np.zeros(0)
    self.tally.clear()
    self.agents.counts.clear()
    for prompts in self.batches(self.prompts):
      fakes = self.agents.generate(state.construction, prompts)
      good_B, reasons = self.agents.detect(state.judging, fakes)
      # A missing verdict is NaN, which is neither caught nor missed below.
      verdicts = [*zip(fakes, good_B, reasons, strict=True)]
      for fake, good, reason in verdicts:
        record = {'p_good': good, 'reason': reason}
        self.append_log('fakes', fake._asdict() | record)
      self.fakes += fakes
      self.fake_good = np.append(self.fake_good, good_B)
      caught = [
        reason or fake.flaw for fake, good, reason in verdicts if good <= 0.5
      ]
      missed = [fake.flaw for fake, good, _ in verdicts if good > 0.5]
      self.tally.update(caught=len(caught), missed=len(missed))
      self.update_generator(caught)
      self.update_judge('adversarial', missed)

  def reflect(self) -> None:
    """Reflection phase: learns from wrong verdicts on labelled replies."""
    for batch in self.batches(self.splits['train']):
      # Read anew for every batch: the one before may have replaced it.
      judging = self.state.judging
      good_B, reasons = self.agents.detect(judging, batch)
      wrong = [
        (each, reason)
        for each, good, reason in zip(batch, good_B, reasons, strict=True)
        if np.isfinite(good) and (good > 0.5) != each.label
      ]
      if wrong:
        notes = self.agents.reflect(judging, *zip(*wrong, strict=True))
        self.update_judge('reflection', notes)

  def update_generator(self, notes: Sequence[str]) -> None:
    """Rewrites the construction strategy from reasons why fakes were caught.

    Any valid answer is accepted: a weak generator cannot harm the judge.
    """
    if not notes:
      return
    cause = {'phase': 'adversarial', 'notes': notes}
    old = self.state.construction
    new = self.agents.optimise('construction', old, notes)
    why = '' if new else 'no valid rules'
    self.log_version('construction', new, cause, why)
    self.state.construction = new or old

  def update_judge(self, phase: str, notes: Sequence[str]) -> None:
    """Rewrites the judging strategy from notes on errors, if that helps.

    The new strategy must pass `strategy.rejection_reason` on the dev replies
    and all fakes of this round, missed ones included.  Notes of a rejected
    change are kept for the next one.

    Args:
      phase: `adversarial` or `reflection`, for the log.
      notes: missed flaws, or suggested principles.
    """
    if not notes:
      return
    state = self.state
    notes = [*state.open, *notes][-_MOST_NOTES:]
    cause = {'phase': phase, 'notes': notes}
    state.open = notes
    new = self.agents.optimise('judging', state.judging, notes)
    if new is None or new == state.judging:
      why = 'no valid rules' if new is None else 'nothing changed'
      self.log_version('judging', new, cause, why)
      return
    dev = self.splits['dev']
    # One batch of questions for both kinds of replies.
    good, _ = self.agents.detect(new, [*dev, *self.fakes])
    reading = Reading(good[: len(dev)], good[len(dev) :])
    why = strategy.rejection_reason(reading, self.reading(), dev)
    scores = verdicts.score(reading, dev)
    self.log_version('judging', new, cause, why, scores)
    if not why:
      # The probabilities go with the strategy: until it is replaced, neither
      # dev replies nor fakes are judged again.
      state.judging, state.dev = new, reading.labelled_N.tolist()
      state.open = []
      self.fake_good = reading.fake_F

  def batches(self, items: Sequence[Any]) -> Iterator[list[Any]]:
    """Yields this round's batches of some items, a function of the seed."""
    config = self.config
    for batch in processes.stoppable(range(config.batches)):
      # Counted over all rounds, so that rounds take turns through an epoch.
      step = (self.state.round - 1) * config.batches + batch
      rows = batches.batch_indices(
        config.seed, step, config.batch_size, len(items)
      )
      # A batch that spans two epochs may have drawn an item twice.
      yield [items[row] for row in dict.fromkeys(rows.tolist())]

  def reading(self) -> Reading:
    """Probabilities of dev replies and this round's fakes under `judging`."""
    return Reading(np.array(self.state.dev, float), self.fake_good)

  def agreement(self) -> float:
    """Agreement of the judging strategy with the labels of the dev replies."""
    scores = verdicts.score(self.reading(), self.splits['dev'])
    return scores['agreement']

  def round_metrics(self, seconds: float) -> dict[str, Any]:
    """Metrics of a round, a row of `metrics.jsonl`."""
    # `state.calls` is still that of the last save.
    calls = self.budget.calls - self.state.calls
    caught, missed = self.tally['caught'], self.tally['missed']
    scores = verdicts.score(self.reading(), self.splits['dev'])
    return {
      'dev_agreement': scores['agreement'],
      'dev_balanced': scores['balanced'],
      'dev_matched': scores['matched'],
      'success': missed / (caught + missed) if caught + missed else np.nan,
      'fakes': len(self.fakes),
      # By the round's last strategy; `success` is by the one in force when each
      # fake was judged.
      'fakes_seen_through': scores['fakes'],
      'kept': self.tally['kept'],
      'refused': self.tally['refused'],
      'unanswered': self.agents.counts['unanswered'],
      'calls': self.budget.calls,
      'calls_per_second': calls / seconds if seconds else np.nan,
      'seconds': seconds,
    }

  def log_round(self, values: Mapping[str, Any]) -> None:
    """Logs a line to the terminal."""
    template = (
      'agreement {dev_agreement:.1%}, success of the generator {success:.1%}, '
      '{kept:d} changes kept, {refused:d} refused, {calls:,d} calls, '
      '{calls_per_second:.1f}/s'
    )
    console.log(f'round {self.state.round}: {console.line(template, values)}')

  def log_version(
    self,
    kind: str,
    new: Strategy | None,
    cause: Mapping[str, Any],
    why: str,
    scores: Mapping[str, float] | None = None,
  ) -> None:
    """Appends a version of a strategy to `strategies.jsonl`.

    Args:
      kind: `construction` or `judging`.
      new: the version; None if the optimiser's answer was invalid.
      cause: the phase, and the notes that the optimiser was given.
      why: the reason for its rejection; '' if it was accepted.
      scores: on the dev replies and fakes, if it was tried.
    """
    if cause['phase'] != 'start' and kind == 'judging':
      self.tally['refused' if why else 'kept'] += 1
    record = {
      'strategy': kind,
      'rules': new.rules if new else None,
      'kept': not why,
      'refused_for': why,
      'cause': cause,
    }
    extra = {'scores': scores} if scores else {}
    self.append_log('strategies', record | extra)

  def append_log(self, name: str, record: Mapping[str, Any]) -> None:
    """Appends a line to a log, with its round.

    A resumed game drops the lines of rounds that it plays again
    (`metrics.STEP_LOGS`).
    """
    line = {'step': self.state.round, **record}
    files.append_jsonl(self.workdir / f'{name}.jsonl', line)

  def save(self) -> None:
    """Saves the state, and the principles as a judge loads them."""
    # With the calls so far, a resumed game does not get a new budget.
    self.state.calls = self.budget.calls
    self.write_principles()
    self.ledger.save()
    files.write_json(
      self.workdir / 'state.json', dataclasses.asdict(self.state)
    )

  def write_principles(self) -> None:
    """Writes the judging strategy, as a file for `judge.principles`."""
    text = self.state.judging.text + '\n'
    files.replace(self.workdir / 'principles.md', text)
