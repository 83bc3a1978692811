"""The rules: for each id its check and the wording that asks for it.

What a brief says and what its reply is held to stand side by side, so that they
cannot drift apart.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial

from rlcw.rewards import checks, ifeval, languages, manners, units, verse


@dataclasses.dataclass(frozen=True)
class Verifier:
  """What checks a rule, and what asks for it given the check's arguments."""

  check: Callable[..., bool]
  en: str | Callable[..., str]
  zh: str | Callable[..., str]
  # IFEval's own check, where it has the rule
  benchmark: Callable[..., bool] | None = None

  @cached_property
  def parameters(self) -> dict[str, bool]:
    """The arguments of the check after the reply; true if required."""
    _, *rest = inspect.signature(self.check).parameters.values()
    return {each.name: each.default is each.empty for each in rest}

  def choose(self, benchmark: bool) -> Callable[..., bool]:
    """The check to use; a rule that is not IFEval's has but one."""
    return (benchmark and self.benchmark) or self.check


_EN = 'exactly {}', 'at least {}', 'at most {1}', 'between {} and {}'
_ZH = '正好{}', '至少{}', '不超过{1}', '{}到{}'


def _say_length(template: str, amounts: Sequence[str], **bounds: int) -> str:
  exactly, low, high, between = amounts
  least, most = bounds.get('at_least'), bounds.get('at_most')
  both = exactly if least == most else between
  amount = (both if most else low) if least else high
  text = amount.format(least, most)
  # The noun agrees with the number beside it.
  return template.format(text, s='' if text.endswith(' 1') else 's')


def _length(count: Callable[[str], int], en: str, zh: str) -> Verifier:
  def check(reply: str, at_least: int = 0, at_most: float = math.inf) -> bool:
    return at_least <= count(reply) <= at_most

  return Verifier(
    check, partial(_say_length, en, _EN), partial(_say_length, zh, _ZH)
  )


_EN_COUNT = {'less than': 'fewer than {}', 'at least': 'at least {}'}
_ZH_COUNT = {'less than': '少于{}', 'at least': '至少{}'}


def _say_count(
  template: str, amounts: dict[str, str], **arguments: str | int
) -> str:
  """IFEval's counts: each rule has its own names for relation and bound."""
  (name,) = [each for each in arguments if each.endswith('relation')]
  (bound,) = [each for each in arguments.values() if isinstance(each, int)]
  text = amounts[str(arguments[name])].format(bound)
  return template.format(text, s='' if bound == 1 else 's', **arguments)


def _count(
  check: Callable[..., bool], en: str, zh: str, benchmark: Callable[..., bool]
) -> Verifier:
  return Verifier(
    check,
    partial(_say_count, en, _EN_COUNT),
    partial(_say_count, zh, _ZH_COUNT),
    benchmark,
  )


def _say_words(conjunction: str, words: Sequence[str]) -> str:
  *head, last = [f'"{word}"' for word in words]
  if not head:
    return f'the word {last}'
  return f'the words {", ".join(head)} {conjunction} {last}'


DEMAND = 'soft:demand'


def _ask_a_model(reply: str, demand: str) -> bool:
  raise ValueError(f'{DEMAND}: no rule can check {demand!r}, only a model')


VERIFIERS: dict[str, Verifier] = {
  'length:words': _length(
    units.count_words, 'Use {} word{s}.', '{}个字（标点不计入）。'
  ),
  'length:characters': _length(
    units.count_characters,
    'Use {} non-space character{s}.',
    '{}个字（标点计入）。',
  ),
  'length:sentences': _length(
    units.count_sentences, 'Use {} sentence{s}.', '{}句话。'
  ),
  'length:paragraphs': _length(
    lambda reply: len(units.paragraphs(reply)),
    'Use {} paragraph{s} (a blank line starts a new one).',
    '{}段（段与段之间空一行）。',
  ),
  'length:lines': _length(
    units.count_lines, 'Use {} non-blank line{s}.', '{}行（空行不计入）。'
  ),
  'length_constraints:number_words': _count(
    checks.has_word_count,
    'Use {} word{s}.',
    '{}个字（标点不计入）。',
    ifeval.number_words,
  ),
  'length_constraints:number_sentences': _count(
    checks.has_sentence_count,
    'Use {} sentence{s}.',
    '{}句话。',
    ifeval.number_sentences,
  ),
  'length_constraints:number_paragraphs': Verifier(
    checks.has_divided_paragraphs,
    'Write exactly {num_paragraphs} paragraphs, with a line of *** between '
    'any two.',
    '正好写{num_paragraphs}段，每两段之间单独一行写***。',
    ifeval.number_paragraphs,
  ),
  'length_constraints:nth_paragraph_first_word': Verifier(
    checks.has_first_word,
    'Write exactly {num_paragraphs} paragraphs (a blank line starts a new '
    'one), number {nth_paragraph} of which begins with "{first_word}".',
    '正好写{num_paragraphs}段（段与段之间空一行），第{nth_paragraph}段以'
    '“{first_word}”开头。',
    ifeval.nth_paragraph_first_word,
  ),
  'keywords:existence': Verifier(
    checks.has_keywords,
    lambda keywords: f'Include {_say_words("and", keywords)}.',
    lambda keywords: f'用到这些词：“{"”“".join(keywords)}”。',
    ifeval.keywords_existence,
  ),
  'keywords:frequency': _count(
    checks.has_keyword_count,
    'Use the word "{keyword}" {} time{s}.',
    '“{keyword}”一词出现{}次。',
    ifeval.keywords_frequency,
  ),
  'keywords:forbidden_words': Verifier(
    checks.has_no_words,
    lambda forbidden_words: f'Do not use {_say_words("or", forbidden_words)}.',
    lambda forbidden_words: f'不要用这些词：“{"”“".join(forbidden_words)}”。',
    ifeval.keywords_forbidden_words,
  ),
  'keywords:letter_frequency': _count(
    checks.has_letter_count,
    'Use the character "{letter}" {} time{s}.',
    '字符“{letter}”出现{}次。',
    ifeval.keywords_letter_frequency,
  ),
  'startend:start_checker': Verifier(
    checks.starts_with,
    'Begin with "{start_phrase}".',
    '以“{start_phrase}”开头。',
  ),
  'startend:end_checker': Verifier(
    checks.ends_with,
    'End with "{end_phrase}".',
    '以“{end_phrase}”结尾。',
    ifeval.end_checker,
  ),
  'startend:quotation': Verifier(
    checks.is_quotation,
    'Wrap the reply in double quotes.',
    '全文用双引号括起来。',
    ifeval.quotation,
  ),
  'punctuation:no_comma': Verifier(
    checks.without('[,，﹐]'), 'Use no commas.', '不要用逗号。', ifeval.no_comma
  ),
  'punctuation:no_exclamation': Verifier(
    checks.without(checks.EXCLAMATIONS),
    'Use no exclamation marks.',
    '不要用感叹号。',
  ),
  'punctuation:no_emoji': Verifier(
    checks.without(checks.EMOJI), 'Use no emoji.', '不要用表情符号。'
  ),
  'detectable_format:json_format': Verifier(
    checks.is_json,
    'Write the entire reply as valid JSON.',
    '全文须是合法的JSON。',
    ifeval.json_format,
  ),
  'detectable_format:number_bullet_lists': Verifier(
    checks.has_bullets,
    'Begin exactly {num_bullets} of the lines with "- ", as bullet points.',
    '正好列出{num_bullets}个以“- ”开头的要点。',
    ifeval.number_bullet_lists,
  ),
  'detectable_format:title': Verifier(
    checks.has_title,
    'Include a title within << and >>.',
    '写出标题，用《》括起。',
    ifeval.title,
  ),
  'detectable_format:number_highlighted_sections': Verifier(
    checks.has_highlights,
    'Highlight at least {num_highlights} passages with *asterisks*.',
    '至少用*星号*标出{num_highlights}处。',
    ifeval.number_highlighted_sections,
  ),
  'detectable_format:multiple_sections': Verifier(
    checks.has_sections,
    'Write at least {num_sections} sections, headed "{section_spliter} 1" and '
    'so on.',
    '至少写{num_sections}节，节首依次标明“{section_spliter} 1”等。',
    ifeval.multiple_sections,
  ),
  'detectable_format:constrained_response': Verifier(
    checks.is_an_answer,
    'Answer with "{}", "{}" or "{}", word for word.'.format(*ifeval.ANSWERS),
    '原样用“{}”“{}”或“{}”作答。'.format(*ifeval.ANSWERS),
    ifeval.constrained_response,
  ),
  'detectable_content:number_placeholders': Verifier(
    checks.has_placeholders,
    'Leave at least {num_placeholders} placeholders in square brackets, such '
    'as [address].',
    '至少留{num_placeholders}处用方括号表示的占位符，如[地址]。',
    ifeval.number_placeholders,
  ),
  'detectable_content:postscript': Verifier(
    checks.has_postscript,
    'Add a postscript that begins with {postscript_marker} on its own line.',
    '文末另起一行，以{postscript_marker}开头写附言。',
    ifeval.postscript,
  ),
  'combination:two_responses': Verifier(
    checks.has_two_responses,
    'Give two different replies, with a line of ****** between them.',
    '写出两个不同的回答，中间单独一行写******。',
    ifeval.two_responses,
  ),
  'combination:repeat_prompt': Verifier(
    checks.repeats_prompt,
    'First repeat this request word for word, then answer it: '
    '"{prompt_to_repeat}".',
    '先一字不差地重复以下要求，再作答：“{prompt_to_repeat}”。',
    ifeval.repeat_prompt,
  ),
  # Some letter must have case, and all that have must be of the one case.
  'change_case:english_lowercase': Verifier(
    str.islower,
    'Use only lower-case letters.',
    '英文字母全部小写。',
    ifeval.english_lowercase,
  ),
  'change_case:english_capital': Verifier(
    str.isupper,
    'Use only capital letters.',
    '英文字母全部大写。',
    ifeval.english_capital,
  ),
  'change_case:capital_word_frequency': _count(
    checks.has_capital_words,
    'Use {} word{s} in all capital letters.',
    '全大写的英文单词{}个。',
    ifeval.capital_word_frequency,
  ),
  'language:response_language': Verifier(
    checks.is_in_language,
    lambda language: f'Write in {languages.NAMES[language][0]}.',
    lambda language: f'用{languages.NAMES[language][1]}写。',
    ifeval.language_response_language,
  ),
  'poem:clauses': Verifier(
    verse.has_clauses,
    'Write exactly {num_lines} lines of {num_characters} Chinese characters.',
    '正好写{num_lines}句，每句{num_characters}个汉字。',
  ),
  'poem:haiku': Verifier(
    verse.is_haiku,
    'Write a haiku: three lines of 5, 7 and 5 syllables.',
    '写一首俳句：三行，依次为5、7、5个音节。',
  ),
  'poem:rhyme': Verifier(
    verse.rhymes,
    'Rhyme the lines by the scheme {scheme} (X is free).',
    '各行按{scheme}押韵（X不必押韵）。',
  ),
  'poem:acrostic': Verifier(
    verse.is_acrostic,
    'Let the first letters of the lines spell "{letters}".',
    '写成藏头诗，各行首字连成“{letters}”。',
  ),
  'style:no_self_reference': Verifier(
    manners.names_no_self,
    'Do not mention that you are an AI.',
    '不要提到自己是人工智能。',
  ),
  'style:piece_alone': Verifier(
    manners.is_piece_alone,
    'Write the piece alone, with no introduction or explanation.',
    '只写作品本身，前后不加任何说明。',
  ),
  'style:no_cliche': Verifier(
    manners.has_no_cliche, 'Use no clichés.', '不要用陈词滥调。'
  ),
  'style:no_repeated_line': Verifier(
    checks.has_no_repeated_line,
    'Do not repeat any line.',
    '任何一行都不要重复。',
  ),
  # what no rule can check: `judges.follow` asks a model
  DEMAND: Verifier(_ask_a_model, '{demand}', '{demand}'),
}
