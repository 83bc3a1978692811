"""The table of rules: instruction id -> the functions that check a reply.

`wording` has the sentences that ask for each rule; a test ensures that no rule
lacks them.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from rlcw.rewards.rules import checks, habits, ifeval, poetry, text


@dataclasses.dataclass(frozen=True)
class Verifier:
  """Checks of one rule: for rewards, and that of the benchmark it is from.

  Both map a reply and the rule's arguments to true if the reply follows it.

  Attributes:
    check: for rewards, on the reply as a reader sees it (`text.plain`).
    benchmark: on the unchanged reply; None for rules of no benchmark.
    raw: `check` needs the unchanged reply too.
  """

  check: Callable[..., bool]
  benchmark: Callable[..., bool] | None = None
  raw: bool = False

  @cached_property
  def parameters(self) -> dict[str, bool]:
    """Parameters of the check after the reply: name -> true if required."""
    # The signature is the schema of a brief's kwargs, so no second list of
    # arguments can go out of date.
    _, *rest = inspect.signature(self.check).parameters.values()
    return {each.name: each.default is each.empty for each in rest}

  def follows(
    self, reply: str, plain: str, given: Mapping[str, Any], benchmark: bool
  ) -> bool:
    """Verdict of the benchmark's check if wanted and there is one, else ours.

    A reply that shows nothing follows no rule: it would follow every rule that
    forbids something.

    Args:
      reply: unchanged.
      plain: the same by `text.plain`.
      given: arguments of the rule.
      benchmark: prefer the benchmark's check.
    """
    if benchmark and self.benchmark:
      return reply.strip() != '' and self.benchmark(reply, **given)
    shown = reply if self.raw else plain
    return plain.strip() != '' and self.check(shown, **given)


def _length(count: Callable[[str], int], raw: bool = False) -> Verifier:
  """Verifier of bounds on a count; a missing bound does not restrict."""

  def check(reply: str, at_least: int = 0, at_most: float = math.inf) -> bool:
    return at_least <= count(reply) <= at_most

  return Verifier(check, raw=raw)


# A demand in free text, which only a model can check.
DEMAND = 'soft:demand'


def _needs_a_model(reply: str, demand: str) -> bool:
  # Reached only if a caller forgets to take demands out (see `Brief.follow`).
  # An error is safer than a verdict.
  raise ValueError(f'{DEMAND}: no rule can check {demand!r}, only a model')


# Rules with two checks are IFEval's, under its ids; those with one are our own.
VERIFIERS: dict[str, Verifier] = {
  'length:words': _length(text.count_words),
  'length:characters': _length(text.count_characters, raw=True),
  'length:sentences': _length(text.count_sentences),
  'length:paragraphs': _length(lambda reply: len(text.paragraphs(reply))),
  'length:lines': _length(text.count_lines),
  'length_constraints:number_words': Verifier(
    checks.has_word_count, ifeval.number_words
  ),
  'length_constraints:number_sentences': Verifier(
    checks.has_sentence_count, ifeval.number_sentences
  ),
  'length_constraints:number_paragraphs': Verifier(
    checks.has_divided_paragraphs, ifeval.number_paragraphs
  ),
  'length_constraints:nth_paragraph_first_word': Verifier(
    checks.has_first_word, ifeval.nth_paragraph_first_word
  ),
  'keywords:existence': Verifier(
    checks.has_keywords, ifeval.keywords_existence
  ),
  'keywords:frequency': Verifier(
    checks.has_keyword_count, ifeval.keywords_frequency
  ),
  'keywords:forbidden_words': Verifier(
    checks.has_no_words, ifeval.keywords_forbidden_words
  ),
  'keywords:letter_frequency': Verifier(
    checks.has_letter_count, ifeval.keywords_letter_frequency
  ),
  'startend:start_checker': Verifier(checks.starts_with),
  'startend:end_checker': Verifier(checks.ends_with, ifeval.end_checker),
  'startend:quotation': Verifier(checks.is_quotation, ifeval.quotation),
  'punctuation:no_comma': Verifier(
    checks.without(checks.COMMAS), ifeval.no_comma
  ),
  'punctuation:no_exclamation': Verifier(checks.without(checks.EXCLAMATIONS)),
  'punctuation:no_emoji': Verifier(checks.without(checks.EMOJI), raw=True),
  'detectable_format:json_format': Verifier(
    checks.is_json, ifeval.json_format, raw=True
  ),
  'detectable_format:number_bullet_lists': Verifier(
    checks.has_bullets, ifeval.number_bullet_lists
  ),
  'detectable_format:title': Verifier(checks.has_title, ifeval.title),
  'detectable_format:number_highlighted_sections': Verifier(
    checks.has_highlights, ifeval.number_highlighted_sections
  ),
  'detectable_format:multiple_sections': Verifier(
    checks.has_sections, ifeval.multiple_sections
  ),
  'detectable_format:constrained_response': Verifier(
    checks.is_an_answer, ifeval.constrained_response
  ),
  'detectable_content:number_placeholders': Verifier(
    checks.has_placeholders, ifeval.number_placeholders
  ),
  'detectable_content:postscript': Verifier(
    checks.has_postscript, ifeval.postscript
  ),
  'combination:two_responses': Verifier(
    checks.has_two_responses, ifeval.two_responses
  ),
  'combination:repeat_prompt': Verifier(
    checks.repeats_prompt, ifeval.repeat_prompt
  ),
  # str.islower needs at least one cased letter, and all of them lower; letters
  # without case, such as Han characters, are ignored.
  'change_case:english_lowercase': Verifier(
    str.islower, ifeval.english_lowercase
  ),
  'change_case:english_capital': Verifier(str.isupper, ifeval.english_capital),
  'change_case:capital_word_frequency': Verifier(
    checks.has_capital_words, ifeval.capital_word_frequency
  ),
  'language:response_language': Verifier(
    checks.is_in_language, ifeval.language_response_language
  ),
  'poem:clauses': Verifier(poetry.has_clauses),
  'poem:haiku': Verifier(poetry.is_haiku),
  'poem:rhyme': Verifier(poetry.rhymes),
  'poem:acrostic': Verifier(poetry.is_acrostic),
  'style:no_self_reference': Verifier(habits.names_no_self),
  'style:piece_alone': Verifier(habits.is_piece_alone),
  'style:no_cliche': Verifier(habits.has_no_cliche),
  'style:no_repeated_line': Verifier(checks.has_no_repeated_line),
  'style:script': Verifier(checks.is_in_script),
  # Listed here so that briefs with demands validate and can be worded;
  # `judge.questions.follow` asks a model.
  DEMAND: Verifier(_needs_a_model),
}
