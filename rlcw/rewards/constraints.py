"""Rules that a creative-writing brief can state and a program can verify.

The table `VERIFIERS` maps every instruction id to the function that checks a
reply; `rules.wording` words the rule in English and Chinese, several ways each.
A verifier accepts any string and takes time linear in its length.  A blank
reply, or one of more than `LONGEST` characters, follows no rule.

Ids and arguments are IFEval's (Zhou et al. 2023, arXiv 2311.07911) and
IFBench's (2507.02833), with ids of our own for further rules.  Each rule of a
benchmark has a check for rewards (`rules.checks`, `rules.ifbench.strict`) and
one that reproduces the benchmark's numbers (`rules.ifeval`, `rules.ifbench`).
A missing argument is an error, where IFEval would draw one at random.

`write_briefs` (in `rules.compose`) draws rules that are compatible, none of
which is IFBench's: these measure rules unseen in training.
"""

import math
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from rlcw.rewards.rules import ifeval, languages, wording
from rlcw.rewards.rules import text as text_lib
from rlcw.rewards.rules.ifbench import table as ifbench
from rlcw.rewards.rules.registry import VERIFIERS, Verifier
from rlcw.rewards.rules.text import LONGEST_TEXT, is_text
from rlcw.runtime.ranges import nearest

Arguments = Mapping[str, Any]
Ids = Sequence[str]
Kwargs = Sequence[Arguments]
LANGUAGES = 'en', 'zh'  # languages with wordings

# Rules that a benchmark has and that cannot be checked here -> why.
UNSUPPORTED = ifbench.UNSUPPORTED
# Every rule that can be checked.  Those of IFBench are apart, so that none is
# drawn for a brief or extracted from a prompt.
_KNOWN = VERIFIERS | ifbench.RULES

IFEVAL, IFBENCH = 'IFEval', 'IFBench'

# In characters.  Far more than any brief asks for, and short enough for every
# check to be fast.
LONGEST = 100_000


_AT_MOST = f' of at most {LONGEST_TEXT} characters'
_MOST_TEXTS = 200


def _is_count(value: object, least: int = 1) -> tuple[bool, str]:
  # Not isinstance: a bool is an int too, and `true` in JSON is a mistake here.
  # No reply has more of anything than characters.
  return (
    type(value) is int and least <= value <= LONGEST,
    f'a whole number of {least} or more, at most {LONGEST}',
  )


def _validate_argument(name: str, value: object) -> tuple[bool, str]:
  """True if the value suits the argument, and a description of those that do.

  The name alone determines the type, whichever rule it belongs to.
  """
  match name:
    case 'relation' | 'let_relation' | 'capital_relation':
      return value in [*ifeval.RELATIONS], ' or '.join(ifeval.RELATIONS)
    case 'letter':
      # One as a reader counts, who takes a letter and its accents together.
      letter = value if isinstance(value, str) and is_text(value) else ''
      single = (
        letter.strip() == letter and text_lib.count_characters(letter) == 1
      )
      return single, 'one character that is not white space'
    case 'at_least' | 'at_most' | 'nth_paragraph' | 'min_words' | 'max_words':
      return _is_count(value)
    case 'N' | 'm' | 'n' | 'small_n':
      return _is_count(value)
    case 'n_start' | 'n_end':  # indices, the first of which is 0
      return _is_count(value, least=0)
    case 'percentage':
      share = value if type(value) in (int, float) else -1
      return 0 <= cast(float, share) <= 100, 'a number from 0 to 100'
    case 'scheme':
      letters = value if isinstance(value, str) else ''
      # X marks a free line.  A letter that occurs once would rhyme with none.
      valid = re.fullmatch('[A-Z]{2,16}', letters) and not any(
        letters.count(letter) == 1 for letter in {*letters} - {'X'}
      )
      return (
        bool(valid) and {*letters} != {'X'},
        'like AABB or XAXA, any letter but X twice or more',
      )
    case 'letters':
      valid = is_text(value) and re.search(r'[^\W_]', str(value))
      return bool(valid), 'text with letters' + _AT_MOST
    case _ if name.startswith('num_') or name.endswith('frequency'):
      return _is_count(value)
    case 'keywords' | 'forbidden_words':
      words = value if isinstance(value, list | tuple) else []
      valid = 0 < len(words) <= _MOST_TEXTS and all(map(is_text, words))
      return (
        valid and sum(map(len, words)) <= LONGEST_TEXT,
        f'a list of one or more non-blank texts, at most {_MOST_TEXTS} of '
        f'{LONGEST_TEXT} characters together',
      )
    case 'language':
      # `in` a list, not in the dict: an unhashable value must not raise.
      return value in [*languages.NAMES], f'one of {", ".join(languages.NAMES)}'
    case 'script':
      return value in [*languages.SCRIPTS], ' or '.join(languages.SCRIPTS)
    case _:
      return is_text(value), 'non-blank text' + _AT_MOST


def _errors(parameters: Mapping[str, bool], given: Arguments) -> Iterator[str]:
  """Messages about arguments that do not fit a rule's parameters.

  Args:
    parameters: name -> true if required.
    given: the arguments of a rule in a brief.
  """
  for name in given:
    if name not in parameters:
      expected = ', '.join(parameters) or 'none'
      yield f'unknown argument {name!r:.80}; expected {expected}'
  for name, required in parameters.items():
    valid, expected = _validate_argument(name, given.get(name))
    if not valid and (required or name in given):
      # Abridged: it may be of any size.
      yield f'{name} must be {expected}, not {reprlib.repr(given.get(name))}'
  # `length:*` rules: each bound is optional, but one of them is needed.
  if parameters and not given:
    yield f'{" or ".join(parameters)} must be given'
  # These come last, because they compare values whose types are now checked.
  if given.get('at_least', 0) > given.get('at_most', math.inf):
    yield 'at_least must be no more than at_most'
  for low, high in (('min_words', 'max_words'), ('n_start', 'n_end')):
    if given.get(low, 0) > given.get(high, math.inf):
      yield f'{low} must be no more than {high}'
  if given.get('nth_paragraph', 0) > given.get('num_paragraphs', math.inf):
    yield 'nth_paragraph must be no more than num_paragraphs'


def _rule(instruction_id: str, kwargs: Arguments) -> tuple[Verifier, Arguments]:
  """The verifier of a rule, and the arguments that the brief gives it.

  Raises:
    ValueError: the id is unknown, or an argument does not fit.
  """
  if instruction_id in [*UNSUPPORTED]:
    raise ValueError(
      f'{instruction_id} is not supported: it {UNSUPPORTED[instruction_id]}'
    )
  if not isinstance(instruction_id, str) or instruction_id not in _KNOWN:
    wanted = str(instruction_id)[:99]
    raise ValueError(
      f'no instruction {instruction_id!r:.99}'
      + (nearest(wanted, VERIFIERS) or f'; expected one of {[*VERIFIERS]}')
    )
  verifier = _KNOWN[instruction_id]
  if not isinstance(kwargs, Mapping):
    raise ValueError(
      f'{instruction_id}: {reprlib.repr(kwargs)} are no arguments; expected a '
      'mapping of names to values'
    )
  # IFEval's files list every argument at every rule, null where unused.
  # In tables with nulls, whole numbers are floats.
  given = {
    name: int(value)
    if isinstance(value, float) and value.is_integer()
    else value
    for name, value in kwargs.items()
    if value is not None
  }
  # Lazy: the first error is raised before later ones are computed.
  for error in _errors(verifier.parameters, given):
    raise ValueError(f'{instruction_id}: {error}')
  return verifier, given


def validate(
  instruction_ids: Ids, kwargs: Kwargs, *, skipped: Collection[str] = ()
) -> list[tuple[Verifier, Arguments]]:
  """Validates a brief's rules, and returns each verifier with its arguments.

  Args:
    instruction_ids: of the rules.
    kwargs: the arguments of each rule.
    skipped: ids of rules that are left out.

  Raises:
    ValueError: an id is unknown, an argument does not fit, or the two lists
      differ in length.
  """
  if len(instruction_ids) != len(kwargs):
    raise ValueError(
      f'{len(instruction_ids)} ids but {len(kwargs)} kwargs: expected one '
      'mapping of arguments for each id'
    )
  return [
    _rule(name, given)
    for name, given in zip(instruction_ids, kwargs, strict=True)
    if name not in [*skipped]
  ]


def follow(
  reply: str, instruction_ids: Ids, kwargs: Kwargs, *, benchmark: bool = False
) -> list[bool]:
  """Strict verdicts on a reply, one for each rule.

  Args:
    reply: any text, checked unchanged.
    instruction_ids: of the rules.
    kwargs: the arguments of each rule.
    benchmark: use the check of the rule's benchmark, if it is of one.

  Raises:
    ValueError: see `validate`.
  """
  rules = validate(instruction_ids, kwargs)
  if len(reply) > LONGEST:
    return [False] * len(rules)
  plain = text_lib.plain(reply)
  return [rule.follows(reply, plain, given, benchmark) for rule, given in rules]


def follow_loose(
  reply: str, instruction_ids: Ids, kwargs: Kwargs, *, benchmark: bool = False
) -> list[bool]:
  """IFEval's loose verdicts: a rule counts as followed if any variant does.

  Variants drop the first line, the last line or both, and with each of these
  the asterisks.  Arguments and errors are those of `follow`.
  """
  lines = reply.split('\n')
  parts = [lines[1:], lines[:-1], lines[1:-1]]
  texts = [reply, *('\n'.join(part).strip() for part in parts)]
  texts += [text.replace('*', '') for text in texts]
  # Variants are often equal; each distinct one is checked once.
  verdicts = [
    follow(text, instruction_ids, kwargs, benchmark=benchmark)
    for text in dict.fromkeys(texts)
  ]
  return [any(of_rule) for of_rule in zip(*verdicts, strict=True)]


def benchmark_of(instruction_ids: Iterable[str]) -> str:
  """Names the benchmark that has the rules: IFBENCH if any is its, or IFEVAL.

  The two share no rule.
  """
  known = {*ifbench.RULES, *UNSUPPORTED}
  return IFEVAL if known.isdisjoint(instruction_ids) else IFBENCH


def is_worded(instruction_id: str, language: str) -> bool:
  """Returns whether a known rule has a sentence in a language."""
  return language in LANGUAGES and (
    language == 'en' or instruction_id not in ifbench.RULES
  )


def breaks(verdicts: Sequence[bool | None]) -> float:
  """Violation flag of a reply: 1 if it fails any rule, else 0.

  NaN if no verdict is negative but one is missing (None).
  """
  # A single failure decides, so a missing verdict matters only without one.
  if any(verdict is False for verdict in verdicts):
    return 1.0
  return math.nan if None in verdicts else 0.0


def keeps(verdicts: Sequence[bool | None]) -> float:
  """A reply's part in a rate of kept rules: 1 if it keeps everything, else 0.

  NaN, left out, if any verdict is missing, even where another is negative: were
  replies without an answer of the judge known by their failures (`breaks`)
  alone, fewer answers would be fewer passes.
  """
  return math.nan if None in verdicts else float(all(verdicts))


def check(instruction_id: str, reply: str, kwargs: Arguments) -> bool:
  """Strict verdict on one rule; raises ValueError as `validate`."""
  return follow(reply, [instruction_id], [kwargs])[0]


def describe(
  instruction_id: str, kwargs: Arguments, language: str, paraphrase: int = 0
) -> str:
  """Words a rule as one sentence.

  Args:
    instruction_id: of the rule.
    kwargs: its arguments.
    language: en or zh; IFBench's rules are in English in both.
    paraphrase: index of the wording, modulo the number that the rule has.

  Raises:
    ValueError: another language, an index that is not an integer, or see
      `validate`.
  """
  if language not in LANGUAGES:
    raise ValueError(f'language must be en or zh, not {language!r:.80}')
  if type(paraphrase) is not int:
    raise ValueError(
      f'paraphrase must be a whole number, not {paraphrase!r:.80}'
    )
  _, given = _rule(instruction_id, kwargs)
  return wording.render(instruction_id, given, language, paraphrase)


def name(instruction_id: str, kwargs: Arguments | None = None) -> str:
  """Names a rule in a few plain words, as in "at most 120 words".

  Args:
    instruction_id: of the rule; one of IFBench's or an unknown one, such as
      that of a later version, is its own name.
    kwargs: its arguments, to be part of the name; without them, or with ones
      that do not fit, the name is a general one, as in "number of words".
  """
  if instruction_id not in VERIFIERS or kwargs is None:
    return wording.name(instruction_id)
  try:
    _, given = _rule(instruction_id, kwargs)
  except ValueError:
    return wording.name(instruction_id)
  return wording.name(instruction_id, given)


def write_brief(
  prompt: str,
  instruction_ids: Ids,
  kwargs: Kwargs,
  language: str,
  paraphrase: int = 0,
) -> str:
  """The prompt, followed by its rules as sentences; see `describe`."""
  rules = zip(instruction_ids, kwargs, strict=True)
  texts = (describe(*rule, language, paraphrase) for rule in rules)
  # Chinese sentences are not separated by spaces.
  return ('' if language == 'zh' else ' ').join([prompt, *texts])
