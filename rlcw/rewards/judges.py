"""Questions put to a language model about replies, and its verdicts.

A judge says by its principles whether a reply is Good or Bad, a verifier
whether a reply meets a demand that no rule can check, a comparison which of
two replies is better.  Each is a template in `prompts/` with two labels, of
which the model gives one.  Two panels answer them: `remote_judge.Remote` asks
an endpoint for JSON, `local_judge.Local` reads the labels' probabilities from a
model in JAX.

A reply is untrusted.  What the model sees of it is quoted line by line, so that
no text of its own can stand outside the quotation, whatever it contains.

Letters: P briefs, G replies to each.
"""

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from rlcw import processes
from rlcw.data import Brief
from rlcw.rewards.rules import DEMAND

PROMPTS = Path(__file__).parent.parent / 'prompts'
LANGUAGES = 'en', 'zh'  # of the templates
LABELS = {
  'judge': ('Good', 'Bad'),
  'demand': ('Pass', 'Fail'),
  'compare': ('First', 'Second'),
}

Texts = Sequence[Sequence[str]]  # [P][G]


class Prompt(NamedTuple):
  """A question in three parts, by how many share them."""

  shared: str  # the principles: the same for all
  group: str  # the brief: for all replies to it
  row: str  # the reply, and what is asked of it


class Verdicts(NamedTuple):
  """Answers to a question about G replies to each of P briefs."""

  # [P, G] probability of the first label, NaN where there is no answer.
  first: np.ndarray
  reason: list[list[str]]  # [P][G], blank where none was given

  @property
  def valid(self) -> np.ndarray:
    """[P, G], whether there is an answer; without one a reply has no score."""
    return np.isfinite(self.first)


def read(name: str) -> str:
  """A text file; `@NAME` is one of those that the package ships.

  Raises:
    FileNotFoundError: with the names that do exist.
    ValueError: it is blank.
  """
  file = PROMPTS / f'{name[1:]}.md' if name.startswith('@') else Path(name)
  if not file.is_file():
    shipped = sorted(f'@{p.stem}' for p in PROMPTS.glob('principles_*.md'))
    raise FileNotFoundError(f'no file {file}; the package ships {shipped}')
  text = file.read_text('utf-8').strip()
  if not text:
    raise ValueError(f'{file} is blank; rules in plain text are expected')
  return text


# What moves on to a new line, by Python's account and Unicode's.
_BREAKS = re.compile('\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]')


# What no font need show (Unicode's `Default_Ignorable_Code_Point`), though its
# category is that of letters and marks; most are variation selectors.
_IGNORED = {*'\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0'} | {
  chr(code)
  for first, after in ((0x180B, 0x1810), (0xFE00, 0xFE10), (0xE0100, 0xE01F0))
  for code in range(first, after)
}


def visible(text: str) -> str:
  """The text without what no reader would see.

  Control and format characters go (zero-width, bidirectional, tags), and so do
  variation selectors, fillers and halves of surrogate pairs; line breaks become
  one kind, tabs spaces.
  """
  text = _BREAKS.sub('\n', text).replace('\t', ' ')
  hidden = {
    ord(c): None
    for c in set(text) - {'\n'}
    if unicodedata.category(c) in ('Cc', 'Cf', 'Cs', 'Cn', 'Co')
    or c in _IGNORED
  }
  return text.translate(hidden)


_CUT = {
  'en': '(It is cut here; {} more characters are not shown.)',
  'zh': '（此处截断，还有{}个字符未显示。）',
}


def quote(text: str, language: str, limit: int) -> str:
  """A reply as a judge sees it: its visible text, every line behind `> `.

  Args:
    text: any string.
    language: of the mark where it is cut.
    limit: how many characters are shown.  The mark stands outside the
      quotation, so that no reply can forge it.
  """
  text = visible(text).strip()
  lines = [f'> {line}' for line in text[:limit].split('\n')]
  if len(text) > limit:
    lines.append(_CUT[language].format(len(text) - limit))
  return '\n'.join(lines)


_SLOT = re.compile(r'(\{[a-z]+\})')


@functools.cache
def template(name: str) -> list[str]:
  """A template cut at its slots, which are every second piece."""
  return _SLOT.split((PROMPTS / f'{name}.md').read_text('utf-8').strip())


def fill(pieces: Sequence[str], texts: Mapping[str, str]) -> str:
  """Texts in their slots; what a text spells is never a slot itself."""
  return ''.join(
    texts[p.strip('{}')] if _SLOT.fullmatch(p) else p for p in pieces
  )


class Question(NamedTuple):
  """One of `LABELS`, in a language, with the principles to answer by."""

  name: str
  language: str
  limit: int  # characters of a reply that are shown
  principles: str = ''

  @property
  def labels(self) -> tuple[str, str]:
    """The two answers, that which counts in a reply's favour first."""
    return LABELS[self.name]

  def about(
    self, brief: str, reply: str, *, demand: str = '', other: str = ''
  ) -> Prompt:
    """The prompt that asks it of a reply."""
    pieces = template(f'{self.name}_{self.language}')
    texts = {
      'principles': self.principles,
      'brief': visible(brief).strip(),
      'demand': visible(demand).strip(),
      'reply': quote(reply, self.language, self.limit),
      'other': quote(other, self.language, self.limit),
    }
    group, row = pieces.index('{brief}'), pieces.index('{reply}')
    parts = pieces[:group], pieces[group:row], pieces[row:]
    return Prompt(*(fill(part, texts) for part in parts))


Ask = Callable[[Sequence[str]], Sequence[str | None]]
_Answer = TypeVar('_Answer')
_SHOWN = 500  # characters of an answer that was none, to who is asked again


def ask_twice(
  ask: Ask,
  prompts: Sequence[str],
  parse: Callable[[str, int], _Answer],
  language: str,
  counts: Counter[str],
) -> list[_Answer | None]:
  """The answers to prompts; what is none is quoted, and asked for once more.

  Args:
    ask: prompts to replies in their order, None where there is none.
    prompts: texts, which say in what form to answer.
    parse: a reply, and the place of its prompt, to an answer; it raises
      ValueError where there is none.
    language: of the words in which it is asked for again.
    counts: is brought up to date: `questions`; of these `repaired`, of which
      an answer was asked for again, and `unanswered`, which have none.
  """

  def read(place: int, reply: str | None) -> _Answer | None:
    try:
      return None if reply is None else parse(reply, place)
    except (ValueError, RecursionError):
      return None

  replies = ask(prompts)
  answers = [read(place, reply) for place, reply in enumerate(replies)]
  mend = template(f'repair_{language}')
  # What never came was asked for again by the endpoint, as often as it may.
  wrong = {
    place: fill(mend, {'answer': quote(reply, language, _SHOWN)})
    for place, reply in enumerate(replies)
    if answers[place] is None and reply is not None
  }
  if wrong:
    again = ask([prompts[p] + '\n\n' + text for p, text in wrong.items()])
    for place, reply in zip(wrong, again, strict=True):
      answers[place] = read(place, reply)
  counts['questions'] += len(prompts)
  counts['repaired'] += len(wrong)
  counts['unanswered'] += answers.count(None)
  return answers


class Panel(Protocol):
  """Whatever answers a question: prompts `[P][G]` to verdicts `[P, G]`."""

  def usage(self) -> dict[str, float]:
    """Plain numbers of what it has done so far."""
    ...

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts: ...


def judge(
  panel: Panel, question: Question, briefs: Sequence[str], replies: Texts
) -> Verdicts:
  """Is each reply `[P][G]` Good by the principles?"""
  prompts = [
    [question.about(brief, reply) for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]
  return panel(question, prompts)


def compare(
  panel: Panel,
  question: Question,
  briefs: Sequence[str],
  ours: Sequence[str],
  theirs: Sequence[str],
) -> np.ndarray:
  """Which of two replies to each brief is better, asked in both orders.

  Returns:
    `[P]`: 1 where ours is, 0 where theirs is, 0.5 where the two orders
    disagree, NaN where either has no answer.
  """
  prompts = [
    [question.about(brief, a, other=b), question.about(brief, b, other=a)]
    for brief, a, b in zip(briefs, ours, theirs, strict=True)
  ]
  first_Px2 = panel(question, prompts).first
  ours_P = (first_Px2[:, 0] > 0.5) * 0.5 + (first_Px2[:, 1] <= 0.5) * 0.5
  return np.where(np.isfinite(first_Px2).all(1), ours_P, np.nan)


def follow(
  panel: Panel | None,
  question: Question,
  briefs: Sequence[Brief],
  replies: Texts,
) -> list[list[list[bool | None]]]:
  """The verdict on each rule and demand of a brief, for each reply.

  Args:
    panel: what answers for demands; not needed where no brief makes any.
    question: that of demands.
    briefs: P of them.
    replies: `[P][G]` texts.

  Returns:
    `[P][G]` lists, in the order of the brief's ids; None where a demand got no
    answer.

  Raises:
    ValueError: a brief makes a demand, and there is no panel.
  """
  asked = [
    (p, place, demand)
    for p, brief in enumerate(briefs)
    for place, demand in brief.demands.items()
  ]
  if asked and panel is None:
    raise ValueError(
      f'brief {briefs[asked[0][0]].id} makes a demand ({DEMAND}), which takes '
      'a model to check: give judge.model or judge.endpoint.url'
    )
  verdicts: list[list[list[bool | None]]] = [
    [brief.follow(reply) for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]
  # a model that is loaded here is called by all processes or none
  if panel is None or not any(processes.gather(bool(asked))):
    return verdicts
  prompts = [
    [
      question.about(briefs[p].prompt, reply, demand=demand)
      for reply in replies[p]
    ]
    for p, _, demand in asked
  ]
  answers = panel(question, prompts)
  for (p, place, _), first_G, valid_G in zip(
    asked, answers.first, answers.valid, strict=True
  ):
    for g, (first, valid) in enumerate(zip(first_G, valid_G, strict=True)):
      verdicts[p][g][place] = bool(first > 0.5) if valid else None
  return verdicts
