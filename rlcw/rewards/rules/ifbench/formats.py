"""IFBench's rules about form (`format:*`).

Each docstring states the condition under which a check returns true.
"""

import itertools
import re
import string

import regex

from rlcw.rewards.rules.ifbench.units import (
  MARKS,
  sentences,
  tokens,
  without_marks,
)

# Digits and letters of flags are none alone.
_EMOJI = regex.compile(r'(?V1)[\p{Emoji}--[0-9#*\p{Regional_Indicator}]]')
_CLOSING = {'(': ')', '[': ']', '{': '}'}
_NESTED = 5
_QUOTES = 3
_AFTER_QUOTE = string.digits + MARKS.replace('"', '')


def emoji(reply: str) -> bool:
  """Each sentence ends with an emoji, or the next one begins with it."""
  parts = [without_marks(part).strip() for part in sentences(reply)]
  starts = [part[:1] for part in parts[1:]] + ['']
  return all(
    _EMOJI.search(part[-2:] + start)
    for part, start in zip(parts, starts, strict=True)
  )


def line_indent(reply: str) -> bool:
  """Each line that is not blank is indented more than the one before it.

  Of several blank lines in a row, every second one counts.
  """
  lines, blank = [], False
  for line in reply.split('\n'):
    blank = not blank and not line.strip()
    if not blank:
      lines.append(line)
  indents = [len(line) - len(line.lstrip(' ')) for line in lines]
  return all(one < other for one, other in itertools.pairwise(indents))


def separated(reply: str, sep: str) -> bool:
  """The separator occurs at least twice, anywhere."""
  return reply.count(sep) > 1


def newline(reply: str) -> bool:
  """There are as many lines that are not blank as words."""
  text = without_marks(reply)
  lines = [line for line in text.strip().split('\n') if line]
  return len(lines) == len(text.split())


def no_bullets_bullets(reply: str) -> bool:
  """Two sentences or more, then two lines or more that begin with *.

  A line is blank only once, before the first *, and no other follows that.
  """
  *lines, last = reply.split('\n')
  first = next((n for n, line in enumerate(lines) if _is_bullet(line)), None)
  if first is None:
    return False
  before = lines[:first] if lines[first - 1].strip() else lines[: first - 1]
  return (
    all(map(str.strip, before))
    and sum(len(sentences(line.strip())) for line in before) >= 2
    and all(map(_is_bullet, [*lines[first:], last]))
  )


def _is_bullet(line: str) -> bool:
  return line.strip().startswith('*')


def no_whitespace(reply: str) -> bool:
  """No white space occurs."""
  return not any(map(str.isspace, reply))


def options(reply: str, options: str) -> bool:
  """The reply is one of the options, which / or else "or" or commas separate.

  Outer marks and case are ignored, but not if the options are a, b, c.
  """
  separators = [each for each in ('/', 'or') if each in options]
  choices = options.split(separators[0] if separators else ',')
  if re.match(r'\W*[aA]\W*[bB]\W*[cC]', options):
    return reply in map(str.strip, choices)
  strip = MARKS + ' '
  return reply.strip(strip).lower() in [
    choice.strip(strip).lower() for choice in choices
  ]


def output_template(reply: str) -> bool:
  """The three headings of the template occur."""
  return all(
    heading in reply
    for heading in ('My Answer:', 'My Conclusion:', 'Future Outlook:')
  )


def parentheses(reply: str) -> bool:
  """Five brackets are open when one of them is closed."""
  return are_nested(reply, until_closed=False)


def are_nested(reply: str, *, until_closed: bool) -> bool:
  """Checks for brackets that are nested five deep.

  A closing one that does not match makes the count begin anew.

  Args:
    reply: any text.
    until_closed: whether all of them must be closed, or one.
  """
  expected: list[str] = []
  deepest = 0
  for mark in reply:
    if mark in _CLOSING:
      expected.append(_CLOSING[mark])
      deepest = max(deepest, len(expected))
    elif mark in _CLOSING.values():
      if expected[-1:] != [mark]:
        expected, deepest = [], 0
        continue
      expected.pop()
      if deepest >= _NESTED and not (until_closed and expected):
        return True
  return False


def quote_unquote(reply: str) -> bool:
  """No two double quotes are side by side, and none is last.

  Neither white space between, nor digits and other marks after them matter.
  """
  text = re.sub('[“”]', '"', reply).replace("'\"'", '')
  text = ''.join(text.split())
  return '""' not in text and not text.rstrip(_AFTER_QUOTE).endswith('"')


def quotes(reply: str) -> bool:
  """Double and single quotes are nested three deep.

  An apostrophe is a single quote.
  """
  open_: list[str] = []
  deepest = 0
  for mark in re.findall('["\']', reply):
    if open_ and open_[-1] == mark:
      open_.pop()
      if deepest - len(open_) >= _QUOTES:
        return True
    else:
      open_.append(mark)
      deepest = max(deepest, len(open_))
  return False


def sub_bullets(reply: str) -> bool:
  """After each * a - comes before the next; a reply without * passes."""
  return all('-' in part for part in reply.split('*')[1:])


def thesis(reply: str) -> bool:
  """Tags of HTML's italics are around text, and some follows.

  The tags may differ.  Three and four characters are taken for them, so that
  the rest of <em> and </em> is text.
  """
  opened = next((tag for tag in ('<i>', '<em>') if tag in reply), None)
  if opened is None:
    return False
  text = reply[reply.index(opened) :]
  closed = next((tag for tag in ('</i>', '</em>') if tag in text), None)
  if closed is None:
    return False
  end = text.index(closed)
  return bool(text[3:end].strip() and text[end + 4 :].strip())


def title_case(reply: str) -> bool:
  """No token of two or more letters begins with a small one: sea, sEA."""
  return not any(
    token[0].islower() and (token[1:].islower() or token[1:].isupper())
    for token in tokens(reply)
  )
