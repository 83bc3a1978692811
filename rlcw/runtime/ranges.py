"""The values that each setting may have: one table for all tasks.

`check` compares a config with it before anything is loaded or written.  What
relates settings to each other, to devices or to data is checked by the tasks.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

from rlcw import Config
from rlcw.losses import AGGREGATIONS, KL_ESTIMATORS, RATIOS
from rlcw.runtime import settings
from rlcw.runtime.mesh import TABLES
from rlcw.runtime.optimizers import SCHEDULES

# Limits of the integers and the numbers of a device.
INT_MAX = 2**31 - 1
FLOAT_MIN, FLOAT_MAX = 2.0**-126, 3.4e38
_DEVICE = INT_MAX, math.inf  # `most` of a range that only the device limits


@dataclasses.dataclass(frozen=True)
class Number:
  """A finite number in an interval, or several of them."""

  least: float
  most: float = math.inf
  above: bool = False  # whether `least` itself is left out
  whole: bool = False
  also: tuple[Any, ...] = ()  # values outside of the interval
  count: int = 0  # of numbers in a tuple; 0: one number, no tuple

  def accepts(self, value: Any) -> bool:
    """Returns whether a setting may have this value."""
    if self.count:
      one = dataclasses.replace(self, count=0)
      right_length = isinstance(value, (tuple, list)) and len(value) == (
        self.count
      )
      return right_length and all(map(one.accepts, value))
    if any(value is other or value == other for other in self.also):
      return not isinstance(value, bool)
    kind = numbers.Integral if self.whole else numbers.Real
    # In Python True and False are integers; as a setting they are mistakes.
    if isinstance(value, bool) or not isinstance(value, kind):
      return False
    number: Any = value
    # NaN compares false.
    inside = self.least <= number <= min(self.most, FLOAT_MAX)
    return inside and not (self.above and number - self.least < FLOAT_MIN)

  def __str__(self) -> str:
    """The accepted values in words, such as 'an integer of at least 1'."""
    one = 'an integer' if self.whole else 'a number'
    if self.count:
      one = f'{self.count} {one.split()[1]}s'
    words = f'{one} {"above" if self.above else "of at least"} {self.least:g}'
    if self.most not in _DEVICE:
      words += f' and at most {self.most:.10g}'
    return ' or '.join([words, *map(repr, self.also)])


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of a few texts, or several of them in a tuple."""

  names: tuple[str, ...]
  several: bool = False

  def accepts(self, value: Any) -> bool:
    """Returns whether a setting may have this value."""
    if self.several:
      known = isinstance(value, (tuple, list)) and len(value) > 0
      return known and all(name in self.names for name in value)
    return isinstance(value, str) and value in self.names

  def __str__(self) -> str:
    """The accepted values in words."""
    return f'{"some" if self.several else "one"} of {self.names}'


Range = Number | Choice


def _count(least: int = 1, **more: Any) -> Number:
  return Number(least, INT_MAX, whole=True, **more)


_POSITIVE = Number(0, above=True)
_NOT_NEGATIVE = Number(0)
_SHARE = Number(0, 1)
DTYPES = 'float32', 'bfloat16'
_DTYPE = Choice(DTYPES)
_LANGUAGE = Choice(('en', 'zh'))
# Nodes that name a language model; its endpoint takes None for the server's
# default.
_MODELS = 'judge', 'agents', 'writer', 'agent'

# Setting -> its range.  The key is the end of the setting's dotted name, of
# which the task is the first part; the longest key that fits is the one.
# Tasks that sample from a model that they do not train, or only read it.
_SAMPLE = 'compare', 'evaluate', 'generate'
_READ = 'judge', 'score', 'verify'

RANGES: dict[str, Range] = {
  # --- Steps and batches
  'steps': _count(),
  'warmup_steps': _count(0),
  'checkpoint_every': _count(),
  'show_every': _count(0),
  'eval_every': _count(0),
  'eval.briefs': _count(0),
  'grpo.patience': _count(0),
  'prompts_per_step': _count(),
  'oversample': Number(1, 8),  # more than 8 times as many are thrown away
  'group_size': _count(2),  # a single reply has nothing to be compared with
  'updates_per_rollout': _count(),
  'minibatch_groups': _count(0),
  'microbatch_groups': _count(),
  'decoder.microbatch_groups': _count(0),
  'microbatch_rows': _count(0),
  'groups_per_step': _count(),
  'rows_per_step': _count(),
  'row_tokens': _count(2),
  'batch_size': _count(),
  'replies_per_group': _count(2),
  'replies_per_brief': _count(),
  'max_reply_tokens': _count(),
  'seed': Number(0, 2**32 - 1, whole=True),
  'heldout': _SHARE,
  'dev': _SHARE,
  'least_gap': _NOT_NEGATIVE,
  # --- Sampling
  'temperature': _NOT_NEGATIVE,
  # Greedy replies to a brief would all be equal, and leave no advantages.
  'grpo.temperature': Number(1e-6),
  'max_new_tokens': _count(),
  'top_k': _count(0),
  'top_p': Number(0, 1, above=True),
  'samples': _count(),
  # --- Optimiser
  'learning_rate': _POSITIVE,
  'max_grad_norm': _POSITIVE,
  'final_ratio': _SHARE,
  'weight_decay': _NOT_NEGATIVE,
  # At 1 a moment would never move.
  'beta1': Number(0, 1 - 1e-6),
  'beta2': Number(0, 1 - 1e-6),
  'l2': _NOT_NEGATIVE,
  'layers': _count(0, also=('auto',)),
  'lora.rank': _count(),
  'lora.alpha': _POSITIVE,
  # --- Advantages and loss
  # A smaller margin is lost in the rounding of float32, and with it the
  # guarantee that a violator's advantage is negative.  Beside a larger one the
  # differences of writing scores are.
  'mixing.margin': Number(1e-3, 1e3),
  'mixing.weight': Number(0, 1e6),
  'mixing.located_penalty': _NOT_NEGATIVE,
  'demonstration_weight': _NOT_NEGATIVE,
  'demonstration_warmup': _count(0),
  'clip_low': Number(0, 1, above=True),
  'clip_high': _POSITIVE,
  # A bound of 1 would leave no gradient to the replies that were sampled.
  'dual_clip': Number(1, above=True, also=(0,)),
  'tis': Number(1, also=(0,)),  # a lower cap would weigh all tokens alike
  'kl_weight': _NOT_NEGATIVE,
  'overlong_buffer': _count(0),
  'pairs.opponents': _count(),
  'refit.every': _count(0),
  'refit.share': Number(0, 0.99, above=True),
  'entropy_weight': _NOT_NEGATIVE,
  # --- Monitors
  'monitors.window': _count(),
  'monitors.judge_every': _count(),
  'monitors.length': Number(1),  # a factor that must allow for no change
  'monitors.repetition': _NOT_NEGATIVE,
  'monitors.copied': _NOT_NEGATIVE,
  'monitors.phrase': _NOT_NEGATIVE,
  'monitors.marks': _NOT_NEGATIVE,
  'monitors.judge': _NOT_NEGATIVE,
  'monitors.no_signal': _NOT_NEGATIVE,
  'monitors.entropy': _NOT_NEGATIVE,
  'monitors.gap': _NOT_NEGATIVE,
  # --- Judges and agents
  **{f'{node}.temperature': Number(0, also=(None,)) for node in _MODELS},
  **{f'{node}.max_new_tokens': _count(also=(None,)) for node in _MODELS},
  'endpoint.concurrency': _count(),
  'endpoint.timeout': _POSITIVE,
  'endpoint.retries': _count(0),
  'endpoint.prices': Number(0, count=2),
  'votes': Number(1, 1000, whole=True),  # each is a request
  'max_reply_characters': _count(0),
  'curate.neighbours': _count(),
  'curate.examples': _count(),
  'curate.candidates': _count(2),
  'curate.length_ratio': Number(1, also=(0,)),
  'rounds': _count(),
  'batches': _count(),
  'patience': _count(),
  'max_calls': _count(),
  # --- Briefs
  'count': _count(),
  'least_rules': _count(),
  'most_rules': _count(),
  # --- Devices
  'mesh.data': _count(also=(-1,)),
  'mesh.fsdp': _count(also=(-1,)),
  'mesh.tensor': _count(also=(-1,)),
  'plan.prompt_tokens': _count(),
  # --- Names
  'train': Choice(('all', 'lora')),
  'reward_model.train': Choice(('head', 'lora', 'all')),
  'lora.targets': Choice(
    ('query', 'key', 'value', 'output', 'gate', 'up', 'down'), several=True
  ),
  'pooling': Choice(('mean', 'last')),
  'debias': Choice(('none', 'balance', 'length', 'projection')),
  'mixing.name': Choice(
    (
      'rlmr',
      'rlmr_bonus',
      'rlmr_clip',
      'writing',
      'constraint',
      'linear',
      'gate',
      'quality_gate',
      'gdpo',
    )
  ),
  'mixing.violation': Choice(('any', 'share')),
  'pairs.mode': Choice(('round', 'pivot')),
  'mixing.all_violating': Choice(('suppress', 'rank', 'skip', 'relabel')),
  'advantage_scale': Choice(('reward_std', 'none', 'writing_std')),
  'ratio': Choice(tuple(RATIOS)),
  'kl': Choice(tuple(KL_ESTIMATORS)),
  'schedule': Choice(tuple(SCHEDULES)),
  'aggregation': Choice(tuple(AGGREGATIONS)),
  'rollout_table': Choice(tuple(TABLES)),
  'compute_dtype': _DTYPE,
  'moment_dtype': _DTYPE,
  'dtype': _DTYPE,
  'attention': Choice(('auto', 'xla')),
  # Of tasks that only read a model: '' for those of the run that trained it.
  **{
    f'{task}.{name}': Choice(('', *names))
    for name, names, tasks in (
      ('compute_dtype', DTYPES, (*_SAMPLE, *_READ)),
      ('attention', ('auto', 'xla'), (*_SAMPLE, *_READ)),
      ('rollout_table', tuple(TABLES), _SAMPLE),
    )
    for task in tasks
  },
  'judge.language': _LANGUAGE,
  'curate.language': _LANGUAGE,
  'verify.mode': Choice(('reward', 'benchmark')),
}


def of(task: str, name: str) -> Range | None:
  """Returns the range of a task's setting, given by its dotted name."""
  # A config of `plan` is one of another task (`settings.task_of`).
  parts = [{'plan': 'grpo'}.get(task, task), *name.split('.')]
  ends = ('.'.join(parts[first:]) for first in range(len(parts)))
  return next((RANGES[end] for end in ends if end in RANGES), None)


def check(config: Config) -> None:
  """Checks every setting of a config by itself.

  Raises:
    ValueError: one is out of its range; names it, its value and the expected
      ones.
  """
  task = settings.task_of(config)
  for name, value in settings.leaves(config):
    check_value(task, name, value)


def check_value(task: str, name: str, value: Any) -> None:
  """Checks the value of one setting, by its dotted name.

  Raises:
    ValueError: it is out of its range, or a number that is not finite.
  """
  expected = of(task, name)
  if expected is None:
    values = value if isinstance(value, (tuple, list)) else (value,)
    floats = (each for each in values if isinstance(each, float))
    if not all(map(math.isfinite, floats)):
      raise ValueError(f'{name}={value!r:.80}; expected a finite number')
  elif not expected.accepts(value):
    words = f'{name}={value!r:.80}; expected {expected}'
    if isinstance(expected, Choice):
      given = value if expected.several and value else [value]
      words += nearest(given[0], expected.names)
    elif isinstance(value, int | float) and expected.most in _DEVICE:
      most = min(expected.most, FLOAT_MAX)
      words += f' and at most {most:.10g}' if value > most else ''
    raise ValueError(words)


def nearest(name: Any, known: Iterable[str]) -> str:
  """Returns a question that names up to three similar names, '' if none is.

  Args:
    name: as misspelt.  Of a dotted one, the last part alone may be similar.
    known: the right names.
  """
  known, name = list(known), str(name)
  by_end: dict[str, list[str]] = {}
  for each in known:
    by_end.setdefault(each.rpartition('.')[2], []).append(each)
  ends = difflib.get_close_matches(name.rpartition('.')[2], by_end, 3, 0.7)
  found = [
    *difflib.get_close_matches(name, known, 3),
    *difflib.get_close_matches(name.lower(), known, 3),
    *(each for end in ends for each in by_end[end]),
    *(each for each in known if len(name) > 2 and each.startswith(name)),
    *(each for each in known if len(name) > 3 and name in each),
  ]
  found = [repr(each) for each in [*dict.fromkeys(found)][:3]]
  return f'; did you mean {" or ".join(found)}?' if found else ''
