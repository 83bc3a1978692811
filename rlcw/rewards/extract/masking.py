"""Prompts with their quotations masked, so that no quoted text is a rule."""

import dataclasses
import re
from collections.abc import Iterator
from functools import cached_property

# Stands for each character of a quotation, and for the dots in P.S. and e.g.
MASK, DOT = '\ue000', '\ue001'
_PLAIN = str.maketrans(
  '‘’‛ʼ＇“”„‟＂「」『』，：；！？（）', "'" * 5 + '"' * 9 + ',:;!?()'
)
_ABBREVIATIONS = re.compile(
  r'(?<![A-Za-z0-9])(?:P\.? ?P\.? ?S\.?|P\. ?S\.?|i\.e\.?|e\.g\.?|etc\.|vs\.|Mr\.|Mrs\.|Ms\.'
  r'|Dr\.|min\.|max\.|approx\.)(?![A-Za-z0-9])',
  re.IGNORECASE,
)
_QUOTED = (
  # Of Chinese texts and typographic quotes, which show their direction.
  re.compile('[“「『„]([^“”「」『』„]{1,4000})[”」』“]'),
  re.compile(
    r'(?<![A-Za-z0-9])["“”](?=\S)([^"“”]{1,4000}?)["“”](?![A-Za-z0-9])'
  ),
  # An apostrophe has letters on both sides.
  re.compile(
    r"(?<![A-Za-z0-9])['‘](?=[^\s'])((?:[^'‘’\n]|(?<=[A-Za-z])['’](?=[A-Za-z]))"
    r"{1,200}?)(?<=[^\s'])['’](?![A-Za-z0-9])"
  ),
  re.compile('`([^`\n]{1,200})`'),
)
_SENTENCE = re.compile('[^.!?。！？；;\n]*[.!?。！？；;\n]*["\')）]*')


@dataclasses.dataclass(frozen=True)
class Masked:
  """A text, and the same with the inside of quotations masked.

  Both have the same length, and quotation marks of all kinds are `"`.
  """

  raw: str

  @cached_property
  def text(self) -> str:
    """The masked text."""
    masked = [*self.raw]
    for start, end in self._quotations():
      masked[start - 1] = masked[end] = '"'
      masked[start:end] = MASK * (end - start)
    shown = ''.join(masked).translate(_PLAIN)
    return _ABBREVIATIONS.sub(lambda m: m[0].replace('.', DOT), shown)

  def _quotations(self) -> Iterator[tuple[int, int]]:
    rest = self.raw
    for pattern in _QUOTED:
      for match in pattern.finditer(rest):
        start, end = match.span(1)
        if MASK not in match[1]:
          yield start, end
          # So that no other kind of quotation is looked for in this one.
          masked = MASK * (end - start + 2)
          rest = rest[: start - 1] + masked + rest[end + 1 :]

  @cached_property
  def sentences(self) -> list[tuple[int, int]]:
    """Spans of the sentences, without outer white space."""
    spans = []
    for match in _SENTENCE.finditer(self.text):
      start, end = match.span()
      part = self.text[start:end]
      start += len(part) - len(part.lstrip())
      end -= len(part) - len(part.rstrip())
      if start < end:
        spans.append((start, end))
    return spans

  def sentence_at(self, place: int) -> tuple[int, int]:
    """Returns the span of the sentence that a character is in."""
    for start, end in self.sentences:
      if place < end:
        return min(start, place), end
    return place, len(self.raw)
