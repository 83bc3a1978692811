"""Candidates, the pair of a query, and counts of what is left out."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlcw.data.characters import blank, visible
from rlcw.sampling.cache import Cut
from rlcw.tasks.curate.debate import overturned

Record = dict[str, Any]
OUTCOMES = (
  'pair',
  'all good',
  'all bad',
  'unmatched',  # in length
  'no verdict',
  'no examples',
)
# Replies of the writer that are no candidates: cut by the token limit or a
# filter, not given, or equal to another.
LEFT_OUT = 'cut', 'missing', 'duplicate'
# Fields of a query's record that are copied to its pair.
KEPT = 'id', 'language', 'genre', 'theme', 'split'


# --- Pairs ------------------------------------------------------------------


def candidates_of(
  replies: Sequence[str | None],
) -> tuple[list[str], dict[str, int]]:
  """Returns the replies that are whole and differ, and counts of the others.

  A pair with a cut reply would teach that endings are bad, or good.
  """
  given = [reply for reply in replies if reply and not blank(reply)]
  whole = [reply for reply in given if not isinstance(reply, Cut)]
  different = [*dict.fromkeys(whole)]
  counts = (
    len(given) - len(whole),
    len(replies) - len(given),
    len(whole) - len(different),
  )
  return different, dict(zip(LEFT_OUT, counts, strict=True))


def choose(
  candidates: Sequence[Record], length_ratio: float
) -> tuple[str, Record]:
  """Chooses the best candidate labelled 1 and the worst labelled 0.

  Quality is the number of merits minus the number of faults.  Longer replies
  get more merits, so without `length_ratio` nearly all pairs prefer the longer
  one.

  Args:
    candidates: with their labels.
    length_ratio: largest ratio of the lengths within a pair; 0 for no limit.

  Returns:
    The outcome, one of `OUTCOMES`, and the pair's texts if it is 'pair'.
  """
  good = [c for c in candidates if c['label'] == 1]
  bad = [c for c in candidates if c['label'] == 0]
  if not good or not bad:
    outcome = 'all good' if good else 'all bad' if bad else 'no verdict'
    return outcome, {}
  couples = [
    (a, b)
    for a, b in itertools.product(good, bad)
    if not length_ratio or _ratio(a['reply'], b['reply']) <= length_ratio
  ]
  if not couples:
    return 'unmatched', {}
  # The widest gap in quality among the couples that are left.
  best = max(couples, key=lambda pair: _balance(pair[0]) - _balance(pair[1]))
  return 'pair', {'chosen': best[0]['reply'], 'rejected': best[1]['reply']}


def _ratio(a: str, b: str) -> float:
  """Ratio of the longer text's length to the shorter one's, at least 1."""
  lengths = [len(visible(text)) for text in (a, b)]
  return max(lengths) / min(lengths)


def _balance(candidate: Record) -> int:
  """Number of merits minus number of faults."""
  sides = 'positive', 'negative'
  merits, faults = (len(candidate[side]['points']) for side in sides)
  return merits - faults


def pair_of(row: Record) -> Record:
  """The preference pair of a trace's line, for `load_preferences`."""
  names = 'prompt', 'chosen', 'rejected', *KEPT
  return {name: row[name] for name in names if name in row}


# --- Counts -----------------------------------------------------------------


def count(row: Record) -> Counter[str]:
  """Counts of one line of the trace, to be added up for the summary."""
  candidates = row['candidates']
  counts = Counter({row['outcome']: 1, 'candidates': len(candidates)})
  counts['labelled'] = sum(c['label'] is not None for c in candidates)
  counts['overturned'] = sum(map(overturned, candidates))
  counts.update(row.get('left_out', {}))
  if row['outcome'] == 'pair':
    counts['chosen_longer'] = len(row['chosen']) > len(row['rejected'])
  return counts


def summarise(counts: Counter[str]) -> Record:
  """Numbers of pairs, outcomes and labels, and their rates, for the summary."""
  outcomes = {name: counts[name] for name in OUTCOMES}
  queries, pairs = sum(outcomes.values()), counts['pair']
  return {
    'queries': queries,
    'pairs': pairs,
    'yield': pairs / max(queries, 1),
    'outcomes': outcomes,
    'candidates': counts['candidates'],
    'left_out': {name: counts[name] for name in LEFT_OUT},
    'unlabelled': counts['candidates'] - counts['labelled'],
    'overturned': counts['overturned'],
    'overturn_rate': counts['overturned'] / max(counts['labelled'], 1),
    'chosen_longer': counts['chosen_longer'] / max(pairs, 1),
  }
