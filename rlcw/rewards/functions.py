"""Users' functions in a config, as `module:function`.

One maps P briefs and `[P][G]` replies to an array `[P, G]`, NaN for unknown.
"""

import contextlib
import copy
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rlcw.rewards.briefs import Brief
from rlcw.runtime import processes
from rlcw.runtime.signals import Stopped

Reward = Callable[[Sequence[Brief], Sequence[Sequence[str]]], Any]


def import_function(name: str, setting: str, expected: str) -> Reward:
  """Imports a user's function.

  Args:
    name: `module:function`.  The working directory is searched for the module
      too.
    setting: the setting that names it, for the error message.
    expected: the setting's other values, for the error message.

  Raises:
    ValueError: there is no such module or function, or the module fails.
  """
  module, _, function = str(name).partition(':')
  # An installed command, unlike `python -m`, does not search the working
  # directory.
  if '' not in sys.path:
    sys.path.insert(0, '')
  try:
    # ':' is no module's name, so an empty name raises ImportError as well,
    # where '' would raise ValueError.
    reward = getattr(importlib.import_module(module or ':'), function)
    if not callable(reward):
      raise AttributeError(f'{function} is not a function')
    return reward
  # A module may raise anything, and an exit would be taken for a success.
  except (Exception, SystemExit) as error:
    plain = isinstance(error, (ImportError, AttributeError))
    raise ValueError(
      f'{setting}={name!r}: {error if plain else repr(error)}; expected '
      f'{expected}, or module:function'
    ) from None


@contextlib.contextmanager
def user_code(name: str) -> Iterator[None]:
  """Turns whatever a user's function raises into an error that names it.

  Raises:
    ValueError: it ended the process, which is no success of the run.
    RuntimeError: it failed.
  """
  folder = os.getcwd()
  try:
    yield
  except Stopped:
    raise
  except Exception as error:
    # A context manager takes StopIteration for its own, if it is the cause.
    cause = None if isinstance(error, StopIteration) else error
    raise RuntimeError(f'{name} failed: {error!r}') from cause
  # SystemExit, KeyboardInterrupt, asyncio.CancelledError
  except BaseException as error:
    raise ValueError(
      f'{name} raised {error!r}, which would end the run; expected it to '
      'return its values'
    ) from None
  finally:
    # What it changes there would move a relative workdir.
    os.chdir(folder)


def call_user_reward(
  reward: Reward,
  name: str,
  briefs: Sequence[Brief],
  replies: Sequence[Sequence[str]],
) -> np.ndarray:
  """Calls a user's function, and returns its values `[P, G]` in float32.

  It gets copies, so that it cannot change the replies that are recorded.  A
  request to stop ends it: one of several processes then returns NaN.

  Raises:
    ValueError: the values are not numbers, or have another shape; or the
      function ended the process.
    RuntimeError: the function failed.
    Stopped: the run was asked to stop (`processes.interruptible`).
  """
  expected = (len(replies), len(replies[0]))
  returned = np.full(expected, np.nan)
  with processes.interruptible(), user_code(name):
    returned = reward(copy.deepcopy(briefs), [[*group] for group in replies])
  try:
    value = _numbers(returned)
  # Whatever the object raises that is to become an array.
  except Exception as error:
    raise ValueError(
      f'{name} returned no array of numbers, expected shape {expected}: {error}'
    ) from None
  if value.shape != expected:
    raise ValueError(
      f'{name} returned an array of shape {value.shape} for {expected[0]} '
      f'briefs with {expected[1]} replies each: expected {expected}'
    )
  return value


def _numbers(returned: Any) -> np.ndarray:
  """Converts what a function returned to float32; NaN where it is masked.

  Raises:
    TypeError, ValueError, or whatever the object raises: these are no numbers.
  """
  if returned is None:
    raise TypeError('it returned None')
  if isinstance(returned, np.ma.MaskedArray):
    returned = np.ma.filled(returned.astype(float), np.nan)
  given = np.asarray(returned)
  # NumPy would read "1.5", and drop the imaginary part of a number.
  if given.dtype.kind in 'SUcmM' or any(
    isinstance(each, (str, bytes, complex)) for each in given.ravel()
  ):
    raise TypeError(f'its values are {given.ravel()[:1].tolist()}')
  # A copy, because the function may write into its array at the next call.  A
  # number beyond float32 becomes infinite.
  with np.errstate(over='ignore'):
    return np.array(given, np.float64).astype(np.float32)
