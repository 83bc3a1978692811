"""Briefs: prompts with the rules that a reply must follow."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.data import datasets, layouts, messages
from rlcw.data.characters import is_chinese
from rlcw.data.files import Record
from rlcw.data.messages import USER, Message, Prompt
from rlcw.rewards import constraints, rubrics
from rlcw.rewards.constraints import LANGUAGES
from rlcw.rewards.extract import records
from rlcw.rewards.rubrics import Rubric
from rlcw.rewards.rules.registry import DEMAND
from rlcw.runtime import console, runs


def by_name(values: Sequence[Any], briefs: Sequence['Brief']) -> dict[str, Any]:
  """Returns a value of each brief by its name, for errors.

  Briefs with one id, which several files may have, are counted.
  """
  names, counts = [], Counter[str]()
  for brief in briefs:
    counts[brief.id] += 1
    again = f' (no. {counts[brief.id]})' if counts[brief.id] > 1 else ''
    names.append(f'brief {brief.id}{again}')
  return dict(zip(names, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Brief:
  """A writing task with the rules that a reply must follow."""

  id: str
  prompt: str  # the request alone: the user's last message
  instruction_id_list: tuple[str, ...]
  kwargs: tuple[dict[str, Any], ...]
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  split: str = 'train'
  paraphrase: int = 0  # index of the wording of every rule
  earlier: tuple[Message, ...] = ()  # system message and turns before
  rubric: Rubric = ()  # not shown to the model, unlike the rules
  stated: bool = False  # the prompt states its rules, so none is added in words
  demonstration: str = ''  # a reply to learn from, if the record has one

  @property
  def request(self) -> Prompt:
    """The messages that the model gets, with the rules in words in the last.

    Where the prompt states them already it stays as it is, so that the model
    reads each rule once.
    """
    text = self.prompt
    if not self.stated:
      text = constraints.write_brief(
        self.prompt,
        self.instruction_id_list,
        self.kwargs,
        self.language,
        self.paraphrase,
      )
    return messages.simplest([*self.earlier, Message(USER, text)])

  @property
  def text(self) -> str:
    """The request as text, for judges and readers."""
    return messages.transcript(self.request)

  @property
  def rules(self) -> list[str]:
    """The rules in words: in Chinese for `zh`, else in English."""
    language = self.language if self.language in LANGUAGES else 'en'
    return [
      constraints.describe(rule, kwargs, language, self.paraphrase)
      for rule, kwargs in zip(
        self.instruction_id_list, self.kwargs, strict=True
      )
    ]

  @property
  def demands(self) -> dict[int, str]:
    """Demands, which only a model can check: index among the rules -> text."""
    rules = zip(self.instruction_id_list, self.kwargs, strict=True)
    return {
      index: kwargs['demand']
      for index, (rule, kwargs) in enumerate(rules)
      if rule == DEMAND
    }

  def follow(
    self, reply: str, *, loose: bool = False, benchmark: bool = False
  ) -> list[bool | None]:
    """Verdicts on a reply, one for each rule, None at a demand.

    None also at a rule that cannot be checked (`constraints.UNSUPPORTED`).

    Args:
      reply: any text.
      loose: use IFEval's loose verdicts (`constraints.follow_loose`).
      benchmark: use the check of the rule's benchmark, if it is of one.
    """
    demands = self.demands
    checkable = [
      index
      for index, rule in enumerate(self.instruction_id_list)
      if index not in demands and rule not in constraints.UNSUPPORTED
    ]
    check = constraints.follow_loose if loose else constraints.follow
    # Demands keep their place in the list, so that verdicts and rules align;
    # `judge.questions.follow` fills in a model's answers.
    verdicts: list[bool | None] = [None] * len(self.instruction_id_list)
    checked = check(
      reply,
      [self.instruction_id_list[index] for index in checkable],
      [self.kwargs[index] for index in checkable],
      benchmark=benchmark,
    )
    for index, verdict in zip(checkable, checked, strict=True):
      verdicts[index] = verdict
    return verdicts


def load_briefs(
  path: str | Path,
  *,
  split: str | None = None,
  language: str | None = None,
  heldout: float = 0.1,
  system: str = '',
) -> list[Brief]:
  """Loads briefs and validates their rules.

  Args:
    path: any path that `datasets.read_records` accepts.
    split: only briefs of this split; all where None.
    language: only briefs in this language; all where None.
    heldout: share of prompts in the split 'heldout', of those whose records
      name no split (`datasets.split_of`).
    system: a system message for briefs without their own.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is not a valid brief (the message names its line), or
      none has the split and language.
  """

  def parse(record: Record) -> Brief:
    return read_brief(record, system, heldout)

  briefs = datasets.load(
    path, parse, split=split, language=language, heldout=heldout
  )
  alike = len(briefs) - len({brief.id for brief in briefs})
  if alike:
    console.notice(
      f'{path}: {alike} of {len(briefs)} briefs have the id of another, by '
      'which reports name them'
    )
  free = sum(not brief.instruction_id_list for brief in briefs)
  if free:
    console.notice(
      f'{path}: {free} of {len(briefs)} briefs have no rules: every whole '
      'reply keeps them'
    )
  return briefs


def load_run_briefs(
  config: Config, split: str, system: str = '', workdir: str | Path = ''
) -> list[Brief]:
  """Loads the briefs of a `grpo` run, from its settings.

  Args:
    config: of the run.
    split: of the briefs.
    system: the system message if the run has none, that of its model.
    workdir: of the run, with the briefs that it has extracted, if it does.

  Raises:
    FileNotFoundError, ValueError: see `load_briefs`.
  """
  # Older runs lack the setting.
  extracts = config.get('extract_rules', False)
  return load_briefs(
    # The folder `best` of a run has its parameters alone.
    runs.whole(Path(workdir)) / records.BRIEFS if extracts else config.briefs,
    split=split,
    language=config.language,
    # Older runs have trained on all briefs without a split.
    heldout=config.get('heldout', 0.0),
    system=config.get('system', '') or system,
  )


def read_brief(record: Record, system: str = '', heldout: float = 0.0) -> Brief:
  """Returns the brief of a record; arguments are those of `load_briefs`.

  Raises:
    ValueError: the record is not a valid brief.
  """
  prompt = layouts.prompt_of(record)
  *earlier, last = messages.messages(prompt, system)
  shared = datasets.shared_fields(record, heldout)
  if 'language' not in shared and is_chinese(last.content):
    shared['language'] = 'zh'
  brief = Brief(
    # IFEval calls it `key`; it may be a number.
    str(record.get('id', record.get('key', datasets.digest(prompt)[:12]))),
    last.content,
    instruction_ids(record),
    arguments(record),
    paraphrase=_paraphrase(record),
    stated=_stated(record),
    earlier=tuple(earlier),
    rubric=read_rubric(record),
    demonstration=_demonstration(record),
    **shared,
  )
  # Now rather than in the middle of a run.
  constraints.validate(brief.instruction_id_list, brief.kwargs)
  worded = brief.instruction_id_list and not brief.stated
  if worded and brief.language not in LANGUAGES:
    raise ValueError(
      f'language={brief.language!r:.40}; expected one in which rules can be '
      f'worded: {" or ".join(LANGUAGES)}'
    )
  for rule in brief.instruction_id_list if worded else ():
    if not constraints.is_worded(rule, brief.language):
      raise ValueError(
        f'language={brief.language!r}; expected en, in which alone {rule} can '
        'be worded, or stated=true where the prompt states it'
      )
  return brief


def instruction_ids(record: Record) -> tuple[str, ...]:
  """Returns the ids of a record's rules, none if it has no such field.

  Raises:
    ValueError: they are not a list of texts.
  """
  ids = record.get('instruction_id_list', [])
  if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
    raise ValueError(
      f'instruction_id_list={ids!r:.80}; expected a list of texts'
    )
  return tuple(ids)


def arguments(record: Record) -> tuple[dict[str, Any], ...]:
  """Returns the arguments of a record's rules, none if it has no such field.

  Raises:
    ValueError: they are not a list of objects, or of objects as JSON.
  """
  kwargs = record.get('kwargs', [])
  # TensorFlow datasets have fixed types, so there the arguments are JSON.
  parsed = (
    [_from_json(each) for each in kwargs] if isinstance(kwargs, list) else [0]
  )
  if not all(isinstance(each, dict) for each in parsed):
    raise ValueError(f'kwargs={kwargs!r:.80}; expected a list of objects')
  return tuple(layouts.without_nulls(parsed))


def read_rubric(record: Record) -> Rubric:
  """Returns the rubric of a record, empty if it has no such field.

  Raises:
    ValueError: see `rubrics.parse`.
  """
  value = record.get('rubric', [])
  # As for the arguments of rules, each may be JSON.
  if isinstance(value, list):
    value = [*map(_from_json, value)]
  return rubrics.parse(value)


def _from_json(value: Any) -> Any:
  try:
    return json.loads(value) if isinstance(value, str) else value
  except (ValueError, RecursionError):
    return value


def _stated(record: Record) -> bool:
  value = record.get('stated', False)
  if not isinstance(value, bool):
    raise ValueError(f'stated={value!r:.80}; expected true or false')
  return value


def _demonstration(record: Record) -> str:
  """Returns the reply of a record, of a pair the chosen one; '' if it is bad.

  Those are not to be imitated that have a label of 0 or less, or were cut off.
  """
  reply = record.get('chosen', record.get('response'))
  label = record.get('label', 1)
  bad = datasets.is_cut(record) or not label
  if isinstance(label, int | float):  # a text is no judgement
    bad = bad or not label > 0
  return reply if isinstance(reply, str) and not bad else ''


def _paraphrase(record: Record) -> int:
  value = record.get('paraphrase', 0)
  if type(value) is not int or value < 0:
    raise ValueError(f'paraphrase={value!r:.80}; expected 0, 1, 2, …')
  return value
