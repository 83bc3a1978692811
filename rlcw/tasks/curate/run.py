"""Task `curate`: queries in, preference pairs out, by agents who debate.

For each query, after arXiv 2508.21476:

  1. retrieve   the nearest pieces of a corpus, the most popular of them first
  2. sample     candidates from a writer, who sees those pieces
  3. debate     an advocate names each candidate's merits, a critic its faults
  4. judge      says 1, good in every respect, or 0
  5. reflect    audits that verdict, and may overturn it if it says why
  6. pair       the best 1 against the worst 0

`trace.jsonl` has a line for each query with all that was said of each of its
candidates; everything else is made from it.  Lines stream to disk in the order
of the queries, and replies to a cache: a run that was killed goes on after the
last whole line, and asks for no reply that it had.
"""

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from rlcw import Config
from rlcw.data import datasets
from rlcw.rewards.judge import questions
from rlcw.runtime import files, metrics
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import llm
from rlcw.sampling import prompts as prompts_lib
from rlcw.sampling.prompts import visible
from rlcw.tasks.curate import retrieval
from rlcw.tasks.curate.debate import Case, Debate, label, overturned

Record = dict[str, Any]
OUTCOMES = (
  'pair',
  'all good',
  'all bad',
  'unmatched',  # in length
  'no verdict',
  'no examples',
)
KEPT = 'id', 'language', 'genre', 'theme', 'split'  # of a query, in its pair


class Query(NamedTuple):
  """What is to be written, and pieces that show how."""

  record: Record
  examples: list[str] | None  # None where there is no corpus

  @property
  def skipped(self) -> bool:
    """Whether the corpus has nothing like it."""
    return self.examples == []


# --- Task -------------------------------------------------------------------


@with_mesh
def run(config: Config, workdir: Path) -> Record:
  """Makes pairs of all queries; returns the summary.

  Raises:
    FileNotFoundError: there is no such file, or no such model.
    ValueError: a setting or a file is wrong, or a model gives no replies.
  """
  started = time.perf_counter()
  check(config)
  queries = read_queries(config)
  trace, pairs = workdir / 'trace.jsonl', workdir / 'preferences.jsonl'
  done = files.count_whole_lines(trace, 'outcome')
  rows = datasets.read_jsonl(trace) if done else []
  expected = [query.record['prompt'] for query in queries[:done]]
  if [row['prompt'] for row in rows] != expected:
    raise ValueError(f'{trace} is of other queries than {config.queries}')
  pairs.unlink(missing_ok=True)  # it may lack the last one; all come again
  pairs.touch()
  counts: Counter[str] = Counter()

  def keep(row: Record) -> None:
    counts.update(count(row))
    if row['outcome'] == 'pair':
      files.append_jsonl(pairs, pair_of(row))

  for row in rows:
    keep(row)
  curator = make_curator(config, workdir)

  def note() -> str:
    calls = sum(u['prompts'] - u['cached'] for u in curator.usage().values())
    rate, told = calls / (time.perf_counter() - started), summarise(counts)
    return (
      f'{rate:.1f} calls/s, {told["yield"]:.2f} pairs/query, '
      f'{told["overturn_rate"]:.0%} overturned'
    )

  total, size = len(queries), config.batch_size
  for first in metrics.progress('curate', done, total, 'query', size, note):
    for row in curator(queries[first : first + size]):
      files.append_jsonl(trace, row)
      keep(row)
  summary = summarise(counts) | {
    'resumed_at': done,
    'answers': curator.debate.counts,  # of this process, as is the usage
    'usage': curator.usage(),
  }
  outcomes = ', '.join(f'{n} {name}' for name, n in summary['outcomes'].items())
  metrics.log(f'curate: {total} queries: {outcomes}; {pairs}')
  return summary


def check(config: Config) -> None:
  """Raises ValueError, naming what is legal, if a setting makes no sense."""
  legal = {
    'language': (questions.LANGUAGES, config.language in questions.LANGUAGES),
    'candidates': ('from 2 on', config.candidates >= 2),
    'examples': (
      'from 1 to neighbours',
      1 <= config.examples <= config.neighbours,
    ),
    'length_ratio': (
      'from 1 on, or 0 for any',
      config.length_ratio == 0 or config.length_ratio >= 1,
    ),
    'batch_size': ('from 1 on', config.batch_size >= 1),
  }
  for name, (words, holds) in legal.items():
    if not holds:
      raise ValueError(f'{name}={config[name]!r}; legal: {words}')


def make_curator(config: Config, workdir: Path) -> 'Curator':
  """The curator with the models that a config names."""
  mesh = make_mesh(**config.mesh)
  nodes = [ConfigDict(config[name].to_dict()) for name in ('writer', 'agent')]
  for node in nodes:
    node.cache = node.cache or str(workdir / 'replies.sqlite')
  writer = llm.make_ask(nodes[0], mesh)
  base = writer.model if isinstance(writer, llm.LocalModel) else None
  return Curator(writer, llm.make_ask(nodes[1], mesh, base), config)


# --- Retrieval --------------------------------------------------------------


def read_queries(config: Config) -> list[Query]:
  """The queries in the config's language, each once, with their examples.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is not as it should be, or there are no queries.
  """
  found = _read(config.queries, config.language, ('prompt',))
  records = list({record['prompt']: record for record in found}.values())
  if not records:
    raise ValueError(f'{config.queries} has no queries in {config.language!r}')
  if not config.corpus:
    return [Query(record, None) for record in records]
  fields = 'response', 'chosen'
  pieces = _read(config.corpus, config.language, fields)
  if not pieces:
    raise ValueError(f'{config.corpus} has nothing in {config.language!r}')
  texts = [next(p[name] for name in fields if name in p) for p in pieces]
  keys = [
    f'{piece.get("prompt", "")} {text}'
    for piece, text in zip(pieces, texts, strict=True)
  ]
  prompts = [record['prompt'] for record in records]
  near = retrieval.nearest(prompts, keys, config.neighbours, config.embedder)
  popularity = [_popularity(piece, config) for piece in pieces]
  queries = []
  for record, places in zip(records, near, strict=True):
    places.sort(key=lambda n: -popularity[n])
    best = places[: config.examples]
    queries.append(Query(record, [texts[n] for n in best]))
  return queries


def _read(path: str, language: str, legal: Sequence[str]) -> list[Record]:
  """Records of a language, each with a text in one of the legal fields."""
  records = []
  for line, record in datasets.read_numbered(path):
    text = next((record[name] for name in legal if name in record), None)
    if not isinstance(text, str) or not text.strip():
      raise ValueError(
        f'{path}:{line}: {text!r:.80} where a text in {" or ".join(legal)} is '
        'expected'
      )
    if record.get('language', language) == language:
      records.append(record)
  return records


def _popularity(record: Record, config: Config) -> float:
  value = record.get(config.popularity, 0)
  if not isinstance(value, (int, float)):
    raise ValueError(
      f'{config.corpus}: {config.popularity}={value!r:.80}; a number is '
      'expected'
    )
  return value


# --- Agents -----------------------------------------------------------------


class Curator:
  """Puts candidates through the debate.

  Args:
    writer: samples candidates.
    agent: argues, judges and reflects.
    config: of the task.
  """

  def __init__(self, writer: llm.Model, agent: llm.Model, config: Config):
    self.writer, self.agent, self.config = writer, agent, config
    self.debate = Debate(
      agent.asking, config.language, config.max_reply_characters
    )

  def usage(self) -> dict[str, dict[str, float]]:
    """What each model has done so far."""
    return {'writer': self.writer.usage(), 'agent': self.agent.usage()}

  def __call__(self, queries: Sequence[Query]) -> list[Record]:
    """The trace of some queries.

    Raises:
      ValueError: a model has given no reply to any of its prompts.
    """
    before = self.usage()
    cases = [
      [Case(query.record['prompt'], {'reply': reply}) for reply in replies]
      for query, replies in zip(queries, self.write(queries), strict=True)
    ]
    self.debate([case for group in cases for case in group])
    for name, now in self.usage().items():
      asked, failed = (now[k] - before[name][k] for k in ('prompts', 'failed'))
      if asked == failed > 0:
        raise ValueError(
          f'{name}: no reply to any of {asked:.0f} prompts; once that is '
          'mended, the same command goes on from here'
        )
    return [
      self.conclude(query, [case.found for case in group])
      for query, group in zip(queries, cases, strict=True)
    ]

  def write(self, queries: Sequence[Query]) -> list[list[str]]:
    """Different candidates for each query; none where no example was found."""
    count = self.config.candidates
    prompts = [self.brief(query) for query in queries if not query.skipped]
    replies = iter(self.writer.ask([p for p in prompts for _ in range(count)]))
    return [
      []
      if query.skipped
      else [*dict.fromkeys(filter(None, itertools.islice(replies, count)))]
      for query in queries
    ]

  def brief(self, query: Query) -> str:
    """What the writer reads: the query, and the examples if there are any."""
    prompt = query.record['prompt']
    if query.examples is None:
      return prompt
    pieces = '\n\n---\n\n'.join(map(visible, query.examples))
    slots = {'brief': prompt, 'examples': pieces}
    template = prompts_lib.template(f'curate_write_{self.config.language}')
    return prompts_lib.fill(template, slots)

  def conclude(self, query: Query, candidates: Sequence[Record]) -> Record:
    """A line of the trace."""
    for candidate in candidates:
      candidate['label'] = label(candidate)
    outcome, pair = choose(candidates, self.config.length_ratio)
    known = {k: query.record[k] for k in KEPT if k in query.record}
    return {
      'prompt': query.record['prompt'],
      'language': self.config.language,
      **known,
      'examples': query.examples,
      'candidates': candidates,
      'outcome': 'no examples' if query.skipped else outcome,
      **pair,
    }


# --- Pairs ------------------------------------------------------------------


def choose(
  candidates: Sequence[Record], length_ratio: float
) -> tuple[str, Record]:
  """The best 1 against the worst 0, by how many more merits than faults.

  Longer replies earn more praise, so that without a limit nearly all pairs
  prefer the longer one.

  Args:
    candidates: with their labels.
    length_ratio: how many times as long one of a pair may be; any if 0.

  Returns:
    The outcome, one of `OUTCOMES`, and the pair's texts if it is 'pair'.
  """
  good = [c for c in candidates if c['label'] == 1]
  bad = [c for c in candidates if c['label'] == 0]
  if not good or not bad:
    outcome = 'all good' if good else 'all bad' if bad else 'no verdict'
    return outcome, {}
  couples = [
    (a, b)
    for a, b in itertools.product(good, bad)
    if not length_ratio or _ratio(a['reply'], b['reply']) <= length_ratio
  ]
  if not couples:
    return 'unmatched', {}
  best = max(couples, key=lambda pair: _balance(pair[0]) - _balance(pair[1]))
  return 'pair', {'chosen': best[0]['reply'], 'rejected': best[1]['reply']}


def _ratio(a: str, b: str) -> float:
  return max(len(a), len(b)) / min(len(a), len(b))


def _balance(candidate: Record) -> int:
  sides = 'positive', 'negative'
  merits, faults = (len(candidate[side]['points']) for side in sides)
  return merits - faults


def pair_of(row: Record) -> Record:
  """A line of the trace as `data.load_preferences` reads it."""
  names = 'prompt', 'chosen', 'rejected', *KEPT
  return {name: row[name] for name in names if name in row}


# --- Counts -----------------------------------------------------------------


def count(row: Record) -> Counter[str]:
  """What a line of the trace adds to the summary."""
  candidates = row['candidates']
  counts = Counter({row['outcome']: 1, 'candidates': len(candidates)})
  counts['labelled'] = sum(c['label'] is not None for c in candidates)
  counts['overturned'] = sum(map(overturned, candidates))
  if row['outcome'] == 'pair':
    counts['chosen_longer'] = len(row['chosen']) > len(row['rejected'])
  return counts


def summarise(counts: Counter[str]) -> Record:
  """The headline numbers."""
  outcomes = {name: counts[name] for name in OUTCOMES}
  queries, pairs = sum(outcomes.values()), counts['pair']
  return {
    'queries': queries,
    'pairs': pairs,
    'yield': pairs / max(queries, 1),
    'outcomes': outcomes,
    'candidates': counts['candidates'],
    'unlabelled': counts['candidates'] - counts['labelled'],
    'overturned': counts['overturned'],
    'overturn_rate': counts['overturned'] / max(counts['labelled'], 1),
    'chosen_longer': counts['chosen_longer'] / max(pairs, 1),
  }
