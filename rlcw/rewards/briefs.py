"""Briefs: a prompt and the rules that its reply must keep."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rlcw.data.datasets import _parse, _select
from rlcw.rewards import constraints
from rlcw.rewards.rules.registry import DEMAND


@dataclasses.dataclass(frozen=True)
class Brief:
  """A writing task and the rules that its reply must keep."""

  id: str
  prompt: str  # the request alone
  instruction_id_list: tuple[str, ...]
  kwargs: tuple[dict[str, Any], ...]
  language: str = 'en'
  genre: str = ''
  theme: str = ''
  split: str = 'train'
  paraphrase: int = 0  # which wording of each rule

  @property
  def text(self) -> str:
    """The request with its rules written out: what the model reads."""
    return constraints.write_brief(
      self.prompt,
      self.instruction_id_list,
      self.kwargs,
      self.language,
      self.paraphrase,
    )

  @property
  def demands(self) -> dict[int, str]:
    """What only a model can check, by its place among the ids."""
    rules = zip(self.instruction_id_list, self.kwargs, strict=True)
    return {
      place: kwargs['demand']
      for place, (rule, kwargs) in enumerate(rules)
      if rule == DEMAND
    }

  def follow(
    self, reply: str, *, loose: bool = False, benchmark: bool = False
  ) -> list[bool | None]:
    """The verdict on each rule, strict or loose; None at a demand."""
    demands = self.demands
    places = [
      place
      for place in range(len(self.instruction_id_list))
      if place not in demands
    ]
    check = constraints.follow_loose if loose else constraints.follow
    verdicts: list[bool | None] = [None] * len(self.instruction_id_list)
    found = check(
      reply,
      [self.instruction_id_list[place] for place in places],
      [self.kwargs[place] for place in places],
      benchmark=benchmark,
    )
    for place, verdict in zip(places, found, strict=True):
      verdicts[place] = verdict
    return verdicts


def load_briefs(
  path: str | Path, *, split: str | None = None, language: str | None = None
) -> list[Brief]:
  """Briefs of a split and language, every rule checked for being legal."""

  def parse(record: dict[str, Any]) -> Brief:
    fields = {f.name for f in dataclasses.fields(Brief)}
    known = {key: value for key, value in record.items() if key in fields}
    known['id'] = str(record['id'])
    known['instruction_id_list'] = tuple(record['instruction_id_list'])
    # in TensorFlow datasets, whose fields have fixed types, they are JSON
    known['kwargs'] = tuple(
      json.loads(each) if isinstance(each, str) else each
      for each in record['kwargs']
    )
    brief = Brief(**known)
    constraints.validate(brief.instruction_id_list, brief.kwargs)
    return brief

  return _select(_parse(path, parse), path, split=split, language=language)
