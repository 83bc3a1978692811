"""Renders a rule as a sentence, from the tables `wording_en` and `wording_zh`.

A template's fields are the rule's arguments and values derived from them:
`amount` (at least 3), `s` (plural suffix of the noun after it), `words` (a
quoted list), `answers` (IFEval's three), and names of languages and scripts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlcw.rewards.rules import ifeval, languages, wording_en, wording_zh
from rlcw.rewards.rules.ifbench.wording import SENTENCES

TABLES = {'en': wording_en.WORDINGS, 'zh': wording_zh.WORDINGS}
PARAPHRASES = 3  # least number of wordings of a rule
# Exactly, at least, at most, between; one row for each paraphrase.  {1} is the
# upper bound, the second positional argument of `format`.
_AMOUNTS = {
  'en': (
    ('exactly {}', 'at least {}', 'at most {1}', 'between {} and {}'),
    ('precisely {}', 'no fewer than {}', 'no more than {1}', 'from {} to {}'),
    ('exactly {}', '{} or more', '{1} or fewer', '{} to {}'),
  ),
  'zh': (
    ('正好{}', '至少{}', '不超过{1}', '{}到{}'),
    ('恰好{}', '不少于{}', '最多{1}', '{}至{}'),
    ('刚好{}', '最少{}', '至多{1}', '{}～{}'),
  ),
}
_FEWER = {'en': 'fewer than {}', 'zh': '少于{}'}
_SCRIPTS = {'simplified': '简体', 'traditional': '繁体'}


def render(
  instruction_id: str,
  arguments: Mapping[str, Any],
  language: str,
  paraphrase: int,
) -> str:
  """Renders a validated rule as one sentence; IFBench's in English only.

  Args:
    instruction_id: of the rule.
    arguments: its arguments, without those that are None.
    language: en or zh.
    paraphrase: index of the wording, modulo the number that the rule has.
  """
  if instruction_id in SENTENCES:
    language, templates = 'en', (SENTENCES[instruction_id],)
  else:
    templates = TABLES[language][instruction_id]
  index = paraphrase % len(templates)
  return templates[index].format(**_fields(arguments, language, index))


def name(
  instruction_id: str, arguments: Mapping[str, Any] | None = None
) -> str:
  """Names a rule in a few plain English words, for tables and plots.

  Args:
    instruction_id: of the rule; an unknown one is its own name.
    arguments: valid ones, to be part of the name as in "at most 120 words".
  """
  names = wording_en.NAMES.get(instruction_id, instruction_id)
  if isinstance(names, str):
    return names
  general, template = names
  if arguments is None:
    return general
  return template.format(**_fields(arguments, 'en', 0))


def _fields(
  arguments: Mapping[str, Any], language: str, index: int
) -> dict[str, Any]:
  """Returns the values of a template's fields."""
  zh = language == 'zh'
  amount = _amount(arguments, language, index)
  spoken = languages.NAMES.get(arguments.get('language', ''), ('', ''))
  script = arguments.get('script', '')
  fields = {
    'amount': amount,
    # The noun agrees with the number beside it.
    's': '' if amount.split()[-1:] == ['1'] else 's',
    'words': _words(arguments, zh),
    'answers': _quoted(ifeval.ANSWERS, '或' if zh else 'or', zh),
    'language': spoken[zh],
    'script': _SCRIPTS.get(script, '') if zh else script,
  }
  # Derived fields last: `language` is a code among the arguments, a name here.
  return {**arguments, **fields}


def _amount(arguments: Mapping[str, Any], language: str, index: int) -> str:
  """Words the number that a rule asks for, as in "at least 3".

  Just the number if the rule gives one without a bound; '' if it has none, or
  several.
  """
  amounts = _AMOUNTS[language]
  exactly, low, high, between = amounts[index % len(amounts)]
  least, most = arguments.get('at_least'), arguments.get('at_most')
  if least or most:
    both = exactly if least == most else between
    # `format` ignores arguments without a field, so None is never printed.
    return ((both if most else low) if least else high).format(least, most)
  # IFEval's rules each name their relation and bound differently, so both are
  # recognised by part of the name and by type.
  relations = [arguments[name] for name in arguments if 'relation' in name]
  numbers = [each for each in arguments.values() if isinstance(each, int)]
  if relations:
    amount = _FEWER[language] if 'less than' in relations else low
    return amount.format(*numbers)
  return str(numbers[0]) if len(numbers) == 1 else ''


def _quoted(words: Sequence[str], conjunction: str, zh: bool) -> str:
  """Lists the words in quotation marks, with a conjunction before the last.

  The conjunction may be '' in Chinese.
  """
  *head, last = [f'“{word}”' if zh else f'"{word}"' for word in words]
  if not head:
    return last
  if zh:
    return f'{"".join(head)}{conjunction}{last}'
  return f'{", ".join(head)} {conjunction} {last}'


def _words(arguments: Mapping[str, Any], zh: bool) -> str:
  """Lists the required or else the forbidden words; '' without either."""
  required = arguments.get('keywords', [])
  words = required or arguments.get('forbidden_words', [])
  if not words:
    return ''
  if zh:
    return _quoted(words, '', zh)
  noun = 'the words' if len(words) > 1 else 'the word'
  return f'{noun} {_quoted(words, "and" if required else "or", zh)}'
