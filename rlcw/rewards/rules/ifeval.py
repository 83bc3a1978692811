"""IFEval's 25 rules (Zhou et al. 2023, arXiv 2311.07911), as it checks them.

These are for comparable numbers, not for rewards: a program that reads no
meaning is easily satisfied, and some of these checks more easily than they
need be. `checks` has the same rules with what is said here mended. Names of
arguments, and every verdict on the authors' published replies of GPT-4 and of a
weaker model, are IFEval's, but for these:
- IFEval draws a random letter where the letter to count is not one of a to z.
- Its keywords, section names and postscripts are regular expressions; none of
  its briefs makes use of that, and ours are plain text, so that none can hang.
- Its language detector is not seeded.
"""

import functools
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from rlcw.rewards.rules import languages

RELATIONS = 'less than', 'at least'
ANSWERS = 'My answer is yes.', 'My answer is no.', 'My answer is maybe.'

# Punkt takes long over marks that could end a sentence. So many, and 20,000
# characters, are more than any reply to the benchmark's briefs has.
_PUNKT_READS = re.compile(r'(?:[^.?!]*+[.?!]++){,1500}[^.?!]*')

# Where tokens end for NLTK's Treebank rules, English contractions included.
_TOKEN_ENDS = re.compile(
  r"""[;@\#$%&*?!\[\](){}<>"“”‘’«»„`\u2012-\u2015]|--|\.\.+|''"""
  r"""|[:,](?=\D|$)|(?=n't\b)|(?='(?:s|m|d|ll|re|ve)\b)"""
  r"|(?<=\bd)(?='ye\b)|(?<=\bmore)(?='n\b)|(?<=\s't)(?=is\b|was\b)"
  r'|(?<=\bcan)(?=not\b)|(?<=\bgim)(?=me\b)|(?<=\bgon)(?=na\b)'
  r'|(?<=\bgot)(?=ta\b)|(?<=\blem)(?=me\b)|(?<=\bwan)(?=na\b)',
  re.IGNORECASE,
)


def compare(count: int, relation: str, bound: int) -> bool:
  """Whether the count is `less than` or `at least` the bound."""
  return count < bound if relation == RELATIONS[0] else count >= bound


@functools.cache
def _punkt() -> Any:
  import punkt

  return punkt.tokenizer_for('english')


def keywords_existence(reply: str, keywords: Sequence[str]) -> bool:
  """Every keyword occurs, if within another word."""
  text = reply.lower()
  return all(word.lower() in text for word in keywords)


def keywords_frequency(
  reply: str, keyword: str, frequency: int, relation: str
) -> bool:
  """Occurrences within other words count too."""
  return compare(reply.lower().count(keyword.lower()), relation, frequency)


def keywords_forbidden_words(
  reply: str, forbidden_words: Sequence[str]
) -> bool:
  """No word occurs as a whole; `_` is a letter, and so is every Han."""
  text = reply.lower()
  words = [word for word in map(str.lower, forbidden_words) if word in text]
  return not any(re.search(rf'\b{re.escape(word)}\b', text) for word in words)


def keywords_letter_frequency(
  reply: str, letter: str, let_frequency: int, let_relation: str
) -> bool:
  """The character occurs so often, in upper or lower case."""
  count = reply.lower().count(letter.lower())
  return compare(count, let_relation, let_frequency)


def language_response_language(reply: str, language: str) -> bool:
  """A reply without letters is in any language."""
  return languages.detect(reply) in (None, language)


def number_sentences(reply: str, num_sentences: int, relation: str) -> bool:
  """Sentences as NLTK's English Punkt model parts them."""
  read = _PUNKT_READS.match(reply, 0, 20_000)
  spans = _punkt().span_tokenize(read.group() if read else '')
  # Nothing hangs on how many there are beyond the bound.
  count = len([*itertools.islice(spans, num_sentences)])
  return compare(count, relation, num_sentences)


def number_paragraphs(reply: str, num_paragraphs: int) -> bool:
  """`***` parts them, on a line of its own or not; two in a row are wrong."""
  parts = re.split(r'\s?\*\*\*\s?', reply)
  if not all(map(str.strip, parts[1:-1])):
    return False
  return len([part for part in parts if part.strip()]) == num_paragraphs


def number_words(reply: str, num_words: int, relation: str) -> bool:
  """Runs of letters, digits and `_`: don't is two, a Chinese clause is one."""
  return compare(len(re.findall(r'\w+', reply)), relation, num_words)


def nth_paragraph_first_word(
  reply: str, first_word: str, num_paragraphs: int, nth_paragraph: int
) -> bool:
  """Two line ends part paragraphs; blank ones count for nth, not for num."""
  parts = reply.split('\n\n')
  filled = len([part for part in parts if part.strip()])
  if nth_paragraph > filled:
    return False
  words = parts[nth_paragraph - 1].split(None, 1)
  if not words:
    return False
  opening = words[0].lstrip("'").lstrip('"')
  word = re.split('[.,?!\'"]', opening, maxsplit=1)[0].lower()
  # IFEval's own list of first words is in lower case.
  return filled == num_paragraphs and word == first_word.lower()


def number_placeholders(reply: str, num_placeholders: int) -> bool:
  """At least so many pairs of square brackets, if empty."""
  # What is not closed eats its line, for the next would scan it again.
  closed = re.findall(r'\[[^\]\n]*+(\]?)', reply)
  return closed.count(']') >= num_placeholders


def postscript(reply: str, postscript_marker: str) -> bool:
  """The marker occurs, anywhere; P.S. and P.P.S with spaces or not."""
  pattern = {'P.S.': r'p\.\s?s\.', 'P.P.S': r'p\.\s?p\.\s?s'}.get(
    postscript_marker, re.escape(postscript_marker.lower())
  )
  return re.search(pattern, reply.lower()) is not None


def number_bullet_lists(reply: str, num_bullets: int) -> bool:
  """Exactly so many lines open with -, or with * and not **."""
  stars = re.findall(r'^[^\S\n]*\*[^*].*', reply, re.MULTILINE)
  dashes = re.findall(r'^[^\S\n]*-', reply, re.MULTILINE)
  return len(stars) + len(dashes) == num_bullets


def constrained_response(reply: str) -> bool:
  """Any of the answers occurs, and so may the others."""
  return any(answer in reply for answer in ANSWERS)


def number_highlighted_sections(reply: str, num_highlights: int) -> bool:
  """At least so many spans within * or **, of one line, with spaces or not."""
  single = re.findall(r'\*([^\n*]*)\*', reply)
  double = re.findall(r'\*\*([^\n*]*)\*\*', reply)
  filled = [span for span in single + double if span.strip()]
  return len(filled) >= num_highlights


def multiple_sections(
  reply: str, section_spliter: str, num_sections: int
) -> bool:
  """The name with a number after it occurs so often, anywhere."""
  name = re.escape(section_spliter)
  return len(re.findall(rf'{name}\s?\d+', reply)) >= num_sections


def json_format(reply: str) -> bool:
  """Valid JSON, in a fence or not; NaN and Infinity are valid."""
  text = reply.strip()
  for fence in ('```json', '```Json', '```JSON', '```'):
    text = text.removeprefix(fence)
  try:
    json.loads(text.removesuffix('```').strip())
  except (ValueError, RecursionError):
    return False
  return True


def title(reply: str) -> bool:
  """A non-blank <<title>> stands somewhere; it may hold < and >."""
  # What is not closed eats its line, for the next would scan it again.
  spans = re.findall(r'<<(?:([^\n]+)>>|[^\n]*+)', reply)
  return any(span.lstrip('<').rstrip('>').strip() for span in spans)


def two_responses(reply: str) -> bool:
  """Six asterisks part two texts that differ."""
  # There may be a blank text at either end: with a fifth there are too many.
  first, *others = reply.split('******', 4)
  if not all(map(str.strip, others[:-1])):
    return False
  texts = [text.strip() for text in (first, *others) if text.strip()]
  return len(texts) == 2 and texts[0] != texts[1]


def repeat_prompt(reply: str, prompt_to_repeat: str) -> bool:
  """The reply opens with the prompt; nothing need follow."""
  return reply.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(reply: str, end_phrase: str) -> bool:
  """The reply ends in the phrase, or in double quotes after it."""
  text = reply.strip().strip('"').lower()
  return text.endswith(end_phrase.strip().lower())


def quotation(reply: str) -> bool:
  """The first and last characters are straight double quotes, if no others."""
  text = reply.strip()
  return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(
  reply: str, capital_frequency: int, capital_relation: str
) -> bool:
  """Tokens without a lower-case letter; I, A and the two of I'M count."""
  tokens = _TOKEN_ENDS.sub(' ', reply).split()
  count = len([token for token in tokens if token.isupper()])
  return compare(count, capital_relation, capital_frequency)


def english_capital(reply: str) -> bool:
  """No lower-case letter, and English as far as can be told."""
  return reply.isupper() and languages.detect(reply) in (None, 'en')


def english_lowercase(reply: str) -> bool:
  """No upper-case letter, and English as far as can be told."""
  return reply.islower() and languages.detect(reply) in (None, 'en')


def no_comma(reply: str) -> bool:
  """No ASCII comma."""
  return ',' not in reply
