"""Task `score`: replies in, writing scores out.

Scores stream to disk in the order of the replies, so that a run that was killed
goes on after the last whole line.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config, data, metrics, sharding
from rlcw.rewards import writing


@sharding.ambient
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Scores every reply; returns the summary."""
  started = time.perf_counter()
  records = data.read_numbered(config.input)
  if not records:
    raise ValueError(f'{config.input} has no lines')
  for line, record in records:
    for field in ('prompt', 'response'):
      if not isinstance(record.get(field), str):
        raise ValueError(
          f'{config.input}:{line}: {field}={record.get(field)!r:.80}; a text '
          'is expected'
        )
  mesh = sharding.make_mesh(**config.mesh)
  reward = writing.load_alone(config.run, mesh)
  output = Path(config.output or workdir / 'scores.jsonl')
  output.parent.mkdir(parents=True, exist_ok=True)
  done, total = metrics.whole_lines(output, 'score'), len(records)
  if done > total:
    raise ValueError(
      f'{output} has {done} lines already, but {config.input} only {total}'
    )
  size = config.replies_per_pass
  for first in metrics.progress('score', done, total, 'reply', size):
    batch = [
      records[row % total][1] for row in range(first, first + size)
    ]  # the last one is filled up, so that shapes repeat
    scores = writing.score_texts(
      reward,
      [record['prompt'] for record in batch],
      [[record['response']] for record in batch],
      np.ones((size, 1), bool),
    )
    for record, score in zip(
      batch[: total - first], scores[:, 0], strict=False
    ):
      metrics.append_jsonl(output, {**record, 'score': score})
  scores = [float(row['score']) for row in data.read_jsonl(output)]
  summary = {
    'replies': total,
    'resumed_at': done,
    'score_mean': np.mean(scores),
    'score_std': np.std(scores),
    'wall_seconds': time.perf_counter() - started,
  }
  metrics.write_json(workdir / 'summary.json', summary)
  metrics.say(
    f'score: {total} replies, mean {summary["score_mean"]:.3f}, std '
    f'{summary["score_std"]:.3f}; {output}'
  )
  return summary
