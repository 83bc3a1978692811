"""The table of rules: instruction id -> the functions that check a reply.

`wording` has the sentences that ask for each rule; a test ensures that no rule
lacks them.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from functools import cached_property

from rlcw.rewards.rules import checks, ifeval, poetry, text


@dataclasses.dataclass(frozen=True)
class Verifier:
  """Checks of one rule: for rewards, and IFEval's own for its benchmark.

  Both map a reply and the rule's arguments to true if the reply follows it.
  `benchmark` is None for rules that IFEval does not have.
  """

  check: Callable[..., bool]
  benchmark: Callable[..., bool] | None = None

  @cached_property
  def parameters(self) -> dict[str, bool]:
    """Parameters of the check after the reply: name -> true if required."""
    # The signature is the schema of a brief's kwargs, so no second list of
    # arguments can go out of date.
    _, *rest = inspect.signature(self.check).parameters.values()
    return {each.name: each.default is each.empty for each in rest}

  def choose(self, benchmark: bool) -> Callable[..., bool]:
    """Returns the benchmark's check if wanted and there is one, else ours."""
    return (benchmark and self.benchmark) or self.check


def _length(count: Callable[[str], int]) -> Verifier:
  """Verifier of bounds on a count; a missing bound does not restrict."""

  def check(reply: str, at_least: int = 0, at_most: float = math.inf) -> bool:
    return at_least <= count(reply) <= at_most

  return Verifier(check)


# A demand in free text, which only a model can check.
DEMAND = 'soft:demand'


def _needs_a_model(reply: str, demand: str) -> bool:
  # Reached only if a caller forgets to take demands out (see `Brief.follow`).
  # An error is safer than a verdict.
  raise ValueError(f'{DEMAND}: no rule can check {demand!r}, only a model')


# Rules with two checks are IFEval's, under its ids; those with one are our own.
VERIFIERS: dict[str, Verifier] = {
  'length:words': _length(text.count_words),
  'length:characters': _length(text.count_characters),
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
  'punctuation:no_comma': Verifier(checks.without('[,，﹐]'), ifeval.no_comma),
  'punctuation:no_exclamation': Verifier(checks.without(checks.EXCLAMATIONS)),
  'punctuation:no_emoji': Verifier(checks.without(checks.EMOJI)),
  'detectable_format:json_format': Verifier(checks.is_json, ifeval.json_format),
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
  'style:no_self_reference': Verifier(checks.names_no_self),
  'style:piece_alone': Verifier(checks.is_piece_alone),
  'style:no_cliche': Verifier(checks.has_no_cliche),
  'style:no_repeated_line': Verifier(checks.has_no_repeated_line),
  'style:script': Verifier(checks.is_in_script),
  # Listed here so that briefs with demands validate and can be worded;
  # `judge.questions.follow` asks a model.
  DEMAND: Verifier(_needs_a_model),
}
