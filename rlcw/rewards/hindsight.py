"""Hindsight for rules: a brief in place of one whose rules no reply keeps.

A group in which every reply breaks a rule has no reply to prefer.  But its
replies keep some of the rules, and for a brief with these rules alone some of
them are good: so the group learns from that brief.  (Source: hindsight for
instructions, HiR, arXiv 2512.23457; relabelled goals, ECHO, arXiv 2510.10304.)

For a brief with rules R, of which reply g keeps `S_g`, the new rules R' are the
largest `S_g` of a reply that ended by itself, and that nothing but rules was
held against; of several, that of the best written reply.  A reply violates the
new brief if `R' ⊄ S_g`.  Without a kept rule there is no new brief.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlcw.rewards.briefs import Brief


class Relabelled(NamedTuple):
  """A brief with fewer rules, and how its group's G replies keep them."""

  brief: Brief
  violated: np.ndarray  # [G]
  valid: np.ndarray  # [G]
  broken_share: np.ndarray  # [G] of its rules; 1 if refused


def relabel(
  brief: Brief,
  follow: Sequence[Sequence[bool | None]],
  refused: np.ndarray,
  scored: np.ndarray,
  writing: np.ndarray,
) -> Relabelled | None:
  """Returns the brief that the replies of an all-violating group do keep.

  Args:
    brief: whose rules every reply breaks.
    follow: `[G][rules]`, None for a missing verdict.
    refused: `[G]`, 1 where a reply violates for another reason than a rule: it
      was cut, or a verifier of the user refused it; NaN where a verifier gave
      no verdict, else 0.
    scored: `[G]`, true for a reply that has a writing score.
    writing: `[G]` these scores.

  Returns:
    The brief and its verdicts; None if no reply keeps a rule, or if the replies
    that do keep them all (then something else was held against each).
  """
  kept = [
    {index for index, verdict in enumerate(verdicts) if verdict}
    for verdicts in follow
  ]
  able = [g for g in np.flatnonzero((refused == 0) & scored) if kept[g]]
  if not able:
    return None
  best = max(able, key=lambda g: (len(kept[g]), writing[g]))
  rules = sorted(kept[best])
  if len(rules) == len(brief.instruction_id_list):
    return None
  # Missing verdicts matter only at a rule that is left, and only to a reply
  # that breaks none of the others.
  left = [[verdicts[index] for index in rules] for verdicts in follow]
  broken = np.array([False in verdicts for verdicts in left])
  unknown = np.array([None in verdicts for verdicts in left])
  violated = broken | (refused == 1)
  return Relabelled(
    dataclasses.replace(
      brief,
      instruction_id_list=tuple(brief.instruction_id_list[r] for r in rules),
      kwargs=tuple(brief.kwargs[r] for r in rules),
    ),
    violated,
    scored & (violated | ~(unknown | np.isnan(refused))),
    np.where(
      refused == 1, 1.0, [each.count(False) / len(rules) for each in left]
    ),
  )
