"""Replies that keep the rules of a composed brief: proof that some do.

A reply is made of parts (lines, sentences, paragraphs) of plain words, into
which goes what the rules require. It reads like nothing.
"""

import itertools
import json
from typing import Any

from rlcw.rewards.rules import poetry
from rlcw.rewards.rules import text as text_lib
from rlcw.rewards.rules.text import count_words

# None is a stock word, has a rare letter, or is of one script of Chinese.
_PLAIN = {
  'en': [
    *('mild', 'soft', 'long', 'near', 'plain', 'pale'),
    *('round', 'calm', 'slim', 'broad', 'cool', 'grand', 'tall'),
  ],
  'zh': [*'山水天人大口手日田石土木竹'],
}
_SYLLABLES = 5, 7, 5
_RHYMES = {
  'en': {
    'A': 'night light right tight',
    'B': 'day say bay may',
    'X': 'path home',
  },
  'zh': {'A': '光 霜 堂 方', 'X': '心 天'},
}


class Writer:
  """Writes for one brief; `rules` are its arguments by their ids."""

  def __init__(self, brief: dict[str, Any]) -> None:
    self.language = brief['language']
    ids, kwargs = brief['instruction_id_list'], brief['kwargs']
    self.rules = dict(zip(ids, kwargs, strict=True))
    self.space = ' ' if self.language == 'en' else ''
    self.stop = '.' if self.language == 'en' else '。'
    self.plain = itertools.cycle(_PLAIN[self.language])

  def get(self, name: str, default: Any = None) -> Any:
    """An argument of whichever rule has it."""
    return next((k[name] for k in self.rules.values() if name in k), default)

  def replies(self) -> list[str]:
    """One as short as can be, and some with as much more as is asked for."""
    words = self.rules.get('length_constraints:number_words', {})
    wanted = [words['num_words'] if words.get('relation') == 'at least' else 0]
    for name in ('length:words', 'length:characters'):
      wanted.append(self.rules.get(name, {}).get('at_least', 0))
    short = self.reply(0)
    missing = max(wanted) - count_words(short)
    # Of marks, where they count, there may be many.
    return [short, *(self.reply(missing - marks) for marks in (0, 10, 20))]

  def tokens(self) -> list[str]:
    """What is to stand somewhere in the text."""
    found = [*self.get('keywords', [])]
    if self.rules.get('keywords:frequency', {}).get('relation') == 'at least':
      found += [self.get('keyword')] * self.get('frequency')
    if self.get('let_relation') == 'at least':
      found += [self.get('letter')] * self.get('let_frequency')
    if self.get('capital_relation') == 'at least':
      found += ['NOON'] * self.get('capital_frequency')
    comma = '' if self.language == 'en' else '、'
    word = next(self.plain)
    found += [f'*{word}*{comma}'] * self.get('num_highlights', 0)
    return found + [f'[{word}]'] * self.get('num_placeholders', 0)

  def count(self) -> int:
    """How many parts."""
    for name in ('sentences', 'paragraphs', 'lines'):
      if kwargs := self.rules.get(f'length:{name}'):
        return kwargs.get('at_least', 1)
    number = self.rules.get('length_constraints:number_sentences', {})
    more = number.get('relation') == 'at least'
    return max(
      number['num_sentences'] if more else 1,
      *(self.get(f'num_{n}', 1) for n in ('paragraphs', 'bullets', 'sections')),
      len(self.get('scheme', '')),
      len(self.get('letters', '')),
    )

  def parts(self, padding: int) -> list[str]:
    count = self.count()
    parts = [[next(self.plain)] for _ in range(count)]
    tokens = [*self.tokens(), *itertools.islice(self.plain, max(padding, 0))]
    for index, token in enumerate(tokens):
      parts[index % count].insert(0, token)
    for index, letter in enumerate(self.get('letters', '')):
      parts[index].insert(0, letter)
    ends = {k: iter(v.split()) for k, v in _RHYMES[self.language].items()}
    for index, letter in enumerate(self.get('scheme', '')):
      parts[index].append(next(ends[letter]))
    if word := self.get('first_word'):
      parts[self.get('nth_paragraph') - 1].insert(0, word)
    for index in range(self.get('num_sections', 0)):
      heading = f'{self.get("section_spliter")} {index + 1}\n'
      parts[index].insert(0, heading)
    return [self.space.join(part) for part in parts]

  def clauses(self) -> str:
    size = self.get('num_characters')
    clauses = [
      (token + ''.join(itertools.islice(self.plain, size)))[:size]
      for token in [*self.tokens(), *[''] * self.get('num_lines')]
    ]
    return '。\n'.join(clauses[: self.get('num_lines')])

  def haiku(self) -> str:
    left, lines = self.tokens(), []
    for wanted in _SYLLABLES:
      line, size = [], 0
      for token in [*left]:
        parts = text_lib.words(token)
        more = sum(max(poetry.syllables(part)) for part in parts)
        if size + more <= wanted:
          left.remove(token)
          line.append(token)
          size += more
      line += itertools.islice(self.plain, wanted - size)
      lines.append(self.space.join(line))
    return '\n'.join(lines)

  def body(self, padding: int) -> str:
    if 'poem:clauses' in self.rules:
      return self.clauses()
    if 'poem:haiku' in self.rules:
      return self.haiku()
    parts = self.parts(padding)
    if 'length_constraints:number_paragraphs' in self.rules:
      return '\n***\n'.join(parts)
    if 'detectable_format:number_bullet_lists' in self.rules:
      return '\n' + '\n'.join(f'- {part}' for part in parts)
    if {'length:sentences', 'length_constraints:number_sentences'} & {
      *self.rules
    }:
      return f'{self.stop}{self.space}'.join(parts)
    lines = {'length:lines', 'poem:rhyme', 'poem:acrostic'} & {*self.rules}
    return ('\n' if lines else '\n\n').join(parts)

  def reply(self, padding: int) -> str:
    start, end = self.get('start_phrase', ''), self.get('end_phrase', '')
    text = f'{start}{self.space}{self.body(padding)}{self.space}{end}'
    if 'detectable_content:postscript' in self.rules:
      text += f'\n{self.get("postscript_marker")} {next(self.plain)}'
    if 'combination:two_responses' in self.rules:
      text += f'\n******\n{next(self.plain)}'
    if 'combination:repeat_prompt' in self.rules:
      text = f'{self.get("prompt_to_repeat")}\n{text}'
    if 'detectable_format:title' in self.rules:
      marks = '<<{}>>' if self.language == 'en' else '《{}》'
      text = f'{marks.format(next(self.plain))} {text}'
    if 'startend:quotation' in self.rules:
      text = f'"{text}"'
    if 'detectable_format:json_format' in self.rules:
      text = json.dumps([text.strip()], ensure_ascii=False)
    if 'change_case:english_lowercase' in self.rules:
      text = text.lower()
    if 'change_case:english_capital' in self.rules:
      text = text.upper()
    return text.strip()
