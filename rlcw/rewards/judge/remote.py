"""A panel that asks any model that answers in text, by JSON."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pydantic

from rlcw.rewards.judge.questions import Prompt, Question, Verdicts
from rlcw.sampling.prompts import Ask, ask_twice, fill, template

_FENCE = '```'  # around code, as many models write it


class Form(pydantic.BaseModel):
  """What a model is asked for, where it can be held to a schema."""

  id: str
  verdict: str
  reason: str


class Answer(NamedTuple):
  """A verdict, and why."""

  first: bool  # whether it is the first label
  reason: str


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
  record = dict(pairs)
  if len(record) < len(pairs):
    raise ValueError('a name comes twice')
  return record


def parse(answer: str, labels: Sequence[str], key: str) -> Answer:
  """What an answer says.

  Raises:
    ValueError: the answer is not the JSON object asked for, be it by a word; or
      `key` shows that it answers another question.
  """
  text = answer.strip()
  if text.startswith(_FENCE) and text.endswith(_FENCE):
    text = text.removeprefix(_FENCE).removeprefix('json').removesuffix(_FENCE)
  record = json.loads(text, object_pairs_hook=_unique)
  if not isinstance(record, dict) or not {'id', 'verdict'} <= {*record}:
    raise ValueError('an object with id and verdict is expected')
  if record['id'] != key:
    raise ValueError(f'it answers {record["id"]!r}, not {key!r}')
  if record['verdict'] not in labels:
    raise ValueError(f'verdict {record["verdict"]!r} is none of {labels}')
  first = record['verdict'] == labels[0]
  return Answer(first, str(record.get('reason', '')))


class JSONJudge:
  """Asks for JSON, once more where the answer was none, and counts votes.

  Each prompt has a key of its own, made from all its text, which the answer
  must repeat: a verdict that a reply spells out, and one meant for another
  reply, do not have it.

  Args:
    ask: prompts to replies in their order, None where there is none.  The same
      prompt several times asks for as many samples.
    votes: how often to ask; the probability is the share of those that answer.
    meter: what asking has cost so far.
  """

  def __init__(
    self,
    ask: Ask,
    votes: int = 1,
    meter: Callable[[], Mapping[str, float]] = dict,
  ):
    if votes < 1:
      raise ValueError(f'judge.votes={votes}; legal: an integer from 1 on')
    self.ask, self.votes, self.meter = ask, votes, meter
    self.counts = Counter(questions=0, repaired=0, unanswered=0)

  def usage(self) -> dict[str, float]:
    """Questions put, answers asked for again, none had; and the meter."""
    return {**self.counts, **self.meter()}

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    """Prompts `[P][G]` to verdicts `[P, G]`, with reasons."""
    if not prompts:
      return Verdicts(np.zeros((0, 0)), [])
    texts = [''.join(prompt) for group in prompts for prompt in group]
    answers = self._answers(
      question, [text for text in texts for _ in range(self.votes)]
    )
    shape = (len(prompts), len(prompts[0]), self.votes)
    vote_PxGxV = np.array(
      [np.nan if answer is None else answer[0] for answer in answers], float
    ).reshape(shape)
    count_PxG = np.isfinite(vote_PxGxV).sum(2)
    share_PxG = np.nansum(vote_PxGxV, axis=2) / np.where(
      count_PxG, count_PxG, np.nan
    )
    turn = iter(answers)
    reason = [
      [
        _reason([*itertools.islice(turn, self.votes)], share > 0.5)
        for share in share_G
      ]
      for share_G in share_PxG
    ]
    return Verdicts(share_PxG, reason)

  def _answers(
    self, question: Question, texts: Sequence[str]
  ) -> list[Answer | None]:
    """An answer to each text; None where, asked twice, the model gave none."""
    keys = [
      hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
      for text in texts
    ]
    form = template(f'json_{question.language}')
    verdicts = '" or "'.join(question.labels)
    asked = [
      text + '\n\n' + fill(form, {'id': key, 'verdicts': verdicts})
      for text, key in zip(texts, keys, strict=True)
    ]
    return ask_twice(
      self.ask,
      asked,
      lambda reply, place: parse(reply, question.labels, keys[place]),
      question.language,
      self.counts,
    )


def _reason(answers: Sequence[Answer | None], first: bool) -> str:
  """That of the first vote for the verdict."""
  return next((a.reason for a in answers if a and a.first == first), '')
