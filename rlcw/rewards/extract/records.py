"""Briefs from prompts: records with the rules that their prompts state.

The rules stay in the prompt, which is not changed, and the record says so by
`stated`: the model reads each requirement once, in its writer's words.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcw.data import datasets, layouts, messages
from rlcw.data.files import Record
from rlcw.rewards.extract.combine import Stated
from rlcw.rewards.rules.registry import DEMAND
from rlcw.runtime import console, files, paths, processes

# Of a run that extracts its briefs.
BRIEFS = 'briefs.jsonl'
_SHOWN = 20  # unread texts in a summary


def has_rules(record: Record) -> bool:
  """Returns whether a record lists rules, perhaps none."""
  return 'instruction_id_list' in record


def request_of(record: Record) -> str:
  """Returns the text in which rules are looked for: the user's last message.

  Raises:
    ValueError: the record has no prompt.
  """
  return messages.messages(layouts.prompt_of(record))[-1].content


def brief_of(
  record: Record,
  demands: bool = False,
  proposed: Sequence[Stated] = (),
) -> Record:
  """Returns a record with the rules that its prompt states.

  One that lists rules already is returned as it is.

  Args:
    record: with a prompt.
    demands: whether each text that no rule was read from, but that reads like a
      requirement, becomes a demand, which a judge must check.
    proposed: further rules of the prompt.

  Returns:
    The record with `instruction_id_list`, `kwargs`, `stated`; `matched`, the
    texts that state each rule; and `unread`, the texts without a rule.

  Raises:
    ValueError: the record has no prompt.
  """
  if has_rules(record):
    return record
  # Its patterns take half a second to compile, which most commands do not need.
  from rlcw.rewards.extract.read import read

  text = request_of(record)
  reading = read(text)
  rules = [
    (rule.instruction_id, rule.kwargs, [text[a:b] for a, b in rule.spans])
    for rule in [*reading.rules, *proposed]
  ]
  quoted = [text[a:b] for rule in proposed for a, b in rule.spans]
  unread = [
    words
    for words in reading.unread
    if not any(quote in words or words in quote for quote in quoted)
  ]
  if demands:
    rules += [(DEMAND, {'demand': each}, [each]) for each in unread]
    unread = []
  return record | {
    'instruction_id_list': [name for name, _, _ in rules],
    'kwargs': [kwargs for _, kwargs, _ in rules],
    'stated': True,
    'matched': [texts for _, _, texts in rules],
    'unread': unread,
  }


def summarise(briefs: Sequence[Record]) -> dict[str, Any]:
  """Counts the rules of extracted briefs, and lists some unread texts."""
  ours = [brief for brief in briefs if 'unread' in brief]
  rules = Counter(rule for b in ours for rule in b['instruction_id_list'])
  unread = Counter(each for brief in ours for each in brief['unread'])
  return {
    'prompts': len(briefs),
    'had_rules': len(briefs) - len(ours),
    'with_rules': sum(bool(b['instruction_id_list']) for b in ours),
    'rules': rules.total(),
    'by_instruction': dict(sorted(rules.items())),
    'unread': unread.total(),
    'unread_most_often': [each for each, _ in unread.most_common(_SHOWN)],
  }


def extract_once(prompts: str, workdir: Path) -> dict[str, Any]:
  """Writes the briefs of a run, unless it has begun, and counts them.

  A first try that failed has claimed nothing: its file is made anew.  Only
  process 0 writes; the others find the file in the shared workdir.

  Args:
    prompts: path of records, see `datasets.read_records`.
    workdir: of the run; the file is `BRIEFS` in it.

  Returns:
    The summary of the briefs, see `summarise`.

  Raises:
    FileNotFoundError, ValueError: there are no records, one has no prompt, or
      they are the file that would be written.
  """
  path = workdir / BRIEFS

  def make() -> dict[str, Any]:
    if any(each.resolve() == path.resolve() for each in paths.matches(prompts)):
      raise ValueError(
        f'briefs={prompts} is where this run would write its briefs; expected '
        'another --workdir'
      )
    if not path.exists() or not (workdir / 'config.json').exists():
      files.write_jsonl(path, read_briefs(prompts))
    return summarise(datasets.read_jsonl(path))

  summary = processes.from_primary(make)
  console.notice(
    f'{summary["rules"]} rules read from {prompts}: in {summary["with_rules"]} '
    f'of {summary["prompts"]} prompts; {summary["unread"]} texts read like '
    f'a requirement and state no rule that is known; see {path}'
  )
  return summary


def read_briefs(prompts: str) -> list[Record]:
  """Returns the records of a path, with rules; see `brief_of`.

  Raises:
    FileNotFoundError, ValueError: see `datasets.read_records`, or a record has
      no prompt (names its place).
  """
  briefs = []
  for place, record in datasets.read_records(prompts):
    try:
      briefs.append(brief_of(record))
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  return briefs
