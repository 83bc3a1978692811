"""Located penalties: a lower advantage for the tokens that break a rule.

A rule that forbids something is broken at places that a program can point to
(`rules.locate`).  There the advantage of a violator is lowered further,

    A_t = A − β   at tokens of a located span,   A_t = A   at all others,

so the policy learns which words to leave out.  The guarantee of `rlmr` stays,
as β is at least 0 and only violators have spans.  (Source: dense rewards from
critiques, arXiv 2401.07382.)

Letters: P briefs, G replies to each, T reply tokens.
"""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlcw.models.chat import ChatFormat
from rlcw.rewards.briefs import Brief
from rlcw.rewards.rules.locate import Span, joined, locate
from rlcw.sampling.rollout import Rollout


def broken_spans(brief: Brief, reply: str) -> list[Span]:
  """Returns the spans of characters that break any rule of a brief, in order.

  Rules that cannot point, and demands, have none.
  """
  rules = zip(brief.instruction_id_list, brief.kwargs, strict=True)
  return joined(
    span for rule, kwargs in rules for span in locate(rule, reply, kwargs)
  )


def token_mask(
  decode: Callable[[Any], str],
  ids: np.ndarray,
  reply: str,
  spans: Sequence[Span],
) -> np.ndarray:
  """Marks the tokens that have a character of a span.

  Args:
    decode: ids to text.
    ids: `[T]`, sampled ids whose text has the reply in it, such as after a
      thought.
    reply: text of the reply.
    spans: of its characters.

  Returns:
    `[T]`, true at these tokens; all false if the ids do not have the reply.
  """
  mask = np.zeros(len(ids), bool)
  text = decode(ids)
  # The last occurrence: a thought may quote the reply.
  offset = text.rfind(reply)
  if offset < 0:
    return mask
  count = range(len(ids) + 1)
  for start, end in spans:
    start, end = offset + start, offset + end
    # A token may end within a character, so a text of the first tokens is
    # compared, not measured.
    first = bisect.bisect_left(
      count, True, key=lambda n: len(decode(ids[:n])) > start
    )
    last = bisect.bisect_left(
      count, True, key=lambda n: decode(ids[:n])[:end] == text[:end]
    )
    mask[first - 1 : last] = True
  return mask


def locate_violations(
  briefs: Sequence[Brief],
  text: Sequence[Sequence[str]],
  violated_PxG: np.ndarray,
  rollout: Rollout,
  chat: ChatFormat,
) -> tuple[list[list[list[Span]]], np.ndarray]:
  """Finds the tokens of violators that break a rule.

  Args:
    briefs: P of this process, those that are learned from.
    text: `[P][G]` replies.
    violated_PxG: true for violators; others have no spans.
    rollout: the replies' tokens, of this process.
    chat: decodes them.

  Returns:
    Spans of characters of each reply `[P][G]`, and a mask of tokens
    `[P, G, T]`.
  """
  token_PxGxT, length_PxG = (
    np.asarray(rollout.token),
    np.asarray(rollout.length),
  )
  mask_PxGxT = np.zeros(token_PxGxT.shape, bool)
  spans: list[list[list[Span]]] = []
  for p, brief in enumerate(briefs):
    spans.append([[] for _ in text[p]])
    for g in np.flatnonzero(violated_PxG[p]).tolist():
      spans[p][g] = broken_spans(brief, text[p][g])
      ids = token_PxGxT[p, g, : length_PxG[p, g]]
      mask = token_mask(chat.decode, ids, text[p][g], spans[p][g])
      mask_PxGxT[p, g, : len(ids)] = mask
  return spans, mask_PxGxT
