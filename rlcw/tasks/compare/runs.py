"""Runs that are compared, and whether they can be."""

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.evaluation import heldout
from rlcw.rewards import scoring
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory
from rlcw.runtime import console, sums
from rlcw.runtime.runs import is_finished, is_run, unfinished
from rlcw.runtime.settings import FREE, PATIENCE, leaves
from rlcw.runtime.settings import read as read_settings
from rlcw.tasks.compare.arms import BASE, arm_of

# Settings that decide how replies to given briefs are sampled and scored.
ANSWERED = (
  'model',
  'briefs',
  'language',
  'temperature',
  'max_new_tokens',
  'two_turns',
  'writing',
  'reward_model',
  'verifiers',
)
# Settings that decide which of a run's own briefs are held out.
HELDOUT = 'heldout', 'extract_rules'
# Runs that differ in one of these cannot be compared; nor can those that differ
# in their judge, if it scores the replies.
ALIKE = *ANSWERED, *HELDOUT, 'system'
# Of these, what `compare` may name itself for runs that differ in it.
GIVEN = 'briefs', 'writing', 'reward_model'
# Settings in which arms are meant to differ.
MIXING = 'mixing', 'advantage_scale'


def find(pattern: str) -> dict[str, Path]:
  """Finds the finished `grpo` runs that match a glob pattern.

  Returns:
    Their folders, by the folders' names.

  Raises:
    ValueError: there is none, two have the same name, or a name is not ARM-SEED
      or uses the base's name as ARM.
  """
  folders = [Path(path) for path in sorted(glob.glob(pattern))]
  done: dict[str, Path] = {}
  for folder in folders:
    if not is_run(folder) or read_settings(folder).get('task') != 'grpo':
      continue
    if not is_finished(folder):
      console.notice(f'left out: {unfinished(folder)}')
      continue
    arm, _, seed = folder.name.rpartition('-')
    if not seed.isdecimal() or arm in ('', BASE):
      raise ValueError(
        f'{folder}: expected a folder named ARM-SEED, as in rlmr-0, with an '
        f'ARM other than {BASE}'
      )
    if folder.name in done:
      raise ValueError(f'{done[folder.name]} and {folder} have the same name')
    done[folder.name] = folder
  if not done:
    raise ValueError(
      f'runs={pattern!r}: expected a finished `grpo` run, found none among '
      f'{len(folders)} folders'
    )
  return done


def check_arms(settings: dict[str, Config]) -> None:
  """Checks that the runs of an arm are samples of it.

  Raises:
    ValueError: two have the same seed, or differ in how rewards are mixed.
  """
  for (one, here), (other, there) in itertools.combinations(
    settings.items(), 2
  ):
    if arm_of(one) != arm_of(other):
      continue
    if here.seed == there.seed:
      raise ValueError(
        f'{one} and {other} both have seed={here.seed}, so they are one sample '
        'of their arm; expected runs of an arm to differ in their seed'
      )
    mixed, otherwise = (dict(leaves(each)) for each in (here, there))
    # A setting that a run lacks is of another version.
    for key in mixed.keys() & otherwise.keys():
      if key.startswith(MIXING) and mixed[key] != otherwise[key]:
        raise ValueError(
          f'{one} and {other} differ in {key}: {mixed[key]!r} and '
          f'{otherwise[key]!r}; expected runs of an arm to differ in their '
          'seed alone'
        )


def shared_settings(
  config: Config, settings: dict[str, Config]
) -> tuple[Config, list[str]]:
  """Settings that the replies of all runs are sampled and scored by.

  Args:
    config: of the task; settings that it gives may differ between the runs.
    settings: of the runs.

  Returns:
    The settings of the first run, with those of `config`, and `differences`.

  Raises:
    ValueError: see `differences`, or a given score is unknown.
  """
  trained = heldout.computed_as(config, next(iter(settings.values())))
  # Configs of earlier versions do not have these settings.
  given = [key for key in GIVEN if config.get(key, '')]
  for key in given:
    if key != 'briefs':
      trained[key] = config[key]
      scoring.check(trained)
  unused = HELDOUT if 'briefs' in given else ()
  alike = [key for key in ALIKE if key not in (*given, *unused)]
  return trained, differences(settings, alike)


def differences(
  settings: dict[str, Config], alike: Sequence[str] = ALIKE
) -> list[str]:
  """Lists settings in which runs differ from the first.

  Those of `MIXING`, seeds, and those that change no result, are left out.
  A setting that a run lacks, because an older version made it, is ignored.

  Returns:
    One sentence per difference.

  Raises:
    ValueError: runs differ in one of `alike`, so a comparison is meaningless.
  """
  first, *others = settings
  notes = []
  for name in others:
    for key in sorted(
      {*settings[first]} & {*settings[name]} - {*MIXING, 'seed', *FREE}
    ):
      here, there = settings[first][key], settings[name][key]
      # A sum may be written in several ways.
      if _is_alike({key: here}, {key: there}) or (
        key == 'writing' and sums.parse(here) == sums.parse(there)
      ):
        continue
      note = f'{key}: {here!r} in {first}, {there!r} in {name}'
      if key in alike:
        raise ValueError(f'runs cannot be compared: they differ in {note}')
      notes.append(note)
  return notes


def check_judges(
  settings: dict[str, Config], trained: Config, briefs: Sequence[Brief]
) -> None:
  """Checks that the runs have one judge, if it scores the replies.

  Args:
    settings: of the runs.
    trained: those that the replies are scored by.
    briefs: that are answered.

  Raises:
    ValueError: they have several.
  """
  if factory.has_judge(scoring.without_idle_judge(trained, briefs).judge):
    differences(settings, ['judge'])


def _is_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
  """Checks whether settings differ at most in what changes no result."""
  here, there = dict(leaves(one)), dict(leaves(other))
  return all(
    name in FREE or PATIENCE.fullmatch(name)
    for name in {*here, *there}
    if here.get(name) != there.get(name)
  )
