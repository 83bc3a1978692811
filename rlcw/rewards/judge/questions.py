"""Questions to a language model about replies, and its verdicts.

There are four: `judge` rates a reply Good or Bad by principles, `demand` checks
a demand that no program can, `criterion` a statement of a rubric, `compare`
picks the better of two replies.

Each is a template in `data/assets/prompts/` with two labels, one of which the
model answers.  There are two kinds of judges: `remote.JSONJudge` asks an
endpoint for JSON, `local.LogprobJudge` computes the labels' probabilities with
a JAX model.

A reply is untrusted.  It is quoted line by line in the prompt, so that none of
its text can appear outside the quotation, whatever it contains.

Letters: P briefs, G replies to each; N pairs of replies, A of them asked about.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rlcw.data.characters import blank
from rlcw.rewards.briefs import Brief
from rlcw.rewards.rules.registry import DEMAND
from rlcw.runtime import console, processes
from rlcw.sampling.prompts import (
  PROMPTS,
  count_hidden,
  fill,
  quote,
  template,
  visible,
)

LANGUAGES = 'en', 'zh'  # of the templates
# The first label is the one in a reply's favour: `Verdicts.first` is its
# probability.
LABELS = {
  'judge': ('Good', 'Bad'),
  'demand': ('Pass', 'Fail'),
  'criterion': ('Yes', 'No'),
  'compare': ('First', 'Second'),
}

Texts = Sequence[Sequence[str]]  # [P][G]


class Prompt(NamedTuple):
  """A prompt in three parts, so that a judge can reuse the KV cache of two."""

  shared: str  # the principles: common to all prompts
  group: str  # the brief: common to the replies to it
  row: str  # the reply and the question about it
  hidden: int = 0  # characters of the reply that are not shown

  @property
  def text(self) -> str:
    """The whole prompt."""
    return self.shared + self.group + self.row


def note_shortened(
  counts: dict[str, int], prompts: Sequence[Sequence[Prompt]]
) -> None:
  """Counts the prompts that do not show a reply to its end; logs the first.

  Args:
    counts: of a judge; `shortened` is updated in place.
    prompts: `[P][G]`.
  """
  hidden = [p.hidden for group in prompts for p in group if p.hidden]
  if hidden and not counts['shortened']:
    console.log(
      f'judge: the ends of {len(hidden)} replies are not shown, up to '
      f'{max(hidden)} characters each; raise judge.max_reply_characters'
    )
  counts['shortened'] += len(hidden)


class Verdicts(NamedTuple):
  """Answers to a question about G replies to each of P briefs."""

  first: np.ndarray  # [P, G], probability of the first label; NaN: no answer
  reason: list[list[str]]  # [P][G], blank without a reason

  @property
  def valid(self) -> np.ndarray:
    """Mask `[P, G]` of the replies with an answer; others get no score."""
    return np.isfinite(self.first)


def read(name: str) -> str:
  """Reads a text file of principles; `@NAME` is one that the package ships.

  Raises:
    FileNotFoundError: there is no such file; lists the shipped names.
    ValueError: the file is blank.
  """
  shipped = name.startswith('@')
  file = PROMPTS / f'{name[1:]}.md' if shipped else Path(name).expanduser()
  if not file.is_file():
    names = sorted(f'@{p.stem}' for p in PROMPTS.glob('principles_*.md'))
    raise FileNotFoundError(
      f'no file {file}: expected a path, or one of {names}'
    )
  text = file.read_text('utf-8').strip()
  if not text:
    raise ValueError(f'{file} is blank: expected rules in plain text')
  return text


class Question(NamedTuple):
  """A question in a language, with the principles to answer by."""

  name: str  # a key of LABELS
  language: str  # one of LANGUAGES
  limit: int  # characters of a reply in the prompt; the rest is cut
  principles: str = ''

  @property
  def labels(self) -> tuple[str, str]:
    """The two possible answers, the favourable one first."""
    return LABELS[self.name]

  def about(
    self, brief: str, reply: str, *, demand: str = '', other: str = ''
  ) -> Prompt:
    """Builds the prompt that asks this question about a reply.

    Args:
      brief: the request.
      reply: untrusted text; quoted, and cut to `limit` characters.
      demand: for the question `demand`; the statement for `criterion`.
      other: the second reply, for the question `compare`; treated as `reply`.
    """
    pieces = template(f'{self.name}_{self.language}')
    texts = {
      'principles': self.principles,
      'brief': visible(brief).strip(),
      'demand': visible(demand).strip(),
      'reply': quote(reply, self.language, self.limit),
      'other': quote(other, self.language, self.limit),
    }
    # Cut into parts before filling in, so that a brief or reply that spells
    # "{reply}" moves no boundary.
    group, row = pieces.index('{brief}'), pieces.index('{reply}')
    parts = pieces[:group], pieces[group:row], pieces[row:]
    hidden = sum(count_hidden(each, self.limit) for each in (reply, other))
    return Prompt(*(fill(part, texts) for part in parts), hidden=hidden)


class Judge(Protocol):
  """Interface of a judge: maps prompts `[P][G]` to verdicts `[P, G]`."""

  def usage(self) -> dict[str, float]:
    """Counters since the start, such as `questions`."""
    ...

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts: ...


def judge(
  model: Judge, question: Question, briefs: Sequence[str], replies: Texts
) -> Verdicts:
  """Judges each reply `[P][G]` Good or Bad by the principles.

  A blank one is Bad, whatever the model answers; without an answer it has no
  verdict, as any other, or it would hide that the model is gone.
  """
  prompts = [
    [question.about(brief, reply) for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]
  first_PxG, reason = model(question, prompts)
  blank_PxG = np.array(
    [[blank(reply) for reply in group] for group in replies], bool
  )
  return Verdicts(
    np.where(blank_PxG & np.isfinite(first_PxG), 0.0, first_PxG),
    [
      ['' if is_blank else each for is_blank, each in zip(*group, strict=True)]
      for group in zip(blank_PxG, reason, strict=True)
    ],
  )


def compare(
  model: Judge,
  question: Question,
  briefs: Sequence[str],
  ours: Sequence[str],
  theirs: Sequence[str],
) -> np.ndarray:
  """Compares two replies to each brief, in both orders.

  Returns:
    Win rates `[P]` of `ours` against `theirs`: 1, 0, or 0.5 if the two orders
    disagree; NaN if either has no answer.  A blank reply loses to any other,
    whatever the model answers.
  """
  prompts = _both_orders(question, briefs, ours, theirs)
  # Without pairs there may be no second axis.
  first_Px2 = model(question, prompts).first.reshape(-1, 2)
  # In the second prompt ours is the second reply.
  ours_P = (first_Px2[:, 0] > 0.5) * 0.5 + (first_Px2[:, 1] <= 0.5) * 0.5
  ours_P = np.where(np.isfinite(first_Px2).all(1), ours_P, np.nan)
  return _blank_loses(ours_P, ours, theirs)


def prefer(
  model: Judge,
  question: Question,
  briefs: Sequence[str],
  ours: Sequence[str],
  theirs: Sequence[str],
) -> np.ndarray:
  """Probabilities `[N, 2]` that `ours` is better than `theirs`.

  Called in all processes.  Pairs that look the same to the model are ties, and
  it is not asked about them.

  Args:
    model: the judge.
    question: the question `compare`.
    briefs: of each of N pairs.
    ours: replies, one of each pair.
    theirs: the others.

  Returns:
    The answers where ours was shown first and where it was shown second; NaN
    without an answer.  A blank reply loses to any other, whatever the model
    answers.
  """
  prompts = _both_orders(question, briefs, ours, theirs)
  asked = [n for n, (one, other) in enumerate(prompts) if one != other]
  ours_Nx2 = np.full((len(prompts), 2), 0.5)
  # A model on a mesh is called by all processes or by none.
  if any(processes.gather(bool(asked))):
    answers = model(question, [prompts[n] for n in asked])
    first_Ax2 = np.asarray(answers.first, float).reshape(-1, 2)
    ours_Nx2[asked] = np.stack([first_Ax2[:, 0], 1 - first_Ax2[:, 1]], 1)
  return np.stack(
    [_blank_loses(each_N, ours, theirs) for each_N in ours_Nx2.T], 1
  )


def _both_orders(
  question: Question,
  briefs: Sequence[str],
  ours: Sequence[str],
  theirs: Sequence[str],
) -> list[list[Prompt]]:
  """Two prompts for each pair, the second with its replies swapped.

  Judges favour a position, often the first: so such a preference cancels.
  """
  return [
    [question.about(brief, a, other=b), question.about(brief, b, other=a)]
    for brief, a, b in zip(briefs, ours, theirs, strict=True)
  ]


def _blank_loses(
  ours_N: np.ndarray, ours: Sequence[str], theirs: Sequence[str]
) -> np.ndarray:
  """Answers about pairs, but a blank reply loses where there is an answer."""
  none_N, other_N = (np.array([*map(blank, t)], bool) for t in (ours, theirs))
  certain_N = (1.0 + other_N - none_N) / 2
  known_N = np.isfinite(ours_N) & (none_N | other_N)
  return np.where(known_N, certain_N, ours_N)


def follow(
  model: Judge | None,
  question: Question,
  briefs: Sequence[Brief],
  replies: Texts,
) -> list[list[list[bool | None]]]:
  """Verdicts on each rule and demand of a brief, for each reply.

  Args:
    model: checks the demands; may be None if no brief makes any.
    question: the question `demand`.
    briefs: P of them.
    replies: `[P][G]` texts.

  Returns:
    `[P][G]` lists in the order of the brief's ids; None if a demand got no
    answer.  A blank reply meets no rule and no demand.

  Raises:
    ValueError: a brief makes a demand, and there is no judge.
  """
  demands = [
    (p, index, demand)
    for p, brief in enumerate(briefs)
    for index, demand in brief.demands.items()
  ]
  if demands and model is None:
    raise ValueError(
      f'brief {briefs[demands[0][0]].id} makes a demand ({DEMAND}), which '
      'needs a judge: give judge.model or judge.endpoint.url'
    )
  verdicts: list[list[list[bool | None]]] = [
    [brief.follow(reply) for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]
  answers = _ask(model, question, demands, briefs, replies)
  for (p, index, _), met_G in zip(demands, answers, strict=True):
    for verdict, met in zip(verdicts[p], met_G, strict=True):
      verdict[index] = met
  return verdicts


def meet(
  model: Judge | None,
  question: Question,
  briefs: Sequence[Brief],
  replies: Texts,
) -> list[list[list[bool | None]]]:
  """Verdicts on each criterion of a brief's rubric, for each reply.

  Args:
    model: the judge; may be None if no brief has a rubric.
    question: the question `criterion`.
    briefs: P of them.
    replies: `[P][G]` texts.

  Returns:
    `[P][G]` lists in the order of the rubric; None without an answer.  A blank
    reply has no merit and every fault.
  """
  criteria = [
    (p, index, each.criterion)
    for p, brief in enumerate(briefs)
    for index, each in enumerate(brief.rubric)
  ]
  verdicts: list[list[list[bool | None]]] = [
    [[None] * len(brief.rubric) for _ in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]
  answers = _ask(model, question, criteria, briefs, replies)
  for (p, index, _), met_G in zip(criteria, answers, strict=True):
    fault = briefs[p].rubric[index].weight < 0
    for reply, verdict, met in zip(replies[p], verdicts[p], met_G, strict=True):
      verdict[index] = fault if met is not None and blank(reply) else met
  return verdicts


def _ask(
  model: Judge | None,
  question: Question,
  asked: Sequence[tuple[int, int, str]],
  briefs: Sequence[Brief],
  replies: Texts,
) -> list[list[bool | None]]:
  """Verdicts on N statements about all replies to their briefs.

  Args:
    model: the judge; None only if nothing is asked.
    question: `demand` or `criterion`.
    asked: N times (index of the brief, index in the brief, text).
    briefs: P of them.
    replies: `[P][G]` texts.

  Returns:
    `[N][G]`, None without an answer.  A blank reply meets nothing.
  """
  # A model on a mesh is called by all processes or by none: a process that asks
  # nothing must join if any other does.
  if model is None or not any(processes.gather(bool(asked))):
    return []
  prompts = [
    [
      question.about(briefs[p].prompt, reply, demand=text)
      for reply in replies[p]
    ]
    for p, _, text in asked
  ]
  answers = model(question, prompts)
  return [
    [
      bool(first > 0.5) and not blank(reply) if valid else None
      for reply, first, valid in zip(replies[p], first_G, valid_G, strict=True)
    ]
    for (p, *_), first_G, valid_G in zip(
      asked, answers.first, answers.valid, strict=True
    )
  ]
