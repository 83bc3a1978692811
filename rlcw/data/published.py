"""Fields of published data sets, renamed to those that layouts read."""

import math
from collections.abc import Callable
from typing import Any

from rlcw.data.messages import ASSISTANT, USER

Record = dict[str, Any]

# Other names of fields, where a record has none of the name that is read.
_NAMES = {
  'answer': 'response',
  'story': 'response',
  'chosen_response': 'chosen',
  'rejected_response': 'rejected',
  'chosen_story': 'chosen',  # LitBench
  'rejected_story': 'rejected',
  'preferred_output': 'chosen',  # OpenAI
  'non_preferred_output': 'rejected',
}
# Two replies, the field that tells which is better, and its values for the
# first and the second.  Without those it is a number, below 0 for the first.
COMPARED = (
  ('response_1', 'response_2', 'preference_strength', ()),  # HelpSteer 2
  ('response1', 'response2', 'overall_preference', ()),  # HelpSteer 3
  ('response_0', 'response_1', 'better_response_id', (0, 1)),  # PKU-SafeRLHF
  ('human_ref_A', 'human_ref_B', 'labels', (1, 0)),  # SHP
  ('conversation_a', 'conversation_b', 'winner', ('model_a', 'model_b')),
)
_OF_ULTRACHAT = {'id', 'data', 'language', 'split'}


class Unusable(ValueError):
  """Raised for a pair of which published data sets, such as HH, have some.

  Its replies answer different prompts or neither is preferred, its scores
  contradict it, or HH's conversation ends before a reply.
  """


def renamed(record: Record) -> Record:
  """Returns a record with the fields that layouts read.

  Raises:
    Unusable: of two replies neither is preferred.
    ValueError: the field that compares two replies has another value.
  """
  record = dict(record)
  if isinstance(record.get('input'), dict):  # OpenAI's messages and tools
    record = record.pop('input') | record
  for theirs, ours in _NAMES.items():
    # An answer that is a number is no reply.
    if ours not in record and isinstance(record.get(theirs), str | list):
      record[ours] = record.pop(theirs)
  pair = 'messages', 'rejected_messages'  # ms-swift
  if {*pair} <= record.keys():
    record |= zip(('chosen', 'rejected'), map(record.pop, pair), strict=True)
  for *names, values in COMPARED:
    if {*names} <= record.keys() and 'chosen' not in record:
      first, second, verdict = map(record.pop, names)
      preference = _preference(verdict, names[-1], values)
      better, worse = (first, second) if preference < 0 else (second, first)
      record |= {'chosen': better, 'rejected': worse}
      # SHP's request; alpaca's history is a list.
      if 'prompt' not in record and isinstance(record.get('history'), str):
        record['prompt'] = record.pop('history')
  if 'completions' not in record and _all(record.get('answers'), _is_ranked):
    record['completions'] = [  # Nectar
      {'response': each['answer'], 'overall_score': -each['rank']}
      for each in record.pop('answers')
    ]
  # UltraChat; beside other fields, data may be anything.
  if record.keys() <= _OF_ULTRACHAT and _all(record.get('data'), _is_text):
    record['messages'] = [
      {'role': (USER, ASSISTANT)[number % 2], 'content': text}
      for number, text in enumerate(record.pop('data'))
    ]
  return record


def _preference(verdict: Any, name: str, values: tuple[Any, ...]) -> float:
  """Returns a number below 0 if the first reply is better, else above 0."""
  if verdict in values:
    return values.index(verdict) - 0.5
  number = isinstance(verdict, int | float) and math.isfinite(verdict)
  if number and not values and verdict:
    return verdict
  if (number and not values) or str(verdict).startswith(('tie', 'both')):
    raise Unusable(f'{name}={verdict!r:.40}: neither reply is preferred')
  expected = f'{values[0]!r} or {values[1]!r}' if values else 'a number'
  raise ValueError(f'{name}={verdict!r:.40}; expected {expected}')


def _is_ranked(answer: Any) -> bool:
  """Returns whether a value is a reply with its rank, 1 for the best."""
  return (
    isinstance(answer, dict)
    and 'answer' in answer
    and isinstance(answer.get('rank'), int | float)
  )


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _all(value: Any, is_one: Callable[[Any], bool]) -> bool:
  """Returns whether a value is a list of such values, and not empty."""
  return isinstance(value, list) and bool(value) and all(map(is_one, value))
