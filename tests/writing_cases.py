"""Hand-worked verdicts on the rules for verse and manners.

Each case: arguments, a reply, and whether it keeps the rule.
"""

from typing import Any

Case = tuple[dict[str, Any], str, bool]

QUIET_NIGHT = (
  '《静夜思》\n床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。'
)
POND = 'An old silent pond\nA frog jumps into the pond:\nSplash! Silence again.'

CASES: dict[str, list[Case]] = {
  'poem:clauses': [
    ({'num_lines': 4, 'num_characters': 5}, QUIET_NIGHT, True),
    ({'num_lines': 2, 'num_characters': 5}, '床前明月光，疑是地上霜。', True),
    ({'num_lines': 4, 'num_characters': 7}, QUIET_NIGHT, False),
    ({'num_lines': 8, 'num_characters': 5}, QUIET_NIGHT, False),
    ({'num_lines': 2, 'num_characters': 5}, '床前明月光，疑是霜。', False),
    ({'num_lines': 1, 'num_characters': 5}, 'abcde', False),
    (
      {'num_lines': 2, 'num_characters': 5},
      '她说“春来了”，处处闻啼鸟。',
      True,
    ),
    ({'num_lines': 2, 'num_characters': 4}, '她爱《红楼》，处处啼鸟。', True),
  ],
  'poem:haiku': [
    ({}, POND, True),
    ({}, POND.replace('\n', ' '), False),
    ({}, POND.replace('old ', ''), False),
    ({}, POND + '\nEnd', False),
    ({}, "The sea's long, slow song\n" + POND.partition('\n')[2], True),
    ({}, "The boss's long song\n" + POND.partition('\n')[2], True),
    # a frog of no dictionary, by its vowels
    ({}, POND.replace('frog', 'frolk'), True),
    ({}, '春风吹柳绿\n一江春水向东流\n夜深闻鸟声', True),
    ({}, '春风吹柳绿\n春水向东流\n夜深闻鸟声', False),
    ({}, ('a ' * 500 + '\n') * 3, False),
  ],
  'poem:rhyme': [
    ({'scheme': 'AABB'}, 'a cat\na hat\nthe light\nof night', True),
    ({'scheme': 'ABAB'}, 'a cat\na hat\nthe light\nof night', False),
    ({'scheme': 'AA'}, 'a cat\na hat\n\nthe light\nof night!', True),
    ({'scheme': 'AA'}, 'a cat\na hat\n\nthe light', False),
    ({'scheme': 'AA'}, 'a cat\nthe cat', False),
    # Vowels before r, and a last syllable that bears a rhyme.
    ({'scheme': 'AA'}, 'you are so dear\nI want you here', True),
    ({'scheme': 'AA'}, 'the poor\nhave more', True),
    ({'scheme': 'AA'}, 'a melody\nof the sea', True),
    ({'scheme': 'AA'}, 'so happy\nso sorry', False),
    ({'scheme': 'AA'}, 'so frolk\nso blolk', False),
    ({'scheme': 'AA'}, "the cat's\nthe hats", True),
    ({'scheme': 'AA'}, 'of weather\na feather', True),
    ({'scheme': 'AA'}, 'the river\nthe weather', False),
    ({'scheme': 'XAXA'}, QUIET_NIGHT, True),
    ({'scheme': 'AXAX'}, QUIET_NIGHT, False),
    ({'scheme': 'AA'}, '…\n!', False),
  ],
  'poem:acrostic': [
    ({'letters': 'Hope'}, 'Hello\n"Only\n\n*pale\nend', True),
    ({'letters': 'hope'}, 'Hello\nOnly\npale', False),
    ({'letters': 'hope'}, 'Hello\nOnly\npale\nend\nmore', False),
    ({'letters': '床疑举低'}, QUIET_NIGHT, True),
    ({'letters': '床疑举头'}, QUIET_NIGHT, False),
  ],
  'style:no_self_reference': [
    ({}, 'The sea is calm.', True),
    ({}, 'As an AI language model, I cannot.', False),
    ({}, 'I’m just an AI.', False),
    ({}, 'As an aide, I am an aim.', True),
    ({}, 'As an AI researcher, she smiled.', True),
    ({}, 'I am ChatGPT.', False),
    ({}, 'As your AI assistant, I wrote this.', False),
    ({}, '身为AI，我不能。', False),
    ({}, '作为人工智能专家，她笑了。', True),
    ({}, '作为一个AI，我不能。', False),
    ({}, '我是一个语言模型。', False),
    ({}, '作为一个父亲，我是一个诗人。', True),
  ],
  'style:piece_alone': [
    ({}, 'Here is the sea.\nIt sings:\nla la', True),
    ({}, "Here's a short poem for you:\n\nIt sings", False),
    ({}, '**Here is a poem:**\nIt sings', False),
    ({}, 'Sure! It sings', False),
    ({}, '# Here is a poem:\nIt sings', False),
    ({}, '"Here is a poem:"\nIt sings', False),
    ({}, '***\nHere is a poem:\nIt sings', False),
    ({}, '"Sure!" she said.\nIt sings', True),
    ({}, 'It sings\nI hope you like it!\n---', False),
    ({}, 'It sings\n[I hope you like it!]', False),
    ({}, 'Dear Ann,\nLet me know if you can come.', True),
    ({}, '作品如下：\n春风', False),
    ({}, '春风\n如需修改，请告诉我。', False),
    ({}, 'Surely it sings', True),
    ({}, 'It sings\n\nI hope you like it!', False),
    ({}, 'It sings\n(Note: the sea is a metaphor.)', False),
    ({}, 'Dear Ann,\nI hope this finds you well.', True),
    ({}, '好的，春风来了', False),
    ({}, '以下是一首诗：\n春风', False),
    ({}, '春风\n\n希望你喜欢！', False),
    ({}, '以下是春风\n希望你快乐', True),
    # words of the piece's own, as measured on good replies
    ({}, 'Absolutely, love, the tide is in.', True),
    ({}, 'Absolutely, here is a verse.\nThe tide is in.', False),
    ({}, "Certainly, I'm happy to write one.\nThe tide is in.", False),
    ({}, 'Tickets are at the door.\nNote: the pier shuts at nine.', True),
    ({}, 'It sings\n*Note: this poem is free verse.*', False),
    ({}, '好的，各位来宾，请举杯。', True),
    ({}, '好的，尊敬的各位来宾，请举杯。', True),
    ({}, '好的，各自安好', False),
    ({}, '当然，我还记得那场雨。', True),
    ({}, '当然，下面是一首诗。\n春风', False),
    ({}, '周三开会。\n注：会议室改在三楼。', True),
    ({}, '春风\n（注：全诗押江阳韵。）', False),
  ],
  'style:no_cliche': [
    ({}, 'The sea is calm.', True),
    ({}, 'Her smile was a Testament to love.', False),
    ({}, 'A chill ran, shivers down her spine.', False),
    ({}, '愿你岁月静好', False),
    ({}, '谱写青春的篇章', False),
    ({}, '海上生明月', True),
    # said of what is there to see, as measured on good replies
    ({}, '蝴蝶的翅膀五彩斑斓', True),
    ({}, '祝你拥有五彩斑斓的人生', False),
    ({}, '在这个充满油烟的厨房里，她哼着歌。', True),
    ({}, '在这个充满希望的季节里，她哼着歌。', False),
  ],
  'style:script': [
    (
      {'script': 'simplified'},
      '皇后走了三公里，云在台上，面前是干净的路。',
      True,
    ),
    ({'script': 'simplified'}, '他捱过冬天，读乾隆的诗，名著只剩一本。', True),
    ({'script': 'simplified'}, '他说：後来呢？', False),
    ({'script': 'simplified'}, '这里的風很大。', False),
    ({'script': 'simplified'}, '春江水暖', True),
    ({'script': 'simplified'}, 'No Chinese at all.', False),
    ({'script': 'traditional'}, '皇后走了三公里，雲在台上，千里之外。', True),
    ({'script': 'traditional'}, '後來他說：餘下的話，以後再講。', True),
    ({'script': 'traditional'}, '山峰下，羊群睡在床邊，為什麼？', True),
    ({'script': 'traditional'}, '香港的户外着實温暖，老么脱了外套。', True),
    ({'script': 'traditional'}, '乾麵、隻身、裏面與裡面，只在此山中。', True),
    ({'script': 'traditional'}, '爲什么不來？', False),
    ({'script': 'traditional'}, '春風又绿江南岸', False),
    ({'script': 'traditional'}, '春江水暖', True),
    ({'script': 'traditional'}, '123, 456!', False),
  ],
}
