"""Replies without the thoughts that models write before them."""

import json
import re

from rlcw.models.tokenizer import OTHER_THOUGHTS, REPLY_MARKERS, THOUGHT

# What begins and ends a thought.
Markers = tuple[str, str]
_JSON = json.JSONDecoder(strict=False)
_OBJECTS = 20  # braces, and ends of thoughts, of which the last are tried


def reply_of(
  text: str, thinking: bool = False, markers: Markers | None = None
) -> str:
  """Returns the reply in a model's text, without the thought before it.

  It is blank if the thought never ends.  A reply that begins with another
  thought has that left out too, and so are the markers that some models write
  around a reply after a thought.

  Args:
    text: of a model.
    thinking: true if the prompt has opened a thought.
    markers: of that thought; by default those that the text begins with.
  """
  opened, closed = markers_of(text) or markers or THOUGHT
  end = end_of_thought(text, closed)
  reply = text[end:]
  if begins(reply, opened) or (thinking and not end):
    return ''
  if not end:
    return text
  reply = _unwrapped(reply.strip())
  return reply_of(reply) if markers_of(reply) else reply


def reply_or_all(text: str) -> str:
  """Returns the reply in a text; all of one that is nothing but a thought."""
  return reply_of(text) or text


def _unwrapped(reply: str) -> str:
  for opened, closed in REPLY_MARKERS:
    if reply.startswith(opened) and (opened or reply.endswith(closed)):
      reply = reply.removeprefix(opened).removesuffix(closed).strip()
  return reply


def end_of_thought(text: str, closed: str) -> int:
  """Place after the last marker that ends a thought; 0 if there is none.

  One that a JSON object quotes ends none.
  """
  found = re.finditer(re.escape(closed), text, re.IGNORECASE)
  ends = [match.end() for match in found]
  for n, end in enumerate(reversed(ends)):
    if n >= _OBJECTS or not _is_in_object(text, end):
      return end
  return 0


def _is_in_object(text: str, place: int) -> bool:
  """Returns whether a place is inside of a JSON object."""
  braces = [match.start() for match in re.finditer('{', text[:place])]
  for brace in braces[: -_OBJECTS - 1 : -1]:
    try:
      _, end = _JSON.raw_decode(text, brace)
    except (ValueError, RecursionError):
      continue
    if end > place:
      return True
  return False


def markers_of(text: str) -> Markers | None:
  """Returns what begins and ends the thought that a text begins with."""
  pairs = THOUGHT, *OTHER_THOUGHTS
  return next((pair for pair in pairs if begins(text, pair[0])), None)


def begins(text: str, marker: str) -> bool:
  """Returns whether a marker in any case begins a text, after white space."""
  return text.lstrip()[: len(marker)].casefold() == marker.casefold()
