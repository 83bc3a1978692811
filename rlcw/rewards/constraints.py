"""Rules that a creative-writing brief can state and a program can verify.

One table, `VERIFIERS`, holds for every instruction id the function that checks
a reply; `wordings` has what asks for it in English and Chinese, several ways. A
verifier answers for any string, in time linear in its length; a blank reply
follows no rule, and nor does one of more than `LONGEST` characters.

The ids and arguments are IFEval's (Zhou et al. 2023, arXiv 2311.07911), and
ours where it has no such rule. Each of IFEval's has two checks: one for a
reward (`checks`), and one for the benchmark's own numbers (`ifeval`). A missing
argument is an error; IFEval draws one at random.

`write_briefs`, which draws rules that go together, is in `compose`.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlcw.rewards.rules import ifeval, languages, wording
from rlcw.rewards.rules.compose import write_briefs as write_briefs
from rlcw.rewards.rules.registry import VERIFIERS, Verifier

Arguments = Mapping[str, Any]
Ids = Sequence[str]
Kwargs = Sequence[Arguments]
LANGUAGES = 'en', 'zh'  # those that rules are worded in

# Far more than any brief asks for, and little enough for every check to take
# a moment.
LONGEST = 100_000


def _is_count(value: object) -> tuple[bool, str]:
  # To isinstance a bool is an int.
  return type(value) is int and value > 0, 'a whole number of 1 or more'


def _legal(name: str, value: object) -> tuple[bool, str]:
  match name:
    case 'relation' | 'let_relation' | 'capital_relation':
      return value in [*ifeval.RELATIONS], ' or '.join(ifeval.RELATIONS)
    case 'letter':
      single = isinstance(value, str) and len(value.strip()) == len(value) == 1
      return single, 'one character that is not white space'
    case 'at_least' | 'at_most' | 'nth_paragraph':
      return _is_count(value)
    case 'scheme':
      letters = value if isinstance(value, str) else ''
      rhymed = [letters.count(letter) for letter in {*letters} - {'X'}]
      legal = (
        re.fullmatch('[A-Z]{2,16}', letters) and min(rhymed, default=0) > 1
      )
      return bool(legal), 'like AABB or XAXA, any letter but X twice or more'
    case 'letters':
      legal = isinstance(value, str) and re.search(r'[^\W_]', value)
      return bool(legal), 'text with letters'
    case _ if name.startswith('num_') or name.endswith('frequency'):
      return _is_count(value)
    case 'keywords' | 'forbidden_words':
      words = value if isinstance(value, list | tuple) else []
      legal = [_legal('word', word)[0] for word in words]
      return legal != [] and all(legal), 'a list of one or more non-blank texts'
    case 'language':
      return value in [*languages.NAMES], f'one of {", ".join(languages.NAMES)}'
    case 'script':
      return value in [*languages.SCRIPTS], ' or '.join(languages.SCRIPTS)
    case _:
      return isinstance(value, str) and value.strip() != '', 'non-blank text'


def _faults(names: Mapping[str, bool], given: Arguments) -> Iterator[str]:
  for name in given:
    if name not in names:
      yield f'no argument {name!r}, only {", ".join(names) or "none at all"}'
  for name, required in names.items():
    legal, wanted = _legal(name, given.get(name))
    if not legal and (required or name in given):
      yield f'{name} must be {wanted}, not {given.get(name)!r}'
  if names and not given:
    yield f'{" or ".join(names)} must be given'
  if given.get('at_least', 0) > given.get('at_most', math.inf):
    yield 'at_least must be no more than at_most'
  if given.get('nth_paragraph', 0) > given.get('num_paragraphs', math.inf):
    yield 'nth_paragraph must be no more than num_paragraphs'


def _rule(instruction_id: str, kwargs: Arguments) -> tuple[Verifier, Arguments]:
  if instruction_id not in VERIFIERS:
    legal = difflib.get_close_matches(instruction_id, VERIFIERS, 99, 0)
    raise ValueError(f'no instruction {instruction_id!r}, only {legal}')
  verifier = VERIFIERS[instruction_id]
  # IFEval's files give every argument of every rule, None where it has none.
  given = {name: value for name, value in kwargs.items() if value is not None}
  for fault in _faults(verifier.parameters, given):
    raise ValueError(f'{instruction_id}: {fault}')
  return verifier, given


def validate(
  instruction_ids: Ids, kwargs: Kwargs
) -> list[tuple[Verifier, Arguments]]:
  """The rules, ready to check a reply; ValueError if any is not legal."""
  if len(instruction_ids) != len(kwargs):
    raise ValueError(f'{len(instruction_ids)} ids but {len(kwargs)} kwargs')
  return [*map(_rule, instruction_ids, kwargs)]


def follow(
  reply: str, instruction_ids: Ids, kwargs: Kwargs, *, benchmark: bool = False
) -> list[bool]:
  """The strict verdict on each rule: the reply's as it is."""
  rules = validate(instruction_ids, kwargs)
  legible = reply.strip() != '' and len(reply) <= LONGEST
  return [
    legible and rule.choose(benchmark)(reply, **given) for rule, given in rules
  ]


def follow_loose(
  reply: str, instruction_ids: Ids, kwargs: Kwargs, *, benchmark: bool = False
) -> list[bool]:
  """IFEval's loose verdict: asterisks, first and last line may be left out."""
  lines = reply.split('\n')
  parts = [lines[1:], lines[:-1], lines[1:-1]]
  texts = [reply, *('\n'.join(part).strip() for part in parts)]
  texts += [text.replace('*', '') for text in texts]
  verdicts = [
    follow(text, instruction_ids, kwargs, benchmark=benchmark)
    for text in dict.fromkeys(texts)
  ]
  return [any(each) for each in zip(*verdicts, strict=True)]


def breaks(verdicts: Sequence[bool | None]) -> float:
  """1 if any verdict is against a reply, NaN if none is but one is missing."""
  if any(verdict is False for verdict in verdicts):
    return 1.0
  return math.nan if None in verdicts else 0.0


def check(instruction_id: str, reply: str, kwargs: Arguments) -> bool:
  """The strict verdict on one rule."""
  return follow(reply, [instruction_id], [kwargs])[0]


def describe(
  instruction_id: str, kwargs: Arguments, language: str, paraphrase: int = 0
) -> str:
  """The rule as one sentence in the language, in one of its wordings.

  Any paraphrase is legal: they are taken modulo how many the rule has.
  """
  if language not in LANGUAGES:
    raise ValueError(f'language must be en or zh, not {language!r}')
  if type(paraphrase) is not int:
    raise ValueError(f'paraphrase must be a whole number, not {paraphrase!r}')
  _, given = _rule(instruction_id, kwargs)
  return wording.say(instruction_id, given, language, paraphrase)


def write_brief(
  prompt: str,
  instruction_ids: Ids,
  kwargs: Kwargs,
  language: str,
  paraphrase: int = 0,
) -> str:
  """The prompt and, after it, the rules as sentences in the language."""
  rules = zip(instruction_ids, kwargs, strict=True)
  texts = (describe(*rule, language, paraphrase) for rule in rules)
  return ('' if language == 'zh' else ' ').join([prompt, *texts])
