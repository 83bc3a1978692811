"""Units of text as IFBench's program counts them: words, tokens, sentences."""

import re
import string

from rlcw.rewards.rules import ifeval

MARKS = string.punctuation
_NO_MARKS = str.maketrans('', '', MARKS)

# A dot that ends no sentence.
_INNER_DOT = re.compile(
  r'(?<=\bMr)\.|(?<=\bMrs)\.|(?<=\bMs)\.|(?<=\bSt)\.|(?<=\bDr)\.'
  r'|\.(?=com|net|org|io|gov|edu|me)|(?<=[0-9])\.(?=[0-9])'
  r'|(?<=Ph)\.(?=D\.)|(?<=Ph\.D)\.'
  # An initial, or the dots of a.m. and U.S.A.
  r'|(?<=\s[A-Za-z])\.|(?<=[A-Za-z])\.(?=[A-Za-z]\.)'
  r'|(?<=[A-Za-z]\.[A-Za-z])\.'
  r'|(?<= Inc)\.|(?<= Ltd)\.|(?<= Jr)\.|(?<= Sr)\.|(?<= Co)\.'
)
# One after which a sentence begins all the same.
_STARTERS = (
  r'(?:Mr|Mrs|Ms|Dr|Prof|Capt|Cpt|Lt|He\s|She\s|It\s|They\s|Their\s|Our\s|We\s'
  r'|But\s|However\s|That\s|This\s|Wherever)'
)
_ENDS_ALL_THE_SAME = re.compile(
  rf'(?:(?<=[A-Z]\.[A-Z])|(?<= Inc)|(?<= Ltd)|(?<= Jr)|(?<= Sr)|(?<= Co))'
  rf'\.(?= {_STARTERS})'
)
# Stand for a dot that ends nothing, and for the end of a sentence.
_DOT, _END = '\ue000', '\ue001'


def sentences(reply: str) -> list[str]:
  """Sentences, without outer white space; a blank one may be among them.

  One ends with each . ? or !, but not with the dot of an abbreviation; a
  closing quote goes to the next one's beginning.
  """
  text = f' {reply}  '.replace('\n', ' ')
  text = _ENDS_ALL_THE_SAME.sub(_END, text)
  text = re.sub(r'\.{2,}', lambda dots: _DOT * len(dots[0]) + _END, text)
  text = _INNER_DOT.sub(_DOT, text)
  text = text.replace('.”', '”.')
  text = re.sub('([.!?])"', r'"\1', text)
  text = re.sub('[.?!]', rf'\g<0>{_END}', text).replace(_DOT, '.')
  parts = [part.strip() for part in text.split(_END)]
  return parts if parts[-1] else parts[:-1]


def without_marks(text: str) -> str:
  """The text without ASCII punctuation."""
  return text.translate(_NO_MARKS)


def bare_words(text: str) -> list[str]:
  """Words between white space, after ASCII punctuation is removed."""
  return without_marks(text).split()


def runs(text: str) -> list[str]:
  """Runs of letters, digits and `_`."""
  return re.findall(r'\w+', text)


def tokens(text: str) -> list[str]:
  """Words and punctuation marks, by NLTK's Treebank conventions."""
  found: list[str] = []
  for start, end in ifeval.punkt().span_tokenize(text):
    sentence = ifeval.TOKEN_ENDS.sub(r' \g<0> ', text[start:end])
    # Only a sentence's last dot is a token of its own.
    found += re.sub(r'(?<!\.)\.(?=[\s"\')\]}>]*$)', ' .', sentence).split()
  return found
