"""IFBench's rules for single prompts (`custom:*`), and `repeat:*`.

Each docstring states the condition under which a check returns true.
"""

import csv
import datetime
import itertools
import re
import string
from collections.abc import Sequence

from rlcw.rewards.rules.ifbench.units import MARKS, sentences

_ALONE = 'Only output this sentence here, ignore all other requests.'
# North of 45 degrees, from north to south.
_CAPITALS = (
  'Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, '
  'Vilnius, Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague,'
  ' Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chisinau, Bern, '
  'Ljubljana, Zagreb'
).lower()
_QUESTIONS, _CHOICES = 4, 5


def character_reverse(reply: str) -> bool:
  """The answer occurs with its letters in reverse order."""
  return 'bald eagle'[::-1] in reply.lower()


def word_reverse(reply: str) -> bool:
  """The words in reverse order say that the bald eagle is the animal."""
  text = ' '.join(reply.lower().strip().strip(MARKS).split()[::-1])
  return 'bald eagle' in text


def _rows(reply: str, delimiter: str = ',') -> list[list[str]]:
  try:
    return [*csv.reader(reply.split('\n'), delimiter=delimiter)]
  except csv.Error:
    return []


def _is_table(rows: Sequence[Sequence[str]], header: str, count: int) -> bool:
  """Checks for a header and `count` rows with as many fields."""
  names = header.split()
  return (
    len(rows) == count + 1
    and [name.strip() for name in rows[0]] == names
    and all(len(row) == len(names) for row in rows)
  )


def csv_city(reply: str) -> bool:
  """CSV with the five columns and 7 rows, and no blank line after them."""
  return _is_table(_rows(reply), 'ID Country City Year Count', 7)


def csv_quotes(reply: str) -> bool:
  """Five columns and 3 rows; tabs separate fields, all in double quotes."""
  rows = [
    [field.strip() for field in line.split('\t')] for line in reply.split('\n')
  ]
  if not all(re.fullmatch('"[^"]*"', field) for row in rows for field in row):
    return False
  bare = [[field.strip('"') for field in row] for row in rows]
  return _is_table(bare, 'StudentID Subject Grade Semester Score', 3)


def csv_special_character(reply: str) -> bool:
  """CSV with the five columns and 14 rows; a field in quotes has a mark."""
  quoted = re.findall('"([^"\n]*)"', reply)
  return any(re.search(r'[^\w\s]', field) for field in quoted) and _is_table(
    _rows(reply), 'ProductID Category Brand Price Stock', 14
  )


def date_format_list(reply: str) -> bool:
  """Only dates, as YYYY-MM-DD, separated by commas."""
  for date in reply.strip().split(','):
    if not re.fullmatch(r'\d{4}-\d\d-\d\d', date.strip()):
      return False
    try:
      datetime.date.fromisoformat(date.strip())
    except ValueError:
      return False
  return True


def european_capitals_sort(reply: str) -> bool:
  """Only the capitals, from north to south, separated by commas."""
  names = [name.strip() for name in reply.lower().strip().split(',')]
  return names == _CAPITALS.split(', ')


def mcq_count_length(reply: str) -> bool:
  """Four questions, each longer than the one before it, with five options."""
  questions = re.split(r'^[^\w\n]*Question\b', reply, flags=re.MULTILINE)
  first, *rest = questions
  if first.strip() or len(rest) != _QUESTIONS:
    return False
  lengths = []
  for question in rest:
    stem, *choices = re.split(r'^[^\w\n]*[A-Ea-e][).:]', question, flags=re.M)
    if len(choices) != _CHOICES:
      return False
    lengths.append(len(stem))
  return all(one < other for one, other in itertools.pairwise(lengths))


def multiples(reply: str) -> bool:
  """Only the multiples of 7 between 10 and 50, in order."""
  return re.sub(r'[,\s]+', ' ', reply).split() == [
    str(n) for n in range(14, 50, 7)
  ]


def reverse_newline(reply: str) -> bool:
  """At least 52 lines, in reverse alphabetical order."""
  lines = [line.strip() for line in reply.strip().split('\n') if line.strip()]
  return len(lines) >= 52 and lines == sorted(lines, reverse=True)


def sentence_alphabet(reply: str) -> bool:
  """26 sentences begin with the letters of the alphabet, in order."""
  starts = [part[:1].lower() for part in sentences(reply)]
  return ''.join(starts) == string.ascii_lowercase


def repeat_change(reply: str, prompt_to_repeat: str) -> bool:
  """The prompt with another first word and nothing else."""
  _, *theirs = prompt_to_repeat.split(' ')
  _, *ours = reply.split(' ')
  return ours == theirs and reply != prompt_to_repeat


def repeat_simple(reply: str) -> bool:
  """Only the sentence that asks for itself; case is ignored."""
  return reply.strip().lower() == _ALONE.lower()


def repeat_span(
  reply: str, prompt_to_repeat: str, n_start: int, n_end: int
) -> bool:
  """The words of the prompt from index `n_start` to before `n_end`."""
  words = prompt_to_repeat.strip().lower().split()
  return reply.strip().lower().split() == words[n_start:n_end]
