"""Verdicts on labelled replies: their agreement with the labels, by length too.

Letters: N labelled replies, F fakes (adversarial replies, which are Bad).
"""

from typing import Any, NamedTuple

import numpy as np

from rlcw.evaluation import stats
from rlcw.evaluation.labelled import Labelled


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


# Label, name of a score of `held_out`, format.
SCORES = (
  ('agrees with labels', 'agreement', '.1%'),
  ('agrees, mean over labels', 'balanced', '.1%'),
  ('agrees, replies of like length', 'matched', '.1%'),
  ('agrees, calibrated, mean over labels', 'calibrated', '.1%'),
  ('AUC', 'auc', '.3f'),
  ('AUC of length alone', 'length_only_auc', '.3f'),
  ('AUC, pairs of like length', 'matched_auc', '.3f'),
  ('pairs of like length', 'matched_pairs', ',.0f'),
  ('answered', 'answered', '.1%'),
)


def held_out(good_N: np.ndarray, labelled: list[Labelled]) -> dict[str, Any]:
  """Scores on held-out replies, beside a baseline that reads only length.

  Args:
    good_N: probabilities of Good, NaN without an answer.
    labelled: the N held-out replies.

  Returns:
    Scores of `score`; of the AUC and of that between replies of like length
    (`matched_auc`) the 95% intervals over prompts; `calibrated`, the balanced
    agreement with a threshold set by other prompts' labels; and the
    correlation of probabilities and lengths.
  """
  scores = score(Reading(good_N, np.zeros(0)), labelled)
  names = 'agreement', 'balanced', 'matched', 'auc'
  known_N = np.isfinite(good_N)
  label_N, prompt_N, length_N = (
    np.array(values)
    for values in zip(
      *((each.label, each.prompt, len(each.response)) for each in labelled),
      strict=True,
    )
  )
  known = good_N[known_N], label_N[known_N], prompt_N[known_N]
  matched = stats.area(*known, length_N[known_N])
  return {
    **{name: scores[name] for name in names},
    'auc_interval': stats.area_interval(stats.area(*known)),
    'calibrated': stats.calibrated(*known),
    'answered': known_N.mean(),
    'length_only_auc': stats.auc(length_N, label_N),
    'length_correlation': stats.correlation(known[0], length_N[known_N]),
    'matched_auc': matched.auc,
    'matched_auc_interval': stats.area_interval(matched),
    'matched_pairs': matched.pairs,
  }
