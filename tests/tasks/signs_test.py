"""Signs of shortcuts in replies, counted by hand."""

import math

import pytest

from rlcw.tasks.grpo import signs


@pytest.mark.parametrize(
  ('text', 'share'),
  [
    ('', 0),
    ('Too short', 0),
    ('The keeper of the lighthouse wrote to the sea.', 0),
    ('abc ' * 6, 1 - 3 / 9),  # 18 letters hold 9 tens, 3 of them different
    ('生日快乐' * 5, 1 - 4 / 11),
    ('祝你生日快乐，愿你每一天都像今天这样明亮而从容。', 0),
    ('!' * 20, 1 - 1 / 11),
    ('\ud800' * 11, 1 / 2),  # half of a pair
  ],
)
def test_repetition_is_counted_in_characters(text: str, share: float) -> None:
  assert signs.repeated(text) == pytest.approx(share)


@pytest.mark.parametrize(
  ('text', 'prompt', 'share'),
  [
    ('', 'Write about the sea.', 0),
    ('Write about the sea.', '', 0),
    ('The lamp sings to itself.', 'Write about the sea.', 0),
    ('write about THE SEA.', 'Write  about the sea.', 1),
    # 'writeaboutthesea.' has 8 tens; of the 10 more characters each ends one
    ('Write about the sea. 0123456789', 'Write about the sea.', 8 / 18),
    ('为大海写一首短诗吧朋友', '为大海写一首短诗吧朋', 1 / 2),
  ],
)
def test_a_copied_brief_is_seen_in_any_case(
  text: str, prompt: str, share: float
) -> None:
  assert signs.copied(text, prompt) == pytest.approx(share)


@pytest.mark.parametrize(
  ('text', 'share'),
  [
    ('', 0),
    ('“Well” — she said; (is it 5 o’clock?), twenty-one…', 0),
    ('海很静，月亮说：“睡吧。”', 0),
    ('Hi! Ho!', 2 / 6),
    ('**Sea**\n* fish', 5 / 12),
    ('海！🌊', 2 / 3),
  ],
)
def test_marks_for_effect_are_no_marks_of_prose(
  text: str, share: float
) -> None:
  assert signs.marks(text) == pytest.approx(share)


def test_a_phrase_counts_where_it_is_not_most_frequent() -> None:
  stock = 'In the heart of'  # three tens
  replies = [
    [f'{stock} winter', f'{stock} autumn', 'A lamp.'],
    [f'A ship {stock.lower()}', 'A different one', ''],
    ['The wind', 'Nothing at all', 'Ten letters'],
  ]
  # Two in the first group, which does not count, and one of the other six.
  assert signs.phrase(replies) == pytest.approx(1 / 6)
  # Long replies have what lies between their ends in common by chance.
  middle = [
    [f'{chr(97 + n) * 200}{"a stock phrase"}{chr(107 + n) * 200}']
    for n in range(4)
  ]
  assert signs.phrase(middle) == 0
  ending = [[f'{reply} A stock phrase'] for [reply] in middle]
  assert signs.phrase(ending) == 1
  # However many of one group have it, a phrase of one brief is none.
  assert signs.phrase([replies[0], ['x', 'y', 'z']]) == 0
  assert signs.phrase([[stock] * 3] * 3) == 1
  assert signs.phrase([['', ''], ['', '']]) == 0
  assert (
    signs.phrase([['祝你生日快乐岁岁平安'] * 2, ['祝你生日快乐岁岁平安', '']])
    == 1 / 2
  )
  # Of briefs with different numbers of replies: one of the last two has it.
  many = [[stock] * 6, ['none', stock], ['x']]
  assert signs.phrase(many) == pytest.approx(1 / 3)
  # A phrase that a reply repeats counts once.
  assert signs.phrase([[stock], [stock * 3], ['none']]) == 1 / 2


def test_one_brief_alone_tells_no_phrase() -> None:
  assert math.isnan(signs.phrase([['In the heart of it'] * 4]))
  assert math.isnan(signs.phrase([]))
