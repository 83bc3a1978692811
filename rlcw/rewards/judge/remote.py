"""A judge that asks any text model for its verdicts in JSON."""

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

_FENCE = '```'  # many models wrap JSON in a code fence


class Form(pydantic.BaseModel):
  """Schema of an answer, for endpoints that support structured output."""

  id: str
  verdict: str
  reason: str


class Answer(NamedTuple):
  """A verdict with its reason."""

  first: bool  # true: the first label
  reason: str


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
  """Builds a JSON object, and raises ValueError if a key occurs twice."""
  # By default the last value wins silently, so a model that echoes a reply
  # could give two verdicts.
  record = dict(pairs)
  if len(record) < len(pairs):
    raise ValueError('a key occurs twice: expected one verdict')
  return record


def parse(answer: str, labels: Sequence[str], key: str) -> Answer:
  """Parses a model's answer.

  Args:
    answer: the model's text, JSON in a code fence or not.
    labels: the two possible verdicts.
    key: the id that the answer must repeat.

  Raises:
    ValueError: the answer is not exactly the JSON object that was asked for,
      or its id is not `key`, so that it answers another question.
  """
  text = answer.strip()
  if text.startswith(_FENCE) and text.endswith(_FENCE):
    text = text.removeprefix(_FENCE).removeprefix('json').removesuffix(_FENCE)
  # Text before or after the object is an error, never searched for a verdict:
  # it may quote the reply.
  record = json.loads(text, object_pairs_hook=_unique)
  if not isinstance(record, dict) or not {'id', 'verdict'} <= {*record}:
    raise ValueError('expected a JSON object with id and verdict')
  if record['id'] != key:
    raise ValueError(f'id={record["id"]!r}: expected {key!r}')
  if record['verdict'] not in labels:
    raise ValueError(f'verdict={record["verdict"]!r}: expected one of {labels}')
  first = record['verdict'] == labels[0]
  return Answer(first, str(record.get('reason', '')))


class JSONJudge:
  """Asks for verdicts in JSON, once more after an invalid answer, and votes.

  Each prompt has an id, a hash of its whole text, which the answer must repeat.
  So neither a verdict that a reply spells out nor an answer to another prompt
  is accepted.

  Args:
    ask: maps prompts to replies in order, None for a failed request.  A prompt
      that occurs several times gets as many samples.
    votes: samples per prompt; the probability is the first label's share of
      the valid ones.
    meter: returns the endpoint's counters and cost so far.

  Raises:
    ValueError: `votes` is below 1.
  """

  def __init__(
    self,
    ask: Ask,
    votes: int = 1,
    meter: Callable[[], Mapping[str, float]] = dict,
  ):
    if votes < 1:
      raise ValueError(f'judge.votes={votes}: expected an integer >= 1')
    self.ask, self.votes, self.meter = ask, votes, meter
    self.counts = Counter(questions=0, repaired=0, unanswered=0)

  def usage(self) -> dict[str, float]:
    """Counters: questions, repaired and unanswered ones, and the meter's."""
    return {**self.counts, **self.meter()}

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    """Computes verdicts `[P, G]`, with reasons, for prompts `[P][G]`."""
    if not prompts:
      return Verdicts(np.zeros((0, 0)), [])
    texts = [''.join(prompt) for group in prompts for prompt in group]
    answers = self._answers(
      question, [text for text in texts for _ in range(self.votes)]
    )
    shape = (len(prompts), len(prompts[0]), self.votes)
    # NaN marks a vote without a valid answer: it counts for neither label.
    vote_PxGxV = np.array(
      [np.nan if answer is None else answer[0] for answer in answers], float
    ).reshape(shape)
    count_PxG = np.isfinite(vote_PxGxV).sum(2)
    # A NaN divisor gives NaN without votes, and no warning, unlike 0 / 0.
    share_PxG = np.nansum(vote_PxGxV, axis=2) / np.where(
      count_PxG, count_PxG, np.nan
    )
    remaining = iter(answers)
    reason = [
      [
        _reason([*itertools.islice(remaining, self.votes)], share > 0.5)
        for share in share_G
      ]
      for share_G in share_PxG
    ]
    return Verdicts(share_PxG, reason)

  def _answers(
    self, question: Question, texts: Sequence[str]
  ) -> list[Answer | None]:
    """Answers to texts, None if the model gave no valid one in two tries."""
    # A reply cannot contain its own key, since the key hashes the reply too.
    # And unlike a random key it is the same in every run: responses are cached.
    keys = [
      hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
      for text in texts
    ]
    form = template(f'json_{question.language}')
    verdicts = '" or "'.join(question.labels)
    prompts = [
      text + '\n\n' + fill(form, {'id': key, 'verdicts': verdicts})
      for text, key in zip(texts, keys, strict=True)
    ]
    return ask_twice(
      self.ask,
      prompts,
      lambda reply, index: parse(reply, question.labels, keys[index]),
      question.language,
      self.counts,
    )


def _reason(answers: Sequence[Answer | None], first: bool) -> str:
  """Reason of the first vote that agrees with the majority; '' if none has."""
  return next((a.reason for a in answers if a and a.first == first), '')
