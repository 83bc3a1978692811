"""Measures the time that prefix sharing saves a judge.

  python scripts/bench_judge.py MODEL [GROUPS [REPLIES]]

Judges shipped replies with three levels of sharing, taking turns: every prompt
in full; principles and brief prefilled once per group; principles prefilled
once for all calls and the brief once per group.  Prints the median time of a
call, its ratio to that of the last level, and the largest difference of P(Good)
from the last level.
"""

import statistics
import sys
import time

import jax
import numpy as np

from rlcw.data.preferences import load_preferences
from rlcw.models import language_model
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Prompt, Question
from rlcw.runtime.mesh import make_mesh

ROUNDS = 5
LEVELS = 'nothing', 'brief', 'all'  # parts of a prompt that are shared


class Apart(LogprobJudge):
  """A judge whose prompts have the principles in their group."""

  def shared(self, question: Question) -> str:
    return ''


def arrange(prompts: list[list[Prompt]], level: str) -> list[list[Prompt]]:
  """Returns the same prompts, split so that only one of `LEVELS` is shared."""
  if level == 'all':
    return prompts
  # A brief is prefilled once per group, so principles that move into `group`
  # are shared within the group only; a group of one prompt shares nothing.
  groups = [
    [Prompt('', each.shared + each.group, each.row) for each in group]
    for group in prompts
  ]
  if level == 'brief':
    return groups
  return [[p] for group in groups for p in group]


def main(model: str, groups: str = '8', replies: str = '8') -> None:
  """Measures every level and prints a row for each."""
  P, G = int(groups), int(replies)
  question = Question(
    'judge', 'en', 4000, questions.read('@principles_greetings_en')
  )
  pairs = load_preferences('@preferences.jsonl', language='en')
  texts = [reply for pair in pairs for reply in pair.replies]
  prompts = [
    [question.about(pairs[p].prompt, texts[p * G + g]) for g in range(G)]
    for p in range(P)
  ]
  loaded = language_model.load(model, make_mesh())
  seconds: dict[str, list[float]] = {level: [] for level in LEVELS}
  good = {}
  with jax.set_mesh(loaded.mesh):
    # At every level a call is a single batch of P · G replies.
    judges = {
      'nothing': Apart(loaded, P * G),
      'brief': Apart(loaded, P),
      'all': LogprobJudge(loaded, P),
    }
    for n in range(1 + ROUNDS):
      # The levels take turns, so that a slow moment of the machine hits all.
      for level in LEVELS:
        started = time.perf_counter()
        verdicts = judges[level](question, arrange(prompts, level))
        if n:  # the first call compiles
          seconds[level].append(time.perf_counter() - started)
        good[level] = verdicts.first.reshape(P, G)
  best = statistics.median(seconds['all'])
  for level in LEVELS:
    median = statistics.median(seconds[level])
    difference = np.abs(good[level] - good['all']).max()
    print(
      f'{level + " shared":<15} {median:6.2f} s, {median / best:5.2f} times; '
      f'verdicts differ by {difference:.1e}'
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
