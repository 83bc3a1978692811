"""Task `score`: writing scores of a file of replies, by a reward model."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import layouts
from rlcw.data.annotate import Record, annotate, read_replies
from rlcw.models import language_model
from rlcw.models.thoughts import reply_of
from rlcw.rewards import reward_model, text_scores
from rlcw.runtime import claim, console, processes
from rlcw.runtime.mesh import make_mesh, round_up_groups, with_mesh


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Scores every reply; a run that was killed resumes where it stopped.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    FileNotFoundError, ValueError: see `read_replies`, `load_alone` and
      `annotate`.
  """
  records = read_replies(config.input)
  mesh = make_mesh(**config.mesh)
  placed = language_model.placement(config, config.run)
  reward = reward_model.load_alone(config.run, mesh, placed)
  output = claim.output(config, workdir, 'scores.jsonl')
  _, parts = processes.DataShards(mesh).index_and_count
  size = round_up_groups(config.batch_size, mesh) // parts
  nothing: Record = {'prompt': 'x', 'response': 'x'}

  def answer(records: Sequence[Record]) -> list[Record]:
    # the last batch is filled with repeated replies to keep its size, so that
    # it needs no new compilation
    filled = [*itertools.islice(itertools.cycle(records or [nothing]), size)]
    scores_Nx1 = text_scores.score(
      reward,
      [layouts.prompt_of(record) for record in filled],
      [[reply_of(record['response'])] for record in filled],
      np.ones((size, 1), bool),
    )
    # drop the scores of the repeated replies
    return [{'score': score} for score in scores_Nx1[: len(records), 0]]

  def check(record: Record) -> None:
    reply = reply_of(record['response'])
    text_scores.check_reply(reward, layouts.prompt_of(record), reply)

  # all rows, those of an earlier, killed run included
  rows, done = annotate(
    'score',
    config.input,
    records,
    output,
    'score',
    config.batch_size,
    answer,
    mesh,
    check,
    # in characters: an estimate of its tokens
    lambda record: len(str(record['prompt'])) + len(record['response']),
  )
  if not processes.is_primary_process():
    return {}
  # null for a blank reply without a score (`text_scores.floor_blank_replies`)
  score_N = np.array([row['score'] for row in rows], float)
  known_N = score_N[np.isfinite(score_N)]
  numbers = dict.fromkeys(('mean', 'std', 'lowest', 'median', 'highest'))
  if known_N.size:
    values = (
      known_N.mean(),
      known_N.std(),
      *np.percentile(known_N, (0, 50, 100)),
    )
    numbers = dict(zip(numbers, values, strict=True))
  summary = {
    'replies': len(rows),
    'unscored': len(rows) - len(known_N),
    'resumed_at': done,
    'score_mean': numbers['mean'],
    'score_std': numbers['std'],
  }
  console.table(
    f'score: {len(rows)} replies',
    ('', 'score'),
    [(name, console.number(value, '.3f')) for name, value in numbers.items()],
  )
  console.log(f'score: {output}')
  return summary
