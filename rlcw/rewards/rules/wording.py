"""A rule as a sentence: the tables `english` and `chinese`, filled in.

A template's fields are the arguments of the rule and what is made of them:
`amount` (at least 3), `s` (the noun beside it is many), `words` (a list of
them), `answers` (IFEval's three), and the names of languages and scripts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rlcw.rewards.rules import ifeval, languages, wording_en, wording_zh

TABLES = {'en': wording_en.WORDINGS, 'zh': wording_zh.WORDINGS}
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
  paraphrase: int,
) -> str:
  """The rule in the language, en or zh; paraphrases are counted in a ring."""
  templates = TABLES[language][instruction_id]
  index = paraphrase % len(templates)
  zh = language == 'zh'
  amount = _amount(arguments, language, index)
  name = languages.NAMES.get(arguments.get('language', ''), ('', ''))
  script = arguments.get('script', '')
  fields = {
    'amount': amount,
    # The noun agrees with the number beside it.
    's': '' if amount.split()[-1:] == ['1'] else 's',
    'words': _words(arguments, zh),
    'answers': _quoted(ifeval.ANSWERS, '或' if zh else 'or', zh),
    'language': name[zh],
    'script': _SCRIPTS.get(script, '') if zh else script,
  }
  return templates[index].format(**{**arguments, **fields})


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
  numbers = [each for each in arguments.values() if isinstance(each, int)]
  if relations:
    amount = _FEWER[language] if 'less than' in relations else low
    return amount.format(*numbers)
  return str(numbers[0]) if len(numbers) == 1 else ''


def _quoted(words: Sequence[str], conjunction: str, zh: bool) -> str:
  """The words in quotation marks, the last after the conjunction."""
  *head, last = [f'“{word}”' if zh else f'"{word}"' for word in words]
  if not head:
    return last
  if zh:
    return f'{"".join(head)}{conjunction}{last}'
  return f'{", ".join(head)} {conjunction} {last}'


def _words(arguments: Mapping[str, Any], zh: bool) -> str:
  """The words that are required, or those that are banned."""
  required = arguments.get('keywords', [])
  words = required or arguments.get('forbidden_words', [])
  if not words:
    return ''
  if zh:
    return _quoted(words, '', zh)
  noun = 'the words' if len(words) > 1 else 'the word'
  return f'{noun} {_quoted(words, "and" if required else "or", zh)}'
