r"""Measures whether a reward model can be told its principles (SALMON).

  python scripts/salmon.py WORKDIR [--config.x=y ...]

A pair of replies is read under principles that are drawn for it: about a
geometric number, each negated with probability one half.  The principle on
which the replies differ most, in standard deviations over the pairs, decides
which is better (arXiv 2310.05910).  Here principles count words and marks, so
every label is right; and a model that does not read its principles is right in
half of the pairs, because a negation turns a label as often as not.

Fits a head with the settings of configs/reward_model.py, and prints its
accuracy on held-out pairs: under principles of training, by whether the one
that decides is negated, and under principles that no training pair has.
"""

import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlcw import Config
from rlcw.data import datasets
from rlcw.data.messages import transcript
from rlcw.data.preferences import Preference, load_preferences
from rlcw.evaluation import stats
from rlcw.evaluation.page import show
from rlcw.models import language_model
from rlcw.runtime import command, configs, files
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.reward_model import depth, run

ROW = '{:<28} {:>6} {:>7} {:>16}'
MOST, STOP = 8, 0.2  # principles of a pair; of the geometric distribution
QUESTION = 'Of two replies, the better one is the one with'
# Kinds of held-out pairs, by the principle that decides.
KINDS = {
  'plain': 'of training, as it is',
  'negated': 'of training, negated',
  'unseen': 'not trained on',
}


class Principle(NamedTuple):
  """Words for a principle and its negation, and the score of a reply."""

  words: str
  negated: str
  score: Callable[[str], float]


def per_word(pattern: str) -> Callable[[str], float]:
  """Returns the function that counts matches per word of a text."""
  return lambda text: len(re.findall(pattern, text.lower())) / words(text)


def words(text: str) -> int:
  """The number of words."""
  return len(text.split())


TRAINED = (
  Principle('more words', 'fewer words', words),
  Principle('more commas', 'fewer commas', per_word(',')),
  Principle('more exclamation marks', 'fewer exclamation marks', per_word('!')),
  Principle(
    'more of "you" and "your"',
    'less of "you" and "your"',
    per_word(r'\byour?s?\b'),
  ),
  Principle(
    'more of "I" and "my"', 'less of "I" and "my"', per_word(r'\b(?:i|my|me)\b')
  ),
  Principle(
    'longer sentences',
    'shorter sentences',
    lambda text: -per_word(r'[.!?]')(text),
  ),
)
UNSEEN = (
  Principle(
    'longer words', 'shorter words', lambda text: len(text) / words(text)
  ),
  Principle('more of "and"', 'less of "and"', per_word(r'\band\b')),
)


def draw(
  pairs: Sequence[Preference],
  principles: Sequence[Principle],
  split: str,
  rng: np.random.Generator,
) -> list[dict[str, Any]]:
  """Records of pairs under drawn principles; without pairs that tie.

  Args:
    pairs: N of them.
    principles: K of them, to draw from.
    split: of the records.
    rng: is advanced.
  """
  gap_NxK = np.array(
    [
      [each.score(pair.replies[0]) - each.score(pair.replies[1])]
      for pair in pairs
      for each in principles
    ]
  ).reshape(len(pairs), -1)
  gap_NxK /= gap_NxK.std(0)
  records = []
  for pair, gap_K in zip(pairs, gap_NxK, strict=True):
    size = min(rng.geometric(STOP), MOST, len(principles))
    drawn = rng.permutation(len(principles))[:size]
    sign = rng.choice([1, -1], size)
    signed = sign * gap_K[drawn]
    most = int(abs(signed).argmax())
    if not signed[most]:
      continue
    told = [
      f'- {principles[k].words if s > 0 else principles[k].negated}'
      for k, s in zip(drawn, sign, strict=True)
    ]
    better, worse = pair.replies if signed[most] > 0 else pair.replies[::-1]
    records.append(
      {
        'prompt': '\n'.join([transcript(pair.prompt), '', QUESTION, *told]),
        'chosen': better,
        'rejected': worse,
        'split': split,
        'kind': 'negated' if sign[most] < 0 else 'plain',
      }
    )
  return records


def write_pairs(config: Config, workdir: pathlib.Path) -> None:
  """Writes the training pairs and those of each kind, a file each."""
  rng = np.random.default_rng(config.seed)
  train, heldout = (
    [
      each
      for each in load_preferences(
        config.preferences,
        split=split,
        language=config.language,
        heldout=config.heldout,
      )
      if len(each.replies) == 2
    ]
    for split in (datasets.TRAIN, datasets.HELDOUT)
  )
  records = {'train': draw(train, TRAINED, datasets.TRAIN, rng)}
  seen = draw(heldout, TRAINED, datasets.HELDOUT, rng)
  for kind in ('plain', 'negated'):
    records[kind] = [each for each in seen if each['kind'] == kind]
  records['unseen'] = draw(heldout, UNSEEN, datasets.HELDOUT, rng)
  for name, each in records.items():
    files.write_jsonl(workdir / f'{name}.jsonl', each)


def measure(config: Config, workdir: pathlib.Path) -> None:
  """Fits a head to such pairs; prints and keeps its accuracies."""
  write_pairs(config, workdir)
  config.update(made_losers=False, replies_per_group=2)
  model = language_model.load(config.model, make_mesh(**config.mesh))
  reading, _, _ = run.divide(model, config)
  groups, features = {}, {}
  for name in ('train', *KINDS):
    config.preferences = str(workdir / f'{name}.jsonl')
    split = datasets.TRAIN if name == 'train' else datasets.HELDOUT
    groups[name] = run.read_groups(split, model, config)
    features[name] = run.cached_features(
      groups[name], reading, config, workdir / '.features'
    )
  weight_D = depth.fit_to_all(
    features['train'], groups['train'], depth.make_fit(config)
  )
  found = {}
  print(ROW.format('the deciding principle is', 'pairs', 'right', '95%'))
  for name, label in {'train': '(training pairs)', **KINDS}.items():
    score_Mx2 = run.pair_scores(groups[name], features[name] @ weight_D)
    right = stats.accuracy(score_Mx2)
    low, high = stats.interval(score_Mx2, np.arange(len(score_Mx2)))
    found[name] = {'pairs': len(score_Mx2), 'right': right, '95%': [low, high]}
    ends = f'{show(low, ".1%")} to {show(high, ".1%")}'
    print(ROW.format(label, len(score_Mx2), show(right, '.1%'), ends))
  files.write_json(workdir / 'salmon.json', found)


def main() -> None:
  """Reads the command line."""
  workdir, config = pathlib.Path(sys.argv[1]), configs.load('reward_model')
  workdir.mkdir(parents=True, exist_ok=True)
  command.override(config, sys.argv[2:])
  with jax.set_mesh(make_mesh(**config.mesh)):
    measure(config, workdir)


if __name__ == '__main__':
  main()
