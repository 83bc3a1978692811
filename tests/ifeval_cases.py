"""Hand-worked verdicts on IFEval's 25 rules, for the benchmark and for rewards.

Each case: arguments, a reply, whether it keeps the rule in the benchmark, and
whether it does for a reward.
"""

from typing import Any

Case = tuple[dict[str, Any], str, bool, bool]

SUMMER = 'The summer was long and warm, and the children played by the river.'
SOMMER = 'Der Sommer war lang und warm, und die Kinder spielten am Fluss.'
HINDI = 'गर्मियों में बच्चे नदी के किनारे खेलते हैं और गाते हैं।'


def _at_least(**arguments: Any) -> dict[str, Any]:
  return {**arguments, 'relation': 'at least'}


def _less(**arguments: Any) -> dict[str, Any]:
  return {**arguments, 'relation': 'less than'}


def _letters(relation: str, letter: str, count: int) -> dict[str, Any]:
  return {'let_relation': relation, 'letter': letter, 'let_frequency': count}


def _capitals(relation: str, count: int) -> dict[str, Any]:
  return {'capital_relation': relation, 'capital_frequency': count}


def _opens(word: str, nth: int, count: int) -> dict[str, Any]:
  return {'first_word': word, 'nth_paragraph': nth, 'num_paragraphs': count}


CASES: dict[str, list[Case]] = {
  'keywords:existence': [
    ({'keywords': ['rain', 'Sea']}, 'The SEA took the rain.', True, True),
    ({'keywords': ['rain', 'sea']}, 'The sea was calm.', False, False),
    ({'keywords': ['rain']}, 'The train left.', True, False),
    ({'keywords': ['r.in']}, 'rain', False, False),
    ({'keywords': ['月']}, '明月几时有', True, True),
  ],
  'keywords:frequency': [
    (_at_least(keyword='sea', frequency=2), 'Sea, o sea', True, True),
    (_at_least(keyword='sea', frequency=2), 'sea', False, False),
    (_at_least(keyword='sea', frequency=2), 'sea, seasons', True, False),
    (_less(keyword='sea', frequency=2), 'sea', True, True),
    (_less(keyword='sea', frequency=2), 'sea, sea', False, False),
    (_less(keyword='月', frequency=2), '明月明月', False, False),
    (_at_least(keyword='月', frequency=2), '明月明月', True, True),
  ],
  'keywords:forbidden_words': [
    ({'forbidden_words': ['sea', 'sky']}, 'A season.', True, True),
    ({'forbidden_words': ['sea', 'sky']}, 'The Sky.', False, False),
    ({'forbidden_words': ['C++']}, 'I write C++.', True, False),
    ({'forbidden_words': ['rain']}, 'a _rain_', True, False),
    ({'forbidden_words': ['月']}, '明月几时有', True, False),
    ({'forbidden_words': ['月']}, '月', False, False),
  ],
  'keywords:letter_frequency': [
    (_letters('at least', 'e', 3), 'Eerie', True, True),
    (_letters('at least', 'e', 4), 'Eerie', False, False),
    (_letters('less than', 'Q', 1), 'quiet', False, False),
    (_letters('less than', 'q', 1), 'silent', True, True),
    (_letters('at least', '#', 2), '#sea #sky', True, True),
    (_letters('at least', '!', 2), 'one!', False, False),
    (_letters('at least', '月', 2), '月明月', True, True),
  ],
  'language:response_language': [
    ({'language': 'de'}, SOMMER, True, True),
    ({'language': 'de'}, SUMMER, False, False),
    ({'language': 'hi'}, HINDI, True, True),
    ({'language': 'de'}, '123 !?', True, False),
    ({'language': 'en'}, SUMMER, True, True),
    ({'language': 'zh'}, '夏天很长，孩子们在河边玩耍。', True, True),
    ({'language': 'de'}, '夏天很长，孩子们在河边玩耍。', False, False),
  ],
  'length_constraints:number_words': [
    (_at_least(num_words=3), 'one two three', True, True),
    (_at_least(num_words=4), 'one two three', False, False),
    (_less(num_words=4), 'one two three', True, True),
    (_less(num_words=3), 'one two three', False, False),
    (_at_least(num_words=2), "don't", True, False),
    (_at_least(num_words=5), '床前明月光', False, True),
  ],
  'length_constraints:number_sentences': [
    (_at_least(num_sentences=2), 'It rained. We left.', True, True),
    (_at_least(num_sentences=2), 'It rained, and we left.', False, False),
    (
      _less(num_sentences=2),
      'Mr. Fox met Dr. Owl at 5 p.m. in Rome',
      True,
      True,
    ),
    (_less(num_sentences=2), 'It rained. We left.', False, False),
    (_at_least(num_sentences=2), 'It rained.We left.', False, True),
    (_at_least(num_sentences=2), '下雨了。我们走了。', False, True),
  ],
  'length_constraints:number_paragraphs': [
    ({'num_paragraphs': 2}, 'one\n\n***\n\ntwo', True, True),
    ({'num_paragraphs': 2}, 'one\n\ntwo', False, False),
    ({'num_paragraphs': 2}, '***\none\n***\ntwo\n***', True, True),
    ({'num_paragraphs': 2}, 'one\n***\n***\ntwo', False, True),
    ({'num_paragraphs': 2}, 'one *** two', True, False),
    ({'num_paragraphs': 1}, 'so ***very*** warm', False, True),
    ({'num_paragraphs': 2}, '春\n***\n夏', True, True),
  ],
  'length_constraints:nth_paragraph_first_word': [
    (_opens('rain', 2, 2), 'Sun.\n\nRain, at last.', True, True),
    (_opens('rain', 1, 2), 'Sun.\n\nRain, at last.', False, False),
    (_opens('rain', 2, 3), 'Sun.\n\nRain, at last.', False, False),
    (_opens('rain', 2, 2), '\n\nSun.\n\nRain.', False, True),
    (_opens('rain', 3, 3), 'a\n\n\n\nRain.\n\nb', True, False),
    (_opens('rain', 2, 2), 'Sun.\n\nRainy days.', False, False),
    (_opens('rain', 1, 1), '**Rain** fell.', False, True),
    (_opens('don', 1, 1), "Don't go.", True, False),
    (_opens("don't", 1, 1), 'Don’t go.', False, True),
    (_opens('雨', 1, 1), '“雨停了。”', False, True),
    (_opens('雨', 1, 1), '雨', True, True),
  ],
  'detectable_content:number_placeholders': [
    ({'num_placeholders': 2}, 'Dear [name],\n[city]', True, True),
    ({'num_placeholders': 2}, 'Dear [name],\n[city', False, False),
    ({'num_placeholders': 1}, '[]', True, False),
    ({'num_placeholders': 1}, '[here](http://a.org)', True, False),
    ({'num_placeholders': 1}, '[first\nlast]', False, False),
    ({'num_placeholders': 1}, '【姓名】，你好', False, True),
    ({'num_placeholders': 1}, '请于[日期]（周末亦可）来', True, True),
    ({'num_placeholders': 1}, '【姓名】（先生/女士）', False, True),
    ({'num_placeholders': 1}, 'Bring your [pet](s)', True, True),
  ],
  'detectable_content:postscript': [
    ({'postscript_marker': 'P.S.'}, 'Bye.\n\nP.S. Write!', True, True),
    ({'postscript_marker': 'P.S.'}, 'Bye.\np. s. Write!', True, True),
    ({'postscript_marker': 'P.S.'}, 'Bye.', False, False),
    ({'postscript_marker': 'P.S.'}, 'Bye. P.S. Write!', True, False),
    ({'postscript_marker': 'P.S.'}, 'Bye.\nP.S.', True, False),
    ({'postscript_marker': 'P.P.S'}, 'Bye.\nP.P.S. Write!', True, True),
    ({'postscript_marker': 'P.P.S'}, 'Bye.\nP.S. Write!', False, False),
    ({'postscript_marker': '又及'}, '再见。\n又及：来信！', True, True),
  ],
  'detectable_format:number_bullet_lists': [
    ({'num_bullets': 2}, 'List:\n* one\n  - two', True, True),
    ({'num_bullets': 2}, '* one', False, False),
    ({'num_bullets': 1}, '* one\n* two', False, False),
    ({'num_bullets': 1}, '-5 degrees', True, False),
    ({'num_bullets': 1}, '**bold**\n- one', True, True),
    ({'num_bullets': 1}, '* one\n---', False, True),
    ({'num_bullets': 1}, '• 春', False, True),
  ],
  'detectable_format:constrained_response': [
    ({}, 'My answer is yes.', True, True),
    ({}, 'Well. My answer is maybe. It depends.', True, True),
    ({}, 'Yes.', False, False),
    ({}, 'My answer is yes. My answer is no.', True, False),
    ({}, '我的答案是：My answer is no.', True, True),
    ({}, '我的答案是否。', False, False),
  ],
  'detectable_format:number_highlighted_sections': [
    ({'num_highlights': 2}, '*one* and **two**', True, True),
    ({'num_highlights': 2}, '*one* and two', False, False),
    ({'num_highlights': 1}, '2 * 3 * 4', True, False),
    ({'num_highlights': 1}, '*one\ntwo*', False, False),
    ({'num_highlights': 1}, '****', False, False),
    ({'num_highlights': 1}, '***one***', True, True),
    ({'num_highlights': 1}, '春*夏*秋', True, True),
  ],
  'detectable_format:multiple_sections': [
    (
      {'section_spliter': 'Section', 'num_sections': 2},
      'Section 1\na\n## Section 2: b',
      True,
      True,
    ),
    (
      {'section_spliter': 'Section', 'num_sections': 2},
      'Section 1\na',
      False,
      False,
    ),
    (
      {'section_spliter': 'Day', 'num_sections': 2},
      'From Day 1 to Day 1.',
      True,
      False,
    ),
    (
      {'section_spliter': 'SECTION', 'num_sections': 1},
      '[Section 1]',
      False,
      True,
    ),
    ({'section_spliter': '第', 'num_sections': 2}, '第1节\n第2节', True, True),
  ],
  'detectable_format:json_format': [
    ({}, '{"sea": 1}', True, True),
    ({}, '```json\n["sea"]\n```', True, True),
    ({}, 'Here: {}', False, False),
    ({}, '[NaN]', True, False),
    ({}, '[' + '9' * 5000 + ']', False, True),
    ({}, '[' * 50_000, False, False),
    ({}, '{"海": "月"}', True, True),
  ],
  'detectable_format:title': [
    ({}, '<<Rain>>\nIt fell.', True, True),
    ({}, '<<  >>', False, False),
    ({}, '<<Rain\n>>', False, False),
    ({}, '<<a < b>>', True, False),
    ({}, '<<<Rain>>>', True, True),
    ({}, '《春晓》\n春眠不觉晓', False, True),
  ],
  'combination:two_responses': [
    ({}, 'One.\n******\nTwo.', True, True),
    ({}, 'One.\n***\nTwo.', False, False),
    ({}, 'One.\n******\nOne.', False, False),
    ({}, 'One.\n******\nONE.', True, False),
    ({}, 'One. ****** Two.', True, False),
    ({}, '******\nOne.\n******\nTwo.\n******', True, True),
    ({}, 'a\n******\nb\n******\nc', False, False),
    ({}, 'One.\n******\n******\nTwo.', False, True),
    ({}, '春\n******\n夏', True, True),
  ],
  'combination:repeat_prompt': [
    ({'prompt_to_repeat': 'Sing.'}, 'sing.\nLa la', True, True),
    ({'prompt_to_repeat': 'Sing.'}, 'La la. Sing.', False, False),
    ({'prompt_to_repeat': 'Sing.'}, ' Sing. ', True, False),
    ({'prompt_to_repeat': 'Sing it'}, 'Sing items', True, False),
    ({'prompt_to_repeat': '唱歌。'}, '唱歌。啦啦', True, True),
  ],
  'startend:end_checker': [
    ({'end_phrase': 'The end.'}, 'So, the END. ', True, True),
    ({'end_phrase': 'The end.'}, 'The end. Or not', False, False),
    ({'end_phrase': 'The end.'}, '"So, the end."', True, True),
    ({'end_phrase': 'said "no"'}, 'He said "no"', False, True),
    ({'end_phrase': '完。'}, '“讲完。”', False, True),
  ],
  'startend:quotation': [
    ({}, ' "Hello." ', True, True),
    ({}, '"Hello.', False, False),
    ({}, '"', False, False),
    ({}, '""', True, False),
    ({}, '“你好。”', False, True),
  ],
  'change_case:capital_word_frequency': [
    (_capitals('at least', 2), 'STOP! GO AWAY', True, True),
    (_capitals('at least', 2), 'STOP, please', False, False),
    (_capitals('less than', 2), 'I know. I am A.', False, True),
    (_capitals('less than', 2), 'WELL-KNOWN', True, True),
    (_capitals('at least', 2), 'NASA’S', True, False),
    (_capitals('at least', 2), "CAN'T", True, False),
    (_capitals('at least', 2), 'CANNOT', True, False),
    (_capitals('at least', 1), '春天 SPRING', True, True),
  ],
  'change_case:english_capital': [
    ({}, SUMMER.upper(), True, True),
    ({}, SUMMER, False, False),
    ({}, SOMMER.upper(), False, True),
    ({}, '123', False, False),
    ({}, '夏天很长，孩子们在河边玩耍。OK', False, True),
  ],
  'change_case:english_lowercase': [
    ({}, SUMMER.lower(), True, True),
    ({}, SUMMER, False, False),
    ({}, SOMMER.lower(), False, True),
    ({}, '123', False, False),
    ({}, '夏天很长，孩子们在河边玩耍。ok', False, True),
  ],
  'punctuation:no_comma': [
    ({}, 'Rain; wind', True, True),
    ({}, 'Rain, wind', False, False),
    ({}, '风，雨', True, False),
  ],
}
