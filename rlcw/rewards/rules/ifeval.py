"""IFEval's own checks of its 25 rules (Zhou et al. 2023, arXiv 2311.07911).

Each docstring states the condition under which a check returns true.

These reproduce the benchmark's numbers and are not for rewards: checks without
an understanding of text are easy to exploit, and some of these more so than
necessary.  `checks` has stricter versions of the same rules.  Argument names
are IFEval's, and so is every verdict on the authors' published replies of GPT-4
and of a weaker model, with three exceptions:
- IFEval draws a random letter if the letter to count is not one of a to z.
- Its keywords, section names and postscripts are regular expressions.  None of
  its briefs uses that; ours are plain text, so that no pattern can hang.
- Its language detector is not seeded.
"""

import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rlcw.rewards.rules import languages

RELATIONS = 'less than', 'at least'
ANSWERS = 'My answer is yes.', 'My answer is no.', 'My answer is maybe.'

# Punkt is slow on punctuation that may end a sentence.  This reads up to 1,500
# such marks, more than any reply to the benchmark's briefs has.
_PUNKT_READS = re.compile(r'(?:[^.?!]*+[.?!]++){,1500}[^.?!]*')

# Token boundaries of NLTK's Treebank tokeniser, with English contractions.
TOKEN_ENDS = re.compile(
  r"""[;@\#$%&*?!\[\](){}<>"“”‘’«»„`\u2012-\u2015]|--|\.\.+|''"""
  r"""|[:,](?=\D|$)|(?=n't\b)|(?='(?:s|m|d|ll|re|ve)\b)"""
  r"|(?<=\bd)(?='ye\b)|(?<=\bmore)(?='n\b)|(?<=\s't)(?=is\b|was\b)"
  r'|(?<=\bcan)(?=not\b)|(?<=\bgim)(?=me\b)|(?<=\bgon)(?=na\b)'
  r'|(?<=\bgot)(?=ta\b)|(?<=\blem)(?=me\b)|(?<=\bwan)(?=na\b)',
  re.IGNORECASE,
)


def compare(count: int, relation: str, bound: int) -> bool:
  """Compares a count with a bound; the relation is one of RELATIONS."""
  return count < bound if relation == RELATIONS[0] else count >= bound


@functools.cache
def _punkt() -> Any:
  # Imported at first use: it loads a model that only one rule needs.
  import punkt

  return punkt.tokenizer_for('english')


def punkt_spans(text: str) -> Iterator[tuple[int, int]]:
  """Places of the sentences that NLTK's English Punkt model finds.

  Only the first 20,000 characters are used.
  """
  match = _PUNKT_READS.match(text, 0, 20_000)
  return _punkt().span_tokenize(match.group() if match else '')


def keywords_existence(reply: str, keywords: Sequence[str]) -> bool:
  """Every keyword occurs, possibly within another word; case is ignored."""
  text = reply.lower()
  return all(word.lower() in text for word in keywords)


def keywords_frequency(
  reply: str, keyword: str, frequency: int, relation: str
) -> bool:
  """Compares the number of occurrences, ignoring case; parts of words count."""
  return compare(reply.lower().count(keyword.lower()), relation, frequency)


def keywords_forbidden_words(
  reply: str, forbidden_words: Sequence[str]
) -> bool:
  """No forbidden word occurs as a whole word.

  `_` and Han characters count as letters of a word.
  """
  text = reply.lower()
  # Plain search first: it is much faster than a regex for absent words.
  words = [word for word in map(str.lower, forbidden_words) if word in text]
  return not any(re.search(rf'\b{re.escape(word)}\b', text) for word in words)


def keywords_letter_frequency(
  reply: str, letter: str, let_frequency: int, let_relation: str
) -> bool:
  """Compares the number of occurrences of the character; ignores case."""
  count = reply.lower().count(letter.lower())
  return compare(count, let_relation, let_frequency)


def language_response_language(reply: str, language: str) -> bool:
  """The detected language is the one asked for; passes if none is detected."""
  return languages.detect(reply) in (None, language)


def number_sentences(reply: str, num_sentences: int, relation: str) -> bool:
  """Compares the number of sentences that NLTK's English Punkt model finds.

  Only the first 20,000 characters are used, more than any reply to the
  benchmark's briefs has.
  """
  # Counting stops at the bound, since further sentences change no verdict.
  count = len([*itertools.islice(punkt_spans(reply), num_sentences)])
  return compare(count, relation, num_sentences)


def number_paragraphs(reply: str, num_paragraphs: int) -> bool:
  """Exactly `num_paragraphs` are separated by `***`, anywhere in a line.

  Two dividers in a row fail.
  """
  parts = re.split(r'\s?\*\*\*\s?', reply)
  # Only the first and the last part may be blank.
  if not all(map(str.strip, parts[1:-1])):
    return False
  return len([part for part in parts if part.strip()]) == num_paragraphs


def number_words(reply: str, num_words: int, relation: str) -> bool:
  """Compares the number of words: runs of letters, digits and `_`.

  So don't is two words, and a Chinese clause is one.
  """
  return compare(len(re.findall(r'\w+', reply)), relation, num_words)


def nth_paragraph_first_word(
  reply: str, first_word: str, num_paragraphs: int, nth_paragraph: int
) -> bool:
  """The nth of exactly `num_paragraphs` begins with the word; case is ignored.

  Paragraphs are separated by two line ends.  Blank ones count for the index
  `nth_paragraph`, but not for `num_paragraphs`.
  """
  parts = reply.split('\n\n')
  filled = len([part for part in parts if part.strip()])
  if nth_paragraph > filled:
    return False
  words = parts[nth_paragraph - 1].split(None, 1)
  if not words:
    return False
  opening = words[0].lstrip("'").lstrip('"')
  word = re.split('[.,?!\'"]', opening, maxsplit=1)[0].lower()
  # IFEval's own list of first words is in lower case, so case is ignored.
  return filled == num_paragraphs and word == first_word.lower()


def number_placeholders(reply: str, num_placeholders: int) -> bool:
  """At least `num_placeholders` pairs of square brackets, even empty ones."""
  # An unclosed bracket consumes the rest of its line.  Otherwise each further
  # one would scan that line again, in quadratic time.
  closed = re.findall(r'\[[^\]\n]*+(\]?)', reply)
  return closed.count(']') >= num_placeholders


def postscript(reply: str, postscript_marker: str) -> bool:
  """The marker occurs anywhere; P.S. and P.P.S may have spaces inside."""
  pattern = {'P.S.': r'p\.\s?s\.', 'P.P.S': r'p\.\s?p\.\s?s'}.get(
    postscript_marker, re.escape(postscript_marker.lower())
  )
  return re.search(pattern, reply.lower()) is not None


def number_bullet_lists(reply: str, num_bullets: int) -> bool:
  """Exactly `num_bullets` lines begin with -, or with * but not **."""
  # `[^*]` also matches a line end, so that a lone * takes in the next line:
  # IFEval's expression has this effect.
  stars = re.findall(r'^[^\S\n]*\*[^*].*', reply, re.MULTILINE)
  dashes = re.findall(r'^[^\S\n]*-', reply, re.MULTILINE)
  return len(stars) + len(dashes) == num_bullets


def constrained_response(reply: str) -> bool:
  """Any of the answers occurs; several may."""
  return any(answer in reply for answer in ANSWERS)


def number_highlighted_sections(reply: str, num_highlights: int) -> bool:
  """At least `num_highlights` spans within * or ** on one line, not blank."""
  # A **span** is counted by the second pattern only: the first one finds just
  # two blank spans, one in each pair of asterisks.
  single = re.findall(r'\*([^\n*]*)\*', reply)
  double = re.findall(r'\*\*([^\n*]*)\*\*', reply)
  filled = [span for span in single + double if span.strip()]
  return len(filled) >= num_highlights


def multiple_sections(
  reply: str, section_spliter: str, num_sections: int
) -> bool:
  """The name with a number after it occurs at least `num_sections` times."""
  name = re.escape(section_spliter)
  return len(re.findall(rf'{name}\s?\d+', reply)) >= num_sections


def json_format(reply: str) -> bool:
  """Valid JSON, in a code fence or not; NaN and Infinity are valid."""
  text = reply.strip()
  # IFEval's order: the bare fence last, or a language name would remain.
  for fence in ('```json', '```Json', '```JSON', '```'):
    text = text.removeprefix(fence)
  try:
    json.loads(text.removesuffix('```').strip())
  # Deep nesting, such as thousands of brackets, raises RecursionError.
  except (ValueError, RecursionError):
    return False
  return True


def title(reply: str) -> bool:
  """A non-blank <<title>> occurs; it may contain < and >."""
  # As in `number_placeholders`, an unclosed title consumes its line.
  spans = re.findall(r'<<(?:([^\n]+)>>|[^\n]*+)', reply)
  return any(span.lstrip('<').rstrip('>').strip() for span in spans)


def two_responses(reply: str) -> bool:
  """Six asterisks separate exactly two different texts."""
  # Two texts, with a blank one at either end, make four parts.  A limit of five
  # suffices to detect more.
  first, *others = reply.split('******', 4)
  if not all(map(str.strip, others[:-1])):
    return False
  texts = [text.strip() for text in (first, *others) if text.strip()]
  return len(texts) == 2 and texts[0] != texts[1]


def repeat_prompt(reply: str, prompt_to_repeat: str) -> bool:
  """The reply begins with the prompt; an answer after it is not required."""
  return reply.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(reply: str, end_phrase: str) -> bool:
  """The reply ends with the phrase; double quotes may follow it."""
  text = reply.strip().strip('"').lower()
  return text.endswith(end_phrase.strip().lower())


def quotation(reply: str) -> bool:
  """The first and last characters are straight double quotes.

  They may be all of the reply.
  """
  text = reply.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(
  reply: str, capital_frequency: int, capital_relation: str
) -> bool:
  """Compares the number of tokens whose letters are all capitals.

  I and A count, and I'M as two.
  """
  # Only the number of tokens matters, so boundaries become spaces instead of
  # NLTK's tokens being rebuilt.
  tokens = TOKEN_ENDS.sub(' ', reply).split()
  count = len([token for token in tokens if token.isupper()])
  return compare(count, capital_relation, capital_frequency)


def english_capital(reply: str) -> bool:
  """No lower-case letter, and detected as English or not detected at all."""
  return reply.isupper() and languages.detect(reply) in (None, 'en')


def english_lowercase(reply: str) -> bool:
  """No upper-case letter, and detected as English or not detected at all."""
  return reply.islower() and languages.detect(reply) in (None, 'en')


def no_comma(reply: str) -> bool:
  """No ASCII comma occurs; full-width ones are allowed."""
  return ',' not in reply
