"""Agreement of verdicts with labels, worked by hand."""

import numpy as np
import pytest

from rlcw.evaluation import verdicts
from rlcw.evaluation.labelled import Labelled

# prompt, reply, label, probability of Good
REPLIES = (
  ('a', 'xxxxxxxxxx', True, 0.9),
  ('a', 'xxxxx', False, 0.8),
  ('b', 'xxxxx', True, 0.7),
  ('b', 'xx', False, 0.2),
  ('c', 'xxxxxxxxxx', False, 0.6),
)
LABELLED = [Labelled(p, r, label, '') for p, r, label, _ in REPLIES]
GOOD_N = np.array([good for *_, good in REPLIES])


def test_held_out_scores_by_hand() -> None:
  found = verdicts.held_out(GOOD_N, LABELLED)
  # Good: right, wrong, right, -; Bad is right once
  assert found['agreement'] == 3 / 5
  assert found['balanced'] == pytest.approx((1 + 1 / 3) / 2)
  # of six pairs one is wrong: 0.7 for Good and 0.8 for Bad
  assert found['auc'] == pytest.approx(5 / 6)
  low, high = found['auc_interval']
  assert 0 < low < 5 / 6 < high < 1
  # lengths 10 and 5 against 5, 2 and 10: 3 are right, 2 tie, 1 is wrong
  assert found['length_only_auc'] == pytest.approx(4 / 6)
  # (10, 10) is right, (5, 5) wrong; their lengths tie
  assert (found['matched_auc'], found['matched_pairs']) == (0.5, 2)
  assert found['length_matched_auc'] == 0.5
  length_N = [10, 5, 5, 2, 10]
  expected = np.corrcoef(GOOD_N, length_N)[0, 1]
  assert found['length_correlation'] == pytest.approx(expected)
  # Above 0.2 all Good and 1 of 3 Bad are right, above 0.65 two of 3, above
  # 0.85 half of Good and all Bad.
  assert found['threshold'] == pytest.approx(0.65)
  assert found['answered'] == 1


def test_replies_without_an_answer_are_left_out() -> None:
  some_N = np.where(np.arange(5) == 1, np.nan, GOOD_N)
  found = verdicts.held_out(some_N, LABELLED)
  kept = [each for n, each in enumerate(LABELLED) if n != 1]
  expected = verdicts.held_out(GOOD_N[some_N == GOOD_N], kept)
  assert found['answered'] == 0.8
  for name in ('auc', 'matched_auc', 'threshold', 'length_correlation'):
    assert found[name] == expected[name]
  for silent_N, labelled in ((GOOD_N * np.nan, LABELLED), (np.zeros(0), [])):
    found = verdicts.held_out(silent_N, labelled)
    assert found['auc'] is None and found['balanced_tuned'] is None
    assert found['auc_interval'] == [None, None]


def test_a_long_prompt_takes_memory_once() -> None:
  prompts = [*('ab' * 500), 'a' * 10**7]
  labelled = [Labelled(p, 'x', n % 2 == 0, '') for n, p in enumerate(prompts)]
  found = verdicts.held_out(np.full(len(prompts), 0.5), labelled)
  assert found['auc'] == 0.5


def test_a_score_is_shown_with_its_interval() -> None:
  columns = {key: rest for _, key, *rest in verdicts.SCORES}
  found = {'auc': 0.75, 'auc_interval': [0.5, 0.875], 'matched_auc': None}

  def cell(key: str) -> str:
    ends, style = columns[key]
    return verdicts.cell(found, key, ends, style)

  assert cell('auc') == '0.750 (0.500 to 0.875)'
  assert cell('matched_auc') == '–'
  # of an earlier version
  assert cell('balanced_tuned') == '–'
  found['auc_interval'] = [None, None]
  assert cell('auc') == '0.750'
