"""Rules that a creative-writing brief can state and a program can verify.

One table, `VERIFIERS`, holds for every instruction id the function that checks
a reply and the English and Chinese wording that asks for it, so what a brief
says and what its reply is held to cannot drift apart. A verifier answers for
any string, in time linear in its length; a blank reply follows no rule.

Ids, argument names, and the strict and loose verdicts are those of IFEval
(Zhou et al. 2023, arXiv 2311.07911) where it has the rule. We differ in that:
- length:* take at_least and at_most; blank lines part paragraphs, not ***.
- Keywords are whole words, not substrings or regular expressions; those with
  Han characters are substrings. Curly and straight apostrophes are the same.
- Chinese marks count: ， is a comma (、 is not), 《》 hold a title, “” quote.
- Script decides the language, and change_case asks for none: IFEval's
  langdetect is random and passes whatever it cannot read.
- A missing argument is an error; IFEval draws one at random.
"""

import dataclasses
import difflib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

Arguments = Mapping[str, Any]
Ids = Sequence[str]
Kwargs = Sequence[Arguments]
LANGUAGES = {'en': ('English', '英文'), 'zh': ('Chinese', '中文')}

_HAN = '々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af'
# Chinese sets no space between words, so a Han character also bounds a word
# of another script: the keyword Python occurs in 我用Python写诗.
_ALNUM = rf'[^\W_{_HAN}]'
_HAN_RUN = f'[{_HAN}]+'
_WORD = re.compile(rf"{_ALNUM}+(?:['’\-‐‑_\u0300-\u036f]{_ALNUM}+)*")
_ABBREVIATIONS = 'Mr Mrs Ms Dr Prof Rev Gen Col Capt Lt St Mt Jr Sr vs cf etc'
_INNER_DOT = re.compile(
  # Looking back from a literal dot is far faster than looking ahead to it.
  r'\.(?<=\w\.)(?:(?=[a-z])'  # example.com, the first dot of e.g.
  r'|(?<=\d\.)(?=\d)'  # 3.5
  r'|(?= )(?:(?<=^\d\.)|(?<=^\d\d\.))'  # the number of a list item
  # J. K. Rowling, U.S., p.m., the last dot of e.g.; I is the pronoun.
  r'|(?<=\b[A-HJ-Za-hj-z]\.)'
  + ''.join(rf'|(?<=\b(?i:{word})\.)' for word in _ABBREVIATIONS.split())
  + ')',
  re.MULTILINE,
)
_BULLET = re.compile(r'^[^\S\n]*(?:[*\-•][^\S\n]+|·[^\S\n]*)\S', re.MULTILINE)
_EXCLAMATIONS = '[!¡՜‼‽⁈⁉❕❗❢❣︕﹗！]'
# Characters shown as emoji, the symbols models write as emoji (☀ ☺ ♥ ❤), and
# the marks that make any character one. ★ ♪ ✦ © → stay ordinary text.
_EMOJI = (
  '[\ufe0f\u20e3\u231a\u231b\u23e9-\u23fa\u25fd\u25fe\u2600-\u2604'
  '\u2607-\u2668\u2670-\u26ff\u2705\u2708-\u270d\u2728\u274c\u274e'
  '\u2753-\u2757\u2763\u2764\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55'
  '\U0001f000-\U0001faff]'
)


def _total(runs: str, text: str) -> int:
  return sum(map(len, re.findall(runs, text)))


def _fold(text: str) -> str:
  return text.strip().casefold().replace('’', "'")


def count_words(reply: str) -> int:
  """A Han character, or a run of other letters and digits (don't, well-off)."""
  return _total(_HAN_RUN, reply) + len(_WORD.findall(reply))


def count_characters(reply: str) -> int:
  """A code point that is not white space; punctuation counts."""
  return sum(map(len, reply.split()))


def count_sentences(reply: str) -> int:
  """A run with a letter or digit in it up to . ! ? … 。 ！ ？ or the end.

  The dots of numbers, initials and abbreviations end nothing. Whatever follows
  an end, a closing quote too, starts a sentence only with a letter or digit.
  """
  return len(re.findall('[^\\W_][^.!?…。！？]*', _INNER_DOT.sub(' ', reply)))


def count_paragraphs(reply: str) -> int:
  """A block of lines set apart by blank lines."""
  text = reply.strip()
  return len(re.split(r'\n\s*\n', text)) if text else 0


def count_lines(reply: str) -> int:
  """A line with something on it."""
  return len(re.findall(r'\S[^\n]*', reply))


def _mentions(reply: str, words: Sequence[str]) -> Iterator[bool]:
  text = _fold(reply)
  for word in map(_fold, words):
    pattern = re.escape(word)
    if not re.search(_HAN_RUN, word):
      pattern = rf'(?<!{_ALNUM}){pattern}(?!{_ALNUM})'
    # The plain search, far faster, settles most words that do not occur.
    yield word in text and re.search(pattern, text) is not None


def has_keywords(reply: str, keywords: Sequence[str]) -> bool:
  """Every keyword occurs, in upper or lower case."""
  return all(_mentions(reply, keywords))


def has_no_words(reply: str, forbidden_words: Sequence[str]) -> bool:
  """No forbidden word occurs, in upper or lower case."""
  return not any(_mentions(reply, forbidden_words))


def starts_with(reply: str, start_phrase: str) -> bool:
  """The phrase comes first; not even a quotation mark precedes it."""
  return _fold(reply).startswith(_fold(start_phrase))


def ends_with(reply: str, end_phrase: str) -> bool:
  """The phrase comes last; only closing double quotes may follow it."""
  text, phrase = _fold(reply), _fold(end_phrase)
  return text.endswith(phrase) or text.rstrip('"”」').endswith(phrase)


def is_quotation(reply: str) -> bool:
  """The first and last characters are a pair of double quotes."""
  text = reply.strip()
  pair = text[:1] + text[-1:]
  return pair in ('""', '“”', '「」') and bool(text[1:-1].strip())


def _without(marks: str) -> Callable[[str], bool]:
  """No character of the class occurs."""
  return lambda reply: re.search(marks, reply) is None


def is_json(reply: str) -> bool:
  """Valid JSON, in a ```json fence or not; NaN and Infinity are invalid."""
  text = re.sub(r'(?i)\A```(?:json)?|```\Z', '', reply.strip())
  try:
    # Numbers stay text, for int() refuses very long ones; it refuses NaN too.
    json.loads(text, parse_int=str, parse_float=str, parse_constant=int)
  except (ValueError, RecursionError):
    return False
  return True


def has_bullets(reply: str, num_bullets: int) -> bool:
  """Exactly so many lines open with *, - or • and a space, or with ·."""
  return len(_BULLET.findall(reply)) == num_bullets


def has_title(reply: str) -> bool:
  """A non-blank <<title>> or 《title》 stands somewhere, on one line."""
  titles = re.findall(r'<<([^\n<>]+)>>|《([^\n《》]+)》', reply)
  return any(''.join(title).strip() for title in titles)


def is_in_language(reply: str, language: str) -> bool:
  """Of the letters, 9 in 10 are A to Z (en), or half are Han (zh)."""
  script, share = {'en': ('[A-Za-z]+', 0.9), 'zh': (_HAN_RUN, 0.5)}[language]
  letters = _total(r'[^\W\d_]+', reply)
  return letters > 0 and _total(script, reply) / letters >= share


def has_no_repeated_line(reply: str) -> bool:
  """No two non-blank lines agree, case and surrounding white space aside."""
  lines = [*filter(None, map(str.strip, reply.casefold().split('\n')))]
  return len(set(lines)) == len(lines)


@dataclasses.dataclass(frozen=True)
class Verifier:
  """What checks a rule, and what asks for it given the check's arguments."""

  check: Callable[..., bool]
  en: str | Callable[..., str]
  zh: str | Callable[..., str]

  @cached_property
  def parameters(self) -> dict[str, bool]:
    """The arguments of the check after the reply; true if required."""
    _, *rest = inspect.signature(self.check).parameters.values()
    return {each.name: each.default is each.empty for each in rest}


_EN = 'exactly {}', 'at least {}', 'at most {1}', 'between {} and {}'
_ZH = '正好{}', '至少{}', '不超过{1}', '{}到{}'


def _say_length(template: str, amounts: Sequence[str], **bounds: int) -> str:
  exactly, low, high, between = amounts
  least, most = bounds.get('at_least'), bounds.get('at_most')
  both = exactly if least == most else between
  amount = (both if most else low) if least else high
  text = amount.format(least, most)
  # The noun agrees with the number beside it.
  return template.format(text, s='' if text.endswith(' 1') else 's')


def _length(count: Callable[[str], int], en: str, zh: str) -> Verifier:
  def check(reply: str, at_least: int = 0, at_most: float = math.inf) -> bool:
    return at_least <= count(reply) <= at_most

  return Verifier(
    check, partial(_say_length, en, _EN), partial(_say_length, zh, _ZH)
  )


def _say_words(conjunction: str, words: Sequence[str]) -> str:
  *head, last = [f'"{word}"' for word in words]
  if not head:
    return f'the word {last}'
  return f'the words {", ".join(head)} {conjunction} {last}'


VERIFIERS: dict[str, Verifier] = {
  'length:words': _length(
    count_words, 'Use {} word{s}.', '{}个字（标点不计入）。'
  ),
  'length:characters': _length(
    count_characters, 'Use {} non-space character{s}.', '{}个字（标点计入）。'
  ),
  'length:sentences': _length(
    count_sentences, 'Use {} sentence{s}.', '{}句话。'
  ),
  'length:paragraphs': _length(
    count_paragraphs,
    'Use {} paragraph{s} (a blank line starts a new one).',
    '{}段（段与段之间空一行）。',
  ),
  'length:lines': _length(
    count_lines, 'Use {} non-blank line{s}.', '{}行（空行不计入）。'
  ),
  'keywords:existence': Verifier(
    has_keywords,
    lambda keywords: f'Include {_say_words("and", keywords)}.',
    lambda keywords: f'用到这些词：“{"”“".join(keywords)}”。',
  ),
  'keywords:forbidden_words': Verifier(
    has_no_words,
    lambda forbidden_words: f'Do not use {_say_words("or", forbidden_words)}.',
    lambda forbidden_words: f'不要用这些词：“{"”“".join(forbidden_words)}”。',
  ),
  'startend:start_checker': Verifier(
    starts_with, 'Begin with "{start_phrase}".', '以“{start_phrase}”开头。'
  ),
  'startend:end_checker': Verifier(
    ends_with, 'End with "{end_phrase}".', '以“{end_phrase}”结尾。'
  ),
  'startend:quotation': Verifier(
    is_quotation, 'Wrap the reply in double quotes.', '全文用双引号括起来。'
  ),
  'punctuation:no_comma': Verifier(
    _without('[,，﹐]'), 'Use no commas.', '不要用逗号。'
  ),
  'punctuation:no_exclamation': Verifier(
    _without(_EXCLAMATIONS), 'Use no exclamation marks.', '不要用感叹号。'
  ),
  'punctuation:no_emoji': Verifier(
    _without(_EMOJI), 'Use no emoji.', '不要用表情符号。'
  ),
  'detectable_format:json_format': Verifier(
    is_json, 'Write the entire reply as valid JSON.', '全文须是合法的JSON。'
  ),
  'detectable_format:number_bullet_lists': Verifier(
    has_bullets,
    'Begin exactly {num_bullets} of the lines with "- ", as bullet points.',
    '正好列出{num_bullets}个以“- ”开头的要点。',
  ),
  'detectable_format:title': Verifier(
    has_title, 'Include a title within << and >>.', '写出标题，用《》括起。'
  ),
  # Some letter must have case, and all that have must be of the one case.
  'change_case:english_lowercase': Verifier(
    str.islower, 'Use only lower-case letters.', '英文字母全部小写。'
  ),
  'change_case:english_capital': Verifier(
    str.isupper, 'Use only capital letters.', '英文字母全部大写。'
  ),
  'language:response_language': Verifier(
    is_in_language,
    lambda language: f'Write in {LANGUAGES[language][0]}.',
    lambda language: f'用{LANGUAGES[language][1]}写。',
  ),
  'style:no_repeated_line': Verifier(
    has_no_repeated_line, 'Do not repeat any line.', '任何一行都不要重复。'
  ),
}


def _legal(name: str, value: object) -> tuple[bool, str]:
  match name:
    case 'at_least' | 'at_most' | 'num_bullets':
      # To isinstance a bool is an int.
      return type(value) is int and value > 0, 'a whole number of 1 or more'
    case 'keywords' | 'forbidden_words':
      words = value if isinstance(value, list | tuple) else []
      legal = [_legal('word', word)[0] for word in words]
      return legal != [] and all(legal), 'a list of one or more non-blank texts'
    case 'language':
      return value in [*LANGUAGES], ' or '.join(LANGUAGES)
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


def follow(reply: str, instruction_ids: Ids, kwargs: Kwargs) -> list[bool]:
  """IFEval's strict verdict on each rule."""
  rules = validate(instruction_ids, kwargs)
  blank = not reply.strip()
  return [not blank and rule.check(reply, **given) for rule, given in rules]


def follow_loose(
  reply: str, instruction_ids: Ids, kwargs: Kwargs
) -> list[bool]:
  """IFEval's loose verdict: asterisks, first and last line may be left out."""
  lines = reply.split('\n')
  parts = [lines[1:], lines[:-1], lines[1:-1]]
  texts = [reply, *('\n'.join(part).strip() for part in parts)]
  texts += [text.replace('*', '') for text in texts]
  verdicts = [follow(text, instruction_ids, kwargs) for text in texts]
  return [any(each) for each in zip(*verdicts, strict=True)]


def check(instruction_id: str, reply: str, kwargs: Arguments) -> bool:
  """The strict verdict on one rule."""
  return follow(reply, [instruction_id], [kwargs])[0]


def describe(instruction_id: str, kwargs: Arguments, language: str) -> str:
  """The rule as one sentence in the language."""
  if language not in LANGUAGES:
    raise ValueError(f'language must be en or zh, not {language!r}')
  verifier, given = _rule(instruction_id, kwargs)
  wording = verifier.en if language == 'en' else verifier.zh
  return (wording.format if isinstance(wording, str) else wording)(**given)


def write_brief(
  prompt: str, instruction_ids: Ids, kwargs: Kwargs, language: str
) -> str:
  """The prompt and, after it, the rules as sentences in the language."""
  rules = zip(instruction_ids, kwargs, strict=True)
  texts = [prompt, *(describe(*rule, language) for rule in rules)]
  return ('' if language == 'zh' else ' ').join(texts)
