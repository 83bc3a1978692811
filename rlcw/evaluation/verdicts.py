"""Verdicts on labelled replies: their agreement with the labels, by length too.

Letters: N labelled replies, F fakes (adversarial replies, which are Bad).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rlcw.evaluation import intervals, stats
from rlcw.evaluation.labelled import Labelled
from rlcw.runtime import console, files


class Reading(NamedTuple):
  """A judge's probabilities of Good; NaN where it gave no answer."""

  labelled_N: np.ndarray
  fake_F: np.ndarray


def score(reading: Reading, labelled: list[Labelled]) -> dict[str, float]:
  """Scores verdicts against labels; a score is NaN if no reply counts for it.

  Args:
    reading: probabilities for the labelled replies and the fakes.
    labelled: the N labelled replies.

  Returns:
    `agreement`: share of verdicts that equal the label;
    `balanced`: the same, as a mean over the two labels;
    `matched`: how well verdicts separate Good from Bad among replies of similar
    length (`stats.right_at_length`), as a mean over the two labels;
    `comparable`: `balanced` over those replies only;
    `auc`: area under the ROC curve of the probabilities;
    `fakes`: share of fakes that are judged Bad.
  """
  known_N = np.isfinite(reading.labelled_N)
  verdict_N = reading.labelled_N[known_N] > 0.5
  label_N = np.array([each.label for each in labelled], bool)[known_N]
  length_N = np.array([len(each.response) for each in labelled])[known_N]
  right_N = verdict_N == label_N
  share_N = stats.right_at_length(verdict_N, label_N, length_N)
  # NaN: no reply of the other label has a similar length.
  has_N = np.isfinite(share_N)
  fake_F = reading.fake_F[np.isfinite(reading.fake_F)]
  return {
    'agreement': float(right_N.mean()) if len(right_N) else np.nan,
    'balanced': stats.balanced(right_N, label_N),
    'matched': stats.balanced(share_N[has_N], label_N[has_N]),
    'comparable': stats.balanced(right_N[has_N], label_N[has_N]),
    'auc': stats.auc(reading.labelled_N[known_N], label_N),
    'fakes': float((fake_F <= 0.5).mean()) if len(fake_F) else np.nan,
  }


# Label, name of a score of `held_out`, name of its 95% interval, format.
SCORES = (
  ('agrees with labels', 'agreement', '', '.1%'),
  ('agrees, mean over labels', 'balanced', '', '.1%'),
  ('the same, threshold tuned on other prompts', 'balanced_tuned', '', '.1%'),
  ('agrees, replies of like length', 'matched', '', '.1%'),
  ('AUC', 'auc', 'auc_interval', '.3f'),
  ('AUC of length alone', 'length_only_auc', '', '.3f'),
  ('AUC, pairs of like length', 'matched_auc', 'matched_auc_interval', '.3f'),
  ('AUC of length alone, these pairs', 'length_matched_auc', '', '.3f'),
  ('pairs of like length', 'matched_pairs', '', ',.0f'),
  ('correlation with length', 'length_correlation', '', '+.2f'),
  ('answered', 'answered', '', '.1%'),
)


def cell(found: Mapping[str, Any], key: str, ends: str, style: str) -> str:
  """Formats a score with its interval, if it has one.

  Args:
    found: scores of `held_out`; an earlier version's may lack some.
    key: name of the score.
    ends: name of its interval, '' if it has none.
    style: its format.
  """
  value = console.number(found.get(key), style)
  known = found.get(ends)
  if not known or None in known:
    return value
  return f'{value} ({console.interval(known, style)})'


def held_out(good_N: np.ndarray, labelled: list[Labelled]) -> dict[str, Any]:
  """Scores on held-out replies, beside a baseline that reads only length.

  Args:
    good_N: probabilities of Good, NaN without an answer.
    labelled: the N held-out replies.

  Returns:
    `agreement`, `balanced`, `matched` and `auc` of `score`;
    `balanced_tuned`: balanced agreement with a threshold tuned on other
    prompts (`stats.balanced_tuned`);
    `threshold`: the probability above which replies are best called Good;
    `matched_auc`: the AUC over the `matched_pairs` of like length;
    `auc_interval`, `matched_auc_interval`: 95%, over prompts;
    `length_only_auc`, `length_matched_auc`: what the length would get;
    `length_correlation`: of the probability with the length in characters;
    `answered`: share of replies with an answer.  None where one is not known.
  """
  scores = score(Reading(good_N, np.zeros(0)), labelled)
  names = 'agreement', 'balanced', 'matched', 'auc'
  label_N = np.array([each.label for each in labelled], bool)
  length_N = np.array([len(each.response) for each in labelled], int)
  prompt_N = intervals.groups(each.prompt for each in labelled)
  known_N = np.isfinite(good_N)
  known = good_N[known_N], label_N[known_N], prompt_N[known_N]
  alike = stats.area(*known, length_N[known_N])
  found = {
    **{name: scores[name] for name in names},
    'auc_interval': stats.area_interval(stats.area(*known)),
    'balanced_tuned': stats.balanced_tuned(*known),
    'threshold': stats.threshold(*known[:2]),
    'answered': known_N.mean() if len(known_N) else np.nan,
    'length_only_auc': stats.auc(length_N, label_N),
    'length_correlation': stats.correlation(known[0], length_N[known_N]),
    'length_matched_auc': stats.area(length_N, label_N, prompt_N, length_N).auc,
    'matched_auc': alike.auc,
    'matched_auc_interval': stats.area_interval(alike),
    'matched_pairs': alike.pairs,
  }
  # as they are read from a file, such as by a game that was resumed
  return files.clean(found)
