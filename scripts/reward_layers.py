"""Measures reward models on the first layers of a decoder.

  python scripts/reward_layers.py WORKDIR [--config.x=y ...]

One pass reads the features of several numbers of layers, which are kept in
WORKDIR/.features, and a head is fitted to each.  The table has accuracies on
training pairs kept apart, by which layers=auto chooses, and on held-out pairs;
the score's correlation with length; and the CPU seconds in which a batch of the
held-out pairs is read (the least of three times, compiled before).  Settings
are those of configs/reward_model.py.
"""

import functools
import pathlib
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from rlcw import Config
from rlcw.evaluation.page import show
from rlcw.models import language_model
from rlcw.runtime import command, configs, files
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.reward_model import depth, head, run

ROW = '{:<7} {:>11} {:>10} {:>7} {:>9} {:>9} {:>12} {:>8}'
TITLES = (
  *('layers', 'kept apart', 'than best', 'error'),
  *('held out', 'matched', 'correlation', 'seconds'),
)


def cpu_seconds(call: Callable[[], object]) -> float:
  """The CPU seconds of a call, the least of three after a first one."""
  taken = []
  for _ in range(4):
    started = time.process_time()
    call()
    taken.append(time.process_time() - started)
  return min(taken[1:])


def measure(config: Config, workdir: pathlib.Path) -> None:
  """Prints a row for each number of layers, and keeps all numbers."""
  model, groups = run.prepare(config)
  layers = depth.depths(model.config.num_layers)
  reading, _, _ = run.divide(model, config)
  features = {
    split: run.cached_features(
      group, reading, config, workdir / '.features', layers
    )
    for split, group in groups.items()
  }
  tried = depth.measure(features['train'], layers, groups['train'], config)
  fit = depth.make_fit(config)
  prompts = len(groups['heldout'].prompt)
  some = groups['heldout'].take(np.arange(min(config.batch_size, prompts)))
  print(ROW.format(*TITLES))
  rows = []
  for k, (count, *apart) in enumerate(tried):
    train = features['train'][:, :, k]
    weight_D = depth.fit_to_all(train, groups['train'], fit)
    if config.debias == 'projection':
      weight_D = head.without_length(weight_D, train, groups['train'])
    score_NxR = features['heldout'][:, :, k] @ weight_D
    summary = run.judge(groups['heldout'], score_NxR, workdir)
    first = language_model.first_layers(reading, count)
    seconds = cpu_seconds(
      functools.partial(run.group_features, some, first, config)
    )
    rows.append(tried[k]._asdict() | {'seconds': seconds, 'heldout': summary})
    correlation = summary['length_correlation']
    print(
      ROW.format(
        count,
        *(show(share, '.2%') for share in apart),
        show(summary['heldout_accuracy'], '.1%'),
        show(summary['matched_accuracy'], '.1%'),
        show(correlation, '+.2f'),
        show(seconds),
      )
    )
  print(f'layers=auto: {layers[depth.fewest(tried)]}')
  files.write_json(workdir / 'layers.json', rows)


def main() -> None:
  """Reads the command line."""
  workdir, config = pathlib.Path(sys.argv[1]), configs.load('reward_model')
  workdir.mkdir(parents=True, exist_ok=True)
  command.override(config, sys.argv[2:])
  with jax.set_mesh(make_mesh(**config.mesh)):
    measure(config, workdir)


if __name__ == '__main__':
  main()
