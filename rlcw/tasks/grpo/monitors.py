"""Signs that a run learns to please its reward and not to write well.

A monitor compares the last steps of a run with its first ones (`no_signal` with
nothing), each as a mean over a window of steps that do not overlap, so that no
single step trips it:

  length      replies grow or shrink: what rewards are pleased by first
  repetition  replies say the same again and again
  judge       the writing reward rises, and a judge likes the replies less
  no_signal   groups whose advantages are all 0 teach nothing
  entropy     replies become alike, and there is nothing left to choose from

All follows from the rows of `metrics.jsonl`, and so a run that was resumed
tells what an undisturbed one does.  Letters: K steps of a window.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config

_GRAM = 10  # characters


def repeated(text: str) -> float:
  """The share of a text's runs of ten characters that came before in it.

  Characters, as Chinese sets no spaces between words; white space does not
  count.  Ten are two English words or a Chinese clause: fewer recur in any
  long text, and a loop of whatever period shows.  Unlike a compression ratio
  it is 0 for a text without repetition, however short.
  """
  letters = ''.join(text.split())
  grams = [letters[i : i + _GRAM] for i in range(len(letters) - _GRAM + 1)]
  return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ratio(first_KxM: np.ndarray, last_KxM: np.ndarray) -> float:
  return float(last_KxM.mean() / max(first_KxM.mean(), 1e-9))


def _rise(first_KxM: np.ndarray, last_KxM: np.ndarray) -> float:
  return float(last_KxM.mean() - first_KxM.mean())


def _last(_: np.ndarray, last_KxM: np.ndarray) -> float:
  return float(last_KxM.mean())


def _fall_beside_rise(first_Kx2: np.ndarray, last_Kx2: np.ndarray) -> float:
  """How far the judge fell; 0 unless both changes stand out of the noise.

  That is, each is of two standard errors or more.
  """
  change_2 = last_Kx2.mean(0) - first_Kx2.mean(0)
  variance_2 = (first_Kx2.var(0) + last_Kx2.var(0)) / len(last_Kx2)
  writing, good = change_2
  clear = (abs(change_2) > 2 * np.sqrt(variance_2)).all()
  return float(-good) if clear and writing > 0 > good else 0.0


class Monitor(NamedTuple):
  """What is watched, and what a person reads when it trips."""

  metrics: tuple[str, ...]
  measure: Callable[[np.ndarray, np.ndarray], float]  # of two windows [K, M]
  trips: Callable[[float, float], bool]  # value, threshold
  text: str  # with slots for both, and for the window
  advice: str
  windows: int = 2  # that must have passed


# by the name of its threshold in a config
MONITORS = {
  'length': Monitor(
    ('length_mean',),
    _ratio,
    lambda value, most: not 1 / most <= value <= most,
    'replies are {value:.2f} times as long as in the first {window} steps '
    '(threshold: {threshold:g} times, or as much shorter)',
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
  'judge': Monitor(
    ('writing', 'judge_good'),
    _fall_beside_rise,
    lambda value, most: value > most,
    'the writing reward rose, but the judge finds replies Good less often by '
    '{value:.2f} than in the first {window} steps that it was asked in '
    '(threshold {threshold:g})',
    'the policy may have found a flaw of the reward: stop at an earlier '
    'checkpoint, mend the reward, or train with writing=judge',
  ),
  'no_signal': Monitor(
    ('no_signal_groups',),
    _last,
    lambda value, most: value > most,
    'in {value:.0%} of the last {window} steps’ groups all advantages are 0 '
    '(threshold {threshold:.0%})',
    'rules that all replies break or rewards that are all equal teach '
    'nothing: take easier briefs, larger groups, a higher temperature or '
    'mixing.all_violating=rank',
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
}


def check(settings: Config) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  for name in ('window', 'judge_every'):
    if settings[name] < 1:
      raise ValueError(
        f'monitors.{name}={settings[name]}; legal: an integer from 1 on'
      )
  for name in MONITORS:
    least = 1 if name == 'length' else 0
    if not settings[name] >= least:
      raise ValueError(
        f'monitors.{name}={settings[name]}; legal: a number from {least} on'
      )


class Watch:
  """Is shown a run's rows, one by one, and keeps what tripped.

  Args:
    settings: a config's `monitors`.
  """

  def __init__(self, settings: Config):
    self.settings = settings
    self.warnings: list[dict[str, Any]] = []
    self.count = dict.fromkeys(MONITORS, 0)  # steps with all that it needs
    self.tripped: dict[str, int] = {}  # the last of these that was too much
    self.first: dict[str, list[Any]] = {name: [] for name in MONITORS}
    self.last = {
      name: collections.deque(maxlen=settings.window) for name in MONITORS
    }

  def see(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a new row trips.

    What is tripped is not told again before a window of steps has passed
    without.

    Args:
      row: of `metrics.jsonl`; what it lacks, or is None, is not counted.

    Returns:
      For each monitor `{monitor, step, value, threshold, text}`.
    """
    told = [
      self._warn(name, value, row['step'])
      for name in MONITORS
      if (value := self._trip(name, row)) is not None
    ]
    self.warnings += told
    return told

  def _trip(self, name: str, row: Mapping[str, Any]) -> float | None:
    """A monitor's value where it now trips."""
    monitor, window = MONITORS[name], int(self.settings.window)
    values = [row.get(metric) for metric in monitor.metrics]
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
    before = self.tripped.get(name, -window)
    self.tripped[name] = self.count[name]
    return value if self.count[name] - before > window else None

  def _warn(self, name: str, value: float, step: int) -> dict[str, Any]:
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
    """The monitors that never had what they need, and why."""
    found = {}
    for name, monitor in MONITORS.items():
      need = monitor.windows * self.settings.window
      if name == 'judge' and not self.count[name]:
        found[name] = 'no judge was asked that is not the writing reward itself'
      elif self.count[name] < need:
        found[name] = f'it had {self.count[name]} of the {need} steps it needs'
    return found


def survey(rows: Iterable[Mapping[str, Any]], settings: Config) -> Watch:
  """What a watch keeps of all rows of a run."""
  watch = Watch(settings)
  for row in rows:
    watch.see(row)
  return watch
