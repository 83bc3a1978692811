"""The reply of a model that thinks aloud: the text after its thoughts."""

_OPENS, _CLOSES = '<think>', '</think>'


def reply_of(text: str) -> str | None:
  """Returns the text after the last `</think>`, or None without a reply.

  A text without these tags is returned as it is.  One that opens its thoughts
  and never closes them has no reply, and neither has one that ends with them.
  Some chat templates open the thoughts themselves, so that a text may close
  what it does not open.

  Args:
    text: all that the model wrote.
  """
  _, closes, reply = text.rpartition(_CLOSES)
  if _OPENS in reply:
    return None
  if closes:
    reply = reply.strip()
  return reply or None
