"""Checks of replies for rewards, in English and Chinese.

A policy learns to exploit its reward, so these checks enforce the meaning of a
rule, where `ifeval` reproduces its authors' program.  Each docstring states the
condition under which a check returns true, and any difference to IFEval.
Common differences are:
- Keywords match whole words; in IFEval also parts of words.  A Han character is
  a word, and a keyword with Han characters matches as a substring.
- Texts are compared by `text.fold`: curly and straight quotes are equal, and
  full-width, accented and invisible characters deceive no rule.
- Rules about case do not require English to be detected.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence

import regex

from rlcw.rewards.rules import languages
from rlcw.rewards.rules.ifeval import ANSWERS, compare
from rlcw.rewards.rules.text import (
  HAN_RUN,
  INNER,
  WORD,
  compatible,
  count_sentences,
  count_words,
  fold,
  paragraphs,
  plain,
  shown_mentions,
  total,
  whole_word,
)

# The Chinese middle dot (· ・) needs no space after it.  A row of marks (* * *)
# is a break between scenes.
_BULLET = re.compile(
  r'^[^\S\n]*(?!([*\-•])(?:[^\S\n]*\1)+[^\S\n]*$)'
  r'(?:[*\-•‣◦⁃∙▪●■◆][^\S\n]+|[·・][^\S\n]*)\S',
  re.MULTILINE,
)
# Commas of several scripts, but the one between items of a Chinese list (、).
COMMAS = '[,՝،߸፣᠂᠈⸲⸴⹁⹉⹌꓾꘍꛵︐﹐，]'
# Exclamation marks of several scripts, with double, inverted and emoji forms.
EXCLAMATIONS = '[!¡՜‼‽⁈⁉❕❗❢❣︕﹗！]'
# Characters displayed as emoji, symbols that models use as emoji (☀ ☺ ♥ ❤),
# and the modifiers that turn other characters into emoji (U+FE0F, U+20E3).
# ★ ♪ ✦ © and → are ordinary text.
EMOJI = (
  '[\ufe0f\u20e3\u231a\u231b\u23e9-\u23fa\u25fd\u25fe\u2600-\u2604'
  '\u2607-\u2668\u2670-\u26ff\u2705\u2708-\u270d\u2728\u274c\u274e'
  '\u2753-\u2757\u2763\u2764\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55'
  '\U0001f000-\U0001faff]'
)


def has_keywords(reply: str, keywords: Sequence[str]) -> bool:
  """Every keyword occurs; case is ignored."""
  return all(shown_mentions(reply, keywords))


def has_no_words(reply: str, forbidden_words: Sequence[str]) -> bool:
  """No forbidden word occurs; case is ignored."""
  return not any(shown_mentions(reply, forbidden_words))


def starts_with(reply: str, start_phrase: str) -> bool:
  """The phrase comes first; not even a quotation mark may precede it.

  It ends with its last word: Dear does not begin Dearest.
  """
  return regex.match(whole_word(fold(start_phrase)), fold(reply)) is not None


def ends_with(reply: str, end_phrase: str) -> bool:
  """The phrase comes last; only closing double quotes may follow it.

  It begins with its first word: art does not end heart.
  """
  text, phrase = fold(reply), fold(end_phrase)

  def ends(text: str) -> bool:
    found = regex.compile(whole_word(phrase))
    start = len(text) - len(phrase)
    return text.endswith(phrase) and found.match(text, start) is not None

  # Unstripped first, since the phrase itself may end in a quote.
  return ends(text) or ends(text.rstrip('"」』〉»〞〟'))


# Of English, Chinese, Japanese, French, German and Nordic texts.
_QUOTES = {
  *('""', '“”', '「」', '『』', '〈〉', '〝〞', '〝〟'),
  *('«»', '„“', '„”', '””', '»«', '»»', '‟”', '❝❞'),
}


def is_quotation(reply: str) -> bool:
  """A pair of double quotes is around all of the text, which is not blank.

  A dialogue that begins and ends with a quotation has unquoted text between.
  IFEval accepts it, and two quotes alone, and only straight ones.
  """
  text = compatible(reply).strip()
  opening, closing = text[:1], text[-1:]
  if opening + closing not in _QUOTES or not text[1:-1].strip():
    return False
  if opening != closing:
    # Outside of the first quotation nothing is left.
    depths = itertools.accumulate(
      (char == opening) - (char == closing) for char in text
    )
    return 0 not in [*depths][:-1]
  # Of marks that look alike, one that stands after a space or a bracket opens,
  # and any other closes.
  depth = 1
  for mark in re.finditer(rf'(.){re.escape(opening)}', text[1:-1], re.DOTALL):
    depth += 1 if mark[1].isspace() or mark[1] in '([—' else -1
    if depth == 0:
      return False
  return True


def without(marks: str) -> Callable[[str], bool]:
  """Returns a check that nothing in a reply matches the pattern."""
  return lambda reply: re.search(marks, reply) is None


def is_json(reply: str) -> bool:
  """Valid JSON, in a ```json fence or not.

  NaN and Infinity, which IFEval accepts, are invalid.
  """
  text = re.sub(r'(?i)\A```(?:json)?|```\Z', '', reply.strip())
  try:
    # Numbers are left as text, because int() raises ValueError for very long
    # ones.  For NaN and Infinity that is wanted, so they are given to int().
    json.loads(text, parse_int=str, parse_float=str, parse_constant=int)
  # Deep nesting, such as thousands of brackets, raises RecursionError.
  except (ValueError, RecursionError):
    return False
  return True


def has_bullets(reply: str, num_bullets: int) -> bool:
  """Exactly `num_bullets` lines begin with *, - or • and a space, or with ·."""
  bullets = _BULLET.finditer(compatible(reply))
  return sum(1 for _ in bullets) == num_bullets


def has_title(reply: str) -> bool:
  """A non-blank <<title>> or 《title》 occurs, all on one line."""
  titles = re.findall(r'<<([^\n<>]+)>>|《([^\n《》]+)》', compatible(reply))
  return any(''.join(title).strip() for title in titles)


_KANA = regex.compile(r'[\p{Hiragana}\p{Katakana}]')


def is_in_language(reply: str, language: str) -> bool:
  """The reply is in the language.

  English needs 9 in 10 of the letters to be A to Z, Chinese half to be Han, and
  less than 1 in 10 to be kana.  Other languages are detected.  A reply without
  letters fails; in IFEval it passes.
  """
  # Chinese text often quotes Latin words, whose letters count one by one.
  scripts = {'en': ('[A-Za-z]+', 0.9), 'zh': (HAN_RUN, 0.5)}
  if language not in scripts:
    return languages.detect(reply) == language
  script, share = scripts[language]
  text = compatible(reply)
  letters = total(r'[^\W\d_]+', text)
  if language == 'zh' and 10 * len(_KANA.findall(text)) >= max(letters, 1):
    return False
  return letters > 0 and total(script, text) / letters >= share


def is_in_script(reply: str, script: str) -> bool:
  """Han characters occur, and the script allows all of them."""
  has_han = re.search(HAN_RUN, reply) is not None
  return has_han and not languages.has_other_script(reply, script)


def has_no_repeated_line(reply: str) -> bool:
  """No two non-blank lines are equal, ignoring case and outer white space."""
  lines = [*filter(None, map(str.strip, fold(reply).split('\n')))]
  return len(set(lines)) == len(lines)


def has_keyword_count(
  reply: str, keyword: str, frequency: int, relation: str
) -> bool:
  """Compares the number of occurrences of the whole word; ignores case."""
  [count] = shown_mentions(reply, [keyword])
  return compare(count, relation, frequency)


def has_word_count(reply: str, num_words: int, relation: str) -> bool:
  """Compares the number of words, counted as by `length:words`.

  Don't is one word, and so is each Han character.
  """
  return compare(count_words(reply), relation, num_words)


def has_sentence_count(reply: str, num_sentences: int, relation: str) -> bool:
  """Compares the number of sentences, counted as by `length:sentences`.

  Unlike IFEval's, a sentence may end in 。 too.
  """
  return compare(count_sentences(reply), relation, num_sentences)


def _parts(asterisks: str, reply: str) -> list[str]:
  """Non-blank parts between lines of only asterisks, stripped.

  `asterisks` is the pattern of the divider.
  """
  line = rf'^[^\S\n]*{asterisks}[^\S\n]*$'
  # Markdown's \* shows as an asterisk.
  text = compatible(reply).replace('\\*', '*')
  parts = re.split(line, text, flags=re.MULTILINE)
  return [part.strip() for part in parts if part.strip()]


def has_divided_paragraphs(reply: str, num_paragraphs: int) -> bool:
  """Exactly `num_paragraphs` are separated by lines of ***.

  Emphasis such as ***this*** is no divider.  Two dividers in a row count as
  one; in IFEval they fail.
  """
  return len(_parts(r'\*{3}', reply)) == num_paragraphs


def has_two_responses(reply: str) -> bool:
  """A line of ****** separates two texts, different beyond case and spacing."""
  texts = [fold(' '.join(part.split())) for part in _parts(r'\*{6}', reply)]
  return len(texts) == 2 and texts[0] != texts[1]


def has_first_word(
  reply: str, first_word: str, num_paragraphs: int, nth_paragraph: int
) -> bool:
  """The nth of exactly `num_paragraphs` begins with the word.

  Paragraphs are separated by blank lines; quotes and other punctuation may
  precede the word.  IFEval counts blank paragraphs for the index, and shortens
  don't to don.
  """
  parts = paragraphs(reply)
  if len(parts) != num_paragraphs or nth_paragraph > num_paragraphs:
    return False
  word = whole_word(fold(first_word))
  # The lookahead keeps "don" from matching don't, and "well" from well-off.
  pattern = rf"[\W_]*{word}(?!['\-]{INNER})"
  return regex.match(pattern, fold(parts[nth_paragraph - 1])) is not None


# Markdown's [text](address), but not [name](s) or [日期]（周末）.
_LINK = re.compile(r'\[[^\[\]\n]*+\]\((?:[./#]|[^\s()]{2})[^\n()]*+\)')


def has_placeholders(reply: str, num_placeholders: int) -> bool:
  """At least `num_placeholders` of [name] or 【名】, not blank and no links."""
  text = compatible(_LINK.sub('', plain(reply)))
  names = re.findall(r'[\[【]([^\[\]【】\n]*+)[\]】]', text)
  return len([name for name in names if name.strip()]) >= num_placeholders


# Marks of Markdown, lists and quotations, and punctuation.
_DECORATION = r'[^\p{L}\p{N}\p{M}\p{So}\n]'
# The rest of a tag of HTML or BBCode after its bracket: b>, /b>, p class="x">.
_TAG = r'/?[a-z]\w{0,9}(?:\s[^<>\[\]\n]{0,80})?[>\]]'


def _marker(postscript_marker: str) -> str:
  """Pattern of a line's marker, its dots and spaces optional: P. S., PS, 又及.

  Decorations may precede it.
  """
  marker = fold(postscript_marker)
  core = regex.sub(rf'\A{_DECORATION}+|{_DECORATION}+\Z', '', marker)
  if not core:
    return rf'[^\S\n]*+{regex.escape(marker)}'
  if regex.fullmatch(r'(?:[a-z]\.?\s?){2,5}', core):
    letters = r'\.?\s?'.join(regex.findall('[a-z]', core))
    core = letters + rf'(?:\.|(?!{INNER}))'
  else:
    core = whole_word(core)
  # An emoji may decorate a line, unless the marker begins with one.
  emoji = '' if regex.match(r'\p{So}', core) else r'|\p{So}'
  # Of a tag, LaTeX's command, an entity and a number the letters count as well.
  marked = (
    rf'[<\[](?!{core}){_TAG}|\\[a-z]{{1,12}}\{{|&[a-z]{{2,8}};'
    rf'|\d{{1,2}}[.)]|{_DECORATION}{emoji}'
  )
  return rf'(?:{marked})*+{core}'


def has_postscript(reply: str, postscript_marker: str) -> bool:
  """A line after the first begins with the marker, and text follows it.

  Marks may stand around it: **P.S.**, > P.S., <b>P.S.</b>.  IFEval accepts the
  marker anywhere, even as the whole reply.
  """
  text = fold(reply)
  marker = regex.search(rf'\n{_marker(postscript_marker)}', text)
  if marker is None:
    return False
  after = regex.sub(rf'[<\[]{_TAG}', '', text[marker.end() :])
  return regex.search(r'[\p{L}\p{N}\p{So}]', after) is not None


def is_an_answer(reply: str) -> bool:
  """Exactly one of the three answers occurs; IFEval accepts several."""
  return sum(answer in reply for answer in ANSWERS) == 1


def has_highlights(reply: str, num_highlights: int) -> bool:
  """At least `num_highlights` of *span*, **span** or ***span***.

  A span is on one line and has no outer spaces.  IFEval counts the text between
  any two asterisks on a line.
  """
  spans = re.findall(
    r'(?<!\*)(\*{1,3})(?![\s*])[^*\n]++(?<!\s)\1(?!\*)', compatible(reply)
  )
  return len(spans) >= num_highlights


_CHINESE_DIGITS = {
  digit: number for number, digit in enumerate('〇一二三四五六七八九十')
}


def has_sections(reply: str, section_spliter: str, num_sections: int) -> bool:
  """At least `num_sections` lines begin with the name and different numbers.

  Heading marks may precede the name and the number, which Chinese numerals up
  to 十 may give.  IFEval counts every mention.
  """
  name = regex.escape(fold(section_spliter))
  numbers = regex.findall(
    rf'^[^\w\n]*{name}[^\w\n]{{0,5}}(\d{{1,9}}|[〇一二三四五六七八九十](?!\w))',
    fold(reply),
    regex.MULTILINE,
  )
  # 01, 1, １ and 一 are the same number.
  found = {_CHINESE_DIGITS.get(n) or int(n) for n in numbers if n != '〇'}
  return len(found) >= num_sections


def repeats_prompt(reply: str, prompt_to_repeat: str) -> bool:
  """The prompt comes first, ignoring case, and an answer follows."""
  text, prompt = fold(reply), fold(prompt_to_repeat)
  found = regex.match(whole_word(prompt), text)
  if found is None:
    return False
  return regex.search(r'[\p{L}\p{N}]', text[found.end() :]) is not None


def has_letter_count(
  reply: str, letter: str, let_frequency: int, let_relation: str
) -> bool:
  """Compares the number of occurrences of the character; ignores case.

  The character may be a punctuation mark.
  """
  count = compatible(reply).lower().count(compatible(letter).lower())
  return compare(count, let_relation, let_frequency)


def has_capital_words(
  reply: str, capital_frequency: int, capital_relation: str
) -> bool:
  """Compares the number of words of two or more letters, all of them capitals.

  IFEval counts I and A too.
  """
  words = WORD.findall(compatible(reply))
  count = len([word for word in words if len(word) > 1 and word.isupper()])
  return compare(count, capital_relation, capital_frequency)
