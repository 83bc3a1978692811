"""Characters that a reader sees, and those that show nothing."""

import regex

# All line breaks of Python's `str.splitlines` and of Unicode.
BREAK = '\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029'
_BREAKS = regex.compile(f'\r\n|[{BREAK}]')
# `regex` has newer tables of Unicode than Python, whose oldest supported
# version takes the emoji of the last years for unassigned code points.  The
# blanks of Braille, of music and of hieroglyphs count as symbols and letters
# there, but show nothing.
_HIDDEN = regex.compile(
  r'[[\p{C}\p{DI}\u2800\U0001d159\U00013441\U00013442]--[\n]]', regex.V1
)


def visible(text: str) -> str:
  """Removes the invisible characters of a text.

  These are control and format characters (zero-width, bidirectional, tags),
  variation selectors, fillers, lone surrogates and unassigned or private code
  points.  Line breaks of any kind become newlines, tabs become spaces.
  """
  # First: most line breaks are control characters, and would be removed.
  return _HIDDEN.sub('', _BREAKS.sub('\n', text).replace('\t', ' '))


def blank(text: str) -> bool:
  """Returns whether a reader sees nothing of a text."""
  return not visible(text).strip()


def is_chinese(text: str) -> bool:
  """Returns whether most letters of a text are Han characters, without kana."""
  if regex.search(r'[\p{Hiragana}\p{Katakana}]', text):
    return False
  han = len(regex.findall(r'\p{Han}', text))
  return han > len(regex.findall(r'(?!\p{Han})\p{L}', text))
