"""Sentences that ask for IFBench's rules, in English only."""

SENTENCES: dict[str, str] = {
  'count:conjunctions': (
    'Use {small_n} or more different coordinating conjunctions.'
  ),
  'count:keywords_multiple': (
    'Use "{keyword1}" once, "{keyword2}" 2 times, "{keyword3}" 3 times, '
    '"{keyword4}" 5 times and "{keyword5}" 7 times.'
  ),
  'count:numbers': 'Use exactly {N} numbers, written in digits.',
  'count:person_names': 'Name at least {N} people from the list.',
  'count:pronouns': 'Use at least {N} pronouns.',
  'count:punctuation': 'Use . , ! ? ; and :, and an interrobang (?!) as well.',
  'count:unique_word_count': 'Use at least {N} different words.',
  'count:word_count_range': 'Write {min_words} to {max_words} words.',
  'count:words_japanese': 'Of every {N} words, write the last in Japanese.',
  'custom:character_reverse': 'Answer with all letters in reverse order.',
  'custom:csv_city': 'Write CSV of 7 rows: ID,Country,City,Year,Count.',
  'custom:csv_quotes': (
    'Write 3 rows, with tabs between quoted fields: StudentID, Subject, Grade, '
    'Semester, Score.'
  ),
  'custom:csv_special_character': (
    'Write CSV of 14 rows: ProductID,Category,Brand,Price,Stock. Quote a field '
    'with a special character.'
  ),
  'custom:date_format_list': 'Write only dates like 2024-01-31, with commas.',
  'custom:european_capitals_sort': (
    'List the European capitals north of 45 degrees from north to south.'
  ),
  'custom:mcq_count_length': (
    'Write 4 questions, each longer than the last, with 5 options each.'
  ),
  'custom:multiples': 'Write only the multiples of 7 between 10 and 50.',
  'custom:reverse_newline': 'Give each item a line, from Z to A.',
  'custom:sentence_alphabet': 'Begin 26 sentences with A to Z, in order.',
  'custom:word_reverse': 'Answer with all words in reverse order.',
  'format:emoji': 'End each sentence with an emoji.',
  'format:line_indent': 'Indent each line more than the one above.',
  'format:list': 'Begin each item of a list with {sep}.',
  'format:newline': 'Put one word on each line.',
  'format:no_bullets_bullets': (
    'Write two sentences or more, then two bullets or more that begin with *.'
  ),
  'format:no_whitespace': 'Use no spaces and no line breaks.',
  'format:options': 'Answer only with one of these: {options}.',
  'format:output_template': (
    'Put your text under My Answer:, My Conclusion: and Future Outlook:.'
  ),
  'format:parentheses': 'Nest brackets five deep.',
  'format:quote_unquote': 'Explain each quotation in words after it.',
  'format:quotes': 'Nest double and single quotes three deep.',
  'format:sub-bullets': 'Give bullets (*), each with sub-bullets (-).',
  'format:thesis': 'Begin with a thesis in <i></i>.',
  'format:title_case': 'Begin each word with a capital letter.',
  'ratio:overlap': (
    'Take {percentage}% of the three-character sequences from this text: '
    '{reference_text}'
  ),
  'ratio:sentence_balance': (
    'Write as many statements as questions and as exclamations.'
  ),
  'ratio:sentence_type': 'Write two statements for each question.',
  'ratio:sentence_words': (
    'Write three sentences of equal length that share no word.'
  ),
  'ratio:stop_words': 'Let at most {percentage}% of the words be stop words.',
  'repeat:repeat_change': (
    'Repeat only this, with another first word: {prompt_to_repeat}'
  ),
  'repeat:repeat_simple': (
    'Only output this sentence here, ignore all other requests.'
  ),
  'repeat:repeat_span': (
    'Copy the words from index {n_start} to before {n_end} of this text: '
    '{prompt_to_repeat}'
  ),
  'sentence:alliteration_increment': (
    'Give each sentence a longer alliteration than the one before.'
  ),
  'sentence:increment': (
    'Make each sentence {small_n} words longer than the one before.'
  ),
  'sentence:keyword': 'Use "{word}" in sentence {N}.',
  'words:alphabet': 'Begin each word with the next letter of the alphabet.',
  'words:consonants': 'Use only words with two consonants in a row.',
  'words:keywords_specific_position': (
    'Make "{keyword}" word {m} of sentence {n}.'
  ),
  'words:last_first': 'Begin sentences with the last word before them.',
  'words:no_consecutive': 'Let no two words in a row begin with one letter.',
  'words:odd_even_syllables': (
    'Alternate words with odd and even numbers of syllables.'
  ),
  'words:palindrome': 'Use 10 palindromes of 5 or more letters.',
  'words:paragraph_last_first': 'End each paragraph with its first word.',
  'words:prime_lengths': 'Use only words whose length is a prime number.',
  'words:repeats': 'Use no word more than {small_n} times.',
  'words:vowel': 'Write one paragraph with at most three of the vowels.',
  'words:words_position': (
    'Make "{keyword}" the second word and the last but one.'
  ),
}
