"""A panel that asks any model that answers in text, by JSON."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence

import numpy as np

from rlcw.rewards.judges import (
  Prompt,
  Question,
  Verdicts,
  fill,
  quote,
  template,
)

Ask = Callable[[Sequence[str]], Sequence[str | None]]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
  record = dict(pairs)
  if len(record) < len(pairs):
    raise ValueError('a name comes twice')
  return record


def parse(answer: str, labels: Sequence[str], key: str) -> tuple[bool, str]:
  """The verdict, whether it is the first label, and the reason given.

  Raises:
    ValueError: the answer is not the JSON object asked for, be it by a word; or
      `key` shows that it answers another question.
  """
  fenced = re.fullmatch(r'```(?:json)?\s*(.*?)\s*```', answer.strip(), re.S)
  text = fenced[1] if fenced else answer
  record = json.loads(text, object_pairs_hook=_unique)
  if not isinstance(record, dict) or not {'id', 'verdict'} <= {*record}:
    raise ValueError('an object with id and verdict is expected')
  if record['id'] != key:
    raise ValueError(f'it answers {record["id"]!r}, not {key!r}')
  if record['verdict'] not in labels:
    raise ValueError(f'verdict {record["verdict"]!r} is none of {labels}')
  return record['verdict'] == labels[0], str(record.get('reason', ''))


class Remote:
  """Asks for JSON, once more where the answer was none, and counts votes.

  Each prompt has a key of its own, made from all its text, which the answer
  must repeat: a verdict that a reply spells out, and one meant for another
  reply, do not have it.

  Args:
    ask: prompts to replies in their order, None where there is none.  The same
      prompt several times asks for as many samples.
    votes: how often to ask; the probability is the share of those that answer.
  """

  def __init__(self, ask: Ask, votes: int = 1):
    self.ask, self.votes = ask, votes

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    shape_PxG = (len(prompts), len(prompts[0]))
    texts = [''.join(prompt) for group in prompts for prompt in group]
    answers = self._answers(
      question, [t for t in texts for _ in range(self.votes)]
    )
    vote_NxV = np.array(
      [np.nan if a is None else a[0] for a in answers], float
    ).reshape(-1, self.votes)
    count_N = np.isfinite(vote_NxV).sum(1)
    with np.errstate(invalid='ignore'):
      share_N = np.nansum(vote_NxV, axis=1) / count_N
    reasons = [
      self._reason(answers[i : i + self.votes], share > 0.5)
      for i, share in zip(
        range(0, len(answers), self.votes), share_N, strict=True
      )
    ]
    width = shape_PxG[1]
    return Verdicts(
      share_N.reshape(shape_PxG),
      [reasons[i : i + width] for i in range(0, len(reasons), width)],
    )

  def _answers(self, question: Question, texts: Sequence[str]):
    """An answer to each text, None where it has none even when asked again."""
    form, mend = (
      template(f'{name}_{question.language}') for name in ('json', 'repair')
    )
    verdicts = '" or "'.join(question.labels)
    keys = [
      hashlib.blake2b(t.encode(), digest_size=4).hexdigest() for t in texts
    ]
    asked = [
      f'{text}\n\n{fill(form, {"id": key, "verdicts": verdicts})}'
      for text, key in zip(texts, keys, strict=True)
    ]
    replies = self.ask(asked)
    answers = [
      _parsed(reply, question.labels, key)
      for reply, key in zip(replies, keys, strict=True)
    ]
    # What never came was asked for again by the endpoint, as often as it may.
    wrong = [
      i for i, a in enumerate(answers) if a is None and replies[i] is not None
    ]
    again = [
      asked[i]
      + '\n\n'
      + fill(mend, {'answer': quote(str(replies[i]), question.language, 500)})
      for i in wrong
    ]
    for i, reply in zip(wrong, self.ask(again) if again else [], strict=True):
      answers[i] = _parsed(reply, question.labels, keys[i])
    return answers

  def _reason(self, answers, first: bool) -> str:
    """That of the first vote for the verdict."""
    return next((a[1] for a in answers if a and a[0] == first), '')


def _parsed(
  reply: str | None, labels: Sequence[str], key: str
) -> tuple[bool, str] | None:
  try:
    return None if reply is None else parse(reply, labels, key)
  except (ValueError, RecursionError):
    return None
