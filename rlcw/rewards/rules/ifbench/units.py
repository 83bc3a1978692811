"""Units of text as IFBench's program counts them: words, tokens, sentences."""

import re
import string

from rlcw.rewards.rules import ifeval

MARKS = string.punctuation
_NO_MARKS = str.maketrans('', '', MARKS)

# Dots that end no sentence: of titles, addresses, initials, abbreviations such
# as a.m., and companies.
_INNER_DOT = re.compile(
  r'(?<=Mr|St|Ms|Dr)\.|(?<=Mrs)\.|(?<= Inc| Ltd)\.'
  r'|\.(?=com|net|org|io|gov|edu|me)'
  r'|(?<=Ph)\.(?=D\.)|(?<=Ph\.D)\.|(?<=\s[A-Za-z])\.'
  r'|(?<=[A-Za-z])\.(?=[A-Za-z]\.)|(?<=[A-Za-z]\.[A-Za-z])\.'
  r'|(?<= Jr| Sr| Co)\.'
)
# After these abbreviations one ends if the next word often begins another.
_STARTER = (
  r'(?= (?:Mrs?|Ms|Dr|Prof|Capt|Cpt|Lt|Wherever'
  r'|(?:He|She|It|They|Their|Our|We|But|However|That|This)\s))'
)
_CAPITALS_END = re.compile(rf'(?<=[A-Z]\.[A-Z])\.{_STARTER}')
_COMPANY_ENDS = re.compile(
  rf'(?<= Inc| Ltd)\.{_STARTER}|(?<= Jr| Sr| Co)\.{_STARTER}'
)
# Stand for a dot that ends nothing, and for the end of a sentence.
_DOT, _END = '\ue000', '\ue001'


def sentences(reply: str) -> list[str]:
  """Sentences, without outer white space; a blank one may be among them.

  One ends with each . ? or !, but not with the dot of an abbreviation.  The
  mark changes places with a quote after it, and so belongs to the same one.
  """
  text = f' {reply}  '.replace('\n', ' ')
  text = re.sub(r'\.{2,}', lambda dots: _DOT * len(dots[0]) + _END, text)
  text = _CAPITALS_END.sub(_DOT + _END, text)
  # Here the dot is dropped, so that the sentence ends with none.
  text = _COMPANY_ENDS.sub(_END, text)
  # In 1.2.3 the second dot ends one: the match before it has taken the 2.
  text = re.sub(r'([0-9])\.([0-9])', rf'\1{_DOT}\2', text)
  text = _INNER_DOT.sub(_DOT, text)
  text = re.sub('([.!?])"', r'"\1', text.replace('.”', '”.'))
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


def punkt_sentences(text: str) -> list[str]:
  """Sentences that NLTK's English Punkt model finds."""
  return [text[start:end] for start, end in ifeval.punkt_spans(text)]


def tokens(text: str) -> list[str]:
  """Words and punctuation marks, by NLTK's Treebank conventions."""
  found: list[str] = []
  for sentence in punkt_sentences(text):
    spaced = ifeval.TOKEN_ENDS.sub(r' \g<0> ', sentence)
    # Only a sentence's last dot is a token of its own.
    found += re.sub(r'(?<!\.)\.(?=[\s"\')\]}>]*$)', ' .', spaced).split()
  return found
