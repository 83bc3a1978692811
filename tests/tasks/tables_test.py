"""Tasks end with a table of their main numbers, whole without a terminal."""

import functools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rlcw.evaluation import verdicts
from rlcw.tasks import evaluate
from rlcw.tasks.adversary import run as adversary
from rlcw.tasks.compare import page
from rlcw.tasks.curate import pairs
from rlcw.tasks.curate import run as curate
from rlcw.tasks.reward_model import run as reward_model

NAN = math.nan
KEYS = [key for _, key, _ in evaluate._ROWS]
EVALUATION: dict[str, Any] = {
  'briefs': 60,
  'replies_per_brief': 2,
  **{f'{key}_base': 0.25 for key in KEYS},
  **{f'{key}_trained': 0.5 for key in KEYS},
  'pass_rate_difference': {'mean': 0.25, 'low': -0.015, 'high': 0.5},
  'writing_difference': {'mean': NAN, 'low': NAN, 'high': NAN},
  'writing_trained': NAN,
}
JUDGED = {
  'compared': 110,
  'uncompared': 10,
  'win_rate': 0.625,
  'win_rate_interval': [0.5, 0.75],
  'length_controlled_win_rate': 0.5,
  'length_controlled_win_rate_interval': [0.25, 0.7],
}
SCORES: dict[str, Any] = dict.fromkeys(
  (key for _, key, *_ in verdicts.SCORES), 0.75
)
SCORES['auc_interval'] = [0.5, 0.875]
ARM = {
  'runs': ['[bold]a-0'],
  'over': 'briefs only',
  'numbers': {key: 0.5 for _, key, _ in page.ROWS},
  'intervals': {'pass_rate': [0.25, 0.75], 'kl': [NAN, NAN]},
}
# Function, summary, and rows that the table has.
TABLES: list[tuple[Callable[..., None], Any, list[str]]] = [
  (
    evaluate.print_tables,
    EVALUATION,
    [
      'evaluate: 60 briefs, 2 replies to each',
      'base | trained | difference | 95% interval, briefs only',
      'keeps every rule (strict) | 25.0% | 50.0% | +25.0 points | '
      '-1.5 to +50.0',
      'keeps every rule (loose) | 25.0% | 50.0% | +25.0 points',
      'writing score | 0.250 | – | – | – to –',
      'length, tokens | 0.2 | 0.5 | +0.2',
    ],
  ),
  (
    evaluate.print_tables,
    EVALUATION | JUDGED,
    [
      'evaluate: 110 pairs that the judge compared, 10 without a verdict',
      'share | 95% interval, briefs only',
      'trained preferred | 62.5% | 50.0% to 75.0%',
      'trained preferred, at equal length | 50.0% | 25.0% to 70.0%',
    ],
  ),
  (
    evaluate.print_tables,
    EVALUATION
    | JUDGED
    | dict.fromkeys([key for key in JUDGED if key.startswith('length')]),
    ['trained preferred, at equal length | not identified'],
  ),
  (
    reward_model.print_table,
    dict.fromkeys([key for _, key, _, _ in reward_model._ROWS], 0.875)
    | {'heldout_pairs': 77, 'matched_interval': [0.5, 0.75]}
    | {'heldout_interval': [0.75, 1.0]}
    | {'shorter_better_accuracy': None, 'shorter_better_interval': None},
    [
      'reward_model: 77 held-out pairs',
      'right, all pairs | 87.5% | 75.0% to 100.0%',
      'right, pairs of like length | 87.5% | 50.0% to 75.0%',
      'right, the shorter is better | –',
      'calibration error | 0.875',
    ],
  ),
  (
    curate.print_table,
    pairs.summarise(
      Counter(
        {
          'pair': 3,
          'all bad': 1,
          'candidates': 8,
          'labelled': 6,
          'overturned': 3,
          'chosen_longer': 2,
          'cut': 2,
        }
      )
    ),
    [
      'curate: 4 queries',
      'queries: pair | 3 | 75.0%',
      'queries: all bad | 1 | 25.0%',
      'pairs whose better reply is longer | 2 | 66.7%',
      'candidates with a label | 6 | 75.0%',
      'labels overturned | 3 | 50.0%',
      'replies left out: cut | 2 | 20.0%',
    ],
  ),
  (
    curate.print_table,
    pairs.summarise(Counter()) | {'agreement': SCORES | {'replies': 7}},
    [
      'curate: 7 replies that came with a label',
      'agrees, mean over labels | 75.0%',
    ],
  ),
  (
    curate.print_table,
    pairs.summarise(Counter()),
    ['queries: pair | 0 | –', 'labels overturned | 0 | –'],
  ),
  (
    adversary.print_table,
    {
      'heldout': 40,
      # of an earlier version
      'heldout_before': {k: v for k, v in SCORES.items() if k != 'matched_auc'},
      'heldout_after': SCORES | {'agreement': NAN},
      'ended': 'rounds',
      'rounds': 3,
      'kept': 2,
      'refused': 1,
      'principles': 'p.md',
    },
    [
      'adversary: 40 held-out replies',
      'before | after',
      'agrees with labels | 75.0% | –',
      'AUC | 0.750 (0.500 to 0.875) | 0.750 (0.500 to 0.875)',
      'adversary: ended by rounds after 3 rounds, 2 changes of the principles '
      'kept, 1 refused; p.md',
    ],
  ),
  (
    functools.partial(
      page.print_table, shown={name: name for name in ('base', '[bold]a')}
    ),
    {'base': ARM | {'intervals': {}}, '[bold]a': ARM},
    [
      'base (1) | [bold]a (1)',
      'Keeps every rule (strict) | 50.0% | 50.0%',
      '95% interval | 25.0% to 75.0%',
      'Length, tokens | 0.5 | 0.5',
      '95% intervals are over | briefs only | briefs only',
    ],
  ),
]


@pytest.mark.parametrize(('show', 'summary', 'rows'), TABLES)
def test_a_table_has_the_main_numbers_and_their_intervals(
  show: Callable[..., None],
  summary: dict[str, Any],
  rows: list[str],
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setenv('COLUMNS', '40')
  show(summary)
  text = capsys.readouterr().out
  assert '\x1b' not in text
  found = [
    ' | '.join(cell.strip() for cell in line.split('  ') if cell.strip())
    for line in text.splitlines()
  ]
  for row in rows:
    assert row in found
