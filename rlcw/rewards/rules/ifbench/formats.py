"""IFBench's rules about form (`format:*`).

Each docstring states the condition under which a check returns true.
"""

import itertools
import re

from rlcw.rewards.rules.checks import EMOJI
from rlcw.rewards.rules.ifbench.units import (
  MARKS,
  bare_words,
  sentences,
  tokens,
  without_marks,
)

_CLOSING = {'(': ')', '[': ']', '{': '}'}
_NESTED = 5
_QUOTES = 3


def emoji(reply: str) -> bool:
  """Each sentence ends with an emoji, or the next one begins with it."""
  parts = [without_marks(part).strip() for part in sentences(reply)]
  starts = [part[:1] for part in parts[1:]] + ['']
  return all(
    re.search(EMOJI, part[-2:] + start)
    for part, start in zip(parts, starts, strict=True)
  )


def line_indent(reply: str) -> bool:
  """Each line that is not blank is indented more than the one before it."""
  lines = [line for line in reply.split('\n') if line.strip()]
  indents = [len(line) - len(line.lstrip(' ')) for line in lines]
  return all(one < other for one, other in itertools.pairwise(indents))


def list_(reply: str, sep: str) -> bool:
  """The separator occurs at least twice, anywhere."""
  return reply.count(sep) > 1


def newline(reply: str) -> bool:
  """There are as many lines that are not blank as words."""
  text = without_marks(reply)
  lines = [line for line in text.strip().split('\n') if line]
  return len(lines) == len(text.split())


def no_bullets_bullets(reply: str) -> bool:
  """Two sentences or more, then two lines or more that begin with *.

  No other line may follow these, not even a blank one.
  """
  lines = reply.split('\n')
  bullets = [line.strip().startswith('*') for line in lines]
  first = bullets.index(True) if True in bullets else len(lines)
  count = sum(len(sentences(line)) for line in lines[:first])
  return count >= 2 and len(bullets[first:]) >= 2 and all(bullets[first:])


def no_whitespace(reply: str) -> bool:
  """No white space occurs."""
  return not any(map(str.isspace, reply))


def options(reply: str, options: str) -> bool:
  """The reply is one of the options, which / or "or" or commas separate.

  Outer marks and case are ignored, but not if an option has a bracket: a).
  """
  choices = re.split(r'/|\bor\b|,', options)
  if ')' in options:
    return reply in [choice.strip() for choice in choices]
  strip = MARKS + ' \n'
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
  """Brackets that match are nested five deep."""
  expected: list[str] = []
  deepest = 0
  for mark in reply:
    if mark in _CLOSING:
      expected.append(_CLOSING[mark])
      deepest = max(deepest, len(expected))
    elif mark in _CLOSING.values():
      if not expected or expected.pop() != mark:
        expected, deepest = [], 0
      elif deepest - len(expected) >= _NESTED:
        return True
  return False


def quote_unquote(reply: str) -> bool:
  """After every quotation in double quotes an explanation follows."""
  text = re.sub('[“”]', '"', reply)
  after = text.split('"')[2::2]
  return all(part.strip(MARKS + ' \n') for part in after)


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
  """An HTML element in italics is not blank, and text follows it."""
  match = re.search('<(i|em)>(.*?)</\\1>(.*)', reply, re.DOTALL)
  return match is not None and bool(match[2].strip() and match[3].strip())


def title_case(reply: str) -> bool:
  """No token is in lower case."""
  return not any(
    token[0].islower() and token[1:].islower() for token in tokens(reply)
  )
