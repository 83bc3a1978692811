"""Words of a comparison's page about its intervals."""

import re

import numpy as np

from rlcw.tasks.compare import arms, page


def _run(rng: np.random.Generator, mean: float, text: str) -> list[list[dict]]:
  return [
    [
      {
        'text': text,
        'strict': 1.0,
        'loose': 1.0,
        'writing': score,
        'unseen': score,
        'follow': [True],
        'length': len(text),
        'finished': True,
        'kl': 0.0,
      }
    ]
    for score in rng.normal(mean, 1, 12)
  ]


def _words(**runs: list[list[dict]]) -> str:
  """The text of a page about these runs, tags removed."""
  replies = {name.replace('_', '-'): run for name, run in runs.items()}
  features = {name: np.ones((12, 1, 2)) for name in replies}
  table = arms.measure(replies, features, [['a']] * 12, 'en')
  for arm in table['arms'].values():
    arm['numbers']['raised'] = np.nan
  summary = table | {
    'briefs': 12,
    'replies_per_brief': 1,
    'steps': 4,
    'notes': [],
    'scorers': {'unseen': 0.9},
    'benchmark': {},
    'warnings': {},
  }
  text = page.template('tasks/compare/page.html.jinja').render(
    summary=summary,
    arms=table['arms'],
    base=arms.BASE,
    rows=page.ROWS,
    ours=page.headline_arm(summary),
    baselines=page.baselines(summary),
    pictures=dict.fromkeys(('plane', 'bands', 'drift'), b''),
    samples=[],
  )
  return ' '.join(re.sub('<[^>]*>', ' ', text).split())


def test_intervals_of_one_seed_are_called_so() -> None:
  rng = np.random.default_rng(0)
  words = _words(
    base=_run(rng, 0, 'a b c'),
    rlmr_0=_run(rng, 9, 'a b c'),
    rlmr_1=_run(rng, 9, 'a b c'),
    gate_0=_run(rng, -9, 'd e f'),
  )
  assert 'rlmr 2 runs briefs and seeds gate 1 run briefs only' in words
  assert '(95% interval over briefs and seeds' in words
  assert 'It beats base, gate (briefs, seeds of one arm only).' in words
  assert '95% intervals over briefs, seeds of one arm only.' in words
  assert 'are of the same 36 words of every run' in words
  assert 'not identified –' not in words


def test_a_rate_that_is_not_identified_is_called_so() -> None:
  rng = np.random.default_rng(0)
  words = _words(
    base=_run(rng, 0, 'a b c'), rlmr_0=_run(rng, 1, 'a b c d e f g')
  )
  # by the unseen scorer; there is no judge
  assert re.search(
    r'rlmr briefs only \S+% \S+% to \S+% not identified – –', words
  )
