"""Wordings that only resemble a rule, or take it back, are none."""

from typing import Any

import pytest

from rlcw.rewards.extract.read import read


@pytest.mark.parametrize(
  'text',
  [
    'Don\'t start with "I am writing to apply".',
    'Never start the poem with "Roses".',
    'It must not end with "The End".',
    'Avoid starting with "Once".',
    'I don\'t want it to start with "Dear".',
    'You don\'t have to start with "Dear".',
    '不要以“从前”开头。',
    '不要以“未完待续”结尾。',
    '不要用“你好”来开头。',
    "Please don't make it longer than 100 words.",
    'Do not respond with more than 3 sentences.',
    "Don't give me more than 3 sentences.",
    "I don't want the story to be more than 100 words.",
    'It should not consist of more than 10 lines.',
    '不要让字数超过200字。',
    '不建议超过200字。',
    '切忌超过200字。',
    '不希望超过200字。',
    '不要使字数少于200字。',
    "It shouldn't be less than 200 or more than 300 words.",
    'Use 10 words max per sentence.',
    'Write 3 sentences for each item.',
    "Please don't write in English, write in Dutch.",
    "Don't answer in Spanish.",
    "Don't format the output as JSON.",
    "Don't add a P.S.",
    "Don't put it in quotation marks.",
    'Do not write in all caps.',
    "It doesn't have to be all caps.",
    "Don't write a haiku, write a sonnet.",
    "Don't use the AABB rhyme scheme.",
    'Don\'t write an acrostic of "LOVE".',
    'Instead of 5 bullet points, write a paragraph.',
    '不要用英文写。',
    '不要用繁体字。',
    '不要用JSON格式。',
    '不要写七言绝句。',
    '不要写俳句。',
    '全文不要用双引号。',
    'Don\'t omit the word "please".',
    'Don\'t leave out the word "please".',
    'Do not just use the word "sad".',
    'I don\'t want you to use the word "passionate".',
    '不要重复“我爱你”。',
    '请复述“小红帽”的故事。',
    'In the chorus repeat the word "fly" three times.',
    'Repeat the phrase "I can" in every stanza.',
    'I don\'t want the word "moon" to appear more than twice.',
    '不要让“月亮”出现超过两次。',
    'A four-line chorus that repeats.',
    'Write 3 four-line stanzas.',
    'Write a story with 5-word sentences.',
    'Start with a 5-word hook.',
    'Write 5 two-sentence horror stories.',
    "You don't have to use commas.",
    'It need not include the word "hope".',
    'There\'s no need to mention "Paris".',
    'It can be more than 200 words.',
    'Don\'t be afraid to use the word "death".',
    '不一定要用“爱”这个字。',
    '可以超过500字。',
    '不要使用AI腔。',
    '不要写成AI写的那种感觉。',
    '写一个不相信AI的老人的故事。',
    'A greeting in English and Spanish.',
    'Write the dialogue in French and the narration in English.',
    '标题用英文，正文用中文。',
    '写一首打油诗，四句。',
    "Don't use emojis in the title.",
    'No emojis except for the turkey.',
    '标题不要用感叹号。',
    '除了结尾，不要用感叹号。',
    'In the dialogue avoid the word "yes".',
    'Don\'t use the word "very" too often.',
    'In a world without the word "no".',
    '标题里不要出现“最”字。',
    '不要用“我”的视角。',
    '不要出现“小满”以外的名字。',
    'Turn these 5 bullet points into a paragraph.',
    '根据以下三个要点写一篇文章。',
    'If the story is over 500 words, split it.',
    '如果超过500字，请分段。',
    '超过500字会被扣分。',
    '少于800字要扣分。',
    'Is 300 words too long for a eulogy?',
    'Use ABAB for the verses and AABB for the chorus.',
    '请解释什么是七律。',
    'Put the dialogue in quotation marks.',
    'The ghost speaks in ALL CAPS.',
    'Every line should begin with a capital letter.',
    'Begin with "Hello" or "Hi".',
    'Use the words people hate most.',
    'Write a school play with at most 30 characters.',
    '短版50字以内，长版200字以内。',
    '收到一封只有五个字的信。',
    'I have 3 paragraphs already.',
    'The first chapter is 2,000 words. Write the second.',
    '这首诗只有四行，请续写。',
    '把这段话缩短100字。',
  ],
)
def test_what_is_negated_allowed_or_of_a_part_is_no_rule(text: str) -> None:
  assert read(text).rules == []


def bounds(low: int | None, high: int | None) -> dict[str, int]:
  named = {'at_least': low, 'at_most': high}
  return {name: bound for name, bound in named.items() if bound is not None}


@pytest.mark.parametrize(
  ('text', 'rule', 'kwargs'),
  [
    ('Nothing longer than 100 words.', 'length:words', bounds(None, 100)),
    ('No under 200 words.', 'length:words', bounds(200, None)),
    (
      'Write no longer than 500 words and no shorter than 300 words.',
      'length:words',
      bounds(300, 500),
    ),
    ('4 lines, 6 words or less per line.', 'length:lines', bounds(4, 4)),
    ('Write no more than 3-4 sentences.', 'length:sentences', bounds(None, 4)),
    ('At least two or three sentences.', 'length:sentences', bounds(2, None)),
    (
      'Instead of starting with "Dear", start with "Hey".',
      'startend:start_checker',
      {'start_phrase': 'Hey'},
    ),
    (
      'Don\'t forget to include the word "tea".',
      'keywords:existence',
      {'keywords': ['tea']},
    ),
    (
      'ABAB CDCD EFEF GG rhyme scheme.',
      'poem:rhyme',
      {'scheme': 'ABABCDCDEFEFGG'},
    ),
    ('写5百字的散文。', 'length:words', bounds(450, 550)),
    ('在200字到300字之间。', 'length:words', bounds(200, 300)),
    ('写十五六行。', 'length:lines', bounds(15, 16)),
    ('不超过三四句话。', 'length:sentences', bounds(None, 4)),
    (
      '不用英文，用中文。',
      'language:response_language',
      {'language': 'zh'},
    ),
  ],
)
def test_what_is_asked_beside_a_negation_is_read(
  text: str, rule: str, kwargs: dict[str, Any]
) -> None:
  assert [(r.instruction_id, r.kwargs) for r in read(text).rules] == [
    (rule, kwargs)
  ]
