"""English wordings of each rule, as sentences in a brief.

All wordings of a rule mean the same, no more and no less than its check tests;
the first is the default.  Fields are the check's arguments, and those that
`wording` derives from them: `amount`, `s`, `words`, `answers`, `language` and
`script`.  `NAMES` has a rule's short name for tables and plots.
"""

# IFEval's word and sentence rules give one bound, `length:words` and
# `length:sentences` up to two; `amount` covers both, so they share templates.
_WORDS = (
  'Use {amount} word{s}.',
  'The reply must have {amount} word{s}.',
  'Write {amount} word{s} in all.',
)
_SENTENCES = (
  'Use {amount} sentence{s}.',
  'The reply must have {amount} sentence{s}.',
  'Write {amount} sentence{s} in all.',
)
WORDINGS = {
  'length:words': _WORDS,
  'length:characters': (
    'Use {amount} non-space character{s}.',
    'The reply must have {amount} character{s}, spaces not counted.',
    'Not counting spaces, write {amount} character{s}.',
  ),
  'length:sentences': _SENTENCES,
  'length:paragraphs': (
    'Use {amount} paragraph{s} (a blank line starts a new one).',
    'The reply must have {amount} paragraph{s}, with a blank line between any '
    'two.',
    'Write {amount} paragraph{s}, set apart by blank lines.',
  ),
  'length:lines': (
    'Use {amount} non-blank line{s}.',
    'The reply must have {amount} line{s}, blank ones not counted.',
    'Not counting blank ones, write {amount} line{s}.',
  ),
  'length_constraints:number_words': _WORDS,
  'length_constraints:number_sentences': _SENTENCES,
  'length_constraints:number_paragraphs': (
    # `s` agrees with `amount`, which is the number if the rule has just one.
    'Write exactly {num_paragraphs} paragraph{s}, with a line of *** between '
    'any two.',
    'The reply must have exactly {num_paragraphs} paragraphs, each parted from '
    'the next by a line with only *** on it.',
    'Use lines that hold nothing but *** to divide the reply into exactly '
    '{num_paragraphs} paragraphs.',
  ),
  'length_constraints:nth_paragraph_first_word': (
    'Write exactly {num_paragraphs} paragraph{s} (a blank line starts a new '
    'one), number {nth_paragraph} of which begins with "{first_word}".',
    'The reply must have exactly {num_paragraphs} paragraphs, set apart by '
    'blank lines, and paragraph {nth_paragraph} must start with '
    '"{first_word}".',
    'With blank lines between them, write exactly {num_paragraphs} paragraphs; '
    'the first word of paragraph {nth_paragraph} is "{first_word}".',
  ),
  'keywords:existence': (
    'Include {words}.',
    'The reply must contain {words}.',
    'Be sure to use {words}.',
  ),
  'keywords:frequency': (
    'Use the word "{keyword}" {amount} time{s}.',
    'The word "{keyword}" must occur {amount} time{s}.',
    'As a whole word, "{keyword}" must appear {amount} time{s}.',
  ),
  'keywords:forbidden_words': (
    'Do not use {words}.',
    'The reply must not contain {words}.',
    'Avoid {words}.',
  ),
  'keywords:letter_frequency': (
    # "Character", because it may be a digit, a mark or a Han character.
    'Use the character "{letter}" {amount} time{s}.',
    'The character "{letter}" must occur {amount} time{s}.',
    'Let the character "{letter}" appear {amount} time{s}.',
  ),
  'startend:start_checker': (
    'Begin with "{start_phrase}".',
    'The reply must start with "{start_phrase}".',
    'Open with "{start_phrase}".',
  ),
  'startend:end_checker': (
    'End with "{end_phrase}".',
    'The reply must finish with "{end_phrase}".',
    'Close with "{end_phrase}" and add nothing after it.',
  ),
  'startend:quotation': (
    'Wrap the reply in double quotes.',
    'Put the entire reply inside double quotation marks.',
    'The reply must stand, from first to last, in double quotes.',
  ),
  'punctuation:no_comma': (
    'Use no commas.',
    'The reply must not contain any comma.',
    'Write it without commas.',
  ),
  'punctuation:no_exclamation': (
    'Use no exclamation marks.',
    'The reply must not contain any exclamation mark.',
    'Write it without exclamation marks.',
  ),
  'punctuation:no_emoji': (
    'Use no emoji.',
    'The reply must not contain any emoji.',
    'Write it without emoji.',
  ),
  'detectable_format:json_format': (
    'Write the entire reply as valid JSON.',
    'The whole reply must be valid JSON.',
    'Reply with valid JSON and nothing else.',
  ),
  'detectable_format:number_bullet_lists': (
    # Only "- " is mentioned, though the check accepts other bullets too.
    'Begin exactly {num_bullets} of the lines with "- ", as bullet points.',
    'The reply must have exactly {num_bullets} bullet point{s}, each on a line '
    'that starts with "- ".',
    'Make exactly {num_bullets} bullet point{s}, by starting a line with "- " '
    'for each.',
  ),
  'detectable_format:title': (
    'Include a title within << and >>.',
    'The reply must have a title, enclosed in << and >>.',
    'Give it a title, and write that between << and >>.',
  ),
  'detectable_format:number_highlighted_sections': (
    'Highlight at least {num_highlights} passage{s} with *asterisks*.',
    'The reply must have at least {num_highlights} passage{s} highlighted with '
    '*asterisks*.',
    'Put *asterisks* around at least {num_highlights} passage{s} as a '
    'highlight.',
  ),
  'detectable_format:multiple_sections': (
    'Write at least {num_sections} section{s}, headed "{section_spliter} 1" '
    'and so on.',
    'The reply must have at least {num_sections} section{s}, with headings '
    'numbered from "{section_spliter} 1" on.',
    'Divide it into no fewer than {num_sections} section{s}, and head them '
    '"{section_spliter} 1" and so forth.',
  ),
  'detectable_format:constrained_response': (
    'Answer with {answers}, word for word.',
    'The reply must contain one and only one of these, word for word: '
    '{answers}.',
    'Choose one of {answers} and answer with it word for word.',
  ),
  'detectable_content:number_placeholders': (
    'Leave at least {num_placeholders} placeholder{s} in square brackets, such '
    'as [address].',
    'The reply must have at least {num_placeholders} placeholder{s} in square '
    'brackets, for example [name].',
    'Put in at least {num_placeholders} placeholder{s}, in square brackets '
    'like [date].',
  ),
  'detectable_content:postscript': (
    'Add a postscript that begins with {postscript_marker} on its own line.',
    'The reply must have a postscript, with {postscript_marker} at the start '
    'of its line.',
    'After the text, on a new line that opens with {postscript_marker} write a '
    'postscript.',
  ),
  'combination:two_responses': (
    'Give two different replies, with a line of ****** between them.',
    'Write two replies that differ, parted by a line with only ****** on it.',
    'Reply twice, not in the same words, and put a line of ****** between the '
    'two.',
  ),
  'combination:repeat_prompt': (
    'First repeat this request word for word, then answer it: '
    '"{prompt_to_repeat}".',
    'Before the answer, the reply must give this request without any change: '
    '"{prompt_to_repeat}".',
    'Start by copying this request word for word, and answer it after that: '
    '"{prompt_to_repeat}".',
  ),
  'change_case:english_lowercase': (
    'Use only lower-case letters.',
    'The reply must be all in lower case.',
    'Write every letter in lower case, with no capitals.',
  ),
  'change_case:english_capital': (
    'Use only capital letters.',
    'The reply must be all in capitals.',
    'Write every letter as a capital, with no lower case.',
  ),
  'change_case:capital_word_frequency': (
    'Use {amount} word{s} in all capital letters.',
    'The reply must have {amount} word{s} in all capitals.',
    'Write {amount} word{s} entirely in capitals.',
  ),
  'language:response_language': (
    'Write in {language}.',
    'The reply must be in {language}.',
    'Use {language} for the reply.',
  ),
  'poem:clauses': (
    'Write exactly {num_lines} lines of {num_characters} Chinese characters.',
    'The poem must have exactly {num_lines} lines, each of {num_characters} '
    'Chinese characters.',
    'Use exactly {num_lines} lines, with {num_characters} Chinese characters '
    'in each.',
  ),
  'poem:haiku': (
    'Write a haiku: three lines of 5, 7 and 5 syllables.',
    'The reply must be a haiku, with 5, 7 and 5 syllables in its three lines.',
    'Make it a haiku of three lines, which have 5, 7 and 5 syllables.',
  ),
  'poem:rhyme': (
    # A scheme with X needs its meaning explained in every wording.
    'Rhyme the lines by the scheme {scheme} (X is free).',
    'The lines must rhyme in the pattern {scheme}, where X marks a line that '
    'need not.',
    'Follow the rhyme scheme {scheme}; lines marked X need not rhyme.',
  ),
  'poem:acrostic': (
    'Let the first letters of the lines spell "{letters}".',
    'The lines must form an acrostic: their first letters spell "{letters}".',
    'Read downwards, the first letters of the lines have to spell "{letters}".',
  ),
  'style:no_self_reference': (
    'Do not mention that you are an AI.',
    'The reply must not say that an AI wrote it.',
    'Never speak of yourself as an AI.',
  ),
  'style:piece_alone': (
    'Write the piece alone, with no introduction or explanation.',
    'The reply must be the piece and nothing else: neither introduce nor '
    'explain it.',
    'Give just the piece itself, without a word of introduction or '
    'explanation.',
  ),
  'style:no_cliche': (
    'Use no clichés.',
    'The reply must not contain any cliché.',
    'Write it without clichés.',
  ),
  'style:no_repeated_line': (
    'Do not repeat any line.',
    'The reply must not have the same line twice.',
    'Every line must differ from all others.',
  ),
  'style:script': (
    'Write in {script} Chinese characters.',
    'The reply must be in {script} Chinese characters.',
    'Use {script} Chinese characters only.',
  ),
  'soft:demand': (
    # A demand is a sentence already, so the default is the text itself.
    '{demand}',
    'One thing more: {demand}',
    'And please: {demand}',
  ),
}

# A rule's name whatever its arguments, and with them; one text where it has no
# arguments.
NAMES: dict[str, tuple[str, str] | str] = {
  'length:words': ('number of words', '{amount} word{s}'),
  'length:characters': ('number of characters', '{amount} character{s}'),
  'length:sentences': ('number of sentences', '{amount} sentence{s}'),
  'length:paragraphs': ('number of paragraphs', '{amount} paragraph{s}'),
  'length:lines': ('number of lines', '{amount} line{s}'),
  'length_constraints:number_words': (
    'number of words (IFEval)',
    '{amount} word{s}',
  ),
  'length_constraints:number_sentences': (
    'number of sentences (IFEval)',
    '{amount} sentence{s}',
  ),
  'length_constraints:number_paragraphs': (
    'number of paragraphs between ***',
    '{num_paragraphs} paragraph{s} between ***',
  ),
  'length_constraints:nth_paragraph_first_word': (
    'first word of a paragraph',
    'paragraph {nth_paragraph} of {num_paragraphs} begins with “{first_word}”',
  ),
  'keywords:existence': ('words to include', 'with {words}'),
  'keywords:frequency': (
    'how often a word occurs',
    '“{keyword}” {amount} time{s}',
  ),
  'keywords:forbidden_words': ('words to avoid', 'without {words}'),
  'keywords:letter_frequency': (
    'how often a character occurs',
    '“{letter}” {amount} time{s}',
  ),
  'startend:start_checker': (
    'a given beginning',
    'begins with “{start_phrase}”',
  ),
  'startend:end_checker': ('a given ending', 'ends with “{end_phrase}”'),
  'startend:quotation': 'in double quotes',
  'punctuation:no_comma': 'no commas',
  'punctuation:no_exclamation': 'no exclamation marks',
  'punctuation:no_emoji': 'no emoji',
  'detectable_format:json_format': 'valid JSON',
  'detectable_format:number_bullet_lists': (
    'number of bullet points',
    '{num_bullets} bullet point{s}',
  ),
  'detectable_format:title': 'a title in << >>',
  'detectable_format:number_highlighted_sections': (
    'number of *highlighted* passages',
    'at least {num_highlights} *highlighted* passage{s}',
  ),
  'detectable_format:multiple_sections': (
    'number of headed sections',
    'at least {num_sections} section{s} headed “{section_spliter} 1” and so on',
  ),
  'detectable_format:constrained_response': 'one of the three answers',
  'detectable_content:number_placeholders': (
    'number of [placeholders]',
    'at least {num_placeholders} [placeholder{s}]',
  ),
  'detectable_content:postscript': (
    'a postscript',
    'a postscript after {postscript_marker}',
  ),
  'combination:two_responses': 'two replies between ******',
  'combination:repeat_prompt': (
    'repeats the request first',
    'first repeats “{prompt_to_repeat}”',
  ),
  'change_case:english_lowercase': 'all in lower case',
  'change_case:english_capital': 'all in capitals',
  'change_case:capital_word_frequency': (
    'number of words in capitals',
    '{amount} word{s} in capitals',
  ),
  'language:response_language': ('a given language', 'in {language}'),
  'poem:clauses': (
    'number and length of verse lines',
    '{num_lines} lines of {num_characters} Chinese characters',
  ),
  'poem:haiku': 'a haiku',
  'poem:rhyme': ('a rhyme scheme', 'rhymes by {scheme}'),
  'poem:acrostic': ('an acrostic', 'an acrostic of “{letters}”'),
  'style:no_self_reference': 'no mention of being an AI',
  'style:piece_alone': 'the piece alone',
  'style:no_cliche': 'no clichés',
  'style:no_repeated_line': 'no repeated line',
  'style:script': (
    'simplified or traditional characters',
    'in {script} Chinese characters',
  ),
  'soft:demand': ('a demand that a model judges', '{demand}'),
}
