"""What does a judge save by reading what its prompts share only once?

  python scripts/bench_judge.py MODEL [GROUPS [REPLIES]]

Judges shipped replies in three ways, in turns: each prompt whole; principles
and brief once per group; the principles once for all calls, the brief once per
group.  Prints the median time of a call, its ratio to the last way's, and how
far the verdicts differ.
"""

import statistics
import sys
import time

import jax
import numpy as np

from rlcw.data import datasets
from rlcw.models import language_model
from rlcw.rewards.judge import local, questions
from rlcw.rewards.judge.questions import Prompt, Question
from rlcw.runtime.mesh import make_mesh

ROUNDS = 5


WAYS = 'nothing', 'brief', 'all'


def arrange(prompts: list[list[Prompt]], way: str) -> list[list[Prompt]]:
  """The same prompts, sharing nothing, the brief, or all that they can."""
  if way == 'all':
    return prompts
  groups = [
    [Prompt('', each.shared + each.group, each.row) for each in group]
    for group in prompts
  ]
  return groups if way == 'brief' else [[p] for group in groups for p in group]


def main(model: str, groups: str = '8', replies: str = '8') -> None:
  """Measures and prints."""
  P, G = int(groups), int(replies)
  question = Question(
    'judge', 'en', 4000, questions.read('@principles_greetings_en')
  )
  pairs = datasets.load_preferences('@preferences.jsonl', language='en')
  texts = [reply for pair in pairs for reply in pair.replies]
  prompts = [
    [question.about(pairs[p].prompt, texts[p * G + g]) for g in range(G)]
    for p in range(P)
  ]
  judge = language_model.load(model, make_mesh())
  seconds: dict[str, list[float]] = {way: [] for way in WAYS}
  verdicts = {}
  with jax.set_mesh(judge.mesh):
    panels = {
      way: local.LogprobJudge(judge, P * G if way == 'nothing' else P)
      for way in WAYS
    }
    for turn in range(1 + ROUNDS):
      for way in WAYS:
        started = time.perf_counter()
        found = panels[way](question, arrange(prompts, way))
        if turn:  # the first call compiles
          seconds[way].append(time.perf_counter() - started)
        verdicts[way] = found.first.reshape(P, G)
  best = statistics.median(seconds['all'])
  for way in WAYS:
    median = statistics.median(seconds[way])
    difference = np.abs(verdicts[way] - verdicts['all']).max()
    print(
      f'{way + " shared":<15} {median:6.2f} s, {median / best:5.2f} times; '
      f'verdicts differ by {difference:.1e}'
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
