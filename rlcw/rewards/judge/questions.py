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

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rlcw.rewards.briefs import Brief
from rlcw.rewards.rules.registry import DEMAND
from rlcw.runtime import processes
from rlcw.sampling.prompts import PROMPTS, fill, quote, template, visible

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


class Judge(Protocol):
  """Whatever answers a question: prompts `[P][G]` to verdicts `[P, G]`."""

  def usage(self) -> dict[str, float]:
    """Plain numbers of what it has done so far."""
    ...

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts: ...


def judge(
  panel: Judge, question: Question, briefs: Sequence[str], replies: Texts
) -> Verdicts:
  """Is each reply `[P][G]` Good by the principles?"""
  prompts = [
    [question.about(brief, reply) for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]
  return panel(question, prompts)


def compare(
  panel: Judge,
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
  panel: Judge | None,
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
