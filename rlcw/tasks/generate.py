"""Task `generate`: briefs in, replies out.

Replies stream to disk in the order of the briefs, so that a run that was
killed goes on after the last whole line; each depends on the seed, its brief's
line and its number alone, whatever the batches.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlcw import Config
from rlcw.data import batches, datasets
from rlcw.models import language_model, tokenizer
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import constraints
from rlcw.runtime import files, metrics
from rlcw.runtime.mesh import make_mesh, over_groups, round_up_groups, with_mesh
from rlcw.sampling.rollout import Rollout, make_sampler, sample


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Answers every brief; returns the summary."""
  method = make_sampler(config.temperature, config.top_k, config.top_p)
  numbered = datasets.read_numbered(config.input)
  records = [record for _, record in numbered]
  texts = [prompt_of(record, config, line) for line, record in numbered]
  model = language_model.load(config.model, make_mesh(**config.mesh))
  output = Path(config.output or workdir / 'replies.jsonl')
  output.parent.mkdir(parents=True, exist_ok=True)
  done = files.count_whole_lines(output, 'responses')
  if done > len(texts):
    raise ValueError(
      f'{output} has {done} lines already, but {config.input} only {len(texts)}'
    )
  told = {'prompts': len(texts), 'replies': 0, 'tokens': 0, 'finished': 0}
  sampling_seconds = 0.0
  size = config.batch_size
  for first in metrics.progress('generate', done, len(texts), 'brief', size):
    rows = np.arange(first, min(first + size, len(texts)))
    before = time.perf_counter()
    rollout = answer(model, texts, rows, method, config)
    sampling_seconds += time.perf_counter() - before
    token, length, finished = jax.device_get(
      (rollout.token, rollout.length, rollout.finished)
    )
    for p, row in enumerate(rows):
      replies = [
        tokenizer.decode(model.tokenizer, token[p, g, : length[p, g]])
        for g in range(config.samples)
      ]
      files.append_jsonl(
        output,
        {
          **records[row],
          **({'response': replies[0]} if config.samples == 1 else {}),
          'responses': replies,
          'finished': finished[p],
        },
      )
    told['replies'] += len(rows) * config.samples
    told['tokens'] += int(length[: len(rows)].sum())
    told['finished'] += int(finished[: len(rows)].sum())
  summary: dict[str, Any] = told | {
    'resumed_at': done,
    'finished': told['finished'] / max(told['replies'], 1),
    'tokens_per_second': told['tokens'] / max(sampling_seconds, 1e-9),
  }
  metrics.log(
    f'generate: {told["replies"]} replies, {told["tokens"]} tokens, '
    f'{summary["tokens_per_second"]:.0f} tokens/s; {output}'
  )
  return summary


def prompt_of(record: dict[str, Any], config: Config, line: int) -> str:
  """What the model is asked, with its rules where they are to be written.

  Raises:
    ValueError: names the file and the line that has no prompt.
  """
  prompt = record.get('prompt')
  if not isinstance(prompt, str) or not prompt.strip():
    raise ValueError(
      f'{config.input}:{line}: prompt={prompt!r:.80}; a text is expected'
    )
  if not config.write_rules:
    return prompt
  return constraints.write_brief(
    prompt,
    record.get('instruction_id_list', []),
    record.get('kwargs', []),
    record.get('language', 'en'),
    record.get('paraphrase', 0),
  )


def answer(
  model: LanguageModel,
  texts: list[str],
  rows: np.ndarray,
  method: Any,
  config: Config,
) -> Rollout:
  """Replies `[P, G, T]` of P rows or more, the first of which are `rows`.

  P is `batch_size`, or as many more as split over the devices.
  """
  padded_P = np.resize(rows, round_up_groups(config.batch_size, model.mesh))
  ids = [tokenizer.chat(model.tokenizer, texts[row]) for row in padded_P]
  prompt_PxL, length_P = batches.pad(
    ids, batches.power_of_two(max(map(len, ids)))
  )
  arrays = jax.device_put(
    (prompt_PxL, length_P, padded_P), over_groups(model.mesh)
  )
  rollout = sample(
    model.params,
    *arrays,
    method,
    config.seed,
    0,
    config=model.config,
    group_size=config.samples,
    max_new_tokens=config.max_new_tokens,
    eos=tokenizer.eos_ids(model.tokenizer),
  )
  return jax.block_until_ready(rollout)
