"""Rules read what a reader sees, in whatever form the text is encoded."""

import unicodedata
from typing import Any

import pytest
from cpu_limit import cpu_limit

from rlcw.rewards import constraints
from rlcw.rewards.rules import locate, poetry, text

FAMILY = '👩\u200d👩\u200d👧'
SCOTLAND = '🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f'
# Shows nothing: zero-width, bidirectional, tag, variation selector, fillers.
HIDDEN = (
  '\u200b\u202e\U000e0041\ufe0f\u3164\u115f\u2060\u00ad\u2800\U0001d159\x00'
)


@pytest.mark.parametrize(
  ('reply', 'count'),
  [
    (FAMILY, 1),
    (SCOTLAND, 1),
    ('👍🏽', 1),
    ('1\ufe0f\u20e3', 1),
    ('🇨🇳🇫🇷', 2),
    ('\U0001fae8', 1),  # newer than Python 3.11
    ('e\u0301', 1),
    ('é', 1),
    ('한', 1),
    (unicodedata.normalize('NFD', '한글'), 2),
    ('नि', 1),
    ('a' + HIDDEN * 9, 1),
    (HIDDEN * 9 + '春', 1),
    ('葛\U000e0100', 1),
    ('G' + '\u0301\u0336' * 500, 1),
  ],
  ids=ascii,
)
def test_a_character_is_one_to_a_reader(reply: str, count: int) -> None:
  assert text.count_characters(reply) == count
  exactly = {'at_least': count, 'at_most': count}
  assert constraints.check('length:characters', reply, exactly)


# Each breaks its rule if H is nothing, and would keep it if H were a letter.
EVASIONS: list[tuple[str, dict[str, Any], str]] = [
  ('length:characters', {'at_least': 2}, 'aHHH'),
  ('length:words', {'at_least': 2}, 'aH HH'),
  ('length:sentences', {'at_least': 2}, 'a! H! H'),
  ('length:lines', {'at_least': 2}, 'a\nH\nH'),
  ('length:paragraphs', {'at_least': 2}, 'a\n\nH\n\nH'),
  (
    'length_constraints:number_words',
    {'num_words': 2, 'relation': 'at least'},
    'aH HH',
  ),
  ('length_constraints:number_paragraphs', {'num_paragraphs': 2}, 'a\n***\nH'),
  ('startend:quotation', {}, '"H"'),
  ('detectable_format:title', {}, '<<H>>'),
  (
    'detectable_format:number_highlighted_sections',
    {'num_highlights': 1},
    '*H*',
  ),
  ('detectable_content:number_placeholders', {'num_placeholders': 1}, '[H]'),
  (
    'detectable_content:postscript',
    {'postscript_marker': 'P.S.'},
    'a\nP.S. H',
  ),
  ('combination:two_responses', {}, 'a\n******\naH'),
  ('combination:repeat_prompt', {'prompt_to_repeat': 'a'}, 'a H'),
  ('punctuation:no_comma', {}, 'HHH'),
  ('keywords:forbidden_words', {'forbidden_words': ['rain']}, 'raHin'),
  ('style:no_self_reference', {}, 'as an AHI'),
  ('style:no_repeated_line', {}, 'rain\nraHin'),
  ('style:no_cliche', {}, '岁月H静好'),
]


@pytest.mark.parametrize(('name', 'kwargs', 'form'), EVASIONS)
def test_invisible_text_fulfils_no_rule(
  name: str, kwargs: dict[str, Any], form: str
) -> None:
  for hidden in HIDDEN:
    assert not constraints.check(name, form.replace('H', hidden), kwargs)
  assert constraints.check(name, form.replace('H', 'b'), kwargs)


# Forms of love and 快乐 that a reader takes for these words.
DISGUISES = (
  'l\u0336o\u0336v\u0336e\u0336',
  'l\u0489ove',
  'l\u0308ove',
  'l\u043ev\u0435',  # Cyrillic
  'L\u041e\u0474\u0415',
  'l\u03bf\u03bde',  # Greek
  'ʟᴏᴠᴇ',
  '🅛🅞🅥🅔',
  '𝓵𝓸𝓿𝓮',
  'l o v e',
  'L.O.V.E.',
  'l-o-v-e',
  'lo-\nve',
  'lo\u2010\n  ve',
)
DISGUISES_ZH = '快-乐', '快🎉乐', '快\u0336乐', '快　樂'


@pytest.mark.parametrize('form', [*DISGUISES, *DISGUISES_ZH], ids=ascii)
def test_a_disguised_word_is_found_where_it_stands(form: str) -> None:
  word = {'forbidden_words': ['love' if form in DISGUISES else '快乐']}
  reply = f'My {form} is'
  assert not constraints.check('keywords:forbidden_words', reply, word)
  [(start, end)] = locate.locate('keywords:forbidden_words', reply, word)
  assert reply[start:end] == form.rstrip('.')


@pytest.mark.parametrize(
  ('word', 'reply'),
  [
    ('love', 'glove'),
    ('ai', 'A I was'),
    ('cat', 'a b c at'),
    ('कि', 'का'),  # marks of a script are letters
    ('快乐', '走得快，乐在其中'),
    ('love', 'lo--\nve'),
    ('love', 'lo -\nve'),
  ],
)
def test_other_words_are_not_taken_for_it(word: str, reply: str) -> None:
  rule = {'forbidden_words': [word]}
  assert constraints.check('keywords:forbidden_words', reply, rule)
  both = {'keywords': ['москва', 'Νήσος']}
  assert constraints.check('keywords:existence', 'МОСКВА νήσος', both)


WORDS = 'café', 'Ångström', 'naïve', 'がく', '한글', 'việt', 'Rain', 'ﬁne'
FORMS = 'NFC', 'NFD', 'NFKC', 'NFKD'


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('word', WORDS)
def test_every_unicode_form_of_a_text_is_the_same_text(
  word: str, form: str
) -> None:
  asked, given = word, unicodedata.normalize(form, word)
  for one, other in ((asked, given), (given, asked)):
    reply = f'{other} so {other}\n\nthe {other}'
    for name, kwargs, expected in (
      ('keywords:existence', {'keywords': [one]}, True),
      ('keywords:forbidden_words', {'forbidden_words': [one]}, False),
      (
        'keywords:frequency',
        {'keyword': one, 'frequency': 4, 'relation': 'less than'},
        True,
      ),
      (
        'keywords:frequency',
        {'keyword': one, 'frequency': 3, 'relation': 'at least'},
        True,
      ),
      ('startend:start_checker', {'start_phrase': one}, True),
      ('startend:end_checker', {'end_phrase': one}, True),
      ('combination:repeat_prompt', {'prompt_to_repeat': one}, True),
      (
        'length_constraints:nth_paragraph_first_word',
        {'first_word': one, 'num_paragraphs': 2, 'nth_paragraph': 1},
        True,
      ),
    ):
      assert constraints.check(name, reply, kwargs) is expected, name
  assert not constraints.check(
    'style:no_repeated_line', f'{asked}\n{given}', {}
  )
  two = f'{asked}\n******\n{given}'
  assert not constraints.check('combination:two_responses', two, {})


Case = tuple[str, dict[str, Any], str, bool]
POSTSCRIPT = 'detectable_content:postscript'
PS, PPS, CHINESE = (
  {'postscript_marker': marker} for marker in ('P.S.', 'P.P.S', '又及：')
)
SCRIPT = 'style:script'
CASES: list[Case] = [
  *[
    (POSTSCRIPT, PS, f'Dear Ann,\nbye.\n{line}', True)
    for line in (
      '**P.S.** The cat is fine.',
      '**P.S.: The cat is fine.**',
      '*P.S.* Write!',
      '_P.S._ Write!',
      '***P.S.***\nWrite!',
      '> P.S. Write!',
      '> **P. S.** Write!',
      '- P.S. Write!',
      '• P.S. Write!',
      '### P.S.\n\nWrite!',
      '1. P.S. Write!',
      '(P.S. Write!)',
      '“P.S. Write!”',
      '—P.S. Write!',
      'P. S. Write!',
      'PS: Write!',
      'PS Write!',
      'ps. Write!',
      'P.S.Write!',
      'Ｐ．Ｓ． Write!',
      'P.\u200bS. Write!',
      'PS：祝好',
      'P.S. 😀',
      '<b>P.S.</b> Write!',
      '<p class="x"><strong>P.S.</strong> Write!</p>',
      '[b]P.S.[/b] Write!',
      '[PS] Write!',
      '\\textbf{P.S.} Write!',
      '&nbsp;P.S. Write!',
      '💌 **P.S.** Write!',
    )
  ],
  *[
    (POSTSCRIPT, PS, reply, False)
    for reply in (
      'P.S. Write!',
      'bye.\n**P.S.**',
      'bye.\n**P.S.**\n> …\n***',
      'bye.\n<b>P.S.</b>',
      'bye.\n<b>PSA</b> Write!',
      'bye.\n**P.P.S.** Write!',
      'bye.\nPsalms are sung.',
      'bye. P.S. Write!',
      'bye.\nPSA: Write!',
    )
  ],
  (POSTSCRIPT, PPS, 'bye.\n**P.P.S.** Write!', True),
  (POSTSCRIPT, PPS, 'bye.\nP. P. S. Write!', True),
  (POSTSCRIPT, PPS, 'bye.\nPPS: Write!', True),
  (POSTSCRIPT, PPS, 'bye.\nP.S. Write!', False),
  (POSTSCRIPT, CHINESE, '再见。\n**又及**：猫很好。', True),
  (POSTSCRIPT, CHINESE, '再见。\n又及:猫很好。', True),
  (POSTSCRIPT, CHINESE, '再见。\n又及：', False),
  *[
    ('startend:quotation', {}, reply, expected)
    for reply, expected in (
      ('『你好。』', True),
      ('〈你好。〉', True),
      ('＂Hello＂', True),
      ('〝你好〞', True),
      ('﹃你好﹄', True),
      ('« Bonjour. »', True),
      ('„Hallo“', True),
      ('❝Hello❞', True),
      ('「你好』', False),
      ('‘Hello’', False),
      ('『　』', False),
    )
  ],
  ('startend:end_checker', {'end_phrase': '完。'}, '『故事讲完。』', True),
  ('startend:end_checker', {'end_phrase': '“Go!”'}, 'He said "Go!"', True),
  ('startend:start_checker', {'start_phrase': 'Dear Li,'}, 'Dear Li，', True),
  (SCRIPT, {'script': 'traditional'}, '爲甚麽不來？', True),
  (SCRIPT, {'script': 'traditional'}, '幺麽小醜，裏裡麪麵着著啓啟衆眾', True),
  (SCRIPT, {'script': 'traditional'}, '坏人来了', False),
  *(
    (SCRIPT, {'script': 'traditional'}, text, kept)
    for text, kept in (
      ('麵包發霉了，真倒霉', True),
      ('美酒佳肴', True),
      ('恒生指數', True),
      ('她的丰采依舊', True),
      ('她的收獲很丰富', False),
    )
  ),
  *(
    (SCRIPT, {'script': 'simplified'}, text, False)
    for text in ('屋簷下', '祕密', '她瞇起眼', '大砲', '徬徨', '打毬', '珮')
  ),
  (SCRIPT, {'script': 'simplified'}, '衞生', False),
  (SCRIPT, {'script': 'traditional'}, '衞生', True),
  (SCRIPT, {'script': 'simplified'}, '群众在床前，乾坤瞭望', True),
  (SCRIPT, {'script': 'simplified'}, '为甚麽不来？', True),
  (SCRIPT, {'script': 'simplified'}, '為什么不来？', False),
  ('keywords:existence', {'keywords': ['rain']}, 'Ｒａｉｎ falls', True),
  ('keywords:forbidden_words', {'forbidden_words': ['rain']}, '𝐫𝐚𝐢𝐧', False),
  *(
    ('keywords:forbidden_words', {'forbidden_words': ['sun']}, text, False)
    for text in ('the s**u**n', 'the <b>s</b>un', 'the _s_un')
  ),
  ('keywords:existence', {'keywords': ['garden']}, 'the gar**den**', True),
  ('keywords:existence', {'keywords': ['New York']}, 'New\u00a0York', True),
  ('keywords:existence', {'keywords': ['well-off']}, 'well\u2011off', True),
  ('keywords:existence', {'keywords': ['さくら']}, 'さくらが咲く', True),
  ('keywords:existence', {'keywords': ['사랑']}, '사랑은', True),
  ('keywords:existence', {'keywords': ['कल']}, 'कला', False),
  ('keywords:existence', {'keywords': ['कल']}, 'आज कल', True),
  (
    'keywords:forbidden_words',
    {'forbidden_words': ['cafe']},
    'cafe\u0301',
    True,
  ),
  ('length:words', {'at_least': 2, 'at_most': 2}, 'हिन्दी कविता', True),
  ('length:words', {'at_least': 3, 'at_most': 3}, 'Ｉ　ｌｏｖｅ　it', True),
  ('length:sentences', {'at_least': 2, 'at_most': 2}, 'वह आया। वह गया।', True),
  ('length:sentences', {'at_least': 2, 'at_most': 2}, '雨です｡ 風です．', True),
  ('length:lines', {'at_least': 2, 'at_most': 2}, 'one\u2028two', True),
  ('punctuation:no_comma', {}, 'سلام، دنيا', False),
  ('punctuation:no_comma', {}, '风、雨。', True),
  ('punctuation:no_emoji', {}, '©\ufe0f', False),
  (
    'keywords:letter_frequency',
    {'letter': 'é', 'let_frequency': 2, 'let_relation': 'at least'},
    'e\u0301té',
    True,
  ),
  (
    'keywords:letter_frequency',
    {'letter': 'e\u0301', 'let_frequency': 2, 'let_relation': 'at least'},
    'été',
    True,
  ),
  ('detectable_format:title', {}, '＜＜Rain＞＞\nIt fell.', True),
  (
    'detectable_content:number_placeholders',
    {'num_placeholders': 2},
    '［姓名］与【日期】',
    True,
  ),
  (
    'detectable_format:number_bullet_lists',
    {'num_bullets': 3},
    '－ 春\n・夏\n‣ 秋',
    True,
  ),
  (
    'detectable_format:number_highlighted_sections',
    {'num_highlights': 1},
    '＊春＊',
    True,
  ),
  (
    'length_constraints:number_paragraphs',
    {'num_paragraphs': 2},
    'one\n\\*\\*\\*\ntwo',
    True,
  ),
  *[
    (
      'detectable_format:multiple_sections',
      {'section_spliter': '片段', 'num_sections': 2},
      reply,
      expected,
    )
    for reply, expected in (
      ('片段一\n春\n片段二\n夏', True),
      ('## 片段 １\n春\n**片段：２**\n夏', True),
      ('片段1\n春\n片段１\n夏', False),
      ('片段1\n春\n片段一\n夏', False),
    )
  ],
  (
    'poem:haiku',
    {},
    'A café of old\nA frog jumps into the pond\nSilence',
    False,
  ),
  ('poem:acrostic', {'letters': 'été'}, 'E\u0301toile\nTemps\nÉté', True),
  (
    'poem:rhyme',
    {'scheme': 'AA'},
    '<<The Café>>\nthe small cafe\u0301\nof one day',
    True,
  ),
  ('style:no_self_reference', {}, '作为一个ＡＩ，我不能。', False),
  ('style:no_cliche', {}, 'a **testament** to', False),
  ('style:no_cliche', {}, 'a testament\nto fear', False),
  *[
    ('keywords:existence', {'keywords': [phrase]}, reply, expected)
    for phrase, reply, expected in (
      ('good morning', 'good *morning*, Ana', True),
      ('happy birthday', 'Happy\nbirthday!', True),
      ('happy birthday', 'Happy **birthday**!', True),
      ('Mrs. Lund', 'Dear **Mrs.**\nLund', True),
      ('happy birthday', 'Happy\n\nbirthday!', False),
      ('2 * 3', '2 * 3 is 6', True),
      ('春天', '我爱春\n天空', False),
    )
  ],
  (
    'keywords:frequency',
    {'keyword': 'love', 'frequency': 2, 'relation': 'at least'},
    'I l**o**ve you l**o**ve',
    True,
  ),
  (
    'combination:repeat_prompt',
    {'prompt_to_repeat': 'Write a poem.'},
    'Write a poem.\n-',
    False,
  ),
  ('language:response_language', {'language': 'en'}, 'Ｔｈｅ　ｓｅａ', True),
]


@pytest.mark.parametrize(('name', 'kwargs', 'reply', 'expected'), CASES)
def test_verdict(
  name: str, kwargs: dict[str, Any], reply: str, expected: bool
) -> None:
  assert constraints.check(name, reply, kwargs) is expected


def test_folding_is_idempotent_and_narrows() -> None:
  assert text.fold(' Ｒａｉｎ’s “ﬁne” ') == 'rain\'s "fine"'
  assert text.fold('ice\u00a0 \tcream\n x') == 'ice cream\n x'
  for word in (*WORDS, 'ΐ', 'ß', 'İ', '\u0344', 'ﷺ'):
    assert text.fold(text.fold(word)) == text.fold(word)


HUGE: list[tuple[str, dict[str, Any]]] = [
  ('poem:clauses', {'num_lines': 10**8, 'num_characters': 5}),
  ('poem:clauses', {'num_lines': 4, 'num_characters': 10**8}),
  ('length:words', {'at_most': 10**9}),
  ('length:words', {'at_least': 100_001}),
  (
    'length_constraints:number_sentences',
    {'num_sentences': 10**9, 'relation': 'at least'},
  ),
  (
    'length_constraints:nth_paragraph_first_word',
    {'num_paragraphs': 10**9, 'nth_paragraph': 1, 'first_word': 'a'},
  ),
  ('keywords:existence', {'keywords': ['a' * 10**6]}),
  ('keywords:existence', {'keywords': ['a'] * 10**5}),
  ('keywords:forbidden_words', {'forbidden_words': ['a' * 999] * 11}),
  ('keywords:frequency', {'keyword': 'a' * 10**6}),
  ('startend:end_checker', {'end_phrase': 'a' * 10**6}),
  ('poem:rhyme', {'scheme': ''.join(map(chr, range(32, 50_000))) * 9}),
  ('poem:acrostic', {'letters': 'a' * 10**6}),
  ('combination:repeat_prompt', {'prompt_to_repeat': 'a' * 10**6}),
  ('soft:demand', {'demand': 'a' * 10**6}),
  ('length:words', {'at_most' * 10**5: 3}),
  ('length:words' * 10**5, {}),
]


@pytest.mark.parametrize(('name', 'kwargs'), HUGE)
def test_a_huge_argument_is_refused_at_once_in_one_line(
  name: str, kwargs: dict[str, Any]
) -> None:
  with cpu_limit(10), pytest.raises(ValueError) as error:
    constraints.validate([name], [kwargs])
  assert len(str(error.value)) < 3000
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('value', ['\u200b', '\u3164\ufe0f', '\u2800'])
def test_an_invisible_argument_is_blank(value: str) -> None:
  for name, kwargs in (
    ('keywords:existence', {'keywords': [value]}),
    ('startend:end_checker', {'end_phrase': value}),
  ):
    with pytest.raises(ValueError, match='non-blank'):
      constraints.validate([name], [kwargs])


@pytest.mark.parametrize(
  ('name', 'kwargs'),
  [('length:words', None), ('length:words', ['at_most']), (5, {}), (None, {})],
)
def test_wrong_kinds_are_named(name: Any, kwargs: Any) -> None:
  with pytest.raises(ValueError, match='expected a mapping|no instruction'):
    constraints.validate([name], [kwargs])


@pytest.mark.parametrize(
  'unit',
  ['🇨', '\u0301\u0323', FAMILY, 'e\u0301', '\u200b', 'ﷺ', '\u1100', '\r'],
  ids=ascii,
)
def test_a_flood_of_marks_takes_little_time(unit: str) -> None:
  reply = 'x' + unit * (99_999 // len(unit))
  with cpu_limit(20):
    constraints.check('length:characters', reply, {'at_least': 5})
    constraints.check('keywords:existence', reply, {'keywords': ['x']})


@pytest.mark.parametrize(
  'marker', ['P.S.', '又及：', '*', '***', '“', 'a' * 99]
)
@pytest.mark.parametrize(
  'unit',
  ['*', '\n*', '\n', '> ', '\np.', '\n“ ', '“', '<b>', '<a b ', '\n<a b', '[p'],
)
def test_a_flood_of_decorations_takes_little_time(
  unit: str, marker: str
) -> None:
  reply = 'x' + unit * (99_999 // len(unit))
  kwargs = {'postscript_marker': marker}
  with cpu_limit(20):
    assert not constraints.check(POSTSCRIPT, reply, kwargs)


def test_pronunciations_are_those_of_the_dictionary() -> None:
  assert poetry.pronunciations('Read') == [['R', 'EH1', 'D'], ['R', 'IY1', 'D']]
  assert poetry.pronunciations('aalborg') == [
    ['AO1', 'L', 'B', 'AO0', 'R', 'G'],
    ['AA1', 'L', 'B', 'AO0', 'R', 'G'],
  ]
  # an entry with a comment
  assert poetry.pronunciations("d'artagnan")[0][-1] == 'N'
  assert poetry.pronunciations('CAFÉ') == poetry.pronunciations('cafe') != []
  assert poetry.pronunciations('frolk') == []
  words = poetry._cmudict()
  assert len(words) > 125_000
  phonemes = {p for entry in words.values() for each in entry for p in each}
  assert len(phonemes) == 69  # 15 vowels by three stresses, and 24 consonants
