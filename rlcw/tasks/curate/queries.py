"""Queries: read with examples for the writer, or with replies of their own."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlcw import Config
from rlcw.data import datasets
from rlcw.data.characters import blank
from rlcw.data.datasets import is_cut
from rlcw.models.thoughts import reply_of
from rlcw.runtime import console
from rlcw.sampling import llm
from rlcw.sampling.cache import Cut
from rlcw.tasks.curate import retrieval
from rlcw.tasks.curate.debate import Case

Record = dict[str, Any]
KNOWN = 'known_label'  # field of a candidate: the label that its record had


class Query(NamedTuple):
  """A query's record, and the examples that are shown to the writer."""

  record: Record
  examples: list[str] | None  # None without a corpus
  # Without a writer: the query's own replies, and the labels of some of them.
  replies: list[str] | None = None
  labels: Mapping[str, int] = {}

  def case(self, reply: str) -> Case:
    """A candidate for the debate, with its own label if it has one."""
    known = {KNOWN: self.labels[reply]} if reply in self.labels else {}
    return Case(self.record['prompt'], {'reply': reply, **known})

  @property
  def skipped(self) -> bool:
    """True if the corpus has no text like it: it gets no candidates."""
    return self.examples == []


def read_queries(config: Config) -> list[Query]:
  """Reads the queries in the config's language, with their examples.

  Raises:
    FileNotFoundError: a file does not exist.
    ValueError: a line is invalid, or there are no queries or no texts in the
      language.
  """
  if not has_writer(config):
    return _with_replies(config)
  given = _read(config.queries, config.language, ('prompt',))
  # Of queries with the same prompt the last one is kept, at the first's place.
  records = list({record['prompt']: record for record in given}.values())
  if len(records) < len(given):
    console.notice(
      f'{config.queries}: {len(given) - len(records)} of {len(given)} queries '
      'left out, whose prompt occurs again'
    )
  if not config.corpus:
    return [Query(record, None) for record in records]
  fields = 'response', 'chosen'
  pieces = _read(config.corpus, config.language, fields, config.popularity)
  texts = [
    reply_of(next(p[name] for name in fields if name in p)) for p in pieces
  ]
  # What is nothing but a thought is no example.
  whole = [not blank(text) for text in texts]
  pieces = [*itertools.compress(pieces, whole)]
  texts = [*itertools.compress(texts, whole)]
  # Queries are compared with prompt and text together, for more words in
  # common.
  keys = [
    f'{piece.get("prompt", "")} {text}'
    for piece, text in zip(pieces, texts, strict=True)
  ]
  prompts = [record['prompt'] for record in records]
  near = retrieval.nearest(prompts, keys, config.neighbours, config.embedder)
  popularity = [piece.get(config.popularity, 0) for piece in pieces]
  queries = []
  for record, indices in zip(records, near, strict=True):
    # A stable sort: of equally popular texts the nearest stay first.
    indices.sort(key=lambda n: -popularity[n])
    best = indices[: config.examples]
    queries.append(Query(record, [texts[n] for n in best]))
  return queries


def has_writer(config: Config) -> bool:
  """Returns whether a writer is named; if not, the queries have replies."""
  return llm.is_named(config.writer)


def _with_replies(config: Config) -> list[Query]:
  """Queries whose candidates are the replies of the lines with their prompt.

  Raises:
    ValueError: names the line whose prompt or response is no text, or whose
      label is not 1 or 0.
  """
  groups: dict[str, list[Record]] = {}
  for place, record in datasets.read_language(config.queries, config.language):
    reply, known = record.get('response'), record.get('label')
    if not isinstance(reply, str):
      raise ValueError(
        f'{place}: response={reply!r:.80}; expected a text: without a writer '
        "(writer.model or writer.endpoint.url), the queries' own replies are "
        'the candidates'
      )
    if known not in (None, 0, 1):
      raise ValueError(
        f'{place}: label={known!r:.80}; expected 1 for good or 0 for bad'
      )
    groups.setdefault(_text(place, record, ('prompt',)), []).append(record)
  return [_query(group) for group in groups.values()]


def _query(records: Sequence[Record]) -> Query:
  """A query of the lines with one prompt.

  A reply whose lines have different labels counts as one without a label.
  """
  labels: dict[str, set[int]] = {}
  replies = []
  for record in records:
    reply = reply_of(record['response'])
    reply = '' if blank(reply) else reply
    replies.append(Cut(reply) if is_cut(record) else reply)
    if record.get('label') is not None:
      labels.setdefault(reply, set()).add(int(record['label']))
  agreed = {
    reply: min(all_) for reply, all_ in labels.items() if len(all_) == 1
  }
  return Query(records[0], None, replies, agreed)


def _read(
  path: str, language: str, fields: Sequence[str], number: str = ''
) -> list[Record]:
  """Reads the records of a language, each with a text in one of the fields.

  Args:
    path: of the records.
    language: of the records.
    fields: one of these has a text.
    number: a field that is a number where it is present.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: names the line with another value.
  """
  records = []
  for place, record in datasets.read_language(path, language):
    _text(place, record, fields)
    try:
      if number in record:
        # csv has numbers as texts, and only some fields are known for them.
        text = record[number]
        if isinstance(text, str):
          with contextlib.suppress(ValueError):
            record[number] = float(text)
        datasets.number_of(record, number)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
    records.append(record)
  return records


def _text(place: str, record: Record, fields: Sequence[str]) -> str:
  """The text of the first of some fields; ValueError if it is none."""
  text = next((record[name] for name in fields if name in record), None)
  if not isinstance(text, str) or not text.strip():
    raise ValueError(
      f'{place}: {text!r:.80} found; expected a text in {" or ".join(fields)}'
    )
  return text
