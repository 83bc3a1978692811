"""The table of IFBench's rules: instruction id -> the functions that check it.

It is apart from the registry, so that no brief is drawn or extracted with a
rule of the benchmark.
"""

from collections.abc import Callable

from rlcw.rewards.rules.ifbench import counts, customs, formats, strict, words
from rlcw.rewards.rules.registry import Verifier


def _same(check: Callable[..., bool]) -> Verifier:
  return Verifier(check, check)


# A rule with two checks has a stricter one for rewards.
RULES: dict[str, Verifier] = {
  'count:conjunctions': Verifier(strict.conjunctions, counts.conjunctions),
  'count:keywords_multiple': Verifier(
    strict.keywords_multiple, counts.keywords_multiple
  ),
  'count:numbers': _same(counts.numbers),
  'count:person_names': _same(counts.person_names),
  'count:pronouns': _same(counts.pronouns),
  'count:punctuation': _same(counts.punctuation),
  'count:unique_word_count': Verifier(
    strict.unique_word_count, counts.unique_word_count
  ),
  'count:word_count_range': Verifier(
    strict.word_count_range, counts.word_count_range
  ),
  'count:words_japanese': Verifier(
    strict.words_japanese, counts.words_japanese
  ),
  'custom:character_reverse': _same(customs.character_reverse),
  'custom:csv_city': _same(customs.csv_city),
  # Its tabs are no visible text.
  'custom:csv_quotes': Verifier(
    customs.csv_quotes, customs.csv_quotes, raw=True
  ),
  'custom:csv_special_character': _same(customs.csv_special_character),
  'custom:date_format_list': _same(customs.date_format_list),
  'custom:european_capitals_sort': _same(customs.european_capitals_sort),
  'custom:mcq_count_length': _same(customs.mcq_count_length),
  'custom:multiples': _same(customs.multiples),
  'custom:reverse_newline': _same(customs.reverse_newline),
  'custom:sentence_alphabet': _same(customs.sentence_alphabet),
  'custom:word_reverse': _same(customs.word_reverse),
  'format:emoji': Verifier(strict.emoji, formats.emoji),
  'format:line_indent': Verifier(strict.line_indent, formats.line_indent),
  'format:list': Verifier(strict.separated, formats.separated),
  'format:newline': Verifier(strict.newline, formats.newline),
  'format:no_bullets_bullets': Verifier(
    strict.no_bullets_bullets, formats.no_bullets_bullets
  ),
  'format:no_whitespace': _same(formats.no_whitespace),
  'format:options': _same(formats.options),
  'format:output_template': Verifier(
    strict.output_template, formats.output_template
  ),
  'format:parentheses': Verifier(strict.parentheses, formats.parentheses),
  'format:quote_unquote': Verifier(strict.quote_unquote, formats.quote_unquote),
  'format:quotes': Verifier(strict.quotes, formats.quotes),
  'format:sub-bullets': Verifier(strict.sub_bullets, formats.sub_bullets),
  'format:thesis': Verifier(strict.thesis, formats.thesis),
  'format:title_case': _same(formats.title_case),
  'ratio:overlap': _same(counts.overlap),
  'ratio:sentence_balance': Verifier(
    strict.sentence_balance, counts.sentence_balance
  ),
  'ratio:sentence_type': Verifier(strict.sentence_type, counts.sentence_type),
  'ratio:sentence_words': Verifier(
    strict.sentence_words, counts.sentence_words
  ),
  'ratio:stop_words': Verifier(strict.stop_words, counts.stop_words),
  'repeat:repeat_change': Verifier(strict.repeat_change, customs.repeat_change),
  'repeat:repeat_simple': _same(customs.repeat_simple),
  'repeat:repeat_span': _same(customs.repeat_span),
  'sentence:alliteration_increment': Verifier(
    strict.alliteration_increment, counts.alliteration_increment
  ),
  'sentence:increment': Verifier(strict.increment, counts.increment),
  'sentence:keyword': Verifier(strict.keyword, counts.keyword),
  'words:alphabet': _same(words.alphabet),
  'words:consonants': _same(words.consonants),
  'words:keywords_specific_position': _same(words.keywords_specific_position),
  'words:last_first': Verifier(strict.last_first, words.last_first),
  'words:no_consecutive': Verifier(strict.no_consecutive, words.no_consecutive),
  'words:odd_even_syllables': _same(words.odd_even_syllables),
  'words:palindrome': Verifier(strict.palindrome, words.palindrome),
  'words:paragraph_last_first': Verifier(
    strict.paragraph_last_first, words.paragraph_last_first
  ),
  'words:prime_lengths': _same(words.prime_lengths),
  'words:repeats': Verifier(strict.repeats, words.repeats),
  'words:vowel': _same(words.vowel),
  'words:words_position': Verifier(strict.words_position, words.words_position),
}

# Rules of the benchmark that are refused, and why.
UNSUPPORTED = {'words:start_verb': 'needs a part-of-speech tagger'}
