"""What checks a reply for a reward, in English and Chinese.

A reward is what a policy learns to get, so these checks ask for what the rule
means, where `ifeval` asks for what its authors' program asks for. They differ
as each says, and in that:
- Words are whole: not, as in IFEval, parts of other words. Han characters,
  which no space parts, are words each, and keywords with them substrings.
- Curly and straight apostrophes are the same, and Chinese marks count.
- No language need be detected for a letter to be a capital.
"""

import json
import re
from collections.abc import Callable, Sequence

from rlcw.rewards.rules import languages
from rlcw.rewards.rules.ifeval import ANSWERS, compare
from rlcw.rewards.rules.text import (
  ALNUM,
  HAN_RUN,
  WORD,
  count_sentences,
  count_words,
  fold,
  mentions,
  paragraphs,
  total,
  whole,
)

_BULLET = re.compile(r'^[^\S\n]*(?:[*\-•][^\S\n]+|·[^\S\n]*)\S', re.MULTILINE)
EXCLAMATIONS = '[!¡՜‼‽⁈⁉❕❗❢❣︕﹗！]'
# Characters shown as emoji, the symbols models write as emoji (☀ ☺ ♥ ❤), and
# the marks that make any character one. ★ ♪ ✦ © → stay ordinary text.
EMOJI = (
  '[\ufe0f\u20e3\u231a\u231b\u23e9-\u23fa\u25fd\u25fe\u2600-\u2604'
  '\u2607-\u2668\u2670-\u26ff\u2705\u2708-\u270d\u2728\u274c\u274e'
  '\u2753-\u2757\u2763\u2764\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55'
  '\U0001f000-\U0001faff]'
)


def has_keywords(reply: str, keywords: Sequence[str]) -> bool:
  """Every keyword occurs, in upper or lower case."""
  return all(mentions(reply, keywords))


def has_no_words(reply: str, forbidden_words: Sequence[str]) -> bool:
  """No forbidden word occurs, in upper or lower case."""
  return not any(mentions(reply, forbidden_words))


def starts_with(reply: str, start_phrase: str) -> bool:
  """The phrase comes first; not even a quotation mark precedes it."""
  return fold(reply).startswith(fold(start_phrase))


def ends_with(reply: str, end_phrase: str) -> bool:
  """The phrase comes last; only closing double quotes may follow it."""
  text, phrase = fold(reply), fold(end_phrase)
  return text.endswith(phrase) or text.rstrip('"”」').endswith(phrase)


def is_quotation(reply: str) -> bool:
  """The first and last characters are a pair of double quotes."""
  text = reply.strip()
  pair = text[:1] + text[-1:]
  return pair in ('""', '“”', '「」') and bool(text[1:-1].strip())


def without(marks: str) -> Callable[[str], bool]:
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
  """Of the letters, 9 in 10 are A to Z (en), or half are Han (zh).

  Others are detected, and IFEval's pass for what shows none is a failure.
  """
  scripts = {'en': ('[A-Za-z]+', 0.9), 'zh': (HAN_RUN, 0.5)}
  if language not in scripts:
    return languages.detect(reply) == language
  script, share = scripts[language]
  letters = total(r'[^\W\d_]+', reply)
  return letters > 0 and total(script, reply) / letters >= share


def is_in_script(reply: str, script: str) -> bool:
  """Han characters occur, and all of them may stand in the script."""
  has_han = re.search(HAN_RUN, reply) is not None
  return has_han and not languages.has_other_script(reply, script)


def has_no_repeated_line(reply: str) -> bool:
  """No two non-blank lines agree, case and surrounding white space aside."""
  lines = [*filter(None, map(str.strip, reply.casefold().split('\n')))]
  return len(set(lines)) == len(lines)


def has_keyword_count(
  reply: str, keyword: str, frequency: int, relation: str
) -> bool:
  """The whole word occurs so often, in upper or lower case."""
  (count,) = mentions(reply, [keyword])
  return compare(count, relation, frequency)


def has_word_count(reply: str, num_words: int, relation: str) -> bool:
  """Words as `length:words` counts them: don't is one, and so is each Han."""
  return compare(count_words(reply), relation, num_words)


def has_sentence_count(reply: str, num_sentences: int, relation: str) -> bool:
  """Sentences as `length:sentences` counts them: 。 ends one too."""
  return compare(count_sentences(reply), relation, num_sentences)


def _parts(asterisks: str, reply: str) -> list[str]:
  """What stands between lines of asterisks alone, stripped; none is blank."""
  line = rf'^[^\S\n]*{asterisks}[^\S\n]*$'
  parts = re.split(line, reply, flags=re.MULTILINE)
  return [part.strip() for part in parts if part.strip()]


def has_divided_paragraphs(reply: str, num_paragraphs: int) -> bool:
  """Lines of *** part exactly so many; ***this*** is emphasis, and parts none.

  Two dividers in a row are as good as one.
  """
  return len(_parts(r'\*{3}', reply)) == num_paragraphs


def has_two_responses(reply: str) -> bool:
  """A line of ****** parts two texts; case and spacing make no difference."""
  texts = [' '.join(part.split()) for part in _parts(r'\*{6}', reply)]
  return len(texts) == 2 and texts[0].casefold() != texts[1].casefold()


def has_first_word(
  reply: str, first_word: str, num_paragraphs: int, nth_paragraph: int
) -> bool:
  """Blank lines part exactly so many, and the nth opens with the word.

  Quotes and other marks may precede it. IFEval counts blank paragraphs for the
  nth, and cuts don't down to don.
  """
  parts = paragraphs(reply)
  if len(parts) != num_paragraphs or nth_paragraph > num_paragraphs:
    return False
  word = whole(fold(first_word))
  pattern = rf"[\W_]*{word}(?!['\-]{ALNUM})"
  return re.match(pattern, fold(parts[nth_paragraph - 1])) is not None


def has_placeholders(reply: str, num_placeholders: int) -> bool:
  """At least so many [names] or 【名】 that are not blank, nor of links."""
  names = re.findall(r'[\[【]([^\[\]【】\n]*+)[\]】](?!\()', reply)
  return len([name for name in names if name.strip()]) >= num_placeholders


def has_postscript(reply: str, postscript_marker: str) -> bool:
  """A line after the first opens with the marker, and more text follows.

  IFEval has it anywhere, be it the whole reply.
  """
  # the dots with or without spaces: P. S.
  marker = re.escape(fold(postscript_marker)).replace(r'\.', r'\.\s?')
  pattern = rf'\n[^\S\n]*{marker}[.:：]*\s*[^\s.:：]'
  return re.search(pattern, fold(reply)) is not None


def is_an_answer(reply: str) -> bool:
  """Just one of the three answers occurs; IFEval lets all of them."""
  return sum(answer in reply for answer in ANSWERS) == 1


def has_highlights(reply: str, num_highlights: int) -> bool:
  """At least so many *spans*, **spans** or ***spans***, without outer spaces.

  IFEval takes what stands between any two asterisks of a line for one.
  """
  spans = re.findall(r'(?<!\*)(\*{1,3})(?![\s*])[^*\n]++(?<!\s)\1(?!\*)', reply)
  return len(spans) >= num_highlights


def has_sections(reply: str, section_spliter: str, num_sections: int) -> bool:
  """At least so many lines open with the name and numbers that differ.

  Marks of a heading may come first. IFEval counts every mention.
  """
  name = re.escape(section_spliter.strip())
  numbers = re.findall(
    rf'^[^\w\n]*{name}[^\S\n]?(\d+)', reply, re.MULTILINE | re.IGNORECASE
  )
  return len({number.lstrip('0') for number in numbers}) >= num_sections


def repeats_prompt(reply: str, prompt_to_repeat: str) -> bool:
  """The prompt comes first, and an answer follows; case aside."""
  text, prompt = fold(reply), fold(prompt_to_repeat)
  return text.startswith(prompt) and text != prompt


def has_letter_count(
  reply: str, letter: str, let_frequency: int, let_relation: str
) -> bool:
  """The character, be it a mark, occurs so often, in upper or lower case."""
  count = reply.lower().count(letter.lower())
  return compare(count, let_relation, let_frequency)


def has_capital_words(
  reply: str, capital_frequency: int, capital_relation: str
) -> bool:
  """So many words of two letters or more are all capitals; I and A are none."""
  words = WORD.findall(reply)
  count = len([word for word in words if len(word) > 1 and word.isupper()])
  return compare(count, capital_relation, capital_frequency)


_SELF = re.compile(
  r'\bas an? (?:ai|(?:large )?language model|artificial intelligence)\b'
  r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b"
  r'|作为(?:一[个名款])?(?:ai|人工智能|(?:大型?)?语言模型)'
  r'|我(?:只)?是(?:一[个名款])?(?:ai|人工智能|(?:大型?)?语言模型)'
)
_BEFORE = re.compile(
  # These open an explanation where a colon ends the line: "Here is the sea".
  r"(?:(?:here(?:'s| is| are)|below is|this is)\b"
  r'|以下[是为]|下面[是为]|这[是首篇])'
  r'[^\n]*[:：][*_\s]*(?:\n|$)'
  # As adverbs these open a piece too: "Certainly, love, it rained".
  r'|(?:sure|certainly|of course|absolutely)\b *(?:[.!]|,(?=[^\n]*(?:'
  r"\bhere(?:'s| is| are)\b|\bbelow\b|\b(?:happy|glad) to\b"
  r'|\bi can (?:help|write)\b|:[*_ ]*(?:\n|$))))'
  r'|(?:okay|no problem)\b *[,.!]'
  # A speaker begins so: 好的，各位, and a letter: 当然，我记得.
  r'|好的[，,。!！](?!(?:尊敬的|亲爱的)?(?:各位|诸位|大家|主席|同学们))'
  r'|(?:当然可以|没问题)[，,。!！]|当然[。!！]'
  r'|当然[，,](?=[^\n]*(?:以下|下面|这[是里]|[:：][*_ ]*(?:\n|$)))'
)
_AFTER = re.compile(
  r'i hope (?:you (?:like|enjoy)|this (?:helps|poem|story|piece))'
  r'|(?:please )?let me know if you|feel free to (?:ask|edit|adjust|change)'
  r'|would you like me to|explanation\b[*_]*:'
  r'|希望[你您](?:会|能)?喜欢|希望(?:这[首篇段]|对[你您]有|能帮)'
  r'|如果?[你您]?(?:还?需要|想要?)(?:我|修改|调整)|请告诉我'
  r'|(?:说明|解释|注释)[:：]'
  # A note may be the piece's own; here it speaks of the piece.
  r'|note\b[*_]*:(?=[^\n]*\b(?:this|poems?|story|piece|lines?|words?|rhymes?'
  r'|metaphors?|symboli[sz]es?|fiction(?:al)?)\b)'
  r'|注[:：](?=[^\n]*(?:[本此这全]个?(?:[文诗篇段首]|作品|故事|内容)|通篇|文中'
  r'|纯属|虚构|创作|篇幅|风格|押韵|意象|符合|以上|如需|实际应用))'
)
# Phrases that models of the day write where a writer would look for one.
CLICHES = (
  'a testament to|a tapestry of|rich tapestry|a symphony of|dance of light'
  '|whispers of the|little did (?:he|she|they|i|we) know'
  '|barely above a whisper|shivers? down (?:his|her|my|their) spine'
  '|in the realm of|nestled in the heart|hung heavy in the air'
  '|a beacon of (?:hope|light)|stood the test of time|only time (?:will|would)'
  '|岁月静好|时光荏苒|光阴似箭|不禁感慨|仿佛在诉说|交织成一[幅首]'
  # Not of a peacock's feathers, nor of a hall full of smoke.
  '|一股暖流|五彩斑斓的(?:人生|未来|世界|梦|生活|青春|童年|画卷|记忆|视觉)'
  '|在这个充满[^，。\n]{1,16}的(?:[^，。\n]{0,2}世界|时代|社会|时刻|时光|日子'
  '|季节|节日|夜晚|清晨|早晨|黎明|城市|旅程)|绽放(?:出)?光芒|谱写.{0,6}篇章|诗和远方'
)


def _plain(reply: str) -> str:
  return reply.strip().casefold().replace('’', "'")


def names_no_self(reply: str) -> bool:
  """The reply does not speak of its writer as a model: as an AI, 作为一个AI."""
  return _SELF.search(_plain(reply)) is None


def is_piece_alone(reply: str) -> bool:
  """Neither its first line announces the piece nor its last explains it."""
  text = _plain(reply).strip('*_ ')
  last = text.rpartition('\n')[2].lstrip('*_(（ ')
  return _BEFORE.match(text) is None and _AFTER.match(last) is None


def has_no_cliche(reply: str) -> bool:
  """None of the stock phrases occurs, English or Chinese."""
  return re.search(CLICHES, _plain(reply)) is None
