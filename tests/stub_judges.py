"""Panels and models that tests put in a judge's place."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence

import numpy as np

from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge.questions import Prompt, Question, Verdicts
from rlcw.rewards.rules.registry import DEMAND


@dataclasses.dataclass
class Scripted:
  """A panel that answers as a function of the prompt tells it."""

  probability: Callable[[Prompt], float]  # of the first label; NaN for none
  asked: list[tuple[Question, Prompt]] = dataclasses.field(default_factory=list)

  def usage(self) -> dict[str, float]:
    return {'questions': len(self.asked)}

  def __call__(
    self, question: Question, prompts: Sequence[Sequence[Prompt]]
  ) -> Verdicts:
    self.asked += [(question, each) for group in prompts for each in group]
    first = [[self.probability(each) for each in group] for group in prompts]
    return Verdicts(np.array(first), [[''] * len(group) for group in prompts])


def demanding(name: str, *demands: str | dict) -> Brief:
  """A brief with a demand for each text, and a rule for `{id: kwargs}`."""
  rules = [
    {DEMAND: {'demand': each}} if isinstance(each, str) else each
    for each in demands
  ]
  items = [item for rule in rules for item in rule.items()]
  ids, kwargs = zip(*items, strict=True)
  return Brief(name, f'Write {name}.', ids, kwargs)


def key_of(prompt: str) -> str:
  """The id that an answer to a prompt has to repeat."""
  (key,) = re.findall(r'{"id": "([0-9a-f]{16})", "verdict": "\w+" or', prompt)
  return key


def verdict(prompt: str, label: str, **changes: object) -> str:
  """The answer of a model that does as the prompt says."""
  answer = {'id': key_of(prompt), 'verdict': label, 'reason': 'It is so.'}
  return json.dumps(answer | changes)


def quoted(prompt: str) -> str:
  """The first quotation in a prompt, without its marks."""
  lines = iter(prompt.split('\n'))
  block = []
  for line in lines:
    if line.startswith('> '):
      block.append(line[2:])
    elif block:
      break
  return '\n'.join(block)
