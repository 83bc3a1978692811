"""Briefs: prompts with the rules that a reply must follow."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rlcw.data.datasets import _parse, _select
from rlcw.rewards import constraints
from rlcw.rewards.rules.registry import DEMAND


@dataclasses.dataclass(frozen=True)
class Brief:
  """A writing task with the rules that a reply must follow."""

  id: str
  prompt: str  # the request alone
  instruction_id_list: tuple[str, ...]
  kwargs: tuple[dict[str, Any], ...]
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  split: str = 'train'
  paraphrase: int = 0  # index of the wording of every rule

  @property
  def text(self) -> str:
    """The prompt followed by its rules in words, as the model gets it."""
    return constraints.write_brief(
      self.prompt,
      self.instruction_id_list,
      self.kwargs,
      self.language,
      self.paraphrase,
    )

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

    Args:
      reply: any text.
      loose: use IFEval's loose verdicts (`constraints.follow_loose`).
      benchmark: use IFEval's own checks where the rule has one.
    """
    demands = self.demands
    checkable = [
      index
      for index in range(len(self.instruction_id_list))
      if index not in demands
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
  path: str | Path, *, split: str | None = None, language: str | None = None
) -> list[Brief]:
  """Loads briefs and validates their rules.

  Args:
    path: any path that `datasets.read_numbered` accepts.
    split: only briefs of this split; all where None.
    language: only briefs in this language; all where None.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a record is not a valid brief (the message names its line), or
      none has the split and language.
  """

  def parse(record: dict[str, Any]) -> Brief:
    # Fields that a brief does not have are ignored: files may carry notes.
    names = {f.name for f in dataclasses.fields(Brief)}
    fields = {key: value for key, value in record.items() if key in names}
    # An id may be a number in JSON.
    fields['id'] = str(record['id'])
    fields['instruction_id_list'] = tuple(record['instruction_id_list'])
    # TensorFlow datasets have fixed types, so there the arguments are JSON.
    fields['kwargs'] = tuple(
      json.loads(each) if isinstance(each, str) else each
      for each in record['kwargs']
    )
    brief = Brief(**fields)
    # Now rather than in the middle of a run.
    constraints.validate(brief.instruction_id_list, brief.kwargs)
    return brief

  return _select(_parse(path, parse), path, split=split, language=language)
