"""Reads the rules that a prompt states."""

from typing import NamedTuple

from rlcw.rewards import constraints
from rlcw.rewards.extract import chinese, forms_en, lengths_en, words_en
from rlcw.rewards.extract.combine import Stated, combine
from rlcw.rewards.extract.masking import Masked
from rlcw.rewards.rules import ifeval

PATTERNS = (*lengths_en.PATTERNS, *words_en.PATTERNS, *forms_en.PATTERNS, *chinese.PATTERNS)


class Reading(NamedTuple):
  rules: list[Stated]
  unread: list[str]


def read(text: str) -> Reading:
  masked = Masked(text)
  placed = [found for each in PATTERNS for found in each.find(masked)]
  if all(a[:-1].lower() in text.lower() for a in ifeval.ANSWERS):
    from rlcw.rewards.extract.facts import Fact
    placed.append((Fact('detectable_format:constrained_response', {}), (0, len(text))))
  rules = []
  for rule in combine(placed, masked):
    try:
      constraints.validate([rule.instruction_id], [rule.kwargs])
    except ValueError:
      continue
    rules.append(rule)
  return Reading(rules, [])
