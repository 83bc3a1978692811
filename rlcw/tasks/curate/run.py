"""Task `curate`: makes preference pairs from queries by a debate of agents.

For each query, after arXiv 2508.21476:

  1. retrieve   the nearest texts of a corpus, the most popular of them first
  2. sample     candidates from a writer, whose prompt shows those texts
  3. debate     an advocate names each candidate's merits, a critic its faults
  4. judge      gives 1 (good in every respect) or 0
  5. reflect    audits that verdict, and may overturn it with a reason
  6. pair       the best candidate labelled 1 with the worst labelled 0

`trace.jsonl` has a line for each query with all answers about each candidate;
everything else is computed from it.  Its lines are appended in the order of the
queries, and replies are cached: a killed run resumes after the last whole
line, and repeats no call that was answered.

Without a writer the queries' own replies are the candidates, and where these
have a `label`, the debate's is compared with it.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rlcw import Config
from rlcw.data import datasets
from rlcw.evaluation import verdicts
from rlcw.evaluation.labelled import Labelled
from rlcw.rewards.judge import factory
from rlcw.runtime import (
  claim,
  console,
  files,
  processes,
)
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import llm, secret, usage
from rlcw.sampling import prompts as prompts_lib
from rlcw.sampling.outage import (
  NoAnswers,
  Patience,
  Trouble,
  describe,
  trouble_of,
)
from rlcw.sampling.prompts import visible
from rlcw.sampling.usage import Ledger
from rlcw.tasks.curate.debate import Debate, label
from rlcw.tasks.curate.pairs import (
  KEPT,
  candidates_of,
  choose,
  count,
  pair_of,
  summarise,
)
from rlcw.tasks.curate.queries import KNOWN, Query, has_writer, read_queries

Record = dict[str, Any]


# --- Task -------------------------------------------------------------------


@with_mesh
def run(config: Config, workdir: Path) -> Record:
  """Makes pairs from all queries, resuming a killed run; returns the summary.

  Raises:
    FileNotFoundError: a file or a model does not exist.
    ValueError: a setting or a file is invalid, or a model gives no replies, or
      none that is valid.
  """
  started = time.perf_counter()
  check(config)
  queries = read_queries(config)
  trace, pairs = workdir / 'trace.jsonl', workdir / 'preferences.jsonl'
  done = files.count_whole_lines(trace, 'outcome')
  rows = datasets.read_jsonl(trace) if done else []
  expected = [query.record['prompt'] for query in queries[:done]]
  if [row['prompt'] for row in rows] != expected:
    raise ValueError(
      f'{trace} is of other queries than {config.queries}: to start anew, give '
      'another --workdir'
    )
  curator = make_curator(config, workdir)
  claim.settle()
  # A killed run may have written a line of the trace and not yet its pair: all
  # pairs are written again from the trace.
  pairs.unlink(missing_ok=True)
  pairs.touch()
  counts: Counter[str] = Counter()
  known: list[tuple[Labelled, int | None]] = []

  def keep(row: Record) -> None:
    counts.update(count(row))
    known.extend(
      (Labelled(row['prompt'], c['reply'], bool(c[KNOWN]), ''), c['label'])
      for c in row['candidates']
      if KNOWN in c
    )
    if row['outcome'] == 'pair':
      files.append_jsonl(pairs, pair_of(row))

  for row in rows:
    keep(row)
  models = {name: model.usage for name, model in curator.models.items()}
  ledger = Ledger(workdir, models)

  def note() -> str:
    calls = sum(u['prompts'] - u['cached'] for u in curator.usage().values())
    rate, totals = calls / (time.perf_counter() - started), summarise(counts)
    return (
      f'{rate:.1f} calls/s, {totals["yield"]:.2f} pairs/query, '
      f'{totals["overturn_rate"]:.0%} overturned'
    )

  total, size = len(queries), config.batch_size
  with keeping_answered(trace):
    steps = console.progress('curate', done, total, 'query', size, note)
    for first in processes.stoppable(steps):
      # A batch of queries shares its calls, which an endpoint answers at once.
      for row in curator(queries[first : first + size]):
        # The trace before the pair: the trace alone is read when resuming.
        files.append_jsonl(trace, row)
        keep(row)
      ledger.save()
    if not counts['labelled'] and counts['no verdict']:
      subject = 'curate: no candidate got a verdict'
      raise NoAnswers(describe(subject, 1, curator.trouble()))
  summary = summarise(counts) | {
    'resumed_at': done,
    'answers': curator.debate.counts,  # of this process
    'usage': ledger.totals(),
  }
  if known:
    replies, labels = zip(*known, strict=True)
    summary['agreement'] = {'replies': len(replies)} | verdicts.held_out(
      # None, where the debate gave no label, becomes NaN
      np.array(labels, float),
      list(replies),
    )
  print_table(summary)
  console.log(f'curate: {pairs}')
  usage.log('curate', summary['usage'])
  return summary


def print_table(summary: Record) -> None:
  """Prints the main numbers of a summary."""
  queries, pairs = summary['queries'], summary['pairs']
  candidates, left_out = summary['candidates'], summary['left_out']
  labelled = candidates - summary['unlabelled']
  replies = candidates + sum(left_out.values())
  longer = round(summary['chosen_longer'] * pairs)
  # Label, count, and the number that it is a share of.
  rows = [
    *((f'queries: {k}', n, queries) for k, n in summary['outcomes'].items()),
    ('pairs whose better reply is longer', longer, pairs),
    ('candidates with a label', labelled, candidates),
    ('labels overturned', summary['overturned'], labelled),
    *((f'replies left out: {k}', n, replies) for k, n in left_out.items()),
  ]
  console.table(
    f'curate: {queries} queries',
    ('', 'count', 'share'),
    [
      (label, f'{n:,}', f'{n / total:.1%}' if total else console.MISSING)
      for label, n, total in rows
    ],
  )
  if 'agreement' in summary:
    found = summary['agreement']
    console.table(
      f'curate: {found["replies"]} replies that came with a label',
      ('', 'debate'),
      [
        (label, verdicts.cell(found, *score))
        for label, *score in verdicts.SCORES
      ],
    )


@contextlib.contextmanager
def keeping_answered(trace: Path) -> Iterator[None]:
  """Drops the last lines of a trace without a verdict if `NoAnswers` is raised.

  A later run asks about them again.
  """
  try:
    yield
  except NoAnswers:
    files.drop_last(trace, lambda row: row['outcome'] == 'no verdict')
    raise


def check(config: Config) -> None:
  """Raises ValueError for more `examples` than `neighbours`, or no agent."""
  if config.examples > config.neighbours:
    raise ValueError(
      f'examples={config.examples}; expected at most neighbours='
      f'{config.neighbours}'
    )
  llm.check_named(config.agent, 'agent')


def make_curator(config: Config, workdir: Path) -> 'Curator':
  """Makes the curator, loading the models that a config names."""
  mesh = make_mesh(**config.mesh)
  nodes = [ConfigDict(config[name].to_dict()) for name in ('writer', 'agent')]
  for node in nodes:
    # By default both models share a cache in the workdir, so that a resumed run
    # repeats no call.
    node.cache = node.cache or str(workdir / 'replies.sqlite')
  writer = llm.make_ask(nodes[0], mesh) if has_writer(config) else None
  # If both are the same local model, its weights are loaded once.
  base = writer.model if isinstance(writer, llm.LocalModel) else None
  agent = llm.make_ask(nodes[1], mesh, base)
  cache = str(nodes[1].cache)
  return Curator(writer, agent, config, secret.load(cache, workdir))


# --- Agents -----------------------------------------------------------------


class Curator:
  """Samples candidates for queries, and labels them by debate.

  Args:
    writer: samples candidates; None if the queries have replies of their own.
    agent: plays all roles of the debate.
    config: of the task.
    id_secret: of the questions to the agent (`secret.load`).
  """

  def __init__(
    self,
    writer: llm.Model | None,
    agent: llm.Model,
    config: Config,
    id_secret: bytes = secret.PROCESS,
  ):
    self.writer, self.agent, self.config = writer, agent, config
    self.models = {'writer': writer} if writer else {}
    self.models['agent'] = agent
    # Of the writer's replies and of the agent's, which are both quoted; own
    # replies are shown whole.
    budgets = [
      config.writer.max_new_tokens if writer else None,
      config.agent.max_new_tokens,
    ]
    limit = factory.reply_limit(
      config.max_reply_characters, None if None in budgets else max(budgets)
    )
    self.debate = Debate(agent.asking, config.language, limit, id_secret)
    self.patience = Patience('curate: no candidate of a batch got a verdict')

  def usage(self) -> dict[str, dict[str, float]]:
    """Counts of each model's prompts and replies so far."""
    return {name: model.usage() for name, model in self.models.items()}

  def trouble(self) -> Trouble:
    """The last reasons for missing replies and answers."""
    cut = self.usage().get('writer', {}).get('cut')
    limit = self.config.writer.max_new_tokens
    text = (
      f'{cut} replies of the writer were cut, at writer.max_new_tokens={limit}'
    )
    models = trouble_of(*self.models.values())
    return models | self.debate.counts.trouble() | Trouble(text if cut else '')

  def __call__(self, queries: Sequence[Query]) -> list[Record]:
    """Returns the lines of the trace for some queries.

    Raises:
      ValueError: a model has given no reply to any of its prompts, or no
        candidate has got a label for some batches.
    """
    before, written = self.usage(), self.write(queries)
    cases = [
      [query.case(reply) for reply in replies]
      for query, (replies, _) in zip(queries, written, strict=True)
    ]
    flat = [case for group in cases for case in group]
    self.debate(flat)
    # A single failure leaves a candidate unlabelled.  If all fail, such as with
    # a server that is down, stop before the trace fills with empty lines.
    for name, now in self.usage().items():
      asked, failed = (now[k] - before[name][k] for k in ('prompts', 'failed'))
      refused = trouble_of(self.models[name]).refused  # for their content
      if asked == failed > 0 and not refused:
        raise NoAnswers(
          describe(
            f'{name}: no reply to any of {asked:.0f} prompts', 1, self.trouble()
          )
        )
    # Own replies that are no candidates were never asked about.
    asked = flat or self.writer
    if asked and not all(query.skipped for query in queries):
      labels = [label(case.record) for case in flat]
      self.patience.see(any(x is not None for x in labels), self.trouble)
    return [
      self.conclude(query, [case.record for case in group], left_out)
      for query, group, (_, left_out) in zip(
        queries, cases, written, strict=True
      )
    ]

  def write(
    self, queries: Sequence[Query]
  ) -> list[tuple[list[str], dict[str, int]]]:
    """Samples candidates for each query, or takes those that it has.

    A skipped query gets none.

    Returns:
      For each query the candidates, and the number of replies that were left
      out, by reason (`LEFT_OUT`).
    """
    if self.writer is None:
      return [candidates_of(query.replies or []) for query in queries]
    count = self.config.candidates
    prompts = [self.brief(query) for query in queries if not query.skipped]
    # One batch for all queries; `islice` below hands each query its replies.
    replies = iter(self.writer.ask([p for p in prompts for _ in range(count)]))
    return [
      candidates_of(
        [] if query.skipped else [*itertools.islice(replies, count)]
      )
      for query in queries
    ]

  def brief(self, query: Query) -> str:
    """The writer's prompt: the query, with the examples if there are any."""
    prompt = query.record['prompt']
    if query.examples is None:
      return prompt
    pieces = '\n\n---\n\n'.join(map(visible, query.examples))
    slots = {'brief': prompt, 'examples': pieces}
    template = prompts_lib.template(f'curate_write_{self.config.language}')
    return prompts_lib.fill(template, slots)

  def conclude(
    self,
    query: Query,
    candidates: Sequence[Record],
    left_out: dict[str, int],
  ) -> Record:
    """Labels the candidates, and returns the query's line of the trace."""
    for candidate in candidates:
      candidate['label'] = label(candidate)
    outcome, pair = choose(candidates, self.config.length_ratio)
    copied = {k: query.record[k] for k in KEPT if k in query.record}
    return {
      'prompt': query.record['prompt'],
      'language': self.config.language,
      **copied,
      'examples': query.examples,
      'candidates': candidates,
      'left_out': left_out,
      'outcome': 'no examples' if query.skipped else outcome,
      **pair,
    }
