"""Monitors of reward hacking: signs that a run pleases its reward, not readers.

A monitor compares the mean of a metric over the last window of steps with its
mean over the first window (`no_signal` looks at the last alone).  The windows
do not overlap, and no single step trips a monitor:

  length      replies grow or shrink, the most common way to please a reward
  repetition  replies repeat themselves
  copied      replies repeat their brief
  phrase      replies to different briefs have a phrase in common
  marks       replies fill with exclamation marks, emoji or a layout
  judge       the writing reward rises while a judge likes the replies less
  no_signal   groups whose advantages are all about 0 teach nothing
  entropy     replies become alike, which leaves no differences to learn from
  gap         in evaluations the writing score rises, and an unseen one does not

Everything is computed from the rows of `metrics.jsonl`, so a resumed run gives
the same warnings as an uninterrupted one.

Letters: K steps in a window, M metrics of a monitor.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config


def _ratio(first_KxM: np.ndarray, last_KxM: np.ndarray) -> float:
  """Mean of the last window relative to the first."""
  return float(last_KxM.mean() / max(first_KxM.mean(), 1e-9))


def _rise(first_KxM: np.ndarray, last_KxM: np.ndarray) -> float:
  """Difference of the windows' means."""
  return float(last_KxM.mean() - first_KxM.mean())


def _last(_: np.ndarray, last_KxM: np.ndarray) -> float:
  """Mean of the last window alone."""
  return float(last_KxM.mean())


def _fall_beside_rise(first_Kx2: np.ndarray, last_Kx2: np.ndarray) -> float:
  """Fall of the judge's opinion while the writing reward rose; otherwise 0.

  Both changes must exceed two standard errors.  Columns are the writing reward
  and the judge's probability of Good.
  """
  change_2 = last_Kx2.mean(0) - first_Kx2.mean(0)
  # The squared standard error of a difference of two means: the sum of both.
  freedom = max(len(last_Kx2) - 1, 1)
  variance_2 = (first_Kx2.var(0) + last_Kx2.var(0)) / freedom
  writing, good = change_2
  # An unsure judge falls by chance in half of all runs, so noise must not warn.
  clear = (abs(change_2) > 2 * np.sqrt(variance_2)).all()
  # On average, comparisons within groups give a constant, but for rounding.
  return float(-good) if clear and writing > 1e-9 and good < 0 else 0.0


def _rise_alone(first_1x5: np.ndarray, last_1x5: np.ndarray) -> float:
  """Gap of an evaluation whose writing score alone rose since the first one.

  Columns are the gap, the writing score with the lower end of its interval, and
  the unseen score with its.  A score rose if the interval is above its first
  value.
  """
  _, writing, _, unseen, _ = first_1x5[-1]
  gap, _, writing_low, _, unseen_low = last_1x5[-1]
  return float(gap) if writing_low > writing and unseen_low <= unseen else 0.0


class Monitor(NamedTuple):
  """A monitor: its metrics, its test, and the warning that a person reads."""

  metrics: tuple[str, ...]  # M columns of `metrics.jsonl`
  # (first window, last window), both [K, M], to the value that is compared
  measure: Callable[[np.ndarray, np.ndarray], float]
  trips: Callable[[float, float], bool]  # (value, threshold)
  text: str  # with slots {value}, {threshold} and {window}
  advice: str
  windows: int = 2  # that must be complete before it can trip
  # Rows of a window; 0 for the setting `window`.
  rows: int = 0


# Keys are the names of the thresholds in a config's `monitors`.
MONITORS = {
  'length': Monitor(
    ('length_mean',),
    _ratio,
    # Both ways: a reward may favour shorter replies as well as longer ones.  A
    # policy that learns to end its replies halves them, which is no fault.
    lambda value, most: not most**-2 <= value <= most,
    'replies are {value:.2f} times as long as in the first {window} steps '
    '(threshold: {threshold:g} times, or shorter by its square)',
    'the reward may be paying for length: read rollouts.jsonl, compare '
    'writing at like length, add a rule on length or raise kl_weight',
  ),
  'repetition': Monitor(
    ('repetition',),
    _rise,
    lambda value, most: value > most,
    'the share of repeated text in a reply rose by {value:.2f} since the first '
    '{window} steps (threshold {threshold:g})',
    'read rollouts.jsonl, add a rule or a verifier against repetition, lower '
    'learning_rate or raise kl_weight',
  ),
  'copied': Monitor(
    ('copied',),
    _rise,
    lambda value, most: value > most,
    'the share of a reply that is copied from its brief rose by {value:.2f} '
    'since the first {window} steps (threshold {threshold:g})',
    'the reward may be paying for the words of the brief: read '
    'rollouts.jsonl, fix the reward or raise kl_weight',
  ),
  'phrase': Monitor(
    ('phrase',),
    _rise,
    lambda value, most: value > most,
    'the share of replies that have a phrase in common, whatever their brief, '
    'rose by {value:.2f} since the first {window} steps (threshold '
    '{threshold:g})',
    'the reward may be paying for a stock phrase, such as praise of the reply '
    'itself: read rollouts.jsonl, forbid the phrase by a rule, fix the reward '
    'or raise kl_weight',
  ),
  'marks': Monitor(
    ('marks',),
    _rise,
    lambda value, most: value > most,
    'the share of exclamation marks, emoji and other showy marks rose by '
    '{value:.3f} since the first {window} steps (threshold {threshold:g})',
    'the reward may be paying for looks: read rollouts.jsonl, add a rule '
    'against the marks, fix the reward or raise kl_weight',
  ),
  'judge': Monitor(
    ('writing', 'judge_good'),
    _fall_beside_rise,
    lambda value, most: value > most,
    'the writing reward rose, but the judge’s P(Good) fell by {value:.2f} '
    'since the first {window} steps that it judged (threshold {threshold:g})',
    'the policy may have found a flaw of the reward: stop at an earlier '
    'checkpoint, fix the reward, or train with writing=judge',
  ),
  'no_signal': Monitor(
    ('no_signal_groups',),
    _last,
    lambda value, most: value > most,
    'all advantages are 0 in {value:.0%} of the groups of the last {window} '
    'steps (threshold {threshold:.0%})',
    'rules that all replies break or rewards that are all equal teach '
    'nothing: take easier briefs, larger groups, a higher temperature or '
    'mixing.all_violating=rank',
    # The share is bad by itself: it needs no comparison with the first steps.
    windows=1,
  ),
  'entropy': Monitor(
    ('entropy',),
    _ratio,
    lambda value, least: value < least,
    'entropy is {value:.2f} times that of the first {window} steps '
    '(threshold {threshold:g})',
    'replies become alike: lower learning_rate, or raise kl_weight, clip_high '
    'or temperature',
  ),
  'gap': Monitor(
    (
      'eval/gap',
      'eval/writing',
      'eval/writing_low',
      'eval/unseen',
      'eval/unseen_low',
    ),
    _rise_alone,
    lambda value, most: value > most,
    'on held-out briefs the writing score rose since the first evaluation, but '
    'the unseen one did not: it is {value:.2f} standard deviations behind '
    '(threshold {threshold:g})',
    'the policy may have found a flaw of the reward: stop at an earlier '
    'checkpoint, fix the reward, or raise kl_weight',
    # An evaluation is of many briefs, the same every time.
    rows=1,
  ),
}


class Watch:
  """Runs all monitors over a run's rows of metrics, given one by one.

  Args:
    settings: a config's `monitors`.
  """

  def __init__(self, settings: Config):
    self.settings = settings
    self.warnings: list[dict[str, Any]] = []
    # By monitor: rows so far that had all of its metrics, and the number of the
    # last such row at which it was over its threshold.
    self.count = dict.fromkeys(MONITORS, 0)
    self.tripped: dict[str, int] = {}
    # By monitor: the rows of its first window and of its last.
    self.first: dict[str, list[Any]] = {name: [] for name in MONITORS}
    self.last = {
      name: collections.deque(maxlen=self._window(name)) for name in MONITORS
    }

  def _window(self, name: str) -> int:
    """Number of rows in a window of a monitor."""
    return MONITORS[name].rows or int(self.settings.window)

  def see(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Adds a row and returns the warnings that it causes.

    A monitor that has warned stays silent until it has been below its threshold
    for a whole window.

    Args:
      row: of `metrics.jsonl`.  A monitor ignores a row in which one of its
        metrics is missing or None.

    Returns:
      A `{monitor, step, value, threshold, text}` for each monitor that trips.
    """
    warnings = [
      self._warn(name, value, row['step'])
      for name in MONITORS
      if (value := self._trip(name, row)) is not None
    ]
    self.warnings += warnings
    return warnings

  def _trip(self, name: str, row: Mapping[str, Any]) -> float | None:
    """Adds a row to one monitor; returns its value if it trips, else None."""
    monitor, window = MONITORS[name], self._window(name)
    values = [row.get(metric) for metric in monitor.metrics]
    # Such as `judge_good` in the steps in which the judge is not asked.
    if None in values:
      return None
    self.count[name] += 1
    if len(self.first[name]) < window:
      self.first[name].append(values)
    self.last[name].append(values)
    if self.count[name] < monitor.windows * window:
      return None
    windows = self.first[name], self.last[name]
    value = monitor.measure(*(np.array(each, float) for each in windows))
    if not monitor.trips(value, self.settings[name]):
      return None
    # Every row over the threshold moves `tripped` on, so a lasting fault warns
    # once.
    before = self.tripped.get(name, -window)
    self.tripped[name] = self.count[name]
    return value if self.count[name] - before > window else None

  def _warn(self, name: str, value: float, step: int) -> dict[str, Any]:
    """The warning as a record of `summary.json`."""
    threshold, monitor = self.settings[name], MONITORS[name]
    text = monitor.text.format(
      value=value, threshold=threshold, window=self.settings.window
    )
    return {
      'monitor': name,
      'step': step,
      'value': value,
      'threshold': threshold,
      'text': f'{text}; {monitor.advice}.',
    }

  def off(self) -> dict[str, str]:
    """Reasons, by monitor, why it had too few rows to trip at all."""
    reasons = {}
    for name, monitor in MONITORS.items():
      need = monitor.windows * self._window(name)
      if name == 'judge' and not self.count[name]:
        reasons[name] = 'no judge apart from the writing reward was asked'
      elif name == 'gap' and not self.count[name]:
        reasons[name] = 'no evaluation had an unseen reward model'
      elif self.count[name] < need:
        reasons[name] = (
          f'it had {self.count[name]} of the {need} '
          f'{"evaluations" if monitor.rows else "steps"} it needs'
        )
    return reasons


def survey(rows: Iterable[Mapping[str, Any]], settings: Config) -> Watch:
  """Runs all monitors over the rows of a whole run."""
  watch = Watch(settings)
  for row in rows:
    watch.see(row)
  return watch
