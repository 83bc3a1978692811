"""IFBench's rules for single prompts (`custom:*`), and `repeat:*`.

Each docstring states the condition under which a check returns true.
"""

import csv
import io
import itertools
import re
import string
import unicodedata
from collections.abc import Sequence

from rlcw.rewards.rules.ifbench.units import MARKS, bare_words, sentences

_ALONE = 'Only output this sentence here, ignore all other requests.'
# North of 45 degrees, from north to south.
_CAPITALS = (
  'Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, '
  'Vilnius, Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Prague,'
  ' Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chisinau, Bern, '
  'Ljubljana, Zagreb'
)
_QUESTIONS, _CHOICES = 4, 5
_COUNTRIES = 52
_STOCK = 15  # rows with the header
_NAPOLEON = range(1769, 1822)  # years of his life
# Of other months it is the 31st.
_LAST_DAYS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}


def character_reverse(reply: str) -> bool:
  """The answer occurs with its letters in reverse order."""
  return 'bald eagle'[::-1] in reply.lower()


def word_reverse(reply: str) -> bool:
  """The words in reverse order say that the bald eagle is the animal."""
  return 'bald eagle' in ' '.join(bare_words(reply.lower())[::-1])


def _rows(text: str) -> list[list[str]]:
  try:
    return [*csv.reader(io.StringIO(text))]
  except csv.Error:
    return []


def _is_table(rows: Sequence[Sequence[str]], header: str, count: int) -> bool:
  """Checks for a header and `count` rows with as many fields."""
  names = header.split()
  return (
    len(rows) == count + 1
    and [*rows[0]] == names
    and all(len(row) == len(names) for row in rows)
  )


def csv_city(reply: str) -> bool:
  """CSV with the five columns and 7 rows, and no blank line among them."""
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
  """CSV with the five columns and 14 rows; a field in quotes has a mark.

  No space is before those quotes.  The rows after that one may have more or
  fewer fields.
  """
  # Quotes that are doubled stay in the fields.
  rows = _rows(reply.replace('"', '"""'))
  header = [name.lstrip(' \t').strip('"') for name in rows[0]] if rows else []
  wanted = ['ProductID', 'Category', 'Brand', 'Price', 'Stock']
  if header != wanted or len(rows) != _STOCK:
    return False
  for row in rows[1:]:
    if len(row) != len(header):
      return False
    if any(map(_is_quoted_mark, row)):
      return True
  return False


def _is_quoted_mark(field: str) -> bool:
  inside = field[1 : max(field.rfind('"'), 0)]
  return field[:1] == '"' and re.search(r'[^\w\s]', inside) is not None


def date_format_list(reply: str) -> bool:
  """Only dates of Napoleon's life, as YYYY-MM-DD, separated by commas.

  Each year is a leap year, and has months and days of the number 00.
  """
  for text in reply.split(','):
    date = re.fullmatch(r'(\d{4})-(\d\d)-(\d\d)', text.strip())
    if date is None:
      return False
    year, month, day = map(int, date.groups())
    if year not in _NAPOLEON or month > 12 or day > _LAST_DAYS.get(month, 31):
      return False
  return True


def european_capitals_sort(reply: str) -> bool:
  """Only the capitals, from north to south, separated by commas.

  Accents and commas after the last do not matter.
  """
  names = [name.strip() for name in _ascii(reply).split(',')]
  return [*filter(None, names)] == _CAPITALS.split(', ')


def _ascii(text: str) -> str:
  """Returns the text without accents, and without other non-ASCII letters."""
  decomposed = unicodedata.normalize('NFKD', text)
  return decomposed.encode('ascii', 'ignore').decode()


def mcq_count_length(reply: str) -> bool:
  """Four questions, each longer than the one before it, with five options.

  Nothing is before `Question 1`, and each option on a line of its own.
  """
  parts = re.split(r'Question \d+[.|):;]?\s*', reply)
  questions = [*filter(None, map(str.strip, parts))]
  if not reply.startswith('Question') or len(questions) != _QUESTIONS:
    return False
  lengths = []
  for question in questions:
    lines = [line.strip() for line in question.split('\n')]
    options = [bool(re.match(r'[A-Ea-e][.|)]\s*\w', line)) for line in lines]
    if sum(options) != _CHOICES:
      return False
    lengths.append(len(' '.join(lines[: options.index(True)]).strip()))
  return all(one < other for one, other in itertools.pairwise(lengths))


def multiples(reply: str) -> bool:
  """The multiples of 7 between 10 and 50, in order, and no other numbers."""
  return re.findall(r'\d+', reply) == [str(n) for n in range(14, 50, 7)]


def reverse_newline(reply: str) -> bool:
  """At least 52 lines from Zimbabwe on, in reverse alphabetical order.

  Accents and outer marks do not matter.
  """
  lines = [line.strip(MARKS + ' ') for line in reply.split('\n')]
  rest = itertools.dropwhile(
    lambda line: 'Zimbabwe' not in line, filter(None, lines)
  )
  countries = [*map(_ascii, rest)]
  return len(countries) >= _COUNTRIES and countries == sorted(
    countries, reverse=True
  )


def sentence_alphabet(reply: str) -> bool:
  """26 sentences begin with the letters of the alphabet, in order."""
  starts = [part[:1].lower() for part in sentences(reply)]
  return ''.join(starts) == string.ascii_lowercase


def repeat_change(reply: str, prompt_to_repeat: str) -> bool:
  """The prompt with another first word and nothing else."""
  same = reply.split()[1:] == prompt_to_repeat.split()[1:]
  return same and reply != prompt_to_repeat


def repeat_simple(reply: str) -> bool:
  """Only the sentence that asks for itself; case is ignored."""
  return reply.strip().lower() == _ALONE.lower()


def repeat_span(
  reply: str, prompt_to_repeat: str, n_start: int, n_end: int
) -> bool:
  """The words of the prompt from index `n_start` to before `n_end`."""
  words = prompt_to_repeat.strip().lower().split()
  return reply.strip().lower().split() == words[n_start:n_end]
