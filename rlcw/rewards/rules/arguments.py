"""Recipes for rules: the briefs that they fit, and how to draw their arguments.

A theme provides the request, and the words that rules may use: its keywords and
the recipient of the piece.
"""

import dataclasses
import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlcw.data import datasets
from rlcw.data.characters import is_chinese
from rlcw.rewards.rules import wording
from rlcw.rewards.rules.text import HAN_RUN, is_text

Arguments = dict[str, Any]
_HELDOUT = 5  # one theme in five is held out


@dataclasses.dataclass(frozen=True)
class Theme:
  """A request, with the words that rules for its replies may use."""

  prompt: str
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  keywords: Sequence[str] = ()
  recipient: str = ''
  split: str = ''


def read_theme(record: Mapping[str, Any]) -> Theme:
  """Parses a theme from a line of JSONL.

  Raises:
    ValueError: a field has the wrong type, the prompt or a keyword shows
      nothing or is too long, or the language is not supported.
  """
  names = [field.name for field in dataclasses.fields(Theme)]
  # As in csv, where an empty cell is no value.
  given: dict[str, Any] = {'prompt': record.get('prompt')} | {
    name: record[name] for name in names if record.get(name, '') != ''
  }
  keywords = given.pop('keywords', [])
  if is_chinese(str(record.get('prompt'))):
    given.setdefault('language', 'zh')
  for name, value in given.items():
    if not isinstance(value, str) or (name == 'prompt' and not is_text(value)):
      raise ValueError(f'{name}={value!r:.80}: expected a string')
  if not isinstance(keywords, list) or not all(
    is_text(word) for word in keywords
  ):
    raise ValueError(f'keywords={keywords!r:.80}: expected a list of strings')
  name = given.get('theme') or given['prompt']
  given['split'] = datasets.split_named(given.get('split') or _hashed(name))
  theme = Theme(**given, keywords=tuple(keywords))
  if theme.language not in wording.TABLES:
    raise ValueError(f'language={theme.language!r}: expected en or zh')
  return theme


def _hashed(theme: str) -> str:
  """The split of a theme, by its name: so none is in both, in any file."""
  # Halves of surrogate pairs, which JSON may contain, must not raise here.
  name = theme.encode('utf-8', 'surrogatepass')
  # Not `hash`, which differs from process to process.
  digest = hashlib.md5(name, usedforsecurity=False).hexdigest()
  return 'train' if int(digest, 16) % _HELDOUT else 'heldout'


# None if the theme has nothing to draw the arguments from.
Draw = Callable[[random.Random, Theme], Arguments | None]

# Typical length of a piece of the genre, in words (Han characters).
_SIZES = {'slogan': 15, 'greeting': 40, 'poem': 60, 'letter': 120, 'story': 150}
_OPENINGS = {
  'en': ('Today', 'At last', 'Once more', 'Somewhere'),
  'zh': ('今天', '终于', '这一回', '又是一年'),
}
_ENDINGS = {
  'en': ('That is enough.', 'Come and see.', 'And on it goes.', 'Until then!'),
  'zh': ('这就够了。', '下次见！', '不必多说。', '日子还长。'),
}
_FIRST_WORDS = {
  'en': ('Still', 'Later', 'Yesterday', 'Perhaps'),
  'zh': ('后来', '如今', '昨天', '也许'),
}
_SECTIONS = {'en': ('Part', 'Scene', 'Day'), 'zh': ('片段', '场景', '部分')}
_MARKERS = {'en': ('P.S.', 'P.P.S.'), 'zh': ('P.S.', '又及：')}
# Overused words, to be forbidden.
_STOCK = {
  'en': ('love', 'heart', 'special', 'beautiful', 'dream', 'forever', 'very'),
  'zh': ('幸福', '美好', '快乐', '温暖', '梦想', '永远', '时光', '璀璨'),
}
_SCHEMES = {'en': ('AABB', 'ABAB', 'XAXA', 'AA'), 'zh': ('XAXA', 'AAXA', 'AA')}


def _nothing(rng: random.Random, theme: Theme) -> Arguments:
  return {}


def _number(name: str, low: int, high: int) -> Draw:
  return lambda rng, theme: {name: rng.randint(low, high)}


def _bounds(low: int, high: int) -> Draw:
  """Draws a lower bound, an upper bound or both, between `low` and `high`."""

  def draw(rng: random.Random, theme: Theme) -> Arguments:
    least, most = sorted((rng.randint(low, high), rng.randint(low, high)))
    kept = rng.choice((('at_least',), ('at_most',), ('at_least', 'at_most')))
    drawn = {'at_least': least, 'at_most': most}
    return {name: drawn[name] for name in kept}

  return draw


def _size(rng: random.Random, theme: Theme) -> int:
  """Random length near the genre's typical one, in words; a multiple of 5."""
  return round(_SIZES.get(theme.genre, 80) * rng.uniform(0.6, 1.6) / 5) * 5


def _length(rng: random.Random, theme: Theme) -> Arguments:
  size = _size(rng, theme)
  # With both bounds the range is wide enough to be hit while writing.
  bounds = {'at_least': size, 'at_most': size}
  both = {'at_least': size, 'at_most': size + max(10, size // 10 * 5)}
  name = rng.choice(('at_least', 'at_most', 'both'))
  return both if name == 'both' else {name: bounds[name]}


def _relation(rng: random.Random) -> str:
  return rng.choice(('at least', 'less than'))


def _number_words(rng: random.Random, theme: Theme) -> Arguments:
  return {'num_words': _size(rng, theme), 'relation': _relation(rng)}


def _number_sentences(rng: random.Random, theme: Theme) -> Arguments:
  return {'num_sentences': rng.randint(2, 6), 'relation': _relation(rng)}


def _nth_paragraph(rng: random.Random, theme: Theme) -> Arguments:
  count = rng.randint(2, 4)
  return {
    'num_paragraphs': count,
    'nth_paragraph': rng.randint(1, count),
    'first_word': rng.choice(_FIRST_WORDS[theme.language]),
  }


def _keywords(rng: random.Random, theme: Theme) -> Arguments | None:
  count = min(rng.randint(1, 3), len(theme.keywords))
  return {'keywords': rng.sample(theme.keywords, count)} if count else None


def _keyword(rng: random.Random, theme: Theme) -> Arguments | None:
  if not theme.keywords:
    return None
  return {
    'keyword': rng.choice(theme.keywords),
    'frequency': rng.randint(2, 3),
    'relation': _relation(rng),
  }


def _forbidden(rng: random.Random, theme: Theme) -> Arguments:
  words = dict.fromkeys([*_STOCK[theme.language], *theme.keywords])
  return {'forbidden_words': rng.sample([*words], rng.randint(1, 3))}


def _letter(rng: random.Random, theme: Theme) -> Arguments | None:
  """Draws many of a common letter, or few of a rare one.

  In Chinese: few of 的 or 了, or some of a character from a keyword.
  """
  relation = _relation(rng)
  few = relation == 'less than'
  if theme.language == 'en':
    letters, counts = ('jkvwxz', (2, 5)) if few else ('aeionrst', (5, 15))
  else:
    letters = '的了' if few else ''.join(_han(theme.keywords))
    counts = (3, 5) if few else (2, 3)
  if not letters:
    return None
  return {
    'letter': rng.choice(letters),
    'let_frequency': rng.randint(*counts),
    'let_relation': relation,
  }


def _han(texts: Sequence[str]) -> list[str]:
  return [text for text in texts if re.fullmatch(HAN_RUN, text)]


def _opening(rng: random.Random, theme: Theme) -> Arguments:
  phrases = [*_OPENINGS[theme.language]]
  if theme.recipient:
    dear = {'en': 'Dear {},', 'zh': '亲爱的{}，'}[theme.language]
    phrases = [dear.format(theme.recipient), *phrases[:1]]
  return {'start_phrase': rng.choice(phrases)}


def _one_of(name: str, texts: Mapping[str, Sequence[str]]) -> Draw:
  return lambda rng, theme: {name: rng.choice(texts[theme.language])}


def _acrostic(rng: random.Random, theme: Theme) -> Arguments | None:
  # Each letter is the first of a line, so its script must fit and the number
  # of lines be that of a short poem.
  words = [
    text
    for text in (*theme.keywords, theme.recipient)
    if re.fullmatch(f'[A-Za-z]+|{HAN_RUN}', text) and 2 <= len(text) <= 8
  ]
  return {'letters': rng.choice(words)} if words else None


def _clauses(rng: random.Random, theme: Theme) -> Arguments:
  return {
    'num_lines': rng.choice((4, 8)),
    'num_characters': rng.choice((5, 7)),
  }


def _capital_words(rng: random.Random, theme: Theme) -> Arguments:
  return {
    'capital_frequency': rng.randint(1, 4),
    'capital_relation': _relation(rng),
  }


@dataclasses.dataclass(frozen=True)
class Recipe:
  """A generator of a rule's arguments, and the briefs that it fits.

  Attributes:
    draw: draws the arguments for a theme.
    settles: aspects of the reply that the rule decides, separated by spaces.
      No two rules of a brief may share one.
    words: least and most words in one unit that the rule counts, such as a
      sentence or a line.
    language: en or zh; '' for both.
    form: verse or prose; '' for both.
  """

  draw: Draw
  settles: str = ''
  words: tuple[float, float] = (0, math.inf)
  language: str = ''
  form: str = ''

  def fits(self, theme: Theme) -> bool:
    """True if the rule makes sense for the theme's language and genre."""
    form = 'verse' if theme.genre == 'poem' else 'prose'
    return self.language in ('', theme.language) and self.form in ('', form)


# Aspects that a verse form decides, and those of a rule about the whole reply.
_VERSE = 'structure opening ending'
_WHOLE = 'size structure opening ending frame'
# Least and most words in each.
_SENTENCE, _LINE, _PARAGRAPH = (4, 30), (3, 10), (8, 100)

# All rules but two: constrained_response, since no creative brief asks a yes-no
# question, and demands, which nobody can draw at random.
RECIPES = {
  'length:words': Recipe(_length, 'size', (1, 1)),
  # Punctuation counts, so a character of length has room for 0.7 of a Han
  # character.  English briefs give lengths in words.
  'length:characters': Recipe(_length, 'size', (1, 0.7), language='zh'),
  'length:sentences': Recipe(
    _bounds(2, 6), 'structure', _SENTENCE, form='prose'
  ),
  'length:paragraphs': Recipe(
    _bounds(2, 4), 'structure', _PARAGRAPH, form='prose'
  ),
  'length:lines': Recipe(_bounds(2, 12), 'structure', _LINE, form='verse'),
  'length_constraints:number_words': Recipe(_number_words, 'size', (1, 1)),
  'length_constraints:number_sentences': Recipe(
    _number_sentences, 'structure', _SENTENCE, form='prose'
  ),
  # Its dividers (***) are repeated lines, which `no_repeated_line` forbids.
  'length_constraints:number_paragraphs': Recipe(
    _number('num_paragraphs', 2, 4),
    'structure repetition',
    _PARAGRAPH,
    form='prose',
  ),
  'length_constraints:nth_paragraph_first_word': Recipe(
    _nth_paragraph, 'structure opening', _PARAGRAPH, form='prose'
  ),
  'keywords:existence': Recipe(_keywords, 'keyword'),
  'keywords:frequency': Recipe(_keyword, 'keyword'),
  'keywords:forbidden_words': Recipe(_forbidden),
  'keywords:letter_frequency': Recipe(_letter),
  'startend:start_checker': Recipe(_opening, 'opening'),
  'startend:end_checker': Recipe(_one_of('end_phrase', _ENDINGS), 'ending'),
  'startend:quotation': Recipe(_nothing, 'opening ending', form='prose'),
  'punctuation:no_comma': Recipe(_nothing, 'comma'),
  'punctuation:no_exclamation': Recipe(_nothing),
  'punctuation:no_emoji': Recipe(_nothing),
  'detectable_format:json_format': Recipe(_nothing, f'{_WHOLE} comma'),
  'detectable_format:number_bullet_lists': Recipe(
    _number('num_bullets', 2, 5), 'structure', (3, math.inf), form='prose'
  ),
  'detectable_format:title': Recipe(_nothing, 'opening', (3, math.inf)),
  'detectable_format:number_highlighted_sections': Recipe(
    _number('num_highlights', 1, 3), 'structure', (4, math.inf), form='prose'
  ),
  'detectable_format:multiple_sections': Recipe(
    lambda rng, theme: {
      'num_sections': rng.randint(2, 4),
      'section_spliter': rng.choice(_SECTIONS[theme.language]),
    },
    'structure opening',
    _PARAGRAPH,
    form='prose',
  ),
  'detectable_content:number_placeholders': Recipe(
    _number('num_placeholders', 1, 3), '', (4, math.inf), form='prose'
  ),
  'detectable_content:postscript': Recipe(
    _one_of('postscript_marker', _MARKERS),
    'structure ending',
    (6, math.inf),
    form='prose',
  ),
  'combination:two_responses': Recipe(_nothing, _WHOLE),
  'combination:repeat_prompt': Recipe(
    lambda rng, theme: {'prompt_to_repeat': theme.prompt},
    'structure opening frame',
    # Words of the answer after the repeated prompt.
    (8, math.inf),
  ),
  'change_case:english_lowercase': Recipe(_nothing, 'case', language='en'),
  'change_case:english_capital': Recipe(_nothing, 'case', language='en'),
  'change_case:capital_word_frequency': Recipe(
    _capital_words, 'case', (1, math.inf), language='en'
  ),
  # The brief's own language: in another the keywords would be foreign words.
  'language:response_language': Recipe(
    lambda rng, theme: {'language': theme.language}, 'language'
  ),
  'poem:clauses': Recipe(
    _clauses, f'size {_VERSE}', (0, 2), language='zh', form='verse'
  ),
  'poem:haiku': Recipe(_nothing, f'size {_VERSE}', (0, 4), form='verse'),
  'poem:rhyme': Recipe(
    lambda rng, theme: {'scheme': rng.choice(_SCHEMES[theme.language])},
    _VERSE,
    (3, 4),
    form='verse',
  ),
  'poem:acrostic': Recipe(_acrostic, _VERSE, (3, 4), form='verse'),
  'style:no_self_reference': Recipe(_nothing),
  'style:piece_alone': Recipe(_nothing, 'frame'),
  'style:no_cliche': Recipe(_nothing),
  'style:no_repeated_line': Recipe(_nothing, 'repetition'),
  'style:script': Recipe(
    lambda rng, theme: {'script': rng.choice(('simplified', 'traditional'))},
    'language',
    language='zh',
  ),
}
