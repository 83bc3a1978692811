"""Two turns: a reply to the request alone, and then one that keeps the rules.

  turn 1   the request of a brief, without the rules that it is given in words
  turn 2   the rules, and the request to rewrite the reply so that it keeps them

The reply to turn 2 is scored, as a reply to the whole brief.  (Source: language
models in several turns, arXiv 2405.14655.)

Letters: N briefs, S tokens of a second turn.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.data import batches, messages
from rlcw.data.messages import USER, Message, Prompt
from rlcw.models.chat import ChatFormat
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief

# With rules to state; with rules that the prompt states; and without rules.
_REQUESTS = {
  'en': (
    'Now rewrite your reply so that it keeps all of these rules.',
    'Now rewrite your reply so that it keeps every rule of my request.',
    'Now rewrite your reply so that it is better written.',
  ),
  'zh': (
    '现在请改写你的回复，使它遵守以下所有要求。',
    '现在请改写你的回复，使它遵守我提出的每一条要求。',
    '现在请改写你的回复，使它写得更好。',
  ),
}


def revises(config: Config) -> bool:
  """True if the policy of a run replies in two turns."""
  # Configs of earlier versions do not have the setting.
  return config.get('two_turns', False)


def check(config: Config) -> None:
  """Checks that the settings of a run fit two turns, if it has them.

  Raises:
    ValueError: groups would be given other rules, or replies, in one turn.
  """
  if not revises(config):
    return
  if config.mixing.all_violating == 'relabel':
    raise ValueError(
      "mixing.all_violating='relabel' does not fit two_turns=True: replies "
      'would have to be to another second turn; expected skip, rank or '
      'suppress, or two_turns=False'
    )
  if weight := config.get('demonstration_weight', 0.0):
    raise ValueError(
      f'demonstration_weight={weight:g} does not fit two_turns=True: a '
      'demonstration has one turn; expected 0, or two_turns=False'
    )


def first_turn(brief: Brief) -> Prompt:
  """The messages before the first reply, without rules but for stated ones."""
  return messages.simplest([*brief.earlier, Message(USER, brief.prompt)])


def second_turn(brief: Brief) -> str:
  """The user's message after the first reply, with the rules in words.

  In English where the brief is neither in that nor in Chinese.
  """
  given, stated, free = _REQUESTS.get(brief.language, _REQUESTS['en'])
  if brief.stated:
    return stated
  if not brief.instruction_id_list:
    return free
  return constraints.write_brief(
    given,
    brief.instruction_id_list,
    brief.kwargs,
    brief.language,
    brief.paraphrase,
  )


def record(brief: Brief, config: Config) -> dict[str, Any]:
  """The field `turns` of a group's record: its two requests, if it has them."""
  if not revises(config):
    return {}
  first = messages.transcript(first_turn(brief))
  return {'turns': [first, second_turn(brief)]}


class SecondTurns(NamedTuple):
  """The second turns of N briefs in tokens, as the rollout adds them."""

  token_NxS: np.ndarray
  count_N: np.ndarray

  def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids `[P, S]` and counts `[P]` of some of the briefs."""
    return self.token_NxS[rows], self.count_N[rows]


def encode(
  briefs: Sequence[Brief],
  chat: ChatFormat,
  config: Config,
  notes: Iterable[str] = (),
) -> SecondTurns | None:
  """Encodes the second turns of a run's briefs; None if it has one turn.

  Args:
    briefs: N of them.
    chat: of the policy.
    config: of the run.
    notes: N texts that the messages end with, '' for none.

  Raises:
    ValueError: `max_new_tokens` leaves no room for two replies.
  """
  if not revises(config):
    return None
  texts = [second_turn(brief) for brief in briefs]
  for n, note in enumerate(notes):
    texts[n] += f'\n\n{note}' if note else ''
  rows = [
    chat.encode_next_turn(messages.messages(first_turn(brief)), text)
    for brief, text in zip(briefs, texts, strict=True)
  ]
  longest, budget = max(map(len, rows)), config.max_new_tokens
  # Each reply has at least the token that ends it.
  if longest + 2 > budget:
    brief = briefs[[*map(len, rows)].index(longest)]
    raise ValueError(
      f'max_new_tokens={budget} is of both replies and the second turn between '
      f'them, but that of brief {brief.id} has {longest} tokens; expected '
      'several times as many, or two_turns=False'
    )
  return SecondTurns(*batches.pad(rows, batches.power_of_two(longest)))
