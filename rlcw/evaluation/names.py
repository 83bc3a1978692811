"""Names of runs, arms, rules and briefs, shown to people and made file names.

A name is a user's.  It may be empty or very long, and may contain line breaks,
markup, characters that reorder the text around them, or halves of surrogate
pairs (a folder whose name is not UTF-8).
"""

import collections
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable

import regex
from rich import cells

# Columns of a terminal; a Han character takes two.
WIDTH = 48
# Not printable by themselves, but part of how scripts and emoji are written.
_JOINERS = '\u200c\u200d'
# Characters that some file system refuses, and names that Windows reserves.
_REFUSED = re.compile(r'[/\\:*?"<>|]|^[-. ]|[. ]$|^(?i:con|nul|aux|prn)(\.|$)')
_MOST_BYTES = 150  # of 255, for endings and temporary files


def shows(character: str) -> bool:
  """Checks that a reader sees a character, or sees others joined by it."""
  return character.isprintable() or character in _JOINERS


def label(
  name: object, width: int = WIDTH, shows: Callable[[str], bool] = shows
) -> str:
  """Shows a name on one line, hidden characters as Python escapes them.

  Args:
    name: any text.
    width: columns; a longer name loses its middle, as names of one family
      differ at their ends.
    shows: tells which characters need no escape.
  """
  text = ''.join(c if shows(c) else _escape(c) for c in str(name))
  # nothing to see: blanks, or characters that only change others
  if not cells.cell_len(text.strip()):
    text = ''.join(c if c == ' ' else _escape(c) for c in text)
    return f'“{text[:width]}”'
  if cells.cell_len(text) <= width and len(text) <= 4 * width:
    return text
  # whole characters as a reader sees them, with their accents
  parts = regex.findall(r'\X', text)
  head = _take(parts, width // 2)
  tail = _take(parts[::-1], width - width // 2 - 1)
  return f'{"".join(head)}…{"".join(tail[::-1])}'


def _escape(character: str) -> str:
  return character.encode('unicode_escape').decode()


def _take(parts: list[str], width: int) -> list[str]:
  """Takes parts from the start, as many as fit the columns."""
  taken, used = [], 0
  for part in parts:
    # a part may be of any length: letters with a thousand accents exist
    used += max(cells.cell_len(part), len(part) // 4)
    if used > width:
      break
    taken.append(part)
  return taken


def labels(
  names: Iterable[str],
  width: int = WIDTH,
  shows: Callable[[str], bool] = shows,
) -> dict[str, str]:
  """Returns the label of each name; those that look alike are numbered."""
  shown: dict[str, str] = {}
  seen: set[str] = set()
  for name in dict.fromkeys(names):
    text = unique = label(name, width, shows)
    number = 1
    while (key := unicodedata.normalize('NFC', unique)) in seen:
      number += 1
      unique = f'{text} ({number})'
    seen.add(key)
    shown[name] = unique
  return shown


def file_names(names: Iterable[str]) -> dict[str, str]:
  """Returns a file name, without its ending, for each name.

  It is the name itself where all file systems take it and tell it from the
  others, else its safe characters and a digest of the whole.
  """
  names = [*dict.fromkeys(names)]
  folded = {
    name: unicodedata.normalize('NFC', name).casefold() for name in names
  }
  count = collections.Counter(folded.values())
  return {
    name: name
    if count[folded[name]] == 1 and _is_file_name(name)
    else _slug(name)
    for name in names
  }


def _is_file_name(name: str) -> bool:
  return (
    name.isprintable()
    and name != ''
    and not _REFUSED.search(name)
    and len(name.encode()) <= _MOST_BYTES
  )


def _slug(name: str) -> str:
  digest = hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()
  safe = re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:40].strip('-._')
  return f'{safe or "name"}-{digest[:12]}'
