"""A rule as a sentence: the tables `english` and `chinese`, filled in.

A template's fields are the arguments of the rule and what is made of them:
`amount` (at least 3), `s` (the noun beside it is many), `words` (a list of
them), `answers` (IFEval's three), and the names of languages and scripts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlcw.rewards import chinese, english, ifeval, languages

TABLES = {'en': english.WORDINGS, 'zh': chinese.WORDINGS}
PARAPHRASES = 3  # that every rule has, or more
# Exactly, at least, at most, between, less than; one row for each paraphrase.
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


def say(
  instruction_id: str,
  arguments: Mapping[str, Any],
  language: str,
  paraphrase: int = 0,
) -> str:
  """The rule in the language, en or zh; paraphrases are counted in a ring."""
  templates = TABLES[language][instruction_id]
  index = paraphrase % len(templates)
  amount = _amount(arguments, language, index)
  # The noun agrees with the number beside it.
  singular = amount.split()[-1:] == ['1']
  return templates[index].format(
    **{
      **arguments,
      'amount': amount,
      's': '' if singular else 's',
      'words': _words(arguments, language),
      'answers': _listed(ifeval.ANSWERS, language, 'or', '或'),
      'language': _language(arguments, language),
      'script': _script(arguments, language),
    }
  )


def _numbers(arguments: Mapping[str, Any]) -> list[int]:
  return [each for each in arguments.values() if isinstance(each, int)]


def _amount(arguments: Mapping[str, Any], language: str, index: int) -> str:
  """How many, of what the rule counts; just the number where it has but one."""
  amounts = _AMOUNTS[language]
  exactly, low, high, between = amounts[index % len(amounts)]
  least, most = arguments.get('at_least'), arguments.get('at_most')
  if least or most:
    both = exactly if least == most else between
    return ((both if most else low) if least else high).format(least, most)
  # IFEval's counts: each rule has its own names for relation and bound.
  relations = [arguments[name] for name in arguments if 'relation' in name]
  numbers = _numbers(arguments)
  if relations:
    amount = _FEWER[language] if 'less than' in relations else low
    return amount.format(*numbers)
  return str(numbers[0]) if len(numbers) == 1 else ''


def _listed(
  words: Sequence[str], language: str, english: str, chinese: str
) -> str:
  """ "a", "b" or "c"; “a”“b”或“c”."""
  if language == 'en':
    *head, last = [f'"{word}"' for word in words]
    return f'{", ".join(head)} {english} {last}' if head else last
  *head, last = [f'“{word}”' for word in words]
  return f'{"".join(head)}{chinese if head else ""}{last}'


def _words(arguments: Mapping[str, Any], language: str) -> str:
  required, banned = (
    arguments.get(name, []) for name in ('keywords', 'forbidden_words')
  )
  words = [*required, *banned]
  if not words:
    return ''
  listed = _listed(words, language, 'and' if required else 'or', '')
  if language == 'zh':
    return listed
  return f'the word{"s" if len(words) > 1 else ""} {listed}'


def _language(arguments: Mapping[str, Any], language: str) -> str:
  names = languages.NAMES.get(arguments.get('language', ''), ('', ''))
  return names[language == 'zh']


def _script(arguments: Mapping[str, Any], language: str) -> str:
  script = arguments.get('script', '')
  return _SCRIPTS.get(script, '') if language == 'zh' else script
