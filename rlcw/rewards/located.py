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
from typing import Any, NamedTuple

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
  if offset < 0 or not spans:
    return mask
  pieces = _pieces(decode, ids, text)
  places = [piece.place for piece in pieces]
  for start, end in spans:
    start, end = offset + start, offset + end
    first = bisect.bisect_right(places, start) - 1
    last = bisect.bisect_left(places, end)
    for piece in pieces[first:last]:
      tokens = ids[piece.first : piece.last]
      mask[piece.first : piece.last] |= _piece_mask(
        decode, tokens, piece.text, start - piece.place, end - piece.place
      )
  return mask


class _Piece(NamedTuple):
  """Some tokens with the whole characters that they have."""

  first: int  # token
  last: int  # token, exclusive
  place: int  # of the first character in the text of all tokens
  text: str


def _pieces(
  decode: Callable[[Any], str], ids: np.ndarray, text: str
) -> list[_Piece]:
  """Divides ids into short pieces whose texts join to the text of all.

  A search in a piece costs little, where one in the whole text would decode
  most of it again for each span.
  """
  pieces, first, place = [], 0, 0
  for last in range(1, len(ids) + 1):
    # After the token before: some tokenizers drop the space before a text.
    before = max(first - 1, 0)
    part = decode(ids[before:last])[len(decode(ids[before:first])) :]
    # A character that is not whole yet is decoded as the mark of an error.
    if last == len(ids) or part[-1:] not in ('', '\ufffd'):
      pieces.append(_Piece(first, last, place, part))
      first, place = last, place + len(part)
  # Such as where bytes of no character stand in a row.
  if ''.join(piece.text for piece in pieces) != text:
    return [_Piece(0, len(ids), 0, text)]
  return pieces


def _piece_mask(
  decode: Callable[[Any], str],
  ids: np.ndarray,
  text: str,
  start: int,
  end: int,
) -> np.ndarray:
  """Marks the tokens of a text that have a character from start to end."""
  mask, count = np.zeros(len(ids), bool), range(len(ids) + 1)
  if start <= 0 and end >= len(text):
    return ~mask
  # A token may end within a character, so a text of the first tokens is
  # compared, not measured.
  first = bisect.bisect_left(
    count, True, key=lambda n: len(decode(ids[:n])) > max(start, 0)
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
      mask = token_mask(chat.decode_whole, ids, text[p][g], spans[p][g])
      mask_PxGxT[p, g, : len(ids)] = mask
  return spans, mask_PxGxT
