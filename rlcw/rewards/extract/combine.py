"""Joins the facts of a prompt to rules, and compares rules."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlcw.rewards.extract.facts import Fact
from rlcw.rewards.extract.masking import Masked
from rlcw.rewards.rules.text import fold

Span = tuple[int, int]  # of characters in a prompt


class Stated(NamedTuple):
  """A rule, and the spans of the prompt that state it."""

  instruction_id: str
  kwargs: dict[str, Any]
  spans: tuple[Span, ...]


Placed = Sequence[tuple[Fact, Span]]
_WORDS = {
  'keywords:existence': 'keywords',
  'keywords:forbidden_words': 'forbidden_words',
}
_FIRST_WORD = 'length_constraints:nth_paragraph_first_word'
_DIVIDED = 'length_constraints:number_paragraphs'


# Forms with a number of lines, and the lengths that these decide.
_FORMS = 'poem:haiku', 'poem:clauses'
_LINES = 'length:lines', 'length:sentences', 'length:words'
_NEAR = 30  # characters between a form and its lines

# Rules of which a reply can have one.
_ONE = (
  'language:response_language',
  'style:script',
  'startend:start_checker',
  'startend:end_checker',
  'poem:rhyme',
  'poem:acrostic',
  'poem:clauses',
  'detectable_format:number_bullet_lists',
)
# How highlighted text is marked.
_MARKS = re.compile(r'\*|markdown|italic|asterisk|星号|斜体', re.IGNORECASE)


def _near(span: Span, others: Sequence[Span]) -> bool:
  return any(
    span[0] - end < _NEAR and start - span[1] < _NEAR for start, end in others
  )


def combine(placed: Placed, masked: Masked) -> list[Stated]:
  """Joins facts to rules, in the order of the prompt.

  Bounds of one count become one rule, and so do words to include, and words to
  avoid.  Two facts that contradict each other are both left out.

  Args:
    placed: facts with their spans.
    masked: the prompt.
  """
  placed = _outermost(placed)
  joined = [*_joined(placed, masked)]
  # Their parts are no rules of their own: the lines of a haiku.
  taken = {span for each in joined for span in each.spans}
  whole = [span for fact, span in placed if fact.name in _FORMS]
  rest = [
    (fact, span)
    for fact, span in placed
    if not (span in taken and fact.name.startswith('length:'))
    and not (fact.name in _LINES and whole and _near(span, whole))
  ]
  stated = [*_simple(rest), *_lengths(rest), *joined]
  taken = {(each.instruction_id, repr(each.kwargs)): each for each in stated}
  return sorted(taken.values(), key=lambda each: each.spans)


def _outermost(placed: Placed) -> Placed:
  """Drops facts that a longer match of the same rule contains."""
  kept = []
  for fact, span in sorted(placed, key=lambda each: each[1][0] - each[1][1]):
    inside = any(
      other.name == fact.name and start <= span[0] and span[1] <= end
      for other, (start, end) in kept
      if (start, end) != span
    )
    if not inside and (fact, span) not in kept:
      kept.append((fact, span))
  return sorted(kept, key=lambda each: each[1])


def _simple(placed: Placed) -> Iterator[Stated]:
  """Facts that are rules by themselves; lists of words are joined."""
  words: dict[str, tuple[list[str], list[Span]]] = {}
  spelt = [span for fact, span in placed if fact.name == 'poem:acrostic']
  for fact, (start, end) in placed:
    span = start, end
    if fact.name in _WORDS:
      # An acrostic spells its word, and need not have it.
      if any(first <= start and end <= last for first, last in spelt):
        continue
      listed, spans = words.setdefault(fact.name, ([], []))
      listed += fact.kwargs[_WORDS[fact.name]]
      spans.append(span)
    elif not (
      fact.name.startswith(('_', 'length:'))
      or any(_implies(other, fact) for other, _ in placed)
      or any(_contradicts(other, fact) for other, _ in placed)
    ):
      yield Stated(fact.name, fact.kwargs, (span,))
  for name, (listed, spans) in words.items():
    unique = [*{fold(word): word for word in reversed(listed)}.values()][::-1]
    yield Stated(name, {_WORDS[name]: unique}, tuple(spans))


def _contradicts(fact: Fact, other: Fact) -> bool:
  """Returns whether a reply can have one of two things alone.

  Then each is of a part: "the title in English, the text in French".
  """
  return fact.name in _ONE and fact.name == other.name and fact != other


def _implies(fact: Fact, other: Fact) -> bool:
  """Returns whether the bound of a fact is narrower than that of another."""
  if fact.name != other.name or not fact.kwargs:
    return False
  count = next((k for k in fact.kwargs if k.endswith('frequency')), '')
  same = all(
    value == other.kwargs[key]
    for key, value in fact.kwargs.items()
    if key != count
  )
  if not count or not same:
    return False
  least = 'at least' in fact.kwargs.values()
  more = fact.kwargs[count] - other.kwargs[count]
  return more > 0 if least else more < 0


def _lengths(placed: Placed) -> Iterator[Stated]:
  """Bounds of each count, joined: "at least 50 words" and "at most 80"."""
  by_name: dict[str, Placed] = {}
  for fact, span in placed:
    if fact.name.startswith('length:'):
      by_name[fact.name] = [*by_name.get(fact.name, []), (fact, span)]
  for name, facts in by_name.items():
    bounds: dict[str, int] = {}
    # 短版50字以内，长版200字以内: of two texts
    single = {tuple(f.kwargs.items()) for f, _ in facts if len(f.kwargs) == 1}
    if len(single) > len({bound for [(bound, _)] in single}):
      continue
    for fact, _ in facts:
      for bound, count in fact.kwargs.items():
        narrower = max if bound == 'at_least' else min
        bounds[bound] = narrower(bounds.get(bound, count), count)
    if bounds.get('at_least', 0) <= bounds.get('at_most', 10**9):
      yield Stated(name, bounds, tuple(span for _, span in facts))


def _joined(placed: Placed, masked: Masked) -> Iterator[Stated]:
  """Rules of several facts."""
  facts: dict[str, list[tuple[dict[str, Any], Span]]] = {}
  for fact, span in placed:
    facts.setdefault(fact.name, []).append((fact.kwargs, span))
  paragraphs = facts.get('length:paragraphs', [])
  parts = facts.get('_parts', [])
  exact = [each for each in parts if each[0]['exact']]
  for kwargs, span in facts.get('_first_word', []):
    for bounds, place in paragraphs[:1]:
      count = bounds.get('at_most', 0)
      if count and count == bounds.get('at_least'):
        nth = kwargs['nth'] if kwargs['nth'] > 0 else count
        joined = {
          'num_paragraphs': count,
          'nth_paragraph': nth,
          'first_word': kwargs['word'],
        }
        yield Stated(_FIRST_WORD, joined, (place, span))
  for _, span in facts.get('_divider', [])[:1]:
    things = [each for each in facts.get('_things', []) if each[1] < span]
    for kwargs, place in [*exact, *things[-1:]][:1]:
      number = {'num_paragraphs': kwargs['count']}
      yield Stated(_DIVIDED, number, tuple(sorted((place, span))))
  for kwargs, span in facts.get('_heading', [])[:1]:
    own = [({'count': kwargs['count']}, span)] if kwargs['count'] else []
    for counted, place in [*own, *parts][:1]:
      section = {
        'num_sections': counted['count'],
        'section_spliter': kwargs['name'],
      }
      yield Stated(
        'detectable_format:multiple_sections',
        section,
        tuple(sorted((place, span))),
      )
  # "To highlight the risks" asks for no marks.
  marked = [
    (kwargs, (start, end))
    for kwargs, (start, end) in facts.get('_highlights', [])
    if _MARKS.search(masked.text[max(start - 120, 0) : end + 120])
  ]
  for kwargs, span in marked[:1]:
    yield Stated(
      'detectable_format:number_highlighted_sections',
      {'num_highlights': kwargs['count']},
      (span,),
    )
  for kwargs, span in facts.get('_repeat', [])[:1]:
    prompt = kwargs['prompt'] or _request(masked, span, kwargs['where'])
    if prompt:
      repeated = {'prompt_to_repeat': prompt}
      yield Stated('combination:repeat_prompt', repeated, (span,))


def _request(masked: Masked, span: Span, where: str) -> str:
  """Returns the part of a prompt that is to be repeated: above or below."""
  start, end = masked.sentence_at(span[0])
  raw = masked.raw
  # The instruction may take several sentences of its paragraph.
  below = raw[end:].partition('\n\n')[2].strip()
  above = raw[:start].strip()
  if where in ('below', 'following') or not above:
    return below or above
  return above if where == 'above' or not below else below


# --- Comparison -------------------------------------------------------------


def conditions(
  instruction_id: str, kwargs: Mapping[str, Any]
) -> frozenset[tuple[Any, ...]]:
  """Returns the conditions that a rule puts on a reply, in a common form.

  Two rules that ask for the same, such as `length:words` and IFEval's
  `number_words`, have equal conditions.
  """
  given = {name: value for name, value in kwargs.items() if value is not None}
  unit = instruction_id.rpartition(':')[2].removeprefix('number_')
  match instruction_id.partition(':')[0], unit:
    case 'keywords', 'existence':
      return frozenset(('word', fold(w), '>=', 1) for w in given['keywords'])
    case 'keywords', 'forbidden_words':
      words = given['forbidden_words']
      return frozenset(('word', fold(w), '<', 1) for w in words)
    case 'keywords', 'frequency':
      return _compared('word', given['keyword'], given, 'frequency', 'relation')
    case 'keywords', 'letter_frequency':
      names = 'let_frequency', 'let_relation'
      return _compared('letter', given['letter'], given, *names)
    case 'change_case', 'capital_word_frequency':
      names = 'capital_frequency', 'capital_relation'
      return _compared('capital words', '', given, *names)
    case 'length_constraints', 'words' | 'sentences':
      return _compared(unit, '', given, f'num_{unit}', 'relation')
    case 'length', _:
      return _bounded(unit, given)
  texts = {
    name: re.sub(r'[\s.]+', '', fold(value))
    if isinstance(value, str)
    else value
    for name, value in given.items()
  }
  return frozenset([(instruction_id, *sorted(texts.items()))])


def _compared(
  kind: str, text: str, given: Mapping[str, Any], count: str, relation: str
) -> frozenset[tuple[Any, ...]]:
  sign = '<' if given[relation] == 'less than' else '>='
  return frozenset([(kind, fold(text), sign, given[count])])


def _bounded(unit: str, given: Mapping[str, Any]) -> frozenset[tuple[Any, ...]]:
  found = set()
  if 'at_least' in given:
    found.add((unit, '', '>=', given['at_least']))
  if 'at_most' in given:
    found.add((unit, '', '<', given['at_most'] + 1))
  return frozenset(found)
