"""Numbers and amounts as prompts state them, in English and Chinese.

An amount is "300", "at least three", "between 50 and 70", "300+", 不超过20,
三到五 and so on.  Patterns find it as one text, and `read` returns its bounds.
"""

import math
import re
from typing import NamedTuple

from rlcw.rewards.extract.masking import DOT

_ONES = [
  'zero',
  'one',
  'two',
  'three',
  'four',
  'five',
  'six',
  'seven',
  'eight',
  'nine',
  'ten',
  'eleven',
  'twelve',
  'thirteen',
  'fourteen',
  'fifteen',
  'sixteen',
  'seventeen',
  'eighteen',
  'nineteen',
]
_TENS = [
  'twenty',
  'thirty',
  'forty',
  'fifty',
  'sixty',
  'seventy',
  'eighty',
  'ninety',
]
_WORDS = {word: n for n, word in enumerate(_ONES)} | {
  word: 10 * n for n, word in enumerate(_TENS, 2)
}
_SCALES = {'dozen': 12, 'hundred': 100, 'thousand': 1000}
_DIGITS = {digit: n for n, digit in enumerate('零一二三四五六七八九')}
_DIGITS |= {'两': 2, '俩': 2, '〇': 0}
_UNITS = {'十': 10, '百': 100, '千': 1000, '万': 10_000}

_one = rf'(?:{"|".join([*_TENS, *reversed(_ONES)])})'
_scale = '(?:dozen|hundred|thousand)'
# Without word boundaries, which those who use it have around the amount.
NUMBER = (
  rf'(?:\d{{1,3}}(?:,\d{{3}}){{1,2}}|\d{{1,6}}(?!\d)|half a {_scale}'
  rf'|(?:{_one}(?:-{_one})?|\ba)[- ](?:thousand,? {_one}[- ]hundred|{_scale})'
  rf'(?:(?: and|,)? {_one}(?:-{_one})?\b(?![- ]{_scale}|-))?'
  rf'|{_one}(?:-{_one})?)'
)
_LEAST = (
  'at (?:the )?(?:very )?least|(?:no|not) (?:fewer|less|shorter|lower) than'
  '|a minimum of|at (?:a|the) minimum,?|(?:the )?minimum(?: of| is|:)?'
  f'|min[.{DOT}]?:?|upwards of|≥'
)
_ABOVE = '(?:more|longer|greater) than|over|above|in excess of'
_MOST = (
  'at (?:the )?(?:very )?most|(?:no|not) (?:more|longer|greater) than'
  '|a maximum of|at (?:a|the) maximum,?'
  '|(?:the )?(?:maximum|limit)(?: of| is|:)?'
  f'|max[.{DOT}]?:?|up to|within'
  "|(?:do )?(?:not|n't|never) (?:to )?exceed(?:ing)?|does not exceed"
  '|without exceeding|≤'
)
_BELOW = '(?:fewer|less|shorter|lower) than|under|below'
_EXACT = 'exactly|precisely|just|only'
_ABOUT = (
  f'about|around|approximately|approx[.{DOT}]?|roughly|some|circa|~|nearly'
)
_BEFORE = '|'.join((_LEAST, _ABOVE, _MOST, _BELOW, _EXACT, _ABOUT))
# Words after the unit that bound the amount before it.
AFTER = (
  r'(?:or (?:more|fewer|less|so)(?! than)'
  r'|(?:at )?(?:(?:a|the) )?(?:minimum|maximum)|min\b|max\b|tops\b'
  r'|at (?:the )?(?:very )?(?:least|most)|exactly|or above|or under'
  r'|and (?:above|over|up)|plus)'
)
_RANGE = (
  rf'between {NUMBER} and {NUMBER}|from {NUMBER} to {NUMBER}'
  rf'|{NUMBER}(?:- (?:to|or) | ?(?:-|–|—|~|to|or) ?){NUMBER}'
)
# Not after a letter, a currency, a point or a part of a number, where no amount
# begins.
AMOUNT = (
  r'(?<![\w$€£.#-])(?<!hundred )(?<!thousand )(?<!hundred and )'
  r'(?<!thousand and )(?<!half )'
  rf'(?:(?:(?:{_BEFORE}) )?(?:{_RANGE})|{NUMBER} or (?:more'
  rf'|fewer|less)'
  rf'|{NUMBER} ?\+|(?:{_BEFORE}) ?(?:a total of )?{NUMBER}|{NUMBER})'
)
_ONCE = 'once or twice|once|twice|thrice'
# How often: "at least twice", "3 times".
TIMES = (
  rf'(?<![\w$€£.#-])(?:(?:(?:{_BEFORE}) )?(?:{_ONCE})(?: or (?:more|less)'
  rf'| (?:or more )?times)?|{AMOUNT} (?:or (?:more|fewer|less) )?times?'
  rf'(?: {AFTER})?|at all)'
)

_NUMERAL = '零〇一二三四五六七八九十百千万两俩'
# Whole: 一千二百 is not read as 一千二.
NUMBER_ZH = (
  r'(?:(?<![\d.百千万])\d{1,3}[百千万]|(?<![\d.])\d{1,6}(?:,\d{3})?(?![\d百千万])'
  rf'|(?<![\d.])[{_NUMERAL}]{{1,12}}(?![{_NUMERAL}]))'
)
_LEAST_ZH = (
  '至少|不少于|最少|不低于|起码|不小于|大于等于'
  '|(?<![不未没充])(?:够|满|足|达到?)'
)
_ABOVE_ZH = '多于|超过|大于|高于'
_MOST_ZH = '不超过|不多于|最多|至多|不大于|不高于'
_WITHIN_ZH = '控制在|(?<!下)限制?在?'  # 控制在300字左右 is about 300
_BELOW_ZH = '少于|不到|低于|小于|[不未没](?:够|满|足|达到?)'
_EXACT_ZH = '正好|恰好|刚好|只有|只|整整|共|一共'
_ABOUT_ZH = '大约|约|大概|差不多|左右'
_BEFORE_ZH = '|'.join(
  (
    *(_LEAST_ZH, _MOST_ZH, _WITHIN_ZH),
    *(_ABOVE_ZH, _BELOW_ZH, _EXACT_ZH, _ABOUT_ZH),
  )
)
AFTER_ZH = '(?:以内|之内|以下|以上|左右|上下|或以上|或以下|之间|起步|内)'
AMOUNT_ZH = (
  rf'(?:(?:{_BEFORE_ZH}|在){{0,3}}{NUMBER_ZH}'
  rf'(?:(?:个?[字句行段])?(?:-|–|—|~|～|至|到|或){NUMBER_ZH})?)'
)
# Bounds before a verb: "at least write 300", 至少要写三百.
_ASIDE = re.compile(
  r'\b(?:at (?:the )?(?:very )?(?:least|most)|no (?:more|fewer|less) than'
  r'|a (?:minimum|maximum) of|up to) (?:write|use|have|include|contain|give'
  r'|provide|list|add|mention|make|create|compose|produce)'
  r'(?: me| us| a total of)?\s*$'
  rf'|(?:{_LEAST_ZH}|{_MOST_ZH})(?:必须|要|得|须|应|需|能|可以?|只|再|请)*'
  '(?:写|列|列举|给|有|用|分|出现|提到|包含|包括|含|使用|提供|加入|创作)[出上到够满成有为]?$',
  re.IGNORECASE,
)
# Bounds that a negation turns round.
ABOVE_OR_BELOW = re.compile(
  rf'^(?!(?:{_LEAST}|{_MOST}|{_LEAST_ZH}|{_MOST_ZH}))'
  rf'(?:{_ABOVE}|{_BELOW}|{_ABOVE_ZH}|{_BELOW_ZH})'
)


class Amount(NamedTuple):
  """Bounds of a count.

  Attributes:
    low: least count, None if it is not bounded below.
    high: largest count, None if it is not bounded above.
    bare: whether the text gives a number alone, without any bound.
  """

  low: int | None
  high: int | None
  bare: bool = False

  @property
  def single(self) -> int | None:
    """The one number that fits; None if several do."""
    return self.low if self.low == self.high else None


def aside(before: str) -> str:
  """Returns the bound, and its verb, that a text before an amount ends with."""
  found = _ASIDE.search(before)
  return found[0] if found else ''


def number(text: str) -> int:
  """Returns a number given in digits, English words or Chinese numerals."""
  text = text.strip().lower().replace(',', '')
  if text.isdecimal():
    return int(text)
  if re.fullmatch(NUMBER_ZH, text):
    return _chinese(text)
  total = part = 0
  words = re.findall('[a-z]+', text)
  for word in words:
    if word == 'thousand':
      total, part = total + (part or 1) * _SCALES[word], 0
    elif word in _SCALES:
      part = (part or 1) * _SCALES[word]
    else:
      part += _WORDS.get(word, 0)
  return (total + part) // (2 if 'half' in words else 1)


def _chinese(text: str) -> int:
  if text[:-1].isdecimal():  # 5百
    return int(text[:-1]) * _UNITS[text[-1]]
  total = part = digit = 0
  if not any(unit in text for unit in _UNITS):
    return int(''.join(str(_DIGITS[each]) for each in text))
  for each in text:
    if each == '万':
      total, part, digit = (total + part + digit) * 10_000, 0, 0
    elif each in _UNITS:
      part, digit = part + (digit or 1) * _UNITS[each], 0
    else:
      digit = _DIGITS[each]
  return total + part + digit


def about(count: int) -> Amount:
  """Returns the counts that "about" a number allows: within a tenth of it."""
  return Amount(math.ceil(count * 0.9), math.floor(count * 1.1))


def read(text: str, negated: bool = False) -> Amount:
  """Returns the bounds of an amount: `AMOUNT` or `TIMES` with `AFTER`, or zh.

  "About" allows a tenth more or less; a number alone is exact, and marked.

  Args:
    text: the amount.
    negated: whether "not" is before it, which turns "more than" into a most
      and "fewer than" into a least.
  """
  text = text.lower()
  if text.strip() == 'at all':
    return Amount(1, None)
  zh = re.search('[\u4e00-\u9fff]', text) is not None
  counts = _counts_zh(text) if zh else _counts(text)
  if len(counts) > 1:
    # "No more than two or three"; 200-300字以内 is a range.
    least, most = (_LEAST_ZH, _MOST_ZH) if zh else (_LEAST, _MOST)
    return Amount(
      None if re.match(rf'\s*(?:{most})', text) else min(counts),
      None if re.match(rf'\s*(?:{least})', text) else max(counts),
    )
  for pattern, bound in _BOUNDS_ZH if zh else _BOUNDS:
    if re.search(pattern, text):
      amount = bound(counts[0])
      return _inverted(counts[0], amount) if negated else amount
  return Amount(counts[0], counts[0], bare=True)


def _counts(text: str) -> list[int]:
  # Two to three hundred is 200 to 300.
  text = re.sub(
    rf'\b({_one}|\d) (to|or) ({_one}|\d) (hundred|thousand)\b',
    r'\1 \4 \2 \3 \4',
    text,
  )
  for word, count in (('once', '1'), ('twice', '2'), ('thrice', '3')):
    text = re.sub(rf'\b{word}\b', count, text)
  return [number(n) for n in re.findall(rf'(?<![a-z]){NUMBER}', text)]


def _counts_zh(text: str) -> list[int]:
  text = re.sub(_BEFORE_ZH, ' ', text)
  # 十五六行 is fifteen to sixteen lines.
  text = re.sub(
    '十([一二三四五六七八])([二三四五六七八九])', r'十\1到十\2', text
  )
  # 两三句 is two to three.
  text = re.sub(
    r'(?<![百千万])([一两二三四五六七八])([两二三四五六七八九])(?![十百千万])',
    r'\1到\2',
    text,
  )
  # 两三百 is two hundred to three hundred.
  text = re.sub(
    r'(?<![十百千万])([一两二三四五六七八])([两二三四五六七八九])([十百千万])',
    r'\1\3到\2\3',
    text,
  )
  return [number(n) for n in re.findall(NUMBER_ZH, text)]


def _least(n: int) -> Amount:
  return Amount(n, None)


def _most(n: int) -> Amount:
  return Amount(None, n)


def _above(n: int) -> Amount:
  return Amount(n + 1, None)


def _below(n: int) -> Amount:
  return Amount(None, n - 1)


def _inverted(n: int, amount: Amount) -> Amount:
  """Turns "more than n" into a most, "fewer than n" into a least."""
  return {_above(n): _most(n), _below(n): _least(n)}.get(amount, amount)


# In order: a negated bound ("no more than") comes before the plain one.
_BOUNDS = (
  (rf'{_LEAST}|or more|or above|and (?:above|over|up)|\+|plus|minimum', _least),
  (rf'{_MOST}|or (?:fewer|less|under)|maximum|tops', _most),
  (_ABOVE, _above),
  (_BELOW, _below),
  (_EXACT, lambda n: Amount(n, n)),
  (rf'{_ABOUT}|or so', about),
)
_BOUNDS_ZH = (
  (rf'{_LEAST_ZH}|以上|起步', _least),
  (rf'{_MOST_ZH}|以内|之内|以下|内', _most),
  (_ABOVE_ZH, _above),
  (_BELOW_ZH, _below),
  (_ABOUT_ZH + '|上下', about),
  (_WITHIN_ZH, _most),
  (_EXACT_ZH, lambda n: Amount(n, n)),
)
