"""Prompts with their quotations masked, so that no quoted text is a rule."""

import bisect
import dataclasses
import re
from functools import cached_property

# Stands for each character of a quotation, and for the dots in P.S. and e.g.
MASK, DOT = '\ue000', '\ue001'
_PLAIN = str.maketrans(
  '‘’‛ʼ＇“”„‟＂「」『』，：；！？（）', "'" * 5 + '"' * 9 + ',:;!?()'
)
_ABBREVIATIONS = re.compile(
  r'(?<![A-Za-z0-9])(?:P\.? ?P\.? ?S\.?|P\. ?S\.?|i\.e\.?|e\.g\.?|etc\.|vs\.'
  r'|Mr\.|Mrs\.|Ms\.'
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


def _mask(match: re.Match[str]) -> str:
  inside = len(match[1])
  return match[0] if MASK in match[1] else f'"{MASK * inside}"'


@dataclasses.dataclass(frozen=True)
class Masked:
  """A text, and the same with the inside of quotations masked.

  Both have the same length, and quotation marks of all kinds are `"`.
  """

  raw: str

  @cached_property
  def text(self) -> str:
    """The masked text."""
    masked = self.raw
    for pattern in _QUOTED:
      # Masked at once, so that no other kind of quotation is found inside.
      masked = pattern.sub(_mask, masked)
    return _ABBREVIATIONS.sub(
      lambda match: match[0].replace('.', DOT), masked.translate(_PLAIN)
    )

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
    index = bisect.bisect(self.sentences, place, key=lambda span: span[1])
    if index == len(self.sentences):
      return place, len(self.raw)
    start, end = self.sentences[index]
    return min(start, place), end
