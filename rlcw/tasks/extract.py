"""Task `extract`: briefs from plain prompts, by the rules that these state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from rlcw import Config
from rlcw.data import datasets
from rlcw.data.files import Record
from rlcw.rewards.extract import proposals, records
from rlcw.rewards.extract.combine import Stated
from rlcw.runtime import claim, console, outputs, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import llm, secret, usage
from rlcw.sampling.outage import NoAnswers, describe
from rlcw.sampling.prompts import Counts
from rlcw.sampling.usage import Ledger


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Makes a brief of every prompt; the output is written whole or not at all.

  Returns:
    The summary.

  Raises:
    FileNotFoundError: a file or a model does not exist.
    ValueError: a record has no prompt (names the file and the line), there is
      no record, or a model gives no answers.
  """
  placed = datasets.read_records(config.input)
  if not placed:
    raise ValueError(f'{config.input} has no records')
  for place, record in placed:
    try:
      records.request_of(record)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  output = claim.output(config, workdir, records.BRIEFS)
  plain = [record for _, record in placed]
  asked, answers = ask(config, workdir, plain)
  briefs = [
    records.brief_of(record, config.demands, proposed)
    for record, proposed in zip(plain, asked, strict=True)
  ]
  outputs.write(output, briefs)
  summary = records.summarise(briefs) | answers
  console.table(
    f'extract: {summary["with_rules"]} of {summary["prompts"]} prompts state '
    'rules',
    ('rule', 'count'),
    [(k, f'{n:,}') for k, n in summary['by_instruction'].items()],
  )
  for sentence in summary['unread_most_often']:
    console.log(f'extract: no rule for: {" ".join(sentence.split()):.200}')
  console.log(f'extract: {summary["unread"]} texts unread; {output}')
  return summary


def ask(
  config: Config, workdir: Path, plain: Sequence[Record]
) -> tuple[list[Sequence[Stated]], dict[str, Any]]:
  """Asks the model, if one is named, for further rules of the prompts.

  Returns:
    The accepted rules of each record, and the part of the summary about them.

  Raises:
    FileNotFoundError: there is no such model.
    NoAnswers: it answered no question.
    ValueError: a setting is invalid.
  """
  found: list[Sequence[Stated]] = [() for _ in plain]
  if not llm.is_named(config.agent):
    return found, {}
  settings = ConfigDict(config.agent.to_dict())
  # So that a run that was killed repeats no call.
  cache = str(settings.cache or workdir / 'replies.sqlite')
  settings.cache = cache
  model = llm.make_ask(settings, make_mesh(**config.mesh))
  key = secret.load(cache, workdir)
  ledger = Ledger(workdir, {'agent': model.usage})
  counts = Counts(questions=0, repaired=0, unanswered=0)
  rows = [n for n, record in enumerate(plain) if not records.has_rules(record)]
  size = config.batch_size
  steps = console.progress('extract', 0, len(rows), 'prompt', size)
  for first in processes.stoppable(steps):
    part = rows[first : first + size]
    texts = [records.request_of(plain[row]) for row in part]
    accepted = proposals.propose(model.asking, texts, key, counts)
    for row, rules in zip(part, accepted, strict=True):
      found[row] = rules
    ledger.save()
  if counts['unanswered'] == counts['questions'] > 0:
    subject = 'extract: no prompt got an answer'
    raise NoAnswers(describe(subject, 1, model.trouble() | counts.trouble()))
  spent = ledger.totals()
  usage.log('extract', spent)
  return found, {'answers': counts, 'usage': spent}
