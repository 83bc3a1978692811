"""Rules on Chinese texts, as a Chinese reader would judge them."""

import json
import pathlib
from typing import Any

import pytest

from rlcw.data import characters, datasets
from rlcw.rewards import briefs
from rlcw.rewards.rules import habits, languages, locate, text


@pytest.mark.parametrize(
  ('reply', 'script', 'kept'),
  [
    ('愿你万事如意，一生平安。', 'simplified', True),
    ('愿你万事如意，一生平安。', 'traditional', False),
    ('願你萬事如意，一生平安。', 'traditional', True),
    ('願你萬事如意，一生平安。', 'simplified', False),
    # One common simplified character in a traditional text.
    *(
      (f'祝你生日快樂，{word}！', 'traditional', False)
      for word in ('万事如意', '五谷丰登', '胜利', '一叶知秋', '确實', '种子')
    ),
    # Characters of both scripts.
    ('皇后在舞台上，離家十公里；周杰倫與余先生。', 'traditional', True),
    ('妳好', 'simplified', False),
    ('献给妈妈，以于先生之名', 'simplified', True),
  ],
)
def test_scripts(reply: str, script: str, kept: bool) -> None:
  assert languages.has_other_script(reply, script) == (not kept)


@pytest.mark.parametrize(
  ('reply', 'words', 'found'),
  [
    ('老師，您像春天一樣溫暖。', ['温暖'], [1]),
    ('亲爱的妈妈', ['媽媽'], [1]),
    ('乾坤', ['乾坤', '干'], [1, 0]),  # 乾 is simplified here
    ('祝你快 乐，快·乐！', ['快乐'], [2]),
    ('王　芳和阿依古丽•买买提', ['王芳', '阿依古丽·买买提'], [1, 1]),
    ('跑得快\n乐声起', ['快乐'], [0]),
  ],
)
def test_a_keyword_is_found_in_both_scripts(
  reply: str, words: list[str], found: list[int]
) -> None:
  assert [*text.mentions(reply, words)] == found


def test_a_cliche_is_one_in_both_scripts() -> None:
  assert not habits.has_no_cliche('願你歲月靜好。')
  assert not habits.has_no_cliche('愿你岁月静好。')


@pytest.mark.parametrize(
  ('reply', 'count'),
  [
    ('祝爸爸生日快乐~\n愿您天天开心～', 2),
    ('祝你生日快乐~ \n', 1),
    ('3～5岁的孩子，都喜欢。', 1),
    ('1.祝您健康。\n2.祝您平安。', 2),
    ('1. 祝您健康。\n2. 祝您平安。', 2),
    ('温度是3.5度。', 1),
  ],
)
def test_sentences(reply: str, count: int) -> None:
  assert text.count_sentences(reply) == count


@pytest.mark.parametrize('flood', ['~' * 10**5, '~ ' * 10**5])
def test_a_flood_of_tildes_takes_no_time(flood: str) -> None:
  assert text.count_sentences(f'a{flood}b') == 1


OWN = (
  '如果你想我了，就看看月亮。',
  '如果你需要我，我一直都在。',
  '希望你喜欢这条围巾。',
  '请告诉我，您院子里的花开了没有？',
)
OFFERS = (
  '希望您喜欢。',
  '希望您喜欢这首诗！',
  '如果你需要我修改，请告诉我。',
  '如果需要修改或调整，请随时告诉我。',
  '如果还有其他要求，我可以再写一版。',
  '请告诉我您的要求。',
  '（字数：42字）',
  '(共42字)',
)
BEGINNINGS = (
  '好的，妈，我今年一定回家过年。',
  '没问题，兄弟，今晚我请客！',
  '当然。我记得那年的雪。',
  '好的，各位，请坐。',
)
ANNOUNCEMENTS = (
  '祝福语：',
  '为您写了一段祝福：',
  '好的，以下是一首诗：',
  '好的！',
  '好的，我来为您写一首诗。',
  '没问题，我帮你写一段。',
  '当然可以，',
)


@pytest.mark.parametrize('line', [*OWN, *OFFERS])
def test_a_last_line(line: str) -> None:
  assert habits.is_piece_alone(f'雪落了一夜。\n{line}') == (line in OWN)


@pytest.mark.parametrize('line', [*BEGINNINGS, *ANNOUNCEMENTS])
def test_a_first_line(line: str) -> None:
  assert habits.is_piece_alone(f'{line}\n雪落了一夜。') == (line in BEGINNINGS)


@pytest.mark.parametrize(
  ('reply', 'kept'),
  [
    ('作为人工智能专业的毕业生，愿你前程似锦。', True),
    ('作为AI时代的孩子，愿你好奇。', True),
    ('我是AI课的老师。', True),
    ('作为一个AI，我没有感情。', False),
    ('作为一个 AI，我写', False),
    ('作为一个**AI**，我写', False),
    ('作为一个“AI”，我写', False),
    ('作为一个 AI 专家，我写', True),
    ('As an **AI language model**, I wrote', False),
    ('As an “AI”, I cannot', False),
    ('As an\nAI, I write', False),
    ('As an “AI” researcher, I write', True),
    ('作为人工智能，我写不出雪。', False),
    ('我是您的智能助手。', False),
  ],
)
def test_a_writer_that_calls_itself_a_model(reply: str, kept: bool) -> None:
  assert habits.names_no_self(reply) == kept


@pytest.mark.parametrize(
  ('given', 'chinese'),
  [
    ('给外婆写一句重阳节祝福。', True),
    ('用 Python 写一句祝福', False),
    ('Write 福 on a card.', False),
    ('おばあさんに手紙を書いて', False),
    ('', False),
  ],
)
def test_a_text_is_chinese_if_most_letters_are(
  given: str, chinese: bool
) -> None:
  assert characters.is_chinese(given) == chinese


def test_a_chinese_brief_needs_no_language(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  record: dict[str, Any] = {
    'prompt': '给外婆写一句重阳节祝福。',
    'instruction_id_list': ['length:characters'],
    'kwargs': [{'at_most': 40}],
  }
  brief = briefs.read_brief(record)
  assert brief.language == 'zh' and 'Use' not in brief.request
  assert briefs.read_brief(record | {'language': 'en'}).language == 'en'
  # A run has a language, which says more.
  file = tmp_path / 'briefs.jsonl'
  file.write_text(json.dumps(record))
  [(_, read)] = datasets.read_language(file, 'en')
  assert read['language'] == 'en'
  assert '1 of 1 records name no language and look Chinese' in (
    capsys.readouterr().out
  )


@pytest.mark.parametrize(
  ('reply', 'place'),
  [
    ('祝你快 乐呀', (2, 5)),
    ('祝你快樂呀', (2, 4)),
    ('祝你快乐呀', (2, 4)),
  ],
)
def test_a_forbidden_word_is_found_where_it_stands(
  reply: str, place: tuple[int, int]
) -> None:
  found = locate.locate(
    'keywords:forbidden_words', reply, {'forbidden_words': ['快乐']}
  )
  assert [*found] == [place]
