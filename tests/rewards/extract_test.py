"""Rules read from prompts: common wordings, and texts that state no rule."""

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.data import datasets
from rlcw.rewards import constraints
from rlcw.rewards.extract import amounts
from rlcw.rewards.extract.amounts import Amount
from rlcw.rewards.extract.combine import conditions
from rlcw.rewards.extract.read import read
from rlcw.rewards.rules import compose
from rlcw.rewards.rules.registry import DEMAND, VERIFIERS

Rules = dict[str, Any]
NO_COMMA: Rules = {'punctuation:no_comma': {}}
JSON: Rules = {'detectable_format:json_format': {}}


def words(**bounds: int) -> Rules:
  return {'length:words': bounds}


def sentences(**bounds: int) -> Rules:
  return {'length:sentences': bounds}


def includes(*keywords: str) -> Rules:
  return {'keywords:existence': {'keywords': [*keywords]}}


def avoids(*forbidden: str) -> Rules:
  return {'keywords:forbidden_words': {'forbidden_words': [*forbidden]}}


def often(keyword: str, frequency: int, relation: str) -> Rules:
  given = {'keyword': keyword, 'frequency': frequency, 'relation': relation}
  return {'keywords:frequency': given}


def letter(letter: str, count: int, relation: str) -> Rules:
  given = {'letter': letter, 'let_frequency': count, 'let_relation': relation}
  return {'keywords:letter_frequency': given}


def starts(phrase: str) -> Rules:
  return {'startend:start_checker': {'start_phrase': phrase}}


def ends(phrase: str) -> Rules:
  return {'startend:end_checker': {'end_phrase': phrase}}


def found(text: str) -> Rules:
  rules = read(text).rules
  assert len({rule.instruction_id for rule in rules}) == len(rules)
  return {rule.instruction_id: rule.kwargs for rule in rules}


ENGLISH: dict[str, Rules] = {
  # Lengths
  'Write a story of at least 300 words.': words(at_least=300),
  'Write an essay in no more than two hundred words.': words(at_most=200),
  'Tell me about owls in fewer than 50 words.': words(at_most=49),
  'Use more than 1,200 words.': words(at_least=1201),
  'Describe it in exactly twenty-five words.': words(at_least=25, at_most=25),
  'Write between 50 and 70 words on rain.': words(at_least=50, at_most=70),
  'Write a poem, 100-150 words.': words(at_least=100, at_most=150),
  'Write about the sea in about 100 words.': words(at_least=90, at_most=110),
  'Write a 300-word story on moss.': words(at_least=270, at_most=330),
  'Give me a 300+ word pitch.': words(at_least=300),
  'Summarise it in 80 words or less.': words(at_most=80),
  'Summarise it in under 80 words.': words(at_most=79),
  'Write 40 words or more about tin.': words(at_least=40),
  'Keep it to a maximum of 60 words.': words(at_most=60),
  'Keep it short, max. 40 words.': words(at_most=40),
  'Min. 40 words.': words(at_least=40),
  'Word limit: 40 words.': words(at_most=40),
  'Maximum: 3 sentences.': sentences(at_most=3),
  'Write a letter. Word count: 200.': words(at_least=180, at_most=220),
  'Write a letter. Word limit: 200.': words(at_most=200),
  'Use at least 50 words. Use at most 80 words.': words(
    at_least=50, at_most=80
  ),
  'Write three sentences about plums.': sentences(at_least=3, at_most=3),
  'Answer in a maximum of 3 sentences.': sentences(at_most=3),
  'Reply with 3 to 5 sentences.': sentences(at_least=3, at_most=5),
  'Write a toast in two paragraphs.': {
    'length:paragraphs': {'at_least': 2, 'at_most': 2}
  },
  'Write a four-line poem about tin.': {
    'length:lines': {'at_least': 4, 'at_most': 4}
  },
  'Write a tweet in under 280 characters.': {
    'length:characters': {'at_most': 279}
  },
  'The number of sentences should be at least 12.': sentences(at_least=12),
  'Limit the number of words to 90.': words(at_most=90),
  # what follows a length is no list of words
  'Write 100 words about spring.': words(at_least=90, at_most=110),
  'Write 200 words praising my mother.': words(at_least=180, at_most=220),
  'Write a poem, 100 words max.': words(at_most=100),
  'Write 50 words total.': words(at_least=45, at_most=55),
  'Include keywords sea and sky.': includes('sea', 'sky'),
  'Use the two words sea and sky.': includes('sea', 'sky'),
  'Do not use any of these words: love, heart.': avoids('love', 'heart'),
  # Bounds before the verb, and of two amounts
  'At least write 300 words.': words(at_least=300),
  'Write, at a minimum, 300 words.': words(at_least=300),
  '100 words tops.': words(at_most=100),
  'Minimum 100 words, maximum 200 words.': words(at_least=100, at_most=200),
  'Use 100 words minimum and 200 words maximum.': words(
    at_least=100, at_most=200
  ),
  'Do not write fewer than 100 words or more than 200 words.': words(
    at_least=100, at_most=200
  ),
  'It needs to be over 300 words but under 500.': words(
    at_least=301, at_most=499
  ),
  'Write a 200- to 250-word story.': words(at_least=200, at_most=250),
  'Write a two- to three-paragraph story.': {
    'length:paragraphs': {'at_least': 2, 'at_most': 3}
  },
  'At least 100 words are required.': words(at_least=100),
  'Write an acrostic poem using the name "Anna".': {
    'poem:acrostic': {'letters': 'Anna'}
  },
  # What is said beside a rule takes it not back
  'No more than 100 words are allowed.': words(at_most=100),
  'Write exactly 100 words\nMust be funny': words(at_least=100, at_most=100),
  'A story of at least 300 words must be funny.': words(at_least=300),
  'Write a poem of 12 lines, but not in rhyme.': {
    'length:lines': {'at_least': 12, 'at_most': 12}
  },
  'Include the word "sea", but not the word "ocean".': includes('sea')
  | avoids('ocean'),
  'Do not use the word "sea" in your final answer.': avoids('sea'),
  'Avoid the word "tea" in your startup pitch.': avoids('tea'),
  'Write a letter to Max. Use 3 sentences.': sentences(at_least=3, at_most=3),
  '100 words at most, 3 sentences at least.': words(at_most=100)
  | sentences(at_least=3),
  'At most use the word "sea" three times.': often('sea', 4, 'less than'),
  'Wrap every word of your reply in double quotation marks.': {
    'startend:quotation': {}
  },
  # Of the whole, whatever it is about
  'Describe 3 reasons in under 100 words.': words(at_most=99),
  'Explain the 4 seasons in three sentences.': sentences(at_least=3, at_most=3),
  'Write 300 words, but not a poem.': words(at_least=270, at_most=330),
  'A story under 100 words is what I need.': words(at_most=99),
  'At most 100 words should be enough.': words(at_most=100),
  # Negated bounds
  'Do not use more than 5 sentences.': sentences(at_most=5),
  'The story should not be less than 200 words.': words(at_least=200),
  'It must not be shorter than 100 words.': words(at_least=100),
  'It cannot be under 200 words.': words(at_least=200),
  'Never fewer than 100 words.': words(at_least=100),
  'You may not write more than 100 words.': words(at_most=100),
  'It should never exceed 100 words.': words(at_most=100),
  "Don't go over 100 words.": words(at_most=100),
  "I don't want anything longer than 30 words.": words(at_most=30),
  'Avoid going below 50 words.': words(at_least=50),
  # Words
  'Write a toast. Include the words "sea", “owl” and ‘moss’.': includes(
    'sea', 'owl', 'moss'
  ),
  "Be sure to use the keywords 'sea' and 'owl'.": includes('sea', 'owl'),
  'The poem should contain the word rain.': includes('rain'),
  'Include the following words: lamp, plum, tin.': includes(
    'lamp', 'plum', 'tin'
  ),
  'Write a story that mentions "the old ferry".': includes('the old ferry'),
  'Include the word "sea" and also the word "owl".': includes('sea', 'owl'),
  'Write a poem, but do not use the words "love" or "heart".': avoids(
    'love', 'heart'
  ),
  "Avoid the words: 'love', 'heart'.": avoids('love', 'heart'),
  'Write it without using the word love.': avoids('love'),
  'Don’t mention "the war".': avoids('the war'),
  'The word "love" must not appear.': avoids('love'),
  'Use the word "sea" at least twice.': often('sea', 2, 'at least'),
  'The word rain should appear 3 or more times.': often('rain', 3, 'at least'),
  'Mention the word "owl" no more than three times.': often(
    'owl', 4, 'less than'
  ),
  'Use the letter "e" at most 5 times.': letter('e', 6, 'less than'),
  'The letter q must appear at least 4 times.': letter('q', 4, 'at least'),
  'Write a song without the letter e.': letter('e', 1, 'less than'),
  'The words "love" and "heart" are forbidden.': avoids('love', 'heart'),
  'The word "love" should be avoided.': avoids('love'),
  'These words must not appear: "love", "heart".': avoids('love', 'heart'),
  'Do not use the following words: love, heart, moon.': avoids(
    'love', 'heart', 'moon'
  ),
  'The letter e must not be used.': letter('e', 1, 'less than'),
  'Use at least 5 occurrences of the letter z.': letter('z', 5, 'at least'),
  'Write on, with the letter n appearing at least 7 times.': letter(
    'n', 7, 'at least'
  ),
  # Marks
  'There should be no commas.': NO_COMMA,
  'Make sure not to use commas.': NO_COMMA,
  'Commas should be avoided.': NO_COMMA,
  'Write a riddle and do not use any commas.': NO_COMMA,
  'Refrain from using commas.': NO_COMMA,
  'No commas please.': NO_COMMA,
  'Commas are not allowed in the song.': NO_COMMA,
  'Write about dogs without using commas.': NO_COMMA,
  'Do not use commas, emojis or exclamation marks.': NO_COMMA
  | {'punctuation:no_emoji': {}, 'punctuation:no_exclamation': {}},
  'Avoid clichés.': {'style:no_cliche': {}},
  'No commas are allowed.': NO_COMMA,
  'No exclamation marks, commas or emojis are allowed.': NO_COMMA
  | {'punctuation:no_emoji': {}, 'punctuation:no_exclamation': {}},
  'Without clichés, commas allowed.': {'style:no_cliche': {}},
  'No exclamation marks, commas are fine.': {'punctuation:no_exclamation': {}},
  'Avoid exclamation marks, commas and emojis are okay.': {
    'punctuation:no_exclamation': {}
  },
  # Beginnings and ends
  'Begin your letter with "Dear Sam,".': starts('Dear Sam,'),
  'The story must start with the words "It was late".': starts('It was late'),
  'End it with "Good night."': ends('Good night.'),
  'Finish with this exact phrase: So what is next?': ends('So what is next?'),
  'Wrap your entire response in double quotation marks.': {
    'startend:quotation': {}
  },
  'The last words of your reply must be "Good night."': ends('Good night.'),
  'Sign off with "Yours, Ella".': ends('Yours, Ella'),
  'End your response with: "The end"': ends('The end'),
  'The letter should end with the sentence "We shall see."': ends(
    'We shall see.'
  ),
  'The first words must be "At dawn".': starts('At dawn'),
  'Enclose the reply in quotation marks.': {'startend:quotation': {}},
  # Format
  'Give the whole answer in JSON format.': JSON,
  'Please use JSON.': JSON,
  'Your answer must contain exactly 4 bullet points.': {
    'detectable_format:number_bullet_lists': {'num_bullets': 4}
  },
  'Add a title in double angular brackets, i.e. <<title>>.': {
    'detectable_format:title': {}
  },
  'Highlight at least 3 sections with markdown, i.e. *this*.': {
    'detectable_format:number_highlighted_sections': {'num_highlights': 3}
  },
  'Write 3 sections, each marked with SECTION X.': {
    'detectable_format:multiple_sections': {
      'num_sections': 3,
      'section_spliter': 'SECTION',
    }
  },
  'Include at least two placeholders such as [name].': {
    'detectable_content:number_placeholders': {'num_placeholders': 2}
  },
  'At the end add a postscript starting with P.P.S.': {
    'detectable_content:postscript': {'postscript_marker': 'P.P.S.'}
  },
  'Give two different replies, separated by 6 asterisks: ******.': {
    'combination:two_responses': {}
  },
  'Write a toast.\n\nRepeat the request above word for word, then answer it.': {
    'combination:repeat_prompt': {'prompt_to_repeat': 'Write a toast.'}
  },
  'Write exactly 4 paragraphs, separated by ***.': {
    'length_constraints:number_paragraphs': {'num_paragraphs': 4}
  },
  'There should be 3 paragraphs. The last paragraph must start with "Then".': {
    'length_constraints:nth_paragraph_first_word': {
      'num_paragraphs': 3,
      'nth_paragraph': 3,
      'first_word': 'Then',
    }
  },
  'Write five chapters. Begin each chapter with Chapter X.': {
    'detectable_format:multiple_sections': {
      'num_sections': 5,
      'section_spliter': 'Chapter',
    }
  },
  "Plan my trip of 3 days. Mark each day with 'Day X'.": {
    'detectable_format:multiple_sections': {
      'num_sections': 3,
      'section_spliter': 'Day',
    }
  },
  'Write two versions of a toast. Separate them with ***.': {
    'length_constraints:number_paragraphs': {'num_paragraphs': 2}
  },
  # Case, language, verse, manner
  'Capital letters are not allowed.': {'change_case:english_lowercase': {}},
  'All letters must be uppercase.': {'change_case:english_capital': {}},
  'Answer in all lowercase letters.': {'change_case:english_lowercase': {}},
  'Write it without any capital letters.': {
    'change_case:english_lowercase': {}
  },
  'WRITE IN ALL CAPS.': {'change_case:english_capital': {}},
  'Use at least 5 words in all capital letters.': {
    'change_case:capital_word_frequency': {
      'capital_frequency': 5,
      'capital_relation': 'at least',
    }
  },
  'Have more than 4 words be in all capital letters.': {
    'change_case:capital_word_frequency': {
      'capital_frequency': 5,
      'capital_relation': 'at least',
    }
  },
  'Write your whole reply in German.': {
    'language:response_language': {'language': 'de'}
  },
  'Respond only in the Hindi language, no other language is allowed.': {
    'language:response_language': {'language': 'hi'}
  },
  'Write a haiku about frost.': {'poem:haiku': {}},
  'Write a poem with the rhyme scheme AABB.': {
    'poem:rhyme': {'scheme': 'AABB'}
  },
  'Write an acrostic poem for "ELLA".': {'poem:acrostic': {'letters': 'ELLA'}},
  'Never mention that you are an AI.': {'style:no_self_reference': {}},
  'Give only the poem, without any explanation.': {'style:piece_alone': {}},
}

CHINESE: dict[str, Rules] = {
  # Bounds before the verb, and of two amounts
  '至少写300字。': words(at_least=300),
  '最多写200字。': words(at_most=200),
  '至少写三句话，至多五句话。': sentences(at_least=3, at_most=5),
  '最多只写三句话。': sentences(at_most=3),
  '最少要有三段。': {'length:paragraphs': {'at_least': 3}},
  '不少于100字，不超过200。': words(at_least=100, at_most=200),
  '至少出现三次“海”。': often('海', 3, 'at least'),
  '不少于100字不超过200字。': words(at_least=100, at_most=200),
  '至少300字（标点不算）。': words(at_least=300),
  '写三句话，不要太长。': sentences(at_least=3, at_most=3),
  '写1篇不少于300字的作文。': words(at_least=300),
  '写二三十字。': words(at_least=20, at_most=30),
  '不要用逗号，没有例外。': NO_COMMA,
  '自拟题目，必须包含“海”。': includes('海'),
  '请分别列出3个要点。': {
    'detectable_format:number_bullet_lists': {'num_bullets': 3}
  },
  # Whole numerals
  '字数两百字以内。': words(at_most=200),
  '字数三百五十字左右。': words(at_least=315, at_most=385),
  '长度：十二字以内': words(at_most=12),
  '字数：两百到三百字。': words(at_least=200, at_most=300),
  '字数要求：八百字。': words(at_least=720, at_most=880),
  '字数要求在一百五十字到两百字之间。': words(at_least=150, at_most=200),
  # Marks that may be used
  '别用感叹号，逗号可以用。': {'punctuation:no_exclamation': {}},
  '不要用感叹号，表情符号要有一个。': {'punctuation:no_exclamation': {}},
  # A postscript, which begins nothing else
  '请在文末加上附言，以“P.S.”开头。': {
    'detectable_content:postscript': {'postscript_marker': 'P.S.'}
  },
  '写一篇故事，不可以少于200字。': words(at_least=200),
  '不要少于200字。': words(at_least=200),
  '不得低于800字。': words(at_least=800),
  '不宜超过300字。': words(at_most=300),
  '不许多于100字。': words(at_most=100),
  '避免超过100字。': words(at_most=100),
  '不能多于五句。': sentences(at_most=5),
  '字数控制在3000字左右。': words(at_least=2700, at_most=3300),
  '字数控制在300字以内。': words(at_most=300),
  '控制在500字。': words(at_most=500),
  '写两三百字。': words(at_least=200, at_most=300),
  '用上“大海”“天空”，任选一个角度。': includes('大海', '天空'),
  '写一段话，包含“任意门”。': includes('任意门'),
  '写一副对联，包含“春天”二字。': includes('春天'),
  '请用“大海”“天空”两个词写诗。': includes('大海', '天空'),
  '写一段含有“飞”字的祝福。': includes('飞'),
  '写一段200字左右的祝福。': words(at_least=180, at_most=220),
  '写一篇作文，不少于八百字。': words(at_least=800),
  '写一条生日祝福，20字以内。': words(at_most=20),
  '写一条祝福，字数在20到30之间。': words(at_least=20, at_most=30),
  '写一个故事，300-500字。': words(at_least=300, at_most=500),
  '写一句四字祝福。': words(at_least=4, at_most=4),
  '写一段话，不超过一百二十个字（含标点）。': {
    'length:characters': {'at_most': 120}
  },
  '用三句话介绍你的家乡。': sentences(at_least=3, at_most=3),
  '用一句话祝福老师。': sentences(at_least=1, at_most=1),
  '分成三段写。': {'length:paragraphs': {'at_least': 3, 'at_most': 3}},
  '文中必须包含“春天”和“希望”这两个词。': includes('春天', '希望'),
  '请使用以下关键词：“月亮”、“故乡”。': includes('月亮', '故乡'),
  '不要出现“幸福”和“快乐”。': avoids('幸福', '快乐'),
  '避免使用“永远”一词。': avoids('永远'),
  '“雪”字至少出现三次。': often('雪', 3, 'at least'),
  '不要使用逗号。': NO_COMMA,
  '请勿使用感叹号和表情符号。': {
    'punctuation:no_emoji': {},
    'punctuation:no_exclamation': {},
  },
  '以“亲爱的老师”开头。': starts('亲爱的老师'),
  '最后以“祝好。”结尾。': ends('祝好。'),
  '请以JSON格式输出。': JSON,
  '写一首五言绝句，写秋天。': {
    'poem:clauses': {'num_lines': 4, 'num_characters': 5}
  },
  '写一首藏头诗，藏“新年快乐”。': {'poem:acrostic': {'letters': '新年快乐'}},
  '请用英文回答。': {'language:response_language': {'language': 'en'}},
  '请用繁体中文写。': {'style:script': {'script': 'traditional'}},
  '写一首关于雪的俳句。': {'poem:haiku': {}},
  '列出五个要点。': {
    'detectable_format:number_bullet_lists': {'num_bullets': 5}
  },
  '不要提到你是人工智能。': {'style:no_self_reference': {}},
}

# What a piece is about, what others do, parts of it, quotations, permissions.
NO_RULE = (
  'Write a story about a man who wrote 300 words.',
  'Write a poem about commas.',
  'Write a poem about a writer who never uses commas.',
  'Explain why writers avoid commas.',
  'Write an essay about why people do not use the word "love".',
  'Write about a poet who ends every poem with "Amen".',
  'Write a story with three characters.',
  'Each sentence must have at most 10 words.',
  'Write a story about 300 words that changed the world.',
  'Write a story about a 300-word letter.',
  'Rewrite this text: "Use at least 300 words and no commas."',
  'What does “write in all capital letters” mean?',
  'You may use the word "love" if you like.',
  'Write a list of the top 100 words of English.',
  'Explain how to parse JSON in Python.',
  'How do I write a good Chinese poem?',
  'Write about a class taught in French.',
  'Write about life in English villages.',
  'Write a story about a haiku.',
  'Give your story a title in capital letters.',
  'Write a song about the letter e.',
  'Tell me a story about a boy named "Sam" and a dog named "Rex".',
  'Describe the following two paragraphs.',
  'Write a paragraph about the sea.',
  'Start each paragraph with "Then".',
  'Write a word of thanks for my 100 guests.',
  'Include the word limit of the contest.',
  'Write a poem.',
  '',
  ' \n',
  '写一篇关于一个人写了三百字情书的故事。',
  '写一首关于逗号的诗。',
  '写一段生日祝福。',
  '写几句话祝福老师。',
  '每句话不超过10个字。',
  '请修改这句话：“不要使用逗号，写200字。”',
  '写一个关于英文老师的故事。',
  '一字不差地背诵这首诗。',
  '给第一个借书给我的老师写一封信。',
)


@pytest.mark.parametrize('text', [*ENGLISH, *CHINESE])
def test_a_common_wording_is_read_with_its_arguments(text: str) -> None:
  assert found(text) == (ENGLISH | CHINESE)[text]


@pytest.mark.parametrize('text', NO_RULE)
def test_content_states_no_rule(text: str) -> None:
  assert found(text) == {}


@pytest.mark.parametrize(
  'text',
  [
    'Use any of these words: sea, sky.',
    'Use any of the words "sea" and "sky".',
    'Include either of the words "sea", "sky".',
    'Include two of the following words: sea, sky, owl.',
    'One of these words must appear: sea, sky.',
    'At least two of the words "sea", "sky" and "owl" must appear.',
    'Use any of the words "sea", "sky" twice.',
    'Use words children understand.',
    'Include name and date.',
    '请使用“大海”“天空”中的任意一个。',
    '请任选使用“大海”“天空”。',
    '请使用“大海”“天空”之一。',
    '包含“大海”、“天空”其中一个即可。',
    '请使用以下词语中的任意两个：“大海”“天空”“猫”。',
  ],
)
def test_words_of_which_some_do_are_no_rule(text: str) -> None:
  assert found(text) == {}


@pytest.mark.parametrize(
  'text',
  [
    'Include the words: sea, sky, etc.',
    'Include "before and after" photos.',
    'Add "Beatles"-style harmonies.',
    '语言夸张，用“沸腾”“剁手”等流行词汇。',
    '多用“如何看待…”、“您认为…”这样的问题。',
    '请采用“摆现象、析危害”的结构。',
    '使用“主谓宾”的倒装语序。',
    '主角加入“破晓”战队。',
    '介绍文件中提到的“千万工程”。',
    '他总是会用“我”，来撇清关系。',
    'Do not write 300 words.',
    'Write *free* verse to highlight the charm of rain.',
    'Give a list of bullet-proof vests.',
    'Write a song with a chorus of 4 lines.',
    '不要写200字。',
    '大概几百字。',
    '数百字的散文。',
    '剧本长度为30分钟。',
    '最后，用一段富有启发性的话来总结。',
    '用重复句式强化“谁问你了”。',
    '分为“破题、承题”等八个部分，一篇“八股文”。',
    # What is said of such a text, or of some of a text
    'Anything less than 100 words is too short.',
    'Fewer than 100 words will not be accepted.',
    'Stories longer than 200 words are not allowed.',
    'Exactly one sentence must be a question.',
    'Two lines must rhyme.',
    '少于三句话不算。',
    # Of several
    'Write 3 bullet points about cats and 5 bullet points about dogs.',
    '列出三个要点说优点，再列五个要点说缺点。',
    '写两句，每句七个字，再写四句，每句五个字。',
    'Come up with 10 slogans of up to 5 words.',
    '写10个20字以内的标题。',
    # A bound that no rule has
    '至少列出三个要点。',
    # Parts and exceptions
    'Don\'t use the word "sea" in the title.',
    'Avoid the word "sea" in the first line.',
    'Do not use the letter "e" in the title.',
    '不要在标题里出现“海”。',
    '用英文写标题，正文用中文。',
    'Put her words in double quotation marks.',
    'Wrap each line in double quotes.',
    'Write in all caps but not the title.',
    'Write it in lower case apart from proper nouns.',
    '不要列三个要点。',
    "Don't list three bullet points.",
  ],
)
def test_what_only_resembles_a_rule_is_none(text: str) -> None:
  assert found(text) == {}


def test_a_paragraph_s_first_word_is_none_of_the_reply() -> None:
  text = 'Write 4 paragraphs. Paragraph 2 must start with "sea".'
  [rule] = read(text).rules
  assert rule.instruction_id == 'length_constraints:nth_paragraph_first_word'


def test_every_letter_of_a_list_is_a_rule() -> None:
  rules = read('Don\'t use the letters "a" and "e".').rules
  assert [rule.kwargs['letter'] for rule in rules] == ['a', 'e']


def test_every_rule_is_in_a_table_or_in_the_round_trip() -> None:
  tabled = {name for rules in (ENGLISH | CHINESE).values() for name in rules}
  made = {name for name in VERIFIERS if name in compose.RECIPES}
  assert tabled <= set(VERIFIERS)
  others = {DEMAND, 'detectable_format:constrained_response'}
  assert set(VERIFIERS) - made == others


def _shared_conditions(rules: Any) -> frozenset[Any]:
  return frozenset[Any]().union(*(conditions(*rule) for rule in rules))


@pytest.mark.parametrize('language', constraints.LANGUAGES)
def test_the_rules_of_composed_briefs_are_read_back(language: str) -> None:
  records = [record for _, record in datasets.read_records('@themes.jsonl')]
  themes = [each for each in records if each['language'] == language]
  briefs, _ = compose.write_briefs(themes, 120, 0, least=1, most=4)
  for brief in briefs:
    ids, kwargs = brief['instruction_id_list'], brief['kwargs']
    text = constraints.write_brief(
      brief['prompt'], ids, kwargs, language, brief['paraphrase']
    )
    stated = [(rule.instruction_id, rule.kwargs) for rule in read(text).rules]
    # IFEval's ids of lengths come back as ours, which ask for the same.
    assert _shared_conditions(stated) == _shared_conditions(
      zip(ids, kwargs, strict=True)
    ), text


@pytest.mark.parametrize(
  ('text', 'amount'),
  [
    ('at least three', Amount(3, None)),
    ('no more than 1,500', Amount(None, 1500)),
    ('fewer than ten', Amount(None, 9)),
    ('two hundred and fifty', Amount(250, 250, bare=True)),
    ('a dozen', Amount(12, 12, bare=True)),
    ('about 95', Amount(86, 104)),
    ('once or twice', Amount(1, 2)),
    ('exactly once', Amount(1, 1)),
    ('at most twice', Amount(None, 2)),
    ('不超过两百五十', Amount(None, 250)),
    ('一千二百', Amount(1200, 1200, bare=True)),
    ('两三', Amount(2, 3)),
    ('少于十', Amount(None, 9)),
    ('三到五', Amount(3, 5)),
    ('100 左右', Amount(90, 110)),
  ],
)
def test_an_amount_is_read_with_its_bounds(text: str, amount: Amount) -> None:
  assert amounts.read(text) == amount


@given(st.text(max_size=100))
@settings(max_examples=40)
def test_any_text_is_read_and_every_rule_is_valid(text: str) -> None:
  for rule in read(text).rules:
    constraints.validate([rule.instruction_id], [rule.kwargs])
    assert all(0 <= start < end <= len(text) for start, end in rule.spans)


@settings(max_examples=40)
@given(st.integers(1, 90), st.sampled_from(('word', 'sentence', 'paragraph')))
def test_any_number_is_read_in_digits(count: int, unit: str) -> None:
  text = f'Use at least {count} {unit}s.'
  assert found(text) == {f'length:{unit}s': {'at_least': count}}


def test_contradicting_bounds_are_no_rule() -> None:
  assert found('Use at least 90 words. Use at most 50 words.') == {}


def test_the_words_that_state_a_rule_are_given_and_the_rest_is_listed() -> None:
  text = 'Write a toast. Do not use commas. You must sound like a pirate.'
  reading = read(text)
  [rule] = reading.rules
  assert [text[a:b] for a, b in rule.spans] == ['Do not use commas']
  assert reading.unread == ['You must sound like a pirate.']


@pytest.mark.parametrize(
  ('text', 'unread'),
  [
    (
      'Write in three sentences, avoid the passive voice, and do not use '
      'commas.',
      ['avoid the passive voice'],
    ),
    (
      'Use at most 50 words and make sure that, in the end, the cat dies.',
      ['make sure that, in the end, the cat dies.'],
    ),
    ('不超过100字，不要使用比喻，语气要温暖。', ['不要使用比喻，语气要温暖。']),
    (
      'Write a poem without commas, in the style of Poe.',
      ['in the style of Poe.'],
    ),
    # all of these sentences is read
    ('Please make sure that you use exactly 3 bullet points.', []),
    ('Include a title, which must be wrapped in <<angular brackets>>.', []),
  ],
)
def test_the_clauses_beside_a_rule_are_read_too(
  text: str, unread: list[str]
) -> None:
  reading = read(text)
  assert reading.rules
  assert reading.unread == unread


def test_reading_a_long_text_is_fast() -> None:
  rng = random.Random(0)
  pieces = (
    'use ',
    'the words ',
    '"a", ',
    '1',
    'at least ',
    '不要',
    '* ',
    'P.S.',
  )
  started = time.process_time()
  read(''.join(rng.choices(pieces, k=800)))
  assert time.process_time() - started < 5
