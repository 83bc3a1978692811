"""Task `score`: replies in, writing scores out."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config, metrics, sharding
from rlcw.annotate import Record, annotate
from rlcw.rewards import writing


@sharding.ambient
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Scores every reply; returns the summary."""
  started = time.perf_counter()
  reward = writing.load_alone(config.run, sharding.make_mesh(**config.mesh))
  output = Path(config.output or workdir / 'scores.jsonl')

  def answer(records: Sequence[Record]) -> list[Record]:
    scores_Nx1 = writing.score_texts(
      reward,
      [record['prompt'] for record in records],
      [[record['response']] for record in records],
      np.ones((len(records), 1), bool),
    )
    return [{'score': score} for score in scores_Nx1[:, 0]]

  rows, done = annotate(
    'score', config.input, output, 'score', config.replies_per_pass, answer
  )
  scores = [float(row['score']) for row in rows]
  summary = {
    'replies': len(rows),
    'resumed_at': done,
    'score_mean': np.mean(scores),
    'score_std': np.std(scores),
    'wall_seconds': time.perf_counter() - started,
  }
  metrics.write_json(workdir / 'summary.json', summary)
  metrics.say(
    f'score: {len(rows)} replies, mean {summary["score_mean"]:.3f}, std '
    f'{summary["score_std"]:.3f}; {output}'
  )
  return summary
