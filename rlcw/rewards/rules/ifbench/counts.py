"""IFBench's rules about numbers of things and their ratios.

These are its `count:*`, `ratio:*` and `sentence:*`.  Each docstring states the
condition under which a check returns true.
"""

import itertools
import re

from rlcw.rewards.rules.ifbench.units import (
  MARKS,
  bare_words,
  punkt_sentences,
  runs,
  sentences,
  without_marks,
)

_CONJUNCTIONS = 'for and nor but or yet so'  # coordinating ones
_PERSONAL = """
  i me my myself we our ours ourselves you your yours yourself yourselves he him
  his himself she her hers herself it its itself they them their theirs
  themselves
"""
_POINTING = 'this that these those'
# NLTK's list of words of grammar, which is longer than Snowball's.
_OTHER_STOPS = """
  what which who whom am is are was were be been being have has had having do
  does did doing a an the and but if or because as until while of at by for with
  about against between into through during before after above below to from up
  down in out on off over under again further then once here there when where
  why how all any both each few more most other some such no nor not only own
  same so than too very s t can will just don should now d ll m o re ve y ain
  aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn
  wasn weren won wouldn
"""
# The benchmark's list, which its prompts give.
_NAMES = """
  Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan
  Charlotte Alexander Amelia Benjamin Harper Leo Zoe Daniel Chloe Samuel Lily
  Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria Elijah
  Layla Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew
  Aria Joseph Claire Ryan Stella Jonathan
"""
CONJUNCTIONS = frozenset(_CONJUNCTIONS.split())
PRONOUNS = frozenset(f'{_PERSONAL} mine us {_POINTING}'.split())
STOP_WORDS = frozenset(f'{_PERSONAL} {_POINTING} {_OTHER_STOPS}'.split())
NAMES = _NAMES.split()
_NAME = re.compile(rf'\b(?:{"|".join(NAMES)})\b')
# How often each keyword of `keywords_multiple` is wanted.
TIMES = 1, 2, 3, 5, 7
_TOLERANCE = 2  # per cent, of `overlap`


def conjunctions(reply: str, small_n: int) -> bool:
  """At least `small_n` different coordinating conjunctions occur.

  Those in other case, or beside other marks, are different.
  """
  return len({*conjunctions_of(reply)}) >= small_n


def conjunctions_of(reply: str) -> list[str]:
  """Returns the coordinating conjunctions, as they are written."""
  return [
    word for word in reply.split() if word.strip(MARKS).lower() in CONJUNCTIONS
  ]


def keywords_multiple(
  reply: str,
  keyword1: str,
  keyword2: str,
  keyword3: str,
  keyword4: str,
  keyword5: str,
) -> bool:
  """The keywords occur exactly 1, 2, 3, 5 and 7 times, even within words."""
  text = reply.lower()
  keywords = keyword1, keyword2, keyword3, keyword4, keyword5
  return all(
    text.count(keyword.lower()) == times
    for keyword, times in zip(keywords, TIMES, strict=True)
  )


def numbers(reply: str, N: int) -> bool:
  """Exactly `N` runs of digits occur, after punctuation is removed."""
  return len(re.findall(r'\d+', without_marks(reply))) == N


def person_names(reply: str, N: int) -> bool:
  """At least `N` different names of the list occur as words."""
  return len({*_NAME.findall(reply)}) >= N


def pronouns(reply: str, N: int) -> bool:
  """At least `N` pronouns occur, each counted every time."""
  return len([w for w in runs(reply.lower()) if w in PRONOUNS]) >= N


def punctuation(reply: str) -> bool:
  """Each of . , ! ? ; : occurs, and an interrobang beside them."""
  found = next((mark for mark in ('?!', '!?', '‽') if mark in reply), None)
  return found is not None and {*'.,!?;:'} <= {*reply.replace(found, '', 1)}


def unique_word_count(reply: str, N: int) -> bool:
  """At least `N` different words occur; case and outer marks are ignored."""
  return len({word.strip(MARKS) for word in reply.lower().split()}) >= N


def word_count_range(reply: str, min_words: int, max_words: int) -> bool:
  """The number of words, runs of letters and digits, is in the range."""
  return min_words <= len(runs(reply)) <= max_words


def words_japanese(reply: str, N: int) -> bool:
  """Every `N`th word has a kana or Han character."""
  words = [word.strip(MARKS) for word in reply.split()]
  return all(
    re.search('[\u3040-\u30ff\u4e00-\u9fff]', word) is not None
    for word in words[N - 1 :: N]
    if word and not word.isdigit()
  )


def overlap(reply: str, reference_text: str, percentage: float) -> bool:
  """The share of the reply's trigrams that the reference has is as asked.

  Trigrams are of characters; the share is right within 2 points.
  """
  own, other = _trigrams(reply), _trigrams(reference_text)
  share = 100 * len(own & other) / len(own) if own else 0
  return abs(share - percentage) <= _TOLERANCE


def _trigrams(text: str) -> set[str]:
  return {text[n : n + 3] for n in range(len(text) - 2)}


def ends(reply: str) -> list[int]:
  """Returns the numbers of sentences that end with . with ? and with !."""
  parts = sentences(reply)
  return [sum(part.endswith(mark) for part in parts) for mark in '.?!']


def sentence_balance(reply: str) -> bool:
  """As many sentences end with . as with ? and as with !."""
  return len({*ends(reply)}) == 1


def sentence_type(reply: str) -> bool:
  """Twice as many sentences end with . as with ?."""
  declarative, interrogative, _ = ends(reply)
  return declarative == 2 * interrogative


def sentence_words(reply: str) -> bool:
  """Three sentences, of one length in characters; they may share words."""
  parts = sentences(reply)
  return len(parts) == 3 and len({len(part) for part in parts}) == 1


def stop_words(reply: str, percentage: float) -> bool:
  """No more than `percentage` of the words are stop words."""
  words = runs(reply.lower())
  stops = [word for word in words if word in STOP_WORDS]
  return 100 * len(stops) <= percentage * len(words)


def alliteration_increment(reply: str) -> bool:
  """Each sentence has more alliterating words than the one before it.

  All words that begin like a neighbour count, in whichever runs they are.
  """
  counts = [sum(alliterations(sentence)) for sentence in sentences(reply)]
  return all(one < other for one, other in itertools.pairwise(counts))


def alliterations(sentence: str) -> list[int]:
  """Returns the lengths of the runs of words that begin with one character."""
  words = [word.lstrip(MARKS) for word in sentence.lower().split()]
  letters = [word[0] for word in words if word]
  lengths = [len([*run]) for _, run in itertools.groupby(letters)]
  return [length for length in lengths if length > 1]


def increment(reply: str, small_n: int) -> bool:
  """Each of Punkt's sentences has `small_n` more words than the one before."""
  counts = [len(bare_words(part)) for part in punkt_sentences(reply)]
  return all(
    other - one == small_n for one, other in itertools.pairwise(counts)
  )


def keyword(reply: str, word: str, N: int) -> bool:
  """The `N`th sentence has the word, even within another; ignores case."""
  parts = sentences(reply)
  return len(parts) >= N and word.lower() in parts[N - 1].lower()
