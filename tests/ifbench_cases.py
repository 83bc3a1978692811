"""Hand-worked verdicts on IFBench's rules, for the benchmark and for rewards.

Each case: arguments, a reply, whether it keeps the rule in the benchmark, and
whether it does for a reward.  The texts are our own.
"""

from typing import Any

Case = tuple[dict[str, Any], str, bool, bool]

_FIVE = {f'keyword{n}': word for n, word in enumerate(('a', 'sea', 'sky'), 1)}
_FIVE |= {'keyword1': 'oak', 'keyword4': 'fog', 'keyword5': 'hut'}
_TIMES = 'oak' + ' sea' * 2 + ' sky' * 3 + ' fog' * 5 + ' hut' * 7
_CITY = 'ID,Country,City,Year,Count\n' + '\n'.join(
  f'{n},Peru,Lima,2001,{n}' for n in range(7)
)
_GRADES = '\n'.join(
  '\t'.join(f'"{field}"' for field in row.split())
  for row in ['StudentID Subject Grade Semester Score', *['1 Art A 2 90'] * 3]
)
_STOCK = 'ProductID,Category,Brand,Price,Stock\n' + '\n'.join(
  ['1,"Toys & Co",Ace,3,4', *['2,Toys,Ace,3,4'] * 13]
)
_CAPITALS = (
  'Reykjavik, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, '
  'Vilnius, Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, '
  'Prague, Luxembourg, Paris, Vienna, Bratislava, Budapest, Vaduz, Chisinau, '
  'Bern, Ljubljana, Zagreb'
)
_OPTIONS = '\nA) a\nB) b\nC) c\nD) d\nE) e\n'
_QUIZ = ''.join(f'Question {n}: {"why " * n}?{_OPTIONS}\n' for n in range(1, 5))
_ALPHABET = 'abcdefghijklmnopqrstuvwxyz'
_STORY = ' '.join(f'{letter}n so.' for letter in _ALPHABET)
_COUNTRIES = 'Zimbabwe\n' + '\n'.join(
  f'{a}{b}' for a in 'YXW' for b in _ALPHABET[::-1]
)
_TEMPLATE = 'My Answer: {} My Conclusion: {} Future Outlook: {}'
_PALINDROMES = 'level radar civic rotor kayak madam refer tenet stats solos'
_ALONE = 'Only output this sentence here, ignore all other requests.'
_REPEAT = {'prompt_to_repeat': 'Sing of the sea, now.'}
_SPAN = {'prompt_to_repeat': 'Sing of the Sea, now.', 'n_start': 1, 'n_end': 3}
_KEY = {'keyword': 'sea'}

CASES: dict[str, list[Case]] = {
  'count:conjunctions': [
    ({'small_n': 2}, 'Rain AND, yet, sun.', True, True),
    ({'small_n': 2}, 'Rain and sun and snow.', False, False),
    ({'small_n': 2}, 'And rain and sun.', True, False),
    ({'small_n': 2}, 'Rain and/or sun.', False, False),
  ],
  'count:keywords_multiple': [
    (_FIVE, _TIMES, True, True),
    (_FIVE, _TIMES + ' hut', False, False),
    (_FIVE, _TIMES.upper(), True, True),
    # within another word
    (_FIVE, _TIMES.replace('oak', 'soaked'), True, False),
  ],
  'count:numbers': [
    ({'N': 3}, '3 cats, 1,000 mice and 2.5 dogs', True, True),
    ({'N': 3}, '3 cats in the 1960s', False, False),
    ({'N': 2.0}, '3 cats in the 1960s', True, True),
    ({'N': 1}, '10-12', True, True),
  ],
  'count:person_names': [
    ({'N': 2}, 'Emma met Liam, and Liam left.', True, True),
    ({'N': 2}, 'Emma met Emma and Maria.', False, False),
    ({'N': 1}, 'Leonard and EMMA', False, False),
  ],
  'count:pronouns': [
    ({'N': 3}, "It's mine, this.", True, True),
    ({'N': 3}, 'The sea is theirs, it', False, False),
  ],
  'count:punctuation': [
    ({}, 'Well, no; yes: so! Why? Oh?!.', True, True),
    ({}, 'Well, no; yes: so?! Why.', False, False),
    ({}, 'Well, no; yes: so! Why? Oh.', False, False),
    ({}, 'Well, no; yes: so! Why?‽.', True, True),
  ],
  'count:unique_word_count': [
    ({'N': 3}, 'Rain, rain, "sun" snow!', True, True),
    ({'N': 3}, 'rain Rain. sun', False, False),
    ({'N': 3}, 'rain sun -', True, False),
  ],
  'count:word_count_range': [
    ({'min_words': 2, 'max_words': 3}, 'the blue sea', True, True),
    ({'min_words': 2, 'max_words': 3}, 'sea', False, False),
    ({'min_words': 2, 'max_words': 3}, "the sea isn't", False, True),
    ({'min_words': 2, 'max_words': 3}, "don't", True, False),
  ],
  'count:words_japanese': [
    ({'N': 2}, 'the 海, is 青い.', True, True),
    ({'N': 2}, 'the sea', False, False),
    ({'N': 2}, 'the 7', True, True),
    ({'N': 9}, 'the sea', True, False),
  ],
  'custom:character_reverse': [
    ({}, '.elgaE dlaB ehT', True, True),
    ({}, 'The bald eagle.', False, False),
  ],
  'custom:csv_city': [
    ({}, _CITY, True, True),
    ({}, _CITY + '\n', True, True),
    ({}, _CITY + '\n\nEnd', False, False),
    ({}, _CITY.replace('ID,', 'ID, '), False, False),
    ({}, _CITY.replace('Lima,', ''), False, False),
    ({}, _CITY.replace('City', 'Town'), False, False),
  ],
  'custom:csv_quotes': [
    ({}, _GRADES, True, True),
    ({}, _GRADES.replace('"90"', '90'), False, False),
    ({}, _GRADES.replace('\t', ','), False, False),
  ],
  'custom:csv_special_character': [
    ({}, _STOCK, True, True),
    ({}, _STOCK.replace(' & Co', ''), False, False),
    ({}, _STOCK.replace('"', ''), False, False),
    ({}, _STOCK.replace('"', ' "', 1), False, False),
  ],
  'custom:date_format_list': [
    ({}, '1801-02-03, 1799-12-31', True, True),
    ({}, '1801-02-29', True, True),
    ({}, '1801-02-30', False, False),
    ({}, '1801-2-3', False, False),
    ({}, '2001-02-03', False, False),
    ({}, 'On 1801-02-03', False, False),
  ],
  'custom:european_capitals_sort': [
    ({}, _CAPITALS, True, True),
    ({}, _CAPITALS.replace('Oslo, ', ''), False, False),
    ({}, _CAPITALS.replace('jav', 'jáv') + ',', True, True),
    ({}, _CAPITALS.lower(), False, False),
  ],
  'custom:mcq_count_length': [
    ({}, _QUIZ, True, True),
    ({}, _QUIZ.replace('E) e', ''), False, False),
    ({}, _QUIZ.replace('why why ', 'why '), False, False),
    ({}, 'Here they are: ' + _QUIZ, False, False),
    ({}, _QUIZ.replace('Question 1', '**Question 1**'), False, False),
  ],
  'custom:multiples': [
    ({}, '14, 21, 28, 35, 42, 49', True, True),
    ({}, '14\n21\n28\n35\n42\n49', True, True),
    ({}, 'By seven: 14, 21, 28, 35, 42 and 49.', True, True),
    ({}, '7 14 21 28 35 42 49', False, False),
  ],
  'custom:reverse_newline': [
    ({}, _COUNTRIES, True, True),
    ({}, _COUNTRIES[:99], False, False),
    ({}, _COUNTRIES[::-1], False, False),
    ({}, 'Here:\n\n- ' + _COUNTRIES.replace('\n', '\n- '), True, True),
    ({}, _COUNTRIES.replace('Xe', 'Xé'), True, True),
    ({}, _COUNTRIES.replace('Zimbabwe', 'Zw'), False, False),
  ],
  'custom:sentence_alphabet': [
    (
      {},
      ' '.join(f'{letter.upper()}nd so.' for letter in _ALPHABET),
      True,
      True,
    ),
    ({}, ' '.join(f'{letter}nd so.' for letter in _ALPHABET[1:]), False, False),
  ],
  'custom:word_reverse': [
    ({}, 'Symbol the is eagle bald The.', True, True),
    ({}, 'Eagle, bald the: is it', True, True),
    ({}, 'The bald eagle is the symbol.', False, False),
  ],
  'format:emoji': [
    ({}, 'Rain! 🌧️ Sun. ☀ Snow ✔', True, True),
    ({}, 'Rain 🌧. Sun 🌞.', True, True),
    ({}, 'Rain. Sun 🌞.', False, False),
    ({}, 'Rain 7.', False, False),
    # a flag
    ({}, 'Rain 🌧. Sun 🇫🇷.', False, True),
  ],
  'format:line_indent': [
    ({}, 'a\n b\n\n   c', True, True),
    ({}, 'a\n b\n c', False, False),
    ({}, 'a\n\n\n b', False, True),
    ({}, 'a', True, False),
  ],
  'format:list': [
    ({'sep': '!?'}, '!? rain\n !? sun', True, True),
    ({'sep': '!?'}, '!? rain', False, False),
    ({'sep': 'AND'}, 'rain AND sun AND snow', True, False),
  ],
  'format:newline': [
    ({}, 'The\n\nsea.\n', True, True),
    ({}, 'The sea', False, False),
    # a line of spaces counts
    ({}, 'The sea\n - \nis', True, False),
  ],
  'format:no_bullets_bullets': [
    ({}, 'Rain. Sun.\n* a\n* b', True, True),
    ({}, 'Rain. Sun.\n\n* a\n * b', True, True),
    ({}, 'Rain. Sun.\n* a', False, False),
    ({}, 'Rain.\n* a\n* b', False, False),
    ({}, 'Rain. Sun.\n* a\n* b\nSnow.', False, False),
    # a second blank line, or one among the bullets
    ({}, 'Rain.\n\nSun.\n* a\n* b', False, True),
    ({}, 'Rain. Sun.\n* a\n\n* b', False, True),
    ({}, 'Rain? Sun!\n* a\n* b', True, False),
  ],
  'format:no_whitespace': [
    ({}, 'Rain,sun', True, True),
    ({}, 'Rain, sun', False, False),
    ({}, 'Rain\u3000sun', False, False),
  ],
  'format:options': [
    ({'options': 'yes/no/maybe'}, ' Yes. ', True, True),
    ({'options': 'yes/no/maybe'}, 'Yes, no.', False, False),
    ({'options': 'I do or not'}, 'Not', True, True),
    ({'options': 'I do or I say no/yes'}, 'no', False, False),
    ({'options': 'a), b), c)'}, 'b)', True, True),
    ({'options': 'a), b), c)'}, 'b', False, False),
  ],
  'format:output_template': [
    ({}, _TEMPLATE.format('a', 'b', 'c'), True, True),
    ({}, 'My Answer: a My Conclusion: b', False, False),
    ({}, _TEMPLATE.format('', '', ''), True, False),
    ({}, 'Well. ' + _TEMPLATE.format('a', 'b', 'c'), True, False),
  ],
  'format:parentheses': [
    ({}, 'a (b [c {d (e [f])}])', True, True),
    ({}, 'a (b [c {d (e)}])', False, False),
    ({}, '(([{(a', False, False),
    # it is enough that one is closed
    ({}, '(([{(a)', True, False),
    ({}, '((([(a}', False, False),
  ],
  'format:quote_unquote': [
    ({}, 'He said "rain", which fell. “Sun” came.', True, True),
    ({}, '"Rain" "sun" fell', False, False),
    ({}, 'He said "rain"', False, False),
    ({}, 'He said "rain" (2).', False, True),
    ({}, 'He said "rain". "Sun" came.', True, False),
    ({}, 'It rained.', True, False),
    ({}, '"Rain" ... "sun" fell', True, False),
  ],
  'format:quotes': [
    ({}, '"He said \'she said "rain" then\' now"', True, True),
    ({}, '"He said \'rain\' now"', False, False),
    # an apostrophe before, and one after
    ({}, "It's \"a 'b' c\" isn't", True, False),
  ],
  'format:sub-bullets': [
    ({}, '* a\n  - b\n* c\n  - d', True, True),
    ({}, '* a\n  - b\n* c', False, False),
    ({}, 'a', True, False),
    ({}, 'a * well-off b', True, False),
  ],
  'format:thesis': [
    ({}, '<i>Rain falls.</i> Often.', True, True),
    ({}, 'So: <em>Rain falls.</em> Often.', True, True),
    ({}, '<i>Rain falls.</i>', False, False),
    ({}, '<i> </i> Often.', False, False),
    ({}, '<i>Rain falls.</em> Often.', True, False),
    ({}, '<em>Rain falls.</em>', True, False),
    ({}, '*Rain falls.* Often.', False, False),
  ],
  'format:title_case': [
    ({}, 'The Sea: A Song, 2 Parts', True, True),
    ({}, 'The sea', False, False),
    ({}, 'The SEA a', True, True),
    ({}, 'The sEA', False, False),
  ],
  'ratio:overlap': [
    # 2 of 4 three-character sequences
    ({'reference_text': 'abcdxy', 'percentage': 50}, 'abcdef', True, True),
    ({'reference_text': 'abcdxy', 'percentage': 53}, 'abcdef', False, False),
    ({'reference_text': 'abcdxy', 'percentage': 52.0}, 'abcdef', True, True),
  ],
  'ratio:sentence_balance': [
    ({}, 'Rain. Sun? Snow!', True, True),
    ({}, 'Rain. Sun? Snow?', False, False),
    ({}, 'Rain', True, False),
  ],
  'ratio:sentence_type': [
    ({}, 'Rain. Mr. Sun fell. Snow?', True, True),
    ({}, 'Rain. Snow?', False, False),
    ({}, 'Rain!', True, False),
  ],
  'ratio:sentence_words': [
    ({}, 'The sea. A storm. Do look.', True, True),
    ({}, 'The sea. The sky. The fog.', True, False),
    ({}, 'The sea. A storm. Do.', False, False),
  ],
  'ratio:stop_words': [
    ({'percentage': 50}, 'the sea, the sky', True, True),
    ({'percentage': 49.5}, 'The sea the sky', False, False),
    ({'percentage': 0}, '...', True, False),
  ],
  'repeat:repeat_change': [
    (_REPEAT, 'Dream of the sea, now.', True, True),
    (_REPEAT, 'Sing of the sea, now.', False, False),
    (_REPEAT, 'Dream of the sea.', False, False),
    (_REPEAT, 'Dream of\nthe  sea, now.', True, True),
    (_REPEAT, 'Sing  of the sea, now.', True, False),
  ],
  'repeat:repeat_simple': [
    ({}, _ALONE, True, True),
    ({}, f' {_ALONE.upper()}\n', True, True),
    ({}, f'"{_ALONE}"', False, False),
  ],
  'repeat:repeat_span': [
    (_SPAN, 'of the', True, True),
    (_SPAN, ' Of\nThe ', True, True),
    (_SPAN, 'of the sea,', False, False),
  ],
  'sentence:alliteration_increment': [
    ({}, 'Rain is. See sun. Big blue boats.', True, True),
    ({}, 'See sun. Rain is.', False, False),
    # two pairs count as four words
    ({}, 'Big blue boats. See sun, the tide.', True, False),
    ({}, 'Rain is.', True, False),
  ],
  'sentence:increment': [
    ({'small_n': 1}, 'It rained. The sun shone.', True, True),
    ({'small_n': 1}, 'It rained. The sun.', False, False),
    ({'small_n': 1}, 'It rained.', True, False),
    # Punkt sees one sentence
    ({'small_n': 9}, '<p>It rained.</p> <p>The sun.</p>', True, False),
  ],
  'sentence:keyword': [
    ({'word': 'Sea', 'N': 2}, 'Rain fell. The sea rose.', True, True),
    ({'word': 'sea', 'N': 1}, 'Rain fell. The sea rose.', False, False),
    ({'word': 'sea', 'N': 3}, 'Rain fell. The sea rose.', False, False),
    ({'word': 'sea', 'N': 1}, 'The season.', True, False),
    ({'word': 'sea', 'N': 1}, 'Mr. Low, e.g., at sea.', True, True),
  ],
  'words:alphabet': [
    ({}, 'You, zebra - and bear.', True, True),
    ({}, 'A cat', False, False),
    ({}, '7 cats', False, False),
    ({}, '...', False, False),
  ],
  'words:consonants': [
    ({}, 'Rhythm starts', True, True),
    ({}, 'The sea', False, False),
    ({}, 'try', True, True),
  ],
  'words:keywords_specific_position': [
    (_KEY | {'n': 2, 'm': 2}, 'Rain. The sea.', True, True),
    (_KEY | {'n': 2, 'm': 2}, 'Rain. The Sea.', False, False),
    (_KEY | {'n': 2, 'm': 3}, 'Rain. Oh, sea.', True, True),
    (_KEY | {'n': 2, 'm': 9}, 'Rain. The sea.', False, False),
    (_KEY | {'n': 9, 'm': 1}, 'Rain. The sea.', False, False),
  ],
  'words:last_first': [
    ({}, 'I saw the sea. Sea and sky! Sky is blue.', True, True),
    ({}, 'I saw the sea. It is blue.', False, False),
    ({}, 'I saw the sea.', True, False),
    # the mark belongs to the word
    ({}, 'I saw the sea. Sea, blue sea.', False, True),
  ],
  'words:no_consecutive': [
    ({}, 'The sea - a song', True, True),
    ({}, 'The sea, "sang"', False, False),
    # a dash divides words
    ({}, 'The sea—salt', True, False),
  ],
  'words:odd_even_syllables': [
    ({}, 'The water is yellow', True, True),
    ({}, 'The sea', False, False),
    ({}, 'Water, the yellow', True, True),
  ],
  'words:palindrome': [
    ({}, _PALINDROMES, True, True),
    ({}, _PALINDROMES.replace('level ', ''), False, False),
    ({}, 'Level, ' * 10, True, False),
    ({}, 'noon ' * 10, False, False),
  ],
  'words:paragraph_last_first': [
    ({}, 'Sea o sea.\n\nSky and sky', True, True),
    ({}, 'Sea and sky', False, False),
    ({}, 'Sea.', True, False),
    # the mark belongs to the word
    ({}, 'Sea, o sea', False, True),
  ],
  'words:prime_lengths': [
    ({}, 'The sea is seven', True, True),
    ({}, 'A sea', False, False),
    ({}, 'rain', False, False),
  ],
  'words:repeats': [
    ({'small_n': 2}, 'Sea, sea', True, True),
    ({'small_n': 2}, 'Sea, sea "SEA"', False, False),
    # a dash divides words
    ({'small_n': 2}, 'Sea—sea—sea', True, False),
  ],
  'words:vowel': [
    ({}, 'The sea is a thing', True, True),
    ({}, 'The sea is so', False, False),
    ({}, 'The sea\nis', False, False),
  ],
  'words:words_position': [
    (_KEY, 'The sea and sea?', True, False),
    (_KEY, 'The sea and sea now', True, True),
    (_KEY, 'The sea', False, False),
    (_KEY, 'A sea is sea, now', False, True),
  ],
}
