"""Reads the rules that a prompt states, in English or Chinese.

  1. mask      quotations, so that no quoted text is taken for a rule
  2. find      facts, by the patterns of `lengths_en`, `words_en`, `forms_en`,
               `case_en`, `words_zh` and `forms_zh`
  3. combine   facts to rules, each with the spans that state it
  4. validate  the rules
  5. list      the sentences, and the clauses of sentences with a rule, that
               read like a requirement and state none

A wording that a rule would check more or less strictly than the prompt asks is
left to the list.  "About 300 words", and "a 300-word story", allow a tenth more
or less; a number of sentences, paragraphs, lines or bullet points is exact; of
placeholders, sections and highlights, which rules only bound below, a number
alone is the least.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rlcw.rewards import constraints
from rlcw.rewards.extract import (
  case_en,
  forms_en,
  forms_zh,
  lengths_en,
  words_en,
  words_zh,
)
from rlcw.rewards.extract.combine import Placed, Span, Stated, combine
from rlcw.rewards.extract.facts import Fact
from rlcw.rewards.extract.masking import Masked
from rlcw.rewards.rules.ifeval import ANSWERS
from rlcw.rewards.rules.text import count_words

PATTERNS = (
  *lengths_en.PATTERNS,
  *words_en.PATTERNS,
  *forms_en.PATTERNS,
  *case_en.PATTERNS,
  *words_zh.PATTERNS,
  *forms_zh.PATTERNS,
)
# In characters: of a longer prompt the end is not read.
LONGEST = 20_000

_ANSWERS = 'detectable_format:constrained_response'
_REQUIREMENT = re.compile(
  r'\b(?:must(?:n\'t)?|should(?:n\'t)?|ha(?:s|ve) to|needs? to|required'
  r'|(?:do|does) not|don\'t|never|avoid|refrain|make sure|ensure|be sure'
  r'|at (?:least|most)|(?:no|not) (?:more|fewer|less) than|exactly|without'
  r'|limit|in the style of|tone)\b'
  '|必须|须|务必|要求|应当?|不要|不得|不能|不可|不许|禁止|避免|至少|不超过|最多|确保'
  '|保持|语气|口吻|风格',
  re.IGNORECASE,
)
_BETWEEN_CLAUSES = re.compile(
  r'\s*(?:[,;，；](?!\s*(?:such as|for example)\b)(?:\s*(?:and|but)\b)?'
  r'|(?<!\w)(?:and|but)(?!\w))\s*',
  re.IGNORECASE,
)
# Rules that take more words than the span that their pattern matches, such as
# "separated by six asterisks".
_LONG_WINDED = (
  _ANSWERS,
  'combination:repeat_prompt',
  'combination:two_responses',
  'detectable_format:multiple_sections',
  'detectable_format:title',
  'length_constraints:number_paragraphs',
  'startend:end_checker',
)
# "please make sure that you" announces a requirement, and is none.
_ANNOUNCEMENT = re.compile(
  r'\b(?:please|that|you|your|the|reply|response|answer|it|to)\b'
  '|请|你|您|的|回答|回复',
  re.IGNORECASE,
)


class Reading(NamedTuple):
  """The rules of a prompt, and the requirements that may be more.

  Those are sentences without a rule, and clauses beside one.
  """

  rules: list[Stated]
  unread: list[str]


def read(text: str) -> Reading:
  """Reads the rules that a prompt states.

  Args:
    text: the request as its writer has put it.
  """
  masked = Masked(text[:LONGEST])
  rules = [rule for rule in combine(_find(masked), masked) if _is_valid(rule)]
  return Reading(rules, [*_unread(masked, rules)])


def _unread(masked: Masked, rules: Sequence[Stated]) -> Iterator[str]:
  """Yields the texts that read like a requirement outside all spans."""
  placed = [
    (span, each.instruction_id) for each in rules for span in each.spans
  ]
  for start, end in masked.sentences:
    inside = [
      each for each in placed if each[0][0] < end and start < each[0][1]
    ]
    if not inside:
      if _REQUIREMENT.search(masked.text[start:end]):
        yield masked.raw[start:end]
    elif not any(name in _LONG_WINDED for _, name in inside):
      for a, b in _rest(masked, (start, end), [span for span, _ in inside]):
        text = masked.text[a:b]
        asked = _ANNOUNCEMENT.sub(' ', _REQUIREMENT.sub(' ', text))
        if _REQUIREMENT.search(text) and count_words(asked):
          yield masked.raw[a:b]


def _rest(
  masked: Masked, sentence: Span, spans: Sequence[Span]
) -> Iterator[Span]:
  """Yields the clauses of a sentence outside spans; neighbours are joined."""
  rest: list[Span] = []
  start = sentence[0]
  text = masked.text[: sentence[1]]
  for gap in [*_BETWEEN_CLAUSES.finditer(text, start), None]:
    end = gap.start() if gap else sentence[1]
    if not any(first < end and start < last for first, last in spans):
      rest.append((start, end))
    elif rest:
      yield rest[0][0], rest[-1][1]
      rest = []
    start = gap.end() if gap else end
  if rest:
    yield rest[0][0], rest[-1][1]


def _find(masked: Masked) -> Placed:
  placed = [found for each in PATTERNS for found in each.find(masked)]
  text = masked.raw.lower()
  # Quoted, so that no pattern sees them.
  places = [text.find(answer[:-1].lower()) for answer in ANSWERS]
  if min(places) >= 0:
    last = max(places) + len(ANSWERS[-1])
    placed.append((Fact(_ANSWERS, {}), (min(places), last)))
  return placed


def _is_valid(rule: Stated) -> bool:
  try:
    constraints.validate([rule.instruction_id], [rule.kwargs])
  except ValueError:
    return False
  return True
