"""The table of IFBench's rules: instruction id -> the functions that check it.

It is apart from the registry, so that no brief is drawn or extracted with a
rule of the benchmark.
"""

from rlcw.rewards.rules.ifbench import counts, customs, formats, words
from rlcw.rewards.rules.registry import Verifier

RULES: dict[str, Verifier] = {
  'count:conjunctions': Verifier(counts.conjunctions, counts.conjunctions),
  'count:keywords_multiple': Verifier(counts.keywords_multiple, counts.keywords_multiple),
  'count:numbers': Verifier(counts.numbers, counts.numbers),
  'count:person_names': Verifier(counts.person_names, counts.person_names),
  'count:pronouns': Verifier(counts.pronouns, counts.pronouns),
  'count:punctuation': Verifier(counts.punctuation, counts.punctuation),
  'count:unique_word_count': Verifier(counts.unique_word_count, counts.unique_word_count),
  'count:word_count_range': Verifier(counts.word_count_range, counts.word_count_range),
  'count:words_japanese': Verifier(counts.words_japanese, counts.words_japanese),
  'custom:character_reverse': Verifier(customs.character_reverse, customs.character_reverse),
  'custom:csv_city': Verifier(customs.csv_city, customs.csv_city),
  'custom:csv_quotes': Verifier(customs.csv_quotes, customs.csv_quotes),
  'custom:csv_special_character': Verifier(customs.csv_special_character, customs.csv_special_character),
  'custom:date_format_list': Verifier(customs.date_format_list, customs.date_format_list),
  'custom:european_capitals_sort': Verifier(customs.european_capitals_sort, customs.european_capitals_sort),
  'custom:mcq_count_length': Verifier(customs.mcq_count_length, customs.mcq_count_length),
  'custom:multiples': Verifier(customs.multiples, customs.multiples),
  'custom:reverse_newline': Verifier(customs.reverse_newline, customs.reverse_newline),
  'custom:sentence_alphabet': Verifier(customs.sentence_alphabet, customs.sentence_alphabet),
  'custom:word_reverse': Verifier(customs.word_reverse, customs.word_reverse),
  'format:emoji': Verifier(formats.emoji, formats.emoji),
  'format:line_indent': Verifier(formats.line_indent, formats.line_indent),
  'format:list': Verifier(formats.list_, formats.list_),
  'format:newline': Verifier(formats.newline, formats.newline),
  'format:no_bullets_bullets': Verifier(formats.no_bullets_bullets, formats.no_bullets_bullets),
  'format:no_whitespace': Verifier(formats.no_whitespace, formats.no_whitespace),
  'format:options': Verifier(formats.options, formats.options),
  'format:output_template': Verifier(formats.output_template, formats.output_template),
  'format:parentheses': Verifier(formats.parentheses, formats.parentheses),
  'format:quote_unquote': Verifier(formats.quote_unquote, formats.quote_unquote),
  'format:quotes': Verifier(formats.quotes, formats.quotes),
  'format:sub-bullets': Verifier(formats.sub_bullets, formats.sub_bullets),
  'format:thesis': Verifier(formats.thesis, formats.thesis),
  'format:title_case': Verifier(formats.title_case, formats.title_case),
  'ratio:overlap': Verifier(counts.overlap, counts.overlap),
  'ratio:sentence_balance': Verifier(counts.sentence_balance, counts.sentence_balance),
  'ratio:sentence_type': Verifier(counts.sentence_type, counts.sentence_type),
  'ratio:sentence_words': Verifier(counts.sentence_words, counts.sentence_words),
  'ratio:stop_words': Verifier(counts.stop_words, counts.stop_words),
  'repeat:repeat_change': Verifier(customs.repeat_change, customs.repeat_change),
  'repeat:repeat_simple': Verifier(customs.repeat_simple, customs.repeat_simple),
  'repeat:repeat_span': Verifier(customs.repeat_span, customs.repeat_span),
  'sentence:alliteration_increment': Verifier(counts.alliteration_increment, counts.alliteration_increment),
  'sentence:increment': Verifier(counts.increment, counts.increment),
  'sentence:keyword': Verifier(counts.keyword, counts.keyword),
  'words:alphabet': Verifier(words.alphabet, words.alphabet),
  'words:consonants': Verifier(words.consonants, words.consonants),
  'words:keywords_specific_position': Verifier(words.keywords_specific_position, words.keywords_specific_position),
  'words:last_first': Verifier(words.last_first, words.last_first),
  'words:no_consecutive': Verifier(words.no_consecutive, words.no_consecutive),
  'words:odd_even_syllables': Verifier(words.odd_even_syllables, words.odd_even_syllables),
  'words:palindrome': Verifier(words.palindrome, words.palindrome),
  'words:paragraph_last_first': Verifier(words.paragraph_last_first, words.paragraph_last_first),
  'words:prime_lengths': Verifier(words.prime_lengths, words.prime_lengths),
  'words:repeats': Verifier(words.repeats, words.repeats),
  'words:vowel': Verifier(words.vowel, words.vowel),
  'words:words_position': Verifier(words.words_position, words.words_position),
}

# Rules of the benchmark that are refused, and why.
UNSUPPORTED = {
  'words:start_verb': 'needs a part-of-speech tagger',
}
